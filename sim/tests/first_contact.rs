//! Create, join, DHCP, a name, and a first ping that is not lost.

use std::time::Duration;

use sim::{Addressing, NodeId, Setup, World};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_newcomer_gets_an_address_and_its_first_ping_is_answered() {
    let mut world = World::new(Setup::new(1));
    let creator = NodeId(0);
    world.run_until("the creator has an address", 5 * SECOND, |world| world.address(creator).is_some()).unwrap();
    let other = world.add(Addressing::Own);
    let joined = world.run_until("the newcomer has an address", 5 * SECOND, |w| w.address(other).is_some()).unwrap();
    assert!(joined < 2 * SECOND, "{joined:?}");
    let to = world.address(creator).unwrap();
    assert_ne!(world.address(other), Some(to));
    let ping = world.ping(other, to);
    let waited = world.run_until("the first ping is answered", 3 * SECOND, |w| w.round_trip(ping).is_some()).unwrap();
    assert!(waited < SECOND, "{waited:?}");
}
