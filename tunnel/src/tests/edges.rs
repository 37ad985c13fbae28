//! Two members behind edges of all kinds, with the translators' models between them: all pairs are connected, and directly
//! where the edges let them.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use wan::{Edge, Outcome, Technique, direct_path_possible};

use super::net::{Net, ms, secs};
use super::origin;
use crate::limits::CANDIDATES;
use crate::{Candidate, CandidateKind, Endpoint, Event, Observations};

/// What the program can do.
const TECHNIQUE: Technique = Technique { low_ttl: true, prediction: true };
/// In the open; both of the others talk to them.
const OPEN: [usize; 2] = [2, 3];

/// Nodes 0 and 1 behind edges, with sessions to those in the open, who have told them where they are seen.
fn members(edges: [Edge; 2], seed: u64) -> Net {
    let mut net = Net::strangers(4);
    net.behind(0, edges[0], 2 * seed);
    net.behind(1, edges[1], 2 * seed + 1);
    for inside in [0, 1] {
        for open in OPEN {
            let (id, keys) = (net.nodes[inside].id, net.nodes[inside].keys());
            net.nodes[open].tunnel.set_peer(id, keys, net.now);
            net.introduce(inside, open);
            net.send(inside, open, b"hello");
        }
    }
    net.run(secs(1));
    net
}

/// Where others have seen a node.
fn observations(net: &Net, n: usize) -> Observations {
    let mut observations = Observations::default();
    for (at, event) in &net.nodes[n].events {
        if let Event::EndpointObserved { by, addr } = event {
            observations.note(*by, *addr, *at);
        }
    }
    observations
}

/// Where a node may be, as it would tell others.
fn candidates(net: &Net, n: usize) -> Vec<Candidate> {
    let own = Candidate { addr: net.nodes[n].addr, kind: CandidateKind::Lan };
    let observations = observations(net, n);
    let of = |kind| move |addr| Candidate { addr, kind };
    let observed = observations.addresses().into_iter().filter(|addr| *addr != own.addr);
    let predicted = observations.predicted().into_iter().map(of(CandidateKind::Predicted));
    let all = std::iter::once(own).chain(observed.map(of(CandidateKind::Observed))).chain(predicted);
    all.take(CANDIDATES).collect()
}

/// Node `to` hears of `about`, as by a letter, and begins.
fn signal(net: &mut Net, to: usize, about: usize) {
    let (id, keys, list) = (net.nodes[about].id, net.nodes[about].keys(), candidates(net, about));
    let now = net.now;
    let tunnel = &mut net.nodes[to].tunnel;
    tunnel.set_peer(id, keys, now);
    tunnel.set_candidates(id, list, now);
    tunnel.renew(id, now);
    net.drain(to);
    for relay in OPEN {
        net.open(to, relay, about);
    }
}

/// How long after the first signal the first packet arrived, and the way was direct for both.
fn times(edges: [Edge; 2], first: usize, seed: u64) -> [Option<Duration>; 2] {
    from_here(members(edges, seed), first)
}

/// The same, where so many flows of others behind the same edges have begun since the members were seen.
fn times_besides(edges: [Edge; 2], others: [u16; 2], first: usize) -> [Option<Duration>; 2] {
    let mut net = members(edges, 7);
    for (n, others) in others.into_iter().enumerate() {
        let IpAddr::V4(mut inside) = net.nodes[n].addr.ip() else { continue };
        let edge = net.edges.get_mut(&IpAddr::from(inside)).unwrap();
        inside = Ipv4Addr::from_bits(inside.to_bits() + 1);
        for port in 0..others {
            let to = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 7), 1 + port);
            edge.outbound(SocketAddrV4::new(inside, 5000), to, net.now - origin());
        }
    }
    from_here(net, first)
}

fn from_here(mut net: Net, first: usize) -> [Option<Duration>; 2] {
    let began = net.now;
    net.nodes[first].events.retain(|(_, event)| matches!(event, Event::EndpointObserved { .. }));
    net.send(first, 1 - first, b"first");
    signal(&mut net, first, 1 - first);
    // As long as a letter takes by way of somebody in the open.
    net.run(ms(20));
    signal(&mut net, 1 - first, first);
    let (mut arrived, mut direct) = (None, None);
    for _ in 0..1200 {
        if arrived.is_some() {
            net.send_fast(0, 1, b"x");
            net.send_fast(1, 0, b"y");
        }
        net.run(ms(10));
        let now = net.now - began;
        if arrived.is_none() && net.nodes[1 - first].packets().contains(&b"first".to_vec()) {
            arrived = Some(now);
        }
        let both = [(0, 1), (1, 0)].map(|(a, b)| matches!(net.view(a, b).endpoint, Some(Endpoint::Direct(_))));
        if direct.is_none() && both == [true, true] {
            direct = Some(now);
        }
        for n in [0, 1] {
            // What the engine does when a peer is needed.
            if net.nodes[n].has(|event| matches!(event, Event::NeedPeer { .. })) {
                net.nodes[n].events.retain(|(_, event)| !matches!(event, Event::NeedPeer { .. }));
                signal(&mut net, 1 - n, n);
            }
        }
    }
    [arrived, direct]
}

#[test]
fn all_pairs_are_connected_and_directly_where_their_edges_let_them() {
    let mut wrong = Vec::new();
    for a in Edge::ALL {
        for b in Edge::ALL {
            for first in [0, 1] {
                let [arrived, direct] = times([a, b], first, 7);
                let names = format!("{} and {}, {first} first", a.name(), b.name());
                let possible = direct_path_possible(a, b, TECHNIQUE) == Outcome::Direct;
                if arrived.is_none_or(|time| time > ms(300)) {
                    wrong.push(format!("{names}: first packet after {arrived:?}"));
                }
                if possible && direct.is_none_or(|time| time > secs(3)) {
                    wrong.push(format!("{names}: direct after {direct:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// As many as there may be: with both counting, each of them moves the place where the two meet by two ports.
#[test]
fn others_behind_a_counting_edge_do_not_spoil_the_prediction() {
    let counting = Edge::SymmetricSequential;
    let mut wrong = Vec::new();
    let between = [[1, 0], [0, 1], [2, 2], [0, 5], [5, 0]];
    for (other, all) in [(counting, &between[..]), (Edge::Home, &[[11, 0]]), (Edge::HomeWithoutInputDrop, &[[11, 0]])] {
        for others in all {
            for first in [0, 1] {
                let [_, direct] = times_besides([counting, other], *others, first);
                if direct.is_none_or(|time| time > secs(3)) {
                    wrong.push(format!("{}, {others:?} others, {first} first: direct after {direct:?}", other.name()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
