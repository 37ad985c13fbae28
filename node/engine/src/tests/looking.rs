//! Looking for a member with whom there is no connection: it is told of us by way of others, and we find out where we are seen.

use std::net::SocketAddr;

use dht::identity::PublicKey;
use dht::sign::NamespaceId;
use dht::signal::Candidates;
use dht::{Command, Summary};
use libp2p_identity::PeerId;
use tunnel::{Candidate, CandidateKind, NextHop};

use super::standing::summary;
use super::{Addressing, Hostname, Lab, NAMESPACE, Output, key, secs};

const STRANGER: u8 = 7;
const VOTER: u8 = 8;
const OTHER_VOTER: u8 = 9;

fn lab() -> Lab {
    let mut lab = Lab::new(Addressing::Own, Hostname::Default("node".into()));
    lab.grant_address();
    let replicas = vec![key(VOTER).peer_id()];
    lab.told(Summary { replicas, ..summary(&[VOTER], &[]) });
    lab.forget();
    lab
}

fn known(lab: &mut Lab, number: u8) {
    let keys = super::keys(number);
    let (x25519, credential_hash) = (keys.x25519, keys.credential_hash);
    lab.overlay(dht::Event::PeerKeys { peer: key(number).peer_id(), x25519, credential_hash });
}

/// Whom our addresses were told to, and whether an answer is wanted.
fn told(lab: &Lab) -> Vec<(PeerId, bool, Vec<SocketAddr>)> {
    let (ns, me) = (NamespaceId(NAMESPACE), key(1).public());
    let read = |command: &Command| {
        let Command::Signal { to, message } = command else { return None };
        let reader = PublicKey::from_peer_id(to)?;
        let candidates = Candidates::open(&ns, &me, &reader, message).ok()?;
        Some((*to, candidates.want_reply, candidates.list.iter().map(|candidate| candidate.addr).collect()))
    };
    lab.commands.iter().filter_map(read).collect()
}

fn is_connect(command: &Command, number: u8) -> bool {
    matches!(command, Command::Connect { peer } if *peer == key(number).peer_id())
}

#[test]
fn a_stranger_is_dialled_and_told_of_us_at_once() {
    let mut lab = lab();
    lab.engine.need_peer(key(STRANGER).peer_id(), lab.now);
    lab.settle();
    assert!(lab.commands.iter().any(|command| is_connect(command, STRANGER)), "{:?}", lab.commands);
    assert!(told(&lab).iter().any(|(to, wants, _)| *to == key(STRANGER).peer_id() && *wants));
    // Where we are seen a voter can tell, once in a while.
    let asked = |lab: &Lab| lab.commands.iter().filter(|command| is_connect(command, VOTER)).count();
    assert_eq!(asked(&lab), 1);
    lab.engine.need_peer(key(STRANGER).peer_id(), lab.now);
    lab.settle();
    assert_eq!(asked(&lab), 1);
    lab.wait(secs(5));
    lab.engine.need_peer(key(STRANGER).peer_id(), lab.now);
    lab.settle();
    assert_eq!(asked(&lab), 2);
}

#[test]
fn whoever_looks_for_us_hears_where_we_are_seen_as_soon_as_we_know() {
    let mut lab = lab();
    known(&mut lab, STRANGER);
    let looks = Candidates {
        to: key(1).public(),
        seq: 1,
        instance: [1; 8],
        want_reply: true,
        list: Vec::new(),
        relays: Vec::new(),
    };
    let message = looks.sign(&NamespaceId(NAMESPACE), &key(STRANGER));
    lab.overlay(dht::Event::Signal { from: key(STRANGER).peer_id(), message: message.clone() });
    let to_it = told(&lab).into_iter().filter(|(to, ..)| *to == key(STRANGER).peer_id());
    assert_eq!(to_it.count(), 1, "an answer");
    lab.forget();
    let seen: SocketAddr = "203.0.113.9:4001".parse().unwrap();
    lab.engine.observed(key(VOTER).peer_id(), seen, lab.now);
    lab.settle();
    let (_, wants, list) = told(&lab).into_iter().find(|(to, ..)| *to == key(STRANGER).peer_id()).unwrap();
    assert!(wants && list.contains(&seen), "{list:?}");
    // A letter goes by several ways: its copies are no news, and neither is what was seen before.
    lab.forget();
    lab.overlay(dht::Event::Signal { from: key(STRANGER).peer_id(), message });
    assert_eq!(lab.engine.drops["repeated-signal"], 1);
    lab.engine.observed(key(VOTER).peer_id(), seen, lab.now);
    lab.settle();
    assert!(told(&lab).iter().all(|(to, ..)| *to != key(STRANGER).peer_id()));
}

#[test]
fn what_a_router_maps_is_told_at_once_and_needs_no_opening() {
    let mut lab = lab();
    known(&mut lab, STRANGER);
    lab.engine.need_peer(key(STRANGER).peer_id(), lab.now);
    let (kept, other): (SocketAddr, SocketAddr) =
        ("203.0.113.9:4001".parse().unwrap(), "203.0.113.9:4002".parse().unwrap());
    // A translator that keeps ports is seen to use the very one that it maps.
    lab.engine.observed(key(VOTER).peer_id(), kept, lab.now);
    lab.settle();
    let kinds = |lab: &Lab| {
        let list = lab.commands.iter().rev().find_map(|command| {
            let Command::Signal { to, message } = command else { return None };
            let reader = PublicKey::from_peer_id(to)?;
            Some(Candidates::open(&NamespaceId(NAMESPACE), &key(1).public(), &reader, message).ok()?.list)
        });
        let list = list.unwrap_or_default().into_iter();
        list.map(|candidate| (candidate.addr, candidate.kind))
            .filter(|(addr, _)| addr.ip() == kept.ip())
            .collect::<Vec<_>>()
    };
    let (observed, configured) = (2, 3);
    assert_eq!(kinds(&lab), [(kept, observed)]);
    for (mapped, told) in [
        (vec![kept], vec![(kept, configured)]),
        (vec![other], vec![(other, configured), (kept, observed)]),
        (vec![], vec![(kept, observed)]),
    ] {
        lab.forget();
        lab.engine.handle_mapped(mapped.clone(), lab.now);
        lab.settle();
        assert_eq!(kinds(&lab), told);
        lab.forget();
        lab.wait(secs(2));
        lab.forget();
        lab.engine.handle_mapped(mapped, lab.now);
        lab.settle();
        assert_eq!(kinds(&lab), [], "no news");
    }
}

/// Where the engine sends datagrams of its own accord, and with what time to live.
fn sent(lab: &mut Lab) -> Vec<(SocketAddr, Option<u8>)> {
    lab.engine.handle_timeout(lab.now);
    let mut sent = Vec::new();
    while let Some(output) = lab.engine.poll_output() {
        match output {
            Output::Transmit { to: NextHop::Udp(to), ttl, .. } => sent.push((to, ttl)),
            Output::Command(command) => lab.commands.push(command),
            Output::Transmit { .. } | Output::Frame { .. } | Output::Event(_) => {}
        }
    }
    sent
}

/// The ports of ours that a member was told last, with their kinds.
fn ports(lab: &Lab, to: u8) -> Vec<(u8, u16)> {
    let reader = key(to).public();
    let list = lab.commands.iter().rev().find_map(|command| {
        let Command::Signal { to: reads, message } = command else { return None };
        let ours = *reads == key(to).peer_id();
        ours.then(|| Candidates::open(&NamespaceId(NAMESPACE), &key(1).public(), &reader, message).unwrap().list)
    });
    list.unwrap_or_default().iter().map(|candidate| (candidate.kind, candidate.addr.port())).collect()
}

fn seen(port: u16) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 9], port))
}

/// Two voters; a stranger has told where it is seen, and that it looks for us.
fn looked_for() -> (Lab, SocketAddr) {
    let mut lab = lab();
    let replicas = vec![key(VOTER).peer_id(), key(OTHER_VOTER).peer_id()];
    lab.told(Summary { replicas, ..summary(&[VOTER, OTHER_VOTER], &[]) });
    known(&mut lab, STRANGER);
    lab.forget();
    let stranger: SocketAddr = "203.0.113.77:4000".parse().unwrap();
    let looks = Candidates {
        to: key(1).public(),
        seq: 1,
        instance: [1; 8],
        want_reply: true,
        list: vec![dht::signal::Candidate { kind: 2, addr: stranger }],
        relays: Vec::new(),
    };
    let message = looks.sign(&NamespaceId(NAMESPACE), &key(STRANGER));
    lab.engine.handle_overlay(dht::Event::Signal { from: key(STRANGER).peer_id(), message }, lab.now);
    assert_eq!(sent(&mut lab), [], "a translator that counts would spend a port on it");
    (lab, stranger)
}

#[test]
fn nothing_is_sent_to_where_a_peer_is_seen_before_voters_have_said_where_we_are() {
    let (mut lab, stranger) = looked_for();
    lab.forget();
    lab.engine.observed(key(VOTER).peer_id(), seen(30_000), lab.now);
    assert_eq!(sent(&mut lab), []);
    assert_eq!(ports(&lab, STRANGER), [], "and it is told nothing that would change at once");
    lab.engine.observed(key(OTHER_VOTER).peer_id(), seen(30_001), lab.now);
    assert_eq!(sent(&mut lab), [(stranger, Some(2))]);
    let foretold = (30_002..=30_013).chain(29_997..=29_999);
    let mut told = ports(&lab, STRANGER);
    told[1..].sort_unstable_by_key(|(_, port)| (*port < 30_000, *port));
    let wanted: Vec<_> = [(2, 30_001)].into_iter().chain(foretold.map(|port| (4, port))).collect();
    assert_eq!(told, wanted);
    let nat = lab.engine.status(lab.now).nat.unwrap();
    assert_eq!((&*nat.mapping, nat.step, nat.observers), ("address-dependent", None, 2));
    lab.engine.observed(key(STRANGER).peer_id(), seen(30_002), lab.now);
    let nat = lab.engine.status(lab.now).nat.unwrap();
    assert_eq!((&*nat.mapping, nat.step, nat.observers), ("counting", Some(1), 3));
}

#[test]
fn voters_that_do_not_answer_are_not_waited_for_long() {
    let (mut lab, stranger) = looked_for();
    lab.engine.observed(key(VOTER).peer_id(), seen(4000), lab.now);
    lab.pass(std::time::Duration::from_millis(499));
    assert_eq!(sent(&mut lab), []);
    let (at, _) = lab.engine.poll_timeout(lab.now).unwrap();
    assert!(at <= lab.now.mono + std::time::Duration::from_millis(1), "a deadline of its own");
    lab.pass(std::time::Duration::from_millis(1));
    assert_eq!(sent(&mut lab), [(stranger, Some(2))]);
    assert_eq!(ports(&lab, STRANGER), [(2, 4000)]);
}

#[test]
fn where_all_see_one_port_nothing_waits() {
    let (mut lab, stranger) = looked_for();
    for voter in [VOTER, OTHER_VOTER] {
        lab.engine.observed(key(voter).peer_id(), seen(4000), lab.now);
    }
    sent(&mut lab);
    let nat = lab.engine.status(lab.now).nat.unwrap();
    assert_eq!((&*nat.mapping, nat.step, nat.observers), ("endpoint-independent", None, 2));
    lab.pass(secs(6));
    lab.engine.need_peer(key(STRANGER).peer_id(), lab.now);
    sent(&mut lab);
    let elsewhere: SocketAddr = "203.0.113.78:4000".parse().unwrap();
    let list = [stranger, elsewhere].map(|addr| Candidate { addr, kind: CandidateKind::Observed }).to_vec();
    lab.engine.try_candidates(key(STRANGER).peer_id(), list, lab.now);
    assert_eq!(sent(&mut lab), [(elsewhere, Some(2))]);
}
