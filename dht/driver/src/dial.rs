//! Reaching peers: those that the state machine names, those that ought to stand, and somebody when there is nobody.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dht::Level;
use futures::FutureExt;
use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};

use crate::address::{multiaddrs_of, socket_addr_of, split_peer};
use crate::config::Clocks;
use crate::dialer::{Attempt, Wish};
use crate::driver::{Driver, Found};
use crate::listen::resolve;

/// How often the connections that ought to stand are looked after when nothing happens.
const CARE: Duration = Duration::from_secs(30);
/// Pause between attempts at a contact whose name is not known.
const CONTACT_PAUSE: Duration = Duration::from_secs(5);
/// Between attempts at a peer that is away, at most. Replicas need each other to decide anything, and they are few.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE_OF_FELLOWS: Duration = Duration::from_secs(10);
/// Remembered peers tried at once when nobody is connected.
const MOST_REMEMBERED: usize = 3;

/// A first contact from the configuration.
pub(crate) struct Contact {
    address: Multiaddr,
    peer: Option<PeerId>,
    next: Option<Instant>,
    /// Connections being made to it while its name is not known.
    dialling: Vec<ConnectionId>,
}

pub(crate) fn contacts_of(peers: &[Multiaddr]) -> Vec<Contact> {
    let contact = |address: &Multiaddr| {
        let (address, peer) = split_peer(address.clone());
        Contact { address, peer, next: None, dialling: Vec::new() }
    };
    peers.iter().map(contact).collect()
}

impl<C: Clocks> Driver<C> {
    /// Takes up work with a state machine that has just begun.
    pub(crate) fn begin(&mut self) {
        if self.machine.is_joiner() {
            self.look_up_contacts();
        }
        for (peer, name, port) in self.machine.names() {
            let lookup = async move {
                let found = tokio::net::lookup_host((name.as_str(), port)).await;
                let addresses = found.map(|found| found.flat_map(multiaddrs_of).take(16).collect());
                Found { contact: None, peer: Some(peer), addresses: addresses.unwrap_or_default() }
            };
            self.lookups.push(lookup.boxed());
        }
        self.next_care = self.now().mono;
    }

    /// The state machine wants a connection.
    pub(crate) fn dial(&mut self, peer: PeerId, addrs: &[SocketAddr]) {
        self.dialer.note(peer, addrs.iter().rev().flat_map(|addr| multiaddrs_of(*addr).into_iter().rev()));
        if self.machine.is_joiner() && self.links.is_open(peer) {
            // It gave this contact up and comes back to it; a new hello needs a new connection.
            self.close_all(peer);
            return;
        }
        self.connect(peer, Wish::Asked);
    }

    /// Tries to reach a peer unless it is being tried or is there already.
    pub(crate) fn connect(&mut self, peer: PeerId, wish: Wish) {
        let now = self.now().mono;
        if peer == *self.swarm.local_peer_id() || self.links.is_open(peer) {
            return;
        }
        if self.links.has(peer) || self.dialer.attempt(peer) != Attempt::None {
            self.dialer.remember(peer, wish);
            return;
        }
        if !self.dialer.may_begin(peer, wish, now) {
            if let Some(next) = self.dialer.next_attempt(peer) {
                self.next_care = self.next_care.min(next);
            }
            return;
        }
        self.try_known(peer);
    }

    /// First the addresses that somebody named, then those seen on the LAN, then those that others know.
    fn try_known(&mut self, peer: PeerId) {
        let now = self.now().mono;
        self.dialer.take_fresh(peer);
        let mut addresses = self.dialer.addresses(peer, self.book.addresses(&peer), now);
        if addresses.is_empty() && self.machine.is_joiner() {
            // A joiner has no other addresses, and a patience of its own.
            addresses = self.dialer.given(peer);
        }
        match self.start_dial(peer, addresses) {
            Some(connection) => self.dialer.set_attempt(peer, Attempt::Dialling(connection)),
            None => self.try_lan(peer),
        }
    }

    fn try_lan(&mut self, peer: PeerId) {
        let addresses = self.dialer.lan_addresses(peer, self.book.addresses(&peer), self.now().mono);
        match self.start_dial(peer, addresses) {
            Some(connection) => self.dialer.set_attempt(peer, Attempt::DiallingLan(connection)),
            None => self.look_up(peer),
        }
    }

    pub(crate) fn start_dial(&mut self, peer: PeerId, mut addresses: Vec<Multiaddr>) -> Option<ConnectionId> {
        addresses.retain(|address| !self.filter.is_virtual(address));
        if addresses.is_empty() {
            return None;
        }
        // These and no others: libp2p takes whichever answers first, and would add some that were set aside.
        let options = DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(addresses).build();
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => Some(connection),
            Err(error) => {
                tracing::debug!(%peer, %error, "cannot dial");
                None
            }
        }
    }

    fn look_up(&mut self, peer: PeerId) {
        let kad = self.swarm.behaviour_mut().kad.inner();
        let knows_somebody = kad.kbuckets().next().is_some();
        if self.machine.is_joiner() || !knows_somebody {
            self.give_up(peer);
            return;
        }
        let query = kad.get_closest_peers(peer.to_bytes());
        self.dialer.set_attempt(peer, Attempt::Looking(query));
    }

    pub(crate) fn handle_looked_up(&mut self, peer: PeerId, mut addresses: Vec<Multiaddr>) {
        let now = self.now().mono;
        addresses = addresses.into_iter().map(|address| split_peer(address).0).collect();
        addresses.retain(|address| self.filter.is_dialable(address) && !self.dialer.is_aside(peer, address, now));
        if self.links.has(peer) {
            self.dialer.set_attempt(peer, Attempt::None);
        } else if addresses.is_empty() {
            self.give_up(peer);
        } else if let Some(connection) = self.start_dial(peer, addresses) {
            self.dialer.set_attempt(peer, Attempt::DiallingFound(connection));
        } else {
            self.give_up(peer);
        }
    }

    pub(crate) fn handle_dial_failed(&mut self, connection: ConnectionId) {
        self.stream_without_tcp(connection);
        self.end_contact_attempt(connection);
        let Some(peer) = self.dialer.waiting_for(|attempt| attempt.connection() == Some(connection)) else { return };
        if self.links.has(peer) {
            // The peer was faster.
            self.dialer.set_attempt(peer, Attempt::None);
            return;
        }
        match self.dialer.attempt(peer) {
            Attempt::Dialling(_) => self.try_lan(peer),
            Attempt::DiallingLan(_) => self.look_up(peer),
            Attempt::DiallingFound(_) | Attempt::Looking(_) | Attempt::None => self.give_up(peer),
        }
    }

    /// A connection that this node made ended before its hello was through: other addresses are tried at once.
    pub(crate) fn greeted_in_vain(&mut self, peer: PeerId, connection: ConnectionId, address: Multiaddr) {
        let now = self.now().mono;
        let again = self.dialer.greeted_in_vain(peer, address, self.book.addresses(&peer), now);
        let attempt = self.dialer.attempt(peer);
        if attempt.connection() != Some(connection) {
            return;
        }
        if self.links.has(peer) {
            self.dialer.set_attempt(peer, Attempt::None);
            return;
        }
        if !again || self.machine.is_joiner() {
            self.give_up(peer);
            return;
        }
        match attempt {
            Attempt::Dialling(_) => self.try_known(peer),
            Attempt::DiallingLan(_) => self.try_lan(peer),
            Attempt::DiallingFound(_) | Attempt::Looking(_) | Attempt::None => self.look_up(peer),
        }
    }

    fn give_up(&mut self, peer: PeerId) {
        if !self.links.has(peer) && self.dialer.take_fresh(peer) {
            // Told while others were being tried, such as those of the LAN, which come first of all.
            self.try_known(peer);
            return;
        }
        let now = self.now();
        let voters = self.machine.voters();
        let longest = if self.links.is_fellow(&voters, peer) { LONGEST_PAUSE_OF_FELLOWS } else { LONGEST_PAUSE };
        let dropped = self.dialer.give_up(peer, longest, now.mono);
        tracing::debug!(%peer, dropped, "cannot be reached");
        if !self.links.has(peer) {
            self.machine.handle_gone(peer, now);
        }
        self.next_care = self.next_care.min(now.mono + Duration::from_secs(1));
    }

    /// Sees to the connections that ought to stand: to voters, and to anybody if there is none.
    pub(crate) fn take_care(&mut self) {
        let now = self.now().mono;
        let voters = self.machine.voters();
        if let Some(range) = self.machine.range() {
            self.filter.add_virtual_range(range);
        }
        let dialer = &self.dialer;
        let mut wanted = self.links.voters_to_keep(&voters, |peer| dialer.is_hard(peer));
        if !self.machine.is_joiner() && self.is_lonely() {
            wanted.extend(self.book.latest().into_iter().take(MOST_REMEMBERED));
            wanted.extend(self.dialer.on_lan(now));
            if self.contacts.iter().all(|contact| contact.next.is_none_or(|next| now >= next)) {
                self.look_up_contacts();
            }
        }
        self.next_care = now + CARE;
        for peer in self.dialer.asked() {
            self.connect(peer, Wish::Asked);
        }
        for peer in wanted {
            self.connect(peer, Wish::Standing);
        }
        if self.is_lonely() && !self.contacts.is_empty() {
            self.next_care = self.next_care.min(now + CONTACT_PAUSE);
        }
        self.choose_standing();
        self.name_replicas();
    }

    fn is_lonely(&self) -> bool {
        !self.links.open_peers().iter().any(|peer| self.links.level(*peer) == Some(Level::Member))
    }

    /// Finds out where the configured contacts are; [`handle_lookup`](Self::handle_lookup) goes on.
    fn look_up_contacts(&mut self) {
        let now = self.now().mono;
        for (index, contact) in self.contacts.iter_mut().enumerate() {
            if !contact.dialling.is_empty() {
                continue;
            }
            contact.next = Some(now + CONTACT_PAUSE);
            let (peer, address) = (contact.peer, contact.address.clone());
            let lookup = async move {
                let addresses = resolve(address).await.unwrap_or_else(|error| {
                    tracing::info!("{error:#}");
                    Vec::new()
                });
                Found { contact: Some(index), peer, addresses }
            };
            self.lookups.push(lookup.boxed());
        }
    }

    /// A contact's name was looked up, or needed no looking up.
    pub(crate) fn handle_lookup(&mut self, Found { contact, peer, addresses }: Found) {
        let addresses: Vec<_> = addresses.into_iter().filter(|address| !self.filter.is_virtual(address)).collect();
        let Some(peer) = peer else {
            if self.machine.is_joiner() {
                return;
            }
            for address in addresses {
                self.dial_unnamed(contact, address);
            }
            return;
        };
        if self.machine.is_joiner() {
            // It shows its invite to those it chooses itself, in turn.
            for addr in addresses.iter().filter_map(socket_addr_of) {
                self.machine.add_address(peer, addr);
            }
            return;
        }
        self.dialer.note(peer, addresses);
        self.connect(peer, Wish::Standing);
    }

    fn dial_unnamed(&mut self, contact: Option<usize>, address: Multiaddr) {
        let options = DialOpts::unknown_peer_id().address(address).build();
        let connection = options.connection_id();
        if self.swarm.dial(options).is_ok()
            && let Some(contact) = contact.and_then(|index| self.contacts.get_mut(index))
        {
            contact.dialling.push(connection);
        }
    }

    /// A connection to a contact was made, or could not be.
    pub(crate) fn end_contact_attempt(&mut self, connection: ConnectionId) {
        for contact in &mut self.contacts {
            contact.dialling.retain(|dialling| *dialling != connection);
        }
    }
}
