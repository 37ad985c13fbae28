//! A random life of a namespace: chance decides what is done to it, from one seed.
//!
//! Each step is one transition and then some time. In the end everything is mended, everybody must get an address, and
//! every pair must reach each other with the first packet.

use std::net::Ipv4Addr;
use std::time::Duration;

use engine::{Addressing, Reply};
use ipnet::Ipv4Net;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::actions::Crash;
use crate::disk::Unsynced;
use crate::log::Trace;
use crate::network::Quality;
use crate::node::{Node, NodeId};
use crate::reference::Reference;
use crate::setup::{Clocks, Setup};
use crate::world::{Failure, World};

/// Machines of one life.
const MOST_NODES: usize = 7;
/// Once everything is mended, everybody has an address again within this.
const MENDED: Duration = Duration::from_secs(400);

/// What a life came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The hash of everything that happened.
    pub hash: u64,
    /// How many things happened.
    pub events: u64,
    /// Virtual time.
    pub time: Duration,
    /// Pings that were answered.
    pub answered: u64,
    /// Pings that were lost for a reason.
    pub excused: u64,
}

/// Runs the life of this seed, and says what it came to or what broke; the world is left as it was then.
pub fn run(seed: u64, trace: Trace) -> (World, Result<Report, Failure>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x7363_656e);
    let world = World::new(setup(seed, trace, &mut rng));
    let mut life = Life { world, reference: Reference::default(), rng, stuck_until: Duration::ZERO };
    let result = life.live();
    (life.world, result)
}

fn setup(seed: u64, trace: Trace, rng: &mut ChaCha8Rng) -> Setup {
    // A small range makes them compete for addresses, or at least come near each other.
    let prefix = if rng.random_bool(0.5) { 28 } else { 24 };
    Setup {
        lease: Duration::from_secs(*pick(rng, &[60, 120, 600])),
        range: Ipv4Net::new_assert([10, 70, 0, 0].into(), prefix),
        clocks: if rng.random_bool(0.5) { Clocks::Wild } else { Clocks::Right },
        trace,
        ..Setup::new(seed)
    }
}

struct Life {
    world: World,
    reference: Reference,
    rng: ChaCha8Rng,
    stuck_until: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Transition {
    Join,
    Leave,
    Crash,
    Restart,
    Sleep,
    Wake,
    Isolate,
    CutOneWay,
    Heal,
    Release,
    Renew,
    Ping,
    PingName,
    Transfer,
    Quality,
    Roam,
    Spoof,
    Forge,
    Stick,
    Wait,
}

/// Each as often as it stands here.
const TRANSITIONS: [Transition; 32] = [
    Transition::Join,
    Transition::Join,
    Transition::Join,
    Transition::Leave,
    Transition::Crash,
    Transition::Crash,
    Transition::Restart,
    Transition::Restart,
    Transition::Restart,
    Transition::Sleep,
    Transition::Wake,
    Transition::Wake,
    Transition::Isolate,
    Transition::CutOneWay,
    Transition::Heal,
    Transition::Heal,
    Transition::Release,
    Transition::Renew,
    Transition::Ping,
    Transition::Ping,
    Transition::Ping,
    Transition::Ping,
    Transition::PingName,
    Transition::PingName,
    Transition::Transfer,
    Transition::Quality,
    Transition::Roam,
    Transition::Spoof,
    Transition::Forge,
    Transition::Forge,
    Transition::Stick,
    Transition::Wait,
];

impl Life {
    fn live(&mut self) -> Result<Report, Failure> {
        self.world.run_for(Duration::from_secs(2))?;
        for _ in 0..self.rng.random_range(1..4) {
            self.join();
        }
        self.pass(Duration::from_secs(10))?;
        for _ in 0..self.rng.random_range(20..60) {
            let transition = *pick(&mut self.rng, &TRANSITIONS);
            self.apply(transition)?;
            let pause = match self.rng.random_range(0..10) {
                0..4 => self.rng.random_range(0..500),
                4..8 => self.rng.random_range(500..8000),
                _ => self.rng.random_range(8000..100_000),
            };
            self.pass(Duration::from_millis(pause))?;
        }
        self.mend()?;
        self.meet()?;
        let Reference { answered, excused, .. } = self.reference;
        let world = &self.world;
        Ok(Report { hash: world.log.hash(), events: world.log.events, time: world.now(), answered, excused })
    }

    fn pass(&mut self, time: Duration) -> Result<(), Failure> {
        self.world.run_for(time)?;
        self.reference.judge(&self.world).map_err(|what| self.world.failure(what))
    }

    fn apply(&mut self, transition: Transition) -> Result<(), Failure> {
        match transition {
            Transition::Join => self.join(),
            Transition::Leave => self.leave()?,
            Transition::Crash => self.crash(),
            Transition::Restart => self.restart(),
            Transition::Sleep => self.on_one(Node::is_running, World::sleep),
            Transition::Wake => self.on_one(|node| !node.is_running() && node.process.is_some(), World::wake),
            Transition::Isolate => self.isolate(),
            Transition::CutOneWay => {
                let (a, b) = self.any_pair();
                self.world.cut_one_way(a, b);
                self.disturb();
            }
            Transition::Heal => {
                self.world.heal();
                self.disturb();
            }
            Transition::Release => self.on_client(false),
            Transition::Renew => self.on_client(true),
            Transition::Ping => self.ping(),
            Transition::PingName => self.ping_name(),
            Transition::Transfer => self.transfer(),
            Transition::Quality => {
                let quality = *pick(&mut self.rng, &[Quality::GOOD, Quality::LOSSY]);
                self.world.set_quality(quality);
                self.disturb();
            }
            Transition::Roam => self.on_one(Node::is_running, World::roam),
            Transition::Spoof => self.lie(|world, a, b, source| {
                if let Some(to) = world.address(b) {
                    world.spoof(a, source, to);
                }
            }),
            Transition::Forge => self.lie(|world, a, b, source| {
                world.forge(a, b, source);
            }),
            Transition::Stick => {
                let time = Duration::from_millis(self.rng.random_range(10..120_000));
                self.on_one(Node::is_running, |world, id| world.stick(id, time));
                // Whoever is stuck cannot be asked.
                self.stuck_until = self.stuck_until.max(self.world.now() + time);
                self.disturb();
            }
            Transition::Wait => {}
        }
        Ok(())
    }

    fn disturb(&mut self) {
        let world = &self.world;
        let stuck = world.now() < self.stuck_until;
        let broken = stuck || world.nodes().iter().any(|node| !node.is_running()) || !world.network.is_good();
        self.reference.disturb(world.now(), broken);
    }

    fn join(&mut self) {
        if self.world.nodes().len() < MOST_NODES {
            let addressing = *pick(&mut self.rng, &[Addressing::Own, Addressing::Clients]);
            // Some want the same name.
            let name = *pick(&mut self.rng, &["debian", "debian", "laptop"]);
            self.world.add_named(name, addressing);
        }
    }

    fn leave(&mut self) -> Result<(), Failure> {
        let id = self.world.nodes()[self.rng.random_range(0..self.world.nodes().len())].id;
        if id != NodeId(0) && self.world.node(id).is_running() && self.world.node(id).engine().is_some() {
            let reply = self.world.leave(id)?;
            self.disturb();
            if !matches!(reply, Reply::Left | Reply::Failed(_)) && self.world.now() >= self.stuck_until {
                return Err(self.world.failure(format!("{id} left with {reply:?}")));
            }
        }
        Ok(())
    }

    fn crash(&mut self) {
        let how = *pick(&mut self.rng, &[Crash::Process, Crash::Machine]);
        let unsynced = *pick(&mut self.rng, &[Unsynced::Kept, Unsynced::Lost]);
        self.on_one(Node::is_running, |world, id| world.crash(id, how, unsynced));
    }

    fn restart(&mut self) {
        self.on_one(|node| node.process.is_none(), World::start);
    }

    fn isolate(&mut self) {
        let all: Vec<NodeId> = self.world.nodes().iter().map(|node| node.id).collect();
        let inside: Vec<NodeId> = all.into_iter().filter(|_| self.rng.random_bool(0.4)).collect();
        self.world.isolate(&inside);
        self.disturb();
    }

    fn on_one(&mut self, which: impl Fn(&Node) -> bool, act: impl FnOnce(&mut World, NodeId)) {
        let candidates: Vec<NodeId> =
            self.world.nodes().iter().filter(|node| which(node)).map(|node| node.id).collect();
        if !candidates.is_empty() {
            let id = *pick(&mut self.rng, &candidates);
            act(&mut self.world, id);
            self.disturb();
        }
    }

    fn on_client(&mut self, wanted: bool) {
        let is_client = |node: &Node| node.identity.addressing == Addressing::Clients && node.is_running();
        let candidates: Vec<NodeId> =
            self.world.nodes().iter().filter(|node| is_client(node)).map(|node| node.id).collect();
        if !candidates.is_empty() {
            let id = *pick(&mut self.rng, &candidates);
            self.world.want_lease(id, wanted);
        }
    }

    fn transfer(&mut self) {
        let bytes = self.rng.random_range(1..40_000);
        if let Some((a, b)) = self.pair()
            && let Some(to) = self.world.address(b)
        {
            self.world.transfer(a, to, bytes);
        }
    }

    /// Has somebody send from an address that is not its own.
    fn lie(&mut self, act: impl FnOnce(&mut World, NodeId, NodeId, Ipv4Addr)) {
        let source = self.some_address();
        if let Some((a, b)) = self.pair().filter(|(a, _)| self.world.address(*a) != Some(source)) {
            act(&mut self.world, a, b, source);
        }
    }

    fn ping(&mut self) {
        if let Some((a, b)) = self.pair() {
            self.ping_pair(a, b);
        }
    }

    fn ping_pair(&mut self, a: NodeId, b: NodeId) {
        if let Some(to) = self.world.address(b).filter(|_| self.world.address(a).is_some() && a != b) {
            self.reference.ping(&mut self.world, a, to);
        }
    }

    fn ping_name(&mut self) {
        let Some((a, b)) = self.pair() else { return };
        if let Some(name) = self.world.node(b).hostname(self.world.now()).filter(|_| self.world.address(a).is_some()) {
            self.world.ping_name(a, &name);
        }
    }

    /// Two machines, the first of which is awake and so can do something.
    fn pair(&mut self) -> Option<(NodeId, NodeId)> {
        let (a, b) = self.any_pair();
        self.world.node(a).is_running().then_some((a, b))
    }

    fn any_pair(&mut self) -> (NodeId, NodeId) {
        let count = self.world.nodes().len();
        let one = self.rng.random_range(0..count);
        let other = (one + self.rng.random_range(1..count.max(2))) % count;
        (self.world.nodes()[one].id, self.world.nodes()[other].id)
    }

    fn some_address(&mut self) -> Ipv4Addr {
        let known: Vec<Ipv4Addr> = self.world.nodes().iter().filter_map(|node| node.guest.address()).collect();
        if known.is_empty() || self.rng.random_bool(0.3) {
            return Ipv4Addr::new(10, 70, 0, self.rng.random_range(1..15));
        }
        *pick(&mut self.rng, &known)
    }

    /// Repairs everything, and waits until everybody has an address.
    fn mend(&mut self) -> Result<(), Failure> {
        self.pass(self.stuck_until.saturating_sub(self.world.now()))?;
        self.world.heal();
        self.world.set_quality(Quality::GOOD);
        for id in self.world.nodes().iter().map(|node| node.id).collect::<Vec<_>>() {
            self.world.wake(id);
            if self.world.node(id).process.is_none() {
                self.world.start(id);
            }
            if self.world.node(id).identity.addressing == Addressing::Clients && self.world.address(id).is_none() {
                self.world.want_lease(id, true);
            }
        }
        self.disturb();
        self.world.run_until("everybody has an address once everything is mended", MENDED, |world| {
            world.nodes().iter().all(|node| node.guest.address().is_some())
        })?;
        Ok(())
    }

    /// After a while every pair pings; everything is calm, so every first packet must arrive.
    fn meet(&mut self) -> Result<(), Failure> {
        self.pass(Duration::from_secs(700))?;
        self.world.forget_transfers();
        let all: Vec<NodeId> = self.world.nodes().iter().map(|node| node.id).collect();
        for a in &all {
            for b in &all {
                self.ping_pair(*a, *b);
                // smoltcp asks ARP once a second.
                self.pass(Duration::from_millis(2500))?;
            }
        }
        self.pass(Duration::from_secs(15))
    }
}

fn pick<'t, T>(rng: &mut ChaCha8Rng, from: &'t [T]) -> &'t T {
    &from[rng.random_range(0..from.len())]
}
