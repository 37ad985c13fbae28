use super::*;
use crate::Resolution;
use crate::fuzz::{MEMBER_IP, peer};

const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

fn arp(operation: u8, mac: EthernetAddress, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let payload = [&[0, 1, 8, 0, 6, 4, 0, operation][..], &mac.0, &sender.octets(), &[0; 6], &target.octets()].concat();
    ethernet(EthernetAddress::BROADCAST, mac, 0x0806, &payload)
}

fn question(target: Ipv4Addr) -> Vec<u8> {
    arp(REQUEST, HOST, HOST_IP, target)
}

fn answer(target: Ipv4Addr, mac: EthernetAddress, ip: Ipv4Addr) -> Vec<u8> {
    let payload = [&[0, 1, 8, 0, 6, 4, 0, REPLY][..], &GATEWAY.0, &target.octets(), &mac.0, &ip.octets()].concat();
    ethernet(mac, GATEWAY, 0x0806, &payload)
}

fn resolve(ip: Ipv4Addr) -> Vec<Event> {
    vec![Event::Resolve { ip }]
}

#[test]
fn a_routed_member_is_at_our_virtual_mac() {
    let mut bench = Bench::new();
    bench.bridge.permit(peer(1), MEMBER_IP);
    bench.hear(&[
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 8, 6, // Ethernet
        0, 1, 8, 0, 6, 4, 0, 1, // a request
        2, 0, 0, 0, 0, 9, 10, 64, 0, 9, // the host's
        0, 0, 0, 0, 0, 0, 10, 64, 0, 7, // for the member
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // padding of the wire
    ]);
    assert_eq!(
        bench.frames(),
        [[
            2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 6, // Ethernet
            0, 1, 8, 0, 6, 4, 0, 2, // a reply
            2, 0, 0, 0, 0, 1, 10, 64, 0, 7, // the member is at our MAC
            2, 0, 0, 0, 0, 9, 10, 64, 0, 9,
        ]]
    );
    assert!(bench.bridge.drops().is_empty());
}

#[test]
fn the_service_answers_everybody() {
    let stranger = EthernetAddress([2, 0, 0, 0, 0, 0x55]);
    for (mac, sender) in [(HOST, HOST_IP), (stranger, NOBODY), (stranger, member(200))] {
        let mut bench = Bench::new();
        bench.hear(&arp(REQUEST, mac, sender, SERVICE));
        assert_eq!(bench.frames(), [answer(SERVICE, mac, sender)]);
    }
}

#[test]
fn a_unicast_question_is_answered_too() {
    let mut bench = Bench::new();
    let mut unicast = question(SERVICE);
    unicast[..6].copy_from_slice(&GATEWAY.0);
    bench.hear(&unicast);
    assert_eq!(bench.frames(), [answer(SERVICE, HOST, HOST_IP)]);
}

#[test]
fn silence_has_a_name() {
    let other = EthernetAddress([2, 0, 0, 0, 0, 0x55]);
    let second = member(10);
    let mut lies_about_mac = question(MEMBER_IP);
    lies_about_mac[27] ^= 1;
    let mut for_another = question(MEMBER_IP);
    for_another[..6].copy_from_slice(&other.0);
    let mut unknown_operation = question(MEMBER_IP);
    unknown_operation[21] = 9;
    let cases = [
        (question(second), DropReason::ArpLocal),
        (arp(REQUEST, other, NOBODY, HOST_IP), DropReason::ArpLocal),
        (question(Ipv4Addr::new(192, 168, 1, 1)), DropReason::ArpOutOfRange),
        (question(Ipv4Addr::new(10, 64, 0, 0)), DropReason::ArpOutOfRange),
        (question(Ipv4Addr::new(10, 64, 255, 255)), DropReason::ArpOutOfRange),
        (arp(REQUEST, HOST, HOST_IP, HOST_IP), DropReason::ArpAnnouncement),
        (arp(REQUEST, other, member(77), member(77)), DropReason::ArpAnnouncement),
        (arp(REPLY, HOST, HOST_IP, MEMBER_IP), DropReason::ArpReply),
        (arp(REQUEST, other, member(77), MEMBER_IP), DropReason::ArpForeign),
        (arp(REQUEST, other, Ipv4Addr::new(192, 168, 1, 5), MEMBER_IP), DropReason::ArpForeign),
        // Somebody who says it has what is another's.
        (arp(REQUEST, other, MEMBER_IP, MEMBER_IP), DropReason::ArpConflict),
        (arp(REPLY, other, SERVICE, HOST_IP), DropReason::ArpConflict),
        (arp(REQUEST, other, HOST_IP, MEMBER_IP), DropReason::ArpConflict),
        (lies_about_mac, DropReason::BadArp),
        (for_another, DropReason::OtherMachine),
        (unknown_operation, DropReason::ArpReply),
        (question(MEMBER_IP)[..41].to_vec(), DropReason::BadArp),
    ];
    for (frame, reason) in cases {
        let mut bench = Bench::new();
        bench.bridge.set_host(second, EthernetAddress([2, 0, 0, 0, 0, 10]));
        bench.bridge.permit(peer(1), MEMBER_IP);
        bench.hear(&frame);
        bench.assert_only_drop(reason);
    }
}

#[test]
fn a_question_waits_for_the_resolver_who_is_asked_once() {
    let mut bench = Bench::new();
    bench.hear(&question(MEMBER_IP));
    assert_eq!(bench.events(), resolve(MEMBER_IP));
    bench.pass(SECOND);
    bench.hear(&question(MEMBER_IP));
    assert_eq!(bench.events(), []);
    bench.bridge.handle_resolved(MEMBER_IP, Resolution::Peer(peer(1)), bench.now);
    assert_eq!(bench.frames(), [answer(MEMBER_IP, HOST, HOST_IP)]);
    bench.hear(&question(MEMBER_IP));
    assert_eq!(bench.frames(), [answer(MEMBER_IP, HOST, HOST_IP)]);
    assert!(bench.bridge.drops().is_empty());
}

#[test]
fn nobody_answers_for_an_address_that_nobody_has() {
    let mut bench = Bench::new();
    bench.hear(&question(MEMBER_IP));
    bench.events();
    bench.bridge.handle_resolved(MEMBER_IP, Resolution::Absent, bench.now);
    bench.pass(4 * SECOND);
    bench.hear(&question(MEMBER_IP));
    assert_eq!((bench.frames(), bench.events()), (vec![], vec![]));
    assert_eq!(bench.dropped(DropReason::ArpAbsent), 2);
    bench.pass(SECOND);
    bench.hear(&question(MEMBER_IP));
    assert_eq!(bench.events(), resolve(MEMBER_IP));
}

#[test]
fn a_probe_is_answered_only_if_another_member_has_the_address() {
    let newcomer = EthernetAddress([2, 0, 0, 0, 0, 0x66]);
    for (resolution, expected) in [
        (Resolution::Peer(peer(1)), vec![answer(MEMBER_IP, newcomer, NOBODY)]),
        (Resolution::Absent, vec![]),
        (Resolution::Unknown, vec![]),
    ] {
        let mut bench = Bench::new();
        bench.hear(&arp(REQUEST, newcomer, NOBODY, MEMBER_IP));
        assert_eq!(bench.events(), resolve(MEMBER_IP));
        bench.bridge.handle_resolved(MEMBER_IP, resolution, bench.now);
        assert_eq!(bench.frames(), expected);
    }
}

#[test]
fn what_could_not_be_asked_is_asked_again_while_somebody_waits() {
    let mut bench = Bench::new();
    bench.hear(&question(MEMBER_IP));
    bench.events();
    bench.bridge.handle_resolved(MEMBER_IP, Resolution::Unknown, bench.now);
    bench.pass(SECOND);
    assert_eq!(bench.events(), resolve(MEMBER_IP));
    bench.bridge.handle_resolved(MEMBER_IP, Resolution::Unknown, bench.now);
    bench.pass(10 * SECOND);
    assert_eq!(bench.events(), resolve(MEMBER_IP), "the third second, then nobody waits");
    assert_eq!(bench.dropped(DropReason::ArpUnknown), 1);
    assert_eq!(bench.frames(), Vec::<Vec<u8>>::new());
}

#[test]
fn a_host_that_appears_while_it_is_looked_for_is_not_answered_for() {
    let mut bench = Bench::new();
    bench.hear(&question(MEMBER_IP));
    bench.events();
    bench.bridge.set_host(MEMBER_IP, EthernetAddress([2, 0, 0, 0, 0, 7]));
    bench.bridge.handle_resolved(MEMBER_IP, Resolution::Peer(peer(1)), bench.now);
    bench.bridge.permit(peer(1), MEMBER_IP);
    bench.assert_only_drop(DropReason::ArpLocal);
}
