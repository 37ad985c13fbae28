//! How a world begins: the founding of its namespace, and the machines that are added to it.

use std::net::SocketAddr;
use std::time::Duration;

use dht::create::{CreateRequest, create};
use dht::identity::SecretKey;
use dht::token::{Contact, ContactAddress};
use dht::{Command, CommandId, Event, Keys, Namespace, Now, Output, Role, Write};
use engine::{Addressing, Mode};
use ipnet::Ipv4Net;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use zeroize::Zeroizing;

use crate::clock::{EPOCH, MachineClock, Rates};
use crate::disk::Disk;
use crate::edges::GateId;
use crate::guest::Guest;
use crate::log::Trace;
use crate::network::Quality;
use crate::node::{Identity, Node, NodeId};
use crate::world::World;

/// What a world is made from.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Everything random follows from it.
    pub seed: u64,
    /// The namespace's lease.
    pub lease: Duration,
    /// The namespace's addresses.
    pub range: Ipv4Net,
    /// The links at the beginning.
    pub quality: Quality,
    /// How wrong the machines' clocks are.
    pub clocks: Clocks,
    /// Whether lines are kept.
    pub trace: Trace,
}

/// How wrong clocks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clocks {
    /// Not at all.
    Right,
    /// As wrong as the lease protocol promises to bear, each differently.
    Wild,
}

impl Setup {
    /// A quiet world: good links, right clocks, leases of an hour.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            lease: Duration::from_secs(3600),
            range: Ipv4Net::new_assert([10, 70, 0, 0].into(), 16),
            quality: Quality::GOOD,
            clocks: Clocks::Right,
            trace: Trace::Off,
        }
    }
}

/// The name of every simulated namespace.
pub const NAMESPACE: &str = "lab";

/// How often an invite can be used.
const USES: u16 = 64;
/// Machines of a segment say in their probes behind which node they are, and besides their number among those.
pub(crate) const MOST_NODES: u32 = 10_000;
/// For how many machines of its segment a router may lease.
const HOSTS: u16 = 64;

/// What founding gave.
pub(crate) struct Founded {
    creator: SecretKey,
    authority: SecretKey,
    data: Zeroizing<[u8; 32]>,
    writes: Vec<Write>,
    token: String,
}

impl Founded {
    pub(crate) fn new(setup: &Setup) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(setup.seed ^ 0x666f_756e);
        let creator = SecretKey::from_seed(&bytes(&mut rng));
        let request =
            CreateRequest { name: NAMESPACE.into(), range: Some(setup.range), lease: setup.lease, recovery: None };
        let created = create(request, &creator, bytes(&mut rng), EPOCH).expect("the setup is sound");
        let mut founded = Self {
            creator,
            authority: created.authority,
            data: created.data,
            writes: created.writes,
            token: String::new(),
        };
        founded.token = founded.invite(bytes(&mut rng), Role::Member);
        founded
    }

    fn disk(&self) -> Disk {
        let mut disk = Disk::default();
        disk.begin(self.writes.clone());
        disk.sync();
        disk
    }

    /// An invite for everybody, made as the creator's command line would.
    fn invite(&self, seed: [u8; 32], role: Role) -> String {
        let copy = |key: &SecretKey| SecretKey::from_seed(&key.seed());
        let keys =
            Keys { identity: copy(&self.creator), data: self.data.clone(), authority: Some(copy(&self.authority)) };
        let clock = MachineClock::new(crate::clock::origin(), Rates::default(), [0; 16], Duration::ZERO);
        let mut clocks = dht::clock::LeaseClocks::new(clock.reading(Duration::ZERO));
        let now: Now = clock.now(&mut clocks, Duration::ZERO);
        let disk = self.disk();
        let mut namespace = Namespace::load(keys, disk.image(), seed, now).expect("it was just founded");
        let address = ContactAddress::Socket(SocketAddr::from(([198, 51, 100, 1], 4001)));
        let contacts = vec![Contact { identity: self.creator.public(), addresses: vec![address] }];
        let ttl = Duration::from_secs(365 * 86_400);
        let id = CommandId(0);
        namespace.handle_command(Command::Invite { id, uses: USES, ttl, role, hosts: HOSTS, contacts }, now);
        while let Some(output) = namespace.poll_output() {
            if let Output::Event(Event::Invited { outcome, .. }) = output {
                return outcome.expect("the creator has the authority key");
            }
        }
        unreachable!("every command is answered by one event")
    }
}

impl World {
    pub(crate) fn add_creator(&mut self) {
        let founded = &self.founded;
        let copy = |key: &SecretKey| SecretKey::from_seed(&key.seed());
        let identity = Identity {
            key: copy(&founded.creator),
            data: founded.data.clone(),
            authority: Some(copy(&founded.authority)),
            token: None,
            namespace: NAMESPACE.into(),
            hostname: "creator".into(),
            addressing: Addressing::Own,
            mode: Mode::Workstation,
        };
        let disk = founded.disk();
        let id = self.insert(identity, disk);
        self.with(id, |node, at| node.start(at));
    }

    /// A new machine with a token, which starts at once.
    pub fn add(&mut self, addressing: Addressing) -> NodeId {
        let name = match addressing {
            Addressing::Own => format!("host-{}", self.nodes.len()),
            Addressing::Clients => format!("guest-{}", self.nodes.len()),
        };
        self.add_named(&name, addressing)
    }

    /// A new machine with a token and this name, which starts at once.
    pub fn add_named(&mut self, hostname: &str, addressing: Addressing) -> NodeId {
        let id = self.prepare(hostname, addressing);
        self.with(id, |node, at| node.start(at));
        id
    }

    /// A router with so many machines on its segment, each with a DHCP client. Neither it nor its own guest has an address.
    pub fn add_router(&mut self, machines: u8) -> NodeId {
        let id = self.prepare(&format!("router-{}", self.nodes.len()), Addressing::Clients);
        let token = self.founded.invite(bytes(&mut self.rng), Role::Router);
        let number = u8::try_from(id.0).unwrap_or(u8::MAX);
        let seeds: Vec<u64> = (0..machines).map(|_| self.rng.random()).collect();
        let node = &mut self.nodes[id.index()];
        (node.identity.token, node.identity.mode) = (Some(token), Mode::Router);
        let _ = node.guest.want_lease(false);
        for (machine, seed) in (1..=machines).zip(seeds) {
            let name = id.0 + MOST_NODES * u32::from(machine);
            let mut guest = Guest::new(name, [0x02, 0x52, 0, 0, machine, number], true, seed);
            guest.set_link(true);
            node.neighbours.push(guest);
        }
        self.with(id, |node, at| node.start(at));
        id
    }

    /// A new machine behind a gate, which starts at once.
    pub fn add_behind(&mut self, gate: GateId) -> NodeId {
        let id = self.prepare(&format!("host-{}", self.nodes.len()), Addressing::Own);
        self.nodes[id.index()].underlay = self.edges.settle(id, gate);
        self.with(id, |node, at| node.start(at));
        id
    }

    fn prepare(&mut self, hostname: &str, addressing: Addressing) -> NodeId {
        if self.nodes.len().is_multiple_of(usize::from(USES)) {
            self.founded.token = self.founded.invite(bytes(&mut self.rng), Role::Member);
        }
        let identity = Identity {
            key: SecretKey::from_seed(&bytes(&mut self.rng)),
            data: Zeroizing::new(bytes(&mut self.rng)),
            authority: None,
            token: Some(self.founded.token.clone()),
            namespace: NAMESPACE.into(),
            hostname: hostname.into(),
            addressing,
            mode: Mode::Workstation,
        };
        self.insert(identity, Disk::default())
    }

    fn insert(&mut self, identity: Identity, disk: Disk) -> NodeId {
        let number = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let rates = match self.setup.clocks {
            Clocks::Right => Rates::default(),
            Clocks::Wild => Rates {
                crystal: self.rng.random_range(-9000..9000),
                steering: if self.rng.random_bool(0.3) { self.rng.random_range(-80_000..80_000) } else { 0 },
            },
        };
        let clock = MachineClock::new(self.origin, rates, bytes(&mut self.rng), self.now());
        let mac = [0x02, 0x51, 0, 0, 0, u8::try_from(number).unwrap_or(u8::MAX)];
        let dhcp = identity.addressing == Addressing::Clients;
        let guest = Guest::new(number, mac, dhcp, self.rng.random());
        let rng = ChaCha8Rng::from_seed(bytes(&mut self.rng));
        self.nodes.push(Node::new(NodeId(number), identity, disk, clock, guest, rng));
        self.wakes.push(Duration::MAX);
        NodeId(number)
    }
}

fn bytes<const N: usize>(rng: &mut ChaCha8Rng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}
