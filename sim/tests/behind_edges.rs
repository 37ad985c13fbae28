//! Whole members behind all kinds of edges: three in the open vote and relay, and every pair is connected, directly where the edges
//! let it.

use std::time::Duration;

use sim::{Addressing, NodeId, Setup, World};
use wan::{Edge, Outcome, Technique, direct_path_possible};

const SECOND: Duration = Duration::from_secs(1);
/// What the program can do.
const TECHNIQUE: Technique = Technique { low_ttl: true, prediction: true };
/// In the open.
const OPEN: [NodeId; 3] = [NodeId(0), NodeId(1), NodeId(2)];

/// Three voters in the open.
fn voters(seed: u64) -> World {
    let mut world = World::new(Setup::new(seed));
    for id in &OPEN[1..] {
        assert_eq!(world.add(Addressing::Own), *id);
    }
    world.wait_for_addresses(&OPEN, 30 * SECOND).expect("nothing is in their way");
    let three = |world: &World| world.nodes().iter().all(|node| world.voters_of(node.id).len() == 3);
    world.run_until("three voters", 200 * SECOND, three).expect("all three are reached");
    world
}

#[test]
fn all_ordered_pairs_are_connected_and_directly_where_their_edges_let_them() {
    let mut wrong = Vec::new();
    // One world for each kind of the one who begins: it stands alone behind its edge, and one of each kind answers.
    for (seed, first) in Edge::ALL.into_iter().enumerate() {
        let mut world = voters(700 + seed as u64);
        let gate = world.edges.add(first, None);
        let begins = world.add_behind(gate);
        let mut others = Vec::new();
        for edge in Edge::ALL {
            let gate = world.edges.add(edge, None);
            others.push((edge, world.add_behind(gate)));
        }
        let all: Vec<NodeId> = world.nodes().iter().map(|node| node.id).collect();
        world.wait_for_addresses(&all, 60 * SECOND).unwrap();
        for (edge, other) in others {
            let names = format!("{} to {}", first.name(), edge.name());
            if let Err(failure) = world.ping_and_wait(begins, other, 5 * SECOND) {
                wrong.push(format!("{names}: {failure}"));
                continue;
            }
            let possible = direct_path_possible(first, edge, TECHNIQUE) == Outcome::Direct;
            // So long both send, as pings and their answers do.
            for _ in 0..10 {
                world.run_for(SECOND / 2).unwrap();
                let ip = world.address(other).unwrap();
                world.ping(begins, ip);
            }
            let paths = [world.way(begins, other), world.way(other, begins)];
            let direct = paths.iter().all(|path| path == "direct");
            if direct != possible {
                wrong.push(format!("{names}: {paths:?}, but direct is possible: {possible}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} pairs\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn whoever_is_behind_a_translator_is_never_a_voter() {
    let mut world = World::new(Setup::new(720));
    for edge in [Edge::Home, Edge::Firewall, Edge::FullCone, Edge::SymmetricRandom] {
        let gate = world.edges.add(edge, None);
        world.add_behind(gate);
    }
    let all: Vec<NodeId> = world.nodes().iter().map(|node| node.id).collect();
    world.wait_for_addresses(&all, 60 * SECOND).unwrap();
    world.run_for(600 * SECOND).unwrap();
    for id in all {
        assert_eq!(world.voters_of(id), [NodeId(0)], "as {id} sees it");
    }
}
