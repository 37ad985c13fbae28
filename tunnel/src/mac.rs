//! `mac1` and `mac2`: keyed BLAKE2s-128 over a handshake message, checked before anything expensive.

use blake2::Blake2sMac;
use blake2::digest::consts::U16;
use blake2::digest::{KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Bytes of both macs at the end of an Init and a Resp.
pub(crate) const MACS: usize = 32;

/// The public keys under which messages to one receiver are marked. Whoever knows the receiver's data key and
/// the namespace can make a mac1; it keeps strangers away, not members.
#[derive(Clone, Copy)]
pub(crate) struct MacKeys {
    mac1: [u8; 32],
    pub(crate) cookie: [u8; 32],
}

impl MacKeys {
    pub(crate) fn new(namespace: &[u8; 32], receiver: &[u8; 32]) -> Self {
        Self {
            mac1: hash(b"overlay/v1/mac1", namespace, receiver),
            cookie: hash(b"overlay/v1/cookie", namespace, receiver),
        }
    }

    /// Appends both macs; mac2 is zero without a cookie. Returns mac1.
    pub(crate) fn seal(&self, cookie: Option<&[u8; 16]>, message: &mut Vec<u8>) -> [u8; 16] {
        let mac1 = keyed(&self.mac1, message);
        message.extend_from_slice(&mac1);
        let mac2 = cookie.map_or([0; 16], |cookie| keyed(cookie, message));
        message.extend_from_slice(&mac2);
        mac1
    }

    /// Whether mac1 of a message of sufficient length is right.
    pub(crate) fn check(&self, message: &[u8]) -> bool {
        let (covered, macs) = message.split_at(message.len() - MACS);
        same(&keyed(&self.mac1, covered), &macs[..16])
    }
}

/// mac1 of a message.
pub(crate) fn mac1_of(message: &[u8]) -> &[u8] {
    &message[message.len() - MACS..message.len() - 16]
}

/// Whether mac2 was made with `cookie`.
pub(crate) fn check_mac2(cookie: &[u8; 16], message: &[u8]) -> bool {
    let (covered, mac2) = message.split_at(message.len() - 16);
    same(&keyed(cookie, covered), mac2)
}

/// Whether the sender knew no cookie.
pub(crate) fn is_mac2_empty(message: &[u8]) -> bool {
    message[message.len() - 16..] == [0; 16]
}

pub(crate) fn keyed(key: &[u8], message: &[u8]) -> [u8; 16] {
    let mut mac = Blake2sMac::<U16>::new_from_slice(key).expect("BLAKE2s takes keys up to 32 bytes");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

fn hash(label: &[u8], namespace: &[u8; 32], receiver: &[u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update(label).chain_update(namespace).chain_update(receiver).finalize().into()
}

fn same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}
