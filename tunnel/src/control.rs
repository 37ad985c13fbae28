//! The tunnel's own control messages, payloads of kind 3 with a subtype below 16.
//!
//! ```text
//! 0 keepalive     00
//! 1 echo request  01 | token 8
//! 2 echo reply    02 | token 8 | family 1 (4 or 6) | address 4 or 16 | port 2
//! ```
//! The reply names the address that the request came from, which is how a node learns its own.

use std::net::{IpAddr, SocketAddr};

use crate::wire::{bytes_at, u16_at};

/// Subtypes from here on belong to the caller.
pub(crate) const CALLERS: u8 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    Keepalive,
    EchoRequest { token: [u8; 8] },
    EchoReply { token: [u8; 8], seen: SocketAddr },
}

/// Why bytes are none of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoControl {
    Malformed,
    /// A subtype of a later version.
    Unknown,
}

impl Control {
    pub(crate) fn parse(payload: &[u8]) -> Result<Self, NoControl> {
        match *payload {
            [0] => Ok(Self::Keepalive),
            [1, ref token @ ..] => Ok(Self::EchoRequest { token: token.try_into().map_err(|_| NoControl::Malformed)? }),
            [2, ..] => parse_reply(payload).ok_or(NoControl::Malformed),
            [] | [0, ..] => Err(NoControl::Malformed),
            [_, ..] => Err(NoControl::Unknown),
        }
    }

    pub(crate) fn emit(&self) -> Vec<u8> {
        match self {
            Self::Keepalive => vec![0],
            Self::EchoRequest { token } => [&[1], &token[..]].concat(),
            Self::EchoReply { token, seen } => {
                let port = seen.port().to_be_bytes();
                match seen.ip().to_canonical() {
                    IpAddr::V4(ip) => [&[2], &token[..], &[4], &ip.octets(), &port].concat(),
                    IpAddr::V6(ip) => [&[2], &token[..], &[6], &ip.octets(), &port].concat(),
                }
            }
        }
    }
}

fn parse_reply(payload: &[u8]) -> Option<Control> {
    let ip: IpAddr = match (*payload.get(9)?, payload.len()) {
        (4, 16) => bytes_at::<4>(payload, 10).into(),
        (6, 28) => bytes_at::<16>(payload, 10).into(),
        _ => return None,
    };
    // One address has one layout, or parse and emit would differ.
    if ip != ip.to_canonical() {
        return None;
    }
    let seen = SocketAddr::new(ip, u16_at(payload, payload.len() - 2));
    Some(Control::EchoReply { token: bytes_at(payload, 1), seen })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn exact_bytes() {
        assert_eq!(Control::Keepalive.emit(), [0]);
        let token = *b"abcdefgh";
        assert_eq!(Control::EchoRequest { token }.emit(), *b"\x01abcdefgh");
        let seen = "[::ffff:192.0.2.7]:4660".parse().unwrap();
        assert_eq!(Control::EchoReply { token, seen }.emit(), *b"\x02abcdefgh\x04\xc0\x00\x02\x07\x12\x34");
        let seen = "[2001:db8::5]:1".parse().unwrap();
        assert_eq!(Control::EchoReply { token, seen }.emit().len(), 28);
    }

    #[test]
    fn what_is_laid_out_otherwise_is_refused() {
        for bad in [&b""[..], b"\0\0", b"\x01abcdefg", b"\x01abcdefghi", b"\x02abcdefgh\x05\xc0\x00\x02\x07\x12\x34"] {
            assert_eq!(Control::parse(bad), Err(NoControl::Malformed), "{bad:?}");
        }
        assert_eq!(Control::parse(&[3]), Err(NoControl::Unknown));
    }

    proptest! {
        #[test]
        fn what_parses_is_emitted_as_it_was(subtype in 0u8..4, rest in proptest::collection::vec(any::<u8>(), 0..30), family in 4u8..7) {
            let mut bytes = [&[subtype], &rest[..]].concat();
            if let Some(byte) = bytes.get_mut(9) {
                *byte = family;
            }
            crate::fuzz::control(&bytes);
        }
    }
}
