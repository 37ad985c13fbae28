use super::*;
use crate::fuzz::MEMBER_IP;
use crate::offload::{GSO_ECN, GSO_TCPV4, GSO_UDP_L4, NEEDS_CSUM};
use crate::{complete_checksum, settle};

/// What this kernel put before a UDP super-frame of 9652 bytes.
const CAPTURED: [u8; 10] = [1, 5, 42, 0, 0xb0, 4, 34, 0, 6, 0];

fn partial(csum_offset: u16) -> Offload {
    Offload { flags: NEEDS_CSUM, csum_start: 34, csum_offset, ..PLAIN }
}

fn tcp(payload: usize) -> Vec<u8> {
    let mut segment = vec![0; 20 + payload];
    segment[12] = 0x50;
    ipv4(IpProtocol::Tcp, MEMBER_IP, HOST_IP, &segment)
}

fn datagram(payload: usize) -> Vec<u8> {
    udp((MEMBER_IP, 1), (HOST_IP, 2), &vec![0; payload])
}

#[test]
fn the_kernels_header_is_ten_little_endian_bytes() {
    let offload = Offload { flags: 1, gso_type: 5, hdr_len: 42, gso_size: 1200, csum_start: 34, csum_offset: 6 };
    assert_eq!(Offload::parse(&CAPTURED), Ok(offload));
    assert_eq!(offload.emit(), CAPTURED);
    assert_eq!(Offload::parse(&CAPTURED[..9]), Err(DropReason::BadOffload));
    assert_eq!(Offload::parse(&[0; 12]), Ok(PLAIN));
}

#[test]
fn the_meaning_crosses_in_eight_bytes() {
    for (offload, packet, bytes) in [
        (PLAIN, tcp(5), [0; 8]),
        (partial(16), tcp(5), [1, 0, 0, 0, 0, 20, 16, 0]),
        (partial(6), datagram(5), [1, 0, 0, 0, 0, 20, 6, 0]),
        (
            Offload { gso_type: GSO_TCPV4, gso_size: 1348, hdr_len: 54, ..partial(16) },
            tcp(4000),
            [1, 1, 5, 0x44, 0, 20, 16, 0],
        ),
        (
            Offload { gso_type: GSO_TCPV4 | GSO_ECN, gso_size: 1348, hdr_len: 54, ..partial(16) },
            tcp(4000),
            [1, 0x81, 5, 0x44, 0, 20, 16, 0],
        ),
        (
            Offload { gso_type: GSO_UDP_L4, gso_size: 1200, hdr_len: 42, ..partial(6) },
            datagram(9600),
            [1, 5, 4, 0xb0, 0, 20, 6, 0],
        ),
    ] {
        assert_eq!(offload.to_wire(), bytes);
        assert_eq!(Offload::from_wire(bytes, &packet), Ok(offload));
    }
}

#[test]
fn what_the_kernel_only_vouches_for_is_plain_to_a_peer() {
    let valid = Offload { flags: 2, csum_start: 34, csum_offset: 6, ..PLAIN };
    assert!(valid.is_plain());
    assert_eq!(valid.to_wire(), [0; 8]);
}

#[test]
fn a_super_frame_of_one_segment_is_none() {
    let bytes = [1, 1, 5, 0x44, 0, 20, 16, 0];
    assert_eq!(Offload::from_wire(bytes, &tcp(1348)), Ok(partial(16)));
    let bytes = [1, 5, 4, 0xb0, 0, 20, 6, 0];
    assert_eq!(Offload::from_wire(bytes, &datagram(1200)), Ok(partial(6)));
}

#[test]
fn a_peer_is_believed_only_as_far_as_its_packet_agrees() {
    let mut options = tcp(100);
    options[32] = 0xf0;
    let mut short_options = tcp(100);
    short_options[32] = 0x40;
    let mut fragment = datagram(100);
    fragment[6] = 0x20;
    let trailing = [datagram(100), vec![0]].concat();
    let other = ipv4(IpProtocol::Unknown(132), MEMBER_IP, HOST_IP, &[0; 40]);
    let cases: &[(&str, [u8; 8], Vec<u8>)] = &[
        ("a checksum in the wrong place", [1, 0, 0, 0, 0, 20, 6, 0], tcp(100)),
        ("a checksum in the wrong place", [1, 0, 0, 0, 0, 20, 16, 0], datagram(100)),
        ("a start inside the header", [1, 0, 0, 0, 0, 12, 16, 0], tcp(100)),
        ("a start far away", [1, 0, 0, 0, 0xff, 0xff, 16, 0], tcp(100)),
        ("a size without a kind", [1, 0, 0, 1, 0, 20, 16, 0], tcp(100)),
        ("an unknown flag", [5, 0, 0, 0, 0, 20, 16, 0], tcp(100)),
        ("validity", [2, 0, 0, 0, 0, 0, 0, 0], tcp(100)),
        ("a kind without a checksum", [0, 1, 5, 0x44, 0, 0, 0, 0], tcp(4000)),
        ("UDP as TCP", [1, 1, 4, 0xb0, 0, 20, 6, 0], datagram(9600)),
        ("TCP as UDP", [1, 5, 4, 0xb0, 0, 20, 16, 0], tcp(4000)),
        ("TCP of IPv6", [1, 4, 4, 0xb0, 0, 20, 16, 0], tcp(4000)),
        ("fragmented UDP", [1, 3, 4, 0xb0, 0, 20, 6, 0], datagram(9600)),
        ("ECN for UDP", [1, 0x85, 4, 0xb0, 0, 20, 6, 0], datagram(9600)),
        ("segments of nothing", [1, 1, 0, 0, 0, 20, 16, 0], tcp(4000)),
        ("datagrams of nothing", [1, 5, 0, 0, 0, 20, 6, 0], datagram(9600)),
        ("tiny segments", [1, 1, 0, 47, 0, 20, 16, 0], tcp(4000)),
        ("too many datagrams", [1, 5, 0, 10, 0, 20, 6, 0], datagram(1281)),
        ("reserved byte", [1, 0, 0, 0, 0, 20, 16, 1], tcp(100)),
        ("options longer than the packet", [1, 0, 0, 0, 0, 20, 16, 0], options[..60].to_vec()),
        ("a header shorter than TCP's", [1, 0, 0, 0, 0, 20, 16, 0], short_options),
        ("a fragment", [1, 0, 0, 0, 0, 20, 6, 0], fragment),
        ("trailing bytes", [1, 0, 0, 0, 0, 20, 6, 0], trailing),
        ("another transport", [1, 0, 0, 0, 0, 20, 16, 0], other),
        ("no packet", [1, 0, 0, 0, 0, 20, 16, 0], vec![]),
    ];
    for (what, bytes, packet) in cases {
        assert!(Offload::from_wire(*bytes, packet).is_err(), "{what}");
    }
    assert!(Offload::from_wire([1, 5, 0, 10, 0, 20, 6, 0], &datagram(1280)).is_ok());
    assert!(Offload::from_wire([1, 1, 0, 48, 0, 20, 16, 0], &tcp(4000)).is_ok());
}

#[test]
fn a_checksum_is_completed_as_its_sender_would_have() {
    for payload in [0, 1, 2, 999, 1000] {
        let whole: Vec<u8> = (0..payload).map(|n| (n * 31 + 7) as u8).collect();
        let complete = outbound(&udp((HOST_IP, 1000), (MEMBER_IP, 2000), &whole));
        let mut frame = complete.clone();
        let len = 8 + payload;
        let pseudo = [10, 64, 0, 9, 10, 64, 0, 7, 0, 17, (len >> 8) as u8, len as u8];
        let begun = crate::checksum::fold(crate::checksum::sum(&pseudo));
        frame[40..42].copy_from_slice(&begun.to_be_bytes());
        // Padding of the wire is not part of the packet.
        frame.extend([0xaa; 3]);
        assert_eq!(complete_checksum(&mut frame, partial(6)), Ok(()));
        assert_eq!(frame[..complete.len()], complete);
    }
}

#[test]
fn a_udp_checksum_is_never_zero() {
    // The sum over all of this is 0xffff, whose complement would say that there is no checksum.
    let mut frame = outbound(&ipv4(IpProtocol::Udp, HOST_IP, MEMBER_IP, &[0, 0, 0, 0, 0, 8, 0xff, 0xf7]));
    assert_eq!(complete_checksum(&mut frame, partial(6)), Ok(()));
    assert_eq!(frame[40..], [0xff, 0xff]);
}

#[test]
fn a_checksum_outside_the_packet_is_refused() {
    let frame = outbound(&datagram(4));
    for offload in [
        partial(11),
        partial(u16::MAX),
        Offload { csum_start: 33, ..partial(6) },
        Offload { csum_start: u16::MAX, ..partial(6) },
        Offload { gso_type: GSO_UDP_L4, gso_size: 2, ..partial(6) },
    ] {
        let mut changed = frame.clone();
        assert_eq!(complete_checksum(&mut changed, offload), Err(DropReason::BadOffload));
        assert_eq!(changed, frame);
    }
    assert_eq!(complete_checksum(&mut [0; 13], partial(6)), Err(DropReason::ShortFrame));
    assert_eq!(complete_checksum(&mut frame.clone(), PLAIN), Ok(()));
}

#[test]
fn settling_leaves_only_what_a_peer_believes() {
    let mut packet = datagram(100);
    assert_eq!(settle(&mut packet, partial(6)), Ok(partial(6)));
    // The kernel's idea of the headers' length is a hint; one segment is no super-frame.
    let hint = Offload { hdr_len: 99, gso_type: GSO_UDP_L4, gso_size: 60, ..partial(6) };
    assert_eq!(settle(&mut packet, hint), Ok(Offload { hdr_len: 42, ..hint }));
    let one = Offload { gso_size: 100, ..hint };
    assert_eq!(settle(&mut packet, one), Ok(partial(6)));
    let elsewhere = Offload { csum_start: 42, ..partial(2) };
    let before = packet.clone();
    assert_eq!(settle(&mut packet, elsewhere), Ok(PLAIN));
    assert_ne!(packet, before);
    let strange = Offload { gso_type: 4, gso_size: 60, ..partial(6) };
    assert_eq!(settle(&mut packet, strange), Err(DropReason::BadOffload));
}
