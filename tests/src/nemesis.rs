//! Faults by seed: power cuts, stopped processes, cut links, partitions, and members that leave and come back.
//!
//! The seed decides what happens to whom and when; how the kernel and the daemons interleave it does not, so a run that
//! failed may need to be replayed more than once. Only processes that the machines started are touched.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::Signal;

use crate::nine::{Nine, Way};
use crate::process::Process;
use crate::wait;
use crate::watcher::Watcher;

/// Of the numbers that are drawn, those from here on make somebody leave.
const LEAVE: usize = 11;
/// How long a member may take to hand over what others need of it.
const LEAVING: Duration = Duration::from_secs(25);
/// How many lines of a daemon's are told when it failed.
const LAST_WORDS: usize = 12;

/// How a machine comes back that has left.
const JOIN: &[&str] = &["join", "lab", "--dns", "off", "-v"];

/// What is wrong with a machine.
enum Trouble {
    Dead,
    Stopped,
    Cut,
    /// The command `leave`, until it has ended.
    Leaving(Process),
    Left,
}

/// Faults by seed.
pub struct Nemesis {
    seed: u64,
    random: u64,
    lease: Duration,
    /// Of each machine, what is wrong and until when.
    troubles: Vec<Option<(Trouble, Duration)>>,
    /// Machines that have left once. Who is killed right after `join` has not come back yet, and types it again.
    rejoins: std::collections::BTreeSet<usize>,
    parted_until: Option<Duration>,
    /// How many machines may be in trouble at once, those behind a partition and those that leave not counted.
    at_once: usize,
    log: Vec<String>,
    counts: std::collections::BTreeMap<&'static str, usize>,
}

impl Nemesis {
    /// Faults for this many machines, in a namespace with leases of this duration.
    pub fn new(seed: u64, machines: usize, lease: Duration) -> Self {
        let troubles = (0..machines).map(|_| None).collect();
        let at_once = machines / 3;
        let (rejoins, log, counts) = Default::default();
        Self { seed, random: seed, lease, troubles, rejoins, parted_until: None, at_once, log, counts }
    }

    /// Does its work for this long, then undoes it.
    ///
    /// # Errors
    /// A daemon ended by itself.
    pub fn run(&mut self, nine: &mut Nine, watcher: &Watcher, duration: Duration) -> anyhow::Result<()> {
        let end = watcher.time() + duration;
        while watcher.time() < end {
            self.undo(nine, watcher, false)?;
            self.check(nine)?;
            self.act(nine, watcher)?;
            let patience = self.between(300, 1500);
            wait::pause(patience);
        }
        self.undo(nine, watcher, true)?;
        self.check(nine)
    }

    /// What was done how often.
    pub fn summary(&self) -> String {
        let mut text = format!("seed {}:", self.seed);
        for (what, count) in &self.counts {
            let _ = write!(text, " {what} {count}");
        }
        text
    }

    /// All that was done, a line each.
    pub fn log(&self) -> String {
        self.log.join("\n")
    }

    /// SplitMix64: enough for choosing, and the same for ever.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit.max(1)).unwrap_or(1)).unwrap_or(0)
    }

    fn between(&mut self, least_ms: u64, most_ms: u64) -> Duration {
        Duration::from_millis(least_ms + self.next() % most_ms.saturating_sub(least_ms).max(1))
    }

    /// Between these parts of a lease, in percent.
    fn of_lease(&mut self, least: u32, most: u32) -> Duration {
        let percent = |part: u32| u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX) * u64::from(part) / 100;
        let (least, most) = (percent(least), percent(most));
        self.between(least, most)
    }

    fn note(&mut self, watcher: &Watcher, what: &'static str, detail: &str) {
        *self.counts.entry(what).or_default() += 1;
        self.log.push(format!("{:8.3} {what} {detail}", watcher.time().as_secs_f64()));
    }

    /// Something new, unless enough is wrong already.
    fn act(&mut self, nine: &mut Nine, watcher: &Watcher) -> anyhow::Result<()> {
        // Drawn whether they are needed or not, so that a seed means the same however long things take.
        let (what, anybody, owner) = (self.below(LEAVE + 8), self.below(self.troubles.len()), self.below(64));
        let short = self.between(0, 3000);
        let (long, cut, stop) = (self.of_lease(110, 200), self.of_lease(10, 130), self.of_lease(105, 240));
        let side = self.side();
        // Whoever has an address is hit three times as often as others, and only such a one has anything to give back.
        let holders = watcher.holders();
        let chosen = holders.get(owner % holders.len().max(1)).copied();
        let node = if what >= LEAVE || owner < 32 { chosen.unwrap_or(anybody) } else { anybody };
        let leaves = |trouble: &Trouble| matches!(trouble, Trouble::Leaving(_) | Trouble::Left);
        let (gone, broken) = self.troubles.iter().flatten().partition::<Vec<_>, _>(|(trouble, _)| leaves(trouble));
        let full = if what < LEAVE { broken.len() >= self.at_once } else { gone.len() >= 2 };
        if full || self.troubles[node].is_some() {
            return Ok(());
        }
        let now = watcher.time();
        match what {
            0..3 => self.kill(nine, watcher, node, short)?,
            3 => self.kill(nine, watcher, node, long)?,
            4..6 => self.stop(nine, watcher, node, stop)?,
            6 => self.stop(nine, watcher, node, short)?,
            7 => self.cut(nine, watcher, node, (Way::Both, cut))?,
            8 => self.cut(nine, watcher, node, (Way::Out, cut))?,
            9 => self.cut(nine, watcher, node, (Way::In, cut))?,
            10 if self.parted_until.is_some() => (),
            10 => {
                nine.part(&side)?;
                self.parted_until = Some(now + cut);
                self.note(watcher, "partition", &format!("{side:?} for {cut:?}"));
            }
            _ => {
                watcher.release_begins(node);
                let command = nine.nodes[node].overlay_process(&["leave", "lab"])?;
                self.troubles[node] = Some((Trouble::Leaving(command), now + LEAVING));
                self.note(watcher, "leave", &format!("{node}"));
            }
        }
        Ok(())
    }

    /// Four of nine.
    fn side(&mut self) -> Vec<usize> {
        let mut all: Vec<usize> = (0..self.troubles.len()).collect();
        let mut side = Vec::new();
        for _ in 0..self.troubles.len() / 2 {
            side.push(all.swap_remove(self.below(all.len())));
        }
        side
    }

    fn kill(&mut self, nine: &mut Nine, watcher: &Watcher, node: usize, dead: Duration) -> anyhow::Result<()> {
        nine.nodes[node].daemon()?.signal(Signal::KILL)?;
        keep_words(&mut nine.nodes[node], node, self.seed, self.log.len());
        nine.nodes[node].kill();
        self.troubles[node] = Some((Trouble::Dead, watcher.time() + dead));
        self.note(watcher, "kill", &format!("{node} for {dead:?}"));
        Ok(())
    }

    fn stop(&mut self, nine: &mut Nine, watcher: &Watcher, node: usize, stopped: Duration) -> anyhow::Result<()> {
        nine.nodes[node].daemon()?.signal(Signal::STOP)?;
        self.troubles[node] = Some((Trouble::Stopped, watcher.time() + stopped));
        self.note(watcher, "stop", &format!("{node} for {stopped:?}"));
        Ok(())
    }

    fn cut(
        &mut self,
        nine: &mut Nine,
        watcher: &Watcher,
        node: usize,
        (way, cut): (Way, Duration),
    ) -> anyhow::Result<()> {
        nine.cut(node, way)?;
        self.troubles[node] = Some((Trouble::Cut, watcher.time() + cut));
        let what = match way {
            Way::Both => "cut",
            Way::Out => "cut-out",
            Way::In => "cut-in",
        };
        self.note(watcher, what, &format!("{node} for {cut:?}"));
        Ok(())
    }

    /// Undoes what has lasted long enough, or all.
    fn undo(&mut self, nine: &mut Nine, watcher: &Watcher, all: bool) -> anyhow::Result<()> {
        let now = watcher.time();
        if self.parted_until.is_some_and(|until| all || until <= now) {
            self.parted_until = None;
            nine.heal()?;
            self.note(watcher, "heal", "the partition");
        }
        for node in 0..self.troubles.len() {
            let due = self.troubles[node].take_if(|(trouble, until)| {
                let ended = if let Trouble::Leaving(command) = trouble { !command.is_running() } else { false };
                all || ended || *until <= now
            });
            let Some((trouble, _)) = due else { continue };
            match trouble {
                Trouble::Leaving(_) if !all => {
                    // Long enough, sometimes, for somebody else to take the address.
                    let away = self.of_lease(2, 110);
                    self.troubles[node] = Some((Trouble::Left, now + away));
                }
                Trouble::Leaving(_) | Trouble::Left => {
                    keep_words(&mut nine.nodes[node], node, self.seed, self.log.len());
                    watcher.release_ends(node);
                    nine.nodes[node].kill();
                    nine.nodes[node].start(JOIN)?;
                    self.rejoins.insert(node);
                    self.note(watcher, "join", &format!("{node}"));
                }
                Trouble::Dead => {
                    let up: &[&str] = if self.rejoins.contains(&node) { JOIN } else { &["up", "-v"] };
                    nine.nodes[node].start(up)?;
                    self.note(watcher, "start", &format!("{node}"));
                }
                Trouble::Stopped => {
                    nine.nodes[node].daemon()?.signal(Signal::CONT)?;
                    self.note(watcher, "continue", &format!("{node}"));
                }
                Trouble::Cut => {
                    nine.mend(node)?;
                    self.note(watcher, "mend", &format!("{node}"));
                }
            }
        }
        Ok(())
    }

    /// A daemon that nobody ended runs.
    fn check(&mut self, nine: &mut Nine) -> anyhow::Result<()> {
        for (node, machine) in nine.nodes.iter_mut().enumerate() {
            if matches!(self.troubles[node], Some((Trouble::Dead | Trouble::Leaving(_) | Trouble::Left, _))) {
                continue;
            }
            let daemon = machine.daemon().with_context(|| format!("node {node}"))?;
            let running = daemon.is_running();
            ensure!(running, "the daemon of node {node} ended by itself: {}\n{}", last_words(daemon), self.log());
        }
        Ok(())
    }
}

fn last_words(process: &Process) -> String {
    let said = process.said();
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n")
}

/// With `OVERLAY_LAB_LOGS=<directory>`, what a daemon said is kept beyond its end.
fn keep_words(machine: &mut crate::node::Node, node: usize, seed: u64, at: usize) {
    let Some(dir) = std::env::var_os("OVERLAY_LAB_LOGS") else { return };
    if let Ok(daemon) = machine.daemon() {
        let file = std::path::Path::new(&dir).join(format!("{seed}-node{node}-{at:03}.log"));
        let _ = std::fs::write(file, daemon.said());
    }
}
