//! Redeeming an invite: identities are appended to its register, and `q` signatures prove who got which slot.
//!
//! The request is a function of the token and the identity key, so after any crash the same bytes are sent again, and the
//! identity finds the slot it already has. The register's value carries the signatures of every entry, so it verifies
//! itself and no coordinator can put somebody in who was not invited.

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::ballot::Ballot;
use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::config::Config;
use crate::credential::{AdmissionProof, MemberBody};
use crate::identity::{PublicKey, SecretKey};
use crate::invite::{InviteError, MAX_USES, SignedInvite};
use crate::sign::{self, Label, NamespaceId, Signature};
use crate::view::{Accepted, Chain, KeyKind, View, Vote, VoteError, decode_votes, encode_votes, verify_votes};

/// One slot of an invite: an identity with the two signatures over its [`MemberBody`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The identity.
    pub identity: PublicKey,
    /// By the key of the invite.
    pub by_invite: Signature,
    /// By the identity.
    pub by_identity: Signature,
}

impl Entry {
    /// Signs this identity into a slot of this invite. Nothing in it is free, so it is the same after any crash.
    pub fn new(ns: &NamespaceId, invite: &SecretKey, identity: &SecretKey) -> Self {
        let body = MemberBody { invite: invite.public(), identity: identity.public() }.to_bytes();
        Self {
            identity: identity.public(),
            by_invite: sign::sign(invite, Label::MemberInvite, ns, &body),
            by_identity: sign::sign(identity, Label::MemberSelf, ns, &body),
        }
    }

    /// Checks both signatures.
    pub fn verify(&self, ns: &NamespaceId, invite: &PublicKey) -> Result<(), RedeemError> {
        let body = MemberBody { invite: *invite, identity: self.identity }.to_bytes();
        sign::verify(invite, Label::MemberInvite, ns, &body, &self.by_invite).map_err(|_| RedeemError::Entry)?;
        sign::verify(&self.identity, Label::MemberSelf, ns, &body, &self.by_identity)
            .map_err(|_| RedeemError::Entry)?;
        Ok(())
    }
}

impl Wire for Entry {
    fn encode(&self, out: &mut Writer) {
        self.identity.encode(out);
        self.by_invite.encode(out);
        self.by_identity.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            identity: PublicKey::decode(input)?,
            by_invite: Signature::decode(input)?,
            by_identity: Signature::decode(input)?,
        })
    }
}

/// Why a redemption does not count.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RedeemError {
    /// The invite itself does not count.
    #[error("{0}")]
    Invite(#[from] InviteError),
    /// An entry is not signed by the invite and by its identity.
    #[error("entry is not signed by invite and identity")]
    Entry,
    /// An identity stands twice.
    #[error("an identity has two slots")]
    Repeated,
    /// More entries than the invite has uses.
    #[error("invite has no slot left")]
    Full,
    /// The view that is said to have decided is not known here.
    #[error("decided by an unknown view")]
    UnknownView,
    /// Not a quorum of that view.
    #[error("proof {0}")]
    Votes(#[from] VoteError),
    /// The proof is about something else.
    #[error("proof is of another invite, shard or number of slots")]
    Mismatch,
}

/// The value of an invite's register: its slots in the order in which they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redeemed {
    /// At most 64.
    pub entries: Vec<Entry>,
}

impl Redeemed {
    /// `H(record)` of the register: what [`Accepted::value`] holds. It folds over the identities, so that a proof
    /// needs the hash before its slot and the identities after it, never all signatures.
    pub fn digest(&self, invite: &PublicKey) -> [u8; 32] {
        let fold = self.entries.iter().fold(fold_start(invite), |fold, entry| fold_next(&fold, &entry.identity));
        value(self.entries.len(), &fold)
    }

    /// The slot of an identity.
    pub fn slot_of(&self, identity: &PublicKey) -> Option<u16> {
        u16::try_from(self.entries.iter().position(|entry| entry.identity == *identity)?).ok()
    }

    /// What coordinator and every acceptor check, always: invite signature, `n <= uses`, distinct identities, the
    /// signatures of every entry. Dates are not theirs to judge.
    pub fn verify(&self, ns: &NamespaceId, invite: &SignedInvite, config: &Config) -> Result<(), RedeemError> {
        if self.entries.len() > usize::from(invite.body.uses) {
            return Err(RedeemError::Full);
        }
        let mut identities: Vec<PublicKey> = self.entries.iter().map(|entry| entry.identity).collect();
        identities.sort_unstable();
        if !identities.is_sorted_by(|a, b| a < b) {
            return Err(RedeemError::Repeated);
        }
        invite.verify(ns, config)?;
        self.entries.iter().try_for_each(|entry| entry.verify(ns, &invite.invite))
    }

    /// The value with one more slot.
    pub fn append(&self, entry: Entry, uses: u16) -> Result<Self, RedeemError> {
        if self.slot_of(&entry.identity).is_some() {
            return Err(RedeemError::Repeated);
        }
        if self.entries.len() >= usize::from(uses.min(MAX_USES)) {
            return Err(RedeemError::Full);
        }
        let mut entries = self.entries.clone();
        entries.push(entry);
        Ok(Self { entries })
    }

    /// The proof of one identity's slot in this value, once `votes` of `view` chose it under `ballot`.
    pub fn proof(
        &self,
        invite: &PublicKey,
        identity: &PublicKey,
        view: &View,
        ballot: Ballot,
        votes: Vec<Vote>,
    ) -> Option<AdmissionProof> {
        let slot = self.slot_of(identity)?;
        let (before, rest) = self.entries.split_at(usize::from(slot));
        let fold = before.iter().fold(fold_start(invite), |fold, entry| fold_next(&fold, &entry.identity));
        let later = rest.iter().skip(1).map(|entry| entry.identity).collect();
        Some(AdmissionProof::quorum(slot, fold, later, view, ballot, votes))
    }
}

impl Wire for Redeemed {
    fn encode(&self, out: &mut Writer) {
        out.list(&self.entries);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { entries: input.list(usize::from(MAX_USES), "list of slots")? })
    }
}

/// `h_0 = H(invite)`.
pub(crate) fn fold_start(invite: &PublicKey) -> [u8; 32] {
    Sha256::digest(invite.0).into()
}

/// `h_{i+1} = H(h_i identity_i)`.
pub(crate) fn fold_next(fold: &[u8; 32], identity: &PublicKey) -> [u8; 32] {
    Sha256::new().chain_update(fold).chain_update(identity.0).finalize().into()
}

/// The signed pair `(n, h_n)` as one value.
pub(crate) fn value(count: usize, fold: &[u8; 32]) -> [u8; 32] {
    let count = u16::try_from(count).expect("an invite has at most 64 slots");
    sign::hash("redeemed", &[&count.to_be_bytes(), fold])
}

/// The shard of an invite's register: `H(ns, "inv", invite) mod shards`, which is a power of two.
pub fn shard_of(ns: &NamespaceId, invite: &PublicKey, shards: u16) -> u16 {
    let hash = sign::hash("shard", &[&ns.0, b"inv", &invite.0]);
    u16::from_be_bytes([hash[0], hash[1]]) % shards.max(1)
}

/// What a joiner sends to a coordinator, as often as it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedeemRequest {
    /// The invite.
    pub invite: SignedInvite,
    /// Who wants a slot, signed.
    pub entry: Entry,
}

impl RedeemRequest {
    /// Checks all signatures: what a coordinator does before it spends a round.
    pub fn verify(&self, ns: &NamespaceId, config: &Config) -> Result<(), RedeemError> {
        self.invite.verify(ns, config)?;
        self.entry.verify(ns, &self.invite.invite)
    }
}

impl Wire for RedeemRequest {
    fn encode(&self, out: &mut Writer) {
        self.invite.encode(out);
        self.entry.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { invite: SignedInvite::decode(input)?, entry: Entry::decode(input)? })
    }
}

/// Proof that all slots of an invite are given, and to whom: the chosen value with its votes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpentProof {
    /// The chosen value.
    pub redeemed: Redeemed,
    /// Incarnation of the view that chose it.
    pub incarnation: u32,
    /// Number of the view that chose it.
    pub view: u64,
    /// Hash of the view that chose it.
    pub view_hash: [u8; 32],
    /// The ballot.
    pub ballot: Ballot,
    /// Who accepted.
    pub votes: Vec<Vote>,
}

impl SpentProof {
    /// Checks that a quorum chose a value in which the invite has no slot left. Without this an ordinary refusal is
    /// a hint only: a value that was never chosen could turn everybody away.
    pub fn verify(
        &self,
        ns: &NamespaceId,
        invite: &SignedInvite,
        config: &Config,
        chain: &Chain,
    ) -> Result<(), RedeemError> {
        if self.redeemed.entries.len() != usize::from(invite.body.uses) {
            return Err(RedeemError::Mismatch);
        }
        let shard = shard_of(ns, &invite.invite, chain.shard_count());
        let view = chain.find(shard, self.incarnation, self.view, &self.view_hash).ok_or(RedeemError::UnknownView)?;
        self.redeemed.verify(ns, invite, config)?;
        verify_chosen(ns, view, &invite.invite, self.ballot, self.redeemed.digest(&invite.invite), &self.votes)
    }
}

impl Wire for SpentProof {
    fn encode(&self, out: &mut Writer) {
        self.redeemed.encode(out);
        out.u32(self.incarnation);
        out.u64(self.view);
        out.raw(&self.view_hash);
        self.ballot.encode(out);
        encode_votes(&self.votes, out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            redeemed: Redeemed::decode(input)?,
            incarnation: input.u32()?,
            view: input.u64()?,
            view_hash: input.array()?,
            ballot: Ballot::decode(input)?,
            votes: decode_votes(input)?,
        })
    }
}

/// Checks that a quorum of `view` accepted `value` for the invite's register under one ballot.
pub(crate) fn verify_chosen(
    ns: &NamespaceId,
    view: &View,
    invite: &PublicKey,
    ballot: Ballot,
    value: [u8; 32],
    votes: &[Vote],
) -> Result<(), RedeemError> {
    let accepted = |member: &crate::view::Member| {
        Accepted {
            incarnation: view.incarnation,
            shard: view.shard,
            view: view.number,
            store_id: member.store_id,
            kind: KeyKind::Redeem,
            key: &invite.0,
            ballot,
            value,
        }
        .body()
    };
    Ok(verify_votes(*ns, view, accepted, votes)?)
}

/// What a coordinator answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedeemAnswer {
    /// The invite that was asked about.
    pub invite: PublicKey,
    /// What became of it.
    pub outcome: RedeemOutcome,
}

/// What became of a request to redeem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedeemOutcome {
    /// The identity has a slot, and this proves it.
    Admitted(AdmissionProof),
    /// Others have all slots, and this proves it.
    Spent(SpentProof),
    /// The coordinator would not append: a hint, believed only as far as the joiner sees the same itself.
    Refused(RefusedHint),
    /// Nothing was decided; ask again, here or elsewhere.
    Retry,
}

/// Why a coordinator would not append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedHint {
    /// The invite is past its date on the coordinator's clock.
    Expired,
    /// The invite is of an older era or epoch.
    Era,
    /// A signature does not verify.
    Signature,
}

impl Wire for RedeemAnswer {
    fn encode(&self, out: &mut Writer) {
        self.invite.encode(out);
        match &self.outcome {
            RedeemOutcome::Admitted(proof) => {
                out.u8(0);
                proof.encode(out);
            }
            RedeemOutcome::Spent(proof) => {
                out.u8(1);
                proof.encode(out);
            }
            RedeemOutcome::Refused(RefusedHint::Expired) => out.u8(2),
            RedeemOutcome::Refused(RefusedHint::Era) => out.u8(3),
            RedeemOutcome::Refused(RefusedHint::Signature) => out.u8(4),
            RedeemOutcome::Retry => out.u8(5),
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let invite = PublicKey::decode(input)?;
        let outcome = match input.u8()? {
            0 => RedeemOutcome::Admitted(AdmissionProof::decode(input)?),
            1 => RedeemOutcome::Spent(SpentProof::decode(input)?),
            2 => RedeemOutcome::Refused(RefusedHint::Expired),
            3 => RedeemOutcome::Refused(RefusedHint::Era),
            4 => RedeemOutcome::Refused(RefusedHint::Signature),
            5 => RedeemOutcome::Retry,
            _ => return Err(DecodeError::Invalid("answer to a redemption")),
        };
        Ok(Self { invite, outcome })
    }
}
