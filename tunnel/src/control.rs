//! The tunnel's own control messages, payloads of kind 3 with a subtype below 16.
//!
//! ```text
//! 0 keepalive     00
//! 1 echo request  01 | token 8
//! 2 echo reply    02 | token 8 | family 1 (4 or 6) | address 4 or 16 | port 2      family 0: it came through a relay
//! 3 open          03 | identity 32                   carry to that member
//! 4 opened        04 | identity 32 | circuit 2 | room 2    to both ends: the other end, our number, the largest datagram
//! 5 refused       05 | identity 32 | reason 1
//! 6 closed        06 | circuit 2
//! 7 padded echo   07 | token 8 | zeros                     an echo request, to find out whether so large a datagram passes
//! ```
//! The echo reply names the address that the request came from, which is how a node learns its own.

use std::net::{IpAddr, SocketAddr};

use crate::wire::{bytes_at, u16_at};

/// Subtypes from here on belong to the caller.
pub(crate) const CALLERS: u8 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    Keepalive,
    EchoRequest {
        token: [u8; 8],
    },
    EchoReply {
        token: [u8; 8],
        seen: Option<SocketAddr>,
    },
    /// To a relay: carry to the member with this identity.
    Open {
        target: [u8; 32],
    },
    /// From a relay, to both ends.
    Opened {
        other: [u8; 32],
        circuit: u16,
        room: u16,
    },
    /// From a relay: it cannot or will not carry there. The reason is for people.
    Refused {
        target: [u8; 32],
        reason: u8,
    },
    /// From a relay: nothing goes on this circuit any more.
    Closed {
        circuit: u16,
    },
    PaddedEcho {
        token: [u8; 8],
        zeros: usize,
    },
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
        match (payload.first(), payload.len()) {
            (Some(0), 1) => Ok(Self::Keepalive),
            (Some(1), 9) => Ok(Self::EchoRequest { token: bytes_at(payload, 1) }),
            (Some(2), _) => parse_reply(payload).ok_or(NoControl::Malformed),
            (Some(3), 33) => Ok(Self::Open { target: bytes_at(payload, 1) }),
            (Some(4), 37) => {
                let (circuit, room) = (u16_at(payload, 33), u16_at(payload, 35));
                Ok(Self::Opened { other: bytes_at(payload, 1), circuit, room })
            }
            (Some(5), 34) => Ok(Self::Refused { target: bytes_at(payload, 1), reason: payload[33] }),
            (Some(6), 3) => Ok(Self::Closed { circuit: u16_at(payload, 1) }),
            (Some(7), 9..) if payload[9..].iter().all(|byte| *byte == 0) => {
                Ok(Self::PaddedEcho { token: bytes_at(payload, 1), zeros: payload.len() - 9 })
            }
            (None | Some(0..=7), _) => Err(NoControl::Malformed),
            (Some(_), _) => Err(NoControl::Unknown),
        }
    }

    pub(crate) fn emit(&self) -> Vec<u8> {
        match self {
            Self::Keepalive => vec![0],
            Self::EchoRequest { token } => [&[1], &token[..]].concat(),
            Self::EchoReply { token, seen: None } => [&[2], &token[..], &[0]].concat(),
            Self::EchoReply { token, seen: Some(seen) } => {
                let port = seen.port().to_be_bytes();
                match seen.ip().to_canonical() {
                    IpAddr::V4(ip) => [&[2], &token[..], &[4], &ip.octets(), &port].concat(),
                    IpAddr::V6(ip) => [&[2], &token[..], &[6], &ip.octets(), &port].concat(),
                }
            }
            Self::Open { target } => [&[3], &target[..]].concat(),
            Self::Opened { other, circuit, room } => {
                [&[4], &other[..], &circuit.to_be_bytes(), &room.to_be_bytes()].concat()
            }
            Self::Refused { target, reason } => [&[5], &target[..], &[*reason]].concat(),
            Self::Closed { circuit } => [&[6][..], &circuit.to_be_bytes()].concat(),
            Self::PaddedEcho { token, zeros } => [&[7], &token[..], &vec![0; *zeros]].concat(),
        }
    }
}

fn parse_reply(payload: &[u8]) -> Option<Control> {
    let ip: IpAddr = match (*payload.get(9)?, payload.len()) {
        (0, 10) => return Some(Control::EchoReply { token: bytes_at(payload, 1), seen: None }),
        (4, 16) => bytes_at::<4>(payload, 10).into(),
        (6, 28) => bytes_at::<16>(payload, 10).into(),
        _ => return None,
    };
    // One address has one layout, or parse and emit would differ.
    if ip != ip.to_canonical() {
        return None;
    }
    let seen = SocketAddr::new(ip, u16_at(payload, payload.len() - 2));
    Some(Control::EchoReply { token: bytes_at(payload, 1), seen: Some(seen) })
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
        let seen = "[::ffff:192.0.2.7]:4660".parse().ok();
        assert_eq!(Control::EchoReply { token, seen }.emit(), *b"\x02abcdefgh\x04\xc0\x00\x02\x07\x12\x34");
        let seen = "[2001:db8::5]:1".parse().ok();
        assert_eq!(Control::EchoReply { token, seen }.emit().len(), 28);
        assert_eq!(Control::EchoReply { token, seen: None }.emit(), *b"\x02abcdefgh\0");
        assert_eq!(Control::Open { target: [7; 32] }.emit(), [&[3], &[7; 32][..]].concat());
        let opened = Control::Opened { other: [7; 32], circuit: 0x0102, room: 1440 };
        assert_eq!(opened.emit(), [&[4], &[7; 32][..], &[1, 2, 5, 0xa0]].concat());
        assert_eq!(Control::Refused { target: [7; 32], reason: 2 }.emit(), [&[5], &[7; 32][..], &[2]].concat());
        assert_eq!(Control::Closed { circuit: 0x0102 }.emit(), [6, 1, 2]);
        assert_eq!(Control::PaddedEcho { token, zeros: 2 }.emit(), *b"\x07abcdefgh\0\0");
    }

    #[test]
    fn what_is_laid_out_otherwise_is_refused() {
        for bad in [&b""[..], b"\0\0", b"\x01abcdefg", b"\x01abcdefghi", b"\x02abcdefgh\x05\xc0\x00\x02\x07\x12\x34"] {
            assert_eq!(Control::parse(bad), Err(NoControl::Malformed), "{bad:?}");
        }
        assert_eq!(Control::parse(&[3]), Err(NoControl::Malformed));
        assert_eq!(Control::parse(b"\x07abcdefgh\0\x01"), Err(NoControl::Malformed));
        assert_eq!(Control::parse(&[8]), Err(NoControl::Unknown));
    }

    proptest! {
        #[test]
        fn what_parses_is_emitted_as_it_was(subtype in 0u8..9, rest in proptest::collection::vec(any::<u8>(), 0..40), family in 0u8..7) {
            let mut bytes = [&[subtype], &rest[..]].concat();
            if let Some(byte) = bytes.get_mut(9) {
                *byte = family;
            }
            crate::fuzz::control(&bytes);
        }
    }
}
