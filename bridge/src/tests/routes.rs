use smoltcp::wire::Icmpv4Packet;

use super::*;
use crate::fuzz::{MEMBER_IP, peer};
use crate::{Inbound, Resolution};

#[test]
fn first_packets_wait_for_the_route_and_go_in_their_order() {
    let mut bench = Bench::new();
    for number in 0..3 {
        bench.hear(&outbound(&numbered(MEMBER_IP, number)));
    }
    assert_eq!(bench.events(), [Event::Resolve { ip: MEMBER_IP }]);
    assert_eq!(bench.packets(), []);
    bench.pass(2 * SECOND);
    bench.bridge.handle_resolved(MEMBER_IP, Resolution::Peer(peer(1)), bench.now);
    let expected: Vec<_> =
        (0..3).map(|number| OutPacket { peer: peer(1), packet: numbered(MEMBER_IP, number), offload: PLAIN }).collect();
    assert_eq!(bench.packets(), expected);
    bench.hear(&outbound(&numbered(MEMBER_IP, 9)));
    assert_eq!(bench.packets().len(), 1);
    assert!(bench.bridge.drops().is_empty());
}

#[test]
fn a_proof_is_a_route_too() {
    let mut bench = Bench::new();
    bench.hear(&outbound(&numbered(MEMBER_IP, 1)));
    bench.bridge.permit(peer(1), MEMBER_IP);
    assert_eq!(bench.packets().len(), 1);
}

#[test]
fn the_ninth_packet_pushes_out_the_first() {
    let mut bench = Bench::new();
    for number in 0..10 {
        bench.hear(&outbound(&numbered(MEMBER_IP, number)));
    }
    bench.bridge.permit(peer(1), MEMBER_IP);
    let sent: Vec<u8> = bench.packets().iter().map(|out| out.packet[28]).collect();
    assert_eq!(sent, [2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(bench.dropped(DropReason::WaitingFull), 2);
}

#[test]
fn waiting_packets_are_bounded_in_bytes() {
    let mut bench = Bench::new();
    let offload = Offload { flags: 1, gso_type: 5, gso_size: 1300, csum_start: 34, csum_offset: 6, hdr_len: 42 };
    let large = outbound(&udp((HOST_IP, 1), (MEMBER_IP, 2), &vec![0; 30_000]));
    for _ in 0..3 {
        bench.bridge.handle_frame(&large, offload, bench.now);
    }
    bench.bridge.permit(peer(1), MEMBER_IP);
    let sent = bench.packets();
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|out| out.offload == offload));
    assert_eq!(bench.dropped(DropReason::WaitingFull), 1);
}

#[test]
fn nothing_waits_longer_than_three_seconds() {
    let mut bench = Bench::new();
    bench.hear(&outbound(&numbered(MEMBER_IP, 1)));
    bench.pass(2 * SECOND);
    bench.hear(&outbound(&numbered(MEMBER_IP, 2)));
    bench.pass(SECOND);
    assert_eq!(bench.dropped(DropReason::LookupExpired), 1);
    bench.bridge.permit(peer(1), MEMBER_IP);
    assert_eq!(bench.packets().len(), 1);
}

#[test]
fn a_lost_question_is_asked_again() {
    let mut bench = Bench::new();
    bench.hear(&outbound(&numbered(MEMBER_IP, 1)));
    assert_eq!(bench.events().len(), 1);
    bench.pass(9 * SECOND);
    bench.hear(&outbound(&numbered(MEMBER_IP, 2)));
    assert_eq!(bench.events(), []);
    bench.pass(SECOND);
    assert_eq!(bench.events(), [Event::Resolve { ip: MEMBER_IP }]);
}

#[test]
fn packets_wait_while_nobody_can_be_asked() {
    let mut bench = Bench::new();
    bench.hear(&outbound(&numbered(MEMBER_IP, 1)));
    bench.bridge.handle_resolved(MEMBER_IP, Resolution::Unknown, bench.now);
    bench.pass(SECOND);
    assert_eq!(bench.events().len(), 2);
    bench.bridge.handle_resolved(MEMBER_IP, Resolution::Peer(peer(1)), bench.now);
    assert_eq!(bench.packets().len(), 1);
    bench.hear(&outbound(&numbered(member(8), 1)));
    for _ in 0..3 {
        bench.bridge.handle_resolved(member(8), Resolution::Unknown, bench.now);
        bench.pass(SECOND);
    }
    assert_eq!(bench.dropped(DropReason::Unreachable), 1);
    assert_eq!(bench.frames(), Vec::<Vec<u8>>::new(), "unknown is no answer");
}

#[test]
fn a_host_learns_by_icmp_that_nobody_has_the_address() {
    let mut bench = Bench::new();
    let packet = numbered(MEMBER_IP, 1);
    bench.hear(&outbound(&packet));
    bench.bridge.handle_resolved(MEMBER_IP, Resolution::Absent, bench.now);
    bench.hear(&outbound(&packet));
    let frames = bench.frames();
    assert_eq!(frames.len(), 2);
    for frame in frames {
        assert_eq!(frame[..14], [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0]);
        assert_eq!(frame[14..34], ipv4(IpProtocol::Icmp, SERVICE, HOST_IP, &[0; 37])[..20]);
        assert_eq!((frame[34], frame[35]), (3, 1));
        assert_eq!(frame[38..42], [0; 4]);
        assert_eq!(frame[42..], packet);
        assert!(Icmpv4Packet::new_unchecked(&frame[34..]).verify_checksum());
    }
    assert_eq!(bench.dropped(DropReason::Absent), 2);
}

#[test]
fn a_host_learns_by_icmp_what_size_fits() {
    let mut bench = Bench::new();
    bench.bridge.permit(peer(1), MEMBER_IP);
    let packet = udp((HOST_IP, 1000), (MEMBER_IP, 2000), &[0; 1373]);
    bench.hear(&outbound(&packet));
    assert_eq!(bench.packets(), []);
    let [frame] = &bench.frames()[..] else { panic!("one ICMP error") };
    let expected_start = [
        2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0, // Ethernet
        0x45, 0, 2, 64, 0, 0, 0x40, 0, 64, 1, 0x24, 0x34, 10, 64, 0, 1, 10, 64, 0, 9, // 576 bytes of IPv4
        3, 4, 0x11, 0x8a, 0, 0, 5, 120, // fragmentation needed, 1400
    ];
    assert_eq!(frame[..expected_start.len()], expected_start);
    assert_eq!(frame[42..], packet[..548]);
    assert_eq!(bench.dropped(DropReason::TooBig), 1);
}

#[test]
fn what_waited_and_is_too_big_is_told_so() {
    let mut bench = Bench::new();
    bench.hear(&outbound(&udp((HOST_IP, 1000), (MEMBER_IP, 2000), &[0; 1373])));
    bench.bridge.permit(peer(1), MEMBER_IP);
    assert_eq!((bench.packets().len(), bench.frames().len()), (0, 1));
}

#[test]
fn icmp_errors_are_limited_and_never_about_errors() {
    let mut bench = Bench::new();
    bench.hear(&outbound(&numbered(MEMBER_IP, 1)));
    bench.bridge.handle_resolved(MEMBER_IP, Resolution::Absent, bench.now);
    for number in 0..99 {
        bench.hear(&outbound(&numbered(MEMBER_IP, number)));
    }
    assert_eq!(bench.frames().len(), 32);
    assert_eq!(bench.dropped(DropReason::IcmpLimited), 68);
    bench.pass(2 * SECOND);
    let unreachable = ipv4(IpProtocol::Icmp, HOST_IP, MEMBER_IP, &[3; 28]);
    bench.hear(&outbound(&unreachable));
    let mut later = numbered(MEMBER_IP, 1);
    later[7] = 1;
    bench.hear(&outbound(&later));
    assert_eq!(bench.frames(), Vec::<Vec<u8>>::new());
}

#[test]
fn a_route_that_rests_on_an_answer_lapses_and_a_proven_one_does_not() {
    let mut bench = Bench::new();
    bench.bridge.handle_resolved(member(7), Resolution::Peer(peer(1)), bench.now);
    bench.bridge.handle_resolved(member(8), Resolution::Peer(peer(2)), bench.now);
    bench.bridge.permit(peer(2), member(8));
    bench.pass(59 * SECOND);
    assert_eq!(bench.bridge.local().route(member(7)), Some(peer(1)));
    bench.pass(SECOND);
    assert_eq!(bench.bridge.local().route(member(7)), None);
    assert_eq!(bench.bridge.local().route(member(8)), Some(peer(2)));
    bench.hear(&outbound(&numbered(member(7), 1)));
    assert_eq!(bench.events(), [Event::Resolve { ip: member(7) }]);
}

#[test]
fn an_answer_does_not_displace_a_proof() {
    let mut bench = Bench::new();
    bench.bridge.permit(peer(1), MEMBER_IP);
    bench.bridge.handle_resolved(MEMBER_IP, Resolution::Peer(peer(2)), bench.now);
    bench.bridge.handle_resolved(MEMBER_IP, Resolution::Absent, bench.now);
    assert_eq!(bench.bridge.local().route(MEMBER_IP), Some(peer(1)));
}

#[test]
fn a_forbidden_peer_neither_sends_nor_is_sent_to() {
    let mut bench = Bench::new();
    let packet = udp((MEMBER_IP, 1), (HOST_IP, 2), &[]);
    for forbid in [
        |bridge: &mut Bridge| bridge.forbid(peer(1), MEMBER_IP),
        |bridge: &mut Bridge| {
            bridge.forbid_all(peer(1));
        },
    ] {
        bench.bridge.permit(peer(1), MEMBER_IP);
        assert!(matches!(bench.bridge.local().inbound(&peer(1), &packet), Inbound::Deliver(_)));
        forbid(&mut bench.bridge);
        assert_eq!(bench.bridge.local().inbound(&peer(1), &packet), Inbound::Control);
        assert_eq!(bench.bridge.local().route(MEMBER_IP), None);
    }
}

#[test]
fn the_latest_proof_fences_the_one_before() {
    let mut bench = Bench::new();
    bench.bridge.permit(peer(1), MEMBER_IP);
    bench.bridge.permit(peer(2), MEMBER_IP);
    // The old owner's end, reported late, does not end the new one.
    bench.bridge.forbid(peer(1), MEMBER_IP);
    bench.bridge.forbid_all(peer(1));
    let packet = udp((MEMBER_IP, 1), (HOST_IP, 2), &[]);
    let local = bench.bridge.local();
    assert_eq!(local.inbound(&peer(1), &packet), Inbound::Control);
    assert!(matches!(local.inbound(&peer(2), &packet), Inbound::Deliver(_)));
    assert_eq!(local.route(MEMBER_IP), Some(peer(2)));
}

#[test]
fn a_packet_does_not_outlive_its_senders_lease() {
    let mut bench = Bench::new();
    bench.hear(&outbound(&numbered(MEMBER_IP, 1)));
    bench.events();
    bench.bridge.remove_host(HOST_IP);
    bench.bridge.permit(peer(1), MEMBER_IP);
    bench.assert_only_drop(DropReason::SpoofedSource);
}

#[test]
fn nobody_is_told_once_the_sender_is_gone() {
    let mut bench = Bench::new();
    bench.hear(&outbound(&numbered(MEMBER_IP, 1)));
    bench.events();
    bench.bridge.remove_host(HOST_IP);
    bench.bridge.handle_resolved(MEMBER_IP, Resolution::Absent, bench.now);
    bench.assert_only_drop(DropReason::Absent);
}

#[test]
fn a_partial_checksum_elsewhere_than_in_tcp_or_udp_is_completed() {
    let mut bench = Bench::new();
    bench.bridge.permit(peer(1), MEMBER_IP);
    // As for a packet inside an IP tunnel through ours: four words, the second is the field.
    let packet = ipv4(IpProtocol::Unknown(4), HOST_IP, MEMBER_IP, &[0x12, 0x34, 0, 1, 0x56, 0x78, 0, 0]);
    let offload = Offload { flags: 1, csum_start: 34, csum_offset: 2, ..PLAIN };
    bench.bridge.handle_frame(&outbound(&packet), offload, bench.now);
    let [out] = &bench.packets()[..] else { panic!("one packet") };
    assert_eq!(out.offload, PLAIN);
    assert_eq!(out.packet[20..], [0x12, 0x34, 0x97, 0x52, 0x56, 0x78, 0, 0]);
}
