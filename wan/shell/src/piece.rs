//! What a super-frame stands for: the packets that the wire would carry, and super-frames of some of them.
//!
//! Pure. As the kernel cuts, and as `bridge::segment` does to the last byte (the tests hold one against the other): the IP
//! identification counts up, FIN and PSH stay with the last packet, CWR with the first.

use std::ops::Range;

use bridge::Offload;
use bridge::offload::{ETHERNET, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_UDP_L4, NEEDS_CSUM};

/// A TCP super-frame over IPv6.
const GSO_TCPV6: u8 = 4;
/// Octets of the longest headers that are cut, Ethernet included: those of IPv4 and TCP with all options fit.
pub(crate) const MAX_HEADERS: usize = 256;

const TCP_FLAGS: usize = 13;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ip {
    V4,
    V6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Tcp,
    Udp,
}

/// How a super-frame divides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    ip: Ip,
    kind: Transport,
    offload: Offload,
    /// Where the transport's header begins, in the frame.
    transport: usize,
    /// Octets of all headers.
    headers: usize,
    /// Octets of payload in all, and in each packet but the last.
    payload: usize,
    size: usize,
}

/// The headers of a piece, and where its payload lies in the super-frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// What is left to do to it.
    pub(crate) offload: Offload,
    /// Octets of its headers.
    pub(crate) headers: usize,
    /// Its payload.
    pub(crate) payload: Range<usize>,
}

impl Cut {
    /// Reads a super-frame's headers; nothing if it is none, or none that could be cut here.
    pub(crate) fn of(frame: &[u8], offload: Offload) -> Option<Self> {
        if !offload.is_super_frame() || !offload.needs_checksum() {
            return None;
        }
        let (ip, kind) = match (offload.gso_type & !GSO_ECN, frame.get(ETHERNET)? >> 4) {
            (GSO_TCPV4, 4) => (Ip::V4, Transport::Tcp),
            (GSO_TCPV6, 6) => (Ip::V6, Transport::Tcp),
            (GSO_UDP_L4, 4) => (Ip::V4, Transport::Udp),
            (GSO_UDP_L4, 6) => (Ip::V6, Transport::Udp),
            _ => return None,
        };
        let transport = usize::from(offload.csum_start);
        let shortest = match ip {
            Ip::V4 => ETHERNET + 20,
            Ip::V6 => ETHERNET + 40,
        };
        let headers = match kind {
            Transport::Tcp => transport + usize::from(frame.get(transport + 12)? >> 4) * 4,
            Transport::Udp => transport + 8,
        };
        let least = transport + if kind == Transport::Tcp { 20 } else { 8 };
        let size = usize::from(offload.gso_size);
        let payload = frame.len().checked_sub(headers)?;
        let sound = transport >= shortest && headers >= least && headers <= MAX_HEADERS && size > 0 && payload > 0;
        sound.then_some(Self { ip, kind, offload, transport, headers, payload, size })
    }

    /// How many packets it stands for.
    pub(crate) fn packets(&self) -> usize {
        self.payload.div_ceil(self.size)
    }

    /// Octets of the IP packet of this number.
    pub(crate) fn octets(&self, number: usize) -> usize {
        let payload = self.payload.saturating_sub(number * self.size).min(self.size);
        self.headers - ETHERNET + payload
    }

    /// The frame that stands for these packets: its headers are written into `headers`.
    pub(crate) fn piece(&self, frame: &[u8], packets: Range<usize>, headers: &mut [u8; MAX_HEADERS]) -> Piece {
        let start = self.headers + packets.start * self.size;
        let payload = start..(self.headers + self.payload.min(packets.end * self.size)).max(start);
        let out = &mut headers[..self.headers];
        out.copy_from_slice(&frame[..self.headers]);
        let is_last = packets.end >= self.packets();
        self.adjust_ip(out, packets.start, payload.len());
        self.adjust_transport(out, packets.start, payload.len(), is_last);
        self.begin_checksum(out, payload.len());
        Piece { offload: self.offload_of(&packets), headers: self.headers, payload }
    }

    fn offload_of(&self, packets: &Range<usize>) -> Offload {
        let partial = Offload { flags: NEEDS_CSUM, gso_type: GSO_NONE, gso_size: 0, hdr_len: 0, ..self.offload };
        if packets.len() < 2 {
            return partial;
        }
        let ecn = if packets.start == 0 { self.offload.gso_type } else { self.offload.gso_type & !GSO_ECN };
        Offload { gso_type: ecn, gso_size: self.offload.gso_size, hdr_len: low16(self.headers), ..partial }
    }

    fn adjust_ip(&self, headers: &mut [u8], first: usize, payload: usize) {
        let packet = &mut headers[ETHERNET..];
        let octets = self.headers - ETHERNET + payload;
        match self.ip {
            Ip::V4 => {
                let id = read16(packet, 4).wrapping_add(low16(first));
                write16(packet, 2, low16(octets));
                write16(packet, 4, id);
                write16(packet, 10, 0);
                let checksum = !fold(sum(&packet[..self.transport - ETHERNET]));
                write16(packet, 10, checksum);
            }
            Ip::V6 => write16(packet, 4, low16(octets - 40)),
        }
    }

    fn adjust_transport(&self, headers: &mut [u8], first: usize, payload: usize, is_last: bool) {
        let transport = &mut headers[self.transport..];
        match self.kind {
            Transport::Tcp => {
                let begun = u32::from(read16(transport, 4)) << 16 | u32::from(read16(transport, 6));
                let offset = u32::try_from(first * self.size).unwrap_or(u32::MAX);
                transport[4..8].copy_from_slice(&begun.wrapping_add(offset).to_be_bytes());
                let flags = &mut transport[TCP_FLAGS];
                if first > 0 {
                    *flags &= !CWR;
                }
                if !is_last {
                    *flags &= !(FIN | PSH);
                }
            }
            Transport::Udp => write16(transport, 4, low16(8 + payload)),
        }
    }

    /// The sum over the pseudo header alone (RFC 9293 section 3.1, RFC 8200 section 8.1): whoever receives it adds the rest.
    fn begin_checksum(&self, headers: &mut [u8], payload: usize) {
        let (addresses, protocol) = match self.ip {
            Ip::V4 => (ETHERNET + 12..ETHERNET + 20, ETHERNET + 9),
            Ip::V6 => (ETHERNET + 8..ETHERNET + 40, 0),
        };
        let protocol = match (self.ip, self.kind) {
            (Ip::V4, _) => headers[protocol],
            (Ip::V6, Transport::Tcp) => 6,
            (Ip::V6, Transport::Udp) => 17,
        };
        let octets = self.headers - self.transport + payload;
        let begun = sum(&headers[addresses]) + u64::from(protocol) + u64::from(low16(octets));
        let field = self.transport + usize::from(self.offload.csum_offset).min(self.headers - self.transport - 2);
        write16(headers, field, fold(begun));
    }
}

/// Lengths and numbers in headers have sixteen bits, and no frame is longer.
fn low16(value: usize) -> u16 {
    u16::try_from(value & 0xffff).unwrap_or(u16::MAX)
}

pub(crate) fn read16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn write16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Adds the words of an even number of octets (RFC 1071).
fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks_exact(2).map(|word| u64::from(read16(word, 0))).sum()
}

/// Folds the carries in.
pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frames::{cut_by_bridge, super_frame};

    fn cut_here(frame: &[u8], offload: Offload, packets: Range<usize>) -> (Vec<u8>, Offload) {
        let cut = Cut::of(frame, offload).expect("it can be cut");
        let mut headers = [0xee; MAX_HEADERS];
        let piece = cut.piece(frame, packets, &mut headers);
        ([&headers[..piece.headers], &frame[piece.payload]].concat(), piece.offload)
    }

    fn any_frame() -> impl Strategy<Value = (Vec<u8>, Offload)> {
        let kind = prop_oneof![Just(GSO_TCPV4), Just(GSO_UDP_L4)];
        (kind, 600_u16..1500, 2..40_usize, 0..600_usize, any::<u8>(), 0..=10_usize).prop_map(
            |(kind, size, packets, short, flags, options)| {
                super_frame(kind, packets * usize::from(size) - short, size, flags, options)
            },
        )
    }

    proptest! {
        #[test]
        fn one_packet_is_what_the_bridge_cuts((frame, offload) in any_frame()) {
            let cut = Cut::of(&frame, offload).expect("it can be cut");
            let all = cut_by_bridge(&frame, offload);
            prop_assert_eq!(cut.packets(), all.len());
            for (number, one) in all.iter().enumerate() {
                prop_assert_eq!(cut.octets(number), one.0.len() - ETHERNET);
                prop_assert_eq!(&cut_here(&frame, offload, number..number + 1), one);
            }
        }

        #[test]
        fn a_piece_stands_for_its_packets((frame, offload) in any_frame(), one in 0.0..1.0_f64, other in 0.0..1.0_f64) {
            let all = cut_by_bridge(&frame, offload);
            let at = |share: f64| (share * (all.len() + 1) as f64) as usize;
            let (first, end) = (at(one.min(other)), at(one.max(other)));
            if end - first >= 2 {
                let (piece, said) = cut_here(&frame, offload, first..end);
                prop_assert_eq!(said.check(&piece[ETHERNET..]), Ok(said));
                prop_assert_eq!(cut_by_bridge(&piece, said), &all[first..end]);
            }
        }
    }

    #[test]
    fn whatever_a_frame_says_nothing_panics() {
        let (frame, offload) = super_frame(GSO_TCPV4, 5000, 1000, 0, 3);
        for length in 0..frame.len() {
            for offload in [offload, Offload { csum_start: length as u16, ..offload }] {
                if let Some(cut) = Cut::of(&frame[..length], offload) {
                    let piece = cut.piece(&frame[..length], 0..1, &mut [0; MAX_HEADERS]);
                    assert!(piece.payload.end <= length);
                }
            }
        }
    }

    #[test]
    fn with_ipv6_length_and_sum_are_those_of_the_piece() {
        let (mut frame, offload) = super_frame(GSO_UDP_L4, 3000, 1200, 0, 0);
        let mut ip = vec![0x60, 0, 0, 0, 0x0b, 0xc0, 17, 64];
        ip.extend((0..32).map(|n: u8| n * 7));
        frame.splice(ETHERNET..34, ip);
        let offload = Offload { csum_start: 54, ..offload };
        let cut = Cut::of(&frame, offload).expect("it can be cut");
        assert_eq!((cut.packets(), cut.octets(0), cut.octets(2)), (3, 1248, 648));
        let (piece, said) = cut_here(&frame, offload, 1..3);
        assert_eq!((said.gso_size, said.hdr_len, piece.len()), (1200, 62, 62 + 1800));
        assert_eq!((read16(&piece, 18), read16(&piece, 58)), (1808, 1808));
        let begun = sum(&piece[22..54]) + 17 + 1808;
        assert_eq!(read16(&piece, 60), fold(begun));
        assert_eq!(&piece[62..], &frame[62 + 1200..]);
    }
}
