//! A router's segment: who is heard there, who is asked for, and who uses what is another's.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use smoltcp::wire::{ArpOperation, EthernetAddress};

use super::Bridge;
use crate::config::{HEARD_EVERY, TURNED_AWAY};
use crate::neighbours::Defence;
use crate::{Event, Mode};

/// What ARP questions and announcements have in place of the hardware address that is asked for.
const UNKNOWN: EthernetAddress = EthernetAddress([0; 6]);

impl Bridge {
    /// Asks the segment who has an address; whoever says so is told of by [`Event::Heard`].
    pub fn ask_host(&mut self, ip: Ipv4Addr) {
        if self.config.mode != Mode::Router || !self.local.is_assignable(ip) {
            return;
        }
        self.neighbours.watch(ip);
        self.send_arp(ArpOperation::Request, self.config.service, (UNKNOWN, ip), EthernetAddress::BROADCAST);
    }

    /// Notes that a machine of the segment gets no lease of the address that it uses: what it sends is dropped, and it is
    /// heard again after a minute. If a member elsewhere has the address, it is defended.
    pub fn turn_away(&mut self, ip: Ipv4Addr, mac: EthernetAddress, is_of_member: bool, now: Instant) {
        self.now = now;
        if self.config.mode != Mode::Router || self.local.host(ip).is_some() {
            return;
        }
        self.drop_from(ip, now + TURNED_AWAY);
        if is_of_member {
            self.dispute(ip, mac, now);
        }
    }

    /// Tells that a machine of the segment uses an address which is no member's elsewhere.
    pub(super) fn hear(&mut self, ip: Ipv4Addr, mac: EthernetAddress, now: Instant) {
        if self.config.mode != Mode::Router || !self.local.is_assignable(ip) || !self.neighbours.hear(ip, mac, now) {
            return;
        }
        if self.local.is_news(ip) {
            self.drop_from(ip, now + HEARD_EVERY);
        }
        self.events.push_back(Event::Heard { ip, mac });
    }

    /// A machine of the segment says that it has an address of somebody else.
    pub(super) fn dispute(&mut self, ip: Ipv4Addr, mac: EthernetAddress, now: Instant) {
        if self.config.mode != Mode::Router {
            return;
        }
        if self.local.host(ip).is_some() {
            // That host defends it. Whether it is still there, somebody else finds out.
            if self.neighbours.hear_other(ip, mac, now) {
                self.events.push_back(Event::Heard { ip, mac });
            }
            return;
        }
        match self.neighbours.dispute(ip, mac, ip != self.config.service, now) {
            Defence::Announce => {
                self.send_arp(ArpOperation::Request, ip, (UNKNOWN, ip), EthernetAddress::BROADCAST);
                self.events.push_back(Event::Disputed { ip, mac });
            }
            Defence::Yield => {}
        }
    }

    /// What comes from there is dropped on the fast path, as far as there is room.
    fn drop_from(&mut self, ip: Ipv4Addr, until: Instant) {
        if self.neighbours.turn_away(ip, until) && !self.local.turned_away.contains(&ip) {
            Arc::make_mut(&mut self.local).turned_away.insert(ip);
        }
    }

    /// The address is a host's of ours: nothing that was held against its user counts any more.
    pub(super) fn take_in(&mut self, ip: Ipv4Addr) {
        self.neighbours.take_in(ip);
        if self.local.turned_away.contains(&ip) {
            Arc::make_mut(&mut self.local).turned_away.remove(&ip);
        }
    }

    /// Whoever was turned away for long enough is heard again.
    pub(super) fn hear_again(&mut self, now: Instant) {
        for ip in self.neighbours.handle_timeout(now) {
            Arc::make_mut(&mut self.local).turned_away.remove(&ip);
        }
    }
}
