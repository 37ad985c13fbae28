//! All machines, everything under way between them, and time, which jumps from one event to the next.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::edges::{Edges, GateId, Place, Trip};
use crate::invariants::Watch;
use crate::log::{Log, Trace};
use crate::network::{Fate, Network};
use crate::node::{Effect, Node, NodeId, Observation};
use crate::overlay::Connections;
use crate::setup::{Founded, Setup};

/// How often everything is looked at, whatever happens.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The time to live of what is meant to arrive.
const PLENTY: u8 = 64;
/// Octets of IPv4's and UDP's headers.
const HEADERS: usize = 28;

/// What is under way.
#[derive(Debug)]
pub(crate) enum What {
    Datagram {
        sender: NodeId,
        /// Where it is: in the core, or inside a gate.
        inside: Option<GateId>,
        from: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    /// For the overlay driver of one process.
    Overlay(crate::overlay::Arrival),
    /// A dial reaches its target.
    Connect(crate::overlay::Attempt),
    /// Both ends of a connection would have noticed by this time that it is dead.
    KeepAlive(crate::links::ConnectionId),
    Synced {
        node: NodeId,
        process: u64,
    },
    Look,
}

/// Something that must not be: a broken invariant, or something awaited that did not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The world's seed.
    pub seed: u64,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {}", self.seed, self.what)
    }
}

impl std::error::Error for Failure {}

/// A whole virtual network in virtual time.
pub struct World {
    pub(crate) setup: Setup,
    pub(crate) founded: Founded,
    pub(crate) origin: Instant,
    now: Duration,
    queue: BTreeMap<(Duration, u64), What>,
    serial: u64,
    pub(crate) wakes: Vec<Duration>,
    /// What lies between the machines.
    pub network: Network,
    /// What stands before the machines.
    pub edges: Edges,
    pub(crate) nodes: Vec<Node>,
    pub(crate) connections: Connections,
    /// The invariants.
    pub watch: Watch,
    /// What happened.
    pub log: Log,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) requests: u64,
    /// Datagrams that came to a machine that was down or asleep, or to nobody.
    pub unheard: u64,
}

impl World {
    /// A namespace with its creator, which is node 0 and runs.
    pub fn new(setup: Setup) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(setup.seed);
        let founded = Founded::new(&setup);
        let mut world = Self {
            network: Network::new(setup.quality, setup.seed ^ 0x006e_6574),
            edges: Edges::new(setup.seed ^ 0x6564_6765),
            log: Log::new(setup.trace),
            setup,
            founded,
            origin: crate::clock::origin(),
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            serial: 0,
            wakes: Vec::new(),
            nodes: Vec::new(),
            connections: Connections::default(),
            watch: Watch::default(),
            rng,
            requests: 0,
            unheard: 0,
        };
        world.schedule(LOOK_EVERY, What::Look);
        world.add_creator();
        world
    }

    /// True time since the beginning.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// The seed that everything follows from.
    pub fn seed(&self) -> u64 {
        self.setup.seed
    }

    /// A machine.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// All machines.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The virtual address of a machine's guest.
    pub fn address(&self, id: NodeId) -> Option<Ipv4Addr> {
        self.node(id).guest.address()
    }

    /// Runs for so long.
    pub fn run_for(&mut self, time: Duration) -> Result<(), Failure> {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
        self.verdict()
    }

    /// Runs until something holds, and says how long that took. `what` names it in case it does not within `limit`.
    pub fn run_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut holds: impl FnMut(&Self) -> bool,
    ) -> Result<Duration, Failure> {
        let start = self.now;
        while !holds(self) {
            if !self.step(start + limit) {
                self.now = start + limit;
                self.verdict()?;
                return Err(self.failure(format!("not within {limit:?}: {what}")));
            }
            self.verdict()?;
        }
        Ok(self.now - start)
    }

    pub(crate) fn failure(&self, what: String) -> Failure {
        Failure { seed: self.setup.seed, what }
    }

    fn verdict(&self) -> Result<(), Failure> {
        match self.watch.violations().first() {
            None => Ok(()),
            Some(violation) => Err(self.failure(violation.clone())),
        }
    }

    /// Lets the next thing happen, unless that is later than `end`.
    fn step(&mut self, end: Duration) -> bool {
        let queued = self.queue.keys().next().copied();
        let woken = self.wakes.iter().enumerate().map(|(n, at)| (*at, n)).min();
        let at = [queued.map(|(at, _)| at), woken.map(|(at, _)| at)].into_iter().flatten().min();
        let Some(at) = at.filter(|at| *at <= end) else { return false };
        self.now = self.now.max(at);
        match queued.filter(|(due, _)| *due == at) {
            Some(key) => {
                if let Some(what) = self.queue.remove(&key) {
                    self.happen(what);
                }
            }
            None => {
                if let Some((_, n)) = woken {
                    let id = self.nodes[n].id;
                    let reasons = || format!("{:?}", self.nodes[n].reasons(self.now));
                    self.log.note(self.now, id, "timer", &[], reasons);
                    self.with(id, |node, at| node.call(at));
                }
            }
        }
        true
    }

    pub(crate) fn schedule(&mut self, after: Duration, what: What) {
        self.serial += 1;
        self.queue.insert((self.now + after, self.serial), what);
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Datagram { sender, inside, from, to, bytes } => self.arrive(sender, inside, (from, to), bytes),
            What::Overlay(arrival) => self.overlay_arrival(arrival),
            What::Connect(attempt) => self.overlay_connect(attempt),
            What::KeepAlive(id) => self.overlay_keep_alive(id),
            What::Synced { node, process } => {
                let current = &self.nodes[node.index()];
                if let Some(wait) = current.stuck_until.checked_sub(self.now).filter(|wait| !wait.is_zero()) {
                    return self.schedule(wait, What::Synced { node, process });
                }
                if current.process.is_some() && current.processes == process {
                    self.log.note(self.now, node, "synced", &[], String::new);
                    self.with(node, |node, at| node.handle_synced(at));
                }
            }
            What::Look => {
                self.watch.check_all(&self.nodes, self.now);
                self.schedule(LOOK_EVERY, What::Look);
            }
        }
    }

    fn arrive(&mut self, sender: NodeId, inside: Option<GateId>, (from, to): (SocketAddr, SocketAddr), bytes: Vec<u8>) {
        if let Some(gate) = self.edges.at(inside, to) {
            let trip = Trip { ttl: PLENTY, octets: bytes.len() + HEADERS, now: self.now };
            let place = self.edges.enter(gate, from, to, trip);
            return self.proceed(sender, place, Duration::ZERO, &bytes);
        }
        let is_there = |node: &&Node| node.underlay == to && self.edges.gate(node.id) == inside && node.is_running();
        let Some(target) = self.nodes.iter().find(is_there) else {
            self.unheard += 1;
            return;
        };
        let id = target.id;
        if self.network.is_cut(sender, id) {
            self.network.met_a_cut += 1;
            return;
        }
        self.log.note(self.now, id, "datagram", &bytes, || format!("from {from}: {} bytes", bytes.len()));
        self.with(id, |node, at| node.handle_datagram(from, bytes, at));
    }

    /// Does something with a node, then carries out what it wants.
    pub(crate) fn with<R>(&mut self, id: NodeId, act: impl FnOnce(&mut Node, Duration) -> R) -> R {
        let result = act(&mut self.nodes[id.index()], self.now);
        loop {
            let effects = std::mem::take(&mut self.nodes[id.index()].effects);
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                self.carry_out(id, effect);
            }
        }
        self.wakes[id.index()] = self.nodes[id.index()].next_call(self.now);
        result
    }

    fn carry_out(&mut self, id: NodeId, effect: Effect) {
        match effect {
            Effect::Datagram { to, bytes, ttl } => self.send_datagram(id, to, &bytes, ttl.unwrap_or(PLENTY)),
            Effect::Overlay(wish) => self.overlay_wish(id, wish),
            Effect::Synced(latency) => {
                let process = self.nodes[id.index()].processes;
                self.schedule(latency, What::Synced { node: id, process });
            }
            Effect::Seen(seen) => self.observe(id, &seen),
        }
    }

    fn send_datagram(&mut self, id: NodeId, to: SocketAddr, bytes: &[u8], ttl: u8) {
        let node = &mut self.nodes[id.index()];
        let from = node.underlay;
        if node.refuse_big(to, bytes, self.now) {
            return node.pump(self.now);
        }
        let late = node.delay_of(bytes);
        let place = self.edges.leave(id, from, to, Trip { ttl, octets: bytes.len() + HEADERS, now: self.now });
        self.proceed(id, place, late, bytes);
    }

    /// Takes a datagram on from a gate, so much later than it should be.
    fn proceed(&mut self, sender: NodeId, place: Place, late: Duration, bytes: &[u8]) {
        let (inside, from, to, after) = match place {
            Place::Dropped(reason) => return self.log.note(self.now, sender, "edge", &[], || reason.into()),
            Place::Inside { gate, from, to, after } => (Some(gate), from, to, after),
            Place::Core { from, to, after } => (None, from, to, after),
        };
        let delays = if inside.is_some() { vec![Duration::ZERO] } else { self.cross(sender, to) };
        for after in &after {
            for delay in &delays {
                let bytes = bytes.to_vec();
                self.schedule(late + *after + *delay, What::Datagram { sender, inside, from, to, bytes });
            }
        }
    }

    /// How long a datagram takes over the core; nothing if it does not arrive.
    fn cross(&mut self, sender: NodeId, to: SocketAddr) -> Vec<Duration> {
        let gate = self.edges.at(None, to);
        let is_target = |node: &&Node| match gate {
            None => node.underlay == to && self.edges.gate(node.id).is_none(),
            Some(_) => self.edges.outermost(node.id) == gate,
        };
        let Some(target) = self.nodes.iter().find(is_target).map(|node| node.id) else {
            self.unheard += 1;
            return Vec::new();
        };
        match self.network.datagram(sender, target, self.now) {
            Fate::Cut | Fate::Lost => {
                self.log.note(self.now, sender, "lost", &[], || format!("to {target}"));
                Vec::new()
            }
            Fate::Arrives(delays) => delays,
        }
    }

    fn observe(&mut self, id: NodeId, seen: &Observation) {
        let text = format!("{seen:?}");
        self.log.note(self.now, id, "seen", text.as_bytes(), || text.clone());
        self.watch.observe(id, seen, &self.nodes, self.now);
    }

    /// Drops of all kinds, everywhere: whoever misses a packet finds it here.
    pub fn all_losses(&self) -> u64 {
        let counted: u64 = self.nodes.iter().flat_map(|node| node.all_drops(self.now).into_values()).sum();
        let unresolved: u64 = self.nodes.iter().map(|node| node.guest.unresolved).sum();
        counted + unresolved + self.network.lost + self.network.met_a_cut + self.unheard
    }

    /// Prints the lines of a traced run.
    pub fn lines(&self) -> &[String] {
        self.log.lines()
    }

    /// Whether lines are kept.
    pub fn trace(&self) -> Trace {
        self.setup.trace
    }
}
