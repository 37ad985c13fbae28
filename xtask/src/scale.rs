//! `cargo xtask scale`: what grows with the number of members, into `docs/scale.md`.

mod page;
mod plots;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, ensure};

use crate::figures::Figures;
use crate::say::say;
use crate::{cargo, tools};

/// Members of the simulated namespaces, and minutes of steady life and of churn.
const CROWDS: &[(u32, u32)] = &[(1000, 60), (10_000, 20), (100_000, 10)];
/// Nodes of the model of routing tables.
const MODELS: &[u32] = &[20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000];
/// Real nodes in one process, and how many lookups they make.
/// More than a hundred on two cores do not finish joining: see the page.
const REAL: &[(u32, u32)] = &[(20, 100), (50, 200), (100, 200)];
/// Seconds of rest: two refreshes of Kademlia.
const REST: u32 = 240;
/// Seeds of the model where it is compared with real nodes.
const SEEDS: u32 = 5;
/// By how much the model's questions for a lookup may differ from those that real nodes ask.
pub(crate) const BOUND: f64 = 0.15;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Measures, then writes.
    All,
    /// Writes the page anew from what was measured last.
    Page,
}

/// Measures and writes `docs/scale.md`, its plots, and the figures they are made from.
///
/// # Errors
/// Something does not run, or the model and the real nodes disagree.
pub(crate) fn run(part: Part) -> anyhow::Result<ExitCode> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let file = docs.join("scale/figures.txt");
    fs::create_dir_all(docs.join("scale"))?;
    if part == Part::All {
        fs::write(&file, measure()?)?;
    }
    let text = fs::read_to_string(&file).with_context(|| format!("Failed to read {}", file.display()))?;
    let figures = Figures::of(&text);
    for (name, plot) in plots::all(&figures) {
        fs::write(docs.join("scale").join(format!("{name}.svg")), plot.svg())?;
    }
    let page = page::page(&figures);
    fs::write(docs.join("scale.md"), &page)?;
    say(&page);
    let apart = page::disagreements(&figures);
    ensure!(apart.is_empty(), "the model of lookups is too far from the real nodes: {}", apart.join(", "));
    Ok(ExitCode::SUCCESS)
}

fn measure() -> anyhow::Result<String> {
    tools::ensure_installed(&[("unshare", "util-linux"), ("ip", "iproute2")])?;
    let words = ["--locked", "--release"];
    let simulation = [&["build"], &words[..], &["--package", "sim", "--bin", "scale"]].concat();
    let nodes = [&["build"], &words[..], &["--package", "dht-driver", "--example", "crowd"]].concat();
    for build in [simulation, nodes] {
        ensure!(cargo::run("measuring programs", &build, &[])?.failed == 0, "they do not build");
    }
    let mut lines = vec![format!("machine {}", machine()?)];
    let program = cargo::target_dir().join("release/scale");
    for count in MODELS {
        for seed in 1..=if REAL.iter().any(|(real, _)| real == count) { SEEDS } else { 1 } {
            lines.push(output(Command::new(&program).args(["kad", &count.to_string(), &seed.to_string()]))?);
        }
    }
    // The crowds compute and the real nodes wait, so they get on beside each other, but for the processor time.
    for (nodes, lookups) in REAL {
        lines.push(real(*nodes, *lookups)?);
    }
    for (members, minutes) in CROWDS {
        lines.push(output(Command::new(&program).args(["crowd", &members.to_string(), &minutes.to_string()]))?);
    }
    Ok(lines.concat())
}

/// Real nodes in a network namespace of their own, so that all packets there are theirs.
fn real(nodes: u32, lookups: u32) -> anyhow::Result<String> {
    let program: PathBuf = cargo::target_dir().join("release/examples/crowd");
    let inside = "ip link set dev lo up && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", inside, "sh"]).arg(program);
    // One disk under all of their stores would be what is measured.
    command.env("TMPDIR", "/dev/shm");
    output(command.args([nodes, REST, lookups].map(|number| number.to_string())))
}

/// What a program says, while it says it.
fn output(command: &mut Command) -> anyhow::Result<String> {
    say(&format!("== {command:?}"));
    let done = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    ensure!(done.status.success(), "{command:?} ended with {}", done.status);
    let text = String::from_utf8(done.stdout)?;
    say(text.trim_end());
    Ok(text)
}

fn machine() -> anyhow::Result<String> {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let cpu = cpu.trim_start_matches([' ', '\t', ':']).replace(' ', "_");
    let memory = read("/proc/meminfo");
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    let memory: u64 = memory.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default();
    let cores = std::thread::available_parallelism()?;
    let kernel = read("/proc/sys/kernel/osrelease");
    Ok(format!("cpu={cpu} cores={cores} memory_gb={} kernel={}\n", memory / 1_000_000, kernel.trim()))
}
