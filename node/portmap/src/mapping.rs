//! The words of this crate: ports, protocols, what a gateway is asked and what it may answer.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::belief::Reach;

/// Over what a port is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// A port of this machine that others are to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// UDP or TCP.
    pub transport: Transport,
    /// Its number.
    pub port: u16,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
        };
        write!(f, "{transport} {}", self.port)
    }
}

/// How a gateway is asked. The first is preferred: with PCP nobody else on the network can delete what has our nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// RFC 6887.
    Pcp,
    /// RFC 6886.
    NatPmp,
    /// UPnP Internet Gateway Device, versions 1 and 2.
    Upnp,
}

impl Protocol {
    /// In order of preference.
    pub const ALL: [Self; 3] = [Self::Pcp, Self::NatPmp, Self::Upnp];
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP",
        })
    }
}

/// The network that the default route leads into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The default gateway.
    pub gateway: Ipv4Addr,
    /// This machine's address there, with the network's prefix.
    pub local: Ipv4Net,
}

/// Whose a mapping is: drawn once per process. It is the nonce with PCP, and in the description with UPnP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner(pub [u32; 3]);

impl Owner {
    /// What a UPnP gateway shows to everybody on its network; it says no more than that it is ours.
    pub fn description(&self) -> String {
        let [a, b, _] = self.0;
        format!("overlay-{a:08x}{b:08x}")
    }
}

/// A mapping that this machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The port of this machine.
    pub port: Port,
    /// Where the gateway says that it is reached.
    pub external: SocketAddrV4,
    /// From where.
    pub reach: Reach,
    /// By what it was asked for.
    pub protocol: Protocol,
    /// Until when it is believed to be there, unless it is renewed.
    pub until: Instant,
    /// The gateway keeps it for ever.
    pub permanent: bool,
}

/// A mapping that was asked for and may be there: kept on disk until it is certainly gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Who was asked.
    pub gateway: Ipv4Addr,
    /// By whom: this machine's address then.
    pub local: Ipv4Addr,
    /// How.
    pub protocol: Protocol,
    /// For which port of ours.
    pub port: Port,
    /// For which port of the gateway's; only a wish, except with UPnP.
    pub external: u16,
    /// Whose it is.
    pub owner: Owner,
    /// It does not end by itself.
    pub permanent: bool,
}

/// What came of an [`Action`](crate::Action).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The gateway speaks the protocol. Its external address, where it said that, too.
    Speaks(Option<Ipv4Addr>),
    /// The mapping is there.
    Mapped {
        /// Where.
        external: SocketAddrV4,
        /// For how long; `None` for ever.
        lease: Option<Duration>,
    },
    /// The mapping is gone, or was not there, or was another's.
    Deleted,
    /// The gateway does not want to.
    Refused(Refusal),
    /// No answer, or none that makes sense.
    Silent(String),
}

/// Why a gateway does not map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Somebody else has that port of the gateway's.
    PortTaken,
    /// It keeps mappings only for ever.
    OnlyPermanent,
    /// In its own words.
    Other(String),
}
