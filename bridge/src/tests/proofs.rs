use super::*;
use crate::fuzz::{MEMBER_IP, peer};

fn from(ip: Ipv4Addr, number: u8) -> Vec<u8> {
    udp((ip, 1), (HOST_IP, 2), &[number])
}

fn unproven(number: u8, ip: Ipv4Addr) -> Event {
    Event::Unproven { peer: peer(number), ip }
}

impl Bench {
    fn receive(&mut self, number: u8, packet: &[u8]) {
        self.bridge.handle_packet(peer(number), packet, PLAIN, self.now);
    }
}

#[test]
fn packets_wait_for_the_proof_of_their_source() {
    let mut bench = Bench::new();
    bench.receive(1, &from(MEMBER_IP, 0));
    bench.receive(1, &from(MEMBER_IP, 1));
    bench.receive(1, &from(member(8), 2));
    assert_eq!(bench.events(), [unproven(1, MEMBER_IP)]);
    assert_eq!(bench.frames(), Vec::<Vec<u8>>::new());
    bench.bridge.permit(peer(1), MEMBER_IP);
    let expected = [0, 1].map(|number| ethernet(HOST, GATEWAY, 0x0800, &from(MEMBER_IP, number)));
    assert_eq!(bench.frames(), expected);
    bench.bridge.permit(peer(1), member(8));
    assert_eq!(bench.frames().len(), 1);
    bench.receive(1, &from(MEMBER_IP, 3));
    assert_eq!(bench.frames().len(), 1);
    assert!(bench.bridge.drops().is_empty());
}

#[test]
fn another_peers_proof_delivers_nothing_of_this_one() {
    let mut bench = Bench::new();
    bench.receive(1, &from(MEMBER_IP, 0));
    bench.bridge.permit(peer(2), MEMBER_IP);
    assert_eq!(bench.frames(), Vec::<Vec<u8>>::new());
    bench.pass(4 * SECOND);
    assert_eq!(bench.dropped(DropReason::Unproven), 1);
}

#[test]
fn a_peer_is_asked_at_most_once_a_second_and_no_longer_than_it_matters() {
    let mut bench = Bench::new();
    for number in 0..100 {
        bench.receive(1, &from(member(100 + number), number));
        bench.pass(SECOND / 100);
    }
    bench.receive(2, &from(MEMBER_IP, 0));
    let asked = bench.events();
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert_eq!(bench.dropped(DropReason::UnprovenFull), 92);
    bench.pass(60 * SECOND);
    assert!(bench.events().len() <= 6);
    assert_eq!(bench.dropped(DropReason::Unproven), 9);
    assert_eq!(bench.bridge.poll_timeout(), None);
}

#[test]
fn a_lost_question_is_repeated_while_packets_wait() {
    let mut bench = Bench::new();
    bench.receive(1, &from(MEMBER_IP, 0));
    bench.pass(SECOND);
    assert_eq!(bench.events(), [unproven(1, MEMBER_IP), unproven(1, MEMBER_IP)]);
}

#[test]
fn strangers_waiting_for_proofs_are_bounded() {
    let mut bench = Bench::new();
    for number in 0..=255 {
        bench.receive(number, &from(MEMBER_IP, 0));
    }
    let one_more = libp2p_identity::PeerId::from_bytes(&[0, 4, 1, 2, 3, 4]).unwrap();
    bench.bridge.handle_packet(one_more, &from(MEMBER_IP, 0), PLAIN, bench.now);
    assert_eq!(bench.dropped(DropReason::UnprovenFull), 1);
    bench.bridge.forbid_all(peer(7));
    assert_eq!(bench.dropped(DropReason::Unproven), 1);
    bench.bridge.handle_packet(one_more, &from(MEMBER_IP, 0), PLAIN, bench.now);
    assert_eq!(bench.dropped(DropReason::UnprovenFull), 1);
}

#[test]
fn a_meaning_that_contradicts_its_packet_is_dropped() {
    let mut bench = Bench::new();
    bench.bridge.permit(peer(1), MEMBER_IP);
    let lie = Offload { flags: 1, csum_start: 34, csum_offset: 16, ..PLAIN };
    bench.bridge.handle_packet(peer(1), &from(MEMBER_IP, 0), lie, bench.now);
    bench.assert_only_drop(DropReason::BadOffload);
}
