//! A line between an edge and the core, in one direction: when a datagram arrives, how often, or why not.
//!
//! A pure state machine: the time, the length and the randomness are arguments. A datagram meets, in this order: an outage, the
//! longest length that passes, the bounded queue before the rate, loss in bursts, and then delay, jitter, reordering, duplication.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::{Rng, RngExt};

/// One in a million.
const MILLION: u32 = 1_000_000;

/// What a stream sends at once.
const SEGMENT: usize = 1200;
/// How long a stream waits before it sends again, at first and at most (RFC 9002 and RFC 6298, in outline).
const LEAST_PAUSE: Duration = Duration::from_millis(200);
const MOST_PAUSE: Duration = Duration::from_secs(2);
/// A stream that does not come through for so long is given up.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Loss in bursts (Gilbert and Elliott): a line that is good or bad, and what it loses in each. All in parts per million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// That a good line turns bad, at each datagram.
    pub worsens: u32,
    /// That a bad line turns good, at each datagram.
    pub recovers: u32,
    /// That a good line loses a datagram.
    pub when_good: u32,
    /// That a bad line loses a datagram.
    pub when_bad: u32,
}

impl Loss {
    /// None.
    pub const NONE: Self = Self { worsens: 0, recovers: MILLION, when_good: 0, when_bad: 0 };

    /// Each datagram alone.
    pub const fn independent(chance: u32) -> Self {
        Self { worsens: 0, recovers: MILLION, when_good: chance, when_bad: chance }
    }

    /// This share in the long run, in bursts that are so many datagrams long on average. A share of a million or more, or a length
    /// of zero, counts as the nearest that makes sense.
    pub fn bursts(share: u32, length: u32) -> Self {
        let (share, recovers) = (share.min(MILLION - 1), MILLION / length.max(1));
        // In the long run a line is bad for worsens / (worsens + recovers) of the time.
        let worsens = u64::from(recovers) * u64::from(share) / u64::from(MILLION - share);
        let worsens = u32::try_from(worsens).unwrap_or(MILLION).min(MILLION);
        Self { worsens, recovers, when_good: 0, when_bad: MILLION }
    }
}

/// How a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Nothing passes.
    pub down: bool,
    /// One way.
    pub delay: Duration,
    /// Up to so much more.
    pub jitter: Duration,
    /// What it loses.
    pub loss: Loss,
    /// That a datagram is held back by three times delay and jitter, in parts per million.
    pub reorder: u32,
    /// That a datagram arrives twice, in parts per million.
    pub duplicate: u32,
    /// Bits per second; none is without limit.
    pub rate: Option<u64>,
    /// Octets that may wait for the rate.
    pub queue: usize,
    /// Octets of the longest datagram that passes; longer ones vanish without a word.
    pub longest: usize,
}

impl Line {
    /// Ten milliseconds, and nothing goes wrong.
    pub const GOOD: Self = Self {
        down: false,
        delay: Duration::from_millis(10),
        jitter: Duration::ZERO,
        loss: Loss::NONE,
        reorder: 0,
        duplicate: 0,
        rate: None,
        queue: 256 * 1024,
        longest: 1500,
    };
}

/// What becomes of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives.
    Arrives(Arrivals),
    /// It does not.
    Dropped(Cause),
}

/// When a datagram arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrivals {
    /// For the first time.
    pub first: Duration,
    /// Once more.
    pub again: Option<Duration>,
}

impl Arrivals {
    /// Once or twice.
    pub fn iter(self) -> impl Iterator<Item = Duration> {
        std::iter::once(self.first).chain(self.again)
    }
}

/// Why a datagram does not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The line is down.
    Down,
    /// It is longer than what passes.
    TooLong,
    /// The queue is full.
    QueueFull,
    /// It was lost.
    Lost,
}

/// One direction of a line.
#[derive(Clone, Debug)]
pub struct Link {
    line: Line,
    /// What it becomes, and when.
    schedule: BTreeMap<Duration, Line>,
    bad: bool,
    /// When what waits has left.
    free: Duration,
    /// The latest arrival of what keeps its order.
    latest: Duration,
}

impl Link {
    /// A line that is idle.
    pub fn new(line: Line) -> Self {
        Self { line, schedule: BTreeMap::new(), bad: false, free: Duration::ZERO, latest: Duration::ZERO }
    }

    /// From then on the line is another. What is under way is not touched.
    pub fn change(&mut self, at: Duration, line: Line) {
        self.schedule.insert(at, line);
    }

    /// Down from then on, for so long; after that it is as it would have been.
    pub fn outage(&mut self, from: Duration, time: Duration) {
        let end = from.saturating_add(time);
        let after = self.line_at(end);
        self.change(from, Line { down: true, ..self.line_at(from) });
        for (_, line) in self.schedule.range_mut(from..end) {
            line.down = true;
        }
        self.schedule.entry(end).or_insert(after);
    }

    /// The line becomes what was scheduled.
    fn settle(&mut self, now: Duration) {
        while self.schedule.first_key_value().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, line)) = self.schedule.pop_first() {
                self.line = line;
            }
        }
    }

    fn line_at(&self, at: Duration) -> Line {
        self.schedule.range(..=at).next_back().map_or(self.line, |(_, line)| *line)
    }

    /// Octets that wait for the rate.
    pub fn waiting(&self, now: Duration) -> usize {
        let Some(rate) = self.line.rate else { return 0 };
        let octets = self.free.saturating_sub(now).as_nanos() * u128::from(rate) / 8_000_000_000;
        usize::try_from(octets).unwrap_or(usize::MAX)
    }

    /// The fate of a datagram of so many octets that is sent now. Times never go back from call to call.
    pub fn send(&mut self, now: Duration, octets: usize, rng: &mut impl Rng) -> Fate {
        self.settle(now);
        if self.line.down {
            return Fate::Dropped(Cause::Down);
        }
        if octets > self.line.longest {
            return Fate::Dropped(Cause::TooLong);
        }
        let Some(left) = self.depart(now, octets) else { return Fate::Dropped(Cause::QueueFull) };
        if self.loses(rng) {
            return Fate::Dropped(Cause::Lost);
        }
        let mut arrival = left + self.line.delay + self.jitter(rng);
        if happens(self.line.reorder, rng) {
            arrival += (self.line.delay + self.line.jitter) * 3;
        } else {
            arrival = arrival.max(self.latest);
            self.latest = arrival;
        }
        let again = happens(self.line.duplicate, rng).then(|| arrival + self.jitter(rng));
        Fate::Arrives(Arrivals { first: arrival, again })
    }

    /// When so many octets of a stream, which is sent again where it is lost, have arrived; nothing while the line is down, or if
    /// they have not come through after [`PATIENCE`]. Times never go back from call to call.
    pub fn stream(&mut self, now: Duration, octets: usize, rng: &mut impl Rng) -> Option<Duration> {
        self.settle(now);
        if self.line.down {
            return None;
        }
        let mut pause = LEAST_PAUSE.max((self.line.delay + self.line.jitter) * 2);
        let mut arrival = now;
        for segment in 0..=octets / SEGMENT {
            let mut left = self.depart(now, SEGMENT.min(octets.saturating_sub(segment * SEGMENT)));
            while left.is_none() || self.loses(rng) {
                // Whatever was sent meanwhile is not counted against the rate twice.
                left = Some(left.unwrap_or(self.free).max(now) + pause);
                pause = (pause * 2).min(MOST_PAUSE);
                if left.is_some_and(|left| left > now + PATIENCE) {
                    return None;
                }
            }
            arrival = arrival.max(left.unwrap_or(now));
        }
        Some(arrival + self.line.delay + self.jitter(rng))
    }

    /// When the last bit has left, unless there is no room to wait.
    fn depart(&mut self, now: Duration, octets: usize) -> Option<Duration> {
        let Some(rate) = self.line.rate else { return Some(now) };
        if self.waiting(now).saturating_add(octets) > self.line.queue {
            return None;
        }
        let bits = u64::try_from(octets).unwrap_or(u64::MAX).saturating_mul(8);
        let time = u128::from(bits) * 1_000_000_000 / u128::from(rate.max(1));
        self.free = self.free.max(now).saturating_add(Duration::from_nanos(u64::try_from(time).unwrap_or(u64::MAX)));
        Some(self.free)
    }

    fn loses(&mut self, rng: &mut impl Rng) -> bool {
        let loss = self.line.loss;
        self.bad = if self.bad { !happens(loss.recovers, rng) } else { happens(loss.worsens, rng) };
        happens(if self.bad { loss.when_bad } else { loss.when_good }, rng)
    }

    fn jitter(&self, rng: &mut impl Rng) -> Duration {
        let most = u64::try_from(self.line.jitter.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(rng.random_range(0..=most))
    }
}

fn happens(chance: u32, rng: &mut impl Rng) -> bool {
    chance > 0 && rng.random_range(0..MILLION) < chance
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn rng(seed: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(seed)
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn once(first: Duration) -> Fate {
        Fate::Arrives(Arrivals { first, again: None })
    }

    #[test]
    fn a_good_line_takes_its_delay() {
        let mut link = Link::new(Line::GOOD);
        assert_eq!(link.send(ms(5), 1500, &mut rng(1)), once(ms(15)));
    }

    #[test]
    fn what_is_too_long_vanishes() {
        let mut link = Link::new(Line { longest: 1300, ..Line::GOOD });
        assert_eq!(link.send(ms(0), 1301, &mut rng(1)), Fate::Dropped(Cause::TooLong));
        assert_eq!(link.send(ms(0), 1300, &mut rng(1)), once(ms(10)));
    }

    #[test]
    fn the_rate_spaces_datagrams_and_the_queue_is_bounded() {
        // A thousand octets take a millisecond.
        let mut link = Link::new(Line { rate: Some(8_000_000), queue: 3000, ..Line::GOOD });
        let mut rng = rng(1);
        for n in 1..=3 {
            assert_eq!(link.send(ms(0), 1000, &mut rng), once(ms(10 + n)));
        }
        assert_eq!(link.waiting(ms(0)), 3000);
        assert_eq!(link.send(ms(0), 1, &mut rng), Fate::Dropped(Cause::QueueFull));
        assert_eq!(link.send(ms(1), 1000, &mut rng), once(ms(14)));
    }

    #[test]
    fn an_outage_has_a_beginning_and_an_end_and_what_was_scheduled_stays() {
        let mut link = Link::new(Line::GOOD);
        link.change(ms(150), Line { delay: ms(50), ..Line::GOOD });
        link.outage(ms(100), ms(100));
        let mut rng = rng(1);
        assert_eq!(link.send(ms(99), 9, &mut rng), once(ms(109)));
        assert_eq!(link.send(ms(100), 9, &mut rng), Fate::Dropped(Cause::Down));
        assert_eq!(link.send(ms(199), 9, &mut rng), Fate::Dropped(Cause::Down));
        assert_eq!(link.send(ms(200), 9, &mut rng), once(ms(250)));
    }

    #[test]
    fn a_stream_comes_late_where_a_datagram_is_lost_and_not_while_the_line_is_down() {
        let lossy = Line { loss: Loss::independent(200_000), rate: Some(8_000_000), ..Line::GOOD };
        let mut link = Link::new(lossy);
        link.outage(ms(2_000_000), ms(1000));
        let mut rng = rng(5);
        let mut late = 0;
        for n in 0..1000 {
            let now = ms(n * 1000);
            let after = link.stream(now, 1000, &mut rng).expect("so often nothing is lost in a row") - now;
            assert!(after >= ms(11), "{after:?}");
            late += u32::from(after >= ms(200));
        }
        assert!((160..240).contains(&late), "{late}");
        assert_eq!(link.stream(ms(2_000_500), 9, &mut rng), None);
        let mut link = Link::new(Line { loss: Loss::NONE, ..lossy });
        assert_eq!(link.stream(ms(0), 2400, &mut rng), Some(ms(10) + Duration::from_micros(2400)));
    }

    #[test]
    fn loss_is_as_much_as_was_asked_for_and_in_bursts() {
        for (share, length) in [(10_000, 1), (50_000, 6), (250_000, 6), (250_000, 40)] {
            let mut link = Link::new(Line { loss: Loss::bursts(share, length), ..Line::GOOD });
            let mut rng = rng(u64::from(share + length));
            let total = 400_000_u32;
            let (mut lost, mut bursts, mut before) = (0_u32, 0_u32, false);
            for _ in 0..total {
                let now = link.send(ms(0), 100, &mut rng) == Fate::Dropped(Cause::Lost);
                lost += u32::from(now);
                bursts += u32::from(now && !before);
                before = now;
            }
            let found = f64::from(lost) / f64::from(total) * 1e6;
            assert!((found / f64::from(share) - 1.0).abs() < 0.15, "{share} {length}: {found}");
            let mean = f64::from(lost) / f64::from(bursts);
            assert!((mean / f64::from(length) - 1.0).abs() < 0.15, "{share} {length}: {mean}");
        }
    }

    #[test]
    fn for_many_lines_order_rate_and_queue_are_kept() {
        for seed in 0..200 {
            let mut rng = rng(seed);
            let rate = rng.random_range(64_000..10_000_000);
            let queue = rng.random_range(1500..20_000);
            let line = Line { jitter: ms(rng.random_range(0..80)), rate: Some(rate), queue, ..Line::GOOD };
            let mut link = Link::new(line);
            let (mut now, mut last, mut octets) = (ms(0), ms(0), 0_u64);
            for _ in 0..500 {
                now += Duration::from_micros(rng.random_range(0..3000));
                let size = rng.random_range(1..1500);
                if let Fate::Arrives(at) = link.send(now, size, &mut rng) {
                    assert!(at.first >= last && at.first >= now + line.delay, "seed {seed}");
                    last = at.first;
                    octets += size as u64;
                }
                assert!(link.waiting(now) <= queue, "seed {seed}");
            }
            let could = link.free.as_secs_f64() * rate as f64 / 8.0;
            assert!(octets as f64 <= could + 1.0, "seed {seed}: {octets} of {could}");
        }
    }

    #[test]
    fn reordering_and_doubling_happen_where_they_are_asked_for() {
        let mut link = Link::new(Line { reorder: 250_000, duplicate: 100_000, ..Line::GOOD });
        let mut rng = rng(3);
        let (mut late, mut twice) = (0, 0);
        for n in 0..10_000 {
            let Fate::Arrives(at) = link.send(ms(n), 100, &mut rng) else { panic!("lost") };
            late += u32::from(at.first > ms(n + 10));
            twice += u32::from(at.again.is_some());
        }
        assert!((2300..2700).contains(&late) && (900..1100).contains(&twice), "{late} {twice}");
    }
}
