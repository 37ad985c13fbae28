//! What all peers of a tunnel share: our keys, randomness, indices, and the outputs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use libp2p_identity::PeerId;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use zeroize::Zeroizing;

use crate::config::{Config, identity_bytes};
use crate::cookie::CookieSecret;
use crate::drops::{DropReason, Drops};
use crate::endpoint::{Endpoint, NextHop};
use crate::event::{Event, Kind};
use crate::index::Indices;
use crate::limits::OPENING_TTL;
use crate::load::Load;
use crate::mac::MacKeys;
use crate::noise;
use crate::number::Numbers;
use crate::relay::Circuits;

/// A datagram that leaves.
pub(crate) enum Outgoing {
    Sealed {
        to: NextHop,
        datagram: Vec<u8>,
        /// How many routers it may pass; `None` for as many as usual.
        ttl: Option<u8>,
    },
    /// To be sealed in the session with that peer.
    Inner { through: PeerId, kind: Kind, circuit: u16, datagram: Vec<u8> },
}

/// What one peer's datagram brings about at another peer.
pub(crate) enum Errand {
    /// A relay has carried this here.
    Unwrapped { from: Endpoint, datagram: Vec<u8> },
    /// A member asks us to carry to another one.
    Open { from: PeerId, target: [u8; 32] },
    /// A member on whom others may wait is here.
    Came { peer: PeerId },
    /// The ways through this member are no more, nor what it carries through us.
    Gone { peer: PeerId },
    /// What the way to this member carries has changed.
    Resized { peer: PeerId },
    /// A relay carries to the member with this identity.
    Opened { relay: PeerId, other: [u8; 32], circuit: u16, room: u16 },
    /// A relay's circuit is closed.
    Closed { relay: PeerId, circuit: u16 },
}

pub(crate) struct Core {
    pub(crate) config: Config,
    /// Our identity as raw bytes.
    pub(crate) identity: [u8; 32],
    /// Our X25519 key.
    pub(crate) public: [u8; 32],
    /// For messages to us.
    pub(crate) macs: MacKeys,
    pub(crate) rng: ChaCha20Rng,
    pub(crate) indices: Indices,
    pub(crate) numbers: Numbers,
    pub(crate) load: Load,
    pub(crate) cookies: CookieSecret,
    pub(crate) drops: Drops,
    /// What leaves, in order; for what a relay carries, that seal is still missing.
    pub(crate) outgoing: VecDeque<Outgoing>,
    /// What cannot be done by the peer that it came from, because it concerns another one.
    pub(crate) errands: VecDeque<Errand>,
    /// The circuits that we carry for others.
    pub(crate) circuits: Circuits,
    pub(crate) events: VecDeque<Event>,
    /// Peers whose Init waits for numbers to be reserved.
    pub(crate) blocked: BTreeSet<PeerId>,
    /// Peers whose waiting payloads can leave, since when. They do when datagrams are polled, after the events: what
    /// the caller sends on [`Event::PeerUp`] goes first, because it may be the proof without which the peer refuses
    /// the rest.
    pub(crate) ready: BTreeMap<PeerId, Instant>,
    /// Whether [`Event::SessionsChanged`] stands in the queue.
    changed: bool,
}

impl Core {
    pub(crate) fn new(config: Config, floor: u64, seed: [u8; 32], now: Instant) -> Self {
        let public = noise::public_key(&config.secret);
        let mut core = Self {
            identity: identity_bytes(&config.identity).expect("our own identity is an inlined Ed25519 key"),
            public,
            macs: MacKeys::new(&config.namespace, &public),
            rng: ChaCha20Rng::from_seed(seed),
            indices: Indices::new(config.slot),
            numbers: Numbers::new(floor),
            load: Load::new(now),
            cookies: CookieSecret::default(),
            drops: Drops::default(),
            outgoing: VecDeque::new(),
            errands: VecDeque::new(),
            circuits: Circuits::new(config.relay, now),
            events: VecDeque::new(),
            blocked: BTreeSet::new(),
            ready: BTreeMap::new(),
            changed: false,
            config,
        };
        core.reserve();
        core
    }

    pub(crate) fn drop(&mut self, reason: DropReason) {
        self.drops.count(reason);
    }

    pub(crate) fn transmit(&mut self, to: Endpoint, datagram: Vec<u8>) {
        self.outgoing.push_back(match to {
            Endpoint::Direct(to) => Outgoing::Sealed { to: NextHop::Udp(to), datagram, ttl: None },
            Endpoint::Stream(peer) => Outgoing::Sealed { to: NextHop::Stream(peer), datagram, ttl: None },
            Endpoint::Relayed { relay, circuit } => {
                Outgoing::Inner { through: relay, kind: Kind::Forward, circuit, datagram }
            }
        });
    }

    /// Sends a datagram that passes our own edge and arrives nowhere.
    pub(crate) fn open_edge(&mut self, to: SocketAddr, datagram: Vec<u8>) {
        self.outgoing.push_back(Outgoing::Sealed { to: NextHop::Udp(to), datagram, ttl: Some(OPENING_TTL) });
    }

    /// The set of sessions differs from what the caller saw last. Said once until it looks.
    pub(crate) fn sessions_changed(&mut self) {
        if !self.changed {
            self.changed = true;
            self.events.push_back(Event::SessionsChanged);
        }
    }

    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if event == Some(Event::SessionsChanged) {
            self.changed = false;
        }
        event
    }

    /// Asks for handshake numbers while there are still some.
    pub(crate) fn reserve(&mut self) {
        if let Some(upto) = self.numbers.wants() {
            self.events.push_back(Event::ReserveHandshakes { upto });
        }
    }

    /// Randomness for one handshake.
    pub(crate) fn seed(&mut self) -> Zeroizing<[u8; 32]> {
        let mut seed = Zeroizing::new([0; 32]);
        self.rng.fill_bytes(seed.as_mut_slice());
        seed
    }

    pub(crate) fn token(&mut self) -> [u8; 8] {
        self.rng.next_u64().to_be_bytes()
    }
}
