//! The packet threads of a node: TAP to socket and socket to TAP, from the engine's snapshot.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bridge::{Ecn, Offload};
use engine::fast::{self, Arrival, Datagrams, Run, Verdict};
use smoltcp::wire::{EthernetFrame, EthernetProtocol, Ipv4Packet};
use tunnel::{Kind, NextHop};

use crate::driver::Moment;
use crate::node::{Effect, Node, Observation};

/// What fits into one datagram of the underlay.
const MAX_DATAGRAM: usize = 1500 - 28;

impl Node {
    /// A frame of the guest.
    pub(crate) fn handle_frame(&mut self, frame: &[u8], at: Duration) {
        let Some(Moment { now, .. }) = self.moment(at) else { return };
        let Some(snapshot) = self.process_snapshot() else { return };
        let mut datagrams = Datagrams::default();
        let verdict = if snapshot.is_usable(&now) {
            fast::outbound(&snapshot, &mut frame.to_vec(), Offload::default(), false, &mut datagrams)
        } else {
            Verdict::Control
        };
        match verdict {
            Verdict::Forwarded => {
                if let Some(source) = source_of(frame) {
                    self.effects.push(Effect::Seen(Observation::Left(source)));
                }
            }
            Verdict::Control => {
                if let Some(engine) = self.process.as_mut().and_then(|process| process.engine.as_mut()) {
                    engine.handle_frame(frame, Offload::default(), now);
                }
            }
            Verdict::Dropped(reason) => self.count(reason),
        }
        self.send_all(datagrams);
    }

    fn send_all(&mut self, mut datagrams: Datagrams) {
        datagrams.drain(|Run { to, bytes, segment, .. }| {
            // No node has a stream here: the engine is told of none.
            let NextHop::Udp(to) = to else { return };
            for datagram in bytes.chunks(segment) {
                self.effects.push(Effect::Datagram { to, bytes: datagram.to_vec(), ttl: None });
            }
        });
    }

    /// A datagram from the underlay.
    pub(crate) fn handle_datagram(&mut self, from: SocketAddr, mut datagram: Vec<u8>, at: Duration) {
        let Some(Moment { now, .. }) = self.moment(at) else { return };
        if self.lie_about(&datagram) {
            return self.pump(at);
        }
        let Some(snapshot) = self.process_snapshot() else { return };
        let engine = |node: &mut Self, use_it: &mut dyn FnMut(&mut engine::Engine)| {
            if let Some(engine) = node.process.as_mut().and_then(|process| process.engine.as_mut()) {
                use_it(engine);
            }
        };
        if tunnel::receiver_index(&datagram).is_none() || !snapshot.is_usable(&now) {
            engine(self, &mut |engine| engine.handle_datagram(from, &datagram, now));
            return self.pump(at);
        }
        let mut carried = Datagrams::default();
        let received = fast::inbound(&snapshot, from.into(), Ecn::NotCapable, &mut datagram, now.mono, &mut carried);
        match received.arrival {
            Arrival::Frame { offload, header, packet } => {
                let frame = [&header[..], packet].concat();
                self.write(frame, offload);
            }
            Arrival::Opened { peer, kind, payload } => {
                let payload = payload.to_vec();
                engine(self, &mut |engine| engine.handle_opened(peer, kind, &payload, now));
            }
            Arrival::Dropped(reason) => self.count(reason),
            Arrival::Sealed { from, datagram } => {
                let datagram = datagram.to_vec();
                engine(self, &mut |engine| engine.handle_datagram(from, &datagram, now));
            }
            Arrival::Carried => self.send_all(carried),
        }
        for roamed in received.roamed.into_iter().flatten() {
            engine(self, &mut |engine| engine.handle_roamed(roamed, now));
        }
        self.pump(at);
    }

    /// Says what the kernel would say of a datagram that is too big for the link.
    pub(crate) fn refuse_big(&mut self, to: SocketAddr, bytes: &[u8], at: Duration) -> bool {
        if bytes.len() <= MAX_DATAGRAM {
            return false;
        }
        self.count("datagram-too-big");
        if let Some(Moment { now, .. }) = self.moment(at)
            && let Some(engine) = self.process.as_mut().and_then(|process| process.engine.as_mut())
        {
            engine.handle_too_big(to, 1500, now);
        }
        true
    }

    /// Seals a packet of any content for a peer, as a node that was tampered with would. Says whether there was a
    /// session to do so.
    pub(crate) fn send_forged(&mut self, peer: libp2p_identity::PeerId, packet: &[u8]) -> bool {
        let Some(snapshot) = self.process_snapshot() else { return false };
        let Some(outlet) = snapshot.sending.get(&peer) else { return false };
        // Only what goes straight to the peer is forged here, not what a relay would carry.
        let tunnel::Way::Direct(NextHop::Udp(to)) = outlet.way else { return false };
        let mut bytes = Vec::new();
        if outlet.session.seal(Kind::Packet, &[], packet, &mut bytes).is_err() {
            return false;
        }
        self.effects.push(Effect::Datagram { to, bytes, ttl: None });
        true
    }
}

fn source_of(frame: &[u8]) -> Option<Ipv4Addr> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    let ip = (frame.ethertype() == EthernetProtocol::Ipv4).then(|| Ipv4Packet::new_checked(frame.payload()).ok())??;
    Some(ip.src_addr())
}
