//! Three founders and a joiner in virtual time; the first one's disk is recorded, operation by operation, together with the
//! messages that left and came between them.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use dht::codec::Wire;
use dht::create::{CreateRequest, found};
use dht::identity::{PublicKey, SecretKey};
use dht::join::{Joiner, JoinerEvent};
use dht::message::{Message, ViewMessage};
use dht::token::{Contact, ContactAddress, Token};
use dht::view::Member;
use dht::{
    BootId, Command, CommandId, Event, Image, Keys, Namespace, Now, Output, OwnerTime, ReplicaTime, Role, Write,
};
use libp2p::PeerId;
use redb::StorageBackend;
use zeroize::Zeroizing;

use super::fake::identity;
use crate::Store;

/// The one whose disk is recorded.
pub(super) const VICTIM: usize = 0;
/// The one that every decision rests on besides.
pub(super) const PARTNER: usize = 1;
/// One that hears of no round: were the victim to forget, nobody else would know.
pub(super) const DEAF: usize = 2;
pub(super) const JOINER: usize = 3;

/// What was done to the disk.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    Length(usize),
    Bytes(usize, Vec<u8>),
    Sync,
}

/// What others know.
#[derive(Clone, Debug)]
pub(super) enum Mark {
    Sent(usize, Message),
    Got(Message),
}

/// All that happened, each mark and commit with the number of operations before it.
#[derive(Debug, Default)]
pub(super) struct Log {
    contents: Vec<u8>,
    pub(super) operations: Vec<Operation>,
    pub(super) marks: Vec<(usize, Mark)>,
    pub(super) commits: Vec<(usize, Image)>,
}

pub(super) fn apply(bytes: &mut Vec<u8>, operation: &Operation) {
    match operation {
        Operation::Length(length) => bytes.resize(*length, 0),
        Operation::Bytes(offset, data) => {
            let end = offset + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*offset..end].copy_from_slice(data);
        }
        Operation::Sync => {}
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Recorder(Arc<Mutex<Log>>);

impl Recorder {
    pub(super) fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap()
    }

    fn record(&self, operation: Operation) {
        let mut log = self.log();
        apply(&mut log.contents, &operation);
        log.operations.push(operation);
    }

    /// Forgets how it came to what it is.
    fn begin(&self, image: Image) -> Vec<u8> {
        let mut log = self.log();
        log.operations.clear();
        log.commits = vec![(0, image)];
        log.contents.clone()
    }
}

impl StorageBackend for Recorder {
    fn len(&self) -> io::Result<u64> {
        Ok(self.log().contents.len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let log = self.log();
        let bytes = log.contents.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(bytes.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
        Ok(())
    }
    fn set_len(&self, length: u64) -> io::Result<()> {
        self.record(Operation::Length(length as usize));
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        self.record(Operation::Sync);
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.record(Operation::Bytes(offset as usize, data.to_vec()));
        Ok(())
    }
}

enum Process {
    Off,
    Joiner(Box<Joiner>),
    Live(Box<Namespace>),
}

pub(super) struct Node {
    pub(super) seed: Zeroizing<[u8; 32]>,
    pub(super) data: Zeroizing<[u8; 32]>,
    pub(super) peer: PeerId,
    image: Image,
    process: Process,
    pub(super) events: Vec<Event>,
}

impl Node {
    pub(super) fn keys(&self) -> Keys {
        Keys { identity: SecretKey::from_seed(&self.seed), data: self.data.clone(), authority: None }
    }

    pub(super) fn live(&mut self) -> &mut Namespace {
        let Process::Live(namespace) = &mut self.process else { panic!("not a member") };
        namespace
    }
}

/// Whether messages wait for the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    CommitFirst,
    SendFirst,
}

pub(super) struct Lab {
    pub(super) nodes: Vec<Node>,
    pub(super) recorder: Recorder,
    /// The victim's disk at the start.
    pub(super) start: Vec<u8>,
    store: Store,
    inviter: Namespace,
    wire: VecDeque<(usize, usize, Vec<u8>)>,
    pub(super) time: Duration,
    origin: Instant,
    order: Order,
    next_id: u64,
}

pub(super) fn now_at(origin: Instant, time: Duration) -> Now {
    Now {
        mono: origin + time,
        owner: OwnerTime(time),
        replica: ReplicaTime(time),
        boot: BootId([1; 16]),
        jumps: 0,
        unix_s: 1_800_000_000 + time.as_secs(),
    }
}

fn apply_writes(image: &mut Image, writes: &[Write]) {
    for Write { key, value } in writes.iter().cloned() {
        match value {
            Some(value) => image.insert(key, value),
            None => image.remove(&key),
        };
    }
}

impl Lab {
    pub(super) fn found(lease: Duration, order: Order) -> Self {
        #[expect(clippy::disallowed_methods, reason = "a test needs one real instant as origin")]
        let (origin, time) = (Instant::now(), Duration::from_secs(100));
        let keys = [1, 2, 3].map(identity);
        let range = Some("10.9.0.0/24".parse().unwrap());
        let request = CreateRequest { name: "lab".into(), range, lease, recovery: None };
        let founders: Vec<&SecretKey> = keys.iter().collect();
        let (_, authority, created) = found(request, &founders, [5; 32], 1_800_000_000).unwrap();
        let recorder = Recorder::default();
        let (store, _) = Store::on_backend(recorder.clone()).unwrap();
        store.commit(&created[VICTIM].writes).unwrap();
        let mut nodes = Vec::new();
        for (key, founder) in keys.iter().zip(created) {
            let mut image = Image::new();
            apply_writes(&mut image, &founder.writes);
            let node = Node {
                seed: key.seed(),
                data: founder.data,
                peer: key.peer_id(),
                image,
                process: Process::Off,
                events: Vec::new(),
            };
            nodes.push(node);
        }
        let start = recorder.begin(nodes[VICTIM].image.clone());
        let keys = Keys { authority: Some(authority), ..nodes[DEAF].keys() };
        let inviter = Namespace::load(keys, &nodes[DEAF].image, [6; 32], now_at(origin, time)).unwrap();
        let wire = VecDeque::new();
        let mut lab = Self { nodes, recorder, start, store, inviter, wire, time, origin, order, next_id: 1 };
        for node in 0..3 {
            lab.load(node);
        }
        lab
    }

    pub(super) fn now(&self) -> Now {
        now_at(self.origin, self.time)
    }

    fn load(&mut self, node: usize) {
        let (now, seed) = (self.now(), [u8::try_from(node).unwrap() + 10; 32]);
        let namespace = Namespace::load(self.nodes[node].keys(), &self.nodes[node].image, seed, now).unwrap();
        self.nodes[node].process = Process::Live(Box::new(namespace));
        self.drain(node);
        for other in 0..self.nodes.len() {
            if other != node && matches!(self.nodes[other].process, Process::Live(_)) {
                self.greet(node, other);
            }
        }
    }

    fn greet(&mut self, a: usize, b: usize) {
        let (now, from, to) = (self.now(), self.nodes[a].peer, self.nodes[b].peer);
        let request = match &mut self.nodes[a].process {
            Process::Off => return,
            Process::Joiner(joiner) => joiner.hello(to, now),
            Process::Live(namespace) => namespace.hello(to, now),
        };
        let Ok(response) = self.nodes[b].live().handle_hello(from, &request, now) else { return };
        self.drain(b);
        match &mut self.nodes[a].process {
            Process::Off => {}
            Process::Joiner(joiner) => joiner.handle_hello_response(to, &response, now).unwrap(),
            Process::Live(namespace) => namespace.handle_hello_response(to, &response, now).unwrap(),
        }
        self.drain(a);
    }

    /// As the driver's turn: all writes in one transaction, then the rest.
    fn drain(&mut self, node: usize) {
        loop {
            let (mut writes, mut wishes, mut joined) = (Vec::new(), Vec::new(), false);
            loop {
                let output = match &mut self.nodes[node].process {
                    Process::Off => None,
                    Process::Joiner(joiner) => joiner.poll_output(),
                    Process::Live(namespace) => namespace.poll_output(),
                };
                match output {
                    Some(Output::Persist(more)) => writes.extend(more),
                    Some(wish) => wishes.push(wish),
                    None => break,
                }
            }
            if let Process::Joiner(joiner) = &mut self.nodes[node].process {
                while let Some(event) = joiner.poll_event() {
                    match event {
                        JoinerEvent::Joined { writes: more, .. } => {
                            writes.extend(more);
                            joined = true;
                        }
                        JoinerEvent::Failed(error) => panic!("{error}"),
                        JoinerEvent::Progress(_) => {}
                    }
                }
            }
            if writes.is_empty() && wishes.is_empty() && !joined {
                return;
            }
            if self.order == Order::SendFirst {
                self.send_all(node, &wishes);
            }
            self.commit(node, &writes);
            if self.order == Order::CommitFirst {
                self.send_all(node, &wishes);
            }
            self.fulfil(node, wishes);
            if joined {
                self.load(node);
            }
        }
    }

    fn commit(&mut self, node: usize, writes: &[Write]) {
        apply_writes(&mut self.nodes[node].image, writes);
        if node == VICTIM && !writes.is_empty() {
            self.store.commit(writes).unwrap();
            let mut log = self.recorder.log();
            let commit = (log.operations.len(), self.nodes[node].image.clone());
            log.commits.push(commit);
        }
    }

    fn send_all(&mut self, node: usize, wishes: &[Output]) {
        for wish in wishes {
            let Output::Send { to, message } = wish else { continue };
            let Some(to) = self.number(to) else { continue };
            if node == VICTIM {
                let mut log = self.recorder.log();
                let mark = (log.operations.len(), Mark::Sent(to, Message::from_bytes(message).unwrap()));
                log.marks.push(mark);
            }
            self.wire.push_back((node, to, message.clone()));
        }
    }

    fn fulfil(&mut self, node: usize, wishes: Vec<Output>) {
        let now = self.now();
        for wish in wishes {
            match wish {
                Output::DialBack { peer } => self.nodes[node].live().handle_dialled_back(peer, true, now),
                Output::Dial { peer, .. } => {
                    if let Some(to) = self.number(&peer) {
                        self.greet(node, to);
                    }
                }
                Output::Event(event) => self.nodes[node].events.push(event),
                Output::Send { .. }
                | Output::Persist(_)
                | Output::Admit { .. }
                | Output::Refuse { .. }
                | Output::Publish { .. }
                | Output::Seek { .. } => {}
            }
        }
    }

    fn number(&self, peer: &PeerId) -> Option<usize> {
        self.nodes.iter().position(|node| node.peer == *peer)
    }

    fn deliver(&mut self, (from, to, bytes): (usize, usize, Vec<u8>)) {
        let message = Message::from_bytes(&bytes).unwrap();
        let is_round = matches!(
            message,
            Message::Ops { .. }
                | Message::Redeem(_)
                | Message::Prepare { .. }
                | Message::Accept { .. }
                | Message::View(ViewMessage::Prepare { .. } | ViewMessage::Accept { .. })
        );
        if to == DEAF && is_round {
            return;
        }
        if to == VICTIM {
            let mut log = self.recorder.log();
            let mark = (log.operations.len(), Mark::Got(message));
            log.marks.push(mark);
        }
        let (now, from) = (self.now(), self.nodes[from].peer);
        match &mut self.nodes[to].process {
            Process::Off => {}
            Process::Joiner(joiner) => joiner.handle_message(from, &bytes, now),
            Process::Live(namespace) => namespace.handle_message(from, &bytes, now),
        }
        self.drain(to);
    }

    /// Time passes, with every message delivered and every timer in its turn.
    pub(super) fn run(&mut self, seconds: u64) {
        let end = self.time + Duration::from_secs(seconds);
        loop {
            if let Some(packet) = self.wire.pop_front() {
                self.deliver(packet);
                continue;
            }
            let due = |process: &Process| match process {
                Process::Off => None,
                Process::Joiner(joiner) => joiner.poll_timeout(),
                Process::Live(namespace) => namespace.poll_timeout(),
            };
            let next = self.nodes.iter().enumerate().filter_map(|(n, node)| Some((due(&node.process)?.0, n))).min();
            let Some((at, node)) = next.filter(|(at, _)| *at <= self.origin + end) else { break };
            self.time = self.time.max(at.saturating_duration_since(self.origin));
            let now = self.now();
            match &mut self.nodes[node].process {
                Process::Off => {}
                Process::Joiner(joiner) => joiner.handle_timeout(now),
                Process::Live(namespace) => namespace.handle_timeout(now),
            }
            self.drain(node);
        }
        self.time = end;
    }

    pub(super) fn command(&mut self, node: usize, command: impl FnOnce(CommandId) -> Command) {
        self.next_id += 1;
        let (id, now) = (CommandId(self.next_id), self.now());
        self.nodes[node].live().handle_command(command(id), now);
        self.drain(node);
    }

    /// Somebody with an invite begins to join.
    pub(super) fn join(&mut self) {
        let contact = |node: &Node| Contact {
            identity: PublicKey::from_peer_id(&node.peer).unwrap(),
            addresses: vec![ContactAddress::Socket(([198, 51, 100, 1], 4001).into())],
        };
        let contacts = vec![contact(&self.nodes[VICTIM]), contact(&self.nodes[PARTNER])];
        let (id, ttl, now) = (CommandId(1), Duration::from_secs(3600), self.now());
        let command = Command::Invite { id, uses: 1, ttl, role: Role::Member, hosts: 0, contacts };
        self.inviter.handle_command(command, now);
        let token = std::iter::from_fn(|| self.inviter.poll_output()).find_map(|output| {
            let Output::Event(Event::Invited { outcome, .. }) = output else { return None };
            Some(Token::parse(&outcome.unwrap()).unwrap())
        });
        let (key, data, image) = (identity(4), Zeroizing::new([4; 32]), Image::new());
        let (seed, peer) = (key.seed(), key.peer_id());
        let joiner = Joiner::new(key, data.clone(), "lab", token.unwrap(), &image, [4; 32], now);
        let process = Process::Joiner(Box::new(joiner));
        self.nodes.push(Node { seed, data, peer, image, process, events: Vec::new() });
        self.drain(JOINER);
    }

    /// A node as it would stand in a view.
    pub(super) fn member(&mut self, node: usize) -> Member {
        let membership = self.nodes[node].live().membership();
        let serial = membership.credential().serial(&membership.ns());
        Member { identity: membership.identity().public(), store_id: membership.store_id(), serial }
    }

    /// Begins a change of the view that a key belongs to.
    pub(super) fn change_view(&mut self, at: usize, key: &dht::LeaseKey, nodes: &[usize]) {
        let members = nodes.iter().map(|node| self.member(*node)).collect();
        let now = self.now();
        self.nodes[at].live().force_view(key, members, now);
        self.drain(at);
    }
}
