//! One entry per decoder for a fuzzer: total, and asserting what must hold whatever the bytes are.

use std::{net::Ipv4Addr, time::Instant};

use hickory_proto::op::{Message, MessageType};

use crate::{Config, Event, Responder, Token, Transport, parse_computed_name, reverse_zones};

const MAX_UDP: u16 = 1232;

/// A guest's query: at most one reply or one question, and a reply is a readable response under the same id.
pub fn query(data: &[u8]) {
    let now = origin();
    for (transport, limit) in [(Transport::Udp, usize::from(MAX_UDP)), (Transport::Tcp, usize::from(u16::MAX))] {
        let mut responder = responder(now);
        responder.handle_query(Token(7), transport, data, now);
        let event = responder.poll_event();
        let reply = responder.poll_reply();
        assert!(event.is_none() || reply.is_none(), "asked others and answered");
        assert!(responder.poll_event().is_none() && responder.poll_reply().is_none(), "one query, one outcome");
        if let Some(Event::Forward { message, .. }) = &event {
            assert_eq!(message, data);
        }
        assert_eq!(event.is_some(), responder.poll_timeout().is_some());
        if let Some((_, reply)) = reply {
            check(&reply, data, limit);
        }
        if let Some((at, _)) = responder.poll_timeout() {
            responder.handle_timeout(at);
            let (_, reply) = responder.poll_reply().expect("who waited is answered at the deadline");
            check(&reply, data, limit);
        }
    }
}

/// What an upstream said to a fixed query.
pub fn forwarded(data: &[u8]) {
    let now = origin();
    let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01";
    let mut responder = responder(now);
    responder.handle_query(Token(7), Transport::Udp, query, now);
    let Some(Event::Forward { id, .. }) = responder.poll_event() else { panic!("a name outside is forwarded") };
    responder.handle_forwarded(id, Some(data), now);
    let (token, reply) = responder.poll_reply().expect("every query is answered");
    assert_eq!(token, Token(7));
    assert!(reply.len() <= 512 && reply[..2] == query[..2] && reply[2] & 0x80 != 0);
}

/// A label, and a range made of five octets.
pub fn names(data: &[u8]) {
    if let Some(ip) = std::str::from_utf8(data).ok().and_then(parse_computed_name) {
        assert!(crate::computed_name(ip).as_bytes().eq_ignore_ascii_case(data));
    }
    let Some(&[a, b, c, d, length]) = data.first_chunk::<5>() else { return };
    if let Ok(range) = ipnet::Ipv4Net::new(Ipv4Addr::new(a, b, c, d), length) {
        assert!((1..=128).contains(&reverse_zones(range.trunc()).len()));
    }
}

fn check(reply: &[u8], query: &[u8], limit: usize) {
    assert!(reply.len() <= limit, "{} octets", reply.len());
    assert_eq!(reply[..2], query[..2], "the id");
    let message = Message::from_vec(reply).expect("we write what can be read");
    assert_eq!(message.metadata.message_type, MessageType::Response);
    let again = message.to_vec().expect("what was read can be written");
    assert_eq!(Message::from_vec(&again).ok(), Some(message), "parse, emit, parse");
}

fn responder(now: Instant) -> Responder {
    let config = Config {
        zone: "home.internal".to_owned(),
        service: Ipv4Addr::new(10, 64, 0, 1),
        range: ipnet::Ipv4Net::new_assert(Ipv4Addr::new(10, 64, 0, 0), 16),
        max_udp: MAX_UDP,
    };
    let mut responder = Responder::new(config, now);
    responder.set_local("box", Ipv4Addr::new(10, 64, 0, 7));
    responder
}

#[expect(clippy::disallowed_methods, reason = "a fuzzer needs one real instant as origin")]
fn origin() -> Instant {
    Instant::now()
}
