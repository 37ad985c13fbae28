//! Looking outside: voters, whom everybody reaches, are asked where they see us, as soon as somebody is looked for.
//!
//! Behind a translator that gives each destination a port of its own the answers come before the trial. What it gave last says what
//! it gives next, if it counts; whatever we send to a new address meanwhile takes a port. So the addresses at which others are seen
//! are held back until the answers are there, or too late; and so is where we are seen, because the last answers are old.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dht::clock::Now;
use libp2p_identity::PeerId;
use tunnel::{Candidate, CandidateKind, Mapping, Observations};

use crate::engine::Engine;
use crate::peers::Peers;
use crate::status::NatStatus;

/// How often voters are asked where we are seen, while somebody is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How many of them: two that differ say that the translator before us gives each destination a port of its own.
const LOOKS: usize = 2;
/// How long they are waited for. A relay carries in the meantime.
const LOOK: Duration = Duration::from_millis(500);
/// Of how many peers the addresses are held back at once.
const HELD: usize = 256;

/// What stands before us, as far as others have said.
#[derive(Default)]
pub(crate) struct Outside {
    observations: Observations,
    looked: Option<Instant>,
    look: Option<Look>,
}

/// Voters that have yet to answer, and what waits for them.
struct Look {
    asked: BTreeSet<PeerId>,
    until: Instant,
    held: BTreeMap<PeerId, Vec<Candidate>>,
}

impl Outside {
    /// Where we are seen, unless newer answers are waited for: whoever is told something else first sends there, too.
    pub(crate) fn known(&self) -> Option<&Observations> {
        self.look.is_none().then_some(&self.observations)
    }

    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.look.as_ref().map(|look| (look.until, "wait no longer to hear where we are seen"))
    }

    /// Whether answers are worth waiting for, if so many are asked.
    fn may_count(&self, asked: usize) -> bool {
        match self.observations.mapping() {
            Mapping::Unknown => asked >= LOOKS,
            Mapping::EndpointIndependent => false,
            Mapping::AddressDependent | Mapping::Counting { .. } => asked > 0,
        }
    }

    /// Keeps back those of a peer's addresses at which it is seen.
    fn hold(&mut self, peer: PeerId, list: &mut Vec<Candidate>) {
        let Some(look) = &mut self.look else { return };
        if look.held.len() < HELD || look.held.contains_key(&peer) {
            look.held.insert(peer, list.clone());
            list.retain(|candidate| match candidate.kind {
                CandidateKind::Lan | CandidateKind::Configured => true,
                CandidateKind::Observed | CandidateKind::Predicted => false,
            });
        }
    }
}

impl Peers {
    /// What stands before us, and from how many observers that is known; `None` if nobody has said.
    pub(crate) fn nat(&self) -> Option<NatStatus> {
        let observations = &self.outside.observations;
        let observers = observations.observers();
        let inside = observations.addresses().iter().all(|addr| self.lan.contains(addr));
        let (mapping, step) = match observations.mapping() {
            _ if inside => ("none", None),
            Mapping::Unknown => ("unknown", None),
            Mapping::EndpointIndependent => ("endpoint-independent", None),
            Mapping::AddressDependent => ("address-dependent", None),
            Mapping::Counting { step } => ("counting", Some(step)),
        };
        (observers > 0).then(|| NatStatus { mapping: mapping.into(), step, observers })
    }
}

impl Engine {
    /// Asks some voters where we are seen: behind a translator nobody else can tell.
    pub(crate) fn look_outside(&mut self, besides: PeerId, now: Now) {
        let outside = &self.peers.outside;
        if outside.looked.is_some_and(|at| now.mono < at + LOOK_EVERY) {
            return;
        }
        let asked = self.observers(besides, now);
        let waits = self.peers.outside.may_count(asked.len());
        self.peers.outside.looked = Some(now.mono);
        if waits && self.peers.outside.look.is_none() {
            let asked = asked.iter().copied().collect();
            self.peers.outside.look = Some(Look { asked, until: now.mono + LOOK, held: BTreeMap::new() });
        }
        for voter in asked {
            if self.peers.is_up(&voter) {
                self.tunnel.ping(voter, now.mono);
            } else {
                self.make_session(voter, now);
            }
        }
    }

    /// Those who are asked. Where each destination has a port of its own, one more to whom nothing was sent lately: only a new flow shows
    /// which port a translator that counts has come to.
    fn observers(&self, besides: PeerId, now: Now) -> Vec<PeerId> {
        let voters = self.voters(besides, now);
        let (first, others) = voters.split_at(LOOKS.min(voters.len()));
        let differs =
            matches!(self.peers.outside.observations.mapping(), Mapping::AddressDependent | Mapping::Counting { .. });
        let fresh = others.iter().find(|voter| differs && !self.peers.is_up(voter));
        first.iter().chain(fresh).copied().collect()
    }

    /// A peer may be found there. Voters are not held back: they are who is asked.
    pub(crate) fn try_candidates(&mut self, peer: PeerId, mut list: Vec<Candidate>, now: Now) {
        if !self.is_direct(&peer, now) && !self.peers.serves(&peer) {
            self.peers.outside.hold(peer, &mut list);
        }
        self.tunnel.set_candidates(peer, list, now.mono);
    }

    /// Somebody has told us where we are seen: whoever looks for us, or is looked for, has to know.
    pub(crate) fn observed(&mut self, by: PeerId, addr: SocketAddr, now: Now) {
        let before = self.peers.own_candidates();
        self.peers.outside.observations.note(by, addr, now.mono);
        let over = self.peers.outside.look.as_mut().is_some_and(|look| {
            look.asked.remove(&by);
            look.asked.is_empty()
        });
        if over {
            self.end_look(now);
        }
        self.tell_if_other_than(&before, now);
    }

    /// Waits no longer for voters that do not answer.
    pub(crate) fn expire_look(&mut self, now: Now) {
        if self.peers.outside.look.as_ref().is_some_and(|look| look.until <= now.mono) {
            let before = self.peers.own_candidates();
            self.end_look(now);
            self.tell_if_other_than(&before, now);
        }
    }

    fn end_look(&mut self, now: Now) {
        let Some(look) = self.peers.outside.look.take() else { return };
        for (peer, list) in look.held {
            self.tunnel.set_candidates(peer, list, now.mono);
        }
    }

    fn tell_if_other_than(&mut self, before: &[Candidate], now: Now) {
        if self.peers.own_candidates() != before {
            self.peers.note_news();
            self.tell_of_addresses(now);
        }
    }
}
