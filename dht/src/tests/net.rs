//! A handful of namespaces with disks, clocks and a wire on which messages wait until the test lets them go.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;

use crate::clock::{BootId, Now, OwnerTime, ReplicaTime};
use crate::codec::Wire;
use crate::command::{ClientId, Command, CommandId, Hold, LeaseKey};
use crate::env::Rules;
use crate::event::{ClaimError, Event, Lease, Output, Resolution};
use crate::identity::SecretKey;
use crate::membership::fixture::{TODAY, World, apply, at, data, key, peer};
use crate::message::{MAX_MESSAGE, Message, ViewMessage};
use crate::namespace::{Image, Keys, Namespace};
use crate::record::{RegisterKey, Value};
use crate::view::Member;

/// The lease of the fixture's namespaces.
pub(super) const D: Duration = Duration::from_secs(86_400);
/// After this no replica keeps a lease any more.
pub(super) const FREE: Duration = Duration::from_secs(88_200);

/// By then replicas that were started together vote: they have asked each other what they saw of their stores.
pub(super) const ASKING: Duration = Duration::from_secs(4);

pub(super) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A message under way.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) from: u8,
    pub(super) to: u8,
    pub(super) message: Message,
}

pub(super) struct Node {
    pub(super) disk: Image,
    data: zeroize::Zeroizing<[u8; 32]>,
    pub(super) live: Option<Namespace>,
    pub(super) events: Vec<Event>,
    pub(super) persisted: usize,
    booted: Duration,
    boot: u8,
    starts: u8,
    /// How fast its clocks run, in percent: the owner's and the replica's.
    pub(super) rates: (u32, u32),
    /// What the owner's clock counted while the machine slept.
    pub(super) slept: Duration,
    /// How often its clocks jumped.
    pub(super) jumps: u32,
    /// Whether others reach it from outside.
    pub(super) public: bool,
    /// Whether the authority key is on this machine.
    pub(super) authority: bool,
}

pub(super) struct Net {
    pub(super) world: World,
    pub(super) nodes: BTreeMap<u8, Node>,
    pub(super) wire: Vec<Packet>,
    /// What was sent to somebody who is no node here.
    pub(super) outside: Vec<Packet>,
    pub(super) time: Duration,
    /// The wall clock's lead over the time since the test began.
    pub(super) wall: u64,
    /// What was published.
    pub(super) hints: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What was looked for.
    pub(super) sought: Vec<Vec<u8>>,
    rules: Rules,
    next_id: u64,
    forced: u64,
    /// Messages that arrived, but for those that only say that somebody is there.
    pub(super) delivered: usize,
}

impl Net {
    /// Founders 1.. who vote, and members with these numbers who do not.
    pub(super) fn new(founders: u8, members: &[u8], rules: Rules) -> Self {
        let mut world = World::with_founders("lab", founders, TODAY);
        let mut disks: Vec<(u8, zeroize::Zeroizing<[u8; 32]>, Image)> = (1..=founders)
            .map(|number| {
                let (data, disk) = &world.founders[usize::from(number) - 1];
                (number, data.clone(), disk.clone())
            })
            .collect();
        for number in members {
            let token = world.invite_as(1, crate::command::Role::Member, secs(3600), *number);
            disks.push((*number, data(*number), world.join(token, *number).disk));
        }
        let mut net = Self {
            world,
            nodes: BTreeMap::new(),
            wire: Vec::new(),
            outside: Vec::new(),
            time: secs(1),
            wall: 0,
            hints: BTreeMap::new(),
            sought: Vec::new(),
            rules,
            next_id: 1,
            forced: 0,
            delivered: 0,
        };
        for (number, data, disk) in disks {
            let node = Node {
                disk,
                data,
                live: None,
                events: Vec::new(),
                persisted: 0,
                booted: Duration::ZERO,
                boot: 1,
                starts: 0,
                rates: (100, 100),
                slept: Duration::ZERO,
                jumps: 0,
                public: true,
                authority: number == 1,
            };
            net.nodes.insert(number, node);
            net.start(number);
        }
        if founders > 1 {
            net.run(ASKING, none);
        }
        net
    }

    pub(super) fn now(&self, number: u8) -> Now {
        let node = &self.nodes[&number];
        let up = self.time - node.booted;
        let base = at(TODAY + self.wall + self.time.as_secs(), self.time);
        Now {
            owner: OwnerTime(up * node.rates.0 / 100 + node.slept),
            replica: ReplicaTime(up * node.rates.1 / 100),
            boot: BootId([node.boot; 16]),
            jumps: node.jumps,
            ..base
        }
    }

    /// Starts the process, and lets it greet everybody.
    pub(super) fn start(&mut self, number: u8) {
        let now = self.now(number);
        let rules = self.rules;
        let node = self.nodes.get_mut(&number).unwrap();
        node.starts += 1;
        let authority = node.authority.then(|| SecretKey::from_seed(&self.world.authority.seed()));
        let keys = Keys { identity: key(number), data: node.data.clone(), authority };
        let seed = [number.wrapping_mul(16).wrapping_add(node.starts); 32];
        node.live = Some(Namespace::load_with(rules, keys, &node.disk, seed, now).unwrap());
        self.drain(number);
        let others: Vec<u8> =
            self.nodes.iter().filter(|(n, node)| **n != number && node.live.is_some()).map(|(n, _)| *n).collect();
        for other in others {
            self.greet(number, other);
        }
    }

    fn greet(&mut self, a: u8, b: u8) {
        let (now_a, now_b) = (self.now(a), self.now(b));
        let request = self.live(a).hello(peer(b), now_a);
        let response = self.live(b).handle_hello(peer(a), &request, now_b).unwrap();
        self.live(a).handle_hello_response(peer(b), &response, now_a).unwrap();
        self.drain(a);
        self.drain(b);
    }

    pub(super) fn live(&mut self, number: u8) -> &mut Namespace {
        self.nodes.get_mut(&number).unwrap().live.as_mut().unwrap()
    }

    /// The process ends, and what it had not written is gone.
    pub(super) fn crash(&mut self, number: u8) {
        self.nodes.get_mut(&number).unwrap().live = None;
    }

    /// The machine starts again, with clocks from zero.
    pub(super) fn reboot(&mut self, number: u8) {
        self.crash(number);
        let time = self.time;
        let node = self.nodes.get_mut(&number).unwrap();
        (node.booted, node.slept) = (time, Duration::ZERO);
        node.boot += 1;
        self.start(number);
    }

    /// Takes what a node wants done.
    pub(super) fn drain(&mut self, number: u8) {
        let node = self.nodes.get_mut(&number).unwrap();
        let Some(live) = node.live.as_mut() else { return };
        let mut sent = Vec::new();
        let mut dials = Vec::new();
        while let Some(output) = live.poll_output() {
            match output {
                Output::Persist(writes) => {
                    node.persisted += 1;
                    apply(&mut node.disk, &writes);
                }
                Output::Send { to, message } => {
                    assert!(message.len() <= MAX_MESSAGE, "{} bytes", message.len());
                    let to = number_of(to);
                    let message = Message::from_bytes(&message).unwrap();
                    sent.push(Packet { from: number, to, message });
                }
                Output::Event(event) => node.events.push(event),
                Output::DialBack { peer } => dials.push(peer),
                Output::Publish { key, value } => {
                    self.hints.insert(key, value);
                }
                Output::Seek { key } => self.sought.push(key),
                Output::Admit { .. } | Output::Refuse { .. } | Output::Dial { .. } => {}
            }
        }
        let (inside, outside): (Vec<_>, Vec<_>) =
            sent.into_iter().partition(|packet| self.nodes.contains_key(&packet.to));
        self.wire.extend(inside);
        self.outside.extend(outside);
        for peer in dials {
            // Everybody is reached who is there.
            let reached = self.nodes.get(&number_of(peer)).is_some_and(|node| node.live.is_some() && node.public);
            let now = self.now(number);
            self.live(number).handle_dialled_back(peer, reached, now);
            self.drain(number);
        }
    }

    /// Delivers one message, now.
    pub(super) fn deliver(&mut self, packet: &Packet) {
        let now = self.now(packet.to);
        let presence = matches!(packet.message, Message::View(ViewMessage::Presence { .. }));
        self.delivered += usize::from(!presence);
        if let Some(live) = self.nodes.get_mut(&packet.to).unwrap().live.as_mut() {
            live.handle_message(peer(packet.from), &packet.message.to_bytes(), now);
            self.drain(packet.to);
        }
    }

    /// Delivers everything, and what it leads to.
    pub(super) fn settle(&mut self) {
        while !self.wire.is_empty() {
            let packet = self.wire.remove(0);
            self.deliver(&packet);
        }
    }

    /// Takes messages off the wire: lost, unless the test brings them back.
    pub(super) fn take(&mut self, pick: impl Fn(&Packet) -> bool) -> Vec<Packet> {
        let (taken, rest) = std::mem::take(&mut self.wire).into_iter().partition(|packet| pick(packet));
        self.wire = rest;
        taken
    }

    pub(super) fn tick(&mut self, number: u8) {
        let now = self.now(number);
        if let Some(live) = self.nodes.get_mut(&number).unwrap().live.as_mut() {
            live.handle_timeout(now);
            self.drain(number);
        }
    }

    /// Time passes; nobody's timer fires.
    pub(super) fn freeze(&mut self, time: Duration) {
        self.time += time;
    }

    /// Time passes, with every timer in its turn and every message delivered at once, except what `lost` picks.
    pub(super) fn run(&mut self, time: Duration, lost: impl Fn(&Packet) -> bool) {
        let end = self.time + time;
        let mut steps = 0;
        loop {
            self.take(&lost);
            if !self.wire.is_empty() {
                let packet = self.wire.remove(0);
                self.deliver(&packet);
                continue;
            }
            let origin = self.origin();
            let due = self
                .nodes
                .iter()
                .filter_map(|(number, node)| Some((node.live.as_ref()?.poll_timeout()?, *number)))
                .map(|((at, why), number)| (at.saturating_duration_since(origin), number, why))
                .min();
            let Some((at, number, why)) = due.filter(|(at, ..)| *at <= end) else { break };
            steps = if at > self.time { 0 } else { steps + 1 };
            assert!(steps < 1000, "node {number} does not come to rest: {why}");
            self.time = self.time.max(at);
            self.tick(number);
        }
        self.time = end;
    }

    fn origin(&self) -> Instant {
        at(0, Duration::ZERO).mono
    }

    pub(super) fn command(&mut self, number: u8, command: impl FnOnce(CommandId) -> Command) -> CommandId {
        let id = CommandId(self.next_id);
        self.next_id += 1;
        let now = self.now(number);
        self.live(number).handle_command(command(id), now);
        self.drain(number);
        id
    }

    /// Begins to claim exactly this address.
    pub(super) fn begin_claim(&mut self, number: u8, ip: Ipv4Addr, client: &str, keep: Keep) -> CommandId {
        let client = ClientId::of(client.as_bytes());
        let keep = keep == Keep::Yes;
        self.command(number, |id| Command::ClaimAddress {
            id,
            client,
            want: Some(ip),
            only_wanted: true,
            hold: Hold::Full,
            keep,
        })
    }

    pub(super) fn claim(&mut self, number: u8, ip: Ipv4Addr) -> Result<Lease, ClaimError> {
        let id = self.begin_claim(number, ip, "self", Keep::No);
        self.settle();
        self.claimed(number, id).unwrap()
    }

    pub(super) fn claim_name(&mut self, number: u8, name: &str) -> Result<Lease, ClaimError> {
        let client = ClientId::of(b"self");
        let name = name.to_owned();
        let id = self.command(number, |id| Command::ClaimName { id, name, client, keep: false });
        self.settle();
        self.claimed(number, id).unwrap()
    }

    pub(super) fn release(&mut self, number: u8, ip: Ipv4Addr) {
        self.command(number, |id| Command::ReleaseAddress { id, ip });
    }

    pub(super) fn claimed(&self, number: u8, wanted: CommandId) -> Option<Result<Lease, ClaimError>> {
        self.nodes[&number].events.iter().find_map(|event| match event {
            Event::Claimed { id, outcome } if *id == wanted => Some(outcome.clone()),
            _ => None,
        })
    }

    pub(super) fn resolve(&mut self, number: u8, command: impl FnOnce(CommandId) -> Command) -> Resolution {
        let wanted = self.command(number, command);
        self.settle();
        self.resolved(number, wanted).unwrap()
    }

    pub(super) fn resolved(&self, number: u8, wanted: CommandId) -> Option<Resolution> {
        self.nodes[&number].events.iter().find_map(|event| match event {
            Event::Resolved { id, outcome } if *id == wanted => Some(outcome.clone()),
            _ => None,
        })
    }

    /// Who uses this address at this moment.
    pub(super) fn owners(&self, ip: Ipv4Addr) -> Vec<u8> {
        let uses = |number: &u8, node: &Node| {
            node.live.as_ref().is_some_and(|live| live.lease(&LeaseKey::Address(ip), self.now(*number)).is_some())
        };
        self.nodes.iter().filter(|(number, node)| uses(number, node)).map(|(number, _)| *number).collect()
    }

    /// What one replica holds under a key.
    pub(super) fn peek(&self, number: u8, key: LeaseKey) -> Option<Value> {
        let key = RegisterKey::Lease(key);
        self.nodes[&number].live.as_ref()?.peek(&key, self.now(number))
    }

    /// The newest view of the address's shard that this node knows: its members and its number.
    pub(super) fn view(&self, number: u8, ip: Ipv4Addr) -> (Vec<Member>, u64) {
        let live = self.nodes[&number].live.as_ref().unwrap();
        let key = RegisterKey::Lease(LeaseKey::Address(ip));
        let chain = live.membership().chain();
        let view = chain.newest(key.shard(&self.world.ns, live.membership().config())).unwrap();
        (view.members.clone(), view.number)
    }

    /// A node as it would stand in a view.
    pub(super) fn member(&self, number: u8) -> Member {
        let live = self.nodes[&number].live.as_ref().unwrap();
        let serial = live.membership().credential().serial(&self.world.ns);
        Member { identity: key(number).public(), store_id: live.membership().store_id(), serial }
    }

    /// Begins a change of the address's shard to these members.
    pub(super) fn propose(&mut self, at: u8, ip: Ipv4Addr, members: Vec<Member>) {
        let now = self.now(at);
        // Above what anybody has proposed before.
        self.forced += 1000;
        let above = self.forced;
        self.live(at).force_view_above(&LeaseKey::Address(ip), members, above, now);
        self.drain(at);
    }

    /// The disk is replaced: the membership is there, the lease store is another.
    pub(super) fn lose_disk(&mut self, number: u8, store_id: [u8; 16]) {
        let node = self.nodes.get_mut(&number).unwrap();
        node.disk.retain(|key, _| key.starts_with(b"m/") && !key.starts_with(b"m/view/"));
        apply(&mut node.disk, &[crate::membership::store::write_store_id(store_id)]);
    }

    /// A claimable address.
    pub(super) fn ip(&self, last: u8) -> Ipv4Addr {
        self.ip_in(7, last)
    }

    /// A claimable address of another block.
    pub(super) fn ip_in(&self, block: u8, last: u8) -> Ipv4Addr {
        let mut octets = self.world.config().range.network().octets();
        (octets[2], octets[3]) = (block, last);
        Ipv4Addr::from(octets)
    }

    pub(super) fn secret(number: u8) -> SecretKey {
        key(number)
    }
}

/// Whose name this is, among the keys 1 to 99.
fn number_of(wanted: PeerId) -> u8 {
    static NUMBERS: OnceLock<BTreeMap<PeerId, u8>> = OnceLock::new();
    NUMBERS.get_or_init(|| (1..100).map(|number| (peer(number), number)).collect())[&wanted]
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    Yes,
    No,
}

/// The schedule holds with all rules, and fails without the ones that `off` switches off.
pub(super) fn guards(name: &str, broken: impl Fn(Rules) -> bool, off: impl FnOnce(&mut Rules)) {
    guards_from(Rules::ALL, name, broken, off);
}

/// As [`guards`], with views that stay as they are unless the test changes them.
pub(super) fn guards_steady(name: &str, broken: impl Fn(Rules) -> bool, off: impl FnOnce(&mut Rules)) {
    guards_from(steady(), name, broken, off);
}

/// As [`guards`], from these rules instead of all.
pub(super) fn guards_from(mut rules: Rules, name: &str, broken: impl Fn(Rules) -> bool, off: impl FnOnce(&mut Rules)) {
    assert!(!broken(rules), "{name} fails with every rule on");
    off(&mut rules);
    assert!(broken(rules), "{name} does not notice that its rule is off");
}

/// Views stay as they are unless the test changes them.
pub(super) fn steady() -> Rules {
    Rules { views_change: false, ..Rules::ALL }
}

/// Nothing is lost.
pub(super) fn none(_: &Packet) -> bool {
    false
}

pub(super) fn is_results(packet: &Packet) -> bool {
    matches!(packet.message, Message::Results { .. })
}

pub(super) fn is_ops(packet: &Packet) -> bool {
    matches!(packet.message, Message::Ops { .. })
}
