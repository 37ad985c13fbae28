//! The proposer's half of the register: any replica runs rounds for owners, joiners and readers.
//!
//! A round is one ballot and one or more keys, at most one operation for each. Phase 1 asks every member what it holds;
//! with a quorum's promises [`decide`] says what the operation makes of the newest value; phase 2 writes that.
//! This node's own acceptor is asked first, and passes the question on to the other members with the number of its own
//! vote, so that they have seen that one. Refusals write nothing: a rewrite would prolong a dead owner's lease by a network delay each time.

mod answer;
mod asker;
pub(crate) mod decide;
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
use crate::env::{DropReason, Env, Outbox, Rules};
use crate::identity::PublicKey;
use crate::message::{AcceptItem, AcceptedItem, Held, MAX_BATCH, MAX_RESULTS, Message, OpResult, Outcome, PromiseItem};
use crate::record::{RegisterKey, Scope, SignedOp};
use crate::redeem::{RedeemAnswer, RedeemRequest};
use crate::rounds::Rounds;
use crate::sign::{Label, verify};
use crate::top::Top;
use crate::view::{View, Vote};

use answer::{give_up, outcome};
pub(crate) use asker::Owner;
pub(crate) use decide::Decision;
use slots::SpentCache;

/// After this a round is given up; its owner has asked again by then.
pub(crate) const ROUND_TIME: Duration = Duration::from_secs(2);
/// A round that one member refused is tried again after this, unless a quorum of others has answered: those that are away
/// refuse nothing, and would hold it up until it is given up.
const STALLED: Duration = Duration::from_millis(300);
/// How long a joiner waits for a view to be served.
const POSTPONED: Duration = Duration::from_millis(250);
/// How often an operation is tried when other coordinators come first.
const MAX_ATTEMPTS: u32 = 8;
/// Most operations that run or wait at one coordinator.
const MAX_WORK: usize = 4096;
/// Most that wait for one key.
const MAX_WAITING: usize = 32;

/// Most registers whose next ballot is promised already.
const MAX_READY: usize = 8192;

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
    Op(Box<SignedOp>),
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
    Accepting { decision: Box<Decision>, votes: BTreeMap<u8, Vote>, promised_next: u8 },
}

#[derive(Debug)]
struct Round {
    scope: Scope,
    ballot: Ballot,
    /// The round that was asked to be promised along with the votes; 0 for none.
    next_round: u64,
    items: BTreeMap<RegisterKey, Item>,
    /// Members whose promise or vote was heard, for naming the silent ones.
    heard: u8,
    /// Somebody has refused a ballot that is too low: whether a quorum comes together without it is waited for until then.
    stalled: Option<Instant>,
    deadline: Instant,
}

impl Round {
    /// Whether answers under this ballot are waited for: not longer than the others may rely on, even before the
    /// timeout has been handled.
    fn waits(&self, env: &Env<'_>, scope: &Scope, ballot: &Ballot) -> bool {
        self.ballot == *ballot && self.scope == *scope && env.now.mono < self.deadline
    }
}

type RoundId = (u64, u64);

/// What a quorum promised along with its votes. It serves one operation.
#[derive(Clone, Debug)]
struct Ready {
    scope: Scope,
    ballot: Ballot,
    held: Held,
    /// When the votes were here: from then on what they hold is counted on.
    at: ReplicaTime,
}

/// Rounds in progress at this replica.
#[derive(Debug)]
pub(crate) struct Coordinator {
    pub(crate) counter: Rounds,
    /// By number, and for registers whose ballots were promised together but used apart, in parts.
    rounds: BTreeMap<RoundId, Round>,
    next_part: u64,
    /// Registers for which a quorum has promised a ballot that nothing was proposed under yet. In memory only.
    ready: BTreeMap<RegisterKey, Ready>,
    /// Keys with a round in progress, and what waits for it to end.
    busy: BTreeMap<RegisterKey, VecDeque<Work>>,
    retries: Vec<(Instant, Work)>,
    spent: SpentCache,
    rng: ChaCha20Rng,
}

impl Phase {
    fn deciding(decision: Decision) -> Self {
        Self::Accepting { decision: Box::new(decision), votes: BTreeMap::new(), promised_next: 0 }
    }
}

impl Coordinator {
    pub(crate) fn new(counter: Rounds, seed: [u8; 32]) -> Self {
        Self {
            counter,
            rounds: BTreeMap::new(),
            next_part: 1,
            ready: BTreeMap::new(),
            busy: BTreeMap::new(),
            retries: Vec::new(),
            spent: SpentCache::default(),
            rng: ChaCha20Rng::from_seed(seed),
        }
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
        if acceptor.serving(env, view).is_none() {
            out.drop(DropReason::NotServing);
            // Soon it may, or another does.
            let again = |op: SignedOp| Work { source: Source::Op(Box::new(op)), attempt: 0 };
            let ops = ops.into_iter().filter(|op| op.owner == owner.identity);
            return ops.for_each(|op| give_up(env, out, acceptor, (scope, u8::MAX), again(op)));
        }
        let mut works = Vec::new();
        for op in ops {
            let key = RegisterKey::Lease(op.op.key.clone());
            if op.owner != owner.identity || op.op.scope != scope || op.verify(env.ns).is_err() {
                out.drop(DropReason::ForgedOp);
            } else if key.shard(env.ns, env.config) != scope.shard {
                out.drop(DropReason::OldView);
            } else if let Err(refused) = owner.may(env, acceptor, &op) {
                Self::answer(env, out, acceptor, scope, &op, Outcome::Refused(refused));
            } else {
                works.push(Work { source: Source::Op(Box::new(op)), attempt: 0 });
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
        let Some(view) = env.current(&scope).filter(|view| key.shard(env.ns, env.config) == view.shard) else {
            return crate::acceptor::moved(env, out, from, &scope);
        };
        if acceptor.serving(env, view).is_none() {
            return out.drop(DropReason::NotServing);
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
        let scope = Scope::of(view);
        items = self.start_ready(env, out, acceptor, view, items);
        if items.is_empty() {
            return;
        }
        let round = self.counter.take(env, out);
        let ballot = Ballot { view: view.number, round, replica };
        let keys: Vec<RegisterKey> = items.keys().cloned().collect();
        let deadline = env.now.mono + ROUND_TIME;
        let next_round = self.next_round(env, out);
        self.rounds.insert((round, 0), Round { scope, ballot, next_round, items, heard: 0, stalled: None, deadline });
        for chunk in keys.chunks(MAX_BATCH) {
            out.send(env, &env.me, Message::Prepare { scope, votes: 0, ballot, keys: chunk.to_vec() });
        }
    }

    /// The round that is to be promised along with the votes. One for all of a round: its registers come to their second
    /// phase one after the other, and what was promised for one of them must not be taken for another's.
    fn next_round(&mut self, env: &Env<'_>, out: &mut Outbox) -> u64 {
        if env.rules.fast_path { self.counter.take(env, out) } else { 0 }
    }

    /// The fast path: registers whose next ballot a quorum has promised already need no phase 1, if the operation is
    /// one that writes. A refusal would rest on what another coordinator may have changed since. Returns the others.
    fn start_ready(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        acceptor: &Acceptor,
        view: &View,
        items: BTreeMap<RegisterKey, Item>,
    ) -> BTreeMap<RegisterKey, Item> {
        let mut others = BTreeMap::new();
        let mut groups: BTreeMap<Ballot, BTreeMap<RegisterKey, Item>> = BTreeMap::new();
        for (key, mut item) in items {
            let promised = match &item.work.source {
                Source::Op(_) if env.rules.promise_serves_once => self.ready.remove(&key),
                Source::Op(_) => self.ready.get(&key).cloned(),
                // An append is rare, and its value is checked in phase 1.
                Source::Redeem { .. } | Source::Settle(_) => None,
            };
            let promised = promised.filter(|ready| ready.scope == Scope::of(view) && item.work.attempt == 0);
            let Some(ready) = promised else {
                others.insert(key, item);
                continue;
            };
            let top = Top::of([(ready.held, ready.at)].iter(), &env.now);
            let decision = decide::decide(env, &item.work.source, &top);
            match decision.filter(|decision| decision.needs_no_phase_1(&env.rules)) {
                Some(decision) => {
                    item.phase = Phase::deciding(decision);
                    groups.entry(ready.ballot).or_default().insert(key, item);
                }
                None => {
                    others.insert(key, item);
                }
            }
        }
        for (ballot, items) in groups {
            let id = (ballot.round, self.next_part);
            self.next_part += 1;
            let keys: Vec<RegisterKey> = items.keys().cloned().collect();
            let (scope, deadline) = (Scope::of(view), env.now.mono + ROUND_TIME);
            let next_round = self.next_round(env, out);
            self.rounds.insert(id, Round { scope, ballot, next_round, items, heard: 0, stalled: None, deadline });
            self.propose(env, out, acceptor, id, keys);
        }
        others
    }

    /// Rounds under this ballot: one, or the parts of one.
    fn rounds_of(&self, env: &Env<'_>, scope: &Scope, ballot: &Ballot) -> Vec<RoundId> {
        let parts = self.rounds.range((ballot.round, 0)..=(ballot.round, u64::MAX));
        parts.filter(|(_, round)| round.waits(env, scope, ballot)).map(|(id, _)| *id).collect()
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
        let id = (ballot.round, 0);
        let Some(round) = self.rounds.get_mut(&id).filter(|round| round.waits(env, &scope, &ballot)) else {
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
                    self.counter.saw(promised.round);
                    mine.nacks += 1;
                    round.stalled.get_or_insert(env.now.mono + STALLED);
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
        self.decide(env, out, acceptor, id, decided);
        self.retry(env, out, acceptor, id, nacked);
    }

    /// A quorum has promised: what becomes of these operations.
    fn decide(&mut self, env: &Env<'_>, out: &mut Outbox, acceptor: &Acceptor, id: RoundId, keys: Vec<RegisterKey>) {
        let Some(round) = self.rounds.get_mut(&id) else { return };
        let (scope, ballot) = (round.scope, round.ballot);
        let (mut ready, mut nothing, mut twins) = (Vec::new(), Vec::new(), Vec::new());
        for key in keys {
            let Some(item) = round.items.get_mut(&key) else { continue };
            let Phase::Preparing { promises } = &item.phase else { continue };
            let top = Top::of(promises.values(), &env.now);
            match decide::decide(env, &item.work.source, &top) {
                Some(decision) => {
                    let twin = item.twin.take().and_then(|twin| decide::decide(env, &twin.source, &top)?.write);
                    twins.extend(twin.map(|(value, elapsed_ms)| AcceptItem { value, elapsed_ms }));
                    (item.phase, item.nacks) = (Phase::deciding(decision), 0);
                    ready.push(key);
                }
                // There is nothing to settle.
                None => nothing.push(key),
            }
        }
        self.propose(env, out, acceptor, id, ready);
        if !twins.is_empty() {
            out.send(env, &env.me, Message::Accept { scope, votes: 0, ballot, next_round: 0, items: twins });
        }
        self.finish(env, out, acceptor, id, nothing);
    }

    /// Phase 2 for what is to be written; the rest is answered at once.
    fn propose(&mut self, env: &Env<'_>, out: &mut Outbox, acceptor: &Acceptor, id: RoundId, keys: Vec<RegisterKey>) {
        let Some(round) = self.rounds.get(&id) else { return };
        let (scope, ballot, next_round) = (round.scope, round.ballot, round.next_round);
        let (mut accepts, mut refused) = (Vec::new(), Vec::new());
        for key in keys {
            let Some(Item { phase: Phase::Accepting { decision, .. }, .. }) = round.items.get(&key) else { continue };
            let unsettled = decision.slot == slots::Verdict::Spent && !env.rules.spent_is_settled;
            match decision.write.clone().filter(|_| !unsettled) {
                Some((value, elapsed_ms)) => accepts.push(AcceptItem { value, elapsed_ms }),
                None => refused.push(key),
            }
        }
        for chunk in accepts.chunks(MAX_BATCH) {
            out.send(env, &env.me, Message::Accept { scope, votes: 0, ballot, next_round, items: chunk.to_vec() });
        }
        self.finish(env, out, acceptor, id, refused);
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
        // Votes beyond the quorum come late as a rule, and find no round.
        for id in self.rounds_of(env, &scope, &ballot) {
            let Some(round) = self.rounds.get_mut(&id) else { continue };
            round.heard |= 1 << index;
            let (mut done, mut nacked) = (Vec::new(), Vec::new());
            for item in &items {
                let Some(mine) = round.items.get_mut(&item.key) else { continue };
                let Phase::Accepting { decision, votes, promised_next } = &mut mine.phase else { continue };
                let Some((value, _)) = &decision.write else { continue };
                match item.verdict {
                    Ok(vote) => {
                        let Some(member) = view.member(index) else { continue };
                        let body = accepted_body(view, member, &item.key, ballot, value.hash());
                        if verify(from, Label::Accepted, env.ns, &body, &vote.signature).is_err() {
                            out.drop(DropReason::ForgedVote);
                            continue;
                        }
                        votes.insert(index, Vote { index, signature: vote.signature });
                        *promised_next |= u8::from(vote.promised_next) << index;
                        if votes.len() == view.quorum() {
                            done.push(item.key.clone());
                        }
                    }
                    Err(promised) => {
                        self.counter.saw(promised.round);
                        mine.nacks += 1;
                        round.stalled.get_or_insert(env.now.mono + STALLED);
                        if mine.nacks > view.members.len() - view.quorum() {
                            nacked.push(item.key.clone());
                        }
                    }
                }
            }
            self.keep_ready(env, view, id, &done);
            self.finish(env, out, acceptor, id, done);
            self.retry(env, out, acceptor, id, nacked);
        }
    }

    /// Remembers the promises that came with a quorum's votes.
    fn keep_ready(&mut self, env: &Env<'_>, view: &View, id: RoundId, done: &[RegisterKey]) {
        let Some(round) = self.rounds.get(&id) else { return };
        let ballot = Ballot { round: round.next_round, ..round.ballot };
        for key in done {
            let Some(Item { phase: Phase::Accepting { decision, promised_next, .. }, .. }) = round.items.get(key)
            else {
                continue;
            };
            let Some((value, elapsed_ms)) = decision.write.clone() else { continue };
            if !is_ready(&env.rules, *promised_next, view.quorum()) {
                continue;
            }
            while self.ready.len() >= MAX_READY {
                self.ready.pop_first();
            }
            let held = Held { ballot: round.ballot, value: Some(value), elapsed_ms };
            let ready = Ready { scope: round.scope, ballot, held, at: env.now.replica };
            self.ready.insert(key.clone(), ready);
        }
    }

    /// Answers whoever asked, and lets the next one for these keys begin.
    fn finish(&mut self, env: &Env<'_>, out: &mut Outbox, acceptor: &Acceptor, id: RoundId, keys: Vec<RegisterKey>) {
        let Some(round) = self.rounds.get_mut(&id) else { return };
        let (scope, ballot) = (round.scope, round.ballot);
        let mut answers: BTreeMap<PublicKey, Vec<OpResult>> = BTreeMap::new();
        let mut redeemed = Vec::new();
        for key in &keys {
            let Some(Item { work, phase, .. }) = round.items.remove(key) else { continue };
            let Phase::Accepting { decision, votes, .. } = phase else { continue };
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
            self.rounds.remove(&id);
        }
        for (owner, items) in answers {
            for items in items.chunks(MAX_RESULTS) {
                out.send(env, &owner, acceptor.results(scope, items.to_vec()));
            }
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
    fn retry(&mut self, env: &Env<'_>, out: &mut Outbox, acceptor: &Acceptor, id: RoundId, keys: Vec<RegisterKey>) {
        let Some(round) = self.rounds.get_mut(&id) else { return };
        let (scope, heard) = (round.scope, round.heard);
        for key in &keys {
            let Some(Item { work, .. }) = round.items.remove(key) else { continue };
            if work.attempt < MAX_ATTEMPTS {
                let pause = Duration::from_millis(20 + u64::from(self.rng.next_u32() % 180));
                self.retries.push((env.now.mono + pause, Work { attempt: work.attempt + 1, ..work }));
            } else {
                give_up(env, out, acceptor, (scope, heard), work);
            }
        }
        if round.items.is_empty() {
            self.rounds.remove(&id);
        }
        self.release(env, keys);
    }

    /// Tries again what somebody refused and no quorum of others has answered in time.
    fn retry_stalled(&mut self, env: &Env<'_>, out: &mut Outbox, acceptor: &Acceptor) {
        let stalled = |round: &Round| round.stalled.is_some_and(|at| at <= env.now.mono);
        let ids: Vec<RoundId> = self.rounds.iter().filter(|(_, round)| stalled(round)).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(round) = self.rounds.get_mut(&id) else { continue };
            round.stalled = None;
            let refused = round.items.iter().filter(|(_, item)| item.nacks > 0).map(|(key, _)| key.clone());
            let refused = refused.collect();
            self.retry(env, out, acceptor, id, refused);
        }
    }

    /// Another coordinator asks for votes: rounds begun here from now on are above its.
    pub(crate) fn handle_rival(&mut self, env: &Env<'_>, from: &PublicKey, scope: &Scope, ballot: &Ballot) {
        if env.current(scope).is_some_and(|view| view.index_of(from) == Some(ballot.replica)) {
            self.counter.saw(ballot.round);
        }
    }

    fn answer(env: &Env<'_>, out: &mut Outbox, acceptor: &Acceptor, scope: Scope, op: &SignedOp, outcome: Outcome) {
        let key = RegisterKey::Lease(op.op.key.clone());
        let items = vec![OpResult { op_seq: op.op.op_seq, nonce: op.op.nonce, key, outcome }];
        out.send(env, &op.owner, acceptor.results(scope, items));
    }

    /// Gives up what is overdue, and starts what has waited.
    pub(crate) fn handle_timeout(&mut self, env: &Env<'_>, out: &mut Outbox, acceptor: &Acceptor) {
        let late: Vec<RoundId> =
            self.rounds.iter().filter(|(_, round)| round.deadline <= env.now.mono).map(|(number, _)| *number).collect();
        for number in late {
            let Some(round) = self.rounds.remove(&number) else { continue };
            let keys: Vec<RegisterKey> = round.items.keys().cloned().collect();
            for item in round.items.into_values() {
                give_up(env, out, acceptor, (round.scope, round.heard), item.work);
            }
            self.release(env, keys);
        }
        self.retry_stalled(env, out, acceptor);
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.retries).into_iter().partition(|(at, _)| *at <= env.now.mono);
        self.retries = later;
        let mut by_shard: BTreeMap<u16, Vec<Work>> = BTreeMap::new();
        for (_, work) in due {
            let fits = match &work.source {
                Source::Op(op) => env.current(&op.op.scope).is_some(),
                Source::Redeem { .. } | Source::Settle(_) => true,
            };
            if let Source::Op(op) = &work.source
                && !fits
            {
                crate::acceptor::moved(env, out, &op.owner, &op.op.scope);
            }
            if fits {
                by_shard.entry(work.source.key().shard(env.ns, env.config)).or_default().push(work);
            }
        }
        for (shard, works) in by_shard {
            match env.chain.newest(shard).filter(|view| acceptor.serving(env, view).is_some()) {
                Some(view) => self.start(env, out, acceptor, view, works),
                None => works.into_iter().for_each(|work| self.postpone(env, out, acceptor, work)),
            }
        }
    }

    /// A joiner waits until this node serves the view, or for another; an owner asks again.
    fn postpone(&mut self, env: &Env<'_>, out: &mut Outbox, acceptor: &Acceptor, work: Work) {
        let shard = work.source.key().shard(env.ns, env.config);
        let Some(view) = env.chain.newest(shard) else { return };
        if work.attempt < MAX_ATTEMPTS && matches!(work.source, Source::Redeem { .. }) {
            self.retries.push((env.now.mono + POSTPONED, Work { attempt: work.attempt + 1, ..work }));
        } else {
            give_up(env, out, acceptor, (Scope::of(view), u8::MAX), work);
        }
    }

    /// There are newer views: rounds of older ones come to nothing. Only its owner may sign an operation for a newer view.
    pub(crate) fn handle_views(&mut self, env: &Env<'_>) {
        let over = |round: &Round| env.current(&round.scope).is_none();
        let ids: Vec<RoundId> = self.rounds.iter().filter(|(_, round)| over(round)).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(round) = self.rounds.remove(&id) else { continue };
            let keys: Vec<RegisterKey> = round.items.keys().cloned().collect();
            let works = round.items.into_values().map(|item| Work { attempt: 0, ..item.work });
            self.retries.extend(works.map(|work| (env.now.mono, work)));
            self.release(env, keys);
        }
        self.ready.retain(|_, ready| env.current(&ready.scope).is_some());
    }

    pub(crate) fn is_due(&self, now: &Now) -> bool {
        self.poll_timeout().is_some_and(|(at, _)| at <= now.mono)
    }

    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let rounds = self.rounds.values().map(|round| (round.deadline, "give a round up"));
        let stalled = self.rounds.values().filter_map(|round| Some((round.stalled?, "try a refused round again")));
        let retries = self.retries.iter().map(|(at, _)| (*at, "start the next round"));
        rounds.chain(stalled).chain(retries).min()
    }
}

/// Whether these members' promises of the next ballot, one bit each, are enough to do without phase 1 then.
pub(crate) fn is_ready(rules: &Rules, promised_next: u8, quorum: usize) -> bool {
    promised_next.count_ones() as usize >= quorum || !rules.promise_serves_once
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
