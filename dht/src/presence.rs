//! Who could be a replica: what nodes say of themselves, and what was seen of them.
//!
//! Every member that may be a replica tells those that are one that it is there, once a minute. Whether it can be reached from
//! outside it does not judge by itself: other members dial back, from a port that it has never seen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::codec::Wire;
use crate::env::{DropReason, Env, Outbox};
use crate::event::Output;
use crate::identity::PublicKey;
use crate::membership::Rights;
use crate::message::{Message, ViewMessage};
use crate::policy::{Known, Situation};
use crate::record::Scope;
use crate::sign::{self, NamespaceId};
use crate::view::{Chain, Member, Successor, View};

/// How often a node says that it is there.
const EVERY: Duration = Duration::from_secs(60);
/// A node that was silent for longer was away.
const AWAY: Duration = Duration::from_secs(150);
/// What a node is judged by: absent for more than a tenth of that, it is no replica.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// Whoever is known for less is judged as if it were for as long: half an hour is forgiven.
const NEW: Duration = Duration::from_secs(5 * 3600);
/// How long it counts that somebody has dialled back, and when that is tried again.
const REACHED: Duration = Duration::from_secs(2 * 3600);
const DIAL_AGAIN: Duration = Duration::from_secs(3600);
/// Between two questions to one peer.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// So many peers are asked at once.
const ASKED: usize = 3;
/// So many others must have reached a node, if there are so many.
const ENOUGH: usize = 2;
/// Most nodes that are remembered.
const MAX_KNOWN: usize = 512;
/// Shards whose replicas a node that is none tells of itself.
const NEAR_SHARDS: usize = 4;
/// Most that are told.
const MAX_TOLD: usize = 64;

/// What a node said of itself, and when.
#[derive(Clone, Copy, Debug)]
struct Seen {
    member: Member,
    position: [u8; 32],
    first: Instant,
    heard: Instant,
    up: Duration,
    away: Duration,
    reachable: bool,
    willing: bool,
    leaving: bool,
}

/// What a [`ViewMessage::Presence`] says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said {
    pub(crate) store_id: [u8; 16],
    pub(crate) uptime_s: u32,
    pub(crate) reachable: bool,
    pub(crate) willing: bool,
    pub(crate) leaving: bool,
    pub(crate) answer: bool,
    pub(crate) views: u64,
}

/// What is known of other nodes, and of this one.
#[derive(Debug)]
pub(crate) struct Presences {
    me: Member,
    may_be_replica: bool,
    started: Instant,
    /// Why this node would rather not be a replica.
    unwilling: Option<&'static str>,
    leaving: bool,
    /// How many other members are known: with one, its word must do.
    others: usize,
    known: BTreeMap<PublicKey, Seen>,
    reached_by: BTreeMap<PublicKey, Instant>,
    asked: BTreeMap<PublicKey, Instant>,
    next: Instant,
    last_told: BTreeSet<PublicKey>,
}

impl Presences {
    pub(crate) fn new(me: Member, may_be_replica: bool, now: Instant) -> Self {
        Self {
            me,
            may_be_replica,
            started: now,
            unwilling: None,
            leaving: false,
            others: 0,
            known: BTreeMap::new(),
            reached_by: BTreeMap::new(),
            asked: BTreeMap::new(),
            next: now + EVERY,
            last_told: BTreeSet::new(),
        }
    }

    /// This node's store begins anew.
    pub(crate) fn set_store(&mut self, store_id: [u8; 16]) {
        self.me.store_id = store_id;
    }

    /// Whether this node would rather be a replica than not, and if not, why: it runs on battery, say.
    pub(crate) fn set_unwilling(&mut self, env: &Env<'_>, out: &mut Outbox, why: Option<&'static str>) {
        let before = std::mem::replace(&mut self.unwilling, why);
        if before.is_some() != why.is_some() {
            self.tell_all(env, out);
        }
    }

    /// This node is about to stop.
    pub(crate) fn leave(&mut self, env: &Env<'_>, out: &mut Outbox) {
        self.leaving = true;
        self.tell_all(env, out);
    }

    /// So many other members are known.
    pub(crate) fn set_others(&mut self, others: usize) {
        self.others = others;
    }

    fn enough(&self) -> usize {
        ENOUGH.min(self.others.max(1))
    }

    /// Whether enough others have reached this node from outside.
    pub(crate) fn is_reachable(&self, now: Instant) -> bool {
        let counts = self.reached_by.values().filter(|at| now.saturating_duration_since(**at) < REACHED).count();
        counts >= self.enough()
    }

    /// A member is here.
    pub(crate) fn handle_admitted(&mut self, env: &Env<'_>, out: &mut Outbox, peer: &PublicKey) {
        if self.told(env).contains(peer) {
            self.tell(env, out, peer, false);
        }
        self.ask(env, out, peer);
    }

    /// Asks a member to dial back, if that is needed and was not just done.
    fn ask(&mut self, env: &Env<'_>, out: &mut Outbox, peer: &PublicKey) {
        let now = env.now.mono;
        let lately = |at: Option<&Instant>, within| at.is_some_and(|at| now.saturating_duration_since(*at) < within);
        let fresh = self.reached_by.values().filter(|at| lately(Some(at), DIAL_AGAIN)).count();
        let needed = self.may_be_replica && fresh < self.enough();
        if needed && !lately(self.reached_by.get(peer), DIAL_AGAIN) && !lately(self.asked.get(peer), ASK_AGAIN) {
            self.asked.insert(*peer, now);
            out.send(env, peer, Message::View(ViewMessage::DialMe));
        }
    }

    /// A member wants to be dialled back.
    pub(crate) fn handle_dial_me(out: &mut Outbox, from: &PublicKey) {
        if let Some(peer) = from.peer_id() {
            out.push(Output::DialBack { peer });
        }
    }

    /// Another has reached this node.
    pub(crate) fn handle_reached(&mut self, env: &Env<'_>, out: &mut Outbox, from: &PublicKey) {
        if self.asked.remove(from).is_none() {
            return out.drop(DropReason::Unexpected);
        }
        let before = self.is_reachable(env.now.mono);
        while self.reached_by.len() >= MAX_TOLD && !self.reached_by.contains_key(from) {
            self.reached_by.pop_first();
        }
        self.reached_by.insert(*from, env.now.mono);
        if !before && self.is_reachable(env.now.mono) {
            self.tell_all(env, out);
        }
    }

    /// A node says that it is there.
    pub(crate) fn handle_presence(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        from: &PublicKey,
        rights: &Rights,
        said: Said,
    ) {
        let now = env.now.mono;
        let member = Member { identity: *from, store_id: said.store_id, serial: rights.serial };
        while self.known.len() >= MAX_KNOWN && !self.known.contains_key(from) {
            // Whoever was not heard for longest.
            let Some(oldest) = self.known.iter().min_by_key(|(_, seen)| seen.heard).map(|(peer, _)| *peer) else {
                break;
            };
            self.known.remove(&oldest);
        }
        let may = rights.roles.contains(crate::invite::Roles::REPLICA);
        let before = self.known.get(from).copied();
        let (first, mut away) = before.map_or((now, Duration::ZERO), |seen| (seen.first, seen.away));
        let gap = before.map_or(Duration::ZERO, |seen| now.saturating_duration_since(seen.heard));
        if gap > AWAY {
            away = away.saturating_add(gap);
        }
        // What lies further back than a day fades.
        let first = first.max(now.checked_sub(REMEMBERED).unwrap_or(first));
        let away = away.min(now.saturating_duration_since(first));
        let seen = Seen {
            member,
            position: position(env, &rights.serial),
            first,
            heard: now,
            up: Duration::from_secs(said.uptime_s.into()),
            away,
            reachable: said.reachable && may,
            willing: said.willing,
            leaving: said.leaving,
        };
        self.known.insert(*from, seen);
        if said.answer {
            self.tell(env, out, from, false);
        }
        if said.views != views_number(env) {
            let heads = env.newest().map(Scope::of).collect();
            out.send(env, from, Message::View(ViewMessage::Heads { heads }));
        }
    }

    /// Says that it is there, and with `answer` asks the same.
    pub(crate) fn tell(&self, env: &Env<'_>, out: &mut Outbox, to: &PublicKey, answer: bool) {
        let uptime = env.now.mono.saturating_duration_since(self.started).as_secs();
        let presence = ViewMessage::Presence {
            store_id: self.me.store_id,
            uptime_s: u32::try_from(uptime).unwrap_or(u32::MAX),
            reachable: self.is_reachable(env.now.mono),
            willing: self.unwilling.is_none(),
            leaving: self.leaving,
            answer,
            views: views_number(env),
        };
        out.send(env, to, Message::View(presence));
    }

    /// There are newer views: those are told who were not before.
    pub(crate) fn handle_views(&mut self, env: &Env<'_>, out: &mut Outbox) {
        let told = self.told(env);
        for peer in told.difference(&self.last_told) {
            self.tell(env, out, peer, false);
        }
        self.last_told = told;
    }

    fn tell_all(&self, env: &Env<'_>, out: &mut Outbox) {
        for peer in self.told(env) {
            self.tell(env, out, &peer, false);
        }
    }

    /// Whom this node tells of itself: its fellows in views, and the replicas of the shards nearest to its place.
    fn told(&self, env: &Env<'_>) -> BTreeSet<PublicKey> {
        let mut told = BTreeSet::new();
        if !self.may_be_replica {
            return told;
        }
        let mut views: Vec<&View> = env.newest().collect();
        let position = position(env, &self.me.serial);
        views.sort_by_key(|view| (view.index_of(&env.me).is_none(), distance(&position, &point(env, view.shard))));
        let near = |(place, view): (usize, &&View)| place < NEAR_SHARDS || view.index_of(&env.me).is_some();
        for (_, view) in views.iter().enumerate().filter(|(place, view)| near((*place, view))) {
            told.extend(view.members.iter().map(|member| member.identity).filter(|identity| *identity != env.me));
            if told.len() >= MAX_TOLD {
                break;
            }
        }
        told
    }

    /// Whether something was heard of this node within so long.
    pub(crate) fn heard_within(&self, now: Instant, identity: &PublicKey, within: Duration) -> bool {
        let heard = |seen: &Seen| now.saturating_duration_since(seen.heard) < within;
        *identity == self.me.identity || self.known.get(identity).is_some_and(heard)
    }

    /// Whether this member was heard within so long, with the store that the view names.
    pub(crate) fn is_up(&self, now: Instant, member: &Member, within: Duration) -> bool {
        let same = self.known.get(&member.identity).is_none_or(|seen| seen.member.store_id == member.store_id);
        *member == self.me || same && self.heard_within(now, &member.identity, within)
    }

    /// Members of this view that have not been heard of for longer than they ought to. They tell only each other that they are
    /// there, so whoever is none of them cannot say.
    pub(crate) fn silent(&self, env: &Env<'_>, view: &View) -> Vec<(PublicKey, Duration)> {
        if view.index_of(&env.me).is_none() {
            return Vec::new();
        }
        let since = |member: &Member| {
            let heard = self.known.get(&member.identity).map_or(self.started, |seen| seen.heard);
            (member.identity, env.now.mono.saturating_duration_since(heard))
        };
        let others = view.members.iter().filter(|member| member.identity != env.me);
        others.map(since).filter(|(_, silent)| *silent > AWAY).collect()
    }

    /// Whether somebody could take this node's place in a shard, or is about to.
    pub(crate) fn could_replace(&self, env: &Env<'_>, shard: u16) -> bool {
        let Some(view) = env.chain.newest(shard) else { return false };
        let next = crate::policy::next(&self.situation(env, view, Duration::ZERO));
        next.is_some_and(|next| next.iter().all(|member| member.identity != self.me.identity))
    }

    /// What a proposer chooses from.
    pub(crate) fn situation(&self, env: &Env<'_>, view: &View, age: Duration) -> Situation {
        let point = point(env, view.shard);
        let now = env.now.mono;
        let started = now.saturating_duration_since(self.started);
        let mut known: Vec<Known> = self.known.values().map(|seen| seen.known(now, &point)).collect();
        known.push(Known {
            member: self.me,
            distance: distance(&position(env, &self.me.serial), &point),
            silent: Duration::ZERO,
            up: started,
            eligible: self.may_be_replica && self.unwilling.is_none() && self.is_reachable(now),
            leaving: self.leaving,
        });
        for member in &view.members {
            if !known.iter().any(|known| known.member.identity == member.identity) {
                // Never heard since this process began: given the benefit of the doubt for as long.
                let distance = distance(&position(env, &member.serial), &point);
                known.push(Known {
                    member: *member,
                    distance,
                    silent: started,
                    up: Duration::ZERO,
                    eligible: true,
                    leaving: false,
                });
            }
        }
        Situation { members: view.members.clone(), known, target: usize::from(env.config.replicas), age }
    }

    /// Says that it is there, and asks to be dialled back.
    pub(crate) fn handle_timeout(&mut self, env: &Env<'_>, out: &mut Outbox, admitted: &[PublicKey]) {
        if env.now.mono < self.next {
            return;
        }
        self.next = env.now.mono + EVERY;
        self.tell_all(env, out);
        // Those first who have not reached this node yet.
        let mut admitted: Vec<&PublicKey> = admitted.iter().collect();
        admitted.sort_by_key(|peer| self.reached_by.get(*peer).copied());
        for peer in admitted.into_iter().take(ASKED) {
            self.ask(env, out, peer);
        }
        self.asked.retain(|_, at| env.now.mono.saturating_duration_since(*at) < DIAL_AGAIN);
    }

    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.may_be_replica.then_some((self.next, "say that this node is there"))
    }

    /// Why this node is no candidate, for people; `None` if it is one.
    pub(crate) fn hindrance(&self, now: Instant) -> Option<&'static str> {
        if !self.may_be_replica {
            return Some("its invite does not let it be a replica");
        }
        if self.unwilling.is_some() {
            return self.unwilling;
        }
        (!self.is_reachable(now)).then_some("too few other members could dial it back")
    }
}

impl Seen {
    fn known(&self, now: Instant, point: &[u8; 32]) -> Known {
        let silent = now.saturating_duration_since(self.heard);
        let known = now.saturating_duration_since(self.first).max(NEW);
        let steady = self.away.saturating_mul(10) <= known;
        Known {
            member: self.member,
            distance: distance(&self.position, point),
            silent,
            up: self.up.saturating_add(silent),
            eligible: self.reachable && self.willing && steady,
            leaving: self.leaving,
        }
    }
}

/// A number for the newest views that are known: it differs where they do.
fn views_number(env: &Env<'_>) -> u64 {
    let scopes: Vec<Scope> = env.newest().map(Scope::of).collect();
    let mut bytes = crate::codec::Writer::default();
    bytes.list(&scopes);
    sign::hash("heads", &[&bytes.into_bytes()])[..8].try_into().map_or(0, u64::from_be_bytes)
}

/// The place of a member on the ring: by its serial, which it cannot choose.
fn position(env: &Env<'_>, serial: &[u8; 16]) -> [u8; 32] {
    sign::hash("pos", &[&env.ns.0, serial])
}

/// The place of a shard.
fn point(env: &Env<'_>, shard: u16) -> [u8; 32] {
    sign::hash("shard", &[&env.ns.0, b"place", &shard.to_be_bytes()])
}

fn distance(a: &[u8; 32], b: &[u8; 32]) -> [u8; 32] {
    std::array::from_fn(|i| a[i] ^ b[i])
}

/// The Kademlia key under which the newest view of a shard is found.
pub(crate) fn view_hint_key(ns: &NamespaceId, shard: u16) -> Vec<u8> {
    sign::hash("view-hint", &[&ns.0, &shard.to_be_bytes()]).to_vec()
}

/// Whether a hint is worth keeping: a view of that shard that follows from what is known here, newer than the one held.
pub(crate) fn verify_view_hint(ns: &NamespaceId, key: &[u8], value: &[u8], held: Option<&[u8]>, chain: &Chain) -> bool {
    let Ok(successor) = Successor::from_bytes(value) else { return false };
    let view = &successor.view;
    let held = held.and_then(|held| Successor::from_bytes(held).ok());
    view_hint_key(ns, view.shard) == key
        && held.is_none_or(|held| Scope::of(&held.view) < Scope::of(view))
        && chain.judge(&successor).is_ok()
}
