//! The headers of an unfinished TCP or UDP packet whose payload lies elsewhere.

use std::net::Ipv4Addr;

use crate::checksum::{fold, pseudo_header, sum};
use crate::offload::{Kind, Layout};

/// The longest: IPv4 and TCP, each with all the options there is room for (RFC 791 section 3.1, RFC 9293 section 3.1).
pub const MAX_HEADERS: usize = 60 + 60;

pub(crate) const TCP_FLAGS: usize = 13;
pub(crate) const FIN: u8 = 0x01;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const ECE: u8 = 0x40;
pub(crate) const CWR: u8 = 0x80;

/// Makes `headers` those of a packet with that many bytes of payload: the lengths, the checksum of IPv4, and what a
/// partial checksum begins with.
pub(crate) fn set_lengths(headers: &mut [u8], layout: Layout, payload: usize) {
    let packet = layout.payload + payload;
    put(headers, 2, (packet as u16).to_be_bytes());
    put(headers, 10, [0, 0]);
    let checksum = !fold(sum(&headers[..layout.transport]));
    put(headers, 10, checksum.to_be_bytes());
    let segment = packet - layout.transport;
    if layout.kind == Kind::Udp {
        put(headers, layout.transport + 4, (segment as u16).to_be_bytes());
    }
    let field = layout.transport + usize::from(layout.kind.checksum_offset());
    put(headers, field, begun_checksum(headers, layout, segment).to_be_bytes());
}

/// What stands in the field of a partial checksum: the sum over the pseudo header.
fn begun_checksum(headers: &[u8], layout: Layout, segment: usize) -> u16 {
    fold(pseudo_header(address(headers, 12), address(headers, 16), layout.kind.protocol(), segment))
}

/// Whether the complete checksum of a packet is right. A datagram that says it has none (RFC 768) has no right one.
pub(crate) fn is_complete(packet: &[u8], layout: Layout) -> bool {
    let field = layout.transport + usize::from(layout.kind.checksum_offset());
    if layout.kind == Kind::Udp && packet[field..field + 2] == [0, 0] {
        return false;
    }
    let segment = &packet[layout.transport..];
    let begun = begun_checksum(packet, layout, segment.len());
    fold(sum(segment) + u32::from(begun)) == 0xffff
}

pub(crate) fn address(packet: &[u8], at: usize) -> Ipv4Addr {
    read_u32(packet, at).into()
}

pub(crate) fn read_u16(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

pub(crate) fn read_u32(packet: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]])
}

pub(crate) fn put<const N: usize>(packet: &mut [u8], at: usize, bytes: [u8; N]) {
    packet[at..at + N].copy_from_slice(&bytes);
}
