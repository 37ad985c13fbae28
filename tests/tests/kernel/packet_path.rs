//! What the packet path promises besides arriving: few calls, signs of congestion, short queues, and the same bytes whatever the
//! kernel can do for it.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{Lab, Node, say, stream, wait};

/// A last resort, not a promise: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);
const TAP: &str = "ov-lab";

/// Two members on one link, and the address of the second. Packets on the link are at most 1500 bytes.
fn two(lab: &mut Lab, tune: impl Fn(&mut Node)) -> anyhow::Result<(Node, Node, String)> {
    let (mut a, mut b) = (lab.public("a")?, lab.public("b")?);
    for node in [&mut a, &mut b] {
        let off = ["tso", "off", "gso", "off", "gro", "off", "tx-udp-segmentation", "off"];
        node.run(&[&["ethtool", "-K", "eth0"][..], &off].concat())?;
        tune(node);
    }
    a.create_lab(&["--hostname", "a"])?;
    let ip = b.join_lab(&a, &["--hostname", "b"])?.ip()?.to_string();
    wait::until_ok("a to reach b directly", LIMIT, || {
        a.run(&["ping", "-c", "1", "-W", "1", &ip])?;
        ensure!(e2e::peer(&a, "b")?["path"] == "direct");
        Ok(())
    })?;
    Ok((a, b, ip))
}

fn received(node: &Node, device: &str) -> anyhow::Result<u64> {
    Ok(node.run(&["cat", &format!("/sys/class/net/{device}/statistics/rx_packets")])?.trim().parse()?)
}

/// One of the kernel's counters, since the namespace was made.
fn counter(node: &Node, name: &str) -> anyhow::Result<u64> {
    let report = node.run(&["nstat", "-asz", name])?;
    let line = report.lines().find(|line| line.starts_with(name)).context(report.clone())?;
    Ok(line.split_whitespace().nth(1).context("no value")?.parse()?)
}

/// Packets that congestion has cost.
fn congested(node: &Node) -> anyhow::Result<u64> {
    Ok(node.status()?["drops"]["node.congested"].as_u64().unwrap_or(0))
}

/// Sends a file over TCP and compares.
fn send_file(from: &Node, to: &Node, ip: &str) -> anyhow::Result<()> {
    let (sent, came) = (from.dir().join("sent"), to.dir().join("came"));
    let (sent, came) = (sent.to_string_lossy(), came.to_string_lossy());
    from.run(&["dd", "if=/dev/urandom", &format!("of={sent}"), "bs=1M", "count=32", "status=none"])?;
    let listener = to.spawn(&["socat", "-u", "TCP-LISTEN:7000,reuseaddr", &format!("OPEN:{came},creat,trunc")])?;
    wait::until_ok("the listener", LIMIT, || {
        ensure!(to.run(&["ss", "-Htln", "sport = 7000"])?.contains("7000"));
        Ok(())
    })?;
    from.run(&["socat", "-u", &format!("FILE:{sent}"), &format!("TCP:{ip}:7000")])?;
    listener.finish(LIMIT)?.ok()?;
    from.run(&["cmp", &sent, &came])?;
    Ok(())
}

#[test]
fn segments_of_a_stream_reach_the_kernel_together() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("trains")? else { return Ok(()) };
    let (a, b, ip) = two(&mut lab, |_| ())?;
    let (link, tap) = (received(&b, "eth0")?, received(&b, TAP)?);
    let speed = stream(&a, &b, &ip)?;
    let (link, tap) = (received(&b, "eth0")? - link, received(&b, TAP)? - tap);
    say(&format!("{link} packets on the link became {tap} frames, at {:.2} Gbit/s", speed / 1e9));
    ensure!(tap * 4 < link, "one frame for each packet, nearly");
    send_file(&a, &b, &ip)?;
    send_file(&b, &a, a.status()?["ip"].as_str().context("no address")?)
}

#[test]
fn signs_of_congestion_pass_both_ways() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("ecn")? else { return Ok(()) };
    let (a, b, ip) = two(&mut lab, |_| ())?;
    for node in [&a, &b] {
        node.run(&["sysctl", "-qw", "net.ipv4.tcp_ecn=1"])?;
    }
    // Here is the router that is congested: it marks one datagram in fifty of those that may be marked, and no others.
    let rules = "table inet jam {
        chain arriving {
            type filter hook prerouting priority -300
            udp dport 41820 ip ecn ect0 numgen inc mod 50 0 counter ip ecn set ce
        }
    }";
    b.run(&["nft", rules])?;
    let speed = stream(&a, &b, &ip)?;
    let rule = b.run(&["nft", "list", "table", "inet", "jam"])?;
    let (marked, told) = (counter(&b, "IpExtInCEPkts")?, counter(&a, "TcpExtTCPDeliveredCE")?);
    say(&format!("CE came in {marked} times, {told} segments were told of, at {:.2} Gbit/s\n{rule}", speed / 1e9));
    ensure!(told > 0, "the sender never heard of congestion");
    ensure!(congested(&b)? == 0, "something was lost though its ends understand");

    // Ends that do not understand send nothing that may be marked. What a router marks all the same is lost.
    for node in [&a, &b] {
        node.run(&["sysctl", "-qw", "net.ipv4.tcp_ecn=0"])?;
    }
    b.run(&["nft", "flush ruleset"])?;
    b.run(&["nft", &rules.replace("ip ecn ect0 numgen", "ip length > 1000 numgen")])?;
    stream(&a, &b, &ip)?;
    let lost = congested(&b)?;
    say(&format!("{lost} lost for a sign they did not understand"));
    ensure!(lost > 0, "a sign of congestion was thrown away");
    b.run(&["nft", "flush ruleset"])?;
    send_file(&a, &b, &ip)
}

#[test]
fn a_slow_line_has_a_short_queue() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("slow")? else { return Ok(()) };
    let (a, b, ip) = two(&mut lab, |_| ())?;
    a.run(&["tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "50mbit", "burst", "32k", "latency", "100ms"])?;
    for ecn in ["0", "1"] {
        for node in [&a, &b] {
            node.run(&["sysctl", "-qw", &format!("net.ipv4.tcp_ecn={ecn}")])?;
        }
        let before = congested(&a)?;
        let ping = a.spawn(&["ping", "-i", "0.02", "-c", "200", &ip])?;
        let speed = stream(&a, &b, &ip)?;
        let report = ping.finish(LIMIT)?.ok()?;
        let mut times: Vec<f64> =
            report.split("time=").skip(1).filter_map(|rest| rest.split(' ').next()?.parse().ok()).collect();
        times.sort_by(f64::total_cmp);
        let median = times.get(times.len() / 2).copied().context(report)?;
        let lost = congested(&a)? - before;
        say(&format!(
            "tcp_ecn={ecn}: round trip beside a stream of {:.1} Mbit/s: {median:.1} ms, {lost} lost",
            speed / 1e6
        ));
        ensure!(speed > 25e6, "the line is idle half of the time");
        // Room for 100 ms, which a stream fills that nobody tells of it.
        ensure!(median < 70.0, "{median} ms");
        ensure!(ecn == "1" || lost > 0, "who told the sender?");
    }
    ensure!(counter(&b, "IpExtInCEPkts")? > 0, "nothing was marked");
    Ok(())
}

#[test]
fn without_the_kernels_help_the_same_bytes_arrive() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("bare")? else { return Ok(()) };
    let (a, b, ip) = two(&mut lab, |node| node.env.push(("OVERLAY_UDP_OFFLOAD".into(), "off".into())))?;
    let doctor = a.overlay(&["doctor"])?.ok()?;
    ensure!(doctor.contains("one by one: OVERLAY_UDP_OFFLOAD=off"), "{doctor}");
    say(&format!("one by one: {:.2} Gbit/s", stream(&a, &b, &ip)? / 1e9));
    send_file(&a, &b, &ip)
}

#[test]
fn several_threads_keep_the_order_of_each_flow() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("threads")? else { return Ok(()) };
    let (a, b, ip) = two(&mut lab, |node| node.env.push(("OVERLAY_PACKET_THREADS".into(), "3".into())))?;
    a.run(&["test", "-d", &format!("/sys/class/net/{TAP}/queues/tx-2")])?;
    let mut server = b.spawn(&["iperf3", "-s", "-1", "--forceflush"])?;
    server.wait_for_line(Duration::from_secs(10), |line| line.contains("Server listening"))?;
    let out_of_order = counter(&b, "TcpExtTCPOFOQueue")?;
    let report = a.run(&["iperf3", "-c", &ip, "-t", "3", "-P", "6", "-J"])?;
    let report: serde_json::Value = serde_json::from_str(&report)?;
    let out_of_order = counter(&b, "TcpExtTCPOFOQueue")? - out_of_order;
    let repeated = report["end"]["sum_sent"]["retransmits"].as_u64().context("no retransmits")?;
    say(&format!("six flows by three threads: {out_of_order} segments out of order, {repeated} sent again"));
    // What is lost on a busy machine leaves gaps, too; threads that share a flow leave thousands.
    ensure!(out_of_order < 200 + 50 * repeated, "a flow was divided");
    send_file(&a, &b, &ip)
}

/// How large the packets are that come while a stream runs, on average, and how fast it is.
fn mean_size(a: &Node, b: &Node, ip: &str) -> anyhow::Result<u64> {
    let read = |what: &str| -> anyhow::Result<u64> {
        Ok(b.run(&["cat", &format!("/sys/class/net/eth0/statistics/rx_{what}")])?.trim().parse()?)
    };
    let (packets, bytes) = (read("packets")?, read("bytes")?);
    let speed = stream(a, b, ip)?;
    let (packets, bytes) = (read("packets")? - packets, read("bytes")? - bytes);
    let mean = bytes / packets.max(1);
    say(&format!("{mean} octets in a packet on average, {:.2} Gbit/s", speed / 1e9));
    Ok(mean)
}

#[test]
fn a_path_of_nine_thousand_octets_is_used_where_it_is_one() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("jumbo")? else { return Ok(()) };
    // The ends would carry them; what lies between does not, and says nothing.
    let (a, b, ip) = two(&mut lab, |node| {
        let _ = node.run(&["ip", "link", "set", "eth0", "mtu", "9000"]);
    })?;
    ensure!(mean_size(&a, &b, &ip)? < 1600, "more than the line carries has arrived");
    send_file(&a, &b, &ip)?;
    // Now the line carries them, too. That is seen within ten minutes; a member that starts sees it with its first stream.
    let all = "for link in $(ls /sys/class/net); do ip link set $link mtu 9000; done";
    lab.spawn(&["sh", "-c", all])?.finish(LIMIT)?.ok()?;
    let (mut a, mut b) = (a, b);
    for node in [&mut a, &mut b] {
        node.interrupt()?.ok()?;
        node.start_ready(&["join", "lab", "--dns", "file"])?;
    }
    wait::until_ok("a to reach b", LIMIT, || a.ping_once(&ip))?;
    ensure!(mean_size(&a, &b, &ip)? > 3000, "the path carries 9000");
    send_file(&a, &b, &ip)?;
    send_file(&b, &a, a.status()?["ip"].as_str().context("no address")?)
}
