//! A guest, or a member whose program was tampered with, sends from an address that is not its own: nobody gets it.

use std::time::Duration;

use sim::{Addressing, NodeId, Setup, World};

const SECOND: Duration = Duration::from_secs(1);
const CREATOR: NodeId = NodeId(0);

#[test]
fn no_packet_arrives_from_a_source_its_sender_does_not_hold() {
    let mut world = World::new(Setup::new(61));
    let (a, b) = (world.add(Addressing::Own), world.add(Addressing::Clients));
    world.wait_for_addresses(&[CREATOR, a, b], 30 * SECOND).unwrap();
    world.ping_and_wait(a, CREATOR, 5 * SECOND).unwrap();
    world.ping_and_wait(b, CREATOR, 5 * SECOND).unwrap();
    let arrived = world.watch.arrived;
    let others = [world.address(b).unwrap(), world.address(CREATOR).unwrap()];
    let unused = ["10.70.9.9", "10.70.0.1", "10.70.0.0", "10.70.255.255", "192.0.2.1", "127.0.0.1", "0.0.0.0"];
    let to = world.address(CREATOR).unwrap();
    for source in unused.iter().map(|text| text.parse().unwrap()).chain(others) {
        world.spoof(a, source, to);
        assert!(world.forge(a, CREATOR, source));
        world.run_for(SECOND).unwrap();
    }
    world.run_for(10 * SECOND).unwrap();
    assert_eq!(world.watch.arrived, arrived);
    let drops = world.node(CREATOR).all_drops(world.now());
    assert!(drops.iter().any(|(reason, count)| reason.contains("spoofed") && *count > 0), "{drops:?}");
    assert!(drops.iter().any(|(reason, count)| reason.contains("unproven") && *count > 0), "{drops:?}");
}
