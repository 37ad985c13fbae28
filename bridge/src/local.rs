//! The fast path: what is plain forwarding, decided without state, allocation or lock.
//!
//! A [`Local`] never changes once handed out; the bridge makes another when something did.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use libp2p_identity::PeerId;
use smoltcp::wire::EthernetAddress;

use crate::config::MAX_HEARD;
use crate::ipv4::{IGMP, Ipv4, UDP};
use crate::offload::ETHERNET;
use crate::{Config, DropReason, Mode, Offload, mss};

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;

/// Who is here, who is elsewhere, and who may send from where.
#[derive(Clone, Debug)]
pub struct Local {
    mode: Mode,
    range: Ipv4Net,
    service: Ipv4Addr,
    gateway_mac: EthernetAddress,
    mtu: usize,
    /// Hosts behind this TAP.
    pub(crate) hosts: BTreeMap<Ipv4Addr, EthernetAddress>,
    /// Where to send: what is permitted, and what an answer said for a while.
    pub(crate) routes: BTreeMap<Ipv4Addr, PeerId>,
    /// Who has proven what. An address has one owner, so there is one peer for each.
    pub(crate) permitted: BTreeMap<Ipv4Addr, PeerId>,
    /// Sources on a router's segment that were told of already, and hold no lease.
    pub(crate) turned_away: BTreeSet<Ipv4Addr>,
}

/// What to do with a frame from the TAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outbound<'f> {
    /// Seal it for this peer.
    Forward {
        /// The member that has the destination address.
        peer: PeerId,
        /// The IP packet, without padding.
        packet: &'f [u8],
    },
    /// Hand the frame to [`crate::Bridge::handle_frame`].
    Control,
    /// Count it.
    Drop(DropReason),
}

/// What to do with a packet from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// Write it to the TAP behind this Ethernet header.
    Deliver([u8; 14]),
    /// Hand the packet to [`crate::Bridge::handle_packet`].
    Control,
    /// Count it.
    Drop(DropReason),
}

impl Local {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            mode: config.mode,
            range: config.range,
            service: config.service,
            gateway_mac: config.gateway_mac,
            mtu: usize::from(config.mtu),
            hosts: BTreeMap::new(),
            routes: BTreeMap::new(),
            permitted: BTreeMap::new(),
            turned_away: BTreeSet::new(),
        }
    }

    /// Decides about a frame from the TAP, except whether it is too big: see [`Local::outbound_sized`].
    pub fn outbound<'f>(&self, frame: &'f [u8]) -> Outbound<'f> {
        match self.classify(frame) {
            Ok(outbound) => outbound,
            Err(reason) => Outbound::Drop(reason),
        }
    }

    /// As [`Local::outbound`], and leaves to control what would be forwarded but is too big and may not be cut (its sender
    /// is owed an ICMP error), or asks for TCP segments that are too big.
    pub fn outbound_sized<'f>(&self, frame: &'f [u8], offload: Offload) -> Outbound<'f> {
        match self.outbound(frame) {
            Outbound::Forward { packet, .. }
                if self.is_too_big(packet, offload) || mss::is_too_large(packet, self.mtu) =>
            {
                Outbound::Control
            }
            outbound @ (Outbound::Forward { .. } | Outbound::Control | Outbound::Drop(_)) => outbound,
        }
    }

    /// Decides about a packet that `peer` sealed for us.
    pub fn inbound(&self, peer: &PeerId, packet: &[u8]) -> Inbound {
        match self.admit(peer, packet) {
            Ok(inbound) => inbound,
            Err(reason) => Inbound::Drop(reason),
        }
    }

    /// The member that has this address, if there is a route.
    pub fn route(&self, ip: Ipv4Addr) -> Option<PeerId> {
        self.routes.get(&ip).copied()
    }

    /// The MAC address of the host behind this TAP that has this address.
    pub fn host(&self, ip: Ipv4Addr) -> Option<EthernetAddress> {
        self.hosts.get(&ip).copied()
    }

    /// Whether this address can belong to a member at all.
    pub(crate) fn is_assignable(&self, ip: Ipv4Addr) -> bool {
        self.range.contains(&ip)
            && ip != self.service
            && (self.range.prefix_len() >= 31 || (ip != self.range.network() && ip != self.range.broadcast()))
    }

    pub(crate) fn is_host(&self, ip: Ipv4Addr, mac: EthernetAddress) -> bool {
        self.hosts.get(&ip) == Some(&mac)
    }

    /// Whether a packet from this address tells of a machine that nothing is known of.
    pub(crate) fn is_news(&self, source: Ipv4Addr) -> bool {
        self.mode == Mode::Router
            && self.is_assignable(source)
            && !self.hosts.contains_key(&source)
            && !self.routes.contains_key(&source)
            && !self.turned_away.contains(&source)
            && self.turned_away.len() < MAX_HEARD
    }

    pub(crate) fn is_too_big(&self, packet: &[u8], offload: Offload) -> bool {
        packet.len() > self.mtu && !offload.is_super_frame() && Ipv4::parse(packet).is_ok_and(Ipv4::dont_fragment)
    }

    pub(crate) fn header_to(&self, mac: EthernetAddress) -> [u8; ETHERNET] {
        let mut header = [0; ETHERNET];
        header[..6].copy_from_slice(&mac.0);
        header[6..12].copy_from_slice(&self.gateway_mac.0);
        header[12..].copy_from_slice(&IPV4.to_be_bytes());
        header
    }

    fn classify<'f>(&self, frame: &'f [u8]) -> Result<Outbound<'f>, DropReason> {
        let (header, rest) = frame.split_first_chunk::<ETHERNET>().ok_or(DropReason::ShortFrame)?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
        let destination = EthernetAddress([d0, d1, d2, d3, d4, d5]);
        let source = EthernetAddress([s0, s1, s2, s3, s4, s5]);
        if source == self.gateway_mac {
            return Err(DropReason::OwnMac);
        }
        if !source.is_unicast() {
            return Err(DropReason::GroupSource);
        }
        match u16::from_be_bytes([t0, t1]) {
            IPV4 => self.classify_ipv4(source, destination, Ipv4::parse(rest)?),
            ARP if destination == self.gateway_mac || destination.is_broadcast() => Ok(Outbound::Control),
            ethertype => Err(unwanted(ethertype)),
        }
    }

    fn classify_ipv4<'f>(
        &self,
        source: EthernetAddress,
        destination: EthernetAddress,
        packet: Ipv4<'f>,
    ) -> Result<Outbound<'f>, DropReason> {
        if packet.protocol() == IGMP {
            return Err(DropReason::Igmp);
        }
        if destination != self.gateway_mac {
            return self.classify_group(destination, packet);
        }
        let to = packet.destination();
        if is_dhcp_request(packet) && (to == self.service || to.is_broadcast()) {
            return Ok(Outbound::Control);
        }
        if !self.is_host(packet.source(), source) {
            return if self.is_news(packet.source()) { Ok(Outbound::Control) } else { Err(DropReason::SpoofedSource) };
        }
        if to == self.service {
            return Ok(Outbound::Control);
        }
        self.check_destination(to)?;
        if crosses_dhcp(packet) {
            return Err(DropReason::DhcpCrossing);
        }
        if self.hosts.contains_key(&to) {
            return Err(DropReason::LocalDestination);
        }
        Ok(match self.routes.get(&to) {
            Some(peer) => Outbound::Forward { peer: *peer, packet: packet.bytes() },
            None => Outbound::Control,
        })
    }

    /// Broadcast is for DHCP only; nothing else that was not sent to us is ours to carry.
    fn classify_group<'f>(&self, destination: EthernetAddress, packet: Ipv4<'f>) -> Result<Outbound<'f>, DropReason> {
        if destination.is_broadcast() {
            if is_dhcp_request(packet) {
                return Ok(Outbound::Control);
            }
            return Err(DropReason::Broadcast);
        }
        if destination.is_multicast() {
            return Err(DropReason::Multicast);
        }
        Err(DropReason::OtherMachine)
    }

    fn check_destination(&self, to: Ipv4Addr) -> Result<(), DropReason> {
        if to.is_multicast() {
            return Err(DropReason::Multicast);
        }
        if to.is_broadcast() || (self.range.prefix_len() < 31 && to == self.range.broadcast()) {
            return Err(DropReason::Broadcast);
        }
        if !self.is_assignable(to) {
            return Err(DropReason::OutOfRange);
        }
        Ok(())
    }

    fn admit(&self, peer: &PeerId, packet: &[u8]) -> Result<Inbound, DropReason> {
        let ipv4 = Ipv4::parse(packet)?;
        if ipv4.bytes().len() != packet.len() {
            return Err(DropReason::BadIpv4);
        }
        let source = ipv4.source();
        let Some(mac) = self.hosts.get(&ipv4.destination()) else {
            // Its sender is told, if an address is meant that a member can have.
            let both = self.is_assignable(ipv4.destination()) && self.is_assignable(source);
            return if both { Ok(Inbound::Control) } else { Err(DropReason::NoSuchHost) };
        };
        if !self.is_assignable(source) {
            return Err(DropReason::SpoofedSource);
        }
        if crosses_dhcp(ipv4) {
            return Err(DropReason::DhcpCrossing);
        }
        if self.hosts.contains_key(&source) || self.permitted.get(&source) != Some(peer) {
            return Ok(Inbound::Control);
        }
        Ok(Inbound::Deliver(self.header_to(*mac)))
    }
}

/// A message from a DHCP client to a server (RFC 2131 section 4.1).
pub(crate) fn is_dhcp_request(packet: Ipv4<'_>) -> bool {
    packet.protocol() == UDP && packet.ports().is_some_and(|(_, to)| to == 67)
}

fn crosses_dhcp(packet: Ipv4<'_>) -> bool {
    packet.protocol() == UDP && packet.ports().is_some_and(|(_, to)| to == 67 || to == 68)
}

fn unwanted(ethertype: u16) -> DropReason {
    match ethertype {
        0..=0x05ff => DropReason::Ieee8023,
        ARP => DropReason::OtherMachine,
        0x8100 | 0x88a8 => DropReason::Vlan,
        0x86dd => DropReason::Ipv6,
        0x88cc => DropReason::Lldp,
        _ => DropReason::OtherEthertype,
    }
}
