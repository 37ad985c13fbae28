use std::{
    collections::{BTreeMap, VecDeque},
    net::Ipv4Addr,
    time::Instant,
};

use crate::{Answer, Config, DropReason, Event, QueryId, Token, Transport};

/// The DNS server of one namespace as a state machine.
#[derive(Debug)]
pub struct Responder {
    config: Config,
    replies: VecDeque<(Token, Vec<u8>)>,
    events: VecDeque<Event>,
    drops: BTreeMap<DropReason, u64>,
}

impl Responder {
    /// A server that knows its own names and those of the zone's apex.
    pub fn new(config: Config, _now: Instant) -> Self {
        Self { config, replies: VecDeque::new(), events: VecDeque::new(), drops: BTreeMap::new() }
    }

    /// Takes a name of this machine or of a host behind its TAP, answered from then on without asking.
    pub fn set_local(&mut self, _name: &str, _ip: Ipv4Addr) {}

    /// Forgets the local name of an address.
    pub fn remove_local(&mut self, _ip: Ipv4Addr) {}

    /// Takes a query of a guest.
    pub fn handle_query(&mut self, _token: Token, _transport: Transport, _message: &[u8], _now: Instant) {}

    /// Takes what the registers said to [`Event::Resolve`].
    pub fn handle_resolved(&mut self, _id: QueryId, _answer: Answer, _now: Instant) {}

    /// Takes what the system's resolvers said to [`Event::Forward`]; `None` if they said nothing.
    pub fn handle_forwarded(&mut self, _id: QueryId, _reply: Option<&[u8]>, _now: Instant) {}

    /// Answers what waited too long.
    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// The next reply to a guest.
    pub fn poll_reply(&mut self) -> Option<(Token, Vec<u8>)> {
        self.replies.pop_front()
    }

    /// The next question to others.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Responder::handle_timeout`] wants to be called, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }

    /// What was not answered as asked, by reason.
    pub fn drops(&self) -> &BTreeMap<DropReason, u64> {
        &self.drops
    }

    /// The configuration given at the start.
    pub fn config(&self) -> &Config {
        &self.config
    }
}
