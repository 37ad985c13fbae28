//! Whom a joiner asks, in turn, and what speaks against each.

use std::net::SocketAddr;
use std::time::Duration;

use libp2p_identity::PeerId;

use super::{FIRST_WAIT, JoinError, LONGEST_WAIT};
use crate::token::{Contact, ContactAddress, MAX_CONTACTS};

/// How often a contact may close without an answer before that counts as its answer.
const MAX_CLOSED: u32 = 4;

/// Contacts of the token, and replicas that they named.
const MAX_TARGETS: usize = MAX_CONTACTS + 8;

/// Most addresses of one target.
const MAX_ADDRESSES: usize = 8;

struct Target {
    peer: PeerId,
    addrs: Vec<SocketAddr>,
    closed: u32,
    against: Option<JoinError>,
}

pub(super) struct Targets {
    list: Vec<Target>,
    dns: Vec<(PeerId, String, u16)>,
    next: usize,
    wait: Duration,
}

/// What to do next.
pub(super) enum Step {
    Dial { peer: PeerId, addrs: Vec<SocketAddr> },
    RoundOver { wait: Duration },
    Hopeless(JoinError),
}

impl Targets {
    pub(super) fn new(contacts: &[Contact]) -> Self {
        let mut targets = Self { list: Vec::new(), dns: Vec::new(), next: 0, wait: FIRST_WAIT };
        for contact in contacts {
            let Some(peer) = contact.identity.peer_id() else { continue };
            targets.add(peer, &sockets(contact));
            targets.dns.extend(contact.addresses.iter().filter_map(|address| match address {
                ContactAddress::Socket(_) => None,
                ContactAddress::Dns(name, port) => Some((peer, name.clone(), *port)),
            }));
        }
        targets
    }

    pub(super) fn dns(&self) -> &[(PeerId, String, u16)] {
        &self.dns
    }

    pub(super) fn add(&mut self, peer: PeerId, addrs: &[SocketAddr]) {
        let Some(target) = self.list.iter_mut().find(|target| target.peer == peer) else {
            if self.list.len() < MAX_TARGETS {
                self.list.push(Target { peer, addrs: addrs.to_vec(), closed: 0, against: None });
            }
            return;
        };
        for addr in addrs {
            if !target.addrs.contains(addr) && target.addrs.len() < MAX_ADDRESSES {
                target.addrs.push(*addr);
            }
        }
    }

    /// Where a target is, as far as anybody said.
    pub(super) fn addresses(&self, peer: &PeerId) -> Vec<SocketAddr> {
        let target = self.list.iter().find(|target| target.peer == *peer);
        target.map(|target| target.addrs.clone()).unwrap_or_default()
    }

    /// Adds replicas, to be asked next. `false` if none was new.
    pub(super) fn add_replicas<'a>(&mut self, contacts: impl Iterator<Item = &'a Contact>) -> bool {
        let before = self.list.len();
        for contact in contacts {
            if let Some(peer) = contact.identity.peer_id() {
                self.add(peer, &sockets(contact));
            }
        }
        if self.list.len() > before {
            self.next = before;
        }
        self.list.len() > before
    }

    /// Records what is wrong with a contact.
    pub(super) fn accuse(&mut self, peer: &PeerId, error: JoinError) {
        if let Some(target) = self.list.iter_mut().find(|target| target.peer == *peer) {
            target.against = Some(error);
        }
    }

    /// Records that a contact took a hello and said nothing.
    pub(super) fn closed_without_answer(&mut self, peer: &PeerId) {
        if let Some(target) = self.list.iter_mut().find(|target| target.peer == *peer) {
            target.closed += 1;
            if target.closed >= MAX_CLOSED {
                target.against = Some(JoinError::Refused);
            }
        }
    }

    /// The next one to ask; a pause after each round; the end when there is something against every one.
    pub(super) fn next(&mut self) -> Step {
        if let Some(error) = self.hopeless() {
            return Step::Hopeless(error);
        }
        while let Some(target) = self.list.get(self.next) {
            self.next += 1;
            if target.against.is_none() {
                return Step::Dial { peer: target.peer, addrs: target.addrs.clone() };
            }
        }
        self.next = 0;
        let wait = self.wait;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        Step::RoundOver { wait }
    }

    fn hopeless(&self) -> Option<JoinError> {
        if self.list.iter().any(|target| target.against.is_none()) {
            return None;
        }
        // The most telling of them: what a contact said, before what it did not say.
        let mut against = self.list.iter().filter_map(|target| target.against.as_ref());
        let said = against.clone().find(|error| **error != JoinError::Refused);
        Some(said.or(against.next()).cloned().unwrap_or(JoinError::Refused))
    }
}

fn sockets(contact: &Contact) -> Vec<SocketAddr> {
    contact
        .addresses
        .iter()
        .filter_map(|address| match address {
            ContactAddress::Socket(addr) => Some(*addr),
            ContactAddress::Dns(..) => None,
        })
        .collect()
}
