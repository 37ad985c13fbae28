//! What nodes of one namespace tell each other over an admitted connection.
//!
//! Messages are one-way and complete in themselves: any may be lost, late, doubled or overtaken. What belongs together is
//! recognised by ballot, operation number or read number. Every message about a register names the view it is meant for.

use crate::ballot::Ballot;
use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::identity::PublicKey;
use crate::record::{RegisterKey, Scope, SignedOp, Value};
use crate::redeem::{RedeemAnswer, RedeemRequest};
use crate::sign::Signature;
use crate::view::Successor;

/// Most bytes of a message.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// Most operations or keys in one message, so that the answers fit as well.
pub const MAX_BATCH: usize = 64;
/// Most bytes of one engine's message to another.
pub const MAX_SIGNAL: usize = 4096;
/// Most bytes of an encoded fetch.
const MAX_BLOB: usize = 60 * 1024;

/// A message between two nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Owner to coordinator: run these operations, at most one for each key.
    Ops {
        /// The view they are signed for.
        scope: Scope,
        /// The operations.
        ops: Vec<SignedOp>,
    },
    /// Coordinator to owner: what became of them.
    Results {
        /// The view that decided.
        scope: Scope,
        /// One for each operation that has come to an end.
        items: Vec<OpResult>,
    },
    /// Coordinator to members, phase 1.
    Prepare {
        /// The view.
        scope: Scope,
        /// The ballot of this round, for every key in it.
        ballot: Ballot,
        /// The keys.
        keys: Vec<RegisterKey>,
    },
    /// Member to coordinator.
    Promise {
        /// The view.
        scope: Scope,
        /// Whose vote it is.
        store_id: [u8; 16],
        /// The round's ballot.
        ballot: Ballot,
        /// One for each key.
        items: Vec<PromiseItem>,
    },
    /// Coordinator to members, phase 2.
    Accept {
        /// The view.
        scope: Scope,
        /// The ballot of this round.
        ballot: Ballot,
        /// The values.
        items: Vec<AcceptItem>,
    },
    /// Member to coordinator.
    Accepted {
        /// The view.
        scope: Scope,
        /// Whose vote it is.
        store_id: [u8; 16],
        /// The round's ballot.
        ballot: Ballot,
        /// One for each value.
        items: Vec<AcceptedItem>,
    },
    /// Anybody to members: what do you hold?
    Read {
        /// The view.
        scope: Scope,
        /// Comes back in the answer.
        id: u64,
        /// The register.
        key: RegisterKey,
    },
    /// Member to anybody.
    ReadReply {
        /// The view.
        scope: Scope,
        /// Whose answer it is.
        store_id: [u8; 16],
        /// Of the question.
        id: u64,
        /// The register.
        key: RegisterKey,
        /// What is held, with the member's signature under it.
        held: Option<ReadHeld>,
    },
    /// Anybody to a coordinator: members answered a read differently; run a round that makes them agree.
    Settle {
        /// The view.
        scope: Scope,
        /// The register.
        key: RegisterKey,
    },
    /// There are newer views than the one you named.
    Moved {
        /// In the order in which they follow each other.
        views: Vec<Successor>,
    },
    /// A newer certificate than the one you act upon.
    Supersede {
        /// The certificate.
        certificate: Vec<u8>,
    },
    /// Joiner to coordinator: give me a slot of this invite.
    Redeem(RedeemRequest),
    /// Coordinator to joiner.
    Redeemed(RedeemAnswer),
    /// What do you have signed by the authority?
    Fetch,
    /// Configuration, genesis and views, as membership spells them.
    Fetched {
        /// Opaque here.
        bytes: Vec<u8>,
    },
    /// From one engine to another.
    Signal {
        /// Opaque here.
        bytes: Vec<u8>,
    },
}

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
    pub verdict: Result<Signature, Ballot>,
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

impl Wire for Message {
    fn encode(&self, out: &mut Writer) {
        out.u8(self.tag());
        match self {
            Self::Ops { scope, ops } => {
                scope.encode(out);
                out.list(ops);
            }
            Self::Results { scope, items } => {
                scope.encode(out);
                out.list(items);
            }
            Self::Prepare { scope, ballot, keys } => {
                scope.encode(out);
                ballot.encode(out);
                out.list(keys);
            }
            Self::Promise { scope, store_id, ballot, items } => {
                encode_vote(scope, store_id, ballot, out);
                out.list(items);
            }
            Self::Accept { scope, ballot, items } => {
                scope.encode(out);
                ballot.encode(out);
                out.list(items);
            }
            Self::Accepted { scope, store_id, ballot, items } => {
                encode_vote(scope, store_id, ballot, out);
                out.list(items);
            }
            Self::Read { scope, id, key } => {
                scope.encode(out);
                out.u64(*id);
                key.encode(out);
            }
            Self::ReadReply { scope, store_id, id, key, held } => {
                scope.encode(out);
                out.raw(store_id);
                out.u64(*id);
                key.encode(out);
                encode_read(held.as_ref(), out);
            }
            Self::Settle { scope, key } => {
                scope.encode(out);
                key.encode(out);
            }
            Self::Moved { views } => out.list(views),
            Self::Supersede { certificate } => out.bytes(certificate),
            Self::Redeem(request) => request.encode(out),
            Self::Redeemed(answer) => answer.encode(out),
            Self::Fetch => {}
            Self::Fetched { bytes } | Self::Signal { bytes } => out.bytes(bytes),
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if input.remaining() > MAX_MESSAGE {
            return Err(DecodeError::TooLong("message"));
        }
        let tag = input.u8()?;
        if tag <= 9 {
            return Self::decode_scoped(tag, input);
        }
        Ok(match tag {
            10 => Self::Moved { views: input.list(MAX_BATCH, "list of views")? },
            11 => Self::Supersede {
                certificate: input.bytes(crate::certificate::MAX_CERTIFICATE, "certificate")?.to_vec(),
            },
            12 => Self::Redeem(RedeemRequest::decode(input)?),
            13 => Self::Redeemed(RedeemAnswer::decode(input)?),
            14 => Self::Fetch,
            15 => Self::Fetched { bytes: input.bytes(MAX_BLOB, "configuration")?.to_vec() },
            16 => Self::Signal { bytes: input.bytes(MAX_SIGNAL, "signal")?.to_vec() },
            _ => return Err(DecodeError::Invalid("kind of message")),
        })
    }
}

impl Message {
    fn tag(&self) -> u8 {
        match self {
            Self::Ops { .. } => 1,
            Self::Results { .. } => 2,
            Self::Prepare { .. } => 3,
            Self::Promise { .. } => 4,
            Self::Accept { .. } => 5,
            Self::Accepted { .. } => 6,
            Self::Read { .. } => 7,
            Self::ReadReply { .. } => 8,
            Self::Settle { .. } => 9,
            Self::Moved { .. } => 10,
            Self::Supersede { .. } => 11,
            Self::Redeem(_) => 12,
            Self::Redeemed(_) => 13,
            Self::Fetch => 14,
            Self::Fetched { .. } => 15,
            Self::Signal { .. } => 16,
        }
    }

    fn decode_scoped(tag: u8, input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let scope = Scope::decode(input)?;
        Ok(match tag {
            1 => Self::Ops { scope, ops: input.list(MAX_BATCH, "batch")? },
            2 => Self::Results { scope, items: input.list(MAX_BATCH, "batch")? },
            3 => Self::Prepare { scope, ballot: Ballot::decode(input)?, keys: input.list(MAX_BATCH, "batch")? },
            4 => Self::Promise {
                scope,
                store_id: input.array()?,
                ballot: Ballot::decode(input)?,
                items: input.list(MAX_BATCH, "batch")?,
            },
            5 => Self::Accept { scope, ballot: Ballot::decode(input)?, items: input.list(MAX_BATCH, "batch")? },
            6 => Self::Accepted {
                scope,
                store_id: input.array()?,
                ballot: Ballot::decode(input)?,
                items: input.list(MAX_BATCH, "batch")?,
            },
            7 => Self::Read { scope, id: input.u64()?, key: RegisterKey::decode(input)? },
            8 => Self::ReadReply {
                scope,
                store_id: input.array()?,
                id: input.u64()?,
                key: RegisterKey::decode(input)?,
                held: decode_read(input)?,
            },
            9 => Self::Settle { scope, key: RegisterKey::decode(input)? },
            _ => return Err(DecodeError::Invalid("kind of message")),
        })
    }
}

fn encode_vote(scope: &Scope, store_id: &[u8; 16], ballot: &Ballot, out: &mut Writer) {
    scope.encode(out);
    out.raw(store_id);
    ballot.encode(out);
}

fn encode_read(held: Option<&ReadHeld>, out: &mut Writer) {
    match held {
        None => out.u8(0),
        Some(read) => {
            out.u8(1);
            read.held.encode(out);
            read.signature.encode(out);
        }
    }
}

fn decode_read(input: &mut Reader<'_>) -> Result<Option<ReadHeld>, DecodeError> {
    if !input.flag("value")? {
        return Ok(None);
    }
    Ok(Some(ReadHeld { held: Held::decode(input)?, signature: Signature::decode(input)? }))
}
