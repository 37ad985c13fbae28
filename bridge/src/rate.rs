//! A limit on how often something is done.

use std::time::{Duration, Instant};

/// Allows a burst, then so many per second: the generic cell rate algorithm (ITU-T I.371).
#[derive(Debug)]
pub(crate) struct Rate {
    interval: Duration,
    tolerance: Duration,
    /// When the next one would come if all kept to the rate.
    expected: Instant,
}

impl Rate {
    pub(crate) fn new(burst: u32, per_second: u32, now: Instant) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { interval, tolerance: interval * burst.saturating_sub(1), expected: now }
    }

    pub(crate) fn take(&mut self, now: Instant) -> bool {
        if self.expected > now + self.tolerance {
            return false;
        }
        self.expected = self.expected.max(now) + self.interval;
        true
    }

    /// When [`Rate::take`] will allow the next one.
    pub(crate) fn next(&self) -> Instant {
        self.expected.checked_sub(self.tolerance).unwrap_or(self.expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::origin;

    #[test]
    fn a_burst_then_the_rate() {
        let start = origin();
        let mut rate = Rate::new(3, 2, start);
        assert_eq!((0..10).filter(|_| rate.take(start)).count(), 3);
        assert_eq!(rate.next(), start + Duration::from_millis(500));
        assert!(!rate.take(rate.next() - Duration::from_millis(1)));
        assert!(rate.take(rate.next()));
        let later = start + Duration::from_secs(60);
        assert_eq!((0..10).filter(|_| rate.take(later)).count(), 3);
    }
}
