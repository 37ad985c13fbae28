//! The replica's half of the register: what this node promised, accepted, and for how long it has held it.
//!
//! Everything but the running time is on disk before the answer that rests on it leaves. The time that a value has been
//! held is counted on the replica's clock and saved every minute, so that a replica that reboots often still frees
//! addresses; after a reboot only what was saved counts, which errs to the safe side.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::ballot::Ballot;
use crate::certificate::accepted_body;
use crate::clock::{BootId, Now, ReplicaTime};
use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::command::LeaseKey;
use crate::env::{DropReason, Env, Outbox};
use crate::identity::PublicKey;
use crate::message::{AcceptItem, AcceptedItem, Held, Message, PromiseItem, ReadHeld};
use crate::namespace::{Image, LoadError};
use crate::record::{RegisterKey, Scope, Value};
use crate::sign::{Label, sign};
use crate::view::{Member, View};

/// Most registers of one replica: a /12 in which every address was used, at some 400 bytes each.
const MAX_CELLS: usize = 1 << 20;
/// How often the running time is saved.
const SAVE_EVERY: Duration = Duration::from_secs(60);
/// A restarted process reads the clock anew, without what its predecessor summed up over a steered clock. Of the
/// time between them, this fraction of the time since boot is not counted.
pub(crate) const RESTART_DOUBT: u32 = 50;

const CELL: &[u8] = b"cell/";
const CLOCK: &[u8] = b"replica-clock";

/// One register in one view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Cell {
    promised: Ballot,
    held: Held,
    base: ReplicaTime,
    boot: [u8; 16],
}

impl Wire for Cell {
    fn encode(&self, out: &mut Writer) {
        self.promised.encode(out);
        self.held.encode(out);
        out.u64(millis(self.base.0));
        out.raw(&self.boot);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            promised: Ballot::decode(input)?,
            held: Held::decode(input)?,
            base: ReplicaTime(Duration::from_millis(input.u64()?)),
            boot: input.array()?,
        })
    }
}

impl Cell {
    /// How long the value has been held: what was counted before, and since then on this boot's clock.
    fn elapsed(&self, now: &Now) -> Duration {
        let counted = Duration::from_millis(self.held.elapsed_ms);
        if self.boot != now.boot.0 {
            return counted;
        }
        counted.saturating_add(now.replica.0.saturating_sub(self.base.0))
    }

    fn at(&self, now: &Now) -> Held {
        Held { elapsed_ms: millis(self.elapsed(now)), ..self.held.clone() }
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The registers that this node keeps for the namespace.
#[derive(Debug)]
pub(crate) struct Acceptor {
    store_id: [u8; 16],
    cells: BTreeMap<(Scope, RegisterKey), Cell>,
    held_by: BTreeMap<PublicKey, BTreeSet<LeaseKey>>,
    /// Until when, on the replica's clock, some lease here is waited for.
    runs_until: Duration,
    save_at: Instant,
}

impl Acceptor {
    /// Takes up what is on disk. Values held in another process count what that one saved.
    pub(crate) fn load(env: &Env<'_>, out: &mut Outbox, store_id: [u8; 16], image: &Image) -> Result<Self, LoadError> {
        let now = &env.now;
        let mut acceptor = Self {
            store_id,
            cells: BTreeMap::new(),
            held_by: BTreeMap::new(),
            runs_until: Duration::ZERO,
            save_at: now.mono + SAVE_EVERY,
        };
        let saved = image.get(CLOCK).map(|bytes| read_clock(bytes)).transpose();
        let saved = saved.map_err(|_| LoadError::Damaged("replica clock"))?;
        for (key, value) in image.range(CELL.to_vec()..).take_while(|(key, _)| key.starts_with(CELL)) {
            let damaged = |_| LoadError::Damaged("registers");
            let id = read_cell_key(&key[CELL.len()..]).map_err(damaged)?;
            let mut cell = Cell::from_bytes(value).map_err(damaged)?;
            if cell.held.value.is_some() {
                let counted = counted_while_away(&cell, saved, now);
                cell.held.elapsed_ms = millis(Duration::from_millis(cell.held.elapsed_ms).saturating_add(counted));
                (cell.base, cell.boot) = (now.replica, now.boot.0);
                out.persist(key.clone(), Some(cell.to_bytes()));
            }
            acceptor.index(env, &id.1, None, &cell.held);
            acceptor.cells.insert(id, cell);
        }
        acceptor.save_clock(out, now);
        Ok(acceptor)
    }

    /// The member of this view that this node is, with this very store.
    pub(crate) fn member<'v>(&self, env: &Env<'_>, view: &'v View) -> Option<(u8, &'v Member)> {
        let index = view.index_of(&env.me)?;
        view.member(index).filter(|member| member.store_id == self.store_id).map(|member| (index, member))
    }

    /// The highest round that any register here has seen.
    pub(crate) fn highest_round(&self) -> u64 {
        self.cells.values().map(|cell| cell.promised.round).max().unwrap_or(0)
    }

    /// Phase 1.
    pub(crate) fn handle_prepare(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        from: &PublicKey,
        (scope, ballot, keys): (Scope, Ballot, Vec<RegisterKey>),
    ) {
        let Some(view) = self.coordinated(env, out, from, &scope, &ballot) else { return };
        let mut items = Vec::new();
        for key in keys {
            if env.view_of(&key) != Some(view) {
                out.drop(DropReason::OldView);
                continue;
            }
            let id = (scope, key.clone());
            if !self.cells.contains_key(&id) && self.cells.len() >= MAX_CELLS {
                out.drop(DropReason::Overflow);
                continue;
            }
            let cell = self.cells.entry(id.clone()).or_default();
            let verdict = if ballot > cell.promised {
                cell.promised = ballot;
                out.persist(cell_key(&id), Some(cell.to_bytes()));
                Ok(cell.at(&env.now))
            } else {
                Err(cell.promised)
            };
            items.push(PromiseItem { key, verdict });
        }
        out.send(env, from, Message::Promise { scope, store_id: self.store_id, ballot, items });
    }

    /// Phase 2.
    pub(crate) fn handle_accept(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        from: &PublicKey,
        (scope, ballot, values): (Scope, Ballot, Vec<AcceptItem>),
    ) {
        let Some(view) = self.coordinated(env, out, from, &scope, &ballot) else { return };
        let Some((_, member)) = self.member(env, view) else { return };
        let mut items = Vec::new();
        for item in values {
            let key = item.value.key();
            if env.view_of(&key) != Some(view) {
                out.drop(DropReason::OldView);
                continue;
            }
            if env.rules.acceptor_checks && !item.value.verify(env.ns, env.config)
                || !env.rules.judge_no_dates(env, &item)
            {
                out.drop(DropReason::ForgedValue);
                continue;
            }
            let hash = item.value.hash();
            let verdict = match self.accept(env, out, (scope, key.clone()), ballot, item) {
                Ok(()) => {
                    Ok(sign(env.identity, Label::Accepted, env.ns, &accepted_body(view, member, &key, ballot, hash)))
                }
                Err(Some(promised)) => Err(promised),
                Err(None) => continue,
            };
            items.push(AcceptedItem { key, verdict });
        }
        out.send(env, from, Message::Accepted { scope, store_id: self.store_id, ballot, items });
    }

    fn accept(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        id: (Scope, RegisterKey),
        ballot: Ballot,
        item: AcceptItem,
    ) -> Result<(), Option<Ballot>> {
        if !self.cells.contains_key(&id) && self.cells.len() >= MAX_CELLS {
            out.drop(DropReason::Overflow);
            return Err(None);
        }
        let cell = self.cells.entry(id.clone()).or_default();
        if ballot < cell.promised && env.rules.promises_kept {
            return Err(Some(cell.promised));
        }
        if ballot == cell.held.ballot && cell.held.value.is_some() && env.rules.one_value_per_ballot {
            if cell.held.value.as_ref() == Some(&item.value) {
                // A copy of a message that was served: its timer is not started again.
                return Ok(());
            }
            out.drop(DropReason::SecondValue);
            return Err(None);
        }
        let held = Held { ballot, value: Some(item.value), elapsed_ms: item.elapsed_ms };
        let before =
            std::mem::replace(cell, Cell { promised: ballot, held, base: env.now.replica, boot: env.now.boot.0 });
        out.persist(cell_key(&id), Some(cell.to_bytes()));
        let after = cell.held.clone();
        self.index(env, &id.1, before.held.value.as_ref(), &after);
        Ok(())
    }

    /// What is held, for somebody who asks. Only a member of the newest view answers.
    pub(crate) fn handle_read(
        &self,
        env: &Env<'_>,
        out: &mut Outbox,
        from: &PublicKey,
        (scope, id, key): (Scope, u64, RegisterKey),
    ) {
        let Some(view) = env.current(&scope).filter(|view| env.view_of(&key) == Some(*view)) else {
            return moved(env, out, from, &scope);
        };
        let Some((_, member)) = self.member(env, view) else {
            return out.drop(DropReason::NotReplica);
        };
        let held = self.cells.get(&(scope, key.clone())).filter(|cell| cell.held.value.is_some()).map(|cell| {
            let hash = cell.held.value.as_ref().map_or([0; 32], Value::hash);
            let body = accepted_body(view, member, &key, cell.held.ballot, hash);
            ReadHeld { held: cell.at(&env.now), signature: sign(env.identity, Label::Accepted, env.ns, &body) }
        });
        out.send(env, from, Message::ReadReply { scope, store_id: self.store_id, id, key, held });
    }

    /// A bit for each address of the block that seems to be in use.
    pub(crate) fn used_map(&self, env: &Env<'_>, scope: Scope, ip: Ipv4Addr) -> Vec<u8> {
        let first = u32::from(ip) & !0xff;
        let id = |ip: u32| (scope, RegisterKey::Lease(LeaseKey::Address(Ipv4Addr::from(ip))));
        let mut map = vec![0u8; 32];
        for ((_, key), cell) in self.cells.range(id(first)..=id(first | 0xff)) {
            let (RegisterKey::Lease(LeaseKey::Address(ip)), Some(Value::Lease(record))) = (key, &cell.held.value)
            else {
                continue;
            };
            if record.held() && cell.elapsed(&env.now) < env.guard(record.dur()) {
                let last = ip.octets()[3];
                map[usize::from(last / 8)] |= 1 << (last % 8);
            }
        }
        map
    }

    /// How many addresses or names this owner seems to hold here, besides this one.
    pub(crate) fn held_count(&self, env: &Env<'_>, owner: &PublicKey, besides: &LeaseKey) -> usize {
        let Some(keys) = self.held_by.get(owner) else { return 0 };
        keys.iter()
            .filter(|key| *key != besides && matches!(key, LeaseKey::Name(_)) == matches!(besides, LeaseKey::Name(_)))
            .filter(|key| {
                let key = RegisterKey::Lease((*key).clone());
                let Some(view) = env.view_of(&key) else { return false };
                let Some(cell) = self.cells.get(&(Scope::of(view), key)) else { return false };
                matches!(&cell.held.value, Some(Value::Lease(record))
                    if cell.elapsed(&env.now) < env.guard(record.dur()))
            })
            .count()
    }

    /// What this replica itself holds under a key: a hint, not a quorum's word.
    pub(crate) fn peek(&self, env: &Env<'_>, key: &RegisterKey) -> Option<&Value> {
        self.cells.get(&(Scope::of(env.view_of(key)?), key.clone()))?.held.value.as_ref()
    }

    /// Saves the running time once a minute while a lease runs.
    pub(crate) fn handle_timeout(&mut self, env: &Env<'_>, out: &mut Outbox) {
        if env.now.mono < self.save_at {
            return;
        }
        self.save_at = env.now.mono + SAVE_EVERY;
        if env.rules.elapsed_saved {
            self.save_clock(out, &env.now);
        }
        // Saved once more than needed, so that a reboot later does not take the end back.
        if env.now.replica.0 > self.runs_until {
            self.runs_until = Duration::ZERO;
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        (!self.runs_until.is_zero()).then_some((self.save_at, "save how long leases have run"))
    }

    fn save_clock(&self, out: &mut Outbox, now: &Now) {
        if !self.runs_until.is_zero() {
            let mut value = Writer::default();
            value.raw(&now.boot.0);
            value.u64(millis(now.replica.0));
            out.persist(CLOCK.to_vec(), Some(value.into_bytes()));
        }
    }

    /// The newest view, if this node and the sender are in it and the ballot is the sender's.
    fn coordinated<'a>(
        &self,
        env: &Env<'a>,
        out: &mut Outbox,
        from: &PublicKey,
        scope: &Scope,
        ballot: &Ballot,
    ) -> Option<&'a View> {
        let Some(view) = env.current(scope) else {
            moved(env, out, from, scope);
            return None;
        };
        if self.member(env, view).is_none() || view.index_of(from) != Some(ballot.replica) || ballot.view != view.number
        {
            out.drop(DropReason::NotReplica);
            return None;
        }
        Some(view)
    }

    fn index(&mut self, env: &Env<'_>, key: &RegisterKey, before: Option<&Value>, after: &Held) {
        let RegisterKey::Lease(key) = key else { return };
        if let Some(Value::Lease(record)) = before
            && let Some(keys) = self.held_by.get_mut(&record.owner())
        {
            keys.remove(key);
            if keys.is_empty() {
                self.held_by.remove(&record.owner());
            }
        }
        if let Some(Value::Lease(record)) = &after.value
            && record.held()
        {
            let left = env.guard(record.dur()).saturating_sub(Duration::from_millis(after.elapsed_ms));
            self.runs_until = self.runs_until.max(env.now.replica.0.saturating_add(left));
            self.held_by.entry(record.owner()).or_default().insert(key.clone());
        }
    }
}

/// Answers a message about a view that is over with the views that followed; about one to come, with nothing.
pub(crate) fn moved(env: &Env<'_>, out: &mut Outbox, to: &PublicKey, scope: &Scope) {
    out.drop(DropReason::OldView);
    let newer =
        |view: &View| view.shard == scope.shard && (view.incarnation, view.number) > (scope.incarnation, scope.view);
    let views: Vec<_> = env.chain.successors().iter().filter(|next| newer(&next.view)).cloned().collect();
    if !views.is_empty() {
        let views = views.into_iter().take(crate::message::MAX_BATCH).collect();
        out.send(env, to, Message::Moved { views });
    }
}

/// What another process, or this one before a reboot, counted after the cell was written, as far as that is certain.
fn counted_while_away(cell: &Cell, saved: Option<(BootId, ReplicaTime)>, now: &Now) -> Duration {
    let Some((boot, clock)) = saved.filter(|(boot, _)| boot.0 == cell.boot) else { return Duration::ZERO };
    let until_saved = clock.0.saturating_sub(cell.base.0);
    if boot != now.boot {
        return until_saved;
    }
    let since = now.replica.0.saturating_sub(clock.0.max(cell.base.0));
    until_saved.saturating_add(since.saturating_sub(now.replica.0 / RESTART_DOUBT))
}

fn read_clock(bytes: &[u8]) -> Result<(BootId, ReplicaTime), DecodeError> {
    let mut input = Reader::new(bytes);
    let clock = (BootId(input.array()?), ReplicaTime(Duration::from_millis(input.u64()?)));
    input.finish()?;
    Ok(clock)
}

fn cell_key((scope, key): &(Scope, RegisterKey)) -> Vec<u8> {
    let mut out = Writer::default();
    out.raw(CELL);
    scope.encode(&mut out);
    key.encode(&mut out);
    out.into_bytes()
}

fn read_cell_key(bytes: &[u8]) -> Result<(Scope, RegisterKey), DecodeError> {
    let mut input = Reader::new(bytes);
    let id = (Scope::decode(&mut input)?, RegisterKey::decode(&mut input)?);
    input.finish()?;
    Ok(id)
}
