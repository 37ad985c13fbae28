//! The thread of one direction: reads one TAP, waits, writes another.

use std::fs;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bridge::{Frame, Offload};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tap::{MAX_FRAME, Priority, Tap};
use wan::Line;

use crate::counters::Counters;
use crate::direction::Direction;
use crate::translate::{Translator, Verdict};

/// Frames that may leave before the next one is read.
const AT_A_TIME: usize = 16;
/// The kernel may wake the thread so much later than asked.
const SLACK_NS: u64 = 1000;
/// A line does not wait for the machines at its ends, where they all share few processors: beside the priority that it has while its
/// work ends.
const NICE: i32 = -15;
/// "File descriptor in bad state": what the TAP says when its device is gone.
const GONE: i32 = 77;

/// Time since the line was laid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the kernel runs in real time")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Duration {
        self.0.elapsed()
    }

    fn at(self, time: Duration) -> Instant {
        self.0 + time
    }
}

/// What the line is told to become.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    /// Another one from then on.
    Change(Duration, Line),
    /// Down from then on, for so long.
    Outage(Duration, Duration),
}

/// What others tell the thread.
pub(crate) struct Control {
    stop: AtomicBool,
    changed: AtomicBool,
    orders: Mutex<Vec<Order>>,
    wake: OwnedFd,
}

impl Control {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { stop: AtomicBool::new(false), changed: AtomicBool::new(false), orders: Mutex::default(), wake })
    }

    /// Has the thread do it.
    pub(crate) fn order(&self, order: Order) {
        lock(&self.orders).push(order);
        self.changed.store(true, Ordering::Release);
        self.wake();
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
    }

    /// A full counter wakes as well as one that was just raised.
    fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// Which way a translator sees the frames of a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// From the machine: before the line.
    Inside,
    /// To it: after the line.
    Outside,
}

/// All that a thread needs.
pub(crate) struct Work {
    pub(crate) direction: Direction,
    pub(crate) input: Tap,
    pub(crate) output: Tap,
    pub(crate) control: Arc<Control>,
    pub(crate) translator: Option<(Side, Arc<Mutex<Translator>>)>,
    pub(crate) clock: Clock,
}

impl Work {
    /// Works until it is told to stop, or a device is gone. The thread is in the namespace of the TAP that is read.
    pub(crate) fn run(mut self) -> Counters {
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(SLACK_NS));
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
        let mut priority = Priority::of_this_thread();
        let mut scrap = vec![0; MAX_FRAME];
        while !self.control.stop.load(Ordering::Acquire) {
            self.heed();
            match self.read(&mut scrap) {
                Ok(true) => {
                    priority.goes_on(self.clock.at(self.clock.now()));
                    self.write();
                }
                Ok(false) => {
                    self.write();
                    self.wait(&mut priority);
                }
                Err(error) if error.raw_os_error() == Some(GONE) => break,
                // The device is down: nothing to read until it is up again.
                Err(_) => self.wait(&mut priority),
            }
        }
        let missed = missed(self.input.name());
        let under_way = self.direction.under_way();
        let counters = self.direction.counters();
        (counters.missed, counters.under_way) = (missed, under_way);
        *counters
    }

    /// Takes over what the line is told to become.
    fn heed(&mut self) {
        if self.control.changed.swap(false, Ordering::AcqRel) {
            for order in lock(&self.control.orders).drain(..) {
                match order {
                    Order::Change(at, line) => self.direction.change(at, line),
                    Order::Outage(from, time) => self.direction.outage(from, time),
                }
            }
        }
    }

    /// Reads one frame. Whether there was one.
    fn read(&mut self, scrap: &mut [u8]) -> io::Result<bool> {
        let Some(room) = self.direction.room() else {
            let read = self.input.read(scrap)?.is_some();
            if read {
                self.direction.overflow();
            }
            return Ok(read);
        };
        let Some((length, offload)) = self.input.read(room)? else { return Ok(false) };
        let now = self.clock.now();
        if let Some((Side::Inside, translator)) = &self.translator {
            let frame = &mut room[..length];
            match lock(translator).outbound(frame, offload, now) {
                Verdict::Pass => {}
                Verdict::Back => {
                    let _ = self.input.write(&Frame { offload, head: frame, parts: &[] });
                    return Ok(true);
                }
                Verdict::Drop => {
                    self.direction.counters().refused += 1;
                    return Ok(true);
                }
            }
        }
        self.direction.accept(now, length, offload);
        Ok(true)
    }

    /// Writes what has arrived.
    fn write(&mut self) {
        let Self { direction, output, translator, clock, .. } = self;
        for _ in 0..AT_A_TIME {
            let now = clock.now();
            let (mut refused, mut unwritten) = (false, false);
            let mut each = |offload: Offload, head: &mut [u8], rest: &[u8]| {
                if let Some((Side::Outside, translator)) = translator {
                    refused = lock(translator).inbound(head, offload, now) != Verdict::Pass;
                }
                unwritten = !refused && output.write(&Frame { offload, head, parts: &[rest] }).is_err();
            };
            if !direction.deliver(now, &mut each) {
                return;
            }
            direction.counters().refused += u64::from(refused);
            direction.counters().unwritten += u64::from(unwritten);
        }
    }

    /// Waits for a frame, for the time of the next one that is under way, or for a word from outside.
    fn wait(&self, priority: &mut Priority) {
        let now = self.clock.now();
        let timeout = self.direction.next().map(|due| due.saturating_sub(now));
        if timeout == Some(Duration::ZERO) {
            return priority.goes_on(self.clock.at(now));
        }
        priority.rested();
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut fds = [PollFd::new(&self.input, PollFlags::IN), PollFd::new(&self.control.wake, PollFlags::IN)];
        let _ = poll(&mut fds, timeout.as_ref());
        if fds[1].revents().contains(PollFlags::IN) {
            let _ = rustix::io::read(self.control.wake.as_fd(), &mut [0_u8; 8][..]);
        }
    }
}

/// What the kernel dropped because the device was not read fast enough.
fn missed(device: &str) -> u64 {
    let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    let of_device = table.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'));
    // Eight columns of what was received; of what was sent octets, packets, errors, drops.
    let drops = of_device.and_then(|line| line.split_whitespace().nth(11));
    drops.and_then(|drops| drops.parse().ok()).unwrap_or(0)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
