//! View changes: proposals, votes on them, and how a member of the next view gets what the old one held.

use std::collections::BTreeMap;

use crate::acceptor::is_dead;
use crate::ballot::Ballot;
use crate::cell;
use crate::clock::ReplicaTime;
use crate::message::Held;
use crate::record::{RegisterKey, Value};
use crate::slot::{Slot, Standing, activated, obliged};
use crate::transfer::{is_enough, merge};

use super::check::Fault;
use super::rounds::is_tombstone;
use super::state::{ACTIVE, Cell, Copied, Proposal, RETIRED, State, Station, WEDGED};
use super::step::{Action, Next};
use super::witness::Witness;
use super::world::{World, each, quorum, subsets};

type Items = BTreeMap<RegisterKey, (Held, ReplicaTime)>;

pub(super) fn steps(next: &mut Next<'_>, state: &State) {
    let world = next.world;
    for view in 0..world.shape.views - 1 {
        propose(next, state, view);
    }
    for number in 0..proposals(state) {
        let proposal = state.proposals[number];
        for replica in each(world.members(state, usize::from(proposal.view))) {
            promise(next, state, number, replica);
            accept(next, state, number, replica);
        }
        send(next, state, number);
    }
    for replica in 0..world.shape.replicas {
        learn(next, state, replica);
        transfer(next, state, replica);
        retire(next, state, replica);
    }
    show(next, state);
}

/// What a replica held in views that are over for it is frozen, its vote there is spent, and proposals that nobody can
/// answer are nothing.
pub(super) fn tidy(world: &World, state: &mut State) {
    for number in 0..proposals(state) {
        let proposal = state.proposals[number];
        let view = usize::from(proposal.view);
        let able = |replica: &usize| {
            let knows = usize::from(state.replicas[*replica].knows);
            let standing = world.standing(state, *replica, view);
            // Somebody late may yet get the state, and a vote with it.
            let may = standing.is_none_or(|s| s == Standing::Transferring || s.votes(&world.scenario.rules));
            knows < view || knows == view && may
        };
        let full = number as u8 + 1;
        let members = world.members(state, view);
        let dead = if proposal.sent == 0 {
            let have = each(members).filter(|replica| proposal.promises[*replica].0 != 0).count();
            let more = |replica: &usize| {
                let promised = state.replicas[*replica].stations[view].promised;
                proposal.promises[*replica].0 == 0 && promised < full && able(replica)
            };
            ((have + each(members).filter(more).count()) as u32) < quorum(members)
        } else {
            !each(members).any(|replica| {
                let promised = state.replicas[replica].stations[view].promised;
                (proposal.votes | proposal.unsynced) >> replica & 1 == 0 && promised <= full && able(&replica)
            })
        };
        if dead && proposal.unsynced == 0 && !world.scenario.is_crashing() {
            state.proposals[number] = Proposal { used: 1, own: DEAD, sent: DEAD, ..Default::default() };
        }
    }
    for replica in 0..world.shape.replicas {
        for view in 0..world.shape.views {
            let knows = usize::from(state.replicas[replica].knows);
            let standing = world.standing(state, replica, view);
            if matches!(standing, Some(Standing::Wedged)) {
                for cell in &mut state.replicas[replica].cells[view] {
                    cell.promised = 0;
                }
            }
            if view < knows {
                let stored = standing.map_or(0, small);
                state.replicas[replica].stations[view] = Station { standing: stored, ..Station::default() };
            }
        }
    }
}

/// The choice of a proposal that is nothing any more.
const DEAD: u8 = 0xff;

fn proposals(state: &State) -> usize {
    state.proposals.iter().take_while(|proposal| proposal.used != 0).count()
}

fn ballot(view: u8, number: usize) -> Ballot {
    Ballot { view: u64::from(view), round: number as u64 + 1, replica: 0 }
}

fn slot(station: &Station, view: u8) -> Slot<u8> {
    let full = |number: u8| if number == 0 { Ballot::default() } else { ballot(view, usize::from(number) - 1) };
    let accepted = (station.next != 0).then(|| (full(station.ballot), station.next));
    Slot { promised: full(station.promised), accepted }
}

fn votes(world: &World, state: &State, replica: usize, view: usize) -> bool {
    let standing = world.standing(state, replica, view);
    usize::from(state.replicas[replica].knows) == view
        && world.may_vote(state, replica)
        && standing.is_some_and(|standing| standing.votes(&world.scenario.rules))
}

fn propose(next: &mut Next<'_>, state: &State, view: usize) {
    let world = next.world;
    let number = proposals(state);
    if number >= world.scenario.proposals {
        return;
    }
    let able = each(world.members(state, view)).filter(|replica| votes(world, state, *replica, view));
    if able.clone().next().is_none() {
        return;
    }
    let mut add = |own: u8, sent: u8| {
        let mut after = *state;
        after.proposals[number] = Proposal { used: 1, view: view as u8, own, sent, ..Proposal::default() };
        let members = world.scenario.next[view][usize::from(own) - 1];
        next.add(after, Action::Proposes { proposal: number, members, again: sent != 0 });
    };
    for choice in 0..world.scenario.next[view].len() as u8 {
        add(choice + 1, 0);
    }
    if !world.scenario.rules.repropose_runs_phase_1 {
        let mut accepted: Vec<u8> = able.map(|replica| state.replicas[replica].stations[view].next).collect();
        accepted.dedup();
        accepted.into_iter().filter(|choice| *choice != 0).for_each(|choice| add(choice, choice));
    }
}

fn promise(next: &mut Next<'_>, state: &State, number: usize, replica: usize) {
    let proposal = state.proposals[number];
    let view = usize::from(proposal.view);
    if proposal.sent != 0 || !votes(next.world, state, replica, view) {
        return;
    }
    let mut slot = slot(&state.replicas[replica].stations[view], proposal.view);
    let Ok(accepted) = slot.prepare(ballot(proposal.view, number)) else { return };
    let mut after = *state;
    after.replicas[replica].stations[view].promised = number as u8 + 1;
    let (ballot, choice) = accepted.map_or((0, 0), |(ballot, choice)| (ballot.round as u8, choice));
    after.proposals[number].promises[replica] = (1 + u8::from(next.world.holds_back()), ballot, choice);
    next.add(after, Action::PromisesView { proposal: number, replica });
}

/// The proposer has a quorum's promises, and goes on with what they oblige it to.
fn send(next: &mut Next<'_>, state: &State, number: usize) {
    let proposal = state.proposals[number];
    if proposal.sent != 0 {
        return;
    }
    let members = next.world.members(state, usize::from(proposal.view));
    let promised = each(members).filter(|replica| proposal.promises[*replica].0 == 1);
    let promised = promised.fold(0u8, |set, replica| set | 1 << replica);
    let mut sent = Vec::new();
    for heard in subsets(promised, quorum(members)) {
        let told: Vec<Option<(Ballot, u8)>> = each(heard)
            .map(|replica| {
                let (_, round, choice) = proposal.promises[replica];
                (choice != 0).then(|| (ballot(proposal.view, usize::from(round) - 1), choice))
            })
            .collect();
        sent.extend(obliged(told.iter(), Some(&proposal.own)));
        next.witnesses.add_if(Witness::Obliged, told.iter().flatten().next().is_some());
    }
    sent.sort_unstable();
    sent.dedup();
    for choice in sent {
        let mut after = *state;
        after.proposals[number].sent = choice;
        after.proposals[number].promises = Default::default();
        let members = next.world.scenario.next[usize::from(proposal.view)][usize::from(choice) - 1];
        next.add(after, Action::SendsView { proposal: number, members });
    }
}

fn accept(next: &mut Next<'_>, state: &State, number: usize, replica: usize) {
    let world = next.world;
    let proposal = state.proposals[number];
    let view = usize::from(proposal.view);
    let voted = (proposal.votes | proposal.unsynced) >> replica & 1 == 1;
    if matches!(proposal.sent, 0 | DEAD) || voted || !votes(world, state, replica, view) {
        return;
    }
    let mut slot = slot(&state.replicas[replica].stations[view], proposal.view);
    if slot.accept(ballot(proposal.view, number), proposal.sent).is_err() {
        return;
    }
    let mut after = *state;
    let standing = world.standing(state, replica, view).unwrap_or_default().wedged(&world.scenario.rules);
    let station = &mut after.replicas[replica].stations[view];
    (station.promised, station.ballot, station.next) = (number as u8 + 1, number as u8 + 1, proposal.sent);
    station.standing = small(standing);
    if world.holds_back() {
        after.proposals[number].unsynced |= 1 << replica;
    } else {
        after.proposals[number].votes |= 1 << replica;
    }
    let fault = decide(world, &mut after, number);
    next.add_wrong(after, Action::VotesView { proposal: number, replica }, fault);
}

/// Whether a quorum has accepted what is proposed: then that is the next view.
pub(super) fn decide(world: &World, state: &mut State, number: usize) -> Option<Fault> {
    let proposal = state.proposals[number];
    let view = usize::from(proposal.view);
    if matches!(proposal.sent, 0 | DEAD) || proposal.votes.count_ones() < quorum(world.members(state, view)) {
        return None;
    }
    let fault = (state.decided[view] != 0 && state.decided[view] != proposal.sent).then_some(Fault::TwoViews);
    state.decided[view] = proposal.sent;
    // Whoever has no part in the old view learns of the new one without further effect.
    let members = world.members(state, view);
    for other in (0..world.shape.replicas).filter(|other| members >> other & 1 == 0) {
        for replica in [&mut state.replicas[other], &mut state.disks[other]] {
            if usize::from(replica.knows) == view {
                replica.knows += 1;
            }
        }
    }
    fault
}

fn small(standing: Standing) -> u8 {
    match standing {
        Standing::Transferring => 0,
        Standing::Active => ACTIVE,
        Standing::Wedged => WEDGED,
        Standing::Retired => RETIRED,
    }
}

fn learn(next: &mut Next<'_>, state: &State, replica: usize) {
    let mut after = *state;
    let knows = &mut after.replicas[replica].knows;
    if usize::from(*knows) >= next.world.newest(state) {
        return;
    }
    *knows += 1;
    let view = usize::from(*knows);
    next.add(after, Action::LearnsView { replica, view });
}

/// A member of the newest view it knows gets the state with which to serve it.
fn transfer(next: &mut Next<'_>, state: &State, replica: usize) {
    let (world, rules) = (next.world, &next.world.scenario.rules);
    let view = usize::from(state.replicas[replica].knows);
    if view == 0 || world.standing(state, replica, view) != Some(Standing::Transferring) {
        return;
    }
    let old = view - 1;
    let shows = |other: &usize| {
        let knows = usize::from(state.replicas[*other].knows) >= view;
        let standing = world.standing(state, *other, old);
        let may = *other != replica && world.may_vote(state, *other) && world.has_told(state, *other);
        may && standing.is_some_and(|standing| standing.shows(knows, rules))
    };
    let copied = |other: usize| {
        let mine = world.scenario.copied == Some(replica) && world.scenario.glue.copy_for_snapshot;
        mine && usize::from(state.copied[other].view) == old + 1
    };
    let members = world.members(state, old);
    let set = |fits: &dyn Fn(usize) -> bool| {
        each(members).filter(|other| fits(*other)).fold(0u8, |set, other| set | 1 << other)
    };
    let (live, late) = (set(&|other| shows(&other)), set(&copied));
    let own = world.may_vote(state, replica)
        && world.standing(state, replica, old).is_some_and(|standing| standing.is_snapshot(rules));
    let need = quorum(members);
    for others in subsets(live | late, need.saturating_sub(u32::from(own))) {
        debug_assert!(is_enough(others.count_ones() as usize, own, need as usize));
        // Where both a snapshot and an old copy are there, the copy came first.
        let sources = each(others).map(|other| {
            if copied(other) {
                items(world, &state.copied[other].cells, state.copied[other].at)
            } else {
                items(world, &world.told(state, other).cells[old], state.time)
            }
        });
        let mine = own.then(|| items(world, &state.replicas[replica].cells[old], state.time));
        let sources: Vec<Items> = sources.chain(mine).collect();
        let from = others | u8::from(own) << replica;
        install(next, state, (replica, view), &sources, Action::Activates { replica, view, from });
    }
    for other in each(world.members(state, view)).filter(|other| *other != replica) {
        let standing = world.standing(state, other, view);
        let current = usize::from(state.replicas[other].knows) == view;
        let told = world.has_told(state, other);
        if current && told && standing.is_some_and(|standing| standing.is_copied(rules)) {
            let source = [items(world, &world.told(state, other).cells[view], state.time)];
            next.witnesses.add(Witness::Copied);
            next.witnesses.add_if(Witness::CopiedFromWedged, standing == Some(Standing::Wedged));
            install(next, state, (replica, view), &source, Action::Copies { replica, view, from: other });
        }
    }
}

/// What is shown of registers: with the time up to `at`, and received then.
fn items(world: &World, cells: &[Cell], at: u8) -> Items {
    let held = cells.iter().take(world.shape.keys).enumerate().filter(|(_, cell)| cell.value != 0);
    held.map(|(key, cell)| {
        let now = world.now(at);
        (world.key(key).clone(), (world.cell(cell).at(&now), now.replica))
    })
    .collect()
}

/// As `Acceptor::install`.
fn install(next: &mut Next<'_>, state: &State, (replica, view): (usize, usize), sources: &[Items], action: Action) {
    let world = next.world;
    let env = world.env(state.time);
    let mut after = *state;
    for held in merge(sources.iter(), &env.now) {
        let Some(Value::Lease(record)) = &held.value else { continue };
        let tombstone = is_tombstone(record);
        let key = (0..world.shape.keys).find(|key| held.value.as_ref().is_some_and(|v| v.key() == *world.key(*key)));
        let cell = cell::Cell::carried(held, &env.now);
        if is_dead(&env, &cell) || tombstone && world.scenario.glue.tombstones_at_once {
            next.witnesses.add(Witness::Collected);
            continue;
        }
        let small = world.small_cell(&cell);
        if let Some(key) = key {
            let cell = &mut after.replicas[replica].cells[view][key];
            *cell = small;
            if world.scenario.glue.time_counts_twice {
                cell.base = 0;
            }
        }
    }
    let station = &mut after.replicas[replica].stations[view];
    station.standing = small(activated(&slot(station, view as u8), false));
    let serve = each(world.members(&after, view)).filter(|j| after.replicas[*j].stations[view].standing >= ACTIVE);
    let quorum = serve.count() as u32 >= quorum(world.members(&after, view));
    next.witnesses.add_if(Witness::SecondView, quorum && view == 1);
    next.witnesses.add_if(Witness::ThirdView, quorum && view == 2);
    next.add(after, action);
}

/// As `handle_station`: a quorum serves the newest view, and what older ones held is dropped.
fn retire(next: &mut Next<'_>, state: &State, replica: usize) {
    let world = next.world;
    let view = usize::from(state.replicas[replica].knows);
    if view == 0 || !world.scenario.retires || world.standing(state, replica, view) == Some(Standing::Transferring) {
        return;
    }
    let members = world.members(state, view);
    let ready = each(members).filter(|other| world.told(state, *other).stations[view].standing >= ACTIVE).count();
    if (ready as u32) < quorum(members) {
        return;
    }
    let mut after = *state;
    for old in 0..view {
        if world.standing(state, replica, old) == Some(Standing::Wedged) {
            after.replicas[replica].stations[old] = Station { standing: RETIRED, ..Station::default() };
            after.replicas[replica].cells[old] = Default::default();
        }
    }
    if after != *state {
        next.witnesses.add(Witness::Retired);
        next.add(after, Action::Retires { replica });
    }
}

/// A member that serves sends a copy to the late one, which does not take it yet.
fn show(next: &mut Next<'_>, state: &State) {
    let world = next.world;
    let Some(to) = world.scenario.copied else { return };
    let view = usize::from(state.replicas[to].knows);
    if world.standing(state, to, view) != Some(Standing::Transferring) {
        return;
    }
    for other in each(world.members(state, view)).filter(|other| *other != to) {
        let current = usize::from(state.replicas[other].knows) == view;
        let copied = world.standing(state, other, view).is_some_and(|s| s.is_copied(&world.scenario.rules));
        if current && copied && state.copied[other].view == 0 {
            let mut after = *state;
            let cells = state.replicas[other].cells[view];
            after.copied[other] = Copied { view: view as u8 + 1, cells, at: state.time };
            next.add(after, Action::Shows { replica: other, to });
        }
    }
}
