//! Packets from peers that use an address which they have not proven to hold.
//!
//! Nothing is learned from packets: the peer is asked for its lease, and its packets wait for the proof.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Instant;

use libp2p_identity::PeerId;

use crate::config::{MAX_UNPROVEN, UNPROVEN_EVERY};
use crate::waiting::{Packet, Waiting};
use crate::{DropReason, Event, Offload};

#[derive(Debug)]
struct Suspect {
    packets: Waiting,
    /// When it may be asked again.
    ask_at: Instant,
}

impl Suspect {
    fn deadline(&self) -> Instant {
        self.packets.deadline().map_or(self.ask_at, |until| until.min(self.ask_at))
    }
}

/// All peers with packets that wait for a proof.
#[derive(Debug, Default)]
pub(crate) struct Unproven {
    by_peer: BTreeMap<PeerId, Suspect>,
}

impl Unproven {
    /// Keeps a packet. Returns how many made room for it, and the question for its sender unless it was asked
    /// just now.
    pub(crate) fn packet(
        &mut self,
        peer: PeerId,
        bytes: &[u8],
        source: Ipv4Addr,
        offload: Offload,
        now: Instant,
    ) -> Result<(usize, Option<Event>), DropReason> {
        if !self.by_peer.contains_key(&peer) && self.by_peer.len() >= MAX_UNPROVEN {
            return Err(DropReason::UnprovenFull);
        }
        let suspect = self.by_peer.entry(peer).or_insert_with(|| Suspect { packets: Waiting::default(), ask_at: now });
        let pushed_out = suspect.packets.push(bytes, source, offload, now);
        if suspect.ask_at > now {
            return Ok((pushed_out, None));
        }
        suspect.ask_at = now + UNPROVEN_EVERY;
        Ok((pushed_out, Some(Event::Unproven { peer, ip: source })))
    }

    /// The proof came: the packets that waited for it.
    pub(crate) fn proven(&mut self, peer: PeerId, ip: Ipv4Addr) -> Vec<Packet> {
        self.by_peer.get_mut(&peer).map_or_else(Vec::new, |suspect| suspect.packets.take_from(ip))
    }

    /// Gives up on a peer; returns how many packets it had waiting.
    pub(crate) fn forget(&mut self, peer: PeerId) -> usize {
        self.by_peer.remove(&peer).map_or(0, |suspect| suspect.packets.len())
    }

    /// Gives up on what waited too long, and asks again for the rest. Returns how many expired.
    pub(crate) fn handle_timeout(&mut self, now: Instant, ask: &mut impl Extend<Event>) -> usize {
        let mut expired = 0;
        self.by_peer.retain(|peer, suspect| {
            expired += suspect.packets.expire(now);
            if suspect.ask_at > now {
                return true;
            }
            let Some(oldest) = suspect.packets.oldest() else {
                return false;
            };
            suspect.ask_at = now + UNPROVEN_EVERY;
            ask.extend([Event::Unproven { peer: *peer, ip: oldest.source }]);
            true
        });
        expired
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.by_peer.values().map(Suspect::deadline).min()
    }
}
