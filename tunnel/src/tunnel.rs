//! The state machine of one namespace on one node: sorts inputs to peers, keeps their deadlines in one table.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use libp2p_identity::PeerId;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::answer::find_initiator;
use crate::candidates::Pace;
use crate::config::{Candidate, Config, PeerKeys, identity_bytes, peer_of};
use crate::control::{CALLERS, Control};
use crate::cookie::CookieSecret;
use crate::core::{Core, Errand, Outgoing};
use crate::drops::DropReason;
use crate::endpoint::Endpoint;
use crate::event::{Event, Kind, LegView, PeerView, SessionView, Transmit, Way};
use crate::limits::{MAX_PAYLOAD, PEERS};
use crate::mac::MacKeys;
use crate::peer::Peer;
use crate::relay::Refusal;
use crate::session::SealError;
use crate::wire::{Message, NoMessage, parse};

/// The encrypted plane of one namespace. See the crate's documentation for the loop around it.
pub struct Tunnel {
    core: Core,
    peers: BTreeMap<PeerId, Peer>,
    /// Usually one peer per data key; see [`find_initiator`].
    by_key: BTreeMap<[u8; 32], Vec<PeerId>>,
    deadlines: BTreeSet<(Instant, PeerId)>,
}

impl Tunnel {
    /// A tunnel without peers. Handshake numbers below `hs_floor` may have been used by earlier processes: it is the
    /// greater of what was reserved on disk and of the wall clock in milliseconds times 2^16. The first event asks
    /// to reserve a block above.
    ///
    /// # Panics
    /// If `config.identity` is not an inlined Ed25519 key.
    pub fn new(config: Config, hs_floor: u64, seed: [u8; 32], now: Instant) -> Self {
        Self {
            core: Core::new(config, hs_floor, seed, now),
            peers: BTreeMap::new(),
            by_key: BTreeMap::new(),
            deadlines: BTreeSet::new(),
        }
    }

    /// Admits a member, or replaces what is known about it. Sessions live on until their end; handshakes under the
    /// old key are refused from here on.
    pub fn set_peer(&mut self, peer: PeerId, keys: PeerKeys, now: Instant) {
        let macs = MacKeys::new(&self.core.config.namespace, &keys.x25519);
        self.with_entry(peer, now, |peer, core| {
            let old = peer.keys.replace((keys, macs)).map(|(old, _)| old);
            if old.is_some_and(|old| old != keys) {
                peer.cancel_attempt(core, now);
                peer.close_next(core, now);
                peer.cookie = None;
            }
            if !peer.queue.is_empty() && peer.sealing().is_none() {
                peer.begin(core, now);
            }
        });
        self.forget_key(&peer);
        if self.peers.contains_key(&peer) {
            self.by_key.entry(keys.x25519).or_default().push(peer);
        }
    }

    /// Forgets a member; its sessions are erased at once.
    pub fn remove_peer(&mut self, peer: PeerId, now: Instant) {
        self.forget_key(&peer);
        if let Some(mut gone) = self.peers.remove(&peer) {
            gone.queue.clear(DropReason::PeerRemoved, &mut self.core.drops);
            gone.erase(&mut self.core, "removed", now);
            if let Some((at, _)) = gone.deadline {
                self.deadlines.remove(&(at, peer));
            }
        }
        self.settle(now);
    }

    /// Says where a peer may be found. A handshake under way goes there at once.
    pub fn set_candidates(&mut self, peer: PeerId, candidates: Vec<Candidate>, now: Instant) {
        self.with_entry(peer, now, |peer, core| {
            let pace = Pace::between(&core.identity, &peer.identity);
            let refused = peer.candidates.replace(candidates, pace, now);
            (0..refused).for_each(|_| core.drop(DropReason::BadCandidate));
            peer.restart_attempt(core, now);
        });
        self.settle(now);
    }

    /// Sends a payload, in fragments if it is too big for one datagram. Waits for a session, and asks for one,
    /// where none is up.
    pub fn send(&mut self, peer: PeerId, kind: Kind, payload: &[u8], now: Instant) {
        let of_the_tunnel = kind == Kind::Control && payload.first().is_none_or(|subtype| *subtype < CALLERS);
        if payload.is_empty() || payload.len() > MAX_PAYLOAD || of_the_tunnel || kind == Kind::Fragment {
            self.core.drop(DropReason::PayloadSize);
            return;
        }
        self.with_entry(peer, now, |peer, core| peer.send(core, kind, payload, now));
        self.settle(now);
    }

    /// Asks the peer for an echo, which refreshes [`PeerView::rtt`]. Does nothing without a session.
    pub fn ping(&mut self, peer: PeerId, now: Instant) {
        self.with_peer(peer, |peer, core| {
            if peer.sealing().is_some() && !peer.paths.is_asking() {
                peer.begin_echo(core, now);
            }
        });
    }

    /// Asks a member to carry to and from another one. Makes a session with it if there is none, and goes on asking for half
    /// a minute; a circuit that is there already is found again.
    pub fn open_circuit(&mut self, relay: PeerId, target: PeerId, now: Instant) {
        self.with_entry(relay, now, |peer, core| peer.wish(core, target, now));
        self.settle(now);
    }

    /// The overlay has a connection with a peer, or has it no more. Datagrams can go there as parts of a stream: the last
    /// resort, where UDP does not pass.
    pub fn set_stream(&mut self, peer: PeerId, connected: bool, now: Instant) {
        if connected {
            self.with_entry(peer, now, |peer, core| peer.handle_stream(core, now));
        } else {
            self.with_peer(peer, |peer, core| {
                peer.lose(core, Endpoint::Stream(peer.id), now);
            });
        }
        self.settle(now);
    }

    /// Makes a new session while the old one stays in use: the peer may have been restarted, and nobody but a
    /// handshake can tell.
    pub fn renew(&mut self, peer: PeerId, now: Instant) {
        self.with_peer(peer, |peer, core| peer.begin(core, now));
    }

    /// Erases all sessions, handshakes and waiting payloads: on suspend, on a jump of the clock, on leaving.
    pub fn erase_all(&mut self, now: Instant) {
        let peers: Vec<PeerId> = self.peers.keys().copied().collect();
        for peer in peers {
            self.with_peer(peer, |peer, core| {
                peer.queue.clear(DropReason::SessionClosed, &mut core.drops);
                peer.erase(core, "keys erased", now);
            });
        }
        self.core.cookies = CookieSecret::default();
        self.settle(now);
    }

    /// Replaces the randomness. To be called after a resume together with [`Self::erase_all`]: a copied memory
    /// would draw the same keys again.
    pub fn reseed(&mut self, seed: [u8; 32]) {
        self.core.rng = ChaCha20Rng::from_seed(seed);
    }

    /// Numbers below `upto` are reserved on disk. What waited for them is due at once.
    pub fn handshakes_reserved(&mut self, upto: u64) {
        self.core.numbers.handle_reserved(upto);
        self.core.reserve();
        for peer in std::mem::take(&mut self.core.blocked) {
            self.schedule(peer);
        }
    }

    /// Heads to show in handshakes from here on.
    pub fn set_heads(&mut self, heads: [u8; 8]) {
        self.core.config.heads = heads;
    }

    /// Whether this is an Init for our key in our namespace.
    pub fn owns(&self, datagram: &[u8]) -> bool {
        parse(datagram) == Ok(Message::Init) && self.core.macs.check(datagram)
    }

    /// A datagram of the underlay. `wall_ms` is the wall clock, in which handshake numbers are reserved.
    pub fn handle_datagram(&mut self, from: impl Into<Endpoint>, datagram: &[u8], wall_ms: u64, now: Instant) {
        self.core.numbers.saw_wall(wall_ms);
        self.sort(from.into().canonical(), datagram, now);
        self.settle(now);
    }

    fn sort(&mut self, from: Endpoint, datagram: &[u8], now: Instant) {
        match parse(datagram) {
            Ok(Message::Init) => self.handle_init(from, datagram, now),
            Ok(Message::Resp { receiver }) => {
                self.with_owner(receiver, from, |peer, core| peer.handle_resp(core, from, receiver, datagram, now));
            }
            Ok(Message::Cookie { receiver }) => {
                self.with_owner(receiver, from, |peer, core| peer.handle_cookie(core, from, datagram, now));
            }
            Ok(Message::Data { receiver }) => {
                self.with_owner(receiver, from, |peer, core| peer.handle_data(core, from, receiver, datagram, now));
            }
            Err(NoMessage::Malformed) => self.core.drop(DropReason::Malformed),
            Err(NoMessage::WrongMajor) => self.core.drop(DropReason::WrongMajor),
            Err(NoMessage::UnknownKind) => self.core.drop(DropReason::UnknownKind),
        }
    }

    /// The fast path opened an authentic datagram that was the newest of its session and came from another
    /// endpoint than the snapshot says.
    pub fn handle_roamed(&mut self, index: u32, from: impl Into<Endpoint>, counter: u64, now: Instant) {
        let from = from.into().canonical();
        if let Some(peer) = self.core.indices.owner(index) {
            self.with_peer(peer, |peer, core| peer.handle_roamed(core, index, from, counter, now));
        }
        self.settle(now);
    }

    /// The kernel says that outer packets to `to` must not be larger than `outer_mtu`.
    pub fn handle_too_big(&mut self, to: SocketAddr, outer_mtu: u16, now: Instant) {
        let to = Endpoint::Direct(to).canonical();
        let there = self.peers.values().filter(|peer| peer.paths.active() == Some(to)).map(|peer| peer.id);
        for peer in there.collect::<Vec<_>>() {
            self.with_peer(peer, |peer, core| {
                peer.paths.learn_mtu(outer_mtu, now);
                peer.resize(core);
            });
        }
        self.settle(now);
    }

    /// The addresses of this machine have changed: what it sends comes from elsewhere now, and what is sent to it may arrive nowhere.
    pub fn handle_moved(&mut self, now: Instant) {
        let peers: Vec<PeerId> = self.peers.keys().copied().collect();
        for peer in peers {
            self.with_peer(peer, |peer, core| peer.handle_moved(core, now));
        }
        self.settle(now);
    }

    /// The caller's queue of handshakes is filling: ask for cookies during the next second.
    pub fn handle_pressure(&mut self, now: Instant) {
        self.core.load.press(now);
    }

    /// Time has passed. Late, early and repeated calls are harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due: Vec<PeerId> = self.deadlines.iter().take_while(|(at, _)| *at <= now).map(|(_, peer)| *peer).collect();
        for peer in due {
            self.with_peer(peer, |peer, core| peer.handle_timeout(core, now));
            let useless = self.peers.get(&peer).is_some_and(Peer::is_useless);
            if useless {
                self.peers.remove(&peer);
            }
        }
        // While there are circuits there are sessions, and so a timer every second.
        for (end, circuit) in self.core.circuits.expire(now) {
            self.with_peer(end, |peer, core| peer.send_control(core, None, &Control::Closed { circuit }));
            self.core.sessions_changed();
        }
        self.settle(now);
    }

    /// The next datagram to send. To be asked after the events, whose answers go before payloads that waited.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        while let Some((peer, since)) = self.core.ready.pop_first() {
            self.with_peer(peer, |peer, core| peer.flush(core, since));
        }
        while let Some(outgoing) = self.core.outgoing.pop_front() {
            match outgoing {
                Outgoing::Sealed { to, datagram, ttl } => return Some(Transmit { to, datagram, ttl }),
                Outgoing::Inner { through, kind, circuit, datagram } => {
                    match self.wrap(&through, kind, circuit, &datagram) {
                        Ok(transmit) => return Some(transmit),
                        Err(reason) => self.core.drop(reason),
                    }
                }
            }
        }
        None
    }

    /// Seals a datagram for the member that carries it, or to whom it was carried.
    fn wrap(&self, through: &PeerId, kind: Kind, circuit: u16, inner: &[u8]) -> Result<Transmit, DropReason> {
        let (session, to) = self.peers.get(through).and_then(Peer::carrier).ok_or(DropReason::CircuitBroken)?;
        let mut datagram = Vec::new();
        match session.seal_carried(kind, circuit, inner, &mut datagram) {
            Ok(()) => Ok(Transmit { to, datagram, ttl: None }),
            Err(SealError::TooBig) => Err(DropReason::TooBigToCarry),
            Err(SealError::Closed | SealError::UsedUp) => Err(DropReason::CircuitBroken),
        }
    }

    /// Does what one peer's datagram has brought about at another.
    fn settle(&mut self, now: Instant) {
        while let Some(errand) = self.core.errands.pop_front() {
            match errand {
                Errand::Unwrapped { from, datagram } => self.sort(from, &datagram, now),
                Errand::Open { from, target } => self.carry_for(from, &target, now),
                Errand::Came { peer } => {
                    for waiting in self.core.circuits.waiting_for(peer, now) {
                        self.give_circuit(waiting, peer, now);
                    }
                }
                Errand::Gone { peer } => {
                    let by_it = |end: &Endpoint| matches!(end, Endpoint::Relayed { relay, .. } if *relay == peer);
                    self.lose_ways(by_it, now);
                    for (end, circuit) in self.core.circuits.close_all_of(peer) {
                        self.with_peer(end, |peer, core| peer.send_control(core, None, &Control::Closed { circuit }));
                        self.core.sessions_changed();
                    }
                }
                Errand::Resized { peer } => self.resize_circuits(peer, now),
                Errand::Opened { relay, other, circuit, room } => {
                    self.circuit_opened(relay, &other, circuit, room, now)
                }
                Errand::Closed { relay, circuit } => {
                    let closed = Endpoint::Relayed { relay, circuit };
                    for user in self.lose_ways(|end| *end == closed, now) {
                        // Still needed: a relay that was restarted, or that we forgot for a moment, may carry on.
                        self.with_peer(relay, |peer, core| peer.wish(core, user, now));
                    }
                }
            }
        }
    }

    /// Circuits that are no more. Returns the peers that were reached over one of them.
    fn lose_ways(&mut self, lost: impl Fn(&Endpoint) -> bool, now: Instant) -> Vec<PeerId> {
        let ways = self.peers.values().flat_map(|peer| peer.paths.relays().map(|way| (peer.id, way)));
        let ways: Vec<_> = ways.filter(|(_, way)| lost(way)).collect();
        let mut taken = Vec::new();
        for (user, way) in ways {
            self.with_peer(user, |peer, core| {
                if peer.lose(core, way, now) {
                    taken.push(user);
                }
            });
        }
        taken
    }

    /// A member asks us to carry to another one: at once if that is here, else when it comes.
    fn carry_for(&mut self, from: PeerId, identity: &[u8; 32], now: Instant) {
        let Some(target) = peer_of(identity).filter(|target| *target != from) else {
            self.core.drop(DropReason::BadPeer);
            return;
        };
        if self.peers.get(&target).and_then(Peer::carrier).is_some() {
            self.give_circuit(from, target, now);
        } else if let Err(refusal) = self.core.circuits.wait(from, target, now) {
            self.refuse(from, *identity, refusal);
        }
    }

    fn give_circuit(&mut self, a: PeerId, b: PeerId, now: Instant) {
        let identity = |id: &PeerId| self.peers.get(id).map(|peer| peer.identity);
        let room = |id: &PeerId| {
            let (session, _) = self.peers.get(id)?.carrier()?;
            u16::try_from(session.max_payload()).ok()
        };
        let (Some(of_a), Some(of_b), Some(room_a), Some(room_b)) = (identity(&a), identity(&b), room(&a), room(&b))
        else {
            return;
        };
        let room = room_a.min(room_b);
        match self.core.circuits.open(a, b, now) {
            Ok((at_a, at_b)) => {
                for (end, other, circuit) in [(a, of_b, at_a), (b, of_a, at_b)] {
                    let opened = Control::Opened { other, circuit, room };
                    self.with_peer(end, |peer, core| peer.send_control(core, None, &opened));
                }
                self.core.sessions_changed();
            }
            Err(refusal) => self.refuse(a, of_b, refusal),
        }
    }

    fn refuse(&mut self, to: PeerId, target: [u8; 32], refusal: Refusal) {
        self.core.drop(DropReason::CircuitRefused);
        let refused = Control::Refused { target, reason: refusal as u8 };
        self.with_peer(to, |peer, core| peer.send_control(core, None, &refused));
    }

    /// A relay says that it carries to a member. Of one that we do not know we learn nothing by it.
    fn circuit_opened(&mut self, relay: PeerId, other: &[u8; 32], circuit: u16, room: u16, now: Instant) {
        let Some(other) = peer_of(other).filter(|other| *other != relay) else { return };
        let mut own = 0;
        self.with_peer(relay, |peer, _| {
            peer.wishes.fulfil(&other);
            own = peer.sealing().map_or(0, |generation| generation.session.max_payload());
        });
        let endpoint = Endpoint::Relayed { relay, circuit };
        self.with_peer(other, |peer, core| peer.handle_circuit(core, endpoint, room, own, now));
    }

    /// The way to a member carries more or less than before: so do the circuits over it, those that we use and those that we
    /// give.
    fn resize_circuits(&mut self, carrier: PeerId, now: Instant) {
        let own = self.peers.get(&carrier).and_then(Peer::sealing).map(|generation| generation.session.max_payload());
        for peer in self.peers.values_mut() {
            if own.is_some_and(|own| peer.paths.note_carrier(carrier, own)) {
                peer.resize(&mut self.core);
            }
        }
        for other in self.core.circuits.others(carrier) {
            self.give_circuit(carrier, other, now);
        }
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.core.poll_event()
    }

    /// When to call [`Self::handle_timeout`], and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let (_, peer) = self.deadlines.first()?;
        self.peers.get(peer)?.deadline
    }

    /// The confirmed sessions, for the snapshot of the fast path.
    pub fn sessions(&self) -> Vec<SessionView> {
        let views = self.peers.values().flat_map(Peer::views).map(|mut view| {
            if let Some(Endpoint::Relayed { relay, circuit }) = view.endpoint {
                let carrier = self.peers.get(&relay).and_then(Peer::carrier);
                view.way = carrier.map(|(session, to)| Way::Relayed { session, circuit, to });
            }
            view.sending &= view.way.is_some();
            view
        });
        views.collect()
    }

    /// What we carry for others, for the snapshot of the fast path.
    pub fn legs(&self) -> Vec<LegView> {
        let legs = self.core.circuits.legs().filter_map(|(from, circuit, leg)| {
            let (session, to) = self.peers.get(&leg.to)?.carrier()?;
            let (rate, carried) = (Arc::clone(&leg.rate), Arc::clone(&leg.carried));
            Some(LegView { from, circuit, session, to, next: leg.circuit, rate, carried })
        });
        legs.collect()
    }

    /// How many circuits we carry, and how many bytes went over them.
    pub fn carried(&self) -> (usize, u64) {
        (self.core.circuits.len(), self.core.circuits.carried())
    }

    /// What is known about a peer.
    pub fn peer(&self, peer: &PeerId, now: Instant) -> Option<PeerView> {
        self.peers.get(peer).map(|peer| peer.view(now))
    }

    /// What was dropped here. Drops of the fast path are counted there.
    pub fn drops(&self) -> &BTreeMap<DropReason, u64> {
        self.core.drops.as_map()
    }

    /// Receiver indices in use, and in quarantine.
    #[cfg(test)]
    pub(crate) fn indices(&self) -> (usize, usize) {
        self.core.indices.len()
    }

    fn handle_init(&mut self, from: Endpoint, init: &[u8], now: Instant) {
        let id = self.core.read_init(from, init, now).and_then(|initiation| {
            let peer = find_initiator(&initiation, &self.by_key, &mut self.peers)?;
            if !from.can_be_of(&peer.id) {
                return Err(DropReason::ForeignStream);
            }
            peer.handle_init(&mut self.core, from, initiation, now);
            Ok(peer.id)
        });
        match id {
            Ok(id) => self.schedule(id),
            Err(reason) => self.core.drop(reason),
        }
    }

    /// Acts on the peer that has this receiver index.
    fn with_owner(&mut self, index: u32, from: Endpoint, act: impl FnOnce(&mut Peer, &mut Core)) {
        match self.core.indices.owner(index) {
            Some(peer) if from.can_be_of(&peer) => self.with_peer(peer, act),
            Some(_) => self.core.drop(DropReason::ForeignStream),
            None => self.core.drop(DropReason::UnknownIndex),
        }
    }

    /// Acts on a peer and puts its next deadline into the table.
    fn with_peer(&mut self, peer: PeerId, act: impl FnOnce(&mut Peer, &mut Core)) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            act(peer, &mut self.core);
        }
        self.schedule(peer);
    }

    /// As [`Self::with_peer`], of which the first word may come from the caller.
    fn with_entry(&mut self, peer: PeerId, now: Instant, act: impl FnOnce(&mut Peer, &mut Core)) {
        let identity = identity_bytes(&peer).filter(|identity| *identity != self.core.identity);
        let Some(identity) = identity else {
            self.core.drop(DropReason::BadPeer);
            return;
        };
        let full = self.peers.len() >= PEERS;
        match self.peers.entry(peer) {
            Entry::Vacant(_) if full => self.core.drop(DropReason::TooManyPeers),
            Entry::Vacant(entry) => act(entry.insert(Peer::new(peer, identity, now)), &mut self.core),
            Entry::Occupied(mut entry) => act(entry.get_mut(), &mut self.core),
        }
        self.schedule(peer);
    }

    fn schedule(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let deadline = peer.next_deadline(&self.core);
        if let Some((at, _)) = std::mem::replace(&mut peer.deadline, deadline) {
            self.deadlines.remove(&(at, id));
        }
        if let Some((at, _)) = deadline {
            self.deadlines.insert((at, id));
        }
    }

    fn forget_key(&mut self, peer: &PeerId) {
        self.by_key.retain(|_, peers| {
            peers.retain(|known| known != peer);
            !peers.is_empty()
        });
    }
}
