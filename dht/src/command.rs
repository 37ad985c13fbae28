//! What a node asks of its namespace, and the words that questions and answers share.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use libp2p_identity::PeerId;

pub use crate::invite::Role;
pub use crate::token::Contact;

/// Ties an [`Event`](crate::Event) to the command it answers. Chosen by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u64);

/// Who behind the owner uses a lease: a hash of the client's identifier, so that the register learns no hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub [u8; 32]);

impl ClientId {
    /// The client that this text or hardware address names.
    pub fn of(name: &[u8]) -> Self {
        Self(crate::sign::hash("client", &[name]))
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", bs58::encode(&self.0[..6]).into_string())
    }
}

/// How long a claim asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    /// Long enough to offer the address to a DHCP client: `min(60 s, D / 2)`.
    Offer,
    /// The namespace's lease.
    Full,
}

/// What is leased.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeaseKey {
    /// A virtual address.
    Address(Ipv4Addr),
    /// One label in normal form: lower case, no dot.
    Name(String),
}

impl fmt::Display for LeaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(ip) => ip.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// What the namespace is asked to do. Each command with an `id` is answered by exactly one event with that id.
#[derive(Clone, Debug)]
pub enum Command {
    /// Lease an address for a client. Asking again for what is held renews it.
    ClaimAddress {
        /// Comes back in [`Event::Claimed`](crate::Event::Claimed).
        id: CommandId,
        /// Who uses it. The choice of an address follows from this where none is wanted.
        client: ClientId,
        /// The address to try first.
        want: Option<Ipv4Addr>,
        /// Whether any other address is of no use.
        only_wanted: bool,
        /// How long.
        hold: Hold,
        /// Whether to renew it until it is released. Otherwise it ends unless it is claimed again.
        keep: bool,
    },
    /// Give an address back. Its use ends before this is sent.
    ReleaseAddress {
        /// Comes back in [`Event::Released`](crate::Event::Released).
        id: CommandId,
        /// The address.
        ip: Ipv4Addr,
    },
    /// Lease a name for a client; it resolves to the address that the same client leases.
    ClaimName {
        /// Comes back in [`Event::Claimed`](crate::Event::Claimed).
        id: CommandId,
        /// Brought to normal form here.
        name: String,
        /// Whose name.
        client: ClientId,
        /// Whether to renew it until it is released.
        keep: bool,
    },
    /// Give a name back.
    ReleaseName {
        /// Comes back in [`Event::Released`](crate::Event::Released).
        id: CommandId,
        /// The name.
        name: String,
    },
    /// Who owns an address?
    ResolveAddress {
        /// Comes back in [`Event::Resolved`](crate::Event::Resolved).
        id: CommandId,
        /// The address.
        ip: Ipv4Addr,
    },
    /// Which address has this name?
    ResolveName {
        /// Comes back in [`Event::Resolved`](crate::Event::Resolved).
        id: CommandId,
        /// The name, one label.
        name: String,
    },
    /// Which name has this address? The lease's name is in the answer if it has one that is known.
    ResolvePeerName {
        /// Comes back in [`Event::Resolved`](crate::Event::Resolved).
        id: CommandId,
        /// The address.
        ip: Ipv4Addr,
    },
    /// Who owns this address or name, by the register and not from memory?
    LookUp {
        /// Comes back in [`Event::Resolved`](crate::Event::Resolved).
        id: CommandId,
        /// The address, or one label.
        key: LeaseKey,
    },
    /// Is this certificate, handed over in a session, a lease of the peer that handed it over?
    CheckLease {
        /// Comes back in [`Event::LeaseChecked`](crate::Event::LeaseChecked).
        id: CommandId,
        /// Whom the session proved.
        from: PeerId,
        /// What it handed over.
        certificate: Vec<u8>,
        /// For how much longer it says the lease holds.
        remaining: Duration,
    },
    /// Who owns an address, by the register and not from memory? As [`LookUp`](Self::LookUp), without asking for its name:
    /// for when an answer turned out to be stale.
    ReadAddress {
        /// Comes back in [`Event::Resolved`](crate::Event::Resolved).
        id: CommandId,
        /// The address.
        ip: Ipv4Addr,
    },
    /// A certificate of anybody, shown as newer than what this node goes by. If it is, what it supersedes ends: an own
    /// lease with [`Event::LeaseLost`](crate::Event::LeaseLost), another's with
    /// [`Event::Superseded`](crate::Event::Superseded). A check of signatures: the caller limits how often.
    Supersede {
        /// Not checked yet.
        certificate: Vec<u8>,
    },
    /// Renew a lease now, whatever is left of it: somebody missed it in the register. The caller limits how often.
    Renew {
        /// The address.
        ip: Ipv4Addr,
    },
    /// Carry a message to another member's engine.
    Signal {
        /// Which member.
        to: PeerId,
        /// Opaque here; at most 4 KiB.
        message: Vec<u8>,
    },
    /// Bring a connection to this member about, so that its keys become known.
    Connect {
        /// Which member.
        peer: PeerId,
    },
    /// Make an invite. Answered with an error where the authority key is not.
    Invite {
        /// Comes back in [`Event::Invited`](crate::Event::Invited).
        id: CommandId,
        /// How many may redeem it, 1 to 64.
        uses: u16,
        /// Until when.
        ttl: Duration,
        /// What those who redeem it may do.
        role: Role,
        /// How many addresses each may lease.
        hosts: u16,
        /// Whom a joiner asks first.
        contacts: Vec<Contact>,
    },
    /// Put this machine in the place of replicas that are lost for good: in shards where no quorum of them answers, or in all.
    /// Answered with an error where the authority key is not.
    Recover {
        /// Comes back in [`Event::Recovered`](crate::Event::Recovered).
        id: CommandId,
        /// Also shards whose replicas answer.
        all: bool,
        /// Whether to do it. Otherwise only what would be done is told.
        confirmed: bool,
    },
    /// Release everything, and give one's places in views to others.
    Leave {
        /// Comes back in [`Event::Left`](crate::Event::Left).
        id: CommandId,
    },
    /// This process is about to stop: where too few replicas remain without it, give its places in views to others, as far as
    /// there are any.
    HandOver {
        /// Comes back in [`Event::HandedOver`](crate::Event::HandedOver).
        id: CommandId,
    },
    /// Whether this node would rather be a replica than not: on battery it would not.
    Serve {
        /// Why it would not, for people; `None` if it would.
        hindrance: Option<&'static str>,
    },
    /// Put on disk that handshake numbers up to this one may have been used.
    ReserveHandshakes {
        /// The number.
        upto: u64,
    },
}
