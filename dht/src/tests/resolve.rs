//! Who owns what: from certificates, from a quorum, and never from a packet.

use std::time::Duration;

use super::net::{D, FREE, Keep, Net, none, secs};
use crate::certificate::{CertError, hint_key};
use crate::command::Command;
use crate::env::{DropReason, Rules};
use crate::event::{Event, Proven, Resolution};
use crate::membership::fixture::peer;
use crate::message::Message;

const A: u8 = 10;
const B: u8 = 11;

fn check(net: &mut Net, by: u8, from: u8, certificate: &[u8], remaining: Duration) -> Result<Proven, CertError> {
    let certificate = certificate.to_vec();
    let wanted = net.command(by, |id| Command::CheckLease { id, from: peer(from), certificate, remaining });
    net.settle();
    let answer = net.nodes[&by].events.iter().find_map(|event| match event {
        Event::LeaseChecked { id, outcome, .. } if *id == wanted => Some(outcome.clone()),
        _ => None,
    });
    answer.unwrap()
}

#[test]
fn an_address_and_its_name_are_found_both_ways() {
    let mut net = Net::new(1, &[A, B], Rules::ALL);
    let ip = net.ip(5);
    net.claim(A, ip).unwrap();
    net.claim_name(A, "printer").unwrap();
    net.settle();
    let by_name = net.resolve(B, |id| Command::ResolveName { id, name: "Printer.".to_owned() });
    let Resolution::Found { ip: found, owner, name, .. } = by_name else { panic!("{by_name:?}") };
    assert_eq!((found, owner, name), (ip, peer(A), Some("printer".to_owned())));
    let Resolution::Found { name, .. } = net.resolve(B, |id| Command::ResolvePeerName { id, ip }) else { panic!() };
    assert_eq!(name, Some("printer".to_owned()));
    // The owner answers for itself.
    let Resolution::Found { owner, name, .. } = net.resolve(A, |id| Command::ResolveAddress { id, ip }) else {
        panic!()
    };
    assert_eq!((owner, name), (peer(A), Some("printer".to_owned())));
    assert_eq!(net.resolve(B, |id| Command::ResolveName { id, name: "nobody".to_owned() }), Resolution::Absent);
}

#[test]
fn a_name_whose_address_went_to_somebody_else_has_none() {
    let mut net = Net::new(1, &[A, B], Rules::ALL);
    let ip = net.ip(5);
    net.claim(A, ip).unwrap();
    net.claim_name(A, "printer").unwrap();
    net.release(A, ip);
    net.settle();
    net.claim(B, ip).unwrap();
    assert_eq!(net.resolve(1, |id| Command::ResolveName { id, name: "printer".to_owned() }), Resolution::Absent);
    let Resolution::Found { owner, name, .. } = net.resolve(1, |id| Command::ResolvePeerName { id, ip }) else {
        panic!()
    };
    assert_eq!((owner, name), (peer(B), None));
}

#[test]
fn a_handed_over_certificate_is_believed_of_its_owner_only_and_answers_at_once() {
    let mut net = Net::new(1, &[A, B], Rules::ALL);
    let ip = net.ip(5);
    let lease = net.claim(A, ip).unwrap();
    let proven = check(&mut net, B, A, &lease.certificate, secs(100)).unwrap();
    assert_eq!((proven.ip, proven.token, proven.remaining), (ip, lease.token, secs(100)));
    net.crash(1);
    let id = net.command(B, |id| Command::ResolveAddress { id, ip });
    assert!(matches!(net.resolved(B, id), Some(Resolution::Found { owner, .. }) if owner == peer(A)));
    assert_eq!(check(&mut net, B, 1, &lease.certificate, secs(100)), Err(CertError::NotOwner));
    for place in 0..lease.certificate.len() {
        let mut flipped = lease.certificate.clone();
        flipped[place] ^= 1;
        assert!(check(&mut net, B, A, &flipped, secs(100)).is_err(), "byte {place}");
        assert!(check(&mut net, B, A, &flipped[..place], secs(100)).is_err());
    }
}

#[test]
fn liar_dies_at_g() {
    let mut net = Net::new(1, &[A, B], Rules::ALL);
    let ip = net.ip(5);
    let lease = net.claim(A, ip).unwrap();
    let said = D * 1000;
    assert!(check(&mut net, B, A, &lease.certificate, said).unwrap().remaining < FREE);
    net.freeze(D);
    assert!(check(&mut net, B, A, &lease.certificate, said).unwrap().remaining < secs(1800));
    net.freeze(secs(1800));
    assert_eq!(check(&mut net, B, A, &lease.certificate, said), Err(CertError::Lapsed));
}

#[test]
fn a_newer_owner_displaces_the_old_one_and_never_the_other_way_round() {
    let mut net = Net::new(1, &[A, B], Rules::ALL);
    let ip = net.ip(5);
    let old = net.claim(A, ip).unwrap();
    check(&mut net, 1, A, &old.certificate, secs(500)).unwrap();
    net.release(A, ip);
    net.settle();
    let new = net.claim(B, ip).unwrap();
    check(&mut net, 1, B, &new.certificate, secs(500)).unwrap();
    let newer = (peer(B), new.token, new.certificate.clone());
    let told = |event: &Event| match event {
        Event::Superseded { owner, token, certificate, .. } => Some((*owner, *token, certificate.clone())),
        _ => None,
    };
    assert!(net.nodes[&1].events.iter().filter_map(told).any(|event| event == newer));
    assert_eq!(check(&mut net, 1, A, &old.certificate, secs(500)), Err(CertError::Superseded));
    // Also who holds it itself is not talked out of it by an older one.
    assert_eq!(check(&mut net, B, A, &old.certificate, secs(500)), Err(CertError::Superseded));
    assert_eq!(net.owners(ip), [B]);
}

#[test]
fn an_owner_that_sees_a_newer_certificate_stops() {
    let mut net = Net::new(1, &[A, B], Rules::ALL);
    let ip = net.ip(5);
    net.claim(A, ip).unwrap();
    // The replica's operator breaks its promise: B is granted the address too.
    net.nodes.get_mut(&1).unwrap().rates.1 = 10_000_000;
    let new = net.claim(B, ip).unwrap();
    assert_eq!(net.owners(ip).len(), 2);
    let message = Message::Supersede { certificate: new.certificate };
    net.deliver(&super::net::Packet { from: B, to: A, message });
    assert_eq!(net.owners(ip), [B]);
    assert!(net.nodes[&A].events.iter().any(|e| matches!(e, Event::LeaseLost { .. })));
}

/// Each costs the check of a quorum's signatures.
#[test]
fn a_member_that_sends_certificates_without_end_is_not_listened_to() {
    let mut net = Net::new(1, &[A, B], Rules::ALL);
    let ip = net.ip(5);
    let mut forged = net.claim(B, ip).unwrap().certificate;
    *forged.last_mut().unwrap() ^= 1;
    for _ in 0..500 {
        let message = Message::Supersede { certificate: forged.clone() };
        net.deliver(&super::net::Packet { from: B, to: A, message });
    }
    let drops = net.live(A).drops().clone();
    assert_eq!((drops[&DropReason::BadCertificate], drops[&DropReason::TooOften]), (64, 436));
    // What else it sends is heard.
    assert!(net.claim(A, net.ip(6)).is_ok());
}

#[test]
fn a_newer_certificate_that_a_peer_showed_ends_ours_and_an_older_one_does_nothing() {
    let mut net = Net::new(1, &[A, B], Rules::ALL);
    let ip = net.ip(5);
    let old = net.claim(A, ip).unwrap();
    net.nodes.get_mut(&1).unwrap().rates.1 = 10_000_000;
    let new = net.claim(B, ip).unwrap();
    net.command(B, |_| Command::Supersede { certificate: old.certificate });
    assert_eq!(net.owners(ip).len(), 2);
    let mut forged = new.certificate.clone();
    *forged.last_mut().unwrap() ^= 1;
    net.command(A, |_| Command::Supersede { certificate: forged });
    assert_eq!(net.owners(ip).len(), 2);
    net.command(A, |_| Command::Supersede { certificate: new.certificate });
    assert_eq!(net.owners(ip), [B]);
}

#[test]
fn an_address_that_is_read_is_asked_of_the_register_whatever_was_said_before() {
    let mut net = Net::new(1, &[A, B], Rules::ALL);
    let ip = net.ip(5);
    let before = net.resolve(B, |id| Command::ResolveAddress { id, ip });
    assert_eq!(before, Resolution::Absent);
    net.claim(A, ip).unwrap();
    let read = net.resolve(B, |id| Command::ReadAddress { id, ip });
    assert!(matches!(read, Resolution::Found { owner, .. } if owner == peer(A)), "{read:?}");
}

#[test]
fn a_lease_that_somebody_missed_is_renewed_at_once() {
    let mut net = Net::new(1, &[A], Rules::ALL);
    let ip = net.ip(5);
    let lease = net.claim(A, ip).unwrap();
    net.nodes.get_mut(&A).unwrap().events.clear();
    let other = net.ip(6);
    net.command(A, |_| Command::Renew { ip: other });
    assert!(net.wire.is_empty());
    net.command(A, |_| Command::Renew { ip });
    net.settle();
    let renewed = |event: &Event| match event {
        Event::LeaseChanged { lease } => Some(lease.token),
        _ => None,
    };
    let tokens: Vec<_> = net.nodes[&A].events.iter().filter_map(renewed).collect();
    assert!(tokens.len() == 1 && tokens[0] > lease.token, "{tokens:?}");
}

#[test]
fn absent_is_repeated_for_five_seconds_only() {
    let mut net = Net::new(1, &[A, B], Rules::ALL);
    let ip = net.ip(5);
    assert_eq!(net.resolve(B, |id| Command::ResolveAddress { id, ip }), Resolution::Absent);
    net.claim(A, ip).unwrap();
    assert_eq!(net.resolve(B, |id| Command::ResolveAddress { id, ip }), Resolution::Absent);
    net.freeze(secs(5));
    assert!(matches!(net.resolve(B, |id| Command::ResolveAddress { id, ip }), Resolution::Found { .. }));
}

#[test]
fn an_answer_is_used_for_ten_minutes_and_refreshed_at_half() {
    let mut net = Net::new(1, &[A, B], Rules::ALL);
    let ip = net.ip(5);
    net.claim(A, ip).unwrap();
    let Resolution::Found { remaining, .. } = net.resolve(B, |id| Command::ResolveAddress { id, ip }) else { panic!() };
    assert_eq!(remaining, secs(600));
    net.freeze(secs(299));
    net.command(B, |id| Command::ResolveAddress { id, ip });
    assert!(net.wire.is_empty());
    net.freeze(secs(1));
    net.command(B, |id| Command::ResolveAddress { id, ip });
    assert_eq!(net.wire.len(), 1);
    net.run(secs(1), none);
}

#[test]
fn a_hint_must_be_a_valid_certificate_of_its_key_and_newer() {
    let mut net = Net::new(1, &[A, B], Rules::ALL);
    let ip = net.ip(5);
    let id = net.begin_claim(A, ip, "self", Keep::No);
    net.settle();
    let old = net.claimed(A, id).unwrap().unwrap().certificate;
    net.release(A, ip);
    net.settle();
    let new = net.claim(B, ip).unwrap().certificate;
    let key = hint_key(&net.world.ns, ip);
    let other = hint_key(&net.world.ns, net.ip(6));
    let node = net.live(1);
    assert!(node.verify_hint(&key, &old, None) && node.verify_hint(&key, &new, Some(&old)));
    assert!(!node.verify_hint(&key, &old, Some(&new)) && !node.verify_hint(&key, &new, Some(&new)));
    assert!(!node.verify_hint(&other, &new, None) && !node.verify_hint(&key, b"junk", None));
    let mut forged = new.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert!(!node.verify_hint(&key, &forged, None));
}
