//! One harness per decoder: takes any bytes, never panics, and checks that what was parsed is emitted again as
//! it was.

use crate::control::Control;
use crate::fragment::FragmentHeader;
use crate::payload::{InitPayload, RespPayload};

/// Payload of an Init.
pub fn init_payload(data: &[u8]) {
    if let Some(payload) = InitPayload::parse(data) {
        assert_eq!(payload.emit(), data);
    }
}

/// Payload of a Resp.
pub fn resp_payload(data: &[u8]) {
    if let Some(payload) = RespPayload::parse(data) {
        assert_eq!(payload.emit(), data);
    }
}

/// The tunnel's own control messages.
pub fn control(data: &[u8]) {
    if let Ok(message) = Control::parse(data) {
        assert_eq!(message.emit(), data);
    }
}

/// The four bytes before a fragment.
pub fn fragment_header(data: &[u8]) {
    if let Some((header, rest)) = FragmentHeader::parse(data) {
        assert_eq!([&header.emit(), rest].concat(), data);
    }
}

/// The types of datagrams.
pub fn message(data: &[u8]) {
    let index = crate::wire::receiver_index(data);
    let kind = crate::wire::data_kind(data);
    assert!(kind.is_none() || index.is_some());
    assert!(index.is_none() || data.len() >= 32);
}
