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
fn lives_1_to_8() {
    live(1..9);
}

#[test]
fn lives_9_to_16() {
    live(9..17);
}

#[test]
fn lives_17_to_24() {
    live(17..25);
}

#[test]
fn lives_25_to_32() {
    live(25..33);
}

/// A message that could not be delivered over an old connection made the creator forget a peer that was connected anew:
/// whatever the peer asked from then on was not heard.
#[test]
fn life_134_whoever_came_back_is_heard() {
    live(134..135);
}
