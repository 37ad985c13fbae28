//! Random lives. A seed that failed once is a test of its own below; find more with `cargo run -p sim -- --seeds 1000`.

use sim::{Trace, scenario};

fn live(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let (_, result) = scenario::run(seed, Trace::Off);
        if let Err(failure) = result {
            panic!("{failure}\n  again: cargo run -p sim -- --seed {seed} --trace");
        }
    }
}

#[test]
fn lives_1_to_15() {
    live(1..16);
}

#[test]
fn lives_16_to_30() {
    live(16..31);
}

#[test]
fn lives_31_to_45() {
    live(31..46);
}

#[test]
fn lives_46_to_60() {
    live(46..61);
}
