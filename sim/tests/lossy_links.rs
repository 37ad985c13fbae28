//! One datagram in five is lost, others come twice or late, and messages of the overlay go astray.

use std::time::Duration;

use sim::{Addressing, NodeId, Quality, Setup, World};

const SECOND: Duration = Duration::from_secs(1);
const CREATOR: NodeId = NodeId(0);

#[test]
fn everything_works_only_later() {
    let mut world = World::new(Setup { quality: Quality::LOSSY, lease: 120 * SECOND, ..Setup::new(31) });
    let all = [CREATOR, world.add(Addressing::Own), world.add(Addressing::Clients), world.add(Addressing::Own)];
    world.wait_for_addresses(&all, 90 * SECOND).unwrap();
    for from in &all {
        for to in all.iter().filter(|to| *to != from) {
            let answered = (0..20).any(|_| world.ping_and_wait(*from, *to, 2 * SECOND).is_ok());
            assert!(answered, "{from} never reaches {to}");
        }
    }
    let to = world.address(all[2]).unwrap();
    world.transfer(all[1], to, 50_000);
    world.run_until("all bytes", 600 * SECOND, |w| w.node(all[2]).guest.received == 50_000).unwrap();
    assert_eq!(world.node(all[2]).guest.garbled, 0);
    // Leases are renewed all the while.
    for id in all {
        assert!(world.address(id).is_some());
    }
}
