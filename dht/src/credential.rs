//! The credential of a member: everything another member needs to know that it was admitted, and to talk to it.

use thiserror::Error;

use crate::ballot::Ballot;
use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::config::Config;
use crate::identity::{PublicKey, SecretKey};
use crate::invite::{InviteBody, InviteError, MAX_USES, SignedInvite};
use crate::redeem::{self, Entry, RedeemError};
use crate::sign::{self, Label, NamespaceId, Signature};
use crate::view::{Chain, View, Vote, VoteError, decode_votes, encode_votes};

/// `(invite, identity)`, signed by both keys: no field in it is free, so it is the same after any crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberBody {
    /// The invite that admits.
    pub invite: PublicKey,
    /// Who is admitted.
    pub identity: PublicKey,
}

const VERSION: u8 = 1;

impl Wire for MemberBody {
    fn encode(&self, out: &mut Writer) {
        out.u8(VERSION);
        out.raw(&[0; 3]);
        self.invite.encode(out);
        self.identity.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if input.u8()? != VERSION {
            return Err(DecodeError::Invalid("membership version"));
        }
        input.zeros(3)?;
        Ok(Self { invite: PublicKey::decode(input)?, identity: PublicKey::decode(input)? })
    }
}

/// What proves an admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProofKind {
    /// A quorum of the view that holds the invite's register.
    Quorum,
    /// The genesis, which names the member among the founders.
    Genesis,
    /// The holder itself, in namespaces without an authority; refused by this version.
    SelfIssued,
}

/// Proof that an identity has a slot of its invite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmissionProof {
    /// What proves it.
    pub kind: ProofKind,
    /// The slot.
    pub slot: u16,
    /// The fold over the identities in the slots before.
    pub before: [u8; 32],
    /// The identities in the slots behind, at the time of the votes.
    pub later: Vec<PublicKey>,
    /// The shard of the invite's register.
    pub shard: u16,
    /// The incarnation of the view that voted.
    pub incarnation: u32,
    /// The number of the view that voted.
    pub view: u64,
    /// The hash of the view that voted.
    pub view_hash: [u8; 32],
    /// The round of the ballot.
    pub round: u64,
    /// The proposer of the ballot.
    pub proposer: u8,
    /// Who voted.
    pub votes: Vec<Vote>,
}

impl AdmissionProof {
    /// The proof by votes of a quorum of `view`.
    pub fn quorum(
        slot: u16,
        before: [u8; 32],
        later: Vec<PublicKey>,
        view: &View,
        ballot: Ballot,
        votes: Vec<Vote>,
    ) -> Self {
        Self {
            kind: ProofKind::Quorum,
            slot,
            before,
            later,
            shard: view.shard,
            incarnation: view.incarnation,
            view: view.number,
            view_hash: view.hash(),
            round: ballot.round,
            proposer: ballot.replica,
            votes,
        }
    }

    /// The proof of a founder: slot 0 of an own invite, and a place in view 0.
    pub fn genesis(invite: &PublicKey, view: &View) -> Self {
        Self {
            kind: ProofKind::Genesis,
            slot: 0,
            before: redeem::fold_start(invite),
            later: Vec::new(),
            shard: view.shard,
            incarnation: view.incarnation,
            view: view.number,
            view_hash: view.hash(),
            round: 0,
            proposer: 0,
            votes: Vec::new(),
        }
    }

    /// The ballot under which the slot was given.
    pub fn ballot(&self) -> Ballot {
        Ballot { view: self.view, round: self.round, replica: self.proposer }
    }

    /// Checks that this proves `identity`'s slot of `invite`.
    pub fn verify(
        &self,
        ns: &NamespaceId,
        invite: &SignedInvite,
        identity: &PublicKey,
        chain: &Chain,
    ) -> Result<(), CredentialError> {
        let view =
            chain.find(self.shard, self.incarnation, self.view, &self.view_hash).ok_or(CredentialError::UnknownView)?;
        match self.kind {
            ProofKind::Genesis => self.verify_genesis(ns, invite, identity, view),
            ProofKind::Quorum => self.verify_quorum(ns, invite, identity, view, chain.shard_count()),
            ProofKind::SelfIssued => Err(CredentialError::Proof),
        }
    }

    fn verify_genesis(
        &self,
        ns: &NamespaceId,
        invite: &SignedInvite,
        identity: &PublicKey,
        view: &View,
    ) -> Result<(), CredentialError> {
        let serial = serial(ns, &invite.invite, &invite.body.nonce, self.slot);
        let founder = view.members.iter().any(|m| m.identity == *identity && m.serial == serial);
        if self.view != 0 || self.slot != 0 || invite.body.uses != 1 || !founder {
            return Err(CredentialError::Proof);
        }
        // One spelling: what a founder's proof does not need is empty.
        if *self != Self::genesis(&invite.invite, view) {
            return Err(CredentialError::Proof);
        }
        Ok(())
    }

    fn verify_quorum(
        &self,
        ns: &NamespaceId,
        invite: &SignedInvite,
        identity: &PublicKey,
        view: &View,
        shards: u16,
    ) -> Result<(), CredentialError> {
        let count = usize::from(self.slot) + 1 + self.later.len();
        let shard = redeem::shard_of(ns, &invite.invite, shards);
        if count > usize::from(invite.body.uses) || self.shard != shard {
            return Err(CredentialError::Proof);
        }
        let own = redeem::fold_next(&self.before, identity);
        let fold = self.later.iter().fold(own, |fold, later| redeem::fold_next(&fold, later));
        let value = redeem::value(count, &fold);
        redeem::verify_chosen(ns, view, &invite.invite, self.ballot(), value, &self.votes)?;
        Ok(())
    }
}

impl Wire for AdmissionProof {
    fn encode(&self, out: &mut Writer) {
        out.u8(match self.kind {
            ProofKind::Quorum => 0,
            ProofKind::Genesis => 1,
            ProofKind::SelfIssued => 2,
        });
        out.u16(self.slot);
        out.raw(&self.before);
        out.u8(u8::try_from(self.later.len()).expect("an invite has at most 64 slots"));
        for identity in &self.later {
            identity.encode(out);
        }
        out.u16(self.shard);
        out.u32(self.incarnation);
        out.u64(self.view);
        out.raw(&self.view_hash);
        out.u64(self.round);
        out.u8(self.proposer);
        encode_votes(&self.votes, out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kind = match input.u8()? {
            0 => ProofKind::Quorum,
            1 => ProofKind::Genesis,
            2 => ProofKind::SelfIssued,
            _ => return Err(DecodeError::Invalid("kind of proof")),
        };
        let slot = input.u16()?;
        let before = input.array()?;
        let later = usize::from(input.u8()?);
        if usize::from(slot) + 1 + later > usize::from(MAX_USES) {
            return Err(DecodeError::TooLong("list of slots"));
        }
        Ok(Self {
            kind,
            slot,
            before,
            later: (0..later).map(|_| PublicKey::decode(input)).collect::<Result<_, _>>()?,
            shard: input.u16()?,
            incarnation: input.u32()?,
            view: input.u64()?,
            view_hash: input.array()?,
            round: input.u64()?,
            proposer: input.u8()?,
            votes: decode_votes(input)?,
        })
    }
}

/// The public half of a node's X25519 secret.
pub fn data_public(secret: &[u8; 32]) -> [u8; 32] {
    x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(*secret)).to_bytes()
}

/// A node's X25519 key, vouched for by its identity. Peers refuse a lower `seq` than they have seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataKey {
    /// Rises with every new key.
    pub seq: u32,
    /// The public key.
    pub x25519: [u8; 32],
    /// Seconds since 1970 until which it counts; 0 from a node that has no clock.
    pub until: u64,
}

impl Wire for DataKey {
    fn encode(&self, out: &mut Writer) {
        out.u32(self.seq);
        out.raw(&self.x25519);
        out.u64(self.until);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { seq: input.u32()?, x25519: input.array()?, until: input.u64()? })
    }
}

/// The whole credential: 581 bytes with one vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The invite that admitted it.
    pub invite: SignedInvite,
    /// Its identity with the two signatures over its [`MemberBody`].
    pub entry: Entry,
    /// The proof of its slot.
    pub proof: AdmissionProof,
    /// Its key for the data plane.
    pub data_key: DataKey,
    /// The identity's signature over that key.
    pub data_signature: Signature,
}

/// Why a credential is refused; in the order in which it is checked.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, PartialOrd, Ord)]
pub enum CredentialError {
    /// Not the layout of a credential.
    #[error("credential is malformed")]
    Layout,
    /// Of another era.
    #[error("credential is of another era of the namespace")]
    Era,
    /// Of somebody else than the channel's other end.
    #[error("credential belongs to another identity than the channel proved")]
    Foreign,
    /// The invite is not signed by the authority.
    #[error("the invite in the credential is not signed by the authority")]
    Invite,
    /// The membership is not signed by invite and identity.
    #[error("membership is not signed by invite and identity")]
    Member,
    /// The data key is not signed by the identity.
    #[error("data key is not signed by the identity")]
    DataKey,
    /// An older data key than one seen before.
    #[error("data key is older than one seen before")]
    OldDataKey,
    /// The proof names a view that is not known here.
    #[error("admission was decided by an unknown view")]
    UnknownView,
    /// Too few or wrong votes.
    #[error("admission is not voted for by a quorum")]
    Votes,
    /// The proof is of something else.
    #[error("proof of admission does not fit")]
    Proof,
    /// Too late.
    #[error("membership has expired")]
    Expired,
    /// The data key is too old.
    #[error("data key has expired")]
    DataKeyExpired,
}

impl From<RedeemError> for CredentialError {
    fn from(error: RedeemError) -> Self {
        match error {
            RedeemError::Votes(
                VoteError::TooFew { .. } | VoteError::Repeated | VoteError::NoMember | VoteError::Signature,
            ) => Self::Votes,
            RedeemError::UnknownView => Self::UnknownView,
            RedeemError::Invite(_) => Self::Invite,
            RedeemError::Entry => Self::Member,
            RedeemError::Repeated | RedeemError::Full | RedeemError::Mismatch => Self::Proof,
        }
    }
}

/// `H("overlay/v1/serial" 0x00 ns invite nonce slot)[..16]`: nothing in it is the joiner's choice.
pub fn serial(ns: &NamespaceId, invite: &PublicKey, nonce: &[u8; 16], slot: u16) -> [u8; 16] {
    let hash = sign::hash("serial", &[&ns.0, &invite.0, nonce, &slot.to_be_bytes()]);
    hash[..16].try_into().expect("16 of 32 bytes")
}

impl Credential {
    /// Puts a credential together and signs the data key.
    pub fn new(
        ns: &NamespaceId,
        identity: &SecretKey,
        invite: SignedInvite,
        entry: Entry,
        proof: AdmissionProof,
        data_key: DataKey,
    ) -> Self {
        let data_signature = sign::sign(identity, Label::DataKey, ns, &data_key.to_bytes());
        Self { invite, entry, proof, data_key, data_signature }
    }

    /// Who it belongs to.
    pub fn identity(&self) -> PublicKey {
        self.entry.identity
    }

    /// The number of the membership.
    pub fn serial(&self, ns: &NamespaceId) -> [u8; 16] {
        serial(ns, &self.invite.invite, &self.invite.body.nonce, self.proof.slot)
    }

    /// The member's position on the ring that replicas are chosen from.
    pub fn pos(&self, ns: &NamespaceId) -> [u8; 32] {
        sign::hash("pos", &[&ns.0, &self.serial(ns)])
    }

    /// What the data handshake names the credential by. It covers what was agreed to, never signatures, and not the
    /// date of the data key, so that signing the same key for another month disturbs no session.
    pub fn hash(&self, ns: &NamespaceId) -> [u8; 32] {
        sign::hash(
            "credential",
            &[
                &ns.0,
                &self.invite.body.to_bytes(),
                &MemberBody { invite: self.invite.invite, identity: self.entry.identity }.to_bytes(),
                &self.proof.slot.to_be_bytes(),
                &self.data_key.seq.to_be_bytes(),
                &self.data_key.x25519,
            ],
        )
    }

    /// Checks everything but dates and the channel, cheap things first.
    pub fn verify(&self, ns: &NamespaceId, config: &Config, chain: &Chain) -> Result<(), CredentialError> {
        if self.invite.body.era != config.era {
            return Err(CredentialError::Era);
        }
        self.invite.verify(ns, config).map_err(|error| match error {
            InviteError::Era => CredentialError::Era,
            InviteError::Authority
            | InviteError::Signature
            | InviteError::Expired
            | InviteError::Limits
            | InviteError::NoAuthority => CredentialError::Invite,
        })?;
        self.entry.verify(ns, &self.invite.invite)?;
        let data_key = self.data_key.to_bytes();
        sign::verify(&self.entry.identity, Label::DataKey, ns, &data_key, &self.data_signature)
            .map_err(|_| CredentialError::DataKey)?;
        self.proof.verify(ns, &self.invite, &self.entry.identity, chain)
    }

    /// Checks the dates against a wall clock that can be right.
    pub fn verify_dates(&self, unix_s: u64) -> Result<(), CredentialError> {
        if self.invite.body.member_until != 0 && unix_s > self.invite.body.member_until {
            return Err(CredentialError::Expired);
        }
        if self.data_key.until != 0 && unix_s > self.data_key.until {
            return Err(CredentialError::DataKeyExpired);
        }
        Ok(())
    }
}

impl Wire for Credential {
    fn encode(&self, out: &mut Writer) {
        self.invite.body.encode(out);
        self.invite.signature.encode(out);
        MemberBody { invite: self.invite.invite, identity: self.entry.identity }.encode(out);
        self.entry.by_invite.encode(out);
        self.entry.by_identity.encode(out);
        self.proof.encode(out);
        self.data_key.encode(out);
        self.data_signature.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let body = InviteBody::decode(input)?;
        let signature = Signature::decode(input)?;
        let member = MemberBody::decode(input)?;
        Ok(Self {
            invite: SignedInvite { body, invite: member.invite, signature },
            entry: Entry {
                identity: member.identity,
                by_invite: Signature::decode(input)?,
                by_identity: Signature::decode(input)?,
            },
            proof: AdmissionProof::decode(input)?,
            data_key: DataKey::decode(input)?,
            data_signature: Signature::decode(input)?,
        })
    }
}
