//! Which peer has which remote address, for as long as its lease is known to last.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bridge::Resolution;
use dht::certificate::LeaseCert;
use dht::clock::Now;
use dht::codec::Wire;
use dht::{Command, Proven};
use libp2p_identity::PeerId;

use crate::engine::{Engine, Pending};

/// Remote addresses known at once; more than a busy machine talks to.
const MAX_ROUTES: usize = 4096;
/// What was learnt is used for this long at most, and asked for again at half of it.
const MAX_AGE: Duration = Duration::from_secs(600);

/// A proof that is younger than this need not be given again.
const FRESH: Duration = Duration::from_secs(60);

struct Route {
    peer: PeerId,
    name: Option<String>,
    certificate: Vec<u8>,
    proven_at: Instant,
    /// How long the proof counts; the route may end before.
    proven_until: Instant,
    until: Instant,
    refresh: Instant,
}

/// Remote addresses with a proven owner.
#[derive(Default)]
pub(crate) struct Routes {
    by_ip: BTreeMap<Ipv4Addr, Route>,
}

impl Routes {
    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.by_ip.values().map(|route| (route.until.min(route.refresh), "route ages")).min()
    }
    pub(crate) fn owner(&self, ip: Ipv4Addr) -> Option<PeerId> {
        self.by_ip.get(&ip).map(|route| route.peer)
    }
    /// An address of this peer, and its name.
    pub(crate) fn of_peer(&self, peer: &PeerId) -> Option<(Ipv4Addr, Option<String>)> {
        self.by_ip.iter().find(|(_, route)| route.peer == *peer).map(|(ip, route)| (*ip, route.name.clone()))
    }
}

impl Engine {
    pub(crate) fn resolve(&mut self, ip: Ipv4Addr, now: Now) {
        if !self.command(Pending::Route { ip }, |id| Command::ResolveAddress { id, ip }) {
            self.bridge.handle_resolved(ip, Resolution::Unknown, now.mono);
        }
    }

    pub(crate) fn route_resolved(&mut self, ip: Ipv4Addr, outcome: dht::Resolution, now: Now) {
        let answer = match outcome {
            dht::Resolution::Found { owner, .. } if owner == self.me => Resolution::Absent,
            dht::Resolution::Found { ip: _, owner, name, token: _, certificate, remaining } => {
                self.learn_route(ip, (owner, name, certificate), remaining, now);
                Resolution::Peer(owner)
            }
            dht::Resolution::Absent => {
                self.forget_route(ip);
                Resolution::Absent
            }
            dht::Resolution::Unknown => Resolution::Unknown,
        };
        self.bridge.handle_resolved(ip, answer, now.mono);
    }

    pub(crate) fn lease_checked(
        &mut self,
        peer: PeerId,
        certificate: Vec<u8>,
        outcome: Result<Proven, dht::CertError>,
        now: Now,
    ) {
        match outcome {
            Ok(proven) => {
                self.learn_route(proven.ip, (peer, proven.name, certificate), proven.remaining, now);
                self.bridge.handle_resolved(proven.ip, Resolution::Peer(peer), now.mono);
            }
            Err(_) => self.count("unproven-lease"),
        }
    }

    /// Whether the peer shows what it proved just now. Its route then goes on for as long as it says, and never for
    /// longer than it proved.
    pub(crate) fn shown_again(&mut self, peer: PeerId, certificate: &[u8], stated: Duration, now: Now) -> bool {
        let Some(ip) = LeaseCert::from_bytes(certificate).ok().and_then(|lease| lease.address()) else { return false };
        let Some(route) = self.routes.by_ip.get_mut(&ip) else { return false };
        if route.peer != peer || route.certificate != certificate || now.mono >= route.proven_at + FRESH {
            return false;
        }
        let until = (now.mono + stated.min(MAX_AGE)).min(route.proven_until);
        if until > route.until {
            route.until = until;
            route.refresh = now.mono + until.saturating_duration_since(now.mono) / 2;
        }
        true
    }

    /// A newer owner than the one we acted upon: from here on the old one's packets are refused.
    pub(crate) fn superseded(&mut self, ip: Ipv4Addr, owner: PeerId) {
        if self.routes.owner(ip).is_some_and(|known| known != owner) {
            self.forget_route(ip);
        }
    }

    fn learn_route(
        &mut self,
        ip: Ipv4Addr,
        (peer, name, certificate): (PeerId, Option<String>, Vec<u8>),
        remaining: Duration,
        now: Now,
    ) {
        if peer == self.me || self.hosts.bound.contains_key(&ip) {
            return;
        }
        if self.routes.owner(ip).is_some_and(|known| known != peer) {
            self.forget_route(ip);
        }
        if self.routes.by_ip.len() >= MAX_ROUTES && !self.routes.by_ip.contains_key(&ip) {
            self.count("too-many-routes");
            return;
        }
        let age = remaining.min(MAX_AGE);
        let route = Route {
            peer,
            name,
            certificate,
            proven_at: now.mono,
            proven_until: now.mono + remaining,
            until: now.mono + age,
            refresh: now.mono + age / 2,
        };
        self.routes.by_ip.insert(ip, route);
        self.bridge.permit(peer, ip);
    }

    fn forget_route(&mut self, ip: Ipv4Addr) {
        if let Some(route) = self.routes.by_ip.remove(&ip) {
            self.bridge.forbid(route.peer, ip);
            self.dns.forget(ip);
        }
    }

    pub(crate) fn forget_routes_of(&mut self, peer: PeerId) {
        while let Some((ip, _)) = self.routes.of_peer(&peer) {
            self.forget_route(ip);
        }
    }

    /// Routes to peers we talk to are asked for again before they end; the others end.
    pub(crate) fn expire_routes(&mut self, now: Now) {
        let due: Vec<(Ipv4Addr, PeerId, bool)> = self
            .routes
            .by_ip
            .iter()
            .filter(|(_, route)| route.refresh <= now.mono || route.until <= now.mono)
            .map(|(ip, route)| (*ip, route.peer, route.until <= now.mono))
            .collect();
        for (ip, peer, ended) in due {
            if ended {
                self.forget_route(ip);
            } else if let Some(route) = self.routes.by_ip.get_mut(&ip) {
                route.refresh = route.until;
                if self.peers.is_up(&peer) {
                    self.resolve(ip, now);
                }
            }
        }
    }
}
