//! What a relay remembers: which circuit of which member leads on to which circuit of which other.
//!
//! A circuit has two ends, each a member with a session here, and a number at each end. Datagrams go on only inside
//! sessions, never to an address that a datagram names: a relay cannot be made to send to a stranger. What it carries
//! is sealed for the other end; it sees who, when and how much.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;

use crate::limits::{CIRCUIT_IDLE, CIRCUIT_WAIT, CIRCUITS, CIRCUITS_PER_PEER, CIRCUITS_WAITING, RELAY_BURST};

/// Why a member is not given a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// We do not carry.
    NoRelay,
    /// One of the two ends has as many as it may have, or all together do.
    Full,
}

/// The other end of a circuit, as seen from one.
#[derive(Clone, Debug)]
pub(crate) struct Leg {
    pub(crate) to: PeerId,
    /// Our number at that end.
    pub(crate) circuit: u16,
    /// What this end may send.
    pub(crate) rate: Arc<Rate>,
    /// What both ends have sent.
    pub(crate) carried: Arc<AtomicU64>,
}

/// The two numbers of a circuit, first that of the end with the smaller id.
struct Circuit {
    numbers: (u16, u16),
    carried: Arc<AtomicU64>,
    /// As much as at the last look, and since when.
    seen: (u64, Instant),
}

/// The circuits of one relay.
pub(crate) struct Circuits {
    /// What one member may send through us, in bytes per second; `None` if we carry nothing.
    allowed: Option<u64>,
    legs: BTreeMap<(PeerId, u16), Leg>,
    pairs: BTreeMap<(PeerId, PeerId), Circuit>,
    /// Who waits for whom to come, and until when.
    waiting: BTreeMap<(PeerId, PeerId), Instant>,
    rates: BTreeMap<PeerId, (Arc<Rate>, usize)>,
    next: u16,
    origin: Instant,
}

impl Circuits {
    pub(crate) fn new(allowed: Option<u64>, now: Instant) -> Self {
        Self {
            allowed,
            legs: BTreeMap::new(),
            pairs: BTreeMap::new(),
            waiting: BTreeMap::new(),
            rates: BTreeMap::new(),
            next: 0,
            origin: now,
        }
    }

    /// The numbers of the circuit between two members at either end; the same ones for the same two.
    pub(crate) fn open(&mut self, a: PeerId, b: PeerId, now: Instant) -> Result<(u16, u16), Refusal> {
        let allowed = self.allowed.ok_or(Refusal::NoRelay)?;
        self.waiting.remove(&(a, b));
        self.waiting.remove(&(b, a));
        let pair = (a.min(b), a.max(b));
        if let Some(circuit) = self.pairs.get(&pair) {
            let (first, second) = circuit.numbers;
            return Ok(if a == pair.0 { (first, second) } else { (second, first) });
        }
        let full = |peer| self.rates.get(peer).is_some_and(|(_, count)| *count >= CIRCUITS_PER_PEER);
        if a == b || self.pairs.len() >= CIRCUITS || full(&a) || full(&b) {
            return Err(Refusal::Full);
        }
        let carried = Arc::new(AtomicU64::new(0));
        let numbers = (self.number(pair.0), self.number(pair.1));
        for (from, number, to, circuit) in
            [(pair.0, numbers.0, pair.1, numbers.1), (pair.1, numbers.1, pair.0, numbers.0)]
        {
            let (rate, count) =
                self.rates.entry(from).or_insert_with(|| (Arc::new(Rate::new(allowed, self.origin)), 0));
            *count += 1;
            let leg = Leg { to, circuit, rate: Arc::clone(rate), carried: Arc::clone(&carried) };
            self.legs.insert((from, number), leg);
        }
        self.pairs.insert(pair, Circuit { numbers, carried, seen: (0, now) });
        Ok(if a == pair.0 { numbers } else { (numbers.1, numbers.0) })
    }

    /// `a` wants a circuit to `b`, who is not here: if it comes soon, it gets one.
    pub(crate) fn wait(&mut self, a: PeerId, b: PeerId, now: Instant) -> Result<(), Refusal> {
        self.allowed.ok_or(Refusal::NoRelay)?;
        self.waiting.retain(|_, until| *until > now);
        let of_a = self.waiting.range((a, b)..).chain(self.waiting.range(..(a, b))).filter(|((from, _), _)| *from == a);
        if of_a.count() >= CIRCUITS_PER_PEER || self.waiting.len() >= CIRCUITS_WAITING {
            return Err(Refusal::Full);
        }
        self.waiting.insert((a, b), now + CIRCUIT_WAIT);
        Ok(())
    }

    /// Who waits for this member, which has come.
    pub(crate) fn waiting_for(&self, peer: PeerId, now: Instant) -> Vec<PeerId> {
        let waits = |((from, to), until): (&(PeerId, PeerId), &Instant)| (*to == peer && *until > now).then_some(*from);
        self.waiting.iter().filter_map(waits).collect()
    }

    /// Who has a circuit with this member.
    pub(crate) fn others(&self, peer: PeerId) -> Vec<PeerId> {
        let other = |(a, b): &(PeerId, PeerId)| if *a == peer { Some(*b) } else { (*b == peer).then_some(*a) };
        self.pairs.keys().filter_map(other).collect()
    }

    /// Where a datagram of `from` on its circuit goes.
    pub(crate) fn leg(&self, from: PeerId, circuit: u16) -> Option<&Leg> {
        self.legs.get(&(from, circuit))
    }

    /// Every leg: whose datagrams, on which circuit, go where.
    pub(crate) fn legs(&self) -> impl Iterator<Item = (PeerId, u16, &Leg)> {
        self.legs.iter().map(|((from, circuit), leg)| (*from, *circuit, leg))
    }

    /// How many circuits there are.
    pub(crate) fn len(&self) -> usize {
        self.pairs.len()
    }

    /// How many bytes went through those that are there.
    pub(crate) fn carried(&self) -> u64 {
        self.pairs.values().fold(0, |sum, circuit| sum.saturating_add(circuit.carried.load(Relaxed)))
    }

    /// A member is gone. Returns who has to be told, with the number of the circuit there.
    pub(crate) fn close_all_of(&mut self, peer: PeerId) -> Vec<(PeerId, u16)> {
        let pairs: Vec<_> = self.pairs.keys().filter(|(a, b)| *a == peer || *b == peer).copied().collect();
        self.waiting.retain(|(a, b), _| *a != peer && *b != peer);
        let ends = pairs.into_iter().flat_map(|pair| self.close(pair));
        ends.filter(|(end, _)| *end != peer).collect()
    }

    /// Closes what has been idle. Returns both ends of each.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<(PeerId, u16)> {
        let mut idle = Vec::new();
        for (pair, circuit) in &mut self.pairs {
            let carried = circuit.carried.load(Relaxed);
            if carried != circuit.seen.0 {
                circuit.seen = (carried, now);
            } else if now.saturating_duration_since(circuit.seen.1) >= CIRCUIT_IDLE {
                idle.push(*pair);
            }
        }
        idle.into_iter().flat_map(|pair| self.close(pair)).collect()
    }

    fn close(&mut self, pair: (PeerId, PeerId)) -> Vec<(PeerId, u16)> {
        let Some(circuit) = self.pairs.remove(&pair) else { return Vec::new() };
        let ends = [(pair.0, circuit.numbers.0), (pair.1, circuit.numbers.1)];
        for end in ends {
            self.legs.remove(&end);
            if let Some((_, count)) = self.rates.get_mut(&end.0) {
                *count -= 1;
                if *count == 0 {
                    self.rates.remove(&end.0);
                }
            }
        }
        ends.to_vec()
    }

    /// A number that is free at this end, and was not used there a moment ago.
    fn number(&mut self, end: PeerId) -> u16 {
        loop {
            self.next = self.next.wrapping_add(1);
            if !self.legs.contains_key(&(end, self.next)) {
                return self.next;
            }
        }
    }
}

/// How many bytes one member may send through a relay: a virtual scheduling algorithm (ITU-T I.371), so that packet
/// threads share it without a lock.
#[derive(Debug)]
pub struct Rate {
    origin: Instant,
    bytes_per_second: u64,
    /// When what was let through would have left at that rate, in nanoseconds since the origin.
    due: AtomicU64,
}

impl Rate {
    pub(crate) fn new(bytes_per_second: u64, origin: Instant) -> Self {
        Self { origin, bytes_per_second: bytes_per_second.max(1), due: AtomicU64::new(0) }
    }

    /// Whether `len` more bytes may go now; they count if so.
    pub fn take(&self, len: usize, now: Instant) -> bool {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let now = nanos(now.saturating_duration_since(self.origin));
        let cost = (len as u64).saturating_mul(1_000_000_000) / self.bytes_per_second;
        let next = |due: u64| {
            let next = due.max(now).saturating_add(cost);
            (next <= now.saturating_add(nanos(RELAY_BURST))).then_some(next)
        };
        self.due.fetch_update(Relaxed, Relaxed, next).is_ok()
    }
}
