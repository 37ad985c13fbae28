//! The virtual server behind the service address: DHCP and DNS messages go out as events, ping and everything
//! unwanted is answered here.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use smoltcp::wire::EthernetAddress;

use super::Bridge;
use crate::checksum::{fold, pseudo_header, sum};
use crate::compose::{IcmpError, echo_reply, udp};
use crate::dns_tcp::PORT as DNS;
use crate::ipv4::{ICMP, Ipv4, TCP, UDP};
use crate::offload::DATA_VALID;
use crate::{DhcpDestination, DnsClient, DropReason, Event, Offload};

const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;

/// A UDP datagram in its packet.
struct Datagram<'p> {
    source_port: u16,
    payload: &'p [u8],
}

impl Bridge {
    /// Sends a DHCP reply to the segment.
    pub fn send_dhcp(&mut self, to: DhcpDestination, message: &[u8], _now: Instant) {
        let (mac, ip) = match to {
            DhcpDestination::Broadcast => (EthernetAddress::BROADCAST, Ipv4Addr::BROADCAST),
            DhcpDestination::Unicast { mac, ip } => (mac, ip),
        };
        self.send_udp(DHCP_SERVER, SocketAddrV4::new(ip, DHCP_CLIENT), mac, message);
    }

    /// Sends a DNS reply the way its question came.
    pub fn send_dns(&mut self, to: DnsClient, message: &[u8], now: Instant) {
        match to {
            DnsClient::Udp { addr, mac } => self.send_udp(DNS, addr, mac, message),
            DnsClient::Tcp(connection) => {
                self.dns_tcp.send(connection, message, &mut self.drops, now);
                self.drain_dns_tcp();
            }
        }
    }

    /// Takes a DHCP message, whoever it comes from: a client that lost its address asks from it too.
    pub(super) fn serve_dhcp(
        &mut self,
        source: EthernetAddress,
        packet: Ipv4<'_>,
        offload: Offload,
    ) -> Result<(), DropReason> {
        let datagram = Datagram::parse(packet, offload)?;
        self.events.push_back(Event::Dhcp { source, message: datagram.payload.to_vec() });
        Ok(())
    }

    /// Takes a packet from a host of ours to the service address.
    pub(super) fn serve(
        &mut self,
        mac: EthernetAddress,
        packet: Ipv4<'_>,
        offload: Offload,
        now: Instant,
    ) -> Result<(), DropReason> {
        check_header(packet)?;
        match packet.protocol() {
            UDP => self.serve_udp(mac, packet, offload),
            TCP => {
                check_transport(packet, offload)?;
                self.dns_tcp.handle_packet(packet.bytes(), &mut self.drops, now);
                self.drain_dns_tcp();
                Ok(())
            }
            ICMP => self.serve_ping(packet),
            _ => Err(DropReason::NoService),
        }
    }

    /// Hands on what the connections have to say.
    pub(super) fn drain_dns_tcp(&mut self) {
        while let Some((connection, message)) = self.dns_tcp.poll_question() {
            self.events.push_back(Event::Dns { client: DnsClient::Tcp(connection), message });
        }
        while let Some(packet) = self.dns_tcp.poll_packet() {
            self.deliver_own(&packet);
        }
    }

    fn serve_udp(&mut self, mac: EthernetAddress, packet: Ipv4<'_>, offload: Offload) -> Result<(), DropReason> {
        let datagram = Datagram::parse(packet, offload)?;
        if packet.ports().is_none_or(|(_, to)| to != DNS) {
            self.report(packet, IcmpError::PortUnreachable);
            return Err(DropReason::NoService);
        }
        self.events.push_back(Event::Dns {
            client: DnsClient::Udp { addr: SocketAddrV4::new(packet.source(), datagram.source_port), mac },
            message: datagram.payload.to_vec(),
        });
        Ok(())
    }

    fn serve_ping(&mut self, packet: Ipv4<'_>) -> Result<(), DropReason> {
        let message = packet.payload();
        if packet.is_fragment() {
            return Err(DropReason::ServiceFragment);
        }
        if message.len() < 8 {
            return Err(DropReason::BadTransport);
        }
        if fold(sum(message)) != 0xffff {
            return Err(DropReason::BadChecksum);
        }
        if message[..2] != [8, 0] {
            return Err(DropReason::NoService);
        }
        let reply = echo_reply(packet);
        self.deliver_own(&reply);
        Ok(())
    }

    fn send_udp(&mut self, from_port: u16, to: SocketAddrV4, mac: EthernetAddress, message: &[u8]) {
        let from = SocketAddrV4::new(self.config.service, from_port);
        match udp(from, to, message, self.config.mtu) {
            Ok(packet) => self.write_frame(mac, &packet, Offload::default()),
            Err(reason) => self.drops.count(reason),
        }
    }
}

impl<'p> Datagram<'p> {
    fn parse(packet: Ipv4<'p>, offload: Offload) -> Result<Self, DropReason> {
        check_header(packet)?;
        if offload.is_super_frame() {
            return Err(DropReason::Oversize);
        }
        let bytes = packet.payload();
        let Some(&[s0, s1, _, _, l0, l1, c0, c1]) = bytes.first_chunk() else {
            return Err(DropReason::BadTransport);
        };
        let len = usize::from(u16::from_be_bytes([l0, l1]));
        if len < 8 || len != bytes.len() {
            return Err(DropReason::BadTransport);
        }
        // RFC 768: zero says that the sender made none.
        if [c0, c1] != [0, 0] {
            check_transport(packet, offload)?;
        }
        Ok(Self { source_port: u16::from_be_bytes([s0, s1]), payload: &bytes[8..] })
    }
}

fn check_header(packet: Ipv4<'_>) -> Result<(), DropReason> {
    if fold(sum(packet.header())) != 0xffff {
        return Err(DropReason::BadChecksum);
    }
    if packet.is_fragment() {
        return Err(DropReason::ServiceFragment);
    }
    Ok(())
}

/// Verifies the checksum of TCP or UDP where it is in the packet at all: a local socket's is only begun.
fn check_transport(packet: Ipv4<'_>, offload: Offload) -> Result<(), DropReason> {
    if offload.needs_checksum() || offload.flags & DATA_VALID != 0 {
        return Ok(());
    }
    let bytes = packet.payload();
    let pseudo = pseudo_header(packet.source(), packet.destination(), packet.protocol(), bytes.len());
    if fold(pseudo + sum(bytes)) != 0xffff {
        return Err(DropReason::BadChecksum);
    }
    Ok(())
}
