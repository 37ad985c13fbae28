//! Directed schedules: what chance finds too seldom.
//!
//! Each plays by a seed and says how many turns it took, or what went wrong. With all rules nothing may.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use dht::message::{Message, ViewMessage};
use dht::record::{OpKind, guard};
use dht::{LeaseKey, Rules};
use rand::RngExt;

use super::nemesis::Store;
use super::world::{Failure, World};
use crate::clock::Rates;

/// One of them, for tables.
#[derive(Clone, Copy)]
pub struct Schedule {
    /// As tables have it.
    pub name: &'static str,
    /// Plays it.
    pub play: fn(u64, Rules) -> Result<u64, Failure>,
}

/// All of them.
pub const ALL: &[Schedule] = &[
    Schedule { name: "expiry instant", play: contention_at_the_expiry_instant },
    Schedule { name: "late answer", play: an_answer_that_takes_its_time },
    Schedule { name: "delayed release", play: a_release_that_comes_after_the_next_claim },
    Schedule { name: "crash after accept", play: crashes_between_accept_and_decide },
    Schedule { name: "proposer gone", play: a_proposer_that_dies_before_it_tells },
    Schedule { name: "lost disk", play: |seed, rules| a_lost_disk_under_a_lease(seed, Store::New, rules) },
    Schedule { name: "store set back", play: a_store_that_was_set_back },
];

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
    some_and(3, owners, seed, rules)
}

fn some_and(replicas: usize, owners: usize, seed: u64, rules: Rules) -> Result<World, Failure> {
    let mut world = World::found(seed, replicas, LEASE, rules, false);
    for founder in 0..replicas {
        world.set_clock(founder, fast());
        world.start(founder);
    }
    for _ in 0..owners {
        world.add(slow());
    }
    world.run_until(Duration::from_secs(10))?;
    Ok(world)
}

/// Fails if the history is none of a register.
fn judged(world: &World, turns: u64) -> Result<u64, Failure> {
    world.history.check().map(|()| turns).map_err(|what| Failure { at: world.time, what })
}

/// All owners but one want the address, again and again, until the guard is over by anybody's clock.
fn besiege(world: &mut World, owners: std::ops::Range<usize>, owner: usize, end: Duration) -> Result<u64, Failure> {
    let mut turns = 0;
    while world.time < end {
        for other in owners.clone().filter(|other| *other != owner) {
            world.claim(other, IP, false);
        }
        let pause = Duration::from_millis(world.rng.random_range(20..200));
        world.run_until(world.time + pause)?;
        turns += 1;
    }
    for node in owners {
        world.release(node, IP);
    }
    world.run_until(world.time + Duration::from_secs(6))?;
    Ok(turns)
}

/// Two want an address at the very moment at which its owner's lease ends: with one, three and five replicas.
///
/// # Errors
/// Two had it at once.
pub fn contention_at_the_expiry_instant(seed: u64, rules: Rules) -> Result<u64, Failure> {
    let replicas = [3, 1, 5][usize::try_from(seed % 3).unwrap_or(0)];
    // Neither more replicas nor fewer, so that nothing but time decides.
    let mut world = some_and(replicas, 3, seed, Rules { views_change: false, ..rules })?;
    let owners = replicas..replicas + 3;
    let mut turns = 0;
    for round in 0..6 {
        let owner = replicas + round % 3;
        world.claim(owner, IP, false);
        let asked = world.time;
        world.run_until(asked + LEASE * 97 / 100)?;
        turns += besiege(&mut world, owners.clone(), owner, asked + guard(LEASE, 10_000) + Duration::from_secs(2))?;
    }
    judged(&world, turns)
}

/// The answer to a claim takes longer than the guard is longer than the lease, and others want the address when it ends.
///
/// # Errors
/// Two had it at once: the owner counts from when it had the answer.
pub fn an_answer_that_takes_its_time(seed: u64, rules: Rules) -> Result<u64, Failure> {
    let mut world = three_and(3, seed, Rules { views_change: false, ..rules })?;
    let mut turns = 0;
    for round in 0..3 {
        let owner = 3 + round % 3;
        let late = Duration::from_millis(world.rng.random_range(2500..3500));
        world.set_postman(Some(Box::new(move |_, to, message| {
            let answer = to == owner && matches!(message, Message::Results { .. });
            answer.then(|| vec![late])
        })));
        world.claim(owner, IP, false);
        let asked = world.time;
        world.run_until(asked + Duration::from_secs(5))?;
        world.set_postman(None);
        world.run_until(asked + LEASE * 97 / 100)?;
        turns += besiege(&mut world, 3..6, owner, asked + guard(LEASE, 10_000) + Duration::from_secs(5))?;
    }
    judged(&world, turns)
}

/// An owner gives an address back and claims it again; then the release arrives, and then somebody else wants it.
///
/// # Errors
/// Two had it at once: the release ended what was claimed after it.
pub fn a_release_that_comes_after_the_next_claim(seed: u64, rules: Rules) -> Result<u64, Failure> {
    let mut world = three_and(2, seed, Rules { views_change: false, ..rules })?;
    let mut turns = 0;
    for _ in 0..4 {
        world.claim(3, IP, false);
        world.run_until(world.time + Duration::from_secs(2))?;
        let late = Duration::from_millis(world.rng.random_range(2000..9000));
        world.set_postman(Some(Box::new(move |_, _, message| {
            let ops = if let Message::Ops { ops, .. } = message { ops.as_slice() } else { &[] };
            ops.iter().any(|op| op.op.kind == OpKind::Release).then(|| vec![late, late * 2])
        })));
        world.release(3, IP);
        let pause = Duration::from_millis(world.rng.random_range(50..1500));
        world.run_until(world.time + pause)?;
        world.claim(3, IP, false);
        world.run_until(world.time + pause)?;
        world.set_postman(None);
        let end = world.time + Duration::from_secs(20);
        while world.time < end {
            world.claim(4, IP, false);
            world.run_until(world.time + Duration::from_millis(700))?;
            turns += 1;
        }
        for node in 3..5 {
            world.release(node, IP);
        }
        world.run_until(world.time + Duration::from_secs(3))?;
    }
    judged(&world, turns)
}

/// A quorum has voted for the next view, and its proposer dies before it tells anybody, while a grant of the old view is
/// under way.
///
/// # Errors
/// Two had it at once, or nobody brought the change to its end.
pub fn a_proposer_that_dies_before_it_tells(seed: u64, rules: Rules) -> Result<u64, Failure> {
    let mut world = three_and(4, seed, rules)?;
    let mut turns = 0;
    for round in 0..3 {
        let Some(members) = world.members() else { break };
        let outside: Vec<usize> = (0..7).filter(|node| !members.contains(node)).collect();
        let (owner, other) = (outside[0], outside[1]);
        let proposer = members[world.rng.random_range(0..members.len())];
        let stay = members.iter().copied().filter(|member| *member != proposer);
        let next: Vec<usize> = stay.chain([outside[outside.len() - 1]]).collect();
        // Votes on values are slow, so that some of them meet a member that has voted for the next view meanwhile.
        let (voted, slow) = (Rc::new(Cell::new(0)), Duration::from_millis(world.rng.random_range(1..4000)));
        let count = Rc::clone(&voted);
        world.set_postman(Some(Box::new(move |from, to, message| {
            let vote = matches!(message, Message::View(ViewMessage::Accepted { verdict: Ok(_), .. }));
            count.set(count.get() + u32::from(vote && to == proposer));
            if from == proposer && matches!(message, Message::Moved { .. }) {
                return Some(Vec::new());
            }
            (to % 2 == 0 && matches!(message, Message::Accept { .. })).then(|| vec![slow])
        })));
        world.claim(owner, IP, round % 2 == 0);
        world.run_until(world.time + Duration::from_millis(60))?;
        world.propose(proposer, &next);
        let end = world.time + Duration::from_secs(3);
        while voted.get() < 2 && world.time < end {
            world.run_until(world.time + Duration::from_millis(2))?;
        }
        world.run_until(world.time + Duration::from_millis(50))?;
        world.crash(proposer);
        world.run_until(world.time + Duration::from_secs(1))?;
        world.set_postman(None);
        let number = world.views();
        let end = world.time + guard(LEASE, 10_000) + Duration::from_secs(20);
        while world.time < end {
            world.claim(other, IP, false);
            world.run_until(world.time + Duration::from_millis(900))?;
            turns += 1;
        }
        if voted.get() >= 2 && world.views() == number && world.members().is_some_and(|now| now == members) {
            return Err(world.report("nobody brought the view change to its end".to_owned()));
        }
        if [owner, other].iter().all(|node| world.lease(*node, &LeaseKey::Address(IP)).is_none()) {
            return Err(world.report("nobody is granted anything after a proposer died".to_owned()));
        }
        world.start(proposer);
        for node in [owner, other] {
            world.release(node, IP);
        }
        world.run_until(world.time + Duration::from_secs(10))?;
    }
    world.agree()?;
    judged(&world, turns)
}

/// A replica's disk is put back to what it was before it voted for the owner; the only other one that knows is cut off.
///
/// # Errors
/// Two had it at once: it votes as if it had never voted before.
pub fn a_store_that_was_set_back(seed: u64, rules: Rules) -> Result<u64, Failure> {
    let mut world = three_and(2, seed, Rules { views_change: false, ..rules })?;
    let deaf = world.rng.random_range(0..3);
    let (back, knows) = ((deaf + 1) % 3, (deaf + 2) % 3);
    let before = world.machines[back].disk.image().clone();
    world.set_cut(around(deaf));
    world.claim(3, IP, false);
    world.run_until(world.time + Duration::from_secs(5))?;
    world.crash(back);
    world.machines[back].disk.set_back(before);
    world.set_cut(BTreeSet::new());
    world.start(back);
    world.run_until(world.time + Duration::from_secs(5))?;
    world.set_cut(around(knows));
    world.claim(4, IP, false);
    world.run_until(world.time + Duration::from_secs(6))?;
    judged(&world, 1)
}

/// Nothing gets to this machine or away from it.
fn around(node: usize) -> BTreeSet<(usize, usize)> {
    (0..5).filter(|other| *other != node).flat_map(|other| [(other, node), (node, other)]).collect()
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
    judged(&world, turns)
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
        world.set_cut(around(deaf));
        world.claim(3, IP, false);
        world.run_until(world.time + Duration::from_secs(5))?;
        // One of the two that know of it loses its disk, and the other is cut off.
        let lost = (deaf + 1 + world.rng.random_range(0..2)) % 3;
        let other = 3 - deaf - lost;
        if world.may_lose_disk(lost) || store == Store::Same {
            world.lose_disk(lost, store);
            world.start(lost);
        }
        world.set_cut(around(other));
        world.claim(4, IP, false);
        world.run_until(world.time + Duration::from_secs(6))?;
        world.set_cut(BTreeSet::new());
        for node in 3..5 {
            world.release(node, IP);
        }
        world.run_until(world.time + Duration::from_secs(100))?;
        turns += 1;
    }
    judged(&world, turns)
}
