//! What strangers, members, eavesdroppers and thieves can do: nothing, and how that is counted.

use std::net::SocketAddr;

use super::net::{Flight, NAMESPACE, Net, credential, ms, peer_id, secs, tunnel};
use crate::mac::MacKeys;
use crate::noise::{self, public_key};
use crate::payload::{InitPayload, MINOR};
use crate::wire::{COOKIE, INIT_MIN, RESP};
use crate::{Config, DropReason, Event, Kind, PeerKeys, Suite, Suites, Tunnel};

/// A forged or honest Init, as somebody with these secrets would make it.
struct Forgery {
    initiator: [u8; 32],
    responder: [u8; 32],
    responder_identity: [u8; 32],
    namespace: [u8; 32],
    payload: InitPayload,
}

impl Forgery {
    /// What node `n` would send to node 1.
    fn of(n: u8, number: u64) -> Self {
        let secret = [n + 1; 32];
        Self {
            initiator: secret,
            responder: public_key(&[2; 32]),
            responder_identity: [0x81; 32],
            namespace: NAMESPACE,
            payload: InitPayload {
                number,
                min_minor: MINOR,
                max_minor: MINOR,
                suites: Suites::AES_FIRST.to_wire(),
                caps: [0; 4],
                instance: 1,
                credential_hash: credential(&secret),
                heads: [0; 8],
                mtu: 1500,
                inline: Vec::new(),
            },
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let prologue = noise::prologue(&self.namespace, &self.responder_identity);
        let seed = zeroize::Zeroizing::new([self.payload.number.to_be_bytes()[7]; 32]);
        let mut noise = noise::initiator(&self.initiator, &self.responder, &prologue, seed).unwrap();
        let mut sealed = [0; 1300];
        let len = noise.write_message(&self.payload.emit(), &mut sealed).unwrap();
        let mut init = [&[1, 1, 0, 0, 0xaa, 0xbb, 0xcc, 0xdd], &sealed[..len]].concat();
        MacKeys::new(&self.namespace, &self.responder).seal(None, &mut init);
        init
    }
}

fn resp_count(net: &Net) -> usize {
    net.seen.iter().filter(|flight| flight.bytes[0] == 2).count()
}

const STRANGER: ([u8; 4], u16) = ([198, 51, 100, 66], 6666);

fn stranger() -> SocketAddr {
    STRANGER.into()
}

fn captured(net: &Net, kind: u8) -> Flight {
    net.seen.iter().find(|flight| flight.bytes[0] == kind).unwrap().clone()
}

/// A pair that has just exchanged a packet, with all that was on the wire.
fn recorded() -> Net {
    let mut net = Net::new(2);
    net.send(0, 1, b"payload");
    net.run(secs(1));
    net
}

#[test]
fn every_flipped_byte_of_an_init_is_refused() {
    let init = captured(&recorded(), 1);
    for at in 0..init.bytes.len() - 16 {
        // A receiver that has not seen the genuine one.
        let mut fresh = Net::new(2);
        let mut bytes = init.bytes.clone();
        bytes[at] ^= 0x40;
        fresh.inject(1, init.from, &bytes);
        assert_eq!(resp_count(&fresh), 0, "byte {at}");
        assert_eq!(fresh.nodes[1].tunnel.drops().values().sum::<u64>(), 1, "byte {at}");
    }
}

#[test]
fn every_flipped_byte_of_an_init_is_refused_by_noise_even_with_a_right_mac() {
    let init = captured(&recorded(), 1);
    let macs = MacKeys::new(&NAMESPACE, &public_key(&[2; 32]));
    let mut fresh = Net::new(2);
    for at in 8..init.bytes.len() - 32 {
        let mut bytes = init.bytes[..init.bytes.len() - 32].to_vec();
        bytes[at] ^= 1;
        macs.seal(None, &mut bytes);
        fresh.inject(1, init.from, &bytes);
    }
    assert_eq!(fresh.nodes[1].drops(DropReason::HandshakeForged), 204 - 8 - 32);
    assert_eq!((resp_count(&fresh), fresh.nodes[1].tunnel.indices()), (0, (0, 0)));
}

#[test]
fn every_flipped_byte_of_a_resp_is_refused_and_the_genuine_one_still_counts() {
    let mut net = Net::new(2);
    let resps = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let kept = std::rc::Rc::clone(&resps);
    net.filter = Box::new(move |flight| {
        if flight.bytes[0] == 2 {
            kept.borrow_mut().push(flight.clone());
        }
        flight.bytes[0] != 2
    });
    net.send(0, 1, b"x");
    net.run(ms(25));
    let resp = resps.borrow()[0].clone();
    let macs = MacKeys::new(&NAMESPACE, &public_key(&[1; 32]));
    for at in 0..resp.bytes.len() {
        let mut bytes = resp.bytes.clone();
        bytes[at] ^= 2;
        net.inject(0, resp.from, &bytes);
        if (12..resp.bytes.len() - 32).contains(&at) {
            bytes.truncate(resp.bytes.len() - 32);
            macs.seal(None, &mut bytes);
            net.inject(0, resp.from, &bytes);
        }
        assert!(!net.nodes[0].has(|event| matches!(event, Event::PeerUp { .. })), "byte {at}");
    }
    assert_eq!(net.nodes[0].drops(DropReason::HandshakeForged), 152 - 12 - 32);
    net.inject(0, resp.from, &resp.bytes);
    assert!(net.nodes[0].has(|event| matches!(event, Event::PeerUp { .. })));
}

#[test]
fn every_flipped_byte_of_a_data_datagram_is_refused_and_the_genuine_one_once() {
    for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
        let mut net = Net::strangers(0);
        (0..2).for_each(|n| net.add(n, |config| config.suites = Suites::only(suite)));
        net.introduce(0, 1);
        net.introduce(1, 0);
        net.settle();
        let mut datagram = Vec::new();
        net.nodes[0].sending().seal(Kind::Packet, b"head", b" and payload", &mut datagram).unwrap();
        let (from, before) = (net.nodes[0].addr, net.nodes[1].tunnel.drops().values().sum::<u64>());
        for at in 0..datagram.len() {
            let mut bytes = datagram.clone();
            bytes[at] ^= 1;
            net.inject(1, from, &bytes);
            assert!(net.nodes[1].packets().is_empty(), "{suite:?} byte {at}");
        }
        assert_eq!(net.nodes[1].tunnel.drops().values().sum::<u64>() - before, datagram.len() as u64);
        for truncated in 0..datagram.len() {
            net.inject(1, from, &datagram[..truncated]);
        }
        net.inject(1, from, &datagram);
        let replayed = net.nodes[1].drops(DropReason::Replayed);
        net.inject(1, from, &datagram);
        assert_eq!(net.nodes[1].packets(), [b"head and payload"]);
        assert_eq!(net.nodes[1].drops(DropReason::Replayed), replayed + 1);
    }
}

#[test]
fn truncated_handshakes_do_nothing() {
    let net = recorded();
    let (init, resp) = (captured(&net, 1), captured(&net, 2));
    let mut fresh = Net::new(2);
    for flight in [init, resp] {
        for len in 0..flight.bytes.len() {
            for n in 0..2 {
                fresh.inject(n, flight.from, &flight.bytes[..len]);
            }
        }
    }
    assert!(fresh.seen.is_empty());
}

#[test]
fn a_replayed_init_is_refused_and_a_reflected_one_too() {
    let mut net = recorded();
    let init = captured(&net, 1);
    let (session, endpoint) = (net.nodes[1].sending().index(), net.nodes[0].addr);
    net.seen.clear();
    for from in [init.from, stranger()] {
        net.run(ms(100));
        net.inject(1, from, &init.bytes);
        net.inject(0, from, &init.bytes);
    }
    assert_eq!(net.nodes[1].drops(DropReason::HandshakeReplayed), 2);
    assert_eq!(net.nodes[0].drops(DropReason::WrongMac), 2, "it is not for the sender's own key");
    assert!(net.seen.is_empty());
    assert_eq!(net.nodes[1].sending().index(), session);
    assert_eq!(net.nodes[1].tunnel.peer(&net.nodes[0].id, net.now).unwrap().endpoint, Some(endpoint.into()));
}

#[test]
fn an_init_to_oneself_is_refused() {
    let mut net = Net::new(2);
    let mut forgery = Forgery::of(1, 1);
    forgery.payload.number = 9;
    net.inject(1, stranger(), &forgery.bytes());
    assert_eq!(net.nodes[1].drops(DropReason::Reflected), 1);
}

#[test]
fn an_init_replayed_after_a_restart_changes_nothing() {
    let mut net = recorded();
    let init = captured(&net, 1);
    net.restart(1);
    net.seen.clear();
    net.inject(1, stranger(), &init.bytes);
    assert_eq!(resp_count(&net), 1, "the restarted node cannot know");
    let a = net.nodes[0].id;
    let view = net.nodes[1].tunnel.peer(&a, net.now).unwrap();
    assert!(!view.up && view.endpoint.is_none());
    assert!(net.nodes[1].tunnel.sessions().is_empty());
    // The node sends nothing there, and finds its peer at once.
    net.seen.clear();
    net.send(1, 0, b"x");
    assert!(net.seen.iter().all(|flight| flight.to != stranger()));
    net.run(ms(100));
    assert_eq!(net.nodes[0].packets(), [b"x"]);
}

/// A thief of the responder's data key can write a first message in anybody's name.
#[test]
fn kci_msg1_changes_nothing() {
    let mut net = Net::new(2);
    net.settle();
    let (a, session) = (net.nodes[0].id, net.nodes[1].sending().index());
    let view = net.nodes[1].tunnel.peer(&a, net.now).unwrap();
    // IK's first message needs the initiator's secret or the responder's; the shared secret is the same, so the test
    // uses the former.
    net.inject(1, stranger(), &Forgery::of(0, u64::MAX).bytes());
    assert_eq!(resp_count(&net), 1);
    assert_eq!(net.nodes[1].sending().index(), session, "the old session stays in use");
    assert_eq!(net.nodes[1].tunnel.peer(&a, net.now).unwrap(), view);
    net.seen.clear();
    net.send_fast(1, 0, b"on the old session");
    net.send_fast(0, 1, b"both ways");
    net.run(secs(6));
    assert!(net.seen.iter().all(|flight| flight.to != stranger()));
    assert_eq!((net.nodes[0].packets().len(), net.nodes[1].packets().len()), (1, 1));
    // And the greatest number of all locks nobody out.
    net.nodes[0].tunnel.erase_all(net.now);
    net.send(0, 1, b"new session");
    net.run(ms(100));
    assert_eq!(net.nodes[1].packets().len(), 2);
}

/// A member has our peer's data key certified as its own, and forwards to the peer what it gets from us.
#[test]
fn uks_forwarded_init() {
    let mut net = Net::new(2);
    let mallory = peer_id([0xee; 32]);
    let keys = PeerKeys { x25519: public_key(&net.nodes[1].secret), credential_hash: [0xee; 32] };
    net.nodes[0].tunnel.set_peer(mallory, keys, net.now);
    let candidate = crate::Candidate { addr: stranger(), kind: crate::CandidateKind::Lan };
    net.nodes[0].tunnel.set_candidates(mallory, vec![candidate], net.now);
    net.nodes[0].tunnel.send(mallory, Kind::Packet, b"for mallory", net.now);
    net.drain(0);
    let init = captured(&net, 1);
    assert_eq!(init.to, stranger());
    net.inject(1, stranger(), &init.bytes);
    assert_eq!(net.nodes[1].drops(DropReason::HandshakeForged), 1);
    assert_eq!(resp_count(&net), 0);
}

#[test]
fn of_two_members_with_one_key_the_credential_says_who_speaks() {
    let mut net = Net::new(2);
    let (a, mallory) = (net.nodes[0].id, peer_id([0x01; 32]));
    let keys = PeerKeys { x25519: public_key(&net.nodes[0].secret), credential_hash: [0xee; 32] };
    net.nodes[1].tunnel.set_peer(mallory, keys, net.now);
    net.send(0, 1, b"x");
    net.run(secs(1));
    let from: Vec<_> = net.nodes[1]
        .events
        .iter()
        .filter_map(|(_, event)| if let Event::Message { peer, .. } = event { Some(*peer) } else { None })
        .collect();
    assert_eq!(from, [a]);
    net.nodes[1].tunnel.remove_peer(a, net.now);
    net.run(ms(50));
    net.inject(1, stranger(), &Forgery::of(0, 1 << 50).bytes());
    assert_eq!(net.nodes[1].drops(DropReason::WrongCredential), 1);
}

#[test]
fn old_datakey() {
    let mut net = Net::new(2);
    let (a, now) = (net.nodes[0].id, net.now);
    let keys = PeerKeys { x25519: public_key(&[0x77; 32]), credential_hash: [1; 32] };
    net.nodes[1].tunnel.set_peer(a, keys, now);
    net.inject(1, net.nodes[0].addr, &Forgery::of(0, 5).bytes());
    assert_eq!(net.nodes[1].drops(DropReason::UnknownKey), 1);
    assert!(net.seen.is_empty());
}

#[test]
fn a_wrong_credential_a_foreign_namespace_and_a_foreign_key_are_refused() {
    let mut net = Net::new(2);
    let mut forgery = Forgery::of(0, 1);
    forgery.payload.credential_hash[0] ^= 1;
    net.inject(1, stranger(), &forgery.bytes());
    assert_eq!(net.nodes[1].drops(DropReason::WrongCredential), 1);
    let mut forgery = Forgery::of(0, 2);
    forgery.namespace[31] ^= 1;
    assert!(!net.nodes[1].tunnel.owns(&forgery.bytes()));
    net.inject(1, stranger(), &forgery.bytes());
    assert_eq!(net.nodes[1].drops(DropReason::WrongMac), 1);
    net.inject(1, stranger(), &Forgery::of(30, 3).bytes());
    assert_eq!(net.nodes[1].drops(DropReason::UnknownKey), 1);
    assert_eq!(net.nodes[1].tunnel.indices(), (0, 0), "no index before the sender is known");
    let good = Forgery::of(0, 4).bytes();
    assert!(net.nodes[1].tunnel.owns(&good) && !net.nodes[0].tunnel.owns(&good));
    assert_eq!(crate::receiver_index(&good), None);
    net.inject(1, stranger(), &good);
    assert_eq!(resp_count(&net), 1);
}

#[test]
fn a_resp_with_another_credential_is_refused() {
    let mut net = Net::strangers(1);
    net.add(1, |config| config.credential_hash = [0xaa; 32]);
    net.introduce(1, 0);
    net.introduce(0, 1);
    net.send(0, 1, b"x");
    net.run(secs(1));
    assert!(net.nodes[0].drops(DropReason::WrongCredential) > 0);
    assert!(net.nodes[0].tunnel.sessions().is_empty());
}

#[test]
fn versions_and_suites_that_do_not_meet_are_refused_without_an_answer() {
    let mut net = Net::new(2);
    let mut forgery = Forgery::of(0, 1);
    (forgery.payload.min_minor, forgery.payload.max_minor) = (1, 9);
    net.inject(1, stranger(), &forgery.bytes());
    assert_eq!(net.nodes[1].drops(DropReason::NoCommonVersion), 1);
    let mut forgery = Forgery::of(0, 2);
    forgery.payload.suites = [0, 77];
    net.inject(1, stranger(), &forgery.bytes());
    assert_eq!(net.nodes[1].drops(DropReason::NoCommonSuite), 1);
    let mut forgery = Forgery::of(0, 3).bytes();
    forgery[1] = 2;
    net.inject(1, stranger(), &forgery);
    assert_eq!(net.nodes[1].drops(DropReason::WrongMajor), 1);
    assert!(net.seen.is_empty());
}

#[test]
fn no_session_runs_on_a_suite_that_one_side_refuses() {
    let suites = [Suites::only(Suite::Aes256Gcm), Suites::only(Suite::ChaCha20Poly1305), Suites::AES_FIRST];
    for (a, b) in [(0, 1), (0, 2), (2, 1), (1, 1)] {
        let mut net = Net::strangers(0);
        net.add(0, |config| config.suites = suites[a]);
        net.add(1, |config| config.suites = suites[b]);
        net.introduce(0, 1);
        net.introduce(1, 0);
        net.send(0, 1, b"x");
        net.run(secs(1));
        assert_eq!(net.nodes[1].packets().len(), usize::from((a, b) != (0, 1)), "{a} {b}");
    }
}

#[test]
fn an_inline_credential_is_read_over() {
    let mut net = Net::new(2);
    let mut forgery = Forgery::of(0, 1);
    forgery.payload.inline = vec![7; 990];
    net.inject(1, stranger(), &forgery.bytes());
    assert_eq!((resp_count(&net), forgery.bytes().len()), (1, 1194));
    forgery.payload.inline = vec![7; 991];
    forgery.payload.number = 2;
    net.run(ms(50));
    net.inject(1, stranger(), &forgery.bytes());
    assert_eq!(net.nodes[1].drops(DropReason::Malformed), 1);
}

#[test]
fn a_flood_of_inits_leaves_the_tables_flat() {
    let mut net = Net::new(2);
    net.settle();
    let at_rest = net.nodes[1].tunnel.indices().0;
    // Of a member, each with a higher number, as fast as they come.
    let inits: Vec<_> = (0..200).map(|n| Forgery::of(0, (1 << 40) + n).bytes()).collect();
    for init in &inits {
        net.inject(1, stranger(), init);
        net.now += ms(5);
    }
    assert!(net.nodes[1].drops(DropReason::HandshakeTooSoon) > 100);
    assert!(net.nodes[1].tunnel.indices().0 <= at_rest + 1);
    // Of a stranger who knows our key: cookies are asked for after the first thousand.
    let (before, mut junk) = (net.seen.len(), Forgery::of(30, 1).bytes());
    let macs = MacKeys::new(&NAMESPACE, &public_key(&[2; 32]));
    net.now += secs(2);
    for n in 0..10_000u32 {
        junk.truncate(INIT_MIN - 32);
        junk[4..8].copy_from_slice(&n.to_be_bytes());
        macs.seal(None, &mut junk);
        let now = net.now;
        net.nodes[1].tunnel.handle_datagram(stranger(), &junk, 0, now);
        while net.nodes[1].tunnel.poll_transmit().is_some() {}
    }
    assert_eq!(net.seen.len(), before);
    assert!(net.nodes[1].tunnel.indices().0 <= at_rest + 1);
    assert_eq!(net.nodes[1].drops(DropReason::CookieAsked), 9_000);
    // The session has not noticed.
    net.send_fast(0, 1, b"still here");
    net.run(ms(100));
    assert_eq!(net.nodes[1].packets(), [b"still here"]);
}

#[test]
fn under_load_a_member_comes_through_by_its_cookie() {
    let mut net = Net::new(2);
    for _ in 0..10 {
        net.nodes[1].tunnel.handle_pressure(net.now);
        if net.nodes[0].tunnel.peer(&net.nodes[1].id, net.now).is_some_and(|view| !view.up) {
            net.send(0, 1, b"x");
        }
        net.run(ms(200));
    }
    assert!(net.nodes[1].drops(DropReason::CookieAsked) >= 1);
    assert!(!net.nodes[1].packets().is_empty());
    let cookie = captured(&net, 3);
    assert_eq!(cookie.bytes.len(), COOKIE);
}

#[test]
fn a_cookie_is_bound_to_its_init_and_to_the_address() {
    let mut net = Net::new(2);
    net.nodes[1].tunnel.handle_pressure(net.now);
    net.send(0, 1, b"x");
    net.run(ms(15));
    let cookie = captured(&net, 3);
    for at in 0..cookie.bytes.len() {
        let mut bytes = cookie.bytes.clone();
        bytes[at] ^= 1;
        net.inject(0, cookie.from, &bytes);
    }
    net.inject(0, stranger(), &cookie.bytes);
    assert!(net.nodes[0].drops(DropReason::ForgedCookie) >= 57);
    // The genuine one arrives; the next Init carries it, and is good only from the address it was given to.
    net.run(ms(250));
    net.seen.clear();
    net.filter = Box::new(|_| false);
    net.run(ms(100));
    let second = captured(&net, 1);
    assert_ne!(second.bytes[INIT_MIN - 16..], [0; 16]);
    net.nodes[1].tunnel.handle_pressure(net.now);
    let other_port = SocketAddr::new(second.from.ip(), 1);
    for from in [stranger(), other_port] {
        net.inject(1, from, &second.bytes);
    }
    assert_eq!(resp_count(&net), 0);
    net.inject(1, second.from, &second.bytes);
    assert_eq!(resp_count(&net), 1);
}

/// A tunnel that knows node 0, and everything that a stranger may throw at it.
fn answers(under_load: bool, input: &[u8]) -> Vec<Vec<u8>> {
    let net = Net::new(1);
    let mut target: Tunnel = tunnel(1, [2; 32], 1, 0, |_: &mut Config| {}, net.now);
    target.set_peer(net.nodes[0].id, net.nodes[0].keys(), net.now);
    if under_load {
        target.handle_pressure(net.now);
    }
    target.handle_datagram(stranger(), input, 0, net.now);
    std::iter::from_fn(|| target.poll_transmit()).map(|transmit| transmit.datagram).collect()
}

#[test]
fn no_answer_is_larger_than_its_question() {
    let recording = recorded();
    let mut inputs: Vec<Vec<u8>> = recording.seen.iter().map(|flight| flight.bytes.clone()).collect();
    inputs.push(Forgery::of(0, 9).bytes());
    inputs.push(Forgery::of(30, 9).bytes());
    let mut answered = 0;
    for input in &inputs {
        for len in [input.len(), input.len() / 2, 32, 0] {
            for under_load in [false, true] {
                let answers = answers(under_load, &input[..len.min(input.len())]);
                assert!(answers.len() <= 1);
                for answer in answers {
                    assert!(answer.len() < len, "{} bytes for {len}", answer.len());
                    assert!([RESP, COOKIE].contains(&answer.len()));
                    answered += 1;
                }
            }
        }
    }
    assert!(answered >= 3);
}

#[test]
fn nothing_is_answered_to_an_address_that_is_no_hosts_own() {
    let mut net = Net::new(2);
    let init = Forgery::of(0, 1).bytes();
    for from in ["224.0.0.1:9", "255.255.255.255:9", "198.51.100.1:0", "[ff02::1]:9"] {
        net.inject(1, from.parse::<SocketAddr>().unwrap(), &init);
    }
    assert_eq!(net.nodes[1].drops(DropReason::BadSource), 4);
    assert!(net.seen.is_empty());
}

#[test]
fn a_silent_third_party_gets_three_inits_whatever_a_member_signals() {
    let mut net = Net::new(2);
    let victim: SocketAddr = "203.0.113.5:53".parse().unwrap();
    let (b, mut tries) = (net.nodes[1].id, 0);
    net.nodes[0].tunnel.set_candidates(b, Vec::new(), net.now);
    for _ in 0..40 {
        let list = vec![crate::Candidate { addr: victim, kind: crate::CandidateKind::Observed }];
        net.nodes[0].tunnel.set_candidates(b, list, net.now);
        net.send(0, 1, b"x");
        net.run(ms(100));
        tries = net.seen.iter().filter(|flight| flight.to == victim).count();
    }
    assert!(tries <= 3, "{tries} in four seconds");
}

mod any_bytes {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn as_datagrams_do_no_harm(
            datagrams in proptest::collection::vec((0u8..6, any::<u8>(), proptest::collection::vec(any::<u8>(), 0..300), 0u64..40_000), 1..30)
        ) {
            let mut net = Net::new(2);
            net.settle();
            let index = net.nodes[1].sending().index();
            for (kind, second, rest, wait) in datagrams {
                let mut bytes = [&[kind, second % 5, 0, 0], &index.to_be_bytes()[..], &rest].concat();
                match kind {
                    1 => bytes.resize(INIT_MIN, 0),
                    2 => bytes.resize(RESP, 0),
                    3 => bytes.resize(COOKIE, 0),
                    _ => {}
                }
                net.inject(1, stranger(), &bytes);
                net.run(ms(wait));
            }
            prop_assert_eq!(net.nodes[1].packets().len(), 0);
            net.send(0, 1, b"alive");
            net.run(secs(20));
            net.send(0, 1, b"alive");
            net.run(secs(1));
            prop_assert!(!net.nodes[1].packets().is_empty());
        }

        /// Authentic control messages and fragments of any content.
        #[test]
        fn inside_a_session_do_no_harm(
            payloads in proptest::collection::vec((0u8..4, proptest::collection::vec(any::<u8>(), 0..60)), 1..60)
        ) {
            let mut net = Net::new(2);
            net.settle();
            let (session, from) = (net.nodes[0].sending(), net.nodes[0].addr);
            for (kind, payload) in payloads {
                let mut datagram = Vec::new();
                session.seal(Kind::from_number(kind).unwrap(), &[], &payload, &mut datagram).unwrap();
                net.inject(1, from, &datagram);
                let back: usize = net.seen.drain(..).map(|flight| flight.bytes.len()).sum();
                prop_assert!(back <= 3 * datagram.len());
            }
            net.run(secs(2));
            net.send(0, 1, b"alive");
            net.run(secs(1));
            prop_assert_eq!(net.nodes[1].packets().pop(), Some(b"alive".to_vec()));
        }
    }
}
