//! Lives of registers by seed: faults of every kind, and no address ever has two owners.

use sim::register::lives::{Batch, Totals, run_all};
use sim::register::{Life, mutants};

const FAULTS: [&str; 11] = [
    "crash",
    "reboot",
    "leave",
    "pause",
    "suspend",
    "disk lost",
    "partition",
    "one way",
    "partial",
    "weather",
    "view proposed",
];

fn lives(seeds: std::ops::Range<u64>) -> Totals {
    let totals = run_all(&Batch { seeds, first_failure: false, life: Life::new(0) }, |_, _| {});
    assert!(totals.failed.is_empty(), "{}", totals.failures(""));
    totals
}

/// The test command lives two thousand more, optimised.
#[test]
fn no_two_owners_in_two_hundred_lives() {
    let totals = lives(1..201);
    // What is tried must not fade away unseen.
    let counts = &totals.counts;
    assert!(counts.grants > 2000 && counts.renewals > 7000 && counts.reads > 1500, "{totals}");
    assert!(totals.views > 200, "{totals}");
    let struck = |name| totals.faults.get(name).copied().unwrap_or(0);
    for name in FAULTS {
        assert!(struck(name) > 30, "{name}: {totals}");
    }
}

/// Seeds that failed once, each for a reason of its own.
#[test]
fn seeds_that_failed_once() {
    // A ballot that was promised for one register was used for another (a round's next number was taken twice): an owner
    // was granted what another had been granted before. Without that mending this seed fails.
    lives(65..66);
    // A claim that nobody was told of was taken for as young as its first reader, and its end for a fault of the register's.
    lives(5020..5021);
}

/// One life is the same whenever it is lived.
#[test]
fn a_seed_is_lived_again_as_it_was() {
    let live = || format!("{:?}", sim::register::run(Life::new(5)).0.counts);
    assert_eq!(live(), live());
}

/// Lives of the protocol without something, up to the first that notices.
fn noticed(name: &str, seeds: u64) {
    let mut life = Life::new(0);
    (mutants::find(name).expect("a mutant").take)(&mut life);
    let totals = run_all(&Batch { seeds: 1..1 + seeds, first_failure: true, life }, |_, _| {});
    assert!(!totals.failed.is_empty(), "{seeds} lives without {name}, and none noticed");
}

#[test]
fn lives_notice_that_nothing_is_wedged() {
    noticed("wedge", 100);
}

#[test]
fn lives_notice_that_nothing_is_transferred() {
    noticed("transfer", 100);
}

/// Neither: roughly "a majority of whoever is a replica now, and the first write wins".
#[test]
fn lives_notice_that_the_first_write_wins() {
    noticed("first-write-wins", 100);
}

#[test]
fn lives_notice_a_replica_that_restarts_empty() {
    noticed("empty-restart", 100);
}
