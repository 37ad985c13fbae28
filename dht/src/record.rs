//! What a register holds: the lease that an owner asked for in its own signed words, or the slots of an invite.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::command::{ClientId, LeaseKey};
use crate::config::{Config, valid_label};
use crate::identity::{PublicKey, SecretKey};
use crate::invite::SignedInvite;
use crate::redeem::{self, Redeemed};
use crate::right::{MAX_DEPUTIES, Right};
use crate::sign::{self, BadSignature, Label, NamespaceId, Signature};
use crate::view::{KeyKind, View};

/// Shortest lease that can be asked for.
pub const MIN_LEASE: Duration = Duration::from_secs(1);

/// Added to every guard: what reading two clocks and rounding to milliseconds may cost.
const TICK: Duration = Duration::from_secs(1);

/// How long a replica keeps a lease of this duration: with every clock wrong by `rho`, the owner's has run out by then.
pub fn guard(dur: Duration, rho_ppm: u32) -> Duration {
    let rho = u128::from(rho_ppm);
    let millis = dur.as_millis() * (1_000_000 + rho) / (1_000_000 - rho).max(1);
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)).saturating_add(TICK)
}

/// The one spelling of a host name in which it is a key: lower case, one label, no trailing dot.
pub fn normal_name(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    valid_label(&name).then_some(name)
}

/// The key of a register.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RegisterKey {
    /// A lease, which expires.
    Lease(LeaseKey),
    /// The slots of this invite, which never do.
    Redeem(PublicKey),
}

impl RegisterKey {
    /// What the register is about.
    pub fn kind(&self) -> KeyKind {
        match self {
            Self::Lease(LeaseKey::Address(_)) => KeyKind::Address,
            Self::Lease(LeaseKey::Name(_)) => KeyKind::Name,
            Self::Redeem(_) => KeyKind::Redeem,
        }
    }

    /// The key within its kind, as it is signed.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Lease(LeaseKey::Address(ip)) => ip.octets().to_vec(),
            Self::Lease(LeaseKey::Name(name)) => name.as_bytes().to_vec(),
            Self::Redeem(invite) => invite.0.to_vec(),
        }
    }

    /// The shard that decides about it. All addresses of a block share one, so that a router's are one batch.
    pub fn shard(&self, ns: &NamespaceId, config: &Config) -> u16 {
        let hash = match self {
            Self::Lease(LeaseKey::Address(ip)) => {
                let block = u32::from(*ip) / u32::from(config.block);
                sign::hash("shard", &[&ns.0, b"ip", &block.to_be_bytes()])
            }
            Self::Lease(LeaseKey::Name(name)) => sign::hash("shard", &[&ns.0, b"name", name.as_bytes()]),
            Self::Redeem(invite) => return redeem::shard_of(ns, invite, config.shards),
        };
        u16::from_be_bytes([hash[0], hash[1]]) % config.shards.max(1)
    }
}

impl Wire for LeaseKey {
    fn encode(&self, out: &mut Writer) {
        match self {
            Self::Address(ip) => {
                KeyKind::Address.encode(out);
                out.raw(&ip.octets());
            }
            Self::Name(name) => {
                KeyKind::Name.encode(out);
                out.bytes(name.as_bytes());
            }
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match KeyKind::decode(input)? {
            KeyKind::Address => Ok(Self::Address(Ipv4Addr::from(input.array::<4>()?))),
            KeyKind::Name => Ok(Self::Name(decode_name(input)?)),
            KeyKind::Redeem => Err(DecodeError::Invalid("kind of key")),
        }
    }
}

fn decode_name(input: &mut Reader<'_>) -> Result<String, DecodeError> {
    let name = input.text(63, "name")?;
    if !valid_label(name) {
        return Err(DecodeError::Invalid("name"));
    }
    Ok(name.to_owned())
}

impl Wire for RegisterKey {
    fn encode(&self, out: &mut Writer) {
        match self {
            Self::Lease(key) => key.encode(out),
            Self::Redeem(invite) => {
                KeyKind::Redeem.encode(out);
                invite.encode(out);
            }
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut ahead = input.clone();
        if KeyKind::decode(&mut ahead)? != KeyKind::Redeem {
            return Ok(Self::Lease(LeaseKey::decode(input)?));
        }
        *input = ahead;
        Ok(Self::Redeem(PublicKey::decode(input)?))
    }
}

/// The view that a message is about. One that is not the newest is answered with the views the sender lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope {
    /// How often the shard was founded again.
    pub incarnation: u32,
    /// The shard.
    pub shard: u16,
    /// The number of the view.
    pub view: u64,
}

impl Scope {
    /// The scope of a view.
    pub fn of(view: &View) -> Self {
        Self { incarnation: view.incarnation, shard: view.shard, view: view.number }
    }
}

impl Wire for Scope {
    fn encode(&self, out: &mut Writer) {
        // The lineage: a namespace with an authority has exactly one.
        out.u8(0);
        out.u32(self.incarnation);
        out.u16(self.shard);
        out.u64(self.view);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.zeros(1)?;
        Ok(Self { incarnation: input.u32()?, shard: input.u16()?, view: input.u64()? })
    }
}

/// What an owner wants of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// Have it, if it is free or held by the same client.
    Claim,
    /// Go on with it, if it is held by the same client.
    Renew,
    /// Give it back.
    Release,
}

impl Wire for OpKind {
    fn encode(&self, out: &mut Writer) {
        out.u8(match self {
            Self::Claim => 1,
            Self::Renew => 2,
            Self::Release => 3,
        });
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match input.u8()? {
            1 => Ok(Self::Claim),
            2 => Ok(Self::Renew),
            3 => Ok(Self::Release),
            _ => Err(DecodeError::Invalid("kind of operation")),
        }
    }
}

/// Where the other half of an (address, name) pair is: the owner's word, to be checked against that other register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Nothing is said.
    None,
    /// The client's address.
    Address(Ipv4Addr),
    /// The client's name.
    Name(String),
}

impl Wire for Hint {
    fn encode(&self, out: &mut Writer) {
        match self {
            Self::None => out.u8(0),
            Self::Address(ip) => {
                out.u8(1);
                out.raw(&ip.octets());
            }
            Self::Name(name) => {
                out.u8(2);
                out.bytes(name.as_bytes());
            }
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match input.u8()? {
            0 => Ok(Self::None),
            1 => Ok(Self::Address(Ipv4Addr::from(input.array::<4>()?))),
            2 => Ok(Self::Name(decode_name(input)?)),
            _ => Err(DecodeError::Invalid("hint")),
        }
    }
}

/// An operation of an owner on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// The view it is meant for: in a later one it counts only if its owner signs it again.
    pub scope: Scope,
    /// What is wanted.
    pub kind: OpKind,
    /// Of what.
    pub key: LeaseKey,
    /// For whom behind the owner.
    pub client: ClientId,
    /// Rises with every operation of this owner, also over restarts.
    pub op_seq: u64,
    /// Tells a retry from another operation that was given the same number by mistake.
    pub nonce: u64,
    /// How long, in milliseconds.
    pub dur_ms: u64,
    /// The other half of the pair.
    pub hint: Hint,
    /// By what right it is claimed, if another owner has it.
    pub right: Right,
    /// Who may take it over for the same client, at most [`MAX_DEPUTIES`].
    pub deputies: Vec<PublicKey>,
}

impl Wire for Op {
    fn encode(&self, out: &mut Writer) {
        self.scope.encode(out);
        self.kind.encode(out);
        self.key.encode(out);
        out.raw(&self.client.0);
        out.u64(self.op_seq);
        out.u64(self.nonce);
        out.u64(self.dur_ms);
        self.hint.encode(out);
        self.right.encode(out);
        out.list(&self.deputies);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            scope: Scope::decode(input)?,
            kind: OpKind::decode(input)?,
            key: LeaseKey::decode(input)?,
            client: ClientId(input.array()?),
            op_seq: input.u64()?,
            nonce: input.u64()?,
            dur_ms: input.u64()?,
            hint: Hint::decode(input)?,
            right: Right::decode(input)?,
            deputies: input.list(MAX_DEPUTIES, "deputies")?,
        })
    }
}

/// An operation that its owner signed. Each is signed by itself, so that the record made from it proves itself
/// without the rest of the batch it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedOp {
    /// Who wants it.
    pub owner: PublicKey,
    /// What.
    pub op: Op,
    /// The owner's signature.
    pub signature: Signature,
}

impl SignedOp {
    /// Signs an operation.
    pub fn sign(ns: &NamespaceId, owner: &SecretKey, op: Op) -> Self {
        let signature = sign::sign(owner, Label::Op, ns, &op.to_bytes());
        Self { owner: owner.public(), op, signature }
    }

    /// Checks the owner's signature, and that of a former owner who hands over.
    pub fn verify(&self, ns: &NamespaceId) -> Result<(), BadSignature> {
        sign::verify(&self.owner, Label::Op, ns, &self.op.to_bytes(), &self.signature)?;
        self.op.right.verify(ns, &self.owner, &self.op)
    }

    /// Whether both are the same operation, possibly signed for different views.
    pub fn is_retry_of(&self, other: &Self) -> bool {
        self.owner == other.owner && (self.op.op_seq, self.op.nonce) == (other.op.op_seq, other.op.nonce)
    }
}

impl Wire for SignedOp {
    fn encode(&self, out: &mut Writer) {
        self.owner.encode(out);
        self.op.encode(out);
        self.signature.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { owner: PublicKey::decode(input)?, op: Op::decode(input)?, signature: Signature::decode(input)? })
    }
}

/// The state of a lease: the operation that made it, and what the coordinator made of its duration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The owner's operation.
    pub request: SignedOp,
    /// The granted duration in milliseconds: what owner and replicas count, never the one that was asked for.
    pub dur_ms: u64,
    /// For how many milliseconds a former owner may yet answer for the key, whose deputy took it over. So long no other client
    /// gets it, not even after a release.
    pub shadow_ms: u64,
}

impl Record {
    /// Whether somebody has it. A record that is not held fences off operations older than the release.
    pub fn held(&self) -> bool {
        self.request.op.kind != OpKind::Release
    }
    /// Who has it, or had it last.
    pub fn owner(&self) -> PublicKey {
        self.request.owner
    }
    /// The granted duration.
    pub fn dur(&self) -> Duration {
        Duration::from_millis(self.dur_ms)
    }
    /// For how long a former owner may yet answer for the key.
    pub fn shadow(&self) -> Duration {
        Duration::from_millis(self.shadow_ms)
    }
    /// What replicas sign.
    pub fn hash(&self) -> [u8; 32] {
        sign::hash("record", &[&self.to_bytes()])
    }
}

impl Wire for Record {
    fn encode(&self, out: &mut Writer) {
        self.request.encode(out);
        out.u64(self.dur_ms);
        out.u64(self.shadow_ms);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { request: SignedOp::decode(input)?, dur_ms: input.u64()?, shadow_ms: input.u64()? })
    }
}

/// The slots of an invite with the invite itself, so that every acceptor can check the value on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots {
    /// The invite.
    pub invite: SignedInvite,
    /// Who has its slots.
    pub redeemed: Redeemed,
}

impl Wire for Slots {
    fn encode(&self, out: &mut Writer) {
        self.invite.encode(out);
        self.redeemed.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { invite: SignedInvite::decode(input)?, redeemed: Redeemed::decode(input)? })
    }
}

/// The value of a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A lease.
    Lease(Record),
    /// An invite's slots.
    Slots(Slots),
}

impl Value {
    /// What replicas sign.
    pub fn hash(&self) -> [u8; 32] {
        match self {
            Self::Lease(record) => record.hash(),
            Self::Slots(slots) => slots.redeemed.digest(&slots.invite.invite),
        }
    }

    /// The register this is a value of.
    pub fn key(&self) -> RegisterKey {
        match self {
            Self::Lease(record) => RegisterKey::Lease(record.request.op.key.clone()),
            Self::Slots(slots) => RegisterKey::Redeem(slots.invite.invite),
        }
    }

    /// What every acceptor checks: that whoever is named in it asked for it. Never dates: this may be an old value
    /// that a coordinator is obliged to carry on.
    pub fn verify(&self, ns: &NamespaceId, config: &Config) -> bool {
        match self {
            Self::Lease(record) => {
                (MIN_LEASE..=config.max_lease()).contains(&record.dur())
                    && record.shadow() <= guard(config.max_lease(), config.rho_ppm)
                    && record.request.verify(ns).is_ok()
            }
            Self::Slots(slots) => slots.redeemed.verify(ns, &slots.invite, config).is_ok(),
        }
    }
}

impl Wire for Value {
    fn encode(&self, out: &mut Writer) {
        match self {
            Self::Lease(record) => {
                out.u8(1);
                record.encode(out);
            }
            Self::Slots(slots) => {
                out.u8(2);
                slots.encode(out);
            }
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match input.u8()? {
            1 => Ok(Self::Lease(Record::decode(input)?)),
            2 => Ok(Self::Slots(Slots::decode(input)?)),
            _ => Err(DecodeError::Invalid("kind of value")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_normal_form() {
        assert_eq!(normal_name("Lab."), Some("lab".to_owned()));
        assert_eq!(normal_name("lab"), Some("lab".to_owned()));
        for bad in ["", ".", "a.b", "-a", "a-", "a_b", "ä", &"a".repeat(64)] {
            assert_eq!(normal_name(bad), None, "{bad}");
        }
        // On the wire there is no other spelling either.
        let mut out = Writer::default();
        KeyKind::Name.encode(&mut out);
        out.bytes(b"Lab");
        assert_eq!(LeaseKey::from_bytes(&out.into_bytes()), Err(DecodeError::Invalid("name")));
    }

    #[test]
    fn the_guard_outlasts_an_owner_whose_clock_is_slow_by_rho_on_a_replica_whose_clock_is_fast_by_rho() {
        assert_eq!(guard(Duration::from_secs(7200), 10_000), Duration::from_millis(7_345_454 + 1000));
        let (dur, rho) = (86_400.0, 0.01);
        let owner_stops_at = dur / (1.0 - rho);
        let replica_frees_at = guard(Duration::from_secs(86_400), 10_000).as_secs_f64() / (1.0 + rho);
        assert!(replica_frees_at > owner_stops_at);
    }
}
