//! Bytes of the packets that we send ourselves.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::DropReason;
use crate::checksum::{fold, pseudo_header, sum};
use crate::ipv4::{ICMP, Ipv4, MIN_HEADER, UDP};

/// ICMP messages about a packet that went no further (RFC 792).
#[derive(Clone, Copy, Debug)]
pub(crate) enum IcmpError {
    /// Nobody has the destination address.
    HostUnreachable,
    /// The virtual server has no such port.
    PortUnreachable,
    /// It is too big and may not be cut; this is the size that fits (RFC 1191 section 4).
    FragmentationNeeded(u16),
}

/// RFC 1812 section 4.3.2.3: quote as much as fits without exceeding 576 bytes.
const MAX_ERROR: usize = 576;

/// A UDP datagram in its packet.
pub(crate) fn udp(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8], mtu: u16) -> Result<Vec<u8>, DropReason> {
    let len = 8 + payload.len();
    if MIN_HEADER + len > usize::from(mtu) {
        return Err(DropReason::Oversize);
    }
    let mut datagram = Vec::with_capacity(len);
    datagram.extend(from.port().to_be_bytes());
    datagram.extend(to.port().to_be_bytes());
    datagram.extend((len as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    let pseudo = pseudo_header(*from.ip(), *to.ip(), UDP, len);
    // RFC 768: a sum of zero is sent as all ones.
    let checksum = match !fold(pseudo + sum(&datagram)) {
        0 => 0xffff,
        checksum => checksum,
    };
    datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
    Ok(packet(UDP, *from.ip(), *to.ip(), &datagram))
}

/// The answer to a ping.
pub(crate) fn echo_reply(request: Ipv4<'_>) -> Vec<u8> {
    let mut message = request.payload().to_vec();
    message[0] = 0;
    finish_icmp(&mut message);
    packet(ICMP, request.destination(), request.source(), &message)
}

/// An ICMP error about `packet`, from `from` to whoever sent it.
pub(crate) fn icmp_error(from: Ipv4Addr, about: Ipv4<'_>, error: IcmpError) -> Vec<u8> {
    let (code, mtu) = match error {
        IcmpError::HostUnreachable => (1, 0),
        IcmpError::PortUnreachable => (3, 0),
        IcmpError::FragmentationNeeded(mtu) => (4, mtu),
    };
    let quoted = about.bytes().len().min(MAX_ERROR - MIN_HEADER - 8);
    let mut message = vec![3, code, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(&about.bytes()[..quoted]);
    finish_icmp(&mut message);
    packet(ICMP, from, about.source(), &message)
}

/// Whether an ICMP error about this packet is allowed at all (RFC 1122 section 3.2.2).
pub(crate) fn may_report(packet: Ipv4<'_>) -> bool {
    if packet.is_later_fragment() {
        return false;
    }
    // Errors and redirects are never answered with errors.
    let is_icmp_error =
        packet.protocol() == ICMP && packet.payload().first().is_none_or(|kind| matches!(kind, 3..=5 | 11 | 12));
    !is_icmp_error
}

fn finish_icmp(message: &mut [u8]) {
    message[2..4].fill(0);
    let checksum = !fold(sum(message));
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
}

fn packet(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(MIN_HEADER + payload.len());
    packet.extend([0x45, 0]);
    packet.extend(((MIN_HEADER + payload.len()) as u16).to_be_bytes());
    // RFC 6864 section 4.1: what may not be cut needs no identification.
    packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    let checksum = !fold(sum(&packet));
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(payload);
    packet
}
