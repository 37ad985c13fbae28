//! States as bytes: written and read by one and the same walk, so that the two cannot differ. Replicas that no view tells
//! apart are put in the order of their bytes, so that states which differ only in their names fall together.

use super::state::{Shape, State};

/// One walk over a state's bytes, to write or to read them.
pub(super) trait Bytes {
    fn byte(&mut self, byte: &mut u8);

    fn bytes<const N: usize>(&mut self, bytes: [&mut u8; N]) {
        for byte in bytes {
            self.byte(byte);
        }
    }

    /// One replica's bit of a set.
    fn bit(&mut self, set: &mut u8, replica: usize) {
        let mut bit = *set >> replica & 1;
        self.byte(&mut bit);
        *set = *set & !(1 << replica) | bit << replica;
    }
}

struct Put<'a>(&'a mut Vec<u8>);

impl Bytes for Put<'_> {
    fn byte(&mut self, byte: &mut u8) {
        self.0.push(*byte);
    }
    fn bytes<const N: usize>(&mut self, bytes: [&mut u8; N]) {
        self.0.extend_from_slice(&bytes.map(|byte| *byte));
    }
}

struct Take<'a>(std::slice::Iter<'a, u8>);

impl Bytes for Take<'_> {
    fn byte(&mut self, byte: &mut u8) {
        *byte = self.0.next().copied().unwrap_or_default();
    }
}

/// Packs states, and reads them back.
pub(super) struct Packer {
    shape: Shape,
    /// Replicas in groups whose members no view tells apart.
    groups: Vec<Vec<usize>>,
    columns: Vec<Vec<u8>>,
}

impl Packer {
    pub(super) fn new(shape: Shape, groups: Vec<Vec<usize>>) -> Self {
        Self { shape, groups, columns: vec![Vec::new(); shape.replicas] }
    }

    /// Writes a state in its one form.
    pub(super) fn pack(&mut self, state: &mut State, out: &mut Vec<u8>) {
        out.clear();
        state.header(&self.shape, &mut Put(out));
        for (replica, column) in self.columns.iter_mut().enumerate() {
            column.clear();
            state.column(&self.shape, replica, &mut Put(column));
        }
        for group in &self.groups {
            let mut order = [0; super::state::REPLICAS];
            let order = &mut order[..group.len()];
            order.copy_from_slice(group);
            order.sort_unstable_by(|a, b| self.columns[*a].cmp(&self.columns[*b]));
            for replica in order {
                out.extend_from_slice(&self.columns[*replica]);
            }
        }
    }

    /// Reads one back.
    pub(super) fn unpack(&self, bytes: &[u8]) -> State {
        let mut state = State::default();
        let mut take = Take(bytes.iter());
        state.header(&self.shape, &mut take);
        for replica in self.groups.iter().flatten() {
            state.column(&self.shape, *replica, &mut take);
        }
        state
    }
}

/// A hash of 128 bits. Two states of a hundred million share one with a chance of 10^-22.
pub(super) fn hash(bytes: &[u8]) -> u128 {
    const A: u64 = 0xa076_1d64_78bd_642f;
    const B: u64 = 0xe703_7ed1_a0b4_28db;
    let mix = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        (product >> 64) as u64 ^ product as u64
    };
    let (mut low, mut high) = (A ^ bytes.len() as u64, B);
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        let word = u64::from_le_bytes(word);
        low = mix(low ^ word, B).rotate_left(23) ^ word;
        high = mix(high.wrapping_add(word), A).rotate_left(41).wrapping_add(low);
    }
    u128::from(mix(low ^ high, A)) << 64 | u128::from(mix(high ^ A, low | 1) ^ high)
}

/// The states that were seen, each with the one it was first reached from.
pub(super) struct Seen {
    /// Place in `hashes` plus one, below a part of the hash; 0 for empty.
    table: Vec<u64>,
    hashes: Vec<u128>,
    parents: Vec<u32>,
}

impl Seen {
    pub(super) fn new() -> Self {
        Self { table: vec![0; 1 << 16], hashes: Vec::new(), parents: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.hashes.len()
    }

    /// The number of a state that is new.
    pub(super) fn insert(&mut self, hash: u128, parent: u32) -> Option<u32> {
        if self.hashes.len() * 3 > self.table.len() * 2 {
            self.grow();
        }
        let tag = (hash >> 96) as u64;
        let mask = self.table.len() - 1;
        let mut place = hash as usize & mask;
        loop {
            let entry = self.table[place];
            if entry == 0 {
                break;
            }
            if entry >> 32 == tag && self.hashes[(entry as u32 - 1) as usize] == hash {
                return None;
            }
            place = (place + 1) & mask;
        }
        let number = u32::try_from(self.hashes.len()).ok()?;
        self.table[place] = tag << 32 | u64::from(number + 1);
        self.hashes.push(hash);
        self.parents.push(parent);
        Some(number)
    }

    fn grow(&mut self) {
        let size = self.table.len() * 2;
        self.table = vec![0; size];
        for (number, hash) in self.hashes.iter().enumerate() {
            let mut place = *hash as usize & (size - 1);
            while self.table[place] != 0 {
                place = (place + 1) & (size - 1);
            }
            self.table[place] = ((hash >> 96) as u64) << 32 | (number as u64 + 1);
        }
    }

    /// The hashes on the way to a state, from the second one on.
    pub(super) fn way(&self, mut number: u32) -> Vec<u128> {
        let mut way = Vec::new();
        while number != 0 {
            way.push(self.hashes[number as usize]);
            number = self.parents[number as usize];
        }
        way.reverse();
        way
    }
}
