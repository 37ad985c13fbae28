//! One life: founding, joining, owners that want the same addresses, faults, and at the end everything is mended.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use dht::record::guard;
use dht::{LeaseKey, Rules};
use rand::RngExt;

use super::links::Weather;
use super::nemesis::{Faults, Nemesis, rates};
use super::world::{Counts, Failure, World};

/// Addresses that everybody wants.
const WANTED: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 0, 5), Ipv4Addr::new(10, 9, 0, 6)];
/// The clock error that the configuration allows for.
const RHO_PPM: u32 = 10_000;

/// How a life is set up.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// Of everything that chance decides.
    pub seed: u64,
    /// How long faults strike.
    pub faults: Duration,
    /// All on, but where a test shows that it notices.
    pub rules: Rules,
    /// Whether every line of what happens is printed.
    pub trace: bool,
}

impl Life {
    /// As the test command runs it.
    pub fn new(seed: u64) -> Self {
        Self { seed, faults: Duration::from_secs(150), rules: Rules::ALL, trace: false }
    }
}

/// What a life consisted of.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was counted.
    pub counts: Counts,
    /// View changes.
    pub views: u64,
    /// What struck.
    pub faults: Faults,
}

/// So many machines keep an address of their own; the others only come and go.
const KEEPERS: usize = 5;

/// The address that only this machine wants.
fn own(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, u8::try_from(100 + node).unwrap_or(u8::MAX))
}

/// Lives one life.
pub fn run(life: Life) -> (Report, Result<(), Failure>) {
    let mut nemesis = Nemesis::default();
    // Drawn from the seed itself, so that neighbouring seeds differ in all of it.
    let founders = [1, 3, 5][usize::try_from(life.seed % 3).unwrap_or(0)];
    let lease = Duration::from_secs([30, 45, 60][usize::try_from(life.seed / 3 % 3).unwrap_or(0)]);
    let mut world = World::found(life.seed, founders, lease, life.rules, life.trace);
    let result = live(&mut world, &mut nemesis, founders, lease, life.faults);
    let result = result.and_then(|()| {
        // Replicas wait at least as long as any owner may go on.
        let least = lease;
        world.history.check(least).map_err(|what| Failure { at: world.time, what })
    });
    (Report { counts: world.counts.clone(), views: world.views(), faults: nemesis.faults }, result)
}

fn live(
    world: &mut World,
    nemesis: &mut Nemesis,
    founders: usize,
    lease: Duration,
    faults: Duration,
) -> Result<(), Failure> {
    let others = world.rng.random_range(3..=5);
    for founder in 0..founders {
        let rates = rates(world);
        world.set_clock(founder, rates);
        world.start(founder);
    }
    for _ in 0..others {
        let rates = rates(world);
        world.add(rates);
    }
    world.run_until(Duration::from_secs(15))?;
    for node in 0..world.len() {
        if !world.is_member(node) {
            return Err(Failure { at: world.time, what: format!("n{node} has not joined on a good day") });
        }
        if node < KEEPERS {
            world.claim(node, own(node), true);
        }
    }
    let end = world.time + faults;
    while world.time < end {
        let pause = Duration::from_millis(world.rng.random_range(200..4000));
        world.run_until(world.time + pause)?;
        nemesis.end_due(world, false);
        if world.rng.random_bool(0.4) {
            nemesis.strike(world, lease);
        }
        act(world);
    }
    mend(world, nemesis)?;
    // A lease time and the guard, in which everything that anybody left behind has ended, and a view change.
    let patience = guard(lease, RHO_PPM) + Duration::from_secs(130);
    world.run_until(world.time + patience)?;
    converged(world)
}

/// Somebody wants something.
fn act(world: &mut World) {
    let node = world.rng.random_range(0..world.len());
    let ip = WANTED[world.rng.random_range(0..WANTED.len())];
    match world.rng.random_range(0..10) {
        0..5 => {
            let keep = world.rng.random_bool(0.3);
            world.claim(node, ip, keep);
        }
        5..7 => world.release(node, ip),
        _ => world.look_up(node, ip),
    }
}

fn mend(world: &mut World, nemesis: &mut Nemesis) -> Result<(), Failure> {
    world.set_cut(BTreeSet::new());
    world.set_weather(Weather::calm());
    nemesis.end_due(world, true);
    for node in 0..world.len() {
        world.start(node);
    }
    world.run_until(world.time + Duration::from_secs(1))?;
    // As a daemon does that finds itself without an address, say because its disk was lost.
    for node in 0..KEEPERS.min(world.len()) {
        world.claim(node, own(node), true);
    }
    Ok(())
}

/// Everybody has the address that nobody else wants, and all know the same views.
fn converged(world: &World) -> Result<(), Failure> {
    let fail = |what| Err(Failure { at: world.time, what });
    for node in 0..KEEPERS.min(world.len()) {
        if world.lease(node, &LeaseKey::Address(own(node))).is_none() {
            let all: Vec<String> =
                (0..world.len()).map(|node| format!("\n  n{node} {}", world.describe(node))).collect();
            let ip = own(node);
            return fail(format!("n{node} has no lease of {ip} long after everything was mended{}", all.concat()));
        }
    }
    Ok(())
}
