//! Leases that go over to another owner while they run: by a handover, and to a deputy.

use super::check::Fault;
use super::scenario::{By, SHARED, Scenario, claim, hand_over, release, renew};
use super::witness::Witness;

/// Each with the mutants that it must find.
pub(super) fn rights() -> Vec<Scenario> {
    [handovers(), deputies(), deputies_of_three()].concat()
}

/// A hands its lease over, and thinks better of it.
fn handovers() -> Vec<Scenario> {
    let taken = claim(9).of(SHARED).by(By::Handed(1));
    let one = Scenario {
        scripts: [vec![claim(9).of(SHARED), hand_over(), claim(9).of(SHARED)], vec![taken]],
        rounds: 4,
        must: vec![Witness::Granted, Witness::HandedOver, Witness::Refused],
        ..Scenario::new("handover, n=1", 0b1)
    };
    let three = Scenario {
        held: 0b011,
        must: vec![Witness::Granted, Witness::HandedOver],
        ..Scenario { name: "handover, n=3", first: 0b111, ..one.clone() }
    };
    let given_back = Scenario {
        scripts: [vec![claim(9).of(SHARED), hand_over(), claim(9).of(SHARED)], vec![taken, release().of(SHARED)]],
        held: 0b1,
        must: vec![Witness::Granted, Witness::HandedOver, Witness::Released],
        ..Scenario { name: "handover, and given back, n=1", ..one.clone() }
    };
    let moving = Scenario {
        held: 0b1,
        next: vec![vec![0b10]],
        proposals: 1,
        must: vec![Witness::HandedOver, Witness::GrantedInSecond],
        ..Scenario { name: "handover and {0} -> {1}", ..one.clone() }
    };
    let stale = one.mutant("an old handover counts", Fault::TwoOwners, |s| s.rules.handover_compared = false);
    vec![one, stale, three, given_back, moving]
}

/// A is cut off with its lease; B, its deputy, takes it over, and then wants the address for somebody else.
fn deputies() -> Vec<Scenario> {
    let taken = claim(1).of(SHARED).by(By::Deputy(0)).with_deputy();
    let one = Scenario {
        scripts: [vec![claim(2).of(SHARED).with_deputy()], vec![taken, release().of(SHARED), claim(1)]],
        held: 0b1,
        rounds: 4,
        time: 3,
        max_lease: 2,
        shares: true,
        must: vec![Witness::Granted, Witness::TakenOver, Witness::Kept, Witness::Takeover],
        ..Scenario::new("deputy, n=1", 0b1)
    };
    // What it took for a shorter time than the other may use it is not free when that has passed.
    let shorter = Scenario {
        scripts: [vec![claim(2).of(SHARED).with_deputy()], vec![taken, claim(1)]],
        must: vec![Witness::Granted, Witness::TakenOver],
        ..Scenario { name: "deputy for a shorter time, n=1", ..one.clone() }
    };
    let renewed = Scenario {
        scripts: [
            vec![claim(2).of(SHARED).with_deputy(), renew(2).of(SHARED).with_deputy()],
            vec![taken, renew(1).of(SHARED), release().of(SHARED), claim(1)],
        ],
        rounds: 5,
        time: 1,
        must: vec![Witness::Granted, Witness::TakenOver, Witness::Kept, Witness::Refused],
        ..Scenario { name: "deputy, and both renew, n=1", ..one.clone() }
    };
    let back = Scenario {
        scripts: [
            vec![claim(2).of(SHARED).with_deputy(), claim(1).of(SHARED).by(By::Deputy(0)), release().of(SHARED)],
            vec![taken, claim(1)],
        ],
        rounds: 5,
        time: 0,
        must: vec![Witness::Granted, Witness::TakenOver, Witness::Kept],
        ..Scenario { name: "deputies of each other, n=1", ..one.clone() }
    };
    let freed = one.mutant("what a deputy gives back is free", Fault::TwoOwners, |s| s.rules.shadow_kept = false);
    let early = shorter.mutant("a deputy's time is all that counts", Fault::TwoOwners, |s| s.rules.shadow_kept = false);
    let blind = renewed.mutant("a deputy takes what it has not seen", Fault::TakenUnseen, |s| {
        s.rules.deputy_names_lease = false;
    });
    vec![one, freed, shorter, early, renewed, blind, back]
}

/// The same with three replicas, and with a change of views.
fn deputies_of_three() -> Vec<Scenario> {
    let taken = claim(1).of(SHARED).by(By::Deputy(0)).with_deputy();
    let three = Scenario {
        held: 0b011,
        scripts: [vec![claim(2).of(SHARED).with_deputy()], vec![taken, release().of(SHARED), claim(1)]],
        rounds: 4,
        max_lease: 2,
        shares: true,
        must: vec![Witness::TakenOver, Witness::Kept],
        ..Scenario::new("deputy, n=3", 0b111)
    };
    let moving = Scenario {
        scripts: [vec![claim(2).of(SHARED).with_deputy()], vec![taken, release().of(SHARED), claim(1)]],
        held: 0b1,
        time: 1,
        next: vec![vec![0b10]],
        proposals: 1,
        must: vec![Witness::TakenOver, Witness::Kept, Witness::GrantedInSecond],
        ..Scenario { name: "deputy and {0} -> {1}", first: 0b1, ..three.clone() }
    };
    vec![three, moving]
}
