//! The ladder of nine line qualities: a pair of whole members joins, gets addresses and talks over each, with one of them or both on
//! such a line.

use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sim::{Addressing, NodeId, Setup, Talk, World};
use wan::link::Fate;
use wan::{Edge, Line, Link, ladder};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);
const PAUSE: Duration = Duration::from_millis(200);
/// Octets of a ping's datagram.
const OCTETS: usize = 104;
/// So many rungs have to work fully. The last two lose so much that a handshake may need half a minute.
const WORK: usize = 7;

/// Of a thousand pings how many the bare lines answer: out by the line of the one, in by that of the other if it has one, and back.
fn bare(line: Line, both: bool, seed: u64) -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let crossings = if both { 4 } else { 2 };
    let mut links = vec![Link::new(line); crossings];
    let total = 20_000;
    let mut answered = 0;
    for n in 0..total {
        // Each line has a clock of its own: what arrives at the next does so in its order.
        let crosses = |link: &mut Link| matches!(link.send(PAUSE * n, OCTETS, &mut rng), Fate::Arrives(_));
        answered += u32::from(links.iter_mut().all(crosses));
    }
    f64::from(answered) / f64::from(total)
}

/// What came of one pair.
struct Rung {
    name: String,
    /// Until both had addresses.
    joined: Option<Duration>,
    /// Until the first ping was answered, from the first ping on.
    first: Option<Duration>,
    answered: f64,
    bare: f64,
    way: String,
}

#[expect(clippy::cast_precision_loss, reason = "counts of pings")]
fn climb(seed: u64) -> Vec<Rung> {
    let mut world = World::new(Setup::new(seed));
    world.add(Addressing::Own);
    world.add(Addressing::Own);
    let three = |world: &World| world.nodes().iter().all(|node| world.voters_of(node.id).len() == 3);
    world.run_until("three voters", 300 * SECOND, three).expect("all three are reached");
    let began = world.now();
    let mut pairs = Vec::new();
    for (name, line) in ladder() {
        for both in [false, true] {
            let bad = world.edges.add(Edge::Home, None);
            let other = world.edges.add(Edge::Home, None);
            world.edges.set_line(bad, began, line);
            if both {
                world.edges.set_line(other, began, line);
            }
            let pair = (world.add_behind(bad), world.add_behind(other));
            pairs.push((format!("{name}, {}", if both { "both" } else { "one" }), line, both, pair, None));
        }
    }
    let joined = |world: &World, (a, b): (NodeId, NodeId)| world.address(a).and(world.address(b)).is_some();
    for _ in 0..1200 {
        world.run_for(100 * MILLISECOND).expect("nothing breaks");
        for (.., pair, at) in &mut pairs {
            if at.is_none() && joined(&world, *pair) {
                *at = Some(world.now() - began);
            }
        }
        if pairs.iter().all(|(.., at)| at.is_some()) {
            break;
        }
    }
    // Whoever is on the line asks, and whoever is not.
    let mut talks: Vec<Talk> =
        pairs.iter().flat_map(|(.., (a, b), _)| [Talk::new(*a, *b, PAUSE), Talk::new(*b, *a, PAUSE)]).collect();
    world.talk(&mut talks, 50 * SECOND).expect("nothing breaks");
    let settled = world.now() - 35 * SECOND;
    pairs
        .into_iter()
        .zip(talks.chunks(2))
        .map(|((name, line, both, (a, b), joined), talks)| {
            let accounts = [talks[0].account(&world, settled), talks[1].account(&world, settled)];
            let (asked, answered) =
                (accounts[0].asked + accounts[1].asked, accounts[0].answered + accounts[1].answered);
            Rung {
                name,
                joined,
                first: talks.iter().filter_map(|talk| talk.first_answer(&world)).max(),
                answered: answered as f64 / asked.max(1) as f64,
                bare: bare(line, both, seed),
                way: world.way(a, b),
            }
        })
        .collect()
}

#[test]
fn down_to_very_bad_lines_everything_works() {
    let rungs = climb(950);
    println!("{:<28} {:>8} {:>8} {:>9} {:>6}  way", "line", "joined", "first", "answered", "bare");
    for rung in &rungs {
        let (joined, first) = (format!("{:.1?}", rung.joined), format!("{:.2?}", rung.first));
        let Rung { name, answered, bare, way, .. } = rung;
        println!("{name:<28} {joined:>13} {first:>13} {:>8.1}% {:>5.1}%  {way}", answered * 100.0, bare * 100.0);
    }
    for rung in &rungs[..2 * WORK] {
        assert!(rung.joined.is_some_and(|time| time < 60 * SECOND), "{}: {:?}", rung.name, rung.joined);
        assert!(rung.first.is_some_and(|time| time < 20 * SECOND), "{}: {:?}", rung.name, rung.first);
        assert!(rung.answered > rung.bare - 0.15, "{}: {} of {}", rung.name, rung.answered, rung.bare);
    }
}
