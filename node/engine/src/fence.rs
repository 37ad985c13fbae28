//! The newest owner of each address that we have heard of: an older one is told, and never believed again.
//!
//! Only certificates that were verified, or a quorum of the register, get in here. Memory alone: after a start an old
//! owner is found out when the new one, or the register, is heard.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dht::Token;
use dht::certificate::LeaseCert;
use dht::clock::Now;
use dht::codec::Wire;
use libp2p_identity::PeerId;

use crate::engine::Engine;

/// Addresses remembered: more than there are routes, so that none of those is forgotten.
const MAX_NEWEST: usize = 8192;

/// An address's newest owner.
pub(crate) struct Newest {
    pub(crate) token: Token,
    pub(crate) owner: PeerId,
    pub(crate) certificate: Vec<u8>,
    heard: u64,
}

/// The newest owner of each address. What was heard longest ago makes room.
#[derive(Default)]
pub(crate) struct Fences {
    newest: BTreeMap<Ipv4Addr, Newest>,
    by_age: BTreeMap<u64, Ipv4Addr>,
    heard: u64,
}

impl Fences {
    pub(crate) fn newest(&self, ip: Ipv4Addr) -> Option<&Newest> {
        self.newest.get(&ip)
    }

    /// Whether somebody else than this peer has the address by a newer token.
    pub(crate) fn outranks(&self, ip: Ipv4Addr, peer: &PeerId, token: Token) -> bool {
        self.newest.get(&ip).is_some_and(|newest| newest.owner != *peer && newest.token > token)
    }

    /// Takes a claim that is not outranked. Returns whom it displaces.
    fn note(&mut self, ip: Ipv4Addr, owner: PeerId, token: Token, certificate: Vec<u8>) -> Option<PeerId> {
        self.heard += 1;
        let before = self.newest.remove(&ip);
        if let Some(before) = &before {
            self.by_age.remove(&before.heard);
        }
        let former = before.as_ref().map(|before| before.owner).filter(|former| *former != owner);
        let newest = match before {
            Some(before) if before.token > token => Newest { heard: self.heard, ..before },
            Some(_) | None => Newest { token, owner, certificate, heard: self.heard },
        };
        self.newest.insert(ip, newest);
        self.by_age.insert(self.heard, ip);
        while self.newest.len() > MAX_NEWEST {
            let Some((_, oldest)) = self.by_age.pop_first() else { break };
            self.newest.remove(&oldest);
        }
        former
    }
}

impl Engine {
    /// Whether this claim of an address may be acted upon: nobody is known who was granted it later. From here on the
    /// owner before is fenced off.
    pub(crate) fn acknowledge(
        &mut self,
        ip: Ipv4Addr,
        (owner, token, certificate): (PeerId, Token, Vec<u8>),
        now: Now,
    ) -> bool {
        if self.fences.outranks(ip, &owner, token) {
            self.count("superseded-lease");
            return false;
        }
        let former = self.fences.note(ip, owner, token, certificate);
        let routed = self.bridge.local().route(ip).filter(|peer| *peer != owner);
        for former in [former, routed.filter(|peer| Some(*peer) != former)].into_iter().flatten() {
            self.fence(former, ip, now);
        }
        true
    }

    /// Nothing goes to a former owner any more, and nothing it sends from there is taken. It may not know yet.
    fn fence(&mut self, former: PeerId, ip: Ipv4Addr, now: Now) {
        self.forget_route(ip);
        self.bridge.fence(former, ip);
        if self.peers.is_up(&former) {
            self.show_newer(former, ip, now);
        }
    }

    /// Whether a certificate that was shown is older than what we know. Its sender is shown the newer one then. What was
    /// shown is not verified: that it is old does not make it worth the trouble.
    pub(crate) fn is_outdated(&mut self, from: PeerId, certificate: &[u8], now: Now) -> bool {
        let Ok(cert) = LeaseCert::from_bytes(certificate) else { return false };
        let (Some(ip), Some(owner)) = (cert.address(), cert.record.owner().peer_id()) else { return false };
        let ours = self.hosts.bound.get(&ip).filter(|_| owner != self.me);
        let outdated =
            ours.is_some_and(|host| host.lease.token > cert.token()) || self.fences.outranks(ip, &owner, cert.token());
        if outdated {
            self.count("superseded-lease");
            self.show_newer(from, ip, now);
        }
        outdated
    }

    /// A newer owner than the one we acted upon: from here on the old one's packets are refused, and who was talking to
    /// it talks to the new one.
    pub(crate) fn superseded(&mut self, ip: Ipv4Addr, newer: (PeerId, Token, Vec<u8>), now: Now) {
        let used = self.bridge.local().route(ip).is_some_and(|peer| peer != newer.0);
        if newer.0 == self.me {
            // Ours by now: who had it before is fenced off by our having it.
            return self.forget_route(ip);
        }
        if self.acknowledge(ip, newer, now) && used {
            self.read_route(ip, now);
        }
    }
}
