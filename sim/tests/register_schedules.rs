//! Directed schedules of registers: with all rules nothing happens, and without the rule that each is about it shows.

use dht::Rules;
use sim::register::nemesis::Store;
use sim::register::{Failure, schedules};

type Play = fn(u64, Rules) -> Result<u64, Failure>;

fn is_fine(play: Play) {
    for seed in 1..=6 {
        let outcome = play(seed, Rules::ALL);
        assert!(outcome.as_ref().is_ok_and(|turns| *turns > 0), "seed {seed}: {outcome:?}");
    }
}

fn is_noticed(play: Play, rules: Rules) {
    assert!((1..=6).any(|seed| play(seed, rules).is_err()));
}

#[test]
fn contention_at_the_expiry_instant() {
    is_fine(schedules::contention_at_the_expiry_instant);
}

#[test]
fn without_the_guard_two_own_at_the_expiry_instant() {
    is_noticed(schedules::contention_at_the_expiry_instant, Rules { guarded: false, ..Rules::ALL });
}

#[test]
fn an_answer_that_takes_its_time() {
    is_fine(schedules::an_answer_that_takes_its_time);
}

#[test]
fn an_owner_that_counts_from_the_answer_overlaps_with_the_next() {
    is_noticed(schedules::an_answer_that_takes_its_time, Rules { count_from_send: false, ..Rules::ALL });
}

#[test]
fn a_release_that_comes_after_the_next_claim() {
    is_fine(schedules::a_release_that_comes_after_the_next_claim);
}

#[test]
fn an_old_release_ends_a_new_lease_where_numbers_are_not_compared() {
    is_noticed(schedules::a_release_that_comes_after_the_next_claim, Rules { op_seq_compared: false, ..Rules::ALL });
}

#[test]
fn crashes_between_accept_and_decide() {
    is_fine(schedules::crashes_between_accept_and_decide);
}

#[test]
fn a_proposer_that_dies_before_it_tells() {
    is_fine(schedules::a_proposer_that_dies_before_it_tells);
}

#[test]
fn a_grant_under_way_survives_nowhere_where_nothing_is_wedged() {
    is_noticed(schedules::a_proposer_that_dies_before_it_tells, Rules { wedge: false, ..Rules::ALL });
}

#[test]
fn a_replica_that_lost_its_disk_comes_back_as_another() {
    is_fine(|seed, rules| schedules::a_lost_disk_under_a_lease(seed, Store::New, rules));
}

/// An empty disk under the old name: a replica that has forgotten what it promised. Whoever saw its votes tells it.
#[test]
fn a_replica_that_forgets_is_told() {
    is_fine(|seed, rules| schedules::a_lost_disk_under_a_lease(seed, Store::Same, rules));
}

#[test]
fn a_replica_that_forgets_and_asks_nobody_gives_a_lease_twice() {
    let forgets = |seed, rules| schedules::a_lost_disk_under_a_lease(seed, Store::Same, rules);
    is_noticed(forgets, Rules { fresh_store_asks: false, ..Rules::ALL });
}

#[test]
fn a_store_that_was_set_back() {
    is_fine(schedules::a_store_that_was_set_back);
}

#[test]
fn a_store_that_was_set_back_and_asks_nobody_gives_a_lease_twice() {
    is_noticed(schedules::a_store_that_was_set_back, Rules { restored_asks_first: false, ..Rules::ALL });
}
