//! The way that datagrams take to a peer: straight to an address, through a member that carries them, or as parts of a stream.

use std::fmt;
use std::net::SocketAddr;

use libp2p_identity::PeerId;

/// Where datagrams for a peer go, and where they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// An address on the underlay.
    Direct(SocketAddr),
    /// A circuit of another member, inside the session with it.
    Relayed {
        /// The member that carries.
        relay: PeerId,
        /// Its number for this circuit.
        circuit: u16,
    },
    /// The overlay's connection with the peer itself, which may be TCP where UDP does not pass.
    Stream(PeerId),
}

/// Where a sealed datagram goes when it leaves this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NextHop {
    /// An address on the underlay, by UDP.
    Udp(SocketAddr),
    /// A member to which the overlay has a connection, in a stream of it.
    Stream(PeerId),
}

impl From<SocketAddr> for NextHop {
    fn from(addr: SocketAddr) -> Self {
        Self::Udp(addr)
    }
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(addr) => addr.fmt(f),
            Self::Stream(peer) => peer.fmt(f),
        }
    }
}

impl Endpoint {
    /// The address, if datagrams go straight there.
    pub fn direct(self) -> Option<SocketAddr> {
        match self {
            Self::Direct(addr) => Some(addr),
            Self::Relayed { .. } | Self::Stream(_) => None,
        }
    }

    /// Where a datagram goes as it is; `None` where a relay's seal comes around it first.
    pub fn next_hop(self) -> Option<NextHop> {
        match self {
            Self::Direct(addr) => Some(NextHop::Udp(addr)),
            Self::Stream(peer) => Some(NextHop::Stream(peer)),
            Self::Relayed { .. } => None,
        }
    }

    /// Whether this may be a way to that peer: a stream ends at one member, who is known.
    pub fn can_be_of(self, peer: &PeerId) -> bool {
        match self {
            Self::Stream(end) => end == *peer,
            Self::Direct(_) | Self::Relayed { .. } => true,
        }
    }

    /// The member that carries, if one does.
    pub fn relay(self) -> Option<PeerId> {
        match self {
            Self::Direct(_) | Self::Stream(_) => None,
            Self::Relayed { relay, .. } => Some(relay),
        }
    }

    /// Whether datagrams go straight to the peer's address, which is what every pair strives for.
    pub fn is_direct(self) -> bool {
        self.direct().is_some()
    }

    /// What is better than what, before any round trip time: a relay is others' bandwidth, and a stream holds everything back
    /// for one packet that was lost.
    pub(crate) fn class(self) -> u8 {
        match self {
            Self::Direct(_) => 0,
            Self::Relayed { .. } => 1,
            Self::Stream(_) => 2,
        }
    }

    /// An address in one way of writing, whatever the socket made of it.
    pub(crate) fn canonical(self) -> Self {
        match self {
            Self::Direct(addr) => Self::Direct(SocketAddr::new(addr.ip().to_canonical(), addr.port())),
            Self::Relayed { .. } | Self::Stream(_) => self,
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Self {
        Self::Direct(addr)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(addr) => addr.fmt(f),
            Self::Relayed { relay: by, .. } | Self::Stream(by) => by.fmt(f),
        }
    }
}
