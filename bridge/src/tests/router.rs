//! A router's bridge: a segment with machines that know nothing of us. Faults 88 to 95 of the catalogue, as frames.

use super::*;
use crate::fuzz::{MEMBER_IP, peer};
use crate::{Outbound, Resolution};

const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const STATIC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 0x55]);
const STATIC_IP: Ipv4Addr = Ipv4Addr::new(10, 64, 7, 7);

fn router() -> Bench {
    let now = origin();
    let mut bridge = Bridge::new(Config { mode: Mode::Router, ..config() }, [1; 32], now);
    bridge.set_host(HOST_IP, HOST);
    Bench { bridge, now }
}

fn arp(operation: u8, mac: EthernetAddress, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    arp_to(EthernetAddress::BROADCAST, operation, mac, sender, target)
}

fn arp_to(to: EthernetAddress, operation: u8, mac: EthernetAddress, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let payload = [&[0, 1, 8, 0, 6, 4, 0, operation][..], &mac.0, &sender.octets(), &[0; 6], &target.octets()].concat();
    ethernet(to, mac, 0x0806, &payload)
}

fn heard(ip: Ipv4Addr, mac: EthernetAddress) -> Vec<Event> {
    vec![Event::Heard { ip, mac }]
}

/// What we say when somebody uses what is another's.
fn announcement(ip: Ipv4Addr) -> Vec<u8> {
    arp(REQUEST, GATEWAY, ip, ip)
}

#[test]
fn a_machine_is_told_of_by_its_arp_once_in_ten_seconds() {
    let mut bench = router();
    for frame in [
        arp(REQUEST, STATIC, STATIC_IP, STATIC_IP),
        arp(REQUEST, STATIC, STATIC_IP, MEMBER_IP),
        arp_to(GATEWAY, REPLY, STATIC, STATIC_IP, SERVICE),
    ] {
        bench.hear(&frame);
        assert_eq!(bench.events(), heard(STATIC_IP, STATIC));
        bench.hear(&frame);
        assert_eq!(bench.events(), [], "the same again");
        bench.pass(10 * SECOND);
    }
    assert_eq!(bench.frames(), Vec::<Vec<u8>>::new(), "a machine without a lease is not answered");
}

#[test]
fn a_machine_is_told_of_by_its_packets_and_gets_through_once_it_is_a_host() {
    let mut bench = router();
    bench.bridge.permit(peer(1), MEMBER_IP);
    let frame = ethernet(GATEWAY, STATIC, 0x0800, &udp((STATIC_IP, 1), (MEMBER_IP, 2), b"x"));
    assert_eq!(bench.bridge.local().outbound(&frame), Outbound::Control);
    bench.hear(&frame);
    assert_eq!(bench.events(), heard(STATIC_IP, STATIC));
    assert_eq!(bench.packets(), []);
    // While it waits for an answer, the fast path drops what it sends.
    assert_eq!(bench.bridge.local().outbound(&frame), Outbound::Drop(DropReason::SpoofedSource));
    bench.bridge.set_host(STATIC_IP, STATIC);
    assert!(matches!(bench.bridge.local().outbound(&frame), Outbound::Forward { .. }));
    // Nobody else may use it.
    let forged = ethernet(GATEWAY, EthernetAddress([2; 6]), 0x0800, &udp((STATIC_IP, 1), (MEMBER_IP, 2), b"x"));
    assert_eq!(bench.bridge.local().outbound(&forged), Outbound::Drop(DropReason::SpoofedSource));
}

#[test]
fn whoever_was_turned_away_is_heard_again_after_a_minute() {
    let mut bench = router();
    let frame = ethernet(GATEWAY, STATIC, 0x0800, &udp((STATIC_IP, 1), (MEMBER_IP, 2), b"x"));
    bench.hear(&frame);
    bench.bridge.turn_away(STATIC_IP, STATIC, false, bench.now);
    bench.events();
    bench.pass(59 * SECOND);
    assert_eq!(bench.bridge.local().outbound(&frame), Outbound::Drop(DropReason::SpoofedSource));
    bench.pass(SECOND);
    bench.hear(&frame);
    assert_eq!(bench.events(), heard(STATIC_IP, STATIC));
    assert_eq!(bench.frames(), Vec::<Vec<u8>>::new());
}

#[test]
fn a_workstation_hears_nobody() {
    let mut bench = Bench::new();
    bench.hear(&arp(REQUEST, STATIC, STATIC_IP, STATIC_IP));
    bench.bridge.ask_host(HOST_IP);
    bench.bridge.turn_away(STATIC_IP, STATIC, true, bench.now);
    bench.assert_only_drop(DropReason::ArpAnnouncement);
    let frame = ethernet(GATEWAY, STATIC, 0x0800, &udp((STATIC_IP, 1), (MEMBER_IP, 2), b"x"));
    assert_eq!(bench.bridge.local().outbound(&frame), Outbound::Drop(DropReason::SpoofedSource));
}

#[test]
fn a_quiet_host_is_asked_for_from_the_service_address() {
    let mut bench = router();
    bench.bridge.ask_host(HOST_IP);
    assert_eq!(
        bench.frames(),
        [[
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6, // Ethernet
            0, 1, 8, 0, 6, 4, 0, 1, // a request
            2, 0, 0, 0, 0, 1, 10, 64, 0, 1, // of the service
            0, 0, 0, 0, 0, 0, 10, 64, 0, 9,
        ]]
    );
    let answer = arp_to(GATEWAY, REPLY, HOST, HOST_IP, SERVICE);
    bench.hear(&answer);
    assert_eq!(bench.events(), heard(HOST_IP, HOST));
    // Asked again, it is told of again.
    bench.bridge.ask_host(HOST_IP);
    bench.hear(&answer);
    assert_eq!(bench.events(), heard(HOST_IP, HOST));
}

#[test]
fn fault_88_an_address_of_a_member_elsewhere_is_defended_once_and_then_the_segment_wins() {
    let mut bench = router();
    bench.bridge.permit(peer(1), MEMBER_IP);
    bench.hear(&arp(REQUEST, STATIC, MEMBER_IP, MEMBER_IP));
    assert_eq!(bench.frames(), [announcement(MEMBER_IP)]);
    assert_eq!(bench.events(), [Event::Disputed { ip: MEMBER_IP, mac: STATIC }]);
    // A host that asks is still answered: the machine may have given way.
    let question = arp(REQUEST, HOST, HOST_IP, MEMBER_IP);
    bench.hear(&question);
    assert_eq!(bench.frames().len(), 1);
    bench.events();
    // It persists.
    bench.pass(SECOND);
    bench.hear(&arp(REQUEST, STATIC, MEMBER_IP, MEMBER_IP));
    bench.hear(&question);
    assert_eq!(bench.frames(), Vec::<Vec<u8>>::new());
    assert_eq!(bench.dropped(DropReason::ArpYielded), 1);
    // Who asks before it uses the address itself is told.
    bench.hear(&arp(REQUEST, EthernetAddress([2, 0, 0, 0, 0, 0x66]), NOBODY, MEMBER_IP));
    assert_eq!(bench.frames().len(), 1);
    assert_eq!(bench.dropped(DropReason::ArpConflict), 2);
    // Nothing of it goes to the overlay.
    let frame = ethernet(GATEWAY, STATIC, 0x0800, &udp((MEMBER_IP, 1), (member(8), 2), b"x"));
    assert_eq!(bench.bridge.local().outbound(&frame), Outbound::Drop(DropReason::SpoofedSource));
    // Once it is quiet for a minute the member elsewhere is answered for again.
    bench.pass(61 * SECOND);
    bench.hear(&question);
    assert_eq!(bench.frames().len(), 1);
}

#[test]
fn a_dispute_that_comes_back_is_defended_again_after_ten_seconds() {
    let mut bench = router();
    bench.bridge.permit(peer(1), MEMBER_IP);
    for _ in 0..3 {
        bench.hear(&arp(REQUEST, STATIC, MEMBER_IP, HOST_IP));
        assert_eq!(bench.frames(), [announcement(MEMBER_IP)]);
        bench.pass(10 * SECOND);
    }
}

#[test]
fn a_machine_whose_address_turns_out_to_be_a_members_is_told_at_once() {
    let mut bench = router();
    bench.hear(&arp(REQUEST, STATIC, STATIC_IP, STATIC_IP));
    bench.events();
    bench.bridge.turn_away(STATIC_IP, STATIC, true, bench.now);
    assert_eq!(bench.frames(), [announcement(STATIC_IP)]);
    assert_eq!(bench.events(), [Event::Disputed { ip: STATIC_IP, mac: STATIC }]);
}

#[test]
fn fault_89_the_service_address_is_defended_and_never_given_up() {
    let mut bench = router();
    for operation in [REQUEST, REPLY, REQUEST] {
        bench.hear(&arp(operation, STATIC, SERVICE, SERVICE));
    }
    assert_eq!(bench.frames(), [announcement(SERVICE)], "once in ten seconds");
    bench.hear(&arp(REQUEST, HOST, HOST_IP, SERVICE));
    assert_eq!(bench.frames().len(), 1, "and it answers as before");
    assert_eq!(bench.dropped(DropReason::ArpConflict), 3);
    assert_eq!(bench.bridge.local().host(SERVICE), None);
}

#[test]
fn a_machine_in_the_place_of_a_host_is_told_of_and_not_believed() {
    let mut bench = router();
    bench.hear(&arp(REQUEST, STATIC, HOST_IP, HOST_IP));
    assert_eq!(bench.events(), heard(HOST_IP, STATIC));
    assert_eq!(bench.frames(), Vec::<Vec<u8>>::new());
    assert_eq!(bench.bridge.local().host(HOST_IP), Some(HOST));
    // Whoever answers a question for the host, the host itself is heard.
    bench.pass(10 * SECOND);
    bench.bridge.ask_host(HOST_IP);
    for mac in [STATIC, HOST] {
        bench.hear(&arp_to(GATEWAY, REPLY, mac, HOST_IP, SERVICE));
        assert_eq!(bench.events(), heard(HOST_IP, mac));
    }
}

#[test]
fn fault_90_silence_where_the_segment_answers_itself_and_for_what_nobody_has() {
    let lan = |last| Ipv4Addr::new(192, 168, 1, last);
    for (frame, reason) in [
        // The LAN's own gateway, and its machines among themselves.
        (arp(REQUEST, STATIC, lan(5), lan(1)), DropReason::ArpOutOfRange),
        (arp(REQUEST, HOST, HOST_IP, lan(1)), DropReason::ArpOutOfRange),
        (arp(REQUEST, STATIC, lan(5), MEMBER_IP), DropReason::ArpForeign),
        // A probe for a host of the segment: that host answers.
        (arp(REQUEST, STATIC, NOBODY, HOST_IP), DropReason::ArpLocal),
    ] {
        let mut bench = router();
        bench.bridge.permit(peer(1), MEMBER_IP);
        bench.hear(&frame);
        assert_eq!((bench.frames(), bench.dropped(reason)), (vec![], 1), "{reason:?}");
    }
    // A probe for an address that nobody has, and for one that a member has.
    let mut bench = router();
    for (resolution, answers) in [(Resolution::Absent, 0), (Resolution::Peer(peer(1)), 1)] {
        bench.hear(&arp(REQUEST, STATIC, NOBODY, STATIC_IP));
        assert_eq!(bench.events(), [Event::Resolve { ip: STATIC_IP }]);
        bench.bridge.handle_resolved(STATIC_IP, resolution, bench.now);
        assert_eq!(bench.frames().len(), answers, "{resolution:?}");
        bench.pass(6 * SECOND);
    }
}

#[test]
fn faults_92_to_94_a_flood_of_machines_is_bounded_and_hosts_are_not_harmed() {
    let mut bench = router();
    bench.bridge.permit(peer(1), MEMBER_IP);
    let (mut told, mut to_control) = (0, 0);
    for n in 0..50_000u32 {
        let [_, high, low, last] = n.to_be_bytes();
        let mac = EthernetAddress([2, 1, 0, high, low, last]);
        let ip = Ipv4Addr::from(0x0a40_0100 + n % 60_000);
        bench.hear(&arp(REQUEST, mac, ip, ip));
        let frame = ethernet(GATEWAY, mac, 0x0800, &udp((ip, 1), (MEMBER_IP, 2), b"x"));
        to_control += usize::from(bench.bridge.local().outbound(&frame) == Outbound::Control);
        bench.hear(&frame);
        told += bench.events().len();
        if n % 10_000 == 0 {
            bench.pass(SECOND);
        }
    }
    assert!((256..600).contains(&told), "{told}");
    assert!(bench.bridge.local().turned_away.len() <= crate::config::MAX_HEARD);
    assert!(to_control > 0);
    assert_eq!((bench.packets(), bench.frames()), (vec![], vec![]));
    bench.hear(&outbound(&numbered(MEMBER_IP, 1)));
    assert_eq!(bench.packets().len(), 1);
    // All of it is forgotten.
    bench.pass(120 * SECOND);
    assert!(bench.bridge.local().turned_away.is_empty());
    assert_eq!(bench.bridge.poll_timeout(), None);
}

#[test]
fn fault_92_a_frame_of_ours_that_comes_back_is_a_loop_and_goes_no_further() {
    let mut bench = router();
    bench.hear(&announcement(MEMBER_IP));
    bench.assert_only_drop(DropReason::OwnMac);
}

#[test]
fn fault_95_what_must_not_cross_does_not() {
    let group = EthernetAddress([1, 0, 0x5e, 0, 0, 0xfb]);
    let packet = numbered(MEMBER_IP, 1);
    for (frame, reason) in [
        (ethernet(GATEWAY, HOST, 0x8100, &packet), DropReason::Vlan),
        // Spanning tree: 802.3 with a length.
        (ethernet(EthernetAddress([1, 0x80, 0xc2, 0, 0, 0]), HOST, 38, &[0x42; 38]), DropReason::Ieee8023),
        (ethernet(EthernetAddress([1, 0x80, 0xc2, 0, 0, 0x0e]), HOST, 0x88cc, &[0; 46]), DropReason::Lldp),
        // A router advertisement.
        (ethernet(EthernetAddress([0x33, 0x33, 0, 0, 0, 1]), HOST, 0x86dd, &[0x60; 72]), DropReason::Ipv6),
        (
            ethernet(group, HOST, 0x0800, &udp((HOST_IP, 5353), (Ipv4Addr::new(224, 0, 0, 251), 5353), b"x")),
            DropReason::Multicast,
        ),
        (ethernet(EthernetAddress::BROADCAST, HOST, 0x0800, &numbered(Ipv4Addr::BROADCAST, 1)), DropReason::Broadcast),
        // DHCP of the segment's machines to, and of a server on it for, somebody else.
        (outbound(&udp((HOST_IP, 68), (MEMBER_IP, 67), b"x")), DropReason::DhcpCrossing),
        (outbound(&udp((HOST_IP, 67), (MEMBER_IP, 68), b"x")), DropReason::DhcpCrossing),
        (GATEWAY.0.to_vec(), DropReason::ShortFrame),
        (ethernet(GATEWAY, HOST, 0x0800, &packet[..19]), DropReason::BadIpv4),
        // Between machines of the segment: theirs, whether it is flooded to us or not.
        (ethernet(STATIC, HOST, 0x0800, &packet), DropReason::OtherMachine),
        (outbound(&numbered(HOST_IP, 1)), DropReason::LocalDestination),
    ] {
        let mut bench = router();
        bench.bridge.permit(peer(1), MEMBER_IP);
        bench.hear(&frame);
        bench.assert_only_drop(reason);
    }
    // A frame longer than its packet: the padding, or what is too much of it, stays behind.
    let mut bench = router();
    bench.bridge.permit(peer(1), MEMBER_IP);
    let mut long = outbound(&packet);
    long.resize(1519, 0);
    bench.hear(&long);
    assert_eq!(bench.packets()[0].packet, packet);
}

/// A SYN with these TCP options; its checksum is right, or only begun.
fn syn(options: &[u8], partial: bool) -> Vec<u8> {
    let mut segment = vec![0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0];
    segment.extend_from_slice(options);
    segment[12] = u8::try_from(segment.len() / 4).unwrap() << 4;
    let pseudo = crate::checksum::pseudo_header(HOST_IP, MEMBER_IP, 6, segment.len());
    let sum = if partial {
        crate::checksum::fold(pseudo)
    } else {
        !crate::checksum::fold(pseudo + crate::checksum::sum(&segment))
    };
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    ipv4(IpProtocol::Tcp, HOST_IP, MEMBER_IP, &segment)
}

fn is_right(packet: &[u8]) -> bool {
    let segment = &packet[20..];
    let pseudo = crate::checksum::pseudo_header(HOST_IP, MEMBER_IP, 6, segment.len());
    crate::checksum::fold(pseudo + crate::checksum::sum(segment)) == 0xffff
}

#[test]
fn a_connection_agrees_on_segments_that_fit_the_tunnel() {
    // 1460 as a host of 1500 bytes says; 1360 fits. At an odd offset, too.
    for (options, limited) in [
        (vec![2, 4, 5, 180], vec![2, 4, 5, 80]),
        (vec![1, 2, 4, 5, 180, 0, 0, 0], vec![1, 2, 4, 5, 80, 0, 0, 0]),
        (vec![2, 4, 5, 80], vec![2, 4, 5, 80]),
        (vec![2, 4, 2, 24], vec![2, 4, 2, 24]),
        (vec![8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 2, 4], vec![8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 2, 4]),
        (vec![3, 0, 2, 4, 5, 180, 0, 0], vec![3, 0, 2, 4, 5, 80, 0, 0]),
        (vec![0, 2, 4, 255], vec![0, 2, 4, 255]),
    ] {
        let mut bench = router();
        bench.bridge.permit(peer(1), MEMBER_IP);
        bench.hear(&outbound(&syn(&options, false)));
        let sent = &bench.packets()[0].packet;
        assert_eq!(sent[40..], limited, "{options:?}");
        assert!(is_right(sent), "{options:?}");
    }
}

#[test]
fn a_checksum_that_is_only_begun_stays_so_while_segments_are_limited() {
    let mut bench = router();
    bench.bridge.permit(peer(1), MEMBER_IP);
    let partial = Offload { flags: 1, csum_start: 34, csum_offset: 16, ..PLAIN };
    bench.bridge.handle_frame(&outbound(&syn(&[2, 4, 5, 180], true)), partial, bench.now);
    let sent = &bench.packets()[0];
    assert_eq!(sent.packet[40..], [2, 4, 5, 80]);
    assert_eq!(sent.packet[36..38], syn(&[2, 4, 5, 180], true)[36..38]);
    assert!(sent.offload.needs_checksum());
}
