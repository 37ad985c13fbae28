//! The replica's half of the register: what this node promised, accepted, and for how long it has held it.
//!
//! Everything but the running time is on disk before the answer that rests on it leaves. The time that a value has been
//! held is counted on the replica's clock and saved every minute, so that a replica that reboots often still frees
//! addresses; after a reboot only what was saved counts, which errs to the safe side.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::ballot::Ballot;
use crate::cell::{Acceptance, Cell, millis};
use crate::certificate::accepted_body;
use crate::clock::{BootId, Now, ReplicaTime};
use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::command::LeaseKey;
use crate::env::{DropReason, Env, Outbox};
use crate::identity::PublicKey;
use crate::message::{
    AcceptItem, AcceptedItem, AcceptedVote, Held, Message, OpResult, PromiseItem, ReadHeld, ViewMessage,
};
use crate::namespace::{Image, LoadError};
use crate::record::{RegisterKey, Scope, Value};
use crate::sign::{Label, sign};
use crate::stations::{Stations, pass_on};
use crate::view::{Member, View, page};
use crate::votes::Votes;

/// Most registers of one replica: a /12 in which every address was used, at some 400 bytes each.
const MAX_CELLS: usize = 1 << 20;
/// How often the running time is saved.
const SAVE_EVERY: Duration = Duration::from_secs(60);
/// A restarted process reads the clock anew, without what its predecessor summed up over a steered clock. Of the
/// time between them, this fraction of the time since boot is not counted.
pub(crate) const RESTART_DOUBT: u32 = 50;

/// Most registers, and most bytes, of one part of a snapshot.
const PAGE: usize = 200;
const PAGE_BYTES: usize = 40 * 1024;

const CELL: &[u8] = b"cell/";
const CLOCK: &[u8] = b"replica-clock";

/// The registers that this node keeps for the namespace.
#[derive(Debug)]
pub(crate) struct Acceptor {
    store_id: [u8; 16],
    /// In which views this node is a replica.
    pub(crate) stations: Stations,
    /// How many votes were given.
    pub(crate) votes: Votes,
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
            stations: Stations::load(store_id, image)?,
            votes: Votes::load(env, store_id, image)?,
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
        self.stations.member(env, view)
    }

    /// As [`member`](Self::member), if the registers of that view are served here.
    pub(crate) fn serving<'v>(&self, env: &Env<'_>, view: &'v View) -> Option<(u8, &'v Member)> {
        self.member(env, view).filter(|_| self.stations.serves(env, view) && self.votes.may(env, view))
    }

    /// What a coordinator tells an owner.
    pub(crate) fn results(&self, scope: Scope, items: Vec<OpResult>) -> Message {
        Message::Results { scope, store_id: self.store_id, votes: self.votes.count(), items }
    }

    /// The number of this node's store.
    pub(crate) fn store_id(&self) -> [u8; 16] {
        self.store_id
    }

    /// The highest round that any register here has seen.
    pub(crate) fn highest_round(&self) -> u64 {
        let cells = self.cells.values().map(|cell| cell.promised.round).max().unwrap_or(0);
        cells.max(self.stations.highest_round())
    }

    /// Phase 1.
    pub(crate) fn handle_prepare(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        from: &PublicKey,
        (scope, told, ballot, keys): (Scope, u64, Ballot, Vec<RegisterKey>),
    ) {
        let Some(view) = self.coordinated(env, out, from, (&scope, told, &ballot)) else { return };
        let mut items = Vec::new();
        for key in keys.iter().cloned() {
            if key.shard(env.ns, env.config) != scope.shard {
                out.drop(DropReason::OldView);
                continue;
            }
            let id = (scope, key.clone());
            if !self.cells.contains_key(&id) && self.cells.len() >= MAX_CELLS {
                out.drop(DropReason::Overflow);
                continue;
            }
            let cell = self.cells.entry(id.clone()).or_default();
            let verdict = cell.prepare(ballot, &env.now);
            if verdict.is_ok() {
                out.persist(cell_key(&id), Some(cell.to_bytes()));
            }
            items.push(PromiseItem { key, verdict });
        }
        let votes = self.votes.cast(out);
        out.send(env, from, Message::Promise { scope, store_id: self.store_id, votes, ballot, items });
        pass_on(env, out, from, view, votes, |votes| Message::Prepare { scope, votes, ballot, keys: keys.clone() });
    }

    /// Phase 2.
    pub(crate) fn handle_accept(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        from: &PublicKey,
        (scope, told, ballot, next_round, values): (Scope, u64, Ballot, u64, Vec<AcceptItem>),
    ) {
        let Some(view) = self.coordinated(env, out, from, (&scope, told, &ballot)) else { return };
        let Some((_, member)) = self.member(env, view) else { return };
        let next = (next_round > ballot.round).then_some(Ballot { round: next_round, ..ballot });
        let mut items = Vec::new();
        for item in values.iter().cloned() {
            let key = item.value.key();
            if key.shard(env.ns, env.config) != scope.shard {
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
            let verdict = match self.accept(env, out, (scope, key.clone()), (ballot, next), item) {
                Ok(promised_next) => {
                    let body = accepted_body(view, member, &key, ballot, hash);
                    let signature = sign(env.identity, Label::Accepted, env.ns, &body);
                    Ok(AcceptedVote { signature, promised_next })
                }
                Err(Some(promised)) => Err(promised),
                Err(None) => continue,
            };
            items.push(AcceptedItem { key, verdict });
        }
        let votes = self.votes.cast(out);
        out.send(env, from, Message::Accepted { scope, store_id: self.store_id, votes, ballot, items });
        pass_on(env, out, from, view, votes, |votes| Message::Accept {
            scope,
            votes,
            ballot,
            next_round,
            items: values.clone(),
        });
    }

    /// Whether the next ballot is promised along with it; else the ballot that was promised to another, if it is that.
    fn accept(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        id: (Scope, RegisterKey),
        (ballot, next): (Ballot, Option<Ballot>),
        item: AcceptItem,
    ) -> Result<bool, Option<Ballot>> {
        if !self.cells.contains_key(&id) && self.cells.len() >= MAX_CELLS {
            out.drop(DropReason::Overflow);
            return Err(None);
        }
        let cell = self.cells.entry(id.clone()).or_default();
        let before = cell.held.value.clone();
        match cell.accept(&env.rules, ballot, next, item, &env.now) {
            Acceptance::Accepted => {
                out.persist(cell_key(&id), Some(cell.to_bytes()));
                let (after, promised_next) = (cell.held.clone(), Some(cell.promised) == next);
                self.index(env, &id.1, before.as_ref(), &after);
                Ok(promised_next)
            }
            Acceptance::Repeated => Ok(Some(cell.promised) == next),
            Acceptance::Promised(promised) => Err(Some(promised)),
            Acceptance::SecondValue => {
                out.drop(DropReason::SecondValue);
                Err(None)
            }
        }
    }

    /// What is held, for somebody who asks. Only a member of the newest view answers.
    pub(crate) fn handle_read(
        &self,
        env: &Env<'_>,
        out: &mut Outbox,
        from: &PublicKey,
        (scope, id, key): (Scope, u64, RegisterKey),
    ) {
        let view = if env.rules.active_reads { env.current(&scope) } else { env.known(&scope) };
        let Some(view) = view.filter(|view| key.shard(env.ns, env.config) == view.shard) else {
            return moved(env, out, from, &scope);
        };
        let answers = self.stations.standing(env, view).is_some_and(|standing| standing.answers_reads(&env.rules));
        // A store that may have been set back does not know what it holds.
        let Some((_, member)) = self.member(env, view).filter(|_| answers && self.votes.may(env, view)) else {
            return out.drop(DropReason::NotServing);
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

    /// Asks the other members of the views it is in, before it votes there, what they have seen of this store.
    pub(crate) fn ask_others(&mut self, env: &Env<'_>, out: &mut Outbox) {
        self.votes.ask(env, out, &self.stations.kept(env));
    }

    /// The same again where no answer came, when that is due.
    pub(crate) fn ask_again(&mut self, env: &Env<'_>, out: &mut Outbox) {
        self.votes.handle_timeout(env, out, &self.stations.kept(env));
    }

    /// Votes on the view that follows, phase 1 and 2.
    pub(crate) fn handle_view_prepare(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        from: &PublicKey,
        vote: (Scope, u64, Ballot),
    ) {
        self.stations.handle_prepare(env, out, from, vote, &mut self.votes);
    }

    /// Phase 2: see [`Stations::handle_accept`].
    pub(crate) fn handle_view_accept(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        from: &PublicKey,
        vote: (Scope, u64, Ballot, View),
    ) {
        self.stations.handle_accept(env, out, from, vote, &mut self.votes);
    }

    /// A part of what this replica holds: of a view that is over, for a member of the next; or of the newest one, for a
    /// member of it that has nothing yet.
    pub(crate) fn handle_ask_snapshot(
        &self,
        env: &Env<'_>,
        out: &mut Outbox,
        from: &PublicKey,
        (scope, into, after): (Scope, Scope, Option<RegisterKey>),
    ) {
        let Some(view) = env.known(&scope) else { return out.drop(DropReason::OldView) };
        let Some(standing) = self.stations.standing(env, view) else { return out.drop(DropReason::NotReplica) };
        let gives = if scope == into {
            env.current(&scope).is_some() && standing.is_copied(&env.rules)
        } else {
            let knows = env.known(&into).is_some_and(|next| next.previous == view.hash());
            standing.shows(knows, &env.rules)
        };
        // Before the next view is known here, nobody can be told from a stranger; then nothing is given either.
        let asked = env.known(&into).is_some_and(|view| view.index_of(from).is_some());
        if !gives || !asked && env.rules.snapshot_after_wedge || !self.votes.may(env, view) {
            return out.drop(DropReason::NotServing);
        }
        let (items, last) = self.page(env, scope, after.as_ref());
        let answer = ViewMessage::Snapshot { scope, into, store_id: self.store_id, after, last, items };
        out.send(env, from, Message::View(answer));
    }

    fn page(&self, env: &Env<'_>, scope: Scope, after: Option<&RegisterKey>) -> (Vec<Held>, bool) {
        let (mut items, mut bytes) = (Vec::new(), 0);
        for (key, cell) in self.of_scope(scope) {
            if after.is_some_and(|after| key <= after) || cell.held.value.is_none() {
                continue;
            }
            let held = cell.at(&env.now);
            bytes += held.to_bytes().len();
            if items.len() >= PAGE || bytes > PAGE_BYTES && !items.is_empty() {
                return (items, false);
            }
            items.push(held);
        }
        (items, true)
    }

    /// The registers of one view, in order.
    pub(crate) fn of_scope(&self, scope: Scope) -> impl Iterator<Item = (&RegisterKey, &Cell)> {
        let lowest = RegisterKey::Lease(LeaseKey::Address(Ipv4Addr::UNSPECIFIED));
        let all = self.cells.range((scope, lowest)..);
        all.take_while(move |((of, _), _)| *of == scope).map(|((_, key), cell)| (key, cell))
    }

    /// What this replica itself held in a view that is over, if that counts as a snapshot.
    pub(crate) fn own_snapshot(&self, env: &Env<'_>, view: &View) -> Option<Vec<Held>> {
        self.stations
            .standing(env, view)
            .filter(|standing| standing.is_snapshot(&env.rules) && self.votes.may(env, view))?;
        let cells = self.of_scope(Scope::of(view)).filter(|(_, cell)| cell.held.value.is_some());
        Some(cells.map(|(_, cell)| cell.at(&env.now)).collect())
    }

    /// The leases that this replica itself held in a view, without a quorum's word for it.
    pub(crate) fn leases_of(&self, env: &Env<'_>, scope: Scope) -> Vec<Held> {
        let held = |cell: &&Cell| matches!(&cell.held.value, Some(Value::Lease(record)) if record.held());
        self.of_scope(scope).map(|(_, cell)| cell).filter(held).map(|cell| cell.at(&env.now)).collect()
    }

    /// Begins to serve a view with what a quorum of the one before held.
    pub(crate) fn install(&mut self, env: &Env<'_>, out: &mut Outbox, view: &View, state: Vec<Held>) {
        let scope = Scope::of(view);
        for held in state {
            let Some(key) = held.value.as_ref().map(Value::key) else { continue };
            let cell = Cell::carried(held, &env.now);
            if is_dead(env, &cell) || self.cells.len() >= MAX_CELLS {
                continue;
            }
            let id = (scope, key);
            out.persist(cell_key(&id), Some(cell.to_bytes()));
            let before = self.cells.get(&id).and_then(|cell| cell.held.value.clone());
            self.index(env, &id.1, before.as_ref(), &cell.held);
            self.cells.insert(id, cell);
        }
        self.stations.activate(env, out, view);
    }

    /// Drops what an older view held: a quorum of a newer one has it.
    pub(crate) fn retire(&mut self, env: &Env<'_>, out: &mut Outbox, scope: Scope) {
        let keys: Vec<RegisterKey> = self.of_scope(scope).map(|(key, _)| key.clone()).collect();
        for key in keys {
            let id = (scope, key);
            out.persist(cell_key(&id), None);
            self.cells.remove(&id);
        }
        self.stations.retire(out, scope);
        self.reindex(env);
    }

    /// This store was set back: nothing in it counts any more.
    pub(crate) fn begin_anew(&mut self, env: &Env<'_>, out: &mut Outbox, store_id: [u8; 16]) {
        for id in std::mem::take(&mut self.cells).into_keys() {
            out.persist(cell_key(&id), None);
        }
        self.store_id = store_id;
        self.stations.begin_anew(out, store_id);
        self.votes.begin_anew(out, store_id);
        self.reindex(env);
    }

    /// Who holds what, by the newest views.
    fn reindex(&mut self, env: &Env<'_>) {
        self.held_by.clear();
        for ((scope, key), cell) in &self.cells {
            let newest = env.chain.newest(scope.shard).is_some_and(|view| Scope::of(view) == *scope);
            if let (true, RegisterKey::Lease(key), Some(Value::Lease(record))) = (newest, key, &cell.held.value)
                && record.held()
            {
                self.held_by.entry(record.owner()).or_default().insert(key.clone());
            }
        }
    }

    /// The newest view, if this node and the sender are in it and the ballot is the sender's.
    fn coordinated<'a>(
        &mut self,
        env: &Env<'a>,
        out: &mut Outbox,
        from: &PublicKey,
        (scope, told, ballot): (&Scope, u64, &Ballot),
    ) -> Option<&'a View> {
        let Some(view) = env.current(scope) else {
            moved(env, out, from, scope);
            return None;
        };
        if view.index_of(from) != Some(ballot.replica) || ballot.view != view.number {
            out.drop(DropReason::NotReplica);
            return None;
        }
        self.votes.saw(env, scope, from, told);
        if self.serving(env, view).is_none() {
            out.drop(DropReason::NotServing);
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

/// A tombstone that nobody can need any more: no message of an older view is accepted, and whoever held the key
/// has long stopped.
pub(crate) fn is_dead(env: &Env<'_>, cell: &Cell) -> bool {
    let Some(Value::Lease(record)) = &cell.held.value else { return false };
    !record.held() && cell.elapsed(&env.now) > env.guard(env.config.max_lease()).saturating_mul(2)
}

/// Answers a message about a view that is over with the views that followed; about one to come, with nothing.
pub(crate) fn moved(env: &Env<'_>, out: &mut Outbox, to: &PublicKey, scope: &Scope) {
    out.drop(DropReason::OldView);
    let recovered = env.chain.newest(scope.shard).is_some_and(|newest| newest.incarnation > scope.incarnation);
    let newer = |view: &View| {
        view.shard == scope.shard
            && match view.incarnation.cmp(&scope.incarnation) {
                Ordering::Greater => true,
                Ordering::Equal => view.number > scope.view,
                // What was recovered may go on from a view beside those that the other knows.
                Ordering::Less => recovered,
            }
    };
    let views = page::first(env.chain.successors().iter().filter(|next| newer(&next.view)));
    if !views.is_empty() {
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
