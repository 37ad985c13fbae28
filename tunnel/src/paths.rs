//! The ways to one peer, and which of them is taken.
//!
//! A way is proven by an echo, or by a handshake, that went there and came back: one that works in one direction only
//! counts for nothing. Each side chooses for itself. The rules, in this order:
//!
//! 1. A way that stays silent is left for the best of those that answer.
//! 2. A direct way is better than one through a relay, which is others' bandwidth, and both are better than a stream.
//! 3. Between two of a kind, the shorter round trip wins, by a fifth and at least two milliseconds.
//!
//! A way that was left stays open for what is still coming on it, so nothing is lost by a change.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;

use crate::endpoint::Endpoint;
use crate::limits::{
    ASKED, BETTER_BY, ECHO_RETRY, ECHO_RETRY_MIN, ECHO_TRIES, MIN_MTU_V4, MIN_MTU_V6, MTU_MEMORY, PATHS, PROVEN_LIFE,
    RELAYS, UNKNOWN_TRIES, UNPROVEN_FACTOR,
};
use crate::wire::{HEADER, TAG};

/// The ways to one peer.
#[derive(Default)]
pub(crate) struct Paths {
    known: Vec<Path>,
    active: Option<Endpoint>,
    /// While the active way is one that nothing has proven.
    unproven: Option<Unproven>,
    /// Circuits to the peer, proven or not.
    relays: Vec<Circuit>,
    /// The overlay's connection with the peer, while there is one.
    stream: Option<Endpoint>,
    asked: VecDeque<Asked>,
    /// What the peer says its side carries.
    peer_mtu: Option<u16>,
}

/// One way.
struct Path {
    endpoint: Endpoint,
    rtt: Option<Duration>,
    proven: Option<Instant>,
    learned_mtu: Option<(u16, Instant)>,
    row: Option<Row>,
}

/// A circuit to the peer, and the largest datagram that it carries: as the relay says, and as our way to the relay does.
struct Circuit {
    endpoint: Endpoint,
    told: usize,
    own: usize,
}

/// Echo requests until one is answered.
struct Row {
    began: Instant,
    due: Instant,
    tries: u8,
    limit: u8,
}

impl Row {
    /// Whether a request has had no answer, and the next one is due.
    fn is_doubtful(&self, now: Instant) -> bool {
        self.tries > 0 && self.due <= now
    }
}

/// An echo request that may still be answered.
struct Asked {
    token: [u8; 8],
    to: Endpoint,
    sent: Instant,
}

/// An endpoint from which something authentic came, which proves only that somebody wrote that address there.
struct Unproven {
    /// Bytes received from the peer until it came there.
    base: u64,
    /// Bytes with which it came there.
    credit: u64,
    sent: u64,
}

impl Path {
    fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, rtt: None, proven: None, learned_mtu: None, row: None }
    }

    fn is_proven(&self, now: Instant) -> bool {
        self.proven.is_some_and(|at| now.saturating_duration_since(at) < PROVEN_LIFE)
    }

    /// The order of rules 2 and 3.
    fn rank(&self) -> (u8, Duration) {
        (self.endpoint.class(), self.rtt.unwrap_or(Duration::MAX))
    }

    /// Whether it is worth leaving `other` for this one.
    fn is_clearly_better(&self, other: &Self) -> bool {
        let ((class, rtt), (other_class, other_rtt)) = (self.rank(), other.rank());
        let margin = (other_rtt / 5).max(BETTER_BY);
        if class == other_class { rtt.saturating_add(margin) < other_rtt } else { class < other_class }
    }
}

impl Paths {
    /// The way that is taken.
    pub(crate) fn active(&self) -> Option<Endpoint> {
        self.active
    }

    /// Of the last echoes on the way that is taken.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.find(self.active?)?.rtt
    }

    /// Every way that a round trip has proven lately, with its round trip time.
    pub(crate) fn proven(&self, now: Instant) -> impl Iterator<Item = (Endpoint, Option<Duration>)> {
        self.known.iter().filter(move |path| path.is_proven(now)).map(|path| (path.endpoint, path.rtt))
    }

    /// A handshake went there and came back. It is taken from here on, unless that would leave a better kind of way that has
    /// just answered.
    pub(crate) fn prove(&mut self, endpoint: Endpoint, now: Instant) {
        let better = self.active.is_some_and(|active| active.class() < endpoint.class());
        let keep = better && self.unproven.is_none() && self.answered_lately(now);
        self.note_proof(endpoint, None, now);
        if !keep {
            self.take(endpoint);
        }
    }

    /// An authentic datagram of `credit` bytes came from `endpoint`, which is not the active one; `base` bytes have come
    /// from the peer by now. Takes it. True if an echo has to prove that the peer is there.
    pub(crate) fn roam(&mut self, endpoint: Endpoint, base: u64, credit: u64, now: Instant) -> bool {
        self.take(endpoint);
        let path = self.entry(endpoint);
        path.learned_mtu = None;
        let proven = path.is_proven(now);
        self.unproven = if proven { None } else { Some(Unproven { base, credit, sent: 0 }) };
        !proven
    }

    /// Whether the active way is proven, or was when it was taken.
    pub(crate) fn is_proven(&self) -> bool {
        self.active.is_some() && self.unproven.is_none()
    }

    /// Whether a round trip has proven this way lately.
    pub(crate) fn knows(&self, endpoint: Endpoint, now: Instant) -> bool {
        self.find(endpoint).is_some_and(|path| path.is_proven(now))
    }

    /// Whether the active way has just answered.
    pub(crate) fn answered_lately(&self, now: Instant) -> bool {
        let path = self.active.and_then(|active| self.find(active));
        path.and_then(|path| path.proven).is_some_and(|at| now.saturating_duration_since(at) < ECHO_RETRY * 3)
    }

    /// Takes the best way, if it is clearly better than the active one or that is silent. True if it did.
    pub(crate) fn choose(&mut self, now: Instant) -> bool {
        let Some(best) = self.known.iter().filter(|path| path.is_proven(now)).min_by_key(|path| path.rank()) else {
            return false;
        };
        let better = match self.active.and_then(|active| self.find(active)) {
            Some(active) if active.endpoint == best.endpoint => false,
            // It has yet to answer, or has just failed to.
            Some(active) if active.proven.is_none() => active.row.is_none(),
            Some(active) => best.is_clearly_better(active),
            None => true,
        };
        if better {
            let endpoint = best.endpoint;
            self.take(endpoint);
        }
        better
    }

    fn take(&mut self, endpoint: Endpoint) {
        if let Some(old) = self.active.filter(|old| *old != endpoint && self.unproven.is_some()) {
            // It has got what it may get.
            self.entry(old).row = None;
        }
        self.active = Some(endpoint);
        self.unproven = None;
    }

    /// Whether `len` bytes may go to the endpoint, after `received` bytes in all have come from the peer; they count
    /// as sent.
    pub(crate) fn take_budget(&mut self, len: u64, received: u64) -> bool {
        let Some(unproven) = &mut self.unproven else {
            return true;
        };
        let sent = unproven.sent.saturating_add(len);
        let earned = received.saturating_sub(unproven.base).saturating_add(unproven.credit);
        if sent > earned.saturating_mul(UNPROVEN_FACTOR) {
            return false;
        }
        unproven.sent = sent;
        true
    }

    pub(crate) fn note_peer_mtu(&mut self, mtu: u16) {
        self.peer_mtu = Some(mtu);
    }

    /// The kernel knows a smaller size on the way.
    pub(crate) fn learn_mtu(&mut self, mtu: u16, now: Instant) {
        if let Some(active) = self.active {
            let path = self.entry(active);
            let smaller = path.learned_mtu.is_none_or(|(known, _)| mtu <= known);
            if smaller {
                path.learned_mtu = Some((mtu, now + MTU_MEMORY));
            }
        }
    }

    /// Payload of one datagram that the active way carries. Numbers from the network cannot make it useless.
    pub(crate) fn max_payload(&self, own_mtu: u16) -> usize {
        let learned = self.active.and_then(|active| self.find(active)?.learned_mtu).map(|(mtu, _)| mtu);
        let mtu = [self.peer_mtu, learned].into_iter().flatten().fold(own_mtu, u16::min);
        let (floor, headers) = match self.active {
            Some(Endpoint::Direct(SocketAddr::V6(addr))) if addr.ip().to_ipv4_mapped().is_none() => {
                (MIN_MTU_V6, 40 + 8)
            }
            Some(_) | None => (MIN_MTU_V4, 20 + 8),
        };
        let whole = usize::from(mtu.max(floor)) - headers - HEADER - TAG;
        let Some(endpoint) = self.active.filter(|active| active.relay().is_some()) else { return whole };
        let floor = usize::from(MIN_MTU_V4) - headers - 2 * (HEADER + TAG);
        let circuit = self.relays.iter().find(|circuit| circuit.endpoint == endpoint);
        let room = circuit.map_or(whole, |circuit| circuit.told.min(circuit.own));
        (whole.min(room) - HEADER - TAG).max(floor)
    }

    /// Forgets a reported size that is past its time. True if it did.
    pub(crate) fn expire_mtu(&mut self, now: Instant) -> bool {
        let Some(active) = self.active else { return false };
        self.entry(active).learned_mtu.take_if(|(_, until)| *until <= now).is_some()
    }

    /// A circuit to the peer, and what it carries. True if it is new.
    pub(crate) fn add_relay(&mut self, endpoint: Endpoint, told: usize, own: usize) -> bool {
        if let Some(known) = self.relays.iter_mut().find(|known| known.endpoint == endpoint) {
            (known.told, known.own) = (told, own);
            return false;
        }
        // A relay has one circuit for a pair; another one means that it has forgotten the first.
        let by = |endpoint: Endpoint| endpoint.relay();
        let old = self.relays().find(|known| by(*known) == by(endpoint));
        old.into_iter().for_each(|old| self.remove(old));
        if self.relays.len() == RELAYS {
            let first = self.relays().find(|known| Some(*known) != self.active);
            first.into_iter().for_each(|first| self.remove(first));
        }
        self.relays.push(Circuit { endpoint, told, own });
        true
    }

    /// What our way to this relay carries. True if a circuit to the peer goes over it.
    pub(crate) fn note_carrier(&mut self, relay: PeerId, own: usize) -> bool {
        let circuit = self.relays.iter_mut().find(|circuit| circuit.endpoint.relay() == Some(relay));
        circuit.is_some_and(|circuit| std::mem::replace(&mut circuit.own, own) != own)
    }

    /// Circuits to the peer.
    pub(crate) fn relays(&self) -> impl Iterator<Item = Endpoint> {
        self.relays.iter().map(|circuit| circuit.endpoint)
    }

    /// Whether the overlay has a connection with the peer, and so a way to it that may be asked.
    pub(crate) fn set_stream(&mut self, stream: Option<Endpoint>) {
        self.stream = stream;
    }

    /// The overlay's connection with the peer.
    pub(crate) fn stream(&self) -> Option<Endpoint> {
        self.stream
    }

    /// A way is no more. If it was taken, none is until another one is chosen.
    pub(crate) fn remove(&mut self, endpoint: Endpoint) {
        self.relays.retain(|known| known.endpoint != endpoint);
        self.stream.take_if(|stream| *stream == endpoint);
        self.known.retain(|path| path.endpoint != endpoint);
        if self.active == Some(endpoint) {
            self.active = None;
            self.unproven = None;
        }
    }

    /// Forgets all ways but those that others have said are there.
    pub(crate) fn clear(&mut self) {
        self.known.clear();
        self.active = None;
        self.unproven = None;
        self.asked.clear();
    }

    /// Begins a row of echo requests on a way; the first is due at once.
    pub(crate) fn begin_echo(&mut self, endpoint: Endpoint, now: Instant) {
        let active = self.active == Some(endpoint);
        let path = self.entry(endpoint);
        let limit = if active || path.is_proven(now) { ECHO_TRIES } else { UNKNOWN_TRIES };
        if path.row.is_none() {
            path.row = Some(Row { began: now, due: now, tries: 0, limit });
        }
    }

    /// The active way is silent: all that ever answered are asked, and the circuits, so that it is known by then which of
    /// them could take its place.
    pub(crate) fn begin_all_echoes(&mut self, now: Instant) {
        let answered = |path: &&Path| path.proven.is_some() || path.rtt.is_some();
        let known = self.known.iter().filter(answered).map(|path| path.endpoint);
        for endpoint in known.chain(self.relays()).collect::<Vec<_>>() {
            self.begin_echo(endpoint, now);
        }
    }

    /// When the next echo request is due, or a row of them ends.
    pub(crate) fn echo_due(&self) -> Option<Instant> {
        self.known.iter().filter_map(|path| path.row.as_ref()).map(|row| row.due).min()
    }

    /// The ways on which a request is due. A row ends after a few, and the way then counts as silent; one that is active
    /// stays so until there is a better one.
    pub(crate) fn take_due(&mut self, now: Instant) -> Due {
        let mut due = Due::default();
        let silent =
            self.active.and_then(|active| self.find(active)?.row.as_ref()).is_some_and(|row| row.is_doubtful(now));
        if let Some(stream) =
            self.stream.filter(|stream| silent && self.find(*stream).is_none_or(|path| path.row.is_none()))
        {
            self.begin_echo(stream, now);
        }
        let answered = self.known.iter().filter_map(|path| path.proven).max();
        for path in &mut self.known {
            let Some(row) = path.row.as_mut().filter(|row| row.due <= now) else { continue };
            // With another way that answers now, there is no need to be so sure that this one does not.
            let limit = if answered > Some(row.began) { row.limit.min(UNKNOWN_TRIES) } else { row.limit };
            if row.tries >= limit {
                path.row = None;
                path.proven = None;
                due.failed |= self.active == Some(path.endpoint);
                continue;
            }
            row.tries += 1;
            row.due = now + path.rtt.map_or(ECHO_RETRY, |rtt| (rtt * 2).max(ECHO_RETRY_MIN));
            due.ask.push(path.endpoint);
        }
        due
    }

    /// An echo request leaves.
    pub(crate) fn note_asked(&mut self, token: [u8; 8], to: Endpoint, now: Instant) {
        if self.asked.len() == ASKED {
            self.asked.pop_front();
        }
        self.asked.push_back(Asked { token, to, sent: now });
    }

    /// An echo came back. Returns the way that it proves.
    pub(crate) fn handle_echo(&mut self, token: [u8; 8], now: Instant) -> Option<Endpoint> {
        let at = self.asked.iter().position(|asked| asked.token == token)?;
        let Asked { to, sent, .. } = self.asked.remove(at)?;
        self.note_proof(to, Some(now.saturating_duration_since(sent)), now);
        if self.active == Some(to) {
            self.unproven = None;
        }
        Some(to)
    }

    /// Whether an echo request is under way on the active way.
    pub(crate) fn is_asking(&self) -> bool {
        self.active.and_then(|active| self.find(active)).is_some_and(|path| path.row.is_some())
    }

    /// Whether the active way has left an echo request unanswered, and was asked again.
    pub(crate) fn is_asking_again(&self) -> bool {
        let row = self.active.and_then(|active| self.find(active)?.row.as_ref());
        row.is_some_and(|row| row.tries > 1)
    }

    /// Whether one is under way on any.
    pub(crate) fn is_asking_any(&self) -> bool {
        self.known.iter().any(|path| path.row.is_some())
    }

    pub(crate) fn stop_echo(&mut self) {
        self.known.iter_mut().for_each(|path| path.row = None);
        self.asked.clear();
    }

    fn note_proof(&mut self, endpoint: Endpoint, rtt: Option<Duration>, now: Instant) {
        let path = self.entry(endpoint);
        path.proven = Some(now);
        path.row = None;
        if let Some(rtt) = rtt {
            // As in RFC 6298: one slow answer is no slow way.
            path.rtt = Some(path.rtt.map_or(rtt, |old| (old * 7 + rtt) / 8));
        }
    }

    fn find(&self, endpoint: Endpoint) -> Option<&Path> {
        self.known.iter().find(|path| path.endpoint == endpoint)
    }

    /// The way with this endpoint; for a new one, the one that was proven least lately is forgotten.
    fn entry(&mut self, endpoint: Endpoint) -> &mut Path {
        let at = self.known.iter().position(|path| path.endpoint == endpoint).unwrap_or_else(|| {
            if self.known.len() >= PATHS {
                let others = self.known.iter().enumerate().filter(|(_, path)| self.active != Some(path.endpoint));
                let oldest = others.min_by_key(|(_, path)| path.proven).map(|(at, _)| at);
                oldest.map(|at| self.known.remove(at));
            }
            self.known.push(Path::new(endpoint));
            self.known.len() - 1
        });
        &mut self.known[at]
    }
}

/// What [`Paths::take_due`] found.
#[derive(Default)]
pub(crate) struct Due {
    /// Ways to ask.
    pub(crate) ask: Vec<Endpoint>,
    /// Whether the active way has failed to answer.
    pub(crate) failed: bool,
}
