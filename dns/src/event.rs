use std::{net::Ipv4Addr, time::Duration};

/// Names the asker of a query to the caller; comes back with the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Names a question that waits for somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueryId(pub u64);

/// What a query came over, which decides how large its reply may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// One datagram.
    Udp,
    /// A stream, without its two octets of length.
    Tcp,
}

/// What others must do for a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Ask the lease registers; answer with [`Responder::handle_resolved`](crate::Responder::handle_resolved).
    Resolve {
        /// Comes back with the answer.
        id: QueryId,
        /// The key to read.
        what: Question,
    },
    /// Ask the resolvers of the system; answer with [`Responder::handle_forwarded`](crate::Responder::handle_forwarded).
    Forward {
        /// Comes back with the reply.
        id: QueryId,
        /// What the query came over.
        transport: Transport,
        /// The query as it came.
        message: Vec<u8>,
    },
}

/// What the registers are asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Question {
    /// One lower-case label of letters, digits and hyphens.
    Name(String),
    /// An address of the range that this machine knows nothing about.
    Address(Ipv4Addr),
}

/// What the registers said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The name is held, and its holder has this address.
    Address {
        /// The address leased to the holder of the name.
        ip: Ipv4Addr,
        /// How long both leases last at least.
        ttl: Duration,
    },
    /// The address is leased.
    Name {
        /// The name of its holder; without one the computed name stands in.
        name: Option<String>,
        /// How long the lease lasts at least.
        ttl: Duration,
    },
    /// Nobody has it, and that is certain.
    Absent,
    /// The registers could not be asked: SERVFAIL, never NXDOMAIN.
    Unknown,
}

/// Why something was not answered as asked, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// Shorter than a header; silent.
    TooShort,
    /// A response, not a query; silent, so that two servers never talk in circles.
    Response,
    /// Larger than any query is; FORMERR.
    TooLong,
    /// Not a DNS message with exactly one question; FORMERR.
    Malformed,
    /// An operation other than QUERY, or type ANY in our zone; NOTIMP.
    NotImplemented,
    /// A class other than IN, or a zone transfer; REFUSED.
    Refused,
    /// An EDNS version we do not speak; BADVERS.
    BadVersion,
    /// Too many questions wait already; SERVFAIL.
    TableFull,
    /// Nobody answered in time; SERVFAIL.
    Deadline,
    /// The registers could not be asked; SERVFAIL.
    Unknown,
    /// An answer to a question that does not wait, or of the wrong kind.
    UnexpectedAnswer,
    /// The system's resolvers gave nothing; SERVFAIL.
    NotForwarded,
    /// The system's resolvers gave something that does not answer the question; SERVFAIL.
    ForwardedMalformed,
    /// A public name that answers with an address of our range (DNS rebinding): the record was left out.
    Rebinding,
    /// More local names than we keep; the name was not taken.
    LocalFull,
    /// A reply that could not be written; SERVFAIL.
    NotEncoded,
}

impl DropReason {
    /// The name under which the status counts it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooShort => "dns-too-short",
            Self::Response => "dns-response",
            Self::TooLong => "dns-too-long",
            Self::Malformed => "dns-malformed",
            Self::NotImplemented => "dns-not-implemented",
            Self::Refused => "dns-refused",
            Self::BadVersion => "dns-bad-version",
            Self::TableFull => "dns-table-full",
            Self::Deadline => "dns-deadline",
            Self::Unknown => "dns-unknown",
            Self::UnexpectedAnswer => "dns-unexpected-answer",
            Self::NotForwarded => "dns-not-forwarded",
            Self::ForwardedMalformed => "dns-forwarded-malformed",
            Self::Rebinding => "dns-rebinding",
            Self::LocalFull => "dns-local-full",
            Self::NotEncoded => "dns-not-encoded",
        }
    }
}
