//! Who uses the processors: we, or somebody else.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context;
use e2e::wait;

/// Ticks of `/proc` in a second, on all of Linux (`USER_HZ`).
const TICKS: f64 = 100.0;
/// Seconds of processor time of others, in a second, that disturb no measurement.
pub(crate) const CALM: f64 = 0.06;
/// The same, that a measurement does not begin beside: a short look is a coarse one.
const QUIET: f64 = 0.16;
/// How long a look takes.
const LOOK: Duration = Duration::from_millis(500);

/// What was spent in a stretch of time, all in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Spent {
    /// Of the clock.
    pub(crate) elapsed: f64,
    /// Of all processors, without what was foreign.
    pub(crate) busy: f64,
    /// By the programs that were asked about.
    pub(crate) daemons: f64,
    /// By processes that are none of ours, and by other machines of the same host.
    pub(crate) foreign: f64,
}

impl Spent {
    /// How many processors others used, on average.
    pub(crate) fn foreign_cores(&self) -> f64 {
        if self.elapsed > 0.0 { self.foreign / self.elapsed } else { 0.0 }
    }
}

/// A stretch of time that is being watched.
pub(crate) struct Watch {
    began: Instant,
    before: Reading,
    daemons: Vec<u32>,
}

impl Watch {
    /// # Errors
    /// `/proc` is missing.
    pub(crate) fn start(daemons: &[u32]) -> anyhow::Result<Self> {
        Ok(Self { began: wait::now(), before: Reading::take(daemons)?, daemons: daemons.to_vec() })
    }

    /// # Errors
    /// `/proc` is missing.
    pub(crate) fn stop(self) -> anyhow::Result<Spent> {
        let elapsed = self.began.elapsed().as_secs_f64();
        Ok(Reading::take(&self.daemons)?.since(&self.before, elapsed))
    }
}

/// Looks again and again until nobody else uses the processors, but no longer than `budget`, from which it takes.
///
/// # Errors
/// `/proc` is missing.
pub(crate) fn wait_quiet(budget: &mut Duration) -> anyhow::Result<()> {
    loop {
        let watch = Watch::start(&[])?;
        wait::pause(LOOK);
        if watch.stop()?.foreign_cores() < QUIET || budget.is_zero() {
            return Ok(());
        }
        *budget = budget.saturating_sub(LOOK);
    }
}

/// Seconds since the start of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Reading {
    busy: f64,
    stolen: f64,
    others: f64,
    daemons: f64,
}

impl Reading {
    fn take(daemons: &[u32]) -> anyhow::Result<Self> {
        let look = || busy(&fs::read_to_string("/proc/stat").ok()?);
        // Going through all processes takes a while on a machine that is short of processors: in the middle of it.
        let before = look().context("another kernel's /proc/stat")?;
        let processes = processes()?;
        let after = look().context("another kernel's /proc/stat")?;
        let (busy, stolen) = (f64::midpoint(before.0, after.0), f64::midpoint(before.1, after.1));
        let spent = |process: &Process| process.own;
        let daemons = daemons.iter().filter_map(|pid| processes.get(pid)).map(spent).sum();
        Ok(Self { busy, stolen, others: others(&processes, std::process::id()), daemons })
    }

    fn since(&self, before: &Self, elapsed: f64) -> Spent {
        // The time of a process that nobody waited for is lost, so a difference can be negative.
        let others = (self.others - before.others).max(0.0);
        Spent {
            elapsed,
            busy: (self.busy - before.busy - others).max(0.0),
            daemons: (self.daemons - before.daemons).max(0.0),
            foreign: others + (self.stolen - before.stolen).max(0.0),
        }
    }
}

/// Seconds in which the processors worked, and those that the host gave to other machines, of `/proc/stat`.
fn busy(stat: &str) -> Option<(f64, f64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<f64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let [user, nice, system, _idle, _wait, irq, softirq, steal, ..] = ticks[..] else { return None };
    Some(((user + nice + system + irq + softirq) / TICKS, steal / TICKS))
}

/// A process, and the seconds that it has used.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Process {
    parent: u32,
    own: f64,
    /// By those of its children that have ended.
    children: f64,
}

fn processes() -> anyhow::Result<BTreeMap<u32, Process>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended meanwhile.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        all.extend(process(&stat).map(|process| (pid, process)));
    }
    Ok(all)
}

/// Reads `/proc/<pid>/stat`. The name in it may hold anything, brackets and blanks too.
fn process(stat: &str) -> Option<Process> {
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_whitespace().collect();
    let seconds = |at: usize| fields.get(at)?.parse::<f64>().ok().map(|ticks| ticks / TICKS);
    Some(Process {
        parent: fields.get(1)?.parse().ok()?,
        own: seconds(11)? + seconds(12)?,
        children: seconds(13)? + seconds(14)?,
    })
}

/// Seconds used by all processes that do not descend from `ours`, but for the kernel's threads: they work for us, too.
fn others(processes: &BTreeMap<u32, Process>, ours: u32) -> f64 {
    const KERNEL: u32 = 2;
    let descends = |pid: u32| {
        let parent = |pid: &u32| processes.get(pid).map(|process| process.parent).filter(|parent| *parent != 0);
        // As often as there are processes: a list that is read while they come and go might hold a circle.
        std::iter::successors(Some(pid), parent).take(processes.len() + 1).any(|pid| pid == ours || pid == KERNEL)
    };
    let foreign = processes.iter().filter(|(pid, _)| !descends(**pid));
    foreign.map(|(_, process)| process.own + process.children).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_all_but_idle_waiting_and_stolen_time() {
        let stat = "cpu  100 20 300 4000 50 6 7 80 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(busy(stat), Some((4.33, 0.8)));
        assert_eq!(busy("cpu  1 2 3\n"), None);
        assert_eq!(busy("intr 5\n"), None);
    }

    #[test]
    fn a_process_may_be_called_anything() {
        let stat = "77 (a) b) S 5 77 77 0 -1 4194304 1 2 3 4 250 50 25 25 20 0 1 0 5 6 7";
        assert_eq!(process(stat), Some(Process { parent: 5, own: 3.0, children: 0.5 }));
        assert_eq!(process("77 (a"), None);
    }

    #[test]
    fn foreign_is_what_neither_we_nor_the_kernel_did() {
        let one = |parent, own, children| Process { parent, own, children };
        let all = BTreeMap::from([
            (1, one(0, 1.0, 2.0)),
            (2, one(0, 100.0, 0.0)),
            (3, one(2, 100.0, 0.0)),
            (10, one(1, 10.0, 0.0)),
            (11, one(10, 100.0, 100.0)),
            (12, one(11, 100.0, 0.0)),
            (13, one(1, 0.5, 0.0)),
        ]);
        assert_eq!(others(&all, 11), 13.5);
    }

    #[test]
    fn what_others_did_is_no_work_of_ours() {
        let before = Reading { busy: 10.0, stolen: 1.0, others: 5.0, daemons: 2.0 };
        let after = Reading { busy: 14.0, stolen: 1.5, others: 6.0, daemons: 3.0 };
        let spent = after.since(&before, 2.0);
        assert_eq!(spent, Spent { elapsed: 2.0, busy: 3.0, daemons: 1.0, foreign: 1.5 });
        assert_eq!(spent.foreign_cores(), 0.75);
        assert_eq!(before.since(&after, 0.0), Spent::default());
    }

    #[test]
    fn this_machine_can_be_watched() {
        let spent = Watch::start(&[std::process::id()]).unwrap().stop().unwrap();
        assert!(spent.elapsed >= 0.0 && spent.busy >= 0.0, "{spent:?}");
    }
}
