//! Every reason for which something is dropped.

use std::collections::BTreeMap;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why something was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason { $($(#[$doc])* $name,)* }

        impl DropReason {
            /// The name in counters and logs.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

reasons! {
    /// Length or first four bytes fit no message.
    Malformed = "malformed-datagram",
    /// A message of a major version that we do not speak.
    WrongMajor = "wrong-major",
    /// A handshake from port 0, or from an address that is no host's own.
    BadSource = "bad-source",
    /// `mac1` is not for our key: another namespace, or a stranger.
    WrongMac = "wrong-mac",
    /// We are under load, and were not yet shown a cookie: one was sent.
    CookieAsked = "cookie-asked",
    /// We are under load and this source has had its share.
    SourceRate = "source-rate",
    /// We are under load and the budget of expensive operations is used up.
    HandshakeBudget = "handshake-budget",
    /// Noise refused the message: tampered, of another namespace, or meant for another identity.
    HandshakeForged = "handshake-forged",
    /// The static key belongs to no admitted member.
    UnknownKey = "unknown-key",
    /// The credential hash is not that of the member with this key.
    WrongCredential = "wrong-credential",
    /// Our own Init came back.
    Reflected = "reflected",
    /// No common minor version.
    NoCommonVersion = "no-common-version",
    /// No common suite, or one that we did not offer.
    NoCommonSuite = "no-common-suite",
    /// The handshake number is not above the last one of this identity.
    HandshakeReplayed = "handshake-replayed",
    /// Inits of one member faster than any honest member sends them.
    HandshakeTooSoon = "handshake-too-soon",
    /// Both sides began and ours goes first.
    SimultaneousStart = "simultaneous-start",
    /// All receiver indices of this slot are in use.
    NoFreeIndex = "no-free-index",
    /// No session or handshake has this receiver index.
    UnknownIndex = "unknown-index",
    /// A Resp to an Init that a later one has superseded.
    LateResp = "late-resp",
    /// A cookie that does not answer our last Init.
    ForgedCookie = "forged-cookie",
    /// The tag of a data datagram is wrong.
    Forged = "forged",
    /// The counter was seen before.
    Replayed = "replayed",
    /// The counter is older than the window.
    TooOld = "too-old",
    /// The session is past its time or was erased.
    SessionClosed = "session-closed",
    /// The kind of a data datagram is unknown.
    UnknownKind = "unknown-kind",
    /// An authentic control message of the tunnel's own subtypes that is not laid out as it must be.
    MalformedControl = "malformed-control",
    /// A control message of a later version.
    UnknownControl = "unknown-control",
    /// A fragment that is not laid out as it must be.
    MalformedFragment = "malformed-fragment",
    /// A payload of which not all fragments arrived within one second.
    FragmentsMissing = "fragments-missing",
    /// Too many payloads in reassembly; the oldest went.
    ReassemblyFull = "reassembly-full",
    /// No session came up within three seconds.
    WaitedTooLong = "waited-too-long",
    /// Too many payloads waited for a session; the oldest went.
    QueueFull = "queue-full",
    /// A payload larger than 65,543 bytes, or an empty control message.
    PayloadSize = "payload-size",
    /// A payload for a peer that was removed, or whose keys were erased, while it waited.
    PeerRemoved = "peer-removed",
    /// The peer id holds no Ed25519 key, or is our own.
    BadPeer = "bad-peer",
    /// More peers than we can keep.
    TooManyPeers = "too-many-peers",
    /// A candidate that is no host's own address, or one too many.
    BadCandidate = "bad-candidate",
    /// A datagram to be carried on a circuit that does not exist here.
    NoCircuit = "no-circuit",
    /// A datagram to be carried to a member without a session, or one behind another relay.
    CircuitBroken = "circuit-broken",
    /// A datagram to be carried that does not fit into one datagram to the other end.
    TooBigToCarry = "too-big-to-carry",
    /// A member sends more to be carried than its share.
    RelayRate = "relay-rate",
    /// A carried datagram that holds another carried one.
    NestedRelay = "nested-relay",
    /// A circuit was asked for that we cannot or will not give.
    CircuitRefused = "circuit-refused",
    /// A relay would not give a circuit that we asked for.
    RelayRefused = "relay-refused",
    /// Too many circuits are asked for at one relay.
    TooManyWishes = "too-many-wishes",
    /// A datagram of one member in the stream of another one.
    ForeignStream = "foreign-stream",
    /// A new endpoint has had three times what it sent and has not answered an echo.
    PathUnproven = "path-unproven",
}

/// Counts by reason.
#[derive(Default)]
pub(crate) struct Drops(BTreeMap<DropReason, u64>);

impl Drops {
    pub(crate) fn count(&mut self, reason: DropReason) {
        let count = self.0.entry(reason).or_default();
        *count = count.saturating_add(1);
    }

    pub(crate) fn as_map(&self) -> &BTreeMap<DropReason, u64> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kebab_case_and_differ() {
        let mut seen = std::collections::BTreeSet::new();
        for reason in DropReason::ALL {
            let name = reason.as_str();
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{name}");
            assert!(seen.insert(name), "{name} twice");
        }
    }
}
