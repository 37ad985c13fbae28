//! One direction of a line: frames that were read, what [`wan::Link`] decides about each of their packets, and what is due.
//!
//! Pure: the caller reads frames into [`Direction::room`] and writes those that [`Direction::deliver`] hands out. A super-frame
//! of which nothing is lost stays one; otherwise it is cut around what is.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use bridge::Offload;
use bridge::offload::ETHERNET;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use wan::link::{Cause, Fate};
use wan::{Line, Link};

use crate::counters::Counters;
use crate::piece::{Cut, MAX_HEADERS};
use crate::store::{Place, Store};

/// Packets of one super-frame that arrive within so long arrive together, when the last of them does.
const AT_ONCE: Duration = Duration::from_micros(100);

/// A frame, or some packets of a super-frame, under way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    due: Duration,
    /// What is due at one time leaves as it came.
    number: u64,
    place: Place,
    packets: Packets,
    /// As the kernel said it: in the order of its bytes.
    offload: [u8; Offload::LEN],
}

/// The packets of a super-frame that an entry stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Packets {
    first: usize,
    end: usize,
}

/// Packets that follow each other and arrive together.
#[derive(Clone, Copy, Debug)]
struct Run {
    packets: Packets,
    begins: Duration,
    due: Duration,
}

/// One direction of a line.
pub(crate) struct Direction {
    link: Link,
    rng: ChaCha8Rng,
    store: Store,
    due: BinaryHeap<Reverse<Entry>>,
    number: u64,
    /// Those of the frame that is being decided about; kept so that no frame needs memory of its own.
    runs: Vec<Run>,
    counters: Counters,
}

impl Direction {
    /// A line on which nothing is under way. At most `limit` octets ever are.
    pub(crate) fn new(line: Line, seed: u64, limit: usize) -> Self {
        Self {
            link: Link::new(line),
            rng: ChaCha8Rng::seed_from_u64(seed),
            store: Store::new(limit),
            due: BinaryHeap::new(),
            number: 0,
            runs: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// From then on the line is another. What is under way is not touched.
    pub(crate) fn change(&mut self, at: Duration, line: Line) {
        self.link.change(at, line);
    }

    /// Down from then on, for so long.
    pub(crate) fn outage(&mut self, from: Duration, time: Duration) {
        self.link.outage(from, time);
    }

    /// What happened so far.
    pub(crate) fn counters(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// Where the next frame goes, of any length; nothing if too much is under way.
    pub(crate) fn room(&mut self) -> Option<&mut [u8]> {
        self.store.room()
    }

    /// There was no room for a frame, which is gone.
    pub(crate) fn overflow(&mut self) {
        self.counters.frames += 1;
        self.counters.no_memory += 1;
    }

    /// The room holds a frame of so many octets. Times never go back from call to call.
    pub(crate) fn accept(&mut self, now: Duration, length: usize, offload: Offload) {
        self.counters.frames += 1;
        let frame = self.store.room().map_or(&[][..], |room| &room[..length]);
        let cut = Cut::of(frame, offload);
        let packets = cut.map_or(1, |cut| cut.packets());
        self.runs.clear();
        for number in 0..packets {
            let octets = cut.map_or_else(|| alone(length, offload), |cut| cut.octets(number));
            self.decide(now, number, octets);
        }
        if self.runs.is_empty() {
            return;
        }
        let is_whole = matches!(self.runs[..], [run] if run.packets == Packets { first: 0, end: packets });
        self.counters.cut += u64::from(!is_whole);
        let place = self.store.keep(length, self.runs.len());
        let offload = offload.emit();
        for run in self.runs.drain(..) {
            self.number += 1;
            let entry = Entry { due: run.due, number: self.number, place, packets: run.packets, offload };
            self.due.push(Reverse(entry));
        }
    }

    /// What becomes of one packet, and whether it stays with the one before it.
    fn decide(&mut self, now: Duration, number: usize, octets: usize) {
        self.counters.packets += 1;
        let arrivals = match self.link.send(now, octets, &mut self.rng) {
            Fate::Arrives(arrivals) => arrivals,
            Fate::Dropped(cause) => return self.count(cause),
        };
        let due = arrivals.first;
        let packets = Packets { first: number, end: number + 1 };
        let last = self.runs.last_mut();
        match last.filter(|run| run.packets.end == number && due >= run.due && due - run.begins <= AT_ONCE) {
            Some(run) => (run.packets.end, run.due) = (number + 1, due),
            None => self.runs.push(Run { packets, begins: due, due }),
        }
        if let Some(due) = arrivals.again {
            self.counters.doubled += 1;
            // Before the run that may go on.
            let before = self.runs.len().saturating_sub(1);
            self.runs.insert(before, Run { packets, begins: due, due });
        }
    }

    fn count(&mut self, cause: Cause) {
        let counters = &mut self.counters;
        let counter = match cause {
            Cause::Down => &mut counters.down,
            Cause::TooLong => &mut counters.too_long,
            Cause::QueueFull => &mut counters.queue_full,
            Cause::Lost => &mut counters.lost,
        };
        *counter += 1;
    }

    /// Packets that have not arrived yet.
    pub(crate) fn under_way(&self) -> u64 {
        let packets = self.due.iter().map(|entry| entry.0.packets.end - entry.0.packets.first).sum::<usize>();
        u64::try_from(packets).unwrap_or(u64::MAX)
    }

    /// When the next frame arrives.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.due.peek().map(|entry| entry.0.due)
    }

    /// Hands out one frame that has arrived by now: what is left to do to it, its headers (and what else is at its start), and the
    /// rest. Whether there was one.
    pub(crate) fn deliver(&mut self, now: Duration, each: impl FnOnce(Offload, &mut [u8], &[u8])) -> bool {
        if self.next().is_none_or(|due| due > now) {
            return false;
        }
        let Some(Reverse(entry)) = self.due.pop() else { return false };
        let late = now.saturating_sub(entry.due);
        self.counters.note_late(late);
        let frame = self.store.frame(entry.place);
        let offload = Offload::parse(&entry.offload).unwrap_or_default();
        let mut headers = [0; MAX_HEADERS];
        let packets = entry.packets.first..entry.packets.end;
        self.counters.delivered += u64::try_from(packets.len()).unwrap_or(u64::MAX);
        match Cut::of(frame, offload).filter(|cut| packets != (0..cut.packets())) {
            Some(cut) => {
                let piece = cut.piece(frame, packets, &mut headers);
                let octets = piece.headers + piece.payload.len();
                self.counters.octets += u64::try_from(octets).unwrap_or(u64::MAX);
                each(piece.offload, &mut headers[..piece.headers], &frame[piece.payload]);
            }
            None => {
                self.counters.octets += u64::try_from(frame.len()).unwrap_or(u64::MAX);
                let (head, rest) = frame.split_at(frame.len().min(MAX_HEADERS));
                let headers = &mut headers[..head.len()];
                headers.copy_from_slice(head);
                each(offload, headers, rest);
            }
        }
        self.store.release(entry.place);
        true
    }
}

/// Octets of the IP packet in a frame that is not cut. A super-frame of a kind that is not known here counts as one of its packets.
fn alone(length: usize, offload: Offload) -> usize {
    let longest = usize::from(offload.hdr_len) + usize::from(offload.gso_size);
    let length = if offload.is_super_frame() { length.min(longest) } else { length };
    length.saturating_sub(ETHERNET)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wan::Loss;

    use super::*;
    use crate::frames::{KINDS, cut_by_bridge, super_frame};

    const MEMORY: usize = 16 << 20;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Puts a frame in, as from a TAP.
    fn send(direction: &mut Direction, now: Duration, (frame, offload): &(Vec<u8>, Offload)) {
        direction.room().expect("there is room")[..frame.len()].copy_from_slice(frame);
        direction.accept(now, frame.len(), *offload);
    }

    /// What comes out by then, with the time that it was due.
    fn receive(direction: &mut Direction, until: Duration) -> Vec<(Duration, Vec<u8>, Offload)> {
        let mut all = Vec::new();
        while let Some(due) = direction.next().filter(|due| *due <= until) {
            direction.deliver(due, |offload, head, rest| all.push((due, [&*head, rest].concat(), offload)));
        }
        all
    }

    #[test]
    fn a_super_frame_of_which_nothing_is_lost_stays_whole() {
        let mut direction = Direction::new(Line::GOOD, 1, MEMORY);
        let frame = super_frame(KINDS[0], 60_000, 1448, 0x18, 3);
        send(&mut direction, ms(5), &frame);
        assert_eq!(receive(&mut direction, ms(14)), []);
        assert_eq!(receive(&mut direction, ms(15)), [(ms(15), frame.0, frame.1)]);
        let counters = direction.counters();
        assert_eq!((counters.frames, counters.packets, counters.delivered, counters.cut), (1, 42, 42, 0));
    }

    #[test]
    fn a_slow_line_spaces_the_packets_of_a_super_frame() {
        // A packet of 1500 octets takes a millisecond.
        let line = Line { rate: Some(12_000_000), ..Line::GOOD };
        let mut direction = Direction::new(line, 1, MEMORY);
        send(&mut direction, ms(0), &super_frame(KINDS[1], 5 * 1472, 1472, 0, 0));
        let times: Vec<Duration> = receive(&mut direction, ms(100)).iter().map(|(due, _, _)| *due).collect();
        assert_eq!(times, [ms(11), ms(12), ms(13), ms(14), ms(15)]);
    }

    #[test]
    fn what_does_not_fit_into_memory_is_counted() {
        let mut direction = Direction::new(Line::GOOD, 1, 1 << 20);
        let frame = super_frame(KINDS[0], 60_000, 1448, 0x18, 3);
        let mut sent = 0;
        while direction.room().is_some() {
            send(&mut direction, ms(0), &frame);
            sent += 1;
        }
        direction.overflow();
        assert_eq!(receive(&mut direction, ms(10)).len(), sent);
        assert!(direction.room().is_some() && direction.counters().no_memory == 1);
    }

    proptest! {
        /// The same as if each packet had been sent alone: the same bytes, at the same times.
        #[test]
        fn super_frames_change_nothing(
            seed in any::<u64>(),
            loss in 0..300_000_u32,
            jitter in 0..3000_u64,
            odd in 0..50_000_u32,
            slow in any::<bool>(),
        ) {
            let line = Line {
                loss: Loss::bursts(loss, 3),
                jitter: Duration::from_micros(jitter),
                reorder: odd,
                duplicate: odd,
                rate: slow.then_some(100_000_000),
                ..Line::GOOD
            };
            let mut direction = Direction::new(line, seed, MEMORY);
            let (mut link, mut rng) = (Link::new(line), ChaCha8Rng::seed_from_u64(seed));
            let mut wanted = Vec::new();
            for number in 0..12_u64 {
                let kind = KINDS[usize::from(number % 3 == 0)];
                let frame = super_frame(kind, 3000 + 4001 * number as usize, 1400 - number as u16, 0x18, 3);
                send(&mut direction, ms(number), &frame);
                for (packet, offload) in cut_by_bridge(&frame.0, frame.1) {
                    if let Fate::Arrives(at) = link.send(ms(number), packet.len() - ETHERNET, &mut rng) {
                        wanted.extend(at.iter().map(|due| (packet.clone(), offload.gso_size, due)));
                    }
                }
            }
            let mut found = Vec::new();
            for (due, frame, offload) in receive(&mut direction, ms(10_000)) {
                found.extend(cut_by_bridge(&frame, offload).into_iter().map(|(packet, said)| (packet, said.gso_size, due)));
            }
            wanted.sort();
            found.sort();
            prop_assert_eq!(wanted.len(), found.len());
            for (wanted, found) in wanted.iter().zip(&found) {
                prop_assert_eq!(&wanted.0, &found.0);
                let late = found.2.checked_sub(wanted.2);
                prop_assert!(late.is_some_and(|late| late <= AT_ONCE), "due {:?}, came {:?}", wanted.2, found.2);
            }
            prop_assert_eq!(direction.under_way(), 0);
        }
    }
}
