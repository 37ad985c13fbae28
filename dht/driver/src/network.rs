//! What happens on the network, told to the state machine.

use dht::Level;
use dht::identity::PublicKey;
use dht::token::{Contact, ContactAddress, MAX_ADDRESSES};
use libp2p::kad::{self, GetClosestPeersOk, InboundRequest, QueryResult};
use libp2p::request_response::{self, Message, OutboundFailure};
use libp2p::swarm::{self, ConnectionId};
use libp2p::{Multiaddr, PeerId, identify, mdns, ping};

use crate::address::{socket_addr_of, split_peer};
use crate::behaviour::{BehaviourEvent, Protocols};
use crate::config::{Clocks, DriverEvent};
use crate::dialer::{Attempt, Wish};
use crate::driver::{After, Driver};
use crate::hello;
use crate::links::{MadeBy, Stage};
use crate::listen::listening;

pub(crate) type SwarmEvent = swarm::SwarmEvent<BehaviourEvent>;

/// Addresses taken from one peer's identify.
const MOST_TOLD: usize = 16;
/// Messages kept in case their connection never opens.
const MOST_DOUBTFUL: usize = 256;

impl<C: Clocks> Driver<C> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "libp2p's enum, which grows")]
    pub(crate) fn handle_swarm_event(&mut self, event: SwarmEvent) {
        match event {
            SwarmEvent::Behaviour(event) => self.handle_behaviour_event(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                let made_by = if endpoint.is_dialer() { MadeBy::Us } else { MadeBy::Them };
                let (address, _) = split_peer(endpoint.get_remote_address().clone());
                self.handle_established(peer_id, connection_id, address, made_by);
            }
            SwarmEvent::ConnectionClosed { connection_id, cause, .. } => {
                let why = cause.map_or_else(|| "closed".to_owned(), |cause| cause.to_string());
                if self.dial_back_ended(connection_id) {
                    self.go_on_dialling_back();
                } else {
                    self.handle_closed(connection_id, &why);
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                tracing::debug!(%connection_id, %error, "failed to connect");
                if self.dial_back_ended(connection_id) {
                    self.go_on_dialling_back();
                } else {
                    self.handle_dial_failed(connection_id);
                }
            }
            SwarmEvent::NewListenAddr { .. } | SwarmEvent::ExpiredListenAddr { .. } => {
                let addrs = listening(&self.swarm);
                self.tell(DriverEvent::Listening(addrs));
            }
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                tracing::warn!(?addresses, ?reason, "no longer listening");
                let addrs = listening(&self.swarm);
                self.tell(DriverEvent::Listening(addrs));
            }
            SwarmEvent::ListenerError { error, .. } => tracing::debug!(%error, "a listener failed"),
            SwarmEvent::IncomingConnectionError { error, .. } => {
                tracing::debug!(%error, "an incoming connection failed")
            }
            _ => {}
        }
    }

    fn handle_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Hello(event) => self.handle_hello_event(event),
            BehaviourEvent::Stream(event) => self.handle_stream_event(event),
            BehaviourEvent::Message(event) => self.handle_message_event(event),
            BehaviourEvent::Kad(event) => self.handle_kad_event(event),
            BehaviourEvent::Identify(identify::Event::Received { connection_id, peer_id, info }) => {
                self.handle_identified(peer_id, connection_id, info);
            }
            BehaviourEvent::Identify(_) => {}
            BehaviourEvent::Ping(ping::Event { peer, connection, result: Err(error) }) => {
                if !matches!(error, ping::Failure::Unsupported) {
                    tracing::debug!(%peer, %error, "a connection does not answer pings");
                    self.swarm.close_connection(connection);
                }
            }
            BehaviourEvent::Ping(_) => {}
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, address) in found {
                    self.handle_found_on_lan(peer, address);
                }
            }
            BehaviourEvent::Mdns(mdns::Event::Expired(lost)) => {
                for (peer, address) in lost {
                    self.dialer.forget_lan(peer, &split_peer(address).0);
                }
            }
        }
    }

    fn handle_established(&mut self, peer: PeerId, connection: ConnectionId, address: Multiaddr, made_by: MadeBy) {
        if self.dialled_back(connection) {
            return;
        }
        let now = self.now();
        self.links.insert(connection, peer, address.clone(), made_by, now.mono);
        if made_by == MadeBy::Us {
            self.end_contact_attempt(connection);
            let request = self.machine.hello(peer, now);
            self.after.push(After::Ask { peer, connection, request });
        }
    }

    fn handle_closed(&mut self, connection: ConnectionId, why: &str) {
        self.pipes.closed(connection);
        let Some(ended) = self.links.remove(connection) else { return };
        let (link, now) = (ended.link, self.now());
        tracing::debug!(peer = %link.peer, address = %link.address, stage = ?link.stage, why, "connection ended");
        if ended.disconnected {
            if link.ought_to_stand() {
                self.dialer.disconnected(link.peer, link.since, now.mono);
            }
            self.tell(DriverEvent::Disconnected { peer: link.peer });
        }
        if ended.last && link.stage >= Stage::Accepted {
            self.machine.handle_gone(link.peer, now);
        }
        if link.made_by == MadeBy::Us && link.stage < Stage::Open {
            self.greeted_in_vain(link.peer, connection, link.address);
        }
        self.choose_standing();
        self.next_care = now.mono;
    }

    fn handle_hello_event(&mut self, event: hello::Event) {
        let now = self.now();
        match event {
            hello::Event::Asked { peer, connection, request } => match self.machine.handle_hello(peer, &request, now) {
                Ok(response) => {
                    self.links.advance(connection, Stage::Accepted);
                    self.after.push(After::Answer { peer, connection, response });
                }
                Err(reason) => {
                    tracing::debug!(%peer, %reason, "refused a hello");
                    self.swarm.close_connection(connection);
                }
            },
            hello::Event::Answered { peer, connection, response } => {
                match self.machine.handle_hello_response(peer, &response, now) {
                    Ok(()) => {
                        self.links.advance(connection, Stage::Accepted);
                        self.after.push(After::Confirm { peer, connection });
                    }
                    Err(reason) => {
                        tracing::debug!(%peer, %reason, "refused the answer to a hello");
                        self.swarm.close_connection(connection);
                    }
                }
            }
            hello::Event::Confirmed { peer, connection } => self.open(peer, connection),
            hello::Event::Failed { peer, connection, why } => {
                tracing::debug!(%peer, why, "a hello came to nothing");
                self.swarm.close_connection(connection);
            }
        }
    }

    /// The state machine has accepted the dialler's hello: lets it in, then answers.
    pub(crate) fn answer(&mut self, peer: PeerId, connection: ConnectionId, response: Vec<u8>) {
        self.links.advance(connection, Stage::Checked);
        self.set_doors(connection);
        self.swarm.behaviour_mut().hello.answer(peer, connection, response);
    }

    /// The state machine has accepted the listener's response: opens both ways, then says so.
    pub(crate) fn confirm(&mut self, peer: PeerId, connection: ConnectionId) {
        self.open(peer, connection);
        self.swarm.behaviour_mut().hello.confirm(peer, connection);
    }

    fn open(&mut self, peer: PeerId, connection: ConnectionId) {
        let was_open = self.links.is_open(peer);
        if !self.links.advance(connection, Stage::Open) {
            return;
        }
        self.set_doors(connection);
        for old in self.links.replaced_by(connection) {
            self.swarm.close_connection(old);
        }
        self.choose_standing();
        if !was_open {
            self.tell(DriverEvent::Connected { peer });
        }
        if let Some(link) = self.links.get(connection)
            && link.made_by == MadeBy::Us
        {
            let address = link.address.clone();
            self.stream_over_tcp(peer, connection);
            if self.links.level(peer) == Some(Level::Member) {
                self.book.note(peer, [address.clone()], self.clocks.now().mono);
                self.name_replica(peer);
            }
            self.dialer.greeted(peer, address);
        }
        let now = self.now();
        for message in self.dialer.reached(peer, now.mono) {
            self.send(peer, message);
        }
    }

    /// Joiners that ask this node are sent on to a replica, so the state machine is told where one was reached, or says that it is:
    /// whoever of two has dialled the other, and whether it was a replica then or became one later.
    fn name_replica(&mut self, peer: PeerId) {
        if self.machine.voters().contains(&peer) {
            self.tell_where(peer);
        }
    }

    /// Says where all replicas are, as far as that is known.
    pub(crate) fn name_replicas(&mut self) {
        for voter in self.machine.voters() {
            self.tell_where(voter);
        }
    }

    fn tell_where(&mut self, peer: PeerId) {
        let Some(identity) = PublicKey::from_peer_id(&peer) else { return };
        let mut addrs: Vec<_> = self.book.addresses(&peer).iter().filter_map(socket_addr_of).collect();
        addrs.dedup();
        addrs.truncate(MAX_ADDRESSES);
        if !addrs.is_empty() {
            let addresses = addrs.into_iter().map(ContactAddress::Socket).collect();
            self.machine.set_replica_contact(Contact { identity, addresses });
        }
    }

    pub(crate) fn set_doors_of(&mut self, peer: PeerId) {
        let connections: Vec<_> = self.links.of(peer).collect();
        for connection in connections {
            self.set_doors(connection);
        }
    }

    fn set_doors(&mut self, connection: ConnectionId) {
        let Some(peer) = self.links.get(connection).map(|link| link.peer) else { return };
        let message = self.links.door(connection, Level::Joiner);
        // A joiner has been admitted to nothing, so it looks for nobody and names itself to nobody.
        let rest = if self.machine.is_joiner() {
            crate::gate::Door::default()
        } else {
            self.links.door(connection, Level::Member)
        };
        let behaviour = self.swarm.behaviour_mut();
        behaviour.message.set(peer, connection, message);
        behaviour.stream.set(peer, connection, rest);
        behaviour.kad.set(peer, connection, rest);
        behaviour.identify.set(peer, connection, rest);
    }

    pub(crate) fn choose_standing(&mut self) {
        let voters = self.machine.voters();
        let dialer = &self.dialer;
        for (peer, connection, keep) in self.links.choose_standing(&voters, |peer| dialer.is_hard(peer)) {
            self.swarm.behaviour_mut().hello.keep(peer, connection, keep);
        }
    }

    fn handle_message_event(&mut self, event: request_response::Event<Vec<u8>, ()>) {
        let now = self.now();
        match event {
            request_response::Event::Message { peer, message: Message::Request { request, channel, .. }, .. } => {
                // It says "arrived", not "done": what the core answers is a message of its own.
                let _ = self.swarm.behaviour_mut().message.inner().send_response(channel, ());
                self.machine.handle_message(peer, &request, now);
            }
            request_response::Event::OutboundFailure { peer, error, request_id, .. } => {
                tracing::debug!(%peer, %error, "a message was not delivered");
                let doubtful = self.doubtful.remove(&request_id);
                if matches!(error, OutboundFailure::ConnectionClosed) && self.links.is_open(peer) {
                    // It had been given to another connection, whose end says nothing about the one that stands.
                    if let Some(message) = doubtful {
                        self.send(peer, message);
                    }
                } else if self.links.has(peer) {
                    // Nobody answers there, or the peer began anew. To the state machine the peer is gone, so it must
                    // say hello again, and that takes a new connection. The end of the old one is told when it comes.
                    self.close_all(peer);
                } else {
                    self.machine.handle_gone(peer, now);
                }
            }
            request_response::Event::Message { message: Message::Response { request_id, .. }, .. } => {
                self.doubtful.remove(&request_id);
            }
            request_response::Event::InboundFailure { .. } | request_response::Event::ResponseSent { .. } => {}
        }
    }

    fn handle_identified(&mut self, peer: PeerId, connection: ConnectionId, info: identify::Info) {
        if self.links.level(peer) != Some(Level::Member) {
            return;
        }
        if let Some(addr) = socket_addr_of(&info.observed_addr) {
            self.tell(DriverEvent::ExternalCandidate(addr));
        }
        let told = info.listen_addrs.into_iter().take(MOST_TOLD).map(|address| split_peer(address).0);
        let told: Vec<_> = told.filter(|address| self.filter.is_dialable(address)).collect();
        if info.protocols.contains(&Protocols::of(&self.config.namespace).kad) {
            for address in &told {
                self.swarm.behaviour_mut().kad.inner().add_address(&peer, address.clone());
            }
        }
        // The address that was reached stands before those that are only said to be.
        let reached = self.links.get(connection).filter(|link| link.made_by == MadeBy::Us);
        let reached = reached.map(|link| link.address.clone());
        self.book.note(peer, reached.into_iter().chain(told), self.clocks.now().mono);
        self.name_replica(peer);
        self.go_on_dialling_back();
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "libp2p's enum; its other events are news to nobody here")]
    fn handle_kad_event(&mut self, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed { id, result: QueryResult::GetClosestPeers(result), step, stats }
                if step.last =>
            {
                let known: usize =
                    self.swarm.behaviour_mut().kad.inner().kbuckets().map(|bucket| bucket.num_entries()).sum();
                tracing::debug!(requests = stats.num_requests(), answers = stats.num_successes(), known, "looked up");
                let Some(peer) = self.dialer.waiting_for(|attempt| attempt == Attempt::Looking(id)) else { return };
                let peers = match result {
                    Ok(GetClosestPeersOk { peers, .. }) => peers,
                    Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
                };
                let found = peers.into_iter().find(|info| info.peer_id == peer).map(|info| info.addrs);
                self.handle_looked_up(peer, found.unwrap_or_default());
            }
            kad::Event::OutboundQueryProgressed { id, result, step, .. } => {
                self.handle_sought(id, &result, step.last);
            }
            kad::Event::InboundRequest { request: InboundRequest::PutRecord { source, record: Some(record), .. } } => {
                let now = self.now().mono;
                let store = self.swarm.behaviour_mut().kad.inner().store_mut();
                let machine = &self.machine;
                let verify = |key: &[u8], value: &[u8], held: Option<&[u8]>| machine.verify_hint(key, value, held);
                self.hints.put(store, source, record, verify, now);
            }
            _ => {}
        }
    }

    fn handle_found_on_lan(&mut self, peer: PeerId, address: Multiaddr) {
        let (address, _) = split_peer(address);
        // A joiner asks those that its token names, and shows its invite to nobody else.
        if self.machine.is_joiner() || !self.filter.is_dialable(&address) {
            return;
        }
        self.dialer.note_lan(peer, address);
        self.connect(peer, Wish::Standing);
    }

    /// What a message to be sent needs: a connection now, or one that is waited for.
    pub(crate) fn send(&mut self, to: PeerId, message: Vec<u8>) {
        if self.links.is_open(to) {
            // libp2p takes any connection to the peer, in turn: one that is not open keeps the message until it ends.
            let is_mixed = self.links.is_mixed(to) || self.dial_backs.has(to);
            let copy = is_mixed.then(|| message.clone());
            let request = self.swarm.behaviour_mut().message.inner().send_request(&to, message);
            if let Some(copy) = copy
                && self.doubtful.len() < MOST_DOUBTFUL
            {
                self.doubtful.insert(request, copy);
            }
            return;
        }
        self.dialer.wait(to, message);
        self.connect(to, Wish::Asked);
    }

    pub(crate) fn close_all(&mut self, peer: PeerId) {
        let connections: Vec<_> = self.links.of(peer).collect();
        for connection in connections {
            self.swarm.close_connection(connection);
        }
    }
}
