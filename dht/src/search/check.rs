//! What must never be, in any state.

use std::fmt;

use crate::slot::Standing;

use super::owners::lives;
use super::rounds::is_tombstone;
use super::state::{ACTIVE, OWNERS, RETIRED, State};
use super::world::{World, each, quorum, subsets};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    TwoOwners,
    TwoViews,
    ReadMissesOwner,
    ElapsedTooLong,
    WedgedAccepts,
    MemberLacksCommitted,
    BarredForEver,
    FalseRefusal,
    DecidedByFew,
    OldOperationActs,
    TakenUnseen,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TwoOwners => "two live owners",
            Self::TwoViews => "two views of one number",
            Self::ReadMissesOwner => "a quorum read misses the owner",
            Self::ElapsedTooLong => "a replica has counted more time than has passed",
            Self::WedgedAccepts => "a member accepted in a view that it has wedged",
            Self::MemberLacksCommitted => "a member serves without something committed in the view before",
            Self::BarredForEver => "with a minority dead, the others can never serve the view",
            Self::OldOperationActs => "a claim is granted after a later release was confirmed",
            Self::TakenUnseen => "a deputy gets a lease that was renewed since it looked",
            Self::DecidedByFew => "an operation is decided with fewer promises than a quorum",
            Self::FalseRefusal => "a live owner is told that its lease is another's",
        })
    }
}

/// What is wrong with a state.
pub(super) fn fault(world: &World, state: &State) -> Option<Fault> {
    let key = |check: fn(&World, &State, usize) -> bool| (0..world.shape.keys).any(|key| check(world, state, key));
    if key(two_owners) {
        return Some(Fault::TwoOwners);
    }
    if !world.scenario.shares && key(read_misses) {
        return Some(Fault::ReadMissesOwner);
    }
    if key(counted_too_long) {
        return Some(Fault::ElapsedTooLong);
    }
    if key(lacks_committed) {
        return Some(Fault::MemberLacksCommitted);
    }
    barred(world, state).then_some(Fault::BarredForEver)
}

/// Where a client is behind both, the key is its, and not two clients'.
fn two_owners(world: &World, state: &State, key: usize) -> bool {
    let client = |owner: usize| state.owners[owner].client[key];
    let shared = world.scenario.shares && client(0) != 0 && client(0) == client(1);
    !shared && (0..OWNERS).filter(|owner| lives(state, *owner, key)).count() > 1
}

/// A quorum that answers a read with one ballot names somebody else than the owner, or nobody.
fn read_misses(world: &World, state: &State, key: usize) -> bool {
    let Some(owner) = (0..OWNERS).find(|owner| lives(state, *owner, key)) else { return false };
    (0..=world.newest(state)).any(|view| {
        let members = world.members(state, view);
        let answers = |replica: &usize| {
            let rules = &world.scenario.rules;
            let knows = usize::from(state.replicas[*replica].knows);
            let current = if rules.active_reads { knows == view } else { knows >= view };
            current
                && world.may_vote(state, *replica)
                && world.standing(state, *replica, view).is_some_and(|standing| standing.answers_reads(rules))
        };
        let cell = |replica: usize| state.replicas[replica].cells[view][key];
        let mut answering = each(members).filter(answers);
        answering.clone().any(|replica| {
            let same = answering.clone().filter(|other| cell(*other).ballot == cell(replica).ballot).count();
            let names = world.record(cell(replica).value).is_some_and(|record| {
                record.held() && world.op_of(cell(replica).value).is_some_and(|op| world.ops[op].owner == owner)
            });
            same as u32 >= quorum(members) && !names
        }) && answering.next().is_some()
    })
}

/// A replica believes that a value is older than the operation that made it.
fn counted_too_long(world: &World, state: &State, key: usize) -> bool {
    if world.scenario.time == 0 {
        return false;
    }
    state.replicas.iter().take(world.shape.replicas).any(|replica| {
        replica.cells.iter().map(|cells| &cells[key]).any(|cell| {
            world.op_of(cell.value).is_some_and(|op| world.elapsed(cell, state.time) > state.time - state.ops[op].t0)
        })
    })
}

/// A member began to serve a view without something that the view before had committed.
fn lacks_committed(world: &World, state: &State, key: usize) -> bool {
    (1..=world.newest(state)).any(|view| {
        let committed = state.committed[view - 1][key];
        each(world.members(state, view)).any(|replica| {
            let me = &state.replicas[replica];
            let dropped = || world.record(committed.value).is_some_and(is_tombstone);
            me.stations[view].standing == ACTIVE && me.cells[view][key].ballot < committed.ballot && !dropped()
        })
    })
}

/// Once a quorum served a view, the death of any minority of it must leave the others able to go on: those that vote are
/// a quorum, or somebody late can still get the state.
fn barred(world: &World, state: &State) -> bool {
    let view = world.newest(state);
    if view == 0 || !world.scenario.retires {
        return false;
    }
    let members = world.members(state, view);
    let stored = |replica: usize| state.replicas[replica].stations[view].standing;
    let set = |fits: &dyn Fn(usize) -> bool| each(members).filter(|r| fits(*r)).fold(0u8, |set, r| set | 1 << r);
    let serve = set(&|replica| stored(replica) >= ACTIVE);
    let late = members & !serve;
    if serve.count_ones() < quorum(members) || late == 0 {
        return false;
    }
    let rules = &world.scenario.rules;
    let old = world.members(state, view - 1);
    let copied = set(&|replica| {
        serve >> replica & 1 == 1 && world.standing(state, replica, view).is_some_and(|s| s.is_copied(rules))
    });
    let has_old = |replica: &usize| {
        let stored = state.replicas[*replica].stations[view - 1].standing;
        let had = stored >= ACTIVE || view == 1 && stored == 0;
        had && stored != RETIRED && world.standing(state, *replica, view - 1) != Some(Standing::Transferring)
    };
    let minority = members.count_ones() - quorum(members);
    (0..=minority).flat_map(|count| subsets(members, count)).any(|dead| {
        let shows = each(old & !dead).filter(has_old).count() as u32 >= quorum(old);
        let goes_on = (serve & !dead).count_ones() >= quorum(members);
        let helped = late & !dead != 0 && (shows || copied & !dead != 0);
        !goes_on && !helped
    })
}
