//! One harness per decoder: takes any bytes, never panics, and checks that what was parsed is emitted again as
//! it was.

use std::time::Instant;

use libp2p_identity::PeerId;
use zeroize::Zeroizing;

use crate::config::{Config, Suites};
use crate::control::Control;
use crate::fragment::FragmentHeader;
use crate::payload::{InitPayload, RespPayload};
use crate::tunnel::Tunnel;

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

/// A whole tunnel of one member that gets these bytes as a datagram: whatever comes out is smaller than what went
/// in.
pub fn datagram(data: &[u8]) {
    thread_local! {
        static TARGET: std::cell::RefCell<Option<(Tunnel, Instant)>> = const { std::cell::RefCell::new(None) };
    }
    TARGET.with_borrow_mut(|target| {
        let (tunnel, now) = target.get_or_insert_with(target_tunnel);
        tunnel.handle_datagram(std::net::SocketAddr::from(([192, 0, 2, 1], 7)), data, 0, *now);
        while let Some(transmit) = tunnel.poll_transmit() {
            assert!(transmit.datagram.len() < data.len());
        }
        while tunnel.poll_event().is_some() {}
    });
}

#[expect(clippy::disallowed_methods, reason = "a fuzz target needs one real instant as origin")]
fn target_tunnel() -> (Tunnel, Instant) {
    let now = Instant::now();
    let identity = [&[0x00, 0x24, 0x08, 0x01, 0x12, 0x20], &[7; 32][..]].concat();
    let config = Config {
        namespace: [1; 32],
        identity: PeerId::from_bytes(&identity).expect("an inlined Ed25519 key"),
        secret: Zeroizing::new([2; 32]),
        credential_hash: [3; 32],
        slot: 4,
        instance: 5,
        outer_mtu: 1500,
        heads: [6; 8],
        suites: Suites::AES_FIRST,
        relay: Some(1 << 20),
    };
    (Tunnel::new(config, 0, [8; 32], now), now)
}
