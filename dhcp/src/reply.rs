//! Replies: which fields, which options, how long, and where to (RFC 2131 §4.1, §4.3.1 and table 3).

use std::net::Ipv4Addr;

use dhcproto::{
    Encodable, Name,
    v4::{DhcpOption, MessageType},
};

use crate::{
    Config, Destination, DropReason, Reply,
    option::{
        BROADCAST_ADDRESS, CLIENT_IDENTIFIER, DNS_SERVER, DOMAIN_NAME, DOMAIN_SEARCH, INTERFACE_MTU, RELAY_INFORMATION,
        SUBNET_MASK, push,
    },
    request::{BROADCAST_FLAG, Commit, MAGIC_COOKIE, Request},
};

/// Old clients and relays drop a message shorter than a BOOTP message (RFC 1542 §2.1).
const MIN_LENGTH: usize = 300;

/// Given if they fit even if not asked for: without them the address is of little use.
const ALWAYS: [u8; 4] = [SUBNET_MASK, DNS_SERVER, INTERFACE_MTU, DOMAIN_NAME];

/// Given to a client that has no list of what it wants.
const UNASKED: [u8; 6] = [SUBNET_MASK, DNS_SERVER, INTERFACE_MTU, DOMAIN_NAME, BROADCAST_ADDRESS, DOMAIN_SEARCH];

/// The times of a lease, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) lease: u32,
    /// T1, from when on the client asks this server (RFC 2131 §4.4.5).
    pub(crate) renew: u32,
    /// T2, from when on it asks any server.
    pub(crate) rebind: u32,
}

/// Offers `ip`.
pub(crate) fn offer(config: &Config, request: &Request, ip: Ipv4Addr, terms: Terms) -> Result<Reply, DropReason> {
    let mut draft = Draft::new(config, request, MessageType::Offer)?;
    draft.terms(terms)?;
    draft.identity();
    draft.parameters(config);
    Ok(Reply { to: destination(config, request, ip), message: draft.finish(Ipv4Addr::UNSPECIFIED, ip) })
}

/// Commits `ip` to the client.
pub(crate) fn ack(
    config: &Config,
    request: &Request,
    ip: Ipv4Addr,
    terms: Terms,
    commit: Commit,
) -> Result<Reply, DropReason> {
    let mut draft = Draft::new(config, request, MessageType::Ack)?;
    draft.terms(terms)?;
    if commit == Commit::Rapid {
        draft.option(&DhcpOption::RapidCommit)?;
    }
    draft.identity();
    draft.parameters(config);
    Ok(Reply { to: destination(config, request, ip), message: draft.finish(request.ciaddr, ip) })
}

/// Answers an INFORM: parameters, but neither an address nor lease times (RFC 2131 §4.3.5).
pub(crate) fn inform(config: &Config, request: &Request, ip: Ipv4Addr) -> Result<Reply, DropReason> {
    let mut draft = Draft::new(config, request, MessageType::Ack)?;
    draft.identity();
    draft.parameters(config);
    let to = Destination::Unicast { mac: request.mac, ip };
    Ok(Reply { to, message: draft.finish(request.ciaddr, Ipv4Addr::UNSPECIFIED) })
}

/// Refuses. Always by broadcast: the client may have no address that works (RFC 2131 §4.1).
pub(crate) fn nak(config: &Config, request: &Request, why: &str) -> Result<Reply, DropReason> {
    let mut draft = Draft::new(config, request, MessageType::Nak)?;
    draft.option(&DhcpOption::Message(why.to_owned()))?;
    draft.identity();
    let message = draft.finish(Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED);
    Ok(Reply { to: Destination::Broadcast, message })
}

/// RFC 2131 §4.1, without the relay. An address in use that is not of this network leads nowhere: those are broadcast.
fn destination(config: &Config, request: &Request, yiaddr: Ipv4Addr) -> Destination {
    let mac = request.mac;
    if config.usable(request.ciaddr) {
        return Destination::Unicast { mac, ip: request.ciaddr };
    }
    if request.flags & BROADCAST_FLAG != 0 || !request.ciaddr.is_unspecified() {
        return Destination::Broadcast;
    }
    Destination::Unicast { mac, ip: yiaddr }
}

/// A reply in the making: its options, in the order in which they will stand.
struct Draft<'r> {
    request: &'r Request,
    options: Vec<u8>,
    /// How many bytes the options may have, without the end option.
    room: usize,
}

impl<'r> Draft<'r> {
    fn new(config: &Config, request: &'r Request, kind: MessageType) -> Result<Self, DropReason> {
        let mut draft = Self { request, options: Vec::new(), room: request.room - crate::option::OPTIONS_AT - 1 };
        draft.option(&DhcpOption::MessageType(kind))?;
        draft.option(&DhcpOption::ServerIdentifier(config.server))?;
        Ok(draft)
    }

    fn option(&mut self, option: &DhcpOption) -> Result<(), DropReason> {
        let bytes = option.to_vec().map_err(|_| DropReason::Unencodable)?;
        self.options.extend_from_slice(&bytes);
        Ok(())
    }

    fn terms(&mut self, terms: Terms) -> Result<(), DropReason> {
        self.option(&DhcpOption::AddressLeaseTime(terms.lease))?;
        self.option(&DhcpOption::Renewal(terms.renew))?;
        self.option(&DhcpOption::Rebinding(terms.rebind))?;
        Ok(())
    }

    /// Echoes what identifies the client to itself (RFC 6842) and to the switch in front of it (RFC 3046 §2.2: all of
    /// it or nothing; it is to be the last one, but clients may not see it and no one depends on the place).
    fn identity(&mut self) {
        if let Some(identifier) = &self.request.identifier {
            push(&mut self.options, CLIENT_IDENTIFIER, identifier);
        }
        if let Some(information) = &self.request.relay_information {
            let mut bytes = Vec::new();
            push(&mut bytes, RELAY_INFORMATION, information);
            self.push_if_fits(&bytes);
        }
    }

    /// What the client asked for, in its order (RFC 2132 §9.8), then what is given always.
    fn parameters(&mut self, config: &Config) {
        let asked = self.request.parameters.as_deref().unwrap_or(&UNASKED);
        let mut given = Vec::new();
        for code in asked.iter().chain(&ALWAYS) {
            if given.contains(code) {
                continue;
            }
            if let Some(bytes) = parameter(config, *code, self.room.saturating_sub(self.options.len())) {
                self.push_if_fits(&bytes);
                given.push(*code);
            }
        }
    }

    fn push_if_fits(&mut self, bytes: &[u8]) {
        if self.options.len() + bytes.len() <= self.room {
            self.options.extend_from_slice(bytes);
        }
    }

    fn finish(self, ciaddr: Ipv4Addr, yiaddr: Ipv4Addr) -> Vec<u8> {
        let mut out = Vec::with_capacity(MIN_LENGTH.max(crate::option::OPTIONS_AT + self.options.len() + 1));
        out.extend_from_slice(&[2, 1, 6, 0]); // BOOTREPLY, Ethernet, six bytes, no hops
        out.extend_from_slice(&self.request.xid.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&self.request.flags.to_be_bytes());
        out.extend_from_slice(&ciaddr.octets());
        out.extend_from_slice(&yiaddr.octets());
        out.extend_from_slice(&[0; 8]); // no next server to boot from, no relay
        out.extend_from_slice(&self.request.mac);
        out.resize(236, 0); // the rest of chaddr, sname, file
        out.extend_from_slice(&MAGIC_COOKIE);
        out.extend_from_slice(&self.options);
        out.push(255);
        out.resize(out.len().max(MIN_LENGTH), 0);
        out
    }
}

/// The option `code` as it goes into a reply with `room` bytes left, if this server gives it at all. Routes are not
/// among them (3, 33, 121, 249): the machine's own default route stays.
fn parameter(config: &Config, code: u8, room: usize) -> Option<Vec<u8>> {
    let option = match code {
        SUBNET_MASK => DhcpOption::SubnetMask(config.subnet.netmask()),
        DNS_SERVER => DhcpOption::DomainNameServer(vec![config.dns]),
        INTERFACE_MTU => DhcpOption::InterfaceMtu(config.mtu),
        BROADCAST_ADDRESS => DhcpOption::BroadcastAddr(config.subnet.broadcast()),
        DOMAIN_NAME if !config.domain.is_empty() => DhcpOption::DomainName(config.domain.clone()),
        DOMAIN_SEARCH => return search_list(&config.search, room),
        _ => return None,
    };
    option.to_vec().ok()
}

/// As much of the search list (RFC 3397) as there is room for: its first names count most.
fn search_list(search: &[String], room: usize) -> Option<Vec<u8>> {
    let mut names: Vec<Name> = search.iter().filter_map(|name| Name::from_ascii(name).ok()).collect();
    names.retain(|name| name.num_labels() > 0);
    while !names.is_empty() {
        let bytes = DhcpOption::DomainSearch(names.clone()).to_vec().ok()?;
        if bytes.len() <= room {
            return Some(bytes);
        }
        names.pop();
    }
    None
}
