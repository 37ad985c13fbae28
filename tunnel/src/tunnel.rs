//! The state machine of one namespace on one node.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use libp2p_identity::PeerId;

use crate::config::{Candidate, Config, PeerKeys};
use crate::drops::{DropReason, Drops};
use crate::event::{Event, Kind, PeerView, SessionView, Transmit};

/// The encrypted plane of one namespace. See the crate's documentation for the loop around it.
pub struct Tunnel {
    _config: Config,
    drops: Drops,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

impl Tunnel {
    /// A tunnel without peers. Handshake numbers below `hs_floor` may have been used by earlier processes; the
    /// first event asks to reserve a block above.
    pub fn new(config: Config, hs_floor: u64, seed: [u8; 32], now: Instant) -> Self {
        let _ = (hs_floor, seed, now);
        Self { _config: config, drops: Drops::default(), transmits: VecDeque::new(), events: VecDeque::new() }
    }

    /// Admits a member, or replaces what is known about it.
    pub fn set_peer(&mut self, peer: PeerId, keys: PeerKeys, now: Instant) {
        let _ = (peer, keys, now);
    }

    /// Forgets a member; its sessions are erased at once.
    pub fn remove_peer(&mut self, peer: PeerId, now: Instant) {
        let _ = (peer, now);
    }

    /// Says where a peer may be found.
    pub fn set_candidates(&mut self, peer: PeerId, candidates: Vec<Candidate>, now: Instant) {
        let _ = (peer, candidates, now);
    }

    /// Sends a payload, in fragments if it is too big for one datagram. Waits for a session, and asks for one,
    /// where none is up.
    pub fn send(&mut self, peer: PeerId, kind: Kind, payload: &[u8], now: Instant) {
        let _ = (peer, kind, payload, now);
    }

    /// Asks the peer for an echo, which refreshes [`PeerView::rtt`].
    pub fn ping(&mut self, peer: PeerId, now: Instant) {
        let _ = (peer, now);
    }

    /// Erases all sessions, handshakes and waiting payloads: on suspend, on a jump of the clock, on leaving.
    pub fn erase_all(&mut self, now: Instant) {
        let _ = now;
    }

    /// Replaces the randomness. To be called after a resume: a copied memory would draw the same keys again.
    pub fn reseed(&mut self, seed: [u8; 32]) {
        let _ = seed;
    }

    /// Numbers below `upto` are reserved on disk.
    pub fn handshakes_reserved(&mut self, upto: u64, now: Instant) {
        let _ = (upto, now);
    }

    /// Heads to show in handshakes from here on.
    pub fn set_heads(&mut self, heads: [u8; 8]) {
        let _ = heads;
    }

    /// Whether this is an Init for our key in our namespace.
    pub fn owns(&self, datagram: &[u8]) -> bool {
        let _ = datagram;
        false
    }

    /// A datagram of the underlay.
    pub fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], wall_ms: u64, now: Instant) {
        let _ = (from, datagram, wall_ms, now);
        self.drops.count(DropReason::Malformed);
    }

    /// The fast path opened an authentic datagram that was the newest of its session and came from another
    /// endpoint than the snapshot says.
    pub fn handle_roamed(&mut self, index: u32, from: SocketAddr, counter: u64, now: Instant) {
        let _ = (index, from, counter, now);
    }

    /// The kernel says that outer packets to `to` must not be larger than `outer_mtu`.
    pub fn handle_too_big(&mut self, to: SocketAddr, outer_mtu: u16, now: Instant) {
        let _ = (to, outer_mtu, now);
    }

    /// The caller's queue of handshakes is filling: ask for cookies during the next second.
    pub fn handle_pressure(&mut self, now: Instant) {
        let _ = now;
    }

    /// Time has passed. Late, early and repeated calls are harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Self::handle_timeout`], and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }

    /// The confirmed sessions, for the snapshot of the fast path.
    pub fn sessions(&self) -> Vec<SessionView> {
        Vec::new()
    }

    /// What is known about a peer.
    pub fn peer(&self, peer: &PeerId) -> Option<PeerView> {
        let _ = peer;
        None
    }

    /// What was dropped here. Drops of the fast path are counted there.
    pub fn drops(&self) -> &BTreeMap<DropReason, u64> {
        self.drops.as_map()
    }
}
