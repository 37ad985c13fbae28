//! The state machine that the driver runs: a joiner, then a namespace. Both are driven alike.

use std::net::SocketAddr;
use std::time::Instant;

use dht::join::{Joiner, JoinerEvent};
use dht::token::Contact;
use dht::{Command, Namespace, Now, Output, Refusal};
use ipnet::Ipv4Net;
use libp2p::PeerId;

use crate::config::Start;

pub(crate) enum Machine {
    Member(Box<Namespace>),
    Joiner(Box<Joiner>),
    #[cfg(test)]
    Fake(Box<crate::tests::fake::Fake>),
}

impl From<Start> for Machine {
    fn from(start: Start) -> Self {
        match start {
            Start::Member(namespace) => Self::Member(namespace),
            Start::Joiner(joiner) => Self::Joiner(joiner),
        }
    }
}

impl Machine {
    pub(crate) fn is_joiner(&self) -> bool {
        match self {
            Self::Member(_) => false,
            Self::Joiner(_) => true,
            #[cfg(test)]
            Self::Fake(_) => false,
        }
    }

    /// A joiner has nothing to be asked for: the node waits until it is told `Joined`.
    pub(crate) fn handle_commands(&mut self, commands: Vec<Command>, now: Now) {
        match self {
            Self::Member(namespace) => namespace.handle_commands(commands, now),
            Self::Joiner(_) => tracing::debug!("dropped commands that came before the join was over"),
            #[cfg(test)]
            Self::Fake(fake) => commands.into_iter().for_each(|command| fake.handle_command(command)),
        }
    }

    pub(crate) fn hello(&mut self, to: PeerId, now: Now) -> Vec<u8> {
        match self {
            Self::Member(namespace) => namespace.hello(to, now),
            Self::Joiner(joiner) => joiner.hello(to, now),
            #[cfg(test)]
            Self::Fake(fake) => fake.hello(),
        }
    }

    pub(crate) fn handle_hello(&mut self, from: PeerId, request: &[u8], now: Now) -> Result<Vec<u8>, Refusal> {
        match self {
            Self::Member(namespace) => namespace.handle_hello(from, request, now),
            Self::Joiner(_) => Err(Refusal::NotAdmitted),
            #[cfg(test)]
            Self::Fake(fake) => fake.handle_hello(from, request),
        }
    }

    pub(crate) fn handle_hello_response(&mut self, from: PeerId, response: &[u8], now: Now) -> Result<(), Refusal> {
        match self {
            Self::Member(namespace) => namespace.handle_hello_response(from, response, now),
            Self::Joiner(joiner) => joiner.handle_hello_response(from, response, now),
            #[cfg(test)]
            Self::Fake(fake) => fake.handle_hello_response(from, response),
        }
    }

    pub(crate) fn handle_message(&mut self, from: PeerId, message: &[u8], now: Now) {
        match self {
            Self::Member(namespace) => namespace.handle_message(from, message, now),
            Self::Joiner(joiner) => joiner.handle_message(from, message, now),
            #[cfg(test)]
            Self::Fake(fake) => fake.handle_message(from, message),
        }
    }

    pub(crate) fn handle_gone(&mut self, peer: PeerId, now: Now) {
        match self {
            Self::Member(namespace) => namespace.handle_gone(peer, now),
            Self::Joiner(joiner) => joiner.handle_gone(peer, now),
            #[cfg(test)]
            Self::Fake(fake) => fake.handle_gone(peer),
        }
    }

    /// Whether a stranger would reach this peer.
    pub(crate) fn handle_dialled_back(&mut self, peer: PeerId, reached: bool, now: Now) {
        match self {
            Self::Member(namespace) => namespace.handle_dialled_back(peer, reached, now),
            Self::Joiner(_) => {}
            #[cfg(test)]
            Self::Fake(fake) => fake.handle_dialled_back(peer, reached),
        }
    }

    /// A hint that Kademlia has.
    pub(crate) fn handle_hint(&mut self, key: &[u8], value: &[u8], now: Now) {
        match self {
            Self::Member(namespace) => namespace.handle_hint(key, value, now),
            Self::Joiner(_) => {}
            #[cfg(test)]
            Self::Fake(fake) => fake.handle_hint(key, value),
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Now) {
        match self {
            Self::Member(namespace) => namespace.handle_timeout(now),
            Self::Joiner(joiner) => joiner.handle_timeout(now),
            #[cfg(test)]
            Self::Fake(_) => {}
        }
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        match self {
            Self::Member(namespace) => namespace.poll_output(),
            Self::Joiner(joiner) => joiner.poll_output(),
            #[cfg(test)]
            Self::Fake(fake) => fake.poll_output(),
        }
    }

    pub(crate) fn poll_joiner_event(&mut self) -> Option<JoinerEvent> {
        match self {
            Self::Member(_) => None,
            Self::Joiner(joiner) => joiner.poll_event(),
            #[cfg(test)]
            Self::Fake(_) => None,
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        match self {
            Self::Member(namespace) => namespace.poll_timeout(),
            Self::Joiner(joiner) => joiner.poll_timeout(),
            #[cfg(test)]
            Self::Fake(_) => None,
        }
    }

    pub(crate) fn verify_hint(&self, key: &[u8], value: &[u8], held: Option<&[u8]>) -> bool {
        match self {
            Self::Member(namespace) => namespace.verify_hint(key, value, held),
            Self::Joiner(_) => false,
            #[cfg(test)]
            Self::Fake(_) => true,
        }
    }

    /// Another address of a joiner's contact.
    pub(crate) fn add_address(&mut self, peer: PeerId, addr: SocketAddr) {
        match self {
            Self::Member(_) => {}
            Self::Joiner(joiner) => joiner.add_address(peer, addr),
            #[cfg(test)]
            Self::Fake(_) => {}
        }
    }

    pub(crate) fn set_replica_contact(&mut self, contact: Contact) {
        match self {
            Self::Member(namespace) => namespace.set_replica_contact(contact),
            Self::Joiner(_) => {}
            #[cfg(test)]
            Self::Fake(fake) => fake.set_replica_contact(&contact),
        }
    }

    /// Who votes. Asked for at each open and close.
    pub(crate) fn voters(&self) -> Vec<PeerId> {
        match self {
            Self::Member(namespace) => namespace.replicas().into_iter().collect(),
            Self::Joiner(_) => Vec::new(),
            #[cfg(test)]
            Self::Fake(fake) => fake.voters.clone(),
        }
    }

    /// Which addresses exist only inside the tunnel.
    pub(crate) fn range(&self) -> Option<Ipv4Net> {
        match self {
            Self::Member(namespace) => Some(namespace.membership().config().range),
            Self::Joiner(_) => None,
            #[cfg(test)]
            Self::Fake(_) => None,
        }
    }

    /// DNS names among a joiner's contacts.
    pub(crate) fn names(&self) -> Vec<(PeerId, String, u16)> {
        match self {
            Self::Member(_) => Vec::new(),
            Self::Joiner(joiner) => joiner.dns_contacts().to_vec(),
            #[cfg(test)]
            Self::Fake(_) => Vec::new(),
        }
    }
}
