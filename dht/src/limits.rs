//! How often one peer may make this node do something costly: a round costs a write to disk, a read a signature.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::identity::PublicKey;
use crate::message::{Message, ViewMessage};

/// Most peers that are counted; beyond that the one that comes first in order is forgotten, and starts afresh.
const MAX_PEERS: usize = 4096;

/// So many at once, then one per interval.
#[derive(Clone, Copy, Debug)]
struct Rate {
    burst: u32,
    every: Duration,
}

/// A router starts with some hundred hosts, and renews them a few times a day.
const OPS: Rate = Rate { burst: 1024, every: Duration::from_millis(20) };
/// A joiner needs one; its retries come in growing intervals.
const REDEEM: Rate = Rate { burst: 16, every: Duration::from_secs(1) };
/// A busy node looks up a new peer now and then, a scan looks up everything.
const READS: Rate = Rate { burst: 1024, every: Duration::from_millis(5) };

/// A node asks once a minute until enough have reached it.
const DIALS: Rate = Rate { burst: 4, every: Duration::from_secs(30) };

#[derive(Clone, Copy, Debug)]
struct Bucket {
    spent: u32,
    since: Instant,
}

/// What every peer has used up.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    buckets: BTreeMap<(PublicKey, u8), Bucket>,
}

impl Limits {
    /// Counts a message, and says whether it is within what its sender may send.
    pub(crate) fn allows(&mut self, from: &PublicKey, message: &Message, now: Instant) -> bool {
        match message {
            Message::Ops { ops, .. } => self.take(from, 0, OPS, u32::try_from(ops.len()).unwrap_or(u32::MAX), now),
            Message::Redeem(_) => self.take(from, 1, REDEEM, 1, now),
            // Each makes this node open a connection.
            Message::View(ViewMessage::DialMe) => self.take(from, 3, DIALS, 1, now),
            Message::Read { .. } | Message::Settle { .. } | Message::Fetch => self.take(from, 2, READS, 1, now),
            Message::Results { .. }
            | Message::Prepare { .. }
            | Message::Promise { .. }
            | Message::Accept { .. }
            | Message::Accepted { .. }
            | Message::ReadReply { .. }
            | Message::Moved { .. }
            | Message::Supersede { .. }
            | Message::Redeemed(_)
            | Message::Fetched { .. }
            | Message::Signal { .. }
            | Message::View(_) => true,
        }
    }

    fn take(&mut self, from: &PublicKey, kind: u8, rate: Rate, count: u32, now: Instant) -> bool {
        while self.buckets.len() >= MAX_PEERS && !self.buckets.contains_key(&(*from, kind)) {
            self.buckets.pop_first();
        }
        let bucket = self.buckets.entry((*from, kind)).or_insert(Bucket { spent: 0, since: now });
        let passed = now.saturating_duration_since(bucket.since).as_nanos() / rate.every.as_nanos();
        if let Ok(passed) = u32::try_from(passed) {
            bucket.spent = bucket.spent.saturating_sub(passed);
            bucket.since += rate.every * passed;
        } else {
            *bucket = Bucket { spent: 0, since: now };
        }
        if bucket.spent.saturating_add(count) > rate.burst {
            return false;
        }
        bucket.spent += count;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::fixture::now;

    #[test]
    fn a_burst_then_one_per_interval() {
        let (mut limits, from) = (Limits::default(), PublicKey([1; 32]));
        let start = now().mono;
        let take = |limits: &mut Limits, after| limits.take(&from, 1, REDEEM, 1, start + Duration::from_millis(after));
        assert_eq!((0..100).filter(|_| take(&mut limits, 0)).count(), 16);
        assert!(!take(&mut limits, 999));
        assert!(take(&mut limits, 1000) && !take(&mut limits, 1000));
        assert_eq!((0..100).filter(|_| take(&mut limits, 60_000)).count(), 16);
        assert!(limits.take(&PublicKey([2; 32]), 1, REDEEM, 1, start));
    }
}
