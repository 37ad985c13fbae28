//! Whoever leaves, or releases by DHCP, makes room at once.
#![expect(clippy::unwrap_used, reason = "the helpers are tests, too")]

use std::time::Duration;

use sim::{Addressing, NodeId, Reply, Setup, World};

const SECOND: Duration = Duration::from_secs(1);
const CREATOR: NodeId = NodeId(0);

/// A range with five addresses for machines, all of them taken, and a machine that got none.
fn full(seed: u64, addressing: Addressing) -> (World, NodeId, NodeId) {
    let mut world = World::new(Setup { range: "10.70.0.0/29".parse().unwrap(), ..Setup::new(seed) });
    let mut all = vec![CREATOR];
    all.extend((0..4).map(|_| world.add(addressing)));
    world.wait_for_addresses(&all, 60 * SECOND).unwrap();
    let late = world.add(Addressing::Own);
    world.run_for(40 * SECOND).unwrap();
    assert_eq!(world.address(late), None);
    (world, all[2], late)
}

#[test]
fn the_address_of_one_who_left_is_for_the_next() {
    let (mut world, leaver, late) = full(41, Addressing::Own);
    let freed = world.address(leaver);
    assert!(matches!(world.leave(leaver).unwrap(), Reply::Left));
    world.wait_for_addresses(&[late], 60 * SECOND).unwrap();
    assert_eq!(world.address(late), freed);
    world.ping_and_wait(CREATOR, late, 5 * SECOND).unwrap();
}

#[test]
fn the_address_that_a_dhcp_client_released_is_for_the_next() {
    let (mut world, client, late) = full(42, Addressing::Clients);
    let freed = world.address(client);
    world.want_lease(client, false);
    world.wait_for_addresses(&[late], 60 * SECOND).unwrap();
    assert_eq!(world.address(late), freed);
    assert_eq!(world.address(client), None);
}
