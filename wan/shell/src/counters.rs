//! What happened to frames and packets in one direction.

use std::time::Duration;

use serde_json::{Value, json};

/// What is still as exact as promised.
const PRECISE: Duration = Duration::from_micros(200);

/// Counts since the start. A frame is what the kernel handed over, a packet what a wire would carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames read; a super-frame is one.
    pub frames: u64,
    /// Packets in them.
    pub packets: u64,
    /// Packets that left at the other end, those that arrived twice twice.
    pub delivered: u64,
    /// Octets of the frames that left.
    pub octets: u64,
    /// Super-frames that did not stay whole.
    pub cut: u64,
    /// Packets lost as the line was asked to.
    pub lost: u64,
    /// Packets that met a line that was down.
    pub down: u64,
    /// Packets longer than what passes.
    pub too_long: u64,
    /// Packets that found the queue before the rate full.
    pub queue_full: u64,
    /// Packets that arrived twice.
    pub doubled: u64,
    /// Frames that found the memory of the line full.
    pub no_memory: u64,
    /// Frames that a translator held up.
    pub refused: u64,
    /// Frames that the kernel dropped before they could be read.
    pub missed: u64,
    /// Frames that the kernel at the other end did not take.
    pub unwritten: u64,
    /// Packets that were under way at the end.
    pub under_way: u64,
    /// How late frames left, at most.
    pub latest: Duration,
    /// How late all of them left, together.
    pub lateness: Duration,
    /// Frames that left more than 200 µs late.
    pub late: u64,
    /// Writes to the other end.
    pub writes: u64,
}

impl Counters {
    /// A frame left so much later than it should have.
    pub(crate) fn note_late(&mut self, late: Duration) {
        self.writes += 1;
        self.latest = self.latest.max(late);
        self.lateness += late;
        self.late += u64::from(late > PRECISE);
    }

    /// Packets that were dropped, for any reason that is known by packets.
    pub fn dropped(&self) -> u64 {
        self.lost + self.down + self.too_long + self.queue_full
    }

    /// All of them, by name; times in microseconds.
    pub fn to_json(&self) -> Value {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        json!({
            "frames": self.frames, "packets": self.packets, "delivered": self.delivered, "octets": self.octets,
            "cut": self.cut, "lost": self.lost, "down": self.down, "too_long": self.too_long,
            "queue_full": self.queue_full, "doubled": self.doubled, "no_memory": self.no_memory,
            "refused": self.refused, "missed": self.missed, "unwritten": self.unwritten,
            "under_way": self.under_way, "late_most_us": micros(self.latest),
            "late_mean_us": micros(self.lateness) / self.writes.max(1), "late_200us": self.late,
            "writes": self.writes,
        })
    }
}
