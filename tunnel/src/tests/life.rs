//! The life of a session: it comes up, carries, is renewed, falls silent, comes back.

use std::time::Duration;

use super::net::{Net, message, ms, secs};
use crate::{Candidate, CandidateKind, DropReason, Event, Kind};

#[test]
fn the_first_packet_arrives_after_one_and_a_half_round_trips() {
    let mut net = Net::new(2);
    net.send(0, 1, b"first");
    net.run(ms(29));
    assert!(net.nodes[1].packets().is_empty());
    net.run(ms(1));
    assert_eq!(net.nodes[1].packets(), [b"first"]);
    net.run(secs(1));
    let (a, b) = (net.nodes[0].id, net.nodes[1].id);
    assert!(net.nodes[0].has(|event| *event == Event::PeerUp { peer: b }));
    assert!(net.nodes[1].has(|event| *event == Event::PeerUp { peer: a }));
    assert_eq!(net.nodes[0].tunnel.peer(&b, net.now).unwrap().rtt, Some(ms(20)));
    assert_eq!(net.nodes[1].tunnel.peer(&a, net.now).unwrap().rtt, Some(ms(20)));
    let seen = net.nodes[0].addr;
    assert!(net.nodes[0].has(|event| *event == Event::EndpointObserved { by: b, addr: seen }));
}

#[test]
fn eight_packets_wait_and_leave_in_order() {
    let mut net = Net::new(2);
    (0..8).for_each(|n| net.send(0, 1, &[n]));
    net.run(secs(1));
    assert_eq!(net.nodes[1].packets(), (0..8).map(|n| vec![n]).collect::<Vec<_>>());
}

#[test]
fn what_the_caller_sends_on_peer_up_leaves_before_what_waited() {
    let mut net = Net::new(2);
    net.send(0, 1, b"first");
    net.send(0, 1, b"second");
    net.run(ms(10));
    let resp = net.seen.last().unwrap().clone();
    let (b, now) = (net.nodes[1].id, net.now);
    let tunnel = &mut net.nodes[0].tunnel;
    tunnel.handle_datagram(resp.from, &resp.bytes, 0, now);
    while let Some(event) = tunnel.poll_event() {
        if event == (Event::PeerUp { peer: b }) {
            tunnel.send(b, Kind::Packet, b"third", now);
            tunnel.send(b, Kind::Control, &[16], now);
        }
    }
    net.drain(0);
    net.run(ms(10));
    let order: Vec<_> = net.nodes[1].events.iter().filter_map(|(_, event)| message(event)).map(|(_, p)| p).collect();
    assert_eq!(order, [&[16][..], b"first", b"second", b"third"]);
}

#[test]
fn both_directions_and_all_kinds_are_carried() {
    let mut net = Net::new(2);
    net.settle();
    net.send(1, 0, b"back");
    net.send_as(0, 1, Kind::Offloaded, b"offload.packet");
    net.send_as(0, 1, Kind::Control, &[16, 1, 2]);
    net.run(secs(1));
    assert_eq!(net.nodes[0].packets(), [b"back"]);
    let kinds: Vec<_> = net.nodes[1].events.iter().filter_map(|(_, event)| message(event)).collect();
    assert_eq!(kinds, [(Kind::Offloaded, b"offload.packet".to_vec()), (Kind::Control, vec![16, 1, 2])]);
}

#[test]
fn large_payloads_cross_in_fragments() {
    let mut net = Net::new(2);
    net.nodes[1].tunnel.set_heads([9; 8]);
    let payload: Vec<u8> = (0..40_000u32).map(|n| n.to_be_bytes()[3] ^ n.to_be_bytes()[2]).collect();
    net.send_as(0, 1, Kind::Offloaded, &payload);
    net.run(secs(1));
    assert_eq!(net.nodes[1].packets(), [payload]);
    assert!(net.seen.iter().all(|flight| flight.bytes.len() <= 1500 - 28));
}

#[test]
fn the_wire_shows_no_inner_byte_and_only_the_lengths_it_must() {
    let mut net = Net::new(2);
    let secret = b"a secret that nobody on the way may read";
    net.send(0, 1, secret);
    net.send(1, 0, secret);
    net.run(secs(30));
    net.send(1, 0, secret);
    net.run(secs(1));
    assert_eq!(net.nodes[0].packets().len(), 2);
    let mut control = 0;
    for flight in &net.seen {
        let bytes = &flight.bytes;
        assert!(!bytes.windows(8).any(|window| secret.windows(8).any(|part| part == window)));
        for node in &net.nodes {
            let identity = &node.id.to_bytes()[6..];
            for hidden in [&node.keys().x25519[..], &node.keys().credential_hash, identity] {
                assert!(!bytes.windows(32).any(|window| window == hidden));
            }
        }
        match (bytes[0], bytes[1]) {
            (1, 1) => assert_eq!(bytes.len(), 204),
            (2, 1) => assert_eq!(bytes.len(), 152),
            (4, 0) => assert_eq!(bytes.len(), 32 + secret.len()),
            (4, 3) => control += 1,
            other => panic!("{other:?} on the wire"),
        }
    }
    assert!(control > 0);
}

#[test]
fn an_idle_pair_sends_nothing_at_all() {
    let mut net = Net::new(2);
    net.send(0, 1, b"x");
    net.run(secs(30));
    net.seen.clear();
    net.run(secs(3600));
    assert_eq!(net.seen.len(), 0);
    let down = |event: &Event| matches!(event, Event::PeerDown { reason: "idle", .. });
    assert!(net.nodes.iter().all(|node| node.count(down) == 1));
    assert!(net.nodes.iter().all(|node| node.tunnel.poll_timeout().is_none()), "and wakes up for nothing");
    assert!(net.nodes.iter().all(|node| node.tunnel.sessions().is_empty()), "and keeps no key");
}

#[test]
fn after_the_last_packet_each_side_sends_one_keepalive_at_most() {
    let mut net = Net::new(2);
    net.settle();
    net.run(secs(20));
    net.seen.clear();
    net.send_fast(0, 1, b"ping");
    net.run(ms(100));
    net.send_fast(1, 0, b"pong");
    net.run(secs(60));
    // After the rest an echo and its answer as well.
    assert!(net.seen.len() <= 6, "{:#?}", net.seen);
    assert!(net.seen.iter().all(|flight| flight.bytes[0] == 4), "and no handshake");
}

#[test]
fn a_one_way_stream_is_answered_by_keepalives_and_not_by_handshakes() {
    let mut net = Net::new(2);
    net.settle();
    for _ in 0..100 {
        net.send_fast(0, 1, b"x");
        net.run(secs(1));
    }
    let back = net.seen.iter().filter(|flight| flight.from == net.nodes[1].addr).count();
    assert!((5..=12).contains(&back), "{back} datagrams back in 100 s");
    assert!(net.seen.iter().all(|flight| flight.bytes[0] == 4));
}

/// Streams at 10 packets a second in the given directions over several renewals.
fn stream(directions: &[(usize, usize)], loss: impl Fn(&super::net::Flight) -> bool + 'static) -> (Net, u32) {
    let mut net = Net::new(2);
    net.latency = ms(50);
    net.settle();
    net.filter = Box::new(move |flight| !loss(flight));
    let mut sent = 0;
    for _ in 0..6000 {
        for (a, b) in directions {
            net.send_fast(*a, *b, &[0; 100]);
            sent += 1;
        }
        net.run(ms(100));
    }
    net.run(secs(2));
    (net, sent)
}

#[test]
fn renewal_under_traffic_loses_nothing_whoever_sends() {
    for directions in [&[(0, 1)][..], &[(1, 0)], &[(0, 1), (1, 0)]] {
        let (net, sent) = stream(directions, |_| false);
        let arrived = net.nodes.iter().map(|node| node.packets().len()).sum::<usize>();
        assert_eq!(arrived, sent as usize, "{directions:?}");
        let inits = net.seen.iter().filter(|flight| flight.bytes[0] == 1).count();
        assert!((4..=6).contains(&inits), "{inits} handshakes in ten minutes, {directions:?}");
        assert!(net.nodes.iter().all(|node| !node.has(|event| matches!(event, Event::PeerDown { .. }))));
    }
}

#[test]
fn renewal_survives_lost_handshakes() {
    let random = std::cell::Cell::new(1u64);
    let (net, sent) = stream(&[(0, 1), (1, 0)], move |flight| {
        random.set(random.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
        flight.bytes[0] != 4 && (random.get() >> 33).is_multiple_of(3)
    });
    assert_eq!(net.nodes.iter().map(|node| node.packets().len()).sum::<usize>(), sent as usize);
}

#[test]
fn at_most_three_sessions_and_a_key_never_older_than_three_minutes() {
    let mut net = Net::new(2);
    net.settle();
    for _ in 0..4000 {
        net.send_fast(0, 1, b"x");
        net.run(ms(100));
        for node in &net.nodes {
            assert!(node.tunnel.sessions().len() <= 2);
            assert!(node.tunnel.sessions().iter().filter(|view| view.sending).count() <= 1);
        }
    }
    let old = net.nodes[0].sending();
    net.run(secs(181));
    assert!(old.is_closed());
    let mut out = Vec::new();
    assert_eq!(old.seal(Kind::Packet, &[], b"x", &mut out), Err(crate::SealError::Closed));
    assert!(out.is_empty());
}

#[test]
fn lost_handshake_messages_are_repeated_soon() {
    for lost in 0..4 {
        let mut net = Net::new(2);
        let mut left = lost;
        net.filter = Box::new(move |flight| {
            if flight.bytes[0] == 4 || left == 0 {
                return true;
            }
            left -= 1;
            false
        });
        net.send(0, 1, b"x");
        net.run(secs(3));
        // Three Inits to an address that never answered; a lost Resp costs one as well.
        assert_eq!(net.nodes[1].packets().len(), usize::from(lost < 3), "{lost} lost");
    }
}

#[test]
fn lost_first_datagrams_are_made_good_by_the_next_echo() {
    let mut net = Net::new(2);
    let mut left = 2;
    net.filter = Box::new(move |flight| {
        let lost = flight.bytes[0] == 4 && left > 0;
        left -= u32::from(lost);
        !lost
    });
    net.send(1, 0, b"lost");
    net.run(ms(500));
    assert!(net.nodes[0].tunnel.sessions().is_empty(), "the responder has heard nothing yet");
    net.run(ms(1500));
    net.send_fast(0, 1, b"back");
    net.run(ms(100));
    assert_eq!(net.nodes[1].packets(), [b"back"]);
    assert_eq!(net.seen.iter().filter(|flight| flight.bytes[0] == 1).count(), 1);
}

#[test]
fn a_slow_path_comes_up_within_the_life_of_the_first_packet() {
    for rtt in [100, 500, 800, 1100, 1200, 1400] {
        let mut net = Net::new(2);
        net.latency = ms(rtt / 2);
        net.send(0, 1, b"x");
        net.run(secs(4));
        assert_eq!(net.nodes[1].packets().len(), 1, "round trip {rtt} ms");
    }
}

#[test]
fn a_path_that_became_slow_comes_up_again() {
    let mut net = Net::new(2);
    net.settle();
    net.nodes[0].tunnel.erase_all(net.now);
    net.drain(0);
    net.latency = ms(700);
    net.send(0, 1, b"x");
    net.run(secs(4));
    assert_eq!(net.nodes[1].packets().len(), 1);
    assert!(net.nodes[0].drops(DropReason::LateResp) > 0);
}

#[test]
fn a_packet_in_the_last_seconds_of_a_session_is_not_lost() {
    for age in (172_000..182_000).step_by(5).filter(|age| age % 1000 < 30 || age % 1000 > 960) {
        let mut net = Net::new(2);
        net.settle();
        net.run(ms(age - 1000));
        net.send_fast(0, 1, b"late");
        net.run(secs(1));
        assert_eq!(net.nodes[1].packets().len(), 1, "at {age} ms");
    }
}

#[test]
fn a_silent_peer_is_reported_and_what_waited_is_dropped_by_name() {
    let mut net = Net::new(2);
    net.filter = Box::new(|_| false);
    net.send(0, 1, b"x");
    net.run(secs(3));
    assert_eq!(net.nodes[0].drops(DropReason::WaitedTooLong), 1);
    let b = net.nodes[1].id;
    assert!(net.nodes[0].has(|event| *event == Event::NeedPeer { peer: b }));
    assert_eq!(net.nodes[0].tunnel.peer(&b, net.now).unwrap().why_down, Some("no address answers"));
    net.run(secs(600));
    assert_eq!(net.seen.len(), 3, "three Inits to an address that never answered");
    assert!(net.nodes[0].tunnel.poll_timeout().is_none(), "the attempt has an end");
}

#[test]
fn a_peer_without_keys_or_addresses_is_asked_for() {
    let mut net = Net::strangers(2);
    let (a, b) = (net.nodes[0].id, net.nodes[1].id);
    net.send(0, 1, b"waits");
    assert!(net.nodes[0].has(|event| *event == Event::NeedPeer { peer: b }));
    assert_eq!(net.nodes[0].tunnel.peer(&b, net.now).unwrap().why_down, Some("keys unknown"));
    net.run(ms(500));
    let keys = net.nodes[1].keys();
    net.nodes[0].tunnel.set_peer(b, keys, net.now);
    net.run(ms(500));
    assert_eq!(net.nodes[0].tunnel.peer(&b, net.now).unwrap().why_down, Some("no addresses known"));
    net.introduce(1, 0);
    net.introduce(0, 1);
    net.run(ms(100));
    assert_eq!(net.nodes[1].packets(), [b"waits"]);
    assert!(net.nodes[1].has(|event| *event == Event::PeerUp { peer: a }));
}

#[test]
fn a_peer_that_was_named_but_never_admitted_is_forgotten() {
    let mut net = Net::strangers(2);
    net.send(0, 1, b"x");
    net.run(secs(4));
    assert_eq!(net.nodes[0].tunnel.peer(&net.nodes[1].id, net.now), None);
}

#[test]
fn a_peer_that_restarts_is_found_again_by_the_side_that_kept_its_session() {
    let mut net = Net::new(2);
    net.settle();
    net.restart(1);
    let mut healed = None;
    for second in 0..40 {
        net.send_fast(0, 1, b"x");
        net.run(secs(1));
        if healed.is_none() && !net.nodes[1].packets().is_empty() {
            healed = Some(second);
        }
    }
    assert!(healed.is_some_and(|second| second <= 18), "{healed:?}");
    assert!(net.nodes[1].drops(DropReason::UnknownIndex) > 0);
}

#[test]
fn a_peer_that_restarts_and_speaks_is_heard_at_once() {
    let mut net = Net::new(2);
    net.settle();
    net.restart(1);
    net.send(1, 0, b"again");
    net.run(ms(100));
    assert_eq!(net.nodes[0].packets(), [b"again"]);
    net.send_fast(0, 1, b"there");
    net.run(ms(100));
    assert_eq!(net.nodes[1].packets(), [b"there"]);
}

#[test]
fn a_peer_that_went_away_is_down_after_its_attempt_and_comes_back_when_signalled() {
    let mut net = Net::new(2);
    net.settle();
    net.filter = Box::new(|_| false);
    let b = net.nodes[1].id;
    for _ in 0..20 {
        net.send_fast(0, 1, b"x");
        net.run(secs(1));
    }
    assert!(net.nodes[0].has(|event| matches!(event, Event::PeerDown { peer, .. } if *peer == b)));
    assert!(net.nodes[0].has(|event| *event == Event::NeedPeer { peer: b }));
    for _ in 0..100 {
        net.send_fast(0, 1, b"x");
        net.run(secs(1));
    }
    assert!(net.nodes[0].tunnel.sessions().is_empty());
    assert!(net.nodes[0].tunnel.peer(&b, net.now).unwrap().why_down.is_some());
    net.filter = Box::new(|_| true);
    net.run(secs(5));
    net.introduce(0, 1);
    net.send(0, 1, b"back");
    net.run(secs(1));
    assert_eq!(net.nodes[1].packets().last().unwrap(), b"back");
    assert!(net.nodes[0].tunnel.peer(&b, net.now).unwrap().up);
}

#[test]
fn who_looks_for_a_peer_where_it_is_not_lets_it_come() {
    for (looks, comes) in [(0, 1), (1, 0)] {
        let mut net = Net::new(2);
        let id = net.nodes[comes].id;
        let wrong = Candidate { addr: "10.9.9.9:1".parse().unwrap(), kind: CandidateKind::Lan };
        net.nodes[looks].tunnel.set_candidates(id, vec![wrong], net.now);
        net.send(looks, comes, b"looks");
        net.run(ms(5));
        net.send(comes, looks, b"comes");
        net.run(ms(60));
        assert_eq!(
            (net.nodes[looks].packets(), net.nodes[comes].packets()),
            (vec![b"comes".to_vec()], vec![b"looks".to_vec()])
        );
    }
}

#[test]
fn both_may_start_at_once() {
    for n in 0..300u64 {
        let mut net = Net::new(2);
        net.latency = ms(1 + (n * 37) % 160);
        let apart = ms((n * 71) % 401);
        let (first, second) = if n % 2 == 0 { (0, 1) } else { (1, 0) };
        net.send(first, second, b"one");
        net.run(apart);
        net.send(second, first, b"two");
        net.run(secs(3));
        for node in &net.nodes {
            assert_eq!(node.packets().len(), 1, "run {n}: {:?}", node.tunnel.drops());
        }
        if net.latency < ms(70) {
            assert!(net.nodes.iter().all(|node| node.tunnel.sessions().len() == 1), "run {n}: a session too many");
        }
        net.nodes.iter_mut().for_each(|node| node.events.clear());
        net.send_fast(0, 1, b"a");
        net.send_fast(1, 0, b"b");
        net.run(secs(1));
        assert!(net.nodes.iter().all(|node| node.packets().len() == 1), "run {n}: a dead session was left");
    }
}

#[test]
fn who_gives_way_does_not_begin_again() {
    let mut net = Net::new(2);
    net.latency = ms(140);
    net.send(0, 1, b"one");
    net.send(1, 0, b"two");
    net.run(secs(5));
    assert_eq!(net.seen.iter().filter(|flight| flight.bytes[0] == 1).count(), 2);
    assert_eq!(net.seen.iter().filter(|flight| flight.bytes[0] == 2).count(), 1);
}

/// Both have answered the other's Init before either Resp arrives.
#[test]
fn handshakes_that_cross_end_in_one_session() {
    let mut net = Net::new(2);
    let (small, large) = if net.nodes[0].keys().x25519 < net.nodes[1].keys().x25519 { (0, 1) } else { (1, 0) };
    let addr = [net.nodes[small].addr, net.nodes[large].addr];
    net.filter = Box::new(|_| false);
    let last = |net: &Net, from, kind: u8| {
        let sent = |flight: &&super::net::Flight| flight.from == from && flight.bytes[0] == kind;
        net.seen.iter().rev().find(sent).unwrap().bytes.clone()
    };
    net.send(small, large, b"from the smaller");
    net.run(ms(400));
    net.send(large, small, b"from the larger");
    net.run(ms(100));
    // The larger gives way, which it does only once, and begins again a second later.
    let init = last(&net, addr[0], 1);
    net.inject(large, addr[0], &init);
    net.run(ms(1050));
    let (one, other) = (last(&net, addr[0], 1), last(&net, addr[1], 1));
    net.inject(small, addr[1], &other);
    net.inject(large, addr[0], &one);
    let (to_large, to_small) = (last(&net, addr[0], 2), last(&net, addr[1], 2));
    net.filter = Box::new(|_| true);
    net.inject(small, addr[1], &to_small);
    net.inject(large, addr[0], &to_large);
    net.run(secs(1));
    assert_eq!(net.nodes[large].packets(), [b"from the smaller"]);
    assert_eq!(net.nodes[small].packets(), [b"from the larger"]);
    let indices = [net.nodes[small].sending().index(), net.nodes[large].sending().index()];
    net.seen.clear();
    net.send_fast(small, large, b"a");
    net.send_fast(large, small, b"b");
    let to: Vec<u32> = net.seen.iter().map(|flight| crate::receiver_index(&flight.bytes).unwrap()).collect();
    assert_eq!(to, [indices[1], indices[0]], "both seal with the same one");
}

#[test]
fn a_double_session_is_sealed_with_by_both_sides_alike() {
    // Whichever of the two has the greater number, the older or the newer.
    for ahead in [0, 1] {
        let mut net = Net::new(2);
        let upto = 1 << 40;
        net.nodes[ahead].tunnel =
            super::net::tunnel(u8::try_from(ahead).unwrap(), net.nodes[ahead].secret, 7, upto, |_| {}, net.now);
        net.drain(ahead);
        net.introduce(ahead, 1 - ahead);
        net.send(0, 1, b"one");
        net.run(ms(500));
        let a = net.nodes[0].id;
        net.nodes[1].tunnel.renew(a, net.now);
        net.drain(1);
        net.run(ms(500));
        assert_eq!(net.nodes[1].tunnel.sessions().len(), 2);
        let indices: Vec<u32> = net.nodes.iter().map(|node| node.sending().index()).collect();
        net.seen.clear();
        net.send_fast(0, 1, b"a");
        net.send_fast(1, 0, b"b");
        let to: Vec<u32> = net.seen.iter().map(|flight| crate::receiver_index(&flight.bytes).unwrap()).collect();
        assert_eq!(to, [indices[1], indices[0]], "each seals for the session that the other seals with");
        net.run(ms(500));
        assert!(net.nodes[0].packets() == [b"b"] && net.nodes[1].packets() == [&b"one"[..], b"a"]);
    }
}

#[test]
fn erasing_all_ends_every_session_and_the_next_packet_begins_anew() {
    let mut net = Net::new(2);
    net.settle();
    let old = net.nodes[0].sending();
    net.nodes[0].tunnel.erase_all(net.now);
    net.drain(0);
    assert!(old.is_closed() && net.nodes[0].tunnel.sessions().is_empty());
    assert!(net.nodes[0].has(|event| matches!(event, Event::PeerDown { reason: "keys erased", .. })));
    net.nodes[0].tunnel.reseed([77; 32]);
    net.send(0, 1, b"anew");
    net.run(ms(100));
    assert_eq!(net.nodes[1].packets(), [b"anew"]);
}

#[test]
fn removing_a_peer_cuts_its_session_at_once_and_refuses_its_handshakes() {
    let mut net = Net::new(2);
    net.settle();
    let (a, session) = (net.nodes[0].id, net.nodes[1].sending());
    net.nodes[1].tunnel.remove_peer(a, net.now);
    net.drain(1);
    assert!(session.is_closed());
    assert!(net.nodes[1].has(|event| *event == Event::SessionsChanged));
    for _ in 0..30 {
        net.send_fast(0, 1, b"x");
        net.run(secs(1));
    }
    assert!(net.nodes[1].packets().is_empty());
    assert!(net.nodes[1].drops(DropReason::UnknownKey) > 0);
}

#[test]
fn no_init_leaves_before_its_number_is_on_disk() {
    let mut net = Net::new(2);
    net.add(2, |_| {});
    let now = net.now;
    let tunnel = super::net::tunnel(7, [9; 32], 1, 500, |_| {}, now);
    net.nodes[2].tunnel = tunnel;
    net.nodes[2].reserves = false;
    net.introduce(2, 0);
    net.send(2, 0, b"x");
    net.run(secs(1));
    assert!(net.seen.iter().all(|flight| flight.from != net.nodes[2].addr));
    let reserve = |event: &Event| if let Event::ReserveHandshakes { upto } = event { Some(*upto) } else { None };
    let asked = net.nodes[2].events.iter().find_map(|(_, event)| reserve(event));
    net.nodes[2].tunnel.handshakes_reserved(asked.unwrap());
    net.run(Duration::ZERO);
    assert_eq!(net.seen.iter().filter(|flight| flight.from == net.nodes[2].addr).count(), 1);
}

#[test]
fn a_worn_key_is_renewed_and_a_used_up_one_refuses() {
    use crate::config::Suite;
    use crate::limits::{REFUSE_BLOCKS, REKEY_BLOCKS};
    use crate::session::{DataKeys, Session};
    let keys = || DataKeys {
        suite: Suite::Aes256Gcm,
        sealing: zeroize::Zeroizing::new([1; 32]),
        opening: zeroize::Zeroizing::new([1; 32]),
    };
    let session = Session::starting_at(&keys(), 5, 5, 1440, 7, REKEY_BLOCKS - 90);
    let mut out = Vec::new();
    assert!(!session.is_worn());
    session.seal(Kind::Packet, &[], &[0; 1440], &mut out).unwrap();
    assert!(session.is_worn());
    let opened = session.open(&mut out).unwrap();
    assert_eq!((opened.counter, opened.newest, opened.payload.len()), (7, true, 1440));
    let session = Session::starting_at(&keys(), 5, 5, 1440, 7, REFUSE_BLOCKS - 1);
    out.clear();
    session.seal(Kind::Packet, &[], b"last", &mut out).unwrap();
    let length = out.len();
    assert_eq!(session.seal(Kind::Packet, &[], b"", &mut out), Err(crate::SealError::UsedUp));
    assert_eq!(out.len(), length, "nothing is appended by a refusal");
}
