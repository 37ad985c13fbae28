//! Create, join, an address, a name, and a first packet that is not lost.

use std::time::Duration;

use sim::{Addressing, NodeId, Setup, World};

const SECOND: Duration = Duration::from_secs(1);
const CREATOR: NodeId = NodeId(0);

#[test]
fn a_newcomer_gets_an_address_and_its_first_ping_is_answered() {
    let mut world = World::new(Setup::new(1));
    world.wait_for_addresses(&[CREATOR], SECOND).unwrap();
    let other = world.add(Addressing::Own);
    let joined = world.wait_for_addresses(&[other], 5 * SECOND).unwrap();
    assert!(joined < Duration::from_millis(300), "{joined:?}");
    assert_ne!(world.address(other), world.address(CREATOR));
    let first = world.ping_and_wait(other, CREATOR, 3 * SECOND).unwrap();
    assert!(first < SECOND, "{first:?}");
    let next = world.ping_and_wait(other, CREATOR, 3 * SECOND).unwrap();
    assert!(next < Duration::from_millis(30), "{next:?}");
}

#[test]
fn an_ordinary_dhcp_client_gets_its_address_and_name_from_the_overlay() {
    let mut world = World::new(Setup::new(2));
    world.wait_for_addresses(&[CREATOR], SECOND).unwrap();
    let guest = world.add(Addressing::Clients);
    world.wait_for_addresses(&[guest], 30 * SECOND).unwrap();
    world.run_for(SECOND).unwrap();
    let question = world.ping_name(guest, "creator");
    world.run_until("the creator answers by name", 5 * SECOND, |w| w.name_answered(guest, question)).unwrap();
    let back = world.ping_name(CREATOR, "guest-1");
    world.run_until("the guest answers by name", 5 * SECOND, |w| w.name_answered(CREATOR, back)).unwrap();
}

#[test]
fn bytes_over_tcp_arrive_as_they_were_sent() {
    let mut world = World::new(Setup::new(3));
    let guest = world.add(Addressing::Clients);
    world.wait_for_addresses(&[CREATOR, guest], 30 * SECOND).unwrap();
    let to = world.address(guest).unwrap();
    world.transfer(CREATOR, to, 200_000);
    world.run_until("all bytes", 60 * SECOND, |w| w.node(guest).guest.received == 200_000).unwrap();
    assert_eq!(world.node(guest).guest.garbled, 0);
}
