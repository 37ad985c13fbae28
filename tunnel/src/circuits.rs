//! Circuits as their ends see them: asking a relay for one, and learning ways to a peer by it.

use std::collections::BTreeMap;
use std::time::Instant;

use libp2p_identity::PeerId;

use crate::config::identity_bytes;
use crate::control::Control;
use crate::core::Core;
use crate::drops::DropReason;
use crate::endpoint::Endpoint;
use crate::limits::{CIRCUITS_PER_PEER, FIRST_RETRIES, MISSED, OPEN_RETRIES, WISH_LIFE};
use crate::peer::Peer;

/// To whom a relay is asked to carry, and when it is asked again.
#[derive(Default)]
pub(crate) struct Wishes(BTreeMap<PeerId, Wish>);

struct Wish {
    due: Instant,
    tries: usize,
}

impl Wishes {
    /// When the next request is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.0.values().map(|wish| wish.due).min()
    }

    pub(crate) fn fulfil(&mut self, target: &PeerId) -> bool {
        self.0.remove(target).is_some()
    }

    /// What could not be asked for, because there was no session, is wanted no more.
    fn forget_old(&mut self, now: Instant) {
        self.0.retain(|_, wish| now < wish.due + WISH_LIFE);
    }

    /// What is asked for now. The last of a row of requests is not followed by another.
    fn take_due(&mut self, now: Instant) -> Vec<PeerId> {
        self.forget_old(now);
        self.0.retain(|_, wish| now < wish.due || wish.tries < OPEN_RETRIES.len());
        let due = self.0.iter_mut().filter(|(_, wish)| wish.due <= now);
        let ask = due.map(|(target, wish)| {
            wish.due = now + OPEN_RETRIES.get(wish.tries).copied().unwrap_or(OPEN_RETRIES[0]);
            wish.tries += 1;
            *target
        });
        ask.collect()
    }
}

impl Peer {
    /// Asks this peer for a circuit to another one, as soon as there is a session with it.
    pub(crate) fn wish(&mut self, core: &mut Core, target: PeerId, now: Instant) {
        self.wishes.forget_old(now);
        if self.wishes.0.len() >= CIRCUITS_PER_PEER && !self.wishes.0.contains_key(&target) {
            core.drop(DropReason::TooManyWishes);
            return;
        }
        self.wishes.0.entry(target).or_insert(Wish { due: now, tries: 0 });
        if self.sealing().is_some() {
            self.ask_for_circuits(core, now);
        } else {
            self.begin(core, now);
        }
    }

    /// Sends the requests that are due.
    pub(crate) fn ask_for_circuits(&mut self, core: &mut Core, now: Instant) {
        if self.sealing().is_none() {
            return;
        }
        for target in self.wishes.take_due(now) {
            if let Some(target) = identity_bytes(&target) {
                self.send_control(core, None, &Control::Open { target });
            }
        }
    }

    /// A relay carries to this peer.
    pub(crate) fn handle_circuit(&mut self, core: &mut Core, endpoint: Endpoint, told: u16, own: usize, now: Instant) {
        if !self.paths.add_relay(endpoint, usize::from(told), own) {
            self.resize(core);
            return;
        }
        if self.attempt.is_some() {
            self.restart_attempt(core, now);
        } else if self.sealing().is_some() {
            self.paths.begin_echo(endpoint, now);
            self.send_echoes(core, now);
        } else if !self.queue.is_empty() {
            self.begin(core, now);
        }
    }

    /// The overlay has a connection with this peer. A payload that found no way takes it.
    pub(crate) fn handle_stream(&mut self, core: &mut Core, now: Instant) {
        let stream = Endpoint::Stream(self.id);
        if self.paths.stream().is_some() {
            return;
        }
        self.paths.set_stream(Some(stream));
        let silent = self.sealing().is_some() && self.paths.active().is_none();
        if self.attempt.is_some() {
            self.hasten(now);
        } else if silent {
            self.paths.begin_echo(stream, now);
            self.send_echoes(core, now);
        } else if !self.queue.is_empty() && self.sealing().is_none() {
            self.begin(core, now);
        }
    }

    /// A way is no more. True if it was taken, and is missed.
    pub(crate) fn lose(&mut self, core: &mut Core, endpoint: Endpoint, now: Instant) -> bool {
        let taken = self.paths.active() == Some(endpoint);
        self.paths.remove(endpoint);
        if !taken {
            return false;
        }
        self.paths.choose(now);
        self.moved(core);
        let used = self.used_at.is_some_and(|at| now.saturating_duration_since(at) < MISSED);
        let in_use = used || self.trust.is_doubted();
        if in_use && self.paths.active().is_none() {
            self.begin(core, now);
            self.need(core, now);
        }
        in_use
    }

    /// Tries the addresses that the peer may have, inside the session, until one answers: each of them as often as it may
    /// be tried at all.
    pub(crate) fn begin_probing(&mut self, now: Instant) {
        let others = self.candidates.open(now).any(|addr| self.paths.active() != Some(addr.into()));
        if self.sealing().is_some() && (others || self.candidates.ready(now).is_some()) {
            self.probe = Some((now, 0));
        }
    }

    /// Sends the probes that are due.
    pub(crate) fn send_probes(&mut self, core: &mut Core, now: Instant) {
        let Some((due, round)) = self.probe.filter(|_| self.sealing().is_some()) else {
            self.probe = None;
            return;
        };
        if now < due {
            return;
        }
        self.probe = FIRST_RETRIES.get(round).map(|pause| (now + *pause, round + 1));
        let open: Vec<_> = self.candidates.open(now).filter(|addr| !self.paths.knows((*addr).into(), now)).collect();
        for addr in open {
            if self.candidates.take_opening(addr, now) {
                self.open_edge(core, addr);
            } else {
                self.candidates.note_try(addr, now);
                self.send_one_echo(core, addr.into(), now);
            }
        }
    }
}
