//! What a bridge asks for, is answered, and hands out.

use std::net::{Ipv4Addr, SocketAddrV4};

use libp2p_identity::PeerId;
use smoltcp::wire::EthernetAddress;

use crate::Offload;

/// Something the bridge cannot do by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A DHCP client behind the TAP spoke.
    Dhcp {
        /// The MAC address that the frame came from.
        source: EthernetAddress,
        /// The UDP payload.
        message: Vec<u8>,
    },
    /// A host behind the TAP asked the service address a DNS question.
    Dns {
        /// Whom to answer, with [`crate::Bridge::send_dns`].
        client: DnsClient,
        /// The question, without the length that precedes it over TCP.
        message: Vec<u8>,
    },
    /// Somebody wants to reach this address; answer with [`crate::Bridge::handle_resolved`].
    Resolve {
        /// The address in question, in range and not of a host behind this TAP.
        ip: Ipv4Addr,
    },
    /// A peer sent packets from an address that it has not proven. At most one per second and peer.
    Unproven {
        /// The sender.
        peer: PeerId,
        /// The address it used.
        ip: Ipv4Addr,
    },
    /// A peer sent a packet from an address that is somebody else's by now: a member elsewhere was granted it since, or
    /// it is of a host behind this TAP. At most one per second and peer.
    Superseded {
        /// The sender.
        peer: PeerId,
        /// The address it used.
        ip: Ipv4Addr,
    },
    /// A machine of the segment uses this address, by its ARP or its packets: it is alive, or unknown, or in a host's place.
    /// Only in a router's bridge, at most once in ten seconds for each, unless [`crate::Bridge::ask_host`] asked.
    Heard {
        /// The address, of the range and not known to be a member's elsewhere.
        ip: Ipv4Addr,
        /// The machine.
        mac: EthernetAddress,
    },
    /// A machine of the segment uses an address of a member elsewhere, or the service's; it was told by an ARP
    /// announcement. Only in a router's bridge, at most once in ten seconds for each address.
    Disputed {
        /// The address.
        ip: Ipv4Addr,
        /// The machine.
        mac: EthernetAddress,
    },
    /// A peer sent a packet to a member's address that is not behind this TAP. At most one per second and peer.
    NotHere {
        /// The sender.
        peer: PeerId,
        /// The address it meant.
        ip: Ipv4Addr,
    },
}

/// Who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// This other member.
    Peer(PeerId),
    /// Nobody, for certain.
    Absent,
    /// It could not be asked.
    Unknown,
}

/// Where a DHCP reply goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DhcpDestination {
    /// To everybody on the segment.
    Broadcast,
    /// To one client, which may not answer ARP for the address yet.
    Unicast {
        /// The client's MAC address.
        mac: EthernetAddress,
        /// The address it has or is given.
        ip: Ipv4Addr,
    },
}

/// Where a DNS question came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DnsClient {
    /// A UDP socket of a host behind the TAP.
    Udp {
        /// Its address and port.
        addr: SocketAddrV4,
        /// Its MAC address.
        mac: EthernetAddress,
    },
    /// A TCP connection to the service address, by a number that is never used twice.
    Tcp(u64),
}

/// A frame for the TAP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutFrame {
    /// The frame, from the destination MAC on.
    pub bytes: Vec<u8>,
    /// What the kernel still has to do to it.
    pub offload: Offload,
}

/// A packet for a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutPacket {
    /// The member that has the destination address.
    pub peer: PeerId,
    /// The IP packet.
    pub packet: Vec<u8>,
    /// What is still to be done to it; the offsets count the 14 bytes of an Ethernet header. Always such that
    /// [`Offload::from_wire`] believes it.
    pub offload: Offload,
}
