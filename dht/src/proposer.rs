//! Ends a view and begins the next: by Paxos among the members of the old one, both phases every time.
//!
//! The member that stands first among those that are up proposes. A member that has accepted a view of which it hears no
//! more is wedged: after a while it asks the others, then proposes itself, so that a proposer's death stops nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use crate::acceptor::Acceptor;
use crate::ballot::Ballot;
use crate::codec::Wire;
use crate::env::{DropReason, Env, Outbox};
use crate::event::Output;
use crate::identity::PublicKey;
use crate::message::{Message, ViewMessage};
use crate::policy::{self, keeps_a_quorum};
use crate::presence::{Presences, view_hint_key};
use crate::record::Scope;
use crate::rounds::Rounds;
use crate::sign::{Label, Signature, verify};
use crate::slot::{Standing, obliged};
use crate::view::{Member, Successor, View, Vote};

/// How often it is asked whether the members are still the right ones.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long a member counts as up after it was heard, when the proposer is chosen.
pub(crate) const UP: Duration = Duration::from_secs(100);
/// How long those of a new view have to answer, and how long an answer counts.
const PROBE: Duration = Duration::from_secs(3);
const FRESH: Duration = Duration::from_secs(5);
/// After this a proposal is given up.
pub(crate) const PHASE: Duration = Duration::from_secs(3);
/// A wedged member that hears nothing waits between these before it acts, twice as long each time.
const WEDGED: Duration = Duration::from_secs(2);
const WEDGED_MAX: Duration = Duration::from_secs(60);
/// Between the question and the proposal.
const ASKED: Duration = Duration::from_millis(500);
/// How often a view's hint is published.
const PUBLISH_EVERY: Duration = Duration::from_secs(6 * 3600);

/// What was accepted before, or the higher ballot that was promised.
type Promised = Result<Option<(Ballot, View)>, Ballot>;

/// How far a proposal has come.
#[derive(Debug)]
enum Stage {
    /// Are those who are to serve there at all?
    Probing {
        next: Vec<Member>,
    },
    Preparing {
        promises: BTreeMap<u8, Option<(Ballot, View)>>,
        nacks: usize,
    },
    Accepting {
        view: View,
        votes: BTreeMap<u8, Signature>,
        nacks: usize,
    },
}

#[derive(Debug)]
struct Proposal {
    scope: Scope,
    ballot: Ballot,
    /// What is proposed unless somebody accepted another.
    own: Option<View>,
    stage: Stage,
    deadline: Instant,
}

impl Proposal {
    /// Whether answers under this ballot are waited for.
    fn waits(&self, env: &Env<'_>, scope: &Scope, ballot: &Ballot) -> bool {
        self.ballot == *ballot && self.scope == *scope && env.now.mono < self.deadline
    }
}

/// A view that this node has accepted, and of whose decision it has not heard.
#[derive(Debug)]
struct Watch {
    scope: Scope,
    due: Instant,
    wait: Duration,
    asked: bool,
}

/// All of them, by shard.
#[derive(Debug)]
pub(crate) struct Proposer {
    proposals: BTreeMap<u16, Proposal>,
    watches: BTreeMap<u16, Watch>,
    /// Since when a view is the newest one here.
    since: BTreeMap<u16, (Scope, Instant)>,
    published: BTreeMap<u16, (Scope, Instant)>,
    look_at: Instant,
    rng: ChaCha20Rng,
}

impl Proposer {
    pub(crate) fn new(seed: [u8; 32], now: Instant) -> Self {
        Self {
            proposals: BTreeMap::new(),
            watches: BTreeMap::new(),
            since: BTreeMap::new(),
            published: BTreeMap::new(),
            look_at: now + LOOK_EVERY,
            rng: ChaCha20Rng::from_seed(seed),
        }
    }

    /// Looks at once, because something has changed.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.look_at = now;
    }

    /// There are newer views, or this node has accepted one.
    pub(crate) fn step(&mut self, env: &Env<'_>, out: &mut Outbox, acceptor: &Acceptor) {
        self.proposals.retain(|_, proposal| env.current(&proposal.scope).is_some());
        for view in env.newest() {
            let scope = Scope::of(view);
            let since = self.since.entry(view.shard).or_insert((scope, env.now.mono));
            if since.0 != scope {
                *since = (scope, env.now.mono);
            }
            let standing = acceptor.stations.standing(env, view);
            let waits = standing == Some(Standing::Wedged) && acceptor.stations.accepted(&scope).is_some();
            if !waits {
                self.watches.remove(&view.shard);
            } else if self.watches.get(&view.shard).is_none_or(|watch| watch.scope != scope) {
                let due = env.now.mono + self.jitter(WEDGED);
                self.watches.insert(view.shard, Watch { scope, due, wait: WEDGED, asked: false });
            }
            self.publish(env, out, view, standing);
        }
    }

    fn jitter(&mut self, wait: Duration) -> Duration {
        let most = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
        wait.saturating_add(Duration::from_millis(self.rng.next_u64() % most))
    }

    /// Members of a view make it known where those look who know none of them any more.
    fn publish(&mut self, env: &Env<'_>, out: &mut Outbox, view: &View, standing: Option<Standing>) {
        let scope = Scope::of(view);
        let known = self.published.get(&view.shard);
        let lately = known.is_some_and(|(of, at)| *of == scope && env.now.mono < *at + PUBLISH_EVERY);
        if lately || standing != Some(Standing::Active) {
            return;
        }
        if let Some(successor) = env.chain.successor(&scope) {
            self.published.insert(view.shard, (scope, env.now.mono));
            out.push(Output::Publish { key: view_hint_key(env.ns, view.shard), value: successor.to_bytes() });
        }
    }

    /// Begins, goes on with, and gives up what is due.
    pub(crate) fn handle_timeout(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        parts: (&Acceptor, &Presences, &mut Rounds),
    ) {
        let (acceptor, presences, rounds) = parts;
        self.step(env, out, acceptor);
        self.go_on(env, out, (acceptor, presences, &mut *rounds));
        let late = |proposal: &Proposal| proposal.deadline <= env.now.mono;
        self.proposals.retain(|_, proposal| !late(proposal));
        self.finish_wedged(env, out, acceptor, rounds);
        if self.look_at <= env.now.mono {
            self.look_at = env.now.mono + self.jitter(LOOK_EVERY);
            let looks = env.rules.views_change;
            let mut probed = BTreeSet::new();
            for view in env.newest().filter(|_| looks) {
                probed.extend(self.look(env, acceptor, presences, view));
            }
            // One question for all shards.
            for identity in probed.iter().filter(|identity| **identity != env.me) {
                presences.tell(env, out, identity, true);
            }
        }
    }

    /// Whether other members would be better for a view, and whether it is for this node to say so. Returns who must say
    /// first that it is there.
    fn look(&mut self, env: &Env<'_>, acceptor: &Acceptor, presences: &Presences, view: &View) -> Vec<PublicKey> {
        let scope = Scope::of(view);
        if self.proposals.contains_key(&view.shard) || acceptor.serving(env, view).is_none() {
            return Vec::new();
        }
        let first = view.members.iter().find(|member| presences.is_up(env.now.mono, member, UP));
        if first.is_none_or(|member| member.identity != env.me) {
            return Vec::new();
        }
        let since = self.since.get(&view.shard).map_or(env.now.mono, |(_, at)| *at);
        let age = env.now.mono.saturating_duration_since(since);
        let situation = presences.situation(env, view, age);
        let next = policy::next(&situation).filter(|next| keeps_a_quorum(&view.members, next));
        let Some(next) = next else { return Vec::new() };
        let probed = view.members.iter().chain(&next).map(|member| member.identity).collect();
        let stage = Stage::Probing { next };
        let deadline = env.now.mono + PROBE;
        self.proposals.insert(view.shard, Proposal { scope, ballot: Ballot::default(), own: None, stage, deadline });
        probed
    }

    /// Proposes as soon as those who are to serve have answered.
    pub(crate) fn go_on(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        (acceptor, presences, rounds): (&Acceptor, &Presences, &mut Rounds),
    ) {
        let shards: Vec<u16> = self.proposals.keys().copied().collect();
        for shard in shards {
            let Some(proposal) = self.proposals.get(&shard) else { continue };
            let (Stage::Probing { next }, Some(view)) = (&proposal.stage, env.current(&proposal.scope)) else {
                continue;
            };
            let there = |member: &&Member| presences.heard_within(env.now.mono, &member.identity, FRESH);
            let newcomers = next.iter().filter(|member| !view.members.contains(member));
            let all = next.iter().filter(there).count() == next.len();
            let enough = newcomers.clone().filter(there).count() == newcomers.count()
                && next.iter().filter(there).count() > next.len() / 2;
            if all || enough && proposal.deadline <= env.now.mono {
                let own = successor_of(view, next.clone());
                self.propose(env, out, (acceptor, rounds), view, Some(own));
            }
        }
    }

    /// Brings to an end what somebody else has begun.
    fn finish_wedged(&mut self, env: &Env<'_>, out: &mut Outbox, acceptor: &Acceptor, rounds: &mut Rounds) {
        let due: Vec<u16> = self
            .watches
            .iter()
            .filter(|(shard, watch)| watch.due <= env.now.mono && !self.proposals.contains_key(shard))
            .map(|(shard, _)| *shard)
            .collect();
        for shard in due {
            let jitter = self.jitter(ASKED);
            let Some(watch) = self.watches.get_mut(&shard) else { continue };
            let Some(view) = env.current(&watch.scope) else { continue };
            if watch.asked {
                watch.asked = false;
                watch.wait = watch.wait.saturating_mul(2).min(WEDGED_MAX);
                let wait = watch.wait;
                let due = env.now.mono + self.jitter(wait);
                if let Some(watch) = self.watches.get_mut(&shard) {
                    watch.due = due;
                }
                let accepted = acceptor.stations.accepted(&Scope::of(view)).map(|(_, next)| next.clone());
                self.propose(env, out, (acceptor, rounds), view, accepted);
            } else {
                (watch.asked, watch.due) = (true, env.now.mono + jitter);
                for member in view.members.iter().filter(|member| member.identity != env.me) {
                    let ask = ViewMessage::AskStation { scope: watch.scope };
                    out.send(env, &member.identity, Message::View(ask));
                }
            }
        }
    }

    fn propose(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        (acceptor, rounds): (&Acceptor, &mut Rounds),
        view: &View,
        own: Option<View>,
    ) {
        let Some((replica, _)) = acceptor.member(env, view) else { return };
        let scope = Scope::of(view);
        let ballot = Ballot { view: view.number, round: rounds.take(env, out), replica };
        let deadline = env.now.mono + PHASE;
        let stage = match &own {
            Some(next) if !env.rules.repropose_runs_phase_1 && acceptor.stations.accepted(&scope).is_some() => {
                send_accepts(env, out, view, ballot, next);
                Stage::Accepting { view: next.clone(), votes: BTreeMap::new(), nacks: 0 }
            }
            Some(_) | None => {
                out.send(env, &env.me, Message::View(ViewMessage::Prepare { scope, votes: 0, ballot }));
                Stage::Preparing { promises: BTreeMap::new(), nacks: 0 }
            }
        };
        self.proposals.insert(view.shard, Proposal { scope, ballot, own, stage, deadline });
    }

    /// What is under way, for people.
    pub(crate) fn describe(&self, shard: u16) -> String {
        let stage = self.proposals.get(&shard).map(|proposal| match &proposal.stage {
            Stage::Probing { .. } => "probing",
            Stage::Preparing { .. } => "preparing",
            Stage::Accepting { .. } => "accepting",
        });
        format!("{stage:?} {:?}", self.watches.get(&shard).map(|watch| (watch.wait, watch.asked)))
    }

    /// Proposes members that no policy chose, if this node votes there and nothing is under way.
    pub(crate) fn force(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        parts: (&Acceptor, &mut Rounds),
        key: &crate::record::RegisterKey,
        members: Vec<Member>,
    ) {
        if let Some(view) = env.view_of(key) {
            self.propose(env, out, parts, view, Some(successor_of(view, members)));
        }
    }

    /// Phase 1 answers.
    pub(crate) fn handle_promise(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        rounds: &mut Rounds,
        from: &PublicKey,
        (scope, store_id, ballot, verdict): (Scope, [u8; 16], Ballot, Promised),
    ) {
        let Some((view, index)) = member_of(env, from, &scope, &store_id) else {
            return out.drop(DropReason::NotReplica);
        };
        let Some(proposal) = self.proposals.get_mut(&scope.shard).filter(|p| p.waits(env, &scope, &ballot)) else {
            return out.drop(DropReason::Unexpected);
        };
        let Stage::Preparing { promises, nacks } = &mut proposal.stage else { return };
        match verdict {
            Ok(accepted) => {
                promises.insert(index, accepted);
            }
            Err(promised) => {
                rounds.saw(promised.round);
                *nacks += 1;
            }
        }
        if *nacks > view.members.len() - view.quorum() {
            // Somebody else is at it.
            self.proposals.remove(&scope.shard);
            return;
        }
        if promises.len() < view.quorum() {
            return;
        }
        let Some(next) = obliged(promises.values(), proposal.own.as_ref()) else {
            self.proposals.remove(&scope.shard);
            return;
        };
        proposal.deadline = env.now.mono + PHASE;
        send_accepts(env, out, view, ballot, &next);
        proposal.stage = Stage::Accepting { view: next, votes: BTreeMap::new(), nacks: 0 };
    }

    /// Phase 2 answers. With a quorum's, the view is decided, and everybody concerned is told.
    pub(crate) fn handle_accepted(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        rounds: &mut Rounds,
        from: &PublicKey,
        (scope, store_id, ballot, verdict): (Scope, [u8; 16], Ballot, Result<Signature, Ballot>),
    ) {
        let Some((view, index)) = member_of(env, from, &scope, &store_id) else {
            return out.drop(DropReason::NotReplica);
        };
        let Some(proposal) = self.proposals.get_mut(&scope.shard).filter(|p| p.waits(env, &scope, &ballot)) else {
            return;
        };
        let Stage::Accepting { view: next, votes, nacks } = &mut proposal.stage else { return };
        match verdict {
            Ok(signature) => {
                let Some(member) = view.member(index) else { return };
                let body = Successor::body(next, ballot, member);
                if verify(from, Label::ViewAccepted, env.ns, &body, &signature).is_err() {
                    return out.drop(DropReason::ForgedVote);
                }
                votes.insert(index, signature);
            }
            Err(promised) => {
                rounds.saw(promised.round);
                *nacks += 1;
            }
        }
        if votes.len() >= view.quorum() {
            let votes = votes.iter().map(|(index, signature)| Vote { index: *index, signature: *signature }).collect();
            let successor = Successor { view: next.clone(), ballot, votes };
            self.proposals.remove(&scope.shard);
            announce(env, out, view, &successor);
        } else if *nacks > view.members.len() - view.quorum() {
            self.proposals.remove(&scope.shard);
        }
    }

    pub(crate) fn poll_timeout(&self, is_replica: bool) -> Option<(Instant, &'static str)> {
        let proposals = self.proposals.values().map(|proposal| (proposal.deadline, "give up to change a view"));
        let watches = self.watches.iter().filter(|(shard, _)| !self.proposals.contains_key(shard));
        let watches = watches.map(|(_, watch)| (watch.due, "bring a view change to its end"));
        let look = is_replica.then_some((self.look_at, "look at the members of views"));
        proposals.chain(watches).chain(look).min()
    }
}

fn successor_of(view: &View, members: Vec<Member>) -> View {
    View { number: view.number.saturating_add(1), members, previous: view.hash(), ..view.clone() }
}

/// To this node's own acceptor, which passes it on.
fn send_accepts(env: &Env<'_>, out: &mut Outbox, view: &View, ballot: Ballot, next: &View) {
    let accept = ViewMessage::Accept { scope: Scope::of(view), votes: 0, ballot, view: next.clone() };
    out.send(env, &env.me, Message::View(accept));
}

/// Tells the members of both views, this node first.
fn announce(env: &Env<'_>, out: &mut Outbox, view: &View, successor: &Successor) {
    let mut all: Vec<PublicKey> = vec![env.me];
    all.extend(view.members.iter().chain(&successor.view.members).map(|member| member.identity));
    let mut told = BTreeSet::new();
    for identity in all {
        if told.insert(identity) {
            out.send(env, &identity, Message::Moved { views: vec![successor.clone()] });
        }
    }
}

/// The place of a sender in a view, if its store is the one that the view names.
fn member_of<'a>(env: &Env<'a>, from: &PublicKey, scope: &Scope, store_id: &[u8; 16]) -> Option<(&'a View, u8)> {
    let view = env.chain.newest(scope.shard).filter(|view| Scope::of(view) == *scope)?;
    let index = view.index_of(from)?;
    (view.member(index)?.store_id == *store_id).then_some((view, index))
}
