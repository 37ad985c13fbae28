//! Measures one program on one underlay.

use std::fs;
use std::time::Duration;

use anyhow::{Context, anyhow};
use e2e::wait;

use super::iperf::{self, Flood};
use super::link::{Link, Underlay};
use super::machine::{CALM, Spent, Watch, wait_quiet};
use super::peer::{Peer, Running};
use super::row::{Figures, Row, Run, Taken, Trip, trip};
use crate::measure::{self, Direction};
use crate::say::say;

/// How often one measurement may be repeated, as long as the whole run's budget has any left.
const AGAIN: u32 = 2;
/// Bytes in a small UDP packet, and in one that makes an IP packet of 1400 bytes.
const FLOODS: [u32; 2] = [64, 1372];

/// How much is measured, and how much patience is left for a machine on which others work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Seconds of one stream.
    pub(crate) one: u32,
    /// How often that, each way.
    pub(crate) rounds: u32,
    /// Seconds of four streams.
    pub(crate) four: u32,
    /// Seconds of a flood of packets.
    pub(crate) flood: u32,
    /// Seconds of one stream over a line with a delay.
    pub(crate) far: u32,
    /// Echoes, idle.
    pub(crate) pings: u32,
    /// For how long a quiet machine is waited for yet, all in all.
    pub(crate) waiting: Duration,
    /// How many measurements may be repeated yet, all in all.
    pub(crate) repeats: u32,
}

impl Plan {
    /// Half an hour.
    pub(crate) const WHOLE: Self = Self {
        one: 3,
        rounds: 3,
        four: 4,
        flood: 2,
        far: 6,
        pings: 200,
        waiting: Duration::from_secs(180),
        repeats: 20,
    };
    /// A quarter of an hour, for a look whether all of it works.
    pub(crate) const QUICK: Self =
        Self { one: 2, rounds: 1, four: 2, flood: 2, far: 3, pings: 100, waiting: Duration::from_secs(20), repeats: 4 };
}

/// Lays a link, starts the program and measures. A failure is part of the row.
pub(crate) fn row(peer: &dyn Peer, underlay: Underlay, plan: &mut Plan) -> Row {
    let mut figures = figures(peer, underlay, plan);
    if let Err(error) = &figures {
        say(&format!("{}: {error:#}; once more", peer.name()));
        figures = self::figures(peer, underlay, plan);
    }
    let figures = figures.map_err(|error| format!("{error:#}"));
    Row { name: peer.name().to_owned(), kind: peer.kind(), layer: peer.layer(), figures }
}

fn figures(peer: &dyn Peer, underlay: Underlay, plan: &mut Plan) -> anyhow::Result<Figures> {
    let link = Link::lay(underlay)?;
    let running = peer.start(&link)?;
    let daemons = running.daemons.iter().map(e2e::Process::pid).collect();
    let probe = Probe { link: &link, running: &running, daemons };
    let measured = probe.warm_up().and_then(|()| probe.measure(plan));
    measured.map_err(|error| anyhow!("{error:#}; it said: {}", running.last_words()))
}

/// A program that runs, and what it connects.
struct Probe<'a> {
    link: &'a Link,
    running: &'a Running,
    daemons: Vec<u32>,
}

impl Probe<'_> {
    fn measure(&self, plan: &mut Plan) -> anyhow::Result<Figures> {
        let mut figures = Figures { mtu: self.link.a.mtu(&self.running.device)?, ..Figures::default() };
        figures.idle = self.take(plan, "idle", |plan| self.trip(plan.pings))?.map(without_cost);
        for _ in 0..plan.rounds {
            for (way, direction) in [Direction::There, Direction::Back].into_iter().enumerate() {
                let run = self.take(plan, "one stream", |plan| self.streams(plan.one, 1, direction))?;
                figures.one[way].extend(run.map(with_cost));
            }
        }
        if let Some(Taken { value: ((stream, trip), spent), foreign }) =
            self.take(plan, "four streams", |plan| self.loaded(plan.four))?
        {
            figures.four[0] = Some(Taken { value: Run { stream, spent }, foreign });
            figures.loaded = Some(Taken { value: trip, foreign });
        }
        let back = self.take(plan, "four streams back", |plan| self.streams(plan.four, 4, Direction::Back))?;
        figures.four[1] = back.map(with_cost);
        for (flood, bytes) in figures.floods.iter_mut().zip(FLOODS) {
            *flood = self.take(plan, "packets", |plan| self.flood(plan.flood, bytes))?.map(without_cost);
        }
        figures.memory = self.daemons.iter().map(|pid| memory(*pid)).collect::<anyhow::Result<_>>()?;
        Ok(figures)
    }

    /// Paths are chosen, and what they carry is found out, by the first packets.
    fn warm_up(&self) -> anyhow::Result<()> {
        // fastd tries again only every twenty seconds.
        wait::until_ok("the first echo", Duration::from_secs(50), || self.link.a.ping_once(&self.running.to))?;
        measure::round_trips(&self.link.a, &self.running.to, 50)?;
        self.streams(1, 1, Direction::There)?;
        wait::pause(Duration::from_secs(1));
        Ok(())
    }

    fn streams(&self, seconds: u32, count: u32, direction: Direction) -> anyhow::Result<iperf::Stream> {
        // Each time another server: what went wrong with one shall not hold up the next.
        let _server = measure::serve(&self.link.b)?;
        iperf::end(iperf::begin(&self.link.a, &self.running.to, seconds, count, direction, "cubic")?)
    }

    fn flood(&self, seconds: u32, bytes: u32) -> anyhow::Result<Flood> {
        let _server = measure::serve(&self.link.b)?;
        iperf::flood(&self.link.a, &self.running.to, seconds, bytes)
    }

    fn trip(&self, count: u32) -> anyhow::Result<Trip> {
        Ok(trip(&measure::round_trips(&self.link.a, &self.running.to, count)?))
    }

    /// Four streams, and echoes for as long as they last, but for their beginning.
    fn loaded(&self, seconds: u32) -> anyhow::Result<(iperf::Stream, Trip)> {
        let _server = measure::serve(&self.link.b)?;
        let load = iperf::begin(&self.link.a, &self.running.to, seconds, 4, Direction::There, "cubic")?;
        wait::pause(Duration::from_millis(500));
        // A hundred in a second.
        let trip = self.trip(seconds * 100 - 80)?;
        Ok((iperf::end(load)?, trip))
    }

    /// Measures when nobody else is at work, as far as the budget goes, and keeps what was disturbed least. Nothing if it
    /// fails each time.
    fn take<T>(
        &self,
        plan: &mut Plan,
        what: &str,
        measure: impl Fn(&Plan) -> anyhow::Result<T>,
    ) -> anyhow::Result<Option<Taken<(T, Spent)>>> {
        let mut best: Option<Taken<(T, Spent)>> = None;
        for _ in 0..=AGAIN {
            wait_quiet(&mut plan.waiting)?;
            let watch = Watch::start(&self.daemons)?;
            match measure(plan) {
                Ok(value) => {
                    let spent = watch.stop()?;
                    let foreign = spent.foreign_cores();
                    if best.as_ref().is_none_or(|best| foreign < best.foreign) {
                        best = Some(Taken { value: (value, spent), foreign });
                    }
                }
                Err(error) => say(&format!("  {what}: {error:#}")),
            }
            if best.as_ref().is_some_and(|best| best.foreign <= CALM) || plan.repeats == 0 {
                break;
            }
            plan.repeats -= 1;
        }
        Ok(best)
    }
}

fn with_cost(taken: Taken<(iperf::Stream, Spent)>) -> Taken<Run> {
    let Taken { value: (stream, spent), foreign } = taken;
    Taken { value: Run { stream, spent }, foreign }
}

fn without_cost<T>(taken: Taken<(T, Spent)>) -> Taken<T> {
    Taken { value: taken.value.0, foreign: taken.foreign }
}

/// MB of memory that a process has.
fn memory(pid: u32) -> anyhow::Result<f64> {
    resident(&fs::read_to_string(format!("/proc/{pid}/status"))?).context("no VmRSS")
}

/// MB, of `/proc/<pid>/status`, which counts KiB.
fn resident(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_is_resident() {
        assert_eq!(resident("VmPeak:\t 9 kB\nVmRSS:\t   12500 kB\nVmData: 1 kB\n"), Some(12.8));
        assert_eq!(resident("Name: kthreadd\n"), None);
    }
}
