//! The names that are ours, claimed by the same atomic write as addresses.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use dht::clock::{Now, OwnerTime};
use dht::{ClaimError, ClientId, Command, Lease, LeaseKey};

use crate::config::Hostname;
use crate::engine::{Engine, Event, Pending};

/// A name that somebody else holds is asked for again after this.
const RETRY: Duration = Duration::from_secs(60);
/// A quorum that did not answer is asked again after this.
const RETRY_SOON: Duration = Duration::from_secs(5);
/// `debian`, `debian-2` … `debian-20`; then the computed name has to do.
const MAX_SUFFIX: u32 = 20;

/// This machine's own name, and those of clients behind the TAP.
pub(crate) struct Names {
    wanted: Hostname,
    suffix: u32,
    pub(crate) own: Option<String>,
    pub(crate) trouble: Option<String>,
    refusal_told: bool,
    claiming: bool,
    retry_at: Option<Instant>,
    pub(crate) clients: BTreeMap<Ipv4Addr, String>,
    /// When each of them ends, to be compared at each use.
    ends: BTreeMap<String, OwnerTime>,
}

impl Names {
    pub(crate) fn new(wanted: &Hostname) -> Self {
        Self {
            wanted: wanted.clone(),
            suffix: 1,
            own: None,
            trouble: None,
            refusal_told: false,
            claiming: false,
            retry_at: None,
            clients: BTreeMap::new(),
            ends: BTreeMap::new(),
        }
    }

    pub(crate) fn poll_timeout(&self, now: Now) -> Option<(Instant, &'static str)> {
        let end = self.ends.values().min();
        let end = end.map(|end| (now.mono + end.0.saturating_sub(now.owner.0), "a name's lease ends"));
        let retry = self.retry_at.map(|at| (at, "claim the name again"));
        [end, retry].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// A name that is ours has another end now.
    pub(crate) fn renewed(&mut self, name: &str, until: OwnerTime) {
        if let Some(end) = self.ends.get_mut(name) {
            *end = until;
        }
    }

    pub(crate) fn leave(&mut self) {
        self.retry_at = None;
    }

    fn candidate(&self) -> String {
        match (&self.wanted, self.suffix) {
            (Hostname::Explicit(name), _) | (Hostname::Default(name), 1) => name.clone(),
            (Hostname::Default(name), suffix) => format!("{name}-{suffix}"),
        }
    }
}

impl Engine {
    pub(crate) fn claim_own_name(&mut self, now: Now) {
        if self.names.claiming || self.hosts.left {
            return;
        }
        if let Some(name) = self.names.own.clone() {
            self.own_name_bound(name, now);
            return;
        }
        self.names.retry_at = None;
        let name = self.names.candidate();
        let client = self.self_client();
        let pending = Pending::OwnName { name: name.clone() };
        self.names.claiming = self.command(pending, |id| Command::ClaimName { id, name, client, keep: true });
        if !self.names.claiming {
            self.names.retry_at = Some(now.mono + RETRY_SOON);
        }
    }

    pub(crate) fn own_name_claimed(&mut self, name: String, outcome: Result<Lease, ClaimError>, now: Now) {
        self.names.claiming = false;
        if self.hosts.left {
            return;
        }
        match (outcome, &self.names.wanted) {
            (Ok(lease), _) => {
                self.names.ends.insert(name.clone(), lease.usable_until);
                self.names.trouble = None;
                self.names.refusal_told = false;
                self.own_name_bound(name, now);
            }
            (Err(ClaimError::Taken { .. }), Hostname::Default(_)) if self.names.suffix < MAX_SUFFIX => {
                self.names.suffix += 1;
                self.claim_own_name(now);
            }
            (Err(error), _) => {
                let soon = matches!(error, ClaimError::Unavailable(_));
                let why = format!("the name {name} is not ours: {error}");
                self.names.trouble = Some(why.clone());
                if !soon && !std::mem::replace(&mut self.names.refusal_told, true) {
                    self.emit(Event::NameRefused { why });
                }
                self.names.retry_at = Some(now.mono + if soon { RETRY_SOON } else { RETRY });
            }
        }
    }

    fn own_name_bound(&mut self, name: String, _now: Now) {
        let own = self.hosts.bound.iter_mut().find(|(_, host)| host.own);
        if let Some((ip, host)) = own {
            host.name = Some(name.clone());
            self.dns.set_local(&name, *ip);
        }
        self.names.own = Some(name.clone());
        self.emit(Event::NameBound { name });
    }

    pub(crate) fn retry_name(&mut self, now: Now) {
        if self.names.retry_at.is_some_and(|at| at <= now.mono) {
            self.names.retry_at = None;
            if self.hosts.own().is_some() {
                self.claim_own_name(now);
            }
        }
    }

    /// A DHCP client's name: what it calls itself, or this machine's for the only client on an own TAP.
    pub(crate) fn claim_client_name(&mut self, ip: Ipv4Addr, client: ClientId, mac: [u8; 6], hostname: Option<String>) {
        let own_machine = mac == self.config.tap_mac;
        let Some(name) = hostname.or_else(|| own_machine.then(|| self.names.candidate())) else { return };
        if self.hosts.left || self.hosts.bound.get(&ip).is_some_and(|host| host.own) {
            return;
        }
        let pending = Pending::ClientName { ip, name: name.clone() };
        if !self.command(pending, |id| Command::ClaimName { id, name, client, keep: false }) {
            // It asks again with its next renewal.
            self.count("client-name-refused");
        }
    }

    pub(crate) fn client_name_claimed(&mut self, ip: Ipv4Addr, name: String, outcome: Result<Lease, ClaimError>) {
        let Some(host) = self.hosts.bound.get_mut(&ip) else { return };
        let Ok(lease) = outcome else { return self.count("client-name-refused") };
        self.names.ends.insert(name.clone(), lease.usable_until);
        host.name = Some(name.clone());
        self.dns.set_local(&name, ip);
        self.names.clients.insert(ip, name);
    }

    pub(crate) fn release_names_of(&mut self, ip: Ipv4Addr) {
        if let Some(name) = self.names.clients.remove(&ip) {
            self.names.ends.remove(&name);
            self.give_back(LeaseKey::Name(name));
        }
    }

    /// Stops answering for every name whose lease has ended.
    pub(crate) fn expire_names(&mut self, now: Now) {
        let ended = |end: &OwnerTime| now.owner >= *end;
        while let Some(name) = self.names.ends.iter().find(|(_, end)| ended(end)).map(|(name, _)| name.clone()) {
            self.name_lost(&name, now);
        }
    }

    /// After a sleep no name is known to be ours.
    pub(crate) fn lapse_names(&mut self, now: Now) {
        while let Some((name, _)) = self.names.ends.first_key_value() {
            let name = name.clone();
            self.name_lost(&name, now);
        }
    }

    pub(crate) fn name_lost(&mut self, name: &str, now: Now) {
        self.names.ends.remove(name);
        if self.names.own.as_deref() == Some(name) {
            self.names.own = None;
            self.names.trouble = Some(format!("the name {name} is no longer ours"));
            self.names.retry_at = Some(now.mono + RETRY_SOON);
        }
        let lost: Vec<Ipv4Addr> = self
            .hosts
            .bound
            .iter_mut()
            .filter(|(_, host)| host.name.as_deref() == Some(name))
            .map(|(ip, host)| {
                host.name = None;
                *ip
            })
            .collect();
        for ip in lost {
            self.dns.remove_local(ip);
            self.names.clients.remove(&ip);
        }
    }
}
