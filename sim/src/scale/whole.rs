//! Whole nodes behind edges of all kinds, as many as an hour of patience allows: what [`super::nats`] predicts, seen.

use std::collections::BTreeMap;
use std::time::Duration;

use engine::Addressing;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wan::Edge;

use super::nats::{draw, is_direct};
use crate::node::NodeId;
use crate::setup::Setup;
use crate::talk::Talk;
use crate::world::{Failure, World};

const SECOND: Duration = Duration::from_secs(1);
/// Machines come so far apart.
const APART: Duration = Duration::from_millis(500);
/// Between two pings of a conversation.
const PAUSE: Duration = Duration::from_secs(1);

/// A machine, and what it stands behind.
type Placed = (NodeId, Edge);

/// What was seen.
pub struct Seen {
    /// Members who vote.
    pub voters: usize,
    /// Pairs that talked.
    pub pairs: usize,
    /// Those of which the last pings were all answered.
    pub answered: usize,
    /// Those that were to be connected directly.
    pub predicted: usize,
    /// Those that were.
    pub direct: usize,
    /// Pairs of which the prediction was wrong.
    pub wrong: Vec<String>,
    /// Pairs that each relay carried for.
    pub carried: BTreeMap<NodeId, usize>,
    /// Things that happened.
    pub events: u64,
}

/// So many members, each of whom talks to one other for a minute, after a few minutes in which voters were found.
pub fn run(members: u32, seed: u64) -> Result<Seen, Failure> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut world = World::new(Setup::new(seed));
    let mut all = vec![(NodeId(0), Edge::Open)];
    while all.len() < members as usize {
        let edge = draw(&mut rng);
        let id = if edge == Edge::Open {
            world.add(Addressing::Own)
        } else {
            let gate = world.edges.add(edge, None);
            world.add_behind(gate)
        };
        all.push((id, edge));
        world.run_for(APART)?;
    }
    let ids: Vec<NodeId> = all.iter().map(|(id, _)| *id).collect();
    world.wait_for_addresses(&ids, 300 * SECOND)?;
    world.run_for(180 * SECOND)?;
    let mut pairs = Vec::new();
    for place in (1..all.len()).rev() {
        let other = rng.random_range(0..=place);
        all.swap(place, other);
    }
    let mut talks = Vec::new();
    for two in all.chunks_exact(2) {
        pairs.push((two[0], two[1]));
        talks.push(Talk::new(two[0].0, two[1].0, PAUSE));
        talks.push(Talk::new(two[1].0, two[0].0, PAUSE));
    }
    world.talk(&mut talks, 60 * SECOND)?;
    Ok(judge(&world, &pairs, &talks))
}

fn judge(world: &World, pairs: &[(Placed, Placed)], talks: &[Talk]) -> Seen {
    let mut seen = Seen {
        voters: world.voters_of(NodeId(0)).len(),
        pairs: pairs.len(),
        answered: 0,
        predicted: 0,
        direct: 0,
        wrong: Vec::new(),
        carried: BTreeMap::new(),
        events: world.log.events,
    };
    for (((a, one), (b, other)), talks) in pairs.iter().zip(talks.chunks(2)) {
        let late = |talk: &Talk| talk.account(world, world.now() - 20 * SECOND);
        seen.answered += usize::from(talks.iter().map(late).all(|it| it.asked > 0 && it.asked == it.answered));
        let ways = [world.way(*a, *b), world.way(*b, *a)];
        let direct = ways.iter().all(|way| way == "direct");
        let predicted = is_direct(*one, *other);
        seen.direct += usize::from(direct);
        seen.predicted += usize::from(predicted);
        if direct != predicted {
            seen.wrong.push(format!("{}/{}/{}", one.name(), other.name(), ways.join("+")).replace(' ', "-"));
        }
        if let Some(carrier) = world.carrier(*a, *b) {
            *seen.carried.entry(carrier).or_default() += 1;
        }
    }
    seen
}
