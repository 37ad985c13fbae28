//! The proposer's half of the register: any replica runs rounds for owners, joiners and readers.
//!
//! A round is one ballot and one or more keys, at most one operation for each. Phase 1 asks every member what it holds;
//! with a quorum's promises [`decide`] says what the operation makes of the newest value; phase 2 writes that.
//! Refusals write nothing: a rewrite would prolong a dead owner's lease by a network delay each time.

mod answer;
mod asker;
mod decide;
mod slots;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use crate::acceptor::Acceptor;
use crate::ballot::Ballot;
use crate::certificate::accepted_body;
use crate::clock::{Now, ReplicaTime};
use crate::command::LeaseKey;
use crate::env::{DropReason, Env, Outbox};
use crate::identity::PublicKey;
use crate::message::{AcceptItem, AcceptedItem, Held, MAX_BATCH, Message, OpResult, Outcome, PromiseItem};
use crate::namespace::{Image, LoadError};
use crate::record::{RegisterKey, Scope, SignedOp};
use crate::redeem::{RedeemAnswer, RedeemRequest};
use crate::sign::{Label, verify};
use crate::view::{View, Vote};

use answer::{give_up, outcome};
pub(crate) use asker::Owner;
pub(crate) use decide::Decision;
use decide::Top;
use slots::SpentCache;

/// Rounds are reserved on disk in blocks, before one of them is used.
const ROUND_BLOCK: u64 = 1000;
/// After this a round is given up; its owner has asked again by then.
const ROUND_TIME: Duration = Duration::from_secs(2);
/// How often an operation is tried when other coordinators come first.
const MAX_ATTEMPTS: u32 = 8;
/// Most operations that run or wait at one coordinator.
const MAX_WORK: usize = 4096;
/// Most that wait for one key.
const MAX_WAITING: usize = 32;

const ROUND: &[u8] = b"round";

/// Something that needs a round.
#[derive(Clone, Debug)]
struct Work {
    source: Source,
    attempt: u32,
}

/// For whom a round is run.
#[derive(Clone, Debug)]
enum Source {
    /// An owner's operation.
    Op(SignedOp),
    /// A joiner's request for a slot.
    Redeem { from: PublicKey, request: Box<RedeemRequest> },
    /// Replicas that answered a read differently.
    Settle(RegisterKey),
}

impl Source {
    fn key(&self) -> RegisterKey {
        match self {
            Self::Op(op) => RegisterKey::Lease(op.op.key.clone()),
            Self::Redeem { request, .. } => RegisterKey::Redeem(request.invite.invite),
            Self::Settle(key) => key.clone(),
        }
    }
}

/// One key's part in a round.
#[derive(Debug)]
struct Item {
    work: Work,
    phase: Phase,
    nacks: usize,
    /// Another operation that shares the ballot, only without the rule that forbids it.
    twin: Option<Work>,
}

#[derive(Debug)]
enum Phase {
    Preparing { promises: BTreeMap<u8, (Held, ReplicaTime)> },
    Accepting { decision: Box<Decision>, votes: BTreeMap<u8, Vote> },
}

#[derive(Debug)]
struct Round {
    scope: Scope,
    ballot: Ballot,
    items: BTreeMap<RegisterKey, Item>,
    /// Members whose promise or vote was heard, for naming the silent ones.
    heard: u8,
    deadline: Instant,
}

/// Rounds in progress at this replica.
#[derive(Debug)]
pub(crate) struct Coordinator {
    next_round: u64,
    reserved: u64,
    rounds: BTreeMap<u64, Round>,
    /// Keys with a round in progress, and what waits for it to end.
    busy: BTreeMap<RegisterKey, VecDeque<Work>>,
    retries: Vec<(Instant, Work)>,
    spent: SpentCache,
    rng: ChaCha20Rng,
}

impl Coordinator {
    /// Begins above every round that was reserved before.
    pub(crate) fn load(
        image: &Image,
        acceptor: &Acceptor,
        seed: [u8; 32],
        rounds_on_disk: bool,
    ) -> Result<Self, LoadError> {
        let reserved = image.get(ROUND).map(|bytes| <[u8; 8]>::try_from(bytes.as_slice())).transpose();
        let reserved = reserved.map_err(|_| LoadError::Damaged("round counter"))?.map_or(0, u64::from_be_bytes);
        let first = if rounds_on_disk { reserved.max(acceptor.highest_round()) } else { 0 };
        Ok(Self {
            next_round: first + 1,
            reserved: first,
            rounds: BTreeMap::new(),
            busy: BTreeMap::new(),
            retries: Vec::new(),
            spent: SpentCache::default(),
            rng: ChaCha20Rng::from_seed(seed),
        })
    }

    /// Runs an owner's batch. `from` is whom the connection proved.
    pub(crate) fn handle_ops(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        acceptor: &Acceptor,
        owner: &Owner,
        (scope, ops): (Scope, Vec<SignedOp>),
    ) {
        let Some(view) = env.current(&scope) else {
            return crate::acceptor::moved(env, out, &owner.identity, &scope);
        };
        if acceptor.member(env, view).is_none() {
            return out.drop(DropReason::NotReplica);
        }
        let mut works = Vec::new();
        for op in ops {
            let key = RegisterKey::Lease(op.op.key.clone());
            if op.owner != owner.identity || op.op.scope != scope || op.verify(env.ns).is_err() {
                out.drop(DropReason::ForgedOp);
            } else if env.view_of(&key) != Some(view) {
                out.drop(DropReason::OldView);
            } else if let Err(refused) = owner.may(env, acceptor, &op) {
                self.answer(env, out, scope, &op, Outcome::Refused(refused));
            } else {
                works.push(Work { source: Source::Op(op), attempt: 0 });
            }
        }
        self.start(env, out, acceptor, view, works);
    }

    /// Makes members agree that answered a read differently.
    pub(crate) fn handle_settle(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        acceptor: &Acceptor,
        from: &PublicKey,
        (scope, key): (Scope, RegisterKey),
    ) {
        let Some(view) = env.current(&scope).filter(|view| env.view_of(&key) == Some(*view)) else {
            return crate::acceptor::moved(env, out, from, &scope);
        };
        if acceptor.member(env, view).is_none() {
            return out.drop(DropReason::NotReplica);
        }
        self.start(env, out, acceptor, view, vec![Work { source: Source::Settle(key), attempt: 0 }]);
    }

    /// Starts one round for all works whose key is free; the others wait their turn.
    fn start(&mut self, env: &Env<'_>, out: &mut Outbox, acceptor: &Acceptor, view: &View, works: Vec<Work>) {
        let mut items: BTreeMap<RegisterKey, Item> = BTreeMap::new();
        for work in works {
            let key = work.source.key();
            if let Some(waiting) = self.busy.get_mut(&key) {
                if !env.rules.one_op_per_key
                    && let Some(item) = items.get_mut(&key)
                {
                    item.twin = Some(work);
                } else if waiting.len() < MAX_WAITING {
                    waiting.push_back(work);
                } else {
                    out.drop(DropReason::Overflow);
                }
                continue;
            }
            if self.busy.len() >= MAX_WORK {
                out.drop(DropReason::Overflow);
                continue;
            }
            self.busy.insert(key.clone(), VecDeque::new());
            let phase = Phase::Preparing { promises: BTreeMap::new() };
            items.insert(key, Item { work, phase, nacks: 0, twin: None });
        }
        let Some((replica, _)) = acceptor.member(env, view) else { return };
        if items.is_empty() {
            return;
        }
        let round = self.take_round(env, out);
        let ballot = Ballot { view: view.number, round, replica };
        let keys: Vec<RegisterKey> = items.keys().cloned().collect();
        let scope = Scope::of(view);
        let deadline = env.now.mono + ROUND_TIME;
        self.rounds.insert(round, Round { scope, ballot, items, heard: 0, deadline });
        for chunk in keys.chunks(MAX_BATCH) {
            for member in &view.members {
                out.send(env, &member.identity, Message::Prepare { scope, ballot, keys: chunk.to_vec() });
            }
        }
    }

    /// A round that was never used before, in this process or another, and exceeds every one seen.
    fn take_round(&mut self, env: &Env<'_>, out: &mut Outbox) -> u64 {
        let round = self.next_round;
        self.next_round += 1;
        if round > self.reserved {
            self.reserved = round.saturating_add(ROUND_BLOCK);
            if env.rules.rounds_on_disk {
                out.persist(ROUND.to_vec(), Some(self.reserved.to_be_bytes().to_vec()));
            }
        }
        round
    }

    /// Phase 1 answers.
    pub(crate) fn handle_promise(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        acceptor: &Acceptor,
        from: &PublicKey,
        (scope, store_id, ballot, items): (Scope, [u8; 16], Ballot, Vec<PromiseItem>),
    ) {
        let Some((view, index)) = voter(env, out, from, &scope, &store_id) else { return };
        let Some(round) = self.rounds.get_mut(&ballot.round).filter(|r| r.ballot == ballot && r.scope == scope) else {
            return out.drop(DropReason::Unexpected);
        };
        round.heard |= 1 << index;
        let mut decided = Vec::new();
        let mut nacked = Vec::new();
        for item in items {
            let Some(mine) = round.items.get_mut(&item.key) else { continue };
            let Phase::Preparing { promises } = &mut mine.phase else { continue };
            match item.verdict {
                Ok(held) if held.value.as_ref().is_none_or(|value| value.key() == item.key) => {
                    promises.insert(index, (held, env.now.replica));
                    if promises.len() >= view.quorum() {
                        decided.push(item.key);
                    }
                }
                Ok(_) => out.drop(DropReason::ForgedValue),
                Err(promised) => {
                    self.next_round = self.next_round.max(promised.round.saturating_add(1));
                    mine.nacks += 1;
                    if mine.nacks > view.members.len() - view.quorum() {
                        nacked.push(item.key);
                    }
                }
            }
        }
        if !env.rules.quorum_per_key && !decided.is_empty() {
            // Only without the rule: a quorum for one key of the batch passes for a quorum for all.
            decided = round.items.keys().cloned().collect();
            nacked.clear();
        }
        self.decide(env, out, acceptor, view, ballot.round, decided);
        self.retry(env, out, ballot.round, nacked);
    }

    fn decide(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        acceptor: &Acceptor,
        view: &View,
        number: u64,
        keys: Vec<RegisterKey>,
    ) {
        let Some(round) = self.rounds.get_mut(&number) else { return };
        let (scope, ballot) = (round.scope, round.ballot);
        let mut accepts = Vec::new();
        let mut refused = Vec::new();
        let mut twins = Vec::new();
        for key in keys {
            let Some(item) = round.items.get_mut(&key) else { continue };
            let Phase::Preparing { promises } = &item.phase else { continue };
            let top = Top::of(promises.values(), &env.now);
            match decide::decide(env, &item.work.source, &top) {
                Some(decision) => {
                    let unsettled = decision.slot == slots::Verdict::Spent && !env.rules.spent_is_settled;
                    let write = decision.write.clone().filter(|_| !unsettled);
                    let twin = item.twin.take().and_then(|twin| decide::decide(env, &twin.source, &top)?.write);
                    twins.extend(twin.map(|(value, elapsed_ms)| AcceptItem { value, elapsed_ms }));
                    item.phase = Phase::Accepting { decision: Box::new(decision), votes: BTreeMap::new() };
                    match write {
                        Some((value, elapsed_ms)) => accepts.push(AcceptItem { value, elapsed_ms }),
                        None => refused.push(key),
                    }
                }
                // There is nothing to settle.
                None => refused.push(key),
            }
        }
        for chunk in accepts.chunks(MAX_BATCH).chain(twins.chunks(MAX_BATCH)) {
            for member in &view.members {
                out.send(env, &member.identity, Message::Accept { scope, ballot, items: chunk.to_vec() });
            }
        }
        self.finish(env, out, acceptor, number, refused);
    }

    /// Phase 2 answers.
    pub(crate) fn handle_accepted(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        acceptor: &Acceptor,
        from: &PublicKey,
        (scope, store_id, ballot, items): (Scope, [u8; 16], Ballot, Vec<AcceptedItem>),
    ) {
        let Some((view, index)) = voter(env, out, from, &scope, &store_id) else { return };
        let Some(round) = self.rounds.get_mut(&ballot.round).filter(|r| r.ballot == ballot && r.scope == scope) else {
            // Votes beyond the quorum come late as a rule.
            return;
        };
        round.heard |= 1 << index;
        let (mut done, mut nacked) = (Vec::new(), Vec::new());
        for item in items {
            let Some(mine) = round.items.get_mut(&item.key) else { continue };
            let Phase::Accepting { decision, votes } = &mut mine.phase else { continue };
            let Some((value, _)) = &decision.write else { continue };
            match item.verdict {
                Ok(signature) => {
                    let Some(member) = view.member(index) else { continue };
                    let body = accepted_body(view, member, &item.key, ballot, value.hash());
                    if verify(from, Label::Accepted, env.ns, &body, &signature).is_err() {
                        out.drop(DropReason::ForgedVote);
                        continue;
                    }
                    votes.insert(index, Vote { index, signature });
                    if votes.len() == view.quorum() {
                        done.push(item.key);
                    }
                }
                Err(promised) => {
                    self.next_round = self.next_round.max(promised.round.saturating_add(1));
                    mine.nacks += 1;
                    if mine.nacks > view.members.len() - view.quorum() {
                        nacked.push(item.key);
                    }
                }
            }
        }
        self.finish(env, out, acceptor, ballot.round, done);
        self.retry(env, out, ballot.round, nacked);
    }

    /// Answers whoever asked, and lets the next one for these keys begin.
    fn finish(&mut self, env: &Env<'_>, out: &mut Outbox, acceptor: &Acceptor, number: u64, keys: Vec<RegisterKey>) {
        let Some(round) = self.rounds.get_mut(&number) else { return };
        let (scope, ballot) = (round.scope, round.ballot);
        let mut answers: BTreeMap<PublicKey, Vec<OpResult>> = BTreeMap::new();
        let mut redeemed = Vec::new();
        for key in &keys {
            let Some(Item { work, phase, .. }) = round.items.remove(key) else { continue };
            let Phase::Accepting { decision, votes } = phase else { continue };
            let votes: Vec<Vote> = votes.into_values().collect();
            match work.source {
                Source::Op(op) => {
                    let mut outcome = outcome(env, scope, ballot, *decision, votes);
                    if let (Outcome::Taken { used, .. }, LeaseKey::Address(ip)) = (&mut outcome, &op.op.key) {
                        *used = acceptor.used_map(env, scope, *ip);
                    }
                    let (op_seq, nonce) = (op.op.op_seq, op.op.nonce);
                    answers.entry(op.owner).or_default().push(OpResult { op_seq, nonce, key: key.clone(), outcome });
                }
                Source::Redeem { from, request } => redeemed.push((from, request, decision, votes)),
                Source::Settle(_) => {}
            }
        }
        if round.items.is_empty() {
            self.rounds.remove(&number);
        }
        for (owner, items) in answers {
            out.send(env, &owner, Message::Results { scope, items });
        }
        for (from, request, decision, votes) in redeemed {
            let outcome = self.spent.outcome(env, scope, ballot, &request, *decision, votes);
            out.send(env, &from, Message::Redeemed(RedeemAnswer { invite: request.invite.invite, outcome }));
        }
        self.release(env, keys);
    }

    /// Lets what waits for these keys begin with the next timeout, which is due at once.
    fn release(&mut self, env: &Env<'_>, keys: Vec<RegisterKey>) {
        for key in keys {
            for work in self.busy.remove(&key).into_iter().flatten() {
                self.retries.push((env.now.mono, work));
            }
        }
    }

    /// Another coordinator came first: tries again after a random while, so that two do not chase each other for ever.
    fn retry(&mut self, env: &Env<'_>, out: &mut Outbox, number: u64, keys: Vec<RegisterKey>) {
        let Some(round) = self.rounds.get_mut(&number) else { return };
        let (scope, heard) = (round.scope, round.heard);
        for key in &keys {
            let Some(Item { work, .. }) = round.items.remove(key) else { continue };
            if work.attempt < MAX_ATTEMPTS {
                let pause = Duration::from_millis(20 + u64::from(self.rng.next_u32() % 180));
                self.retries.push((env.now.mono + pause, Work { attempt: work.attempt + 1, ..work }));
            } else {
                give_up(env, out, scope, heard, work);
            }
        }
        if round.items.is_empty() {
            self.rounds.remove(&number);
        }
        self.release(env, keys);
    }

    fn answer(&self, env: &Env<'_>, out: &mut Outbox, scope: Scope, op: &SignedOp, outcome: Outcome) {
        let key = RegisterKey::Lease(op.op.key.clone());
        let items = vec![OpResult { op_seq: op.op.op_seq, nonce: op.op.nonce, key, outcome }];
        out.send(env, &op.owner, Message::Results { scope, items });
    }

    /// Gives up what is overdue, and starts what has waited.
    pub(crate) fn handle_timeout(&mut self, env: &Env<'_>, out: &mut Outbox, acceptor: &Acceptor) {
        let late: Vec<u64> =
            self.rounds.iter().filter(|(_, round)| round.deadline <= env.now.mono).map(|(number, _)| *number).collect();
        for number in late {
            let Some(round) = self.rounds.remove(&number) else { continue };
            let keys: Vec<RegisterKey> = round.items.keys().cloned().collect();
            for item in round.items.into_values() {
                give_up(env, out, round.scope, round.heard, item.work);
            }
            self.release(env, keys);
        }
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.retries).into_iter().partition(|(at, _)| *at <= env.now.mono);
        self.retries = later;
        let mut by_shard: BTreeMap<u16, Vec<Work>> = BTreeMap::new();
        for (_, work) in due {
            let fits = match &work.source {
                Source::Op(op) => env.current(&op.op.scope).is_some(),
                Source::Redeem { .. } | Source::Settle(_) => true,
            };
            if fits {
                by_shard.entry(work.source.key().shard(env.ns, env.config)).or_default().push(work);
            }
        }
        for (shard, works) in by_shard {
            if let Some(view) = env.chain.newest(shard) {
                self.start(env, out, acceptor, view, works);
            }
        }
    }

    pub(crate) fn is_due(&self, now: &Now) -> bool {
        self.poll_timeout().is_some_and(|(at, _)| at <= now.mono)
    }

    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let rounds = self.rounds.values().map(|round| (round.deadline, "give a round up"));
        let retries = self.retries.iter().map(|(at, _)| (*at, "start the next round"));
        rounds.chain(retries).min()
    }
}

/// The member of the newest view that sent a vote, by its own store.
fn voter<'a>(
    env: &Env<'a>,
    out: &mut Outbox,
    from: &PublicKey,
    scope: &Scope,
    store_id: &[u8; 16],
) -> Option<(&'a View, u8)> {
    let found = env.current(scope).and_then(|view| {
        let index = view.index_of(from)?;
        (view.member(index)?.store_id == *store_id).then_some((view, index))
    });
    if found.is_none() {
        out.drop(DropReason::NotReplica);
    }
    found
}
