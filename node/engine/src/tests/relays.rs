//! Two members without a direct way: who is asked to carry, and that both ends meet there.

use std::net::Ipv4Addr;

use dht::identity::PublicKey;
use dht::sign::NamespaceId;
use dht::signal::Candidates;

use super::parties::{Parties, id};
use super::standing::summary;
use super::*;

const A: u8 = 1;
const B: u8 = 2;
const VOTER: u8 = 3;
const A_IP: Ipv4Addr = Ipv4Addr::new(10, 70, 0, 11);
const B_IP: Ipv4Addr = Ipv4Addr::new(10, 70, 0, 12);

/// Two that no datagram takes from one to the other, and voters that both reach.
fn apart(voters: &[u8]) -> Parties {
    let mut parties = Parties::new(&[&[A, B], voters].concat());
    parties.apart.insert((A, B));
    parties.own(A, A_IP, 1);
    parties.own(B, B_IP, 2);
    for number in [A, B] {
        let summary = Box::new(summary(voters, &[]));
        parties.overlay(number, dht::Event::Status { summary });
    }
    parties.forget();
    parties
}

fn path(parties: &Parties, from: u8, to: u8) -> String {
    let status = parties.all[&from].engine.status(parties.now_of(from));
    let peer = status.peers.into_iter().find(|peer| peer.peer_id == id(to).to_string());
    peer.map_or_else(|| "unknown".into(), |peer| peer.path)
}

/// Whom `number` named to `to` as relays, in its last signal.
fn named(parties: &Parties, number: u8, to: u8) -> Vec<PublicKey> {
    let (ns, from, reader) = (NamespaceId(NAMESPACE), key(number).public(), key(to).public());
    let read = |command: &Command| {
        let Command::Signal { to: receiver, message } = command else { return None };
        (*receiver == id(to)).then(|| Candidates::open(&ns, &from, &reader, message).ok())?
    };
    parties.all[&number].commands.iter().rev().find_map(read).map(|candidates| candidates.relays).unwrap_or_default()
}

#[test]
fn the_first_packet_goes_over_a_voter() {
    let mut parties = apart(&[VOTER]);
    parties.send(A, A_IP, B_IP);
    assert_eq!(parties.arrived(B), [(A_IP, B_IP)], "without any time passing");
    assert_eq!(named(&parties, A, B), [key(VOTER).public()]);
    assert_eq!((path(&parties, A, B), path(&parties, B, A)), ("relay".into(), "relay".into()));
    assert_eq!(path(&parties, A, VOTER), "direct");
    // By the fast path in both directions, and through the voter's.
    parties.forget();
    parties.send(B, B_IP, A_IP);
    parties.send(A, A_IP, B_IP);
    assert_eq!((parties.arrived(A), parties.arrived(B)), (vec![(B_IP, A_IP)], vec![(A_IP, B_IP)]));
    assert_eq!(parties.arrived(VOTER), []);
    assert_eq!(parties.party(VOTER).engine.snapshot().legs.len(), 2);
    let status = parties.all[&A].engine.status(parties.now_of(A));
    let of_b = status.peers.into_iter().find(|peer| peer.peer_id == id(B).to_string()).unwrap();
    assert_eq!(of_b.endpoint, Some(id(VOTER).to_string()), "status says who carries");
}

#[test]
fn a_voter_that_is_gone_is_done_without() {
    let mut parties = apart(&[3, 4]);
    parties.send(A, A_IP, B_IP);
    assert_eq!(named(&parties, A, B).len(), 2);
    let first = parties.all[&A].engine.status(parties.now_of(A));
    let carrier = first.peers.iter().find(|peer| peer.peer_id == id(B).to_string()).unwrap().endpoint.clone().unwrap();
    let gone = if carrier == id(3).to_string() { 3 } else { 4 };
    parties.party(gone).paused = true;
    for _ in 0..20 {
        parties.send(A, A_IP, B_IP);
        parties.wait(Duration::from_millis(500));
    }
    parties.forget();
    parties.send(A, A_IP, B_IP);
    assert_eq!(parties.arrived(B), [(A_IP, B_IP)]);
}

#[test]
fn once_a_direct_way_is_open_the_relay_is_left() {
    let mut parties = apart(&[VOTER]);
    parties.send(A, A_IP, B_IP);
    parties.wait(secs(6));
    parties.apart.clear();
    for _ in 0..20 {
        parties.send(A, A_IP, B_IP);
        parties.wait(Duration::from_millis(500));
    }
    assert_eq!((path(&parties, A, B), path(&parties, B, A)), ("direct".into(), "direct".into()));
    assert_eq!(parties.arrived(B).len(), 21);
}

#[test]
fn without_voters_nobody_is_asked() {
    let mut parties = apart(&[]);
    parties.send(A, A_IP, B_IP);
    parties.wait(secs(3));
    assert_eq!(parties.arrived(B), []);
    assert_eq!(path(&parties, A, B), "none");
}

/// A peer may name as relays whom it likes: at most two are asked, and neither itself nor us.
#[test]
fn of_the_relays_that_a_peer_names_few_are_asked() {
    let mut parties = apart(&[VOTER]);
    let relays = [A, B, 5, 6].map(|number| key(number).public()).to_vec();
    let list = Vec::new();
    let message = Candidates { to: key(A).public(), seq: 1, instance: [9; 8], want_reply: true, list, relays };
    let message = message.sign(&NamespaceId(NAMESPACE), &key(B));
    parties.overlay(A, dht::Event::Signal { from: id(B), message });
    let dialled =
        |number: u8| parties.count(A, |command| matches!(command, Command::Connect { peer } if *peer == id(number)));
    assert_eq!([A, 5, 6].map(dialled), [0, 1, 1]);
}
