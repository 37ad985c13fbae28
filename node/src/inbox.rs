//! The places in the control thread's queue, divided among those who fill it.
//!
//! What comes from outside may fill only its [`Share`]: strangers a small one, members half of it, this machine's own programs a
//! quarter. The rest is for the overlay, and for whoever asks. Each share is bounded in bytes, too.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};

use crate::control::Input;

/// What the packet threads count and control reads. Locked only when something is dropped.
#[derive(Default)]
pub(crate) struct Drops {
    counts: Mutex<BTreeMap<&'static str, u64>>,
    strangers: Waiting,
    members: Waiting,
    programs: Waiting,
    pressed: AtomicBool,
}

/// What waits of one share.
#[derive(Default)]
struct Waiting {
    inputs: AtomicUsize,
    bytes: AtomicUsize,
}

impl Drops {
    pub(crate) fn count(&self, reason: &'static str) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
    }

    pub(crate) fn read(&self) -> BTreeMap<&'static str, u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether strangers have sent more than their share since the last call.
    pub(crate) fn take_pressure(&self) -> bool {
        self.pressed.load(Ordering::Relaxed) && self.pressed.swap(false, Ordering::Relaxed)
    }

    fn of(&self, share: Share) -> &Waiting {
        match share {
            Share::Strangers => &self.strangers,
            Share::Members => &self.members,
            Share::Programs => &self.programs,
        }
    }

    /// Inputs and bytes that wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self, share: Share) -> (usize, usize) {
        let waiting = self.of(share);
        (waiting.inputs.load(Ordering::Relaxed), waiting.bytes.load(Ordering::Relaxed))
    }
}

/// Whose part of control's queue an input takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// Handshakes, and indices without a session: anybody can send them.
    Strangers,
    /// What names or comes through a session.
    Members,
    /// What this machine's programs send.
    Programs,
}

impl Share {
    /// How many may wait at once, and how many bytes in them.
    fn limit(self) -> (usize, usize) {
        match self {
            Self::Strangers => (256, 512 << 10),
            Self::Members => (2048, 4 << 20),
            Self::Programs => (1024, 4 << 20),
        }
    }

    fn overflow(self) -> &'static str {
        match self {
            Self::Strangers => "too-many-from-strangers",
            Self::Members => "too-many-from-members",
            Self::Programs => "too-many-from-programs",
        }
    }
}

/// A place in control's queue, given back when control has done with the input.
pub(crate) struct Place {
    drops: Arc<Drops>,
    share: Share,
    bytes: usize,
}

impl Place {
    fn take(drops: &Arc<Drops>, share: Share, bytes: usize) -> Option<Self> {
        let waiting = drops.of(share);
        let inputs = waiting.inputs.fetch_add(1, Ordering::Relaxed);
        let before = waiting.bytes.fetch_add(bytes, Ordering::Relaxed);
        let place = Self { drops: Arc::clone(drops), share, bytes };
        let limit = share.limit();
        if inputs < limit.0 && before + bytes <= limit.1 {
            return Some(place);
        }
        if share == Share::Strangers {
            drops.pressed.store(true, Ordering::Relaxed);
        }
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let waiting = self.drops.of(self.share);
        waiting.inputs.fetch_sub(1, Ordering::Relaxed);
        waiting.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Gives control an input of so many bytes. Copies nothing before there is room for it.
pub(crate) fn hand_over(
    control: &SyncSender<Input>,
    drops: &Arc<Drops>,
    share: Share,
    bytes: usize,
    input: impl FnOnce(Place) -> Input,
) {
    let Some(place) = Place::take(drops, share, bytes) else { return drops.count(share.overflow()) };
    if control.try_send(input(place)).is_err() {
        drops.count("control-queue-full");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_bounded_in_inputs_and_in_bytes() {
        let drops = Arc::new(Drops::default());
        let taken = |bytes: usize| -> Vec<Place> {
            std::iter::from_fn(|| Place::take(&drops, Share::Strangers, bytes)).collect()
        };
        let small = taken(100);
        assert_eq!((small.len(), drops.take_pressure(), drops.take_pressure()), (256, true, false));
        assert!(Place::take(&drops, Share::Members, 100).is_some(), "another share");
        drop(small);
        let large = taken(65_000);
        assert_eq!(large.len(), 8);
        assert_eq!(drops.waiting(Share::Strangers), (8, 8 * 65_000));
        drop(large);
        assert_eq!(drops.waiting(Share::Strangers), (0, 0));
    }
}
