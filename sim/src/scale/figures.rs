//! Numbers about numbers.

/// Samples of one quantity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// None yet.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds one.
    pub fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The mean, 0 of nothing.
    #[expect(clippy::cast_precision_loss, reason = "a count of samples")]
    pub fn mean(&self) -> f64 {
        self.0.iter().fold(0.0, |sum, value| sum + value) / self.0.len().max(1) as f64
    }

    /// The value below which a share of the samples lies: one that was measured; 0 of nothing.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
        sorted.get(at).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples_and_nothing_is_zero() {
        let mut samples = Samples::default();
        assert_eq!((samples.mean(), samples.quantile(0.5)), (0.0, 0.0));
        for value in [4.0, 1.0, 2.0] {
            samples.add(value);
        }
        assert_eq!([0.0, 0.5, 1.0].map(|share| samples.quantile(share)), [1.0, 2.0, 4.0]);
        assert!((samples.mean() - 7.0 / 3.0).abs() < 1e-9);
    }
}
