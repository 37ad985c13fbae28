//! The state machine itself. In the order a frame meets it: what the fast path can decide, then ARP, the virtual
//! server, and packets that wait for a route; and the same for packets from peers.

mod arp;
mod router;
mod service;

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use libp2p_identity::PeerId;
use smoltcp::wire::EthernetAddress;

use crate::compose::{IcmpError, icmp_error, may_report};
use crate::config::{ICMP_BURST, ICMP_PER_SECOND, MAX_RESOLVED, RESOLVED};
use crate::dns_tcp::DnsTcp;
use crate::drop_reason::Drops;
use crate::fence::{Fences, News};
use crate::ipv4::Ipv4;
use crate::local::{IPV4, is_dhcp_request};
use crate::lookup::Lookups;
use crate::mss;
use crate::neighbours::Neighbours;
use crate::offload::ETHERNET;
use crate::rate::Rate;
use crate::unproven::Unproven;
use crate::{Config, DropReason, Event, Inbound, Local, Offload, OutFrame, OutPacket, Outbound, Resolution, settle};

/// The bridge of one namespace on one TAP.
///
/// Methods are of four kinds: getters; inputs, `handle_*`; commands, which are verbs; and outputs, `poll_*`.
/// After every input and every command the caller drains [`Bridge::poll_event`], [`Bridge::poll_frame`] and
/// [`Bridge::poll_packet`], fetches [`Bridge::local`] for the fast path, and sets its timer to
/// [`Bridge::poll_timeout`].
pub struct Bridge {
    config: Config,
    local: Arc<Local>,
    /// Routes that rest on an answer, and until when.
    resolved: BTreeMap<Ipv4Addr, Instant>,
    lookups: Lookups,
    unproven: Unproven,
    fences: Fences,
    neighbours: Neighbours,
    dns_tcp: DnsTcp,
    icmp: Rate,
    /// The latest time heard of, for commands that come without.
    now: Instant,
    frames: VecDeque<OutFrame>,
    packets: VecDeque<OutPacket>,
    events: VecDeque<Event>,
    drops: Drops,
}

impl Bridge {
    /// Creates a bridge that knows nobody.
    pub fn new(config: Config, seed: [u8; 32], now: Instant) -> Self {
        let [s0, s1, s2, s3, s4, s5, s6, s7, ..] = seed;
        let seed = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        Self {
            local: Arc::new(Local::new(&config)),
            resolved: BTreeMap::new(),
            lookups: Lookups::new(now),
            unproven: Unproven::default(),
            fences: Fences::default(),
            neighbours: Neighbours::new(now),
            dns_tcp: DnsTcp::new(config.service, config.range, config.mtu, seed, now),
            icmp: Rate::new(ICMP_BURST, ICMP_PER_SECOND, now),
            now,
            frames: VecDeque::new(),
            packets: VecDeque::new(),
            events: VecDeque::new(),
            drops: Drops::default(),
            config,
        }
    }

    /// Names the machine behind this TAP that uses a leased address.
    ///
    /// An address that no member can have (outside the range, or the service's) is ignored.
    pub fn set_host(&mut self, ip: Ipv4Addr, mac: EthernetAddress) {
        if !self.local.is_assignable(ip) || self.local.host(ip) == Some(mac) {
            return;
        }
        self.take_in(ip);
        Arc::make_mut(&mut self.local).hosts.insert(ip, mac);
        // Who looked for it finds it on the segment.
        if let Some(lookup) = self.lookups.found(ip) {
            self.drops.add(DropReason::ArpLocal, lookup.questions.len());
            self.drops.add(DropReason::LocalDestination, lookup.packets.len());
        }
    }

    /// Forgets a host: nothing goes from or to its address any more.
    pub fn remove_host(&mut self, ip: Ipv4Addr) {
        if self.local.host(ip).is_some() {
            Arc::make_mut(&mut self.local).hosts.remove(&ip);
        }
    }

    /// Notes that a peer has proven a lease of an address: it may send from there, and is sent what goes there.
    ///
    /// An address has one owner: the latest proof replaces the one before. An address that no member can have is
    /// ignored.
    pub fn permit(&mut self, peer: PeerId, ip: Ipv4Addr) {
        if !self.local.is_assignable(ip) {
            return;
        }
        if self.local.permitted.get(&ip) != Some(&peer) {
            Arc::make_mut(&mut self.local).permitted.insert(ip, peer);
        }
        self.resolved.remove(&ip);
        self.fences.lift(ip, peer);
        self.set_route(ip, peer);
        for packet in self.unproven.proven(peer, ip) {
            self.admit(peer, &packet.bytes, packet.offload);
        }
    }

    /// Takes back what [`Bridge::permit`] gave, and the route that an answer gave.
    pub fn forbid(&mut self, peer: PeerId, ip: Ipv4Addr) {
        if self.local.permitted.get(&ip) == Some(&peer) {
            Arc::make_mut(&mut self.local).permitted.remove(&ip);
        }
        if self.local.route(ip) == Some(peer) {
            Arc::make_mut(&mut self.local).routes.remove(&ip);
            self.resolved.remove(&ip);
        }
    }

    /// Notes that somebody else was granted an address that this peer had: as [`Bridge::forbid`], and from here on what it
    /// sends from there is dropped at once instead of waiting for a proof, until [`Bridge::permit`] gives it back.
    pub fn fence(&mut self, peer: PeerId, ip: Ipv4Addr) {
        self.forbid(peer, ip);
        self.fences.set(ip, peer);
        let waited = self.unproven.proven(peer, ip).len();
        self.drops.add(DropReason::SupersededSource, waited);
    }

    /// Takes back everything that was given to a peer, and throws away what waits for its proofs.
    pub fn forbid_all(&mut self, peer: PeerId) {
        let waited = self.unproven.forget(peer);
        self.drops.add(DropReason::Unproven, waited);
        self.fences.lift_all(peer);
        let permitted = self.local.permitted.iter();
        let routes = self.local.routes.iter();
        let addresses: Vec<Ipv4Addr> =
            permitted.chain(routes).filter(|(_, owner)| **owner == peer).map(|(ip, _)| *ip).collect();
        for ip in addresses {
            self.forbid(peer, ip);
        }
    }

    /// Takes a frame from the TAP that the fast path did not forward.
    pub fn handle_frame(&mut self, frame: &[u8], offload: Offload, now: Instant) {
        self.now = now;
        match self.local.outbound_sized(frame, offload) {
            Outbound::Forward { peer, packet } => {
                if let Err(reason) = self.send(peer, packet, offload) {
                    self.drops.count(reason);
                }
            }
            Outbound::Control => self.consider_frame(frame, offload, now),
            Outbound::Drop(reason) => self.drops.count(reason),
        }
    }

    /// Takes a packet from a peer that the fast path did not deliver.
    pub fn handle_packet(&mut self, peer: PeerId, packet: &[u8], offload: Offload, now: Instant) {
        self.now = now;
        match offload.check(packet) {
            Ok(offload) => self.admit(peer, packet, offload),
            Err(reason) => self.drops.count(reason),
        }
    }

    /// Takes the answer to [`Event::Resolve`].
    pub fn handle_resolved(&mut self, ip: Ipv4Addr, answer: Resolution, now: Instant) {
        self.now = now;
        match answer {
            Resolution::Peer(peer) => self.note_resolved(ip, peer, now),
            Resolution::Absent => {
                self.drop_resolved(ip);
                self.give_up(ip, now);
            }
            Resolution::Unknown => self.lookups.unknown(ip, now),
        }
    }

    /// Does what is due. Early, late and repeated calls are harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        self.lookups.handle_timeout(&mut self.drops, now);
        self.ask(now);
        let expired = self.unproven.handle_timeout(now, &mut self.events);
        self.drops.add(DropReason::Unproven, expired);
        self.dns_tcp.handle_timeout(&mut self.drops, now);
        self.drain_dns_tcp();
        self.hear_again(now);
        let lapsed: Vec<Ipv4Addr> =
            self.resolved.iter().filter(|(_, until)| **until <= now).map(|(ip, _)| *ip).collect();
        for ip in lapsed {
            self.drop_resolved(ip);
        }
    }

    /// The next frame for the TAP.
    pub fn poll_frame(&mut self) -> Option<OutFrame> {
        self.frames.pop_front()
    }

    /// The next packet for a peer.
    pub fn poll_packet(&mut self) -> Option<OutPacket> {
        self.packets.pop_front()
    }

    /// The next thing to do elsewhere.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Bridge::handle_timeout`] is due, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        [
            (self.lookups.poll_timeout(), "an address is looked up"),
            (self.unproven.poll_timeout(), "a peer owes a proof"),
            (self.dns_tcp.poll_timeout(), "DNS over TCP"),
            (self.resolved.values().min().copied(), "an answer lapses"),
            (self.neighbours.poll_timeout(), "a machine is heard again"),
        ]
        .into_iter()
        .filter_map(|(at, why)| at.map(|at| (at, why)))
        .min()
    }

    /// The view for the fast path: the same one until something changed.
    pub fn local(&self) -> Arc<Local> {
        Arc::clone(&self.local)
    }

    /// What went no further, by reason.
    pub fn drops(&self) -> &BTreeMap<DropReason, u64> {
        self.drops.counts()
    }

    /// What the fast path leaves to us: ARP, the virtual server, and destinations without a route.
    fn consider_frame(&mut self, frame: &[u8], offload: Offload, now: Instant) {
        let Some((header, rest)) = frame.split_first_chunk::<ETHERNET>() else {
            return self.drops.count(DropReason::ShortFrame);
        };
        if header[12..] != IPV4.to_be_bytes() {
            return self.handle_arp(frame, now);
        }
        let [_, _, _, _, _, _, s0, s1, s2, s3, s4, s5, ..] = *header;
        let mac = EthernetAddress([s0, s1, s2, s3, s4, s5]);
        let outcome = Ipv4::parse(rest).and_then(|packet| {
            let to = packet.destination();
            // The fast path lets no DHCP through that is not for our server.
            if is_dhcp_request(packet) {
                self.serve_dhcp(mac, packet, offload)
            } else if self.local.is_news(packet.source()) {
                self.hear(packet.source(), mac, now);
                Err(DropReason::SpoofedSource)
            } else if to == self.config.service {
                self.serve(mac, packet, offload, now)
            } else {
                self.route_or_wait(packet, offload, now)
            }
        });
        if let Err(reason) = outcome {
            self.drops.count(reason);
        }
    }

    fn route_or_wait(&mut self, packet: Ipv4<'_>, offload: Offload, now: Instant) -> Result<(), DropReason> {
        let (from, to) = (packet.source(), packet.destination());
        if let Some(peer) = self.local.route(to) {
            return self.forward(peer, packet, offload);
        }
        match self.lookups.packet(to, packet.bytes(), from, offload, now) {
            Ok(pushed_out) => self.drops.add(DropReason::WaitingFull, pushed_out),
            Err(reason) => {
                if reason == DropReason::Absent {
                    self.report(packet, IcmpError::HostUnreachable);
                }
                return Err(reason);
            }
        }
        self.ask(now);
        Ok(())
    }

    fn forward(&mut self, peer: PeerId, packet: Ipv4<'_>, offload: Offload) -> Result<(), DropReason> {
        if self.local.is_too_big(packet.bytes(), offload) {
            self.report(packet, IcmpError::FragmentationNeeded(self.config.mtu));
            return Err(DropReason::TooBig);
        }
        self.send(peer, packet.bytes(), offload)
    }

    fn send(&mut self, peer: PeerId, packet: &[u8], offload: Offload) -> Result<(), DropReason> {
        let mut packet = packet.to_vec();
        mss::clamp(&mut packet, offload, usize::from(self.config.mtu));
        let offload = settle(&mut packet, offload)?;
        self.packets.push_back(OutPacket { peer, packet, offload });
        Ok(())
    }

    /// Asks about addresses as fast as the rate allows.
    fn ask(&mut self, now: Instant) {
        while let Some(ip) = self.lookups.ask(now) {
            self.events.push_back(Event::Resolve { ip });
        }
    }

    /// Lets a peer's packet in, or keeps it until its source is proven.
    fn admit(&mut self, peer: PeerId, packet: &[u8], offload: Offload) {
        match self.local.inbound(&peer, packet) {
            Inbound::Deliver(header) => self.frames.push_back(OutFrame { bytes: [&header, packet].concat(), offload }),
            Inbound::Control => {
                if let Err(reason) = Ipv4::parse(packet).and_then(|ipv4| self.doubt(peer, ipv4, offload)) {
                    self.drops.count(reason);
                }
            }
            Inbound::Drop(reason) => self.drops.count(reason),
        }
    }

    /// A peer's packet from an address that it has not proven, or to one that is not here: somebody is mistaken.
    fn doubt(&mut self, peer: PeerId, packet: Ipv4<'_>, offload: Offload) -> Result<(), DropReason> {
        let (from, to) = (packet.source(), packet.destination());
        let ours = self.local.host(from).is_some();
        if ours || self.fences.is_former(from, peer) {
            if self.fences.may_tell(peer, News::Superseded, self.now) {
                self.events.push_back(Event::Superseded { peer, ip: from });
            }
            return Err(if ours { DropReason::SpoofedSource } else { DropReason::SupersededSource });
        }
        if self.local.host(to).is_none() {
            if self.fences.may_tell(peer, News::NotHere, self.now) {
                self.events.push_back(Event::NotHere { peer, ip: to });
            }
            return Err(DropReason::NoSuchHost);
        }
        let (pushed_out, ask) = self.unproven.packet(peer, packet.bytes(), from, offload, self.now)?;
        self.drops.add(DropReason::UnprovenFull, pushed_out);
        self.events.extend(ask);
        Ok(())
    }

    /// Believes an answer for a while, unless something better is known.
    fn note_resolved(&mut self, ip: Ipv4Addr, peer: PeerId, now: Instant) {
        if !self.local.is_assignable(ip) || self.local.host(ip).is_some() {
            return;
        }
        if let Some(proven) = self.local.permitted.get(&ip) {
            return self.set_route(ip, *proven);
        }
        if !self.resolved.contains_key(&ip) && self.resolved.len() >= MAX_RESOLVED {
            let oldest = self.resolved.iter().min_by_key(|(_, until)| **until);
            if let Some(oldest) = oldest.map(|(ip, _)| *ip) {
                self.drop_resolved(oldest);
            }
        }
        self.resolved.insert(ip, now + RESOLVED);
        self.set_route(ip, peer);
    }

    /// Forgets a route that rests on an answer alone.
    fn drop_resolved(&mut self, ip: Ipv4Addr) {
        if self.resolved.remove(&ip).is_some() {
            Arc::make_mut(&mut self.local).routes.remove(&ip);
        }
    }

    /// Routes an address, and serves everybody who waited for that.
    fn set_route(&mut self, ip: Ipv4Addr, peer: PeerId) {
        if self.local.route(ip) != Some(peer) {
            Arc::make_mut(&mut self.local).routes.insert(ip, peer);
        }
        let Some(mut lookup) = self.lookups.found(ip) else {
            return;
        };
        for question in lookup.questions {
            self.answer_arp(ip, question.mac, question.ip);
        }
        while let Some(packet) = lookup.packets.pop() {
            let sent = match self.local.host(packet.source) {
                // The lease may have ended while the packet waited.
                None => Err(DropReason::SpoofedSource),
                Some(_) => Ipv4::parse(&packet.bytes).and_then(|ipv4| self.forward(peer, ipv4, packet.offload)),
            };
            if let Err(reason) = sent {
                self.drops.count(reason);
            }
        }
    }

    /// Tells everybody who waited for an address that nobody has it: the askers of ARP by silence.
    fn give_up(&mut self, ip: Ipv4Addr, now: Instant) {
        let Some(mut lookup) = self.lookups.absent(ip, now) else {
            return;
        };
        self.drops.add(DropReason::ArpAbsent, lookup.questions.len());
        self.drops.add(DropReason::Absent, lookup.packets.len());
        while let Some(packet) = lookup.packets.pop() {
            if let Ok(packet) = Ipv4::parse(&packet.bytes) {
                self.report(packet, IcmpError::HostUnreachable);
            }
        }
    }

    /// Sends an ICMP error about a packet to the host of ours that sent it.
    fn report(&mut self, packet: Ipv4<'_>, error: IcmpError) {
        // Its sender may be gone by the time that a packet is given up on.
        if !may_report(packet) || self.local.host(packet.source()).is_none() {
            return;
        }
        if !self.icmp.take(self.now) {
            return self.drops.count(DropReason::IcmpLimited);
        }
        let message = icmp_error(self.config.service, packet, error);
        self.deliver_own(&message);
    }

    /// Writes a packet of the virtual server to the host that has its destination address.
    fn deliver_own(&mut self, packet: &[u8]) {
        let host = Ipv4::parse(packet).ok().and_then(|ipv4| self.local.host(ipv4.destination()));
        match host {
            Some(mac) => self.write_frame(mac, packet, Offload::default()),
            None => self.drops.count(DropReason::NoSuchHost),
        }
    }

    fn write_frame(&mut self, mac: EthernetAddress, packet: &[u8], offload: Offload) {
        self.frames.push_back(OutFrame { bytes: [&self.local.header_to(mac), packet].concat(), offload });
    }
}
