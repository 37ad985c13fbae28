//! Packets that wait for something to become known: a route, or a proof.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Instant;

use crate::Offload;
use crate::config::{MAX_WAITING, MAX_WAITING_BYTES, WAIT};

/// One packet that waits.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) bytes: Vec<u8>,
    pub(crate) offload: Offload,
    /// The address it came from.
    pub(crate) source: Ipv4Addr,
    until: Instant,
}

/// A short queue: the oldest makes room, and none waits longer than [`WAIT`].
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    packets: VecDeque<Packet>,
    bytes: usize,
}

impl Waiting {
    /// Queues a packet; returns how many older ones made room for it.
    pub(crate) fn push(&mut self, bytes: &[u8], source: Ipv4Addr, offload: Offload, now: Instant) -> usize {
        let mut pushed_out = 0;
        while self.packets.len() >= MAX_WAITING
            || (self.bytes + bytes.len() > MAX_WAITING_BYTES && !self.packets.is_empty())
        {
            self.pop();
            pushed_out += 1;
        }
        self.bytes += bytes.len();
        self.packets.push_back(Packet { bytes: bytes.to_vec(), offload, source, until: now + WAIT });
        pushed_out
    }

    /// Takes the oldest.
    pub(crate) fn pop(&mut self) -> Option<Packet> {
        let packet = self.packets.pop_front()?;
        self.bytes -= packet.bytes.len();
        Some(packet)
    }

    /// Takes those that came from one address, in their order.
    pub(crate) fn take_from(&mut self, source: Ipv4Addr) -> Vec<Packet> {
        let (taken, left) =
            std::mem::take(&mut self.packets).into_iter().partition::<VecDeque<_>, _>(|packet| packet.source == source);
        self.packets = left;
        self.bytes = self.packets.iter().map(|packet| packet.bytes.len()).sum();
        taken.into()
    }

    /// Gives up on those that waited too long; returns how many.
    pub(crate) fn expire(&mut self, now: Instant) -> usize {
        let before = self.packets.len();
        while self.deadline().is_some_and(|until| until <= now) {
            self.pop();
        }
        before - self.packets.len()
    }

    /// When the oldest has waited too long.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.packets.front().map(|packet| packet.until)
    }

    pub(crate) fn oldest(&self) -> Option<&Packet> {
        self.packets.front()
    }

    pub(crate) fn len(&self) -> usize {
        self.packets.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}
