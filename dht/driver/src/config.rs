//! What the driver is given, and what it tells.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dht::join::Joiner;
use dht::{Namespace, NamespaceId, Now, Summary};
use ipnet::Ipv4Net;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::streams::StreamServer;

/// Everything that one namespace's driver has to know.
pub struct DriverConfig {
    /// The namespace; its protocols are named after it.
    pub namespace: NamespaceId,
    /// Seed of the node's identity, its libp2p key.
    pub identity: Zeroizing<[u8; 32]>,
    /// The X25519 secret for the data plane, to load the namespace with after joining it.
    pub data: Zeroizing<[u8; 32]>,
    /// The port of libp2p, for QUIC and TCP both. 0 takes any, for tests.
    pub port: u16,
    /// Local addresses to listen on. At least one has to work.
    pub listen: Vec<IpAddr>,
    /// Addresses at which others reach this node's libp2p, where the configuration names them.
    pub advertise: Vec<SocketAddr>,
    /// Addresses at which a router sends on to this node's libp2p, all of them, whenever that changes.
    pub mapped: watch::Receiver<Vec<Multiaddr>>,
    /// First contacts, besides those that the token or the store name.
    pub peers: Vec<Multiaddr>,
    /// Whether to look for other nodes on the LAN and to be seen there.
    pub mdns: bool,
    /// Virtual ranges of this machine: never dialled, so that no tunnel runs through a tunnel.
    pub filtered: Vec<Ipv4Net>,
    /// Whether addresses told by others may be loopback addresses.
    pub loopback: Loopback,
    /// Who wants datagrams sent, and takes those that come, in streams. Without it none are opened or read.
    pub streams: Option<StreamServer>,
    /// Peers that are on the LAN at once.
    #[cfg(test)]
    pub(crate) seen: Vec<(PeerId, Multiaddr)>,
    /// For what only has to be different, such as the jitter of retries.
    pub seed: [u8; 32],
}

impl DriverConfig {
    /// The usual configuration: all interfaces, mDNS on, no contacts.
    pub fn new(
        namespace: NamespaceId,
        identity: Zeroizing<[u8; 32]>,
        data: Zeroizing<[u8; 32]>,
        port: u16,
        seed: [u8; 32],
    ) -> Self {
        Self {
            namespace,
            identity,
            data,
            port,
            listen: vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            advertise: Vec::new(),
            mapped: watch::Sender::new(Vec::new()).subscribe(),
            peers: Vec::new(),
            mdns: true,
            filtered: Vec::new(),
            loopback: Loopback::Refuse,
            streams: None,
            #[cfg(test)]
            seen: Vec::new(),
            seed,
        }
    }
}

/// What to do with loopback addresses that other nodes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loopback {
    /// Do not dial them: they mean another machine's loopback.
    Refuse,
    /// Dial them: all nodes are on this machine.
    Dial,
}

/// The state machine to begin with.
#[derive(Debug)]
pub enum Start {
    /// This node is a member.
    Member(Box<Namespace>),
    /// This node has a token.
    Joiner(Box<Joiner>),
}

/// The three clocks of [`Now`] and the boot they belong to.
pub trait Clocks: Send + 'static {
    /// Reads them all.
    fn now(&self) -> Now;
}

/// What the driver tells the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DriverEvent {
    /// From the namespace.
    Core(dht::Event),
    /// The join goes on; for people.
    Joining {
        /// What it waits for.
        what: String,
    },
    /// The namespace has admitted this node, on disk: what it is. Its events follow.
    Joined(Box<Summary>),
    /// The join has ended for good; for people. The driver ends too.
    JoinFailed(String),
    /// libp2p listens at these addresses, all of them. Again whenever that changes.
    Listening(Vec<SocketAddr>),
    /// A peer sees this node's libp2p at this address. The data socket has a port of its own.
    ExternalCandidate(SocketAddr),
    /// A peer was admitted and has admitted this node.
    Connected {
        /// Which peer.
        peer: PeerId,
    },
    /// The last connection to an admitted peer has ended.
    Disconnected {
        /// Which peer.
        peer: PeerId,
    },
    /// The driver cannot go on, and ends.
    Fatal(String),
}
