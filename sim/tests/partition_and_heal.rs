//! What a partition takes away, and that all of it comes back.

use std::time::Duration;

use sim::{Addressing, NodeId, Setup, World};

const SECOND: Duration = Duration::from_secs(1);
const CREATOR: NodeId = NodeId(0);

#[test]
fn two_cut_off_from_the_register_go_on_talking_to_each_other() {
    let mut world = World::new(Setup::new(21));
    let (a, b) = (world.add(Addressing::Own), world.add(Addressing::Clients));
    world.wait_for_addresses(&[CREATOR, a, b], 30 * SECOND).unwrap();
    world.ping_and_wait(a, b, 5 * SECOND).unwrap();
    world.isolate(&[a, b]);
    for _ in 0..10 {
        world.run_for(30 * SECOND).unwrap();
        world.ping_and_wait(a, b, 5 * SECOND).unwrap();
        world.ping_and_wait(b, a, 5 * SECOND).unwrap();
    }
}

#[test]
fn after_the_partition_everybody_reaches_everybody() {
    let mut world = World::new(Setup { lease: 120 * SECOND, ..Setup::new(22) });
    let all = [CREATOR, world.add(Addressing::Own), world.add(Addressing::Clients), world.add(Addressing::Own)];
    world.wait_for_addresses(&all, 30 * SECOND).unwrap();
    let before: Vec<_> = all.iter().map(|id| world.address(*id)).collect();
    world.ping_and_wait(all[1], CREATOR, 5 * SECOND).unwrap();
    world.isolate(&all[1..3]);
    world.run_for(300 * SECOND).unwrap();
    for id in &all[1..3] {
        assert!(world.node(*id).addresses(world.now()).is_empty(), "{id} uses an address whose lease is over");
    }
    world.heal();
    world.wait_for_addresses(&all, 120 * SECOND).unwrap();
    let after: Vec<_> = all.iter().map(|id| world.address(*id)).collect();
    assert_eq!(before, after, "nobody else wanted their addresses");
    world.run_for(5 * SECOND).unwrap();
    for from in &all {
        for to in all.iter().filter(|to| *to != from) {
            world.ping_and_wait(*from, *to, 5 * SECOND).unwrap();
            world.run_for(SECOND).unwrap();
        }
    }
}
