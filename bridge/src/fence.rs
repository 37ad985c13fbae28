//! Addresses that a peer had and has no more, and whom that has to be told.
//!
//! A fence only gives a name and an answer to what is dropped anyway: without a proof nobody's packets are delivered.
//! So it may forget.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Instant;

use libp2p_identity::PeerId;

use crate::config::{MAX_FENCED, NEWS_EVERY};

/// What a peer is told at most once a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum News {
    Superseded,
    NotHere,
}

/// Former owners, and who was told something just now.
#[derive(Debug, Default)]
pub(crate) struct Fences {
    former: BTreeSet<(Ipv4Addr, PeerId)>,
    told: BTreeMap<(PeerId, News), Instant>,
}

impl Fences {
    /// The address is somebody else's from here on.
    pub(crate) fn set(&mut self, ip: Ipv4Addr, peer: PeerId) {
        if self.former.len() >= MAX_FENCED && !self.former.contains(&(ip, peer)) {
            self.former.pop_first();
        }
        self.former.insert((ip, peer));
    }

    /// The peer has proven the address anew.
    pub(crate) fn lift(&mut self, ip: Ipv4Addr, peer: PeerId) {
        self.former.remove(&(ip, peer));
    }

    pub(crate) fn lift_all(&mut self, peer: PeerId) {
        self.former.retain(|(_, former)| *former != peer);
    }

    pub(crate) fn is_former(&self, ip: Ipv4Addr, peer: PeerId) -> bool {
        self.former.contains(&(ip, peer))
    }

    /// Whether the peer may be told now. While too many were told within a second, nobody else is.
    pub(crate) fn may_tell(&mut self, peer: PeerId, news: News, now: Instant) -> bool {
        if self.told.get(&(peer, news)).is_some_and(|at| now < *at + NEWS_EVERY) {
            return false;
        }
        if self.told.len() >= MAX_FENCED {
            self.told.retain(|_, at| now < *at + NEWS_EVERY);
            if self.told.len() >= MAX_FENCED {
                return false;
            }
        }
        self.told.insert((peer, news), now);
        true
    }
}
