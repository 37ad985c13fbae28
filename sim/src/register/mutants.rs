//! The protocol with one thing missing: whether all of this would notice.

use dht::Rules;

use super::life::Life;

/// What is missing.
#[derive(Clone, Copy)]
pub struct Mutant {
    /// As the command line has it.
    pub name: &'static str,
    /// Takes it away.
    pub take: fn(&mut Life),
}

macro_rules! without {
    ($($rule:ident),* $(,)?) => {
        &[$(Mutant { name: stringify!($rule), take: |life| life.rules.$rule = false }),*]
    };
}

/// Each rule that a life can miss, by itself.
pub const RULES: &[Mutant] = without![
    wedge,
    transfer,
    guarded,
    count_from_send,
    op_seq_compared,
    op_seq_on_disk,
    nonce,
    longest_duration,
    granted_duration,
    rounds_on_disk,
    one_value_per_ballot,
    promise_serves_once,
    newest_only,
    boot_compared,
    checked_at_use,
    client_compared,
    promises_kept,
    active_reads,
    snapshot_after_wedge,
    transferring_has_no_vote,
    repropose_runs_phase_1,
    copy_from_active,
    fast_path_never_refuses,
    refusals_write_nothing,
    release_given_up,
    one_kept_address,
    elapsed_saved,
    restored_asks_first,
    fresh_store_asks,
    own_votes_told,
];

/// What is no rule of its own, or takes several.
pub const OTHERS: &[Mutant] = &[
    Mutant { name: "first-write-wins", take: |life| (life.rules.wedge, life.rules.transfer) = (false, false) },
    Mutant { name: "empty-restart", take: |life| life.forgetful = true },
    Mutant {
        name: "empty-restart-unasked",
        take: |life| (life.forgetful, life.rules.restored_asks_first) = (true, false),
    },
    Mutant { name: "numbers-in-memory", take: |life| no_numbers(&mut life.rules) },
    Mutant { name: "two-values", take: |life| two_values(&mut life.rules) },
];

/// Rules that cover for each other: a retry is known neither by its nonce nor by a number on disk.
fn no_numbers(rules: &mut Rules) {
    (rules.nonce, rules.op_seq_on_disk) = (false, false);
}

/// … and a ballot is used again, for another value.
fn two_values(rules: &mut Rules) {
    (rules.rounds_on_disk, rules.one_value_per_ballot) = (false, false);
}

/// The mutant of this name.
pub fn find(name: &str) -> Option<&'static Mutant> {
    RULES.iter().chain(OTHERS).find(|mutant| mutant.name == name)
}
