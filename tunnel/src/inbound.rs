//! The way of a data datagram in: 1 open, 2 confirm the session it proves, 3 follow the peer to a new endpoint,
//! 4 hand the payload on by its kind.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use crate::config::peer_of;
use crate::control::{CALLERS, Control, NoControl};
use crate::core::{Core, Errand, Outgoing};
use crate::drops::DropReason;
use crate::endpoint::Endpoint;
use crate::event::{Event, Kind};
use crate::limits::CLOSED_EVERY;
use crate::peer::Peer;
use crate::session::Session;
use crate::wire::{HEADER, TAG, data_kind};

/// The smallest datagram that the fast path can have opened; it does not say how large one was.
const SMALLEST: u64 = (HEADER + TAG) as u64;

impl Peer {
    /// A data datagram for one of this peer's indices.
    pub(crate) fn handle_data(&mut self, core: &mut Core, from: Endpoint, index: u32, datagram: &[u8], now: Instant) {
        let mut datagram = datagram.to_vec();
        let len = datagram.len() as u64;
        let Some(session) = self.session_of(index) else {
            core.drop(DropReason::UnknownIndex);
            return;
        };
        let opened = match session.open(&mut datagram) {
            Ok(opened) => opened,
            Err(reason) => {
                core.drop(reason);
                return;
            }
        };
        let (kind, counter, newest) = (opened.kind, opened.counter, opened.newest);
        let (circuit, payload) = (opened.circuit, opened.payload);
        if self.is_next(index) {
            self.confirm(core, now);
        }
        self.last_contact = Some(now);
        self.unanswered_since = None;
        self.rise(core);
        if newest {
            // An echo asks about a way; it does not say that it is taken.
            let asks = kind == Kind::Control && matches!(payload.first(), Some(1 | 2));
            self.follow(core, index, from, (counter, len), asks, now);
        }
        match kind {
            Kind::Forward => self.carry(core, circuit, payload, now),
            Kind::Carried => self.unwrap(core, circuit, payload),
            Kind::Packet | Kind::Offloaded | Kind::Fragment | Kind::Control => {
                self.handle_payload(core, &session, from, kind, payload, now);
            }
        }
    }

    /// The fast path opened an authentic newest datagram from another endpoint.
    pub(crate) fn handle_roamed(&mut self, core: &mut Core, index: u32, from: Endpoint, counter: u64, now: Instant) {
        self.last_contact = Some(now);
        self.follow(core, index, from, (counter, SMALLEST), false, now);
    }

    fn session_of(&mut self, index: u32) -> Option<std::sync::Arc<Session>> {
        let next = self.next.as_ref().map(|next| &next.generation);
        next.into_iter()
            .chain(self.generations())
            .map(|generation| &generation.session)
            .find(|session| session.index() == index)
            .cloned()
    }

    fn is_next(&self, index: u32) -> bool {
        self.next.as_ref().is_some_and(|next| next.generation.session.index() == index)
    }

    /// The newest datagram came from there. A peer that has moved is followed at once; a new endpoint is proven by an echo
    /// before it gets more than three times what it sent. What only shows that another way may exist is asked about.
    fn follow(
        &mut self,
        core: &mut Core,
        index: u32,
        from: Endpoint,
        (counter, len): (u64, u64),
        asks: bool,
        now: Instant,
    ) {
        if !self.may_move(index) {
            return;
        }
        let Some(generation) = self.generation(index) else {
            return;
        };
        if generation.moved_at.is_some_and(|moved_at| counter <= moved_at) {
            return;
        }
        generation.moved_at = Some(counter);
        let active = self.paths.active();
        if active == Some(from) {
            return;
        }
        let moves = match active {
            Some(active) if active.is_direct() && from.is_direct() => {
                // Back from where nothing has answered yet to where something did.
                !asks || (!self.paths.is_proven() && self.paths.knows(from, now))
            }
            Some(_) => false,
            // Where all ways are being asked, the first that answers is taken.
            None => !self.paths.is_asking_any(),
        };
        if !moves {
            self.ask_about(core, from, asks, now);
            return;
        }
        let received = self.received_bytes();
        if self.paths.roam(from, received, len, now) {
            self.begin_echo(core, now);
        }
        self.moved(core);
        self.end_doubt(core, false, now);
    }

    /// Something came over another way than the one that is taken.
    fn ask_about(&mut self, core: &mut Core, from: Endpoint, asks: bool, now: Instant) {
        if !self.paths.knows(from, now) {
            self.paths.begin_echo(from, now);
        }
        if !asks && !from.is_direct() && !self.paths.answered_lately(now) {
            // The peer has left the way that we still take: perhaps it does not carry any more.
            self.paths.begin_all_echoes(now);
        }
        self.send_echoes(core, now);
    }

    /// A datagram to be carried on. It goes on inside a session with a member, or not at all.
    fn carry(&mut self, core: &mut Core, circuit: u16, datagram: &[u8], now: Instant) {
        let Some(leg) = core.circuits.leg(self.id, circuit) else {
            core.drop(DropReason::NoCircuit);
            if self.told_closed.is_none_or(|at| now.saturating_duration_since(at) >= CLOSED_EVERY) {
                self.told_closed = Some(now);
                self.send_control(core, None, &Control::Closed { circuit });
            }
            return;
        };
        if !leg.rate.take(datagram.len(), now) {
            core.drop(DropReason::RelayRate);
            return;
        }
        leg.carried.fetch_add(datagram.len() as u64, Relaxed);
        let (through, circuit) = (leg.to, leg.circuit);
        let datagram = datagram.to_vec();
        core.outgoing.push_back(Outgoing::Inner { through, kind: Kind::Carried, circuit, datagram });
    }

    /// This peer has carried a datagram to us.
    fn unwrap(&self, core: &mut Core, circuit: u16, datagram: &[u8]) {
        let nested = data_kind(datagram).is_some_and(Kind::is_carried);
        if nested {
            core.drop(DropReason::NestedRelay);
            return;
        }
        let from = Endpoint::Relayed { relay: self.id, circuit };
        core.errands.push_back(Errand::Unwrapped { from, datagram: datagram.to_vec() });
    }

    fn handle_payload(
        &mut self,
        core: &mut Core,
        session: &Session,
        from: Endpoint,
        kind: Kind,
        payload: &[u8],
        now: Instant,
    ) {
        match kind {
            Kind::Packet | Kind::Offloaded => {
                core.events.push_back(Event::Message { peer: self.id, kind, payload: payload.to_vec() });
            }
            Kind::Control => self.handle_control(core, session, from, payload, now),
            // Never in fragments: a relay says how much it carries.
            Kind::Forward | Kind::Carried => core.drop(DropReason::MalformedFragment),
            Kind::Fragment => {
                let whole = self.reassembly.handle_fragment(payload, &mut core.drops, now);
                if let Some((kind, payload)) = whole {
                    self.handle_payload(core, session, from, kind, &payload, now);
                }
            }
        }
    }

    fn handle_control(&mut self, core: &mut Core, session: &Session, from: Endpoint, payload: &[u8], now: Instant) {
        if payload.first().is_some_and(|subtype| *subtype >= CALLERS) {
            session.note_expecting();
            core.events.push_back(Event::Message { peer: self.id, kind: Kind::Control, payload: payload.to_vec() });
            return;
        }
        match Control::parse(payload) {
            Ok(Control::Keepalive) => {}
            Ok(Control::EchoRequest { token }) => {
                // To where the request came from: the way there is what the echo proves.
                let reply = Control::EchoReply { token, seen: from.direct() };
                if self.paths.active() == Some(from) {
                    self.note_question(now);
                }
                self.send_control(core, Some(from), &reply);
            }
            Ok(Control::EchoReply { token, seen }) => self.handle_echo(core, token, seen, now),
            Ok(Control::Open { target }) => core.errands.push_back(Errand::Open { from: self.id, target }),
            Ok(Control::Opened { other, circuit, room }) => {
                core.errands.push_back(Errand::Opened { relay: self.id, other, circuit, room });
            }
            Ok(Control::Refused { target, .. }) => {
                core.drop(DropReason::RelayRefused);
                let _ = peer_of(&target).is_some_and(|target| self.wishes.fulfil(&target));
            }
            Ok(Control::Closed { circuit }) => {
                core.errands.push_back(Errand::Closed { relay: self.id, circuit });
            }
            Err(NoControl::Malformed) => core.drop(DropReason::MalformedControl),
            Err(NoControl::Unknown) => core.drop(DropReason::UnknownControl),
        }
    }

    fn handle_echo(&mut self, core: &mut Core, token: [u8; 8], seen: Option<SocketAddr>, now: Instant) {
        let before = (self.paths.active(), self.paths.is_proven());
        let at_once = !self.paths.is_asking_again();
        let Some(proven) = self.paths.handle_echo(token, now) else {
            return;
        };
        proven.direct().into_iter().for_each(|addr| self.candidates.note_answer(addr));
        self.paths.choose(now);
        let after = (self.paths.active(), self.paths.is_proven());
        if before != after {
            self.moved(core);
        }
        if before != after || after.0 == Some(proven) {
            core.ready.insert(self.id, now);
        }
        if after.0 == Some(proven) {
            self.end_doubt(core, at_once && before.0 == after.0, now);
        }
        if let Some(seen) = seen.filter(|seen| self.observed != Some(*seen)) {
            self.observed = Some(seen);
            core.events.push_back(Event::EndpointObserved { by: self.id, addr: seen });
        }
    }
}
