//! Ways to a peer: candidates, roaming, sizes.

use std::net::SocketAddr;

use super::net::{Net, ms, secs};
use crate::{Candidate, CandidateKind, DropReason, Event, Kind};

fn elsewhere() -> SocketAddr {
    "203.0.113.99:999".parse().unwrap()
}

#[test]
fn the_address_that_answers_becomes_the_endpoint() {
    let mut net = Net::new(2);
    let (b, addr) = (net.nodes[1].id, net.nodes[1].addr);
    let list = vec![
        Candidate { addr: "10.9.9.9:1".parse().unwrap(), kind: CandidateKind::Lan },
        Candidate { addr, kind: CandidateKind::Observed },
        Candidate { addr: "203.0.113.1:1".parse().unwrap(), kind: CandidateKind::Configured },
    ];
    net.nodes[0].tunnel.set_candidates(b, list, net.now);
    net.send(0, 1, b"x");
    let to: Vec<SocketAddr> = net.seen.iter().map(|flight| flight.to).collect();
    assert_eq!(to, ["10.9.9.9:1".parse().unwrap(), "203.0.113.1:1".parse().unwrap()], "all at once, LAN first");
    assert_eq!(net.opening, [(net.nodes[0].addr, addr)], "behind a translator, and so our own edge is opened first");
    net.run(secs(1));
    assert_eq!(net.nodes[0].tunnel.peer(&b, net.now).unwrap().endpoint, Some((addr).into()));
    assert_eq!(net.nodes[1].packets(), [b"x"]);
}

#[test]
fn an_init_that_comes_by_several_ways_is_answered_on_each_once() {
    let mut net = Net::new(2);
    net.send(0, 1, b"x");
    let init = net.seen[0].clone();
    let ways: Vec<SocketAddr> = (1..7).map(|port| SocketAddr::from(([203, 0, 113, 99], port))).collect();
    for from in ways.iter().chain(&ways) {
        net.inject(1, *from, &init.bytes);
    }
    let answers = net.seen.iter().filter(|flight| flight.bytes[0] == 2).count();
    assert_eq!((answers, net.nodes[1].drops(DropReason::HandshakeReplayed)), (4, 8));
}

/// From 0 to 1 a short way leads, but not back; a longer one leads both ways.
#[test]
fn a_handshake_over_a_way_of_one_direction_comes_up_by_the_other_way() {
    for quick in [ms(0), ms(15)] {
        let mut net = Net::new(2);
        let (a, b, other) = (net.nodes[0].addr, net.nodes[1].addr, SocketAddr::from(([203, 0, 113, 9], 9)));
        let list = [b, other].map(|addr| Candidate { addr, kind: CandidateKind::Lan }).to_vec();
        let id = net.nodes[1].id;
        net.nodes[0].tunnel.set_candidates(id, list, net.now);
        net.filter =
            Box::new(move |flight| (flight.from, flight.to) != (b, a) && flight.to != other && flight.from != other);
        net.send(0, 1, b"x");
        // What goes to the other address takes its time, and comes from another one of the sender's.
        let (far, mut next) = (SocketAddr::from(([203, 0, 113, 8], 8)), 0);
        for _ in 0..100 {
            net.run(ms(5) + quick);
            let sent: Vec<_> = net.seen.drain(..).collect();
            next += sent.len();
            for flight in sent {
                if flight.to == other {
                    net.inject(1, far, &flight.bytes);
                } else if flight.to == far {
                    net.inject(0, other, &flight.bytes);
                }
            }
        }
        assert!(next > 0);
        assert_eq!(net.nodes[1].packets(), [b"x"], "{quick:?}");
        net.send(1, 0, b"y");
        for flight in net.seen.drain(..).collect::<Vec<_>>() {
            net.inject(0, other, &flight.bytes);
        }
        assert_eq!(net.nodes[0].packets(), [b"y"], "{quick:?}");
        assert_eq!(net.view(1, 0).endpoint, Some(far.into()));
    }
}

#[test]
fn both_sides_punch_through_filtering_nats() {
    // Each side lets in only who it has sent to.
    let mut net = Net::new(2);
    let opened = std::cell::RefCell::new(std::collections::BTreeSet::new());
    net.filter = Box::new(move |flight| {
        opened.borrow_mut().insert((flight.from, flight.to));
        opened.borrow().contains(&(flight.to, flight.from))
    });
    net.send(0, 1, b"one");
    net.send(1, 0, b"two");
    net.run(secs(2));
    assert!(net.nodes.iter().all(|node| node.packets().len() == 1));
}

#[test]
fn a_peer_that_moves_is_followed_and_loses_nothing() {
    let mut net = Net::new(2);
    net.settle();
    let (a, home) = (net.nodes[0].id, net.nodes[0].addr);
    net.moved.insert(home, elsewhere());
    net.send_fast(0, 1, b"from elsewhere");
    net.run(ms(10));
    let view = net.nodes[1].tunnel.peer(&a, net.now).unwrap();
    assert_eq!(view.endpoint, Some((elsewhere()).into()));
    assert!(net.nodes[1].tunnel.sessions().iter().all(|view| !view.sending), "not before an echo has come back");
    net.send(1, 0, b"small answer");
    net.run(ms(100));
    assert!(
        net.nodes[1].tunnel.sessions().iter().any(|view| view.sending && view.endpoint == Some(elsewhere().into()))
    );
    assert_eq!(net.nodes[0].packets(), [b"small answer"]);
    assert!(
        net.nodes[0].has(|event| matches!(event, Event::EndpointObserved { addr, .. } if *addr == elsewhere())) || {
            // Told at the next echo of its own.
            let b = net.nodes[1].id;
            net.nodes[0].tunnel.ping(b, net.now);
            net.drain(0);
            net.run(ms(100));
            net.nodes[0].has(|event| matches!(event, Event::EndpointObserved { addr, .. } if *addr == elsewhere()))
        }
    );
    // Back home is proven already.
    net.moved.clear();
    net.send_fast(0, 1, b"home");
    net.run(ms(10));
    assert!(net.nodes[1].tunnel.sessions().iter().any(|view| view.sending && view.endpoint == Some(home.into())));
}

#[test]
fn the_fast_path_reports_a_move() {
    let mut net = Net::new(2);
    net.settle();
    let (a, home) = (net.nodes[0].id, net.nodes[0].addr);
    let session = net.nodes[1].sending();
    let mut datagram = Vec::new();
    net.nodes[0].sending().seal(Kind::Packet, &[], b"x", &mut datagram).unwrap();
    let counter = session.open(&mut datagram).unwrap().counter;
    net.nodes[1].tunnel.handle_roamed(session.index(), elsewhere(), counter, net.now);
    net.drain(1);
    assert_eq!(net.nodes[1].tunnel.peer(&a, net.now).unwrap().endpoint, Some((elsewhere()).into()));
    let echo = net.seen.last().unwrap().clone();
    assert_eq!((echo.to, echo.bytes[0], echo.bytes[1]), (elsewhere(), 4, 3));
    // An older report that was under way does not move it back.
    net.nodes[1].tunnel.handle_roamed(session.index(), home, counter, net.now);
    assert_eq!(net.nodes[1].tunnel.peer(&a, net.now).unwrap().endpoint, Some((elsewhere()).into()));
}

#[test]
fn only_the_newest_authentic_datagram_moves_the_endpoint() {
    let mut net = Net::new(2);
    net.settle();
    let (a, home, session) = (net.nodes[0].id, net.nodes[0].addr, net.nodes[0].sending());
    let mut datagrams = vec![Vec::new(), Vec::new()];
    for datagram in &mut datagrams {
        session.seal(Kind::Packet, &[], b"x", datagram).unwrap();
    }
    net.inject(1, home, &datagrams[1]);
    net.inject(1, elsewhere(), &datagrams[0]);
    net.inject(1, elsewhere(), &datagrams[1]);
    let mut forged = datagrams[1].clone();
    forged[20] ^= 1;
    net.inject(1, elsewhere(), &forged);
    assert_eq!(net.nodes[1].tunnel.peer(&a, net.now).unwrap().endpoint, Some((home).into()));
    assert_eq!(net.nodes[1].packets().len(), 2, "a late one is delivered all the same");
    // Nor does one that is older than what the fast path has opened.
    let mut datagrams = vec![Vec::new(), Vec::new()];
    for datagram in &mut datagrams {
        session.seal(Kind::Packet, &[], b"x", datagram).unwrap();
    }
    net.nodes[1].sending().open(&mut datagrams[1]).unwrap();
    net.inject(1, elsewhere(), &datagrams[0]);
    assert_eq!(net.nodes[1].tunnel.peer(&a, net.now).unwrap().endpoint, Some((home).into()));
}

#[test]
fn an_endpoint_that_never_answers_gets_three_times_what_it_sent() {
    let mut net = Net::new(2);
    net.settle();
    let mut datagram = Vec::new();
    net.nodes[0].sending().seal(Kind::Packet, &[], &[1; 100], &mut datagram).unwrap();
    net.inject(1, elsewhere(), &datagram);
    for _ in 0..50 {
        net.send(1, 0, &[2; 100]);
        net.run(ms(100));
    }
    let sent: usize = net.seen.iter().filter(|flight| flight.to == elsewhere()).map(|f| f.bytes.len()).sum();
    assert!((41..=3 * datagram.len()).contains(&sent), "{sent} bytes for {}", datagram.len());
    assert!(net.nodes[1].drops(DropReason::QueueFull) + net.nodes[1].drops(DropReason::WaitedTooLong) > 0);
}

#[test]
fn a_smaller_path_is_learned_and_payloads_are_cut() {
    let mut net = Net::new(2);
    net.settle();
    let to = net.nodes[1].addr;
    assert_eq!(net.nodes[0].sending().max_payload(), 1440);
    net.nodes[0].tunnel.handle_too_big(to, 1280, net.now);
    assert_eq!(net.nodes[0].sending().max_payload(), 1220);
    let mut out = Vec::new();
    let sealed = net.nodes[0].sending().seal(Kind::Packet, &[], &[0; 1221], &mut out);
    assert_eq!(sealed, Err(crate::SealError::TooBig));
    net.filter = Box::new(|flight| flight.bytes.len() <= 1280 - 28);
    net.send(0, 1, &[5; 1400]);
    net.run(secs(1));
    assert_eq!(net.nodes[1].packets(), [vec![5; 1400]]);
    net.nodes[0].tunnel.handle_too_big(to, 0, net.now);
    assert_eq!(net.nodes[0].sending().max_payload(), 576 - 28 - 32, "a forged report makes no path useless");
    // Forgotten after ten minutes of use.
    for _ in 0..620 {
        net.send_fast(0, 1, b"x");
        net.run(secs(1));
    }
    assert_eq!(net.nodes[0].sending().max_payload(), 1440);
}

#[test]
fn the_smaller_mtu_of_two_sides_counts() {
    let mut net = Net::strangers(1);
    net.add(1, |config| config.outer_mtu = 1400);
    net.introduce(0, 1);
    net.introduce(1, 0);
    net.settle();
    assert!(net.nodes.iter().all(|node| node.sending().max_payload() == 1340));
}

#[test]
fn lost_fragments_cost_one_payload_and_are_counted() {
    let mut net = Net::new(2);
    net.settle();
    let mut fragments = 0;
    net.filter = Box::new(move |flight| {
        fragments += u32::from(flight.bytes[..2] == [4, 2]);
        fragments != 2
    });
    net.send(0, 1, &[1; 5000]);
    net.run(ms(1));
    net.filter = Box::new(|_| true);
    net.send(0, 1, &[2; 5000]);
    net.run(secs(2));
    assert_eq!(net.nodes[1].packets(), [vec![2; 5000]]);
    assert_eq!(net.nodes[1].drops(DropReason::FragmentsMissing), 1);
}

#[test]
fn what_a_caller_may_not_send_is_dropped_by_name() {
    let mut net = Net::new(2);
    net.settle();
    net.send(0, 1, b"");
    net.send(0, 1, &vec![0; crate::limits::MAX_PAYLOAD + 1]);
    net.send_as(0, 1, Kind::Control, &[15]);
    net.send_as(0, 1, Kind::Fragment, b"fragment");
    assert_eq!(net.nodes[0].drops(DropReason::PayloadSize), 4);
    net.send_as(0, 1, Kind::Offloaded, &vec![3; crate::limits::MAX_PAYLOAD]);
    net.run(secs(1));
    assert_eq!(net.nodes[1].packets(), [vec![3; crate::limits::MAX_PAYLOAD]]);
    net.send(0, 0, b"to oneself");
    assert_eq!(net.nodes[0].drops(DropReason::BadPeer), 1);
}

#[test]
fn slots_stand_in_the_top_bits_of_every_index() {
    let mut net = Net::strangers(0);
    net.add(0, |config| config.slot = 15);
    net.add(1, |config| config.slot = 3);
    net.introduce(0, 1);
    net.introduce(1, 0);
    net.settle();
    assert_eq!(net.nodes[0].sending().index() >> 28, 15);
    assert_eq!(net.nodes[1].sending().index() >> 28, 3);
    net.send_fast(0, 1, b"x");
    let datagram = &net.seen.last().unwrap().bytes;
    assert_eq!(crate::receiver_index(datagram).unwrap() >> 28, 3);
    assert_eq!(crate::data_kind(datagram), Some(Kind::Packet));
}

/// Sends `count` packets of 1400 bytes, 20 a second, each of which is answered by a small one, as with TCP. How many arrived.
fn large_packets(net: &mut Net, count: usize) -> usize {
    let mut arrived = 0;
    for n in 0..count {
        net.send_fast(0, 1, &[u8::try_from(n % 256).unwrap(); 1400]);
        net.run(ms(50));
        if !net.nodes[1].packets().is_empty() {
            arrived += net.nodes[1].packets().len();
            net.send_fast(1, 0, b"ack");
        }
        net.nodes.iter_mut().for_each(|node| node.events.clear());
        net.seen.clear();
    }
    arrived
}

#[test]
fn a_way_that_swallows_large_packets_without_a_word_is_found_out() {
    let mut net = Net::new(2);
    net.settle();
    assert_eq!(large_packets(&mut net, 20), 20);
    let most = std::rc::Rc::new(std::cell::Cell::new(1300));
    let limit = std::rc::Rc::clone(&most);
    net.filter = Box::new(move |flight| flight.bytes.len() + 28 <= limit.get());
    let arrived = large_packets(&mut net, 200);
    assert!(arrived > 140, "{arrived} of 200");
    // Some hundred octets less each, in two datagrams.
    assert_eq!(net.nodes[0].sending().max_payload(), 1300 - 28 - 32);
    assert_eq!(large_packets(&mut net, 100), 100);
    // Ten minutes later it is tried whether more passes, which costs nothing if not.
    assert_eq!(large_packets(&mut net, 20 * 660), 20 * 660);
    most.set(1500);
    assert_eq!(large_packets(&mut net, 20 * 660), 20 * 660);
    assert_eq!(net.nodes[0].sending().max_payload(), 1440);
}

#[test]
fn small_packets_cost_no_trial_of_sizes() {
    let mut net = Net::new(2);
    net.settle();
    net.seen.clear();
    for _ in 0..600 {
        net.send_fast(0, 1, &[0; 100]);
        net.send_fast(1, 0, &[0; 100]);
        net.run(ms(50));
    }
    assert!(net.seen.iter().all(|flight| flight.bytes.len() < 300));
}
