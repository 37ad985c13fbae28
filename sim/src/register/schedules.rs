//! Directed schedules: what chance finds too seldom.

use std::net::Ipv4Addr;
use std::time::Duration;

use dht::Rules;
use dht::record::guard;
use rand::RngExt;

use super::nemesis::Store;
use super::world::{Failure, World};
use crate::clock::Rates;

const LEASE: Duration = Duration::from_secs(30);
const IP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 5);

fn slow() -> Rates {
    Rates { crystal: -9900, steering: 0 }
}

fn fast() -> Rates {
    Rates { crystal: 9900, steering: 0 }
}

/// Three replicas with fast clocks, and owners with slow ones.
fn three_and(owners: usize, seed: u64, rules: Rules) -> Result<World, Failure> {
    let mut world = World::found(seed, 3, LEASE, rules, false);
    for founder in 0..3 {
        world.set_clock(founder, fast());
        world.start(founder);
    }
    for _ in 0..owners {
        world.add(slow());
    }
    world.run_until(Duration::from_secs(10))?;
    Ok(world)
}

/// Two want an address at the very moment at which its owner's lease ends.
///
/// # Errors
/// Two had it at once.
pub fn contention_at_the_expiry_instant(seed: u64, rules: Rules) -> Result<u64, Failure> {
    let mut world = three_and(3, seed, rules)?;
    let mut turns = 0;
    for round in 0..8 {
        let owner = 3 + round % 3;
        let slow_network = world.rng.random_bool(0.5);
        if slow_network {
            // The answer to the owner takes its time, and the owner's clock began when it asked.
            let weather = super::links::Weather { delay: Duration::from_millis(900), ..super::links::Weather::calm() };
            world.set_weather(weather);
        }
        world.claim(owner, IP, false);
        world.run_until(world.time + Duration::from_secs(4))?;
        world.set_weather(super::links::Weather::calm());
        // From before the lease ends by anybody's clock until after the guard.
        let end = world.time + guard(LEASE, 10_000) + Duration::from_secs(1);
        world.run_until(world.time + LEASE * 97 / 100 - Duration::from_secs(5))?;
        while world.time < end {
            for other in (3..6).filter(|other| *other != owner) {
                world.claim(other, IP, false);
            }
            let pause = Duration::from_millis(world.rng.random_range(20..200));
            world.run_until(world.time + pause)?;
            turns += 1;
        }
        for node in 3..6 {
            world.release(node, IP);
        }
        world.run_until(world.time + Duration::from_secs(6))?;
    }
    Ok(turns)
}

/// Replicas crash between the vote on a value and its decision, again and again.
///
/// # Errors
/// Two had it at once.
pub fn crashes_between_accept_and_decide(seed: u64, rules: Rules) -> Result<u64, Failure> {
    let mut world = three_and(2, seed, rules)?;
    let mut turns = 0;
    for _ in 0..40 {
        let (first, second) = (3 + world.rng.random_range(0..2), 3 + world.rng.random_range(0..2));
        world.claim(first, IP, false);
        let pause = Duration::from_micros(world.rng.random_range(1000..90_000));
        world.run_until(world.time + pause)?;
        let gone = world.rng.random_range(0..3);
        world.crash(gone);
        world.claim(second, IP, false);
        let pause = Duration::from_millis(world.rng.random_range(10..2500));
        world.run_until(world.time + pause)?;
        world.start(gone);
        if world.rng.random_bool(0.5) {
            world.release(first, IP);
        }
        world.run_until(world.time + Duration::from_millis(500))?;
        turns += 1;
    }
    Ok(turns)
}

/// A replica loses its disk while the owner goes on with what rests on it and one more.
///
/// # Errors
/// Two had it at once.
pub fn a_lost_disk_under_a_lease(seed: u64, store: Store, rules: Rules) -> Result<u64, Failure> {
    let mut world = three_and(2, seed, rules)?;
    let mut turns = 0;
    for _ in 0..6 {
        // One of the three hears nothing of the grant.
        let deaf = world.rng.random_range(0..3);
        let cut = (0..5).filter(|n| *n != deaf).flat_map(|n| [(n, deaf), (deaf, n)]).collect();
        world.set_cut(cut);
        world.claim(3, IP, false);
        world.run_until(world.time + Duration::from_secs(5))?;
        // One of the two that know of it loses its disk, and the other is cut off.
        let lost = (deaf + 1 + world.rng.random_range(0..2)) % 3;
        let other = 3 - deaf - lost;
        if world.may_lose_disk(lost) || store == Store::Same {
            world.lose_disk(lost, store);
            world.start(lost);
        }
        let cut = (0..5).filter(|n| *n != other).flat_map(|n| [(n, other), (other, n)]).collect();
        world.set_cut(cut);
        world.claim(4, IP, false);
        world.run_until(world.time + Duration::from_secs(6))?;
        world.set_cut(std::collections::BTreeSet::new());
        for node in 3..5 {
            world.release(node, IP);
        }
        world.run_until(world.time + Duration::from_secs(100))?;
        turns += 1;
    }
    Ok(turns)
}
