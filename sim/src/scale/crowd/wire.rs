//! Connections and messages of the crowd.

use std::time::Duration;

use dht::codec::Wire as _;
use dht::message::Message;
use dht::{LeaseKey, Output};
use libp2p_identity::PeerId;

use super::super::founding::apply;
use super::{Crowd, IDLE, SYNC, What, fresh};

/// A dial to nobody.
const REFUSED: Duration = Duration::from_secs(5);

impl Crowd {
    /// Does what a node wants, and sets its timer.
    pub(super) fn drain(&mut self, node: u32) {
        let mut wait = Duration::ZERO;
        while let Some(output) = self.members[node as usize].poll_output() {
            match output {
                Output::Persist(writes) => {
                    if wait.is_zero() && self.is_replica(node) {
                        self.counts.syncs += 1;
                    }
                    wait = SYNC;
                    apply(&mut self.members[node as usize].disk, writes);
                }
                Output::Send { to, message } => self.send(node, to, message, wait),
                Output::Dial { peer, .. } => {
                    if let Some(to) = self.numbers.get(&peer).copied() {
                        self.connect(node, to);
                    }
                }
                Output::Publish { .. } => self.counts.published += 1,
                Output::Event(event) => self.handle_event(node, event),
                Output::Admit { .. } | Output::Refuse { .. } | Output::Seek { .. } | Output::DialBack { .. } => {}
            }
        }
        let joins = self.joining.contains_key(&node);
        self.take_joiner_events(node);
        if joins && !self.joining.contains_key(&node) {
            // A member now, with wishes of its own.
            return self.drain(node);
        }
        self.set_timer(node);
    }

    fn set_timer(&mut self, node: u32) {
        let member = &mut self.members[node as usize];
        let Some(due) = member.due() else { return };
        let due = due.max(self.time);
        if member.wake.is_none_or(|wake| due < wake) {
            member.wake = Some(due);
            let delay = due - self.time;
            self.later(delay, node, What::Wake);
        }
    }

    fn send(&mut self, node: u32, to: PeerId, message: Vec<u8>, wait: Duration) {
        let Some(to) = self.numbers.get(&to).copied() else { return };
        self.note_tries(node, &message);
        let at = self.time;
        self.connect(node, to);
        let delay = self.delay(node, to) + wait;
        let Some(link) = self.members[node as usize].links.get_mut(&to) else { return };
        if link.open {
            link.used = at;
            self.count(node, to, message.len());
            self.later(delay, to, What::Message(node, message));
        } else {
            link.waiting.push(message);
        }
    }

    /// Which addresses an owner has asked for.
    fn note_tries(&mut self, node: u32, message: &[u8]) {
        let member = &mut self.members[node as usize];
        let Some(claim) = member.claims.values_mut().find(|claim| claim.is_address) else { return };
        let Ok(Message::Ops { ops, .. }) = Message::from_bytes(message) else { return };
        for key in ops.into_iter().map(|op| op.op.key).filter(|key| matches!(key, LeaseKey::Address(_))) {
            if !claim.keys.contains(&key) {
                claim.keys.push(key);
            }
        }
    }

    fn count(&mut self, from: u32, to: u32, bytes: usize) {
        self.counts.messages += 1;
        self.counts.bytes += bytes as u64;
        self.counts.at_replicas += u64::from(self.is_replica(from)) + u64::from(self.is_replica(to));
    }

    fn connect(&mut self, node: u32, to: u32) {
        if node == to || self.members[node as usize].links.contains_key(&to) {
            return;
        }
        let at = self.time;
        self.members[node as usize].links.insert(to, fresh(at, true));
        if self.members[to as usize].is_on() {
            let delay = self.delay(node, to) * 2;
            self.later(delay, node, What::Greet(to));
        } else {
            self.later(REFUSED, node, What::Gone(to));
        }
    }

    /// The transport stands: the dialler says hello.
    pub(super) fn greet(&mut self, node: u32, to: u32) {
        let (at, peer) = (self.time, self.members[to as usize].peer);
        if !self.members[node as usize].links.contains_key(&to) {
            return;
        }
        let Some(request) = self.members[node as usize].hello(peer, at) else { return };
        self.counts.connections += 1;
        self.count(node, to, request.len());
        let delay = self.delay(node, to);
        self.later(delay, to, What::Hello(node, request));
    }

    pub(super) fn handle_hello(&mut self, node: u32, from: u32, request: &[u8]) {
        let (at, peer) = (self.time, self.members[from as usize].peer);
        let delay = self.delay(node, from);
        match self.members[node as usize].handle_hello(peer, request, at) {
            Ok(response) => {
                self.members[node as usize].links.entry(from).or_insert_with(|| fresh(at, false));
                self.count(node, from, response.len());
                // Whoever lets a peer in writes that down first.
                self.later(delay + SYNC, from, What::Response(node, response));
                self.open(node, from);
                if self.is_replica(node) {
                    self.counts.peak = self.counts.peak.max(self.members[node as usize].links.len());
                }
            }
            Err(_) => self.later(delay, from, What::Gone(node)),
        }
    }

    pub(super) fn handle_response(&mut self, node: u32, from: u32, response: &[u8]) {
        let (at, peer) = (self.time, self.members[from as usize].peer);
        if !self.members[node as usize].links.contains_key(&from) {
            return;
        }
        match self.members[node as usize].handle_response(peer, response, at) {
            Ok(()) => {
                self.open(node, from);
                self.later(IDLE, node, What::Idle(from));
            }
            Err(_) => {
                let delay = self.delay(node, from);
                self.later(delay, from, What::Gone(node));
                self.lose(node, from);
            }
        }
    }

    fn open(&mut self, node: u32, peer: u32) {
        let at = self.time;
        let Some(link) = self.members[node as usize].links.get_mut(&peer) else { return };
        (link.open, link.used) = (true, at);
        let delay = self.delay(node, peer);
        for message in std::mem::take(&mut self.members[node as usize].links.entry(peer).or_default().waiting) {
            self.count(node, peer, message.len());
            self.later(delay, peer, What::Message(node, message));
        }
    }

    pub(super) fn handle_message(&mut self, node: u32, from: u32, bytes: &[u8]) {
        let (at, peer) = (self.time, self.members[from as usize].peer);
        let member = &mut self.members[node as usize];
        let Some(link) = member.links.get_mut(&from) else { return };
        link.used = at;
        member.handle_message(peer, bytes, at);
    }

    /// The connection is over.
    pub(super) fn lose(&mut self, node: u32, peer: u32) {
        let (at, name) = (self.time, self.members[peer as usize].peer);
        let member = &mut self.members[node as usize];
        if member.links.remove(&peer).is_some() {
            member.handle_gone(name, at);
        }
    }

    pub(super) fn close_if_idle(&mut self, node: u32, peer: u32) {
        let Some(link) = self.members[node as usize].links.get(&peer).filter(|link| link.ours) else { return };
        let end = link.used + IDLE;
        if end > self.time {
            let delay = end - self.time;
            return self.later(delay, node, What::Idle(peer));
        }
        let delay = self.delay(node, peer);
        self.later(delay, peer, What::Gone(node));
        self.lose(node, peer);
    }
}
