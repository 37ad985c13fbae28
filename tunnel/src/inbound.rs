//! The way of a data datagram in: 1 open, 2 confirm the session it proves, 3 follow the peer to a new endpoint,
//! 4 hand the payload on by its kind.

use std::net::SocketAddr;
use std::time::Instant;

use crate::control::{CALLERS, Control, NoControl};
use crate::core::Core;
use crate::drops::DropReason;
use crate::event::{Event, Kind};
use crate::peer::Peer;
use crate::session::Session;
use crate::wire::{HEADER, TAG};

/// The smallest datagram that the fast path can have opened; it does not say how large one was.
const SMALLEST: u64 = (HEADER + TAG) as u64;

impl Peer {
    /// A data datagram for one of this peer's indices.
    pub(crate) fn handle_data(&mut self, core: &mut Core, from: SocketAddr, index: u32, datagram: &[u8], now: Instant) {
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
        let (kind, counter, newest, payload) = (opened.kind, opened.counter, opened.newest, opened.payload);
        if self.is_next(index) {
            self.confirm(core, now);
        }
        self.last_contact = Some(now);
        self.unanswered_since = None;
        self.rise(core);
        if newest {
            self.follow(core, index, from, counter, len, now);
        }
        self.handle_payload(core, &session, from, kind, payload, now);
    }

    /// The fast path opened an authentic newest datagram from another endpoint.
    pub(crate) fn handle_roamed(&mut self, core: &mut Core, index: u32, from: SocketAddr, counter: u64, now: Instant) {
        self.last_contact = Some(now);
        self.follow(core, index, from, counter, SMALLEST, now);
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

    /// Moves the endpoint to where the newest datagram came from. A new one is proven by an echo before it gets
    /// more than three times what it sent.
    fn follow(&mut self, core: &mut Core, index: u32, from: SocketAddr, counter: u64, len: u64, now: Instant) {
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
        if self.path.endpoint == Some(from) {
            return;
        }
        let received = self.received_bytes();
        if self.path.roam(from, received, len, now) {
            self.path.begin_echo(core.token(), now);
            self.send_echo(core, now);
        }
        self.resize(core);
        core.sessions_changed();
    }

    fn handle_payload(
        &mut self,
        core: &mut Core,
        session: &Session,
        from: SocketAddr,
        kind: Kind,
        payload: &[u8],
        now: Instant,
    ) {
        match kind {
            Kind::Packet | Kind::Offloaded => {
                core.events.push_back(Event::Message { peer: self.id, kind, payload: payload.to_vec() });
            }
            Kind::Control => self.handle_control(core, session, from, payload, now),
            Kind::Fragment => {
                let whole = self.reassembly.handle_fragment(payload, &mut core.drops, now);
                if let Some((kind, payload)) = whole {
                    self.handle_payload(core, session, from, kind, &payload, now);
                }
            }
        }
    }

    fn handle_control(&mut self, core: &mut Core, session: &Session, from: SocketAddr, payload: &[u8], now: Instant) {
        if payload.first().is_some_and(|subtype| *subtype >= CALLERS) {
            session.note_expecting();
            core.events.push_back(Event::Message { peer: self.id, kind: Kind::Control, payload: payload.to_vec() });
            return;
        }
        match Control::parse(payload) {
            Ok(Control::Keepalive) => {}
            Ok(Control::EchoRequest { token }) => {
                // To where the request came from: the way there is what the echo proves.
                let reply = Control::EchoReply { token, seen: from };
                self.send_control(core, Some(from), &reply);
            }
            Ok(Control::EchoReply { token, seen }) => self.handle_echo(core, token, seen, now),
            Err(NoControl::Malformed) => core.drop(DropReason::MalformedControl),
            Err(NoControl::Unknown) => core.drop(DropReason::UnknownControl),
        }
    }

    fn handle_echo(&mut self, core: &mut Core, token: [u8; 8], seen: SocketAddr, now: Instant) {
        let Some(addr) = self.path.handle_echo(token, now) else {
            return;
        };
        if self.path.endpoint == Some(addr) {
            if !self.path.is_proven() {
                core.sessions_changed();
            }
            self.path.prove(addr, now);
            core.ready.insert(self.id, now);
        } else {
            self.path.remember(addr, now);
        }
        if self.observed != Some(seen) {
            self.observed = Some(seen);
            core.events.push_back(Event::EndpointObserved { by: self.id, addr: seen });
        }
    }
}
