//! One machine: its disk and clocks, which survive; the process, which may crash; and the guest behind its TAP.
//!
//! A process is the overlay's state machine behind its driver, the [`Engine`] once the namespace is known, and the
//! fast path on the engine's snapshot: what a TAP or socket brings goes there first, as in the daemon's packet threads.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bridge::Offload;
use dht::clock::{LeaseClocks, OwnerTime};
use dht::identity::SecretKey;
use dht::{ClaimError, Lease, LeaseKey, Namespace, Now};
use engine::{Addressing, Engine, Hostname, Mode, Reply, Request, RequestId, Snapshot};
use libp2p_identity::PeerId;
use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;
use tunnel::NextHop;
use zeroize::Zeroizing;

use crate::clock::MachineClock;
use crate::disk::Disk;
use crate::driver::{Driver, Moment, Wish};
use crate::guest::Guest;
use crate::lie::Lie;
use crate::probe::Seen;

/// The least time between two calls because of a timer, as the daemon's threads sleep.
const TICK: Duration = Duration::from_millis(1);
/// The longest sleep of the daemon's threads.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// A machine that slept for longer erases its session keys.
const MAX_JUMP: Duration = Duration::from_secs(5);

/// Claims with this number and beyond were made by the world, not by the engine.
pub(crate) const FIRST_CLAIM: u64 = 1 << 60;

/// A machine's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl NodeId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// What a node does that the world has to carry out or look at.
#[derive(Debug)]
pub(crate) enum Effect {
    Datagram { to: SocketAddr, bytes: Vec<u8>, ttl: Option<u8> },
    Overlay(Wish),
    Synced(Duration),
    Seen(Observation),
}

/// What the world looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// The join was not possible.
    JoinFailed(String),
    /// It is a member, and has an engine.
    Started,
    /// The engine's state changed.
    State(String),
    /// The engine has an address for its machine.
    Bound(Ipv4Addr),
    /// It has it no more.
    Lost(Ipv4Addr, &'static str),
    /// The machine has a name.
    Named(String),
    /// The overlay granted or renewed a lease.
    Granted {
        /// Of what.
        key: LeaseKey,
        /// Its end, on the owner's clock.
        until: OwnerTime,
    },
    /// The addresses that are forwarded changed.
    Forwarding,
    /// A frame left the guest for another node, from this address.
    Left(Ipv4Addr),
    /// A ping reached the guest from the tunnel.
    Arrived(Seen),
    /// The fast path dropped something.
    Dropped(&'static str),
}

/// What does not change over a machine's life.
pub(crate) struct Identity {
    pub(crate) key: SecretKey,
    pub(crate) data: Zeroizing<[u8; 32]>,
    pub(crate) authority: Option<SecretKey>,
    /// For its first start.
    pub(crate) token: Option<String>,
    pub(crate) namespace: String,
    pub(crate) hostname: String,
    pub(crate) addressing: Addressing,
    pub(crate) mode: Mode,
}

/// One machine.
pub struct Node {
    /// Its number.
    pub id: NodeId,
    pub(crate) identity: Identity,
    /// The name of its identity.
    pub peer: PeerId,
    /// Where its data socket is.
    pub underlay: SocketAddr,
    pub(crate) disk: Disk,
    pub(crate) clock: MachineClock,
    pub(crate) process: Option<Process>,
    /// How many processes it has had.
    pub(crate) processes: u64,
    /// The machine behind its TAP.
    pub guest: Guest,
    /// Other machines on its segment, where it is a router.
    pub neighbours: Vec<Guest>,
    /// Frames of its segment that came to its TAP.
    pub heard: u64,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) effects: Vec<Effect>,
    /// Drops of the packet threads, by reason, over all processes.
    pub drops: BTreeMap<&'static str, u64>,
    last_call: Duration,
    /// Its overlay thread does nothing before: a slow disk, or the machine's other work.
    pub(crate) stuck_until: Duration,
    /// Whether it lies about what it carries.
    pub(crate) lie: Option<Lie>,
    /// What it has lied about, in datagrams.
    pub lied: u64,
}

/// What a crash takes.
pub(crate) struct Process {
    pub(crate) clocks: LeaseClocks,
    pub(crate) driver: Driver,
    pub(crate) engine: Option<Engine>,
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    pub(crate) replies: BTreeMap<u64, Reply>,
    pub(crate) claims: BTreeMap<u64, Result<Lease, ClaimError>>,
    pub(crate) last: Option<Now>,
}

impl Node {
    pub(crate) fn new(
        id: NodeId,
        identity: Identity,
        disk: Disk,
        clock: MachineClock,
        guest: Guest,
        rng: ChaCha8Rng,
    ) -> Self {
        let (high, low) =
            (u8::try_from(id.0 / 250).unwrap_or(u8::MAX), u8::try_from(id.0 % 250 + 1).unwrap_or(u8::MAX));
        Self {
            id,
            peer: identity.key.peer_id(),
            identity,
            underlay: SocketAddr::from(([198, 51, high.saturating_add(100), low], 4000)),
            disk,
            clock,
            process: None,
            processes: 0,
            guest,
            neighbours: Vec::new(),
            heard: 0,
            rng,
            effects: Vec::new(),
            drops: BTreeMap::new(),
            last_call: Duration::ZERO,
            stuck_until: Duration::ZERO,
            lie: None,
            lied: 0,
        }
    }

    /// Whether its process runs and its machine is awake.
    pub fn is_running(&self) -> bool {
        self.process.is_some() && !self.clock.is_asleep()
    }

    /// The engine, once the process runs and the namespace is known.
    pub fn engine(&self) -> Option<&Engine> {
        self.process.as_ref()?.engine.as_ref()
    }

    /// The namespace, once joined.
    pub fn namespace(&self) -> Option<&Namespace> {
        self.process.as_ref()?.driver.machine.namespace()
    }

    /// Whether it and that peer have let each other into the overlay.
    pub fn is_connected(&self, peer: PeerId) -> bool {
        self.process.as_ref().is_some_and(|process| process.driver.is_connected(peer))
    }

    /// How much waits in queues of its overlay driver.
    pub fn backlog(&self) -> usize {
        self.process.as_ref().map_or(0, |process| process.driver.backlog() + process.driver.links.len())
    }

    /// What its process would read from the clocks, without touching them.
    pub fn glance(&self, at: Duration) -> Option<Now> {
        let mut clocks = self.process.as_ref()?.clocks.clone();
        Some(self.clock.now(&mut clocks, at))
    }

    /// The lease of this key, if its process may use one at this moment.
    pub fn lease(&self, key: &LeaseKey, at: Duration) -> Option<Lease> {
        let now = self.glance(at)?;
        self.namespace()?.lease(key, now)
    }

    /// Whether its packet threads would forward from this address at this moment.
    pub fn forwards_from(&self, ip: Ipv4Addr, at: Duration) -> bool {
        let snapshot = self.process.as_ref().and_then(|process| process.snapshot.as_ref());
        let usable = |snapshot: &Arc<Snapshot>| {
            snapshot.local.host(ip).is_some() && self.glance(at).is_some_and(|now| snapshot.is_usable(&now))
        };
        self.is_running() && snapshot.is_some_and(usable)
    }

    /// The addresses that its engine has in use.
    pub fn addresses(&self, at: Duration) -> Vec<Ipv4Addr> {
        let Some((engine, now)) = self.engine().zip(self.glance(at)) else { return Vec::new() };
        engine.status(now).hosts.iter().map(|host| host.ip).collect()
    }

    /// Its host name, if it has one.
    pub fn hostname(&self, at: Duration) -> Option<String> {
        let (engine, now) = self.engine().zip(self.glance(at))?;
        let status = engine.status(now);
        status.hostname.or_else(|| status.hosts.into_iter().find_map(|host| host.hostname))
    }

    /// Everything that it dropped and counted.
    pub fn all_drops(&self, at: Duration) -> BTreeMap<String, u64> {
        let engine = self.engine().zip(self.glance(at)).map(|(engine, now)| engine.status(now).drops);
        let mut all = engine.unwrap_or_default();
        all.extend(self.drops.iter().map(|(reason, count)| (format!("node.{reason}"), *count)));
        all
    }

    /// The answer to a request, if it is there.
    pub fn reply(&self, id: u64) -> Option<&Reply> {
        self.process.as_ref()?.replies.get(&id)
    }

    pub(crate) fn moment(&mut self, at: Duration) -> Option<Moment> {
        let seed = self.seed();
        let process = self.process.as_mut()?;
        let now = self.clock.now(&mut process.clocks, at);
        let slept = process.last.is_some_and(|last| {
            let awake = now.mono.saturating_duration_since(last.mono);
            now.owner.0.saturating_sub(last.owner.0).saturating_sub(awake) > MAX_JUMP
        });
        process.last = Some(now);
        if slept && let Some(engine) = &mut process.engine {
            engine.begin_anew(seed, now);
        }
        Some(Moment { at, now })
    }

    pub(crate) fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        seed
    }

    pub(crate) fn count(&mut self, reason: &'static str) {
        *self.drops.entry(reason).or_default() += 1;
        self.effects.push(Effect::Seen(Observation::Dropped(reason)));
    }

    /// Sends a request to the engine, as the command line does.
    pub(crate) fn request(&mut self, id: u64, request: Request, at: Duration) {
        let Some(Moment { now, .. }) = self.moment(at) else { return };
        if let Some(engine) = self.process.as_mut().and_then(|process| process.engine.as_mut()) {
            engine.handle_request(RequestId(id), request, now);
        }
        self.pump(at);
    }

    /// When it wants to be called next.
    pub(crate) fn next_call(&mut self, at: Duration) -> Duration {
        let guest = if self.clock.is_asleep() { None } else { self.guest.poll_timeout(at) };
        let neighbours = self.neighbours.iter_mut().filter_map(|guest| guest.poll_timeout(at)).min();
        let mut next = guest.into_iter().chain(neighbours).min().unwrap_or(Duration::MAX);
        if self.is_running()
            && let Some(now) = self.glance(at)
            && let Some(process) = &self.process
        {
            let (overlay, care) =
                if at < self.stuck_until { (None, self.stuck_until) } else { process.driver.poll_timeout() };
            let engine = process.engine.as_ref().and_then(|engine| engine.poll_timeout(now)).map(|(at, _)| at);
            let deadlines = [overlay, engine].into_iter().flatten().map(|instant| self.clock.true_time(instant));
            next = deadlines.fold(next.min(care).min(self.last_call + LONGEST_SLEEP), Duration::min);
        }
        next.max(self.last_call + TICK)
    }

    /// Why it wants to be called, for people.
    pub(crate) fn reasons(&self, at: Duration) -> Vec<&'static str> {
        let Some((now, process)) = self.glance(at).zip(self.process.as_ref()) else { return Vec::new() };
        let engine = process.engine.as_ref().and_then(|engine| engine.poll_timeout(now));
        let both = [process.driver.machine.poll_timeout(), engine];
        both.into_iter().flatten().filter(|(due, _)| *due <= now.mono).map(|(_, why)| why).collect()
    }

    /// Time has passed.
    pub(crate) fn call(&mut self, at: Duration) {
        self.last_call = at;
        if self.clock.is_asleep() {
            return;
        }
        if let Some(moment) = self.moment(at)
            && let Some(process) = &mut self.process
        {
            if at >= self.stuck_until {
                process.driver.handle_timeout(moment);
            }
            if let Some(engine) = &mut process.engine
                && engine.poll_timeout(moment.now).is_some_and(|(at, _)| at <= moment.now.mono)
            {
                engine.handle_timeout(moment.now);
            }
        }
        self.pump(at);
    }

    /// Lets everything inside it act upon each other until nothing wants anything.
    pub(crate) fn pump(&mut self, at: Duration) {
        for _ in 0..10_000 {
            let mut idle = !self.pump_driver(at);
            idle &= !self.pump_engine(at);
            idle &= !self.pump_guest(at);
            if idle {
                return;
            }
        }
        panic!("{} does not come to rest at {at:?}", self.id);
    }

    fn pump_driver(&mut self, at: Duration) -> bool {
        let Some(moment) = self.moment(at) else { return false };
        let Some(process) = &mut self.process else { return false };
        if at < self.stuck_until {
            return false;
        }
        process.driver.turn(&mut self.disk, moment);
        let mut any = false;
        while let Some(wish) = self.process.as_mut().and_then(|process| process.driver.poll_wish()) {
            any = true;
            match wish {
                Wish::Sync => {
                    let latency = Duration::from_micros(self.rng.random_range(100..4000));
                    self.effects.push(Effect::Synced(latency));
                }
                Wish::Tell(event) => {
                    self.observe_event(&event);
                    if self.take_claim(&event) {
                        continue;
                    }
                    if let Some(engine) = self.process.as_mut().and_then(|process| process.engine.as_mut()) {
                        engine.handle_overlay(event, moment.now);
                    }
                }
                Wish::Joined => self.become_member(moment),
                Wish::JoinFailed(why) => self.effects.push(Effect::Seen(Observation::JoinFailed(why))),
                wish @ (Wish::Dial { .. } | Wish::DialBack { .. } | Wish::Carry { .. } | Wish::Close { .. }) => {
                    self.effects.push(Effect::Overlay(wish));
                }
            }
        }
        any
    }

    fn take_claim(&mut self, event: &dht::Event) -> bool {
        let dht::Event::Claimed { id, outcome } = event else { return false };
        if let Some(process) = self.process.as_mut().filter(|_| id.0 >= FIRST_CLAIM) {
            process.claims.insert(id.0, outcome.clone());
        }
        id.0 >= FIRST_CLAIM
    }

    fn observe_event(&mut self, event: &dht::Event) {
        if let dht::Event::Claimed { outcome: Ok(lease), .. } | dht::Event::LeaseChanged { lease } = event {
            let granted = Observation::Granted { key: lease.key.clone(), until: lease.usable_until };
            self.effects.push(Effect::Seen(granted));
        }
    }

    fn pump_engine(&mut self, at: Duration) -> bool {
        let Some(process) = &mut self.process else { return false };
        let Some(engine) = &mut process.engine else { return false };
        let mut any = false;
        // The snapshot goes first: a session may be used once its first datagram left.
        let snapshot = engine.snapshot();
        if !process.snapshot.as_ref().is_some_and(|old| Arc::ptr_eq(old, &snapshot)) {
            process.snapshot = Some(snapshot);
            self.effects.push(Effect::Seen(Observation::Forwarding));
        }
        while let Some(output) = self.process.as_mut().and_then(|process| process.engine.as_mut()?.poll_output()) {
            any = true;
            match output {
                engine::Output::Frame { frame, offload } => self.write(frame, offload),
                // The engine is told of no connection, and so it sends in none.
                engine::Output::Transmit { to: NextHop::Stream(_), .. } => {}
                engine::Output::Transmit { to: NextHop::Udp(to), datagram, ttl } => {
                    self.effects.push(Effect::Datagram { to, bytes: datagram, ttl });
                }
                engine::Output::Command(command) => {
                    if let Some(process) = &mut self.process {
                        process.driver.take(crate::driver::Input::Command(command));
                    }
                }
                engine::Output::Event(event) => self.engine_event(event, at),
            }
        }
        any
    }

    fn engine_event(&mut self, event: engine::Event, at: Duration) {
        let seen = match event {
            engine::Event::AddressBound { ip, prefix_len } => {
                if let Some(service) = self.namespace().map(|namespace| namespace.summary().service) {
                    self.guest.set_address(ip, prefix_len, service);
                }
                Observation::Bound(ip)
            }
            engine::Event::AddressLost { ip, why } => {
                self.guest.clear_address();
                Observation::Lost(ip, why)
            }
            engine::Event::NameBound { name } => Observation::Named(name),
            engine::Event::NameRefused { why } => Observation::State(why),
            engine::Event::TurnedAway { ip, why, .. } => Observation::State(format!("{ip} is not given: {why}")),
            engine::Event::StateChanged { state, cause } => Observation::State(format!("{state} {cause}")),
            engine::Event::Forward { id, .. } => {
                // There are no other resolvers in this world.
                if let Some(Moment { now, .. }) = self.moment(at)
                    && let Some(engine) = self.process.as_mut().and_then(|process| process.engine.as_mut())
                {
                    engine.handle_forwarded(id, None, now);
                }
                return;
            }
            engine::Event::Reply { id, reply } => {
                if let Some(process) = &mut self.process {
                    process.replies.insert(id.0, reply);
                }
                return;
            }
        };
        self.effects.push(Effect::Seen(seen));
    }

    /// Writes a frame to the TAP, doing what a kernel would do to it.
    pub(crate) fn write(&mut self, mut frame: Vec<u8>, offload: Offload) {
        if offload.needs_checksum() && bridge::complete_checksum(&mut frame, offload).is_err() {
            return self.count("guest-refused-checksum");
        }
        if let Some(seen) = crate::probe::in_frame(&frame) {
            self.effects.push(Effect::Seen(Observation::Arrived(seen)));
        }
        for guest in &mut self.neighbours {
            guest.receive(frame.clone());
        }
        self.guest.receive(frame);
    }

    fn pump_guest(&mut self, at: Duration) -> bool {
        self.guest.poll(at);
        let mut any = self.pump_segment(at);
        while let Some(frame) = self.guest.poll_frame() {
            any = true;
            for guest in &mut self.neighbours {
                guest.receive(frame.clone());
            }
            self.hear(&frame, at);
        }
        any
    }

    /// What the machines of a segment send, its bridge brings to the others; to the TAP only what is for everybody or for nobody
    /// of them, as the real one is told to.
    fn pump_segment(&mut self, at: Duration) -> bool {
        let mut frames = Vec::new();
        for (from, guest) in self.neighbours.iter_mut().enumerate() {
            guest.poll(at);
            frames.extend(std::iter::from_fn(|| guest.poll_frame()).map(|frame| (from, frame)));
        }
        let any = !frames.is_empty();
        for (from, frame) in frames {
            for (_, other) in self.neighbours.iter_mut().enumerate().filter(|(other, _)| *other != from) {
                other.receive(frame.clone());
            }
            self.guest.receive(frame.clone());
            self.hear(&frame, at);
        }
        any
    }

    fn hear(&mut self, frame: &[u8], at: Duration) {
        let is_of = |guest: &Guest| frame.starts_with(&guest.mac());
        if self.neighbours.is_empty() || !(is_of(&self.guest) || self.neighbours.iter().any(is_of)) {
            self.heard += 1;
            self.handle_frame(frame, at);
        }
    }

    pub(crate) fn process_snapshot(&self) -> Option<Arc<Snapshot>> {
        self.process.as_ref()?.snapshot.clone()
    }

    /// The hostname its engine asks for.
    pub(crate) fn wanted_name(&self) -> Hostname {
        Hostname::Default(self.identity.hostname.clone())
    }
}
