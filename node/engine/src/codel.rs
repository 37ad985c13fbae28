//! Says when a queue that is not ours has to hear of congestion: CoDel (RFC 8289), by estimate.
//!
//! What leaves by a slow line waits in the kernel's queue for it, behind the data socket. A TCP inside the tunnel does not
//! feel that its queue is local, as one on the bare line does, and fills it: on a line of 100 Mbit/s with room for 50 ms the
//! round trip was 45 ms where it is 10 without the tunnel. The kernel says how much waits, and how fast that gets less says how
//! long it waits. CoDel then says which packets bring the news.

use std::time::{Duration, Instant};

/// A queue that stays longer than this is none that absorbs bursts (RFC 8289 section 4.4).
const TARGET: Duration = Duration::from_millis(5);
/// A round trip of the slowest usual kind (section 4.3).
const INTERVAL: Duration = Duration::from_millis(100);
/// What any line may hold without being congested: two full packets and what the kernel needs for them.
const LITTLE: usize = 8 * 1024;
/// The rate is measured over so long a time at least.
const MEASURE: Duration = Duration::from_millis(4);

/// The queue behind a socket.
#[derive(Debug, Default)]
pub struct Queue {
    rate: Rate,
    codel: Codel,
}

impl Queue {
    /// So many bytes wait in the kernel.
    pub fn handle_length(&mut self, bytes: usize, now: Instant) {
        self.rate.measure(bytes, now);
        let sojourn = if bytes <= LITTLE { Duration::ZERO } else { self.rate.time_for(bytes) };
        self.codel.note(sojourn, now);
    }

    /// So many wait after some were added.
    pub fn handle_added(&mut self, bytes: usize) {
        self.rate.begin(bytes);
    }

    /// Whether the next packet is one that has to tell its sender. To be asked for each.
    pub fn takes_one(&mut self, now: Instant) -> bool {
        self.codel.takes_one(now)
    }
}

/// How fast the line is, while there is something to send.
#[derive(Debug, Default)]
struct Rate {
    bytes_per_second: Option<f64>,
    /// What has left since then.
    since: Option<Instant>,
    left: usize,
    waiting: usize,
}

impl Rate {
    fn begin(&mut self, bytes: usize) {
        self.waiting = bytes;
    }

    fn measure(&mut self, bytes: usize, now: Instant) {
        if bytes == 0 || self.waiting == 0 {
            // The line had nothing to do for a while, nobody knows how long.
            (self.since, self.left, self.waiting) = (Some(now), 0, bytes);
            return;
        }
        self.left += self.waiting.saturating_sub(bytes);
        self.waiting = bytes;
        let since = *self.since.get_or_insert(now);
        let took = now.saturating_duration_since(since);
        if took >= MEASURE {
            let measured = self.left as f64 / took.as_secs_f64();
            self.bytes_per_second = Some(self.bytes_per_second.map_or(measured, |rate| (3.0 * rate + measured) / 4.0));
            (self.since, self.left) = (Some(now), 0);
        }
    }

    /// How long so many bytes take to leave; nothing as long as nobody knows.
    fn time_for(&self, bytes: usize) -> Duration {
        match self.bytes_per_second {
            Some(rate) if rate >= 1.0 => Duration::from_secs_f64((bytes as f64 / rate).min(60.0)),
            Some(_) | None => Duration::ZERO,
        }
    }
}

/// The state machine of RFC 8289 section 5.
#[derive(Debug, Default)]
struct Codel {
    /// Since when the queue was too long, and an interval more.
    first_above: Option<Instant>,
    is_above: bool,
    next: Option<Instant>,
    count: u32,
    last_count: u32,
}

impl Codel {
    fn note(&mut self, sojourn: Duration, now: Instant) {
        if sojourn < TARGET {
            (self.first_above, self.is_above) = (None, false);
            return;
        }
        let due = *self.first_above.get_or_insert(now + INTERVAL);
        self.is_above = now >= due;
    }

    fn takes_one(&mut self, now: Instant) -> bool {
        let Some(next) = self.next else { return self.is_above && self.begin(now) };
        if !self.is_above {
            self.next = None;
            self.first_above = None;
            // For a while it is remembered how often it took (section 5.5).
            self.last_count = self.count;
            return false;
        }
        if now < next {
            return false;
        }
        self.count += 1;
        self.next = Some(next + self.spacing());
        true
    }

    fn begin(&mut self, now: Instant) -> bool {
        // Soon after, where it left off.
        let lately = self.last_count > 2;
        self.count = if lately { self.last_count - 2 } else { 1 };
        self.last_count = 0;
        self.next = Some(now + self.spacing());
        true
    }

    fn spacing(&self) -> Duration {
        INTERVAL.div_f64(f64::from(self.count.max(1)).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "an origin for virtual time; what it is does not matter")]
    fn origin() -> Instant {
        Instant::now()
    }

    /// A line, one sender that halves its window when it is told, and one look in each millisecond.
    struct Line {
        queue: Queue,
        bytes_per_ms: usize,
        waiting: usize,
        window: f64,
        now: Instant,
        told: Vec<Duration>,
    }

    impl Line {
        fn new(bytes_per_ms: usize) -> Self {
            Self { queue: Queue::default(), bytes_per_ms, waiting: 0, window: 2e6, now: origin(), told: Vec::new() }
        }

        /// Sends for so long, round trips of 10 ms beside the queue. What waited at the end of each millisecond.
        fn run(&mut self, ms: usize) -> Vec<usize> {
            let start = self.now;
            (0..ms)
                .map(|_| {
                    self.now += Duration::from_millis(1);
                    self.waiting = self.waiting.saturating_sub(self.bytes_per_ms);
                    self.queue.handle_length(self.waiting, self.now);
                    if self.queue.takes_one(self.now) {
                        self.told.push(self.now - start);
                        self.window /= 2.0;
                    }
                    let round_trip = 10.0 + self.waiting as f64 / self.bytes_per_ms as f64;
                    self.window += 1500.0 / round_trip;
                    let in_flight = self.window.max(3000.0) as usize;
                    self.waiting = self.waiting.max(in_flight.saturating_sub(10 * self.bytes_per_ms));
                    self.queue.handle_added(self.waiting);
                    self.waiting
                })
                .collect()
        }
    }

    #[test]
    fn a_sender_that_listens_keeps_the_queue_short() {
        let mut line = Line::new(12_500);
        let begin = line.run(50);
        assert!(begin.iter().all(|waiting| *waiting > 1_000_000), "{begin:?}");
        line.run(1000);
        let later = line.run(5000);
        let mean = later.iter().sum::<usize>() / later.len();
        assert!(mean < 10 * 12_500, "{mean} bytes wait on average");
    }

    #[test]
    fn a_short_burst_is_nobodys_fault() {
        let mut queue = Queue::default();
        let start = origin();
        for burst in 0..50 {
            for ms in 0..90u64 {
                let now = start + Duration::from_millis(burst * 100 + ms);
                queue.handle_length(100_000usize.saturating_sub(1000 * ms as usize), now);
                assert!(!queue.takes_one(now));
                queue.handle_added(100_000usize.saturating_sub(1000 * ms as usize));
            }
            queue.handle_length(0, start + Duration::from_millis(burst * 100 + 95));
        }
    }

    #[test]
    fn whoever_does_not_listen_is_told_more_and_more_often() {
        // As the square root of the count has it: 100, 71, 58 ms apart.
        let mut codel = Codel::default();
        let start = origin();
        let mut told = Vec::new();
        for ms in 0..1000u64 {
            let now = start + Duration::from_millis(ms);
            codel.note(Duration::from_millis(20), now);
            if codel.takes_one(now) {
                told.push(ms);
            }
        }
        assert_eq!(told[..5], [100, 200, 271, 329, 379]);
    }

    #[test]
    fn a_line_of_unknown_speed_and_two_packets_are_not_congested() {
        let mut queue = Queue::default();
        let start = origin();
        for ms in 0..1000 {
            let now = start + Duration::from_millis(ms);
            queue.handle_length(LITTLE, now);
            assert!(!queue.takes_one(now));
            queue.handle_added(LITTLE);
        }
        let mut queue = Queue::default();
        queue.handle_length(1 << 20, start);
        assert!(!queue.takes_one(start));
    }
}
