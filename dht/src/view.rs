//! Views: which replicas decide about one shard, and whose signatures prove what they decided.
//!
//! A signature is judged by the members of the view it was made in, never by today's membership: otherwise cutting
//! off one former replica would make every later view, and every lease, impossible to verify.

mod chain;
pub(crate) mod page;

use thiserror::Error;

use crate::ballot::Ballot;
use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::identity::PublicKey;
use crate::sign::{self, Label, NamespaceId, Signature};

pub use chain::{Chain, ChainError, Genesis, Successor, ViewRef};

/// Most members a view has: 1, 3 or 5 by policy, never more.
pub const MAX_MEMBERS: usize = 5;

/// Most shards a namespace has; a power of two.
pub const MAX_SHARDS: u16 = 256;

/// One replica of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Its node key, which signs what it accepts.
    pub identity: PublicKey,
    /// Its lease store: a replica that lost its disk comes back as another.
    pub store_id: [u8; 16],
    /// The serial of its membership.
    pub serial: [u8; 16],
}

impl Wire for Member {
    fn encode(&self, out: &mut Writer) {
        self.identity.encode(out);
        out.raw(&self.store_id);
        out.raw(&self.serial);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { identity: PublicKey::decode(input)?, store_id: input.array()?, serial: input.array()? })
    }
}

/// The replicas of one shard, under a number that only ever rises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The namespace.
    pub ns: NamespaceId,
    /// How often the namespace was recovered by its recovery key.
    pub incarnation: u32,
    /// The shard that these replicas decide about.
    pub shard: u16,
    /// 0 for the view that the authority founded, then one more for every change.
    pub number: u64,
    /// Strictly sorted by identity; 1 to 5.
    pub members: Vec<Member>,
    /// The hash of the view before, zeros for view 0.
    pub previous: [u8; 32],
}

impl View {
    /// How many members must agree.
    pub fn quorum(&self) -> usize {
        self.members.len() / 2 + 1
    }

    /// What certificates and successors name this view by.
    pub fn hash(&self) -> [u8; 32] {
        sign::hash("view", &[&self.to_bytes()])
    }

    /// The place of this identity among the sorted members.
    pub fn index_of(&self, identity: &PublicKey) -> Option<u8> {
        let index = self.members.binary_search_by_key(identity, |member| member.identity).ok()?;
        u8::try_from(index).ok()
    }

    /// The member at this place.
    pub fn member(&self, index: u8) -> Option<&Member> {
        self.members.get(usize::from(index))
    }
}

impl Wire for View {
    fn encode(&self, out: &mut Writer) {
        self.ns.encode(out);
        out.u32(self.incarnation);
        out.u16(self.shard);
        out.u64(self.number);
        encode_members(&self.members, out);
        out.raw(&self.previous);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            ns: NamespaceId::decode(input)?,
            incarnation: input.u32()?,
            shard: input.u16()?,
            number: input.u64()?,
            members: decode_members(input)?,
            previous: input.array()?,
        })
    }
}

fn encode_members(members: &[Member], out: &mut Writer) {
    out.list(members);
}

fn decode_members(input: &mut Reader<'_>) -> Result<Vec<Member>, DecodeError> {
    let members: Vec<Member> = input.list(MAX_MEMBERS, "view")?;
    if members.is_empty() || !members.is_sorted_by(|a, b| a.identity < b.identity) {
        return Err(DecodeError::Invalid("view"));
    }
    Ok(members)
}

/// What a register is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum KeyKind {
    /// The lease of a virtual address.
    Address = 1,
    /// The lease of a host name.
    Name = 2,
    /// The slots of an invite: append-only, never expires.
    Redeem = 3,
}

impl Wire for KeyKind {
    fn encode(&self, out: &mut Writer) {
        out.u8(*self as u8);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match input.u8()? {
            1 => Ok(Self::Address),
            2 => Ok(Self::Name),
            3 => Ok(Self::Redeem),
            _ => Err(DecodeError::Invalid("kind of key")),
        }
    }
}

/// What a replica signs when it accepts a value for a register.
#[derive(Clone, Copy, Debug)]
pub struct Accepted<'a> {
    /// The incarnation of the namespace.
    pub incarnation: u32,
    /// The shard of the key.
    pub shard: u16,
    /// The number of the view that decides.
    pub view: u64,
    /// The store of the replica that signs.
    pub store_id: [u8; 16],
    /// What the register is about.
    pub kind: KeyKind,
    /// The register's key within its kind.
    pub key: &'a [u8],
    /// The ballot of the accepted value.
    pub ballot: Ballot,
    /// The hash of the accepted value.
    pub value: [u8; 32],
}

impl Accepted<'_> {
    /// The signed bytes.
    pub fn body(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u32(self.incarnation);
        out.u16(self.shard);
        out.u64(self.view);
        out.raw(&self.store_id);
        self.kind.encode(&mut out);
        out.bytes(self.key);
        self.ballot.encode(&mut out);
        out.raw(&self.value);
        out.into_bytes()
    }
}

/// One member's signature under a decision of its view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// The member's place in the view.
    pub index: u8,
    /// Its signature.
    pub signature: Signature,
}

impl Wire for Vote {
    fn encode(&self, out: &mut Writer) {
        out.u8(self.index);
        self.signature.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { index: input.u8()?, signature: Signature::decode(input)? })
    }
}

/// Appends a one-byte count and the votes.
pub fn encode_votes(votes: &[Vote], out: &mut Writer) {
    out.u8(u8::try_from(votes.len()).expect("a view has at most 5 members, so a decision has at most 5 votes"));
    for vote in votes {
        vote.encode(out);
    }
}

/// Reads votes back; they stand in strictly rising order of their members.
pub fn decode_votes(input: &mut Reader<'_>) -> Result<Vec<Vote>, DecodeError> {
    let count = usize::from(input.u8()?);
    if count > MAX_MEMBERS {
        return Err(DecodeError::TooLong("list of votes"));
    }
    let votes: Vec<Vote> = (0..count).map(|_| Vote::decode(input)).collect::<Result<_, _>>()?;
    if !votes.is_sorted_by(|a, b| a.index < b.index) {
        return Err(DecodeError::Invalid("order of votes"));
    }
    Ok(votes)
}

/// Why votes do not prove a decision.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum VoteError {
    /// Fewer than a quorum of the view signed.
    #[error("has {have} of {need} votes")]
    TooFew {
        /// Distinct members that signed.
        have: usize,
        /// Members that must.
        need: usize,
    },
    /// A vote stands twice or out of order.
    #[error("counts a vote twice")]
    Repeated,
    /// A vote is of nobody in this view.
    #[error("has a vote of no member of the view")]
    NoMember,
    /// A signature is not the member's, or of something else.
    #[error("has a vote with a wrong signature")]
    Signature,
}

/// Checks that a quorum of distinct members of *this* view accepted; `accepted` says what each of them signed.
pub fn verify_votes(
    ns: NamespaceId,
    view: &View,
    accepted: impl Fn(&Member) -> Vec<u8>,
    votes: &[Vote],
) -> Result<(), VoteError> {
    verify_labelled(ns, view, Label::Accepted, accepted, votes)
}

fn verify_labelled(
    ns: NamespaceId,
    view: &View,
    label: Label,
    body: impl Fn(&Member) -> Vec<u8>,
    votes: &[Vote],
) -> Result<(), VoteError> {
    if !votes.is_sorted_by(|a, b| a.index < b.index) {
        return Err(VoteError::Repeated);
    }
    if votes.len() < view.quorum() {
        return Err(VoteError::TooFew { have: votes.len(), need: view.quorum() });
    }
    for vote in votes {
        let member = view.member(vote.index).ok_or(VoteError::NoMember)?;
        sign::verify(&member.identity, label, &ns, &body(member), &vote.signature).map_err(|_| VoteError::Signature)?;
    }
    Ok(())
}
