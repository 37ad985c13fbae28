//! Invites: a small key pair with limits that the authority signed.
//!
//! Whoever holds the invite's secret may put identities into its slots; which identities got one is decided by the
//! register. Role, quota and dates come from here alone, so a member has nothing to forge.

use std::time::Duration;

use rand::CryptoRng;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::config::Config;
use crate::identity::{PublicKey, SecretKey};
use crate::sign::{self, Label, NamespaceId, Signature};
use crate::token::{Contact, MAX_ADDRESSES, MAX_CONTACTS, Pins, Token, invite_key};

/// Most uses of one invite: its register stays below 10 KiB, and its holder's choice of positions small.
pub const MAX_USES: u16 = 64;

/// How far a coordinator's wall clock may be ahead before it turns a still valid invite away.
const CLOCK_ALLOWANCE_S: u64 = 300;

/// What a member may do: bits that only an invite sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Roles(pub u16);

impl Roles {
    /// Holds addresses for itself.
    pub const MEMBER: Self = Self(1);
    /// Holds addresses for the hosts of a LAN.
    pub const ROUTER: Self = Self(2);
    /// May be chosen as a replica.
    pub const REPLICA: Self = Self(4);
    /// May carry others' traffic.
    pub const RELAY: Self = Self(8);
    /// Only looks.
    pub const OBSERVER: Self = Self(16);
    const ALL: u16 = 31;

    /// Whether every role of `other` is among these.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl Wire for Roles {
    fn encode(&self, out: &mut Writer) {
        out.u16(self.0);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let bits = input.u16()?;
        if bits & !Self::ALL != 0 || bits == 0 {
            return Err(DecodeError::Invalid("role"));
        }
        Ok(Self(bits))
    }
}

/// What an inviter may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A workstation: also replica and relay.
    Member,
    /// The head of a LAN: a member that also claims addresses for its hosts.
    Router,
}

impl Role {
    /// The bits that stand in the invite.
    pub fn roles(self) -> Roles {
        let member = Roles::MEMBER.0 | Roles::REPLICA.0 | Roles::RELAY.0;
        match self {
            Self::Member => Roles(member),
            Self::Router => Roles(member | Roles::ROUTER.0),
        }
    }
}

/// The limits of an invite: 56 bytes that the authority signs together with the invite's public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InviteBody {
    /// The era of the namespace.
    pub era: u32,
    /// Invites of an older epoch are void.
    pub invite_epoch: u32,
    /// How many identities it admits.
    pub uses: u16,
    /// What they may do.
    pub roles: Roles,
    /// How many addresses a router may hold for hosts.
    pub quota: u16,
    /// An owner of several nodes, for spreading replicas; 0 for none.
    pub group: u32,
    /// Seconds since 1970 after which no new identity is put into a slot.
    pub not_after: u64,
    /// Seconds since 1970 until which its members are members; 0 for no end.
    pub member_until: u64,
    /// The authority's randomness, from which serials and positions follow.
    pub nonce: [u8; 16],
    /// Which authority key signed.
    pub authority_index: u8,
}

const VERSION: u8 = 1;
const KIND: u8 = 0;

impl InviteBody {
    /// Bytes of a body.
    pub const LEN: usize = 56;
}

impl Wire for InviteBody {
    fn encode(&self, out: &mut Writer) {
        out.u8(VERSION);
        out.u8(KIND);
        out.u32(self.era);
        out.u32(self.invite_epoch);
        out.u16(self.uses);
        self.roles.encode(out);
        out.u16(self.quota);
        out.u32(self.group);
        out.u64(self.not_after);
        out.u64(self.member_until);
        out.raw(&self.nonce);
        out.u8(self.authority_index);
        out.raw(&[0; 3]);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if input.u8()? != VERSION {
            return Err(DecodeError::Invalid("invite version"));
        }
        if input.u8()? != KIND {
            return Err(DecodeError::Invalid("invite kind"));
        }
        let body = Self {
            era: input.u32()?,
            invite_epoch: input.u32()?,
            uses: input.u16()?,
            roles: Roles::decode(input)?,
            quota: input.u16()?,
            group: input.u32()?,
            not_after: input.u64()?,
            member_until: input.u64()?,
            nonce: input.array()?,
            authority_index: input.u8()?,
        };
        input.zeros(3)?;
        if body.uses == 0 || body.uses > MAX_USES {
            return Err(DecodeError::Invalid("number of uses"));
        }
        Ok(body)
    }
}

/// An invite as everybody may see it: limits, public key, the authority's signature. Admits nobody by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedInvite {
    /// The limits.
    pub body: InviteBody,
    /// The public key of the invite, which is also its name.
    pub invite: PublicKey,
    /// The authority's signature over both.
    pub signature: Signature,
}

/// Why an invite does not count.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum InviteError {
    /// The namespace was recovered or the authority voided its open invites.
    #[error("invite is of an older era of the namespace")]
    Era,
    /// No authority key of that place.
    #[error("invite is signed by no authority of the namespace")]
    Authority,
    /// The authority's signature does not hold.
    #[error("invite signature does not verify")]
    Signature,
    /// Too late.
    #[error("invite has expired")]
    Expired,
    /// Asked for more than an invite can give.
    #[error("an invite has 1 to 64 uses, 1 to 4 contacts with 1 to 3 addresses each, and ends within 100 years")]
    Limits,
    /// This machine does not hold the namespace's authority key.
    #[error("the authority key of this namespace is not on this machine")]
    NoAuthority,
}

impl SignedInvite {
    /// Signs limits for an invite key.
    pub fn new(ns: &NamespaceId, authority: &SecretKey, body: InviteBody, invite: PublicKey) -> Self {
        let signature = sign::sign(authority, Label::Invite, ns, &Self::message(&body, &invite));
        Self { body, invite, signature }
    }

    fn message(body: &InviteBody, invite: &PublicKey) -> Vec<u8> {
        let mut out = Writer::default();
        body.encode(&mut out);
        invite.encode(&mut out);
        out.into_bytes()
    }

    /// Checks era and signature: what everybody checks, always. Dates and epoch are for [`Self::may_append`].
    pub fn verify(&self, ns: &NamespaceId, config: &Config) -> Result<(), InviteError> {
        if self.body.era != config.era {
            return Err(InviteError::Era);
        }
        let authority = config.authority.get(usize::from(self.body.authority_index)).ok_or(InviteError::Authority)?;
        sign::verify(authority, Label::Invite, ns, &Self::message(&self.body, &self.invite), &self.signature)
            .map_err(|_| InviteError::Signature)
    }

    /// What a coordinator checks before it puts a *new* identity into a slot, and acceptors never do: Paxos may
    /// oblige them to carry an append that was valid when it was proposed.
    pub fn may_append(&self, config: &Config, unix_s: u64) -> Result<(), InviteError> {
        if self.body.invite_epoch != config.invite_epoch {
            return Err(InviteError::Era);
        }
        if unix_s > self.body.not_after.saturating_add(CLOCK_ALLOWANCE_S) {
            return Err(InviteError::Expired);
        }
        Ok(())
    }
}

impl Wire for SignedInvite {
    fn encode(&self, out: &mut Writer) {
        self.body.encode(out);
        self.invite.encode(out);
        self.signature.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            body: InviteBody::decode(input)?,
            invite: PublicKey::decode(input)?,
            signature: Signature::decode(input)?,
        })
    }
}

/// What an inviter asks for.
#[derive(Clone, Debug)]
pub struct InviteRequest {
    /// 1 to 64.
    pub uses: u16,
    /// How long new identities are put into its slots.
    pub ttl: Duration,
    /// What its members may do.
    pub role: Role,
    /// How many addresses a router may hold for hosts.
    pub hosts: u16,
    /// Whom a joiner asks first; the first ones are kept if not all fit.
    pub contacts: Vec<Contact>,
}

/// Longest life of an invite, so that its end is a sensible date.
const MAX_TTL: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Makes an invite. `views` is the hash over the newest views, which the joiner will want to see.
pub fn issue_invite(
    authority: &SecretKey,
    ns: &NamespaceId,
    config: &Config,
    views: [u8; 32],
    request: InviteRequest,
    rng: &mut impl CryptoRng,
    unix_s: u64,
) -> Result<Token, InviteError> {
    let InviteRequest { uses, ttl, role, hosts, contacts } = request;
    let addresses_fit = |contact: &Contact| (1..=MAX_ADDRESSES).contains(&contact.addresses.len());
    let sound = (1..=MAX_USES).contains(&uses)
        && ttl <= MAX_TTL
        && (1..=MAX_CONTACTS).contains(&contacts.len())
        && contacts.iter().all(addresses_fit);
    if !sound {
        return Err(InviteError::Limits);
    }
    let index = config.authority.iter().position(|key| *key == authority.public());
    let authority_index = index.and_then(|index| u8::try_from(index).ok()).ok_or(InviteError::NoAuthority)?;
    let not_after = unix_s.saturating_add(ttl.as_secs());
    let mut nonce = [0; 16];
    rng.fill_bytes(&mut nonce);
    let mut secret = Zeroizing::new([0; 16]);
    rng.fill_bytes(&mut *secret);
    let body = InviteBody {
        era: config.era,
        invite_epoch: config.invite_epoch,
        uses,
        roles: role.roles(),
        quota: match role {
            Role::Member => 0,
            Role::Router => hosts,
        },
        group: 0,
        not_after,
        member_until: match config.member_days {
            0 => 0,
            days => not_after.saturating_add(u64::from(days) * 86_400),
        },
        nonce,
        authority_index,
    };
    let invite = SignedInvite::new(ns, authority, body, invite_key(ns, &secret).public());
    let pins = Pins { list_number: 0, config: config.rank(), views, contacts };
    let mut token = Token::new(*ns, secret, &invite, pins);
    token.fit();
    Ok(token)
}
