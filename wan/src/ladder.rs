//! Nine lines, from a good one down to one that hardly deserves the name: those that iroh's network tests step down.

use std::time::Duration;

use crate::link::{Line, Loss};

/// A rung: its name, kbit/s, milliseconds there and back, and what each direction loses, in tenths of a per cent.
const RUNGS: [(&str, u64, u64, u32); 9] = [
    ("good wifi", 100_000, 16, 1),
    ("congested wifi", 25_000, 40, 10),
    ("satellite", 25_000, 600, 15),
    ("weak 4G", 8_000, 90, 20),
    ("slow 3G", 3_000, 200, 30),
    ("congested cellular", 1_500, 300, 50),
    ("very bad", 800, 450, 80),
    ("barely usable", 500, 450, 120),
    ("absurd", 256, 800, 250),
];
/// Datagrams that are lost in a row, in the mean.
const BURST: u32 = 6;

/// The lines, one direction of each, the best first. The delay is half of what the rung has there and back, with jitter of a tenth.
pub fn ladder() -> [(&'static str, Line); 9] {
    RUNGS.map(|(name, kbits, millis, loss)| {
        let delay = Duration::from_micros(millis * 500);
        let loss = Loss::bursts(loss * 1000, BURST);
        (name, Line { delay, jitter: delay / 10, loss, rate: Some(kbits * 1000), queue: 64 * 1024, ..Line::GOOD })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rung_is_narrower_than_the_one_before_and_loses_more() {
        let all = ladder();
        for (one, next) in all.iter().zip(&all[1..]) {
            assert!(one.1.rate >= next.1.rate, "{}", next.0);
            assert!(one.1.loss.worsens < next.1.loss.worsens, "{}", next.0);
        }
    }
}
