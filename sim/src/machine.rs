//! The overlay's state machine of one node: a joiner, then a namespace. Both are driven alike.

use std::time::Instant;

use dht::join::{Joiner, JoinerEvent};
use dht::{Command, Namespace, Now, Output, Refusal};
use libp2p_identity::PeerId;

pub(crate) enum Machine {
    Joiner(Box<Joiner>),
    Member(Box<Namespace>),
}

impl Machine {
    pub(crate) fn namespace(&self) -> Option<&Namespace> {
        match self {
            Self::Joiner(_) => None,
            Self::Member(namespace) => Some(namespace),
        }
    }

    /// Who votes, and so whom this node stays connected to.
    pub(crate) fn voters(&self) -> Vec<PeerId> {
        self.namespace().map(|namespace| namespace.replicas().into_iter().collect()).unwrap_or_default()
    }

    pub(crate) fn handle_command(&mut self, command: Command, now: Now) {
        match self {
            Self::Joiner(_) => {}
            Self::Member(namespace) => namespace.handle_command(command, now),
        }
    }

    pub(crate) fn hello(&mut self, to: PeerId, now: Now) -> Vec<u8> {
        match self {
            Self::Joiner(joiner) => joiner.hello(to, now),
            Self::Member(namespace) => namespace.hello(to, now),
        }
    }

    pub(crate) fn handle_hello(&mut self, from: PeerId, request: &[u8], now: Now) -> Result<Vec<u8>, Refusal> {
        match self {
            Self::Joiner(_) => Err(Refusal::NotAdmitted),
            Self::Member(namespace) => namespace.handle_hello(from, request, now),
        }
    }

    pub(crate) fn handle_hello_response(&mut self, from: PeerId, response: &[u8], now: Now) -> Result<(), Refusal> {
        match self {
            Self::Joiner(joiner) => joiner.handle_hello_response(from, response, now),
            Self::Member(namespace) => namespace.handle_hello_response(from, response, now),
        }
    }

    pub(crate) fn handle_message(&mut self, from: PeerId, message: &[u8], now: Now) {
        match self {
            Self::Joiner(joiner) => joiner.handle_message(from, message, now),
            Self::Member(namespace) => namespace.handle_message(from, message, now),
        }
    }

    pub(crate) fn handle_gone(&mut self, peer: PeerId, now: Now) {
        match self {
            Self::Joiner(joiner) => joiner.handle_gone(peer, now),
            Self::Member(namespace) => namespace.handle_gone(peer, now),
        }
    }

    pub(crate) fn handle_dialled_back(&mut self, peer: PeerId, reached: bool, now: Now) {
        match self {
            Self::Joiner(_) => {}
            Self::Member(namespace) => namespace.handle_dialled_back(peer, reached, now),
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Now) {
        match self {
            Self::Joiner(joiner) => joiner.handle_timeout(now),
            Self::Member(namespace) => namespace.handle_timeout(now),
        }
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        match self {
            Self::Joiner(joiner) => joiner.poll_output(),
            Self::Member(namespace) => namespace.poll_output(),
        }
    }

    pub(crate) fn poll_joiner_event(&mut self) -> Option<JoinerEvent> {
        match self {
            Self::Joiner(joiner) => joiner.poll_event(),
            Self::Member(_) => None,
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        match self {
            Self::Joiner(joiner) => joiner.poll_timeout(),
            Self::Member(namespace) => namespace.poll_timeout(),
        }
    }
}
