//! Nine machines, five addresses: after everything is mended each address is in use again, by one.

use dht::Rules;
use sim::register::Life;
use sim::register::scarce::scarce;

fn life(seed: u64) -> Life {
    Life { faults: std::time::Duration::from_secs(100), ..Life::new(seed) }
}

#[test]
fn every_address_is_in_use_again() {
    for seed in 1..=30 {
        let outcome = scarce(life(seed));
        assert!(outcome.is_ok(), "seed {seed}: {outcome:?}");
    }
}

#[test]
fn a_machine_that_keeps_what_it_does_not_use_is_noticed() {
    let rules = Rules { one_kept_address: false, ..Rules::ALL };
    let noticed = |seed| {
        let outcome = scarce(Life { rules, ..life(seed) });
        outcome.is_err_and(|failure| failure.what.contains("has two addresses"))
    };
    assert!((1..=30).any(noticed));
}
