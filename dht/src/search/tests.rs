//! The search itself: what it packs it reads back, and what differs only in names falls together.

use super::pack::{Packer, hash};
use super::run::{first, search};
use super::scenario::{Scenario, claim};
use super::step::Next;
use super::witness::Witness;
use super::world::World;

fn scenario() -> Scenario {
    Scenario {
        scripts: [vec![claim(9)], vec![claim(9)]],
        proposals: 1,
        crashes: 1,
        setback: Some(2),
        next: vec![vec![0b1110]],
        ..Scenario::new("packed", 0b0111)
    }
}

/// Some thousand states, one after the other.
fn walk(mut each: impl FnMut(&World, &mut super::state::State)) {
    let world = World::new(&scenario());
    let mut next = Next::new(&world);
    let mut states = vec![first(&world)];
    for turn in 0..3000usize {
        let mut state = states[turn % states.len()];
        each(&world, &mut state);
        next.all(&state);
        states.extend(next.found.iter().map(|(after, ..)| *after).skip(turn % 3).take(2));
    }
}

#[test]
fn a_packed_state_is_read_back() {
    let scenario = Scenario { setback: None, ..scenario() };
    let mut packer = Packer::new(scenario.shape(), scenario.groups());
    let alone = (0..4).map(|replica| vec![replica]).collect();
    let mut plain = Packer::new(self::scenario().shape(), alone);
    walk(|_, state| {
        let (mut bytes, mut again) = (Vec::new(), Vec::new());
        plain.pack(state, &mut bytes);
        assert!(plain.unpack(&bytes) == *state, "{:?}", plain.unpack(&bytes));
        packer.pack(state, &mut bytes);
        let mut other = packer.unpack(&bytes);
        packer.pack(&mut other, &mut again);
        assert_eq!(bytes, again);
    });
}

#[test]
fn replicas_that_no_view_tells_apart_may_change_places() {
    let scenario = Scenario { setback: None, crashes: 0, ..scenario() };
    assert_eq!(scenario.groups(), [vec![0], vec![1, 2], vec![3]]);
    let world = World::new(&scenario);
    let mut packer = Packer::new(scenario.shape(), scenario.groups());
    let mut one = first(&world);
    one.replicas[1].cells[0][0].promised = 3;
    let mut other = first(&world);
    other.replicas[2].cells[0][0].promised = 3;
    let (mut a, mut b) = (Vec::new(), Vec::new());
    packer.pack(&mut one, &mut a);
    packer.pack(&mut other, &mut b);
    assert_eq!(hash(&a), hash(&b));
    other.replicas[3].cells[0][0].promised = 3;
    packer.pack(&mut other, &mut b);
    assert_ne!(hash(&a), hash(&b));
}

#[test]
fn a_scenario_that_misses_what_it_must_reach_fails() {
    let idle = Scenario { rounds: 0, scripts: [vec![claim(9)], vec![]], ..Scenario::new("idle", 1) };
    let report = search(&idle, 1000);
    assert_eq!(report.verdict(&idle), Err("idle: never reached: [Granted]".to_owned()));
    let cut = search(&Scenario { rounds: 3, ..idle }, 3);
    assert!(!cut.whole && !cut.witnesses.has(Witness::Granted));
}
