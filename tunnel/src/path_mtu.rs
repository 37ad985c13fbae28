//! How much a way carries at most: datagram packetization layer path MTU discovery (RFC 8899).
//!
//! No router's word is taken for it, as anybody could forge that, and some say nothing. An echo request is padded to the size in
//! question, and what comes back has passed. A way is taken to carry what both ends do, 1500 octets at most, until large packets are
//! in use and such a trial fails while small ones pass (a black hole, RFC 8899 section 4.4). Then what is sure to pass is used at
//! once, and the largest size that passes is searched for. More than 1500 is used after it has passed.

use std::time::{Duration, Instant};

use crate::limits::{MTU_MEMORY, SIZE_AGAIN, SIZE_EVERY, SIZE_TRIES};

/// Packets of IP that networks are made for, in octets. What lies between two of them is not looked for.
const SIZES: [u16; 20] = [
    576, 1024, 1200, 1280, 1300, 1320, 1340, 1360, 1380, 1400, 1420, 1440, 1460, 1472, 1480, 1492, 1500, 4000, 8000,
    8800,
];
/// Without a trial no way is taken to carry more: ends of 9000 octets are often far apart, with the internet between them.
const USUAL: u16 = 1500;
/// What passes nearly everywhere (RFC 8899 section 5.1.2).
const BASE: u16 = 1200;

/// What is known of one way.
#[derive(Debug, Default)]
pub(crate) struct PathMtu {
    /// What is used; none where it is as much as the ends carry, or the usual.
    used: Option<u16>,
    /// The smallest that has not passed.
    too_big: Option<u16>,
    /// When the last trial ended.
    tried: Option<Instant>,
    /// When more than is used was tried last.
    searched: Option<Instant>,
    trial: Option<Trial>,
}

#[derive(Debug)]
struct Trial {
    size: u16,
    began: Instant,
    due: Instant,
    tries: u8,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask whether packets of so many octets pass.
    Ask(u16),
    /// The same once more, and whether any do.
    AskAgain(u16),
    /// Another size is used from here on.
    Changed,
}

impl PathMtu {
    /// The largest packet of IP that is sent, in octets, where both ends carry `full`.
    pub(crate) fn used(&self, full: u16) -> u16 {
        self.used.unwrap_or(USUAL).min(full)
    }

    /// Large packets are in use. `unanswered` says that nothing has come back for them.
    pub(crate) fn check(&mut self, full: u16, unanswered: bool, now: Instant) {
        let pause = if unanswered { SIZE_AGAIN } else { SIZE_EVERY };
        let old = |at: Option<Instant>, age: Duration| at.is_none_or(|at| now.saturating_duration_since(at) >= age);
        if self.trial.is_some() || !old(self.tried, pause) {
            return;
        }
        let more = self.used(full) < full && !unanswered && old(self.searched, MTU_MEMORY);
        if more {
            (self.searched, self.too_big) = (Some(now), None);
        }
        self.begin(if more { full } else { self.used(full) }, now);
    }

    /// When there is something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.trial.as_ref().map(|trial| trial.due)
    }

    /// What there is to do. `answered` is when the way has last answered anything, `retry` how long an answer is waited for.
    pub(crate) fn step(&mut self, full: u16, answered: Option<Instant>, retry: Duration, now: Instant) -> Option<Step> {
        let used = self.used(full);
        let trial = self.trial.as_mut().filter(|trial| trial.due <= now)?;
        let limit = if trial.size == used { SIZE_TRIES } else { SIZE_TRIES - 1 };
        if trial.tries < limit {
            (trial.tries, trial.due) = (trial.tries + 1, now + retry);
            return Some(if trial.tries == 1 { Step::Ask(trial.size) } else { Step::AskAgain(trial.size) });
        }
        let (size, began) = (trial.size, trial.began);
        self.end(now);
        if answered.is_none_or(|at| at < began) {
            // Nothing passes there at all, which is another matter.
            self.tried = None;
            return None;
        }
        self.too_big = Some(self.too_big.map_or(size, |known| known.min(size)));
        if size > used {
            self.search(full, now);
            return self.step(full, answered, retry, now);
        }
        let lower = if used > BASE { BASE } else { SIZES[0] };
        self.used = Some(lower);
        self.searched = Some(now);
        if lower == BASE {
            self.begin(BASE, now)
        } else {
            self.search(full, now)
        }
        Some(Step::Changed)
    }

    /// Packets of this size have passed. True if more is used from here on.
    pub(crate) fn passed(&mut self, size: u16, full: u16, now: Instant) -> bool {
        let used = self.used(full);
        if self.trial.as_ref().is_some_and(|trial| trial.size == size) {
            self.end(now);
        }
        if size > used {
            self.used = (size < full || full > USUAL).then_some(size);
        }
        if size >= full {
            self.too_big = None;
        } else if self.used.is_some() && self.too_big.is_some() && self.trial.is_none() {
            self.search(full, now);
        }
        size > used
    }

    /// Tries what lies in the middle between what passes and what does not.
    fn search(&mut self, full: u16, now: Instant) {
        let (low, high) = (self.used(full), self.too_big.unwrap_or(full));
        let between: Vec<u16> = SIZES.into_iter().filter(|size| low < *size && *size < high).collect();
        if let Some(size) = between.get(between.len() / 2) {
            self.begin(*size, now);
        }
    }

    fn begin(&mut self, size: u16, now: Instant) {
        self.trial = Some(Trial { size, began: now, due: now, tries: 0 });
    }

    fn end(&mut self, now: Instant) {
        self.trial = None;
        self.tried = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::origin;

    const RETRY: Duration = Duration::from_millis(300);

    /// A way that carries `carries`, with large packets in use for `time`. What is used, and for how long nothing passed.
    fn run(way: &mut PathMtu, full: u16, carries: u16, began: Instant, time: Duration) -> (u16, Duration) {
        let (mut now, mut dark) = (began, Duration::ZERO);
        while now < began + time {
            let lost = way.used(full) > carries;
            way.check(full, lost, now);
            while let Some(step) = way.step(full, Some(now), RETRY, now) {
                match step {
                    Step::Ask(size) | Step::AskAgain(size) if size <= carries => {
                        way.passed(size, full, now);
                    }
                    Step::Ask(_) | Step::AskAgain(_) | Step::Changed => {}
                }
            }
            now += Duration::from_millis(50);
            dark += if lost { Duration::from_millis(50) } else { Duration::ZERO };
        }
        (way.used(full), dark)
    }

    #[test]
    fn a_way_that_carries_all_is_asked_once_in_a_while() {
        let mut way = PathMtu::default();
        let mut asked = 0;
        for second in 0..300 {
            let now = origin() + Duration::from_secs(second);
            way.check(1500, false, now);
            while let Some(step) = way.step(1500, Some(now), RETRY, now) {
                assert_eq!(step, Step::Ask(1500));
                asked += 1;
                way.passed(1500, 1500, now);
            }
        }
        assert_eq!((asked, way.used(1500)), (10, 1500));
    }

    #[test]
    fn the_largest_size_that_passes_is_found_and_little_time_is_lost() {
        for carries in [576, 1200, 1279, 1280, 1399, 1420, 1480, 1492, 1499] {
            let mut way = PathMtu::default();
            let (used, dark) = run(&mut way, 1500, carries, origin(), Duration::from_secs(20));
            let best = SIZES.into_iter().filter(|size| *size <= carries).max().unwrap();
            assert_eq!(used, best, "carries {carries}");
            let limit = if carries < BASE { 2000 } else { 1000 };
            assert!(dark <= Duration::from_millis(limit), "carries {carries}: dark for {dark:?}");
        }
    }

    #[test]
    fn a_way_that_carries_more_again_is_used_as_it_was_within_ten_minutes() {
        let mut way = PathMtu::default();
        run(&mut way, 1500, 1300, origin(), Duration::from_secs(60));
        let (used, dark) = run(&mut way, 1500, 1500, origin() + Duration::from_secs(60), Duration::from_secs(660));
        assert_eq!((used, dark), (1500, Duration::ZERO));
        let (used, _) = run(&mut way, 1500, 1300, origin() + Duration::from_secs(800), Duration::from_secs(60));
        assert_eq!(used, 1300);
        let (used, _) = run(&mut way, 1500, 1400, origin() + Duration::from_secs(900), Duration::from_secs(700));
        assert_eq!(used, 1400, "more, but not all");
    }

    #[test]
    fn a_way_on_which_nothing_passes_is_none_of_its_business() {
        let mut way = PathMtu::default();
        let (mut now, mut asked) = (origin(), 0);
        for _ in 0..100 {
            way.check(1500, true, now);
            while let Some(step) = way.step(1500, None, RETRY, now) {
                assert_ne!(step, Step::Changed);
                asked += 1;
            }
            now += Duration::from_millis(100);
        }
        assert_eq!(way.used(1500), 1500);
        assert!(asked < 40, "{asked}");
    }

    #[test]
    fn more_than_usual_is_used_once_it_has_passed() {
        for carries in [9000, 8896, 4470, 1500] {
            let mut way = PathMtu::default();
            assert_eq!(way.used(9000), 1500);
            let (used, dark) = run(&mut way, 9000, carries, origin(), Duration::from_secs(20));
            let best = SIZES.into_iter().chain([9000]).filter(|size| *size <= carries).max().unwrap();
            assert_eq!((used, dark), (best, Duration::ZERO), "carries {carries}");
        }
        let mut way = PathMtu::default();
        run(&mut way, 9000, 9000, origin(), Duration::from_secs(60));
        let (used, dark) = run(&mut way, 9000, 1500, origin() + Duration::from_secs(60), Duration::from_secs(60));
        assert_eq!(used, 1500);
        assert!(dark <= Duration::from_secs(1), "{dark:?}");
    }

    #[test]
    fn ends_that_carry_less_than_before_are_heeded() {
        let mut way = PathMtu::default();
        run(&mut way, 9000, 1500, origin(), Duration::from_secs(20));
        assert_eq!((way.used(9000), way.used(1400)), (1500, 1400));
    }
}
