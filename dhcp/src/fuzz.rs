//! One function per decoder, and one for the machine behind it. None may panic, whatever the bytes.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use ipnet::Ipv4Net;

use crate::{
    Config, Event, Outcome, Server,
    option::{OPTIONS_AT, Options},
    request::Request,
};

/// Options that are read, written and read again are the same.
pub fn options(data: &[u8]) {
    let Ok(options) = Options::parse(data) else {
        return;
    };
    let mut message = vec![0; OPTIONS_AT];
    message.extend_from_slice(&options.emit());
    assert_eq!(Options::parse(&message).as_ref(), Ok(&options), "parse, emit, parse");
}

/// A message that is read is one a client may send, and goes through the machine with every kind of outcome.
pub fn message(data: &[u8]) {
    options(data);
    let room = Request::parse(data).map(|request| request.room);
    #[expect(clippy::disallowed_methods, reason = "a harness needs one real instant as origin")]
    let now = Instant::now();
    let taken = |_: Option<Ipv4Addr>| Outcome::Taken;
    let unavailable = |_: Option<Ipv4Addr>| Outcome::Unavailable;
    let granted = |want: Option<Ipv4Addr>| Outcome::Granted {
        ip: want.unwrap_or(Ipv4Addr::new(10, 64, 0, 7)),
        remaining: Duration::from_secs(3600),
    };
    let outcomes: [&dyn Fn(Option<Ipv4Addr>) -> Outcome; 3] = [&taken, &unavailable, &granted];
    for outcome in outcomes {
        let mut server = Server::new(config(), [7; 32], now);
        let mut source = [0; 6];
        source.copy_from_slice(data.get(28..34).unwrap_or(&[2; 6]));
        for _ in 0..2 {
            server.handle_message(source, data, now);
            drain(&mut server, outcome, room.as_ref().copied().unwrap_or(0), now);
        }
        server.handle_timeout(now + Duration::from_secs(4000));
        drain(&mut server, outcome, 0, now);
        assert_eq!(server.bindings().count(), 0, "every lease ends");
    }
}

fn config() -> Config {
    Config {
        server: Ipv4Addr::new(10, 64, 0, 1),
        subnet: Ipv4Net::new(Ipv4Addr::new(10, 64, 0, 0), 16).expect("16 is a prefix length"),
        dns: Ipv4Addr::new(10, 64, 0, 1),
        domain: "lab.internal".to_owned(),
        search: vec!["lab.internal".to_owned(), "example.org".to_owned()],
        mtu: 1400,
    }
}

fn drain(server: &mut Server, outcome: &dyn Fn(Option<Ipv4Addr>) -> Outcome, room: usize, now: Instant) {
    while let Some(event) = server.poll_event() {
        if let Event::Claim { id, want, .. } = event {
            server.handle_outcome(id, outcome(want), now);
        }
    }
    while let Some(reply) = server.poll_reply() {
        assert!((300..=room.max(300)).contains(&reply.message.len()), "a reply fits");
        let options = Options::parse(&reply.message).expect("a reply is well formed");
        for route in [3, 33, 121, 249] {
            assert_eq!(options.bytes(route), None, "no reply carries a route");
        }
        assert_eq!(options.bytes(54), Some(&[10, 64, 0, 1][..]), "every reply names its server");
    }
}
