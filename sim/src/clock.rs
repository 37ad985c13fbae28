//! One machine's clocks: how what it reads follows from true time.
//!
//! The kernel of the machine steers `CLOCK_MONOTONIC` away from its crystal, and suspension stops all but
//! `CLOCK_BOOTTIME`. The lease clocks are summed up from these readings by [`LeaseClocks`], as in the daemon.

use std::time::{Duration, Instant};

use dht::clock::{BootId, LeaseClocks, MAX_JUMP, Now, Reading};

/// When every simulation begins, seconds since 1970.
pub const EPOCH: u64 = 1_800_000_000;

/// How far a machine's clocks are off, in parts per million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Of the crystal. The protocol promises to bear one per cent.
    pub crystal: i64,
    /// Of the steering by a time daemon; chrony goes up to 83,333.
    pub steering: i64,
}

/// The clocks of one machine since its boot.
#[derive(Clone, Debug)]
pub struct MachineClock {
    origin: Instant,
    rates: Rates,
    boot: BootId,
    booted: Duration,
    slept: Duration,
    asleep_since: Option<Duration>,
    jumps: u32,
}

impl MachineClock {
    /// A machine that boots at `at`. `origin` is the instant that stands for every boot.
    pub fn new(origin: Instant, rates: Rates, boot: [u8; 16], at: Duration) -> Self {
        Self { origin, rates, boot: BootId(boot), booted: at, slept: Duration::ZERO, asleep_since: None, jumps: 0 }
    }

    /// Boots again.
    pub fn reboot(&mut self, boot: [u8; 16], at: Duration) {
        *self = Self::new(self.origin, self.rates, boot, at);
    }

    /// Suspends the machine.
    pub fn sleep(&mut self, at: Duration) {
        self.asleep_since.get_or_insert(at);
    }

    /// Resumes it.
    pub fn wake(&mut self, at: Duration) {
        if let Some(since) = self.asleep_since.take() {
            let slept = at.saturating_sub(since);
            self.slept += slept;
            self.jumps += u32::from(slept > MAX_JUMP);
        }
    }

    /// Whether it is suspended.
    pub fn is_asleep(&self) -> bool {
        self.asleep_since.is_some()
    }

    /// The kernel's clocks at a moment of true time.
    pub fn reading(&self, at: Duration) -> Reading {
        let slept = self.slept + self.asleep_since.map_or(Duration::ZERO, |since| at.saturating_sub(since));
        let awake = at.saturating_sub(self.booted).saturating_sub(slept);
        let monotonic = scaled(awake, self.rates.crystal + self.rates.steering);
        Reading { boottime: monotonic + slept, monotonic, raw: scaled(awake, self.rates.crystal) }
    }

    /// What a process of this machine is told about time.
    pub fn now(&self, clocks: &mut LeaseClocks, at: Duration) -> Now {
        let reading = self.reading(at);
        let (owner, replica) = clocks.advance(reading);
        let unix_s = EPOCH + at.as_secs();
        Now { mono: self.origin + reading.monotonic, owner, replica, boot: self.boot, unix_s, jumps: self.jumps }
    }

    /// The first moment of true time at which this machine, if it stays awake, reads `instant` or later.
    pub fn true_time(&self, instant: Instant) -> Duration {
        let awake = unscaled(instant.saturating_duration_since(self.origin), self.rates.crystal + self.rates.steering);
        self.booted + self.slept + awake
    }
}

const MILLION: u128 = 1_000_000;

fn factor(ppm: i64) -> u128 {
    u128::try_from(1_000_000 + ppm).unwrap_or(1)
}

fn scaled(time: Duration, ppm: i64) -> Duration {
    nanos(time.as_nanos() * factor(ppm) / MILLION)
}

fn unscaled(time: Duration, ppm: i64) -> Duration {
    nanos((time.as_nanos() * MILLION).div_ceil(factor(ppm)))
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// The one real instant from which all virtual time is counted. Nothing ever waits for it.
#[expect(clippy::disallowed_methods, reason = "instants can be made in no other way")]
pub fn origin() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(crystal: i64, steering: i64) -> MachineClock {
        MachineClock::new(origin(), Rates { crystal, steering }, [1; 16], Duration::from_secs(100))
    }

    #[test]
    fn a_deadline_is_read_at_its_true_time_and_not_before() {
        for (crystal, steering) in [(0, 0), (-9000, 0), (9000, -80_000), (37, 80_000)] {
            let clock = clock(crystal, steering);
            let deadline = clock.origin + Duration::from_nanos(12_345_678_901);
            let at = clock.true_time(deadline);
            let read = |at| clock.origin + clock.reading(at).monotonic;
            assert!(read(at) >= deadline, "{crystal} {steering}");
            assert!(read(at - Duration::from_nanos(3)) < deadline, "{crystal} {steering}");
        }
    }

    #[test]
    fn only_boottime_counts_a_suspension() {
        let mut clock = clock(0, 0);
        clock.sleep(Duration::from_secs(110));
        clock.wake(Duration::from_secs(170));
        let reading = clock.reading(Duration::from_secs(180));
        assert_eq!((reading.boottime.as_secs(), reading.monotonic.as_secs(), reading.raw.as_secs()), (80, 20, 20));
    }
}
