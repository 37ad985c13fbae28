//! Bytes to a `Request`, and a `Reply` to bytes; hickory-proto does the letters, this file the sentences.

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Record, RecordType},
};

use crate::{DropReason, Transport};

/// RFC 1035 §4.1.1.
const HEADER: usize = 12;

/// RFC 1035 §4.2.1: what everybody takes over UDP.
const MIN_UDP: u16 = 512;

/// Ours: a query is a header, one name of up to 255 octets and an OPT record with perhaps a cookie and padding.
const MAX_QUERY: usize = 4096;

/// One question, and what its asker needs of the reply.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) query: Query,
    id: u16,
    recursion_desired: bool,
    checking_disabled: bool,
    edns: Option<Asker>,
    transport: Transport,
}

/// What the asker's OPT record says (RFC 6891 §6.1.3).
#[derive(Clone, Copy, Debug)]
struct Asker {
    max_payload: u16,
    dnssec_ok: bool,
}

/// What became of the bytes.
#[derive(Debug)]
pub(crate) enum Received {
    /// A question to be answered.
    Request(Box<Request>),
    /// Refused with an error.
    Rejected(DropReason, Vec<u8>),
    /// Not worth an answer.
    Silent(DropReason),
}

/// What a reply says.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) code: ResponseCode,
    pub(crate) authority: Authority,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
    pub(crate) additionals: Vec<Record>,
}

/// Who speaks: the owner of the zone, or somebody who asked others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Authority {
    Own,
    Others,
}

/// Guards first, on the header alone, so that no count of a stranger's makes the parser reserve memory.
pub(crate) fn receive(message: &[u8], transport: Transport) -> Received {
    let Some(header) = message.first_chunk::<HEADER>() else {
        return Received::Silent(DropReason::TooShort);
    };
    if header[2] & 0x80 != 0 {
        return Received::Silent(DropReason::Response);
    }
    if OpCode::from_u8((header[2] >> 3) & 0x0f) != OpCode::Query {
        return rejected(header, ResponseCode::NotImp, DropReason::NotImplemented);
    }
    if message.len() > MAX_QUERY {
        return rejected(header, ResponseCode::FormErr, DropReason::TooLong);
    }
    // RFC 9619: a query has one question.
    if header[4..6] != [0, 1] {
        return rejected(header, ResponseCode::FormErr, DropReason::Malformed);
    }
    let Ok(message) = Message::from_vec(message) else {
        return rejected(header, ResponseCode::FormErr, DropReason::Malformed);
    };
    let Some(query) = message.queries.first() else {
        return rejected(header, ResponseCode::FormErr, DropReason::Malformed);
    };
    let request = Request {
        query: query.clone(),
        id: message.metadata.id,
        recursion_desired: message.metadata.recursion_desired,
        checking_disabled: message.metadata.checking_disabled,
        edns: message
            .edns
            .as_ref()
            .map(|edns| Asker { max_payload: edns.max_payload(), dnssec_ok: edns.flags().dnssec_ok }),
        transport,
    };
    match unserved(&request, message.version()) {
        Some((code, reason)) => match request.write(Reply::error(code), MIN_UDP) {
            Some(bytes) => Received::Rejected(reason, bytes),
            None => Received::Silent(DropReason::NotEncoded),
        },
        None => Received::Request(Box::new(request)),
    }
}

fn unserved(request: &Request, edns_version: u8) -> Option<(ResponseCode, DropReason)> {
    // RFC 6891 §6.1.3.
    if edns_version != 0 {
        return Some((ResponseCode::BADVERS, DropReason::BadVersion));
    }
    // CHAOS tells versions, ANY is no class to answer in.
    if request.query.query_class != DNSClass::IN {
        return Some((ResponseCode::Refused, DropReason::Refused));
    }
    // A transfer is many messages; RFC 5936 §2.2.1 names the refusal.
    if matches!(request.query.query_type, RecordType::AXFR | RecordType::IXFR) {
        return Some((ResponseCode::Refused, DropReason::Refused));
    }
    None
}

/// An error for a message of which nothing but the header is to be trusted: the header alone, id, opcode and RD kept.
fn rejected(header: &[u8; HEADER], code: ResponseCode, reason: DropReason) -> Received {
    let flags = 0x80 | (header[2] & 0x79);
    Received::Rejected(reason, vec![header[0], header[1], flags, code.low(), 0, 0, 0, 0, 0, 0, 0, 0])
}

impl Request {
    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    /// How large a reply may be.
    pub(crate) fn limit(&self, max_udp: u16) -> u16 {
        match self.transport {
            Transport::Tcp => u16::MAX,
            // RFC 6891 §6.2.3: values below 512 are 512.
            Transport::Udp => self.edns.map_or(MIN_UDP, |asker| asker.max_payload.clamp(MIN_UDP, max_udp.max(MIN_UDP))),
        }
    }

    /// The reply as bytes: the question as it was asked, letter by letter, and whole or not at all (TC, RFC 2181 §9).
    pub(crate) fn write(&self, reply: Reply, max_udp: u16) -> Option<Vec<u8>> {
        let mut message = Message::new(self.id, MessageType::Response, OpCode::Query);
        message.metadata.response_code = reply.code;
        message.metadata.authoritative = reply.authority == Authority::Own;
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.checking_disabled = self.checking_disabled;
        message.add_query(self.query.clone());
        message.answers = reply.answers;
        message.authorities = reply.authorities;
        message.additionals = reply.additionals;
        if let Some(asker) = self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(max_udp.max(MIN_UDP));
            edns.set_dnssec_ok(asker.dnssec_ok);
            message.set_edns(edns);
        }
        let bytes = message.to_vec().ok()?;
        if bytes.len() <= usize::from(self.limit(max_udp)) {
            return Some(bytes);
        }
        message.truncate().to_vec().ok()
    }
}

impl Reply {
    pub(crate) fn error(code: ResponseCode) -> Self {
        Self::of(code, Authority::Others)
    }

    pub(crate) fn own(code: ResponseCode) -> Self {
        Self::of(code, Authority::Own)
    }

    fn of(code: ResponseCode, authority: Authority) -> Self {
        Self { code, authority, answers: Vec::new(), authorities: Vec::new(), additionals: Vec::new() }
    }
}
