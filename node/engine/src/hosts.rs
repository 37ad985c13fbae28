//! The addresses that are ours: claimed by this engine for this machine, or for DHCP clients behind the TAP.

use smoltcp::wire::EthernetAddress;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use dht::clock::{Now, OwnerTime};
use dht::{ClaimError, ClientId, Command, Hold, Lease, LeaseKey};

use crate::config::{Addressing, Mode};
use crate::engine::{Engine, Event, Pending};

/// An own claim that failed is tried again after this, doubled each time up to [`MAX_RETRY`].
const FIRST_RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(30);

/// How a machine came to an address of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The engine claimed it for this machine.
    Own,
    /// By DHCP.
    Dhcp,
    /// The machine was configured with it, and heard on the segment.
    Static,
    /// It was leased before, whatever for, and the machine still uses it: DHCP has ended, or this program was started anew.
    Kept,
}

/// An address of ours and who uses it.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) mac: [u8; 6],
    pub(crate) lease: Lease,
    pub(crate) name: Option<String>,
    pub(crate) own: bool,
    pub(crate) origin: Origin,
}

/// All addresses of ours: those leased, and of them those in use.
#[derive(Default)]
pub(crate) struct Hosts {
    /// Granted by the register; not all are in use (an OFFER holds one too).
    pub(crate) leases: BTreeMap<Ipv4Addr, Lease>,
    pub(crate) bound: BTreeMap<Ipv4Addr, Host>,
    /// This machine had an address, and has none now.
    pub(crate) lost: bool,
    /// Everything was given back for good: nothing is claimed any more.
    pub(crate) left: bool,
    pub(crate) last_error: Option<String>,
    /// Why a machine behind the TAP gets no address.
    pub(crate) clients_error: Option<String>,
    claiming: bool,
    retry_at: Option<Instant>,
    retries: u32,
}

impl Hosts {
    /// The first moment at which an address in use is no longer ours.
    pub(crate) fn lapses(&self) -> Option<OwnerTime> {
        self.bound.values().map(|host| host.lease.usable_until).min()
    }

    /// This machine's own address.
    pub(crate) fn own(&self) -> Option<&Host> {
        self.bound.values().find(|host| host.own)
    }

    pub(crate) fn poll_timeout(&self, now: Now) -> Option<(Instant, &'static str)> {
        let lapse = self.lapses().map(|end| (now.mono + end.0.saturating_sub(now.owner.0), "lease ends"));
        let retry = self.retry_at.map(|at| (at, "claim again"));
        [lapse, retry].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    pub(crate) fn leave(&mut self) {
        self.left = true;
        self.retry_at = None;
    }

    fn schedule_retry(&mut self, now: Now) {
        if self.left {
            return;
        }
        let wait = FIRST_RETRY.saturating_mul(1 << self.retries.min(5)).min(MAX_RETRY);
        self.retries += 1;
        self.retry_at = Some(now.mono + wait);
    }
}

impl Engine {
    pub(crate) fn claim_own_address(&mut self, now: Now) {
        if self.config.addressing != Addressing::Own || self.hosts.claiming || self.hosts.left {
            return;
        }
        self.hosts.retry_at = None;
        let client = self.self_client();
        self.hosts.claiming = self.command(Pending::OwnAddress, |id| Command::ClaimAddress {
            id,
            client,
            want: None,
            only_wanted: false,
            hold: Hold::Full,
            keep: true,
        });
        if !self.hosts.claiming {
            self.hosts.schedule_retry(now);
        }
    }

    pub(crate) fn change_own_mac(&mut self, mac: [u8; 6], now: Now) {
        self.config.tap_mac = mac;
        let own = self.hosts.bound.iter().find(|(_, host)| host.own).map(|(ip, host)| (*ip, host.clone()));
        if let Some((ip, host)) = own {
            self.bind(ip, Host { mac, ..host }, now);
        }
    }

    pub(crate) fn own_address_claimed(&mut self, outcome: Result<Lease, ClaimError>, now: Now) {
        self.hosts.claiming = false;
        match outcome {
            Ok(lease) => {
                let LeaseKey::Address(ip) = lease.key else { return };
                self.hosts.retries = 0;
                self.hosts.leases.insert(ip, lease.clone());
                let host = Host { mac: self.config.tap_mac, lease, name: None, own: true, origin: Origin::Own };
                self.bind(ip, host, now);
                self.emit(Event::AddressBound { ip, prefix_len: self.subnet().prefix_len() });
                self.claim_own_name(now);
            }
            Err(error) => {
                self.hosts.last_error = Some(error.to_string());
                self.hosts.schedule_retry(now);
            }
        }
    }

    /// A lease is in use from here on: answered for in ARP, routed, proven to peers.
    pub(crate) fn bind(&mut self, ip: Ipv4Addr, host: Host, now: Now) {
        if host.own {
            self.hosts.lost = false;
            self.hosts.last_error = None;
        }
        self.bridge.set_host(ip, EthernetAddress(host.mac));
        if let Some(name) = &host.name {
            self.dns.set_local(name, ip);
        }
        self.hosts.bound.insert(ip, host);
        self.watch(ip, now);
        self.announce_lease(ip, now);
    }

    /// The lease of an address in use goes on for longer. A router's hosts are many, and peers that talk to them see for
    /// themselves.
    fn renewed(&mut self, ip: Ipv4Addr, now: Now) {
        self.watch(ip, now);
        let own = self.hosts.bound.get(&ip).is_some_and(|host| host.own);
        if own || self.config.mode == Mode::Workstation {
            self.announce_lease(ip, now);
        }
    }

    pub(crate) fn unbind(&mut self, ip: Ipv4Addr, why: &'static str, now: Now) {
        if self.hosts.leases.remove(&ip).is_some() {
            // There is room for another.
            self.hosts.clients_error = None;
        }
        self.dhcp.handle_lost(ip, now.mono);
        self.segment.forget(ip);
        let Some(host) = self.hosts.bound.remove(&ip) else { return };
        self.bridge.remove_host(ip);
        self.dns.remove_local(ip);
        if host.own {
            self.emit(Event::AddressLost { ip, why });
            self.hosts.lost = true;
            self.hosts.last_error = Some(format!("{ip} is no longer ours: {why}"));
            self.hosts.schedule_retry(now);
        }
    }

    /// Stops using every address whose lease has ended. Called before anything is answered or forwarded, because a
    /// timer may fire late.
    pub(crate) fn expire_hosts(&mut self, now: Now) {
        let ended = |lease: &Lease| now.owner >= lease.usable_until;
        let gone: Vec<Ipv4Addr> =
            self.hosts.leases.iter().filter(|(_, lease)| ended(lease)).map(|(ip, _)| *ip).collect();
        for ip in gone {
            self.unbind(ip, "its lease ended without a renewal", now);
        }
    }

    /// The machine slept, or knows only now what time it is: whose lease has ended cannot be said.
    pub(crate) fn lapse_hosts(&mut self, now: Now) {
        for ip in self.hosts.leases.keys().copied().collect::<Vec<_>>() {
            self.unbind(ip, "the machine slept, or its clock was set", now);
        }
        self.lapse_names(now);
    }

    pub(crate) fn retry_claims(&mut self, now: Now) {
        if self.hosts.retry_at.is_some_and(|at| at <= now.mono) {
            self.hosts.retry_at = None;
            if self.hosts.own().is_none() {
                self.claim_own_address(now);
            }
        }
        self.retry_name(now);
    }

    pub(crate) fn lease_changed(&mut self, lease: Lease, now: Now) {
        let ip = match &lease.key {
            LeaseKey::Address(ip) => *ip,
            LeaseKey::Name(name) => return self.names.renewed(name, lease.usable_until),
        };
        if let Some(host) = self.hosts.bound.get_mut(&ip) {
            host.lease = lease.clone();
            self.renewed(ip, now);
        }
        let ours = lease.client == self.self_client();
        if let Some(held) = self.hosts.leases.get_mut(&ip) {
            *held = lease;
        } else if ours && self.hosts.own().is_none() {
            // What was given up as unanswered was granted after all: it is taken up at once.
            self.claim_own_address(now);
        } else if !ours {
            self.resume_lease(ip, lease, now);
        }
    }

    pub(crate) fn lease_lost(&mut self, key: &LeaseKey, why: &'static str, now: Now) {
        match key {
            LeaseKey::Address(ip) => self.unbind(*ip, why, now),
            LeaseKey::Name(name) => self.name_lost(name, now),
        }
    }

    pub(crate) fn dhcp_event(&mut self, event: dhcp::Event, now: Now) {
        match event {
            dhcp::Event::Claim { id, client, mac, want, only_wanted, hold, hostname: _ } => {
                let own = self.is_own_client(mac);
                let client = self.client_id(&client, own);
                let hold = match hold {
                    dhcp::Hold::Offer if !own => Hold::Offer,
                    dhcp::Hold::Offer | dhcp::Hold::Full => Hold::Full,
                };
                let pending = Pending::DhcpAddress { request: id, own, only_wanted };
                let command = |id| Command::ClaimAddress { id, client, want, only_wanted, hold, keep: own };
                if self.hosts.left || !self.command(pending, command) {
                    self.dhcp.handle_outcome(id, dhcp::Outcome::Unavailable, now.mono);
                }
            }
            dhcp::Event::Bound { client, mac, ip, hostname } => self.client_bound(&client, mac, ip, hostname, now),
            dhcp::Event::Release { client: _, ip } => self.client_released(ip, now),
            dhcp::Event::Decline { client: _, ip } => {
                self.count("dhcp-declined");
                self.client_released(ip, now);
            }
        }
    }

    pub(crate) fn dhcp_claimed(
        &mut self,
        request: dhcp::RequestId,
        (own, only_wanted): (bool, bool),
        outcome: Result<Lease, ClaimError>,
        now: Now,
    ) {
        let outcome = match outcome {
            Ok(lease) => {
                let LeaseKey::Address(ip) = lease.key else { return };
                let remaining = lease.usable_until.0.saturating_sub(now.owner.0);
                if self.hosts.leases.insert(ip, lease.clone()).is_none() {
                    self.hosts.clients_error = None;
                }
                if !self.hosts.bound.contains_key(&ip) {
                    // Whoever it is for says so by DHCP.
                    self.segment.forget(ip);
                }
                if let Some(host) = self.hosts.bound.get_mut(&ip) {
                    host.lease = lease;
                    if own {
                        (host.own, host.origin) = (true, Origin::Own);
                    }
                    self.renewed(ip, now);
                }
                dhcp::Outcome::Granted { ip, remaining }
            }
            Err(ClaimError::Unavailable(_) | ClaimError::GivenUp) => dhcp::Outcome::Unavailable,
            Err(ClaimError::Refused(why)) => {
                self.count("dhcp-refused");
                if !own && !only_wanted {
                    self.hosts.clients_error = Some(format!("a machine behind the TAP gets no address: {why}"));
                }
                dhcp::Outcome::Taken
            }
            Err(ClaimError::Taken { .. } | ClaimError::NoneFree) => dhcp::Outcome::Taken,
        };
        self.dhcp.handle_outcome(request, outcome, now.mono);
    }

    fn client_bound(
        &mut self,
        client: &dhcp::ClientKey,
        mac: [u8; 6],
        ip: Ipv4Addr,
        hostname: Option<String>,
        now: Now,
    ) {
        let Some(lease) = self.hosts.leases.get(&ip).cloned() else { return };
        let own = self.is_own_client(mac);
        let known = self.hosts.bound.get(&ip);
        let name = known.and_then(|host| host.name.clone());
        let origin = if own { Origin::Own } else { Origin::Dhcp };
        self.bind(ip, Host { mac, lease, name, own, origin }, now);
        let client = self.client_id(client, own);
        self.claim_client_name(ip, client, mac, hostname);
    }

    pub(crate) fn client_released(&mut self, ip: Ipv4Addr, now: Now) {
        let own = self.hosts.bound.get(&ip).is_some_and(|host| host.own);
        if own {
            // The kernel still has the address that we gave it; it stays ours.
            return;
        }
        self.release_names_of(ip);
        if self.hosts.leases.contains_key(&ip) {
            self.unbind(ip, "released", now);
            self.give_back(LeaseKey::Address(ip));
        }
    }

    fn is_own_client(&self, mac: [u8; 6]) -> bool {
        self.config.addressing == Addressing::Own && mac == self.config.tap_mac
    }

    pub(crate) fn client_id(&self, client: &dhcp::ClientKey, own: bool) -> ClientId {
        if own { self.self_client() } else { ClientId(dht::sign::hash("client", &[client.as_bytes()])) }
    }
}
