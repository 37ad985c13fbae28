//! Addresses without a route: who waits for them, who is asked, and what is known of their absence.
//!
//! An address is queued to be asked about, asked about once, and then known or forgotten. While it could not be
//! asked about, whoever waits for it goes on waiting and it is asked about again.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Instant;

use smoltcp::wire::EthernetAddress;

use crate::config::{
    ABSENT, ASK_AGAIN, ASK_BURST, ASK_PER_SECOND, MAX_LOOKUPS, MAX_QUESTIONS, MAX_WAITING_BYTES_TOTAL, UNKNOWN, WAIT,
};
use crate::drop_reason::Drops;
use crate::rate::Rate;
use crate::waiting::Waiting;
use crate::{DropReason, Offload};

/// An ARP request that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) mac: EthernetAddress,
    /// 0.0.0.0 in a probe.
    pub(crate) ip: Ipv4Addr,
    until: Instant,
}

impl Question {
    pub(crate) fn new(mac: EthernetAddress, ip: Ipv4Addr, now: Instant) -> Self {
        Self { mac, ip, until: now + WAIT }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be asked about as soon as the rate allows.
    Queued,
    /// Asked about; if no answer comes, it may be asked about again then.
    Asked(Instant),
    /// Nobody has it, until then.
    Absent(Instant),
    /// It could not be asked about; try again then.
    Unknown(Instant),
}

/// One address and whoever waits for it.
#[derive(Debug)]
pub(crate) struct Lookup {
    state: State,
    pub(crate) questions: Vec<Question>,
    pub(crate) packets: Waiting,
}

impl Lookup {
    fn is_waited_for(&self) -> bool {
        !self.questions.is_empty() || !self.packets.is_empty()
    }

    fn deadline(&self) -> Option<Instant> {
        let questions = self.questions.iter().map(|question| question.until).min();
        let state = match self.state {
            State::Queued => None,
            State::Asked(until) | State::Absent(until) | State::Unknown(until) => Some(until),
        };
        [questions, self.packets.deadline(), state].into_iter().flatten().min()
    }
}

/// All addresses without a route that somebody wanted lately.
#[derive(Debug)]
pub(crate) struct Lookups {
    by_ip: BTreeMap<Ipv4Addr, Lookup>,
    /// Exactly the addresses in [`State::Queued`], each once.
    to_ask: VecDeque<Ipv4Addr>,
    rate: Rate,
    /// Bytes of all packets that wait.
    bytes: usize,
    /// No later than the earliest deadline.
    due: Option<Instant>,
}

impl Lookups {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            by_ip: BTreeMap::new(),
            to_ask: VecDeque::new(),
            rate: Rate::new(ASK_BURST, ASK_PER_SECOND, now),
            bytes: 0,
            due: None,
        }
    }

    /// Keeps an ARP question until the address is known.
    pub(crate) fn question(&mut self, ip: Ipv4Addr, question: Question, drops: &mut Drops, now: Instant) {
        let Some(lookup) = self.open(ip, now) else {
            return drops.count(DropReason::LookupsFull);
        };
        if matches!(lookup.state, State::Absent(_)) {
            return drops.count(DropReason::ArpAbsent);
        }
        // A host repeats its question; one answer will do.
        lookup.questions.retain(|q| (q.mac, q.ip) != (question.mac, question.ip));
        if lookup.questions.len() >= MAX_QUESTIONS {
            lookup.questions.remove(0);
            drops.count(DropReason::WaitingFull);
        }
        lookup.questions.push(question);
        self.note_deadline(ip);
    }

    /// Keeps a packet until the address is known, unless it is known that nobody has it.
    pub(crate) fn packet(
        &mut self,
        ip: Ipv4Addr,
        bytes: &[u8],
        source: Ipv4Addr,
        offload: Offload,
        now: Instant,
    ) -> Result<usize, DropReason> {
        let total = self.bytes;
        let lookup = self.open(ip, now).ok_or(DropReason::LookupsFull)?;
        if matches!(lookup.state, State::Absent(_)) {
            return Err(DropReason::Absent);
        }
        let before = lookup.packets.bytes();
        if total - before + bytes.len() > MAX_WAITING_BYTES_TOTAL {
            return Err(DropReason::WaitingFull);
        }
        let pushed_out = lookup.packets.push(bytes, source, offload, now);
        self.bytes = total - before + lookup.packets.bytes();
        self.note_deadline(ip);
        Ok(pushed_out)
    }

    /// The next address to ask about.
    pub(crate) fn ask(&mut self, now: Instant) -> Option<Ipv4Addr> {
        while let Some(ip) = self.to_ask.front().copied() {
            let queued =
                self.by_ip.get_mut(&ip).filter(|lookup| lookup.state == State::Queued && lookup.is_waited_for());
            let Some(lookup) = queued else {
                // Nobody waits for it any more.
                self.remove(ip);
                continue;
            };
            if !self.rate.take(now) {
                return None;
            }
            lookup.state = State::Asked(now + ASK_AGAIN);
            self.to_ask.pop_front();
            self.note_deadline(ip);
            return Some(ip);
        }
        None
    }

    /// A route came: everything that waited for it.
    pub(crate) fn found(&mut self, ip: Ipv4Addr) -> Option<Lookup> {
        self.remove(ip)
    }

    /// Nobody has the address: everything that waited for it in vain.
    pub(crate) fn absent(&mut self, ip: Ipv4Addr, now: Instant) -> Option<Lookup> {
        let lookup = self.found(ip)?;
        self.by_ip.insert(
            ip,
            Lookup { state: State::Absent(now + ABSENT), questions: Vec::new(), packets: Waiting::default() },
        );
        self.note_deadline(ip);
        Some(lookup)
    }

    /// The address could not be asked about.
    pub(crate) fn unknown(&mut self, ip: Ipv4Addr, now: Instant) {
        if let Some(lookup) = self.by_ip.get_mut(&ip) {
            lookup.state = State::Unknown(now + UNKNOWN);
            self.to_ask.retain(|queued| *queued != ip);
            self.note_deadline(ip);
        }
    }

    /// Gives up on what waited too long, asks again, and forgets what nobody waits for.
    pub(crate) fn handle_timeout(&mut self, drops: &mut Drops, now: Instant) {
        let Self { by_ip, to_ask, bytes, due, .. } = self;
        if due.is_none_or(|due| due > now) {
            return;
        }
        by_ip.retain(|ip, lookup| {
            let held = lookup.packets.bytes();
            let expired = lookup.packets.expire(now);
            *bytes -= held - lookup.packets.bytes();
            let asked = lookup.questions.len();
            lookup.questions.retain(|question| question.until > now);
            let unknown = matches!(lookup.state, State::Unknown(_));
            drops.add(if unknown { DropReason::Unreachable } else { DropReason::LookupExpired }, expired);
            drops.add(DropReason::ArpUnknown, asked - lookup.questions.len());
            match lookup.state {
                State::Asked(until) | State::Unknown(until) if until <= now => {
                    lookup.state = State::Queued;
                    if lookup.is_waited_for() {
                        to_ask.push_back(*ip);
                    }
                    lookup.is_waited_for()
                }
                State::Queued => lookup.is_waited_for(),
                State::Absent(until) => until > now,
                State::Asked(_) | State::Unknown(_) => true,
            }
        });
        to_ask.retain(|ip| by_ip.contains_key(ip));
        *due = by_ip.values().filter_map(Lookup::deadline).min();
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let ask = (!self.to_ask.is_empty()).then(|| self.rate.next());
        [self.due, ask].into_iter().flatten().min()
    }

    /// The entry of an address, which is queued to be asked about unless that is under way.
    fn open(&mut self, ip: Ipv4Addr, now: Instant) -> Option<&mut Lookup> {
        if !self.by_ip.contains_key(&ip) && self.by_ip.len() >= MAX_LOOKUPS && !self.make_room() {
            return None;
        }
        let lookup = self.by_ip.entry(ip).or_insert_with(|| {
            self.to_ask.push_back(ip);
            Lookup { state: State::Queued, questions: Vec::new(), packets: Waiting::default() }
        });
        if matches!(lookup.state, State::Asked(until) | State::Absent(until) | State::Unknown(until) if until <= now) {
            lookup.state = State::Queued;
            self.to_ask.push_back(ip);
        }
        Some(lookup)
    }

    /// Forgets one address that nobody waits for.
    fn make_room(&mut self) -> bool {
        let idle = self
            .by_ip
            .iter()
            .filter(|(_, lookup)| !lookup.is_waited_for())
            .min_by_key(|(_, lookup)| lookup.deadline())
            .map(|(ip, _)| *ip);
        idle.is_some_and(|ip| self.remove(ip).is_some())
    }

    fn remove(&mut self, ip: Ipv4Addr) -> Option<Lookup> {
        let lookup = self.by_ip.remove(&ip);
        self.to_ask.retain(|queued| *queued != ip);
        self.bytes -= lookup.as_ref().map_or(0, |lookup| lookup.packets.bytes());
        lookup
    }

    fn note_deadline(&mut self, ip: Ipv4Addr) {
        let deadline = self.by_ip.get(&ip).and_then(Lookup::deadline);
        self.due = [self.due, deadline].into_iter().flatten().min();
    }
}
