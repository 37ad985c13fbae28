//! Payloads that wait for a session.

use std::collections::VecDeque;
use std::time::Instant;

use crate::drops::{DropReason, Drops};
use crate::event::Kind;
use crate::limits::{QUEUE_BYTES, QUEUE_LEN, QUEUE_LIFE};

/// Few, small together, and not for long.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

pub(crate) struct Waiting {
    pub(crate) kind: Kind,
    pub(crate) payload: Vec<u8>,
    since: Instant,
}

impl Queue {
    /// Appends a payload. A full queue drops its oldest: the newest is the one somebody still waits for.
    pub(crate) fn push(&mut self, kind: Kind, payload: &[u8], drops: &mut Drops, now: Instant) {
        while self.waiting.len() >= QUEUE_LEN || self.bytes + payload.len() > QUEUE_BYTES {
            if self.pop().is_none() {
                break;
            }
            drops.count(DropReason::QueueFull);
        }
        self.bytes += payload.len();
        self.waiting.push_back(Waiting { kind, payload: payload.to_vec(), since: now });
    }

    /// Appends what has been sent already: when there is no more room for it, nothing is lost.
    pub(crate) fn push_copy(&mut self, kind: Kind, payload: &[u8], now: Instant) {
        if self.waiting.len() < QUEUE_LEN && self.bytes + payload.len() <= QUEUE_BYTES {
            self.bytes += payload.len();
            self.waiting.push_back(Waiting { kind, payload: payload.to_vec(), since: now });
        }
    }

    /// Appends all of another one.
    pub(crate) fn append(&mut self, other: Self, drops: &mut Drops) {
        for Waiting { kind, payload, since } in other.waiting {
            self.push(kind, &payload, drops, since);
        }
    }

    /// The next payload to send: control messages first, because they hold the proof without which the peer
    /// refuses the packets.
    pub(crate) fn pop_for_sending(&mut self) -> Option<Waiting> {
        let at = self.waiting.iter().position(|waiting| waiting.kind == Kind::Control).unwrap_or(0);
        let waiting = self.waiting.remove(at)?;
        self.bytes -= waiting.payload.len();
        Some(waiting)
    }

    /// Puts back what could not be sent after all.
    pub(crate) fn put_back(&mut self, waiting: Waiting) {
        self.bytes += waiting.payload.len();
        self.waiting.push_front(waiting);
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        // A control message put back stands before older packets.
        self.waiting.iter().map(|waiting| waiting.since + QUEUE_LIFE).min()
    }

    pub(crate) fn expire(&mut self, drops: &mut Drops, now: Instant) {
        let before = self.waiting.len();
        self.forget_old(now);
        (self.waiting.len()..before).for_each(|_| drops.count(DropReason::WaitedTooLong));
    }

    /// Forgets old copies.
    pub(crate) fn forget_old(&mut self, now: Instant) {
        self.waiting.retain(|waiting| now < waiting.since + QUEUE_LIFE);
        self.bytes = self.waiting.iter().map(|waiting| waiting.payload.len()).sum();
    }

    pub(crate) fn clear(&mut self, reason: DropReason, drops: &mut Drops) {
        while self.pop().is_some() {
            drops.count(reason);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.waiting.pop_front()?;
        self.bytes -= waiting.payload.len();
        Some(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::origin;

    #[test]
    fn a_full_queue_drops_its_oldest_and_counts_it() {
        let (mut queue, mut drops) = (Queue::default(), Drops::default());
        for n in 0..10 {
            queue.push(Kind::Packet, &[n], &mut drops, origin());
        }
        assert_eq!(queue.pop_for_sending().unwrap().payload, [2]);
        queue.push(Kind::Packet, &vec![0; QUEUE_BYTES - 2], &mut drops, origin());
        assert!(queue.bytes <= QUEUE_BYTES);
        assert_eq!(drops.as_map()[&DropReason::QueueFull], 2 + 5);
    }

    #[test]
    fn control_messages_overtake_packets() {
        let (mut queue, mut drops) = (Queue::default(), Drops::default());
        queue.push(Kind::Packet, &[1], &mut drops, origin());
        queue.push(Kind::Control, &[16], &mut drops, origin());
        queue.push(Kind::Packet, &[2], &mut drops, origin());
        let order: Vec<_> = std::iter::from_fn(|| queue.pop_for_sending()).map(|w| w.payload[0]).collect();
        assert_eq!(order, [16, 1, 2]);
    }

    #[test]
    fn nothing_waits_longer_than_three_seconds() {
        let (mut queue, mut drops) = (Queue::default(), Drops::default());
        queue.push(Kind::Packet, &[1], &mut drops, origin());
        queue.push(Kind::Packet, &[2], &mut drops, origin() + QUEUE_LIFE / 2);
        assert_eq!(queue.deadline(), Some(origin() + QUEUE_LIFE));
        queue.expire(&mut drops, origin() + QUEUE_LIFE);
        assert_eq!(queue.waiting.len(), 1);
        assert_eq!((queue.bytes, drops.as_map()[&DropReason::WaitedTooLong]), (1, 1));
    }
}
