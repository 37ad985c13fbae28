//! Handshake numbers: ours, reserved on disk before they are used, and those that peers have shown.

use std::time::Instant;

use crate::limits::{NUMBER_BLOCK, NUMBER_LOW, NUMBER_MEMORY, UNCONFIRMED};

/// Our own numbers, each used once over all restarts.
pub(crate) struct Numbers {
    next: u64,
    /// First number that is not reserved.
    reserved: u64,
    asked: u64,
    /// The wall clock in the form of a number, the latest that was shown.
    wall: u64,
}

impl Numbers {
    pub(crate) fn new(floor: u64) -> Self {
        Self { next: floor, reserved: floor, asked: floor, wall: 0 }
    }

    /// A number for an Init; none until a block is reserved.
    pub(crate) fn take(&mut self) -> Option<u64> {
        if self.next >= self.reserved {
            return None;
        }
        let number = self.next;
        self.next += 1;
        Some(number)
    }

    /// What to reserve, once, when few are left.
    pub(crate) fn wants(&mut self) -> Option<u64> {
        if self.asked > self.reserved || self.reserved - self.next > NUMBER_LOW {
            return None;
        }
        self.asked = self.reserved.max(self.wall).saturating_add(NUMBER_BLOCK);
        (self.asked > self.reserved).then_some(self.asked)
    }

    /// Numbers below `upto` may be used. Where the wall clock has run ahead they begin there, so that a disk
    /// restored from a backup does not use a number twice.
    pub(crate) fn handle_reserved(&mut self, upto: u64) {
        if upto <= self.reserved {
            return;
        }
        if self.wall > self.reserved {
            self.next = self.next.max(upto.saturating_sub(NUMBER_BLOCK));
        }
        self.reserved = upto;
    }

    pub(crate) fn saw_wall(&mut self, wall_ms: u64) {
        self.wall = self.wall.max(wall_ms.checked_mul(1 << 16).unwrap_or(0));
    }
}

/// The numbers of one peer. One from an Init counts only for a moment: an Init can be replayed after a restart, or
/// forged by a thief of our own key, and must not lock the peer out. It is remembered once the peer has proven the
/// handshake by a transport packet.
#[derive(Default)]
pub(crate) struct SeenNumbers {
    confirmed: Option<u64>,
    unconfirmed: Option<(Instant, u64)>,
}

impl SeenNumbers {
    /// Whether an Init of this number is a replay.
    pub(crate) fn is_replay(&self, number: u64, last_contact: Option<Instant>, now: Instant) -> bool {
        let remembered = last_contact.is_some_and(|last| now.saturating_duration_since(last) < NUMBER_MEMORY);
        let confirmed = remembered && self.confirmed.is_some_and(|confirmed| number <= confirmed);
        let unconfirmed = self.unconfirmed.is_some_and(|(since, unconfirmed)| {
            now.saturating_duration_since(since) < UNCONFIRMED && number <= unconfirmed
        });
        confirmed || unconfirmed
    }

    pub(crate) fn note_init(&mut self, number: u64, now: Instant) {
        self.unconfirmed = Some((now, number));
    }

    /// When the last Init was accepted.
    pub(crate) fn last_init(&self) -> Option<Instant> {
        self.unconfirmed.map(|(since, _)| since)
    }

    pub(crate) fn confirm(&mut self, number: u64) {
        self.confirmed = Some(number);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tests::origin;

    #[test]
    fn no_number_is_used_before_it_is_reserved_and_none_twice() {
        let mut numbers = Numbers::new(100);
        assert_eq!(numbers.take(), None);
        let upto = numbers.wants().unwrap();
        assert_eq!(numbers.wants(), None, "asked once");
        assert_eq!(numbers.take(), None);
        numbers.handle_reserved(upto);
        assert_eq!(numbers.take(), Some(100));
        let mut last = 100;
        while let Some(number) = numbers.take() {
            assert!(number > last && number < upto);
            last = number;
        }
        assert_eq!(last, upto - 1);
        let more = numbers.wants().unwrap();
        numbers.handle_reserved(more);
        assert_eq!(numbers.take(), Some(upto));
    }

    #[test]
    fn the_next_block_is_asked_for_in_time() {
        let mut numbers = Numbers::new(0);
        let upto = numbers.wants().unwrap();
        numbers.handle_reserved(upto);
        let taken = std::iter::from_fn(|| if numbers.wants().is_some() { None } else { numbers.take() }).count();
        assert_eq!(taken as u64, NUMBER_BLOCK - NUMBER_LOW);
        assert!(numbers.take().is_some());
    }

    #[test]
    fn the_end_of_numbers_is_silence_and_no_overflow() {
        let mut numbers = Numbers::new(u64::MAX - 1);
        let upto = numbers.wants().unwrap();
        numbers.handle_reserved(upto);
        assert_eq!(numbers.take(), Some(u64::MAX - 1));
        assert_eq!(numbers.take(), None);
        assert_eq!(numbers.wants(), None);
    }

    #[test]
    fn a_new_block_begins_at_the_wall_clock() {
        let mut numbers = Numbers::new(5);
        numbers.saw_wall(1_000_000);
        let upto = numbers.wants().unwrap();
        numbers.handle_reserved(upto);
        assert_eq!(numbers.take(), Some(1_000_000 << 16));
    }

    #[test]
    fn an_unconfirmed_number_locks_nobody_out() {
        let now = origin();
        let mut seen = SeenNumbers::default();
        seen.note_init(u64::MAX, now);
        assert!(seen.is_replay(5, None, now));
        assert!(!seen.is_replay(5, None, now + UNCONFIRMED));
    }

    #[test]
    fn a_confirmed_number_is_forgotten_an_hour_after_the_last_contact() {
        let now = origin();
        let mut seen = SeenNumbers::default();
        seen.confirm(10);
        assert!(seen.is_replay(10, Some(now), now + NUMBER_MEMORY - Duration::from_secs(1)));
        assert!(!seen.is_replay(11, Some(now), now));
        assert!(!seen.is_replay(3, Some(now), now + NUMBER_MEMORY));
    }
}
