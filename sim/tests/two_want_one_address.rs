//! One address, several who want it.
#![expect(clippy::unwrap_used, reason = "the helpers are tests, too")]

use std::time::Duration;

use sim::{Addressing, ClaimError, Crash, NodeId, Setup, Unsynced, World};

const SECOND: Duration = Duration::from_secs(1);
const CREATOR: NodeId = NodeId(0);

fn world_of_three(seed: u64) -> (World, [NodeId; 3]) {
    let mut world = World::new(Setup { lease: 60 * SECOND, ..Setup::new(seed) });
    let all = [CREATOR, world.add(Addressing::Own), world.add(Addressing::Own)];
    world.wait_for_addresses(&all, 10 * SECOND).unwrap();
    (world, all)
}

#[test]
fn one_gets_it_and_the_other_is_told_whose_it_is() {
    for seed in 0..8 {
        let (mut world, [_, a, b]) = world_of_three(seed);
        let ip = "10.70.3.7".parse().unwrap();
        let (first, second) = (world.claim(a, ip), world.claim(b, ip));
        world
            .run_until("both answers", 10 * SECOND, |w| w.claimed(a, first).and(w.claimed(b, second)).is_some())
            .unwrap();
        let outcomes = [world.claimed(a, first).unwrap(), world.claimed(b, second).unwrap()];
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
        assert!(outcomes.iter().any(|outcome| matches!(outcome, Err(ClaimError::Taken { .. }))), "{outcomes:?}");
    }
}

#[test]
fn the_other_gets_it_once_the_first_is_gone_for_a_lease_and_not_before() {
    let (mut world, [_, a, b]) = world_of_three(9);
    let ip = "10.70.3.7".parse().unwrap();
    let first = world.claim(a, ip);
    world.run_until("granted", 10 * SECOND, |w| w.claimed(a, first).is_some()).unwrap();
    world.crash(a, Crash::Machine, Unsynced::Lost);
    let start = world.now();
    loop {
        let again = world.claim(b, ip);
        world.run_until("an answer", 10 * SECOND, |w| w.claimed(b, again).is_some()).unwrap();
        if world.claimed(b, again).unwrap().is_ok() {
            break;
        }
        assert!(world.now() - start < 90 * SECOND, "never freed");
        world.run_for(SECOND).unwrap();
    }
    assert!(world.now() - start > 50 * SECOND, "freed after {:?}", world.now() - start);
}

#[test]
fn more_machines_than_addresses_share_none() {
    let mut world = World::new(Setup { range: "10.70.0.0/29".parse().unwrap(), ..Setup::new(10) });
    for _ in 0..7 {
        world.add(Addressing::Own);
    }
    // Two nodes with one address would be noticed at the grant.
    world.run_for(60 * SECOND).unwrap();
    let bound = world.nodes().iter().filter(|node| node.guest.address().is_some()).count();
    assert_eq!(bound, 5, "of 8 addresses the network, the broadcast and the service address are not for machines");
}
