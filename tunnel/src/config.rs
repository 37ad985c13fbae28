//! What a tunnel is told: who we are, who the peers are, and where they may be found.

use std::net::{IpAddr, SocketAddr};

use libp2p_identity::PeerId;
use zeroize::Zeroizing;

/// Everything about this node that does not change while the tunnel lives.
pub struct Config {
    /// The namespace that all peers of this tunnel belong to.
    pub namespace: [u8; 32],
    /// Our own identity, an inlined Ed25519 key.
    pub identity: PeerId,
    /// Our X25519 data key of this namespace.
    pub secret: Zeroizing<[u8; 32]>,
    /// `H(credential)` of our own credential; peers refuse a handshake that does not carry it.
    pub credential_hash: [u8; 32],
    /// 0 to 15: the top four bits of every receiver index, so that a datagram names its namespace.
    pub slot: u8,
    /// Drawn once per process; tells a restart and a clone.
    pub instance: u64,
    /// Bytes of an outer IP packet on our side, 1500 on Ethernet.
    pub outer_mtu: u16,
    /// Configuration and revocation heads, shown to the peer in every handshake.
    pub heads: [u8; 8],
    /// Data ciphers in order of preference.
    pub suites: Suites,
    /// What one member may send through us to others, in bytes per second; `None` if we carry for nobody.
    pub relay: Option<u64>,
}

/// Cipher of the data packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suite {
    /// AES-256-GCM, number 1 on the wire.
    Aes256Gcm = 1,
    /// ChaCha20-Poly1305, number 2 on the wire.
    ChaCha20Poly1305 = 2,
}

impl Suite {
    /// The suite with this number on the wire.
    pub fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Aes256Gcm),
            2 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }
}

/// One or two suites in order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suites {
    first: Suite,
    second: Option<Suite>,
}

impl Suites {
    /// For a processor with AES instructions.
    pub const AES_FIRST: Self = Self { first: Suite::Aes256Gcm, second: Some(Suite::ChaCha20Poly1305) };
    /// For a processor without.
    pub const CHACHA_FIRST: Self = Self { first: Suite::ChaCha20Poly1305, second: Some(Suite::Aes256Gcm) };

    /// One suite and no other.
    pub fn only(suite: Suite) -> Self {
        Self { first: suite, second: None }
    }

    /// The two bytes in an Init: suite numbers in order of preference, 0 for none.
    pub(crate) fn to_wire(self) -> [u8; 2] {
        [self.first as u8, self.second.map_or(0, |suite| suite as u8)]
    }

    /// Whether `suite` is one of ours.
    pub fn contains(self, suite: Suite) -> bool {
        self.first == suite || self.second == Some(suite)
    }

    /// The responder's choice. AES only where neither side prefers the other, because the side without AES
    /// instructions is the slow one. Unknown numbers are suites of a later version and are passed over.
    pub(crate) fn choose(self, offered: [u8; 2]) -> Option<Suite> {
        let offered: Vec<Suite> = offered.iter().filter_map(|n| Suite::from_number(u16::from(*n))).collect();
        let common = |suite| self.contains(suite) && offered.contains(&suite);
        let both_prefer_aes = self.first == Suite::Aes256Gcm && offered.first() == Some(&Suite::Aes256Gcm);
        match (common(Suite::Aes256Gcm), common(Suite::ChaCha20Poly1305)) {
            (true, true) if both_prefer_aes => Some(Suite::Aes256Gcm),
            (_, true) => Some(Suite::ChaCha20Poly1305),
            (true, false) => Some(Suite::Aes256Gcm),
            (false, false) => None,
        }
    }
}

impl Default for Suites {
    fn default() -> Self {
        Self::AES_FIRST
    }
}

/// What an admitted member's credential says about its data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerKeys {
    /// Its X25519 data key.
    pub x25519: [u8; 32],
    /// `H(credential)`, which its handshakes must carry.
    pub credential_hash: [u8; 32],
}

/// An address where a peer may be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// Where its data socket may be.
    pub addr: SocketAddr,
    /// Where that knowledge comes from.
    pub kind: CandidateKind,
}

/// Where a candidate comes from, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CandidateKind {
    /// An interface address of the peer.
    Lan,
    /// The peer's address as somebody else saw it.
    Observed,
    /// Told by a person.
    Configured,
    /// A port that the peer's translator, which counts, gives next ([`Observations::predicted`](crate::Observations::predicted)).
    /// The order in which they are told matters.
    Predicted,
}

/// Whether an Init may be sent there at all. A signed candidate list can still name a victim, so anything
/// that is not one host's own address is left out.
pub(crate) fn is_usable(addr: SocketAddr) -> bool {
    if addr.port() == 0 || addr.ip().is_loopback() || addr.ip().is_multicast() || addr.ip().is_unspecified() {
        return false;
    }
    match addr.ip() {
        IpAddr::V4(ip) => !ip.is_broadcast() && ip.octets()[0] != 0,
        // A link-local address means nothing without the link it was seen on.
        IpAddr::V6(ip) => ip.to_ipv4_mapped().is_none() && ip.segments()[0] & 0xffc0 != 0xfe80,
    }
}

/// The 32 raw bytes of an Ed25519 peer id, which is an identity multihash of the protobuf-encoded key.
pub(crate) fn identity_bytes(peer: &PeerId) -> Option<[u8; 32]> {
    peer.to_bytes().strip_prefix(&[0x00, 0x24, 0x08, 0x01, 0x12, 0x20])?.try_into().ok()
}

/// The peer id of 32 raw bytes; none of them is impossible, but not all are keys.
pub(crate) fn peer_of(identity: &[u8; 32]) -> Option<PeerId> {
    PeerId::from_bytes(&[&[0x00, 0x24, 0x08, 0x01, 0x12, 0x20], &identity[..]].concat()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_side_without_aes_instructions_has_its_way() {
        let aes = Suites::AES_FIRST;
        let chacha = Suites::CHACHA_FIRST;
        assert_eq!(aes.choose(aes.to_wire()), Some(Suite::Aes256Gcm));
        assert_eq!(aes.choose(chacha.to_wire()), Some(Suite::ChaCha20Poly1305));
        assert_eq!(chacha.choose(aes.to_wire()), Some(Suite::ChaCha20Poly1305));
        assert_eq!(Suites::only(Suite::Aes256Gcm).choose(chacha.to_wire()), Some(Suite::Aes256Gcm));
        assert_eq!(Suites::only(Suite::Aes256Gcm).choose(Suites::only(Suite::ChaCha20Poly1305).to_wire()), None);
        assert_eq!(aes.choose([0, 0]), None);
        assert_eq!(aes.choose([9, 2]), Some(Suite::ChaCha20Poly1305));
    }

    #[test]
    fn nothing_but_one_hosts_address_is_a_candidate() {
        for bad in [
            "0.0.0.0:1",
            "10.0.0.1:0",
            "127.0.0.1:4000",
            "224.0.0.5:4000",
            "255.255.255.255:4000",
            "0.1.2.3:9",
            "[::]:4",
            "[::1]:4",
            "[ff02::1]:4",
            "[fe80::1]:4",
            "[::ffff:10.0.0.1]:4",
        ] {
            assert!(!is_usable(bad.parse().unwrap()), "{bad}");
        }
        for good in ["10.0.0.1:4000", "203.0.113.9:1", "[2001:db8::1]:4000", "[fd00::1]:4000"] {
            assert!(is_usable(good.parse().unwrap()), "{good}");
        }
    }
}
