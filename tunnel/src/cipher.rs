//! The two ciphers of data datagrams, by whichever library is faster on this processor.
//!
//! AES-256-GCM is where a datagram spends its time. aws-lc has code for AVX-512 that nothing else reaches; ring has code for
//! processors with VAES but without AVX-512, where it is 1.7 times as fast as aws-lc (decision 018). Both are here anyway.

use crate::config::Suite;
use crate::wire::{HEADER, TAG};

/// A key, ready to seal and open.
#[expect(
    clippy::large_enum_variant,
    reason = "there are two for each session, and a pointer would be followed for each packet"
)]
pub(crate) enum Cipher {
    AwsLc(aws_lc_rs::aead::LessSafeKey),
    Ring(ring::aead::LessSafeKey),
}

/// It does not open.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Forged;

impl Cipher {
    /// By the faster library.
    pub(crate) fn new(suite: Suite, key: &[u8; 32]) -> Self {
        if is_ring_faster() { Self::ring(suite, key) } else { Self::aws_lc(suite, key) }
    }

    fn aws_lc(suite: Suite, key: &[u8; 32]) -> Self {
        use aws_lc_rs::aead::{AES_256_GCM, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
        let algorithm = match suite {
            Suite::Aes256Gcm => &AES_256_GCM,
            Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        Self::AwsLc(LessSafeKey::new(UnboundKey::new(algorithm, key).expect("both suites take keys of 32 bytes")))
    }

    fn ring(suite: Suite, key: &[u8; 32]) -> Self {
        use ring::aead::{AES_256_GCM, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
        let algorithm = match suite {
            Suite::Aes256Gcm => &AES_256_GCM,
            Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        Self::Ring(LessSafeKey::new(UnboundKey::new(algorithm, key).expect("both suites take keys of 32 bytes")))
    }

    /// Seals in place. The result is the tag.
    pub(crate) fn seal(&self, counter: u64, header: [u8; HEADER], bytes: &mut [u8]) -> Result<[u8; TAG], Forged> {
        let tag = match self {
            Self::AwsLc(key) => {
                use aws_lc_rs::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce(counter));
                key.seal_in_place_separate_tag(nonce, Aad::from(header), bytes)
                    .ok()
                    .and_then(|tag| as_tag(tag.as_ref()))
            }
            Self::Ring(key) => {
                use ring::aead::{Aad, Nonce};
                let nonce = Nonce::assume_unique_for_key(nonce(counter));
                key.seal_in_place_separate_tag(nonce, Aad::from(header), bytes)
                    .ok()
                    .and_then(|tag| as_tag(tag.as_ref()))
            }
        };
        tag.ok_or(Forged)
    }

    /// Opens in place what ends in its tag.
    pub(crate) fn open<'b>(
        &self,
        counter: u64,
        header: [u8; HEADER],
        bytes: &'b mut [u8],
    ) -> Result<&'b mut [u8], Forged> {
        match self {
            Self::AwsLc(key) => {
                use aws_lc_rs::aead::{Aad, Nonce};
                key.open_in_place(Nonce::assume_unique_for_key(nonce(counter)), Aad::from(header), bytes)
                    .map_err(|_| Forged)
            }
            Self::Ring(key) => {
                use ring::aead::{Aad, Nonce};
                key.open_in_place(Nonce::assume_unique_for_key(nonce(counter)), Aad::from(header), bytes)
                    .map_err(|_| Forged)
            }
        }
    }
}

fn as_tag(tag: &[u8]) -> Option<[u8; TAG]> {
    tag.try_into().ok()
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

#[cfg(target_arch = "x86_64")]
fn is_ring_faster() -> bool {
    is_x86_feature_detected!("vaes") && is_x86_feature_detected!("vpclmulqdq") && !is_x86_feature_detected!("avx512bw")
}

#[cfg(not(target_arch = "x86_64"))]
fn is_ring_faster() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test case 16 of "The Galois/Counter Mode of Operation" (McGrew, Viega) has another length of header, so these are not
    /// from a standard: each library has to agree with the other one.
    #[test]
    fn what_one_library_seals_the_other_one_opens() {
        for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
            let (one, other) = (Cipher::aws_lc(suite, &[7; 32]), Cipher::ring(suite, &[7; 32]));
            for (from, to) in [(&one, &other), (&other, &one)] {
                for length in [0, 1, 15, 16, 17, 63, 64, 255, 1400, 9000] {
                    let plain: Vec<u8> = (0..length).map(|n| n as u8).collect();
                    let mut bytes = plain.clone();
                    let tag = from.seal(0x0102_0304_0506_0708, [4; HEADER], &mut bytes).unwrap();
                    bytes.extend(tag);
                    let mut forged = bytes.clone();
                    forged[length / 2] ^= 1;
                    assert_eq!(to.open(0x0102_0304_0506_0708, [4; HEADER], &mut forged), Err(Forged));
                    assert_eq!(to.open(1, [4; HEADER], &mut bytes.clone()), Err(Forged));
                    assert_eq!(to.open(0x0102_0304_0506_0708, [5; HEADER], &mut bytes.clone()), Err(Forged));
                    assert_eq!(to.open(0x0102_0304_0506_0708, [4; HEADER], &mut bytes).unwrap(), plain);
                }
            }
        }
    }
}
