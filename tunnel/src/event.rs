//! What comes out of a tunnel.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;

use crate::endpoint::{Endpoint, NextHop};
use crate::relay::Rate;
use crate::session::Session;

/// What the payload of a data datagram is; the second byte of its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An IP packet.
    Packet = 0,
    /// Eight bytes of offload meaning and an IP packet.
    Offloaded = 1,
    /// A part of a payload that the path cannot carry whole.
    Fragment = 2,
    /// A control message; its first byte is the subtype: below 16 the tunnel's own, from 16 on the caller's.
    Control = 3,
    /// A datagram that the receiver is asked to carry on.
    Forward = 5,
    /// A datagram that the sender has carried for somebody else.
    Carried = 6,
}

impl Kind {
    /// The kind with this number on the wire. 4 is reserved for Ethernet frames.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Packet),
            1 => Some(Self::Offloaded),
            2 => Some(Self::Fragment),
            3 => Some(Self::Control),
            5 => Some(Self::Forward),
            6 => Some(Self::Carried),
            _ => None,
        }
    }

    /// Whether the payload is a datagram of others, on a circuit.
    pub fn is_carried(self) -> bool {
        matches!(self, Self::Forward | Self::Carried)
    }
}

/// A datagram and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: NextHop,
    /// The sealed bytes: the payload of one UDP datagram.
    pub datagram: Vec<u8>,
    /// How many routers it may pass; `None` for as many as usual.
    pub ttl: Option<u8>,
}

/// Something the caller has to know or to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session with the peer is up and proven by both sides.
    PeerUp {
        /// Who.
        peer: PeerId,
    },
    /// No session with the peer is left, or every way to it is silent.
    PeerDown {
        /// Who.
        peer: PeerId,
        /// Why, for people.
        reason: &'static str,
    },
    /// [`Tunnel::sessions`](crate::Tunnel::sessions) answers something else than before.
    SessionsChanged,
    /// A payload that came over the slow path, put together again where it came in fragments.
    Message {
        /// Who sent it.
        peer: PeerId,
        /// Never [`Kind::Fragment`].
        kind: Kind,
        /// The payload; that of a control message begins with its subtype.
        payload: Vec<u8>,
    },
    /// Keys or candidates are missing, or no candidate answers: signal again. At most once per 5 s and peer.
    NeedPeer {
        /// Who.
        peer: PeerId,
    },
    /// Write to disk that handshake numbers below `upto` may have been used, then say
    /// [`Tunnel::handshakes_reserved`](crate::Tunnel::handshakes_reserved). No Init leaves before.
    ReserveHandshakes {
        /// First number that stays unused.
        upto: u64,
    },
    /// Our own address as a peer sees it, told inside the session with each echo.
    EndpointObserved {
        /// Who saw it.
        by: PeerId,
        /// Our address on its side.
        addr: SocketAddr,
    },
}

/// A session for the snapshot of the fast path.
#[derive(Clone, Debug)]
pub struct SessionView {
    /// Whose it is.
    pub peer: PeerId,
    /// The keys, window and counters.
    pub session: Arc<Session>,
    /// Where to send, and from where datagrams are expected; `None` while no way is known to work. Report another source by
    /// [`Tunnel::handle_roamed`](crate::Tunnel::handle_roamed).
    pub endpoint: Option<Endpoint>,
    /// Where a datagram goes that leaves by this endpoint.
    pub way: Option<Way>,
    /// Whether to seal with this one. False for older sessions, which still receive, and while a new endpoint
    /// is unproven: then packets go through [`Tunnel::send`](crate::Tunnel::send).
    pub sending: bool,
}

/// What happens to a sealed datagram before it leaves.
#[derive(Clone, Debug)]
pub enum Way {
    /// It goes there as it is.
    Direct(NextHop),
    /// It is sealed once more for a relay, as [`Kind::Forward`], and goes to the relay.
    Relayed {
        /// The session with the relay.
        session: Arc<Session>,
        /// The relay's number for the circuit.
        circuit: u16,
        /// Where the relay is.
        to: NextHop,
    },
}

/// What a relay does with datagrams of one member on one circuit, for the snapshot of the fast path.
#[derive(Clone, Debug)]
pub struct LegView {
    /// Whose they are.
    pub from: PeerId,
    /// On which circuit they come.
    pub circuit: u16,
    /// The session with the other end, in which they go on as [`Kind::Carried`].
    pub session: Arc<Session>,
    /// Where the other end is.
    pub to: NextHop,
    /// Our number for the circuit at that end.
    pub next: u16,
    /// What this member may send.
    pub rate: Arc<Rate>,
    /// Bytes carried on the circuit; each datagram counts.
    pub carried: Arc<AtomicU64>,
}

/// A way to a peer that a round trip has proven lately, for status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathView {
    /// Where it leads.
    pub endpoint: Endpoint,
    /// Smoothed round trip, once there was an echo.
    pub rtt: Option<Duration>,
}

/// What is known about a peer, for status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// The way that is taken.
    pub endpoint: Option<Endpoint>,
    /// All ways that have answered lately.
    pub paths: Vec<PathView>,
    /// Of the last echoes on the way that is taken.
    pub rtt: Option<Duration>,
    /// UDP payload bytes sealed for it.
    pub tx_bytes: u64,
    /// UDP payload bytes of it that were authentic.
    pub rx_bytes: u64,
    /// When the newest session was established.
    pub last_session: Option<Instant>,
    /// Whether a session is up.
    pub up: bool,
    /// The heads of its last handshake.
    pub heads: [u8; 8],
    /// The instance of its last handshake.
    pub instance: Option<u64>,
    /// Why there is no session, for people.
    pub why_down: Option<&'static str>,
}
