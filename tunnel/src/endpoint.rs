//! The way that datagrams take to a peer: straight to an address, or through a member that carries them.

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
}

impl Endpoint {
    /// The address, if no relay is between.
    pub fn direct(self) -> Option<SocketAddr> {
        match self {
            Self::Direct(addr) => Some(addr),
            Self::Relayed { .. } => None,
        }
    }

    /// The member that carries, if one does.
    pub fn relay(self) -> Option<PeerId> {
        match self {
            Self::Direct(_) => None,
            Self::Relayed { relay, .. } => Some(relay),
        }
    }

    /// Whether another member is between.
    pub fn is_relayed(self) -> bool {
        self.direct().is_none()
    }

    /// An address in one way of writing, whatever the socket made of it.
    pub(crate) fn canonical(self) -> Self {
        match self {
            Self::Direct(addr) => Self::Direct(SocketAddr::new(addr.ip().to_canonical(), addr.port())),
            Self::Relayed { .. } => self,
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
            Self::Relayed { relay, .. } => relay.fmt(f),
        }
    }
}
