use std::sync::Arc;

use super::*;
use crate::fuzz::{MEMBER_IP, peer};
use crate::{Inbound, Outbound, Resolution};

const OTHER: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 0x55]);

fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.bridge.permit(peer(1), MEMBER_IP);
    bench.bridge.set_host(member(10), EthernetAddress([2, 0, 0, 0, 0, 10]));
    bench
}

fn to(mac: EthernetAddress, packet: &[u8]) -> Vec<u8> {
    ethernet(mac, HOST, 0x0800, packet)
}

fn fragment(mut packet: Vec<u8>, field: u16) -> Vec<u8> {
    packet[6..8].copy_from_slice(&field.to_be_bytes());
    fix_header(&mut packet);
    packet
}

#[test]
fn plain_packets_are_forwarded_without_their_padding() {
    let bench = bench();
    let packet = numbered(MEMBER_IP, 1);
    let padded = [outbound(&packet), vec![0xee; 17]].concat();
    let expected = Outbound::Forward { peer: peer(1), packet: &packet };
    assert_eq!(bench.bridge.local().outbound(&outbound(&packet)), expected);
    assert_eq!(bench.bridge.local().outbound(&padded), expected);
}

#[test]
fn fragments_are_ordinary_packets() {
    let bench = bench();
    for field in [0x2000, 0x2010, 0x0010] {
        let packet = fragment(numbered(MEMBER_IP, 1), field);
        assert_eq!(
            bench.bridge.local().outbound(&outbound(&packet)),
            Outbound::Forward { peer: peer(1), packet: &packet }
        );
    }
}

#[test]
fn outbound_goes_to_control_for_what_needs_thought() {
    let bench = bench();
    let broadcast = EthernetAddress::BROADCAST;
    let all = Ipv4Addr::BROADCAST;
    let none = Ipv4Addr::UNSPECIFIED;
    for frame in [
        ethernet(broadcast, OTHER, 0x0806, &[0; 28]),
        ethernet(broadcast, OTHER, 0x0800, &udp((none, 68), (all, 67), &[])),
        ethernet(GATEWAY, OTHER, 0x0800, &udp((member(99), 68), (SERVICE, 67), &[])),
        outbound(&udp((HOST_IP, 5), (SERVICE, 53), &[])),
        outbound(&numbered(member(99), 1)),
    ] {
        assert_eq!(bench.bridge.local().outbound(&frame), Outbound::Control, "{frame:?}");
    }
}

#[test]
fn outbound_drops_have_names() {
    let bench = bench();
    let good = numbered(MEMBER_IP, 1);
    let from = |ip, mac| ethernet(GATEWAY, mac, 0x0800, &udp((ip, 1), (MEMBER_IP, 2), &[]));
    let hello = numbered(Ipv4Addr::new(224, 0, 0, 251), 1);
    let mut long = good.clone();
    long[3] += 1;
    let mut version = good.clone();
    version[0] = 0x65;
    let mut header = good.clone();
    header[0] = 0x44;
    let cases = [
        (vec![0; 13], DropReason::ShortFrame),
        (ethernet(EthernetAddress([1, 0x80, 0xc2, 0, 0, 0]), OTHER, 0x26, &[0; 38]), DropReason::Ieee8023),
        (ethernet(GATEWAY, HOST, 0x8100, &[0; 50]), DropReason::Vlan),
        (ethernet(GATEWAY, HOST, 0x88a8, &[0; 50]), DropReason::Vlan),
        (ethernet(GATEWAY, HOST, 0x86dd, &[0; 50]), DropReason::Ipv6),
        (ethernet(EthernetAddress([1, 0x80, 0xc2, 0, 0, 14]), HOST, 0x88cc, &[0; 50]), DropReason::Lldp),
        (ethernet(GATEWAY, HOST, 0x1234, &[0; 50]), DropReason::OtherEthertype),
        (to(OTHER, &good), DropReason::OtherMachine),
        (ethernet(GATEWAY, GATEWAY, 0x0800, &good), DropReason::OwnMac),
        (ethernet(GATEWAY, EthernetAddress([3, 0, 0, 0, 0, 1]), 0x0800, &good), DropReason::GroupSource),
        (outbound(&good[..19]), DropReason::BadIpv4),
        (outbound(&long), DropReason::BadIpv4),
        (outbound(&version), DropReason::BadIpv4),
        (outbound(&header), DropReason::BadIpv4),
        (to(EthernetAddress::BROADCAST, &numbered(Ipv4Addr::BROADCAST, 1)), DropReason::Broadcast),
        (outbound(&numbered(Ipv4Addr::BROADCAST, 1)), DropReason::Broadcast),
        (outbound(&numbered(Ipv4Addr::new(10, 64, 255, 255), 1)), DropReason::Broadcast),
        (to(EthernetAddress([1, 0, 0x5e, 0, 0, 251]), &hello), DropReason::Multicast),
        (outbound(&hello), DropReason::Multicast),
        (
            to(
                EthernetAddress([1, 0, 0x5e, 0, 0, 22]),
                &ipv4(IpProtocol::Igmp, HOST_IP, Ipv4Addr::new(224, 0, 0, 22), &[0; 8]),
            ),
            DropReason::Igmp,
        ),
        (from(member(99), HOST), DropReason::SpoofedSource),
        (from(HOST_IP, OTHER), DropReason::SpoofedSource),
        (from(member(10), HOST), DropReason::SpoofedSource),
        (from(MEMBER_IP, HOST), DropReason::SpoofedSource),
        (from(Ipv4Addr::UNSPECIFIED, HOST), DropReason::SpoofedSource),
        (outbound(&numbered(Ipv4Addr::new(8, 8, 8, 8), 1)), DropReason::OutOfRange),
        (outbound(&numbered(Ipv4Addr::new(10, 64, 0, 0), 1)), DropReason::OutOfRange),
        (outbound(&numbered(member(10), 1)), DropReason::LocalDestination),
        (outbound(&udp((HOST_IP, 67), (MEMBER_IP, 68), &[])), DropReason::DhcpCrossing),
        (outbound(&udp((HOST_IP, 68), (MEMBER_IP, 67), &[])), DropReason::DhcpCrossing),
    ];
    for (frame, reason) in cases {
        assert_eq!(bench.bridge.local().outbound(&frame), Outbound::Drop(reason), "{frame:?}");
        // The slow path agrees, whatever it is handed.
        let mut slow = self::bench();
        slow.hear(&frame);
        slow.assert_only_drop(reason);
    }
}

#[test]
fn inbound_is_delivered_under_our_virtual_mac() {
    let bench = bench();
    let packet = udp((MEMBER_IP, 1), (HOST_IP, 2), b"hello");
    assert_eq!(
        bench.bridge.local().inbound(&peer(1), &packet),
        Inbound::Deliver([2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0])
    );
}

#[test]
fn inbound_believes_only_proven_sources() {
    let mut bench = bench();
    let local = bench.bridge.local();
    let packet = udp((MEMBER_IP, 1), (HOST_IP, 2), b"hello");
    assert_eq!(local.inbound(&peer(2), &packet), Inbound::Control);
    let unproven = udp((member(99), 1), (HOST_IP, 2), b"hello");
    assert_eq!(local.inbound(&peer(1), &unproven), Inbound::Control);
    // An answer of the resolver says where to send, not whom to believe.
    bench.bridge.handle_resolved(member(99), Resolution::Peer(peer(1)), bench.now);
    assert_eq!(bench.bridge.local().route(member(99)), Some(peer(1)));
    assert_eq!(bench.bridge.local().inbound(&peer(1), &unproven), Inbound::Control);
}

#[test]
fn inbound_drops_have_names() {
    let bench = bench();
    let from = |ip| udp((ip, 1), (HOST_IP, 2), &[]);
    let to = |ip| udp((MEMBER_IP, 1), (ip, 2), &[]);
    for (packet, reason) in [
        (vec![], DropReason::BadIpv4),
        ([from(MEMBER_IP), vec![0]].concat(), DropReason::BadIpv4),
        (to(SERVICE), DropReason::NoSuchHost),
        (to(Ipv4Addr::BROADCAST), DropReason::NoSuchHost),
        (to(Ipv4Addr::new(224, 0, 0, 1)), DropReason::NoSuchHost),
        (from(Ipv4Addr::new(192, 168, 1, 1)), DropReason::SpoofedSource),
        (from(SERVICE), DropReason::SpoofedSource),
        (udp((MEMBER_IP, 67), (HOST_IP, 68), &[]), DropReason::DhcpCrossing),
    ] {
        assert_eq!(bench.bridge.local().inbound(&peer(1), &packet), Inbound::Drop(reason));
        let mut slow = self::bench();
        slow.bridge.handle_packet(peer(1), &packet, PLAIN, slow.now);
        slow.assert_only_drop(reason);
    }
}

#[test]
fn too_big_goes_to_control_unless_it_can_be_cut() {
    let bench = bench();
    let local = bench.bridge.local();
    let exact = outbound(&udp((HOST_IP, 1), (MEMBER_IP, 2), &[0; 1372]));
    let big = outbound(&udp((HOST_IP, 1), (MEMBER_IP, 2), &[0; 1373]));
    let forwarded = |outbound| matches!(outbound, Outbound::Forward { .. });
    assert!(forwarded(local.outbound_sized(&exact, PLAIN)));
    assert!(forwarded(local.outbound(&big)));
    assert_eq!(local.outbound_sized(&big, PLAIN), Outbound::Control);
    let super_frame = Offload { flags: 1, gso_type: 5, gso_size: 700, csum_start: 34, csum_offset: 6, hdr_len: 42 };
    assert!(forwarded(local.outbound_sized(&big, super_frame)));
    let may_be_cut = fragment(udp((HOST_IP, 1), (MEMBER_IP, 2), &[0; 1373]), 0);
    assert!(forwarded(local.outbound_sized(&outbound(&may_be_cut), PLAIN)));
}

#[test]
fn the_view_is_replaced_only_when_something_changed() {
    let mut bench = bench();
    let view = bench.bridge.local();
    bench.bridge.set_host(HOST_IP, HOST);
    bench.bridge.set_host(SERVICE, HOST);
    bench.bridge.set_host(Ipv4Addr::new(8, 8, 8, 8), HOST);
    bench.bridge.permit(peer(1), MEMBER_IP);
    bench.bridge.permit(peer(1), SERVICE);
    bench.bridge.forbid(peer(2), MEMBER_IP);
    bench.bridge.forbid_all(peer(2));
    bench.bridge.remove_host(member(99));
    bench.hear(&outbound(&numbered(member(99), 1)));
    bench.bridge.handle_timeout(bench.now);
    assert!(Arc::ptr_eq(&view, &bench.bridge.local()));
    bench.bridge.remove_host(HOST_IP);
    assert!(!Arc::ptr_eq(&view, &bench.bridge.local()));
    assert_eq!(view.host(HOST_IP), Some(HOST));
    assert_eq!(bench.bridge.local().host(HOST_IP), None);
}
