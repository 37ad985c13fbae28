//! A model of Kademlia's routing tables, as libp2p fills them with the driver's settings.
//!
//! A bucket holds up to [`BUCKET`] of the nodes that share exactly so many leading bits with its owner. libp2p puts in
//! whoever the driver has identified while there is room; refreshing looks up a random key of each bucket every two
//! minutes and so meets more than a bucket takes. The model says: a bucket holds all of its nodes where they are few, and
//! [`BUCKET`] of them, picked at random, where they are many. Names are 64 bits, enough to tell 100,000 apart.

use rand::seq::index;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Entries of one bucket, libp2p's constant.
pub const BUCKET: usize = 20;

/// The tables of all nodes.
#[derive(Debug)]
pub struct Tables {
    /// Sorted, so that the nodes of a bucket stand side by side.
    names: Vec<u64>,
    /// Of each node, its buckets one after the other, the farthest first.
    entries: Vec<Vec<u32>>,
}

impl Tables {
    /// So many nodes with random names, in a network that has run for a while.
    pub fn new(count: usize, seed: u64) -> Self {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let mut names: Vec<u64> = Vec::new();
        while names.len() < count {
            names.extend((names.len()..count).map(|_| rng.next_u64()));
            names.sort_unstable();
            names.dedup();
        }
        let entries = names.iter().map(|name| fill(&names, *name, rng)).collect();
        Self { names, entries }
    }

    /// How many nodes there are.
    pub fn count(&self) -> usize {
        self.names.len()
    }

    /// A node's name.
    pub fn name(&self, node: u32) -> u64 {
        self.names[node as usize]
    }

    /// How many nodes this one knows.
    pub fn known(&self, node: u32) -> usize {
        self.entries[node as usize].len()
    }

    /// The lengths of a node's shared prefixes with those it knows: one for each bucket that is not empty.
    pub fn buckets(&self, node: u32) -> Vec<u32> {
        let name = self.name(node);
        let mut prefixes: Vec<u32> =
            self.entries[node as usize].iter().map(|other| (self.name(*other) ^ name).leading_zeros()).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        prefixes
    }

    /// Those nearest to a key that a node knows, the nearest first; what it answers when it is asked.
    pub fn nearest(&self, node: u32, key: u64) -> Vec<u32> {
        let mut known = self.entries[node as usize].clone();
        let distance = |other: &u32| self.name(*other) ^ key;
        if known.len() > BUCKET {
            known.select_nth_unstable_by_key(BUCKET - 1, distance);
            known.truncate(BUCKET);
        }
        known.sort_unstable_by_key(distance);
        known
    }
}

/// What the node of this name knows.
fn fill(names: &[u64], name: u64, rng: &mut ChaCha8Rng) -> Vec<u32> {
    let mut table = Vec::new();
    for shared in 0..u64::BITS {
        // The bucket: the same first bits, then the other one.
        let bit = 1u64 << (u64::BITS - 1 - shared);
        let first = (name ^ bit) & !(bit - 1);
        let from = names.partition_point(|other| *other < first);
        let to = names.partition_point(|other| *other <= first | (bit - 1));
        let size = to - from;
        let picked = index::sample(rng, size, size.min(BUCKET));
        table.extend(picked.into_iter().filter_map(|place| u32::try_from(from + place).ok()));
        // Nobody shares more bits than these.
        let own = name & !(bit - 1);
        if names.partition_point(|other| *other <= own | (bit - 1)) - names.partition_point(|other| *other < own) <= 1 {
            break;
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_network_is_known_to_all_but_for_full_buckets() {
        let tables = Tables::new(20, 1);
        assert!((0..20).all(|node| tables.known(node) == 19));
        let tables = Tables::new(200, 1);
        for node in 0..200 {
            for shared in 0..64 {
                let name = tables.name(node);
                let is_in = |other: &u32| (tables.name(*other) ^ name).leading_zeros() == shared;
                let there = (0..200).filter(|other| *other != node).filter(is_in).count();
                let known = tables.entries[node as usize].iter().filter(|other| is_in(other)).count();
                assert_eq!(known, there.min(BUCKET), "node {node}, {shared} bits");
            }
        }
    }

    #[test]
    fn answers_are_the_nearest_known_in_order() {
        let tables = Tables::new(500, 2);
        let answer = tables.nearest(7, 12345);
        assert_eq!(answer.len(), BUCKET);
        assert!(answer.is_sorted_by_key(|node| tables.name(*node) ^ 12345));
        let farthest = tables.name(answer[BUCKET - 1]) ^ 12345;
        let nearer = tables.entries[7].iter().filter(|node| tables.name(**node) ^ 12345 <= farthest).count();
        assert_eq!(nearer, BUCKET);
    }
}
