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

use std::net::Ipv4Addr;
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

/// Certificates in one message; a router with more hosts sends several messages.
const MAX_LEASES: usize = 16;
/// The largest message, so that it fits one datagram on every path or a few fragments.
const MAX_BYTES: usize = 8 * 1024;

enum SessionMessage<'m> {
    Leases(Vec<(Duration, &'m [u8])>),
    NoLease(Ipv4Addr),
    Ping(u64),
    Pong(u64),
}

impl<'m> SessionMessage<'m> {
    fn parse(bytes: &'m [u8]) -> Option<Self> {
        let (subtype, rest) = bytes.split_first()?;
        match *subtype {
            LEASE => Some(Self::Leases(parse_leases(rest)?)),
            NO_LEASE => Some(Self::NoLease(Ipv4Addr::from(<[u8; 4]>::try_from(rest).ok()?))),
            PING => Some(Self::Ping(u64::from_be_bytes(rest.try_into().ok()?))),
            PONG => Some(Self::Pong(u64::from_be_bytes(rest.try_into().ok()?))),
            _ => None,
        }
    }
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
                    self.send_leases(peer, now);
                }
            }
            Some(SessionMessage::Ping(number)) => self.send_numbered(peer, PONG, number, now),
            Some(SessionMessage::Pong(number)) => self.ponged(peer, number, now),
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
        if !self.peers.entry(from).is_some_and(|peer| peer.certificates.take(now.mono)) {
            return self.count("lease-flood");
        }
        let certificate = certificate.to_vec();
        let pending = Pending::CheckLease { peer: from, certificate: certificate.clone() };
        // What is not given is counted; the peer shows it again when it is asked.
        let _given = self.command(pending, |id| Command::CheckLease { id, from, certificate, remaining });
    }

    /// Proves all our addresses to one peer.
    pub(crate) fn send_leases(&mut self, peer: PeerId, now: Now) {
        if self.hosts.bound.is_empty() {
            return;
        }
        for message in lease_messages(self.hosts.bound.values(), now) {
            self.tunnel.send(peer, Kind::Control, &message, now.mono);
        }
    }

    /// Proves all our addresses, one of which is new or renewed, to every peer with a session.
    pub(crate) fn announce_leases(&mut self, now: Now) {
        let up: Vec<PeerId> = self.peers.up().copied().collect();
        for peer in up {
            self.send_leases(peer, now);
        }
    }

    pub(crate) fn ask_lease(&mut self, peer: PeerId, ip: Ipv4Addr, now: Now) {
        let mut message = vec![NO_LEASE];
        message.extend_from_slice(&ip.octets());
        self.tunnel.send(peer, Kind::Control, &message, now.mono);
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
    fn more_leases_than_the_limit_are_refused() {
        let one = [&0u32.to_be_bytes()[..], &0u16.to_be_bytes()].concat();
        let bytes = [vec![LEASE], one.repeat(MAX_LEASES + 1)].concat();
        assert!(SessionMessage::parse(&bytes).is_none());
    }
}
