//! What two engines tell each other inside a session, where the tunnel vouches for the sender.
//!
//! The first byte is the subtype, from 16 on (lower ones are the tunnel's):
//!
//! | subtype | after it | meaning |
//! |---|---|---|
//! | 16 `Lease` | list of (remaining seconds `u32`, length `u16`, lease certificate) | these addresses are mine |
//! | 17 `NoLease` | address 4 | you sent from this address and have not proven it |
//! | 18 `Ping` | number `u64` | `overlay ping` |
//! | 19 `Pong` | number `u64` | its answer |
//! | 20 `NotOwner` | address 4, lease certificate or nothing | you sent to this address, which is not mine; it is of whom this names |
//! | 21 `Supersede` | lease certificate | what you go by is older than this |
//! | 22 `NoRecord` | address 4 | you prove this address to me, and the register says that nobody has it |
//! | 23 `Signal` | signed candidates | where I am, see `dht::signal`; over the overlay only while there is no session |
//!
//! 20 to 22 let stale knowledge heal itself. Nothing in them is believed: a certificate is checked, and an address
//! that a peer says is not its own is only taken from that peer. None is sent, or acted upon, more than once a second for
//! one peer and address, nor more than eight times a second to one peer.

use std::net::Ipv4Addr;
use std::ops::Bound;
use std::time::Duration;

use dht::Command;
use dht::certificate::MAX_CERTIFICATE;
use dht::clock::Now;
use libp2p_identity::PeerId;
use tunnel::Kind;

use crate::engine::{Engine, Pending};
use crate::hosts::Host;

const LEASE: u8 = 16;
const NO_LEASE: u8 = 17;
const PING: u8 = 18;
const PONG: u8 = 19;
const NOT_OWNER: u8 = 20;
const SUPERSEDE: u8 = 21;
const NO_RECORD: u8 = 22;
const SIGNAL: u8 = 23;

/// Certificates in one message. A router with more hosts proves the others when it is asked.
const MAX_LEASES: usize = 16;
/// The largest message, so that it fits one datagram on every path or a few fragments.
const MAX_BYTES: usize = 8 * 1024;

enum SessionMessage<'m> {
    Leases(Vec<(Duration, &'m [u8])>),
    NoLease(Ipv4Addr),
    Ping(u64),
    Pong(u64),
    NotOwner(Ipv4Addr, Option<&'m [u8]>),
    Supersede(&'m [u8]),
    NoRecord(Ipv4Addr),
    Signal(&'m [u8]),
}

impl<'m> SessionMessage<'m> {
    fn parse(bytes: &'m [u8]) -> Option<Self> {
        let (subtype, rest) = bytes.split_first()?;
        match *subtype {
            LEASE => Some(Self::Leases(parse_leases(rest)?)),
            NO_LEASE => Some(Self::NoLease(Ipv4Addr::from(<[u8; 4]>::try_from(rest).ok()?))),
            NO_RECORD => Some(Self::NoRecord(Ipv4Addr::from(<[u8; 4]>::try_from(rest).ok()?))),
            SUPERSEDE => Some(Self::Supersede(parse_certificate(rest)?)),
            NOT_OWNER => {
                let (ip, rest) = rest.split_first_chunk::<4>()?;
                let certificate = if rest.is_empty() { None } else { Some(parse_certificate(rest)?) };
                Some(Self::NotOwner(Ipv4Addr::from(*ip), certificate))
            }
            SIGNAL => Some(Self::Signal(rest)),
            PING => Some(Self::Ping(u64::from_be_bytes(rest.try_into().ok()?))),
            PONG => Some(Self::Pong(u64::from_be_bytes(rest.try_into().ok()?))),
            _ => None,
        }
    }
}

fn parse_certificate(rest: &[u8]) -> Option<&[u8]> {
    (!rest.is_empty() && rest.len() <= MAX_CERTIFICATE).then_some(rest)
}

fn parse_leases(mut rest: &[u8]) -> Option<Vec<(Duration, &[u8])>> {
    let mut leases = Vec::new();
    while !rest.is_empty() {
        let (remaining, after) = rest.split_first_chunk::<4>()?;
        let (length, after) = after.split_first_chunk::<2>()?;
        let (certificate, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        leases.push((Duration::from_secs(u32::from_be_bytes(*remaining).into()), certificate));
        if leases.len() > MAX_LEASES {
            return None;
        }
        rest = after;
    }
    Some(leases)
}

fn lease_messages<'h>(hosts: impl Iterator<Item = &'h Host>, now: Now) -> Vec<Vec<u8>> {
    let mut messages = vec![vec![LEASE]];
    let mut count = 0;
    for host in hosts {
        let Ok(length) = u16::try_from(host.lease.certificate.len()) else { continue };
        let remaining = host.lease.usable_until.0.saturating_sub(now.owner.0).as_secs();
        let full = |message: &Vec<u8>| message.len() + usize::from(length) > MAX_BYTES;
        if count == MAX_LEASES || messages.last().is_some_and(full) {
            messages.push(vec![LEASE]);
            count = 0;
        }
        let Some(message) = messages.last_mut() else { continue };
        message.extend_from_slice(&u32::try_from(remaining).unwrap_or(u32::MAX).to_be_bytes());
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(&host.lease.certificate);
        count += 1;
    }
    messages
}

impl Engine {
    pub(crate) fn session_message(&mut self, peer: PeerId, payload: &[u8], now: Now) {
        match SessionMessage::parse(payload) {
            Some(SessionMessage::Leases(leases)) => {
                for (remaining, certificate) in leases {
                    self.lease_shown(peer, certificate, remaining, now);
                }
            }
            Some(SessionMessage::NoLease(ip)) => {
                if self.hosts.bound.contains_key(&ip) {
                    self.send_leases_from(peer, ip, now);
                }
            }
            Some(SessionMessage::Ping(number)) => self.send_numbered(peer, PONG, number, now),
            Some(SessionMessage::Pong(number)) => self.ponged(peer, number, now),
            Some(SessionMessage::NotOwner(ip, certificate)) => {
                if let Some(certificate) = certificate {
                    self.newer_shown(peer, certificate, now);
                }
                self.not_owner(peer, ip, now);
            }
            Some(SessionMessage::Supersede(certificate)) => self.newer_shown(peer, certificate, now),
            Some(SessionMessage::NoRecord(ip)) => {
                if self.hosts.bound.contains_key(&ip) && self.renewed.take(ip, now.mono) {
                    self.tell(Command::Renew { ip });
                }
            }
            Some(SessionMessage::Signal(message)) => {
                if self.peers.entry(peer).is_some_and(|entry| entry.heard.take(now.mono)) {
                    self.signalled(peer, message, now);
                } else {
                    self.count("signal-flood");
                }
            }
            None => self.count("bad-session-message"),
        }
    }

    /// The register checks what is new: signatures, so a peer may make it do so only now and then.
    fn lease_shown(&mut self, from: PeerId, certificate: &[u8], remaining: Duration, now: Now) {
        if certificate.len() > MAX_CERTIFICATE {
            return self.count("bad-session-message");
        }
        if self.shown_again(from, certificate, remaining, now) {
            return;
        }
        if self.is_outdated(from, certificate, now) || !self.may_show(from, now) {
            return;
        }
        let certificate = certificate.to_vec();
        let pending = Pending::CheckLease { peer: from, certificate: certificate.clone() };
        // What is not given is counted; the peer shows it again when it is asked.
        let _given = self.command(pending, |id| Command::CheckLease { id, from, certificate, remaining });
    }

    /// Whether one more certificate of this peer is worth a check.
    fn may_show(&mut self, from: PeerId, now: Now) -> bool {
        let may = self.peers.entry(from).is_some_and(|peer| peer.certificates.take(now.mono));
        if !may {
            self.count("lease-flood");
        }
        may
    }

    /// A certificate that a peer says is newer than what we go by, be it our own lease or a route.
    fn newer_shown(&mut self, from: PeerId, certificate: &[u8], now: Now) {
        if !self.is_outdated(from, certificate, now) && self.may_show(from, now) {
            self.tell(Command::Supersede { certificate: certificate.to_vec() });
        }
    }

    /// Shows a peer that somebody else has an address: by our own lease, or by the newest that we know.
    pub(crate) fn show_newer(&mut self, to: PeerId, ip: Ipv4Addr, now: Now) {
        let Some(certificate) = self.newest_certificate(ip, &to) else { return };
        if self.may_tell(to, SUPERSEDE, ip, now) {
            let message = [&[SUPERSEDE], &certificate[..]].concat();
            self.tunnel.send(to, Kind::Control, &message, now.mono);
        }
    }

    /// Tells a peer that an address it sends to is not here, and of whom it is if we know.
    pub(crate) fn say_not_owner(&mut self, to: PeerId, ip: Ipv4Addr, now: Now) {
        if self.may_tell(to, NOT_OWNER, ip, now) {
            let certificate = self.newest_certificate(ip, &to).unwrap_or_default();
            let message = [&[NOT_OWNER], &ip.octets()[..], &certificate].concat();
            self.tunnel.send(to, Kind::Control, &message, now.mono);
        }
    }

    /// Tells a peer that the register knows nothing of the address that it proves.
    pub(crate) fn say_no_record(&mut self, to: PeerId, ip: Ipv4Addr, now: Now) {
        if self.may_tell(to, NO_RECORD, ip, now) {
            let message = [&[NO_RECORD], &ip.octets()[..]].concat();
            self.tunnel.send(to, Kind::Control, &message, now.mono);
        }
    }

    /// One address once a second, and not too many addresses: whoever is mistaken about thousands is not helped by us.
    fn may_tell(&mut self, to: PeerId, what: u8, ip: Ipv4Addr, now: Now) -> bool {
        let Some(peer) = self.peers.entry(to) else { return false };
        self.told.take((to, what, ip), now.mono) && peer.told.take(now.mono)
    }

    /// What proves that somebody else than this peer has the address.
    fn newest_certificate(&self, ip: Ipv4Addr, to: &PeerId) -> Option<Vec<u8>> {
        let ours = self.hosts.bound.get(&ip).map(|host| &host.lease.certificate);
        let known = self.fences.newest(ip).filter(|newest| newest.owner != *to).map(|newest| &newest.certificate);
        ours.or(known).filter(|certificate| certificate.len() <= MAX_CERTIFICATE).cloned()
    }

    /// Proves our addresses to one peer: this machine's own and some others, as a router may have hundreds. The rest it asks
    /// for.
    pub(crate) fn send_leases(&mut self, peer: PeerId, now: Now) {
        let own = self.hosts.bound.iter().find(|(_, host)| host.own).map(|(ip, _)| *ip);
        let first = own.or_else(|| self.hosts.bound.keys().next().copied());
        if let Some(first) = first {
            self.send_leases_from(peer, first, now);
        }
    }

    /// Proves an address, and those that come after it.
    fn send_leases_from(&mut self, peer: PeerId, first: Ipv4Addr, now: Now) {
        let after = (Bound::Excluded(first), Bound::Unbounded);
        let all = self.hosts.bound.range(first..=first).chain(self.hosts.bound.range(after));
        let all = all.chain(self.hosts.bound.range(..first)).map(|(_, host)| host).take(MAX_LEASES);
        for message in lease_messages(all, now) {
            self.tunnel.send(peer, Kind::Control, &message, now.mono);
        }
    }

    /// Proves an address, which is new or renewed, to every peer with a session.
    pub(crate) fn announce_lease(&mut self, ip: Ipv4Addr, now: Now) {
        let up: Vec<PeerId> = self.peers.up().copied().collect();
        let Some(host) = self.hosts.bound.get(&ip) else { return };
        for message in lease_messages(std::iter::once(host), now) {
            for peer in &up {
                self.tunnel.send(*peer, Kind::Control, &message, now.mono);
            }
        }
    }

    pub(crate) fn ask_lease(&mut self, peer: PeerId, ip: Ipv4Addr, now: Now) {
        let mut message = vec![NO_LEASE];
        message.extend_from_slice(&ip.octets());
        self.tunnel.send(peer, Kind::Control, &message, now.mono);
    }

    /// Where we are, told inside the session: it gets through as long as any way does.
    pub(crate) fn send_signal(&mut self, peer: PeerId, message: &[u8], now: Now) {
        self.tunnel.send(peer, Kind::Control, &[&[SIGNAL], message].concat(), now.mono);
    }

    pub(crate) fn send_ping(&mut self, peer: PeerId, number: u64, now: Now) {
        self.send_numbered(peer, PING, number, now);
    }

    fn send_numbered(&mut self, peer: PeerId, subtype: u8, number: u64, now: Now) {
        let mut message = vec![subtype];
        message.extend_from_slice(&number.to_be_bytes());
        self.tunnel.send(peer, Kind::Control, &message, now.mono);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_leases_that_is_cut_anywhere_is_no_message() {
        let mut bytes = vec![LEASE];
        for certificate in [&b"first"[..], b"second"] {
            bytes.extend_from_slice(&7u32.to_be_bytes());
            bytes.extend_from_slice(&u16::try_from(certificate.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(certificate);
        }
        let Some(SessionMessage::Leases(leases)) = SessionMessage::parse(&bytes) else { panic!("two leases") };
        assert_eq!(leases, [(Duration::from_secs(7), &b"first"[..]), (Duration::from_secs(7), b"second")]);
        let whole = [1, 1 + 6 + 5];
        for cut in (1..bytes.len()).filter(|cut| !whole.contains(cut)) {
            assert!(SessionMessage::parse(&bytes[..cut]).is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn what_heals_stale_knowledge_is_parsed_whole_or_not_at_all() {
        let not_owner = [&[NOT_OWNER, 10, 70, 0, 9][..], b"certificate"].concat();
        let parsed = SessionMessage::parse(&not_owner);
        assert!(
            matches!(parsed, Some(SessionMessage::NotOwner(ip, Some(b"certificate"))) if ip.octets() == [10, 70, 0, 9])
        );
        assert!(matches!(SessionMessage::parse(&not_owner[..5]), Some(SessionMessage::NotOwner(_, None))));
        let too_long = [&not_owner[..5], &[0; MAX_CERTIFICATE + 1]].concat();
        for bad in
            [&not_owner[..4], &[NOT_OWNER], &too_long, &[SUPERSEDE], &[NO_RECORD, 1, 2, 3], &[NO_RECORD, 1, 2, 3, 4, 5]]
        {
            assert!(SessionMessage::parse(bad).is_none(), "{bad:?}");
        }
        assert!(matches!(SessionMessage::parse(&[SUPERSEDE, 1]), Some(SessionMessage::Supersede([1]))));
        assert!(matches!(SessionMessage::parse(&[NO_RECORD, 1, 2, 3, 4]), Some(SessionMessage::NoRecord(_))));
    }

    #[test]
    fn more_leases_than_the_limit_are_refused() {
        let one = [&0u32.to_be_bytes()[..], &0u16.to_be_bytes()].concat();
        let bytes = [vec![LEASE], one.repeat(MAX_LEASES + 1)].concat();
        assert!(SessionMessage::parse(&bytes).is_none());
    }
}
