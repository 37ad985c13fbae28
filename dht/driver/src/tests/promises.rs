//! What a replica has answered is never forgotten: its disk stops at every single operation of a life with leases, names, an
//! invite and a change of views; each time it is started again from what the disk kept, and asked.

use std::collections::BTreeMap;
use std::time::Duration;

use dht::certificate::LeaseCert;
use dht::codec::Wire;
use dht::message::{Held, Message, Outcome, ViewMessage};
use dht::record::{RegisterKey, Scope, Value};
use dht::view::{Successor, View};
use dht::{Ballot, ClientId, Command, Event, Hold, Image, LeaseKey, Namespace, Now, Output, Rules};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use redb::StorageBackend;
use redb::backends::InMemoryBackend;

use super::lab::{DEAF, JOINER, Lab, Mark, Operation, Order, PARTNER, VICTIM, apply};
use crate::Store;

const BIG: u64 = 1 << 30;

/// What others rely on.
#[derive(Clone, Debug, Default)]
struct Answered {
    votes: u64,
    /// The highest round that the victim has used as a coordinator, and the highest number of an operation as an owner.
    rounds: u64,
    op_seq: u64,
    promises: BTreeMap<(usize, Scope, RegisterKey), Ballot>,
    accepted: BTreeMap<RegisterKey, (Scope, Ballot, [u8; 32])>,
    view_promises: BTreeMap<(usize, Scope), Ballot>,
    view_accepted: BTreeMap<Scope, (Ballot, View)>,
    /// Values on their way, by ballot.
    offered: BTreeMap<(Scope, RegisterKey, Ballot), [u8; 32]>,
    offered_views: BTreeMap<(Scope, Ballot), View>,
    next_rounds: BTreeMap<(Scope, Ballot), u64>,
    grants: usize,
}

impl Answered {
    fn note(&mut self, mark: &Mark, lab: &Facts) {
        match mark {
            Mark::Got(message) => self.got(message),
            Mark::Sent(to, message) => self.sent(*to, message, lab),
        }
    }

    fn offer(&mut self, message: &Message) {
        if let Message::Accept { scope, ballot, next_round, items, .. } = message {
            self.next_rounds.insert((*scope, *ballot), *next_round);
            for item in items {
                self.offered.insert((*scope, item.value.key(), *ballot), item.value.hash());
            }
        }
    }

    fn got(&mut self, message: &Message) {
        self.offer(message);
        if let Message::View(ViewMessage::Accept { scope, ballot, view, .. }) = message {
            self.offered_views.insert((*scope, *ballot), view.clone());
        }
    }

    fn accept(&mut self, scope: Scope, key: &RegisterKey, ballot: Ballot, hash: [u8; 32]) {
        let newer = self.accepted.get(key).is_none_or(|(_, held, _)| *held <= ballot);
        if newer {
            self.accepted.insert(key.clone(), (scope, ballot, hash));
        }
    }

    fn promise(&mut self, to: usize, scope: Scope, key: &RegisterKey, ballot: Ballot) {
        let highest = self.promises.entry((to, scope, key.clone())).or_default();
        *highest = ballot.max(*highest);
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the rest promises nothing")]
    fn sent(&mut self, to: usize, message: &Message, lab: &Facts) {
        self.offer(message);
        match message {
            Message::Prepare { ballot, .. } => self.rounds = self.rounds.max(ballot.round),
            Message::Accept { ballot, items, .. } => {
                self.rounds = self.rounds.max(ballot.round);
                for item in items {
                    if let Value::Lease(record) = &item.value
                        && record.owner() == lab.victim
                    {
                        self.op_seq = self.op_seq.max(record.request.op.op_seq);
                    }
                }
            }
            Message::Ops { ops, .. } => {
                self.op_seq = ops.iter().map(|op| op.op.op_seq).chain([self.op_seq]).max().unwrap_or_default();
            }
            Message::Promise { scope, votes, ballot, items, .. } => {
                self.votes = self.votes.max(*votes);
                for item in items.iter().filter(|item| item.verdict.is_ok()) {
                    self.promise(to, *scope, &item.key, *ballot);
                }
            }
            Message::Accepted { scope, votes, ballot, items, .. } => {
                self.votes = self.votes.max(*votes);
                for item in items {
                    let Ok(vote) = &item.verdict else { continue };
                    let hash = self.offered[&(*scope, item.key.clone(), *ballot)];
                    self.accept(*scope, &item.key, *ballot, hash);
                    if vote.promised_next {
                        let round = self.next_rounds[&(*scope, *ballot)];
                        self.promise(to, *scope, &item.key, Ballot { round, ..*ballot });
                    }
                }
            }
            Message::Results { scope, votes, items, .. } => {
                self.votes = self.votes.max(*votes);
                for item in items {
                    let Outcome::Granted(certificate) = &item.outcome else { continue };
                    let certificate = LeaseCert::from_bytes(certificate).unwrap();
                    self.grants += 1;
                    if certificate.votes.iter().any(|vote| Some(vote.index) == lab.index(VICTIM, scope)) {
                        self.accept(*scope, &item.key, certificate.ballot, certificate.record.hash());
                    }
                }
            }
            Message::View(message) => self.sent_about_views(to, message),
            _ => {}
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the rest promises nothing")]
    fn sent_about_views(&mut self, to: usize, message: &ViewMessage) {
        match message {
            ViewMessage::Prepare { ballot, .. } => self.rounds = self.rounds.max(ballot.round),
            ViewMessage::Accept { ballot, .. } => self.rounds = self.rounds.max(ballot.round),
            ViewMessage::Promise { scope, votes, ballot, verdict: Ok(_), .. } => {
                self.votes = self.votes.max(*votes);
                let highest = self.view_promises.entry((to, *scope)).or_default();
                *highest = (*ballot).max(*highest);
            }
            ViewMessage::Accepted { scope, votes, ballot, verdict: Ok(_), .. } => {
                self.votes = self.votes.max(*votes);
                let view = self.offered_views[&(*scope, *ballot)].clone();
                self.view_accepted.insert(*scope, (*ballot, view));
            }
            _ => {}
        }
    }
}

/// What the check needs to know of the lab.
struct Facts {
    victim: dht::identity::PublicKey,
    /// Members of the founding view and of the changed one, in their order.
    founded: Vec<usize>,
    successor: Option<Successor>,
    identities: Vec<dht::identity::PublicKey>,
}

impl Facts {
    fn of(lab: &mut Lab) -> Self {
        let identities: Vec<_> = (0..lab.nodes.len()).map(|n| lab.member(n).identity).collect();
        let mut founded = vec![VICTIM, PARTNER, DEAF];
        founded.sort_by_key(|n| identities[*n]);
        let successor = lab.nodes[PARTNER].live().membership().chain().successors().last().cloned();
        Self { victim: identities[VICTIM], founded, successor, identities }
    }

    fn index(&self, node: usize, scope: &Scope) -> Option<u8> {
        if scope.view == 0 {
            return self.founded.iter().position(|n| *n == node).and_then(|n| u8::try_from(n).ok());
        }
        self.successor.as_ref()?.view.index_of(&self.identities[node])
    }

    fn ballot(&self, node: usize, scope: &Scope, round: u64) -> Ballot {
        Ballot { view: scope.view, round, replica: self.index(node, scope).unwrap_or(u8::MAX) }
    }
}

/// The victim after a crash.
struct Again<'l> {
    namespace: Namespace,
    lab: &'l mut Lab,
    now: Now,
    sent: Vec<Message>,
    store_lost: bool,
    /// The lowest round that it has begun.
    lowest_round: Option<u64>,
}

impl<'l> Again<'l> {
    fn start(lab: &'l mut Lab, rules: Rules, image: &Image, votes: u64) -> Self {
        let now = lab.now();
        let namespace = Namespace::load_with(rules, lab.nodes[VICTIM].keys(), image, [77; 32], now).unwrap();
        let mut again = Self { namespace, lab, now, sent: Vec::new(), store_lost: false, lowest_round: None };
        again.drain();
        let to = again.lab.nodes[VICTIM].peer;
        for n in 1..again.lab.nodes.len() {
            let from = again.lab.nodes[n].peer;
            let request = again.lab.nodes[n].live().hello(to, now);
            let _ = again.namespace.handle_hello(from, &request, now);
            again.drain();
        }
        let store_id = again.namespace.membership().store_id();
        for n in 1..again.lab.nodes.len() {
            again.ask(n, &Message::View(ViewMessage::VotesSeen { store_id, votes, round: 0 }));
        }
        // It waits no longer for answers.
        again.now = super::lab::now_at(now.mono - again.lab.time, again.lab.time + Duration::from_secs(4));
        again.namespace.handle_timeout(again.now);
        again.drain();
        again
    }

    fn drain(&mut self) {
        while let Some(output) = self.namespace.poll_output() {
            if let Output::Send { message, .. } = output {
                let message = Message::from_bytes(&message).unwrap();
                if let Message::Prepare { ballot, .. } = &message {
                    self.lowest_round = Some(self.lowest_round.map_or(ballot.round, |lowest| lowest.min(ballot.round)));
                }
                self.sent.push(message);
            } else {
                self.store_lost |= output == Output::Event(Event::StoreLost);
            }
        }
    }

    fn ask(&mut self, from: usize, message: &Message) -> Vec<Message> {
        self.sent.clear();
        let peer = self.lab.nodes[from].peer;
        self.namespace.handle_message(peer, &message.to_bytes(), self.now);
        self.drain();
        self.sent.clone()
    }

    fn prepare(
        &mut self,
        from: usize,
        scope: Scope,
        ballot: Ballot,
        key: &RegisterKey,
    ) -> Option<Result<Held, Ballot>> {
        let answers = self.ask(from, &Message::Prepare { scope, votes: 0, ballot, keys: vec![key.clone()] });
        answers.into_iter().find_map(|answer| {
            let Message::Promise { items, .. } = answer else { return None };
            items.into_iter().next().map(|item| item.verdict)
        })
    }

    /// All that is wrong.
    fn check(&mut self, answered: &Answered, facts: &Facts, image: &Image) -> Vec<String> {
        if self.store_lost {
            return vec!["the store has forgotten votes".to_owned()];
        }
        let checks = [
            // First, as the others show it higher rounds.
            self.check_rounds(answered, facts),
            self.check_promises(answered, image),
            self.check_view_promises(answered),
            self.check_view_votes(answered, facts),
            self.check_values(answered, facts),
        ];
        checks.into_iter().filter_map(Result::err).collect()
    }

    fn check_promises(&mut self, answered: &Answered, image: &Image) -> Result<(), String> {
        let op_seq =
            image.get(b"op-seq".as_slice()).map_or(0, |bytes| u64::from_be_bytes(bytes[..8].try_into().unwrap()));
        if op_seq < answered.op_seq {
            return Err(format!("operation number {} is to come again", answered.op_seq));
        }
        for ((to, scope, key), ballot) in &answered.promises {
            if let Some(Ok(_)) = self.prepare(*to, *scope, *ballot, key) {
                return Err(format!("the promise for {key:?} of {ballot:?} in {scope:?} is forgotten"));
            }
        }
        Ok(())
    }

    fn check_view_promises(&mut self, answered: &Answered) -> Result<(), String> {
        for ((to, scope), ballot) in &answered.view_promises {
            let answers =
                self.ask(*to, &Message::View(ViewMessage::Prepare { scope: *scope, votes: 0, ballot: *ballot }));
            let again = |answer: &Message| matches!(answer, Message::View(ViewMessage::Promise { verdict: Ok(_), .. }));
            if answers.iter().any(again) {
                return Err(format!("the promise for the view after {scope:?} of {ballot:?} is forgotten"));
            }
        }
        Ok(())
    }

    /// As a coordinator it uses no ballot again.
    fn check_rounds(&mut self, answered: &Answered, facts: &Facts) -> Result<(), String> {
        let Some(newest) = facts.successor.as_ref().map(|successor| Scope::of(&successor.view)) else { return Ok(()) };
        for scope in [Scope { view: 0, ..newest }, newest] {
            // One that nothing was promised for.
            let key = RegisterKey::Lease(LeaseKey::Address(address(99)));
            self.ask(PARTNER, &Message::Settle { scope, key });
        }
        match self.lowest_round.filter(|round| *round <= answered.rounds) {
            Some(round) => Err(format!("round {round} is used again, {} was the last", answered.rounds)),
            None => Ok(()),
        }
    }

    fn check_view_votes(&mut self, answered: &Answered, facts: &Facts) -> Result<(), String> {
        for (scope, (ballot, view)) in &answered.view_accepted {
            let higher = facts.ballot(DEAF, scope, BIG);
            let answers =
                self.ask(DEAF, &Message::View(ViewMessage::Prepare { scope: *scope, votes: 0, ballot: higher }));
            let holds = |answer: &Message| {
                if let Message::View(ViewMessage::Promise { verdict: Ok(Some((held, other))), .. }) = answer {
                    return held > ballot || held == ballot && other == view;
                }
                matches!(answer, Message::Moved { .. })
            };
            if !answers.iter().any(holds) {
                return Err(format!("the vote for the view after {scope:?} is forgotten: {answers:?}"));
            }
            let old = answered.accepted.iter().find(|(_, (of, ..))| of == scope);
            if let Some((key, _)) = old
                && self.prepare(DEAF, *scope, higher, key).is_some()
            {
                return Err(format!("{scope:?} is served though it has ended"));
            }
        }
        Ok(())
    }

    /// What it held when it answered it gives still: to a coordinator, or, once the view is over, to those of the next one.
    fn check_values(&mut self, answered: &Answered, facts: &Facts) -> Result<(), String> {
        let mut held = Vec::new();
        for (key, (scope, ..)) in &answered.accepted {
            held.extend(self.prepare(PARTNER, *scope, facts.ballot(PARTNER, scope, BIG), key).and_then(Result::ok));
        }
        // It may have voted for the next view already; then it serves nobody before it knows what was decided.
        if let Some(successor) = &facts.successor {
            self.ask(PARTNER, &Message::Moved { views: vec![successor.clone()] });
            let into = Scope::of(&successor.view);
            for key in answered.accepted.keys() {
                held.extend(self.prepare(PARTNER, into, facts.ballot(PARTNER, &into, BIG), key).and_then(Result::ok));
            }
            let ask = ViewMessage::AskSnapshot { scope: Scope { view: 0, ..into }, into, after: None };
            for answer in self.ask(PARTNER, &Message::View(ask)) {
                if let Message::View(ViewMessage::Snapshot { items, .. }) = answer {
                    held.extend(items);
                }
            }
        }
        for (key, (scope, ballot, hash)) in &answered.accepted {
            let same = |held: &Held| {
                held.value.as_ref().is_some_and(|value| {
                    value.key() == *key && (held.ballot > *ballot || held.ballot == *ballot && value.hash() == *hash)
                })
            };
            if !held.iter().any(same) {
                return Err(format!("the value of {key:?} accepted under {ballot:?} in {scope:?} is forgotten"));
            }
        }
        Ok(())
    }
}

fn address(last: u8) -> std::net::Ipv4Addr {
    [10, 9, 0, last].into()
}

fn claim(lab: &mut Lab, node: usize, last: u8) {
    let client = ClientId::of(&[last]);
    let want = Some(address(last));
    lab.command(node, |id| Command::ClaimAddress { id, client, want, only_wanted: true, hold: Hold::Full, keep: true });
}

fn claim_name(lab: &mut Lab, node: usize, name: &str) {
    let client = ClientId::of(name.as_bytes());
    lab.command(node, |id| Command::ClaimName { id, name: name.to_owned(), client, keep: true });
}

/// A life with everything in it that a replica answers.
fn live(order: Order) -> Lab {
    let mut lab = Lab::found(Duration::from_secs(600), order);
    claim(&mut lab, VICTIM, 5);
    claim(&mut lab, PARTNER, 6);
    lab.run(3);
    claim_name(&mut lab, VICTIM, "vic");
    claim_name(&mut lab, PARTNER, "pat");
    lab.run(3);
    lab.join();
    lab.run(10);
    claim(&mut lab, JOINER, 7);
    // Long enough for renewals.
    lab.run(400);
    lab.command(PARTNER, |id| Command::ReleaseAddress { id, ip: address(6) });
    lab.command(VICTIM, |id| Command::ReleaseName { id, name: "vic".to_owned() });
    lab.run(3);
    let key = LeaseKey::Address(address(5));
    lab.change_view(PARTNER, &key, &[VICTIM, PARTNER, JOINER]);
    lab.run(10);
    claim(&mut lab, JOINER, 8);
    claim(&mut lab, VICTIM, 9);
    lab.run(5);
    lab
}

fn backend(contents: &[u8]) -> InMemoryBackend {
    let backend = InMemoryBackend::new();
    backend.set_len(contents.len() as u64).unwrap();
    backend.write(0, contents).unwrap();
    backend
}

struct Tally {
    operations: usize,
    checks: usize,
    answered: Answered,
    wrong: Vec<String>,
}

/// Stops the disk before each operation, and after the last. `attempts`: nothing of what was not synced is kept, all, or any.
fn crash_everywhere(lab: &mut Lab, rules: Rules, attempts: usize) -> Tally {
    let facts = Facts::of(lab);
    let (operations, marks, commits) = {
        let log = lab.recorder.log();
        (log.operations.clone(), log.marks.clone(), log.commits.clone())
    };
    let mut rng = ChaCha8Rng::from_seed([3; 32]);
    let mut tally = Tally { operations: operations.len(), checks: 0, answered: Answered::default(), wrong: Vec::new() };
    let (mut safe, mut cached) = (lab.start.clone(), Vec::new());
    let mut marks = marks.into_iter().peekable();
    for crash in 0..=operations.len() {
        while let Some((_, mark)) = marks.next_if(|(at, _)| *at <= crash) {
            tally.answered.note(&mark, &facts);
        }
        let last = commits.iter().rposition(|(at, _)| *at <= crash).unwrap();
        let whole = &commits[last..commits.len().min(last + 2)];
        let variants = if cached.is_empty() { 1 } else { attempts };
        for attempt in 0..variants {
            let mut survived = safe.clone();
            for operation in &cached {
                if attempt == 1 || attempt > 1 && rng.random_bool(0.5) {
                    apply(&mut survived, operation);
                }
            }
            let (_, image) = Store::on_backend(backend(&survived))
                .unwrap_or_else(|error| panic!("crash before operation {crash}, attempt {attempt}: {error}"));
            let is_whole = whole.iter().any(|(_, known)| *known == image);
            assert!(is_whole, "crash before operation {crash}, attempt {attempt}: a mixture of two commits");
            let mut again = Again::start(lab, rules, &image, tally.answered.votes);
            for what in again.check(&tally.answered, &facts, &image) {
                tally.wrong.push(format!("crash before operation {crash}, attempt {attempt}: {what}"));
            }
            tally.checks += 1;
        }
        match operations.get(crash) {
            Some(Operation::Sync) => cached.drain(..).for_each(|operation| apply(&mut safe, &operation)),
            Some(other) => cached.push(other.clone()),
            None => {}
        }
    }
    tally
}

#[test]
fn after_a_crash_at_any_operation_a_replica_holds_all_that_it_has_answered() {
    let mut lab = live(Order::CommitFirst);
    let tally = crash_everywhere(&mut lab, Rules::ALL, 3);
    let wrong = tally.wrong.first();
    assert!(wrong.is_none(), "{} of {} restarts: {wrong:?}", tally.wrong.len(), tally.checks);
    // The life had everything in it.
    let Answered { promises, accepted, view_promises, view_accepted, grants, rounds, op_seq, .. } = &tally.answered;
    let of = |wanted: fn(&RegisterKey) -> bool| accepted.keys().filter(|key| wanted(key)).count();
    let invites = of(|key| matches!(key, RegisterKey::Redeem(_)));
    let names = of(|key| matches!(key, RegisterKey::Lease(LeaseKey::Name(_))));
    let carried = accepted.values().filter(|(scope, ..)| scope.view == 1).count();
    println!(
        "{} operations, {} restarts; {} promises, {} values ({invites} invites, {names} names, {carried} in the next view), \
         {grants} grants, {} promises and {} votes for a view, round {rounds}",
        tally.operations,
        tally.checks,
        promises.len(),
        accepted.len(),
        view_promises.len(),
        view_accepted.len(),
    );
    assert!(promises.len() > 3 && *grants > 2 && *rounds > 0 && *op_seq > 0);
    assert!(invites > 0 && names > 1 && carried > 0 && !view_promises.is_empty() && view_accepted.len() == 1);
}

/// The proof can fail: with messages that do not wait for the disk, there are crashes after which something is forgotten.
/// A replica notices that itself, so it is kept from asking.
#[test]
fn messages_that_do_not_wait_for_the_disk_are_found_out() {
    let mut lab = live(Order::SendFirst);
    let tally = crash_everywhere(&mut lab, Rules::ALL, 1);
    assert!(tally.wrong.iter().any(|what| what.contains("the store has forgotten votes")), "{:#?}", tally.wrong);
    let blind = Rules { restored_asks_first: false, ..Rules::ALL };
    let tally = crash_everywhere(&mut lab, blind, 1);
    // A replica is its own coordinator, so the number of its first operation is on disk long before anybody sees it.
    let kinds =
        ["the promise for Lease", "the promise for the view", "the vote for the view", "is used again", "the value of"];
    for kind in kinds {
        assert!(tally.wrong.iter().any(|what| what.contains(kind)), "{kind}: {:#?}", tally.wrong.first());
    }
}
