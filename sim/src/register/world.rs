//! All machines, and what happens to them in the order of true time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use dht::create::{CreateRequest, found};
use dht::identity::SecretKey;
use dht::join::JoinerEvent;
use dht::token::{Contact, ContactAddress, Token};
use dht::{Command, CommandId, Event, Keys, Lease, LeaseKey, Namespace, Output, Role, Rules};
use libp2p_identity::PeerId;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::history::History;
use super::links::{Links, Weather};
use super::machine::{Input, Link, Machine, Process};
use crate::clock::{EPOCH, MachineClock, Rates};
use crate::disk::{Disk, Unsynced};

/// The name of the namespace.
const NAMESPACE: &str = "lab";
/// A handshake that is not through by then has failed.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// Messages that wait for a connection.
const MOST_WAITING: usize = 64;

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
enum What {
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
    /// Questions that were answered by a quorum.
    pub reads: u64,
    /// Messages that arrived.
    pub messages: u64,
}

/// All machines.
pub struct World {
    pub(super) machines: Vec<Machine>,
    pub(super) links: Links,
    pub(super) rng: ChaCha8Rng,
    pub(super) rules: Rules,
    /// True time.
    pub time: Duration,
    queue: BTreeMap<(Duration, u64), What>,
    next: u64,
    numbers: BTreeMap<PeerId, usize>,
    hints: BTreeMap<Vec<u8>, Vec<u8>>,
    origin: Instant,
    inviter: Namespace,
    /// What was seen from outside.
    pub history: History,
    /// What was counted.
    pub counts: Counts,
    /// The view that followed each view: by shard and number.
    successors: BTreeMap<(u16, u64), [u8; 32]>,
    failure: Option<Failure>,
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
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let keys: Vec<SecretKey> = (0..founders).map(|_| SecretKey::from_seed(&bytes(&mut rng))).collect();
        let range = Some("10.9.0.0/24".parse().expect("a range"));
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
            time: Duration::ZERO,
            queue: BTreeMap::new(),
            next: 0,
            numbers,
            hints: BTreeMap::new(),
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
        self.history.stopped(node, self.time);
        self.drop_links(node);
    }

    /// Everybody notices, sooner or later, that somebody is gone.
    pub(super) fn drop_links(&mut self, node: usize) {
        for peer in 0..self.machines.len() {
            if self.machines[peer].links.contains_key(&node) {
                let delay = Duration::from_millis(self.rng.random_range(10..6000));
                self.end_link(peer, node, delay);
            }
        }
    }

    /// One end of a connection notices, after a while, that it is over: this very connection, not a later one.
    pub(super) fn end_link(&mut self, node: usize, peer: usize, delay: Duration) {
        if let Some(number) = self.machines[node].links.get(&peer).map(|link| link.number) {
            let life = self.machines[node].life;
            self.later(delay, What::Input { node, life, input: Input::Gone { peer, number } });
        }
    }

    /// Whether a machine may use this key at this moment.
    pub fn lease(&self, node: usize, key: &LeaseKey) -> Option<Lease> {
        self.machines[node].lease(key, self.time)
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

    fn later(&mut self, delay: Duration, what: What) {
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
                if !self.machines[node].links.get(&from).is_some_and(|link| link.open) {
                    // To this end that connection is over, and a transport says so to the other; what came over it still counts.
                    self.end_link(from, node, Duration::from_millis(50));
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
                self.machines[node].with_namespace(at, |it, now| it.handle_command(command, now));
            }
        }
    }

    fn carry(&mut self, from: usize, to: usize, input: Input) {
        for delay in self.links.deliveries(from, to, &mut self.rng) {
            // Delays are counted from when it arrives at the process that runs then.
            let life = self.machines[to].life;
            self.later(delay, What::Input { node: to, life, input: input.clone() });
        }
    }

    pub(super) fn connect(&mut self, node: usize, to: usize) {
        if node == to || self.machines[node].links.contains_key(&to) || !self.machines[node].is_on() {
            return;
        }
        self.next += 1;
        let number = self.next;
        let peer = self.machines[to].peer;
        let Some(request) = self.machines[node].hello(peer, self.time) else { return };
        self.machines[node].links.insert(to, Link { number, ..Link::default() });
        self.later(HANDSHAKE, What::HandshakeOver { node, peer: to, number });
        if self.machines[to].is_on() {
            self.carry(node, to, Input::Hello { from: node, request });
        }
    }

    fn send(&mut self, node: usize, to: usize, message: Vec<u8>) {
        self.connect(node, to);
        let Some(link) = self.machines[node].links.get_mut(&to) else { return };
        if link.open {
            self.carry(node, to, Input::Message { from: node, message });
        } else if link.waiting.len() < MOST_WAITING {
            link.waiting.push(message);
        }
    }

    fn fulfil(&mut self, node: usize, wishes: Vec<Output>) {
        for wish in wishes {
            match wish {
                Output::Persist(_) | Output::Admit { .. } | Output::Refuse { .. } => {}
                Output::Send { to, message } => {
                    if let Some(to) = self.numbers.get(&to).copied() {
                        self.send(node, to, message);
                    }
                }
                Output::Dial { peer, .. } => {
                    if let Some(to) = self.numbers.get(&peer).copied() {
                        self.connect(node, to);
                    }
                }
                Output::Publish { key, value } => {
                    self.hints.insert(key, value);
                }
                Output::Seek { key } => {
                    if let Some(value) = self.hints.get(&key).cloned() {
                        let (delay, life) = (self.links.delay(&mut self.rng), self.machines[node].life);
                        self.later(delay, What::Input { node, life, input: Input::Hint { key, value } });
                    }
                }
                Output::DialBack { peer } => {
                    let Some(to) = self.numbers.get(&peer).copied() else { continue };
                    let there = &self.machines[to];
                    let reached = there.is_awake() && there.public && !self.links.is_cut(node, to);
                    let (delay, life) = (self.links.delay(&mut self.rng), self.machines[node].life);
                    let input = Input::DialledBack { peer: to, reached };
                    self.later(delay, What::Input { node, life, input });
                }
                Output::Event(event) => self.observe(node, event),
            }
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "only what is judged is looked at")]
    fn observe(&mut self, node: usize, event: Event) {
        let at = self.time;
        match event {
            Event::Claimed { id, outcome } => match outcome {
                Ok(lease) => {
                    self.counts.grants += 1;
                    self.say(|| format!("n{node} is granted {} {}", lease.key, lease.token));
                    self.history.granted(node, Some(id.0), &lease, at);
                    self.check_alone(node, &lease.key);
                }
                Err(error) => {
                    self.counts.refusals += 1;
                    self.say(|| format!("n{node} is refused: {error}"));
                    self.history.refused(id.0);
                }
            },
            Event::LeaseChanged { lease } => {
                self.counts.renewals += 1;
                self.say(|| format!("n{node} goes on with {} {}", lease.key, lease.token));
                self.history.granted(node, None, &lease, at);
                self.check_alone(node, &lease.key);
            }
            Event::LeaseLost { key, why } => {
                // From here on it does not use it, and may give it back unseen.
                self.counts.losses += 1;
                self.history.released(node, &key, at);
                self.say(|| format!("n{node} loses {key}: {why}"));
            }
            Event::Resolved { id, outcome } => {
                self.say(|| match &outcome {
                    dht::Resolution::Found { ip, token, owner, .. } => format!("n{node} reads {ip} {token} of {owner}"),
                    dht::Resolution::Absent => format!("n{node} reads nobody"),
                    dht::Resolution::Unknown => format!("n{node} reads nothing"),
                });
                self.counts.reads += u64::from(!matches!(outcome, dht::Resolution::Unknown));
                self.history.read(id.0, &outcome, at);
            }
            Event::Status { .. } => self.check_views(node),
            _ => {}
        }
    }

    /// Nobody else may use this key at this moment.
    pub(super) fn check_alone(&mut self, node: usize, key: &LeaseKey) {
        let Some(mine) = self.lease(node, key) else { return };
        for other in (0..self.machines.len()).filter(|other| *other != node) {
            if let Some(theirs) = self.lease(other, key) {
                let what =
                    format!("n{node} was granted {key} ({}) while n{other} uses it ({})", mine.token, theirs.token);
                return self.fail(what);
            }
        }
    }

    /// Every view has one successor.
    fn check_views(&mut self, node: usize) {
        let Some(namespace) = self.machines[node].namespace() else { return };
        let chain = namespace.membership().chain();
        let mut wrong = None;
        for successor in chain.successors() {
            let (view, hash) = ((successor.view.shard, successor.view.number), successor.view.hash());
            if *self.successors.entry(view).or_insert(hash) != hash {
                wrong = Some(format!("n{node} has another view {} than others", successor.view.number));
            }
        }
        if let Some(what) = wrong {
            self.fail(what);
        }
    }

    /// How many views there were after the founded one.
    pub fn views(&self) -> u64 {
        u64::try_from(self.successors.len()).unwrap_or(u64::MAX)
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

    /// How bad the network is from here on.
    pub fn set_weather(&mut self, weather: Weather) {
        self.links.weather = weather;
    }

    /// Cuts these directions, and mends all others. Whoever cannot be heard is noticed to be gone after a while.
    pub fn set_cut(&mut self, cut: BTreeSet<(usize, usize)>) {
        self.say(|| format!("cut {cut:?}"));
        for (a, b) in &cut {
            for (node, peer) in [(*a, *b), (*b, *a)] {
                if self.machines[node].links.contains_key(&peer) {
                    let delay = Duration::from_millis(self.rng.random_range(3000..12_000));
                    self.end_link(node, peer, delay);
                }
            }
        }
        self.links.cut = cut;
    }

    /// Whether this machine's process is a member by now.
    pub fn is_member(&self, node: usize) -> bool {
        matches!(self.machines[node].process, Process::Live(_))
    }

    /// How a machine stands in the newest view that it knows, for people.
    pub fn describe(&self, node: usize) -> String {
        let machine = &self.machines[node];
        let now = machine.glance(self.time);
        machine.namespace().map_or_else(|| "off".to_owned(), |namespace| namespace.describe(0, now))
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
