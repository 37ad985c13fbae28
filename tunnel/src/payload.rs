//! What the two handshake messages carry inside.
//!
//! ```text
//! Init  hs_no 8 | min minor 1 | max minor 1 | suites 2 | caps 4 | instance 8 | H(credential) 32 | heads 8 | mtu 2
//!       | inline length 2 | inline credential
//! Resp  suite 2 | minor 2 | caps 4 | instance 8 | H(credential) 32 | heads 8 | mtu 2 | flags 2
//! ```

use crate::wire::{bytes_at, u16_at, u64_at};

/// The minor version that we speak.
pub(crate) const MINOR: u8 = 0;
/// An Init payload without an inline credential.
pub(crate) const INIT_PAYLOAD: usize = 68;
/// A Resp payload.
pub(crate) const RESP_PAYLOAD: usize = 60;
/// Largest inline credential.
const INLINE_MAX: usize = 990;

/// Payload of an Init.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InitPayload {
    pub(crate) number: u64,
    pub(crate) min_minor: u8,
    pub(crate) max_minor: u8,
    pub(crate) suites: [u8; 2],
    /// Capability bits, none so far; unknown ones are passed over.
    pub(crate) caps: [u8; 4],
    pub(crate) instance: u64,
    pub(crate) credential_hash: [u8; 32],
    pub(crate) heads: [u8; 8],
    pub(crate) mtu: u16,
    /// A credential the sender believes to be unknown to us. We fetch credentials over the control plane.
    pub(crate) inline: Vec<u8>,
}

impl InitPayload {
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let inline = bytes.get(INIT_PAYLOAD..)?;
        if usize::from(u16_at(bytes, 66)) != inline.len() || inline.len() > INLINE_MAX {
            return None;
        }
        Some(Self {
            number: u64_at(bytes, 0),
            min_minor: bytes[8],
            max_minor: bytes[9],
            suites: bytes_at(bytes, 10),
            caps: bytes_at(bytes, 12),
            instance: u64_at(bytes, 16),
            credential_hash: bytes_at(bytes, 24),
            heads: bytes_at(bytes, 56),
            mtu: u16_at(bytes, 64),
            inline: inline.to_vec(),
        })
    }

    pub(crate) fn emit(&self) -> Vec<u8> {
        let inline_len = u16::try_from(self.inline.len()).unwrap_or(u16::MAX);
        [
            &self.number.to_be_bytes()[..],
            &[self.min_minor, self.max_minor],
            &self.suites,
            &self.caps,
            &self.instance.to_be_bytes(),
            &self.credential_hash,
            &self.heads,
            &self.mtu.to_be_bytes(),
            &inline_len.to_be_bytes(),
            &self.inline,
        ]
        .concat()
    }
}

/// Payload of a Resp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RespPayload {
    pub(crate) suite: u16,
    pub(crate) minor: u16,
    pub(crate) caps: [u8; 4],
    pub(crate) instance: u64,
    pub(crate) credential_hash: [u8; 32],
    pub(crate) heads: [u8; 8],
    pub(crate) mtu: u16,
    /// None so far; unknown ones are passed over.
    pub(crate) flags: u16,
}

impl RespPayload {
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != RESP_PAYLOAD {
            return None;
        }
        Some(Self {
            suite: u16_at(bytes, 0),
            minor: u16_at(bytes, 2),
            caps: bytes_at(bytes, 4),
            instance: u64_at(bytes, 8),
            credential_hash: bytes_at(bytes, 16),
            heads: bytes_at(bytes, 48),
            mtu: u16_at(bytes, 56),
            flags: u16_at(bytes, 58),
        })
    }

    pub(crate) fn emit(&self) -> Vec<u8> {
        [
            &self.suite.to_be_bytes()[..],
            &self.minor.to_be_bytes(),
            &self.caps,
            &self.instance.to_be_bytes(),
            &self.credential_hash,
            &self.heads,
            &self.mtu.to_be_bytes(),
            &self.flags.to_be_bytes(),
        ]
        .concat()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_parses_is_emitted_as_it_was(mut bytes in proptest::collection::vec(any::<u8>(), 0..1200), fix in any::<bool>()) {
            if fix && bytes.len() >= INIT_PAYLOAD {
                let inline = u16::try_from(bytes.len() - INIT_PAYLOAD).unwrap();
                bytes[66..68].copy_from_slice(&inline.to_be_bytes());
            }
            crate::fuzz::init_payload(&bytes);
            crate::fuzz::resp_payload(&bytes);
            crate::fuzz::resp_payload(&bytes[..bytes.len().min(RESP_PAYLOAD)]);
        }
    }
}
