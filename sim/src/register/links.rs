//! What lies between the machines: delays, losses, copies, cuts in one or both directions.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// How bad the network is.
#[derive(Clone, Debug)]
pub struct Weather {
    /// Chance in a thousand that a message is lost, and that it arrives twice.
    pub loss: u32,
    /// See above.
    pub copies: u32,
    /// The usual delay goes up to this.
    pub delay: Duration,
    /// Chance in a thousand that a message is under way for up to `late`.
    pub strays: u32,
    /// As long as that: longer than a lease.
    pub late: Duration,
}

impl Weather {
    /// A good day.
    pub fn calm() -> Self {
        Self { loss: 0, copies: 0, delay: Duration::from_millis(20), strays: 0, late: Duration::ZERO }
    }
}

/// The network.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) weather: Weather,
    /// Directions in which nothing passes.
    pub(super) cut: BTreeSet<(usize, usize)>,
}

impl Links {
    pub(super) fn new() -> Self {
        Self { weather: Weather::calm(), cut: BTreeSet::new() }
    }

    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut.contains(&(from, to))
    }

    /// After which delays a message arrives: not at all, once or twice.
    pub(super) fn deliveries(&self, from: usize, to: usize, rng: &mut ChaCha8Rng) -> Vec<Duration> {
        let weather = &self.weather;
        if self.is_cut(from, to) || rng.random_range(0..1000) < weather.loss {
            return Vec::new();
        }
        let copies = 1 + usize::from(rng.random_range(0..1000) < weather.copies);
        (0..copies).map(|_| self.delay(rng)).collect()
    }

    /// How long something is under way.
    pub(super) fn delay(&self, rng: &mut ChaCha8Rng) -> Duration {
        let weather = &self.weather;
        let stray = rng.random_range(0..1000) < weather.strays;
        let most = if stray { weather.late } else { weather.delay };
        let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX).max(1000);
        Duration::from_micros(rng.random_range(500..=micros))
    }
}
