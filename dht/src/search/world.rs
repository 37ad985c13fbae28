//! Between the small numbers of a state and the types of the shipped functions.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::ballot::Ballot;
use crate::cell::{self, millis};
use crate::clock::{BootId, Now, OwnerTime, ReplicaTime};
use crate::command::{ClientId, LeaseKey};
use crate::config::Config;
use crate::env::Env;
use crate::identity::{PublicKey, SecretKey};
use crate::membership::fixture;
use crate::message::Held;
use crate::record::{Hint, MIN_LEASE, Op, OpKind, Record, RegisterKey, Scope, SignedOp, Value};
use crate::right::{Handover, Right};
use crate::sign::{NamespaceId, Signature};
use crate::slot::Standing;
use crate::view::{Chain, Genesis, Member};

use super::scenario::{By, Kind, Scenario, Step, TICK};
use super::state::{ACTIVE, Cell, OPS, RETIRED, Replica, Shape, State, TRANSFERRING, VIEWS, WEDGED};

/// What stands fast about an operation.
#[derive(Clone, Debug)]
pub(super) struct OpInfo {
    pub(super) owner: usize,
    pub(super) step: u8,
    pub(super) key: usize,
    pub(super) dur: u8,
    pub(super) client: u8,
    pub(super) kind: OpKind,
    /// As it is signed for each view.
    pub(super) signed: [SignedOp; VIEWS],
}

/// A scenario with everything made ready that does not change in it.
pub(super) struct World {
    pub(super) scenario: Scenario,
    pub(super) shape: Shape,
    pub(super) ops: Vec<OpInfo>,
    values: Vec<Option<Value>>,
    keys: Vec<RegisterKey>,
    ns: NamespaceId,
    identity: SecretKey,
    config: Config,
    chain: Chain,
    start: Instant,
}

/// Most durations of values: in ticks, 0 for the shortest lease there is.
const DURS: usize = 10;

impl World {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let (ns, identity) = (NamespaceId([3; 32]), fixture::key(1));
        let member = Member { identity: identity.public(), store_id: [1; 16], serial: [1; 16] };
        let genesis = Genesis { config: [0; 32], shards: 1, members: vec![member] };
        let lease = TICK * u32::from(scenario.max_lease);
        let range = "10.64.0.0/24".parse().expect("a range");
        let mut world = Self {
            scenario: scenario.clone(),
            shape: scenario.shape(),
            ops: operations(scenario),
            values: Vec::new(),
            keys: (0..2).map(|key| RegisterKey::Lease(address(key))).collect(),
            ns,
            config: Config::first("lab", identity.public(), range, lease, 0),
            identity,
            chain: Chain::new(ns, &genesis),
            start: fixture::now().mono,
        };
        world.values = (0..=u8::MAX).map(|id| world.make_value(id)).collect();
        world.add_shadows();
        world
    }

    pub(super) fn env(&self, time: u8) -> Env<'_> {
        Env {
            ns: &self.ns,
            identity: &self.identity,
            me: self.identity.public(),
            config: &self.config,
            chain: &self.chain,
            rules: self.scenario.rules,
            now: self.now(time),
        }
    }

    pub(super) fn now(&self, time: u8) -> Now {
        let since = TICK * u32::from(time);
        let (owner, replica) = (OwnerTime(since), ReplicaTime(since));
        Now { mono: self.start + since, owner, replica, boot: BootId([1; 16]), ..fixture::now() }
    }

    pub(super) fn key(&self, key: usize) -> &RegisterKey {
        &self.keys[key]
    }

    fn make_value(&self, id: u8) -> Option<Value> {
        let (op, view, dur) = split_value(id)?;
        let info = self.ops.get(op).filter(|_| dur <= self.scenario.max_lease && view < self.shape.views)?;
        let dur = if dur == 0 { MIN_LEASE } else { TICK * u32::from(dur) };
        Some(Value::Lease(Record { request: info.signed[view].clone(), dur_ms: millis(dur), shadow_ms: 0 }))
    }

    /// The same values with all that a former owner may have left of its lease, under numbers that are not taken.
    fn add_shadows(&mut self) {
        if !self.scenario.shares {
            return;
        }
        let guard = |dur: u8| self.env(0).guard(duration(dur));
        let rest = |dur: u8| (0..=dur).map(move |gone| (dur, gone));
        let rests = (1..=self.scenario.max_lease).flat_map(rest);
        let shadows: Vec<u64> = rests.map(|(dur, gone)| millis(guard(dur)) - ms(gone)).collect();
        let plain: Vec<Value> = self.values.iter().flatten().cloned().collect();
        let mut free = (1..self.values.len()).rev().filter(|id| self.values[*id].is_none()).collect::<Vec<_>>();
        for value in plain {
            let Value::Lease(record) = value else { continue };
            for shadow_ms in shadows.iter().copied() {
                let id = free.pop().expect("few values");
                self.values[id] = Some(Value::Lease(Record { shadow_ms, ..record.clone() }));
            }
        }
    }

    pub(super) fn value(&self, id: u8) -> Option<&Value> {
        self.values[usize::from(id)].as_ref()
    }

    pub(super) fn record(&self, id: u8) -> Option<&Record> {
        match self.value(id) {
            Some(Value::Lease(record)) => Some(record),
            Some(Value::Slots(_)) | None => None,
        }
    }

    /// The number of a value that a shipped function returned.
    pub(super) fn value_id(&self, value: Option<&Value>) -> u8 {
        let Some(value) = value else { return 0 };
        let Value::Lease(record) = value else { unreachable!("there are only leases here") };
        if record.shadow_ms != 0 {
            let id = self.values.iter().position(|known| known.as_ref() == Some(value));
            return u8::try_from(id.expect("every shadow was foreseen")).expect("few values");
        }
        let op = &record.request.op;
        let dur = u8::try_from(record.dur_ms / millis(TICK)).expect("a short lease");
        let id = join_value(op.nonce as usize - 1, op.scope.view as usize, dur);
        debug_assert_eq!(self.value(id), Some(value));
        id
    }

    /// Of whose operation a value is.
    pub(super) fn op_of(&self, value: u8) -> Option<usize> {
        Some(self.record(value)?.request.op.nonce as usize - 1)
    }

    pub(super) fn held(&self, ballot: u8, value: u8, elapsed: u8) -> Held {
        Held { ballot: real_ballot(ballot), value: self.value(value).cloned(), elapsed_ms: ms(elapsed) }
    }

    pub(super) fn cell(&self, cell: &Cell) -> cell::Cell {
        cell::Cell {
            promised: real_ballot(cell.promised),
            held: self.held(cell.ballot, cell.value, cell.elapsed),
            base: ReplicaTime(TICK * u32::from(cell.base)),
            boot: [1; 16],
        }
    }

    pub(super) fn small_cell(&self, cell: &cell::Cell) -> Cell {
        Cell {
            promised: small_ballot(cell.promised),
            ballot: small_ballot(cell.held.ballot),
            value: self.value_id(cell.held.value.as_ref()),
            elapsed: ticks(cell.held.elapsed_ms),
            base: ticks(millis(cell.base.0)),
        }
    }

    /// For how long a cell's value has been held.
    pub(super) fn elapsed(&self, cell: &Cell, time: u8) -> u8 {
        ticks(millis(self.cell(cell).elapsed(&self.now(time))))
    }

    /// The members of a view, one bit for each; none while it is not decided.
    pub(super) fn members(&self, state: &State, view: usize) -> u8 {
        match view.checked_sub(1) {
            None => self.scenario.first,
            Some(before) => match state.decided[before] {
                0 => 0,
                choice => self.scenario.next[before][usize::from(choice) - 1],
            },
        }
    }

    pub(super) fn is_member(&self, state: &State, view: usize, replica: usize) -> bool {
        self.members(state, view) >> replica & 1 == 1
    }

    /// The newest view that was decided.
    pub(super) fn newest(&self, state: &State) -> usize {
        (0..self.shape.views - 1).find(|view| state.decided[*view] == 0).unwrap_or(self.shape.views - 1)
    }

    /// As `Stations::standing`.
    pub(super) fn standing(&self, state: &State, replica: usize, view: usize) -> Option<Standing> {
        let given_up = state.setback == 4 && self.scenario.setback == Some(replica);
        let knows = usize::from(state.replicas[replica].knows);
        if !self.is_member(state, view, replica) || knows < view || given_up {
            return None;
        }
        let stored = match state.replicas[replica].stations[view].standing {
            TRANSFERRING => Some(Standing::Transferring),
            ACTIVE => Some(Standing::Active),
            WEDGED => Some(Standing::Wedged),
            RETIRED => Some(Standing::Retired),
            _ => None,
        };
        Some(Standing::in_view(stored, view as u64, knows == view, &self.scenario.rules))
    }

    /// As `Env::current`.
    pub(super) fn is_current(&self, state: &State, replica: usize, view: usize) -> bool {
        let knows = usize::from(state.replicas[replica].knows);
        if self.scenario.rules.wedge { knows == view } else { knows >= view }
    }

    /// As `Acceptor::coordinated`.
    pub(super) fn serves(&self, state: &State, replica: usize, view: usize) -> bool {
        self.is_current(state, replica, view)
            && self.may_vote(state, replica)
            && self.standing(state, replica, view).is_some_and(|standing| standing.serves(&self.scenario.rules))
    }

    /// Whether answers wait until what they rest on is on disk.
    pub(super) fn holds_back(&self) -> bool {
        self.scenario.is_crashing() && !self.scenario.glue.replica_sends_first
    }

    /// What others may have been told of a replica: what is on its disk.
    pub(super) fn told<'s>(&self, state: &'s State, replica: usize) -> &'s Replica {
        if self.holds_back() { &state.disks[replica] } else { &state.replicas[replica] }
    }

    /// Whether its standing is on disk as it is.
    pub(super) fn has_told(&self, state: &State, replica: usize) -> bool {
        let (told, is) = (self.told(state, replica), &state.replicas[replica]);
        told.knows == is.knows && told.stations == is.stations
    }

    /// As `Votes::may`.
    pub(super) fn may_vote(&self, state: &State, replica: usize) -> bool {
        !(state.setback == 2 && self.scenario.setback == Some(replica))
    }
}

fn address(key: u8) -> LeaseKey {
    LeaseKey::Address(Ipv4Addr::new(10, 64, 0, 5 + key))
}

fn owner_key(owner: usize) -> PublicKey {
    fixture::key(10 + owner as u8).public()
}

/// The number of an owner's step among its operations. A batch is as many as it has keys.
fn op_seq_of(scenario: &Scenario, owner: usize, step: u8) -> u64 {
    let mut op_seq = 0;
    for step in &scenario.scripts[owner][..=usize::from(step)] {
        match step.kind {
            Kind::Restart if !scenario.rules.op_seq_on_disk => op_seq = 0,
            Kind::Restart | Kind::Reboot => {}
            Kind::HandOver => op_seq += 1,
            Kind::Claim | Kind::Renew | Kind::Release => op_seq += u64::from(step.keys.count_ones()),
        }
    }
    op_seq
}

/// Everything that the owners' scripts may sign, with the numbers that they give it.
fn operations(scenario: &Scenario) -> Vec<OpInfo> {
    let mut ops: Vec<OpInfo> = Vec::new();
    for (owner, script) in scenario.scripts.iter().enumerate() {
        for (number, step) in (0u8..).zip(script) {
            let kind = match step.kind {
                Kind::Claim => OpKind::Claim,
                Kind::Renew => OpKind::Renew,
                Kind::Release => OpKind::Release,
                Kind::HandOver | Kind::Restart | Kind::Reboot => continue,
            };
            let last = op_seq_of(scenario, owner, number);
            let keys = (0..2u8).filter(|key| step.keys >> key & 1 == 1);
            for (op_seq, key) in (last + 1 - u64::from(step.keys.count_ones())..).zip(keys) {
                let nonce = ops.len() as u64 + 1;
                let sign = |view| signed(scenario, (owner, step), (kind, key), (op_seq, nonce), view);
                let signed = [sign(0), sign(1), sign(2)];
                let (client, dur, key) = (step.client, step.dur, usize::from(key));
                ops.push(OpInfo { owner, step: number, key, dur, client, kind, signed });
            }
        }
    }
    assert!(ops.len() <= OPS, "too many operations");
    ops
}

fn signed(
    scenario: &Scenario,
    (owner, step): (usize, &Step),
    (kind, key): (OpKind, u8),
    (op_seq, nonce): (u64, u64),
    view: u64,
) -> SignedOp {
    // Nothing verifies here.
    let signature = Signature([0; 64]);
    let other = 1 - owner;
    let seq = |step| op_seq_of(scenario, other, step);
    let op = Op {
        scope: Scope { incarnation: 0, shard: 0, view },
        kind,
        key: address(key),
        client: ClientId([if step.client == 0 { owner as u8 } else { 10 + step.client }; 32]),
        op_seq,
        nonce,
        dur_ms: millis(TICK * u32::from(step.dur)),
        hint: Hint::None,
        right: match step.by {
            By::None => Right::None,
            By::Handed(step) => {
                Right::Handed(Box::new(Handover { from: owner_key(other), op_seq: seq(step), signature }))
            }
            By::Deputy(step) => Right::Deputy { owner: owner_key(other), op_seq: seq(step) },
        },
        deputies: if step.deputy { vec![owner_key(other)] } else { Vec::new() },
    };
    SignedOp { owner: owner_key(owner), op, signature }
}

fn join_value(op: usize, view: usize, dur: u8) -> u8 {
    u8::try_from(1 + op + OPS * (view + VIEWS * usize::from(dur))).expect("few values")
}

fn split_value(id: u8) -> Option<(usize, usize, u8)> {
    let id = usize::from(id).checked_sub(1)?;
    let dur = id / OPS / VIEWS;
    (dur < DURS).then_some((id % OPS, id / OPS % VIEWS, dur as u8))
}

pub(super) fn real_ballot(ballot: u8) -> Ballot {
    Ballot { view: u64::from(ballot >> 4), round: u64::from(ballot & 15), replica: 0 }
}

pub(super) fn small_ballot(ballot: Ballot) -> u8 {
    (ballot.view << 4 | ballot.round) as u8
}

pub(super) fn ms(ticks: u8) -> u64 {
    millis(TICK * u32::from(ticks))
}

pub(super) fn ticks(ms: u64) -> u8 {
    u8::try_from(ms / millis(TICK)).expect("a short time")
}

pub(super) fn duration(ticks: u8) -> Duration {
    TICK * u32::from(ticks)
}

/// How many members must agree.
pub(super) fn quorum(members: u8) -> u32 {
    members.count_ones() / 2 + 1
}

/// The members of a set.
pub(super) fn each(set: u8) -> impl Iterator<Item = usize> + Clone {
    (0..8).filter(move |replica| set >> replica & 1 == 1)
}

/// All subsets of so many members.
pub(super) fn subsets(set: u8, count: u32) -> impl Iterator<Item = u8> {
    (0..=set).filter(move |sub| sub & !set == 0 && sub.count_ones() == count)
}
