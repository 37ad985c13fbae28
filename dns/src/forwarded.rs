//! What the system's resolvers said, before a guest gets to see it: it must answer the question that was asked, and a
//! public name must not lead into the overlay (DNS rebinding).
#![expect(clippy::wildcard_enum_match_arm, reason = "the types of records are not ours, and others are added to them")]

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::{
    op::{Message, MessageType, Query},
    rr::{RData, Record, rdata::svcb::SvcParamValue},
};
use ipnet::Ipv4Net;

use crate::message::Request;

/// A reply fit to be passed on.
#[derive(Debug)]
pub(crate) struct Forwarded {
    bytes: Vec<u8>,
    message: Message,
    /// How many records were left out because they hold an address of the range.
    pub(crate) rebinding: u64,
}

impl Forwarded {
    /// The reply under the asker's id; without its records and with TC if it is larger than the asker takes.
    pub(crate) fn for_asker(&self, request: &Request, max_udp: u16) -> Option<Vec<u8>> {
        let mut bytes = if self.bytes.len() <= usize::from(request.limit(max_udp)) {
            self.bytes.clone()
        } else {
            self.message.truncate().to_vec().ok()?
        };
        bytes.get_mut(..2)?.copy_from_slice(&request.id().to_be_bytes());
        Some(bytes)
    }
}

/// Passes the bytes on as they are unless a record must go; `None` is no reply to `query`.
pub(crate) fn check(reply: &[u8], query: &Query, range: Ipv4Net) -> Option<Forwarded> {
    // One question, looked at before the parser reserves memory for as many as are announced.
    if reply.get(4..6) != Some(&[0, 1]) {
        return None;
    }
    let mut message = Message::from_vec(reply).ok()?;
    if message.metadata.message_type != MessageType::Response || message.queries.first() != Some(query) {
        return None;
    }
    let before = message.all_sections().count();
    message.answers.retain(|record| !leads_into(record, range));
    message.authorities.retain(|record| !leads_into(record, range));
    message.additionals.retain(|record| !leads_into(record, range));
    let rebinding = before - message.all_sections().count();
    let bytes = if rebinding == 0 { reply.to_vec() } else { message.to_vec().ok()? };
    Some(Forwarded { bytes, message, rebinding: rebinding as u64 })
}

fn leads_into(record: &Record, range: Ipv4Net) -> bool {
    match &record.data {
        RData::A(address) => range.contains(&address.0),
        RData::AAAA(address) => embedded(address.0).is_some_and(|ip| range.contains(&ip)),
        RData::HTTPS(service) => hints_into(&service.0.svc_params, range),
        RData::SVCB(service) => hints_into(&service.svc_params, range),
        _ => false,
    }
}

fn hints_into<K>(params: &[(K, SvcParamValue)], range: Ipv4Net) -> bool {
    params.iter().any(|(_, value)| match value {
        SvcParamValue::Ipv4Hint(hints) => hints.0.iter().any(|hint| range.contains(&hint.0)),
        SvcParamValue::Ipv6Hint(hints) => {
            hints.0.iter().filter_map(|hint| embedded(hint.0)).any(|ip| range.contains(&ip))
        }
        SvcParamValue::Mandatory(_)
        | SvcParamValue::Alpn(_)
        | SvcParamValue::NoDefaultAlpn
        | SvcParamValue::Port(_)
        | SvcParamValue::EchConfigList(_)
        | SvcParamValue::Unknown(_) => false,
    })
}

/// The IPv4 address a socket would really connect to, `::ffff:a.b.c.d` (RFC 4291 §2.5.5.2).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    address.to_ipv4_mapped()
}
