//! Breadth first over all states, so that the first way to a fault is a shortest one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::check::{self, Fault};
use super::pack::{Packer, Seen, hash};
use super::scenario::Scenario;
use super::state::{Committed, Op, State, phase};
use super::step::Next;
use super::witness::{Witness, Witnesses};
use super::world::World;

/// What a search came to.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) name: &'static str,
    pub(super) states: usize,
    pub(super) took: Duration,
    pub(super) witnesses: Witnesses,
    /// The fault, and the way to it.
    pub(super) fault: Option<(Fault, Vec<String>)>,
    /// Nothing is left to be seen.
    pub(super) whole: bool,
}

impl Report {
    /// Whether it came to what the scenario says it must.
    pub(super) fn verdict(&self, scenario: &Scenario) -> Result<(), String> {
        match (&self.fault, scenario.fault) {
            (Some((fault, _)), Some(wanted)) if *fault == wanted => Ok(()),
            (Some((fault, way)), None) => Err(format!("{}: {fault}:\n  {}", self.name, way.join("\n  "))),
            (_, Some(wanted)) => Err(format!("{}: the search does not find: {wanted}", self.name)),
            (None, None) => {
                let missed: Vec<&Witness> = scenario.must.iter().filter(|w| !self.witnesses.has(**w)).collect();
                if missed.is_empty() { Ok(()) } else { Err(format!("{}: never reached: {missed:?}", self.name)) }
            }
        }
    }
}

/// The state in which a scenario begins.
pub(super) fn first(world: &World) -> State {
    let mut state = State::default();
    let scenario = &world.scenario;
    if scenario.held != 0 {
        let op = &world.ops[0];
        let value = 1 + 8 * 3 * op.dur;
        for (number, replica) in state.replicas.iter_mut().enumerate() {
            if scenario.held >> number & 1 == 1 {
                let cell = &mut replica.cells[0][0];
                (cell.promised, cell.ballot, cell.value) = (1, 1, value);
            }
        }
        state.disks = state.replicas;
        state.ops[0] = Op { signed: 1, t0: 0 };
        let owner = &mut state.owners[0];
        (owner.step, owner.until[0]) = (1, op.dur + 1);
        owner.client[0] = if scenario.shares { op.client } else { 0 };
        if scenario.is_crashing() {
            owner.disk = owner.until;
        }
        (state.rounds[0].used, state.rounds[0].number) = (1, 1);
        for item in &mut state.rounds[0].items[..world.shape.keys] {
            item.phase = phase::DEAD;
        }
        if world.shape.views > 1 {
            state.committed[0][0] = Committed { ballot: 1, value };
        }
    }
    state
}

/// Searches until a fault, the limit, or the end.
pub(super) fn search(scenario: &Scenario, limit: usize) -> Report {
    #[expect(clippy::disallowed_methods, reason = "a search tells how long it took")]
    let began = Instant::now();
    let world = World::new(scenario);
    let mut packer = Packer::new(world.shape, scenario.groups());
    let mut seen = Seen::new();
    let mut next = Next::new(&world);
    let mut bytes = Vec::new();
    let mut start = first(&world);
    packer.pack(&mut start, &mut bytes);
    seen.insert(hash(&bytes), 0);
    let mut todo = Todo::default();
    todo.push(&bytes);
    let mut number = 0u32;
    let mut wrong = None;
    let mut whole = true;
    'all: while let Some(packed) = todo.pop() {
        let state = packer.unpack(&packed);
        next.all(&state);
        let mut found = std::mem::take(&mut next.found);
        for (after, _, fault) in &mut found {
            packer.pack(after, &mut bytes);
            let key = hash(&bytes);
            let new = seen.insert(key, number).is_some();
            let fault = fault.or_else(|| if new { check::fault(&world, after) } else { None });
            if let Some(fault) = fault.filter(|fault| scenario.fault.is_none_or(|wanted| wanted == *fault)) {
                let mut way = seen.way(number);
                way.push(key);
                wrong = Some((fault, way));
                break 'all;
            }
            if new {
                todo.push(&bytes);
            }
        }
        next.found = found;
        number += 1;
        if seen.len() > limit {
            whole = false;
            break;
        }
    }
    let fault = wrong.map(|(fault, way)| (fault, tell(&world, &mut packer, &way)));
    let took = began.elapsed();
    Report { name: scenario.name, states: seen.len(), took, witnesses: next.witnesses, fault, whole }
}

/// The way to a state in words: walked again from the first state, so that every replica keeps its name.
fn tell(world: &World, packer: &mut Packer, way: &[u128]) -> Vec<String> {
    let mut next = Next::new(world);
    let mut state = first(world);
    let mut bytes = Vec::new();
    let mut told = Vec::new();
    for wanted in way {
        next.all(&state);
        let found = next.found.iter().find(|(after, ..)| {
            let mut after = *after;
            packer.pack(&mut after, &mut bytes);
            hash(&bytes) == *wanted
        });
        let Some((after, action, _)) = found else { break };
        told.push(action.to_string());
        state = *after;
    }
    told
}

/// States that are still to be looked at, packed, in the order in which they were found.
#[derive(Default)]
struct Todo {
    queue: VecDeque<Box<[u8]>>,
}

impl Todo {
    fn push(&mut self, bytes: &[u8]) {
        self.queue.push_back(bytes.into());
    }
    fn pop(&mut self) -> Option<Box<[u8]>> {
        self.queue.pop_front()
    }
}
