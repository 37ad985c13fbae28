//! What replicas, and those that may become one, tell each other about views.

use super::Held;
use crate::ballot::Ballot;
use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::record::{RegisterKey, Scope};
use crate::sign::Signature;
use crate::slot::Standing;
use crate::stations::{decode_accepted, encode_accepted};
use crate::view::{MAX_SHARDS, View};

/// Most registers in one part of a snapshot.
const MAX_PAGE: usize = 256;
/// Digests in one message.
pub const BUCKETS: usize = 16;
/// Most registers of one bucket that are listed.
pub const MAX_BALLOTS: usize = 512;

/// About views, and who may be a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ViewMessage {
    /// Proposer to the members of a view: may this ballot end it? Phase 1.
    Prepare {
        /// The view that is to end.
        scope: Scope,
        /// How many votes the proposer's store has given, its own one on this among them. 0 to itself.
        votes: u64,
        /// The ballot.
        ballot: Ballot,
    },
    /// Member to proposer.
    Promise {
        /// The view that is to end.
        scope: Scope,
        /// Whose promise it is.
        store_id: [u8; 16],
        /// How many votes that store has given up to now.
        votes: u64,
        /// The ballot.
        ballot: Ballot,
        /// What was accepted before, or the higher ballot that was promised.
        verdict: Result<Option<(Ballot, View)>, Ballot>,
    },
    /// Proposer to the members of a view: this one is to follow. Phase 2.
    Accept {
        /// The view that is to end.
        scope: Scope,
        /// As in [`Prepare`](Self::Prepare).
        votes: u64,
        /// The ballot.
        ballot: Ballot,
        /// The view that is to follow.
        view: View,
    },
    /// Member to proposer: it serves the old view no more.
    Accepted {
        /// The view that is to end.
        scope: Scope,
        /// Whose vote it is.
        store_id: [u8; 16],
        /// How many votes that store has given up to now.
        votes: u64,
        /// The ballot.
        ballot: Ballot,
        /// The vote, or the higher ballot that was promised.
        verdict: Result<Signature, Ballot>,
    },
    /// Member of a new view to members of the old one, or of its own: what do you hold?
    AskSnapshot {
        /// The view whose registers are meant.
        scope: Scope,
        /// The view that the asker is to serve: the one after, or the same one.
        into: Scope,
        /// The register after which to go on.
        after: Option<RegisterKey>,
    },
    /// A part of what a replica holds, in the order of the registers.
    Snapshot {
        /// The view.
        scope: Scope,
        /// As in the question: a copy of a view that is served is no snapshot of one that is over.
        into: Scope,
        /// Whose it is.
        store_id: [u8; 16],
        /// As in the question.
        after: Option<RegisterKey>,
        /// Whether nothing comes after this.
        last: bool,
        /// The values.
        items: Vec<Held>,
    },
    /// To a replica: which is the newest view of this shard, and how far are you in it? Newer views than the one named here come
    /// along as [`Moved`](super::Message::Moved).
    AskStation {
        /// The newest view that the asker knows.
        scope: Scope,
    },
    /// A replica's place in the newest view that it knows.
    Station {
        /// The view.
        scope: Scope,
        /// Whose it is.
        store_id: [u8; 16],
        /// How far it has come.
        standing: Standing,
    },
    /// A node that may be a replica, to those that are: here I am.
    Presence {
        /// Its lease store.
        store_id: [u8; 16],
        /// How long its process runs, in seconds.
        uptime_s: u32,
        /// Others have reached it.
        reachable: bool,
        /// It would rather be a replica than not.
        willing: bool,
        /// It is about to stop for good.
        leaving: bool,
        /// It wants the same of the receiver, at once.
        answer: bool,
        /// Names the newest views that it knows, so that it is noticed if they differ.
        views: u64,
    },
    /// The newest views that the sender knows, for somebody who seems to know others.
    Heads {
        /// One for each shard.
        heads: Vec<Scope>,
    },
    /// Try whether you can reach me as a stranger would.
    DialMe,
    /// I could.
    DialledBack,
    /// Member to members: what I hold, in short.
    Digest {
        /// The view.
        scope: Scope,
        /// One number for each sixteenth of the registers.
        buckets: Vec<u64>,
    },
    /// The ballots of the registers of one such part, for a member whose number differs.
    Bucket {
        /// The view.
        scope: Scope,
        /// Which part.
        bucket: u8,
        /// Registers and the ballots of what is held in them.
        ballots: Vec<(RegisterKey, Ballot)>,
        /// Whether these are all that the sender holds of that part: then it wants to know where it lags behind.
        whole: bool,
    },
    /// After a start, before the first vote in a view, to its other members: how many votes of this store have you seen?
    AskVotes {
        /// The store.
        store_id: [u8; 16],
    },
    /// The answer.
    VotesSeen {
        /// The store.
        store_id: [u8; 16],
        /// The highest number that came with a vote.
        votes: u64,
        /// The highest round that the sender has seen: whoever runs rounds begins above it.
        round: u64,
    },
}

impl ViewMessage {
    fn tag(&self) -> u8 {
        match self {
            Self::Prepare { .. } => 1,
            Self::Promise { .. } => 2,
            Self::Accept { .. } => 3,
            Self::Accepted { .. } => 4,
            Self::AskSnapshot { .. } => 5,
            Self::Snapshot { .. } => 6,
            Self::AskStation { .. } => 7,
            Self::Station { .. } => 8,
            Self::Presence { .. } => 9,
            Self::DialMe => 10,
            Self::DialledBack => 11,
            Self::Digest { .. } => 12,
            Self::Bucket { .. } => 13,
            Self::AskVotes { .. } => 14,
            Self::VotesSeen { .. } => 15,
            Self::Heads { .. } => 16,
        }
    }
}

impl Wire for ViewMessage {
    #[expect(clippy::too_many_lines, reason = "one arm for each message")]
    fn encode(&self, out: &mut Writer) {
        out.u8(self.tag());
        match self {
            Self::Prepare { scope, votes, ballot } => {
                scope.encode(out);
                out.u64(*votes);
                ballot.encode(out);
            }
            Self::Promise { scope, store_id, votes, ballot, verdict } => {
                encode_vote(scope, store_id, *votes, ballot, out);
                out.u8(u8::from(verdict.is_ok()));
                match verdict {
                    Ok(accepted) => encode_accepted(accepted.as_ref(), out),
                    Err(promised) => promised.encode(out),
                }
            }
            Self::Accept { scope, votes, ballot, view } => {
                scope.encode(out);
                out.u64(*votes);
                ballot.encode(out);
                view.encode(out);
            }
            Self::Accepted { scope, store_id, votes, ballot, verdict } => {
                encode_vote(scope, store_id, *votes, ballot, out);
                out.u8(u8::from(verdict.is_ok()));
                match verdict {
                    Ok(signature) => signature.encode(out),
                    Err(promised) => promised.encode(out),
                }
            }
            Self::AskSnapshot { scope, into, after } => {
                scope.encode(out);
                into.encode(out);
                encode_after(after.as_ref(), out);
            }
            Self::Snapshot { scope, into, store_id, after, last, items } => {
                scope.encode(out);
                into.encode(out);
                out.raw(store_id);
                encode_after(after.as_ref(), out);
                out.u8(u8::from(*last));
                out.list(items);
            }
            Self::AskStation { scope } => scope.encode(out),
            Self::Station { scope, store_id, standing } => {
                scope.encode(out);
                out.raw(store_id);
                standing.encode(out);
            }
            Self::Presence { store_id, uptime_s, reachable, willing, leaving, answer, views } => {
                out.raw(store_id);
                out.u32(*uptime_s);
                for flag in [reachable, willing, leaving, answer] {
                    out.u8(u8::from(*flag));
                }
                out.u64(*views);
            }
            Self::Heads { heads } => out.list(heads),
            Self::Digest { scope, buckets } => {
                scope.encode(out);
                out.list(&buckets.iter().copied().map(Number).collect::<Vec<_>>());
            }
            Self::Bucket { scope, bucket, ballots, whole } => {
                scope.encode(out);
                out.u8(*bucket);
                out.u8(u8::from(*whole));
                out.list(&ballots.iter().cloned().map(|(key, ballot)| Line { key, ballot }).collect::<Vec<_>>());
            }
            Self::AskVotes { store_id } => out.raw(store_id),
            Self::VotesSeen { store_id, votes, round } => {
                out.raw(store_id);
                out.u64(*votes);
                out.u64(*round);
            }
            Self::DialMe | Self::DialledBack => {}
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each message")]
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match input.u8()? {
            1 => Self::Prepare { scope: Scope::decode(input)?, votes: input.u64()?, ballot: Ballot::decode(input)? },
            2 => {
                let (scope, store_id, votes, ballot) = decode_vote(input)?;
                let verdict =
                    if input.flag("verdict")? { Ok(decode_accepted(input)?) } else { Err(Ballot::decode(input)?) };
                Self::Promise { scope, store_id, votes, ballot, verdict }
            }
            3 => Self::Accept {
                scope: Scope::decode(input)?,
                votes: input.u64()?,
                ballot: Ballot::decode(input)?,
                view: View::decode(input)?,
            },
            4 => {
                let (scope, store_id, votes, ballot) = decode_vote(input)?;
                let verdict =
                    if input.flag("verdict")? { Ok(Signature::decode(input)?) } else { Err(Ballot::decode(input)?) };
                Self::Accepted { scope, store_id, votes, ballot, verdict }
            }
            5 => Self::AskSnapshot {
                scope: Scope::decode(input)?,
                into: Scope::decode(input)?,
                after: decode_after(input)?,
            },
            6 => Self::Snapshot {
                scope: Scope::decode(input)?,
                into: Scope::decode(input)?,
                store_id: input.array()?,
                after: decode_after(input)?,
                last: input.flag("snapshot")?,
                items: input.list(MAX_PAGE, "snapshot")?,
            },
            7 => Self::AskStation { scope: Scope::decode(input)? },
            8 => Self::Station {
                scope: Scope::decode(input)?,
                store_id: input.array()?,
                standing: Standing::decode(input)?,
            },
            9 => Self::Presence {
                store_id: input.array()?,
                uptime_s: input.u32()?,
                reachable: input.flag("presence")?,
                willing: input.flag("presence")?,
                leaving: input.flag("presence")?,
                answer: input.flag("presence")?,
                views: input.u64()?,
            },
            10 => Self::DialMe,
            11 => Self::DialledBack,
            12 => {
                let scope = Scope::decode(input)?;
                let buckets: Vec<Number> = input.list(BUCKETS, "digest")?;
                Self::Digest { scope, buckets: buckets.into_iter().map(|number| number.0).collect() }
            }
            13 => {
                let (scope, bucket, whole) = (Scope::decode(input)?, input.u8()?, input.flag("bucket")?);
                let lines: Vec<Line> = input.list(MAX_BALLOTS, "bucket")?;
                let ballots = lines.into_iter().map(|line| (line.key, line.ballot)).collect();
                Self::Bucket { scope, bucket, ballots, whole }
            }
            14 => Self::AskVotes { store_id: input.array()? },
            15 => Self::VotesSeen { store_id: input.array()?, votes: input.u64()?, round: input.u64()? },
            16 => Self::Heads { heads: input.list(usize::from(MAX_SHARDS), "list of views")? },
            _ => return Err(DecodeError::Invalid("kind of message about views")),
        })
    }
}

fn encode_vote(scope: &Scope, store_id: &[u8; 16], votes: u64, ballot: &Ballot, out: &mut Writer) {
    scope.encode(out);
    out.raw(store_id);
    out.u64(votes);
    ballot.encode(out);
}

fn decode_vote(input: &mut Reader<'_>) -> Result<(Scope, [u8; 16], u64, Ballot), DecodeError> {
    Ok((Scope::decode(input)?, input.array()?, input.u64()?, Ballot::decode(input)?))
}

fn encode_after(after: Option<&RegisterKey>, out: &mut Writer) {
    out.u8(u8::from(after.is_some()));
    if let Some(after) = after {
        after.encode(out);
    }
}

fn decode_after(input: &mut Reader<'_>) -> Result<Option<RegisterKey>, DecodeError> {
    input.flag("place")?.then(|| RegisterKey::decode(input)).transpose()
}

#[derive(Clone, Copy)]
struct Number(u64);

impl Wire for Number {
    fn encode(&self, out: &mut Writer) {
        out.u64(self.0);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(input.u64()?))
    }
}

struct Line {
    key: RegisterKey,
    ballot: Ballot,
}

impl Wire for Line {
    fn encode(&self, out: &mut Writer) {
        self.key.encode(out);
        self.ballot.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { key: RegisterKey::decode(input)?, ballot: Ballot::decode(input)? })
    }
}
