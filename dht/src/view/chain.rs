//! The verified views of every shard, from those the authority founded to the newest known.

use thiserror::Error;

use super::{
    MAX_MEMBERS, MAX_SHARDS, Member, View, Vote, VoteError, decode_members, decode_votes, encode_members, encode_votes,
    verify_labelled,
};
use crate::ballot::Ballot;
use crate::codec::{DecodeError, Reader, Wire, Writer};
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

/// A view with the votes of a quorum of the view before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Successor {
    /// The view.
    pub view: View,
    /// The ballot under which the view before decided it.
    pub ballot: Ballot,
    /// Who of the view before signed.
    pub votes: Vec<Vote>,
}

impl Successor {
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
    /// Of another namespace, incarnation or shard.
    #[error("view is of another shard")]
    Foreign,
    /// Does not follow the newest known view by number and hash.
    #[error("view does not follow the newest known one")]
    Gap,
    /// Another view of that number is known and verified too: replicas contradicted themselves.
    #[error("two valid views of one number")]
    Fork,
    /// The view before did not decide it.
    #[error("view {0}")]
    Votes(#[from] VoteError),
}

/// The verified views of all shards.
#[derive(Clone, Debug)]
pub struct Chain {
    ns: NamespaceId,
    shards: Vec<Vec<View>>,
    successors: Vec<Successor>,
}

impl Chain {
    /// Starts with the views 0 of a genesis whose signature was verified.
    pub fn new(ns: NamespaceId, genesis: &Genesis) -> Self {
        debug_assert!(genesis.members.len() <= MAX_MEMBERS, "a decoded genesis has at most 5 members");
        let shards = (0..genesis.shards).map(|shard| vec![genesis.view(ns, shard)]).collect();
        Self { ns, shards, successors: Vec::new() }
    }

    /// How many shards there are.
    pub fn shard_count(&self) -> u16 {
        u16::try_from(self.shards.len()).expect("a genesis has at most 256 shards")
    }

    /// The newest known view of a shard.
    pub fn newest(&self, shard: u16) -> Option<&View> {
        self.shards.get(usize::from(shard))?.last()
    }

    /// The view of this number, if it is known.
    pub fn get(&self, shard: u16, number: u64) -> Option<&View> {
        self.shards.get(usize::from(shard))?.get(usize::try_from(number).ok()?)
    }

    /// The view of this number and hash, if it is known: what a certificate names.
    pub fn find(&self, shard: u16, incarnation: u32, number: u64, hash: &[u8; 32]) -> Option<&View> {
        self.get(shard, number).filter(|view| view.incarnation == incarnation && view.hash() == *hash)
    }

    /// The view of this hash, if it is known and not before `least`: a certificate names the view whose members vouch for it, and by
    /// its ballot the one that decided.
    pub(crate) fn vouching(&self, shard: u16, incarnation: u32, least: u64, hash: &[u8; 32]) -> Option<&View> {
        let views = self.shards.get(usize::from(shard))?.get(usize::try_from(least).ok()?..)?;
        let is_named = |(place, view): &(usize, &View)| match views.get(place + 1) {
            // Hashed once, when it was verified.
            Some(next) if next.incarnation == view.incarnation => next.previous == *hash,
            Some(_) | None => view.hash() == *hash,
        };
        views.iter().enumerate().find(is_named).map(|(_, view)| view).filter(|view| view.incarnation == incarnation)
    }

    /// Whether a view follows from those that are known here: `Ok(true)` if it is new.
    pub fn judge(&self, successor: &Successor) -> Result<bool, ChainError> {
        let view = &successor.view;
        let newest = self.newest(view.shard).ok_or(ChainError::Foreign)?;
        if view.ns != self.ns || view.incarnation != newest.incarnation {
            return Err(ChainError::Foreign);
        }
        if self.successor(&Scope::of(view)) == Some(successor) {
            return Ok(false);
        }
        let number = view.number.checked_sub(1).ok_or(ChainError::Gap)?;
        let before = self.get(view.shard, number).ok_or(ChainError::Gap)?;
        if view.previous != before.hash() {
            return Err(ChainError::Gap);
        }
        let body = |member: &Member| Successor::body(view, successor.ballot, member);
        verify_labelled(self.ns, before, Label::ViewAccepted, body, &successor.votes)?;
        match self.get(view.shard, view.number) {
            Some(known) if known == view => Ok(false),
            Some(_) => Err(ChainError::Fork),
            None => Ok(true),
        }
    }

    /// Adds the next view of a shard. `Ok(false)` if it was known.
    pub fn extend(&mut self, successor: &Successor) -> Result<bool, ChainError> {
        let new = self.judge(successor)?;
        if new {
            self.shards[usize::from(successor.view.shard)].push(successor.view.clone());
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
        self.shards.iter().filter_map(|views| views.last()).filter(|view| view.number > 0).map(Scope::of).collect()
    }

    /// The list of all shards' newest views.
    pub fn newest_list(&self) -> Vec<ViewRef> {
        self.shards.iter().filter_map(|views| views.last()).map(ViewRef::of).collect()
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
            list[usize::from(next.shard)] = next;
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
        let mut newest: Vec<&View> = self.shards.iter().map(|views| &views[0]).collect();
        for successor in &self.successors[..count] {
            newest[usize::from(successor.view.shard)] = &successor.view;
        }
        newest.into_iter().map(ViewRef::of).collect()
    }
}
