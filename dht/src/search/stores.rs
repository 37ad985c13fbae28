//! What happens to disks: crashes between a write and its fsync, reboots, stores that are lost or set back.

use crate::votes::{asks_first, was_set_back};

use super::rounds::commit;
use super::state::{Item, REPLICAS, Replica, State, outcome, phase};
use super::step::{Action, Next};
use super::views::decide;
use super::witness::Witness;
use super::world::{World, quorum};

pub(super) fn steps(next: &mut Next<'_>, state: &State) {
    for replica in 0..next.world.shape.replicas {
        reboot(next, state, replica);
        if next.world.scenario.is_crashing() {
            sync(next, state, replica);
            crash(next, state, replica);
        }
        if next.world.scenario.glue.empty_restart {
            empty(next, state, replica);
        }
    }
    set_back(next, state);
}

/// A machine boots: of the running time nothing counts that was not saved, and nothing was.
fn reboot(next: &mut Next<'_>, state: &State, replica: usize) {
    if next.world.scenario.is_crashing() || state.replicas[replica].reboots >= next.world.scenario.reboots {
        return;
    }
    let mut after = *state;
    let me = &mut after.replicas[replica];
    me.reboots += 1;
    for cell in me.cells.iter_mut().flatten().filter(|cell| cell.value != 0) {
        cell.base = state.time;
    }
    next.add(after, Action::Reboot { replica });
}

/// What was written is on the disk, and the answers that rest on it leave.
fn sync(next: &mut Next<'_>, state: &State, replica: usize) {
    let world = next.world;
    if state.disks[replica] == disk_of(&state.replicas[replica]) && !holds_back(state, replica) {
        return;
    }
    let mut after = *state;
    after.disks[replica] = disk_of(&state.replicas[replica]);
    for round in 0..after.rounds.len() {
        for key in 0..world.shape.keys {
            let item = &mut after.rounds[round].items[key];
            item.votes |= item.unsynced & 1 << replica;
            item.unsynced &= !(1 << replica);
            if item.promises[replica].have == 2 {
                item.promises[replica].have = 1;
            }
            if after.rounds[round].used == 1 && after.rounds[round].items[key].votes != 0 {
                commit(world, &mut after, round, key);
            }
        }
    }
    let mut fault = None;
    for number in 0..after.proposals.len() {
        let proposal = &mut after.proposals[number];
        proposal.votes |= proposal.unsynced & 1 << replica;
        proposal.unsynced &= !(1 << replica);
        if proposal.promises[replica].0 == 2 {
            proposal.promises[replica].0 = 1;
        }
        fault = fault.or(decide(world, &mut after, number));
    }
    next.add_wrong(after, Action::Syncs { replica }, fault);
}

fn disk_of(replica: &Replica) -> Replica {
    Replica { reboots: 0, ..*replica }
}

fn holds_back(state: &State, replica: usize) -> bool {
    let proposals = state.proposals.iter();
    let mut proposals = proposals.map(|proposal| (proposal.unsynced, proposal.promises[replica].0));
    let items = state.rounds.iter().flat_map(|round| &round.items);
    let votes = proposals.any(|(unsynced, have)| unsynced >> replica & 1 == 1 || have == 2);
    votes || items.into_iter().any(|item| item.unsynced >> replica & 1 == 1 || item.promises[replica].have == 2)
}

/// The process ends: what is not on the disk is gone, and so are the answers that waited for it.
fn crash(next: &mut Next<'_>, state: &State, replica: usize) {
    let me = &state.replicas[replica];
    if me.reboots >= next.world.scenario.crashes || state.disks[replica] == disk_of(me) {
        return;
    }
    let mut after = *state;
    after.replicas[replica] = Replica { reboots: me.reboots + 1, ..state.disks[replica] };
    for item in after.rounds.iter_mut().flat_map(|round| &mut round.items) {
        item.unsynced &= !(1 << replica);
        if item.votes >> replica & 1 == 0 {
            item.promised_next &= !(1 << replica);
        }
        if item.promises[replica].have == 2 {
            item.promises[replica] = Default::default();
        }
    }
    for proposal in &mut after.proposals {
        proposal.unsynced &= !(1 << replica);
        if proposal.promises[replica].0 == 2 {
            proposal.promises[replica] = Default::default();
        }
    }
    next.witnesses.add(Witness::ReplicaCrashed);
    next.add(after, Action::Crashes { replica });
}

/// The disk is lost, and the replica goes on under its old number as if it had never promised anything.
fn empty(next: &mut Next<'_>, state: &State, replica: usize) {
    let me = &state.replicas[replica];
    if me.reboots == 0 && (0..REPLICAS).all(|other| state.replicas[other].reboots == 0) {
        let mut after = *state;
        after.replicas[replica] = Replica { reboots: 1, knows: me.knows, stations: me.stations, ..Replica::default() };
        next.add(after, Action::Empties { replica });
    }
}

/// One replica's store is copied, and the copy put back later.
fn set_back(next: &mut Next<'_>, state: &State) {
    let world = next.world;
    let Some(replica) = world.scenario.setback else { return };
    let me = state.replicas[replica];
    let mut after = *state;
    match state.setback {
        0 => {
            (after.backup, after.setback) = (me, 1);
            next.add(after, Action::BackUp { replica });
        }
        1 if me != state.backup => {
            after.replicas[replica] = Replica { knows: me.knows.max(state.backup.knows), ..state.backup };
            let asks = asks_first(&world.scenario.rules, u64::from(state.backup.votes), false);
            (after.backup, after.setback) = (Replica::default(), if asks { 2 } else { 3 });
            forget_rounds(world, &mut after, replica);
            next.add(after, Action::Restores { replica });
        }
        2 => asked(next, world, state, replica),
        _ => {}
    }
}

/// A process that ends forgets its rounds. What it sent may still be accepted, but nobody counts that.
fn forget_rounds(world: &World, state: &mut State, replica: usize) {
    for round in state.rounds.iter_mut().filter(|round| usize::from(round.coordinator) == replica) {
        let members = world.scenario.first;
        for item in &mut round.items {
            if item.phase == phase::ACCEPTING && item.votes.count_ones() < quorum(members) {
                item.outcome = outcome::NONE;
            } else if item.phase == phase::PREPARING {
                *item = Item { phase: phase::DEAD, ..Item::default() };
            }
        }
    }
}

/// All others have said how many votes of the store they have seen.
fn asked(next: &mut Next<'_>, world: &World, state: &State, replica: usize) {
    let silent = usize::from(world.scenario.glue.silent_witness);
    let seen = state.seen.iter().take(world.shape.replicas).skip(silent).copied().max().unwrap_or(0);
    let noticed = was_set_back(u64::from(state.replicas[replica].votes), u64::from(seen));
    next.witnesses.add(if noticed { Witness::SetbackNoticed } else { Witness::SetbackWentOn });
    let mut after = *state;
    // What it sent before it was set back, and nobody has heard by now, comes no more: connections have ended since.
    for round in 0..after.rounds.len() {
        let heard = after.seen[usize::from(after.rounds[round].coordinator)];
        let own = usize::from(after.rounds[round].coordinator) == replica;
        for item in &mut after.rounds[round].items {
            if own && item.outcome == outcome::NONE && item.phase == phase::ACCEPTING {
                *item = Item { phase: phase::DEAD, ..Item::default() };
            }
            if item.promises[replica].votes > heard && !own {
                item.promises[replica] = Default::default();
                item.votes &= !(1 << replica);
                item.promised_next &= !(1 << replica);
            }
        }
    }
    after.setback = if noticed { 4 } else { 3 };
    if noticed {
        let knows = after.replicas[replica].knows;
        after.replicas[replica] = Replica { knows, ..Replica::default() };
    }
    next.add(after, Action::Asked { replica, noticed });
}
