//! The parts of messages: one operation, key or value of a batch.

use crate::ballot::Ballot;
use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::identity::PublicKey;
use crate::record::{RegisterKey, Value};
use crate::sign::Signature;

/// What became of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpResult {
    /// Of the operation.
    pub op_seq: u64,
    /// Of the operation.
    pub nonce: u64,
    /// What it was about.
    pub key: RegisterKey,
    /// The result.
    pub outcome: Outcome,
}

/// The result of an operation. All but `Granted` are hints: the value they rest on may come to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The certificate of the lease.
    Granted(Vec<u8>),
    /// It is free, or was not held.
    Released,
    /// Somebody else has it.
    Taken {
        /// Who.
        owner: PublicKey,
        /// For how long at most unless it is renewed, in milliseconds.
        remaining_ms: u64,
        /// A bit for each address of the block that seems to be in use; empty for names.
        used: Vec<u8>,
    },
    /// A renewal of what is no longer this client's.
    Lost,
    /// An operation with this number or a higher one of the same owner was there before.
    Stale {
        /// The highest number.
        last: u64,
    },
    /// Nothing was decided: too few replicas answered, or too many wrote at once.
    Retry {
        /// The places of those that did not answer.
        silent: Vec<u8>,
    },
    /// It will never be granted.
    Refused(RefusedOp),
}

/// Why an operation is not run at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RefusedOp {
    /// Outside the range, reserved, or pinned to another member.
    NotClaimable,
    /// The owner holds as much as its invite allows.
    Quota,
    /// The owner was not admitted according to its invite's register.
    NotAdmitted,
    /// The replica has no room for more keys.
    Full,
}

/// A member's answer to a Prepare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromiseItem {
    /// The register.
    pub key: RegisterKey,
    /// The promise, or the higher ballot that was promised before.
    pub verdict: Result<Held, Ballot>,
}

/// What a member holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The ballot of the value, neutral if there is none.
    pub ballot: Ballot,
    /// The value.
    pub value: Option<Value>,
    /// For how long it was held, in milliseconds.
    pub elapsed_ms: u64,
}

/// A value to accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptItem {
    /// The value.
    pub value: Value,
    /// For how long it was held already, in milliseconds.
    pub elapsed_ms: u64,
}

/// A member's answer to an Accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedItem {
    /// The register.
    pub key: RegisterKey,
    /// The vote, or the higher ballot that was promised before.
    pub verdict: Result<AcceptedVote, Ballot>,
}

/// A member's vote for a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedVote {
    /// What it signed.
    pub signature: Signature,
    /// It has also promised the next ballot that was asked for.
    pub promised_next: bool,
}

/// A member's answer to a Read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadHeld {
    /// What it holds.
    pub held: Held,
    /// Its vote for that.
    pub signature: Signature,
}

impl Wire for Held {
    fn encode(&self, out: &mut Writer) {
        self.ballot.encode(out);
        match &self.value {
            None => out.u8(0),
            Some(value) => {
                out.u8(1);
                value.encode(out);
            }
        }
        out.u64(self.elapsed_ms);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            ballot: Ballot::decode(input)?,
            value: input.flag("value")?.then(|| Value::decode(input)).transpose()?,
            elapsed_ms: input.u64()?,
        })
    }
}

fn encode_verdict<T: Wire>(verdict: &Result<T, Ballot>, out: &mut Writer) {
    match verdict {
        Ok(yes) => {
            out.u8(1);
            yes.encode(out);
        }
        Err(promised) => {
            out.u8(0);
            promised.encode(out);
        }
    }
}

fn decode_verdict<T: Wire>(input: &mut Reader<'_>) -> Result<Result<T, Ballot>, DecodeError> {
    if input.flag("verdict")? { Ok(Ok(T::decode(input)?)) } else { Ok(Err(Ballot::decode(input)?)) }
}

impl Wire for AcceptedVote {
    fn encode(&self, out: &mut Writer) {
        self.signature.encode(out);
        out.u8(u8::from(self.promised_next));
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { signature: Signature::decode(input)?, promised_next: input.flag("promise")? })
    }
}

impl Wire for PromiseItem {
    fn encode(&self, out: &mut Writer) {
        self.key.encode(out);
        encode_verdict(&self.verdict, out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { key: RegisterKey::decode(input)?, verdict: decode_verdict(input)? })
    }
}

impl Wire for AcceptItem {
    fn encode(&self, out: &mut Writer) {
        self.value.encode(out);
        out.u64(self.elapsed_ms);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { value: Value::decode(input)?, elapsed_ms: input.u64()? })
    }
}

impl Wire for AcceptedItem {
    fn encode(&self, out: &mut Writer) {
        self.key.encode(out);
        encode_verdict(&self.verdict, out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { key: RegisterKey::decode(input)?, verdict: decode_verdict(input)? })
    }
}

impl Wire for OpResult {
    fn encode(&self, out: &mut Writer) {
        out.u64(self.op_seq);
        out.u64(self.nonce);
        self.key.encode(out);
        self.outcome.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            op_seq: input.u64()?,
            nonce: input.u64()?,
            key: RegisterKey::decode(input)?,
            outcome: Outcome::decode(input)?,
        })
    }
}

impl Wire for Outcome {
    fn encode(&self, out: &mut Writer) {
        match self {
            Self::Granted(certificate) => {
                out.u8(1);
                out.bytes(certificate);
            }
            Self::Released => out.u8(2),
            Self::Taken { owner, remaining_ms, used } => {
                out.u8(3);
                owner.encode(out);
                out.u64(*remaining_ms);
                out.bytes(used);
            }
            Self::Lost => out.u8(4),
            Self::Stale { last } => {
                out.u8(5);
                out.u64(*last);
            }
            Self::Retry { silent } => {
                out.u8(6);
                out.bytes(silent);
            }
            Self::Refused(why) => {
                out.u8(7);
                out.u8(*why as u8);
            }
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match input.u8()? {
            1 => Self::Granted(input.bytes(crate::certificate::MAX_CERTIFICATE, "certificate")?.to_vec()),
            2 => Self::Released,
            3 => Self::Taken {
                owner: PublicKey::decode(input)?,
                remaining_ms: input.u64()?,
                used: input.bytes(32, "map of the block")?.to_vec(),
            },
            4 => Self::Lost,
            5 => Self::Stale { last: input.u64()? },
            6 => Self::Retry { silent: input.bytes(crate::view::MAX_MEMBERS, "list of members")?.to_vec() },
            7 => Self::Refused(match input.u8()? {
                0 => RefusedOp::NotClaimable,
                1 => RefusedOp::Quota,
                2 => RefusedOp::NotAdmitted,
                3 => RefusedOp::Full,
                _ => return Err(DecodeError::Invalid("refusal")),
            }),
            _ => return Err(DecodeError::Invalid("result")),
        })
    }
}
