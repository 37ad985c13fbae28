//! Rounds on registers: opened by a coordinator, promised, decided and accepted. Every rule is the shipped one; here is
//! only who may hear what when.

use crate::cell::Acceptance;
use crate::clock::ReplicaTime;
use crate::coordinator::decide::{Decision, decide_op, settle};
use crate::coordinator::is_ready;
use crate::message::{AcceptItem, Held, Outcome};
use crate::record::{OpKind, Record};
use crate::right::Right;
use crate::slot::Standing;
use crate::top::Top;

use super::check::Fault;
use super::owners::hear;
use super::state::{Item, KEYS, Promise, ROUNDS, Round, SETTLE, State, outcome, phase};
use super::step::{Action, Next};
use super::witness::Witness;
use super::world::{World, each, ms, quorum, real_ballot, small_ballot, subsets, ticks};

fn ballot_of(round: &Round) -> u8 {
    round.view << 4 | round.number
}

fn used(state: &State) -> usize {
    state.rounds.iter().take_while(|round| round.used != 0).count()
}

fn next_number(state: &State) -> u8 {
    state.rounds.iter().map(|round| round.number).max().unwrap_or(0) + 1
}

pub(super) fn steps(next: &mut Next<'_>, state: &State) {
    open(next, state);
    for round in 0..used(state) {
        for replica in each(next.world.members(state, usize::from(state.rounds[round].view))) {
            promise(next, state, round, replica);
            for key in 0..next.world.shape.keys {
                accept(next, state, round, key, replica);
            }
        }
        for key in 0..next.world.shape.keys {
            let item = &state.rounds[round].items[key];
            match item.phase {
                phase::PREPARING => decide_prepared(next, state, round, key),
                phase::ACCEPTING | phase::REFUSED => answer(next, state, round, key),
                phase::READY => decide_ready(next, state, round, key),
                _ => {}
            }
        }
    }
}

/// Whether an operation counts in a view: its owner has signed it for that one.
fn fits(world: &World, state: &State, op: usize, view: usize) -> bool {
    let signed = state.ops[op].signed;
    signed >> view & 1 == 1 || world.scenario.glue.ops_of_other_views && signed != 0
}

/// A coordinator begins a round.
fn open(next: &mut Next<'_>, state: &State) {
    let world = next.world;
    let round = used(state);
    if round >= world.scenario.rounds {
        return;
    }
    for view in 0..=world.newest(state) {
        let serves = |replica: usize| {
            let standing = world.standing(state, replica, view).is_some_and(|s| s.serves(&world.scenario.rules));
            world.is_current(state, replica, view) && standing && world.may_vote(state, replica)
        };
        let mut able = each(world.members(state, view)).filter(|replica| serves(*replica));
        let all = world.scenario.has_coordinators();
        let able: Vec<usize> = match world.scenario.setback {
            // Of the others, one stands for all: what any of them has seen is told.
            Some(store) => able.filter(|replica| *replica == 0 || *replica == store).collect(),
            None if all => able.collect(),
            None => able.next().into_iter().collect(),
        };
        for coordinator in able {
            open_at(next, state, view, coordinator);
        }
    }
}

fn open_at(next: &mut Next<'_>, state: &State, view: usize, coordinator: usize) {
    let world = next.world;
    let mut begin = |ops: [u8; KEYS], op: u8| {
        let mut after = *state;
        let mut fresh = Round { used: 1, view: view as u8, number: next_number(state), ..Round::default() };
        fresh.coordinator = if world.scenario.has_coordinators() { coordinator as u8 } else { 0 };
        for (item, op) in fresh.items.iter_mut().zip(ops).filter(|(_, op)| *op != u8::MAX - 1) {
            (item.phase, item.op) = (phase::PREPARING, op);
        }
        let round = used(state);
        after.rounds[round] = fresh;
        next.add(after, Action::Opens { round, op, at: coordinator, again: false });
        if !world.scenario.rules.rounds_on_disk {
            // After a restart: the same ballot, and promises of before still arrive.
            for old in state.rounds[..round].iter().filter(|old| old.coordinator == coordinator as u8) {
                let mut again = after;
                let fresh = &mut again.rounds[round];
                (fresh.number, fresh.items[0].promises) = (old.number, old.items[0].promises);
                next.add(again, Action::Opens { round, op, at: coordinator, again: true });
            }
        }
    };
    const OUT: u8 = u8::MAX - 1;
    if world.scenario.settles {
        begin([SETTLE, OUT], SETTLE);
    }
    if world.scenario.late {
        return begin([0, OUT], 0);
    }
    for (op, info) in world.ops.iter().enumerate().filter(|(op, _)| fits(world, state, *op, view)) {
        let mut ops = [OUT; KEYS];
        ops[info.key] = op as u8 + 1;
        begin(ops, op as u8 + 1);
        let twin = world
            .ops
            .iter()
            .position(|other| (other.owner, other.step) == (info.owner, info.step) && other.key > info.key);
        if let Some(twin) = twin.filter(|twin| fits(world, state, *twin, view)) {
            ops[world.ops[twin].key] = twin as u8 + 1;
            begin(ops, op as u8 + 1);
        }
    }
}

/// A Prepare reaches a replica: all keys of the round in one message, each with its own verdict.
fn promise(next: &mut Next<'_>, state: &State, round: usize, replica: usize) {
    let world = next.world;
    let (view, ballot) = (usize::from(state.rounds[round].view), ballot_of(&state.rounds[round]));
    if !world.serves(state, replica, view) {
        return;
    }
    let mut after = *state;
    if !tells(world, &mut after, round, replica, |item, store| (item.promises[store].have, item.promises[store].votes))
    {
        return;
    }
    let (mut given, mut refused) = (false, false);
    for key in 0..world.shape.keys {
        let item = state.rounds[round].items[key];
        if item.phase != phase::PREPARING || item.promises[replica].have != 0 {
            continue;
        }
        let mut cell = world.cell(&state.replicas[replica].cells[view][key]);
        match cell.prepare(real_ballot(ballot), &world.now(state.time)) {
            Ok(held) => {
                after.replicas[replica].cells[view][key] = world.small_cell(&cell);
                after.rounds[round].items[key].promises[replica] = Promise {
                    have: 1 + u8::from(world.holds_back()),
                    ballot: small_ballot(held.ballot),
                    value: world.value_id(held.value.as_ref()),
                    elapsed: ticks(held.elapsed_ms),
                    at: state.time,
                    votes: 0,
                };
                given = true;
            }
            Err(_) => refused = true,
        }
    }
    if given {
        cast(world, &mut after, replica, |state, votes| {
            for item in state.rounds[round].items.iter_mut().filter(|item| item.phase == phase::PREPARING) {
                item.promises[replica].votes = votes;
            }
        });
        next.witnesses.add_if(Witness::PartlyNacked, refused);
        next.add(after, Action::Promises { round, replica });
    }
}

/// Where the replica that is set back runs rounds, others get its messages after it has voted itself, and with its count.
fn tells(
    world: &World,
    state: &mut State,
    round: usize,
    replica: usize,
    own: impl Fn(&Item, usize) -> (u8, u8),
) -> bool {
    let Some(store) = world.scenario.setback else { return true };
    if replica == store || usize::from(state.rounds[round].coordinator) != store {
        return true;
    }
    let (voted, votes) = own(&state.rounds[round].items[0], store);
    if world.scenario.rules.own_votes_told {
        state.seen[replica] = state.seen[replica].max(votes);
    }
    voted != 0
}

/// Counts a vote of the store that is set back.
fn cast(world: &World, state: &mut State, replica: usize, note: impl FnOnce(&mut State, u8)) {
    if world.scenario.setback == Some(replica) {
        state.replicas[replica].votes += 1;
        let votes = state.replicas[replica].votes;
        note(state, votes);
    }
}

/// A coordinator hears a vote of that store.
fn see(world: &World, state: &mut State, round: usize, heard: u8, votes: u8) {
    if let Some(store) = world.scenario.setback.filter(|store| heard >> store & 1 == 1) {
        let coordinator = usize::from(state.rounds[round].coordinator);
        if coordinator != store {
            state.seen[coordinator] = state.seen[coordinator].max(votes);
        }
    }
}

/// The coordinator has the promises of a quorum: what becomes of the operation.
fn decide_prepared(next: &mut Next<'_>, state: &State, round: usize, key: usize) {
    let world = next.world;
    let view = usize::from(state.rounds[round].view);
    let item = state.rounds[round].items[key];
    let have = |item: &Item| {
        let promised = |replica: &usize| item.promises[*replica].have == 1;
        (0..world.shape.replicas).filter(promised).fold(0u8, |set, replica| set | 1 << replica)
    };
    let (mine, need) = (have(&item), quorum(world.members(state, view)));
    let others = state.rounds[round].items.iter().map(have).max_by_key(|set| set.count_ones()).unwrap_or(0);
    if mine.count_ones() < need {
        if !world.scenario.rules.quorum_per_key && others.count_ones() >= need && item.op != 0 {
            let before = next.found.len();
            decide(next, state, (round, key), mine, item.op);
            next.found[before..].iter_mut().for_each(|found| found.2 = Some(Fault::DecidedByFew));
        }
        return;
    }
    for heard in subsets(mine, need) {
        if item.op != 0 {
            decide(next, state, (round, key), heard, item.op);
            continue;
        }
        for op in 0..world.ops.len() {
            if world.ops[op].key == key && fits(world, state, op, view) {
                decide(next, state, (round, key), heard, op as u8 + 1);
            }
        }
    }
}

fn decide(next: &mut Next<'_>, state: &State, (round, key): (usize, usize), heard: u8, op: u8) {
    let world = next.world;
    let item = state.rounds[round].items[key];
    let answers: Vec<(Held, ReplicaTime)> = each(heard)
        .map(|replica| {
            let promise = item.promises[replica];
            (world.held(promise.ballot, promise.value, promise.elapsed), world.now(promise.at).replica)
        })
        .collect();
    let env = world.env(state.time);
    let top = Top::of(answers.iter(), &env.now);
    let decision = match op {
        SETTLE => settle(&top),
        op => Some(decide_op(&env, signed(world, usize::from(op) - 1, &state.rounds[round]), &top)),
    };
    let mut after = *state;
    let unseen = decision.as_ref().is_some_and(|decision| is_unseen(world, &top, decision, op));
    if let Some(store) = world.scenario.setback {
        see(world, &mut after, round, heard, item.promises[store].votes);
    }
    let Some(decision) = decision else {
        after.rounds[round].items[key] = Item { phase: phase::DEAD, ..Item::default() };
        return next.add(after, Action::Decides { round, key, op: 0, outcome: outcome::NONE });
    };
    note(next, &top, &decision, op);
    apply(world, &mut after, (round, key), op, &decision);
    let what = after.rounds[round].items[key].outcome;
    next.add_wrong(after, Action::Decides { round, key, op, outcome: what }, unseen.then_some(Fault::TakenUnseen));
    if !world.scenario.rules.one_op_per_key {
        twins(next, &after, (round, key), &top);
    }
}

/// Whether its owner has made a later release, knows that it went through, and nobody else was there since.
fn acts_late(world: &World, state: &State, key: usize, op: u8) -> bool {
    let Some(info) = world.ops.get(usize::from(op).wrapping_sub(1)) else { return false };
    let owner = &state.owners[info.owner];
    let alone = world.scenario.scripts[1 - info.owner].is_empty();
    let newest = world.ops.iter().find(|op| (op.owner, op.step + 1, op.key) == (info.owner, owner.step, key));
    alone && owner.pending[key] == 0 && newest.is_some_and(|op| op.kind == OpKind::Release)
}

/// Without the rule: another operation on the key shares the ballot.
fn twins(next: &mut Next<'_>, state: &State, (round, key): (usize, usize), top: &Top) {
    let world = next.world;
    let place = used(state);
    for twin in (0..world.ops.len()).filter(|twin| usize::from(state.rounds[round].items[key].op) != twin + 1) {
        let here = world.ops[twin].key == key && state.ops[twin].signed >> state.rounds[round].view & 1 == 1;
        if !here || place >= world.scenario.rounds {
            continue;
        }
        let mut after = *state;
        after.rounds[place] = Round { items: Default::default(), ..state.rounds[round] };
        let decision = decide_op(&world.env(state.time), signed(world, twin, &state.rounds[round]), top);
        apply(world, &mut after, (place, key), twin as u8 + 1, &decision);
        // Votes for it are not taken for votes for the other.
        after.rounds[place].items[key].outcome = outcome::NONE;
        next.add(after, Action::Opens { round: place, op: twin as u8 + 1, at: 0, again: true });
    }
}

fn signed<'w>(world: &'w World, op: usize, round: &Round) -> &'w crate::record::SignedOp {
    &world.ops[op].signed[usize::from(round.view)]
}

/// Takes a decision up: what is to be accepted, or that nothing is.
fn apply(world: &World, state: &mut State, (round, key): (usize, usize), op: u8, decision: &Decision) {
    let what = match decision.outcome {
        _ if op == SETTLE => outcome::SETTLED,
        Outcome::Granted(_) => outcome::GRANTED,
        Outcome::Released => outcome::RELEASED,
        Outcome::Taken { .. } => outcome::TAKEN,
        Outcome::Lost => outcome::LOST,
        Outcome::Stale { .. } => outcome::STALE,
        Outcome::Retry { .. } | Outcome::Refused(_) => outcome::NONE,
    };
    let mut item = Item { phase: phase::REFUSED, op, outcome: what, ..Item::default() };
    if let Some((value, elapsed_ms)) = &decision.write {
        item.phase = phase::ACCEPTING;
        (item.value, item.elapsed) = (world.value_id(Some(value)), ticks(*elapsed_ms));
        let place = used(state);
        if world.scenario.rules.fast_path && place < world.scenario.rounds {
            // The next ballot is taken for being promised along.
            item.next = place as u8 + 1;
            let mut reserved = Round { number: next_number(state), items: Default::default(), ..state.rounds[round] };
            reserved.items[key].phase = phase::RESERVED;
            state.rounds[place] = reserved;
        }
    }
    state.rounds[round].items[key] = item;
}

/// Whether a deputy gets a running lease that is not the one which it has seen.
fn is_unseen(world: &World, top: &Top, decision: &Decision, op: u8) -> bool {
    let Some(info) = world.ops.get(usize::from(op).wrapping_sub(1)) else { return false };
    let Right::Deputy { owner, op_seq } = &info.signed[0].op.right else { return false };
    let other = top.record().filter(|record| record.held() && record.owner() == *owner);
    let newer = other.is_some_and(|record| record.request.op.op_seq != *op_seq && top.elapsed < record.dur());
    newer && matches!(decision.outcome, Outcome::Granted(_))
}

/// What is interesting about a decision.
fn note(next: &mut Next<'_>, top: &Top, decision: &Decision, op: u8) {
    let held = top.record();
    let written = decision.write.as_ref().map(|(value, _)| value);
    let again = written.is_some() && written == top.held.value.as_ref() && op != SETTLE;
    next.witnesses.add_if(Witness::Settled, again);
    let released = decision.outcome == Outcome::Released && written.is_some() && op != SETTLE;
    next.witnesses.add_if(Witness::EmptyRelease, released && held.is_none());
    let Some(info) = next.world.ops.get(usize::from(op).wrapping_sub(1)) else { return };
    let other = held.filter(|record| record.held() && record.owner() != info.signed[0].owner);
    let took = matches!(decision.outcome, Outcome::Granted(_)) && other.is_some();
    next.witnesses.add_if(Witness::Takeover, took);
    let runs = took && other.is_some_and(|record| top.elapsed < record.dur());
    let right = &info.signed[0].op.right;
    next.witnesses.add_if(Witness::HandedOver, runs && matches!(right, Right::Handed(_)));
    next.witnesses.add_if(Witness::TakenOver, runs && matches!(right, Right::Deputy { .. }));
    let kept = held.is_some_and(|record| !record.held()) && matches!(decision.outcome, Outcome::Taken { .. });
    next.witnesses.add_if(Witness::Kept, kept);
}

/// An Accept reaches a replica.
fn accept(next: &mut Next<'_>, state: &State, round: usize, key: usize, replica: usize) {
    let world = next.world;
    let item = state.rounds[round].items[key];
    let view = usize::from(state.rounds[round].view);
    let voted = (item.votes | item.unsynced) >> replica & 1 == 1;
    if item.phase != phase::ACCEPTING || voted || !world.serves(state, replica, view) {
        return;
    }
    let ballot = ballot_of(&state.rounds[round]);
    let following = usize::from(item.next).checked_sub(1).map(|next| ballot_of(&state.rounds[next]));
    let value = world.value(item.value).expect("what is accepted is a value").clone();
    let wanted = AcceptItem { value, elapsed_ms: ms(item.elapsed) };
    let mut cell = world.cell(&state.replicas[replica].cells[view][key]);
    let rules = &world.scenario.rules;
    let (ballot, promised) = (real_ballot(ballot), following.map(real_ballot));
    match cell.accept(rules, ballot, promised, wanted, &world.now(state.time)) {
        Acceptance::Accepted | Acceptance::Repeated => {}
        Acceptance::Promised(_) | Acceptance::SecondValue => return,
    }
    let mut after = *state;
    if !tells(world, &mut after, round, replica, |item, store| (item.votes >> store & 1, item.promises[store].votes)) {
        return;
    }
    after.replicas[replica].cells[view][key] = world.small_cell(&cell);
    let bit = 1 << replica;
    let mine = &mut after.rounds[round].items[key];
    if world.holds_back() {
        mine.unsynced |= bit;
    } else {
        mine.votes |= bit;
    }
    if Some(cell.promised) == promised {
        mine.promised_next |= bit;
    }
    cast(world, &mut after, replica, |state, votes| state.rounds[round].items[key].promises[replica].votes = votes);
    commit(world, &mut after, round, key);
    let wedged = world.standing(state, replica, view) != Some(Standing::Active);
    let granted = after.rounds[round].items[key].votes.count_ones() == quorum(world.members(state, view))
        && item.outcome == outcome::GRANTED;
    let late = granted && acts_late(world, state, key, item.op);
    let fault = wedged.then_some(Fault::WedgedAccepts).or(late.then_some(Fault::OldOperationActs));
    next.add_wrong(after, Action::Votes { round, key, replica }, fault);
}

/// Remembers what a quorum has accepted.
pub(super) fn commit(world: &World, state: &mut State, round: usize, key: usize) {
    let view = usize::from(state.rounds[round].view);
    let item = state.rounds[round].items[key];
    let ballot = ballot_of(&state.rounds[round]);
    let committed = &mut state.committed[view][key];
    if view + 1 < world.shape.views && ballot > committed.ballot {
        let members = match view {
            0 => world.scenario.first,
            _ => world.scenario.next[view - 1][usize::from(state.decided[view - 1]) - 1],
        };
        if item.votes.count_ones() >= quorum(members) {
            (committed.ballot, committed.value) = (ballot, item.value);
        }
    }
}

/// A coordinator has the votes of a quorum, or refuses: the owner hears of it, and the next ballot is ready.
fn answer(next: &mut Next<'_>, state: &State, round: usize, key: usize) {
    let world = next.world;
    let item = state.rounds[round].items[key];
    let need = quorum(world.members(state, usize::from(state.rounds[round].view)));
    let written = item.phase == phase::ACCEPTING;
    if written && item.votes.count_ones() < need || item.outcome == outcome::NONE {
        return;
    }
    let following = usize::from(item.next).wrapping_sub(1);
    let reserved = state.rounds.get(following).is_some_and(|next| next.items[key].phase == phase::RESERVED);
    if reserved && is_ready(&world.scenario.rules, item.promised_next & item.votes, need as usize) {
        let mut after = *state;
        let ready = &mut after.rounds[following].items[key];
        *ready = Item { phase: phase::READY, value: item.value, elapsed: item.elapsed, ..Item::default() };
        (ready.ballot, ready.at) = (ballot_of(&state.rounds[round]), state.time);
        next.add(after, Action::Ready { round: following, key });
    }
    if matches!(item.op, 0 | SETTLE) {
        return;
    }
    let Some((mut after, fault)) = hear(world, state, usize::from(item.op) - 1, item.outcome, item.value) else {
        return;
    };
    let heard = if written { subsets(item.votes, need).collect() } else { vec![0] };
    let heard = if world.scenario.setback.is_some() { heard } else { heard[..1].to_vec() };
    let view = state.rounds[round].view;
    next.witnesses.add_if(Witness::Granted, item.outcome == outcome::GRANTED);
    next.witnesses.add_if(Witness::GrantedInSecond, item.outcome == outcome::GRANTED && view == 1);
    next.witnesses.add_if(Witness::GrantedInThird, item.outcome == outcome::GRANTED && view == 2);
    next.witnesses.add_if(Witness::Fast, item.outcome == outcome::GRANTED && item.at != 0);
    next.witnesses.add_if(Witness::Released, item.outcome == outcome::RELEASED && written);
    next.witnesses.add_if(Witness::Refused, !written && item.outcome != outcome::RELEASED);
    for heard in heard {
        if let Some(store) = world.scenario.setback {
            after.seen = state.seen;
            see(world, &mut after, round, heard, item.promises[store].votes);
        }
        next.add_wrong(after, Action::Hears { round, key, outcome: item.outcome }, fault);
    }
}

/// A ballot that a quorum has promised already: an operation goes without phase 1.
fn decide_ready(next: &mut Next<'_>, state: &State, round: usize, key: usize) {
    let world = next.world;
    let item = state.rounds[round].items[key];
    let view = usize::from(state.rounds[round].view);
    let env = world.env(state.time);
    let told = (world.held(item.ballot, item.value, item.elapsed), world.now(item.at).replica);
    let top = Top::of([told].iter(), &env.now);
    for op in 0..world.ops.len() {
        if world.ops[op].key != key || !fits(world, state, op, view) {
            continue;
        }
        let decision = decide_op(&env, signed(world, op, &state.rounds[round]), &top);
        if !decision.needs_no_phase_1(&world.scenario.rules) {
            continue;
        }
        let mut after = *state;
        let mut place = round;
        if !world.scenario.rules.promise_serves_once {
            // It stays, for the next operation.
            place = used(state);
            if place >= ROUNDS.min(world.scenario.rounds) {
                continue;
            }
            after.rounds[place] = Round { items: Default::default(), ..state.rounds[round] };
        }
        note(next, &top, &decision, op as u8 + 1);
        apply(world, &mut after, (place, key), op as u8 + 1, &decision);
        // Marks it, for the witness.
        after.rounds[place].items[key].at = 1;
        let what = after.rounds[place].items[key].outcome;
        next.add(after, Action::Decides { round: place, key, op: op as u8 + 1, outcome: what });
    }
}

/// Forgets what can have no further effect, so that states which differ only in that fall together.
pub(super) fn tidy(world: &World, state: &mut State) {
    let rules = &world.scenario.rules;
    if world.shape.views > 1 && rules.wedge {
        super::views::tidy(world, state);
    }
    for owner in &mut state.owners {
        for (client, until) in owner.client.iter_mut().zip(owner.until) {
            *client = if until == 0 { 0 } else { *client };
        }
    }
    let open = |item: &Item| {
        matches!(item.phase, phase::RESERVED | phase::READY) || item.phase == phase::PREPARING && item.op == 0
    };
    if used(state) >= world.scenario.rounds && !state.rounds.iter().flat_map(|round| &round.items).any(open) {
        // Nothing that is signed can come to anything any more.
        state.ops.iter_mut().for_each(|op| op.signed = 0);
        state.owners.iter_mut().for_each(|owner| owner.view = super::owners::BEYOND);
    }
    if !rules.rounds_on_disk || !rules.promise_serves_once || !rules.one_op_per_key || !rules.one_value_per_ballot {
        return;
    }
    for round in 0..used(state) {
        for key in 0..world.shape.keys {
            let item = state.rounds[round].items[key];
            if !matches!(item.phase, phase::NONE | phase::DEAD) && is_dead(world, state, round, key) {
                state.rounds[round].items[key] = Item { phase: phase::DEAD, ..Item::default() };
            }
        }
        let over = |item: &Item| matches!(item.phase, phase::NONE | phase::DEAD);
        if state.rounds[round].items.iter().all(over) {
            let number = state.rounds[round].number;
            state.rounds[round] = Round { used: 1, number, ..Round::default() };
        }
    }
}

fn is_dead(world: &World, state: &State, round: usize, key: usize) -> bool {
    let item = &state.rounds[round].items[key];
    let view = usize::from(state.rounds[round].view);
    let (members, ballot) = (world.members(state, view), ballot_of(&state.rounds[round]));
    let open = |replica: &usize| may_serve(world, state, *replica, view);
    let promised = |replica: usize| state.replicas[replica].cells[view][key].promised;
    // What was promised may be forgotten again, where memory and disk differ.
    let forgets = world.scenario.is_crashing() || world.scenario.setback.is_some() || world.scenario.glue.empty_restart;
    let waits = || {
        let Some(info) = world.ops.get(usize::from(item.op).wrapping_sub(1)) else { return false };
        let waits = usize::from(state.owners[info.owner].pending[info.key]) == usize::from(item.op);
        waits || !world.scenario.rules.newest_only
    };
    let need = quorum(members);
    match item.phase {
        phase::PREPARING => {
            let have = each(members).filter(|replica| item.promises[*replica].have != 0).count();
            let more = each(members)
                .filter(open)
                .filter(|replica| item.promises[*replica].have == 0 && (promised(*replica) < ballot || forgets))
                .count();
            ((have + more) as u32) < need && world.scenario.rules.quorum_per_key
        }
        phase::ACCEPTING => {
            let voted = item.votes | item.unsynced;
            let more = each(members)
                .filter(open)
                .any(|replica| voted >> replica & 1 == 0 && (promised(replica) <= ballot || forgets));
            let reserved = usize::from(item.next)
                .checked_sub(1)
                .is_some_and(|next| state.rounds[next].items[key].phase == phase::RESERVED);
            let enough = voted.count_ones() >= need;
            !more && item.unsynced == 0 && (!enough || !waits() && !reserved)
        }
        phase::REFUSED => !waits(),
        phase::RESERVED => !state
            .rounds
            .iter()
            .any(|other| other.items[key].phase == phase::ACCEPTING && usize::from(other.items[key].next) == round + 1),
        _ => false,
    }
}

/// Whether a replica may yet serve a view.
fn may_serve(world: &World, state: &State, replica: usize, view: usize) -> bool {
    if !world.scenario.rules.wedge || world.scenario.is_crashing() {
        return true;
    }
    let knows = usize::from(state.replicas[replica].knows);
    let given_up = state.setback == 4 && world.scenario.setback == Some(replica);
    !given_up
        && (knows < view
            || knows == view && {
                let standing = world.standing(state, replica, view);
                matches!(standing, Some(Standing::Transferring | Standing::Active))
            })
}

/// Whether a record is what an owner has left behind.
pub(super) fn is_tombstone(record: &Record) -> bool {
    record.request.op.kind == OpKind::Release
}
