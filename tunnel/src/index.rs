//! Receiver indices: random, the top four bits name the namespace, not used again while old datagrams may be
//! under way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use libp2p_identity::PeerId;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng;

use crate::limits::{INDEX_QUARANTINE, QUARANTINE_LEN};

/// Draws before giving up; at half full, one in 2^32 fails.
const DRAWS: u8 = 32;

/// Whose each index is.
pub(crate) struct Indices {
    slot: u8,
    used: BTreeMap<u32, PeerId>,
    freed: VecDeque<(Instant, u32)>,
    quarantined: BTreeSet<u32>,
}

impl Indices {
    pub(crate) fn new(slot: u8) -> Self {
        Self { slot: slot & 0xf, used: BTreeMap::new(), freed: VecDeque::new(), quarantined: BTreeSet::new() }
    }

    pub(crate) fn allocate(&mut self, peer: PeerId, rng: &mut ChaCha20Rng, now: Instant) -> Option<u32> {
        self.release(now);
        for _ in 0..DRAWS {
            let index = u32::from(self.slot) << 28 | rng.next_u32() >> 4;
            if !self.used.contains_key(&index) && !self.quarantined.contains(&index) {
                self.used.insert(index, peer);
                return Some(index);
            }
        }
        None
    }

    pub(crate) fn free(&mut self, index: u32, now: Instant) {
        if self.used.remove(&index).is_some() && self.quarantined.insert(index) {
            self.freed.push_back((now, index));
        }
        self.release(now);
    }

    pub(crate) fn owner(&self, index: u32) -> Option<PeerId> {
        self.used.get(&index).copied()
    }

    /// In use, and in quarantine.
    #[cfg(test)]
    pub(crate) fn len(&self) -> (usize, usize) {
        (self.used.len(), self.quarantined.len())
    }

    fn release(&mut self, now: Instant) {
        while let Some((since, index)) = self.freed.front().copied()
            && (now.saturating_duration_since(since) >= INDEX_QUARANTINE || self.freed.len() > QUARANTINE_LEN)
        {
            self.freed.pop_front();
            self.quarantined.remove(&index);
        }
    }
}
