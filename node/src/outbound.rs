//! The outbound thread of one namespace: TAP → who has that address → seal → data socket.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;

use arc_swap::ArcSwap;
use bridge::Offload;
use dht::clock::Now;
use engine::Snapshot;
use engine::codel::Queue;
use engine::fast::{self, Datagrams, Verdict};

use crate::control::Input;
use crate::inbound::Drops;
use crate::io::clock::SystemClock;
use crate::io::pace::Pace;
use crate::io::uplink::Uplink;
use tap::{MAX_FRAME, Priority, Tap};

/// Sealed bytes that are sent at the latest when this many wait: a super-frame, and some.
const FLUSH_AT: usize = 128 * 1024;

/// What the outbound thread needs.
pub(crate) struct Outbound {
    pub(crate) tap: Tap,
    pub(crate) uplink: Uplink,
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) control: SyncSender<Input>,
    pub(crate) clock: Arc<SystemClock>,
    pub(crate) drops: Arc<Drops>,
    pub(crate) stop: Arc<AtomicBool>,
}

/// What the device may still have after a batch.
enum Left {
    More,
    Nothing,
}

impl Outbound {
    /// Runs until `stop`, or until the device is gone.
    pub(crate) fn run(&self) {
        let mut frame = vec![0; MAX_FRAME];
        let mut datagrams = Datagrams::default();
        let mut priority = Priority::of_this_thread();
        let mut pace = Pace::default();
        let mut queue = Queue::default();
        while !self.stop.load(Ordering::Relaxed) {
            let now = self.clock.now();
            match self.batch(&mut frame, &mut datagrams, &mut queue, &now) {
                Ok(Left::More) => priority.goes_on(now.mono),
                Ok(Left::Nothing) => {
                    priority.rested();
                    pace.rest(now.mono);
                    if let Err(error) = self.tap.wait_readable(500) {
                        return self.gone(&error);
                    }
                }
                Err(error) => return self.gone(&error),
            }
        }
    }

    /// What the device has at the moment, from one snapshot.
    fn batch(&self, frame: &mut [u8], datagrams: &mut Datagrams, queue: &mut Queue, now: &Now) -> io::Result<Left> {
        queue.handle_length(self.uplink.queued(), now.mono);
        let snapshot = self.snapshot.load();
        let usable = snapshot.is_usable(now);
        let mut left = Left::Nothing;
        while let Some((length, offload)) = self.tap.read(frame)? {
            let frame = &mut frame[..length];
            let verdict = if usable {
                fast::outbound(&snapshot, frame, offload, queue.takes_one(now.mono), datagrams)
            } else {
                Verdict::Control
            };
            match verdict {
                Verdict::Forwarded => {}
                Verdict::Control => self.hand_over(frame, offload),
                Verdict::Dropped(reason) => self.drops.count(reason),
            }
            if datagrams.len() >= FLUSH_AT {
                left = Left::More;
                break;
            }
        }
        if !datagrams.is_empty() {
            self.flush(datagrams);
            queue.handle_added(self.uplink.queued());
        }
        Ok(left)
    }

    fn flush(&self, datagrams: &mut Datagrams) {
        datagrams.drain(|run| {
            if let Err(unsent) = self.uplink.send(run) {
                unsent.report(&self.control, &self.drops);
            }
        });
    }

    fn hand_over(&self, frame: &[u8], offload: Offload) {
        if self.control.try_send(Input::Frame { frame: frame.to_vec(), offload }).is_err() {
            self.drops.count("control-queue-full");
        }
    }

    fn gone(&self, error: &io::Error) {
        if !self.stop.load(Ordering::Relaxed) {
            tracing::error!(%error, tap = self.tap.name(), "the TAP device is gone");
            let _ = self.control.try_send(Input::TapGone);
        }
    }
}
