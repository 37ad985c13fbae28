//! How much one peer may make us do: so much at once, and so much per second after that.

use std::time::{Duration, Instant};

/// At once: the certificates of two full messages.
const BURST: u32 = 32;
/// One more after this: eight per second.
const EVERY: Duration = Duration::from_millis(125);

/// So much of one peer is worth a check, or an answer.
#[derive(Default)]
pub(crate) struct Bucket {
    /// When it is full again.
    full_at: Option<Instant>,
}

impl Bucket {
    /// Takes one, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + EVERY;
        let has_one = full_at <= now + EVERY * BURST;
        if has_one {
            self.full_at = Some(full_at);
        }
        has_one
    }
}
