//! The verified views of every shard, from those the authority founded to the newest known.
//!
//! A view follows another by the votes of that one's members; or, where those are lost, because a checkpoint of the
//! authority names it. Such a view begins a new incarnation of its shard, and a higher incarnation beats a lower one
//! whatever the numbers. Views that it leaves aside stay known: what was decided in them did happen, and is proven by them.

use std::collections::BTreeMap;

use thiserror::Error;

use super::{
    MAX_MEMBERS, MAX_SHARDS, Member, View, Vote, VoteError, decode_members, decode_votes, encode_members, encode_votes,
    verify_labelled,
};
use crate::ballot::Ballot;
use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::config::{Checkpoint, Config};
use crate::record::Scope;
use crate::sign::{self, Label, NamespaceId};

/// Changes of views through which a pinned list is looked for: whoever shows an invite makes this node hash that many lists.
const MAX_LISTS: usize = 1024;

/// Views 0 of all shards: the same members everywhere, so they are written once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// The hash of the first configuration, with which these views were founded.
    pub config: [u8; 32],
    /// How many shards the namespace has, for life.
    pub shards: u16,
    /// The founders, strictly sorted by identity.
    pub members: Vec<Member>,
}

impl Genesis {
    /// View 0 of one shard.
    pub fn view(&self, ns: NamespaceId, shard: u16) -> View {
        View { ns, incarnation: 0, shard, number: 0, members: self.members.clone(), previous: [0; 32] }
    }
}

impl Wire for Genesis {
    fn encode(&self, out: &mut Writer) {
        out.raw(&self.config);
        out.u16(self.shards);
        out.u32(0);
        out.u64(0);
        encode_members(&self.members, out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let config = input.array()?;
        let shards = input.u16()?;
        if !shards.is_power_of_two() || shards > MAX_SHARDS {
            return Err(DecodeError::Invalid("number of shards"));
        }
        // Incarnation and view number: a genesis is of 0 and 0.
        input.zeros(12)?;
        Ok(Self { config, shards, members: decode_members(input)? })
    }
}

/// A view with the votes of a quorum of the view before; with no votes, one that a checkpoint of the authority names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Successor {
    /// The view.
    pub view: View,
    /// The ballot under which the view before decided it, zero where it did not.
    pub ballot: Ballot,
    /// Who of the view before signed.
    pub votes: Vec<Vote>,
}

/// How far the views of an incarnation that is over may go on beyond where the next one began. Its members may have
/// decided a few before they heard of it; whoever goes on for ever must not fill everybody's disk.
const MAX_ASIDE: u64 = 64;

impl Successor {
    /// A view whose predecessor's members are lost. It counts where the authority's checkpoint of it is known.
    pub fn recovered(view: View) -> Self {
        Self { view, ballot: Ballot::default(), votes: Vec::new() }
    }

    /// What a member of the view before signs under [`Label::ViewAccepted`].
    pub fn body(view: &View, ballot: Ballot, member: &Member) -> Vec<u8> {
        let mut out = Writer::default();
        out.u16(view.shard);
        out.u32(view.incarnation);
        out.u64(view.number.wrapping_sub(1));
        out.raw(&member.store_id);
        ballot.encode(&mut out);
        out.raw(&view.hash());
        out.into_bytes()
    }
}

impl Wire for Successor {
    fn encode(&self, out: &mut Writer) {
        self.view.encode(out);
        self.ballot.encode(out);
        encode_votes(&self.votes, out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { view: View::decode(input)?, ballot: Ballot::decode(input)?, votes: decode_votes(input)? })
    }
}

/// One line of the list of all shards' newest views, over which a token pins one hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ViewRef {
    /// The shard.
    pub shard: u16,
    /// The incarnation.
    pub incarnation: u32,
    /// The view's number.
    pub number: u64,
    /// The view's hash.
    pub hash: [u8; 32],
}

impl ViewRef {
    fn of(view: &View) -> Self {
        Self { shard: view.shard, incarnation: view.incarnation, number: view.number, hash: view.hash() }
    }

    /// The hash over such a list.
    pub fn list_hash(list: &[Self]) -> [u8; 32] {
        let mut out = Writer::default();
        out.list(list);
        sign::hash("views", &[&out.into_bytes()])
    }
}

impl Wire for ViewRef {
    fn encode(&self, out: &mut Writer) {
        out.u16(self.shard);
        out.u32(self.incarnation);
        out.u64(self.number);
        out.raw(&self.hash);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { shard: input.u16()?, incarnation: input.u32()?, number: input.u64()?, hash: input.array()? })
    }
}

/// Why a view was not added.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ChainError {
    /// Of another namespace or shard, or its members were voted for across incarnations.
    #[error("view is of another shard")]
    Foreign,
    /// Does not follow a known view by number and hash.
    #[error("view does not follow a known one")]
    Gap,
    /// Another view of that number is known and verified too: replicas contradicted themselves.
    #[error("two valid views of one number")]
    Fork,
    /// The view before did not decide it.
    #[error("view {0}")]
    Votes(#[from] VoteError),
    /// It comes without votes, and no checkpoint that is known here names it.
    #[error("view has no votes, and no checkpoint of the authority names it")]
    Unvouched,
    /// It goes on with an incarnation that has long been over.
    #[error("view goes on with what the authority has recovered")]
    Over,
}

/// The verified views of all shards.
#[derive(Clone, Debug)]
pub struct Chain {
    ns: NamespaceId,
    /// By incarnation and number, so that the last is the newest.
    shards: Vec<BTreeMap<(u32, u64), View>>,
    successors: Vec<Successor>,
    checkpoints: Vec<Checkpoint>,
}

impl Chain {
    /// Starts with the views 0 of a genesis whose signature was verified.
    pub fn new(ns: NamespaceId, genesis: &Genesis) -> Self {
        debug_assert!(genesis.members.len() <= MAX_MEMBERS, "a decoded genesis has at most 5 members");
        let shards = (0..genesis.shards).map(|shard| BTreeMap::from([((0, 0), genesis.view(ns, shard))])).collect();
        Self { ns, shards, successors: Vec::new(), checkpoints: Vec::new() }
    }

    /// Goes by the checkpoints of a configuration whose signatures were verified.
    pub fn vouch(&mut self, config: &Config) {
        self.checkpoints.clone_from(&config.checkpoints);
    }

    /// How many shards there are.
    pub fn shard_count(&self) -> u16 {
        u16::try_from(self.shards.len()).expect("a genesis has at most 256 shards")
    }

    /// The newest known view of a shard.
    pub fn newest(&self, shard: u16) -> Option<&View> {
        self.shards.get(usize::from(shard))?.last_key_value().map(|(_, view)| view)
    }

    fn newest_views(&self) -> impl Iterator<Item = &View> {
        self.shards.iter().filter_map(|line| line.last_key_value()).map(|(_, view)| view)
    }

    /// The view of this incarnation and number, if it is known.
    pub fn get(&self, shard: u16, incarnation: u32, number: u64) -> Option<&View> {
        self.shards.get(usize::from(shard))?.get(&(incarnation, number))
    }

    /// The view of this number and hash, if it is known: what a certificate names.
    pub fn find(&self, shard: u16, incarnation: u32, number: u64, hash: &[u8; 32]) -> Option<&View> {
        self.get(shard, incarnation, number).filter(|view| view.hash() == *hash)
    }

    /// The view that another one names as the one before, if it is known.
    pub fn before(&self, view: &View) -> Option<&View> {
        let number = view.number.checked_sub(1)?;
        let line = self.shards.get(usize::from(view.shard))?;
        let named = |before: &&View| before.number == number && before.hash() == view.previous;
        let earlier = || line.range(..(view.incarnation, 0)).map(|(_, view)| view).find(named);
        line.get(&(view.incarnation, number)).filter(named).or_else(earlier)
    }

    /// Whether a known view is one that the authority put in the place of a lost one.
    pub fn is_recovered(&self, view: &View) -> bool {
        let Some(before) = view.number.checked_sub(1) else { return false };
        view.incarnation > 0 && self.get(view.shard, view.incarnation, before).is_none()
    }

    /// The view of this hash, if it is known and not before `least`: a certificate names the view whose members vouch for it, and by
    /// its ballot the one that decided.
    pub(crate) fn vouching(&self, shard: u16, incarnation: u32, least: u64, hash: &[u8; 32]) -> Option<&View> {
        let line = self.shards.get(usize::from(shard))?;
        let views = line.range((incarnation, least)..=(incarnation, u64::MAX)).map(|(_, view)| view);
        let is_named = |view: &&View| match self.get(shard, incarnation, view.number.saturating_add(1)) {
            // Hashed once, when it was verified.
            Some(next) => next.previous == *hash,
            None => view.hash() == *hash,
        };
        views.into_iter().find(is_named)
    }

    /// Whether a view follows from those that are known here: `Ok(true)` if it is new.
    pub fn judge(&self, successor: &Successor) -> Result<bool, ChainError> {
        let view = &successor.view;
        let newest = self.newest(view.shard).ok_or(ChainError::Foreign)?;
        if view.ns != self.ns {
            return Err(ChainError::Foreign);
        }
        if self.successor(&Scope::of(view)) == Some(successor) {
            return Ok(false);
        }
        if successor.votes.is_empty() && !self.names(successor) {
            return Err(ChainError::Unvouched);
        }
        let before = self.before(view).ok_or(ChainError::Gap)?;
        if !successor.votes.is_empty() {
            if before.incarnation != view.incarnation {
                return Err(ChainError::Foreign);
            }
            let body = |member: &Member| Successor::body(view, successor.ballot, member);
            verify_labelled(self.ns, before, Label::ViewAccepted, body, &successor.votes)?;
        } else if before.incarnation >= view.incarnation {
            return Err(ChainError::Unvouched);
        }
        if view.incarnation < newest.incarnation && self.is_far_aside(view, newest) {
            return Err(ChainError::Over);
        }
        match self.get(view.shard, view.incarnation, view.number) {
            Some(known) if known == view => Ok(false),
            Some(_) => Err(ChainError::Fork),
            None => Ok(true),
        }
    }

    /// Whether a checkpoint names exactly this view.
    fn names(&self, successor: &Successor) -> bool {
        let view = &successor.view;
        let of = |checkpoint: &&Checkpoint| {
            (checkpoint.shard, checkpoint.incarnation, checkpoint.view) == (view.shard, view.incarnation, view.number)
        };
        let named = self.checkpoints.iter().find(of);
        successor.ballot == Ballot::default() && named.is_some_and(|checkpoint| checkpoint.hash == view.hash())
    }

    fn is_far_aside(&self, view: &View, newest: &View) -> bool {
        let line = &self.shards[usize::from(view.shard)];
        let begun = line.range((newest.incarnation, 0)..).next().map_or(newest.number, |((_, number), _)| *number);
        view.number >= begun.saturating_add(MAX_ASIDE)
    }

    /// Adds a view to those of its shard. `Ok(false)` if it was known.
    pub fn extend(&mut self, successor: &Successor) -> Result<bool, ChainError> {
        let new = self.judge(successor)?;
        if new {
            let view = &successor.view;
            self.shards[usize::from(view.shard)].insert((view.incarnation, view.number), view.clone());
            self.successors.push(successor.clone());
        }
        Ok(new)
    }

    /// Every view after the founded ones with its votes, in an order in which [`Self::extend`] takes them.
    pub fn successors(&self) -> &[Successor] {
        &self.successors
    }

    /// The view of this scope with its votes, if it was decided and is known.
    pub(crate) fn successor(&self, scope: &Scope) -> Option<&Successor> {
        self.successors.iter().rev().find(|successor| Scope::of(&successor.view) == *scope)
    }

    /// The newest view of every shard that is not as it was founded.
    pub fn heads(&self) -> Vec<Scope> {
        self.newest_views().filter(|view| view.number > 0).map(Scope::of).collect()
    }

    /// The list of all shards' newest views.
    pub fn newest_list(&self) -> Vec<ViewRef> {
        self.newest_views().map(ViewRef::of).collect()
    }

    /// The one hash over the newest views of all shards that a token pins.
    pub fn views_hash(&self) -> [u8; 32] {
        ViewRef::list_hash(&self.newest_list())
    }

    /// The list with this hash, if it ever was the newest one here, some thousand changes back at most.
    pub fn list_with_hash(&self, hash: &[u8; 32]) -> Option<Vec<ViewRef>> {
        let start = self.successors.len().saturating_sub(MAX_LISTS);
        let mut list = self.list_after(start);
        let mut rest = self.successors[start..].iter();
        while ViewRef::list_hash(&list) != *hash {
            let next = ViewRef::of(&rest.next()?.view);
            let last = &mut list[usize::from(next.shard)];
            if (last.incarnation, last.number) < (next.incarnation, next.number) {
                *last = next;
            }
        }
        Some(list)
    }

    /// Whether the chain of every shard goes through the view that the list names.
    pub fn passes(&self, list: &[ViewRef]) -> bool {
        list.len() == self.shards.len()
            && (0u16..).zip(list).all(|(shard, line)| {
                line.shard == shard && self.find(shard, line.incarnation, line.number, &line.hash).is_some()
            })
    }

    fn list_after(&self, count: usize) -> Vec<ViewRef> {
        let founded = self.shards.iter().filter_map(|line| line.first_key_value());
        let mut newest: Vec<&View> = founded.map(|(_, view)| view).collect();
        for successor in &self.successors[..count] {
            let (last, view) = (&mut newest[usize::from(successor.view.shard)], &successor.view);
            // What was learnt late of an incarnation that is over is no news.
            if Scope::of(last) < Scope::of(view) {
                *last = view;
            }
        }
        newest.into_iter().map(ViewRef::of).collect()
    }
}
