//! What goes between the server and its caller, apart from the messages of the clients.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use crate::ClientKey;

/// Names one claim; its outcome comes back with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// How long an address is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Until the client has chosen: 60 s.
    Offer,
    /// A whole lease.
    Full,
}

/// What the server wants done, or tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Claim or renew an address; answered by [`Server::handle_outcome`](crate::Server::handle_outcome).
    Claim {
        /// To be given back with the outcome.
        id: RequestId,
        /// Whom the address is for.
        client: ClientKey,
        /// Its Ethernet address.
        mac: [u8; 6],
        /// The address to try first.
        want: Option<Ipv4Addr>,
        /// Whether no other address than `want` will do.
        only_wanted: bool,
        /// For how long.
        hold: Hold,
        /// The name the client gave itself, cleaned: one lower-case label.
        hostname: Option<String>,
    },
    /// The client was sent an ACK and uses the address. Repeated at each renewal.
    Bound {
        /// Whose address it is.
        client: ClientKey,
        /// Its Ethernet address.
        mac: [u8; 6],
        /// The address.
        ip: Ipv4Addr,
        /// The name the client gave itself, cleaned: one lower-case label.
        hostname: Option<String>,
    },
    /// The address is no longer used or wanted by this client: given back, run out, or an offer not taken.
    Release {
        /// Whose it was.
        client: ClientKey,
        /// The address.
        ip: Ipv4Addr,
    },
    /// The client found somebody else using the address on its own segment.
    Decline {
        /// Whose it was.
        client: ClientKey,
        /// The address.
        ip: Ipv4Addr,
    },
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The address is the client's for at least `remaining`.
    Granted {
        /// The address.
        ip: Ipv4Addr,
        /// What is left of the lease, by the clock of the lease's owner.
        remaining: Duration,
    },
    /// The address wanted belongs to somebody else, or none is free.
    Taken,
    /// Nobody can say at the moment: no quorum.
    Unavailable,
}

/// Where a reply goes (RFC 2131 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To 255.255.255.255 and the Ethernet broadcast address.
    Broadcast,
    /// To a client that takes frames for its Ethernet address, be the IP address configured or not.
    Unicast {
        /// The Ethernet address.
        mac: [u8; 6],
        /// The IP address.
        ip: Ipv4Addr,
    },
}

/// A message to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Where it goes.
    pub to: Destination,
    /// The DHCP message: what goes into UDP 67 → 68.
    pub message: Vec<u8>,
}

/// An address in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Whose it is.
    pub client: ClientKey,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// The address.
    pub ip: Ipv4Addr,
    /// The name the client gave itself, cleaned: one lower-case label.
    pub hostname: Option<String>,
    /// When the client stops using it unless it renews.
    pub until: Instant,
}
