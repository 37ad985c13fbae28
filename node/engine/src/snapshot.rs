//! What the packet threads see: who is local, who is remote, and which session leads there.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bridge::Local;
use dht::clock::OwnerTime;
use libp2p_identity::PeerId;
use tunnel::Session;

/// One session and where its datagrams go.
#[derive(Clone)]
pub struct Path {
    /// Whom the session is with.
    pub peer: PeerId,
    /// The keys.
    pub session: Arc<Session>,
    /// Where datagrams to that peer are sent.
    pub endpoint: SocketAddr,
}

/// An immutable view for forwarding, replaced whole by the engine.
#[derive(Clone)]
pub struct Snapshot {
    /// Hosts, routes and permitted sources.
    pub local: Arc<Local>,
    /// The session to send on, by peer.
    pub sending: HashMap<PeerId, Path>,
    /// All confirmed sessions, by the index in arriving datagrams.
    pub receiving: HashMap<u32, Path>,
    /// From here on some address in `local` is no longer ours: nothing may be forwarded before the engine has looked.
    pub lapses: Option<OwnerTime>,
}

impl Snapshot {
    /// Whether every address in it may still be used at this time.
    pub fn is_usable(&self, now: OwnerTime) -> bool {
        self.lapses.is_none_or(|end| now < end)
    }
}
