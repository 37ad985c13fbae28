//! What nodes of one namespace tell each other over an admitted connection.
//!
//! Messages are one-way and complete in themselves: any may be lost, late, doubled or overtaken. What belongs together is
//! recognised by ballot, operation number or read number. Every message about a register names the view it is meant for.

mod item;
mod view;

use crate::ballot::Ballot;
use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::identity::PublicKey;
use crate::letter::MAX_LETTER;
use crate::record::{RegisterKey, Scope, SignedOp};
use crate::redeem::{RedeemAnswer, RedeemRequest};
use crate::sign::Signature;
use crate::view::Successor;
use crate::view::page::MAX_VIEWS;

pub use item::{AcceptItem, AcceptedItem, AcceptedVote, Held, OpResult, Outcome, PromiseItem, ReadHeld, RefusedOp};

pub use view::{BUCKETS, MAX_BALLOTS, ViewMessage};

/// Most bytes of a message.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// Most operations or keys in one message, so that the answers fit as well.
pub const MAX_BATCH: usize = 200;
/// Most results in one message: each may carry a certificate.
pub const MAX_RESULTS: usize = 64;
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
        /// The coordinator's store.
        store_id: [u8; 16],
        /// How many votes that store has given up to now.
        votes: u64,
        /// One for each operation that has come to an end.
        items: Vec<OpResult>,
    },
    /// Coordinator to members, phase 1.
    Prepare {
        /// The view.
        scope: Scope,
        /// How many votes the coordinator's store has given, its own one on this among them. 0 to itself.
        votes: u64,
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
        /// How many votes that store has given up to now.
        votes: u64,
        /// The round's ballot.
        ballot: Ballot,
        /// One for each key.
        items: Vec<PromiseItem>,
    },
    /// Coordinator to members, phase 2.
    Accept {
        /// The view.
        scope: Scope,
        /// As in [`Prepare`](Self::Prepare).
        votes: u64,
        /// The ballot of this round.
        ballot: Ballot,
        /// The round of a ballot to be promised along with the vote, for the operation that comes next; 0 for none.
        next_round: u64,
        /// The values.
        items: Vec<AcceptItem>,
    },
    /// Member to coordinator.
    Accepted {
        /// The view.
        scope: Scope,
        /// Whose vote it is.
        store_id: [u8; 16],
        /// How many votes that store has given up to now.
        votes: u64,
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
        /// In the order in which they follow each other, as many as fit. Whoever still lacks some asks again.
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
    /// About views, and who may be a replica.
    View(ViewMessage),
    /// To a member that is connected with the reader: pass this on.
    Pass {
        /// The reader.
        to: PublicKey,
        /// Opaque to whoever passes it on.
        letter: Vec<u8>,
    },
    /// What somebody asked to be passed on.
    Passed {
        /// Who wrote it, as whoever passes it on says.
        from: PublicKey,
        /// Proves by itself who wrote it.
        letter: Vec<u8>,
    },
}

impl Wire for Message {
    fn encode(&self, out: &mut Writer) {
        out.u8(self.tag());
        match self {
            Self::Ops { scope, ops } => {
                scope.encode(out);
                out.list(ops);
            }
            Self::Results { scope, store_id, votes, items } => {
                scope.encode(out);
                out.raw(store_id);
                out.u64(*votes);
                out.list(items);
            }
            Self::Prepare { scope, votes, ballot, keys } => {
                scope.encode(out);
                out.u64(*votes);
                ballot.encode(out);
                out.list(keys);
            }
            Self::Promise { scope, store_id, votes, ballot, items } => {
                encode_vote(scope, store_id, *votes, ballot, out);
                out.list(items);
            }
            Self::Accept { scope, votes, ballot, next_round, items } => {
                scope.encode(out);
                out.u64(*votes);
                ballot.encode(out);
                out.u64(*next_round);
                out.list(items);
            }
            Self::Accepted { scope, store_id, votes, ballot, items } => {
                encode_vote(scope, store_id, *votes, ballot, out);
                out.list(items);
            }
            Self::Read { scope, id, key } => encode_read_of(scope, *id, key, out),
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
            Self::Redeem(request) => request.encode(out),
            Self::Redeemed(answer) => answer.encode(out),
            Self::Fetch => {}
            Self::Supersede { certificate: bytes } | Self::Fetched { bytes } | Self::Signal { bytes } => {
                out.bytes(bytes)
            }
            Self::Pass { to: member, letter } | Self::Passed { from: member, letter } => {
                encode_letter(member, letter, out);
            }
            Self::View(message) => message.encode(out),
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
            10 => Self::Moved { views: input.list(MAX_VIEWS, "list of views")? },
            11 => Self::Supersede {
                certificate: input.bytes(crate::certificate::MAX_CERTIFICATE, "certificate")?.to_vec(),
            },
            12 => Self::Redeem(RedeemRequest::decode(input)?),
            13 => Self::Redeemed(RedeemAnswer::decode(input)?),
            14 => Self::Fetch,
            15 => Self::Fetched { bytes: input.bytes(MAX_BLOB, "configuration")?.to_vec() },
            16 => Self::Signal { bytes: input.bytes(MAX_SIGNAL, "signal")?.to_vec() },
            18 => Self::Pass { to: PublicKey::decode(input)?, letter: input.bytes(MAX_LETTER, "letter")?.to_vec() },
            19 => Self::Passed { from: PublicKey::decode(input)?, letter: input.bytes(MAX_LETTER, "letter")?.to_vec() },
            17 => Self::View(ViewMessage::decode(input)?),
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
            Self::Pass { .. } => 18,
            Self::Passed { .. } => 19,
            Self::View(_) => 17,
        }
    }

    fn decode_scoped(tag: u8, input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let scope = Scope::decode(input)?;
        Ok(match tag {
            1 => Self::Ops { scope, ops: input.list(MAX_BATCH, "batch")? },
            2 => Self::Results {
                scope,
                store_id: input.array()?,
                votes: input.u64()?,
                items: input.list(MAX_BATCH, "batch")?,
            },
            3 => Self::Prepare {
                scope,
                votes: input.u64()?,
                ballot: Ballot::decode(input)?,
                keys: input.list(MAX_BATCH, "batch")?,
            },
            4 => Self::Promise {
                scope,
                store_id: input.array()?,
                votes: input.u64()?,
                ballot: Ballot::decode(input)?,
                items: input.list(MAX_BATCH, "batch")?,
            },
            5 => Self::Accept {
                scope,
                votes: input.u64()?,
                ballot: Ballot::decode(input)?,
                next_round: input.u64()?,
                items: input.list(MAX_BATCH, "batch")?,
            },
            6 => Self::Accepted {
                scope,
                store_id: input.array()?,
                votes: input.u64()?,
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

fn encode_read_of(scope: &Scope, id: u64, key: &RegisterKey, out: &mut Writer) {
    scope.encode(out);
    out.u64(id);
    key.encode(out);
}

fn encode_letter(member: &PublicKey, letter: &[u8], out: &mut Writer) {
    member.encode(out);
    out.bytes(letter);
}

fn encode_vote(scope: &Scope, store_id: &[u8; 16], votes: u64, ballot: &Ballot, out: &mut Writer) {
    scope.encode(out);
    out.raw(store_id);
    out.u64(votes);
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
