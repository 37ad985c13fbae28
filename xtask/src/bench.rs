//! `cargo xtask bench`: the table in `docs/benchmarks.md`, measured on this machine in one run.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{Lab, Node, wait};

use crate::measure::{self, Direction, milliseconds, quantile, sorted};
use crate::say::say;
use crate::{cargo, register, tools};

/// Clients that ask for an address on one TAP: a workstation may hold four.
const CLIENTS: u32 = 4;
/// How often what takes a moment is repeated.
const ROUNDS: u32 = 5;
/// Seconds of a stream or of a flood of questions.
const SECONDS: u32 = 5;
/// Seconds of rest in which nothing should happen.
const REST: u32 = 60;

struct Row {
    what: &'static str,
    result: String,
    compared: String,
    command: &'static str,
}

/// Measures, prints and writes the table.
///
/// # Errors
/// No root, or something does not come up.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    tools::ensure_installed(tools::TESTS)?;
    tools::ensure_installed(&[("dnsperf", "dnsperf")])?;
    cargo::build_program()?;
    let mut rows = Vec::new();
    for part in [joining, dhcp, dns, speed, rest] {
        rows.extend(part(&mut Lab::new("bench")?)?);
        rows.iter().rev().take(1).for_each(|row: &Row| say(&format!("{}: {}", row.what, row.result)));
    }
    let page = page(&rows)? + &register::section()?;
    let file = file();
    fs::write(&file, &page).with_context(|| format!("Failed to write {}", file.display()))?;
    say(&page);
    Ok(ExitCode::SUCCESS)
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks.md")
}

/// Measures the register alone, and replaces its part of the page.
///
/// # Errors
/// Something does not build or run.
pub(crate) fn register() -> anyhow::Result<ExitCode> {
    let section = register::section()?;
    let page = fs::read_to_string(file())?;
    let before = page.split_once(register::HEAD).map_or(page.as_str(), |(before, _)| before);
    fs::write(file(), format!("{before}{section}"))?;
    say(&section);
    Ok(ExitCode::SUCCESS)
}

fn joining(lab: &mut Lab) -> anyhow::Result<Vec<Row>> {
    let mut creator = lab.public("a")?;
    let (_, created) = milliseconds(|| creator.create_lab(&["--hostname", "a"]))?;
    let mut nodes = Vec::new();
    let mut ready = Vec::new();
    for round in 0..ROUNDS {
        let name = format!("m{round}");
        let mut node = lab.public(&name)?;
        let token = creator.invite("lab", &[])?;
        let words = ["join", "lab", "--invite", &token, "--dns", "file", "--hostname", &name];
        ready.push(milliseconds(|| node.start_ready(&words))?.1);
        nodes.push(node);
    }
    let mut first = Vec::new();
    for pair in nodes.windows(2) {
        let to = pair[1].status()?["ip"].as_str().context("no address")?.to_owned();
        first.push(measure::round_trips(&pair[0], &to, 1)?[0]);
    }
    Ok(vec![
        Row {
            what: "`create` until `ready`",
            result: format!("{created:.0} ms"),
            compared: String::new(),
            command: "overlay create lab",
        },
        Row {
            what: "`join` until `ready`, median (slowest)",
            result: spread(ready, "ms")?,
            compared: String::new(),
            command: "overlay join lab --invite …",
        },
        Row {
            what: "first ping to a stranger, median (slowest)",
            result: spread(first, "ms")?,
            compared: String::new(),
            command: "ping -c 1",
        },
    ])
}

fn dhcp(lab: &mut Lab) -> anyhow::Result<Vec<Row>> {
    let mut creator = lab.public("a")?;
    let mut node = lab.public("b")?;
    creator.create_lab(&["--hostname", "a"])?;
    let tap = node.join_lab(&creator, &["--no-address"])?.tap;
    node.run(&["ip", "link", "set", "dev", &tap, "up"])?;
    let mut times = Vec::new();
    for round in 0..CLIENTS {
        // Another client each time, so that each lease is a new claim.
        let client = format!("0x3d:ff0000000{round}");
        let words = ["udhcpc", "-f", "-n", "-q", "-i", &tap, "-s", "/bin/true", "-t", "5", "-T", "1", "-x", &client];
        times.push(milliseconds(|| node.run(&words))?.1);
    }
    let command = "udhcpc -f -n -q -i ov-lab -s /bin/true";
    let what = "DHCP, program start to lease, new client, median (slowest)";
    Ok(vec![Row { what, result: spread(times, "ms")?, compared: String::new(), command }])
}

fn dns(lab: &mut Lab) -> anyhow::Result<Vec<Row>> {
    let mut creator = lab.public("a")?;
    let mut node = lab.public("b")?;
    creator.create_lab(&["--hostname", "a"])?;
    node.join_lab(&creator, &["--hostname", "b"])?;
    let server = node.status()?["dns"].as_str().context("no dns")?.to_owned();
    let options =
        ["--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--port=5300", "--log-facility=-", "--pid-file="];
    let records = ["--host-record=a.lab.internal,10.1.1.1", "--host-record=b.lab.internal,10.1.1.2"];
    let mut other = node.spawn(&[&["dnsmasq", "--keep-in-foreground"][..], &options, &records].concat())?;
    other.wait_for_line(Duration::from_secs(10), |line| line.contains("started"))?;
    let mut rows = Vec::new();
    for (what, name) in [("DNS, own name", "b.lab.internal"), ("DNS, another member's name", "a.lab.internal")] {
        let questions = node.dir().join("questions");
        fs::write(&questions, format!("{name} A\n"))?;
        let questions = questions.to_str().context("a path is text")?;
        let seconds = SECONDS.to_string();
        let ask = |server: &str, port: &str| -> anyhow::Result<String> {
            let said = node.run(&["dnsperf", "-s", server, "-p", port, "-d", questions, "-l", &seconds])?;
            let field = |label: &str| {
                let line = said.lines().find_map(|line| line.trim().strip_prefix(label).map(str::trim));
                line.with_context(|| format!("dnsperf says no {label}: {said}"))
            };
            let speed: f64 = field("Queries per second:")?.parse()?;
            Ok(format!("{speed:.0}/s, lost {}", field("Queries lost:")?))
        };
        let compared = format!("dnsmasq on the same machine: {}", ask("127.0.0.1", "5300")?);
        let command = "dnsperf -s <dns> -d questions -l 5";
        rows.push(Row { what, result: ask(&server, "53")?, compared, command });
    }
    Ok(rows)
}

fn speed(lab: &mut Lab) -> anyhow::Result<Vec<Row>> {
    let mut a = lab.public("a")?;
    let mut b = lab.public("b")?;
    let to = a.create_lab(&["--hostname", "a"])?.ip()?.to_string();
    b.join_lab(&a, &["--hostname", "b"])?;
    let bare = a.underlay().to_owned();
    let _server = measure::serve(&a)?;
    let mut rows = Vec::new();
    for (there, back, wire) in [
        ("TCP, one stream", "TCP, one stream, reverse", Wire::Offload),
        ("TCP, link cut to 1500 bytes", "TCP, link cut to 1500 bytes, reverse", Wire::Packets),
    ] {
        if wire == Wire::Packets {
            for node in [&a, &b] {
                node.run(&[
                    "ethtool",
                    "-K",
                    "eth0",
                    "tso",
                    "off",
                    "gso",
                    "off",
                    "gro",
                    "off",
                    "tx-udp-segmentation",
                    "off",
                ])?;
            }
        }
        for (what, direction) in [(there, Direction::There), (back, Direction::Back)] {
            let stream = |server: &str| measure::tcp(&b, server, SECONDS, direction);
            let (ours, link) = (stream(&to)?, stream(&bare)?);
            rows.push(Row {
                what,
                result: format!("{ours:.2} Gbit/s"),
                compared: format!("bare link {link:.2} Gbit/s ({:.0} %)", ours / link * 100.0),
                command: "iperf3 -c … -t 5 -C cubic [-R]",
            });
        }
    }
    let idle = |to: &str| measure::round_trips(&b, to, 300);
    rows.push(trip("round trip, idle, median (99 %)", &idle(&to)?, &idle(&bare)?));
    let loaded = |to: &str| -> anyhow::Result<Vec<f64>> {
        let load = b.spawn(&["iperf3", "-c", to, "-t", "5", "-C", "cubic"])?;
        wait::pause(Duration::from_secs(1));
        let times = measure::round_trips(&b, to, 200)?;
        load.finish(Duration::from_secs(20))?;
        Ok(times)
    };
    rows.push(trip("round trip beside that stream, median (99 %)", &loaded(&to)?, &loaded(&bare)?));
    Ok(rows)
}

/// What crosses the link at a time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wire {
    /// Super-frames, as between virtual machines of one host.
    Offload,
    /// Packets of at most 1500 bytes, as on a cable.
    Packets,
}

fn trip(what: &'static str, ours: &[f64], link: &[f64]) -> Row {
    let text = |times: &[f64]| format!("{:.3} ms ({:.3})", quantile(times, 0.5), quantile(times, 0.99));
    let compared = format!("bare link {}", text(link));
    Row { what, result: text(ours), compared, command: "ping -i 0.01 -c 300" }
}

/// Two members that have spoken and are silent now.
fn rest(lab: &mut Lab) -> anyhow::Result<Vec<Row>> {
    let mut a = lab.public("a")?;
    let mut b = lab.public("b")?;
    let to = a.create_lab(&["--hostname", "a"])?.ip()?.to_string();
    b.join_lab(&a, &["--hostname", "b"])?;
    b.ping_once(&to)?;
    wait::pause(Duration::from_secs(10));
    let (packets, ticks) = (sent(&b)?, cpu(&mut b)?);
    wait::pause(Duration::from_secs(u64::from(REST)));
    let (packets, ticks) = (sent(&b)? - packets, cpu(&mut b)? - ticks);
    let memory = [memory(&mut a)?, memory(&mut b)?];
    Ok(vec![
        Row {
            what: "memory at rest, creator and member",
            result: format!("{} and {} MB", memory[0] / 1000, memory[1] / 1000),
            compared: String::new(),
            command: "VmRSS in /proc/<pid>/status",
        },
        Row {
            what: "packets sent at rest, in a minute, libp2p included",
            result: packets.to_string(),
            compared: String::new(),
            command: "/sys/class/net/eth0/statistics/tx_packets",
        },
        Row {
            what: "processor at rest, in a minute",
            result: format!("{} ms", ticks * 10),
            compared: String::new(),
            command: "utime + stime in /proc/<pid>/stat",
        },
    ])
}

fn sent(node: &Node) -> anyhow::Result<u64> {
    Ok(node.run(&["cat", "/sys/class/net/eth0/statistics/tx_packets"])?.trim().parse()?)
}

fn cpu(node: &mut Node) -> anyhow::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", node.daemon()?.pid()))?;
    let fields: Vec<&str> = stat.rsplit_once(") ").context("no such process")?.1.split_whitespace().collect();
    ensure!(fields.len() > 12, "another kernel's stat: {stat}");
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

fn memory(node: &mut Node) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", node.daemon()?.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.split_whitespace().next().context("no VmRSS")?.parse()?)
}

fn spread(values: Vec<f64>, unit: &str) -> anyhow::Result<String> {
    let values = sorted(values).context("nothing was measured")?;
    Ok(format!("{:.1} {unit} ({:.1})", quantile(&values, 0.5), quantile(&values, 1.0)))
}

fn page(rows: &[Row]) -> anyhow::Result<String> {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let cores = std::thread::available_parallelism()?;
    let kernel = read("/proc/sys/kernel/osrelease");
    let mut page = format!(
        "# Benchmarks\n\n`cargo xtask bench` (as root, on an otherwise idle machine) measures all of this in network \
         namespaces and writes this page.\nBoth ends, and the link between them, share the {cores} cores of one machine: \
         {}, Linux {}.\nCompared values are from the same run. `cargo xtask bench-peers` measures beside other programs: \
         [speed](speed.md).\n\n\
         | what | overlay | compared with | command |\n|---|---|---|---|\n",
        cpu.trim_start_matches([' ', '\t', ':']),
        kernel.trim()
    );
    for Row { what, result, compared, command } in rows {
        writeln!(page, "| {what} | {result} | {compared} | `{}` |", command.replace('|', "\\|"))?;
    }
    Ok(page)
}
