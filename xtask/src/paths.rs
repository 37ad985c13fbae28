//! `cargo xtask paths`: members behind all pairs of edges, and what else may stand between two, into `docs/matrix.md`.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{Demand, Edge, Extra, Pair, Seen};
use wan::{Outcome, Technique, direct_path_possible};

use crate::measure::{quantile, sorted};
use crate::say::say;
use crate::{cargo, tools};

/// Laboratories at a time: they wait more than they compute.
const AT_ONCE: usize = 3;
/// How long the first packet is waited for.
const FIRST: Duration = Duration::from_secs(20);
/// How long a direct way is waited for where there ought to be one, and where not.
const DIRECT: Duration = Duration::from_secs(30);
const HARDLY: Duration = Duration::from_secs(6);
/// What the program can do.
const TECHNIQUE: Technique = Technique { low_ttl: true, prediction: false };

/// A pair of members: the first sends to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Case {
    Edges(Edge, Edge),
    Extra(Extra),
}

impl Case {
    fn all() -> VecDeque<Self> {
        let pairs = Edge::ALL.into_iter().flat_map(|a| Edge::ALL.into_iter().map(move |b| Self::Edges(a, b)));
        pairs.chain(Extra::ALL.into_iter().map(Self::Extra)).collect()
    }

    fn name(self) -> String {
        match self {
            Self::Edges(a, b) => format!("{} to {}", a.name(), b.name()),
            Self::Extra(extra) => extra.name().to_owned(),
        }
    }

    fn demand(self) -> Demand {
        match self {
            Self::Edges(a, b) if direct_path_possible(a, b, TECHNIQUE) == Outcome::Direct => Demand::Direct,
            Self::Edges(..) => Demand::Connected,
            Self::Extra(extra) => extra.demand(),
        }
    }

    fn look(self) -> anyhow::Result<Seen> {
        let pair = match self {
            Self::Edges(a, b) => Pair::new("matrix", [a, b], 1)?,
            Self::Extra(extra) => extra.pair()?,
        };
        let patience = if self.demand() == Demand::Direct { DIRECT } else { HARDLY };
        pair.context("kernel tests are left out")?.look(FIRST, patience)
    }

    fn is_as_demanded(self, seen: &Seen) -> bool {
        seen.first.is_some() && (self.demand() == Demand::Connected || seen.direct.is_some())
    }
}

/// Measures and writes the page.
///
/// # Errors
/// No root, or a pair is not connected as it ought to be.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    tools::ensure_installed(tools::TESTS)?;
    cargo::build_program()?;
    let seen = look_at_all()?;
    let page = page(&seen);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/matrix.md");
    fs::write(&file, &page).with_context(|| format!("Failed to write {}", file.display()))?;
    say(&page);
    let wrong: Vec<String> =
        seen.iter().filter(|(case, seen)| !case.is_as_demanded(seen)).map(|(case, _)| case.name()).collect();
    ensure!(wrong.is_empty(), "not connected as they could be: {}", wrong.join("; "));
    Ok(ExitCode::SUCCESS)
}

fn look_at_all() -> anyhow::Result<Vec<(Case, Seen)>> {
    let (waiting, done) = (Mutex::new(Case::all()), Mutex::new(Vec::new()));
    let work = || -> anyhow::Result<()> {
        loop {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(case) = next else { return Ok(()) };
            let mut seen = case.look().with_context(|| case.name())?;
            if !case.is_as_demanded(&seen) {
                say(&format!("{}: {seen:?}; once more", case.name()));
                seen = case.look().with_context(|| case.name())?;
            }
            say(&format!("{}: {}", case.name(), cell(&seen)));
            done.lock().unwrap_or_else(PoisonError::into_inner).push((case, seen));
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a thread died")))
    })?;
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(case, _)| *case);
    Ok(done)
}

/// `0.05/0.6`: seconds until the first packet, and until the way is direct; or another way.
fn cell(seen: &Seen) -> String {
    let Some(first) = seen.first else { return "none".to_owned() };
    let direct = seen.direct.map_or_else(|| seen.path.clone(), |direct| format!("{:.1}", direct.as_secs_f64()));
    format!("{:.2}/{direct}", first.as_secs_f64())
}

fn page(seen: &[(Case, Seen)]) -> String {
    let mut page = String::from(
        "# Pairs of edges\n\n\
         `cargo xtask paths` (as root) has a member behind the edge of each row send to one behind that of each column, on the kernel, with a third member in\n\
         the open, and writes this page. Each pair begins with nothing known of each other. What the edges are, [paths](paths.md) says.\n\n\
         A cell has the seconds until the first packet was answered, and until both took a direct way; `relay` or `stream` where they did not.\n\n",
    );
    let names: Vec<&str> = Edge::ALL.into_iter().map(Edge::name).collect();
    let _ = writeln!(page, "| | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()));
    for a in Edge::ALL {
        let cells = Edge::ALL.into_iter().map(|b| find(seen, Case::Edges(a, b)));
        let _ = writeln!(page, "| **{}** | {} |", a.name(), cells.collect::<Vec<_>>().join(" | "));
    }
    page += "\n| what else stands between them | demanded | seen |\n|---|---|---|\n";
    for extra in Extra::ALL {
        let demand = match extra.demand() {
            Demand::Connected => "connected",
            Demand::Direct => "direct",
        };
        let _ = writeln!(page, "| {} | {demand} | {} |", extra.name(), find(seen, Case::Extra(extra)));
    }
    page.push('\n');
    page += &summary(seen);
    page
}

fn find(seen: &[(Case, Seen)], case: Case) -> String {
    seen.iter().find(|(of, _)| *of == case).map_or_else(String::new, |(_, seen)| cell(seen))
}

fn summary(seen: &[(Case, Seen)]) -> String {
    let connected = seen.iter().filter(|(_, seen)| seen.first.is_some()).count();
    let possible: Vec<_> = seen.iter().filter(|(case, _)| case.demand() == Demand::Direct).collect();
    let seconds = |pick: fn(&Seen) -> Option<Duration>| {
        let all = seen.iter().filter_map(|(_, seen)| pick(seen)).map(|time| time.as_secs_f64());
        sorted(all.collect())
    };
    let (first, direct) = (seconds(|seen| seen.first), seconds(|seen| seen.direct));
    let spread = |all: Option<Vec<f64>>| {
        let all = all.unwrap_or_default();
        format!("{:.2} s, 95 % {:.2} s", quantile(&all, 0.5), quantile(&all, 0.95))
    };
    format!(
        "Connected: {connected} of {}. Direct where it ought to be: {} of {}, and {} others.\n\
         First packet: median {}. Direct: median {}.\n",
        seen.len(),
        possible.iter().filter(|(_, seen)| seen.direct.is_some()).count(),
        possible.len(),
        seen.iter().filter(|(case, seen)| case.demand() == Demand::Connected && seen.direct.is_some()).count(),
        spread(first),
        spread(direct)
    )
}
