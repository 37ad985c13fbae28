//! All machines, and what happens to them in the order of true time.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use dht::create::{CreateRequest, found};
use dht::identity::SecretKey;
use dht::join::JoinerEvent;
use dht::token::{Contact, ContactAddress, Token};
use dht::{ClientId, Command, CommandId, Event, Keys, Lease, LeaseKey, Namespace, Output, Role, Rules};
use libp2p_identity::PeerId;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::history::History;
use super::links::Links;
use super::machine::{Input, Machine, Process};
use super::wire::Postman;
use crate::clock::{EPOCH, MachineClock, Rates};
use crate::disk::{Disk, Unsynced};

/// The name of the namespace.
const NAMESPACE: &str = "lab";

/// What was wrong, and when.
#[derive(Clone, Debug)]
pub struct Failure {
    /// In true time.
    pub at: Duration,
    /// For people.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:?}: {}", self.at, self.what)
    }
}

/// Something that happens.
pub(super) enum What {
    Input { node: usize, life: u64, input: Input },
    Wake { node: usize },
    Synced { node: usize, life: u64 },
    HandshakeOver { node: usize, peer: usize, number: u64 },
}

/// What is counted.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Grants that were new.
    pub grants: u64,
    /// Grants that went on with a lease.
    pub renewals: u64,
    /// Claims that came to nothing.
    pub refusals: u64,
    /// Leases that were given back.
    pub releases: u64,
    /// Leases whose owner stopped using them unasked.
    pub losses: u64,
    /// How often a machine began to use a key.
    pub ownerships: u64,
    /// Questions that were answered by a quorum.
    pub reads: u64,
    /// Messages that arrived.
    pub messages: u64,
}

impl Counts {
    /// Adds those of another life.
    pub fn add(&mut self, other: &Self) {
        self.grants += other.grants;
        self.renewals += other.renewals;
        self.refusals += other.refusals;
        self.releases += other.releases;
        self.losses += other.losses;
        self.ownerships += other.ownerships;
        self.reads += other.reads;
        self.messages += other.messages;
    }
}

/// All machines.
pub struct World {
    pub(super) machines: Vec<Machine>,
    pub(super) links: Links,
    pub(super) rng: ChaCha8Rng,
    pub(super) rules: Rules,
    pub(super) lease: Duration,
    /// Whether views are proposed that have one member. Then no disk may get lost: it may be the only one by the time.
    pub shrinks: bool,
    /// True time.
    pub time: Duration,
    queue: BTreeMap<(Duration, u64), What>,
    pub(super) next: u64,
    numbers: BTreeMap<PeerId, usize>,
    pub(super) hints: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) postman: Option<Postman>,
    /// Who used what when it was last looked at.
    pub(super) using: BTreeMap<(usize, LeaseKey), ClientId>,
    origin: Instant,
    inviter: Namespace,
    /// What was seen from outside.
    pub history: History,
    /// What was counted.
    pub counts: Counts,
    /// The view that followed each view: by shard and number.
    pub(super) successors: BTreeMap<(u16, u64), [u8; 32]>,
    pub(super) failure: Option<Failure>,
    trace: bool,
    next_command: u64,
}

fn bytes(rng: &mut ChaCha8Rng) -> [u8; 32] {
    let mut bytes = [0; 32];
    rng.fill_bytes(&mut bytes);
    bytes
}

impl World {
    /// Founders that are the replicas of view 0. Nothing runs yet.
    pub fn found(seed: u64, founders: usize, lease: Duration, rules: Rules, trace: bool) -> Self {
        Self::found_in("10.9.0.0/24", seed, founders, lease, rules, trace)
    }

    /// The same with other addresses.
    pub fn found_in(range: &str, seed: u64, founders: usize, lease: Duration, rules: Rules, trace: bool) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let keys: Vec<SecretKey> = (0..founders).map(|_| SecretKey::from_seed(&bytes(&mut rng))).collect();
        let range = Some(range.parse().expect("a range"));
        let request = CreateRequest { name: NAMESPACE.into(), range, lease, recovery: None };
        let (_, authority, created) =
            found(request, &keys.iter().collect::<Vec<_>>(), bytes(&mut rng), EPOCH).expect("a sound request");
        let origin = crate::clock::origin();
        let clock = MachineClock::new(origin, Rates::default(), [1; 16], Duration::ZERO);
        let mut machines = Vec::new();
        for (key, founder) in keys.into_iter().zip(created) {
            let mut disk = Disk::default();
            disk.begin(founder.writes);
            disk.sync();
            machines.push(Machine::new(key, founder.data, disk, clock.clone(), Duration::ZERO));
        }
        let first = &machines[0];
        let keys = Keys {
            identity: SecretKey::from_seed(&first.key.seed()),
            data: first.data.clone(),
            authority: Some(authority),
        };
        let now = first.glance(Duration::ZERO);
        let inviter = Namespace::load(keys, first.disk.image(), bytes(&mut rng), now).expect("it was just founded");
        let numbers = machines.iter().enumerate().map(|(number, machine)| (machine.peer, number)).collect();
        Self {
            machines,
            links: Links::new(),
            rng,
            rules,
            lease,
            shrinks: false,
            time: Duration::ZERO,
            queue: BTreeMap::new(),
            next: 0,
            numbers,
            hints: BTreeMap::new(),
            postman: None,
            using: BTreeMap::new(),
            origin,
            inviter,
            history: History::default(),
            counts: Counts::default(),
            successors: BTreeMap::new(),
            failure: None,
            trace,
            next_command: 1,
        }
    }

    /// Another machine with clocks of its own, and an invite. Its number.
    pub fn add(&mut self, rates: Rates) -> usize {
        let token = self.invite();
        let mut boot = [0; 16];
        self.rng.fill_bytes(&mut boot);
        let clock = MachineClock::new(self.origin, rates, boot, self.time);
        let key = SecretKey::from_seed(&bytes(&mut self.rng));
        let data = zeroize::Zeroizing::new(bytes(&mut self.rng));
        let mut machine = Machine::new(key, data, Disk::default(), clock, self.time);
        machine.public = self.rng.random_bool(0.8);
        machine.join(NAMESPACE, token, bytes(&mut self.rng), self.time);
        let number = self.machines.len();
        self.numbers.insert(machine.peer, number);
        self.machines.push(machine);
        self.pump(number);
        number
    }

    fn invite(&mut self) -> Token {
        let contact = |machine: &Machine| Contact {
            identity: dht::identity::PublicKey::from_peer_id(&machine.peer).expect("an Ed25519 identity"),
            addresses: vec![ContactAddress::Socket(([198, 51, 100, 1], 4001).into())],
        };
        let contacts: Vec<Contact> = self.machines.iter().take(2).map(contact).collect();
        let ttl = Duration::from_secs(86_400);
        let id = CommandId(self.next_id());
        let command = Command::Invite { id, uses: 1, ttl, role: Role::Member, hosts: 0, contacts };
        self.inviter.handle_command(command, self.machines[0].glance(self.time));
        while let Some(output) = self.inviter.poll_output() {
            if let Output::Event(Event::Invited { outcome, .. }) = output {
                return Token::parse(&outcome.expect("it has the authority key")).expect("just made");
            }
        }
        unreachable!("every command is answered by one event")
    }

    /// Gives a machine the clocks of a boot that begins now.
    pub fn set_clock(&mut self, node: usize, rates: Rates) {
        let mut boot = [0; 16];
        self.rng.fill_bytes(&mut boot);
        self.machines[node].clock = MachineClock::new(self.origin, rates, boot, self.time);
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.next_command += 1;
        self.next_command
    }

    /// Starts a machine's process.
    pub fn start(&mut self, node: usize) {
        if self.machines[node].is_on() || self.machines[node].clock.is_asleep() {
            return;
        }
        let (rules, seed, at) = (self.rules, bytes(&mut self.rng), self.time);
        self.say(|| format!("n{node} starts"));
        self.machines[node].start(rules, seed, at);
        self.began(node);
        self.pump(node);
        // It looks for those that it knows.
        for peer in 0..self.machines.len() {
            if peer != node && self.rng.random_bool(0.7) {
                self.connect(node, peer);
            }
        }
    }

    /// Ends a process in the middle of whatever it does.
    pub fn crash(&mut self, node: usize) {
        if !self.machines[node].is_on() {
            return;
        }
        let kept = if self.rng.random_bool(0.5) { Unsynced::Kept } else { Unsynced::Lost };
        self.say(|| format!("n{node} crashes, {kept:?}"));
        self.machines[node].disk.crash(kept);
        self.machines[node].stop();
        self.using.retain(|(user, _), _| *user != node);
        self.drop_links(node);
    }

    /// Whether a machine may use this key at this moment.
    pub fn lease(&self, node: usize, key: &LeaseKey) -> Option<Lease> {
        self.machines[node].lease(key, self.time)
    }

    /// For how much longer it may, by its own clock.
    pub fn remaining(&self, node: usize, key: &LeaseKey) -> Duration {
        let now = self.machines[node].glance(self.time).owner.0;
        self.lease(node, key).map_or(Duration::ZERO, |lease| lease.usable_until.0.saturating_sub(now))
    }

    /// Asks something of a machine.
    pub fn command(&mut self, node: usize, command: Command) {
        self.say(|| format!("n{node} is asked {command:?}"));
        self.input(node, Input::Command(command));
    }

    pub(super) fn input(&mut self, node: usize, input: Input) {
        if self.machines[node].is_on() {
            self.machines[node].inbox.push_back(input);
            self.pump(node);
        }
    }

    pub(super) fn later(&mut self, delay: Duration, what: What) {
        self.next += 1;
        self.queue.insert((self.time + delay, self.next), what);
    }

    /// Runs until this moment, or until something is wrong.
    pub fn run_until(&mut self, end: Duration) -> Result<(), Failure> {
        while let Some((&(at, number), _)) = self.queue.first_key_value() {
            if at > end {
                break;
            }
            let Some(what) = self.queue.remove(&(at, number)) else { break };
            self.time = self.time.max(at);
            self.happen(what);
            if let Some(failure) = &self.failure {
                return Err(failure.clone());
            }
        }
        self.time = self.time.max(end);
        Ok(())
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Input { node, life, input } => {
                if self.machines[node].life == life && !self.machines[node].clock.is_asleep() {
                    self.machines[node].inbox.push_back(input);
                    self.pump(node);
                }
            }
            What::Wake { node } => {
                let machine = &mut self.machines[node];
                if machine.wake.is_some_and(|wake| wake <= self.time) {
                    machine.wake = None;
                    if machine.is_awake() && machine.held.is_none() {
                        machine.handle_timeout(self.time);
                    }
                    self.pump(node);
                }
            }
            What::Synced { node, life } => {
                if self.machines[node].life == life {
                    self.machines[node].disk.sync();
                    if let Some(wishes) = self.machines[node].held.take() {
                        self.fulfil(node, wishes);
                    }
                    self.pump(node);
                }
            }
            What::HandshakeOver { node, peer, number } => {
                let failed =
                    self.machines[node].links.get(&peer).is_some_and(|link| !link.open && link.number == number);
                if failed {
                    self.input(node, Input::Gone { peer, number });
                }
            }
        }
    }

    /// Lets a process work until it rests, or waits for its disk.
    pub(super) fn pump(&mut self, node: usize) {
        while self.machines[node].held.is_none() && self.machines[node].is_awake() {
            let (mut writes, mut wishes) = (Vec::new(), Vec::new());
            while let Some(output) = self.machines[node].poll_output() {
                match output {
                    Output::Persist(more) => writes.extend(more),
                    wish @ (Output::Send { .. }
                    | Output::Admit { .. }
                    | Output::Refuse { .. }
                    | Output::Dial { .. }
                    | Output::Publish { .. }
                    | Output::Seek { .. }
                    | Output::DialBack { .. }
                    | Output::Event(_)) => wishes.push(wish),
                }
            }
            let joined = self.take_joined(node, &mut writes);
            if joined {
                self.machines[node].disk.begin(writes);
                self.machines[node].disk.sync();
                let (rules, seed, at) = (self.rules, bytes(&mut self.rng), self.time);
                self.machines[node].links.clear();
                self.machines[node].start(rules, seed, at);
                continue;
            }
            if !writes.is_empty() {
                self.machines[node].disk.begin(writes);
                self.machines[node].held = Some(wishes);
                let life = self.machines[node].life;
                let slow = self.rng.random_bool(0.01);
                let micros = self.rng.random_range(100..if slow { 2_000_000 } else { 4000 });
                self.later(Duration::from_micros(micros), What::Synced { node, life });
                break;
            }
            if !wishes.is_empty() {
                self.fulfil(node, wishes);
            } else if let Some(input) = self.machines[node].inbox.pop_front() {
                self.take_in(node, input);
            } else {
                break;
            }
        }
        self.look_at(node);
        self.set_timer(node);
    }

    fn set_timer(&mut self, node: usize) {
        if !self.machines[node].is_awake() || self.machines[node].held.is_some() {
            // Whatever ends that looks at the time again.
            return;
        }
        let Some(due) = self.machines[node].due() else { return };
        let due = due.max(self.time + Duration::from_micros(100));
        if self.machines[node].wake.is_none_or(|wake| due < wake || wake <= self.time) {
            self.machines[node].wake = Some(due);
            self.later(due - self.time, What::Wake { node });
        }
    }

    fn take_joined(&mut self, node: usize, writes: &mut Vec<dht::Write>) -> bool {
        let mut joined = false;
        while let Some(event) = self.machines[node].poll_joiner() {
            match event {
                JoinerEvent::Progress(_) => {}
                JoinerEvent::Joined { writes: more, .. } => {
                    writes.extend(more);
                    joined = true;
                }
                JoinerEvent::Failed(error) => self.fail(format!("n{node} cannot join: {error}")),
            }
        }
        joined
    }

    fn take_in(&mut self, node: usize, input: Input) {
        let at = self.time;
        let peer_of = |machines: &[Machine], number: usize| machines[number].peer;
        match input {
            Input::Hello { from, request } => {
                let peer = peer_of(&self.machines, from);
                if let Ok(response) = self.machines[node].handle_hello(peer, &request, at) {
                    self.next += 1;
                    let number = self.next;
                    let link = self.machines[node].links.entry(from).or_default();
                    (link.open, link.number) = (true, number);
                    self.carry(node, from, Input::Answer { from: node, response });
                }
            }
            Input::Answer { from, response } => {
                let peer = peer_of(&self.machines, from);
                if self.machines[node].handle_answer(peer, &response, at).is_ok() {
                    let link = self.machines[node].links.entry(from).or_default();
                    link.open = true;
                    let waiting = std::mem::take(&mut link.waiting);
                    for message in waiting {
                        self.carry(node, from, Input::Message { from: node, message });
                    }
                }
            }
            Input::Message { from, message } => {
                self.counts.messages += 1;
                if !self.machines[node].links.contains_key(&from) {
                    // What is sent over a connection that one end has forgotten is answered with a reset.
                    let delay = Duration::from_millis(self.rng.random_range(1..8000));
                    self.end_link(from, node, delay);
                }
                let peer = peer_of(&self.machines, from);
                self.machines[node].handle_message(peer, &message, at);
            }
            Input::Gone { peer, number } => {
                if self.machines[node].links.get(&peer).is_none_or(|link| link.number != number) {
                    return;
                }
                self.machines[node].links.remove(&peer);
                // The other end notices, too.
                let delay = Duration::from_millis(self.rng.random_range(1..8000));
                self.end_link(peer, node, delay);
                let peer = peer_of(&self.machines, peer);
                self.machines[node].handle_gone(peer, at);
            }
            Input::DialledBack { peer, reached } => {
                let peer = peer_of(&self.machines, peer);
                self.machines[node].with_namespace(at, |it, now| it.handle_dialled_back(peer, reached, now));
            }
            Input::Hint { key, value } => {
                self.machines[node].with_namespace(at, |it, now| it.handle_hint(&key, &value, now));
            }
            Input::Command(command) => {
                if let Command::ReleaseAddress { ip, .. } = &command {
                    self.history.released(node, &LeaseKey::Address(*ip), at);
                }
                self.machines[node].with_namespace(at, |it, now| it.handle_command(command, now));
            }
        }
    }

    pub(super) fn fail(&mut self, what: String) {
        let at = self.time;
        self.say(|| format!("WRONG: {what}"));
        self.failure.get_or_insert(Failure { at, what });
    }

    #[expect(clippy::print_stdout, reason = "a trace is for people, and was asked for")]
    pub(super) fn say(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>12.6} {}", self.time.as_secs_f64(), what());
        }
    }

    /// The machine of this identity.
    pub(super) fn number_of(&self, peer: &PeerId) -> Option<usize> {
        self.numbers.get(peer).copied()
    }

    /// Whether this machine's process is a member by now.
    pub fn is_member(&self, node: usize) -> bool {
        matches!(self.machines[node].process, Process::Live(_))
    }

    /// How a machine stands in the newest view that it knows, for people.
    pub fn describe(&self, node: usize) -> String {
        let machine = &self.machines[node];
        let now = machine.glance(self.time);
        let links: Vec<usize> = machine.links.iter().filter(|(_, link)| link.open).map(|(peer, _)| *peer).collect();
        let Some(namespace) = machine.namespace() else { return "off".to_owned() };
        let admitted: Vec<usize> =
            namespace.membership().admitted().filter_map(|(peer, _)| self.number_of(peer)).collect();
        format!("{} connected to {links:?} admits {admitted:?}", namespace.describe(0, now))
    }

    /// How many machines there are.
    pub fn len(&self) -> usize {
        self.machines.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.machines.is_empty()
    }
}
