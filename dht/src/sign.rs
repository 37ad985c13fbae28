//! The one place that makes and checks signatures.
//!
//! Every signed message is `"overlay/v1/" label 0x00 namespace body`. The label is an enum, so a signature
//! made for one purpose never counts for another, and the namespace stands in every message, so none can be
//! carried from one network to a twin. libp2p signs other things with the identity key, under prefixes of its
//! own that do not collide with ours.

use std::fmt;

use ed25519_dalek::{Signer, VerifyingKey};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::identity::{PublicKey, SecretKey};

const PREFIX: &str = "overlay/v1/";

/// A namespace: `H("overlay/v1/ns" 0x00 genesis_authority name_length name)`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespaceId(pub [u8; 32]);

impl NamespaceId {
    /// The identifier of the namespace that `authority` founded under `name` (1 to 32 bytes).
    pub fn new(authority: &PublicKey, name: &str) -> Self {
        let length = u8::try_from(name.len()).expect("namespace names have at most 32 bytes");
        Self(hash("ns", &[&authority.0, &[length], name.as_bytes()]))
    }
    /// The identifier that this text, all of it, spells in base58.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        let length = bs58::decode(text).onto(&mut bytes).ok()?;
        (length == bytes.len()).then_some(Self(bytes))
    }
    /// The first eight base58 characters, for people; compare identifiers in full.
    pub fn short(&self) -> String {
        bs58::encode(self.0).into_string().chars().take(8).collect()
    }
}

impl fmt::Display for NamespaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bs58::encode(self.0).into_string())
    }
}

impl fmt::Debug for NamespaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl Wire for NamespaceId {
    fn encode(&self, out: &mut Writer) {
        out.raw(&self.0);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(input.array()?))
    }
}

/// SHA-256 over `"overlay/v1/" domain 0x00` and the parts, which the caller keeps unambiguous.
pub fn hash(domain: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(PREFIX);
    hasher.update(domain);
    hasher.update([0]);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// What a signature is for. The text is part of what is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Label {
    /// Configuration, by the authority set.
    Config,
    /// Views 0 of all shards, by the authority.
    Genesis,
    /// Limits of an invite and its public key, by the authority.
    Invite,
    /// `(invite, identity)`, by the invite key.
    MemberInvite,
    /// `(invite, identity)`, by the identity.
    MemberSelf,
    /// A node's X25519 key for the data plane, by its identity.
    DataKey,
    /// A longer membership, by a renewer or a quorum.
    Extension,
    /// The list of the revoked, by the authority.
    Revocation,
    /// An accepted register value, by a replica.
    Accepted,
    /// An accepted next view, by a replica.
    ViewAccepted,
    /// An owner's operations on registers.
    Op,
    /// An owner's consent that another takes its address over.
    Handover,
    /// Where a node can be reached, told to one other node.
    Candidates,
    /// Two contradicting signed messages, by who saw them.
    Equivocation,
    /// The configuration of a new era, by the recovery key.
    Recovery,
}

impl Label {
    /// Every label, for tests over all pairs.
    pub const ALL: [Self; 15] = [
        Self::Config,
        Self::Genesis,
        Self::Invite,
        Self::MemberInvite,
        Self::MemberSelf,
        Self::DataKey,
        Self::Extension,
        Self::Revocation,
        Self::Accepted,
        Self::ViewAccepted,
        Self::Op,
        Self::Handover,
        Self::Candidates,
        Self::Equivocation,
        Self::Recovery,
    ];

    fn text(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Genesis => "genesis",
            Self::Invite => "invite",
            Self::MemberInvite => "member-invite",
            Self::MemberSelf => "member-self",
            Self::DataKey => "data-key",
            Self::Extension => "extension",
            Self::Revocation => "revocation",
            Self::Accepted => "accepted",
            Self::ViewAccepted => "vaccepted",
            Self::Op => "op",
            Self::Handover => "handover",
            Self::Candidates => "candidates",
            Self::Equivocation => "equivocation",
            Self::Recovery => "recovery",
        }
    }
}

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

impl Wire for Signature {
    fn encode(&self, out: &mut Writer) {
        out.raw(&self.0);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(input.array()?))
    }
}

/// The signature does not hold for this key, purpose, namespace and body.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("signature does not verify")]
pub struct BadSignature;

/// Signs `body` for one purpose in one namespace.
pub fn sign(key: &SecretKey, label: Label, ns: &NamespaceId, body: &[u8]) -> Signature {
    Signature(key.signing().sign(&message(label, ns, body)).to_bytes())
}

/// Checks a signature strictly: small-order keys and non-canonical encodings are refused, so that nobody but
/// the key's holder can make a second valid signature, or one key that verifies everything.
pub fn verify(
    key: &PublicKey,
    label: Label,
    ns: &NamespaceId,
    body: &[u8],
    signature: &Signature,
) -> Result<(), BadSignature> {
    let key = VerifyingKey::from_bytes(&key.0).map_err(|_| BadSignature)?;
    let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
    key.verify_strict(&message(label, ns, body), &signature).map_err(|_| BadSignature)
}

fn message(label: Label, ns: &NamespaceId, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(PREFIX.len() + 16 + 32 + body.len());
    message.extend_from_slice(PREFIX.as_bytes());
    message.extend_from_slice(label.text().as_bytes());
    message.push(0);
    message.extend_from_slice(&ns.0);
    message.extend_from_slice(body);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_counts_for_its_own_label_and_namespace_only() {
        let key = SecretKey::from_seed(&[1; 32]);
        let ns = NamespaceId([2; 32]);
        for made_for in Label::ALL {
            let signature = sign(&key, made_for, &ns, b"body");
            for used_as in Label::ALL {
                let verdict = verify(&key.public(), used_as, &ns, b"body", &signature);
                assert_eq!(verdict.is_ok(), made_for == used_as, "{made_for:?} used as {used_as:?}");
            }
            let twin = NamespaceId([3; 32]);
            assert_eq!(verify(&key.public(), made_for, &twin, b"body", &signature), Err(BadSignature));
        }
    }

    #[test]
    fn no_message_of_ours_begins_like_one_of_libp2p() {
        let theirs: [&[u8]; 4] = [
            b"noise-libp2p-static-key:",
            b"libp2p-tls-handshake:",
            b"\x12libp2p-peer-record",
            b"\x10libp2p-relay-rsvp",
        ];
        for label in Label::ALL {
            let ours = message(label, &NamespaceId([0; 32]), b"");
            assert!(theirs.iter().all(|prefix| !ours.starts_with(prefix) && !prefix.starts_with(&ours)));
        }
    }

    #[test]
    fn a_key_of_small_order_signs_nothing() {
        // The neutral element: with the plain check, R = neutral and s = 0 would verify any message.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        let verdict = verify(&PublicKey(neutral), Label::Op, &NamespaceId([0; 32]), b"any", &Signature(signature));
        assert_eq!(verdict, Err(BadSignature));
    }

    #[test]
    fn a_signature_with_s_beyond_the_group_order_is_refused() {
        let key = SecretKey::from_seed(&[1; 32]);
        let ns = NamespaceId([2; 32]);
        let mut signature = sign(&key, Label::Op, &ns, b"body");
        // s + L, with L = 2^252 + 27742317777372353535851937790883648493: the same s modulo the group order.
        let order: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let mut carry = 0u16;
        for (byte, add) in signature.0[32..].iter_mut().zip(order) {
            carry += u16::from(*byte) + u16::from(add);
            *byte = carry.to_le_bytes()[0];
            carry >>= 8;
        }
        assert_eq!(verify(&key.public(), Label::Op, &ns, b"body", &signature), Err(BadSignature));
    }
}
