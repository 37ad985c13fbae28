//! The state machine itself.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use libp2p_identity::PeerId;
use smoltcp::wire::EthernetAddress;

use crate::drop_reason::Drops;
use crate::{
    Config, DhcpDestination, DnsClient, DropReason, Event, Inbound, Local, Offload, OutFrame, OutPacket, Outbound,
    Resolution,
};

/// The bridge of one namespace on one TAP.
pub struct Bridge {
    local: Arc<Local>,
    frames: VecDeque<OutFrame>,
    packets: VecDeque<OutPacket>,
    events: VecDeque<Event>,
    drops: Drops,
}

impl Bridge {
    /// Creates a bridge that knows nobody.
    pub fn new(config: Config, _seed: [u8; 32], _now: Instant) -> Self {
        Self {
            local: Arc::new(Local::new(&config)),
            frames: VecDeque::new(),
            packets: VecDeque::new(),
            events: VecDeque::new(),
            drops: Drops::default(),
        }
    }

    /// Names the machine behind this TAP that uses a leased address.
    pub fn set_host(&mut self, ip: Ipv4Addr, mac: EthernetAddress) {
        Arc::make_mut(&mut self.local).hosts.insert(ip, mac);
    }

    /// Forgets a host: nothing goes from or to its address any more.
    pub fn remove_host(&mut self, ip: Ipv4Addr) {
        Arc::make_mut(&mut self.local).hosts.remove(&ip);
    }

    /// Notes that a peer has proven a lease of an address: it may send from there, and is sent what goes there.
    pub fn permit(&mut self, peer: PeerId, ip: Ipv4Addr) {
        let local = Arc::make_mut(&mut self.local);
        local.permitted.insert(ip, peer);
        local.routes.insert(ip, peer);
    }

    /// Takes back what [`Bridge::permit`] gave.
    pub fn forbid(&mut self, peer: PeerId, ip: Ipv4Addr) {
        let local = Arc::make_mut(&mut self.local);
        if local.permitted.get(&ip) == Some(&peer) {
            local.permitted.remove(&ip);
            local.routes.remove(&ip);
        }
    }

    /// Takes back everything that was given to a peer.
    pub fn forbid_all(&mut self, peer: PeerId) {
        let local = Arc::make_mut(&mut self.local);
        local.permitted.retain(|_, owner| *owner != peer);
        local.routes.retain(|_, owner| *owner != peer);
    }

    /// Sends a DHCP reply to the segment.
    pub fn send_dhcp(&mut self, _to: DhcpDestination, _message: &[u8], _now: Instant) {}

    /// Sends a DNS reply the way its question came.
    pub fn send_dns(&mut self, _to: DnsClient, _message: &[u8], _now: Instant) {}

    /// Takes a frame from the TAP that the fast path did not forward.
    pub fn handle_frame(&mut self, frame: &[u8], offload: Offload, _now: Instant) {
        match self.local.outbound_sized(frame, offload) {
            Outbound::Forward { peer, packet } => {
                self.packets.push_back(OutPacket { peer, packet: packet.to_vec(), offload })
            }
            Outbound::Control => {}
            Outbound::Drop(reason) => self.drops.count(reason),
        }
    }

    /// Takes a packet from a peer that the fast path did not deliver.
    pub fn handle_packet(&mut self, peer: PeerId, packet: &[u8], offload: Offload, _now: Instant) {
        match self.local.inbound(&peer, packet) {
            Inbound::Deliver(header) => self.frames.push_back(OutFrame { bytes: [&header, packet].concat(), offload }),
            Inbound::Control => {}
            Inbound::Drop(reason) => self.drops.count(reason),
        }
    }

    /// Takes the answer to [`Event::Resolve`].
    pub fn handle_resolved(&mut self, _ip: Ipv4Addr, _answer: Resolution, _now: Instant) {}

    /// Does what is due. Early, late and repeated calls are harmless.
    pub fn handle_timeout(&mut self, _now: Instant) {}

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
        None
    }

    /// The view for the fast path: the same one until something changed.
    pub fn local(&self) -> Arc<Local> {
        Arc::clone(&self.local)
    }

    /// What went no further, by reason.
    pub fn drops(&self) -> &BTreeMap<DropReason, u64> {
        self.drops.counts()
    }
}
