//! One seed, one history.

use sim::{Trace, scenario};

#[test]
fn a_seed_lived_twice_is_the_same_life() {
    for seed in [1, 2, 3] {
        let (_, first) = scenario::run(seed, Trace::Off);
        let (_, second) = scenario::run(seed, Trace::On);
        assert_eq!(first, second);
    }
}

#[test]
fn two_seeds_are_two_lives() {
    let hash = |seed| scenario::run(seed, Trace::Off).1.unwrap().hash;
    assert_ne!(hash(4), hash(5));
}
