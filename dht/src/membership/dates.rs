//! What a wall clock may decide: the expiry of memberships, and never in a hurry.
//!
//! A clock that reads less than a time surely past is wrong, and nothing is judged by it: a board that starts in 1970
//! joins like any other. A clock set back does not prolong anything within one run, and one that leaps forward counts
//! only after it has stood for an hour, so that one bad time server does not cut everybody off.

use std::time::{Duration, Instant};

use crate::clock::Now;

/// A leap forward beyond this waits.
const LEAP: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(crate) struct Dates {
    floor: u64,
    anchor: (Instant, u64),
    leapt_at: Option<Instant>,
}

impl Dates {
    pub(crate) fn new(floor: u64, now: Now) -> Self {
        Self { floor, anchor: (now.mono, now.unix_s), leapt_at: None }
    }

    /// A signed date from the authority: surely past.
    pub(crate) fn raise_floor(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
    }

    /// Whether dates can be judged at all.
    pub(crate) fn trusts(&self, now: Now) -> bool {
        now.unix_s >= self.floor && self.anchor.1 >= self.floor
    }

    /// Follows the wall clock: at once where it goes on as before, after an hour where it leapt ahead, never back.
    pub(crate) fn advance(&mut self, now: Now) {
        if self.anchor.1 < self.floor {
            // The first reading that can be right at all.
            self.anchor = (now.mono, now.unix_s);
            return;
        }
        let expected = self.expected(now);
        if now.unix_s <= expected.saturating_add(LEAP.as_secs()) {
            self.leapt_at = None;
            self.anchor = (now.mono, expected.max(now.unix_s));
            return;
        }
        let since = *self.leapt_at.get_or_insert(now.mono);
        if now.mono.saturating_duration_since(since) >= LEAP {
            self.leapt_at = None;
            self.anchor = (now.mono, now.unix_s);
        }
    }

    /// The date to judge by.
    pub(crate) fn judge(&self, now: Now) -> u64 {
        self.expected(now)
    }

    fn expected(&self, now: Now) -> u64 {
        self.anchor.1.saturating_add(now.mono.saturating_duration_since(self.anchor.0).as_secs())
    }
}
