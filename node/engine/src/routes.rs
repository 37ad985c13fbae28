//! Which peer has which remote address, for as long as its lease is known to last.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bridge::Resolution;
use dht::certificate::LeaseCert;
use dht::clock::{Now, OwnerTime};
use dht::codec::Wire;
use dht::{Command, Proven, Token};
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
    proven_at: OwnerTime,
    /// How long the proof counts; the route may end before.
    proven_until: OwnerTime,
    until: OwnerTime,
    refresh: OwnerTime,
}

/// Remote addresses with a proven owner. They end on the clock that owners stop by, which goes on while the machine sleeps.
#[derive(Default)]
pub(crate) struct Routes {
    by_ip: BTreeMap<Ipv4Addr, Route>,
    /// No later than the first end, and than the first refresh.
    ends: Option<OwnerTime>,
    ages: Option<OwnerTime>,
}

impl Routes {
    pub(crate) fn poll_timeout(&self, now: Now) -> Option<(Instant, &'static str)> {
        let first = [self.ends, self.ages].into_iter().flatten().min()?;
        Some((now.mono + first.0.saturating_sub(now.owner.0), "route ages"))
    }
    /// When to look at the latest whether a peer still has what it has proven.
    pub(crate) fn lapses(&self) -> Option<OwnerTime> {
        self.ends
    }
    fn note(&mut self, until: OwnerTime, refresh: OwnerTime) {
        self.ends = Some(self.ends.map_or(until, |ends| ends.min(until)));
        self.ages = Some(self.ages.map_or(refresh, |ages| ages.min(refresh)));
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

    /// Asks the register who has the address, whatever was said before.
    pub(crate) fn read_route(&mut self, ip: Ipv4Addr, now: Now) {
        if !self.command(Pending::Route { ip }, |id| Command::ReadAddress { id, ip }) {
            self.bridge.handle_resolved(ip, Resolution::Unknown, now.mono);
        }
    }

    pub(crate) fn route_resolved(&mut self, ip: Ipv4Addr, outcome: dht::Resolution, now: Now) {
        let answer = match outcome {
            dht::Resolution::Found { owner, .. } if owner == self.me => Resolution::Absent,
            dht::Resolution::Found { ip: _, owner, name, token, certificate, remaining, deciders: _ } => {
                if self.learn_route(ip, (owner, name, certificate), (token, remaining), now) {
                    Resolution::Peer(owner)
                } else {
                    Resolution::Unknown
                }
            }
            dht::Resolution::Absent => {
                if let Some(peer) = self.routes.owner(ip).filter(|peer| self.peers.is_up(peer)) {
                    self.say_no_record(peer, ip, now);
                }
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
                let (ip, basis) = (proven.ip, (proven.token, proven.remaining));
                if self.learn_route(ip, (peer, proven.name, certificate), basis, now) {
                    self.bridge.handle_resolved(ip, Resolution::Peer(peer), now.mono);
                }
            }
            Err(_) => self.count("unproven-lease"),
        }
    }

    /// Whether the peer shows what it proved just now. Its route then goes on for as long as it says, and never for
    /// longer than it proved.
    pub(crate) fn shown_again(&mut self, peer: PeerId, certificate: &[u8], stated: Duration, now: Now) -> bool {
        let Some(ip) = LeaseCert::from_bytes(certificate).ok().and_then(|lease| lease.address()) else { return false };
        let Some(route) = self.routes.by_ip.get_mut(&ip) else { return false };
        if route.peer != peer || route.certificate != certificate || now.owner >= after(route.proven_at, FRESH) {
            return false;
        }
        let until = after(now.owner, stated.min(MAX_AGE)).min(route.proven_until);
        if until > route.until {
            route.until = until;
            route.refresh = after(now.owner, until.0.saturating_sub(now.owner.0) / 2);
        }
        true
    }

    /// A peer says that an address we send to is not its own: who has it is asked anew.
    pub(crate) fn not_owner(&mut self, from: PeerId, ip: Ipv4Addr, now: Now) {
        if self.bridge.local().route(ip) != Some(from) {
            // News of yesterday, or none of its business.
            return self.count("stray-not-owner");
        }
        if !self.reread.take(ip, now.mono) {
            return self.count("not-owner-again");
        }
        self.forget_route(ip);
        self.bridge.forbid(from, ip);
        self.read_route(ip, now);
    }

    /// Takes a proof, unless it is older than what is known. Returns whether packets may go there.
    fn learn_route(
        &mut self,
        ip: Ipv4Addr,
        (peer, name, certificate): (PeerId, Option<String>, Vec<u8>),
        (token, remaining): (Token, Duration),
        now: Now,
    ) -> bool {
        if peer == self.me || self.hosts.bound.contains_key(&ip) {
            return false;
        }
        if !self.acknowledge(ip, (peer, token, certificate.clone()), now) {
            return false;
        }
        if self.routes.by_ip.len() >= MAX_ROUTES && !self.routes.by_ip.contains_key(&ip) {
            self.count("too-many-routes");
            return true;
        }
        let age = remaining.min(MAX_AGE);
        let route = Route {
            peer,
            name,
            certificate,
            proven_at: now.owner,
            proven_until: after(now.owner, remaining),
            until: after(now.owner, age),
            refresh: after(now.owner, age / 2),
        };
        self.routes.note(route.until, route.refresh);
        self.routes.by_ip.insert(ip, route);
        self.bridge.permit(peer, ip);
        true
    }

    /// What a sleep made doubtful: everybody's lease may have ended meanwhile.
    pub(crate) fn forget_all_routes(&mut self) {
        while let Some(ip) = self.routes.by_ip.keys().next().copied() {
            self.forget_route(ip);
        }
    }

    pub(crate) fn forget_route(&mut self, ip: Ipv4Addr) {
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

    /// Routes to peers we talk to are asked for again before they end; the others end. Called before anything is
    /// forwarded, because a timer may fire late.
    pub(crate) fn expire_routes(&mut self, now: Now) {
        let first = [self.routes.ends, self.routes.ages].into_iter().flatten().min();
        if first.is_none_or(|first| first > now.owner) {
            return;
        }
        let due: Vec<(Ipv4Addr, PeerId, bool)> = self
            .routes
            .by_ip
            .iter()
            .filter(|(_, route)| route.refresh <= now.owner || route.until <= now.owner)
            .map(|(ip, route)| (*ip, route.peer, route.until <= now.owner))
            .collect();
        for (ip, peer, ended) in due {
            if ended {
                self.forget_route(ip);
            } else if let Some(route) = self.routes.by_ip.get_mut(&ip) {
                route.refresh = route.until;
                if self.peers.is_up(&peer) {
                    self.read_route(ip, now);
                }
            }
        }
        self.routes.ends = self.routes.by_ip.values().map(|route| route.until).min();
        self.routes.ages = self.routes.by_ip.values().map(|route| route.refresh).min();
    }
}

fn after(time: OwnerTime, duration: Duration) -> OwnerTime {
    OwnerTime(time.0.saturating_add(duration))
}
