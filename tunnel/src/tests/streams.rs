//! Where UDP does not pass: datagrams in streams of the overlay's connections.

use super::net::{Net, ms, secs};
use crate::{DropReason, Endpoint, Event, Kind};

/// Lets no datagram by UDP out of, or to, these nodes.
fn block(net: &mut Net, blocked: &[usize]) {
    let blocked: Vec<_> = blocked.iter().map(|n| net.nodes[*n].addr).collect();
    net.filter = Box::new(move |flight| !blocked.contains(&flight.from) && !blocked.contains(&flight.to));
}

fn taken(net: &Net, a: usize, b: usize) -> Option<Endpoint> {
    net.view(a, b).endpoint
}

fn stream_to(net: &Net, n: usize) -> Endpoint {
    Endpoint::Stream(net.nodes[n].id)
}

#[test]
fn a_stream_carries_the_first_packet_where_udp_is_blocked() {
    let mut net = Net::new(2);
    block(&mut net, &[0]);
    net.connect(0, 1, true);
    net.send(0, 1, b"first");
    net.run(ms(850));
    assert_eq!(net.streamed, 0, "addresses go first");
    net.run(ms(150));
    assert_eq!(net.nodes[1].packets(), [b"first"]);
    assert_eq!((taken(&net, 0, 1), taken(&net, 1, 0)), (Some(stream_to(&net, 1)), Some(stream_to(&net, 0))));
    net.send_fast(1, 0, b"back");
    net.run(ms(50));
    assert_eq!(net.nodes[0].packets(), [b"back"]);
}

#[test]
fn a_stream_that_comes_late_is_taken_by_what_waits() {
    let mut net = Net::new(2);
    block(&mut net, &[0]);
    net.send(0, 1, b"first");
    net.run(ms(2500));
    net.connect(0, 1, true);
    net.run(ms(100));
    assert_eq!(net.nodes[1].packets(), [b"first"]);
}

/// Both know each other's keys, and have a connection, but nobody has said where either is.
fn acquainted() -> Net {
    let mut net = Net::strangers(2);
    for (a, b) in [(0, 1), (1, 0)] {
        let (id, keys, now) = (net.nodes[b].id, net.nodes[b].keys(), net.now);
        net.nodes[a].tunnel.set_peer(id, keys, now);
    }
    net.connect(0, 1, true);
    net
}

#[test]
fn nothing_goes_in_a_stream_while_addresses_are_asked_for() {
    let mut net = acquainted();
    net.send(0, 1, b"first");
    net.run(ms(300));
    net.introduce(0, 1);
    net.run(secs(2));
    assert_eq!((net.nodes[1].packets(), net.streamed), (vec![b"first".to_vec()], 0));
}

#[test]
fn a_stream_that_was_first_is_left_when_addresses_become_known() {
    let mut net = acquainted();
    net.send(0, 1, b"first");
    net.run(ms(850));
    net.nodes[0].events.clear();
    net.run(ms(150));
    assert_eq!(net.nodes[1].packets(), [b"first"]);
    assert_eq!(taken(&net, 0, 1), Some(stream_to(&net, 1)));
    let asked = |n: &usize| net.nodes[*n].events.iter().any(|(_, event)| matches!(event, Event::NeedPeer { .. }));
    assert!([0, 1].iter().any(asked), "where the peer is was not asked");
    // Nothing is sent any more, and yet it is left.
    net.introduce(0, 1);
    net.introduce(1, 0);
    net.run(secs(1));
    assert_eq!(taken(&net, 0, 1), Some(Endpoint::Direct(net.nodes[1].addr)));
    assert_eq!(taken(&net, 1, 0), Some(Endpoint::Direct(net.nodes[0].addr)));
}

#[test]
fn nothing_goes_in_a_stream_while_udp_passes() {
    let mut net = Net::new(2);
    net.connect(0, 1, true);
    for round in 0..300u32 {
        net.send(0, 1, &round.to_be_bytes());
        net.run(secs(1));
    }
    assert_eq!((net.nodes[1].packets().len(), net.streamed), (300, 0));
}

#[test]
fn udp_is_taken_as_soon_as_it_passes_and_nothing_is_lost() {
    let mut net = Net::new(2);
    block(&mut net, &[0]);
    net.connect(0, 1, true);
    net.send(0, 1, &0u32.to_be_bytes());
    net.run(secs(1));
    let mut sent = 1u32;
    let mut talk = |net: &mut Net, rounds: u32| {
        for _ in 0..rounds {
            net.send_fast(0, 1, &sent.to_be_bytes());
            sent += 1;
            net.run(ms(100));
            if net.nodes[0].events.iter().any(|(_, event)| matches!(event, Event::NeedPeer { .. })) {
                // As the engine does: each side is told anew where the other one is.
                net.nodes[0].events.clear();
                net.introduce(0, 1);
                net.introduce(1, 0);
            }
        }
        sent
    };
    talk(&mut net, 50);
    assert_eq!(taken(&net, 0, 1), Some(stream_to(&net, 1)));
    net.filter = Box::new(|_| true);
    let all = talk(&mut net, 1000);
    assert_eq!(taken(&net, 0, 1), Some(Endpoint::Direct(net.nodes[1].addr)));
    let got = net.nodes[1].packets();
    let ordered = got.iter().zip(0u32..).all(|(packet, n)| *packet == n.to_be_bytes());
    assert!(ordered && got.len() == usize::try_from(all).unwrap(), "{} of {all}", got.len());
}

#[test]
fn a_stream_takes_over_where_udp_is_blocked_in_mid_session() {
    let mut net = Net::new(2);
    net.settle();
    net.connect(0, 1, true);
    block(&mut net, &[0]);
    let mut dark = 0;
    while net.nodes[1].packets().is_empty() && dark < 100 {
        net.send_fast(0, 1, b"there?");
        net.run(ms(100));
        dark += 1;
    }
    assert!(dark <= 70, "dark for {dark} tenths of a second");
    assert_eq!(taken(&net, 0, 1), Some(stream_to(&net, 1)));
}

#[test]
fn a_relay_that_is_reached_by_a_stream_carries() {
    for both in [false, true] {
        let mut net = Net::strangers(3);
        let blocked: &[usize] = if both { &[0, 1] } else { &[0] };
        block(&mut net, blocked);
        for (a, b) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
            net.introduce(a, b);
        }
        net.connect(0, 2, true);
        net.connect(1, 2, true);
        net.send(0, 1, b"first");
        net.open(0, 2, 1);
        net.open(1, 2, 0);
        net.run(ms(1500));
        assert_eq!(net.nodes[1].packets(), [b"first"], "both: {both}");
        let relays = [taken(&net, 0, 1), taken(&net, 1, 0)].map(|way| way.and_then(Endpoint::relay));
        assert_eq!(relays, [Some(net.nodes[2].id); 2]);
        net.send_fast(1, 0, b"back");
        net.run(ms(100));
        assert_eq!(net.nodes[0].packets(), [b"back"], "both: {both}");
    }
}

#[test]
fn a_stream_that_ends_is_left_at_once() {
    let mut net = Net::new(2);
    block(&mut net, &[0]);
    net.connect(0, 1, true);
    net.send(0, 1, b"first");
    net.run(secs(2));
    net.connect(0, 1, false);
    assert_eq!(taken(&net, 0, 1), None);
    net.send(0, 1, b"second");
    net.connect(0, 1, true);
    net.run(secs(2));
    assert_eq!(net.nodes[1].packets(), [b"first".as_slice(), b"second"]);
}

#[test]
fn a_datagram_of_one_member_in_the_stream_of_another_one_is_dropped() {
    let mut net = Net::new(3);
    net.settle();
    let mut datagram = Vec::new();
    net.nodes[0]
        .tunnel
        .sessions()
        .iter()
        .find(|view| view.peer == net.nodes[1].id)
        .unwrap()
        .session
        .seal(Kind::Packet, &[], b"stolen", &mut datagram)
        .unwrap();
    let thief = Endpoint::Stream(net.nodes[2].id);
    net.inject(1, thief, &datagram);
    net.run(secs(1));
    assert_eq!((net.nodes[1].packets().len(), net.nodes[1].drops(DropReason::ForeignStream)), (0, 1));
    assert_ne!(taken(&net, 1, 0), Some(thief));
}
