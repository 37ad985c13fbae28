//! When to let packets gather for a moment.
//!
//! A thread that is woken for every single small packet spends its time on being woken. Network cards wait a few microseconds
//! before they interrupt when packets come fast; so do the packet threads. Who sends seldom never waits.

use std::time::{Duration, Instant};

/// How long packets gather.
const GATHER: Duration = Duration::from_micros(50);
/// Over so long a time it is counted how often the thread was woken.
const WINDOW: Duration = Duration::from_millis(1);
/// Woken so often in that time, it lets packets gather.
const MANY: u32 = 10;

/// How often a thread has run out of packets of late.
#[derive(Default)]
pub(crate) struct Pace {
    window: Option<Instant>,
    rests: u32,
    /// In the window before.
    before: u32,
}

impl Pace {
    /// All packets are gone at this time. Lets others gather where they come fast.
    #[expect(clippy::disallowed_methods, reason = "there is no event to wait for: the first packet is not enough")]
    pub(crate) fn rest(&mut self, now: Instant) {
        if let Some(moment) = self.rested(now) {
            std::thread::sleep(moment);
        }
    }

    fn rested(&mut self, now: Instant) -> Option<Duration> {
        match self.window.map(|start| now.saturating_duration_since(start)) {
            Some(age) if age < WINDOW => self.rests += 1,
            Some(age) if age < 2 * WINDOW => (self.window, self.before, self.rests) = (Some(now), self.rests, 1),
            Some(_) | None => (self.window, self.before, self.rests) = (Some(now), 0, 1),
        }
        (self.before >= MANY).then_some(GATHER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many rests, that far apart, were followed by a wait.
    fn waits(rests: u32, every: Duration) -> usize {
        #[expect(clippy::disallowed_methods, reason = "an origin; what it is does not matter")]
        let start = Instant::now();
        let mut pace = Pace::default();
        (0..rests).filter(|n| pace.rested(start + every * *n).is_some()).count()
    }

    #[test]
    fn only_who_sends_fast_waits() {
        assert_eq!(waits(1000, Duration::from_millis(10)), 0);
        assert_eq!(waits(1000, Duration::from_micros(200)), 0);
        assert!(waits(1000, Duration::from_micros(20)) > 900);
    }

    #[test]
    fn after_a_pause_nobody_waits() {
        #[expect(clippy::disallowed_methods, reason = "an origin; what it is does not matter")]
        let start = Instant::now();
        let mut pace = Pace::default();
        for n in 0..1000 {
            pace.rested(start + Duration::from_micros(10) * n);
        }
        assert_eq!(pace.rested(start + Duration::from_millis(13)), None);
    }
}
