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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::fixture::{TODAY, at};

    fn after(seconds: u64, unix_s: u64) -> Now {
        at(unix_s, Duration::from_secs(seconds))
    }

    #[test]
    fn a_clock_before_what_is_surely_past_judges_nothing() {
        let mut dates = Dates::new(TODAY, after(0, 100));
        assert!(!dates.trusts(after(0, 100)));
        dates.advance(after(60, TODAY + 5));
        assert!(dates.trusts(after(60, TODAY + 5)));
        assert_eq!(dates.judge(after(60, TODAY + 5)), TODAY + 5);
    }

    #[test]
    fn a_clock_set_back_prolongs_nothing() {
        let mut dates = Dates::new(TODAY, after(0, TODAY + 1000));
        dates.advance(after(10, TODAY + 10));
        assert_eq!(dates.judge(after(10, TODAY + 10)), TODAY + 1010);
        dates.advance(after(20, 0));
        assert_eq!(dates.judge(after(20, 0)), TODAY + 1020);
    }

    #[test]
    fn a_leap_forward_counts_when_it_has_stood_for_an_hour() {
        let year = 365 * 86_400;
        let mut dates = Dates::new(TODAY, after(0, TODAY));
        dates.advance(after(10, TODAY + year));
        assert_eq!(dates.judge(after(10, TODAY + year)), TODAY + 10);
        dates.advance(after(3500, TODAY + year));
        assert_eq!(dates.judge(after(3500, TODAY + year)), TODAY + 3500);
        dates.advance(after(3611, TODAY + year));
        assert_eq!(dates.judge(after(3611, TODAY + year)), TODAY + year);
    }

    #[test]
    fn a_leap_that_is_taken_back_was_none() {
        let year = 365 * 86_400;
        let mut dates = Dates::new(TODAY, after(0, TODAY));
        dates.advance(after(10, TODAY + year));
        dates.advance(after(1000, TODAY + 1000));
        dates.advance(after(3700, TODAY + year));
        assert_eq!(dates.judge(after(3700, TODAY + year)), TODAY + 3700);
    }

    #[test]
    fn a_small_step_forward_counts_at_once() {
        let mut dates = Dates::new(TODAY, after(0, TODAY));
        dates.advance(after(10, TODAY + 1800));
        assert_eq!(dates.judge(after(10, TODAY + 1800)), TODAY + 1800);
    }
}
