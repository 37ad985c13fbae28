//! A model of libp2p's iterative lookup (`ClosestPeersIter` of libp2p-kad 0.49), rule by rule.
//!
//! It asks the nearest known nodes, [`PARALLEL`] at a time, and takes up whom they name. When as many answers in a row
//! brought nobody nearer, it asks up to [`BUCKET`] at a time; it ends when the [`BUCKET`] nearest have all answered.
//! Everybody answers, after a random time about one round trip.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use rand::{Rng, RngExt};

use super::table::{BUCKET, Tables};

/// Questions at a time, as the driver sets it.
pub const PARALLEL: usize = 5;
/// A round trip, in parts; answers take half as long to one and a half times as long.
const TRIP: u64 = 1000;

/// What a lookup took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lookup {
    /// Questions that were asked.
    pub requests: u32,
    /// Questions one after the other until the nearest node was named; 0 if the asker knew it.
    pub hops: u32,
    /// Until the end, in mean round trips.
    pub rounds: f64,
    /// Whether the nearest of all nodes was found.
    pub found: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    New,
    Asked,
    Answered,
}

#[derive(Clone, Copy)]
struct Candidate {
    node: u32,
    stage: Stage,
    /// Questions one after the other until it was named.
    hops: u32,
}

struct Search<'a> {
    tables: &'a Tables,
    asker: u32,
    key: u64,
    candidates: BTreeMap<u64, Candidate>,
    waiting: usize,
    /// Answers in a row that brought nobody nearer; `None` while stalled.
    fruitless: Option<usize>,
    under_way: BinaryHeap<Reverse<(u64, u64)>>,
    requests: u32,
}

/// Looks up a key from a node.
pub fn look_up(tables: &Tables, asker: u32, key: u64, rng: &mut impl Rng) -> Lookup {
    let first = tables.nearest(asker, key).into_iter().map(|node| {
        let distance = tables.name(node) ^ key;
        (distance, Candidate { node, stage: Stage::New, hops: 0 })
    });
    let mut search = Search {
        tables,
        asker,
        key,
        candidates: first.collect(),
        waiting: 0,
        fruitless: Some(0),
        under_way: BinaryHeap::new(),
        requests: 0,
    };
    let mut now = 0;
    while !search.ask(now, rng) {
        let Some(Reverse((at, distance))) = search.under_way.pop() else { break };
        now = at;
        search.answer(distance);
    }
    let nearest = (0..tables.count()).filter_map(|node| u32::try_from(node).ok()).filter(|node| *node != asker);
    let nearest = nearest.map(|node| tables.name(node) ^ key).min();
    let best = search.candidates.first_key_value();
    Lookup {
        requests: search.requests,
        hops: best.map_or(0, |(_, candidate)| candidate.hops),
        #[expect(clippy::cast_precision_loss, reason = "some thousand")]
        rounds: now as f64 / TRIP as f64,
        found: best.map(|(distance, _)| *distance) == nearest,
    }
}

impl Search<'_> {
    fn room(&self) -> bool {
        self.waiting < if self.fruitless.is_none() { BUCKET.max(PARALLEL) } else { PARALLEL }
    }

    /// Asks whom it may ask now. Says whether the lookup is over.
    fn ask(&mut self, now: u64, rng: &mut impl Rng) -> bool {
        while self.room() {
            let mut answered = Some(0);
            let mut next = None;
            for (distance, candidate) in &mut self.candidates {
                match candidate.stage {
                    Stage::Asked => answered = None,
                    Stage::Answered => {
                        if let Some(count) = &mut answered {
                            *count += 1;
                            if *count >= BUCKET {
                                return true;
                            }
                        }
                    }
                    Stage::New => {
                        candidate.stage = Stage::Asked;
                        next = Some(*distance);
                        break;
                    }
                }
            }
            let Some(distance) = next else { return self.waiting == 0 };
            self.waiting += 1;
            self.requests += 1;
            self.under_way.push(Reverse((now + rng.random_range(TRIP / 2..TRIP * 3 / 2), distance)));
        }
        false
    }

    fn answer(&mut self, distance: u64) {
        let Some(candidate) = self.candidates.get_mut(&distance) else { return };
        candidate.stage = Stage::Answered;
        let (node, hops) = (candidate.node, candidate.hops + 1);
        self.waiting -= 1;
        let few = self.candidates.len() < BUCKET;
        let range = self.candidates.keys().nth(BUCKET - 1).or(self.candidates.keys().next_back()).copied();
        let mut progress = few;
        for named in self.tables.nearest(node, self.key) {
            if named == self.asker {
                continue;
            }
            let distance = self.tables.name(named) ^ self.key;
            self.candidates.entry(distance).or_insert_with(|| {
                progress |= range.is_some_and(|range| distance < range);
                Candidate { node: named, stage: Stage::New, hops }
            });
        }
        self.fruitless = match self.fruitless {
            _ if progress => Some(0),
            Some(count) if count + 1 < PARALLEL => Some(count + 1),
            Some(_) | None => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn the_nearest_node_is_found_from_anywhere() {
        let rng = &mut ChaCha8Rng::seed_from_u64(3);
        for count in [2, 30, 1000, 5000] {
            let tables = Tables::new(count, 4);
            for _ in 0..50 {
                let asker = rng.random_range(0..u32::try_from(count).unwrap());
                let lookup = look_up(&tables, asker, rng.next_u64(), rng);
                assert!(lookup.found, "{lookup:?} among {count}");
                assert!(lookup.requests as usize >= (count - 1).min(BUCKET) && lookup.requests < 80, "{lookup:?}");
            }
        }
    }

    #[test]
    fn a_node_that_knows_all_needs_no_hop() {
        let rng = &mut ChaCha8Rng::seed_from_u64(3);
        let tables = Tables::new(15, 4);
        let lookup = look_up(&tables, 3, 77, rng);
        assert_eq!((lookup.hops, lookup.requests), (0, 14));
    }

    #[test]
    fn hops_grow_with_the_logarithm() {
        let rng = &mut ChaCha8Rng::seed_from_u64(5);
        let mut mean = |count: usize| {
            let tables = Tables::new(count, 6);
            let asker = |rng: &mut ChaCha8Rng| rng.random_range(0..u32::try_from(count).unwrap());
            (0..200).map(|_| f64::from(look_up(&tables, asker(rng), rng.next_u64(), rng).hops)).sum::<f64>() / 200.0
        };
        let (small, large) = (mean(500), mean(8000));
        assert!(small < large && large < small + 3.0, "{small} {large}");
    }
}
