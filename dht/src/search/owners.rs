//! What owners do: begin operations, learn of views, restart, and hear what became of it.

use crate::clock::OwnerTime;
use crate::owner::result::counted;
use crate::record::OpKind;

use super::check::Fault;
use super::scenario::{By, Kind, Step};
use super::state::{OWNERS, State, outcome};
use super::step::{Action, Next};
use super::witness::Witness;
use super::world::{World, duration, ms, ticks};
use crate::cell::millis;

/// The view of an owner whose operations come to nothing: it need learn no other.
pub(super) const BEYOND: u8 = 7;

/// Whether an owner may use a key. An owner whose clock is slow by the bound does so up to the end of the last tick.
pub(super) fn lives(state: &State, owner: usize, key: usize) -> bool {
    state.owners[owner].until[key] > state.time
}

/// What ran out is as good as never held.
pub(super) fn forget_ended(state: &mut State) {
    let time = state.time;
    for owner in &mut state.owners {
        for until in owner.until.iter_mut().chain(&mut owner.disk) {
            if *until <= time {
                *until = 0;
            }
        }
    }
}

pub(super) fn steps(next: &mut Next<'_>, state: &State) {
    for owner in 0..OWNERS {
        learn(next, state, owner);
        sync(next, state, owner);
        let number = state.owners[owner].step;
        if let Some(step) = next.world.scenario.scripts[owner].get(usize::from(number)).copied() {
            begin(next, state, owner, step);
        }
    }
}

/// An owner hears of the next view, and signs for it what it still waits for.
fn learn(next: &mut Next<'_>, state: &State, owner: usize) {
    let view = state.owners[owner].view;
    // Only what it may yet sign is of matter.
    let steps = &next.world.scenario.scripts[owner][usize::from(state.owners[owner].step)..];
    let signs = steps.iter().any(|step| step.keys != 0) || state.owners[owner].pending != [0; super::state::KEYS];
    if usize::from(view) >= next.world.newest(state) || !signs {
        return;
    }
    let mut after = *state;
    let me = &mut after.owners[owner];
    me.view += 1;
    for pending in me.pending.into_iter().filter(|pending| *pending != 0) {
        after.ops[usize::from(pending) - 1].signed |= 1 << me.view;
    }
    next.add(after, Action::OwnerLearns { owner, view: usize::from(view) + 1 });
}

/// What an owner decided reaches its disk, then what it sends leaves.
fn sync(next: &mut Next<'_>, state: &State, owner: usize) {
    let me = state.owners[owner];
    if !next.world.scenario.is_crashing() || (me.disk == me.until && me.unsent == 0) {
        return;
    }
    let mut after = *state;
    settle_disk(&mut after, owner);
    next.add(after, Action::OwnerSyncs { owner });
}

fn settle_disk(state: &mut State, owner: usize) {
    let me = &mut state.owners[owner];
    me.disk = me.until;
    for (number, op) in state.ops.iter_mut().enumerate() {
        if me.unsent >> number & 1 == 1 {
            op.signed |= 1 << me.view;
        }
    }
    me.unsent = 0;
}

fn begin(next: &mut Next<'_>, state: &State, owner: usize, step: Step) {
    let world = next.world;
    let mut after = *state;
    let me = &mut after.owners[owner];
    me.step += 1;
    match step.kind {
        Kind::Restart | Kind::Reboot => {
            me.pending = Default::default();
            if world.scenario.is_crashing() {
                next.witnesses.add_if(Witness::OwnerCrashed, me.disk != me.until || me.unsent != 0);
                me.until = me.disk;
                me.unsent = 0;
            }
            if step.kind == Kind::Reboot {
                let rules = world.scenario.rules;
                // A new boot's clock begins at nothing: what was its end lies far ahead.
                me.until = me.until.map(|until| if rules.boot_compared || until == 0 { 0 } else { until + state.time });
            }
        }
        Kind::HandOver => {
            if !lives(state, owner, 0) {
                return;
            }
            (me.until[0], me.pending[0]) = (0, 0);
        }
        Kind::Claim | Kind::Renew | Kind::Release => {
            // Nobody has a handover before it is signed.
            let signed = state.owners[1 - owner].step;
            if matches!(step.by, By::Handed(number) if signed <= number) {
                return;
            }
            let renews = step.kind == Kind::Renew;
            let keys = (0..world.shape.keys).filter(|key| step.keys >> key & 1 == 1);
            if renews && keys.clone().any(|key| !lives(state, owner, key)) {
                return;
            }
            for key in keys {
                let me = &mut after.owners[owner];
                let mine = |op: &super::world::OpInfo| (op.owner, op.step, op.key) == (owner, me.step - 1, key);
                let Some(op) = world.ops.iter().position(mine) else { continue };
                me.pending[key] = op as u8 + 1;
                if step.kind == Kind::Release {
                    me.until[key] = 0;
                }
                after.ops[op].t0 = state.time;
                if world.scenario.is_crashing() {
                    me.unsent |= 1 << op;
                }
                if !world.scenario.is_crashing() || world.scenario.glue.owner_sends_first {
                    after.ops[op].signed |= 1u8 << me.view;
                }
            }
        }
    }
    next.add(after, Action::Does { owner, kind: step.kind });
}

/// Its owner is told what became of an operation. What follows, and what is wrong with that.
pub(super) fn hear(world: &World, state: &State, op: usize, what: u8, value: u8) -> Option<(State, Option<Fault>)> {
    let (rules, info) = (&world.scenario.rules, &world.ops[op]);
    let (owner, key) = (info.owner, info.key);
    let waits = state.owners[owner].pending[key];
    if usize::from(waits) != op + 1 && rules.newest_only {
        return None;
    }
    let mut after = *state;
    let lived = lives(state, owner, key);
    let me = &mut after.owners[owner];
    if usize::from(waits) == op + 1 {
        me.pending[key] = 0;
    }
    match what {
        outcome::GRANTED => {
            // Of the operation that is waited for, whichever this result is of.
            let asked = usize::from(waits)
                .checked_sub(1)
                .map(|op| (OwnerTime(duration(state.ops[op].t0)), ms(world.ops[op].dur)));
            let granted = world.record(value).map_or(0, |record| record.dur_ms);
            let (t0, dur_ms) = counted(rules, world.now(state.time).owner, asked, granted);
            me.until[key] = ticks(millis(t0.0) + dur_ms) + 1;
            if world.scenario.shares {
                me.client[key] = info.client;
            }
            if me.until[key] <= state.time {
                me.until[key] = 0;
            }
            if world.scenario.is_crashing() {
                // Its own operations that wait for the disk go there with it.
                settle_disk(&mut after, owner);
            }
        }
        outcome::TAKEN | outcome::LOST => me.until[key] = 0,
        _ => {}
    }
    let told_wrongly = lived && matches!(what, outcome::TAKEN | outcome::LOST) && info.kind != OpKind::Release;
    let fault = (told_wrongly && !world.scenario.late && !world.scenario.shares).then_some(Fault::FalseRefusal);
    Some((after, fault))
}
