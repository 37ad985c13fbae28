//! What the packet threads see: who is local, who is remote, and which session leads there.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bridge::Local;
use dht::clock::{Now, OwnerTime};
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
    /// From here on some address in `local` may be no longer ours, or no longer the peer's: nothing may be forwarded before
    /// the engine has looked.
    pub lapses: Option<OwnerTime>,
    /// How often the clocks had jumped ([`Now::jumps`]); with the next jump all of it lapses.
    pub jumps: u32,
}

impl Snapshot {
    /// Whether every address in it may still be used at this time. To be asked once for each batch.
    pub fn is_usable(&self, now: &Now) -> bool {
        self.jumps == now.jumps && self.lapses.is_none_or(|end| now.owner < end)
    }
}
