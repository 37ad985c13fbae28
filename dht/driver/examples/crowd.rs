//! Many real nodes in one process, over loopback: what one costs at rest, and what a lookup in Kademlia takes.
//!
//! `crowd NODES SECONDS LOOKUPS`: five founders, everybody else joins with an invite; each leases an address and a name.
//! Then it waits until they have come to rest, measures for so many seconds, and looks up so many names that nobody has.
//! Run it in a network namespace of its own (`unshare --net`, `ip link set lo up`), for it counts all of its packets.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a program for people and for cargo xtask scale")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use dht::create::{CreateRequest, found};
use dht::identity::SecretKey;
use dht::join::Joiner;
use dht::token::{Contact, ContactAddress, MAX_CONTACTS, Token};
use dht::{
    BootId, ClientId, Command, CommandId, Event, Hold, Image, Keys, Namespace, NamespaceId, Now, OwnerTime,
    ReplicaTime, Role, Write,
};
use dht_driver::{Clocks, DriverConfig, DriverEvent, Loopback, Start, Store, run};
use libp2p::PeerId;
use tokio::sync::{mpsc, oneshot};
use tracing::field::{Field, Visit};
use zeroize::Zeroizing;

const FOUNDERS: u16 = 5;
const FIRST_PORT: u16 = 20_000;
const TODAY: u64 = 1_800_000_000;
const NAME: &str = "crowd";
/// Newcomers that join at the same time.
const AT_ONCE: usize = 8;
/// Longer than the two minutes after which Kademlia refreshes its table, so that all have done it once.
const SETTLING: Duration = Duration::from_secs(150);

fn main() -> anyhow::Result<()> {
    let words: Vec<u64> = std::env::args().skip(1).map(|word| word.parse()).collect::<Result<_, _>>()?;
    let [nodes, seconds, lookups] = words[..] else { anyhow::bail!("usage: crowd NODES SECONDS LOOKUPS") };
    let seen = Arc::new(Mutex::new(Vec::new()));
    tracing::subscriber::set_global_default(Listener(seen.clone()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(u16::try_from(nodes)?, seconds, usize::try_from(lookups)?, &seen))
}

/// One lookup: questions asked, answers, and entries of the asker's table.
type Seen = Arc<Mutex<Vec<BTreeMap<&'static str, u64>>>>;

/// Listens to what the driver logs of its lookups.
struct Listener(Seen);

struct Numbers(BTreeMap<&'static str, u64>);

impl Visit for Numbers {
    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name(), value);
    }
}

impl tracing::Subscriber for Listener {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "dht_driver::network" && metadata.fields().field("requests").is_some()
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut numbers = Numbers(BTreeMap::new());
        event.record(&mut numbers);
        if let Ok(mut seen) = self.0.lock() {
            seen.push(numbers.0);
        }
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[derive(Clone, Copy)]
struct RealClock(Instant);

impl RealClock {
    #[expect(clippy::disallowed_methods, reason = "real nodes run in real time")]
    fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clocks for RealClock {
    #[expect(clippy::disallowed_methods, reason = "real nodes run in real time")]
    fn now(&self) -> Now {
        let mono = Instant::now();
        let passed = mono - self.0;
        let (owner, replica) = (OwnerTime(passed), ReplicaTime(passed));
        Now { mono, owner, replica, boot: BootId([1; 16]), jumps: 0, unix_s: TODAY + passed.as_secs() }
    }
}

/// A driver that runs, and what is kept of what it tells.
struct Node {
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<DriverEvent>,
    _shutdown: oneshot::Sender<()>,
}

struct World {
    dir: PathBuf,
    ns: NamespaceId,
    clock: RealClock,
    links: Arc<AtomicI64>,
    granted: Arc<AtomicI64>,
    nodes: Vec<mpsc::Sender<Command>>,
}

fn key(number: u16) -> SecretKey {
    SecretKey::from_seed(&seed(number, 1))
}

fn seed(number: u16, salt: u8) -> [u8; 32] {
    let [a, b] = number.to_be_bytes();
    let mut seed = [salt; 32];
    seed[..2].copy_from_slice(&[a, b]);
    seed
}

fn data(number: u16) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(seed(number, 2))
}

impl World {
    fn config(&self, number: u16, data: Zeroizing<[u8; 32]>) -> DriverConfig {
        let mut config = DriverConfig::new(self.ns, key(number).seed(), data, FIRST_PORT + number, seed(number, 3));
        config.listen = vec![Ipv4Addr::LOCALHOST.into()];
        config.mdns = false;
        config.loopback = Loopback::Dial;
        config
    }

    fn store(&self, number: u16, writes: &[Write]) -> anyhow::Result<(Store, Image)> {
        Ok(Store::create(&self.dir.join(number.to_string()), writes)?)
    }

    fn start(&self, config: DriverConfig, start: Start, store: Store) -> Node {
        let (commands, taken) = mpsc::channel(64);
        let (told, events) = mpsc::channel(1024);
        let (shutdown, stopped) = oneshot::channel();
        tokio::spawn(run(config, start, store, self.clock, taken, told, stopped));
        Node { commands, events, _shutdown: shutdown }
    }

    /// Leases an address and a name as the daemon does, and counts connections from here on.
    async fn keep(&mut self, number: u16, mut node: Node) -> anyhow::Result<()> {
        let client = ClientId::of(b"self");
        let (want, only_wanted, hold, keep) = (None, false, Hold::Full, true);
        let claim = Command::ClaimAddress { id: CommandId(1), client, want, only_wanted, hold, keep };
        node.commands.send(claim).await?;
        let claim = Command::ClaimName { id: CommandId(2), name: format!("host-{number}"), client, keep };
        node.commands.send(claim).await?;
        let (links, granted) = (self.links.clone(), self.granted.clone());
        self.nodes.push(node.commands.clone());
        tokio::spawn(async move {
            let _stays = (node.commands, node._shutdown);
            while let Some(event) = node.events.recv().await {
                #[expect(clippy::wildcard_enum_match_arm, reason = "the others are not counted")]
                match event {
                    DriverEvent::Connected { .. } => links.fetch_add(1, Ordering::Relaxed),
                    DriverEvent::Disconnected { .. } => links.fetch_sub(1, Ordering::Relaxed),
                    DriverEvent::Core(Event::Claimed { outcome: Ok(_), .. }) => granted.fetch_add(1, Ordering::Relaxed),
                    _ => 0,
                };
            }
        });
        Ok(())
    }
}

async fn measure(nodes: u16, seconds: u64, lookups: usize, seen: &Seen) -> anyhow::Result<()> {
    ensure!(nodes >= FOUNDERS, "at least {FOUNDERS} nodes");
    let dir = std::env::temp_dir().join(format!("overlay-crowd-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let before = resident()?;
    let done = crowd(&dir, nodes, seconds, lookups, seen, before).await;
    std::fs::remove_dir_all(&dir)?;
    done
}

async fn crowd(dir: &Path, nodes: u16, seconds: u64, lookups: usize, seen: &Seen, before: u64) -> anyhow::Result<()> {
    let began = RealClock::new();
    let (mut world, token) = begin(dir).await?;
    let mut next = FOUNDERS;
    while next < nodes {
        let many: Vec<u16> = (next..nodes).take(AT_ONCE).collect();
        next += u16::try_from(many.len())?;
        let joined = futures::future::join_all(many.iter().map(|number| join(&world, *number, &token))).await;
        for (number, node) in many.into_iter().zip(joined) {
            world.keep(number, node?).await?;
        }
    }
    let joined = began.now().owner.0;
    pause(SETTLING).await;
    let start = Counters::read()?;
    let links = world.links.load(Ordering::Relaxed);
    pause(Duration::from_secs(seconds)).await;
    let rest = Counters::read()?.since(&start);
    let per = |count: u64| count as f64 / f64::from(nodes) / (seconds as f64 / 60.0);
    println!(
        "real n={nodes} joined_s={:.1} granted={} links={:.1} memory_kb={:.0} packets={:.1} bytes={:.0} tcp={:.1} cpu_ms={:.1}",
        joined.as_secs_f64(),
        world.granted.load(Ordering::Relaxed),
        links as f64 / f64::from(nodes),
        (resident()? - before) as f64 / f64::from(nodes),
        per(rest.datagrams),
        per(rest.bytes),
        per(rest.segments),
        per(rest.cpu_ms),
    );
    if lookups > 0 {
        look_up(&world, nodes, lookups, seen).await?;
    }
    Ok(())
}

/// Founds the namespace, starts the founders, and makes an invite for all.
async fn begin(dir: &Path) -> anyhow::Result<(World, Vec<Token>)> {
    let keys: Vec<SecretKey> = (0..FOUNDERS).map(key).collect();
    let range = Some("10.64.0.0/16".parse()?);
    let request = CreateRequest { name: NAME.into(), range, lease: Duration::from_secs(3600), recovery: None };
    let (ns, authority, founders) = found(request, &keys.iter().collect::<Vec<_>>(), [7; 32], TODAY)?;
    let clock = RealClock::new();
    let (links, granted) = <(Arc<AtomicI64>, Arc<AtomicI64>)>::default();
    let mut world = World { dir: dir.to_owned(), ns, clock, links, granted, nodes: Vec::new() };
    let mut authority = Some(authority);
    let mut running = Vec::new();
    for (number, founder) in (0..FOUNDERS).zip(founders) {
        let mut config = world.config(number, founder.data.clone());
        config.peers = (0..FOUNDERS)
            .filter(|other| *other != number)
            .map(|other| {
                format!("/ip4/127.0.0.1/udp/{}/quic-v1/p2p/{}", FIRST_PORT + other, key(other).peer_id()).parse()
            })
            .collect::<Result<_, _>>()?;
        let (store, image) = world.store(number, &founder.writes)?;
        let keys = Keys { identity: key(number), data: founder.data, authority: authority.take() };
        let namespace = Namespace::load(keys, &image, seed(number, 4), clock.now())?;
        running.push(world.start(config, Start::Member(Box::new(namespace)), store));
    }
    pause(Duration::from_secs(3)).await;
    let mut tokens = Vec::new();
    // An invite is for 64 at most, and each of its slots makes the next one dearer.
    for _ in 0..64 {
        tokens.push(invite(&mut running[0]).await?);
    }
    for (number, node) in (0..FOUNDERS).zip(running) {
        world.keep(number, node).await?;
    }
    Ok((world, tokens))
}

async fn invite(node: &mut Node) -> anyhow::Result<Token> {
    let contacts = (0..FOUNDERS).take(MAX_CONTACTS).map(|number| Contact {
        identity: key(number).public(),
        addresses: vec![ContactAddress::Socket(SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST_PORT + number)))],
    });
    let (ttl, role) = (Duration::from_secs(86_400), Role::Member);
    let contacts = contacts.collect();
    node.commands.send(Command::Invite { id: CommandId(9), uses: 64, ttl, role, hosts: 0, contacts }).await?;
    while let Some(event) = node.events.recv().await {
        if let DriverEvent::Core(Event::Invited { outcome, .. }) = event {
            return Ok(Token::parse(&outcome?)?);
        }
    }
    anyhow::bail!("the founder ended")
}

async fn join(world: &World, number: u16, tokens: &[Token]) -> anyhow::Result<Node> {
    let token = &tokens[usize::from(number) % tokens.len()];
    let token = Token::parse(&token.to_text())?;
    let (store, image) = world.store(number, &[])?;
    let joiner = Joiner::new(key(number), data(number), NAME, token, &image, seed(number, 5), world.clock.now());
    let mut node = world.start(world.config(number, data(number)), Start::Joiner(Box::new(joiner)), store);
    while let Some(event) = node.events.recv().await {
        match event {
            DriverEvent::Joined(_) => return Ok(node),
            DriverEvent::JoinFailed(why) | DriverEvent::Fatal(why) => anyhow::bail!("node {number}: {why}"),
            DriverEvent::Core(_)
            | DriverEvent::Joining { .. }
            | DriverEvent::Listening(_)
            | DriverEvent::ExternalCandidate(_)
            | DriverEvent::Connected { .. }
            | DriverEvent::Disconnected { .. }
            | DriverEvent::ProxyRefuses(_) => {}
        }
    }
    anyhow::bail!("node {number} ended")
}

/// Lets one node after the other look for somebody who does not exist.
async fn look_up(world: &World, nodes: u16, lookups: usize, seen: &Seen) -> anyhow::Result<()> {
    let count = || seen.lock().map(|seen| seen.len()).unwrap_or_default();
    let earlier = count();
    for round in 0..lookups {
        let asker = (round * 7) % usize::from(nodes);
        let peer = PeerId::from_public_key(&libp2p::identity::Keypair::generate_ed25519().public());
        world.nodes[asker].send(Command::Connect { peer }).await?;
        for _ in 0..400 {
            if count() > earlier + round {
                break;
            }
            pause(Duration::from_millis(25)).await;
        }
    }
    let seen = seen.lock().map(|seen| seen[earlier..].to_vec()).unwrap_or_default();
    let figures = |field: &str| {
        let values: Vec<f64> = seen.iter().filter_map(|one| one.get(field)).map(|value| *value as f64).collect();
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        let spread = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len().max(1) as f64;
        (mean, spread.sqrt())
    };
    let (requests, spread) = figures("requests");
    println!(
        "lookup n={nodes} lookups={} requests={requests:.3} spread={spread:.3} answers={:.3} table={:.3}",
        seen.len(),
        figures("answers").0,
        figures("known").0,
    );
    Ok(())
}

async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

/// What this network namespace and this process have used so far.
struct Counters {
    datagrams: u64,
    segments: u64,
    bytes: u64,
    cpu_ms: u64,
}

impl Counters {
    fn read() -> anyhow::Result<Self> {
        let snmp = std::fs::read_to_string("/proc/net/snmp")?;
        let of = |protocol: &str, field: &str| -> anyhow::Result<u64> {
            let mut lines = snmp.lines().filter(|line| line.starts_with(protocol)).map(str::split_whitespace);
            let (mut names, mut values) = lines.next().zip(lines.next()).context("/proc/net/snmp")?;
            let place = names.position(|name| name == field).context("a field of /proc/net/snmp")?;
            Ok(values.nth(place).context("a value of /proc/net/snmp")?.parse()?)
        };
        let dev = std::fs::read_to_string("/proc/net/dev")?;
        let lo = dev.lines().find_map(|line| line.trim().strip_prefix("lo:")).context("no loopback device")?;
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        let ticks: u64 = stat.split_whitespace().skip(13).take(2).filter_map(|word| word.parse::<u64>().ok()).sum();
        Ok(Self {
            datagrams: of("Udp:", "OutDatagrams")?,
            segments: of("Tcp:", "OutSegs")?,
            bytes: lo.split_whitespace().next().context("no bytes")?.parse()?,
            cpu_ms: ticks * 10,
        })
    }

    fn since(&self, start: &Self) -> Self {
        Self {
            datagrams: self.datagrams - start.datagrams,
            segments: self.segments - start.segments,
            bytes: self.bytes - start.bytes,
            cpu_ms: self.cpu_ms - start.cpu_ms,
        }
    }
}

/// Resident memory of this process, in kB.
fn resident() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.split_whitespace().next().context("no value")?.parse()?)
}
