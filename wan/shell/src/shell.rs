//! A line that is laid: two TAP devices, and a thread for each direction.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use tap::Tap;
use wan::{Line, Loss};

use crate::counters::Counters;
use crate::direction::Direction;
use crate::run::{Clock, Control, Order, Side, Work};
use crate::translate::{Translation, Translator};

/// Octets that may be under way in one direction, where nothing else is asked for: a second of 2 Gbit/s.
pub const MEMORY: usize = 256 << 20;
/// Frames that the kernel keeps for a thread that is late.
const DEVICE_QUEUE: &str = "16384";

/// One end of a line: a device that is made there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The network namespace, as `ip netns` calls it; none is the one of whoever lays the line.
    pub namespace: Option<String>,
    /// The TAP device.
    pub device: String,
}

/// Both directions of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lines {
    /// From the first end to the second one.
    pub there: Line,
    /// From the second end to the first one.
    pub back: Line,
    /// What they become, and when after the beginning.
    pub schedule: Vec<(Duration, Way, Line)>,
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the first end to the second one.
    There,
    /// From the second end to the first one.
    Back,
}

impl Lines {
    /// The same both ways, for good.
    pub fn both(line: Line) -> Self {
        Self { there: line, back: line, schedule: Vec::new() }
    }

    /// Half of the round trip each way, and each direction loses so many packets in a million, each alone.
    pub fn far(round_trip: Duration, loss: u32) -> Self {
        Self::both(Line { delay: round_trip / 2, loss: Loss::independent(loss), ..Line::GOOD })
    }
}

/// All about a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its ends.
    pub ends: [End; 2],
    /// What it does to packets.
    pub lines: Lines,
    /// A translator at the first end.
    pub translation: Option<Translation>,
    /// Of all that is left to chance.
    pub seed: u64,
    /// Octets that may be under way in each direction.
    pub memory: usize,
    /// The devices' MTU.
    pub mtu: u16,
}

impl Settings {
    /// A line between two ends, with an ordinary MTU.
    pub fn new(ends: [End; 2], lines: Lines, seed: u64) -> Self {
        Self { ends, lines, translation: None, seed, memory: MEMORY, mtu: 1500 }
    }
}

/// What happened on a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The seed that it ran with.
    pub seed: u64,
    /// From the first end to the second one.
    pub there: Counters,
    /// From the second end to the first one.
    pub back: Counters,
}

impl Report {
    /// All of it, by name.
    pub fn to_json(&self) -> Value {
        json!({ "seed": self.seed, "there": self.there.to_json(), "back": self.back.to_json() })
    }
}

/// A line that is laid. It ends with the value, and its devices with it.
pub struct Shell {
    clock: Clock,
    seed: u64,
    controls: [Arc<Control>; 2],
    threads: [Option<JoinHandle<Counters>>; 2],
}

impl Shell {
    /// Makes the devices, sets them up, and begins.
    ///
    /// # Errors
    /// No root, no TUN device, no such namespace, or the device is there already.
    pub fn lay(settings: &Settings) -> anyhow::Result<Self> {
        let [first, second] = &settings.ends;
        let taps = [open(first, settings.mtu)?, open(second, settings.mtu)?];
        let seeds = [settings.seed, settings.seed ^ 0x5555_5555_5555_5555];
        let translator = settings.translation.map(|of| Arc::new(Mutex::new(Translator::new(of, settings.seed))));
        let clock = Clock::start();
        let controls = [Arc::new(Control::new()?), Arc::new(Control::new()?)];
        let work = |way: Way| {
            let (number, line, side) = match way {
                Way::There => (0, settings.lines.there, Side::Inside),
                Way::Back => (1, settings.lines.back, Side::Outside),
            };
            let mut direction = Direction::new(line, seeds[number], settings.memory);
            for (at, _, line) in settings.lines.schedule.iter().filter(|(_, of, _)| *of == way) {
                direction.change(*at, *line);
            }
            Work {
                direction,
                input: taps[number].clone(),
                output: taps[1 - number].clone(),
                control: Arc::clone(&controls[number]),
                translator: translator.clone().map(|translator| (side, translator)),
                clock,
            }
        };
        let (there, back) = (work(Way::There), work(Way::Back));
        // From here on a failure ends what has begun.
        let mut shell = Self { clock, seed: settings.seed, controls, threads: [None, None] };
        shell.threads[0] = Some(spawn(first, there)?);
        shell.threads[1] = Some(spawn(second, back)?);
        Ok(shell)
    }

    /// From here on one direction is another; what is under way arrives as it would have.
    pub fn change(&self, way: Way, line: Line) {
        self.change_after(Duration::ZERO, way, line);
    }

    /// As [`Self::change`], after so long.
    pub fn change_after(&self, after: Duration, way: Way, line: Line) {
        self.control(way).order(Order::Change(self.clock.now() + after, line));
    }

    /// Nothing passes from here on in one direction, for so long; then it is as it would have been.
    pub fn outage(&self, way: Way, time: Duration) {
        self.control(way).order(Order::Outage(self.clock.now(), time));
    }

    /// Whether both directions still work: they end when a device is taken away.
    pub fn is_running(&self) -> bool {
        self.threads.iter().flatten().all(|thread| !thread.is_finished())
    }

    /// Ends it. What is under way is lost.
    ///
    /// # Errors
    /// A thread has panicked.
    pub fn stop(mut self) -> anyhow::Result<Report> {
        let [there, back] = self.end();
        Ok(Report { seed: self.seed, there: there?, back: back? })
    }

    fn control(&self, way: Way) -> &Control {
        match way {
            Way::There => &self.controls[0],
            Way::Back => &self.controls[1],
        }
    }

    fn end(&mut self) -> [anyhow::Result<Counters>; 2] {
        self.controls.iter().for_each(|control| control.stop());
        self.threads.each_mut().map(|thread| {
            let thread = thread.take().context("the thread has ended")?;
            thread.join().map_err(|_| anyhow!("the thread of a direction panicked"))
        })
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Starts a thread in the namespace of the end that it reads.
fn spawn(end: &End, work: Work) -> anyhow::Result<JoinHandle<Counters>> {
    let namespace = namespace(end)?;
    let run = move || {
        // Where it is there is no matter, but for the count of what the kernel drops.
        let _ = namespace.map(|file| enter(&file));
        work.run()
    };
    Ok(thread::Builder::new().name("line".to_owned()).spawn(run)?)
}

/// A device in the namespace of an end. A thread of its own makes it, as it has to stay there.
fn open(end: &End, mtu: u16) -> anyhow::Result<Tap> {
    let (namespace, device) = (namespace(end)?, end.device.clone());
    let make = move || -> anyhow::Result<Tap> {
        if let Some(file) = &namespace {
            enter(file)?;
        }
        let tap = Tap::create(&device, 1)?;
        let mtu = mtu.to_string();
        let set = ["link", "set", tap.name(), "mtu", &mtu, "txqueuelen", DEVICE_QUEUE, "up"];
        let output =
            Command::new("ip").args(set).stdin(Stdio::null()).output().context("Failed to run ip (iproute2)")?;
        ensure!(output.status.success(), "{}: {}", set.join(" "), String::from_utf8_lossy(&output.stderr));
        Ok(tap)
    };
    let made =
        thread::Builder::new().spawn(make)?.join().map_err(|_| anyhow!("the thread that makes a TAP panicked"))?;
    made.with_context(|| format!("cannot make {end:?}"))
}

fn namespace(end: &End) -> anyhow::Result<Option<File>> {
    let Some(name) = &end.namespace else { return Ok(None) };
    let path = Path::new("/run/netns").join(name);
    Ok(Some(File::open(&path).with_context(|| format!("no network namespace {}", path.display()))?))
}

fn enter(namespace: &File) -> anyhow::Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}
