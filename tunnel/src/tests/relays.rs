//! Two members that a third one carries, and the choice among several ways.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::net::{Net, ms, secs};
use crate::wire::{HEADER, TAG};
use crate::{DropReason, Endpoint, Event, Kind};

/// Nodes 0 and 1, which cannot reach each other until the cell says so; all others reach all.
fn apart(n: u8) -> (Net, Rc<Cell<bool>>) {
    let mut net = Net::new(n);
    let direct = Rc::new(Cell::new(false));
    let (a, b, open) = (net.nodes[0].addr, net.nodes[1].addr, Rc::clone(&direct));
    net.filter = Box::new(move |flight| open.get() || ![(a, b), (b, a)].contains(&(flight.from, flight.to)));
    (net, direct)
}

/// Nodes 0 and 1 with a session over node 2.
fn over_a_relay(n: u8) -> (Net, Rc<Cell<bool>>) {
    let (mut net, direct) = apart(n);
    net.send(0, 1, b"first");
    net.open(0, 2, 1);
    net.open(1, 2, 0);
    net.run(secs(1));
    assert_eq!(net.nodes[1].packets(), [b"first"]);
    assert!(is_relayed_by(&net, 0, 1, 2) && is_relayed_by(&net, 1, 0, 2));
    net.nodes.iter_mut().for_each(|node| node.events.clear());
    net.seen.clear();
    (net, direct)
}

fn is_relayed_by(net: &Net, a: usize, b: usize, by: usize) -> bool {
    let id = net.nodes[by].id;
    matches!(net.view(a, b).endpoint, Some(Endpoint::Relayed { relay, .. }) if relay == id)
}

fn is_direct(net: &Net, a: usize, b: usize) -> bool {
    net.view(a, b).endpoint == Some(Endpoint::Direct(net.nodes[b].addr))
}

/// Packets of both directions, one in each `pause`, for `time`; numbered on from `first`. Returns how many.
fn stream(net: &mut Net, first: u32, time: Duration, pause: Duration) -> u32 {
    let count = u32::try_from(time.as_micros() / pause.as_micros()).unwrap();
    for n in first..first + count {
        net.send_fast(0, 1, &n.to_be_bytes());
        net.send_fast(1, 0, &n.to_be_bytes());
        net.run(pause);
    }
    count
}

/// Which packets of a stream of `count` node `n` has not got. Fails if it has got one twice.
fn missing(net: &Net, n: usize, count: u32) -> BTreeSet<u32> {
    let mut missing: BTreeSet<u32> = (0..count).collect();
    for packet in net.nodes[n].packets() {
        let number = u32::from_be_bytes(packet.try_into().unwrap());
        assert!(missing.remove(&number), "{number} came twice");
    }
    missing
}

#[test]
fn the_first_packet_takes_the_relay_and_nobody_reads_it_there() {
    let (mut net, _) = apart(3);
    net.send(0, 1, b"what only the other end may read");
    net.open(0, 2, 1);
    net.open(1, 2, 0);
    net.run(ms(110));
    assert_eq!(net.nodes[1].packets().len(), 1, "sessions 20 ms, circuit 20 ms, handshake 40 ms, packet 20 ms");
    assert!(net.nodes[2].events.iter().all(|(_, event)| super::net::message(event).is_none()));
    net.send_fast(1, 0, &[7; 1400]);
    net.run(ms(20));
    assert_eq!(net.nodes[0].packets(), [vec![7; 1400]]);
    let inside =
        |bytes: &[u8]| net.seen.iter().any(|flight| flight.bytes.windows(bytes.len()).any(|part| part == bytes));
    assert!(!inside(b"only the other") && !inside(&[7; 16]));
    assert_eq!(net.nodes[2].tunnel.carried().0, 1);
}

#[test]
fn a_carried_datagram_costs_32_bytes_and_the_ends_know() {
    let (mut net, _) = over_a_relay(3);
    assert_eq!(
        net.nodes[0].tunnel.sessions().iter().filter(|view| view.endpoint.and_then(Endpoint::relay).is_some()).count(),
        1
    );
    let max = |net: &Net| {
        let of_b = |view: &&crate::SessionView| view.peer == net.nodes[1].id;
        let sessions = net.nodes[0].tunnel.sessions();
        sessions.iter().find(of_b).unwrap().session.max_payload()
    };
    assert_eq!(max(&net), 1500 - 28 - 2 * (HEADER + TAG));
    net.send_fast(0, 1, &[1; 1408]);
    assert_eq!(net.seen.last().unwrap().bytes.len(), 1472, "an outer packet of 1500 bytes");
    net.send(0, 1, &[2; 1409]);
    net.run(ms(30));
    assert_eq!(net.nodes[1].packets(), [vec![1; 1408], vec![2; 1409]], "what is larger goes in parts");
    // The relay's way to the other end is the narrower one.
    let relay = net.nodes[2].addr;
    net.nodes[0].tunnel.handle_too_big(relay, 1300, net.now);
    net.drain(0);
    net.filter = Box::new(move |flight| flight.to != relay || flight.bytes.len() <= 1272);
    net.send(0, 1, &[3; 1408]);
    net.run(ms(30));
    assert_eq!(net.nodes[1].packets().len(), 3);
}

#[test]
fn whoever_comes_last_completes_the_circuit() {
    for (first, second) in [(0, 1), (1, 0)] {
        let (mut net, _) = apart(3);
        net.open(first, 2, second);
        net.run(secs(4));
        assert_eq!(net.nodes[2].tunnel.carried().0, 0);
        net.open(second, 2, first);
        net.send(0, 1, b"x");
        net.run(ms(200));
        assert_eq!(net.nodes[1].packets(), [b"x"]);
        assert_eq!(net.nodes[2].tunnel.carried().0, 1);
    }
}

#[test]
fn an_end_that_the_relay_knows_already_need_not_ask() {
    let (mut net, _) = apart(3);
    net.send(1, 2, b"here");
    net.run(secs(1));
    net.send(0, 1, b"x");
    net.open(0, 2, 1);
    net.run(ms(200));
    assert_eq!(net.nodes[1].packets(), [b"x"]);
}

#[test]
fn both_leave_the_relay_when_a_direct_way_opens_and_no_packet_is_lost_or_doubled() {
    let (mut net, direct) = over_a_relay(3);
    let mut count = stream(&mut net, 0, secs(6), ms(5));
    direct.set(true);
    count += stream(&mut net, count, secs(1), ms(5));
    assert!(is_relayed_by(&net, 0, 1, 2), "nobody has asked yet");
    // Which is when the caller signals.
    assert!(net.nodes[..2].iter().all(|node| node.has(|event| matches!(event, Event::NeedPeer { .. }))));
    net.introduce(0, 1);
    count += stream(&mut net, count, secs(2), ms(5));
    assert!(is_direct(&net, 0, 1) && is_direct(&net, 1, 0));
    net.run(secs(1));
    assert_eq!((missing(&net, 0, count), missing(&net, 1, count)), (BTreeSet::new(), BTreeSet::new()));
    assert_eq!(net.nodes.iter().map(|node| node.drops(DropReason::Replayed)).sum::<u64>(), 0);
}

#[test]
fn while_the_relay_is_in_use_new_addresses_are_asked_for_ever_less_often() {
    let (mut net, _) = over_a_relay(3);
    let needs = |net: &Net| net.nodes[0].count(|event| matches!(event, Event::NeedPeer { .. }));
    stream(&mut net, 0, secs(7), ms(100));
    assert_eq!(needs(&net), 1);
    stream(&mut net, 0, secs(300), ms(100));
    assert!((4..=8).contains(&needs(&net)), "{}", needs(&net));
}

#[test]
fn a_direct_way_that_dies_is_replaced_by_the_relay_behind_it() {
    let (mut net, direct) = over_a_relay(3);
    net.run(secs(5));
    direct.set(true);
    net.introduce(0, 1);
    let mut count = stream(&mut net, 0, secs(60), ms(20));
    assert!(is_direct(&net, 0, 1) && is_direct(&net, 1, 0));
    assert_eq!(net.nodes[2].tunnel.carried().0, 1, "the circuit is kept");
    direct.set(false);
    count += stream(&mut net, count, secs(10), ms(20));
    let lost = missing(&net, 1, count);
    let (first, last) = (*lost.first().unwrap(), *lost.last().unwrap());
    assert!((last - first) * 20 < 5000, "{} ms", (last - first) * 20);
    assert!(is_relayed_by(&net, 0, 1, 2) && is_relayed_by(&net, 1, 0, 2));
    assert!(!net.nodes[0].has(|event| matches!(event, Event::PeerDown { .. })), "the peer was there all the time");
}

/// The circuits behind it are asked every twenty seconds, and their answers say nothing of the way that is taken.
#[test]
fn a_direct_way_that_dies_while_the_circuit_behind_it_is_asked_is_missed_as_soon_as_at_any_other_time() {
    let mut worst = 0;
    for second in 0..20 {
        let (mut net, direct) = over_a_relay(3);
        net.run(secs(5));
        direct.set(true);
        net.introduce(0, 1);
        let mut count = stream(&mut net, 0, secs(15 + second), ms(50));
        assert!(is_direct(&net, 0, 1) && is_direct(&net, 1, 0));
        direct.set(false);
        count += stream(&mut net, count, secs(8), ms(50));
        let lost = missing(&net, 1, count);
        worst = worst.max((lost.last().unwrap() - lost.first().unwrap()) * 50);
    }
    assert!(worst < 4200, "{worst} ms");
}

/// Only from 0 to 1 the direct way is open: nothing that node 1 sends there arrives.
#[test]
fn a_way_that_works_in_one_direction_is_not_taken() {
    let (mut net, _) = over_a_relay(3);
    let (a, b) = (net.nodes[0].addr, net.nodes[1].addr);
    net.filter = Box::new(move |flight| (flight.from, flight.to) != (b, a));
    net.introduce(0, 1);
    net.introduce(1, 0);
    let count = stream(&mut net, 0, secs(30), ms(20));
    net.run(secs(1));
    assert_eq!((missing(&net, 0, count).len(), missing(&net, 1, count).len()), (0, 0));
    assert!(is_relayed_by(&net, 0, 1, 2) && is_relayed_by(&net, 1, 0, 2));
}

#[test]
fn a_relay_that_is_gone_is_replaced_by_the_other_one() {
    let (mut net, _) = over_a_relay(4);
    net.open(0, 3, 1);
    net.open(1, 3, 0);
    let mut count = stream(&mut net, 0, secs(5), ms(20));
    let (a, b, dead) = (net.nodes[0].addr, net.nodes[1].addr, net.nodes[2].addr);
    net.filter = Box::new(move |f| f.from != dead && f.to != dead && ![(a, b), (b, a)].contains(&(f.from, f.to)));
    count += stream(&mut net, count, secs(20), ms(20));
    let lost = missing(&net, 1, count);
    assert!((lost.last().unwrap() - lost.first().unwrap()) * 20 < 5000, "{} packets", lost.len());
    assert!(is_relayed_by(&net, 0, 1, 3) && is_relayed_by(&net, 1, 0, 3));
}

/// It answers for itself, and carries nothing.
#[test]
fn a_relay_that_drops_what_it_should_carry_is_left() {
    let (mut net, _) = over_a_relay(4);
    net.open(0, 3, 1);
    net.open(1, 3, 0);
    let mut count = stream(&mut net, 0, secs(5), ms(20));
    let (a, b, liar) = (net.nodes[0].addr, net.nodes[1].addr, net.nodes[2].addr);
    net.filter = Box::new(move |flight| {
        let carried = flight.bytes.starts_with(&[4, Kind::Carried as u8]);
        (flight.from != liar || !carried) && ![(a, b), (b, a)].contains(&(flight.from, flight.to))
    });
    count += stream(&mut net, count, secs(20), ms(20));
    let lost = missing(&net, 1, count);
    assert!((lost.last().unwrap() - lost.first().unwrap()) * 20 < 5000, "{} packets", lost.len());
    assert!(is_relayed_by(&net, 0, 1, 3) && is_relayed_by(&net, 1, 0, 3));
}

/// Packets go both ways all the time, so that never all of them are answered.
#[test]
fn a_way_that_dies_a_second_time_is_missed_as_soon_as_the_first_time() {
    let (mut net, direct) = over_a_relay(3);
    // Silent addresses are not tried again at once.
    let mut count = stream(&mut net, 0, secs(6), ms(50));
    for time in 1..4 {
        direct.set(true);
        net.introduce(0, 1);
        net.introduce(1, 0);
        count += stream(&mut net, count, ms(7300), ms(50));
        assert!(is_direct(&net, 0, 1) && is_direct(&net, 1, 0));
        direct.set(false);
        let before = missing(&net, 1, count).len();
        count += stream(&mut net, count, secs(20), ms(50));
        let lost = missing(&net, 1, count).len() - before;
        assert!(lost * 50 < 5000, "{lost} packets, time {time}");
    }
}

#[test]
fn who_knows_that_it_has_moved_takes_the_relay_at_once() {
    let (mut net, direct) = over_a_relay(3);
    let mut count = stream(&mut net, 0, secs(6), ms(50));
    direct.set(true);
    net.introduce(0, 1);
    net.introduce(1, 0);
    count += stream(&mut net, count, secs(8), ms(50));
    assert!(is_direct(&net, 0, 1) && is_direct(&net, 1, 0));
    // The router before the other one lets the new address in no more than any other stranger's.
    direct.set(false);
    net.moved(0);
    count += stream(&mut net, count, secs(6), ms(50));
    let lost = [missing(&net, 1, count).len() * 50, missing(&net, 0, count).len() * 50];
    assert!(lost[0] < 1000 && lost[1] < 2000, "there and back: {lost:?} ms");
}

#[test]
fn a_relay_that_begins_to_delay_is_left_within_half_a_minute() {
    let (mut net, _) = over_a_relay(4);
    net.open(0, 3, 1);
    net.open(1, 3, 0);
    stream(&mut net, 0, secs(30), ms(100));
    assert!(is_relayed_by(&net, 0, 1, 2) && is_relayed_by(&net, 1, 0, 2));
    let relay = net.nodes[2].addr;
    net.slow.insert(relay, ms(250));
    stream(&mut net, 300, secs(30), ms(100));
    assert!(is_relayed_by(&net, 0, 1, 3) && is_relayed_by(&net, 1, 0, 3));
}

/// As if it had dropped it, which the test before is about.
#[test]
fn what_a_relay_alters_is_dropped_as_forged() {
    let (mut net, _) = over_a_relay(4);
    net.open(0, 3, 1);
    net.open(1, 3, 0);
    net.run(secs(1));
    // The relay's own session with an end, used to carry a datagram with one bit flipped.
    let leg = net.nodes[2].tunnel.legs().into_iter().find(|leg| leg.to == net.nodes[1].addr.into()).unwrap();
    net.send_fast(0, 1, b"x");
    let mut outer = net.seen.last().unwrap().bytes.clone();
    let of_a = net.nodes[2].tunnel.sessions().into_iter().find(|view| view.peer == net.nodes[0].id).unwrap();
    let mut inner = of_a.session.open(&mut outer).unwrap().payload.to_vec();
    inner[20] ^= 1;
    let mut altered = Vec::new();
    leg.session.seal_carried(Kind::Carried, leg.next, &inner, &mut altered).unwrap();
    net.inject(1, net.nodes[2].addr, &altered);
    assert_eq!(net.nodes[1].drops(DropReason::Forged), 1);
    assert_eq!(net.nodes[1].packets(), Vec::<Vec<u8>>::new());
}

#[test]
fn the_clearly_shorter_of_two_relays_is_taken_and_kept() {
    let (mut net, _) = over_a_relay(4);
    net.open(0, 3, 1);
    net.open(1, 3, 0);
    stream(&mut net, 0, secs(70), ms(100));
    // Both take 40 ms.
    assert!(is_relayed_by(&net, 0, 1, 2) && is_relayed_by(&net, 1, 0, 2), "a tie changes nothing");
    let changes = net.nodes[0].count(|event| matches!(event, Event::SessionsChanged));
    assert!(changes <= 4, "{changes}");
}

#[test]
fn a_relay_that_is_restarted_carries_again_within_seconds() {
    let (mut net, _) = over_a_relay(3);
    let mut count = stream(&mut net, 0, secs(5), ms(20));
    net.restart(2);
    count += stream(&mut net, count, secs(30), ms(20));
    let lost = missing(&net, 1, count);
    assert!((lost.last().unwrap() - lost.first().unwrap()) * 20 < 10_000, "{} packets", lost.len());
    assert!(is_relayed_by(&net, 0, 1, 2));
}

#[test]
fn renewal_of_all_sessions_loses_nothing() {
    let (mut net, _) = over_a_relay(3);
    let count = stream(&mut net, 0, secs(400), ms(100));
    net.run(secs(1));
    assert_eq!((missing(&net, 0, count).len(), missing(&net, 1, count).len()), (0, 0));
}

#[test]
fn an_idle_circuit_is_closed_and_opened_again_when_asked() {
    let (mut net, _) = over_a_relay(3);
    net.run(secs(90));
    assert_eq!(net.nodes[2].tunnel.carried().0, 0);
    assert!(net.nodes[2].tunnel.legs().is_empty());
    net.send(0, 1, b"again");
    net.open(0, 2, 1);
    net.open(1, 2, 0);
    net.run(secs(2));
    assert_eq!(net.nodes[1].packets(), [b"again"]);
}

#[test]
fn who_does_not_carry_says_so() {
    let mut net = Net::strangers(2);
    net.add(2, |config| config.relay = None);
    for (a, b) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
        net.introduce(a, b);
    }
    net.open(0, 2, 1);
    net.open(1, 2, 0);
    net.run(secs(1));
    assert_eq!(net.nodes[0].drops(DropReason::RelayRefused), 1);
    let sent = net.seen.len();
    net.run(secs(30));
    assert!(net.seen.len() < sent + 6, "who was refused does not go on asking");
}

#[test]
fn a_member_sends_through_us_what_it_may_and_no_more() {
    let mut net = Net::strangers(2);
    net.add(2, |config| config.relay = Some(100_000));
    for (a, b) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
        net.introduce(a, b);
    }
    let (a, b) = (net.nodes[0].addr, net.nodes[1].addr);
    net.filter = Box::new(move |flight| ![(a, b), (b, a)].contains(&(flight.from, flight.to)));
    net.send(0, 1, b"first");
    net.open(0, 2, 1);
    net.open(1, 2, 0);
    net.run(secs(1));
    // A thousand bytes each 5 ms are twice that rate.
    for _ in 0..400 {
        net.send_fast(0, 1, &[1; 1000]);
        net.run(ms(5));
    }
    let got = net.nodes[1].packets().len();
    assert!((170..=230).contains(&got), "{got} of 400");
    assert!(net.nodes[2].drops(DropReason::RelayRate) > 100);
    net.nodes[1].events.clear();
    net.send_fast(1, 0, &[2; 1000]);
    net.run(ms(100));
    assert_eq!(net.nodes[0].packets(), [vec![2; 1000]], "the other end has its own share");
}

#[test]
fn no_datagram_is_carried_inside_another_one() {
    let (mut net, _) = over_a_relay(3);
    let view = net.nodes[0]
        .tunnel
        .sessions()
        .into_iter()
        .find(|view| view.endpoint.and_then(Endpoint::relay).is_some())
        .unwrap();
    let mut inner = Vec::new();
    view.session.seal_carried(Kind::Forward, 9, b"one of the sort that is carried", &mut inner).unwrap();
    let Some(crate::Way::Relayed { session, circuit, to }) = view.way else { panic!("{:?}", view.way) };
    let mut outer = Vec::new();
    session.seal_carried(Kind::Forward, circuit, &inner, &mut outer).unwrap();
    let from = net.nodes[0].addr;
    assert_eq!(to, net.nodes[2].addr.into());
    net.inject(2, from, &outer);
    net.run(ms(20));
    assert_eq!(net.nodes[1].drops(DropReason::NestedRelay), 1);
}

#[test]
fn a_circuit_that_is_not_theirs_carries_nothing() {
    let (mut net, _) = over_a_relay(4);
    net.send(3, 2, b"hello");
    net.run(secs(1));
    let of_relay = net.nodes[2].id;
    let view = net.nodes[3].tunnel.sessions().into_iter().find(|view| view.peer == of_relay).unwrap();
    let before = net.nodes[1].drops(DropReason::UnknownIndex);
    for circuit in 0..=u16::MAX {
        let mut outer = Vec::new();
        view.session.seal_carried(Kind::Forward, circuit, &[4; 40], &mut outer).unwrap();
        let wall = net.wall();
        let (from, now) = (net.nodes[3].addr, net.now);
        net.nodes[2].tunnel.handle_datagram(from, &outer, wall, now);
    }
    net.drain(2);
    net.run(ms(20));
    assert_eq!(net.nodes[2].drops(DropReason::NoCircuit), 65_536);
    assert_eq!(net.nodes[1].drops(DropReason::UnknownIndex), before);
    let answers = net.seen.iter().filter(|flight| flight.to == net.nodes[3].addr).count();
    assert!(answers < 10, "{answers} answers to 65536 datagrams");
}

/// A relay that nobody reaches is not asked a day later for what was wanted then.
#[test]
fn a_wish_that_could_not_be_told_is_forgotten() {
    let (mut net, _) = apart(3);
    let relay = net.nodes[2].addr;
    net.filter = Box::new(move |flight| flight.to != relay);
    net.open(0, 2, 1);
    net.run(secs(200));
    net.filter = Box::new(|_| true);
    net.introduce(0, 2);
    net.send(1, 2, b"here");
    net.send(0, 2, b"here");
    net.run(secs(2));
    assert_eq!(net.nodes[2].packets(), [b"here", b"here"]);
    assert_eq!(net.nodes[2].tunnel.carried().0, 0);
}

#[test]
fn circuits_of_one_member_are_limited_and_so_are_wishes() {
    let n = u8::try_from(crate::limits::CIRCUITS_PER_PEER).unwrap() + 3;
    let mut net = Net::strangers(0);
    for node in 0..n {
        net.add(node, |_| {});
    }
    for node in 1..usize::from(n) {
        net.introduce(0, node);
        net.introduce(node, 0);
        net.send(node, 0, b"here");
    }
    net.run(secs(1));
    // Node 1 wants to reach everybody.
    for node in 2..usize::from(n) {
        net.introduce(1, node);
        net.open(1, 0, node);
        net.run(ms(50));
    }
    net.run(secs(1));
    assert_eq!(net.nodes[0].tunnel.carried().0, crate::limits::CIRCUITS_PER_PEER);
    assert_eq!(net.nodes[0].drops(DropReason::CircuitRefused), 1);
    let wishes = crate::limits::CIRCUITS_PER_PEER + 5;
    net.filter = Box::new(|_| false);
    for other in 0..u8::try_from(wishes).unwrap() {
        let (relay, now) = (net.nodes[2].id, net.now);
        net.nodes[1].tunnel.open_circuit(relay, super::net::peer_id([other; 32]), now);
    }
    assert_eq!(net.nodes[1].drops(DropReason::TooManyWishes), 5);
}

#[test]
fn a_peer_that_moves_behind_a_relay_stays_reachable() {
    let (mut net, _) = over_a_relay(3);
    let home = net.nodes[0].addr;
    let elsewhere: SocketAddr = "203.0.113.99:999".parse().unwrap();
    let mut count = stream(&mut net, 0, secs(2), ms(20));
    net.moved.insert(home, elsewhere);
    count += stream(&mut net, count, secs(5), ms(20));
    net.run(secs(1));
    let lost = missing(&net, 0, count);
    assert!(lost.len() <= 5, "what was under way to where it was: {lost:?}");
    let lost = missing(&net, 1, count);
    assert!(lost.len() <= 2, "{lost:?}");
}

#[test]
fn any_order_of_what_happens_leaves_a_pair_connected() {
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};
    for seed in 0..40 {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut net = Net::new(4);
        // Which of the links 0-1, 0-2, 1-2, 0-3, 1-3 are cut.
        let cut = Rc::new(RefCell::new(BTreeSet::<(SocketAddr, SocketAddr)>::new()));
        let seen = Rc::clone(&cut);
        net.filter = Box::new(move |f| !seen.borrow().contains(&(f.from.min(f.to), f.from.max(f.to))));
        let links = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3)].map(|(a, b): (usize, usize)| {
            let (a, b) = (net.nodes[a].addr, net.nodes[b].addr);
            (a.min(b), a.max(b))
        });
        for _ in 0..30 {
            let link = links[rng.next_u32() as usize % links.len()];
            let mut now_cut = cut.borrow_mut();
            if !now_cut.remove(&link) {
                now_cut.insert(link);
            }
            drop(now_cut);
            for (a, b) in [(0, 1), (1, 0)] {
                // What the engine does when it is asked.
                if net.nodes[a].has(|event| matches!(event, Event::NeedPeer { .. })) {
                    net.nodes[a].events.clear();
                    net.introduce(a, b);
                    net.introduce(b, a);
                    for relay in [2, 3] {
                        net.open(a, relay, b);
                        net.open(b, relay, a);
                    }
                }
            }
            net.send_fast(0, 1, b"x");
            net.run(ms(u64::from(rng.next_u32()) % 20_000));
        }
        cut.borrow_mut().clear();
        net.introduce(0, 1);
        net.introduce(1, 0);
        net.nodes[1].events.clear();
        for _ in 0..200 {
            net.send_fast(0, 1, b"end");
            net.send_fast(1, 0, b"end");
            net.run(ms(100));
        }
        assert!(is_direct(&net, 0, 1) && is_direct(&net, 1, 0), "seed {seed}: {:?}", net.view(0, 1));
        assert!(net.nodes[1].packets().len() > 80, "seed {seed}: {}", net.nodes[1].packets().len());
    }
}
