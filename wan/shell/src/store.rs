//! Memory for frames that are under way: used again as they leave, and never copied inside.
//!
//! Chunks that are filled from their start; one whose last frame has left is the next to be filled, so that what is touched
//! stays as small as what is under way.

use tap::MAX_FRAME;

/// Octets of a chunk: a sixteenth is lost to frames that do not fit at its end.
const CHUNK: usize = 1 << 20;

/// Where a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    chunk: usize,
    start: usize,
    length: usize,
}

struct Chunk {
    bytes: Vec<u8>,
    /// Octets from the start that are taken.
    filled: usize,
    /// Who still needs something in it.
    uses: usize,
}

/// Frames under way, up to a limit.
pub(crate) struct Store {
    chunks: Vec<Chunk>,
    free: Vec<usize>,
    current: usize,
    limit: usize,
}

impl Store {
    /// At least one chunk, and at most so many octets.
    pub(crate) fn new(limit: usize) -> Self {
        Self { chunks: vec![Chunk::new()], free: Vec::new(), current: 0, limit }
    }

    /// Room for one frame of any length; nothing if that would be more than the limit.
    pub(crate) fn room(&mut self) -> Option<&mut [u8]> {
        if self.chunks[self.current].filled + MAX_FRAME > CHUNK {
            if self.free.is_empty() {
                if (self.chunks.len() + 1) * CHUNK > self.limit {
                    return None;
                }
                self.free.push(self.chunks.len());
                self.chunks.push(Chunk::new());
            }
            self.current = self.free.pop()?;
        }
        let chunk = &mut self.chunks[self.current];
        Some(&mut chunk.bytes[chunk.filled..chunk.filled + MAX_FRAME])
    }

    /// Keeps the first octets of the room, once for each use.
    pub(crate) fn keep(&mut self, length: usize, uses: usize) -> Place {
        let chunk = &mut self.chunks[self.current];
        let place = Place { chunk: self.current, start: chunk.filled, length };
        chunk.filled += length;
        chunk.uses += uses;
        place
    }

    /// A frame that is kept.
    pub(crate) fn frame(&self, place: Place) -> &[u8] {
        &self.chunks[place.chunk].bytes[place.start..place.start + place.length]
    }

    /// One use less.
    pub(crate) fn release(&mut self, place: Place) {
        let chunk = &mut self.chunks[place.chunk];
        chunk.uses = chunk.uses.saturating_sub(1);
        if chunk.uses > 0 {
            return;
        }
        chunk.filled = 0;
        if place.chunk != self.current {
            self.free.push(place.chunk);
        }
    }
}

impl Chunk {
    fn new() -> Self {
        Self { bytes: vec![0; CHUNK], filled: 0, uses: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(store: &mut Store, byte: u8, length: usize) -> Option<Place> {
        store.room()?[..length].fill(byte);
        Some(store.keep(length, 1))
    }

    #[test]
    fn what_is_kept_stays_and_memory_is_used_again() {
        let mut store = Store::new(3 * CHUNK);
        let mut under_way = std::collections::VecDeque::new();
        for n in 0..10_000_usize {
            let (byte, length) = ((n % 251) as u8, 60 + n * 997 % 60_000);
            under_way.push_back((byte, keep(&mut store, byte, length).expect("a third of it is under way")));
            if under_way.len() > 10 {
                let (byte, place) = under_way.pop_front().expect("there are ten");
                assert!(store.frame(place).iter().all(|found| *found == byte));
                store.release(place);
            }
        }
        assert!(store.chunks.len() <= 3);
        let of_all = |store: &Store| store.chunks.iter().map(|chunk| chunk.uses).sum::<usize>();
        assert_eq!(of_all(&store), 10);
        under_way.drain(..).for_each(|(_, place)| store.release(place));
        assert_eq!(of_all(&store), 0);
    }

    #[test]
    fn the_limit_holds_and_what_leaves_makes_room() {
        let mut store = Store::new(2 * CHUNK);
        let mut all: Vec<Place> = std::iter::from_fn(|| keep(&mut store, 1, MAX_FRAME)).collect();
        assert_eq!(all.len(), 2 * (CHUNK / MAX_FRAME));
        assert!(store.room().is_none());
        // A chunk is free when the last frame in it has left.
        all.drain(..CHUNK / MAX_FRAME).for_each(|place| store.release(place));
        assert!(store.room().is_some());
    }
}
