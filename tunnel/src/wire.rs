//! Layouts of the messages, integers big-endian.
//!
//! ```text
//! 1 Init    204..1200  01 major 0 0 | sender 4 | e 32 | s 48 | payload 68+x+16 | mac1 16 | mac2 16
//! 2 Resp    152        02 major 0 0 | sender 4 | receiver 4 | e 32 | payload 60+16 | mac1 16 | mac2 16
//! 3 Cookie  64         03 major 0 0 | receiver 4 | nonce 24 | sealed cookie 32
//! 4 Data    32+n       04 kind 0 0  | receiver 4 | counter 8 | ciphertext n | tag 16
//! 4 Carried 32+n       04 kind circuit 2 | as Data; what is sealed is a whole message for, or from, the other end
//! ```
//! Carried messages are kinds 5 (to a relay) and 6 (from it). The circuit stands in the header, so that 1500 bytes of
//! outer IPv4 still carry an inner packet of 1400 with its 8 bytes of offload meaning.

use crate::event::Kind;

/// The version of the layouts; another one is dropped without an answer.
pub(crate) const MAJOR: u8 = 1;
/// Data header, which is the additional data of the AEAD.
pub(crate) const HEADER: usize = 16;
/// AEAD tag.
pub(crate) const TAG: usize = 16;
/// Smallest Init.
pub(crate) const INIT_MIN: usize = 204;
/// Largest Init.
pub(crate) const INIT_MAX: usize = 1200;
/// Every Resp.
pub(crate) const RESP: usize = 152;
/// Every Cookie.
pub(crate) const COOKIE: usize = 64;

/// The four message types, told apart by exact first four bytes and by length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Init,
    Resp { receiver: u32 },
    Cookie { receiver: u32 },
    Data { receiver: u32 },
}

/// Why bytes are no message of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoMessage {
    Malformed,
    WrongMajor,
    UnknownKind,
}

pub(crate) fn parse(datagram: &[u8]) -> Result<Message, NoMessage> {
    let [kind, second, third, fourth, ..] = *datagram else {
        return Err(NoMessage::Malformed);
    };
    if (third, fourth) != (0, 0) && !(kind == 4 && Kind::from_number(second).is_some_and(Kind::is_carried)) {
        return Err(NoMessage::Malformed);
    }
    let fits = match kind {
        1 => (INIT_MIN..=INIT_MAX).contains(&datagram.len()),
        2 => datagram.len() == RESP,
        3 => datagram.len() == COOKIE,
        4 => datagram.len() >= HEADER + TAG,
        _ => false,
    };
    if !fits {
        return Err(NoMessage::Malformed);
    }
    if kind == 4 {
        Kind::from_number(second).ok_or(NoMessage::UnknownKind)?;
    } else if second != MAJOR {
        return Err(NoMessage::WrongMajor);
    }
    match kind {
        1 => Ok(Message::Init),
        2 => Ok(Message::Resp { receiver: u32_at(datagram, 8) }),
        3 => Ok(Message::Cookie { receiver: u32_at(datagram, 4) }),
        _ => Ok(Message::Data { receiver: u32_at(datagram, 4) }),
    }
}

/// The receiver index of a Data, Resp or Cookie message with exact length and first four bytes; its top four
/// bits are the slot of the namespace. `None` for an Init, which [`Tunnel::owns`](crate::Tunnel::owns) sorts,
/// and for anything else.
pub fn receiver_index(datagram: &[u8]) -> Option<u32> {
    match parse(datagram).ok()? {
        Message::Init => None,
        Message::Resp { receiver } | Message::Cookie { receiver } | Message::Data { receiver } => Some(receiver),
    }
}

/// Whether it has type, version and size of an Init, the only message that names no index. Whether it is one, and for
/// which namespace, [`Tunnel::owns`](crate::Tunnel::owns) finds out.
pub fn is_init(datagram: &[u8]) -> bool {
    matches!(parse(datagram), Ok(Message::Init))
}

/// The number of the circuit in a Data message that is carried; 0 in others.
pub fn circuit(datagram: &[u8]) -> u16 {
    datagram.get(2..4).map_or(0, |bytes| u16_at(bytes, 0))
}

/// The kind of a Data message, readable before it is opened. The fast path opens [`Kind::Packet`], [`Kind::Offloaded`] and
/// what is carried, and hands the others over as they are.
pub fn data_kind(datagram: &[u8]) -> Option<Kind> {
    match parse(datagram).ok()? {
        Message::Data { .. } => Kind::from_number(datagram[1]),
        Message::Init | Message::Resp { .. } | Message::Cookie { .. } => None,
    }
}

/// The header of a Data message; the circuit is 0 but for carried ones.
pub(crate) fn data_header(kind: Kind, circuit: u16, receiver: u32, counter: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0] = 4;
    header[1] = kind as u8;
    header[2..4].copy_from_slice(&circuit.to_be_bytes());
    header[4..8].copy_from_slice(&receiver.to_be_bytes());
    header[8..].copy_from_slice(&counter.to_be_bytes());
    header
}

/// `N` bytes at `offset`; the caller has checked the length.
pub(crate) fn bytes_at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[offset..offset + N]);
    out
}

pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes(bytes_at(bytes, offset))
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_be_bytes(bytes_at(bytes, offset))
}

pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_be_bytes(bytes_at(bytes, offset))
}
