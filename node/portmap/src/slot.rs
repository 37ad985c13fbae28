//! One port: whether it is mapped, and when the gateway is asked for it next.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::belief::LONGEST;
use crate::mapping::{Mapping, Owner, Port, Protocol};

/// How long a mapping is to last, renewed after half of it. A machine that dies leaves a port open for ten minutes at most, a
/// router that restarts is noticed within five, and an idle machine sends a handful of datagrams every five minutes.
pub const LEASE: Duration = Duration::from_secs(600);
/// After a refusal; twice as long after each further one.
const RETRY: Duration = Duration::from_secs(60);
/// The longest wait, and the usual one where no gateway answers.
pub(crate) const RARELY: Duration = Duration::from_secs(900);
/// A renewal that failed is not tried again sooner.
const SOONEST: Duration = Duration::from_secs(10);
/// Other ports of the gateway's that are tried where ours is taken. With PCP and NAT-PMP the gateway chooses.
const OTHERS: u8 = 4;

/// How long to wait after so many failures in a row.
pub(crate) fn pause(failures: u32) -> Duration {
    RETRY.saturating_mul(1 << failures.min(8)).min(RARELY)
}

pub(crate) struct Slot {
    port: Port,
    held: Option<Mapping>,
    /// When to ask next.
    due: Instant,
    /// What was asked in vain, since it was held last or the last pause.
    tried: BTreeSet<Protocol>,
    /// Ports of the gateway's that others have.
    taken: u8,
    failures: u32,
    /// Whether an answer is waited for.
    pub(crate) asked: bool,
    /// What is on disk about it.
    pub(crate) left: Option<u64>,
    /// Why it is not mapped.
    pub(crate) why: Option<String>,
}

impl Slot {
    pub(crate) fn new(port: Port, now: Instant) -> Self {
        Self {
            port,
            held: None,
            due: now,
            tried: BTreeSet::new(),
            taken: 0,
            failures: 0,
            asked: false,
            left: None,
            why: None,
        }
    }

    pub(crate) fn held(&self) -> Option<&Mapping> {
        self.held.as_ref()
    }

    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Whom to ask of those that answer, in order of preference.
    pub(crate) fn whom(&self, answering: &[Protocol]) -> Option<Protocol> {
        match &self.held {
            Some(held) => Some(held.protocol),
            None => answering.iter().find(|protocol| !self.tried.contains(protocol)).copied(),
        }
    }

    /// Which port of the gateway's to ask for: the one held, else our own, else any.
    pub(crate) fn wish(&self, owner: Owner) -> u16 {
        let own = self.port.port;
        match (&self.held, self.taken) {
            (Some(held), _) => held.external.port(),
            (None, 0) => own,
            (None, taken) => {
                // Anywhere above the ports that need privilege; which one does not matter, but for two machines to differ.
                let at = owner.0[usize::from(taken) % 3].wrapping_add(u32::from(own) * u32::from(taken));
                u16::try_from(10_000 + at % 50_000).unwrap_or(own)
            }
        }
    }

    /// Ask at the next opportunity.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.due = self.due.min(now);
    }

    pub(crate) fn hold(&mut self, mapping: Mapping, now: Instant) {
        self.due = now + mapping.until.saturating_duration_since(now) / 2;
        self.held = Some(mapping);
        self.tried.clear();
        (self.taken, self.failures, self.why) = (0, 0, None);
    }

    /// Another one has that port of the gateway's. False if that was the last that is tried.
    pub(crate) fn give_way(&mut self, now: Instant) -> bool {
        self.held = None;
        self.taken += 1;
        self.due = now;
        self.taken <= OTHERS
    }

    /// It was asked for in vain. A mapping that is held stays until its end, and is renewed at ever shorter intervals.
    pub(crate) fn fail(&mut self, protocol: Protocol, why: String, now: Instant) {
        self.why = Some(why);
        match &self.held {
            Some(held) => self.due = now + (held.until.saturating_duration_since(now) / 2).max(SOONEST),
            None => {
                self.tried.insert(protocol);
                self.taken = 0;
            }
        }
    }

    /// It is found out anew who answers.
    pub(crate) fn begin_anew(&mut self) {
        self.tried.clear();
    }

    /// Nobody is left to be asked.
    pub(crate) fn rest(&mut self, now: Instant) {
        self.due = now + pause(self.failures);
        self.failures += 1;
        self.tried.clear();
    }

    /// Ends what was not renewed in time; by what it was held.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Protocol> {
        let held = self.held.take_if(|held| held.until <= now)?;
        self.due = now;
        self.tried.insert(held.protocol);
        Some(held.protocol)
    }
}

/// For how long a mapping is believed. One that does not end by itself is asked for again all the same: the gateway may be
/// another one, or have been reset.
pub(crate) fn believed(lease: Option<Duration>) -> Duration {
    lease.unwrap_or(LONGEST)
}
