//! What a simulated ping carries, so that whoever sees it knows who really sent it, and the packets made by hand.

use std::net::Ipv4Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    Icmpv4Packet, Icmpv4Repr, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};

/// The identifier of every simulated ping.
pub(crate) const IDENT: u16 = 0x5150;
const MAGIC: [u8; 8] = *b"simprobe";
const ETHERNET: usize = 14;

/// Who really sent a ping, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The node whose guest, or which itself, made it.
    pub node: u32,
    /// Its number there.
    pub number: u32,
}

/// A probe in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The packet's source.
    pub source: Ipv4Addr,
    /// The packet's destination.
    pub destination: Ipv4Addr,
    /// Whether it is the request; else the answer, which carries the same probe back.
    pub is_request: bool,
    /// The probe.
    pub probe: Probe,
}

impl Probe {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        [&MAGIC[..], &self.node.to_be_bytes(), &self.number.to_be_bytes()].concat()
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (node, rest) = rest.split_first_chunk::<4>()?;
        let number = rest.first_chunk::<4>()?;
        (*magic == MAGIC).then_some(Self { node: u32::from_be_bytes(*node), number: u32::from_be_bytes(*number) })
    }
}

/// The probe in an Ethernet frame, if it is a ping.
pub(crate) fn in_frame(frame: &[u8]) -> Option<Seen> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
    if packet.next_header() != IpProtocol::Icmp {
        return None;
    }
    let icmp = Icmpv4Packet::new_checked(packet.payload()).ok()?;
    let repr = Icmpv4Repr::parse(&icmp, &ChecksumCapabilities::ignored()).ok()?;
    let (is_request, data) = if let Icmpv4Repr::EchoRequest { data, .. } = repr {
        (true, data)
    } else if let Icmpv4Repr::EchoReply { data, .. } = repr {
        (false, data)
    } else {
        return None;
    };
    let probe = Probe::parse(data)?;
    Some(Seen { source: packet.src_addr(), destination: packet.dst_addr(), is_request, probe })
}

/// A ping made by hand, as an IP packet: its source may be anybody's.
pub(crate) fn ping_packet(source: Ipv4Addr, destination: Ipv4Addr, probe: Probe) -> Vec<u8> {
    let checksums = ChecksumCapabilities::default();
    let data = probe.to_bytes();
    let icmp = Icmpv4Repr::EchoRequest { ident: IDENT, seq_no: 0, data: &data };
    let ip = Ipv4Repr {
        src_addr: source,
        dst_addr: destination,
        next_header: IpProtocol::Icmp,
        payload_len: icmp.buffer_len(),
        hop_limit: 64,
    };
    let mut bytes = vec![0; ip.buffer_len() + icmp.buffer_len()];
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[..]), &checksums);
    icmp.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes[ip.buffer_len()..]), &checksums);
    bytes
}

/// The same behind an Ethernet header.
pub(crate) fn framed(packet: &[u8], from: [u8; 6], to: [u8; 6]) -> Vec<u8> {
    let header = EthernetRepr {
        src_addr: EthernetAddress(from),
        dst_addr: EthernetAddress(to),
        ethertype: EthernetProtocol::Ipv4,
    };
    let mut bytes = vec![0; ETHERNET];
    header.emit(&mut EthernetFrame::new_unchecked(&mut bytes[..]));
    bytes.extend_from_slice(packet);
    bytes
}

/// A DHCPRELEASE (RFC 2131 section 4.4.4), which smoltcp's client does not send.
pub(crate) fn release_packet(mac: [u8; 6], address: Ipv4Addr, server: Ipv4Addr) -> Vec<u8> {
    let mac = EthernetAddress(mac);
    let dhcp = DhcpRepr {
        message_type: DhcpMessageType::Release,
        transaction_id: 1,
        secs: 0,
        client_hardware_address: mac,
        client_ip: address,
        your_ip: Ipv4Addr::UNSPECIFIED,
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: None,
        subnet_mask: None,
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: false,
        requested_ip: None,
        client_identifier: Some(mac),
        server_identifier: Some(server),
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: None,
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    };
    let udp = UdpRepr { src_port: 68, dst_port: 67 };
    let length = udp.header_len() + dhcp.buffer_len();
    let ip = Ipv4Repr {
        src_addr: address,
        dst_addr: server,
        next_header: IpProtocol::Udp,
        payload_len: length,
        hop_limit: 64,
    };
    let checksums = ChecksumCapabilities::default();
    let mut bytes = vec![0; ip.buffer_len() + length];
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[..]), &checksums);
    udp.emit(
        &mut UdpPacket::new_unchecked(&mut bytes[ip.buffer_len()..]),
        &IpAddress::Ipv4(address),
        &IpAddress::Ipv4(server),
        dhcp.buffer_len(),
        |payload| {
            dhcp.emit(&mut DhcpPacket::new_unchecked(payload)).expect("the buffer is as long as the message");
        },
        &checksums,
    );
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_made_by_hand_is_recognised() {
        let (a, b) = (Ipv4Addr::new(10, 70, 0, 2), Ipv4Addr::new(10, 70, 0, 3));
        let probe = Probe { node: 3, number: 9 };
        let frame = framed(&ping_packet(a, b, probe), [2; 6], [4; 6]);
        assert_eq!(in_frame(&frame), Some(Seen { source: a, destination: b, is_request: true, probe }));
        assert_eq!(in_frame(&frame[..20]), None);
    }
}
