//! The way of a payload out over the slow path: 1 a session, or the queue; 2 the budget of an unproven endpoint;
//! 3 whole or in fragments; 4 seal.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::control::{CALLERS, Control};
use crate::core::Core;
use crate::drops::DropReason;
use crate::endpoint::Endpoint;
use crate::event::Kind;
use crate::fragment::{FRAGMENT_HEADER, cut};
use crate::peer::Peer;
use crate::wire::{HEADER, TAG};

/// Why a payload was not sent.
enum Unsent {
    /// None can seal it.
    NoSession,
    /// No way is known to work, or none that has proven itself.
    Unproven,
    /// It never can be.
    Dropped(DropReason),
}

impl Peer {
    pub(crate) fn send(&mut self, core: &mut Core, kind: Kind, payload: &[u8], now: Instant) {
        if kind != Kind::Control && !self.queue.is_empty() && self.sealing().is_some() {
            // Behind those that wait.
            self.queue.push(kind, payload, &mut core.drops, now);
            core.ready.entry(self.id).or_insert(now);
            return;
        }
        match self.transmit(core, kind, payload) {
            Ok(()) => self.keep_copy(core, kind, payload, now),
            Err(Unsent::NoSession) => {
                self.queue.push(kind, payload, &mut core.drops, now);
                self.begin(core, now);
            }
            Err(Unsent::Unproven) => self.queue.push(kind, payload, &mut core.drops, now),
            Err(Unsent::Dropped(reason)) => core.drop(reason),
        }
    }

    /// Sends what has waited, as far as possible.
    pub(crate) fn flush(&mut self, core: &mut Core, now: Instant) {
        self.queue.expire(&mut core.drops, now);
        while let Some(waiting) = self.queue.pop_for_sending() {
            match self.transmit(core, waiting.kind, &waiting.payload) {
                Ok(()) => {}
                Err(Unsent::NoSession | Unsent::Unproven) => {
                    self.queue.put_back(waiting);
                    return;
                }
                Err(Unsent::Dropped(reason)) => core.drop(reason),
            }
        }
    }

    /// Sends one of the tunnel's own messages, to the endpoint or elsewhere. They are repeated where they matter, so
    /// one that cannot be sent is let go.
    pub(crate) fn send_control(&mut self, core: &mut Core, to: Option<Endpoint>, message: &Control) {
        let payload = message.emit();
        let elsewhere = to.is_some() && to != self.paths.active();
        let (Some(session), Some(to)) =
            (self.sealing().map(|generation| Arc::clone(&generation.session)), to.or(self.paths.active()))
        else {
            return;
        };
        let len = (HEADER + payload.len() + TAG) as u64;
        // What goes elsewhere answers a datagram from there that was at least a third as long.
        if !elsewhere && !self.paths.take_budget(len, self.received_bytes()) {
            core.drop(DropReason::PathUnproven);
            return;
        }
        let mut datagram = Vec::new();
        if session.seal_as(Kind::Control, false, &[], &payload, &mut datagram).is_ok() {
            core.transmit(to, datagram);
        }
    }

    /// Asks the active way.
    pub(crate) fn begin_echo(&mut self, core: &mut Core, now: Instant) {
        if let Some(active) = self.paths.active() {
            self.paths.begin_echo(active, now);
            self.send_echoes(core, now);
        }
    }

    /// Sends the echo requests that are due. When the active way has failed to answer, another one is taken, or the peer is
    /// looked for anew.
    pub(crate) fn send_echoes(&mut self, core: &mut Core, now: Instant) {
        let mut due = self.paths.take_due(now);
        if self.seek_after_rest(core, now) {
            due.ask.extend(self.paths.take_due(now).ask);
        }
        for endpoint in due.ask {
            self.send_one_echo(core, endpoint, now);
        }
        if !due.failed {
            return;
        }
        if self.paths.choose(now) {
            self.unanswered_since = None;
            self.moved(core);
            self.end_doubt(core, false, now);
            core.ready.insert(self.id, now);
            if self.paths.active().is_some_and(|active| !active.is_direct()) {
                // The direct way may be open again in a moment, once each side knows where the other one is by now.
                self.need(core, now);
            }
        } else if self.unanswered_since.is_some() {
            self.begin(core, now);
            self.need(core, now);
        }
    }

    pub(crate) fn send_one_echo(&mut self, core: &mut Core, to: Endpoint, now: Instant) {
        let token = core.token();
        self.paths.note_asked(token, to, now);
        self.send_control(core, Some(to), &Control::EchoRequest { token });
    }

    /// Lets out a datagram to nobody, for the sake of the way back. What the peer may make of it, should it arrive, is nothing.
    pub(crate) fn open_edge(&mut self, core: &mut Core, to: SocketAddr) {
        let Some(session) = self.sealing().map(|generation| Arc::clone(&generation.session)) else { return };
        let mut datagram = Vec::new();
        let token = core.token();
        let echo = Control::EchoRequest { token }.emit();
        if session.seal_as(Kind::Control, false, &[], &echo, &mut datagram).is_ok() {
            core.open_edge(to, datagram);
        }
    }

    fn transmit(&mut self, core: &mut Core, kind: Kind, payload: &[u8]) -> Result<(), Unsent> {
        let session = self.sealing().map(|generation| Arc::clone(&generation.session)).ok_or(Unsent::NoSession)?;
        let to = match self.paths.active() {
            Some(to) => to,
            None if self.paths.is_asking_any() => return Err(Unsent::Unproven),
            None => return Err(Unsent::NoSession),
        };
        let expects = kind != Kind::Control || payload.first().is_some_and(|subtype| *subtype >= CALLERS);
        let max = session.max_payload();
        let mut datagrams = Vec::new();
        if payload.len() <= max {
            let budget = (HEADER + payload.len() + TAG) as u64;
            self.take_budget(budget)?;
            let mut datagram = Vec::new();
            session.seal_as(kind, expects, &[], payload, &mut datagram).map_err(|_| Unsent::NoSession)?;
            datagrams.push(datagram);
        } else {
            let id = self.next_fragment;
            let parts = cut(id, kind, payload, max).ok_or(Unsent::Dropped(DropReason::PayloadSize))?;
            let count = payload.len().div_ceil(max - FRAGMENT_HEADER);
            self.take_budget((payload.len() + count * (HEADER + FRAGMENT_HEADER + TAG)) as u64)?;
            self.next_fragment = self.next_fragment.wrapping_add(1);
            for (header, part) in parts {
                let mut datagram = Vec::new();
                session.seal(Kind::Fragment, &header.emit(), part, &mut datagram).map_err(|_| Unsent::NoSession)?;
                datagrams.push(datagram);
            }
        }
        datagrams.into_iter().for_each(|datagram| core.transmit(to, datagram));
        Ok(())
    }

    fn take_budget(&mut self, len: u64) -> Result<(), Unsent> {
        let received = self.received_bytes();
        if self.paths.take_budget(len, received) { Ok(()) } else { Err(Unsent::Unproven) }
    }
}
