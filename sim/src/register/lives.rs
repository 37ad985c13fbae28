//! Many lives at once, on all cores, and what they add up to.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::life::{Life, Report, run};
use super::world::{Counts, Failure};

/// What many lives consisted of.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// How many lives there were.
    pub lives: u64,
    /// What was counted.
    pub counts: Counts,
    /// View changes.
    pub views: u64,
    /// What struck.
    pub faults: BTreeMap<&'static str, u64>,
    /// How many answers had to find their place in the history of their key.
    pub history: u64,
    /// How long after everything was mended the last one had its address, in parts of a lease: sum and most.
    pub healed: (f64, f64),
    /// In how many lives that was within one lease.
    pub in_time: u64,
    /// Which seeds failed, and why.
    pub failed: Vec<(u64, Failure)>,
}

impl Totals {
    fn add(&mut self, seed: u64, report: Report, result: Result<(), Failure>) {
        self.lives += 1;
        self.counts.add(&report.counts);
        self.views += report.views;
        self.history += u64::try_from(report.history).unwrap_or(u64::MAX);
        for (name, count) in report.faults {
            *self.faults.entry(name).or_default() += count;
        }
        if let Some(healed) = report.healed {
            let share = healed.as_secs_f64() / report.lease.max(Duration::from_secs(1)).as_secs_f64();
            self.healed = (self.healed.0 + share, self.healed.1.max(share));
            self.in_time += u64::from(share <= 1.0);
        }
        if let Err(failure) = result {
            self.failed.push((seed, failure));
        }
    }

    /// The failures, each with the command that shows it again.
    pub fn failures(&self, words: &str) -> String {
        let again = "cargo run --release -p sim --bin registers --";
        let lines = self
            .failed
            .iter()
            .map(|(seed, failure)| format!("seed {seed}: {failure}\n  again: {again} --seed {seed} --trace{words}\n"));
        lines.collect()
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { grants, renewals, refusals, releases, losses, ownerships, reads, messages } = &self.counts;
        writeln!(f, "{} lives, {} failed", self.lives, self.failed.len())?;
        writeln!(f, "  {grants} grants, {renewals} renewals, {refusals} refusals, {releases} releases, {reads} reads")?;
        writeln!(f, "  {losses} leases lost, {ownerships} times somebody began to use a key, {messages} messages")?;
        writeln!(f, "  {} view changes, {} answers put in order", self.views, self.history)?;
        let healed = self.lives.saturating_sub(u64::try_from(self.failed.len()).unwrap_or(0)).max(1);
        let (mean, most) = (self.healed.0 / healed as f64, self.healed.1);
        writeln!(
            f,
            "  mended: all had their address after {mean:.2} of a lease, {most:.2} at most; {} within one lease",
            self.in_time
        )?;
        let faults: Vec<String> = self.faults.iter().map(|(name, count)| format!("{count} {name}")).collect();
        write!(f, "  faults: {}", faults.join(", "))
    }
}

/// Which seeds are lived, and when to stop.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The seeds.
    pub seeds: Range<u64>,
    /// Whether the first failure is enough. Then no seed above it was needed to find it.
    pub first_failure: bool,
    /// All but the seed.
    pub life: Life,
}

/// Lives them all. `told` is called for each failure as it is found.
pub fn run_all(batch: &Batch, told: impl Fn(u64, &Failure) + Sync) -> Totals {
    let next = AtomicU64::new(batch.seeds.start);
    let end = AtomicU64::new(batch.seeds.end);
    let totals = Mutex::new(Totals::default());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end.load(Ordering::Relaxed) {
                        return;
                    }
                    let (report, result) = run(Life { seed, ..batch.life });
                    if let Err(failure) = &result {
                        told(seed, failure);
                        if batch.first_failure {
                            end.fetch_min(seed, Ordering::Relaxed);
                        }
                    }
                    let Ok(mut totals) = totals.lock() else { return };
                    totals.add(seed, report, result);
                }
            });
        }
    });
    let mut totals = totals.into_inner().unwrap_or_default();
    totals.failed.sort_by_key(|(seed, _)| *seed);
    totals
}
