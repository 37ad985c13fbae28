#![expect(clippy::wildcard_enum_match_arm, reason = "the types of records are not ours, and others are added to them")]

mod bytes;
mod corpus;
mod forwarding;
mod own_names;
mod refusals;
mod waiting;

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, RecordType, rdata},
};

use crate::{Answer, Config, DropReason, Event, QueryId, Question, Responder, Token, Transport};

const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);
const HOST: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 7);
const HOUR: Duration = Duration::from_secs(3600);

#[expect(clippy::disallowed_methods, reason = "a test needs one real instant as origin")]
fn origin() -> Instant {
    Instant::now()
}

struct Guest {
    responder: Responder,
    now: Instant,
}

impl Guest {
    fn new() -> Self {
        Self::in_range("10.64.0.0/16")
    }

    fn in_range(range: &str) -> Self {
        let config =
            Config { zone: "home.internal".to_owned(), service: SERVICE, range: range.parse().unwrap(), max_udp: 1232 };
        let now = origin();
        Self { responder: Responder::new(config, now), now }
    }

    fn send(&mut self, message: &Message) {
        self.responder.handle_query(Token(1), Transport::Udp, &message.to_vec().unwrap(), self.now);
    }

    fn ask(&mut self, name: &str, kind: RecordType) {
        self.send(&query(name, kind));
    }

    /// Asks for what must be answered without asking anybody.
    fn answer(&mut self, name: &str, kind: RecordType) -> Message {
        self.ask(name, kind);
        self.reply()
    }

    fn reply(&mut self) -> Message {
        let (_, bytes) = self.responder.poll_reply().expect("a reply");
        Message::from_vec(&bytes).unwrap()
    }

    fn silent(&mut self) -> bool {
        self.responder.poll_reply().is_none() && self.responder.poll_event().is_none()
    }

    fn resolve(&mut self) -> (QueryId, Question) {
        match self.responder.poll_event() {
            Some(Event::Resolve { id, what }) => (id, what),
            other => panic!("{other:?}"),
        }
    }

    fn forward(&mut self) -> (QueryId, Vec<u8>) {
        match self.responder.poll_event() {
            Some(Event::Forward { id, message, .. }) => (id, message),
            other => panic!("{other:?}"),
        }
    }

    fn resolved(&mut self, id: QueryId, answer: Answer) -> Message {
        self.responder.handle_resolved(id, answer, self.now);
        self.reply()
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.responder.drops().get(&reason).copied().unwrap_or_default()
    }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn address(reply: &Message) -> Option<(Ipv4Addr, u32)> {
    match reply.answers.as_slice() {
        [record] => match &record.data {
            RData::A(rdata::A(ip)) => Some((*ip, record.ttl)),
            _ => None,
        },
        _ => None,
    }
}

fn pointer(reply: &Message) -> Option<String> {
    match reply.answers.as_slice() {
        [record] => match &record.data {
            RData::PTR(name) => Some(name.0.to_ascii()),
            _ => None,
        },
        _ => None,
    }
}

/// The owner of the SOA record of a negative answer.
fn denied_by(reply: &Message) -> Option<String> {
    match reply.authorities.as_slice() {
        [record] if matches!(record.data, RData::SOA(_)) && reply.answers.is_empty() && record.ttl == 5 => {
            Some(record.name.to_ascii())
        }
        _ => None,
    }
}

fn nodata(reply: &Message) -> bool {
    reply.metadata.response_code == ResponseCode::NoError && denied_by(reply).is_some()
}

fn nxdomain(reply: &Message) -> bool {
    reply.metadata.response_code == ResponseCode::NXDomain && denied_by(reply).is_some()
}

fn edns(max_payload: u16) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(max_payload);
    edns
}
