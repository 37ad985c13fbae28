//! Lives of registers by seed: faults of every kind, and no address ever has two owners.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use dht::Rules;
use sim::register::nemesis::Store;
use sim::register::{Life, run, schedules};

/// Runs these seeds on all cores. Says which failed, and how to run them again.
fn lives(seeds: impl Iterator<Item = u64>, setup: impl Fn(u64) -> Life + Sync) -> Vec<String> {
    let seeds: Vec<u64> = seeds.collect();
    let next = AtomicU64::new(0);
    let failed = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap()) {
                    let (_, result) = run(setup(*seed));
                    if let Err(failure) = result {
                        let again = format!("cargo run --release -p sim --bin registers -- --seed {seed} --trace");
                        failed.lock().unwrap().push(format!("seed {seed}: {failure}\n  again: {again}"));
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap()
}

#[test]
fn no_two_owners_in_thousands_of_lives() {
    let failed = lives(1..=1200, Life::new);
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Seeds that failed once, each for a reason of its own.
#[test]
fn seeds_that_failed_once() {
    // 8: a ballot that was promised for one register was used for another (a round's next number was taken twice).
    let failed = lives([8].into_iter(), Life::new);
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn schedule(seeds: u64, play: impl Fn(u64, Rules) -> Result<u64, sim::register::Failure>, rules: Rules) -> u64 {
    (1..=seeds).filter(|seed| play(*seed, rules).is_err()).count().try_into().unwrap()
}

#[test]
fn contention_at_the_expiry_instant() {
    assert_eq!(schedule(3, schedules::contention_at_the_expiry_instant, Rules::ALL), 0);
}

#[test]
fn without_the_guard_two_own_at_the_expiry_instant() {
    let rules = Rules { guarded: false, ..Rules::ALL };
    assert!(schedule(3, schedules::contention_at_the_expiry_instant, rules) > 0);
}

#[test]
fn an_owner_that_counts_from_the_answer_overlaps_with_the_next() {
    let rules = Rules { count_from_send: false, guarded: false, ..Rules::ALL };
    assert!(schedule(3, schedules::contention_at_the_expiry_instant, rules) > 0);
}

#[test]
fn crashes_between_accept_and_decide() {
    assert_eq!(schedule(6, schedules::crashes_between_accept_and_decide, Rules::ALL), 0);
}

#[test]
fn a_replica_that_lost_its_disk_comes_back_as_another() {
    let play = |seed, rules| schedules::a_lost_disk_under_a_lease(seed, Store::New, rules);
    assert_eq!(schedule(6, play, Rules::ALL), 0);
}

/// An empty disk under the old name: a replica that has forgotten what it promised.
#[test]
fn a_replica_that_forgets_gives_a_lease_twice() {
    let play = |seed, rules| schedules::a_lost_disk_under_a_lease(seed, Store::Same, rules);
    assert!(schedule(6, play, Rules::ALL) > 0);
}

fn noticed(seeds: u64, off: impl Fn(&mut Rules)) -> bool {
    let mut rules = Rules::ALL;
    off(&mut rules);
    (1..=seeds).any(|seed| run(Life { rules, ..Life::new(seed) }).1.is_err())
}

#[test]
fn no_wedge_is_noticed() {
    assert!(noticed(60, |rules| rules.wedge = false));
}

#[test]
fn no_transfer_is_noticed() {
    assert!(noticed(60, |rules| rules.transfer = false));
}

/// Neither: roughly "a majority of whoever is a replica now, and the first write wins".
#[test]
fn first_write_wins_is_noticed() {
    assert!(noticed(60, |rules| (rules.wedge, rules.transfer) = (false, false)));
}
