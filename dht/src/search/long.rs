//! Systems that are too big for every day.

use crate::env::Rules;

use super::scenario::{By, SHARED, Scenario, Step, claim, claim_both, hand_over, release, renew, restart};
use super::witness::Witness;

/// All of them.
pub(super) fn long() -> Vec<Scenario> {
    [registers(), changes(), more_changes(), disks(), rights()].concat()
}

/// Leases that go over to another owner while they run.
fn rights() -> Vec<Scenario> {
    let taken = claim(1).of(SHARED).by(By::Deputy(0)).with_deputy();
    let three = Scenario {
        held: 0b011,
        scripts: [vec![claim(2).of(SHARED).with_deputy()], vec![taken, release().of(SHARED), claim(1)]],
        rounds: 4,
        time: 1,
        max_lease: 2,
        shares: true,
        must: vec![Witness::TakenOver, Witness::Kept],
        ..Scenario::new("deputy with time, n=3", 0b111)
    };
    let moving = Scenario {
        next: vec![vec![0b1110]],
        proposals: 1,
        must: vec![Witness::TakenOver, Witness::SecondView],
        ..Scenario { name: "deputy and {0,1,2} -> {1,2,3}", ..three.clone() }
    };
    let handed = Scenario {
        held: 0b011,
        scripts: [
            vec![claim(9).of(SHARED), hand_over(), claim(9).of(SHARED)],
            vec![claim(9).of(SHARED).by(By::Handed(1))],
        ],
        rounds: 4,
        next: vec![vec![0b1110]],
        proposals: 1,
        must: vec![Witness::HandedOver, Witness::GrantedInSecond],
        ..Scenario::new("handover and {0,1,2} -> {1,2,3}", 0b111)
    };
    vec![three, moving, handed]
}

/// Two owners that want the same.
fn two() -> [Vec<Step>; 2] {
    [vec![claim(9)], vec![claim(9)]]
}

fn drops(scenario: Scenario) -> Scenario {
    Scenario { retires: true, ..scenario }
}

/// What races with a view change.
fn change() -> Scenario {
    Scenario {
        scripts: two(),
        rounds: 3,
        proposals: 1,
        next: vec![vec![0b1110]],
        must: vec![Witness::SecondView, Witness::GrantedInSecond],
        ..Scenario::new("claims racing with a change, three rounds", 0b0111)
    }
}

/// One view.
fn registers() -> Vec<Scenario> {
    let three = Scenario { scripts: two(), rounds: 3, ..Scenario::new("three rounds, n=5", 0b11111) };
    let late = Scenario { scripts: two(), rounds: 3, late: true, ..Scenario::new("ballots in any order, n=3", 0b111) };
    let fast = Scenario {
        rules: Rules::ALL,
        held: 0b011,
        scripts: [vec![claim(9), renew(9), release()], vec![claim(9)]],
        rounds: 5,
        must: vec![Witness::Granted, Witness::Fast],
        ..Scenario::new("fast path, renewal and release, n=3", 0b111)
    };
    let timed = Scenario {
        scripts: [vec![claim(1), renew(1)], vec![claim(1)]],
        time: 3,
        reboots: 1,
        must: vec![Witness::Granted, Witness::Takeover],
        ..Scenario::new("renewal against takeover with reboots, n=3", 0b111)
    };
    let batch = Scenario {
        scripts: [vec![claim_both(9)], vec![claim_both(9)]],
        rounds: 3,
        must: vec![Witness::Granted, Witness::PartlyNacked],
        ..Scenario::new("two batches of two addresses, n=3", 0b111)
    };
    vec![three, late, fast, timed, batch]
}

/// One change.
fn changes() -> Vec<Scenario> {
    let fast_change = Scenario {
        rules: Rules::ALL,
        scripts: [vec![claim(9), renew(9)], vec![claim(9)]],
        ..Scenario { name: "fast path racing with a change", ..change() }
    };
    let settling = Scenario { settles: true, ..Scenario { name: "settling and a change", ..change() } };
    let reading = Scenario {
        held: 0b0011,
        scripts: [vec![claim(9), release(), claim(9)], vec![claim(9)]],
        rounds: 4,
        ..Scenario { name: "release, claims and a change", ..drops(change()) }
    };
    let rivals = Scenario {
        proposals: 2,
        rounds: 2,
        next: vec![vec![0b1011, 0b1110]],
        ..Scenario { name: "claims and rival proposals", ..drops(change()) }
    };
    vec![change(), fast_change, settling, reading, rivals]
}

/// Growth, several changes, and leases that run out in them.
fn more_changes() -> Vec<Scenario> {
    let growing = Scenario {
        first: 0b00111,
        next: vec![vec![0b11111]],
        rounds: 2,
        ..Scenario { name: "claims racing with 3 to 5", ..drops(change()) }
    };
    let twice = Scenario {
        first: 0b0001,
        rounds: 2,
        proposals: 2,
        next: vec![vec![0b0111], vec![0b1110]],
        must: vec![Witness::ThirdView, Witness::GrantedInThird, Witness::CopiedFromWedged],
        ..Scenario { name: "claims racing with 1 to 3 to other 3", ..drops(change()) }
    };
    let timed_change = Scenario {
        scripts: [vec![claim(1)], vec![claim(1)]],
        time: 3,
        rounds: 2,
        must: vec![Witness::SecondView, Witness::Takeover],
        ..Scenario { name: "leases that run out across a change", ..change() }
    };
    let copied = Scenario {
        first: 0b0001,
        rounds: 2,
        proposals: 2,
        copied: Some(2),
        next: vec![vec![0b0111], vec![0b0100]],
        must: vec![Witness::ThirdView, Witness::GrantedInThird],
        ..Scenario { name: "a copy under way, two claims", ..change() }
    };
    vec![growing, twice, timed_change, copied]
}

/// Crashes, and stores that are set back.
fn disks() -> Vec<Scenario> {
    let crashing = Scenario {
        crashes: 1,
        rounds: 2,
        must: vec![Witness::SecondView, Witness::ReplicaCrashed],
        ..Scenario { name: "crashes in {0,1,2} to {1,2,3}", ..drops(change()) }
    };
    let shrinking = Scenario {
        crashes: 1,
        rounds: 2,
        first: 0b111,
        next: vec![vec![0b001]],
        ..Scenario { name: "crashes in 3 to 1", ..drops(change()) }
    };
    let timed_crash = Scenario {
        scripts: [vec![claim(1), restart(), claim(1)], vec![claim(1)]],
        time: 3,
        crashes: 1,
        must: vec![Witness::Takeover, Witness::ReplicaCrashed],
        ..Scenario::new("crashes and leases that run out, n=1", 0b1)
    };
    let restored = Scenario {
        scripts: two(),
        rounds: 3,
        setback: Some(2),
        ..Scenario::new("a store is set back, three rounds", 0b111)
    };
    vec![crashing, shrinking, timed_crash, restored]
}
