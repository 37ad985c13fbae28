//! One life: founding, joining, owners that want the same addresses, faults, and at the end everything is mended.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use dht::record::guard;
use dht::{ClientId, Hold, LeaseKey, Rules};
use rand::RngExt;

use super::links::Weather;
use super::nemesis::{Faults, Nemesis, rates};
use super::world::{Counts, Failure, World};

/// Addresses that everybody wants.
const WANTED: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 0, 5), Ipv4Addr::new(10, 9, 0, 6)];
/// The clock error that the configuration allows for.
pub(super) const RHO_PPM: u32 = 10_000;

/// How a life is set up.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// Of everything that chance decides.
    pub seed: u64,
    /// How long faults strike.
    pub faults: Duration,
    /// All on, but where a test shows that it notices.
    pub rules: Rules,
    /// Whether a replica that restarts has forgotten everything but its name: also for showing that this is noticed.
    pub forgetful: bool,
    /// Whether every line of what happens is printed.
    pub trace: bool,
}

impl Life {
    /// As the test command runs it.
    pub fn new(seed: u64) -> Self {
        Self { seed, faults: Duration::from_secs(150), rules: Rules::ALL, forgetful: false, trace: false }
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
    /// How many operations the history has.
    pub history: usize,
    /// The namespace's lease.
    pub lease: Duration,
    /// How long after everything was mended everybody had the address that it wants.
    pub healed: Option<Duration>,
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
    nemesis.forgetful = life.forgetful;
    let founders = [1, 3, 5][usize::try_from(life.seed % 3).unwrap_or(0)];
    let lease = Duration::from_secs([30, 45, 60][usize::try_from(life.seed / 3 % 3).unwrap_or(0)]);
    let mut world = World::found(life.seed, founders, lease, life.rules, life.trace);
    world.shrinks = (life.seed / 9).is_multiple_of(2);
    let result = trouble(&mut world, &mut nemesis, founders, lease, life.faults);
    let result = result.and_then(|()| mended(&mut world, &mut nemesis, lease));
    let (healed, result) = match result {
        Ok(healed) => (Some(healed), Ok(())),
        Err(failure) => (None, Err(failure)),
    };
    let result = result.and_then(|()| world.history.check().map_err(|what| Failure { at: world.time, what }));
    let (views, history) = (world.views(), world.history.len());
    (Report { counts: world.counts, views, faults: nemesis.faults, history, lease, healed }, result)
}

/// Founding, joining and everything that goes wrong.
fn trouble(
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
    Ok(())
}

/// Somebody wants something.
fn act(world: &mut World) {
    let node = world.rng.random_range(0..world.len());
    let ip = WANTED[world.rng.random_range(0..WANTED.len())];
    match world.rng.random_range(0..10) {
        0..5 => {
            // None of them the machine itself, whose own address would be given back for this one.
            let client = if world.rng.random_bool(0.9) { "desk" } else { "guest" };
            let hold = if world.rng.random_bool(0.8) { Hold::Full } else { Hold::Offer };
            let keep = world.rng.random_bool(0.3);
            world.claim_for(node, (ip, client), hold, keep);
        }
        5..7 => world.release(node, ip),
        _ => world.look_up(node, ip),
    }
}

/// All is mended; then everybody gets what it wants, and nobody loses what it has. Says how long that took.
fn mended(world: &mut World, nemesis: &mut Nemesis, lease: Duration) -> Result<Duration, Failure> {
    world.set_cut(BTreeSet::new());
    world.set_weather(Weather::calm());
    nemesis.end_due(world, true);
    for node in 0..world.len() {
        world.start(node);
    }
    let start = world.time;
    let second = Duration::from_secs(1);
    world.run_until(start + second)?;
    // As a daemon does that finds itself without an address, say because its disk was lost.
    let keepers = KEEPERS.min(world.len());
    for node in 0..keepers {
        world.claim(node, own(node), true);
    }
    // What anybody left behind has ended after a lease and the guard; a lost member has been replaced a little later.
    let patience = start + guard(lease, RHO_PPM) + Duration::from_secs(130);
    let had = holders(world, lease / 2);
    let mut healed = None;
    while world.time < patience {
        world.run_until(world.time + second)?;
        let left =
            (0..keepers).map(|node| world.remaining(node, &LeaseKey::Address(own(node)))).min().unwrap_or_default();
        // What was not renewed for a while is not safe yet.
        if healed.is_none() && left > lease / 2 {
            healed = Some(world.time - start);
        }
        if healed.is_some() && left.is_zero() {
            return Err(world.report("somebody has lost its address for no reason".to_owned()));
        }
        if world.time <= start + lease / 3
            && let Some(lost) = had.iter().find(|had| had.is_lost(world))
        {
            return Err(world.report(format!("n{} had {} and has lost it", lost.node, lost.ip)));
        }
        // Long enough for everybody to renew once more.
        if healed.is_some_and(|healed| world.time >= start + healed + lease / 2) && world.agree().is_ok() {
            break;
        }
    }
    let Some(healed) = healed else {
        return Err(world.report("somebody has no address long after everything was mended".to_owned()));
    };
    world.agree()?;
    Ok(healed)
}

/// Who has what.
struct Holder {
    node: usize,
    ip: Ipv4Addr,
    client: ClientId,
}

impl Holder {
    /// Neither this address is there nor another one that its user has got instead.
    fn is_lost(&self, world: &World) -> bool {
        let of_user = |ip| world.lease(self.node, &LeaseKey::Address(ip)).is_some_and(|l| l.client == self.client);
        !WANTED.into_iter().chain([self.ip]).any(of_user)
    }
}

/// Who has what for at least so much longer.
fn holders(world: &World, least: Duration) -> Vec<Holder> {
    let all = (0..world.len()).flat_map(|node| WANTED.into_iter().chain([own(node)]).map(move |ip| (node, ip)));
    let lasting = all.filter(|(node, ip)| world.remaining(*node, &LeaseKey::Address(*ip)) >= least);
    let holder = |(node, ip)| Some(Holder { node, ip, client: world.lease(node, &LeaseKey::Address(ip))?.client });
    lasting.filter_map(holder).collect()
}
