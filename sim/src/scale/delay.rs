//! How long a message takes between two nodes: the same for a pair at all times, and different for every pair.

use std::time::Duration;

/// Half of all pairs are nearer than this.
pub const MEDIAN: Duration = Duration::from_millis(50);
/// The spread of the logarithm: one pair in twenty is beyond 115 ms, one below 22 ms.
const SIGMA: f64 = 0.5;

/// One way, between two nodes: log-normal about the median, from a hash of the pair.
pub fn between(seed: u64, a: u32, b: u32) -> Duration {
    let pair = u64::from(a.min(b)) << 32 | u64::from(a.max(b));
    let mut state = mix(seed ^ mix(pair));
    // Twelve uniform numbers, minus six, are near enough to a normal one.
    let normal = (0..12)
        .map(|_| {
            state = mix(state);
            f64::from(u32::try_from(state >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
        })
        .sum::<f64>()
        - 6.0;
    MEDIAN.mul_f64((normal * SIGMA).exp())
}

/// `splitmix64`'s output function over its next state.
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_pairs_are_below_the_median_and_a_pair_has_one_delay() {
        let delays: Vec<Duration> = (1..2001).map(|b| between(7, 0, b)).collect();
        let below = delays.iter().filter(|delay| **delay < MEDIAN).count();
        assert!((900..1100).contains(&below), "{below}");
        let far = delays.iter().filter(|delay| delay.as_millis() > 115).count();
        assert!((60..140).contains(&far), "{far}");
        assert_eq!(between(7, 3, 9), between(7, 9, 3));
        assert_ne!(between(7, 3, 9), between(8, 3, 9));
    }
}
