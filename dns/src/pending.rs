//! Questions that wait for somebody else: bounded, each with a deadline, equal ones asked once.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hickory_proto::rr::Name;

use crate::{QueryId, Token, message::Request};

/// Ours: more than a machine asks at a time, small enough to answer all with SERVFAIL at once.
const MAX_WAITING: usize = 256;

/// Somebody who waits.
#[derive(Clone, Debug)]
pub(crate) struct Waiter {
    pub(crate) token: Token,
    pub(crate) request: Request,
    /// The zone its name is in; the root if in none of ours.
    pub(crate) apex: Name,
}

impl Waiter {
    pub(crate) fn in_reverse_zone(&self) -> bool {
        let mut labels = self.apex.iter().rev();
        let mut next_is = |expected: &[u8]| labels.next().is_some_and(|label| label.eq_ignore_ascii_case(expected));
        next_is(b"arpa") && next_is(b"in-addr")
    }
}

/// One question and all who want to know.
#[derive(Debug)]
pub(crate) struct Waiting<K> {
    pub(crate) key: K,
    pub(crate) waiters: Vec<Waiter>,
    deadline: Instant,
}

/// What became of somebody who wants to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// The first with this question: ask.
    First,
    /// It is being asked already.
    Joined,
    /// No room.
    Full,
}

/// Questions of one kind. Each kind has its own, so that a dead resolver outside never fills the room of our own names.
#[derive(Debug)]
pub(crate) struct Pending<K> {
    patience: Duration,
    waiting: BTreeMap<QueryId, Waiting<K>>,
    ids: BTreeMap<K, QueryId>,
    waiters: usize,
}

impl<K: Clone + Ord> Pending<K> {
    pub(crate) fn new(patience: Duration) -> Self {
        Self { patience, waiting: BTreeMap::new(), ids: BTreeMap::new(), waiters: 0 }
    }

    /// `id` is used up only when this is the first with its question.
    pub(crate) fn add(&mut self, key: K, id: QueryId, waiter: Waiter, now: Instant) -> Added {
        if self.waiters >= MAX_WAITING {
            return Added::Full;
        }
        self.waiters += 1;
        if let Some(waiting) = self.ids.get(&key).and_then(|id| self.waiting.get_mut(id)) {
            waiting.waiters.push(waiter);
            return Added::Joined;
        }
        self.ids.insert(key.clone(), id);
        self.waiting.insert(id, Waiting { key, waiters: vec![waiter], deadline: now + self.patience });
        Added::First
    }

    pub(crate) fn take(&mut self, id: QueryId) -> Option<Waiting<K>> {
        let waiting = self.waiting.remove(&id)?;
        self.ids.remove(&waiting.key);
        self.waiters -= waiting.waiters.len();
        Some(waiting)
    }

    pub(crate) fn take_expired(&mut self, now: Instant) -> Vec<Waiting<K>> {
        let expired: Vec<QueryId> =
            self.waiting.iter().filter(|(_, waiting)| waiting.deadline <= now).map(|(id, _)| *id).collect();
        expired.into_iter().filter_map(|id| self.take(id)).collect()
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.deadline).min()
    }
}
