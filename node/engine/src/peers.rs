//! Other members: their keys and endpoints, and ours as told to them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dht::Command;
use dht::clock::Now;
use dht::identity::PublicKey;
use dht::sign::NamespaceId;
use dht::signal::{self, Candidates, Filter, Freshness, Loopback, MAX_CANDIDATES, MAX_RELAYS, SignalError};
use libp2p_identity::PeerId;
use tunnel::{Candidate, CandidateKind, Endpoint};

use crate::bucket::Bucket;
use crate::engine::Engine;
use crate::look::Outside;
use crate::told;

/// Members whose keys we hold at once.
const MAX_PEERS: usize = 4096;
/// Endpoints are told to one peer at most this often.
const SIGNAL_EVERY: Duration = Duration::from_secs(1);
/// How many of our addresses, as others see them, a peer is told.
const MAX_OBSERVED: usize = 4;

#[derive(Default)]
pub(crate) struct Peer {
    pub(crate) keyed: bool,
    pub(crate) up: bool,
    connected: Option<Instant>,
    /// Whether the overlay has a connection with it.
    linked: bool,
    signalled: Option<Instant>,
    /// What it was told of us then, see [`Peers::version`].
    told_version: u64,
    pub(crate) wanted: bool,
    /// A session with it is wanted for what it sees of us, or because it is to carry for us.
    pub(crate) serves: bool,
    /// How often it was looked for since it was up last.
    pub(crate) missed: u32,
    /// Who was asked to carry to it.
    pub(crate) relays: Vec<PeerId>,
    /// How the translator before it maps.
    pub(crate) mapping: Option<&'static str>,
    /// What it may show us of its leases.
    pub(crate) certificates: Bucket,
    /// How often it may say where it is, inside a session.
    pub(crate) heard: Bucket,
    /// What it may be told of its mistakes.
    pub(crate) told: Bucket,
}

/// What the engine knows of other members, and what it tells them of itself.
#[derive(Default)]
pub(crate) struct Peers {
    known: BTreeMap<PeerId, Peer>,
    pub(crate) lan: Vec<SocketAddr>,
    configured: Vec<SocketAddr>,
    /// Where routers before this machine send on to it.
    mapped: Vec<SocketAddr>,
    pub(crate) outside: Outside,
    /// Rises when there is another address of ours to tell.
    version: u64,
    sequence: u64,
    freshness: Freshness,
}

impl Peers {
    /// Whether that is news.
    pub(crate) fn set_endpoints(&mut self, lan: Vec<SocketAddr>, configured: Vec<SocketAddr>) -> bool {
        let news = self.lan != lan || self.configured != configured;
        self.version += u64::from(news);
        self.lan = lan;
        self.configured = configured;
        news
    }

    /// Whether that is news.
    pub(crate) fn set_mapped(&mut self, mapped: Vec<SocketAddr>) -> bool {
        let news = self.mapped != mapped;
        self.version += u64::from(news);
        self.mapped = mapped;
        news
    }

    /// There is another address of ours to tell.
    pub(crate) fn note_news(&mut self) {
        self.version += 1;
    }

    /// Members that are looked for, or look for us.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = PeerId> {
        self.known.iter().filter(|(_, known)| known.wanted).map(|(peer, _)| *peer)
    }

    /// Whether a session with it is wanted for what it does for us.
    pub(crate) fn serves(&self, peer: &PeerId) -> bool {
        self.known.get(peer).is_some_and(|known| known.serves)
    }

    /// How the translator before a peer maps, as far as its addresses say.
    pub(crate) fn mapping_of(&self, peer: &PeerId) -> Option<&'static str> {
        self.known.get(peer)?.mapping
    }

    pub(crate) fn is_up(&self, peer: &PeerId) -> bool {
        self.known.get(peer).is_some_and(|known| known.up)
    }

    /// Members with a session, in order.
    pub(crate) fn up(&self) -> impl Iterator<Item = &PeerId> {
        self.known.iter().filter(|(_, known)| known.up).map(|(peer, _)| peer)
    }

    /// Every member we have met, in order.
    pub(crate) fn known(&self) -> impl Iterator<Item = &PeerId> {
        self.known.keys()
    }

    pub(crate) fn entry(&mut self, peer: PeerId) -> Option<&mut Peer> {
        if self.known.len() >= MAX_PEERS && !self.known.contains_key(&peer) {
            return None;
        }
        Some(self.known.entry(peer).or_default())
    }

    pub(crate) fn own_candidates(&self) -> Vec<Candidate> {
        let of = |kind| move |addr: &SocketAddr| Candidate { addr: *addr, kind };
        let mut all: Vec<Candidate> = self.lan.iter().map(of(CandidateKind::Lan)).collect();
        all.extend(self.configured.iter().map(of(CandidateKind::Configured)));
        // Others need not open their own edge for these, so each counts as configured where it is observed, too.
        let mapped = self.mapped.iter().filter(|addr| !self.lan.contains(addr) && !self.configured.contains(addr));
        all.extend(mapped.map(of(CandidateKind::Configured)));
        if let Some(observations) = self.outside.known() {
            let observed = observations.addresses().into_iter().take(MAX_OBSERVED);
            let observed = observed.filter(|addr| !self.lan.contains(addr) && !self.mapped.contains(addr));
            all.extend(observed.map(|addr| of(CandidateKind::Observed)(&addr)));
            // Last, so that they take the room that is left.
            all.extend(observations.predicted().iter().map(of(CandidateKind::Predicted)));
        }
        all.truncate(MAX_CANDIDATES);
        all
    }
}

impl Engine {
    /// Whoever is needed must be known to the overlay, and must know where we can be reached.
    pub(crate) fn need_peer(&mut self, peer: PeerId, now: Now) {
        let Some(entry) = self.peers.entry(peer) else { return self.count("too-many-peers") };
        entry.wanted = true;
        if !entry.keyed {
            self.connect(peer, now);
        }
        self.look_outside(peer, now);
        self.ask_relays(peer, now);
        // Also to whom there is no connection, and perhaps never will be: others pass it on.
        self.signal(peer, true, now);
    }

    /// Has a member dialled, whose keys we do not know yet.
    pub(crate) fn connect(&mut self, peer: PeerId, now: Now) {
        let Some(entry) = self.peers.entry(peer) else { return };
        if entry.connected.is_none_or(|at| now.mono >= at + SIGNAL_EVERY) {
            entry.connected = Some(now.mono);
            self.tell(Command::Connect { peer });
        }
    }

    /// Whether a peer is there, and reached without a relay.
    pub(crate) fn is_direct(&self, peer: &PeerId, now: Now) -> bool {
        let view = self.tunnel.peer(peer, now.mono).filter(|view| view.up);
        view.and_then(|view| view.endpoint).is_some_and(Endpoint::is_direct)
    }

    /// Another address of ours is known: whoever looks for us, or is looked for, has to know.
    pub(crate) fn tell_of_addresses(&mut self, now: Now) {
        let looked_for: Vec<PeerId> = self.peers.wanted().filter(|peer| !self.is_direct(peer, now)).collect();
        for peer in looked_for {
            // This may overtake what was said before, which then counts no more.
            self.signal(peer, true, now);
        }
    }

    pub(crate) fn peer_keys(&mut self, peer: PeerId, keys: tunnel::PeerKeys, now: Now) {
        let Some(entry) = self.peers.entry(peer) else { return self.count("too-many-peers") };
        entry.keyed = true;
        let (wanted, up) = (entry.wanted, entry.up);
        let linked = entry.linked;
        self.tunnel.set_peer(peer, keys, now.mono);
        if linked {
            self.tunnel.set_stream(peer, true, now.mono);
        }
        if up {
            // It said hello anew: perhaps it was restarted, and what we seal for it falls on deaf ears.
            self.tunnel.renew(peer, now.mono);
        }
        if wanted {
            self.signal(peer, true, now);
        }
    }

    /// The overlay has a connection with a peer, or no more. Of one that is no member nothing is kept.
    pub(crate) fn set_stream(&mut self, peer: PeerId, connected: bool, now: Now) {
        let Some(entry) = self.peers.entry(peer) else { return self.count("too-many-peers") };
        entry.linked = connected;
        if entry.keyed {
            self.tunnel.set_stream(peer, connected, now.mono);
        } else if !connected && !entry.wanted && !entry.serves {
            self.peers.known.remove(&peer);
        }
    }

    pub(crate) fn peer_denied(&mut self, peer: PeerId, now: Now) {
        self.tunnel.remove_peer(peer, now.mono);
        self.forget_routes_of(peer);
        self.bridge.forbid_all(peer);
        self.peers.known.remove(&peer);
    }

    pub(crate) fn peer_up(&mut self, peer: PeerId, now: Now) {
        if let Some(entry) = self.peers.entry(peer) {
            (entry.up, entry.missed) = (true, 0);
        }
        self.send_leases(peer, now);
    }

    pub(crate) fn peer_down(&mut self, peer: PeerId, reason: &'static str) {
        if let Some(entry) = self.peers.known.get_mut(&peer) {
            entry.up = false;
        }
        self.count(reason);
    }

    pub(crate) fn signal(&mut self, peer: PeerId, want_reply: bool, now: Now) {
        let version = self.peers.version;
        let Some(entry) = self.peers.entry(peer) else { return };
        if entry.signalled.is_some_and(|at| now.mono < at + SIGNAL_EVERY) && entry.told_version == version {
            return;
        }
        (entry.signalled, entry.told_version) = (Some(now.mono), version);
        let relays = entry.relays.iter().filter_map(PublicKey::from_peer_id).take(MAX_RELAYS).collect();
        let Some(to) = PublicKey::from_peer_id(&peer) else { return };
        self.peers.sequence += 1;
        let candidates = Candidates {
            to,
            seq: self.peers.sequence,
            instance: self.config.instance.to_be_bytes(),
            want_reply,
            list: self.peers.own_candidates().into_iter().map(to_signal).collect(),
            relays,
        };
        let message = candidates.sign(&NamespaceId(self.config.namespace), &self.config.identity);
        if self.peers.is_up(&peer) {
            self.send_signal(peer, &message, now);
        } else {
            self.tell(Command::Signal { to: peer, message });
        }
    }

    pub(crate) fn signalled(&mut self, from: PeerId, message: &[u8], now: Now) {
        let Some(key) = PublicKey::from_peer_id(&from) else { return self.count("bad-signal") };
        let ns = NamespaceId(self.config.namespace);
        let me = self.config.identity.public();
        let opened = Candidates::open(&ns, &key, &me, message);
        let fresh = opened.and_then(|candidates| {
            self.peers.freshness.check(from, &candidates)?;
            Ok(candidates)
        });
        let candidates = match fresh {
            Ok(candidates) => candidates,
            // A letter goes by several ways.
            Err(SignalError::Repeated) => return self.count("repeated-signal"),
            Err(SignalError::Malformed | SignalError::ForAnother | SignalError::Signature) => {
                return self.count("bad-signal");
            }
        };
        let filter = Filter {
            loopback: if self.config.loopback_underlay { Loopback::Allowed } else { Loopback::Refused },
            overlays: vec![self.config.range],
        };
        let allowed = candidates.list.iter().filter(|candidate| filter.allows(&candidate.addr));
        let list: Vec<Candidate> = allowed.filter_map(from_signal).collect();
        if candidates.want_reply && !self.is_direct(&from, now) {
            // It looks for us, or wants to get away from the relay: where we are seen may have changed.
            self.look_outside(from, now);
        }
        if let Some(entry) = self.peers.entry(from) {
            entry.mapping = told::mapping(&list).or(entry.mapping);
        }
        self.try_candidates(from, list, now);
        self.follow_to_relays(from, &candidates, now);
        if candidates.want_reply {
            self.signal(from, false, now);
            if !self.peers.is_up(&from) {
                if let Some(entry) = self.peers.entry(from) {
                    // It looks for us: it has to hear where we are seen, once we know.
                    entry.wanted = true;
                }
                // It wants to reach us, and a NAT in front of us opens only from inside.
                self.send_leases(from, now);
                self.tunnel.renew(from, now.mono);
            }
        }
        if !self.peers.is_up(&from) && self.peers.known.get(&from).is_some_and(|known| known.serves) {
            self.tunnel.renew(from, now.mono);
        }
    }
}

const LAN: u8 = 1;
const OBSERVED: u8 = 2;
const CONFIGURED: u8 = 3;
const PREDICTED: u8 = 4;

fn to_signal(candidate: Candidate) -> signal::Candidate {
    let kind = match candidate.kind {
        CandidateKind::Lan => LAN,
        CandidateKind::Observed => OBSERVED,
        CandidateKind::Configured => CONFIGURED,
        CandidateKind::Predicted => PREDICTED,
    };
    signal::Candidate { kind, addr: candidate.addr }
}

/// Kinds of later versions are left out: what to do with them is not known here.
fn from_signal(candidate: &signal::Candidate) -> Option<Candidate> {
    let kind = match candidate.kind {
        LAN => CandidateKind::Lan,
        OBSERVED => CandidateKind::Observed,
        CONFIGURED => CandidateKind::Configured,
        PREDICTED => CandidateKind::Predicted,
        _ => return None,
    };
    Some(Candidate { addr: candidate.addr, kind })
}
