//! Looking for a member with whom there is no connection: it is told of us by way of others, and we find out where we are seen.

use std::net::SocketAddr;

use dht::identity::PublicKey;
use dht::sign::NamespaceId;
use dht::signal::Candidates;
use dht::{Command, Summary};
use libp2p_identity::PeerId;

use super::standing::summary;
use super::{Addressing, Hostname, Lab, NAMESPACE, key, secs};

const STRANGER: u8 = 7;
const VOTER: u8 = 8;

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
