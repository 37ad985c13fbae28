//! Machines of the segment that hold no lease of ours, where this bridge is a router's: who they say they are is heard,
//! told, and believed only once the register has granted it.
//!
//! A dispute is about an address that a machine of the segment uses although a member elsewhere holds it. It is defended as
//! RFC 5227 section 2.4 says: one announcement, and if the machine persists, silence, for two who answer for one address are
//! worse than one. The service's own address is defended always.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Instant;

use smoltcp::wire::EthernetAddress;

use crate::config::{
    DEFEND_INTERVAL, DISPUTE, HEARD_BURST, HEARD_EVERY, HEARD_PER_SECOND, MAX_DISPUTES, MAX_HEARD, MAX_WATCHED,
};
use crate::rate::Rate;

/// What to do about a claim of somebody else's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defence {
    /// Announce that it is at our virtual MAC, and tell of the dispute.
    Announce,
    /// It was announced just now, and the machine persists.
    Yield,
}

#[derive(Debug)]
struct Dispute {
    mac: EthernetAddress,
    defended: Instant,
    until: Instant,
    yielded: bool,
}

/// What was heard of the segment.
#[derive(Debug)]
pub(crate) struct Neighbours {
    /// Whom was told of, and until when that is not told again.
    told: BTreeMap<(Ipv4Addr, EthernetAddress), Instant>,
    /// Addresses of which any news is news: their holder was asked for.
    watched: BTreeSet<Ipv4Addr>,
    /// Sources that the fast path drops, and until when.
    turned_away: BTreeMap<Ipv4Addr, Instant>,
    disputes: BTreeMap<Ipv4Addr, Dispute>,
    rate: Rate,
}

impl Neighbours {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            told: BTreeMap::new(),
            watched: BTreeSet::new(),
            turned_away: BTreeMap::new(),
            disputes: BTreeMap::new(),
            rate: Rate::new(HEARD_BURST, HEARD_PER_SECOND, now),
        }
    }

    /// Whoever has this address is asked for.
    pub(crate) fn watch(&mut self, ip: Ipv4Addr) {
        if self.watched.len() >= MAX_WATCHED {
            self.watched.pop_first();
        }
        self.watched.insert(ip);
    }

    /// Whether it is worth telling that this machine uses this address: always, if it was asked for.
    pub(crate) fn hear(&mut self, ip: Ipv4Addr, mac: EthernetAddress, now: Instant) -> bool {
        self.watched.remove(&ip) || self.hear_other(ip, mac, now)
    }

    /// The same where somebody else holds the address, whose answer may still come.
    pub(crate) fn hear_other(&mut self, ip: Ipv4Addr, mac: EthernetAddress, now: Instant) -> bool {
        if self.told.get(&(ip, mac)).is_some_and(|until| now < *until) || !self.rate.take(now) {
            return false;
        }
        if self.told.len() >= MAX_HEARD {
            self.told.retain(|_, until| now < *until);
            if self.told.len() >= MAX_HEARD {
                self.told.pop_first();
            }
        }
        self.told.insert((ip, mac), now + HEARD_EVERY);
        true
    }

    /// From here until then the fast path drops what comes from there; false if there is no room for another.
    pub(crate) fn turn_away(&mut self, ip: Ipv4Addr, until: Instant) -> bool {
        let room = self.turned_away.len() < MAX_HEARD || self.turned_away.contains_key(&ip);
        if room {
            self.turned_away.insert(ip, until);
        }
        room
    }

    pub(crate) fn take_in(&mut self, ip: Ipv4Addr) {
        self.turned_away.remove(&ip);
        self.disputes.remove(&ip);
    }

    /// The sources of which the fast path need drop nothing any more.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Vec<Ipv4Addr> {
        let over: Vec<Ipv4Addr> =
            self.turned_away.iter().filter(|(_, until)| **until <= now).map(|(ip, _)| *ip).collect();
        for ip in &over {
            self.turned_away.remove(ip);
        }
        over
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.turned_away.values().min().copied()
    }

    /// A machine of the segment says that it has an address of somebody else.
    pub(crate) fn dispute(&mut self, ip: Ipv4Addr, mac: EthernetAddress, may_yield: bool, now: Instant) -> Defence {
        if let Some(dispute) = self.disputes.get_mut(&ip).filter(|dispute| now < dispute.until) {
            (dispute.mac, dispute.until) = (mac, now + DISPUTE);
            if now < dispute.defended + DEFEND_INTERVAL {
                dispute.yielded = may_yield;
                return Defence::Yield;
            }
            dispute.defended = now;
            return Defence::Announce;
        }
        if self.disputes.len() >= MAX_DISPUTES {
            self.disputes.retain(|_, dispute| now < dispute.until);
            if self.disputes.len() >= MAX_DISPUTES {
                self.disputes.pop_first();
            }
        }
        self.disputes.insert(ip, Dispute { mac, defended: now, until: now + DISPUTE, yielded: false });
        Defence::Announce
    }

    /// Whether that machine claimed the address lately, and was told that it is another's.
    pub(crate) fn is_disputed(&self, ip: Ipv4Addr, mac: EthernetAddress, now: Instant) -> bool {
        self.disputes.get(&ip).is_some_and(|dispute| dispute.mac == mac && now < dispute.until)
    }

    /// Whether a machine of the segment answers for the address in spite of all.
    pub(crate) fn has_yielded(&self, ip: Ipv4Addr, now: Instant) -> bool {
        self.disputes.get(&ip).is_some_and(|dispute| dispute.yielded && now < dispute.until)
    }
}
