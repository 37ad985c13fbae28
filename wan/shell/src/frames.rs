//! Frames as a kernel hands them over, for tests.

use bridge::Offload;
use bridge::offload::{ETHERNET, GSO_ECN, GSO_TCPV4, GSO_UDP_L4, NEEDS_CSUM};

use crate::piece::write16;

/// Congestion window reduced, in TCP's flags.
const CWR: u8 = 0x80;

/// A super-frame of TCP or UDP ([`GSO_TCPV4`], [`GSO_UDP_L4`]) over IPv4 with so many octets of payload.
pub(crate) fn super_frame(kind: u8, payload: usize, size: u16, flags: u8, options: usize) -> (Vec<u8>, Offload) {
    let is_tcp = kind == GSO_TCPV4;
    let (protocol, transport) = if is_tcp { (6, 20 + options * 4) } else { (17, 8) };
    let mut frame = vec![0x22; ETHERNET];
    let octets = 20 + transport + payload;
    frame.extend_from_slice(&[0x45, 0, 0, 0, 0xff, 0xfd, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 255, 2]);
    frame.extend((0..transport).map(|n| n as u8 ^ 0x5a));
    frame.extend((0..payload).map(|n| (n * 7 % 251) as u8));
    write16(&mut frame, ETHERNET + 2, octets as u16);
    if is_tcp {
        frame[34 + 4..34 + 8].copy_from_slice(&0xffff_f000_u32.to_be_bytes());
        frame[34 + 12] = ((5 + options) as u8) << 4;
        frame[34 + 13] = flags;
    }
    let gso_type = if is_tcp && flags & CWR != 0 { kind | GSO_ECN } else { kind };
    let (hdr_len, csum_offset) = ((34 + transport) as u16, if is_tcp { 16 } else { 6 });
    (frame, Offload { flags: NEEDS_CSUM, gso_type, hdr_len, gso_size: size, csum_start: 34, csum_offset })
}

/// The packets that it stands for, as `bridge` cuts them.
pub(crate) fn cut_by_bridge(frame: &[u8], offload: Offload) -> Vec<(Vec<u8>, Offload)> {
    let mut all = Vec::new();
    let mut each = |head: &[u8], rest: &[u8], offload: Offload| {
        all.push(([head, rest].concat(), Offload { hdr_len: 0, ..offload }));
    };
    bridge::segment(frame, offload, 65_535, &mut each).expect("it can be cut");
    all
}

/// Either kind.
pub(crate) const KINDS: [u8; 2] = [GSO_TCPV4, GSO_UDP_L4];
