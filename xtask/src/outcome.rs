//! How many tests passed and failed.

use std::fmt;

/// A sum over test runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
}

impl Outcome {
    /// Reads a line of the test harness; any other line counts nothing.
    pub(crate) fn of_line(line: &str) -> Self {
        let Some(numbers) = line.trim_start().strip_prefix("test result: ") else { return Self::default() };
        let number = |unit: &str| {
            let parts = numbers.split([';', '.']).map(str::trim);
            parts.filter_map(|part| part.strip_suffix(unit)?.trim().parse().ok()).next().unwrap_or(0)
        };
        Self { passed: number("passed"), failed: number("failed"), ignored: number("ignored") }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harness_lines_are_counted_and_others_are_not() {
        let good = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.05s";
        assert_eq!(Outcome::of_line(good), Outcome { passed: 12, failed: 0, ignored: 1 });
        let bad = "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 50.04s";
        assert_eq!(Outcome::of_line(bad), Outcome { passed: 3, failed: 2, ignored: 0 });
        for other in ["", "test a ... ok", "12 passed, 3 failed", "running 4 tests"] {
            assert_eq!(Outcome::of_line(other), Outcome::default(), "{other}");
        }
    }
}
