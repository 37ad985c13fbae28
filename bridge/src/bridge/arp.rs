//! Proxy ARP (RFC 826, RFC 1027, RFC 5227): who is answered for, and when to stay silent.
//!
//! We answer for members elsewhere and for the service address, never for a host behind this TAP, an address
//! that nobody has, or one that is not ours to know. Nothing is believed of what we hear; a router tells of it
//! (`router.rs`).

use std::net::Ipv4Addr;
use std::time::Instant;

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

use super::Bridge;
use crate::local::ARP;
use crate::lookup::Question;
use crate::offload::ETHERNET;
use crate::{DropReason, Offload, OutFrame};

/// One ARP packet for IPv4 over Ethernet.
struct Heard {
    sender_mac: EthernetAddress,
    sender: Ipv4Addr,
    target: Ipv4Addr,
    operation: ArpOperation,
}

impl Bridge {
    pub(super) fn handle_arp(&mut self, frame: &[u8], now: Instant) {
        match Heard::parse(frame).and_then(|heard| self.consider_arp(heard, now)) {
            Ok(()) => {}
            Err(reason) => self.drops.count(reason),
        }
    }

    fn consider_arp(&mut self, heard: Heard, now: Instant) -> Result<(), DropReason> {
        let Heard { sender_mac, sender, target, operation } = heard;
        if self.is_claim_of_other(sender, sender_mac) {
            self.dispute(sender, sender_mac, now);
            return Err(DropReason::ArpConflict);
        }
        self.hear(sender, sender_mac, now);
        if operation != ArpOperation::Request {
            return Err(DropReason::ArpReply);
        }
        if sender == target {
            return Err(DropReason::ArpAnnouncement);
        }
        if target == self.config.service {
            self.answer_arp(target, sender_mac, sender);
            return Ok(());
        }
        if !self.local.is_assignable(target) {
            return Err(DropReason::ArpOutOfRange);
        }
        if self.local.host(target).is_some() {
            return Err(DropReason::ArpLocal);
        }
        // A probe comes from 0.0.0.0: whoever sends it has no address yet.
        if !sender.is_unspecified() && !self.local.is_host(sender, sender_mac) {
            return Err(DropReason::ArpForeign);
        }
        // Who asks before it uses the address has to know of it all the same.
        if !sender.is_unspecified() && self.neighbours.has_yielded(target, now) {
            return Err(DropReason::ArpYielded);
        }
        if self.local.route(target).is_some() {
            self.answer_arp(target, sender_mac, sender);
            return Ok(());
        }
        let question = Question::new(sender_mac, sender, now);
        self.lookups.question(target, question, &mut self.drops, now);
        self.ask(now);
        Ok(())
    }

    /// Whether somebody behind this TAP says it has an address that is somebody else's.
    fn is_claim_of_other(&self, sender: Ipv4Addr, mac: EthernetAddress) -> bool {
        match self.local.host(sender) {
            Some(owner) => owner != mac,
            None => {
                sender == self.config.service
                    || self.local.route(sender).is_some()
                    || self.neighbours.is_disputed(sender, mac, self.now)
            }
        }
    }

    /// Says that `target` is at our virtual MAC.
    pub(super) fn answer_arp(&mut self, target: Ipv4Addr, mac: EthernetAddress, ip: Ipv4Addr) {
        self.send_arp(ArpOperation::Reply, target, (mac, ip), mac);
    }

    /// Sends an ARP packet from our virtual MAC.
    pub(super) fn send_arp(
        &mut self,
        operation: ArpOperation,
        sender: Ipv4Addr,
        (target_mac, target): (EthernetAddress, Ipv4Addr),
        to: EthernetAddress,
    ) {
        let gateway = self.config.gateway_mac;
        let packet = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: gateway,
            source_protocol_addr: sender,
            target_hardware_addr: target_mac,
            target_protocol_addr: target,
        };
        let mut bytes = vec![0; ETHERNET + packet.buffer_len()];
        bytes[..6].copy_from_slice(&to.0);
        bytes[6..12].copy_from_slice(&gateway.0);
        bytes[12..ETHERNET].copy_from_slice(&ARP.to_be_bytes());
        packet.emit(&mut ArpPacket::new_unchecked(&mut bytes[ETHERNET..]));
        self.frames.push_back(OutFrame { bytes, offload: Offload::default() });
    }
}

impl Heard {
    fn parse(frame: &[u8]) -> Result<Self, DropReason> {
        let (header, rest) = frame.split_first_chunk::<ETHERNET>().ok_or(DropReason::ShortFrame)?;
        let packet = ArpPacket::new_checked(rest).map_err(|_| DropReason::BadArp)?;
        let ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: sender_mac,
            source_protocol_addr: sender,
            target_protocol_addr: target,
            ..
        } = ArpRepr::parse(&packet).map_err(|_| DropReason::BadArp)?
        else {
            return Err(DropReason::BadArp);
        };
        // Who speaks for another machine's MAC address wants our answer to go astray.
        if sender_mac.as_bytes() != &header[6..12] {
            return Err(DropReason::BadArp);
        }
        Ok(Self { sender_mac, sender, target, operation })
    }
}
