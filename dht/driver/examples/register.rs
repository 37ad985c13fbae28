//! Grants per second at the register's interface: replicas in one process, each with its own thread and its own store.
//!
//! `register DIR`: replicas that hand each other messages through memory, with the driver's loop: up to 64 inputs, one
//! transaction that is on disk when it returns, then the messages. The operations of 64 owners are signed beforehand and
//! their answers only counted, so what is measured is the register: checking, agreeing, writing, signing.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a program for people and for cargo xtask bench-register")]

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use dht::codec::Wire;
use dht::create::{CreateRequest, found};
use dht::identity::SecretKey;
use dht::join::{Joiner, JoinerEvent};
use dht::message::{Message, Outcome};
use dht::record::RegisterKey;
use dht::token::{Contact, ContactAddress, Token};
use dht::{
    BootId, ClientId, Command, CommandId, Event, Hold, Image, Keys, LeaseKey, Namespace, Now, Output, OwnerTime,
    ReplicaTime, Role, Write,
};
use dht_driver::Store;
use libp2p::PeerId;
use redb::StorageBackend;
use redb::backends::FileBackend;
use zeroize::Zeroizing;

const NAME: &str = "bench";
const TODAY: u64 = 1_800_000_000;
const OWNERS: u8 = 64;
/// As in the driver.
const MOST_AT_ONCE: usize = 64;
/// Room for all messages that are under way, so that no replica waits for another's queue.
const QUEUE: usize = 1 << 16;
/// How long the disk alone is measured.
const RAW: Duration = Duration::from_secs(3);

fn main() -> anyhow::Result<()> {
    let dir = std::env::args().nth(1).context("usage: register DIR")?;
    let dir = Path::new(&dir);
    std::fs::create_dir_all(dir)?;
    println!("raw syncs_s={:.0}", raw(dir)?);
    for replicas in [1, 3, 5] {
        for (window, claims) in [(1, 200), (64, 4000), (512, 8000)] {
            measure(dir, replicas, window, claims)?;
        }
    }
    println!("raw syncs_s={:.0}", raw(dir)?);
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

/// How often a second this disk takes 4 KiB for good.
fn raw(dir: &Path) -> anyhow::Result<f64> {
    let mut file = File::create(dir.join("raw"))?;
    let began = instant();
    let mut count = 0;
    while began.elapsed() < RAW {
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn instant() -> Instant {
    Instant::now()
}

#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn now(self) -> Now {
        let mono = instant();
        let passed = mono - self.0;
        let (owner, replica) = (OwnerTime(passed), ReplicaTime(passed));
        Now { mono, owner, replica, boot: BootId([1; 16]), jumps: 0, unix_s: TODAY }
    }
}

/// A file that counts how often it is synced.
#[derive(Debug)]
struct Counting {
    file: FileBackend,
    syncs: Arc<AtomicU64>,
}

impl StorageBackend for Counting {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }
}

struct Replica {
    peer: PeerId,
    namespace: Namespace,
    store: Store,
    commits: u64,
}

/// Replicas and owners before the clock runs: everything happens in turn, and messages wait in one queue.
struct Setup {
    clock: Clock,
    replicas: Vec<Replica>,
    syncs: Arc<AtomicU64>,
    queue: VecDeque<(PeerId, PeerId, Vec<u8>)>,
    /// Messages to somebody who is no replica.
    outside: Vec<(PeerId, PeerId, Vec<u8>)>,
}

fn key(number: u8) -> SecretKey {
    SecretKey::from_seed(&[number; 32])
}

fn apply(image: &mut Image, writes: &[Write]) {
    for write in writes {
        match &write.value {
            Some(value) => image.insert(write.key.clone(), value.clone()),
            None => image.remove(&write.key),
        };
    }
}

impl Setup {
    fn new(dir: &Path, count: u8) -> anyhow::Result<(Self, Token)> {
        let clock = Clock(instant());
        let keys: Vec<SecretKey> = (1..=count).map(key).collect();
        let range = Some("10.64.0.0/16".parse()?);
        let request = CreateRequest { name: NAME.into(), range, lease: Duration::from_secs(3600), recovery: None };
        let (_, authority, founders) = found(request, &keys.iter().collect::<Vec<_>>(), [7; 32], TODAY)?;
        let mut authority = Some(authority);
        let syncs = Arc::new(AtomicU64::new(0));
        let mut setup = Self { clock, replicas: Vec::new(), syncs, queue: VecDeque::new(), outside: Vec::new() };
        for (key, founder) in keys.into_iter().zip(founders) {
            let path = dir.join(format!("replica-{}", key.peer_id()));
            let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
            let backend = Counting { file: FileBackend::new(file)?, syncs: setup.syncs.clone() };
            let (store, _) = Store::on_backend(backend)?;
            store.commit(&founder.writes)?;
            let peer = key.peer_id();
            let keys = Keys { identity: key, data: founder.data, authority: authority.take() };
            let namespace = Namespace::load(keys, &store.image()?, [9; 32], clock.now())?;
            setup.replicas.push(Replica { peer, namespace, store, commits: 0 });
        }
        for a in 0..setup.replicas.len() {
            for b in a + 1..setup.replicas.len() {
                let (now, to, from) = (clock.now(), setup.replicas[b].peer, setup.replicas[a].peer);
                let request = setup.replicas[a].namespace.hello(to, now);
                let response = setup.replicas[b].namespace.handle_hello(from, &request, now)?;
                setup.replicas[a].namespace.handle_hello_response(to, &response, now)?;
            }
        }
        let token = setup.invite()?;
        Ok((setup, token))
    }

    fn invite(&mut self) -> anyhow::Result<Token> {
        let first = &mut self.replicas[0];
        let identity = dht::identity::PublicKey::from_peer_id(&first.peer).context("an Ed25519 key")?;
        let contacts = vec![Contact { identity, addresses: vec![ContactAddress::Socket("192.0.2.1:1".parse()?)] }];
        let (id, ttl) = (CommandId(1), Duration::from_secs(3600));
        let command = Command::Invite { id, uses: u16::from(OWNERS), ttl, role: Role::Router, hosts: 1024, contacts };
        first.namespace.handle_command(command, self.clock.now());
        while let Some(output) = first.namespace.poll_output() {
            if let Output::Event(Event::Invited { outcome, .. }) = output {
                return Ok(Token::parse(&outcome?)?);
            }
        }
        bail!("no invite")
    }

    /// Delivers until nothing is under way.
    fn settle(&mut self) -> anyhow::Result<()> {
        loop {
            for replica in &mut self.replicas {
                while let Some(output) = replica.namespace.poll_output() {
                    #[expect(clippy::wildcard_enum_match_arm, reason = "the rest is the driver's business")]
                    match output {
                        Output::Persist(writes) => replica.store.commit(&writes)?,
                        Output::Send { to, message } => self.queue.push_back((replica.peer, to, message)),
                        _ => {}
                    }
                }
            }
            let Some((from, to, message)) = self.queue.pop_front() else { return Ok(()) };
            match self.replicas.iter_mut().find(|replica| replica.peer == to) {
                Some(replica) => replica.namespace.handle_message(from, &message, self.clock.now()),
                None => self.outside.push((from, to, message)),
            }
        }
    }

    /// Lets an owner join and greet all replicas.
    fn owner(&mut self, number: u8, token: &Token) -> anyhow::Result<Namespace> {
        let (now, peer, data) = (self.clock.now(), key(number).peer_id(), Zeroizing::new([!number; 32]));
        let token = Token::parse(&token.to_text())?;
        let mut joiner = Joiner::new(key(number), data.clone(), NAME, token, &Image::new(), [number; 32], now);
        let contact = self.replicas[0].peer;
        let request = joiner.hello(contact, now);
        let response = self.replicas[0].namespace.handle_hello(peer, &request, now)?;
        joiner.handle_hello_response(contact, &response, now)?;
        let mut image = Image::new();
        while let Some(output) = joiner.poll_output() {
            #[expect(clippy::wildcard_enum_match_arm, reason = "the rest is the driver's business")]
            match output {
                Output::Persist(writes) => apply(&mut image, &writes),
                Output::Send { to, message } => self.queue.push_back((peer, to, message)),
                _ => {}
            }
        }
        self.settle()?;
        for (from, _, message) in self.outside.drain(..) {
            joiner.handle_message(from, &message, now);
        }
        while let Some(event) = joiner.poll_event() {
            if let JoinerEvent::Joined { writes, .. } = event {
                apply(&mut image, &writes);
                let keys = Keys { identity: key(number), data, authority: None };
                let mut owner = Namespace::load(keys, &image, [number; 32], now)?;
                self.greet(&mut owner, peer)?;
                return Ok(owner);
            }
        }
        bail!("owner {number} did not join")
    }

    fn greet(&mut self, owner: &mut Namespace, peer: PeerId) -> anyhow::Result<()> {
        let now = self.clock.now();
        for replica in &mut self.replicas {
            replica.namespace.handle_gone(peer, now);
            let request = owner.hello(replica.peer, now);
            let response = replica.namespace.handle_hello(peer, &request, now)?;
            owner.handle_hello_response(replica.peer, &response, now)?;
        }
        self.settle()
    }
}

/// An operation that is ready to be sent: by whom, to whom, and about what.
struct Ready {
    from: PeerId,
    to: PeerId,
    message: Vec<u8>,
    ip: Ipv4Addr,
}

/// Lets every owner sign claims for addresses of its own.
fn prepare(setup: &mut Setup, token: &Token, claims: usize) -> anyhow::Result<Vec<Ready>> {
    let each = claims.div_ceil(usize::from(OWNERS));
    let mut ready = Vec::new();
    for owner in 0..OWNERS {
        let number = owner + 100;
        let mut namespace = setup.owner(number, token)?;
        let from = key(number).peer_id();
        for index in 0..each {
            let index = u32::try_from(usize::from(owner) * each + index)?;
            let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 64, 1, 0)) + index);
            let (id, client) = (CommandId(index.into()), ClientId::of(&index.to_be_bytes()));
            let (want, only_wanted, hold, keep) = (Some(ip), true, Hold::Full, false);
            let claim = Command::ClaimAddress { id, client, want, only_wanted, hold, keep };
            namespace.handle_command(claim, setup.clock.now());
            while let Some(output) = namespace.poll_output() {
                // Whatever else it says, such as that it may become a replica, is another matter.
                if let Output::Send { to, message } = output
                    && matches!(Message::from_bytes(&message), Ok(Message::Ops { .. }))
                {
                    ready.push(Ready { from, to, message, ip });
                }
            }
        }
    }
    // One of each owner in turn.
    let mut order: Vec<Option<Ready>> = ready.into_iter().map(Some).collect();
    let turns = (0..each).flat_map(|index| (0..usize::from(OWNERS)).map(move |owner| owner * each + index));
    Ok(turns.filter_map(|place| order.get_mut(place)?.take()).collect())
}

type Wire1 = (PeerId, Vec<u8>);

/// Runs one replica as the driver does, until nobody sends any more.
fn serve(
    mut replica: Replica,
    clock: Clock,
    inputs: &Receiver<Wire1>,
    others: &BTreeMap<PeerId, SyncSender<Wire1>>,
    owners: &SyncSender<Wire1>,
) -> anyhow::Result<Replica> {
    loop {
        let now = clock.now();
        if replica.namespace.poll_timeout().is_some_and(|(at, _)| at <= now.mono) {
            replica.namespace.handle_timeout(now);
        }
        match inputs.recv_timeout(Duration::from_millis(50)) {
            Ok((from, message)) if message.is_empty() && from == replica.peer => return Ok(replica),
            Ok((from, message)) => replica.namespace.handle_message(from, &message, clock.now()),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(replica),
        }
        for _ in 1..MOST_AT_ONCE {
            match inputs.try_recv() {
                Ok((from, message)) if message.is_empty() && from == replica.peer => return Ok(replica),
                Ok((from, message)) => replica.namespace.handle_message(from, &message, clock.now()),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        let (mut writes, mut sends) = (Vec::new(), Vec::new());
        while let Some(output) = replica.namespace.poll_output() {
            #[expect(clippy::wildcard_enum_match_arm, reason = "nothing else comes of operations")]
            match output {
                Output::Persist(more) => writes.extend(more),
                Output::Send { to, message } => sends.push((to, message)),
                _ => {}
            }
        }
        if !writes.is_empty() {
            replica.store.commit(&writes)?;
            replica.commits += 1;
        }
        for (to, message) in sends {
            // A replica that has ended needs no more votes.
            let _ = others.get(&to).unwrap_or(owners).send((replica.peer, message));
        }
    }
}

fn measure(dir: &Path, count: u8, window: usize, claims: usize) -> anyhow::Result<()> {
    let (mut setup, token) = Setup::new(dir, count)?;
    let ready = prepare(&mut setup, &token, claims)?;
    let Setup { clock, replicas, syncs, .. } = setup;
    syncs.store(0, Ordering::Relaxed);
    let (to_owners, answers) = sync_channel(QUEUE);
    let mut senders = BTreeMap::new();
    let mut receivers = Vec::new();
    for replica in &replicas {
        let (sender, receiver) = sync_channel(QUEUE);
        senders.insert(replica.peer, sender);
        receivers.push(receiver);
    }
    let threads: Vec<JoinHandle<anyhow::Result<Replica>>> = replicas
        .into_iter()
        .zip(receivers)
        .map(|(replica, inputs)| {
            let (others, owners) = (senders.clone(), to_owners.clone());
            std::thread::spawn(move || serve(replica, clock, &inputs, &others, &owners))
        })
        .collect();
    let (seconds, mut latencies) = drive(ready, window, &senders, &answers)?;
    for (peer, sender) in &senders {
        sender.send((*peer, Vec::new()))?;
    }
    drop(senders);
    let mut commits = 0;
    for thread in threads {
        let Ok(replica) = thread.join() else { bail!("a replica died") };
        commits += replica?.commits;
    }
    latencies.sort_unstable();
    let grants = latencies.len();
    let at = |share: f64| latencies[((grants - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    println!(
        "register n={count} window={window} grants={grants} grants_s={:.0} syncs={:.3} commits={:.3} p50_ms={:.2} p99_ms={:.2} syncs_s={:.0}",
        grants as f64 / seconds,
        syncs.load(Ordering::Relaxed) as f64 / grants as f64,
        commits as f64 / grants as f64,
        at(0.5),
        at(0.99),
        syncs.load(Ordering::Relaxed) as f64 / seconds,
    );
    Ok(())
}

/// Keeps so many operations under way until all are granted.
fn drive(
    ready: Vec<Ready>,
    window: usize,
    senders: &BTreeMap<PeerId, SyncSender<Wire1>>,
    answers: &Receiver<Wire1>,
) -> anyhow::Result<(f64, Vec<Duration>)> {
    let total = ready.len();
    let mut under_way: BTreeMap<Ipv4Addr, Instant> = BTreeMap::new();
    let mut latencies = Vec::new();
    let mut ready = ready.into_iter();
    let began = instant();
    while latencies.len() < total {
        while under_way.len() < window {
            let Some(Ready { from, to, message, ip }) = ready.next() else { break };
            under_way.insert(ip, instant());
            senders.get(&to).context("an owner asks replicas")?.send((from, message))?;
        }
        let (_, message) = answers.recv_timeout(Duration::from_secs(20)).context("an operation got no answer")?;
        let Ok(Message::Results { items, .. }) = Message::from_bytes(&message) else { continue };
        for item in items {
            let RegisterKey::Lease(LeaseKey::Address(ip)) = item.key else { continue };
            ensure!(matches!(item.outcome, Outcome::Granted(_)), "not granted: {:?}", item.outcome);
            if let Some(since) = under_way.remove(&ip) {
                latencies.push(since.elapsed());
            }
        }
    }
    Ok((began.elapsed().as_secs_f64(), latencies))
}
