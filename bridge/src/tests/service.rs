use std::net::SocketAddrV4;

use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr};

use super::*;
use crate::DnsClient;
use crate::offload::{DATA_VALID, NEEDS_CSUM};

fn query(message: &[u8]) -> Vec<u8> {
    outbound(&udp((HOST_IP, 4242), (SERVICE, 53), message))
}

fn client() -> DnsClient {
    DnsClient::Udp { addr: SocketAddrV4::new(HOST_IP, 4242), mac: HOST }
}

fn ping(payload: &[u8]) -> Vec<u8> {
    let repr = Icmpv4Repr::EchoRequest { ident: 7, seq_no: 1, data: payload };
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes), &ChecksumCapabilities::default());
    ipv4(IpProtocol::Icmp, HOST_IP, SERVICE, &bytes)
}

#[test]
fn a_dns_question_is_handed_out_and_its_answer_goes_back() {
    let mut bench = Bench::new();
    bench.hear(&query(b"a question"));
    assert_eq!(bench.events(), [Event::Dns { client: client(), message: b"a question".to_vec() }]);
    bench.bridge.send_dns(client(), b"an answer", bench.now);
    let answer = udp((SERVICE, 53), (HOST_IP, 4242), b"an answer");
    assert_eq!(bench.frames(), [ethernet(HOST, GATEWAY, 0x0800, &answer)]);
}

#[test]
fn strangers_get_no_dns() {
    let mut bench = Bench::new();
    bench.hear(&outbound(&udp((member(99), 4242), (SERVICE, 53), b"a question")));
    bench.assert_only_drop(DropReason::SpoofedSource);
}

#[test]
fn what_the_kernel_vouches_for_is_not_verified() {
    let mut frame = query(b"a question");
    frame[14 + 26] ^= 0xff;
    for flags in [NEEDS_CSUM, DATA_VALID] {
        let mut bench = Bench::new();
        let offload = Offload { flags, csum_start: 34, csum_offset: 6, ..PLAIN };
        bench.bridge.handle_frame(&frame, offload, bench.now);
        assert_eq!(bench.events().len(), 1);
    }
    let mut bench = Bench::new();
    bench.hear(&frame);
    bench.assert_only_drop(DropReason::BadChecksum);
}

#[test]
fn the_service_answers_a_ping() {
    let mut bench = Bench::new();
    bench.hear(&outbound(&ping(b"abcdefg")));
    let repr = Icmpv4Repr::EchoReply { ident: 7, seq_no: 1, data: b"abcdefg" };
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes), &ChecksumCapabilities::default());
    let reply = ipv4(IpProtocol::Icmp, SERVICE, HOST_IP, &bytes);
    assert_eq!(bench.frames(), [ethernet(HOST, GATEWAY, 0x0800, &reply)]);
}

#[test]
fn other_requests_are_refused_by_name() {
    let mut broken = ping(b"abc");
    broken[30] ^= 1;
    let mut piece = ping(b"abc");
    piece[6] = 0x20;
    fix_header(&mut piece);
    let mut reply = ping(b"");
    reply[20] = 0;
    reply[22] += 8;
    for (packet, reason) in [
        (broken, DropReason::BadChecksum),
        (piece, DropReason::ServiceFragment),
        (reply, DropReason::NoService),
        (ipv4(IpProtocol::Icmp, HOST_IP, SERVICE, &[8, 0, 0xf7, 0xff]), DropReason::BadTransport),
        (ipv4(IpProtocol::Unknown(132), HOST_IP, SERVICE, &[0; 40]), DropReason::NoService),
        (ipv4(IpProtocol::Udp, HOST_IP, SERVICE, &[0; 7]), DropReason::BadTransport),
    ] {
        let mut bench = Bench::new();
        bench.hear(&outbound(&packet));
        bench.assert_only_drop(reason);
    }
}

#[test]
fn a_port_without_a_server_is_unreachable() {
    let mut bench = Bench::new();
    let packet = udp((HOST_IP, 4242), (SERVICE, 123), b"what time is it");
    bench.hear(&outbound(&packet));
    let [frame] = &bench.frames()[..] else { panic!("one ICMP error") };
    let icmp = Icmpv4Packet::new_checked(&frame[34..]).unwrap();
    assert!(icmp.verify_checksum());
    assert_eq!(frame[34..36], [3, 3]);
    assert_eq!(frame[42..], packet);
    assert_eq!(bench.dropped(DropReason::NoService), 1);
}
