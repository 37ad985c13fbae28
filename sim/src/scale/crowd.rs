//! All members of a namespace in virtual time: the shipped state machines, and a wire.
//!
//! A message takes [`delay::between`] its two nodes, and what a node writes to disk before it sends takes [`SYNC`] more.
//! A connection is made when there is something to send: one round trip for QUIC, one for the hellos. It is closed at both
//! ends when nothing went over it for [`IDLE`], as the driver does. The founders are the replicas of all shards, and stay.

mod life;
mod wire;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::time::Duration;

use dht::{ClaimError, ClientId, Command, CommandId, Event, Hold, LeaseKey};
use ipnet::Ipv4Net;
use libp2p_identity::PeerId;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::figures::Samples;
use super::founding::{Founding, copy, seed_of, stranger};
use super::member::{Claim, Clock, Link, Member};
use super::{Line, delay};

/// A write to disk that is waited for.
pub const SYNC: Duration = Duration::from_millis(2);
/// A connection that nothing goes over.
pub const IDLE: Duration = Duration::from_secs(20);
/// Mean time that a member that went stays away.
const AWAY: Duration = Duration::from_secs(600);

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Everything random follows from it.
    pub seed: u64,
    /// How many members there are in the end, the founders included.
    pub members: u32,
    /// Replicas of every shard: 1, 3 or 5.
    pub founders: u8,
    /// The namespace's addresses.
    pub range: Ipv4Net,
    /// The namespace's lease.
    pub lease: Duration,
    /// How long it takes until all have come.
    pub joining: Duration,
    /// How long everybody stays, then.
    pub steady: Duration,
    /// How long members go and come back, then.
    pub churning: Duration,
    /// Which share of the members goes in an hour.
    pub churn: f64,
}

/// What was counted in one stretch of time.
#[derive(Debug, Default)]
pub struct Counts {
    /// Messages that left a node, hellos included.
    pub messages: u64,
    /// Their bytes, without those of the transport.
    pub bytes: u64,
    /// Of them, sent or received by a replica's busiest.
    pub at_replicas: u64,
    /// Connections made.
    pub connections: u64,
    /// Hints given to Kademlia.
    pub published: u64,
    /// Seconds from the command until the address was granted.
    pub address: Samples,
    /// The same for names.
    pub name: Samples,
    /// Addresses tried for one claim.
    pub tries: Samples,
    /// Claims that were not granted.
    pub failed: u64,
    /// Kept leases renewed or got back.
    pub renewed: u64,
    /// Leases that ended before their owner wanted.
    pub lost: u64,
    /// Seconds from the start of a joiner until it is a member.
    pub joined: Samples,
    /// Joins that failed for good.
    pub turned_away: u64,
    /// Members that went.
    pub left: u64,
    /// The most connections that one replica had.
    pub peak: usize,
    /// Of replicas: transactions that were waited for.
    pub syncs: u64,
}

#[derive(Debug)]
enum What {
    Join,
    Wake,
    Greet(u32),
    Hello(u32, Vec<u8>),
    Response(u32, Vec<u8>),
    Message(u32, Vec<u8>),
    Gone(u32),
    Idle(u32),
    Go,
    Stop,
    Return,
}

struct Under {
    at: Duration,
    number: u64,
    node: u32,
    what: What,
}

impl PartialEq for Under {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Under {}
impl PartialOrd for Under {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Under {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// The world of the crowd.
pub struct Crowd {
    plan: Plan,
    founding: Founding,
    members: Vec<Member>,
    numbers: HashMap<PeerId, u32>,
    under_way: BinaryHeap<Reverse<Under>>,
    time: Duration,
    next: u64,
    command: u64,
    joining: BTreeMap<u32, Duration>,
    churning: bool,
    rng: ChaCha8Rng,
    /// What was counted since it was taken last.
    pub counts: Counts,
}

impl std::fmt::Debug for Crowd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Crowd of {} at {:?}", self.members.len(), self.time)
    }
}

impl Crowd {
    /// Founds the namespace, and says when everybody comes.
    pub fn new(plan: Plan) -> Self {
        let (founding, founders) = Founding::new(plan.founders, plan.range, plan.lease, plan.seed);
        let mut crowd = Self {
            plan,
            founding,
            members: founders,
            numbers: HashMap::new(),
            under_way: BinaryHeap::new(),
            time: Duration::ZERO,
            next: 0,
            command: 0,
            joining: BTreeMap::new(),
            churning: false,
            rng: ChaCha8Rng::seed_from_u64(plan.seed ^ 0x6372_6f77),
            counts: Counts::default(),
        };
        for number in 0..u32::from(plan.founders) {
            let peer = crowd.members[number as usize].peer;
            crowd.numbers.insert(peer, number);
            crowd.start(number);
        }
        for number in u32::from(plan.founders)..plan.members {
            let member = stranger(plan.seed, number);
            crowd.numbers.insert(member.peer, number);
            crowd.members.push(member);
            let share = f64::from(number) / f64::from(plan.members);
            crowd.later(plan.joining.mul_f64(share), number, What::Join);
        }
        crowd
    }

    /// Lets virtual time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.time + time;
        while self.under_way.peek().is_some_and(|Reverse(next)| next.at <= end) {
            let Some(Reverse(Under { at, node, what, .. })) = self.under_way.pop() else { break };
            self.time = at;
            self.handle(node, what);
        }
        self.time = end;
    }

    /// Members that run as such.
    pub fn running(&self) -> usize {
        self.members.iter().filter(|member| matches!(member.machine, super::member::Machine::Live(_))).count()
    }

    /// What is on the disk of a replica.
    pub fn disk(&self, replica: u32) -> &dht::Image {
        &self.members[replica as usize].disk
    }

    /// What replicas have ignored or turned away since they started, by reason.
    pub fn ignored(&self) -> String {
        let mut all = BTreeMap::<String, u64>::new();
        for member in self.members.iter().take(self.plan.founders.into()) {
            let super::member::Machine::Live(namespace) = &member.machine else { continue };
            for (reason, count) in namespace.drops() {
                *all.entry(reason.as_str().to_owned()).or_default() += count;
            }
            for (refusal, count) in namespace.membership().refused() {
                *all.entry(refusal.to_string()).or_default() += count;
            }
        }
        all.iter().map(|(reason, count)| format!("{reason}:{count}")).collect::<Vec<_>>().join(",")
    }

    /// Members that use an address, and pairs of them that use the same one: none, or the register is broken.
    pub fn owners(&self) -> (usize, usize) {
        let mut owners: BTreeMap<LeaseKey, usize> = BTreeMap::new();
        for member in &self.members {
            let super::member::Machine::Live(namespace) = &member.machine else { continue };
            let now = member.clock.now(self.time);
            for key in member.held.iter().filter(|key| namespace.lease(key, now).is_some()) {
                *owners.entry(key.clone()).or_default() += 1;
            }
        }
        let addresses = owners.keys().filter(|key| matches!(key, LeaseKey::Address(_))).count();
        (addresses, owners.values().filter(|count| **count > 1).count())
    }

    fn later(&mut self, delay: Duration, node: u32, what: What) {
        self.next += 1;
        self.under_way.push(Reverse(Under { at: self.time + delay, number: self.next, node, what }));
    }

    fn delay(&self, a: u32, b: u32) -> Duration {
        delay::between(self.plan.seed, a, b)
    }

    fn is_replica(&self, node: u32) -> bool {
        node < u32::from(self.plan.founders)
    }

    fn handle(&mut self, node: u32, what: What) {
        match what {
            What::Join => self.join(node),
            What::Wake => {
                let at = self.time;
                let member = &mut self.members[node as usize];
                if member.wake != Some(at) {
                    return;
                }
                member.wake = None;
                member.handle_timeout(at);
            }
            What::Greet(to) => self.greet(node, to),
            What::Hello(from, bytes) => self.handle_hello(node, from, &bytes),
            What::Response(from, bytes) => self.handle_response(node, from, &bytes),
            What::Message(from, bytes) => self.handle_message(node, from, &bytes),
            What::Gone(peer) => self.lose(node, peer),
            What::Idle(peer) => self.close_if_idle(node, peer),
            What::Go => self.go(node),
            What::Stop => self.stop(node),
            What::Return => self.come_back(node),
        }
        self.drain(node);
    }

    /// Commands what a node's engine commands when it begins: its address and its name, to be kept.
    fn claim(&mut self, node: u32) {
        let client = ClientId::of(b"self");
        let (want, only_wanted, hold, keep) = (None, false, Hold::Full, true);
        let id = self.note(node, true);
        let claim = Command::ClaimAddress { id, client, want, only_wanted, hold, keep };
        self.members[node as usize].command(claim, self.time);
        let id = self.note(node, false);
        let claim = Command::ClaimName { id, name: format!("host-{node}"), client, keep };
        self.members[node as usize].command(claim, self.time);
    }

    fn note(&mut self, node: u32, is_address: bool) -> CommandId {
        self.command += 1;
        let claim = Claim { since: self.time, keys: Vec::new(), is_address };
        self.members[node as usize].claims.insert(self.command, claim);
        CommandId(self.command)
    }

    fn handle_event(&mut self, node: u32, event: Event) {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the others count for nothing here")]
        match event {
            Event::Claimed { id, outcome } => {
                let Some(claim) = self.members[node as usize].claims.remove(&id.0) else { return };
                let took = self.time.saturating_sub(claim.since).as_secs_f64();
                let lease = match outcome {
                    Ok(lease) => lease,
                    // It left before the answer came.
                    Err(ClaimError::GivenUp) => return,
                    Err(_) => {
                        self.counts.failed += 1;
                        return;
                    }
                };
                self.members[node as usize].held.insert(lease.key);
                if claim.is_address {
                    self.counts.address.add(took);
                    #[expect(clippy::cast_precision_loss, reason = "a handful")]
                    self.counts.tries.add(claim.keys.len().max(1) as f64);
                } else {
                    self.counts.name.add(took);
                }
            }
            Event::LeaseChanged { lease } => {
                self.counts.renewed += 1;
                self.members[node as usize].held.insert(lease.key);
            }
            Event::LeaseLost { .. } => self.counts.lost += 1,
            Event::Left { .. } => self.later(Duration::ZERO, node, What::Stop),
            _ => {}
        }
    }

    /// The figures of the time since they were taken last.
    pub fn take(&mut self, what: &str, time: Duration) -> Line {
        let counts = std::mem::take(&mut self.counts);
        let hours = time.as_secs_f64() / 3600.0;
        #[expect(clippy::cast_precision_loss, reason = "counts")]
        let per_hour = |count: u64| count as f64 / hours / f64::from(self.plan.members);
        let ms = |samples: &Samples, share: f64| samples.quantile(share) * 1000.0;
        Line::new("crowd")
            .with("phase", what)
            .with("n", self.plan.members)
            .with("range", self.plan.range)
            .with("seconds", time.as_secs())
            .with("running", self.running())
            .number("messages", per_hour(counts.messages))
            .number("bytes", per_hour(counts.bytes))
            .number("connections", per_hour(counts.connections))
            .number("published", per_hour(counts.published))
            .number("renewed", per_hour(counts.renewed))
            .with("claims", counts.address.count())
            .measured("claim_ms", &counts.address, |samples| ms(samples, 0.5))
            .measured("claim99_ms", &counts.address, |samples| ms(samples, 0.99))
            .measured("name_ms", &counts.name, |samples| ms(samples, 0.5))
            .measured("tries", &counts.tries, Samples::mean)
            .measured("tries_most", &counts.tries, |samples| samples.quantile(1.0))
            .measured("join_ms", &counts.joined, |samples| ms(samples, 0.5))
            .with("joined", counts.joined.count())
            .with("turned_away", counts.turned_away)
            .with("failed", counts.failed)
            .with("lost", counts.lost)
            .with("left", counts.left)
            .with("peak_links", counts.peak)
            .number("replica_messages_s", {
                #[expect(clippy::cast_precision_loss, reason = "counts")]
                let all = counts.at_replicas as f64;
                all / time.as_secs_f64() / f64::from(self.plan.founders)
            })
            .number("replica_syncs_s", {
                #[expect(clippy::cast_precision_loss, reason = "counts")]
                let all = counts.syncs as f64;
                all / time.as_secs_f64() / f64::from(self.plan.founders)
            })
    }
}

/// The first replica of a plan's namespace, with this on its disk, as after a restart.
pub fn load_replica(plan: &Plan, disk: dht::Image) -> dht::Namespace {
    let (_, mut founders) = Founding::new(plan.founders, plan.range, plan.lease, plan.seed);
    let founder = founders.swap_remove(0);
    let keys = dht::Keys { identity: copy(&founder.key), data: founder.data.clone(), authority: None };
    let at = Duration::from_secs(86_400);
    dht::Namespace::load(keys, &disk, [1; 32], Clock::new(at).now(at)).expect("its own disk")
}

fn seed(crowd: &Crowd, node: u32) -> [u8; 32] {
    seed_of(crowd.plan.seed ^ 0x7374_6172 ^ u64::from(crowd.members[node as usize].starts) << 32, node)
}

fn fresh(at: Duration, ours: bool) -> Link {
    Link { open: false, ours, waiting: Vec::new(), used: at }
}
