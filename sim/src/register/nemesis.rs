//! What goes wrong, by chance.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use dht::view::Member;
use dht::{Command, CommandId, Hold, LeaseKey};
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use super::linear::Claim;
use super::links::Weather;
use super::world::World;
use crate::clock::Rates;

/// How often each kind of fault struck.
pub type Faults = BTreeMap<&'static str, u64>;

/// What is under way.
#[derive(Debug, Default)]
pub struct Nemesis {
    /// What struck.
    pub faults: Faults,
    /// Whether whoever crashes forgets its leases and its votes.
    pub forgetful: bool,
    /// What ends when.
    ends: Vec<(Duration, End)>,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Pause(usize),
    Sleep(usize),
    Away(usize),
}

/// Clocks at the bound, or somewhere within it; some steered by a time daemon besides.
pub fn rates(world: &mut World) -> Rates {
    let rng = &mut world.rng;
    let crystal = match rng.random_range(0..4) {
        0 => -9900,
        1 => 9900,
        _ => rng.random_range(-9900..=9900),
    };
    let steering = if rng.random_bool(0.3) { rng.random_range(-80_000..=80_000) } else { 0 };
    Rates { crystal, steering }
}

impl Nemesis {
    /// Ends what is over.
    pub fn end_due(&mut self, world: &mut World, everything: bool) {
        let now = world.time;
        let (due, later): (Vec<_>, Vec<_>) = self.ends.iter().partition(|(at, _)| everything || *at <= now);
        self.ends = later;
        for (_, end) in due {
            match end {
                End::Pause(node) => world.resume(node),
                End::Sleep(node) => world.wake_up(node),
                End::Away(node) => world.start(node),
            }
        }
    }

    fn until(&mut self, world: &mut World, least: u64, most: u64, end: End) {
        let millis = world.rng.random_range(least..=most);
        self.ends.push((world.time + Duration::from_millis(millis), end));
    }

    /// A machine ends in the middle of what it does. A forgetful one comes back with nothing but its old name.
    fn crash(&self, world: &mut World, node: usize) {
        world.crash(node);
        if self.forgetful {
            world.lose_disk(node, Store::Same);
        }
    }

    /// One fault.
    pub fn strike(&mut self, world: &mut World, lease: Duration) {
        let node = world.rng.random_range(0..world.len());
        let name = match world.rng.random_range(0..100) {
            0..42 => self.strike_machine(world, node, lease),
            42..76 => strike_network(world),
            76..92 => change_weather(world, lease),
            _ => {
                world.propose_some_view(node);
                "view proposed"
            }
        };
        *self.faults.entry(name).or_default() += 1;
    }

    fn strike_machine(&mut self, world: &mut World, node: usize, lease: Duration) -> &'static str {
        let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        if !world.machines[node].is_awake() {
            return "spared";
        }
        match world.rng.random_range(0..42) {
            0..14 => {
                self.crash(world, node);
                self.until(world, 10, 3000, End::Away(node));
                "crash"
            }
            14..20 => {
                self.crash(world, node);
                let rates = rates(world);
                world.set_clock(node, rates);
                self.until(world, 500, 20_000, End::Away(node));
                "reboot"
            }
            20..28 => {
                // Churn: away for longer than a lease.
                self.crash(world, node);
                self.until(world, lease_ms / 2, lease_ms * 2, End::Away(node));
                "leave"
            }
            28..34 => {
                world.pause(node);
                self.until(world, 100, lease_ms * 3 / 2, End::Pause(node));
                "pause"
            }
            34..38 => {
                world.suspend(node);
                self.until(world, 1000, lease_ms * 3 / 2, End::Sleep(node));
                "suspend"
            }
            _ if !world.shrinks && world.may_lose_disk(node) => {
                world.lose_disk(node, Store::New);
                self.until(world, 10, 3000, End::Away(node));
                "disk lost"
            }
            _ => "spared",
        }
    }
}

fn strike_network(world: &mut World) -> &'static str {
    let (cut, name) = match world.rng.random_range(0..34) {
        0..10 => (full(world), "partition"),
        10..16 => (one_way(world), "one way"),
        16..22 => (partial(world), "partial"),
        _ => (BTreeSet::new(), "mended"),
    };
    world.set_cut(cut);
    name
}

fn change_weather(world: &mut World, lease: Duration) -> &'static str {
    if world.rng.random_bool(0.5) {
        world.set_weather(Weather::calm());
        return "calm";
    }
    let weather = Weather {
        loss: world.rng.random_range(0..200),
        copies: world.rng.random_range(0..200),
        delay: Duration::from_millis(world.rng.random_range(5..1500)),
        strays: world.rng.random_range(0..30),
        late: lease * 3 / 2,
    };
    world.set_weather(weather);
    "weather"
}

fn full(world: &mut World) -> BTreeSet<(usize, usize)> {
    let mut all: Vec<usize> = (0..world.len()).collect();
    all.shuffle(&mut world.rng);
    let at = world.rng.random_range(1..all.len());
    let (a, b) = all.split_at(at);
    a.iter().flat_map(|a| b.iter().flat_map(move |b| [(*a, *b), (*b, *a)])).collect()
}

fn one_way(world: &mut World) -> BTreeSet<(usize, usize)> {
    let deaf = world.rng.random_range(0..world.len());
    let hears = world.rng.random_bool(0.5);
    (0..world.len()).filter(|n| *n != deaf).map(|n| if hears { (n, deaf) } else { (deaf, n) }).collect()
}

fn partial(world: &mut World) -> BTreeSet<(usize, usize)> {
    let n = world.len();
    let mut cut = BTreeSet::new();
    for _ in 0..world.rng.random_range(1..=n) {
        let (a, b) = (world.rng.random_range(0..n), world.rng.random_range(0..n));
        if a != b {
            cut.insert((a, b));
            cut.insert((b, a));
        }
    }
    cut
}

/// What a machine that lost its disk calls its new store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// Something new, as it must.
    New,
    /// What the old one was called: then it votes as if it remembered.
    Same,
}

impl World {
    /// The process is stopped as by `SIGSTOP`: the machine goes on without it.
    pub fn pause(&mut self, node: usize) {
        self.say(|| format!("n{node} is paused"));
        self.machines[node].paused = true;
    }

    /// It goes on.
    pub fn resume(&mut self, node: usize) {
        self.say(|| format!("n{node} goes on"));
        self.machines[node].paused = false;
        self.catch_up(node);
    }

    /// The machine is suspended.
    pub fn suspend(&mut self, node: usize) {
        self.say(|| format!("n{node} sleeps"));
        let at = self.time;
        self.machines[node].clock.sleep(at);
        self.drop_links(node);
    }

    /// It resumes.
    pub fn wake_up(&mut self, node: usize) {
        self.say(|| format!("n{node} wakes"));
        let at = self.time;
        self.machines[node].clock.wake(at);
        self.machines[node].wake = None;
        self.catch_up(node);
        // What stood before has died meanwhile, as keep-alives show.
        let peers: Vec<usize> = self.machines[node].links.keys().copied().collect();
        for peer in peers {
            let delay = Duration::from_millis(self.rng.random_range(10..8000));
            self.end_link(node, peer, delay);
        }
    }

    fn catch_up(&mut self, node: usize) {
        let at = self.time;
        if self.machines[node].is_awake() && self.machines[node].held.is_none() {
            self.machines[node].handle_timeout(at);
        }
        self.pump(node);
    }

    /// Whether the namespace survives the loss of this disk: others hold what it holds.
    pub fn may_lose_disk(&self, node: usize) -> bool {
        let peer = self.machines[node].peer;
        let newest = self.newest_view();
        let Some(members) = newest else { return false };
        let here = |member: &Member| {
            let machine = self.machines.iter().find(|m| Some(m.peer) == member.identity.peer_id());
            let serves = machine.is_some_and(|m| m.serves(self.time));
            serves && machine.and_then(|m| m.namespace()).is_some_and(|n| n.membership().store_id() == member.store_id)
        };
        let others = members.iter().filter(|member| member.identity.peer_id() != Some(peer));
        let (all, there) = others.fold((0, 0), |(all, there), member| (all + 1, there + usize::from(here(member))));
        // Everybody else, so that no two losses add up before the view has changed.
        all == there && all >= 2 && self.machines[node].is_on()
    }

    /// The members of the newest view that any machine knows.
    fn newest_view(&self) -> Option<Vec<Member>> {
        let views = self.machines.iter().filter_map(|machine| machine.namespace()?.membership().chain().newest(0));
        views.max_by_key(|view| view.number).map(|view| view.members.clone())
    }

    /// The lease store is gone; keys and membership are there.
    pub fn lose_disk(&mut self, node: usize, store: Store) {
        self.say(|| format!("n{node} loses its disk"));
        self.crash(node);
        let mut id = [0; 16];
        self.rng.fill_bytes(&mut id);
        self.machines[node].disk.lose((store == Store::New).then_some(id));
    }

    /// Some other members, chosen by chance, for the shard's view.
    pub fn propose_some_view(&mut self, node: usize) {
        let known: Vec<Member> = self.machines.iter().filter_map(|machine| member_of(machine.namespace()?)).collect();
        let Some(now) = self.machines[node].namespace().and_then(|n| n.membership().chain().newest(0)).cloned() else {
            return;
        };
        let mut size = [1, 3, 5][self.rng.random_range(usize::from(!self.shrinks)..3)];
        let stay: Vec<Member> = now.members.iter().filter(|member| known.contains(member)).copied().collect();
        size = size.min(if known.len() >= 5 { 5 } else { 3 });
        let mut next: Vec<Member> = stay.into_iter().take(size / 2 + 1).collect();
        let mut others: Vec<Member> = known.into_iter().filter(|member| !next.contains(member)).collect();
        others.shuffle(&mut self.rng);
        next.extend(others.into_iter().take(size.saturating_sub(next.len())));
        if next.len() % 2 == 1 && next != now.members {
            let key = LeaseKey::Address(Ipv4Addr::new(10, 9, 0, 5));
            let at = self.time;
            self.machines[node].with_namespace(at, |it, now| it.force_view(&key, next, now));
            self.pump(node);
        }
    }

    /// Lets a machine propose these members.
    pub fn propose(&mut self, node: usize, next: &[usize]) {
        let members: Vec<Member> =
            next.iter().filter_map(|node| member_of(self.machines[*node].namespace()?)).collect();
        let (at, key) = (self.time, LeaseKey::Address(Ipv4Addr::new(10, 9, 0, 5)));
        self.machines[node].with_namespace(at, |it, now| it.force_view(&key, members, now));
        self.pump(node);
    }

    /// The machines that are the members of the newest view that anybody knows.
    pub fn members(&self) -> Option<Vec<usize>> {
        let members = self.newest_view()?;
        members.iter().map(|member| self.number_of(&member.identity.peer_id()?)).collect()
    }

    /// Claims exactly this address.
    pub fn claim(&mut self, node: usize, ip: Ipv4Addr, keep: bool) {
        self.claim_for(node, (ip, "self"), Hold::Full, keep);
    }

    /// Claims whatever address is free, and keeps it.
    pub fn claim_any(&mut self, node: usize) {
        let (id, client) = (CommandId(self.next_id()), dht::ClientId::of(b"self"));
        let (want, only_wanted, hold, keep) = (None, false, Hold::Full, true);
        self.command(node, Command::ClaimAddress { id, client, want, only_wanted, hold, keep });
    }

    /// Claims a name for the machine itself, and keeps it.
    pub fn claim_name(&mut self, node: usize, name: &str) {
        let (id, client) = (CommandId(self.next_id()), dht::ClientId::of(b"self"));
        self.command(node, Command::ClaimName { id, name: name.to_owned(), client, keep: true });
    }

    /// Claims an address for somebody behind the machine.
    pub fn claim_for(&mut self, node: usize, (ip, client): (Ipv4Addr, &str), hold: Hold, keep: bool) {
        let id = self.next_id();
        let dur = match hold {
            Hold::Offer => self.lease.min(Duration::from_secs(120)) / 2,
            Hold::Full => self.lease,
        };
        self.history.claimed(id, &LeaseKey::Address(ip), Claim { node, at: self.time, dur });
        let client = dht::ClientId::of(client.as_bytes());
        let id = CommandId(id);
        let command = Command::ClaimAddress { id, client, want: Some(ip), only_wanted: true, hold, keep };
        self.command(node, command);
    }

    /// Gives it back.
    pub fn release(&mut self, node: usize, ip: Ipv4Addr) {
        if self.machines[node].is_on() {
            let id = CommandId(self.next_id());
            self.counts.releases += 1;
            self.command(node, Command::ReleaseAddress { id, ip });
        }
    }

    /// Asks the register who has it.
    pub fn look_up(&mut self, node: usize, ip: Ipv4Addr) {
        let id = self.next_id();
        let key = LeaseKey::Address(ip);
        self.history.asked(id, &key, self.time);
        self.command(node, Command::LookUp { id: CommandId(id), key });
    }
}

fn member_of(namespace: &dht::Namespace) -> Option<Member> {
    let membership = namespace.membership();
    let identity = dht::identity::PublicKey::from_peer_id(&membership.peer_id())?;
    let serial = membership.credential().serial(&membership.ns());
    Some(Member { identity, store_id: membership.store_id(), serial })
}
