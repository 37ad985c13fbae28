//! How often one peer may make this node do something costly: a round costs a write to disk, a read a signature.
//!
//! Whoever keeps to the protocol stays far below; whoever does not is a member with a credential, and costs this node no more
//! than these rates. Answers are limited, too: they are checked by signatures before it shows that nobody waits for them.

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

/// What is counted together, because it costs the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Operations of an owner.
    Ops,
    /// An invite.
    Redeem,
    /// A read, or a round that settles one.
    Read,
    /// A connection of this node's.
    Dial,
    /// Registers in a round among replicas, and in its result.
    Round,
    /// An answer to a read.
    Answer,
    /// Views, each with the signatures of a quorum.
    Views,
    /// A certificate or a configuration that nobody asked for.
    Proof,
    /// Something for this node's engine.
    Signal,
    /// A vote about a view, or how far a replica is in one.
    Change,
    /// A page of registers.
    State,
    /// A question that a page of views answers.
    History,
    /// Who is there.
    Presence,
    /// A comparison of all registers of a shard.
    Digest,
}

impl Kind {
    const COUNT: usize = 14;

    fn rate(self) -> Rate {
        let (burst, every) = match self {
            // A router starts with some hundred hosts, and renews them a few times a day.
            Self::Ops => (1024, Duration::from_millis(20)),
            // A joiner needs one; its retries come in growing intervals.
            Self::Redeem => (16, Duration::from_secs(1)),
            // A busy node looks up a new peer now and then, a scan looks up everything.
            Self::Read => (1024, Duration::from_millis(5)),
            // A node asks once a minute until enough have reached it.
            Self::Dial => (4, Duration::from_secs(30)),
            // One coordinator may serve hundreds of owners.
            Self::Round => (65_536, Duration::from_micros(100)),
            // Twice what may be asked, so that answers which bunch up on their way are not lost.
            Self::Answer => (2048, Duration::from_micros(2500)),
            // Whoever was away catches up on thousands.
            Self::Views => (4096, Duration::from_millis(10)),
            // One for each lease that was displaced.
            Self::Proof => (64, Duration::from_secs(1)),
            // Candidates at the beginning of a session, and again when they change.
            Self::Signal => (128, Duration::from_millis(50)),
            // All shards may change at once, with a second attempt each.
            Self::Change => (4096, Duration::from_millis(10)),
            // A new member copies every shard.
            Self::State => (1024, Duration::from_millis(5)),
            // About every shard once a minute, and page after page by whoever was away.
            Self::History => (1024, Duration::from_millis(50)),
            // Once a minute, and whenever it changes.
            Self::Presence => (64, Duration::from_secs(1)),
            // Every shard once in ten minutes, and a list for each part that differs.
            Self::Digest => (1024, Duration::from_millis(100)),
        };
        Rate { burst, every }
    }

    /// What a message counts as, and how often; `None` if it costs next to nothing.
    fn of(message: &Message) -> Option<(Self, usize)> {
        Some(match message {
            Message::Ops { ops, .. } => (Self::Ops, ops.len()),
            Message::Redeem(_) => (Self::Redeem, 1),
            Message::Read { .. } | Message::Settle { .. } | Message::Fetch => (Self::Read, 1),
            Message::Results { items, .. } => (Self::Round, items.len()),
            Message::Prepare { keys, .. } => (Self::Round, keys.len()),
            Message::Promise { items, .. } => (Self::Round, items.len()),
            Message::Accept { items, .. } => (Self::Round, items.len()),
            Message::Accepted { items, .. } => (Self::Round, items.len()),
            Message::ReadReply { .. } => (Self::Answer, 1),
            Message::Moved { views } => (Self::Views, views.len()),
            Message::Supersede { .. } | Message::Fetched { .. } => (Self::Proof, 1),
            Message::Signal { .. } | Message::Pass { .. } | Message::Passed { .. } => (Self::Signal, 1),
            Message::View(message) => return Self::of_view(message),
            // A member drops it unread.
            Message::Redeemed(_) => return None,
        })
    }

    fn of_view(message: &ViewMessage) -> Option<(Self, usize)> {
        let kind = match message {
            ViewMessage::DialMe => Self::Dial,
            ViewMessage::Prepare { .. }
            | ViewMessage::Promise { .. }
            | ViewMessage::Accept { .. }
            | ViewMessage::Accepted { .. }
            | ViewMessage::Station { .. }
            | ViewMessage::AskVotes { .. }
            | ViewMessage::VotesSeen { .. } => Self::Change,
            ViewMessage::AskSnapshot { .. } | ViewMessage::Snapshot { .. } => Self::State,
            ViewMessage::AskStation { .. } | ViewMessage::Heads { .. } => Self::History,
            ViewMessage::Presence { .. } => Self::Presence,
            ViewMessage::Digest { .. } | ViewMessage::Bucket { .. } => Self::Digest,
            // A look into a list.
            ViewMessage::DialledBack => return None,
        };
        Some((kind, 1))
    }
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    spent: u32,
    since: Instant,
}

/// What every peer has used up.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    peers: BTreeMap<PublicKey, [Option<Bucket>; Kind::COUNT]>,
}

impl Limits {
    /// Counts a message, and says whether it is within what its sender may send.
    pub(crate) fn allows(&mut self, from: &PublicKey, message: &Message, now: Instant) -> bool {
        let Some((kind, count)) = Kind::of(message) else { return true };
        // An empty message is one all the same.
        self.take(from, kind, u32::try_from(count.max(1)).unwrap_or(u32::MAX), now)
    }

    fn take(&mut self, from: &PublicKey, kind: Kind, count: u32, now: Instant) -> bool {
        while self.peers.len() >= MAX_PEERS && !self.peers.contains_key(from) {
            self.peers.pop_first();
        }
        let rate = kind.rate();
        let bucket = &mut self.peers.entry(*from).or_default()[kind as usize];
        let bucket = bucket.get_or_insert(Bucket { spent: 0, since: now });
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
    use crate::ballot::Ballot;
    use crate::membership::fixture::now;
    use crate::record::Scope;

    const SCOPE: Scope = Scope { incarnation: 0, shard: 0, view: 0 };

    #[test]
    fn a_burst_then_one_per_interval() {
        let (mut limits, from) = (Limits::default(), PublicKey([1; 32]));
        let start = now().mono;
        let take =
            |limits: &mut Limits, after| limits.take(&from, Kind::Redeem, 1, start + Duration::from_millis(after));
        assert_eq!((0..100).filter(|_| take(&mut limits, 0)).count(), 16);
        assert!(!take(&mut limits, 999));
        assert!(take(&mut limits, 1000) && !take(&mut limits, 1000));
        assert_eq!((0..100).filter(|_| take(&mut limits, 60_000)).count(), 16);
        assert!(limits.take(&PublicKey([2; 32]), Kind::Redeem, 1, start));
    }

    /// One of each kind that a member may send and that makes this node work.
    fn costly() -> Vec<(Message, u32)> {
        let (store_id, votes, ballot) = ([0; 16], 0, Ballot::default());
        let key = crate::record::RegisterKey::Redeem(PublicKey([1; 32]));
        let view = |message| Message::View(message);
        vec![
            (Message::Fetch, 1024),
            (Message::Prepare { scope: SCOPE, ballot, votes: Default::default(), keys: Vec::new() }, 65_536),
            (Message::Accepted { scope: SCOPE, store_id, votes, ballot, items: Vec::new() }, 65_536),
            (Message::ReadReply { scope: SCOPE, store_id, id: 1, key, held: None }, 2048),
            (Message::Moved { views: Vec::new() }, 4096),
            (Message::Supersede { certificate: Vec::new() }, 64),
            (Message::Fetched { bytes: Vec::new() }, 64),
            (Message::Signal { bytes: Vec::new() }, 128),
            (Message::Pass { to: PublicKey([1; 32]), letter: Vec::new() }, 128),
            (Message::Passed { from: PublicKey([1; 32]), letter: Vec::new() }, 128),
            (view(ViewMessage::DialMe), 4),
            (view(ViewMessage::Prepare { scope: SCOPE, ballot, votes: Default::default() }), 4096),
            (view(ViewMessage::AskVotes { store_id }), 4096),
            (view(ViewMessage::AskSnapshot { scope: SCOPE, into: SCOPE, after: None }), 1024),
            (view(ViewMessage::AskStation { scope: SCOPE }), 1024),
            (view(ViewMessage::Heads { heads: Vec::new() }), 1024),
            (view(ViewMessage::Digest { scope: SCOPE, buckets: Vec::new() }), 1024),
        ]
    }

    #[test]
    fn whatever_costs_something_has_its_limit() {
        for (message, burst) in costly() {
            let (mut limits, from, now) = (Limits::default(), PublicKey([1; 32]), now().mono);
            let passed = (0..burst + 100).filter(|_| limits.allows(&from, &message, now)).count();
            assert_eq!(passed, burst as usize, "{message:?}");
            // Nobody else is kept waiting, nor is this peer for ever.
            assert!(limits.allows(&PublicKey([2; 32]), &message, now), "{message:?}");
            assert!(limits.allows(&from, &message, now + Duration::from_secs(31)), "{message:?}");
        }
    }

    #[test]
    fn what_has_used_up_its_share_takes_none_from_the_rest() {
        let (mut limits, from, now) = (Limits::default(), PublicKey([1; 32]), now().mono);
        while limits.allows(&from, &Message::Supersede { certificate: Vec::new() }, now) {}
        assert!(limits.allows(&from, &Message::Moved { views: Vec::new() }, now));
        assert!((0..100_000).all(|_| limits.allows(&from, &Message::View(ViewMessage::DialledBack), now)));
    }

    #[test]
    fn a_crowd_of_peers_takes_bounded_room() {
        let mut limits = Limits::default();
        for n in 0..2 * MAX_PEERS as u64 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_be_bytes());
            assert!(limits.take(&PublicKey(key), Kind::Presence, 1, now().mono));
        }
        assert_eq!(limits.peers.len(), MAX_PEERS);
    }
}
