//! `cargo xtask bench-peers`: this program beside released ones and the bare link, in one run, into `docs/speed.md`.

mod bare;
mod easytier;
mod far;
mod fastd;
mod iperf;
mod link;
mod machine;
mod nebula;
mod openvpn;
mod overlay;
mod page;
mod peer;
mod probe;
mod row;
mod targets;
mod wireguard;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use e2e::wait;

use self::link::{Link, Underlay};
use self::page::{Program, Setting};
use self::peer::{Kind, Peer};
use self::probe::Plan;
use self::row::Row;
use self::targets::Section;
use crate::say::say;
use crate::tools;

/// What measuring calls: program, package.
const TOOLS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
    ("iperf3", "iperf3"),
    ("ethtool", "ethtool"),
    ("setpriv", "util-linux"),
    ("nice", "coreutils"),
];

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Options {
    plan: Plan,
    /// Of others; all of them if none is named.
    only: Vec<String>,
    underlays: Vec<Underlay>,
}

impl Options {
    fn parse(words: &[&str]) -> anyhow::Result<Self> {
        let mut options = Self { plan: Plan::WHOLE, only: Vec::new(), underlays: Vec::new() };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} wants a word after it"));
            match *word {
                "--quick" => options.plan = Plan::QUICK,
                "--only" => options.only.extend(value()?.split(',').map(str::to_owned)),
                "--underlay" => {
                    let named = value()?.split(',').map(Underlay::parse).collect::<anyhow::Result<Vec<_>>>()?;
                    options.underlays.extend(named);
                }
                other => bail!("bench-peers does not know {other}"),
            }
        }
        let known: Vec<&str> = peer::all().iter().map(|peer| peer.name()).collect();
        let unknown = options.only.iter().find(|name| !known.contains(&name.as_str()));
        ensure!(unknown.is_none(), "{} is none of {}", unknown.map_or("", String::as_str), known.join(", "));
        Ok(options)
    }

    /// Whether what is measured makes the whole page.
    fn is_whole(&self) -> bool {
        self.only.is_empty() && self.underlays.is_empty()
    }

    /// The bare link is always part of it: without it there are no ratios.
    fn wants(&self, peer: &dyn Peer) -> bool {
        peer.kind() == Kind::Bare || self.only.is_empty() || self.only.iter().any(|name| name == peer.name())
    }
}

/// Measures and prints; writes the page if all of it was measured.
///
/// # Errors
/// No root, or this project's own program cannot be measured.
pub(crate) fn run(words: &[&str]) -> anyhow::Result<ExitCode> {
    let options = Options::parse(words)?;
    tools::ensure_installed(TOOLS)?;
    // Without the right to do so nothing below can be measured.
    drop(Link::lay(Underlay::All)?);
    let peers: Vec<Box<dyn Peer>> = peer::all().into_iter().filter(|peer| options.wants(&**peer)).collect();
    let programs: Vec<Program> = peers.iter().map(|peer| obtain(&**peer)).collect();
    let began = wait::now();
    let mut plan = options.plan;
    let underlays = if options.underlays.is_empty() { Underlay::EACH.to_vec() } else { options.underlays.clone() };
    let sections: Vec<Section> = underlays.into_iter().map(|on| section(&peers, &programs, on, &mut plan)).collect();
    let far: Vec<_> = peers
        .iter()
        .zip(&programs)
        .filter(|(_, program)| options.is_whole() && program.version.is_ok())
        .map(|(peer, _)| far::measure(&**peer, &options.plan))
        .collect();
    let setting = Setting {
        date: peer::here(&["date", "-u", "+%F"])?.trim().to_owned(),
        machine: machine()?,
        plan: options.plan,
        minutes: began.elapsed().as_secs_f64() / 60.0,
        programs,
    };
    let page = page::page(&setting, &sections, &far);
    say(&page);
    if options.is_whole() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/speed.md");
        fs::write(&file, &page).with_context(|| format!("Failed to write {}", file.display()))?;
    }
    let ours = peers.iter().any(|peer| peer.kind() == Kind::Ours);
    ensure!(!ours || sections.iter().all(|section| section.ours().is_some()), "overlay could not be measured");
    Ok(ExitCode::SUCCESS)
}

fn obtain(peer: &dyn Peer) -> Program {
    let version = peer.obtain().map_err(|error| format!("{error:#}"));
    say(&format!("{}: {}", peer.name(), version.as_ref().unwrap_or_else(|reason| reason)));
    Program { name: peer.name(), layer: peer.layer(), settings: peer.settings(), version }
}

/// All programs on one underlay, and the bare link once more at the end.
fn section(peers: &[Box<dyn Peer>], programs: &[Program], underlay: Underlay, plan: &mut Plan) -> Section {
    say(&format!("== {}", underlay.title()));
    let mut rows = Vec::new();
    let again = peers.iter().zip(programs).filter(|(peer, _)| peer.kind() == Kind::Bare);
    for (peer, program) in peers.iter().zip(programs).chain(again) {
        let row = match &program.version {
            Ok(_) => probe::row(&**peer, underlay, plan),
            Err(reason) => {
                let (name, layer) = (peer.name().to_owned(), peer.layer());
                Row { name, kind: peer.kind(), layer, figures: Err(format!("could not be had: {reason}")) }
            }
        };
        say(&summary(&row));
        rows.push(row);
    }
    Section { underlay, rows }
}

/// A line for whoever waits.
fn summary(row: &Row) -> String {
    match &row.figures {
        Ok(figures) => {
            let speed = |way| figures.one(way, row::Run::speed).unwrap_or(f64::NAN);
            let (disturbed, all) = figures.disturbed();
            format!("{}: {:.2} and {:.2} Gbit/s, {disturbed} of {all} disturbed", row.name, speed(0), speed(1))
        }
        Err(reason) => format!("{}: {reason}", row.name),
    }
}

fn machine() -> anyhow::Result<String> {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let cores = std::thread::available_parallelism()?;
    let kernel = read("/proc/sys/kernel/osrelease");
    let cpu = cpu.trim_start_matches([' ', '\t', ':']);
    Ok(format!("the {cores} cores of one: {cpu}, Linux {}", kernel.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_what_is_measured() {
        let all = Options::parse(&[]).unwrap();
        assert!(all.is_whole() && all.plan == Plan::WHOLE);
        let some = Options::parse(&["--quick", "--only", "nebula,overlay", "--underlay", "receive"]).unwrap();
        assert_eq!((some.plan, some.is_whole()), (Plan::QUICK, false));
        let wanted: Vec<&str> =
            peer::all().iter().filter(|peer| some.wants(&***peer)).map(|peer| peer.name()).collect();
        assert_eq!(wanted, ["bare", "nebula", "overlay"]);
        assert_eq!(some.underlays, [Underlay::Receive]);
    }

    #[test]
    fn other_words_are_refused() {
        for words in [&["--only"][..], &["--only", "tinc"], &["--underlay", "wan"], &["--slow"]] {
            assert!(Options::parse(words).is_err(), "{words:?}");
        }
    }
}
