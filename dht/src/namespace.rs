//! One namespace on this node: membership, the register's replica, this node's leases and what it knows of others'.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use libp2p_identity::PeerId;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::clock::Now;
use crate::command::Command;
use crate::event::{Output, Refusal};
use crate::identity::SecretKey;
use crate::sign::NamespaceId;

/// All of a namespace's store, as it was at the start.
pub type Image = BTreeMap<Vec<u8>, Vec<u8>>;

/// The keys that live beside the store, in files of their own.
#[derive(Debug)]
pub struct Keys {
    /// The node's identity, its libp2p key.
    pub identity: SecretKey,
    /// The X25519 secret for the data plane of this namespace.
    pub data: Zeroizing<[u8; 32]>,
    /// Where the namespace was created, the key that signs invites.
    pub authority: Option<SecretKey>,
}

/// Why a store is not used. Never a reason to begin with an empty one.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LoadError {
    /// Something that is always there is not.
    #[error("the store lacks its {0}")]
    Missing(&'static str),
    /// Something does not parse or verify.
    #[error("the store's {0} is damaged")]
    Damaged(&'static str),
    /// The keys belong to another store.
    #[error("the store belongs to another {0}")]
    OtherKey(&'static str),
}

/// What status pages say about a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The identifier.
    pub id: NamespaceId,
    /// The name.
    pub name: String,
    /// The DNS zone.
    pub zone: String,
    /// The virtual addresses, with the prefix length.
    pub range: Ipv4Net,
    /// The lowest usable address, where DHCP and DNS answer.
    pub service: Ipv4Addr,
    /// The inner MTU.
    pub mtu: u16,
    /// The duration of a lease.
    pub lease: Duration,
    /// The newest view of shard 0.
    pub view: u64,
    /// Who votes in it.
    pub members: Vec<PeerId>,
    /// Admitted peers.
    pub peers: Vec<PeerId>,
    /// Version numbers of what the authority signs, as handshakes carry them.
    pub heads: [u8; 8],
    /// Of this node's own credential.
    pub credential_hash: [u8; 32],
    /// Whether this node can make invites.
    pub authority: bool,
    /// Whether the register answers; `None` before the first question.
    pub reachable: Option<bool>,
}

/// The state machine of one namespace on this node. After each input take all of [`poll_output`](Self::poll_output).
#[derive(Debug)]
pub struct Namespace {
    output: VecDeque<Output>,
    id: NamespaceId,
}

#[expect(clippy::unnecessary_wraps, unused_variables, reason = "the parts stand in the modules that follow")]
impl Namespace {
    /// Resumes from everything that was on disk.
    pub fn load(keys: Keys, image: &Image, seed: [u8; 32], now: Now) -> Result<Self, LoadError> {
        Ok(Self { output: VecDeque::new(), id: NamespaceId([0; 32]) })
    }
    /// Begins what the node asks for.
    pub fn handle_command(&mut self, command: Command, now: Now) {}
    /// The first bytes to a peer that this node dialled.
    pub fn hello(&mut self, to: PeerId, now: Now) -> Vec<u8> {
        Vec::new()
    }
    /// A dialler's first bytes. `Ok` is the answer; after `Err` close the connection without a word.
    pub fn handle_hello(&mut self, from: PeerId, request: &[u8], now: Now) -> Result<Vec<u8>, Refusal> {
        Err(Refusal::NotAdmitted)
    }
    /// The answer to [`hello`](Self::hello).
    pub fn handle_hello_response(&mut self, from: PeerId, response: &[u8], now: Now) -> Result<(), Refusal> {
        Err(Refusal::NotAdmitted)
    }
    /// A message over an admitted connection.
    pub fn handle_message(&mut self, from: PeerId, message: &[u8], now: Now) {}
    /// The last connection to this peer ended, or a message to it could not be delivered.
    pub fn handle_gone(&mut self, peer: PeerId, now: Now) {}
    /// Time has come to [`poll_timeout`](Self::poll_timeout), or any other time.
    pub fn handle_timeout(&mut self, now: Now) {}
    /// The next thing to be done, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }
    /// When to call [`handle_timeout`](Self::handle_timeout) next, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }
    /// Whether a Kademlia value is worth keeping: a valid certificate for its key, newer than what is held.
    pub fn verify_hint(&self, key: &[u8], value: &[u8], held: Option<&[u8]>) -> bool {
        false
    }
    /// For status pages.
    pub fn summary(&self) -> Summary {
        Summary {
            id: self.id,
            name: String::new(),
            zone: String::new(),
            range: Ipv4Net::default(),
            service: Ipv4Addr::UNSPECIFIED,
            mtu: 0,
            lease: Duration::ZERO,
            view: 0,
            members: Vec::new(),
            peers: Vec::new(),
            heads: [0; 8],
            credential_hash: [0; 32],
            authority: false,
            reachable: None,
        }
    }
}
