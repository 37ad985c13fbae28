//! What may be done once in a while for each key, such as telling one peer of one address.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Keys at once; while there are more, nothing is done for others.
const MAX_KEYS: usize = 4096;

/// When something was last done for each key, as far as that still matters.
pub(crate) struct Once<K> {
    every: Duration,
    done: BTreeMap<K, Instant>,
}

impl<K: Ord> Once<K> {
    pub(crate) fn every(every: Duration) -> Self {
        Self { every, done: BTreeMap::new() }
    }

    /// Whether it may be done now; then it counts as done.
    pub(crate) fn take(&mut self, key: K, now: Instant) -> bool {
        let recent = |at: &Instant| now < *at + self.every;
        if self.done.get(&key).is_some_and(recent) {
            return false;
        }
        if self.done.len() >= MAX_KEYS {
            self.done.retain(|_, at| recent(at));
        }
        if self.done.len() >= MAX_KEYS && !self.done.contains_key(&key) {
            return false;
        }
        self.done.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_in_a_while_for_each_key_and_not_for_more_keys_than_the_limit() {
        #[expect(clippy::disallowed_methods, reason = "a test needs one real instant as origin")]
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut once = Once::every(second);
        assert_eq!((0..5000).filter(|key| once.take(*key, start)).count(), 4096);
        assert_eq!((0..5000).filter(|key| once.take(*key, start + second / 2)).count(), 0);
        assert_eq!((4000..8000).filter(|key| once.take(*key, start + second)).count(), 4000);
    }
}
