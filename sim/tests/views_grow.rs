//! Whole machines become replicas: a view of three, then of five, and what they hold outlives any two of them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use sim::{Addressing, Crash, Node, NodeId, Setup, Unsynced, World};

const SECOND: Duration = Duration::from_secs(1);
const CREATOR: NodeId = NodeId(0);

/// Whether every shard has so many replicas as this machine knows it, of which it is one that serves.
fn serves_all(world: &World, node: &Node, replicas: usize) -> bool {
    let Some((namespace, now)) = node.namespace().zip(node.glance(world.now())) else { return false };
    let chain = namespace.membership().chain();
    (0..chain.shard_count()).all(|shard| {
        let members = chain.newest(shard).map_or(0, |view| view.members.len());
        members == replicas && namespace.serves(shard, now)
    })
}

fn addresses(world: &World, all: &[NodeId]) -> BTreeSet<Ipv4Addr> {
    all.iter().filter_map(|id| world.address(*id)).collect()
}

#[test]
fn a_view_of_three_then_of_five_and_no_address_twice_whoever_is_away() {
    let mut world = World::new(Setup { lease: 120 * SECOND, ..Setup::new(61) });
    let mut all = vec![CREATOR, world.add(Addressing::Own), world.add(Addressing::Clients)];
    world.wait_for_addresses(&all, 30 * SECOND).unwrap();
    let serve = |count| move |world: &World| world.nodes().iter().all(|node| serves_all(world, node, count));
    world.run_until("views of three", 150 * SECOND, serve(3)).unwrap();
    let before = addresses(&world, &all);
    assert_eq!(before.len(), 3);

    // The creator sleeps for longer than its lease lasts. The others renew, and a newcomer gets another address than theirs.
    world.sleep(CREATOR);
    world.run_for(30 * SECOND).unwrap();
    all.extend([world.add(Addressing::Own), world.add(Addressing::Own)]);
    world.run_for(200 * SECOND).unwrap();
    let others = addresses(&world, &all[1..3]);
    assert!(others.len() == 2 && others.is_subset(&before), "{others:?}, before {before:?}");
    world.wake(CREATOR);
    world.wait_for_addresses(&all, 120 * SECOND).unwrap();
    assert_eq!(addresses(&world, &all).len(), 5);

    world.run_until("views of five", 400 * SECOND, serve(5)).unwrap();
    let before = addresses(&world, &all);
    // Any two.
    for id in &all[3..] {
        world.crash(*id, Crash::Machine, Unsynced::Lost);
    }
    world.run_for(300 * SECOND).unwrap();
    assert_eq!(addresses(&world, &all[..3]).len(), 3, "more than two leases later");
    for id in &all[3..] {
        world.start(*id);
    }
    world.wait_for_addresses(&all, 120 * SECOND).unwrap();
    assert_eq!(addresses(&world, &all), before);
    assert!(world.watch.violations().is_empty());
}
