//! What a namespace tells its node, and what it wants done.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;
use thiserror::Error;

use crate::ballot::Token;
use crate::certificate::CertError;
use crate::clock::OwnerTime;
use crate::command::{ClientId, CommandId, LeaseKey};
pub use crate::invite::InviteError;
use crate::namespace::Summary;
use crate::recovery::{RecoverError, RecoveryPlan};

/// One change of the store: a key, and its value or its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The key.
    pub key: Vec<u8>,
    /// `None` erases the key.
    pub value: Option<Vec<u8>>,
}

/// What the state machine wants done. Strictly ordered: everything after a [`Persist`](Self::Persist) may be acted
/// upon only when its writes are on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Write all of these, or none, and sync.
    Persist(Vec<Write>),
    /// Deliver a message. It may get lost, late, or arrive twice.
    Send {
        /// To whom; possibly not connected yet.
        to: PeerId,
        /// At most 64 KiB.
        message: Vec<u8>,
    },
    /// Open the namespace's protocols to this peer.
    Admit {
        /// Which peer.
        peer: PeerId,
        /// How far.
        level: Level,
    },
    /// Close the connection of this peer.
    Refuse {
        /// Which peer.
        peer: PeerId,
        /// For the log; the peer is told nothing.
        reason: Refusal,
    },
    /// Connect to this peer.
    Dial {
        /// Which peer.
        peer: PeerId,
        /// Where its libp2p listens. Empty: look it up.
        addrs: Vec<SocketAddr>,
    },
    /// Store a hint in Kademlia.
    Publish {
        /// SHA-1 of the namespace, `:` and the address; or the hash that names a shard's views.
        key: Vec<u8>,
        /// The lease's certificate, or the newest view's.
        value: Vec<u8>,
    },
    /// Ask Kademlia for the hint under this key; what is found goes to
    /// [`Namespace::handle_hint`](crate::Namespace::handle_hint).
    Seek {
        /// As for [`Publish`](Self::Publish).
        key: Vec<u8>,
    },
    /// Try whether a stranger would reach this peer: a new connection from a port that it has never seen, to the addresses
    /// known of it. The outcome goes to [`Namespace::handle_dialled_back`](crate::Namespace::handle_dialled_back).
    DialBack {
        /// Which peer; it has an open connection.
        peer: PeerId,
    },
    /// Tell the node.
    Event(Event),
}

/// How far a peer is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    Member,
    /// Redeeming its invite, and fetching what it needs to check the answer.
    Joiner,
}

/// Why a peer is not let in, or not listened to.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// The bytes do not spell a hello or a message.
    #[error("malformed")]
    Malformed,
    /// The proof that both know the namespace is missing: another namespace, or none.
    #[error("other-namespace")]
    OtherNamespace,
    /// The credential names another identity than the connection proved.
    #[error("foreign-credential")]
    ForeignCredential,
    /// A signature or proof in the credential does not hold.
    #[error("forged-credential")]
    Forged,
    /// The proof of admission is by a view that is not known here.
    #[error("unknown-view")]
    UnknownView,
    /// The credential or the invite has ended, or was made void.
    #[error("expired")]
    Expired,
    /// The peer was not admitted, or not for this.
    #[error("not-admitted")]
    NotAdmitted,
    /// Too many at once.
    #[error("too-many")]
    TooMany,
}

/// A lease that this node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What is leased.
    pub key: LeaseKey,
    /// To whom behind this node.
    pub client: ClientId,
    /// The fencing token.
    pub token: Token,
    /// The end, on the owner's clock. To be compared at each use: a timer may fire late.
    pub usable_until: OwnerTime,
    /// What proves it to others.
    pub certificate: Vec<u8>,
}

/// Why a claim was not granted.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ClaimError {
    /// Another holds it. A hint: the round it rests on may come to nothing.
    #[error("taken by {owner} for another {} s", remaining.as_secs())]
    Taken {
        /// Who holds it.
        owner: PeerId,
        /// For how long at most, unless renewed.
        remaining: Duration,
    },
    /// Every address tried belongs to somebody else.
    #[error("no free address found")]
    NoneFree,
    /// No quorum of replicas answers. Names those that do not.
    #[error("{0}")]
    Unavailable(String),
    /// It can never be granted: reserved, outside the range, beyond the quota, not a name.
    #[error("{0}")]
    Refused(&'static str),
    /// A release of the same key overtook the claim.
    #[error("released meanwhile")]
    GivenUp,
}

/// The answer to a question about an address or a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// It is leased.
    Found {
        /// The address.
        ip: Ipv4Addr,
        /// The member that answers for it.
        owner: PeerId,
        /// Its name, where known.
        name: Option<String>,
        /// The lease's fencing token.
        token: Token,
        /// The lease's certificate.
        certificate: Vec<u8>,
        /// How long the answer may be used.
        remaining: Duration,
        /// Who decides about the address.
        deciders: Box<Deciders>,
    },
    /// Nobody holds it, says a quorum.
    Absent,
    /// There is no saying.
    Unknown,
}

/// The newest view of a shard, as far as this node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deciders {
    /// The shard.
    pub shard: u16,
    /// The view's number.
    pub view: u64,
    /// Its members.
    pub members: Vec<PeerId>,
}

/// A lease that a peer has proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The address.
    pub ip: Ipv4Addr,
    /// The name its owner gives it. Not proven: names have registers of their own.
    pub name: Option<String>,
    /// The fencing token.
    pub token: Token,
    /// How long the proof counts here.
    pub remaining: Duration,
}

/// What a namespace tells its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Answers a claim.
    Claimed {
        /// Of the command.
        id: CommandId,
        /// The lease, or why not.
        outcome: Result<Lease, ClaimError>,
    },
    /// A kept lease was renewed, or got back after a restart.
    LeaseChanged {
        /// As it is from here on.
        lease: Lease,
    },
    /// A lease ended that was not released: stop using it.
    LeaseLost {
        /// Which.
        key: LeaseKey,
        /// For people.
        why: &'static str,
    },
    /// Answers a release. The register may learn of it later.
    Released {
        /// Of the command.
        id: CommandId,
    },
    /// Answers a question.
    Resolved {
        /// Of the command.
        id: CommandId,
        /// The answer.
        outcome: Resolution,
    },
    /// Answers the check of a certificate.
    LeaseChecked {
        /// Of the command.
        id: CommandId,
        /// Whose certificate it was said to be.
        from: PeerId,
        /// What it proves.
        outcome: Result<Proven, CertError>,
    },
    /// An address has another owner than the one last told: the old one must be fenced off.
    Superseded {
        /// The address.
        ip: Ipv4Addr,
        /// The owner from here on.
        owner: PeerId,
        /// The new owner's fencing token.
        token: Token,
        /// What proves it to others, the old owner among them.
        certificate: Vec<u8>,
    },
    /// A member's keys became known.
    PeerKeys {
        /// Which member.
        peer: PeerId,
        /// Its key for the data plane.
        x25519: [u8; 32],
        /// Of its credential.
        credential_hash: [u8; 32],
    },
    /// This peer is no member: sessions with it end.
    PeerDenied {
        /// Which peer.
        peer: PeerId,
    },
    /// A message from another member's engine.
    Signal {
        /// From which member.
        from: PeerId,
        /// Opaque here.
        message: Vec<u8>,
    },
    /// Answers [`Command::Invite`](crate::Command::Invite).
    Invited {
        /// Of the command.
        id: CommandId,
        /// The token's text, a secret.
        outcome: Result<String, InviteError>,
    },
    /// Answers [`Command::Recover`](crate::Command::Recover).
    Recovered {
        /// Of the command.
        id: CommandId,
        /// What was done, or would be, or why nothing was.
        outcome: Result<RecoveryPlan, RecoverError>,
    },
    /// Handshake numbers up to this one are reserved on disk.
    HandshakesReserved {
        /// The number.
        upto: u64,
    },
    /// Whether the register answers, whenever that changes.
    Quorum {
        /// Whether it does.
        reachable: bool,
        /// Names the replicas that do not answer.
        why: Option<String>,
        /// Since when.
        since: Instant,
    },
    /// Something that status pages say has changed: views, replicas that do not answer, why this node is none.
    Status {
        /// As it is from here on.
        summary: Box<Summary>,
    },
    /// Answers [`Command::HandOver`](crate::Command::HandOver): this node may stop.
    HandedOver {
        /// Of the command.
        id: CommandId,
    },
    /// This node's lease store was set back to an older state, and begins anew as a member of no view.
    StoreLost,
    /// Everything is released that could be; answers [`Command::Leave`](crate::Command::Leave).
    Left {
        /// Of the command.
        id: CommandId,
    },
}
