use super::*;
use crate::DhcpDestination;
use crate::offload::NEEDS_CSUM;

const CLIENT: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 0x77]);

fn discover(payload: &[u8]) -> Vec<u8> {
    let packet = udp((Ipv4Addr::UNSPECIFIED, 68), (Ipv4Addr::BROADCAST, 67), payload);
    ethernet(EthernetAddress::BROADCAST, CLIENT, 0x0800, &packet)
}

fn heard(message: &[u8]) -> Vec<Event> {
    vec![Event::Dhcp { source: CLIENT, message: message.to_vec() }]
}

#[test]
fn a_client_without_an_address_is_heard() {
    let mut bench = Bench::new();
    bench.hear(&discover(b"discover"));
    assert_eq!(bench.events(), heard(b"discover"));
    assert!(bench.bridge.drops().is_empty());
}

#[test]
fn a_client_is_heard_whatever_address_it_has() {
    for (from, to, mac) in [
        (member(50), SERVICE, GATEWAY),
        (HOST_IP, SERVICE, GATEWAY),
        (member(50), Ipv4Addr::BROADCAST, EthernetAddress::BROADCAST),
        (member(50), Ipv4Addr::new(10, 64, 255, 255), EthernetAddress::BROADCAST),
    ] {
        let mut bench = Bench::new();
        bench.hear(&ethernet(mac, CLIENT, 0x0800, &udp((from, 68), (to, 67), b"renew")));
        assert_eq!(bench.events(), heard(b"renew"));
    }
}

#[test]
fn a_checksum_is_verified_where_there_is_one() {
    let mut bench = Bench::new();
    let mut frame = discover(b"discover");
    frame[14 + 26] ^= 0xff;
    bench.hear(&frame);
    bench.assert_only_drop(DropReason::BadChecksum);
    // A local socket's is only begun.
    let begun = Offload { flags: NEEDS_CSUM, csum_start: 34, csum_offset: 6, ..PLAIN };
    bench.bridge.handle_frame(&frame, begun, bench.now);
    assert_eq!(bench.events(), heard(b"discover"));
    frame[14 + 26..14 + 28].fill(0);
    bench.hear(&frame);
    assert_eq!(bench.events(), heard(b"discover"));
}

#[test]
fn broken_messages_are_dropped_by_name() {
    let mut lengths = discover(b"discover");
    lengths[14 + 25] += 1;
    let mut header = discover(b"discover");
    header[14 + 8] ^= 1;
    let mut fragment = discover(b"discover");
    fragment[14 + 6] = 0x20;
    fix_header(&mut fragment[14..]);
    for (frame, reason) in [
        (lengths, DropReason::BadTransport),
        (header, DropReason::BadChecksum),
        (fragment, DropReason::ServiceFragment),
    ] {
        let mut bench = Bench::new();
        bench.hear(&frame);
        bench.assert_only_drop(reason);
    }
}

#[test]
fn replies_come_from_the_service() {
    let mut bench = Bench::new();
    bench.bridge.send_dhcp(DhcpDestination::Broadcast, b"offer", bench.now);
    bench.bridge.send_dhcp(DhcpDestination::Unicast { mac: CLIENT, ip: member(50) }, b"ack", bench.now);
    let offer = udp((SERVICE, 67), (Ipv4Addr::BROADCAST, 68), b"offer");
    let ack = udp((SERVICE, 67), (member(50), 68), b"ack");
    assert_eq!(
        bench.frames(),
        [ethernet(EthernetAddress::BROADCAST, GATEWAY, 0x0800, &offer), ethernet(CLIENT, GATEWAY, 0x0800, &ack),]
    );
}

#[test]
fn a_reply_has_these_bytes() {
    let mut bench = Bench::new();
    bench.bridge.send_dhcp(DhcpDestination::Broadcast, &[0xab], bench.now);
    assert_eq!(
        bench.frames(),
        [[
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 0, // Ethernet
            0x45, 0, 0, 29, 0, 0, 0x40, 0, 64, 17, 0x30, 0x90, 10, 64, 0, 1, 255, 255, 255, 255, // IPv4
            0, 67, 0, 68, 0, 9, 0x4a, 0x14, // UDP
            0xab,
        ]]
    );
}

#[test]
fn a_reply_that_does_not_fit_is_counted() {
    let mut bench = Bench::new();
    bench.bridge.send_dhcp(DhcpDestination::Broadcast, &[0; 1373], bench.now);
    bench.assert_only_drop(DropReason::Oversize);
    bench.bridge.send_dhcp(DhcpDestination::Broadcast, &[0; 1372], bench.now);
    assert_eq!(bench.frames().len(), 1);
}
