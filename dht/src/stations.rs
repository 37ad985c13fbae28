//! In which views this node is a replica, how far it has come in each, and its votes on the views that follow.
//!
//! A vote is on disk before it is given. That a later view is known wedges the older ones without a word: views are on
//! disk before they count, too.

use std::collections::{BTreeMap, BTreeSet};

use crate::ballot::Ballot;
use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::env::{DropReason, Env, Outbox};
use crate::identity::PublicKey;
use crate::message::{Message, ViewMessage};
use crate::namespace::{Image, LoadError};
use crate::record::Scope;
use crate::sign::{Label, sign};
use crate::slot::{Slot, Standing, activated};
use crate::view::{MAX_MEMBERS, Member, Successor, View};
use crate::votes::Votes;

const STATION: &[u8] = b"station/";

/// This node's place in one view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Station {
    standing: Standing,
    slot: Slot<View>,
}

impl Wire for Station {
    fn encode(&self, out: &mut Writer) {
        self.standing.encode(out);
        self.slot.promised.encode(out);
        encode_accepted(self.slot.accepted.as_ref(), out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let standing = Standing::decode(input)?;
        let promised = Ballot::decode(input)?;
        Ok(Self { standing, slot: Slot { promised, accepted: decode_accepted(input)? } })
    }
}

/// What a member accepted as the next view.
pub(crate) fn encode_accepted(accepted: Option<&(Ballot, View)>, out: &mut Writer) {
    match accepted {
        None => out.u8(0),
        Some((ballot, view)) => {
            out.u8(1);
            ballot.encode(out);
            view.encode(out);
        }
    }
}

/// Reads that back.
pub(crate) fn decode_accepted(input: &mut Reader<'_>) -> Result<Option<(Ballot, View)>, DecodeError> {
    Ok(if input.flag("next view")? { Some((Ballot::decode(input)?, View::decode(input)?)) } else { None })
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Stations {
    store_id: [u8; 16],
    stations: BTreeMap<Scope, Station>,
    /// Members of the newest views that have said that they serve them.
    ready: BTreeMap<Scope, BTreeSet<u8>>,
}

impl Stations {
    /// Takes up what is on disk.
    pub(crate) fn load(store_id: [u8; 16], image: &Image) -> Result<Self, LoadError> {
        let mut stations = BTreeMap::new();
        for (key, value) in image.range(STATION.to_vec()..).take_while(|(key, _)| key.starts_with(STATION)) {
            let damaged = |_| LoadError::Damaged("places in views");
            let scope = Scope::from_bytes(&key[STATION.len()..]).map_err(damaged)?;
            stations.insert(scope, Station::from_bytes(value).map_err(damaged)?);
        }
        Ok(Self { store_id, stations, ready: BTreeMap::new() })
    }

    /// The member of this view that this node is, with this very store.
    pub(crate) fn member<'v>(&self, env: &Env<'_>, view: &'v View) -> Option<(u8, &'v Member)> {
        let index = view.index_of(&env.me)?;
        view.member(index).filter(|member| member.store_id == self.store_id).map(|member| (index, member))
    }

    /// How far this node has come in a view that it is a member of.
    pub(crate) fn standing(&self, env: &Env<'_>, view: &View) -> Option<Standing> {
        self.member(env, view)?;
        let scope = Scope::of(view);
        let stored = self.stations.get(&scope).map(|station| station.standing);
        let is_newest = env.chain.newest(view.shard).is_some_and(|newest| Scope::of(newest) == scope);
        Some(Standing::in_view(stored, view.number, is_newest, &env.rules))
    }

    /// Whether registers are served here in this view.
    pub(crate) fn serves(&self, env: &Env<'_>, view: &View) -> bool {
        self.standing(env, view).is_some_and(|standing| standing.serves(&env.rules))
    }

    /// What this node accepted as the view that follows.
    pub(crate) fn accepted(&self, scope: &Scope) -> Option<&(Ballot, View)> {
        self.stations.get(scope)?.slot.accepted.as_ref()
    }

    /// The highest round that any slot here has seen.
    pub(crate) fn highest_round(&self) -> u64 {
        self.stations.values().map(|station| station.slot.promised.round).max().unwrap_or(0)
    }

    /// Views whose state is still kept here though a later one is known.
    pub(crate) fn kept(&self, env: &Env<'_>) -> Vec<Scope> {
        let old = |scope: &Scope| env.chain.newest(scope.shard).is_some_and(|newest| Scope::of(newest) > *scope);
        let founded = env.newest().filter(|view| view.number > 0);
        let founded = founded.filter_map(|view| env.chain.get(view.shard, 0, 0)).map(Scope::of);
        // Of a long history most is retired.
        let stored = self.stations.iter().filter(|(_, station)| station.standing != Standing::Retired);
        let stored = stored.map(|(scope, _)| *scope);
        let retired = |scope: &Scope| self.stations.get(scope).is_some_and(|s| s.standing == Standing::Retired);
        let founded = founded.filter(|scope| !retired(scope));
        let all: BTreeSet<Scope> = stored.chain(founded).filter(old).collect();
        let keeps = |scope: &Scope| {
            let view = env.known(scope);
            view.and_then(|view| self.standing(env, view)) == Some(Standing::Wedged)
        };
        all.into_iter().filter(keeps).collect()
    }

    /// Whether the state of an older view of this shard is kept here.
    pub(crate) fn keeps(&self, env: &Env<'_>, shard: u16) -> bool {
        self.kept(env).iter().any(|scope| scope.shard == shard)
    }

    /// Whether the newest view of this shard can do without the one before, as far as this node knows: a member of that one
    /// keeps (`kept`) its state until a quorum of the newest serves, any other member is sure once it has the state itself.
    pub(crate) fn is_settled(&self, env: &Env<'_>, view: &View, kept: &[Scope]) -> bool {
        let waits = self.standing(env, view) == Some(Standing::Transferring) && !env.chain.is_recovered(view);
        !waits && kept.iter().all(|scope| scope.shard != view.shard)
    }

    /// Whether anything is kept here at all, as far as that is known without the views.
    pub(crate) fn any_kept(&self) -> bool {
        self.stations.values().any(|station| station.standing != Standing::Retired)
    }

    /// Phase 1 of a view change, at a member of the view that ends.
    pub(crate) fn handle_prepare(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        from: &PublicKey,
        (scope, told, ballot): (Scope, u64, Ballot),
        votes: &mut Votes,
    ) {
        let Some(view) = self.voting(env, out, from, (&scope, told, &ballot), votes) else { return };
        let station = self.station(env, view);
        let verdict = station.slot.prepare(ballot);
        let bytes = station.to_bytes();
        if verdict.is_ok() {
            out.persist(station_key(&scope), Some(bytes));
        }
        let (store_id, votes) = (self.store_id, votes.cast(out));
        out.send(env, from, Message::View(ViewMessage::Promise { scope, store_id, votes, ballot, verdict }));
        pass_on(env, out, from, view, votes, |votes| Message::View(ViewMessage::Prepare { scope, votes, ballot }));
    }

    /// Phase 2: accepts the next view, having stopped to serve this one.
    pub(crate) fn handle_accept(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        from: &PublicKey,
        (scope, told, ballot, next): (Scope, u64, Ballot, View),
        votes: &mut Votes,
    ) {
        let Some(view) = self.voting(env, out, from, (&scope, told, &ballot), votes) else { return };
        // Only its form is judged: it may be a value that the proposer is obliged to carry on.
        if !follows(view, &next) {
            return out.drop(DropReason::BadView);
        }
        let Some((_, member)) = self.member(env, view) else { return };
        let vote = Successor::body(&next, ballot, member);
        let rules = env.rules;
        let station = self.station(env, view);
        let verdict = station.slot.accept(ballot, next.clone()).map(|()| {
            station.standing = station.standing.wedged(&rules);
            sign(env.identity, Label::ViewAccepted, env.ns, &vote)
        });
        let bytes = station.to_bytes();
        if verdict.is_ok() {
            out.persist(station_key(&scope), Some(bytes));
        }
        let (store_id, votes) = (self.store_id, votes.cast(out));
        out.send(env, from, Message::View(ViewMessage::Accepted { scope, store_id, votes, ballot, verdict }));
        pass_on(env, out, from, view, votes, |votes| {
            Message::View(ViewMessage::Accept { scope, votes, ballot, view: next.clone() })
        });
    }

    /// The newest view, if this node votes on its successor and the sender is the member that the ballot names.
    fn voting<'a>(
        &self,
        env: &Env<'a>,
        out: &mut Outbox,
        from: &PublicKey,
        (scope, told, ballot): (&Scope, u64, &Ballot),
        votes: &mut Votes,
    ) -> Option<&'a View> {
        let newest = env.chain.newest(scope.shard).filter(|view| Scope::of(view) == *scope);
        let Some(view) = newest else {
            crate::acceptor::moved(env, out, from, scope);
            return None;
        };
        if view.index_of(from) != Some(ballot.replica) || ballot.view != view.number {
            out.drop(DropReason::NotReplica);
            return None;
        }
        votes.saw(env, scope, from, told);
        let standing = self.standing(env, view);
        if !standing.is_some_and(|standing| standing.votes(&env.rules)) || !votes.may(env, view) {
            out.drop(DropReason::NotServing);
            return None;
        }
        Some(view)
    }

    fn station(&mut self, env: &Env<'_>, view: &View) -> &mut Station {
        let standing = self.standing(env, view).unwrap_or_default();
        let founded = Station { standing, slot: Slot::default() };
        self.stations.entry(Scope::of(view)).or_insert(founded)
    }

    /// The store begins anew under another number.
    pub(crate) fn begin_anew(&mut self, out: &mut Outbox, store_id: [u8; 16]) {
        for scope in std::mem::take(&mut self.stations).into_keys() {
            out.persist(station_key(&scope), None);
        }
        self.store_id = store_id;
    }

    /// The state of this view is here: from now on this node serves it, unless it is over already.
    pub(crate) fn activate(&mut self, env: &Env<'_>, out: &mut Outbox, view: &View) {
        let scope = Scope::of(view);
        let knows_later = env.chain.newest(view.shard).is_some_and(|newest| Scope::of(newest) > scope);
        let station = self.station(env, view);
        station.standing = activated(&station.slot, knows_later);
        let bytes = station.to_bytes();
        out.persist(station_key(&scope), Some(bytes));
    }

    /// What this view held is dropped here, for good.
    pub(crate) fn retire(&mut self, out: &mut Outbox, scope: Scope) {
        let station = self.stations.entry(scope).or_default();
        station.standing = Standing::Retired;
        out.persist(station_key(&scope), Some(station.to_bytes()));
    }

    /// A member says how far it has come in the newest view. Whether a quorum now serves it.
    pub(crate) fn note(&mut self, env: &Env<'_>, from: &PublicKey, scope: &Scope, standing: Standing) -> bool {
        let Some(view) = env.chain.newest(scope.shard).filter(|view| Scope::of(view) == *scope) else { return false };
        let Some(index) = view.index_of(from) else { return false };
        self.ready.retain(|known, _| known.shard != scope.shard || known == scope);
        let ready = self.ready.entry(*scope).or_default();
        if matches!(standing, Standing::Active | Standing::Wedged) {
            ready.insert(index);
        }
        ready.len() >= view.quorum()
    }

    /// Whether a quorum of the newest view of this shard is known to serve it.
    pub(crate) fn is_ready(&self, env: &Env<'_>, shard: u16) -> bool {
        let Some(view) = env.chain.newest(shard) else { return false };
        view.number == 0 || self.ready.get(&Scope::of(view)).is_some_and(|ready| ready.len() >= view.quorum())
    }
}

/// A question that this node has just answered to itself goes to the other members, with the number of that vote.
pub(crate) fn pass_on(
    env: &Env<'_>,
    out: &mut Outbox,
    from: &PublicKey,
    view: &View,
    votes: u64,
    question: impl Fn(u64) -> Message,
) {
    let votes = if env.rules.own_votes_told { votes } else { 0 };
    for member in view.members.iter().filter(|member| *from == env.me && member.identity != env.me) {
        out.send(env, &member.identity, question(votes));
    }
}

/// Whether a view has the form of the successor of another.
fn follows(view: &View, next: &View) -> bool {
    (next.ns, next.incarnation, next.shard) == (view.ns, view.incarnation, view.shard)
        && view.number.checked_add(1) == Some(next.number)
        && next.previous == view.hash()
        && (1..=MAX_MEMBERS).contains(&next.members.len())
        && next.members.is_sorted_by(|a, b| a.identity < b.identity)
}

fn station_key(scope: &Scope) -> Vec<u8> {
    [STATION, &scope.to_bytes()].concat()
}
