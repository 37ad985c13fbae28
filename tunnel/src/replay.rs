//! Which counters of a session were seen: a ring of bits, as in RFC 6479.

use crate::limits::WINDOW;

/// One word more than the window, so that the word of the newest counter can be cleared while the whole window
/// behind it stays.
const WORDS: usize = WINDOW as usize / 64 + 1;

/// Why a counter is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Seen,
    TooOld,
}

/// The window over the counters of one session.
pub(crate) struct Window {
    /// One above the newest counter; 0 while none was seen.
    next: u64,
    words: [u64; WORDS],
}

impl Window {
    pub(crate) fn new() -> Self {
        Self { next: 0, words: [0; WORDS] }
    }

    /// Whether `counter` could be taken; asked before the AEAD is paid for.
    pub(crate) fn check(&self, counter: u64) -> Result<(), Refused> {
        if counter >= self.next {
            return Ok(());
        }
        if self.next - counter > WINDOW {
            return Err(Refused::TooOld);
        }
        let (word, bit) = place(counter);
        if self.words[word] & bit != 0 { Err(Refused::Seen) } else { Ok(()) }
    }

    /// Takes `counter`, which was found authentic. True if it is the newest. Another thread may have taken it
    /// since it was checked, so it is checked again.
    pub(crate) fn take(&mut self, counter: u64) -> Result<bool, Refused> {
        // The last counter would leave no room for `next`; sealing is refused long before it.
        if counter == u64::MAX {
            return Err(Refused::TooOld);
        }
        self.check(counter)?;
        let newest = counter >= self.next;
        if newest {
            self.clear_up_to(counter);
            self.next = counter + 1;
        }
        let (word, bit) = place(counter);
        self.words[word] |= bit;
        Ok(newest)
    }

    /// Clears the words that `counter` brings into the ring.
    fn clear_up_to(&mut self, counter: u64) {
        let first = if self.next == 0 { 0 } else { (self.next - 1) / 64 + 1 };
        let last = counter / 64;
        if last.saturating_sub(first) >= WORDS as u64 {
            self.words = [0; WORDS];
            return;
        }
        for word in first..=last {
            self.words[(word % WORDS as u64) as usize] = 0;
        }
    }
}

fn place(counter: u64) -> (usize, u64) {
    (((counter / 64) % WORDS as u64) as usize, 1 << (counter % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Slow and obvious: remembers everything.
    #[derive(Default)]
    struct Model {
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn take(&mut self, counter: u64) -> Result<bool, Refused> {
            let newest = self.seen.last().copied();
            if let Some(newest) = newest
                && counter <= newest
                && newest + 1 - counter > WINDOW
            {
                return Err(Refused::TooOld);
            }
            if !self.seen.insert(counter) {
                return Err(Refused::Seen);
            }
            Ok(newest.is_none_or(|newest| counter > newest))
        }
    }

    fn compare(counters: impl IntoIterator<Item = u64>) {
        let mut window = Window::new();
        let mut model = Model::default();
        for counter in counters {
            let before = window.check(counter).is_ok();
            let got = window.take(counter);
            assert_eq!(before, got.is_ok(), "check and take differ at {counter}");
            assert_eq!(got, model.take(counter), "at {counter}");
        }
    }

    #[test]
    fn the_edges_are_where_they_should_be() {
        let mut window = Window::new();
        assert_eq!(window.take(WINDOW - 1), Ok(true));
        assert_eq!(window.take(0), Ok(false));
        assert_eq!(window.take(0), Err(Refused::Seen));
        assert_eq!(window.take(WINDOW + 1), Ok(true));
        assert_eq!(window.take(1), Err(Refused::TooOld));
        assert_eq!(window.take(2), Ok(false));
        assert_eq!(window.take(u64::MAX), Err(Refused::TooOld));
        assert_eq!(window.take(u64::MAX - 1), Ok(true));
        assert_eq!(window.take(u64::MAX - 1), Err(Refused::Seen));
    }

    #[test]
    fn a_long_run_in_order_is_taken_once_each() {
        compare((0..3 * WINDOW).chain(2 * WINDOW..3 * WINDOW));
    }

    proptest! {
        #[test]
        fn agrees_with_the_model(steps in proptest::collection::vec((0u8..4, 0u64..3 * WINDOW), 1..300)) {
            let mut at = 0u64;
            compare(steps.into_iter().map(|(how, by)| {
                match how {
                    0 => at += by % 3,
                    1 => at = at.saturating_sub(by),
                    2 => at += by,
                    _ => at = (at / 64 + by % 5) * 64,
                }
                at
            }).collect::<Vec<_>>());
        }
    }
}
