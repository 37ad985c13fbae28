//! Nine machines, five addresses: after everything is mended each address is in use again, by one.

use sim::register::Life;
use sim::register::scarce::scarce;

#[test]
fn every_address_is_in_use_again() {
    for seed in 1..=30 {
        let outcome = scarce(Life { faults: std::time::Duration::from_secs(100), ..Life::new(seed) });
        assert!(outcome.is_ok(), "seed {seed}: {outcome:?}");
    }
}
