//! By what right an owner takes over a lease that another one has, for the same client: a handover, or as a deputy.
//!
//! Both are for routers of one segment: the address stays with its client, what moves is who answers for it. Neither is
//! for an address that its owner itself uses.
//!
//! - Whoever hands over stops first, for good and on disk, and then signs. Its word counts against what it did before, and
//!   no longer once it has done anything since ([`Handover::op_seq`]).
//! - A deputy was named by the owner in the very lease that it takes over. The owner may be cut off, and answer for the address
//!   until its lease runs out: so long the address is kept for this client, whatever the deputy does with it
//!   ([`Record::shadow_ms`](crate::record::Record::shadow_ms)).

use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::command::{ClientId, LeaseKey};
use crate::env::Rules;
use crate::identity::{PublicKey, SecretKey};
use crate::record::{Op, Record, SignedOp};
use crate::sign::{self, BadSignature, Label, NamespaceId, Signature};

/// Most deputies of a lease.
pub const MAX_DEPUTIES: usize = 3;

/// An owner's consent that another takes a lease over. It says so for one key, one client and one taker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// The owner that stopped.
    pub from: PublicKey,
    /// The number of this act among its operations: above all before, so that any later one ends it.
    pub op_seq: u64,
    /// The owner's signature.
    pub signature: Signature,
}

impl Handover {
    /// Signed by an owner that uses the key no more.
    pub fn sign(ns: &NamespaceId, from: &SecretKey, to: &PublicKey, of: (&LeaseKey, ClientId), op_seq: u64) -> Self {
        let signature = sign::sign(from, Label::Handover, ns, &body(to, of, op_seq));
        Self { from: from.public(), op_seq, signature }
    }

    fn verify(&self, ns: &NamespaceId, to: &PublicKey, of: (&LeaseKey, ClientId)) -> Result<(), BadSignature> {
        sign::verify(&self.from, Label::Handover, ns, &body(to, of, self.op_seq), &self.signature)
    }
}

fn body(to: &PublicKey, (key, client): (&LeaseKey, ClientId), op_seq: u64) -> Vec<u8> {
    let mut out = Writer::default();
    to.encode(&mut out);
    key.encode(&mut out);
    out.raw(&client.0);
    out.u64(op_seq);
    out.into_bytes()
}

/// What a claim of a lease that another owner has rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Right {
    /// Nothing: granted only if nobody has it.
    None,
    /// The owner hands it over.
    Handed(Box<Handover>),
    /// The owner named this one as its deputy, in the operation with this number. A later one, which shows that the owner goes
    /// on, is not taken over.
    Deputy {
        /// Who has it.
        owner: PublicKey,
        /// The number of its operation.
        op_seq: u64,
    },
}

impl Right {
    /// Checks what is signed in it.
    pub(crate) fn verify(&self, ns: &NamespaceId, taker: &PublicKey, op: &Op) -> Result<(), BadSignature> {
        match self {
            Self::Handed(handover) => handover.verify(ns, taker, (&op.key, op.client)),
            Self::None | Self::Deputy { .. } => Ok(()),
        }
    }
}

/// Whether an operation may have what this record says another owner has, or has left behind for its client.
pub(crate) fn succeeds(rules: &Rules, record: &Record, op: &SignedOp) -> bool {
    let before = &record.request;
    if before.op.client != op.op.client {
        return false;
    }
    match &op.op.right {
        Right::None => false,
        Right::Handed(handover) => {
            let newest = before.op.op_seq < handover.op_seq || !rules.handover_compared;
            record.held() && handover.from == before.owner && newest
        }
        Right::Deputy { owner, op_seq } => {
            let named = before.op.deputies.contains(&op.owner);
            named && *owner == before.owner && (*op_seq == before.op.op_seq || !rules.deputy_names_lease)
        }
    }
}

impl Wire for Right {
    fn encode(&self, out: &mut Writer) {
        match self {
            Self::None => out.u8(0),
            Self::Handed(handover) => {
                let Handover { from, op_seq, signature } = &**handover;
                out.u8(1);
                from.encode(out);
                out.u64(*op_seq);
                signature.encode(out);
            }
            Self::Deputy { owner, op_seq } => {
                out.u8(2);
                owner.encode(out);
                out.u64(*op_seq);
            }
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match input.u8()? {
            0 => Ok(Self::None),
            1 => {
                let (from, op_seq) = (PublicKey::decode(input)?, input.u64()?);
                Ok(Self::Handed(Box::new(Handover { from, op_seq, signature: Signature::decode(input)? })))
            }
            2 => Ok(Self::Deputy { owner: PublicKey::decode(input)?, op_seq: input.u64()? }),
            _ => Err(DecodeError::Invalid("right")),
        }
    }
}
