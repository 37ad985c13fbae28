//! Many members behind translators of all kinds: which pairs are connected directly, and what that leaves to those who carry.
//!
//! A model: what two edges allow is `wan`'s prediction, and relays are chosen as members choose them (`engine/src/relays.rs`): voters
//! only; each end asks the two that come first in an order of its own, follows the other end to its two, and takes the shortest way.
//! [`super::whole`] runs the program itself, with fewer members.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wan::{Edge, Outcome, Technique, direct_path_possible};

use super::delay::between;
use super::figures::Samples;

/// What the program can do.
pub const TECHNIQUE: Technique = Technique { low_ttl: true, prediction: false };

/// How many of a thousand machines stand behind what. Of those behind translators, 82 % have one that maps endpoint-independently, as
/// Ford, Srisuresh and Kegel found ("Peer-to-Peer Communication Across Network Address Translators", 2005: 82 % let UDP punch holes).
/// How the others of a row are split, and how many machines are in the open, is assumed.
pub const MIX: [(Edge, u32); 10] = [
    (Edge::Open, 100),
    (Edge::Firewall, 50),
    (Edge::FullCone, 50),
    (Edge::AddressRestricted, 50),
    (Edge::Home, 400),
    (Edge::HomeWithoutInputDrop, 150),
    (Edge::HomeOtherPort, 47),
    (Edge::AddressDependentMapping, 23),
    (Edge::SymmetricSequential, 30),
    (Edge::SymmetricRandom, 100),
];
/// Of a thousand machines in the open so many are there always, so that they may vote.
const ALWAYS_THERE: u32 = 500;
/// Shards of a namespace, and replicas of each.
const SHARDS: u64 = 16;
const REPLICAS: usize = 5;
/// Relays that each end asks.
const RELAYS: usize = 2;
/// Circuits that one relay has at most, and of one member (`tunnel/src/limits.rs`).
pub const CIRCUITS: usize = 2048;
/// See [`CIRCUITS`].
pub const CIRCUITS_OF_ONE: usize = 32;

/// One machine's edge, drawn from [`MIX`].
pub fn draw(rng: &mut impl Rng) -> Edge {
    let mut left = rng.random_range(0..MIX.iter().map(|(_, share)| share).sum());
    for (edge, share) in MIX {
        if left < share {
            return edge;
        }
        left -= share;
    }
    Edge::Home
}

/// Whether a direct way is to be expected of two edges.
pub fn is_direct(a: Edge, b: Edge) -> bool {
    direct_path_possible(a, b, TECHNIQUE) == Outcome::Direct
}

/// What a crowd of talkers asks of its relays.
pub struct Load {
    /// Members who vote, and so carry.
    pub voters: usize,
    /// Pairs that talk.
    pub pairs: usize,
    /// Those of them that are connected directly.
    pub direct: usize,
    /// Pairs of which both ends are behind translators, and those of them that are connected directly.
    pub translated: (usize, usize),
    /// Pairs that each voter carries for.
    pub carried: Samples,
    /// Circuits that each voter has open, used or not.
    pub circuits: Samples,
    /// Circuits that are too many: of a relay, or of one member at a relay.
    pub refused: usize,
    /// Pairs for which that left none.
    pub unconnected: usize,
    /// One way in milliseconds over the chosen relay, and straight.
    pub delays: (Samples, Samples),
}

impl Load {
    fn of(voters: usize) -> Self {
        Self {
            voters,
            pairs: 0,
            direct: 0,
            translated: (0, 0),
            carried: Samples::new(),
            circuits: Samples::new(),
            refused: 0,
            unconnected: 0,
            delays: (Samples::new(), Samples::new()),
        }
    }
}

/// So many members, each of whom talks to so many others at once.
pub fn load(members: u32, talks: u32, seed: u64) -> Load {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let edges: Vec<Edge> = (0..members).map(|_| draw(&mut rng)).collect();
    let voters = voters(&edges, &mut rng);
    let mut load = Load::of(voters.len());
    let asked: Vec<Vec<u32>> = (0..members).map(|member| first(member, &voters, seed)).collect();
    let mut at: BTreeMap<u32, (usize, usize)> = voters.iter().map(|voter| (*voter, (0, 0))).collect();
    let mut of_one: BTreeMap<(u32, u32), usize> = BTreeMap::new();
    for _ in 0..u64::from(members) * u64::from(talks) / 2 {
        let (a, b) = (rng.random_range(0..members), rng.random_range(0..members));
        if a == b {
            continue;
        }
        let (one, other) = (edges[a as usize], edges[b as usize]);
        let direct = is_direct(one, other);
        let translates = |edge: Edge| !matches!(edge, Edge::Open | Edge::Firewall);
        load.pairs += 1;
        load.direct += usize::from(direct);
        if translates(one) && translates(other) {
            load.translated = (load.translated.0 + 1, load.translated.1 + usize::from(direct));
        }
        if direct {
            continue;
        }
        let mut relays: Vec<u32> = asked[a as usize].iter().chain(&asked[b as usize]).copied().collect();
        relays.sort_unstable();
        relays.dedup();
        relays.retain(|relay| {
            let full = at.get(relay).is_some_and(|(_, circuits)| *circuits >= CIRCUITS);
            let greedy = [a, b].iter().any(|end| of_one.get(&(*end, *relay)).is_some_and(|n| *n >= CIRCUITS_OF_ONE));
            load.refused += usize::from(full || greedy);
            !full && !greedy
        });
        for relay in &relays {
            at.entry(*relay).or_default().1 += 1;
            *of_one.entry((a, *relay)).or_default() += 1;
            *of_one.entry((b, *relay)).or_default() += 1;
        }
        let by = |relay: &u32| between(seed, a, *relay) + between(seed, *relay, b);
        let Some(chosen) = relays.iter().min_by_key(|relay| by(relay)) else {
            load.unconnected += 1;
            continue;
        };
        at.entry(*chosen).or_default().0 += 1;
        load.delays.0.add(millis(by(chosen)));
        load.delays.1.add(millis(between(seed, a, b)));
    }
    for (carried, circuits) in at.into_values() {
        load.carried.add(count(carried));
        load.circuits.add(count(circuits));
    }
    load
}

/// The replicas of all shards: of those in the open who are always there, those whose place on the ring is nearest.
fn voters(edges: &[Edge], rng: &mut impl Rng) -> Vec<u32> {
    let mut eligible = Vec::new();
    for (member, edge) in (0..).zip(edges) {
        if *edge == Edge::Open && rng.random_range(0..1000) < ALWAYS_THERE {
            eligible.push((rng.next_u64(), member));
        }
    }
    let mut voters = BTreeSet::new();
    for shard in 0..SHARDS {
        let place = shard << 60;
        eligible.sort_by_key(|(own, _)| own ^ place);
        voters.extend(eligible.iter().take(REPLICAS).map(|(_, member)| *member));
    }
    voters.into_iter().collect()
}

/// The voters that a member asks: the first in an order of its own.
fn first(member: u32, voters: &[u32], seed: u64) -> Vec<u32> {
    // Any order that differs from member to member does.
    let mut order = ChaCha8Rng::seed_from_u64(seed ^ (u64::from(member) << 20));
    let mut ranked: Vec<(u64, u32)> = voters.iter().map(|voter| (order.next_u64(), *voter)).collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, voter)| voter).filter(|voter| *voter != member).take(RELAYS).collect()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn count(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_is_a_thousand_and_82_percent_of_the_translators_map_alike_for_all() {
        assert_eq!(MIX.iter().map(|(_, share)| share).sum::<u32>(), 1000);
        let translators = MIX.iter().filter(|(edge, _)| !matches!(edge, Edge::Open | Edge::Firewall));
        let all: u32 = translators.clone().map(|(_, share)| share).sum();
        let alike = translators.filter(|(edge, _)| edge.settings().mapping == wan::Mapping::EndpointIndependent);
        let share = alike.map(|(_, share)| share).sum::<u32>() * 1000 / all;
        assert_eq!(share, 820);
    }

    #[test]
    fn what_is_not_direct_is_carried_by_somebody() {
        let load = load(2000, 4, 1);
        let carried = load.carried.mean() * count(load.voters);
        assert!((carried - count(load.pairs - load.direct)).abs() < 0.5, "{carried}");
        assert!((20..=80).contains(&load.voters), "{}", load.voters);
        assert_eq!((load.refused, load.unconnected), (0, 0));
    }
}
