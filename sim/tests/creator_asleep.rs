//! While the only replica sleeps nothing is renewed: addresses end with their leases, and nothing is forwarded after.

use std::time::Duration;

use sim::{Addressing, NodeId, Setup, World};

const SECOND: Duration = Duration::from_secs(1);
const CREATOR: NodeId = NodeId(0);

#[test]
fn nobody_forwards_from_an_address_whose_lease_is_over_and_all_come_back() {
    let mut world = World::new(Setup { lease: 60 * SECOND, ..Setup::new(51) });
    let (own, client) = (world.add(Addressing::Own), world.add(Addressing::Clients));
    world.wait_for_addresses(&[CREATOR, own, client], 30 * SECOND).unwrap();
    let before = [world.address(own), world.address(client)];
    world.ping_and_wait(own, client, 5 * SECOND).unwrap();
    world.sleep(CREATOR);
    let start = world.now();
    // Both talk all the time, so that there is always something to forward.
    while world.now() < start + 120 * SECOND {
        for (from, to) in [(own, client), (client, own)] {
            if let (Some(_), Some(to)) = (world.address(from), world.address(to)) {
                world.ping(from, to);
            }
        }
        world.run_for(SECOND / 4).unwrap();
    }
    for id in [own, client] {
        let left = world.watch.left[&id];
        assert!(left > start && left < start + 61 * SECOND, "{id} forwarded until {left:?}");
        assert!(world.node(id).addresses(world.now()).is_empty());
        assert_eq!(world.address(id), None, "the guest of {id} still believes in its address");
    }
    world.wake(CREATOR);
    world.wait_for_addresses(&[CREATOR, own, client], 120 * SECOND).unwrap();
    assert_eq!([world.address(own), world.address(client)], before);
    world.run_for(2 * SECOND).unwrap();
    world.ping_and_wait(own, client, 5 * SECOND).unwrap();
}

#[test]
fn nor_while_the_thread_that_would_tell_of_the_end_is_stuck() {
    let mut world = World::new(Setup { lease: 60 * SECOND, ..Setup::new(52) });
    let (a, b) = (world.add(Addressing::Own), world.add(Addressing::Clients));
    world.wait_for_addresses(&[CREATOR, a, b], 30 * SECOND).unwrap();
    world.ping_and_wait(a, b, 5 * SECOND).unwrap();
    world.sleep(CREATOR);
    world.stick(a, 200 * SECOND);
    world.stick(b, 200 * SECOND);
    let (start, to) = (world.now(), world.address(b).unwrap());
    while world.now() < start + 100 * SECOND {
        // A frame from an address whose lease is over would be noticed.
        world.ping(a, to);
        world.run_for(SECOND / 4).unwrap();
    }
    assert!(world.watch.left[&a] < start + 61 * SECOND);
}
