//! Which Kademlia records this node keeps: few, small, checked, and not for long.
//!
//! Records are of two kinds, leases' certificates and the newest views of shards, told apart by how long their keys are.
//! A peer may have so many of each, so that a node with many leases still makes a view known. A view is published by all of
//! its members, and each time the same bytes: that makes the record last longer and changes nothing else.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::kad::store::{MemoryStore, RecordStore};
use libp2p::kad::{Record, RecordKey};

/// Records in all.
pub(crate) const MOST: usize = 4096;
/// Bytes of one.
pub(crate) const LONGEST: usize = 4096;
/// Beyond these, what this node publishes itself.
pub(crate) const MOST_OWN: usize = 1024;
/// Records of one kind from one peer.
const MOST_PER_PEER: usize = 64;
/// A lease's hint is published again with every renewal, a view's every six hours.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Who put which record, and when it ends.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    kept: BTreeMap<Vec<u8>, Kept>,
    refused: u64,
}

#[derive(Debug)]
struct Kept {
    from: PeerId,
    until: Instant,
}

impl Hints {
    /// Keeps a record if it is valid, by `verify(key, value, held value)`, and there is room.
    pub(crate) fn put(
        &mut self,
        store: &mut MemoryStore,
        from: PeerId,
        record: Record,
        verify: impl FnOnce(&[u8], &[u8], Option<&[u8]>) -> bool,
        now: Instant,
    ) {
        self.expire(store, now);
        let key = record.key.to_vec();
        let held = store.get(&record.key).map(|record| record.value.clone());
        if held.as_ref() == Some(&record.value) {
            // It was checked when it came. Whose it is stays as it was.
            let from = self.kept.get(&key).map_or(from, |kept| kept.from);
            return self.keep(store, from, record, now);
        }
        let same_kind = |other: &[u8]| other != key && other.len() == key.len();
        let others = self.kept.iter().filter(|(other, kept)| kept.from == from && same_kind(other)).count();
        let fits = record.value.len() <= LONGEST
            && others < MOST_PER_PEER
            && (self.kept.len() < MOST || self.kept.contains_key(&key));
        if !fits || !verify(&key, &record.value, held.as_deref()) {
            self.refused = self.refused.saturating_add(1);
            tracing::debug!(%from, refused = self.refused, "refused a hint");
            return;
        }
        self.keep(store, from, record, now);
    }

    /// Keeps what this node itself is about to publish, and gives it with its end. Nothing if a newer one is held.
    pub(crate) fn put_own(
        &mut self,
        store: &mut MemoryStore,
        me: PeerId,
        record: Record,
        verify: impl FnOnce(&[u8], &[u8], Option<&[u8]>) -> bool,
        now: Instant,
    ) -> Option<Record> {
        self.expire(store, now);
        let held = store.get(&record.key).map(|record| record.value.clone());
        let is_older = held.is_some_and(|held| {
            held != record.value && !verify(&record.key.to_vec(), &record.value, Some(held.as_slice()))
        });
        if is_older {
            return None;
        }
        let record = Record { expires: Some(now + LIFETIME), ..record };
        self.keep(store, me, record.clone(), now);
        Some(record)
    }

    fn keep(&mut self, store: &mut MemoryStore, from: PeerId, record: Record, now: Instant) {
        let (key, until) = (record.key.to_vec(), now + LIFETIME);
        let record = Record { key: record.key, value: record.value, publisher: None, expires: Some(until) };
        if store.put(record).is_ok() {
            self.kept.insert(key, Kept { from, until });
        }
    }

    fn expire(&mut self, store: &mut MemoryStore, now: Instant) {
        self.kept.retain(|key, kept| {
            let stays = kept.until > now;
            if !stays {
                store.remove(&RecordKey::new(key));
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test needs one real instant as origin")]
    fn origin() -> Instant {
        Instant::now()
    }

    fn record(key: u32, value: &[u8]) -> Record {
        Record::new(key.to_be_bytes().to_vec(), value.to_vec())
    }

    fn held(store: &MemoryStore, key: u32) -> Option<Vec<u8>> {
        store.get(&RecordKey::new(&key.to_be_bytes())).map(|record| record.value.clone())
    }

    #[test]
    fn a_record_that_does_not_verify_leaves_the_one_that_is_held() {
        let (now, peer) = (origin(), PeerId::random());
        let (mut hints, mut store) = (Hints::default(), MemoryStore::new(peer));
        hints.put(&mut store, peer, record(1, b"b"), |_, _, held| held.is_none(), now);
        hints.put(&mut store, peer, record(1, b"a"), |_, value, held| held.is_some_and(|held| value > held), now);
        assert_eq!(held(&store, 1), Some(b"b".to_vec()));
        hints.put(&mut store, peer, record(1, b"c"), |_, value, held| held.is_some_and(|held| value > held), now);
        assert_eq!(held(&store, 1), Some(b"c".to_vec()));
        assert_eq!(hints.refused, 1);
    }

    #[test]
    fn one_peer_does_not_fill_the_store() {
        let (now, peer, other) = (origin(), PeerId::random(), PeerId::random());
        let (mut hints, mut store) = (Hints::default(), MemoryStore::new(peer));
        for key in 0..100 {
            hints.put(&mut store, peer, record(key, b"a"), |_, _, _| true, now);
        }
        assert_eq!(hints.kept.len(), MOST_PER_PEER);
        hints.put(&mut store, other, record(200, b"a"), |_, _, _| true, now);
        assert_eq!(held(&store, 200), Some(b"a".to_vec()));
    }

    #[test]
    fn a_peer_with_many_leases_still_makes_views_known() {
        let (now, peer) = (origin(), PeerId::random());
        let (mut hints, mut store) = (Hints::default(), MemoryStore::new(peer));
        for key in 0..100u8 {
            let (lease, view) = (vec![key; 20], vec![key; 32]);
            hints.put(&mut store, peer, Record::new(lease, vec![1]), |_, _, _| true, now);
            hints.put(&mut store, peer, Record::new(view, vec![1]), |_, _, _| true, now);
        }
        assert_eq!(hints.kept.keys().filter(|key| key.len() == 20).count(), MOST_PER_PEER);
        assert_eq!(hints.kept.keys().filter(|key| key.len() == 32).count(), MOST_PER_PEER);
    }

    #[test]
    fn the_same_record_again_lasts_longer_and_stays_whose_it_was() {
        let (now, peer, other) = (origin(), PeerId::random(), PeerId::random());
        let (mut hints, mut store) = (Hints::default(), MemoryStore::new(peer));
        hints.put(&mut store, peer, record(1, b"view"), |_, _, _| true, now);
        hints.put(&mut store, other, record(1, b"view"), |_, _, _| false, now + LIFETIME / 2);
        hints.put(&mut store, other, record(2, b"other"), |_, _, _| true, now + LIFETIME);
        assert_eq!((held(&store, 1), hints.refused), (Some(b"view".to_vec()), 0));
        assert_eq!(hints.kept.values().next().unwrap().from, peer);
    }

    #[test]
    fn what_this_node_publishes_it_keeps_unless_it_knows_better() {
        let (now, me) = (origin(), PeerId::random());
        let (mut hints, mut store) = (Hints::default(), MemoryStore::new(me));
        let newer = |_: &[u8], value: &[u8], held: Option<&[u8]>| held.is_none_or(|held| value > held);
        assert!(hints.put_own(&mut store, me, record(1, b"b"), newer, now).is_some());
        assert!(hints.put_own(&mut store, me, record(1, b"a"), newer, now).is_none());
        assert!(hints.put_own(&mut store, me, record(1, b"b"), newer, now + LIFETIME / 2).is_some());
        hints.put(&mut store, me, record(2, b"a"), newer, now + LIFETIME);
        assert_eq!(held(&store, 1), Some(b"b".to_vec()));
        hints.put(&mut store, me, record(2, b"a"), newer, now + LIFETIME * 3 / 2);
        assert_eq!(held(&store, 1), None);
    }

    #[test]
    fn a_record_ends_after_a_day_and_makes_room() {
        let (now, peer) = (origin(), PeerId::random());
        let (mut hints, mut store) = (Hints::default(), MemoryStore::new(peer));
        for key in 0..100 {
            hints.put(&mut store, peer, record(key, b"a"), |_, _, _| true, now);
        }
        hints.put(&mut store, peer, record(200, b"a"), |_, _, _| true, now + LIFETIME);
        assert_eq!((hints.kept.len(), held(&store, 0)), (1, None));
    }

    #[test]
    fn a_long_record_is_refused() {
        let (now, peer) = (origin(), PeerId::random());
        let (mut hints, mut store) = (Hints::default(), MemoryStore::new(peer));
        hints.put(&mut store, peer, record(1, &[0; LONGEST + 1]), |_, _, _| true, now);
        assert_eq!(held(&store, 1), None);
    }
}
