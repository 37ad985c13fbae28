//! What concerns views: messages about them, what follows when one is learnt, and giving one's place up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;
use rand::Rng;

use crate::acceptor::Acceptor;
use crate::ballot::Token;
use crate::clock::Now;
use crate::codec::Wire;
use crate::command::LeaseKey;
use crate::entropy;
use crate::env::{DropReason, Env, Outbox};
use crate::event::{Event, Level};
use crate::identity::PublicKey;
use crate::membership::store::write_store_id;
use crate::message::{Message, ViewMessage};
use crate::presence::{Presences, Said, view_hint_key};
use crate::proposer::UP;
use crate::record::Scope;
use crate::slot::Standing;
use crate::view::{ChainError, Successor, View, page};

use super::Namespace;

/// How long a node that leaves waits for its places to be taken over.
const HANDING_OVER: Duration = Duration::from_secs(12);
/// How often replicas that keep the state of old views ask whether it is still needed.
const ASK_NEWEST: Duration = Duration::from_secs(30);
/// How often the node is told what was dropped, while that grows.
const TELL_DROPS: Duration = Duration::from_secs(10);
/// How often a shard is looked up whose replicas do not answer.
const SEEK_EVERY: Duration = Duration::from_secs(60);

/// This node is about to stop, and gives its places in views to others first.
#[derive(Clone, Debug)]
pub(super) struct Departure {
    /// What the node is told when that is done.
    news: Event,
    until: Instant,
}

/// How much is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    /// The process stops, and may come back: places are given up only where the others are too few without this node.
    Stopping,
    /// For good.
    ForGood,
}

/// Whether all views that came without votes are named by a checkpoint that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vouched {
    All,
    NotAll,
}

/// What is looked at now and then.
#[derive(Debug)]
pub(super) struct Chores {
    ask_at: Instant,
    seek_at: Instant,
    drops_at: Instant,
    drops: BTreeMap<DropReason, u64>,
    told: Option<Facts>,
}

/// What the node was told last.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    views: Vec<(Scope, Option<Standing>, bool)>,
    silent: BTreeSet<PublicKey>,
    hindrance: Option<&'static str>,
    reachable: Option<bool>,
    own: Option<Ipv4Addr>,
    claims: Vec<LeaseKey>,
    leases: BTreeMap<LeaseKey, Token>,
    drops: BTreeMap<DropReason, u64>,
}

impl Chores {
    pub(super) fn new(now: Instant) -> Self {
        Self { ask_at: now + ASK_NEWEST, seek_at: now, drops_at: now, drops: BTreeMap::new(), told: None }
    }

    /// What was dropped, as the node was told last.
    pub(super) fn drops(&self) -> &BTreeMap<DropReason, u64> {
        &self.drops
    }
}

impl Namespace {
    /// A message about views, or about who may be a replica.
    pub(super) fn dispatch_view(&mut self, from: PublicKey, message: ViewMessage, now: Now) {
        let env = env!(self, now);
        let out = &mut self.out;
        let counter = &mut self.coordinator.counter;
        match message {
            ViewMessage::Prepare { scope, votes, ballot } => {
                self.acceptor.handle_view_prepare(&env, out, &from, (scope, votes, ballot));
            }
            ViewMessage::Promise { scope, store_id, votes, ballot, verdict } => {
                self.acceptor.votes.saw(&env, &scope, &from, votes);
                self.proposer.handle_promise(&env, out, counter, &from, (scope, store_id, ballot, verdict));
            }
            ViewMessage::Accept { scope, votes, ballot, view } => {
                self.acceptor.handle_view_accept(&env, out, &from, (scope, votes, ballot, view));
                self.proposer.step(&env, out, &self.acceptor);
            }
            ViewMessage::Accepted { scope, store_id, votes, ballot, verdict } => {
                self.acceptor.votes.saw(&env, &scope, &from, votes);
                self.proposer.handle_accepted(&env, out, counter, &from, (scope, store_id, ballot, verdict));
            }
            ViewMessage::AskSnapshot { scope, into, after } => {
                self.acceptor.handle_ask_snapshot(&env, out, &from, (scope, into, after));
            }
            ViewMessage::Snapshot { scope, into, store_id, after, last, items } => {
                let (whose, part) = ((scope, into, store_id), (after, last, items));
                self.transfers.handle_snapshot(&env, out, &mut self.acceptor, &from, whose, part);
                self.proposer.step(&env, out, &self.acceptor);
            }
            ViewMessage::AskStation { scope } => handle_ask_station(&env, out, &self.acceptor, &from, &scope),
            ViewMessage::Station { scope, store_id, standing } => {
                handle_station(&env, out, &mut self.acceptor, &from, (scope, store_id, standing));
            }
            ViewMessage::Presence { store_id, uptime_s, reachable, willing, leaving, answer, views } => {
                let said = Said { store_id, uptime_s, reachable, willing, leaving, answer, views };
                if let Some(recovering) = &mut self.recovering {
                    recovering.heard(from, store_id);
                }
                if let Some(rights) = from.peer_id().and_then(|peer| self.membership.rights(&peer)) {
                    self.presences.handle_presence(&env, out, &from, &rights, said);
                    self.proposer.go_on(&env, out, (&self.acceptor, &self.presences, counter));
                }
            }
            ViewMessage::DialMe => Presences::handle_dial_me(out, &from),
            ViewMessage::DialledBack => self.presences.handle_reached(&env, out, &from),
            ViewMessage::Digest { scope, buckets } => {
                entropy::handle_digest(&env, out, &self.acceptor, &from, (scope, buckets));
            }
            ViewMessage::Bucket { scope, bucket, ballots, whole } => {
                let behind = entropy::handle_bucket(&env, out, &self.acceptor, &from, (scope, bucket, ballots, whole));
                for key in behind {
                    self.coordinator.handle_settle(&env, out, &self.acceptor, &from, (scope, key));
                }
            }
            ViewMessage::Heads { heads } => handle_heads(&env, out, &from, &heads),
            ViewMessage::AskVotes { store_id } => {
                self.acceptor.votes.handle_ask(&env, out, &from, (store_id, counter.highest()));
            }
            ViewMessage::VotesSeen { store_id, votes, round } => {
                self.handle_votes_seen(&from, (store_id, votes, round), now);
            }
        }
    }

    /// What another member has seen of this store.
    fn handle_votes_seen(&mut self, from: &PublicKey, (store_id, votes, round): ([u8; 16], u64, u64), now: Now) {
        // Its own rounds may be among what a store that was set back has forgotten.
        self.coordinator.counter.saw(round);
        if self.acceptor.votes.handle_seen(from, store_id, votes) {
            return self.lose_store(now);
        }
        // It may have waited for this answer to show what it holds.
        let env = env!(self, now);
        self.transfers.step(&env, &mut self.out, &mut self.acceptor);
    }

    /// Views that somebody has shown. What does not follow from what is known is asked for.
    pub(super) fn handle_views(&mut self, from: Option<&PublicKey>, views: &[Successor], now: Now) -> Vouched {
        let (mut added, mut recovered, mut vouched) = (false, false, Vouched::All);
        let mut lacking = BTreeSet::new();
        for successor in views {
            match self.membership.observe_view(successor) {
                Ok(new) => {
                    added |= new;
                    recovered |= new && successor.votes.is_empty();
                }
                Err(ChainError::Unvouched) => vouched = Vouched::NotAll,
                Err(ChainError::Gap) => {
                    lacking.insert(successor.view.shard);
                }
                Err(ChainError::Fork) => self.out.drop(DropReason::Fork),
                Err(ChainError::Foreign | ChainError::Votes(_) | ChainError::Over) => {
                    self.out.drop(DropReason::BadFetch);
                }
            }
        }
        self.pump();
        for shard in lacking {
            let newest = self.membership.chain().newest(shard).map(Scope::of);
            if let (Some(from), Some(scope)) = (from, newest) {
                self.out.send(&env!(self, now), from, Message::View(ViewMessage::AskStation { scope }));
            }
        }
        if added {
            self.views_changed(now);
        }
        if recovered {
            self.spread_recovery(from);
        }
        if let Some(from) = from.filter(|_| added && page::is_full(views)) {
            let env = env!(self, now);
            let heads = env.newest().map(Scope::of).collect();
            self.out.send(&env, from, Message::View(ViewMessage::Heads { heads }));
        }
        vouched
    }

    /// Views from somebody who has, if they come without votes, the configuration that vouches for them.
    pub(super) fn handle_moved(&mut self, from: &PublicKey, views: &[Successor], now: Now) {
        if self.handle_views(Some(from), views, now) == Vouched::NotAll {
            self.out.send(&env!(self, now), from, Message::Fetch);
        }
    }

    pub(super) fn views_changed(&mut self, now: Now) {
        let env = env!(self, now);
        self.leases.handle_moved(&env);
        self.resolver.handle_moved(&env);
        self.coordinator.handle_views(&env);
        self.acceptor.ask_others(&env, &mut self.out);
        self.transfers.step(&env, &mut self.out, &mut self.acceptor);
        self.waits.step(&env, &mut self.out, &mut self.acceptor);
        self.proposer.step(&env, &mut self.out, &self.acceptor);
        self.presences.handle_views(&env, &mut self.out);
    }

    /// What is due that concerns views.
    pub(super) fn views_due(&mut self, now: Now) {
        let others = self.membership.others();
        let admitted: Vec<PublicKey> = self.admitted_members();
        self.presences.set_others(others);
        let env = env!(self, now);
        let out = &mut self.out;
        self.acceptor.ask_again(&env, out);
        self.transfers.step(&env, out, &mut self.acceptor);
        self.waits.handle_timeout(&env, out, &mut self.acceptor);
        self.presences.handle_timeout(&env, out, &admitted);
        let counter = &mut self.coordinator.counter;
        self.proposer.handle_timeout(&env, out, (&self.acceptor, &self.presences, counter));
        self.entropy.handle_timeout(&env, out, &self.acceptor);
        if self.chores.ask_at <= now.mono {
            self.chores.ask_at = now.mono + ASK_NEWEST;
            for scope in self.acceptor.stations.kept(&env) {
                let Some(view) = env.chain.newest(scope.shard) else { continue };
                for member in view.members.iter().filter(|member| member.identity != env.me) {
                    let ask = ViewMessage::AskStation { scope: Scope::of(view) };
                    out.send(&env, &member.identity, Message::View(ask));
                }
            }
        }
    }

    /// Tells the node what its status pages say, whenever that changes.
    pub(super) fn tell_status(&mut self, now: Now) {
        if self.chores.drops_at <= now.mono {
            self.chores.drops_at = now.mono + TELL_DROPS;
            self.chores.drops.clone_from(self.out.drops());
        }
        let facts = self.facts(now);
        if self.chores.told.as_ref() != Some(&facts) {
            self.chores.told = Some(facts);
            let summary = Box::new(self.summary_at(now));
            self.out.event(Event::Status { summary });
        }
    }

    fn facts(&self, now: Now) -> Facts {
        let env = env!(self, now);
        let silent = env.newest().flat_map(|view| self.presences.silent(&env, view));
        let newest = env.newest();
        let kept = self.acceptor.stations.kept(&env);
        Facts {
            views: newest
                .map(|view| {
                    let stations = &self.acceptor.stations;
                    (Scope::of(view), stations.standing(&env, view), stations.is_settled(&env, view, &kept))
                })
                .collect(),
            silent: silent.map(|(identity, _)| identity).collect(),
            hindrance: self.presences.hindrance(now.mono),
            reachable: self.leases.reachable(),
            own: self.leases.own_address(),
            claims: self.leases.claims(&env),
            leases: self.leases.tokens(&env),
            drops: self.chores.drops.clone(),
        }
    }

    fn admitted_members(&self) -> Vec<PublicKey> {
        let members = self.membership.admitted().filter(|(_, level)| *level == Level::Member);
        members.filter_map(|(peer, _)| PublicKey::from_peer_id(peer)).collect()
    }

    pub(super) fn poll_views_timeout(&self) -> Option<(Instant, &'static str)> {
        let me = self.membership.identity().public();
        let chain = self.membership.chain();
        let is_replica = (0..chain.shard_count()).filter_map(|s| chain.newest(s)).any(|v| v.index_of(&me).is_some());
        let keeps = is_replica || self.acceptor.stations.any_kept();
        let parts = [
            self.acceptor.votes.poll_timeout(),
            self.transfers.poll_timeout(),
            self.presences.poll_timeout(),
            self.proposer.poll_timeout(is_replica),
            self.poll_recovery_timeout(),
            self.entropy.poll_timeout(is_replica),
            keeps.then_some((self.chores.ask_at, "ask whether the state of old views is needed")),
            self.departure.as_ref().map(|departure| (departure.until, "leave without handing over")),
        ];
        parts.into_iter().flatten().min()
    }

    /// Gives the places of this node in views to others, before it stops.
    pub(super) fn depart(&mut self, leaving: Leaving, news: Event, now: Now) {
        let env = env!(self, now);
        let enough = |view: &View| {
            let others = view.members.iter().filter(|member| member.identity != env.me);
            others.filter(|member| self.presences.is_up(now.mono, member, UP)).count() >= view.quorum()
        };
        let all = env.newest().filter(|view| self.acceptor.member(&env, view).is_some()).all(enough);
        if leaving == Leaving::Stopping && all {
            return self.out.event(news);
        }
        self.departure = Some(Departure { news, until: now.mono + HANDING_OVER });
        self.presences.leave(&env!(self, now), &mut self.out);
        self.proposer.hurry(now.mono);
        self.views_due(now);
    }

    /// Whether this node may stop: others have taken over what it can give, or it has waited long enough.
    pub(super) fn check_departure(&mut self, now: Now) {
        if let Some(id) = self.leases.take_left() {
            self.depart(Leaving::ForGood, Event::Left { id }, now);
        }
        let Some(departure) = &self.departure else { return };
        let env = env!(self, now);
        let stays = |shard: u16| env.chain.newest(shard).is_some_and(|view| self.acceptor.member(&env, view).is_some());
        let needed = (0..env.chain.shard_count()).any(|shard| {
            let votes = stays(shard) && self.presences.could_replace(&env, shard);
            votes || !self.acceptor.stations.is_ready(&env, shard) && self.acceptor.stations.keeps(&env, shard)
        });
        if !needed || departure.until <= now.mono {
            let news = departure.news.clone();
            self.departure = None;
            self.out.event(news);
        }
    }

    /// This store was set back: what it promised is forgotten, so it is a member of nothing any more.
    fn lose_store(&mut self, now: Now) {
        let mut store_id = [0; 16];
        self.rng.fill_bytes(&mut store_id);
        let env = env!(self, now);
        self.acceptor.begin_anew(&env, &mut self.out, store_id);
        let write = write_store_id(store_id);
        self.out.persist(write.key, write.value);
        self.presences.set_store(store_id);
        self.membership.set_store_id(store_id);
        self.out.event(Event::StoreLost);
    }

    /// What [`Output::DialBack`](crate::Output::DialBack) came to.
    pub fn handle_dialled_back(&mut self, peer: PeerId, reached: bool, now: Now) {
        if let Some(identity) = PublicKey::from_peer_id(&peer).filter(|_| reached) {
            self.out.send(&env!(self, now), &identity, Message::View(ViewMessage::DialledBack));
        }
        self.settle(now);
    }

    /// What [`Output::Seek`](crate::Output::Seek) has found: bytes from a stranger.
    pub fn handle_hint(&mut self, key: &[u8], value: &[u8], now: Now) {
        let env = env!(self, now);
        let Ok(successor) = Successor::from_bytes(value) else { return self.out.drop(DropReason::Malformed) };
        if view_hint_key(env.ns, successor.view.shard) != key {
            return self.out.drop(DropReason::BadView);
        }
        let newest = env.chain.newest(successor.view.shard).map(Scope::of);
        let newer = newest.is_some_and(|scope| scope < Scope::of(&successor.view));
        self.handle_views(None, std::slice::from_ref(&successor), now);
        // It may not follow from what is known here; those it names have what lies between, or they prove nothing.
        if let Some(scope) = newest.filter(|_| newer) {
            let env = env!(self, now);
            for member in successor.view.members.iter().filter(|member| member.identity != env.me) {
                self.out.send(&env, &member.identity, Message::View(ViewMessage::AskStation { scope }));
            }
        }
        self.settle(now);
    }

    /// The replicas of some shard do not answer: perhaps there are others by now.
    pub(super) fn seek(&mut self, now: Now) {
        if self.leases.reachable() != Some(false) || self.chores.seek_at > now.mono {
            return;
        }
        self.chores.seek_at = now.mono + SEEK_EVERY;
        let env = env!(self, now);
        for shard in self.leases.shards(&env) {
            self.out.push(crate::event::Output::Seek { key: view_hint_key(env.ns, shard) });
        }
    }
}

/// The newest views that somebody knows: what it lacks it is given, in one page for all shards, what this node lacks it asks for.
fn handle_heads(env: &Env<'_>, out: &mut Outbox, from: &PublicKey, heads: &[Scope]) {
    for theirs in heads {
        let Some(ours) = env.chain.newest(theirs.shard).map(Scope::of) else { continue };
        if ours < *theirs {
            out.send(env, from, Message::View(ViewMessage::AskStation { scope: ours }));
        }
    }
    let views = page::first(env.chain.successors().iter().filter(|next| page::is_news(heads, &next.view)));
    if !views.is_empty() {
        out.send(env, from, Message::Moved { views });
    }
}

fn handle_ask_station(env: &Env<'_>, out: &mut Outbox, acceptor: &Acceptor, from: &PublicKey, scope: &Scope) {
    let Some(newest) = env.chain.newest(scope.shard) else { return out.drop(DropReason::Malformed) };
    let known = Scope::of(newest);
    if known > *scope {
        crate::acceptor::moved(env, out, from, scope);
    }
    if let Some(standing) = acceptor.stations.standing(env, newest) {
        let station = ViewMessage::Station { scope: known, store_id: acceptor.store_id(), standing };
        out.send(env, from, Message::View(station));
    }
}

/// A replica has said how far it is. When a quorum serves the newest view, what older ones held is dropped.
fn handle_station(
    env: &Env<'_>,
    out: &mut Outbox,
    acceptor: &mut Acceptor,
    from: &PublicKey,
    (scope, store_id, standing): (Scope, [u8; 16], Standing),
) {
    let Some(view) = env.current(&scope) else { return };
    let member = view.index_of(from).and_then(|index| view.member(index));
    if member.is_none_or(|member| member.store_id != store_id) {
        return out.drop(DropReason::NotReplica);
    }
    let ready = acceptor.stations.note(env, from, &scope, standing);
    let waits = acceptor.stations.standing(env, view) == Some(Standing::Transferring);
    // Without the wedge the old members go on, and with them what they hold.
    if ready && !waits && env.rules.wedge {
        for old in acceptor.stations.kept(env).into_iter().filter(|old| old.shard == scope.shard) {
            acceptor.retire(env, out, old);
        }
    }
}
