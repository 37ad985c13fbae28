use super::*;
use crate::fuzz::{MEMBER_IP, peer};
use crate::{Inbound, Resolution};

fn from(ip: Ipv4Addr) -> Vec<u8> {
    udp((ip, 1), (HOST_IP, 2), b"hello")
}

fn superseded(number: u8, ip: Ipv4Addr) -> Event {
    Event::Superseded { peer: peer(number), ip }
}

impl Bench {
    fn packet_of(&mut self, number: u8, packet: &[u8]) {
        self.bridge.handle_packet(peer(number), packet, PLAIN, self.now);
    }
}

#[test]
fn a_former_owner_is_dropped_at_once_and_told_once_a_second() {
    let mut bench = Bench::new();
    bench.bridge.permit(peer(1), MEMBER_IP);
    bench.bridge.fence(peer(1), MEMBER_IP);
    for _ in 0..10 {
        bench.packet_of(1, &from(MEMBER_IP));
    }
    assert_eq!(bench.dropped(DropReason::SupersededSource), 10);
    assert_eq!(bench.events(), [superseded(1, MEMBER_IP)]);
    bench.pass(SECOND);
    bench.packet_of(1, &from(MEMBER_IP));
    assert_eq!(bench.events(), [superseded(1, MEMBER_IP)]);
    // Nothing waits for a proof that cannot come.
    assert_eq!(bench.bridge.poll_timeout(), None);
    assert_eq!(bench.frames(), Vec::<Vec<u8>>::new());
    // Its other addresses are as before, and so is everybody else.
    bench.packet_of(1, &from(member(8)));
    bench.packet_of(2, &from(MEMBER_IP));
    assert_eq!(bench.events().len(), 2);
    assert_eq!(bench.dropped(DropReason::SupersededSource), 11);
}

#[test]
fn what_waited_for_the_former_owners_proof_is_dropped_with_it() {
    let mut bench = Bench::new();
    bench.packet_of(1, &from(MEMBER_IP));
    bench.packet_of(1, &from(member(8)));
    bench.bridge.fence(peer(1), MEMBER_IP);
    assert_eq!(bench.dropped(DropReason::SupersededSource), 1);
    bench.bridge.permit(peer(1), member(8));
    assert_eq!(bench.frames().len(), 1);
}

#[test]
fn a_fence_ends_the_route_and_a_new_proof_ends_the_fence() {
    let mut bench = Bench::new();
    bench.bridge.handle_resolved(MEMBER_IP, Resolution::Peer(peer(1)), bench.now);
    bench.bridge.fence(peer(1), MEMBER_IP);
    assert_eq!(bench.bridge.local().route(MEMBER_IP), None);
    bench.bridge.permit(peer(2), MEMBER_IP);
    bench.bridge.fence(peer(1), MEMBER_IP);
    assert_eq!(bench.bridge.local().route(MEMBER_IP), Some(peer(2)));
    bench.bridge.permit(peer(1), MEMBER_IP);
    bench.bridge.fence(peer(2), MEMBER_IP);
    assert!(matches!(bench.bridge.local().inbound(&peer(1), &from(MEMBER_IP)), Inbound::Deliver(_)));
    bench.packet_of(2, &from(MEMBER_IP));
    assert_eq!(bench.events(), [superseded(2, MEMBER_IP)]);
    // Its proof has ended: it is asked for another as anybody is.
    bench.bridge.forbid(peer(1), MEMBER_IP);
    bench.packet_of(1, &from(MEMBER_IP));
    assert_eq!(bench.events(), [Event::Unproven { peer: peer(1), ip: MEMBER_IP }]);
}

#[test]
fn whoever_uses_an_address_of_ours_is_told() {
    let mut bench = Bench::new();
    bench.bridge.set_host(member(10), HOST);
    bench.packet_of(1, &from(member(10)));
    bench.packet_of(1, &from(member(10)));
    assert_eq!(bench.dropped(DropReason::SpoofedSource), 2);
    assert_eq!(bench.events(), [superseded(1, member(10))]);
}

#[test]
fn whoever_means_an_address_that_is_not_here_is_told_once_a_second() {
    let mut bench = Bench::new();
    let stray = |number: u8| udp((MEMBER_IP, 1), (member(100 + number), 2), b"hello");
    bench.bridge.permit(peer(1), MEMBER_IP);
    for number in 0..100 {
        bench.packet_of(1, &stray(number));
        bench.pass(SECOND / 50);
    }
    assert_eq!(bench.dropped(DropReason::NoSuchHost), 100);
    let ip = |number: u8| Event::NotHere { peer: peer(1), ip: member(100 + number) };
    assert_eq!(bench.events(), [ip(0), ip(50)]);
}

#[test]
fn former_owners_and_those_who_were_told_are_bounded() {
    let mut bench = Bench::new();
    let stranger =
        |number: u32| libp2p_identity::PeerId::from_bytes(&[&[0, 4][..], &number.to_be_bytes()].concat()).unwrap();
    for number in 0..5000 {
        bench.bridge.fence(stranger(number), MEMBER_IP);
        bench.bridge.handle_packet(stranger(number), &from(MEMBER_IP), PLAIN, bench.now);
    }
    assert_eq!(bench.events().len(), 4096);
    bench.pass(SECOND);
    bench.bridge.handle_packet(stranger(4999), &from(MEMBER_IP), PLAIN, bench.now);
    assert_eq!(bench.events().len(), 1);
}
