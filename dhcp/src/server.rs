//! The server itself: which message leads to which claim, and which outcome to which reply.

use std::{
    collections::{BTreeMap, VecDeque},
    net::Ipv4Addr,
    time::Instant,
};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::{Binding, Config, DropReason, Event, Outcome, Reply, RequestId};

/// A DHCP server for the machines behind one TAP.
///
/// Getters; `handle_*` for what arrives; `poll_*` for what is to be done. `now` never goes backwards.
#[derive(Debug)]
pub struct Server {
    config: Config,
    rng: ChaCha8Rng,
    replies: VecDeque<Reply>,
    events: VecDeque<Event>,
    drops: BTreeMap<DropReason, u64>,
}

impl Server {
    /// Makes a server without any client. The seed feeds the fuzz of the renewal times and the choice of an address
    /// after a conflict.
    pub fn new(config: Config, seed: [u8; 32], _now: Instant) -> Self {
        Self {
            config,
            rng: ChaCha8Rng::from_seed(seed),
            replies: VecDeque::new(),
            events: VecDeque::new(),
            drops: BTreeMap::new(),
        }
    }

    /// A DHCP message came in a frame from `source`.
    pub fn handle_message(&mut self, _source: [u8; 6], _message: &[u8], _now: Instant) {}

    /// A claim was answered.
    pub fn handle_outcome(&mut self, _id: RequestId, _outcome: Outcome, _now: Instant) {}

    /// The lease of `ip` was lost or ran out. The client learns it by a NAK to its next REQUEST.
    pub fn handle_lost(&mut self, _ip: Ipv4Addr, _now: Instant) {}

    /// Time has passed.
    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// The next message to a client.
    pub fn poll_reply(&mut self) -> Option<Reply> {
        self.replies.pop_front()
    }

    /// The next thing to do or to know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When `handle_timeout` is next due, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }

    /// The addresses in use.
    pub fn bindings(&self) -> impl Iterator<Item = Binding> {
        std::iter::empty()
    }

    /// What was refused or ignored, by reason.
    pub fn drops(&self) -> &BTreeMap<DropReason, u64> {
        &self.drops
    }
}
