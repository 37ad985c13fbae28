//! What is known about a name, as the records of a reply.
#![expect(clippy::wildcard_enum_match_arm, reason = "the types of records are not ours, and others are added to them")]

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use hickory_proto::{
    op::ResponseCode,
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, NS, PTR, SOA},
    },
};

use crate::{
    cache::MAX_TTL,
    message::{Reply, Request},
    zone::Zone,
};

/// How long "there is no such name" may be believed: as long as the registers themselves believe it, because a name that
/// is claimed meanwhile is looked for at once. It is both the TTL and the MINIMUM of the SOA record (RFC 2308 §5).
const ABSENT_TTL: u32 = 5;

/// The SOA of a zone that has no secondaries: a serial that never moves, and the usual timers (RFC 1912 §2.2).
const SERIAL: u32 = 1;
const REFRESH: i32 = 3600;
const RETRY: i32 = 600;
const EXPIRE: i32 = 86_400;

/// The top of one of our zones: SOA, NS with the address of the server beside it, else NODATA.
pub(crate) fn apex(request: &Request, zone: &Zone, apex: &Name) -> Option<Reply> {
    let owner = request.query.name.clone();
    let mut reply = Reply::own(ResponseCode::NoError);
    match request.query.query_type {
        RecordType::SOA => {
            reply.answers.push(Record::from_rdata(owner, seconds(MAX_TTL), RData::SOA(soa(zone)?)));
        }
        RecordType::NS => {
            let server = zone.server()?;
            reply.answers.push(Record::from_rdata(owner, seconds(MAX_TTL), RData::NS(NS(server.clone()))));
            reply.additionals.push(Record::from_rdata(server, seconds(MAX_TTL), RData::A(A(zone.service()))));
        }
        _ => return empty(zone, apex),
    }
    Some(reply)
}

/// A name with an address: A, else NODATA.
pub(crate) fn host(request: &Request, zone: &Zone, apex: &Name, ip: Ipv4Addr, ttl: Duration) -> Option<Reply> {
    match request.query.query_type {
        RecordType::A => Some(one(request, ttl, RData::A(A(ip)))),
        _ => empty(zone, apex),
    }
}

/// An address with a name: PTR, else NODATA.
pub(crate) fn pointer(request: &Request, zone: &Zone, apex: &Name, label: &str, ttl: Duration) -> Option<Reply> {
    match request.query.query_type {
        RecordType::PTR => Some(one(request, ttl, RData::PTR(PTR(zone.member(label)?)))),
        _ => empty(zone, apex),
    }
}

/// RFC 6761 §6.3: localhost is this machine, for whoever asks.
pub(crate) fn loopback(request: &Request) -> Reply {
    match request.query.query_type {
        RecordType::A => one(request, MAX_TTL, RData::A(A(Ipv4Addr::LOCALHOST))),
        RecordType::AAAA => one(request, MAX_TTL, RData::AAAA(AAAA(Ipv6Addr::LOCALHOST))),
        _ => Reply::own(ResponseCode::NoError),
    }
}

/// The name exists and has nothing of the type asked for (NODATA, RFC 2308 §2.2).
pub(crate) fn empty(zone: &Zone, apex: &Name) -> Option<Reply> {
    negative(ResponseCode::NoError, zone, apex)
}

/// The name certainly does not exist (RFC 2308 §2.1).
pub(crate) fn absent(zone: &Zone, apex: &Name) -> Option<Reply> {
    negative(ResponseCode::NXDomain, zone, apex)
}

fn negative(code: ResponseCode, zone: &Zone, apex: &Name) -> Option<Reply> {
    let mut reply = Reply::own(code);
    reply.authorities.push(Record::from_rdata(apex.clone(), ABSENT_TTL, RData::SOA(soa(zone)?)));
    Some(reply)
}

fn one(request: &Request, ttl: Duration, data: RData) -> Reply {
    let mut reply = Reply::own(ResponseCode::NoError);
    reply.answers.push(Record::from_rdata(request.query.name.clone(), seconds(ttl), data));
    reply
}

fn soa(zone: &Zone) -> Option<SOA> {
    let (server, contact) = (zone.server()?, zone.member("hostmaster")?);
    Some(SOA::new(server, contact, SERIAL, REFRESH, RETRY, EXPIRE, ABSENT_TTL))
}

/// Rounded down: never longer than the lease.
fn seconds(ttl: Duration) -> u32 {
    u32::try_from(ttl.min(MAX_TTL).as_secs()).unwrap_or(0)
}
