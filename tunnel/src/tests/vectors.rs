//! Exact bytes. A change here is a new wire version.

use super::net::{Net, ms};
use crate::limits::INIT_INTERVAL;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One handshake with fixed seeds: Init, Resp, the queued packet, the echo and its answers.
#[test]
fn one_handshake() {
    let mut net = Net::new(2);
    net.send(0, 1, b"vector");
    net.run(ms(200));
    let seen: Vec<String> = net.seen.iter().map(|flight| hex(&flight.bytes)).collect();
    let frozen: Vec<&str> = include_str!("handshake.hex").lines().collect();
    assert_eq!(seen, frozen);
}

/// The same Init under load: Cookie, and the Init that carries it.
#[test]
fn one_cookie() {
    let mut net = Net::new(2);
    net.nodes[1].tunnel.handle_pressure(net.now);
    net.send(0, 1, b"vector");
    net.run(ms(330) + INIT_INTERVAL);
    let seen: Vec<String> = net.seen.iter().take(3).map(|flight| hex(&flight.bytes)).collect();
    let frozen: Vec<&str> = include_str!("cookie.hex").lines().collect();
    assert_eq!(seen, frozen);
}
