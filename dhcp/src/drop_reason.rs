//! Why a message or an outcome was not acted upon.

/// The reasons, as counted by [`Server::drops`](crate::Server::drops).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// Shorter than a DHCP message, or longer than any frame.
    BadLength,
    /// Not a request, or without the magic cookie.
    NotDhcp,
    /// An option that ends beyond its field, or whose length is not the one its definition gives.
    BadOption,
    /// Without message type: BOOTP, which has no leases (RFC 1534).
    Bootp,
    /// A type that only servers send, or that is not known.
    NotForServer,
    /// Not an Ethernet client, or a hardware address that no machine can have.
    BadHardware,
    /// Through a relay agent: behind a TAP there is none.
    Relayed,
    /// A REQUEST, DECLINE, RELEASE or INFORM without the address it is about.
    NoAddress,
    /// The client speaks to another server.
    OtherServer,
    /// RELEASE or DECLINE of an address that this client does not have, or by another machine than its user.
    NotHolder,
    /// INFORM by a machine whose address is not of this network.
    Foreign,
    /// The client declined address after address and has to wait.
    DeclineLoop,
    /// The table of clients is full of addresses in use.
    ClientsFull,
    /// Too many offers have not been taken up.
    OffersFull,
    /// Too many claims are under way.
    ClaimsFull,
    /// No address could be had for a DISCOVER.
    NoneFree,
    /// There was no quorum to grant or renew.
    Unavailable,
    /// The grant was too short to be of use.
    TooShort,
    /// A claim was never answered.
    ClaimTimedOut,
    /// An outcome came for a claim that no longer counts.
    LateOutcome,
    /// A grant of an address that was not asked for, cannot be used, or is in use by another client here.
    WrongGrant,
    /// A reply could not be encoded.
    Unencodable,
}

impl DropReason {
    /// The name in metrics and in `status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadLength => "bad-length",
            Self::NotDhcp => "not-dhcp",
            Self::BadOption => "bad-option",
            Self::Bootp => "bootp",
            Self::NotForServer => "not-for-server",
            Self::BadHardware => "bad-hardware",
            Self::Relayed => "relayed",
            Self::NoAddress => "no-address",
            Self::OtherServer => "other-server",
            Self::NotHolder => "not-holder",
            Self::Foreign => "foreign",
            Self::DeclineLoop => "decline-loop",
            Self::ClientsFull => "clients-full",
            Self::OffersFull => "offers-full",
            Self::ClaimsFull => "claims-full",
            Self::NoneFree => "none-free",
            Self::Unavailable => "unavailable",
            Self::TooShort => "too-short",
            Self::ClaimTimedOut => "claim-timed-out",
            Self::LateOutcome => "late-outcome",
            Self::WrongGrant => "wrong-grant",
            Self::Unencodable => "unencodable",
        }
    }
}
