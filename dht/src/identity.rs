//! Ed25519 keys: the identity of a node (its libp2p key), the authority, and the key inside an invite.

use std::fmt;

use libp2p_identity::PeerId;
use zeroize::Zeroizing;

use crate::codec::{DecodeError, Reader, Wire, Writer};

/// An Ed25519 public key, as 32 bytes. A node's is its identity, and [`PeerId`] is computed from it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// The libp2p name of this key, or `None` if the bytes are no point on the curve.
    pub fn peer_id(&self) -> Option<PeerId> {
        let key = libp2p_identity::ed25519::PublicKey::try_from_bytes(&self.0).ok()?;
        Some(libp2p_identity::PublicKey::from(key).to_peer_id())
    }

    /// The key inside an Ed25519 [`PeerId`], or `None` for the name of any other kind of key.
    pub fn from_peer_id(peer: &PeerId) -> Option<Self> {
        let multihash = peer.as_ref();
        // Code 0 is "identity": the digest is the key's protobuf itself (libp2p peer-id specification).
        if multihash.code() != 0 {
            return None;
        }
        let key = libp2p_identity::PublicKey::try_decode_protobuf(multihash.digest()).ok()?;
        Some(Self(key.try_into_ed25519().ok()?.to_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", bs58::encode(&self.0[..6]).into_string())
    }
}

impl Wire for PublicKey {
    fn encode(&self, out: &mut Writer) {
        out.raw(&self.0);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(input.array()?))
    }
}

/// An Ed25519 secret key: neither printed nor copied, erased when dropped. Used through [`crate::sign`] only.
pub struct SecretKey(ed25519_dalek::SigningKey);

impl SecretKey {
    /// The key grown from these 32 secret bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }
    /// The 32 secret bytes, for the key file and for libp2p.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }
    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }
    /// The libp2p name of the public half.
    pub fn peer_id(&self) -> PeerId {
        self.public().peer_id().expect("a public key computed from a secret one is a point on the curve")
    }
    pub(crate) fn signing(&self) -> &ed25519_dalek::SigningKey {
        &self.0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey of {:?}", self.public())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_id_and_a_public_key_name_each_other() {
        let key = SecretKey::from_seed(&[7; 32]);
        assert_eq!(PublicKey::from_peer_id(&key.peer_id()), Some(key.public()));
    }

    #[test]
    fn a_peer_id_of_another_kind_has_no_key() {
        assert_eq!(
            PublicKey::from_peer_id(
                &PeerId::from_multihash(
                    PeerId::from_bytes(&[[0x12, 0x20].as_slice(), &[9; 32]].concat()).unwrap().into()
                )
                .unwrap()
            ),
            None
        );
    }

    #[test]
    fn a_secret_key_does_not_print_its_secret() {
        let printed = format!("{:?}", SecretKey::from_seed(&[7; 32]));
        assert!(!printed.contains("7, 7"), "{printed}");
    }
}
