//! What stands in for libp2p between the nodes: dials, connections, hellos, messages, and how their ends are noticed.

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p_identity::PeerId;
use rand::RngExt;

use crate::driver::{Carried, Input, Wish};
use crate::edges::Route;
use crate::links::{ConnectionId, MadeBy};
use crate::network::Fate;
use crate::node::NodeId;
use crate::world::{What, World};

/// A dial into nowhere fails after this.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// A message that nobody acknowledges has failed after this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which no ping is answered is closed after this.
const DEAD_AFTER: Duration = Duration::from_secs(25);
/// Octets of what makes a connection.
const HANDSHAKE: usize = 2400;
const AGAIN: Duration = Duration::from_secs(1);

/// One process of one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) node: NodeId,
    pub(crate) process: u64,
}

/// All connections between processes.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    next: u64,
    ends: BTreeMap<ConnectionId, [End; 2]>,
    /// What each goes through.
    routes: BTreeMap<ConnectionId, [Route; 2]>,
}

impl Connections {
    fn remove(&mut self, id: ConnectionId) -> Option<[End; 2]> {
        self.routes.remove(&id);
        self.ends.remove(&id)
    }
}

/// A dial under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    from: End,
    to: NodeId,
    /// Only to see that it can be made.
    back: bool,
}

/// What whoever made an attempt is told when it comes to nothing.
fn failed(peer: PeerId, back: bool) -> Input {
    if back { Input::DialledBack { peer, reached: false } } else { Input::DialFailed { peer } }
}

/// Something under way to the overlay driver of one process.
#[derive(Debug)]
pub(crate) struct Arrival {
    to: End,
    /// Who sent it, unless the process notices it by itself.
    from: Option<End>,
    input: Input,
}

impl World {
    fn end(&self, id: NodeId) -> End {
        End { node: id, process: self.node(id).processes }
    }

    fn is_alive(&self, end: End) -> bool {
        let node = self.node(end.node);
        node.process.is_some() && node.processes == end.process
    }

    fn notice(&mut self, after: Duration, to: End, input: Input) {
        self.schedule(after, What::Overlay(Arrival { to, from: None, input }));
    }

    pub(crate) fn overlay_wish(&mut self, id: NodeId, wish: Wish) {
        let me = self.end(id);
        match wish {
            Wish::Dial { peer } => self.overlay_dial(me, peer, false),
            Wish::DialBack { peer } => self.overlay_dial(me, peer, true),
            Wish::Carry { id, what } => self.overlay_carry(me, id, what),
            Wish::Close { id } => {
                let severed = self.is_severed(id);
                let Some(ends) = self.connections.remove(id) else { return };
                let other = if ends[0] == me { ends[1] } else { ends[0] };
                self.hang_up(me.node, other, id, severed);
            }
            // Taken by the node itself.
            Wish::Sync | Wish::Tell(_) | Wish::Joined | Wish::JoinFailed(_) => {}
        }
    }

    fn overlay_dial(&mut self, me: End, peer: PeerId, back: bool) {
        let target = self.nodes().iter().find(|node| node.peer == peer).map(|node| node.id);
        let Some(to) = target else { return self.notice(DIAL_TIMEOUT, me, failed(peer, back)) };
        let admitted = if back { self.edges.is_public(to) } else { self.edges.admits(me.node, to) };
        if !admitted {
            return self.notice(DIAL_TIMEOUT, me, failed(peer, back));
        }
        let attempt = Attempt { from: me, to, back };
        match self.overlay_stream(me.node, to, HANDSHAKE) {
            Fate::Arrives(delays) => {
                for delay in delays {
                    self.schedule(delay, What::Connect(attempt));
                }
            }
            Fate::Cut | Fate::Lost => self.notice(DIAL_TIMEOUT, me, failed(peer, back)),
        }
    }

    pub(crate) fn overlay_connect(&mut self, Attempt { from, to, back }: Attempt) {
        let (peer, target) = (self.node(to).peer, self.node(to));
        let refused = target.process.is_none() && self.network.connects(from.node, to);
        let Fate::Arrives(delays) = self.overlay_stream(to, from.node, HANDSHAKE) else {
            return self.notice(DIAL_TIMEOUT, from, failed(peer, back));
        };
        if refused {
            return self.notice(delays[0], from, failed(peer, back));
        }
        if !self.node(to).is_running() || !self.is_alive(from) {
            return self.notice(DIAL_TIMEOUT, from, failed(peer, back));
        }
        if back {
            return self.notice(delays[0], from, Input::DialledBack { peer, reached: true });
        }
        self.connections.next += 1;
        let id = ConnectionId(self.connections.next);
        let me = self.end(to);
        self.connections.ends.insert(id, [from, me]);
        self.connections.routes.insert(id, [self.edges.route(from.node), self.edges.route(to)]);
        let dialler = self.node(from.node).peer;
        self.log.note(self.now(), to, "connection", &id.0.to_le_bytes(), || format!("{} from {}", id.0, from.node));
        self.with(to, |node, at| {
            node.tell_driver(Input::Established { id, peer: dialler, made_by: MadeBy::Them }, at);
        });
        let input = Input::Established { id, peer, made_by: MadeBy::Us };
        self.schedule(delays[0], What::Overlay(Arrival { to: from, from: None, input }));
    }

    fn overlay_carry(&mut self, me: End, id: ConnectionId, what: Carried) {
        // Closed by the other end, which this one will be told.
        let Some(ends) = self.connections.ends.get(&id).copied() else { return };
        let other = if ends[0] == me { ends[1] } else { ends[0] };
        let (fate, octets) = match &what {
            Carried::Message(bytes) => (self.network.message(me.node, other.node), bytes.len()),
            Carried::Ask(bytes) | Carried::Answer(bytes) => (self.network.stream(me.node, other.node), bytes.len()),
            Carried::Confirm => (self.network.stream(me.node, other.node), 0),
        };
        let fate = if self.is_severed(id) { Fate::Cut } else { self.over_lines(me.node, other.node, octets, fate) };
        match fate {
            Fate::Cut => self.undeliverable(Some(me), other, &Input::Carried { id, what }),
            Fate::Lost => {}
            Fate::Arrives(delays) => {
                for delay in delays {
                    let input = Input::Carried { id, what: what.clone() };
                    self.schedule(delay, What::Overlay(Arrival { to: other, from: Some(me), input }));
                }
            }
        }
    }

    pub(crate) fn overlay_arrival(&mut self, Arrival { to, from, input }: Arrival) {
        if !self.is_alive(to) {
            return self.undeliverable(from, to, &input);
        }
        if self.node(to.node).clock.is_asleep() {
            // What the machine notices by itself it notices when it wakes.
            return match from {
                None => self.schedule(AGAIN, What::Overlay(Arrival { to, from, input })),
                Some(_) => self.undeliverable(from, to, &input),
            };
        }
        if from.is_some_and(|from| self.network.is_cut(from.node, to.node)) {
            return self.undeliverable(from, to, &input);
        }
        let text = format!("{input:?}");
        self.log.note(self.now(), to.node, "overlay", text.as_bytes(), || text.chars().take(120).collect());
        self.with(to.node, |node, at| node.tell_driver(input, at));
    }

    fn undeliverable(&mut self, from: Option<End>, to: End, input: &Input) {
        if let (Some(from), Input::Carried { id, what }) = (from, input) {
            let is_message = matches!(what, Carried::Message(_));
            let peer = self.node(to.node).peer;
            self.notice(REQUEST_TIMEOUT, from, Input::Undelivered { id: *id, peer, is_message });
        }
    }

    /// Whether a translator has forgotten a connection, or one of its ends has moved.
    fn is_severed(&self, id: ConnectionId) -> bool {
        let Some((ends, routes)) = self.connections.ends.get(&id).zip(self.connections.routes.get(&id)) else {
            return false;
        };
        ends.iter().zip(routes).any(|(end, route)| self.edges.route(end.node) != *route)
    }

    /// The fate of so many octets of a stream over the core and the lines of both ends.
    fn overlay_stream(&mut self, from: NodeId, to: NodeId, octets: usize) -> Fate {
        let fate = self.network.stream(from, to);
        self.over_lines(from, to, octets, fate)
    }

    /// What the lines of both ends make of what the core does.
    fn over_lines(&mut self, from: NodeId, to: NodeId, octets: usize, fate: Fate) -> Fate {
        let Fate::Arrives(delays) = fate else { return fate };
        match self.edges.stream(from, to, octets, self.now()) {
            Some(after) => Fate::Arrives(delays.into_iter().map(|delay| delay + after).collect()),
            None => Fate::Cut,
        }
    }

    /// Tells the other end of a connection that it is closed: at once, or when its pings go unanswered.
    fn hang_up(&mut self, me: NodeId, other: End, id: ConnectionId, severed: bool) {
        let after = match self.overlay_stream(me, other.node, 0) {
            Fate::Arrives(delays) if !severed => delays[0],
            Fate::Arrives(_) | Fate::Cut | Fate::Lost => DEAD_AFTER,
        };
        self.notice(after, other, Input::Closed { id });
    }

    /// A process ended. A kernel that lives closes its connections; else the others find out.
    pub(crate) fn overlay_ended(&mut self, gone: End, tells: bool) {
        let ids: Vec<ConnectionId> =
            self.connections.ends.iter().filter(|(_, ends)| ends.contains(&gone)).map(|(id, _)| *id).collect();
        for id in ids {
            let severed = self.is_severed(id);
            let Some(ends) = self.connections.remove(id) else { continue };
            let other = if ends[0] == gone { ends[1] } else { ends[0] };
            if tells {
                self.hang_up(gone.node, other, id, severed);
            } else {
                self.notice(DEAD_AFTER, other, Input::Closed { id });
            }
        }
    }

    /// After a cut or a suspension: connections that are dead will be noticed to be.
    pub(crate) fn overlay_doubt(&mut self) {
        let ids: Vec<ConnectionId> = self.connections.ends.keys().copied().collect();
        for id in ids {
            let after = Duration::from_millis(self.rng.random_range(20_000..30_000));
            self.schedule(after, What::KeepAlive(id));
        }
    }

    pub(crate) fn overlay_keep_alive(&mut self, id: ConnectionId) {
        let Some([a, b]) = self.connections.ends.get(&id).copied() else { return };
        let asleep = [a, b].iter().any(|end| self.node(end.node).clock.is_asleep());
        if self.network.connects(a.node, b.node) && !asleep && !self.is_severed(id) {
            return;
        }
        self.connections.remove(id);
        for end in [a, b] {
            self.notice(Duration::ZERO, end, Input::Closed { id });
        }
    }

    pub(crate) fn process_end(&self, id: NodeId) -> End {
        self.end(id)
    }
}
