//! One line of results, for a program to read: a word, then `key=value` pairs.

use std::fmt;

use super::figures::Samples;

/// A line under construction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line(String);

impl Line {
    /// Begins with what the line is about.
    pub fn new(what: &str) -> Self {
        Self(what.to_owned())
    }

    /// Adds a pair. Neither may contain a space.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.0.push_str(&format!(" {key}={value}"));
        self
    }

    /// Adds a measured number, with three digits after the point.
    #[must_use]
    pub fn number(self, key: &str, value: f64) -> Self {
        self.with(key, format!("{value:.3}"))
    }

    /// Adds a figure about samples, if there are any.
    #[must_use]
    pub fn measured(self, key: &str, samples: &Samples, figure: impl Fn(&Samples) -> f64) -> Self {
        if samples.count() == 0 { self } else { self.number(key, figure(samples)) }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
