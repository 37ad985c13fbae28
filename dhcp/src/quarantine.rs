//! Addresses that a client found in use by somebody else. They rest before anybody is offered them again
//! (RFC 2131 §4.3.3).

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

/// How long an address rests: as with dnsmasq's `DECLINE_BACKOFF`, long enough for a person to find the machine.
pub(crate) const REST: Duration = Duration::from_secs(600);

const MAX: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Quarantine(BTreeMap<Ipv4Addr, Instant>);

impl Quarantine {
    pub(crate) fn add(&mut self, ip: Ipv4Addr, now: Instant) {
        self.0.retain(|_, until| now < *until);
        if self.0.len() >= MAX
            && let Some(first) = self.0.iter().min_by_key(|(_, until)| **until).map(|(ip, _)| *ip)
        {
            self.0.remove(&first);
        }
        self.0.insert(ip, now + REST);
    }

    pub(crate) fn holds(&self, ip: Ipv4Addr, now: Instant) -> bool {
        self.0.get(&ip).is_some_and(|until| now < *until)
    }
}
