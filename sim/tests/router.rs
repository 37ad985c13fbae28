//! Segments of machines that know nothing of the overlay, each behind a router.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use sim::guest::Guest;
use sim::{Addressing, Crash, Failure, NodeId, Setup, Unsynced, World};

const SECOND: Duration = Duration::from_secs(1);
const CREATOR: NodeId = NodeId(0);

fn machines(world: &World, router: NodeId) -> Vec<Option<Ipv4Addr>> {
    world.node(router).neighbours.iter().map(Guest::address).collect()
}

fn addresses(world: &World, router: NodeId) -> Vec<Ipv4Addr> {
    machines(world, router).into_iter().flatten().collect()
}

/// Every machine of the segment pings this address, and is answered.
fn all_reach(world: &mut World, router: NodeId, to: Ipv4Addr, limit: Duration) -> Result<Duration, Failure> {
    let pings: Vec<(usize, u32)> = (0..world.node(router).neighbours.len())
        .filter(|machine| world.node(router).neighbours[*machine].address() != Some(to))
        .collect::<Vec<_>>()
        .into_iter()
        .map(|machine| (machine, world.ping_from_segment(router, machine, to)))
        .collect();
    let answered = |world: &World, (machine, number): &(usize, u32)| {
        world.node(router).neighbours[*machine].pings[number].answered.is_some()
    };
    let what = format!("all of {router}'s segment reach {to}");
    world.run_until(&what, limit, |world| pings.iter().all(|ping| answered(world, ping)))
}

fn two_segments(seed: u64) -> Result<(World, NodeId, NodeId), Failure> {
    let mut world = World::new(Setup { lease: Duration::from_secs(600), ..Setup::new(seed) });
    world.wait_for_addresses(&[CREATOR], SECOND)?;
    let (left, right) = (world.add_router(6), world.add_router(5));
    world.run_until("all machines have addresses", 60 * SECOND, |world| {
        [left, right].iter().all(|router| machines(world, *router).iter().all(Option::is_some))
    })?;
    Ok((world, left, right))
}

#[test]
fn all_machines_of_two_segments_are_on_one_subnet_and_neighbours_talk_without_the_router() {
    for seed in 1..4 {
        let (mut world, left, right) = two_segments(seed).unwrap();
        let mut all = BTreeSet::new();
        for router in [left, right] {
            for ip in addresses(&world, router) {
                assert!(all.insert(ip), "{ip} twice");
            }
        }
        let member = world.address(CREATOR).unwrap();
        let there = addresses(&world, right)[0];
        for to in [member, there] {
            all_reach(&mut world, left, to, 10 * SECOND).unwrap();
        }
        // And a member reaches each of them.
        for ip in all {
            let ping = world.ping(CREATOR, ip);
            world.run_until(&format!("{ip} answers"), 10 * SECOND, |world| world.round_trip(ping).is_some()).unwrap();
        }
        let neighbour = addresses(&world, left)[0];
        all_reach(&mut world, left, neighbour, 10 * SECOND).unwrap();
        let before = world.node(left).heard;
        all_reach(&mut world, left, neighbour, 10 * SECOND).unwrap();
        assert_eq!(world.node(left).heard, before, "what neighbours send to each other came to the TAP");
    }
}

#[test]
fn a_router_that_crashes_finds_its_machines_again_and_they_keep_their_addresses() {
    for seed in 1..4 {
        let (mut world, left, right) = two_segments(seed).unwrap();
        let before = addresses(&world, left);
        let there = addresses(&world, right)[0];
        all_reach(&mut world, left, there, 10 * SECOND).unwrap();
        world.crash(left, Crash::Process, Unsynced::Kept);
        world.run_for(5 * SECOND).unwrap();
        world.start(left);
        world.run_for(5 * SECOND).unwrap();
        all_reach(&mut world, left, there, 10 * SECOND).unwrap();
        // They renew, and nobody had to begin anew.
        world.run_for(Duration::from_secs(1200)).unwrap();
        assert_eq!(addresses(&world, left), before);
        all_reach(&mut world, left, there, 10 * SECOND).unwrap();
    }
}

#[test]
fn a_machine_that_moves_to_another_segment_is_reached_there_and_its_old_lease_ends() {
    let (mut world, left, right) = two_segments(7).unwrap();
    let workstation = world.add(Addressing::Own);
    world.wait_for_addresses(&[workstation], 10 * SECOND).unwrap();
    let before = addresses(&world, left)[0];
    world.move_machine(left, 0, right);
    let moved = |world: &World| world.node(right).neighbours.last().and_then(Guest::address);
    world.run_until("it has an address there", 60 * SECOND, |world| moved(world).is_some()).unwrap();
    let ip = moved(&world).unwrap();
    let ping = world.ping(workstation, ip);
    world.run_until("it answers", 10 * SECOND, |world| world.round_trip(ping).is_some()).unwrap();
    world.run_for(Duration::from_secs(660)).unwrap();
    let held = world.node(left).addresses(world.now());
    assert!(!held.contains(&before) && held.len() == 5, "{before} is still leased: {held:?}");
}
