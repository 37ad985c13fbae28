//! One peer: its keys, its sessions, and the way to it.
//!
//! There are at most three sessions: `next`, which we answered and whose initiator has yet to prove itself;
//! `current`, with which we seal; `previous`, which still opens what was under way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;

use crate::attempt::Attempt;
use crate::candidates::Candidates;
use crate::circuits::Wishes;
use crate::config::PeerKeys;
use crate::core::{Core, Errand};
use crate::endpoint::{Endpoint, NextHop};
use crate::event::{Event, PathView, PeerView, SessionView, Way};
use crate::fragment::Reassembly;
use crate::limits::{DOUBLE, NEED_INTERVAL};
use crate::mac::MacKeys;
use crate::noise::Role;
use crate::number::SeenNumbers;
use crate::paths::Paths;
use crate::queue::Queue;
use crate::rest::Trust;
use crate::session::{Counters, Session};

pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) identity: [u8; 32],
    /// With the keys under which messages to the peer are marked.
    pub(crate) keys: Option<(PeerKeys, MacKeys)>,
    pub(crate) candidates: Candidates,
    pub(crate) paths: Paths,
    /// Circuits to others that this peer is asked for.
    pub(crate) wishes: Wishes,
    /// When the addresses it may have are tried next, and how often they have been.
    pub(crate) probe: Option<(Instant, usize)>,
    /// When to try again to get away from a relay, and the pause after that.
    pub(crate) direct_retry: Option<(Instant, Duration)>,
    /// Whether the ways were asked since the peer became silent.
    pub(crate) suspected: bool,
    /// When the circuits that wait behind the way taken were asked last.
    pub(crate) spare_asked: Option<Instant>,
    /// When the peer was told last that a circuit is unknown here.
    pub(crate) told_closed: Option<Instant>,
    pub(crate) current: Option<Generation>,
    pub(crate) previous: Option<Generation>,
    pub(crate) next: Option<Unconfirmed>,
    pub(crate) attempt: Option<Attempt>,
    pub(crate) numbers: SeenNumbers,
    /// What the peer gave us to show under load, and when.
    pub(crate) cookie: Option<(Instant, [u8; 16])>,
    pub(crate) queue: Queue,
    /// Whether what is sent is believed to arrive.
    pub(crate) trust: Trust,
    pub(crate) reassembly: Reassembly,
    pub(crate) next_fragment: u16,
    pub(crate) up: bool,
    /// Since when we owe the peer a sign of life.
    pub(crate) owing_since: Option<Instant>,
    /// Since when the peer owes us one.
    pub(crate) unanswered_since: Option<Instant>,
    pub(crate) next_sample: Instant,
    pub(crate) last_contact: Option<Instant>,
    /// When data was exchanged last.
    pub(crate) used_at: Option<Instant>,
    pub(crate) observed: Option<SocketAddr>,
    last_session: Option<Instant>,
    last_need: Option<Instant>,
    hello: Option<Hello>,
    pub(crate) why_down: Option<&'static str>,
    /// Bytes sent and received in sessions that are gone.
    totals: (u64, u64),
    /// As it stands in the tunnel's table of deadlines.
    pub(crate) deadline: Option<(Instant, &'static str)>,
}

/// One session and what its timers need.
pub(crate) struct Generation {
    pub(crate) session: Arc<Session>,
    pub(crate) established: Instant,
    pub(crate) role: Role,
    /// Handshake number and initiator's key: both sides order two sessions alike by it.
    pub(crate) rank: (u64, [u8; 32]),
    /// The process at the other end.
    instance: u64,
    pub(crate) sampled: Counters,
    /// Too old to seal, young enough to open.
    pub(crate) retired: bool,
    /// Counter of the datagram that moved the endpoint last.
    pub(crate) moved_at: Option<u64>,
}

/// A session that we answered. Nothing of it counts before its first datagram.
pub(crate) struct Unconfirmed {
    pub(crate) generation: Generation,
    /// Where the Init came from, by how many ways it ever came, and so where the answer went.
    pub(crate) from: Vec<Endpoint>,
    pub(crate) resp: Vec<u8>,
    pub(crate) hello: Hello,
}

/// What a handshake says about its sender.
#[derive(Clone, Copy)]
pub(crate) struct Hello {
    pub(crate) heads: [u8; 8],
    pub(crate) instance: u64,
    pub(crate) mtu: u16,
}

impl Generation {
    pub(crate) fn new(session: Session, role: Role, rank: (u64, [u8; 32]), hello: &Hello, now: Instant) -> Self {
        Self {
            session: Arc::new(session),
            established: now,
            role,
            rank,
            instance: hello.instance,
            sampled: Counters::default(),
            retired: false,
            moved_at: None,
        }
    }

    /// Whether the two come from both sides having begun at once, and not from one having restarted.
    fn is_double_of(&self, other: &Self) -> bool {
        let (earlier, later) = (self.established.min(other.established), self.established.max(other.established));
        let near = later.duration_since(earlier) < DOUBLE;
        near && self.role != other.role && self.instance == other.instance
    }
}

impl Peer {
    pub(crate) fn new(id: PeerId, identity: [u8; 32], now: Instant) -> Self {
        Self {
            id,
            identity,
            keys: None,
            candidates: Candidates::default(),
            paths: Paths::default(),
            wishes: Wishes::default(),
            probe: None,
            direct_retry: None,
            suspected: false,
            spare_asked: None,
            told_closed: None,
            current: None,
            previous: None,
            next: None,
            attempt: None,
            numbers: SeenNumbers::default(),
            cookie: None,
            queue: Queue::default(),
            trust: Trust::default(),
            reassembly: Reassembly::default(),
            next_fragment: 0,
            up: false,
            owing_since: None,
            unanswered_since: None,
            next_sample: now,
            last_contact: None,
            used_at: None,
            observed: None,
            last_session: None,
            last_need: None,
            hello: None,
            why_down: None,
            totals: (0, 0),
            deadline: None,
        }
    }

    /// The session to seal with.
    pub(crate) fn sealing(&self) -> Option<&Generation> {
        self.current.as_ref().filter(|current| !current.retired && !current.session.is_closed())
    }

    /// A session that both sides have proven takes its place. Of two that came up together, both sides seal with
    /// the same one.
    pub(crate) fn establish(&mut self, core: &mut Core, generation: Generation, hello: Hello, now: Instant) {
        self.paths.note_peer_mtu(hello.mtu);
        self.hello = Some(hello);
        self.last_session = Some(now);
        self.last_contact = Some(now);
        self.next_sample = now + crate::limits::SAMPLE;
        if self.current.is_none() && self.paths.active().is_some_and(|active| matches!(active, Endpoint::Stream(_))) {
            // Perhaps only because nobody has said where the peer is.
            self.need(core, now);
        }
        let older = match self.current.take() {
            Some(current) if current.is_double_of(&generation) && current.rank > generation.rank => {
                self.current = Some(current);
                Some(generation)
            }
            other => {
                self.current = Some(generation);
                other
            }
        };
        if let Some(older) = older
            && let Some(gone) = self.previous.replace(older)
        {
            self.close(core, gone, now);
        }
        self.resize(core);
        core.sessions_changed();
        self.unanswered_since = None;
        self.end_doubt(core, false, now);
        self.rise(core);
        self.ask_for_circuits(core, now);
        core.errands.push_back(Errand::Came { peer: self.id });
    }

    /// A handshake went there and came back.
    pub(crate) fn prove(&mut self, endpoint: Endpoint, now: Instant) {
        self.paths.prove(endpoint, now);
        endpoint.direct().into_iter().for_each(|addr| self.candidates.note_answer(addr));
    }

    /// Another way is taken: the packet threads have to know.
    pub(crate) fn moved(&self, core: &mut Core) {
        self.resize(core);
        core.sessions_changed();
    }

    /// The peer is there.
    pub(crate) fn rise(&mut self, core: &mut Core) {
        self.why_down = None;
        if !self.up {
            self.up = true;
            core.events.push_back(Event::PeerUp { peer: self.id });
        }
    }

    /// The peer is not there. Said once.
    pub(crate) fn fall(&mut self, core: &mut Core, reason: &'static str) {
        self.why_down = Some(reason);
        if self.up {
            self.up = false;
            core.errands.push_back(Errand::Gone { peer: self.id });
            core.events.push_back(Event::PeerDown { peer: self.id, reason });
        }
    }

    /// Asks the caller for keys or candidates, not too often.
    pub(crate) fn need(&mut self, core: &mut Core, now: Instant) {
        if self.last_need.is_none_or(|last| now.saturating_duration_since(last) >= NEED_INTERVAL) {
            self.last_need = Some(now);
            core.events.push_back(Event::NeedPeer { peer: self.id });
        }
    }

    /// Erases a session: no thread can use it from here on, whatever snapshot it holds.
    pub(crate) fn close(&mut self, core: &mut Core, generation: Generation, now: Instant) {
        generation.session.close();
        core.indices.free(generation.session.index(), now);
        let counters = generation.session.counters();
        self.totals.0 = self.totals.0.saturating_add(counters.sent_bytes);
        self.totals.1 = self.totals.1.saturating_add(counters.received_bytes);
    }

    pub(crate) fn close_next(&mut self, core: &mut Core, now: Instant) {
        if let Some(next) = self.next.take() {
            self.close(core, next.generation, now);
        }
    }

    pub(crate) fn cancel_attempt(&mut self, core: &mut Core, now: Instant) {
        self.attempt.take().iter().flat_map(Attempt::indices).for_each(|index| core.indices.free(index, now));
        core.blocked.remove(&self.id);
    }

    /// Erases all sessions and what belongs to them.
    pub(crate) fn erase(&mut self, core: &mut Core, reason: &'static str, now: Instant) {
        self.cancel_attempt(core, now);
        self.close_next(core, now);
        let sessions = [self.current.take(), self.previous.take()];
        if sessions.iter().any(Option::is_some) {
            core.sessions_changed();
        }
        sessions.into_iter().flatten().for_each(|generation| self.close(core, generation, now));
        self.paths.stop_echo();
        self.probe = None;
        self.reassembly = Reassembly::default();
        self.owing_since = None;
        self.unanswered_since = None;
        self.cookie = None;
        self.fall(core, reason);
    }

    /// Tells all sessions what the path carries.
    pub(crate) fn resize(&self, core: &mut Core) {
        let max = self.paths.max_payload(core.config.outer_mtu);
        let before = self.sealing().map(|generation| generation.session.max_payload());
        self.generations().for_each(|generation| generation.session.set_max_payload(max));
        if before.is_some_and(|before| before != max) {
            core.errands.push_back(Errand::Resized { peer: self.id });
        }
    }

    /// Confirmed sessions.
    pub(crate) fn generations(&self) -> impl Iterator<Item = &Generation> {
        self.current.iter().chain(&self.previous)
    }

    /// A confirmed session by its index.
    pub(crate) fn generation(&mut self, index: u32) -> Option<&mut Generation> {
        self.current.iter_mut().chain(&mut self.previous).find(|generation| generation.session.index() == index)
    }

    /// Whether a datagram of this session may move the endpoint: an older one may not, because its last datagrams
    /// come from where the peer was.
    pub(crate) fn may_move(&self, index: u32) -> bool {
        let Some(current) = &self.current else {
            return false;
        };
        let double = self
            .previous
            .as_ref()
            .is_some_and(|previous| previous.session.index() == index && previous.is_double_of(current));
        double || current.session.index() == index
    }

    /// Whether nothing would be lost by forgetting the peer: it was named, but never admitted nor found.
    pub(crate) fn is_useless(&self) -> bool {
        self.keys.is_none() && self.candidates.is_empty() && self.queue.is_empty() && self.deadline.is_none()
    }

    /// All authentic bytes that ever came from the peer.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.generations().fold(self.totals.1, |sum, g| sum.saturating_add(g.session.counters().received_bytes))
    }

    fn sent_bytes(&self) -> u64 {
        self.generations().fold(self.totals.0, |sum, g| sum.saturating_add(g.session.counters().sent_bytes))
    }

    /// The session to carry in, and where it leads.
    pub(crate) fn carrier(&self) -> Option<(Arc<Session>, NextHop)> {
        let to = self.paths.active().filter(|_| self.paths.is_proven())?.next_hop()?;
        Some((Arc::clone(&self.sealing()?.session), to))
    }

    pub(crate) fn views(&self) -> impl Iterator<Item = SessionView> {
        let fast = self.paths.is_proven() && self.trust.is_trusted();
        let sealing = self.sealing().filter(|_| fast).map(|generation| generation.session.index());
        let endpoint = self.paths.active();
        self.generations().map(move |generation| SessionView {
            peer: self.id,
            session: Arc::clone(&generation.session),
            endpoint,
            way: endpoint.and_then(Endpoint::next_hop).map(Way::Direct),
            sending: sealing == Some(generation.session.index()),
        })
    }

    pub(crate) fn view(&self, now: Instant) -> PeerView {
        let paths = self.paths.proven(now).map(|(endpoint, rtt)| PathView { endpoint, rtt });
        PeerView {
            endpoint: self.paths.active(),
            paths: paths.collect(),
            rtt: self.paths.rtt(),
            tx_bytes: self.sent_bytes(),
            rx_bytes: self.received_bytes(),
            last_session: self.last_session,
            up: self.up,
            heads: self.hello.map_or([0; 8], |hello| hello.heads),
            instance: self.hello.map(|hello| hello.instance),
            why_down: self.why_down,
        }
    }
}
