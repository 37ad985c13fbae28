//! Machines of a router's segment: whoever is heard there with an address of the range gets a lease of it, unless somebody
//! else has one; and whoever has one keeps it for as long as it answers.
//!
//! A DHCP client renews its lease by itself, and gives it back. For all others, and for a client that forgets to, the
//! machine is asked by ARP before its lease ends: if it answers the lease is renewed, and if it does not the lease runs out.
//! No lease is given back earlier for being quiet: the machine may sleep, and was promised the address until then.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use dht::clock::Now;
use dht::{ClaimError, Command, Hold, Lease, LeaseKey};

use crate::config::Mode;
use crate::engine::{Engine, Event, Pending};
use crate::hosts::{Host, Origin};
use crate::status::{TurnedAwayStatus, mac_text};

/// How often a machine is asked in a row, a second apart (RFC 5227 section 1.1 has three probes).
const QUESTIONS: u8 = 3;
const QUESTION_EVERY: Duration = Duration::from_secs(1);
/// A machine that did not answer is asked again after this at the earliest.
const PAUSE: Duration = Duration::from_secs(5);
/// A claim is answered, or given up, within this.
const CLAIM: Duration = Duration::from_secs(10);
/// Claims for machines that were heard, at the same time.
const MAX_CLAIMS: usize = 64;
/// Machines that get no address, as status shows them, and for how long after they were last heard of.
const MAX_TURNED_AWAY: usize = 256;
const TURNED_AWAY: Duration = Duration::from_secs(150);
/// Leases of a former life whose users are asked for at the same time.
const RESUMED_AT_ONCE: usize = 16;

/// One address leased for a machine of the segment.
#[derive(Debug)]
struct Watch {
    /// When it is asked for, or asked for again.
    look_at: Instant,
    /// How often in a row it was asked for.
    asked: u8,
    /// Another machine that says it has the address.
    challenger: Option<[u8; 6]>,
    /// Its time by DHCP is over: if it does not answer, its lease is given back.
    ends: bool,
}

struct TurnedAway {
    mac: [u8; 6],
    why: String,
    until: Instant,
}

/// What is known of the segment's machines beyond their leases.
pub(crate) struct Segment {
    watches: BTreeMap<Ipv4Addr, Watch>,
    turned_away: BTreeMap<Ipv4Addr, TurnedAway>,
    claims: usize,
    /// What the register tells of leases now is what it held before this program was started.
    pub(crate) resuming: bool,
}

impl Default for Segment {
    fn default() -> Self {
        Self { watches: BTreeMap::new(), turned_away: BTreeMap::new(), claims: 0, resuming: true }
    }
}

impl Segment {
    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.watches.values().map(|watch| (watch.look_at, "a host is asked for")).min()
    }

    pub(crate) fn forget(&mut self, ip: Ipv4Addr) {
        self.watches.remove(&ip);
    }

    pub(crate) fn turned_away(&self, now: Instant) -> Vec<TurnedAwayStatus> {
        let current = self.turned_away.iter().filter(|(_, machine)| now < machine.until);
        current
            .map(|(ip, machine)| TurnedAwayStatus { mac: mac_text(machine.mac), ip: *ip, why: machine.why.clone() })
            .collect()
    }

    /// Whether that is news.
    fn note_turned_away(&mut self, (ip, mac): (Ipv4Addr, [u8; 6]), why: &str, now: Instant) -> bool {
        let current = |machine: &TurnedAway| machine.mac == mac && machine.why == why && now < machine.until;
        let known = self.turned_away.get(&ip).is_some_and(current);
        if self.turned_away.len() >= MAX_TURNED_AWAY {
            self.turned_away.retain(|_, machine| now < machine.until);
            if self.turned_away.len() >= MAX_TURNED_AWAY {
                self.turned_away.pop_first();
            }
        }
        self.turned_away.insert(ip, TurnedAway { mac, why: why.to_owned(), until: now + TURNED_AWAY });
        !known
    }
}

impl Engine {
    /// A lease for somebody else is new or was renewed: when to ask for its user.
    pub(crate) fn watch(&mut self, ip: Ipv4Addr, now: Now) {
        self.segment.turned_away.remove(&ip);
        let Some(host) = self.hosts.bound.get(&ip).filter(|host| !host.own) else { return };
        if self.config.mode != Mode::Router {
            return;
        }
        let left = host.lease.usable_until.0.saturating_sub(now.owner.0);
        let wait = match host.origin {
            // By then its own renewal should have come (RFC 2131 section 4.4.5).
            Origin::Dhcp => left / 8 * 7,
            Origin::Own | Origin::Static | Origin::Kept => left / 2,
        };
        let challenger = self.segment.watches.get(&ip).and_then(|watch| watch.challenger);
        let watch = Watch { look_at: now.mono + wait, asked: 0, challenger, ends: false };
        self.segment.watches.insert(ip, watch);
    }

    /// A lease from before this program was started: whoever uses it is found by asking.
    pub(crate) fn resume_lease(&mut self, ip: Ipv4Addr, lease: Lease, now: Now) {
        if self.config.mode != Mode::Router || !self.segment.resuming || self.hosts.left {
            return;
        }
        let turn = u32::try_from(self.segment.watches.len() / RESUMED_AT_ONCE).unwrap_or(u32::MAX);
        let look_at = now.mono + QUESTION_EVERY.saturating_mul(turn) / 4;
        self.hosts.leases.insert(ip, lease);
        self.segment.watches.insert(ip, Watch { look_at, asked: 0, challenger: None, ends: false });
    }

    /// A machine of the segment uses this address.
    pub(crate) fn heard(&mut self, ip: Ipv4Addr, mac: [u8; 6], now: Now) {
        let known = self.hosts.bound.get(&ip).map(|host| (host.mac, host.own));
        match known {
            Some((_, true)) => {}
            Some((host, _)) if host == mac => self.host_answered(ip, now),
            Some(_) => self.host_challenged(ip, mac, now),
            None if self.segment.watches.contains_key(&ip) => {
                let Some(lease) = self.hosts.leases.get(&ip).cloned() else { return };
                self.bind(ip, Host { mac, lease, name: None, own: false, origin: Origin::Kept }, now);
            }
            // Offered to somebody, or being given back.
            None if self.hosts.leases.contains_key(&ip) => self.count("heard-before-bound"),
            None => self.claim_for(ip, mac),
        }
    }

    /// A host is alive. What is about to end is renewed.
    fn host_answered(&mut self, ip: Ipv4Addr, now: Now) {
        let Some(watch) = self.segment.watches.get_mut(&ip).filter(|watch| watch.asked > 0) else { return };
        let (ends, due) = (watch.ends, now.mono + CLAIM);
        *watch = Watch { look_at: due, asked: 0, challenger: None, ends: false };
        let Some(host) = self.hosts.bound.get_mut(&ip) else { return };
        if ends {
            host.origin = Origin::Kept;
        }
        let mac = host.mac;
        self.claim_for(ip, mac);
        if let Some(name) = self.names.clients.get(&ip).cloned()
            && let Some(client) = self.hosts.leases.get(&ip).map(|lease| lease.client)
        {
            self.claim_client_name(ip, client, mac, Some(name));
        }
    }

    /// Another machine says that it has a host's address: the host is asked whether it is still there.
    fn host_challenged(&mut self, ip: Ipv4Addr, mac: [u8; 6], now: Now) {
        self.count("host-challenged");
        if let Some(watch) = self.segment.watches.get_mut(&ip).filter(|watch| watch.challenger.is_none()) {
            watch.challenger = Some(mac);
            if watch.asked == 0 {
                watch.look_at = now.mono;
            }
        }
    }

    /// Claims, or renews, an address for a machine that uses it.
    fn claim_for(&mut self, ip: Ipv4Addr, mac: [u8; 6]) {
        if self.hosts.left || self.segment.claims >= MAX_CLAIMS {
            return self.count("segment-claims-full");
        }
        let held = self.hosts.leases.get(&ip).map(|lease| lease.client);
        let client = held.unwrap_or_else(|| self.client_id(&dhcp::ClientKey::from_ethernet(mac), false));
        let given = self.command(Pending::SegmentAddress { ip, mac }, |id| Command::ClaimAddress {
            id,
            client,
            want: Some(ip),
            only_wanted: true,
            hold: Hold::Full,
            keep: false,
        });
        self.segment.claims += usize::from(given);
    }

    pub(crate) fn segment_claimed(
        &mut self,
        (ip, mac): (Ipv4Addr, [u8; 6]),
        outcome: Result<Lease, ClaimError>,
        now: Now,
    ) {
        self.segment.claims = self.segment.claims.saturating_sub(1);
        match outcome {
            Ok(lease) if lease.key == LeaseKey::Address(ip) => {
                self.hosts.leases.insert(ip, lease.clone());
                if self.hosts.bound.contains_key(&ip) {
                    self.lease_changed(lease, now);
                } else {
                    self.bind(ip, Host { mac, lease, name: None, own: false, origin: Origin::Static }, now);
                }
            }
            Ok(lease) => self.give_back(lease.key),
            // What is held runs out at its end, or is lost by an event of its own.
            Err(_) if self.hosts.bound.contains_key(&ip) => self.count("host-not-renewed"),
            Err(ClaimError::Taken { owner, .. }) if owner == self.me => {
                self.turn_away((ip, mac), "another machine of this segment has the address", false, now);
            }
            Err(ClaimError::Taken { .. }) => {
                self.turn_away((ip, mac), "another member has the address", true, now);
            }
            Err(ClaimError::Refused(why)) => self.turn_away((ip, mac), why, false, now),
            // It is heard again in ten seconds.
            Err(ClaimError::NoneFree | ClaimError::Unavailable(_) | ClaimError::GivenUp) => {
                self.count("host-not-claimed");
            }
        }
    }

    fn turn_away(&mut self, (ip, mac): (Ipv4Addr, [u8; 6]), why: &str, is_of_member: bool, now: Now) {
        self.bridge.turn_away(ip, smoltcp::wire::EthernetAddress(mac), is_of_member, now.mono);
        self.note_turned_away((ip, mac), why, now);
    }

    /// A machine of the segment uses what is another member's, or the service's.
    pub(crate) fn disputed(&mut self, ip: Ipv4Addr, mac: [u8; 6], now: Now) {
        let service = ip == self.config.service;
        let why = if service { "it is the address of DHCP and DNS" } else { "another member has the address" };
        self.note_turned_away((ip, mac), why, now);
    }

    fn note_turned_away(&mut self, (ip, mac): (Ipv4Addr, [u8; 6]), why: &str, now: Now) {
        if self.segment.note_turned_away((ip, mac), why, now.mono) {
            self.emit(Event::TurnedAway { mac, ip, why: why.to_owned() });
        }
    }

    /// What runs out in DHCP. A host that still answers keeps its address; nobody else may get it.
    pub(crate) fn expire_dhcp(&mut self, now: Now) {
        self.dhcp.handle_timeout(now.mono);
        while let Some(event) = self.dhcp.poll_event() {
            let released = if let dhcp::Event::Release { ip, .. } = &event { Some(*ip) } else { None };
            match released.and_then(|ip| self.segment.watches.get_mut(&ip)) {
                Some(watch) => (watch.look_at, watch.asked, watch.ends) = (now.mono, 0, true),
                None => self.dhcp_event(event, now),
            }
        }
    }

    /// Asks for hosts whose leases are about to end, and gives up on those that did not answer.
    pub(crate) fn look_after_segment(&mut self, now: Now) {
        let due = |watch: &&Watch| watch.look_at <= now.mono;
        let due: Vec<Ipv4Addr> =
            self.segment.watches.iter().filter(|(_, watch)| due(watch)).map(|(ip, _)| *ip).collect();
        for ip in due {
            let Some(watch) = self.segment.watches.get_mut(&ip) else { continue };
            if watch.asked < QUESTIONS {
                watch.asked += 1;
                watch.look_at = now.mono + QUESTION_EVERY;
                self.bridge.ask_host(ip);
            } else {
                self.host_is_silent(ip, now);
            }
        }
    }

    /// A machine did not answer three questions.
    fn host_is_silent(&mut self, ip: Ipv4Addr, now: Now) {
        let Some(watch) = self.segment.watches.get_mut(&ip) else { return };
        watch.asked = 0;
        if let Some(mac) = watch.challenger.take() {
            // The address has another card now, or another machine.
            if let Some(host) = self.hosts.bound.get(&ip).cloned() {
                self.bind(ip, Host { mac, ..host }, now);
            }
            return;
        }
        if watch.ends {
            return self.client_released(ip, now);
        }
        let left =
            self.hosts.leases.get(&ip).map_or(Duration::ZERO, |lease| lease.usable_until.0.saturating_sub(now.owner.0));
        watch.look_at = now.mono + (left / 4).max(PAUSE);
    }
}
