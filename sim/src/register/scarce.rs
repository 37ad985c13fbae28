//! A life with fewer addresses than machines, in which everybody wants any of them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use dht::LeaseKey;
use dht::record::guard;

use super::life::{Life, RHO_PPM};
use super::links::Weather;
use super::nemesis::{Nemesis, rates};
use super::world::{Failure, World};

const LEASE: Duration = Duration::from_secs(30);
/// Of which five can be claimed.
const RANGE: &str = "10.9.0.0/29";
/// How often whoever has nothing asks again.
const STEP: Duration = Duration::from_secs(3);

fn addresses() -> impl Iterator<Item = Ipv4Addr> {
    (2..=6).map(|last| Ipv4Addr::new(10, 9, 0, last))
}

/// Three replicas and six others.
fn founded(life: Life) -> Result<World, Failure> {
    let mut world = World::found_in(RANGE, life.seed, 3, LEASE, life.rules, life.trace);
    for ip in addresses() {
        world.history.watch(&LeaseKey::Address(ip));
    }
    for founder in 0..3 {
        let rates = rates(&mut world);
        world.set_clock(founder, rates);
        world.start(founder);
    }
    for _ in 0..6 {
        let rates = rates(&mut world);
        world.add(rates);
    }
    world.run_until(Duration::from_secs(15))?;
    for node in 0..world.len() {
        world.claim_name(node, &format!("n{node}"));
    }
    Ok(world)
}

/// Once all is mended every address is in use again. Says how long that took.
///
/// # Errors
/// An invariant does not hold, or an address stays unused.
pub fn scarce(life: Life) -> Result<Duration, Failure> {
    let mut world = founded(life)?;
    let mut nemesis = Nemesis::default();
    let end = world.time + life.faults;
    while world.time < end {
        nemesis.end_due(&mut world, false);
        nemesis.strike(&mut world, LEASE);
        want_any(&mut world);
        world.run_until(world.time + STEP)?;
    }
    world.set_cut(BTreeSet::new());
    world.set_weather(Weather::calm());
    nemesis.end_due(&mut world, true);
    for node in 0..world.len() {
        world.start(node);
    }
    let start = world.time;
    while world.time < start + guard(LEASE, RHO_PPM) + Duration::from_secs(130) {
        want_any(&mut world);
        world.run_until(world.time + STEP)?;
        let is_used = |ip| (0..world.len()).any(|node| world.lease(node, &LeaseKey::Address(ip)).is_some());
        if addresses().all(is_used) {
            if let Some(node) = (0..world.len()).find(|node| held(&world, *node) > 1) {
                return Err(world.report(format!("n{node} has two addresses, and uses one of them")));
            }
            world.history.check().map_err(|what| Failure { at: world.time, what })?;
            return Ok(world.time - start);
        }
    }
    Err(world.report("an address stays unused long after everything was mended".to_owned()))
}

fn held(world: &World, node: usize) -> usize {
    addresses().filter(|ip| world.lease(node, &LeaseKey::Address(*ip)).is_some()).count()
}

/// Whoever has nothing asks again, as the daemon does.
fn want_any(world: &mut World) {
    for node in 0..world.len() {
        if held(world, node) == 0 {
            world.claim_any(node);
        }
    }
}
