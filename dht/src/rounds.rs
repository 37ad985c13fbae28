//! The round counter of a replica: one for everything it proposes, and never the same number twice.

use crate::env::{Env, Outbox};
use crate::namespace::{Image, LoadError};

/// Rounds are reserved on disk in blocks, before one of them is used.
const BLOCK: u64 = 1000;
/// A peer that names a round further ahead than this lies: at a thousand rounds a second that is decades.
const MOST_AHEAD: u64 = 1 << 40;

const ROUND: &[u8] = b"round";

/// The next round, and up to where they are reserved.
#[derive(Debug)]
pub(crate) struct Rounds {
    next: u64,
    reserved: u64,
}

impl Rounds {
    /// Begins above every round that was reserved before, and above all that registers here have seen.
    pub(crate) fn load(image: &Image, highest_seen: u64, on_disk: bool) -> Result<Self, LoadError> {
        let reserved = image.get(ROUND).map(|bytes| <[u8; 8]>::try_from(bytes.as_slice())).transpose();
        let reserved = reserved.map_err(|_| LoadError::Damaged("round counter"))?.map_or(0, u64::from_be_bytes);
        let first = if on_disk { reserved.max(highest_seen) } else { 0 };
        Ok(Self { next: first + 1, reserved: first })
    }

    /// A round that was never used before, in this process or another, and exceeds every one seen.
    pub(crate) fn take(&mut self, env: &Env<'_>, out: &mut Outbox) -> u64 {
        let round = self.next;
        self.next += 1;
        if round > self.reserved {
            self.reserved = round.saturating_add(BLOCK);
            if env.rules.rounds_on_disk {
                out.persist(ROUND.to_vec(), Some(self.reserved.to_be_bytes().to_vec()));
            }
        }
        round
    }

    /// The highest that was seen or used.
    pub(crate) fn highest(&self) -> u64 {
        self.next - 1
    }

    /// Somebody promised this round to another: the next one is above it.
    pub(crate) fn saw(&mut self, round: u64) {
        if round < self.next.saturating_add(MOST_AHEAD) {
            self.next = self.next.max(round.saturating_add(1));
        }
    }
}
