//! What stands before the machines: translators and firewalls of `wan`, and the lines between them and the core.
//!
//! A machine stands behind at most one gate, a gate behind at most one other (a home router behind a carrier's). A datagram goes
//! through the gates of its sender, over the core, and through those of its receiver. Each gate takes one from its time to live, and so
//! does the core's first router, which ends those that are meant to open an edge.
//!
//! Overlay connections are made to machines whose gates let in what nobody asked for. A connection, once made, passes all gates until
//! one of them forgets everything or the machine moves; no end is told. It takes as long as the lines let a stream take.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use wan::link::Fate;
use wan::{Edge, Filtering, Line, Link, Nat, Passage, Ports, Settings};

use crate::node::NodeId;

/// A gate's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GateId(usize);

/// A translator or firewall, and its line to what is beyond.
struct Gate {
    nat: Nat,
    settings: Settings,
    beyond: Option<GateId>,
    up: Link,
    down: Link,
    machines: u8,
    /// How often it has forgotten what goes through it.
    reboots: u32,
}

/// Which gates a machine is behind, and how often each has forgotten everything: what ends connections when it changes.
pub(crate) type Route = Vec<(GateId, u32)>;

/// Where a datagram is after the gates of its sender, or before those of its receiver.
pub(crate) enum Place {
    /// In the core, after so long.
    Core { from: SocketAddr, to: SocketAddr, after: Vec<Duration> },
    /// Before this address inside of a gate, after so long.
    Inside { gate: GateId, from: SocketAddr, to: SocketAddr, after: Vec<Duration> },
    /// Nowhere, for this reason.
    Dropped(&'static str),
}

/// All gates.
pub struct Edges {
    gates: Vec<Gate>,
    behind: BTreeMap<NodeId, GateId>,
    rng: ChaCha8Rng,
    /// Datagrams that ended at gates and on their lines, by reason.
    pub drops: BTreeMap<&'static str, u64>,
}

/// A line that adds nothing to what the core does.
const AT_ONCE: Line = Line { delay: Duration::ZERO, ..Line::GOOD };

impl Edges {
    pub(crate) fn new(seed: u64) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Self { gates: Vec::new(), behind: BTreeMap::new(), rng, drops: BTreeMap::new() }
    }

    /// A new gate of this kind, behind another or at the core.
    pub fn add(&mut self, edge: Edge, beyond: Option<GateId>) -> GateId {
        self.add_with(edge.settings(), beyond)
    }

    /// A new gate that behaves like this.
    pub fn add_with(&mut self, settings: Settings, beyond: Option<GateId>) -> GateId {
        let number = self.gates.len();
        let (high, low) = parts(number);
        let outside = match beyond {
            None => Ipv4Addr::new(203, 0, high, low),
            // RFC 6598: between a home router and a carrier's.
            Some(_) => Ipv4Addr::new(100, 64, high, low),
        };
        let nat = Nat::new(settings, outside, number as u64);
        let (up, down) = (Link::new(AT_ONCE), Link::new(AT_ONCE));
        self.gates.push(Gate { nat, settings, beyond, up, down, machines: 0, reboots: 0 });
        GateId(number)
    }

    /// Another machine behind a gate, and its address there.
    pub(crate) fn settle(&mut self, id: NodeId, gate: GateId) -> SocketAddr {
        self.behind.insert(id, gate);
        let (high, low) = parts(gate.0);
        let gate = &mut self.gates[gate.0];
        gate.machines += 1;
        let ip = match gate.settings.ports {
            Ports::None => Ipv4Addr::new(192, 0, high, low),
            Ports::Preserved | Ports::Random | Ports::Sequential(_) => {
                Ipv4Addr::new(10, 200 + high, low, gate.machines)
            }
        };
        SocketAddr::from((ip, 4000))
    }

    /// Makes both directions of a gate's line like this from then on.
    pub fn set_line(&mut self, gate: GateId, at: Duration, line: Line) {
        self.gates[gate.0].up.change(at, line);
        self.gates[gate.0].down.change(at, line);
    }

    /// Nothing passes a gate's line from then on for so long.
    pub fn outage(&mut self, gate: GateId, from: Duration, time: Duration) {
        self.gates[gate.0].up.outage(from, time);
        self.gates[gate.0].down.outage(from, time);
    }

    /// What comes in over a gate's line is lost from then on for so long.
    pub fn deaf(&mut self, gate: GateId, from: Duration, time: Duration) {
        self.gates[gate.0].down.outage(from, time);
    }

    /// A gate forgets everything. With `moves` it comes back with another address; if it moves again, with the one before.
    pub(crate) fn reboot(&mut self, gate: GateId, moves: bool) {
        self.gates[gate.0].reboots += 1;
        let nat = &mut self.gates[gate.0].nat;
        let [a, b, c, d] = nat.outside().octets();
        nat.reboot(if moves { Ipv4Addr::new(a, b ^ 100, c, d) } else { nat.outside() });
    }

    /// A gate is replaced by one that behaves like this, with the same address.
    pub fn replace(&mut self, gate: GateId, settings: Settings) {
        let gate = &mut self.gates[gate.0];
        gate.nat = Nat::new(settings, gate.nat.outside(), 0);
        gate.settings = settings;
        gate.reboots += 1;
    }

    /// What connections of a machine go through.
    pub(crate) fn route(&self, id: NodeId) -> Route {
        self.gates_of(id).map(|gate| (gate, self.gates[gate.0].reboots)).collect()
    }

    /// The gates of a machine, its own first.
    fn gates_of(&self, id: NodeId) -> impl Iterator<Item = GateId> {
        std::iter::successors(self.gate(id), |gate| self.gates[gate.0].beyond)
    }

    /// How long the lines of both machines hold up so many octets of a stream; nothing if they do not arrive.
    pub(crate) fn stream(&mut self, from: NodeId, to: NodeId, octets: usize, now: Duration) -> Option<Duration> {
        if self.gate(from).is_some() && self.gate(from) == self.gate(to) {
            return Some(Duration::ZERO);
        }
        let (ups, downs) = (self.gates_of(from).collect::<Vec<_>>(), self.gates_of(to).collect::<Vec<_>>());
        let mut at = now;
        for gate in ups {
            at += self.gates[gate.0].up.stream(now, octets, &mut self.rng)?.saturating_sub(now);
        }
        for gate in downs {
            at += self.gates[gate.0].down.stream(now, octets, &mut self.rng)?.saturating_sub(now);
        }
        Some(at.saturating_sub(now))
    }

    /// The gate of a machine.
    pub fn gate(&self, id: NodeId) -> Option<GateId> {
        self.behind.get(&id).copied()
    }

    /// The gate at the core that a machine is behind.
    pub(crate) fn outermost(&self, id: NodeId) -> Option<GateId> {
        self.gates_of(id).last()
    }

    /// Whether a machine is reached by whom it does not know.
    pub fn is_public(&self, id: NodeId) -> bool {
        let mut gate = self.gate(id);
        while let Some(GateId(number)) = gate {
            let it = &self.gates[number];
            if it.settings.ports != Ports::None || it.settings.filtering != Filtering::EndpointIndependent {
                return false;
            }
            gate = it.beyond;
        }
        true
    }

    /// Whether a dial from one machine to another gets there.
    pub(crate) fn admits(&self, from: NodeId, to: NodeId) -> bool {
        self.is_public(to) || (self.gate(to).is_some() && self.gate(from) == self.gate(to))
    }

    /// A datagram leaves a machine.
    pub(crate) fn leave(&mut self, id: NodeId, from: SocketAddr, to: SocketAddr, trip: Trip) -> Place {
        let (Some(mut source), Some(mut target)) = (v4(from), v4(to)) else { return self.drop("not-ipv4") };
        let (mut gate, mut left, mut arrivals) = (self.gate(id), trip.ttl, vec![trip.now]);
        while let Some(number) = gate {
            if self.is_inside(number, *target.ip()) {
                let (from, to) = (SocketAddr::V4(source), SocketAddr::V4(target));
                return Place::Inside { gate: number, from, to, after: since(trip.now, &arrivals) };
            }
            left = left.saturating_sub(1);
            if left == 0 {
                return self.drop("ttl");
            }
            let at = arrivals[0];
            let it = &mut self.gates[number.0];
            match it.nat.outbound(source, target, at) {
                Passage::Through { from, to } => (source, target) = (from, to),
                Passage::Back { from, to } => {
                    let (from, to) = (SocketAddr::V4(from), SocketAddr::V4(to));
                    return Place::Inside { gate: number, from, to, after: since(trip.now, &arrivals) };
                }
                Passage::Dropped(_) => return self.drop("edge-out"),
            }
            match it.up.send(at, trip.octets, &mut self.rng) {
                Fate::Arrives(times) => arrivals = times.iter().collect(),
                Fate::Dropped(_) => return self.drop("line-up"),
            }
            gate = it.beyond;
        }
        if left <= 1 {
            return self.drop("ttl");
        }
        Place::Core { from: SocketAddr::V4(source), to: SocketAddr::V4(target), after: since(trip.now, &arrivals) }
    }

    /// A datagram comes to the outside of a gate.
    pub(crate) fn enter(&mut self, gate: GateId, from: SocketAddr, to: SocketAddr, trip: Trip) -> Place {
        let (Some(source), Some(target)) = (v4(from), v4(to)) else { return self.drop("not-ipv4") };
        let it = &mut self.gates[gate.0];
        let after = match it.down.send(trip.now, trip.octets, &mut self.rng) {
            Fate::Arrives(times) => since(trip.now, &times.iter().collect::<Vec<_>>()),
            Fate::Dropped(_) => return self.drop("line-down"),
        };
        match it.nat.inbound(source, target, trip.now) {
            Passage::Through { from, to } | Passage::Back { from, to } => {
                Place::Inside { gate, from: SocketAddr::V4(from), to: SocketAddr::V4(to), after }
            }
            Passage::Dropped(_) => self.drop("edge-in"),
        }
    }

    /// The gate with this address outside, seen from the core or from inside another gate.
    pub(crate) fn at(&self, beyond: Option<GateId>, to: SocketAddr) -> Option<GateId> {
        let IpAddr::V4(ip) = to.ip() else { return None };
        let has = |(number, gate): &(usize, &Gate)| {
            let (high, low) = parts(*number);
            let own = gate.settings.ports == Ports::None && ip == Ipv4Addr::new(192, 0, high, low);
            gate.beyond == beyond && (own || gate.nat.outside() == ip)
        };
        self.gates.iter().enumerate().find(has).map(|(number, _)| GateId(number))
    }

    /// Whether this is an address of somebody behind this very gate.
    fn is_inside(&self, gate: GateId, ip: Ipv4Addr) -> bool {
        let (high, low) = parts(gate.0);
        let [a, b, c, _] = ip.octets();
        let private = [a, b, c] == [10, 200 + high, low];
        private || self.gates.iter().any(|it| it.beyond == Some(gate) && it.nat.outside() == ip)
    }

    fn drop(&mut self, reason: &'static str) -> Place {
        *self.drops.entry(reason).or_default() += 1;
        Place::Dropped(reason)
    }
}

/// What gates ask of a datagram.
#[derive(Clone, Copy)]
pub(crate) struct Trip {
    pub(crate) ttl: u8,
    pub(crate) octets: usize,
    pub(crate) now: Duration,
}

fn since(now: Duration, times: &[Duration]) -> Vec<Duration> {
    times.iter().map(|time| time.saturating_sub(now)).collect()
}

fn parts(number: usize) -> (u8, u8) {
    (u8::try_from(number / 250).unwrap_or(50), u8::try_from(number % 250 + 1).unwrap_or(u8::MAX))
}

fn v4(addr: SocketAddr) -> Option<SocketAddrV4> {
    match addr {
        SocketAddr::V4(addr) => Some(addr),
        SocketAddr::V6(_) => None,
    }
}
