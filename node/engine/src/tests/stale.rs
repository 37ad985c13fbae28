//! Stale knowledge: an address goes to another member while somebody is not looking, and everybody finds out.

use super::parties::{Parties, grant, id};
use super::*;

/// The address that changes hands, and that of the onlooker.
const X: Ipv4Addr = Ipv4Addr::new(10, 70, 0, 20);
const MINE: Ipv4Addr = OURS;
const ONLOOKER: u8 = 1;
const OLD: u8 = 2;
const NEW: u8 = 3;

fn is_check(command: &Command) -> bool {
    matches!(command, Command::CheckLease { .. })
}

fn is_read(command: &Command) -> bool {
    matches!(command, Command::ReadAddress { ip: X, .. })
}

/// The onlooker talks with the owner of X, whom the register then forgets in favour of another.
fn talking() -> Parties {
    let mut parties = Parties::new(&[ONLOOKER, OLD, NEW]);
    parties.own(ONLOOKER, MINE, 1);
    parties.own(OLD, X, 5);
    parties.send(ONLOOKER, MINE, X);
    parties.send(OLD, X, MINE);
    assert_eq!(parties.arrived(OLD), [(MINE, X)]);
    assert_eq!(parties.arrived(ONLOOKER), [(X, MINE)]);
    parties.forget();
    parties
}

/// As [`talking`], and the new owner has shown itself to the onlooker.
fn superseded() -> Parties {
    let mut parties = talking();
    parties.party(OLD).deaf = true;
    parties.own(NEW, X, 9);
    parties.send(NEW, X, MINE);
    assert_eq!(parties.arrived(ONLOOKER), [(X, MINE)]);
    parties.forget();
    parties
}

#[test]
fn an_old_owners_frames_are_dropped_once_the_newer_certificate_was_seen() {
    let mut parties = superseded();
    for _ in 0..10 {
        parties.send(OLD, X, MINE);
    }
    assert!(parties.arrived(ONLOOKER).is_empty());
    assert_eq!(parties.drops(ONLOOKER, "bridge.superseded-source"), 10);
    parties.send(NEW, X, MINE);
    assert_eq!(parties.arrived(ONLOOKER), [(X, MINE)]);
    parties.send(ONLOOKER, MINE, X);
    assert_eq!((parties.arrived(NEW), parties.arrived(OLD)), (vec![(MINE, X)], vec![]));
}

#[test]
fn a_certificate_shown_again_does_not_displace_the_newer_one() {
    let mut parties = superseded();
    let old = grant(OLD, X, 5).certificate;
    for round in 0..50 {
        parties.forge(OLD, ONLOOKER, Kind::Control, &leases(LEASE, std::slice::from_ref(&old)));
        parties.send(OLD, X, MINE);
        assert!(parties.arrived(ONLOOKER).is_empty(), "{round}");
        parties.wait(secs(1) / 10);
    }
    // Not even looked at, and answered once a second.
    assert_eq!(parties.count(ONLOOKER, is_check), 0);
    assert_eq!(parties.drops(ONLOOKER, "engine.superseded-lease"), 50);
    let shown = parties.count(OLD, |command| matches!(command, Command::Supersede { .. }));
    assert!((4..=5).contains(&shown), "{shown}");
    parties.send(ONLOOKER, MINE, X);
    assert_eq!((parties.arrived(NEW).len(), parties.arrived(OLD).len()), (1, 0));
    // A new grant is another matter.
    let again = grant(OLD, X, 12).certificate;
    parties.forge(OLD, ONLOOKER, Kind::Control, &leases(LEASE, &[again]));
    parties.send(OLD, X, MINE);
    assert_eq!(parties.arrived(ONLOOKER), [(X, MINE)]);
    parties.send(NEW, X, MINE);
    assert_eq!(parties.arrived(ONLOOKER).len(), 1);
}

#[test]
fn a_stale_answer_of_the_register_does_not_displace_the_newer_owner_either() {
    let mut parties = superseded();
    parties.enter(OLD, X, 5);
    // Half of what a proof is used for: it is asked again.
    for _ in 0..35 {
        parties.send(OLD, X, MINE);
        parties.send(ONLOOKER, MINE, X);
        parties.wait(secs(10));
    }
    assert_eq!(parties.count(ONLOOKER, is_read), 1);
    assert!(parties.arrived(ONLOOKER).is_empty());
    assert_eq!((parties.arrived(NEW).len(), parties.arrived(OLD).len()), (35, 0));
}

#[test]
fn a_check_that_was_under_way_when_the_newer_owner_came_does_not_displace_it() {
    let mut parties = superseded();
    let old = grant(OLD, X, 5);
    let pending = Pending::CheckLease { peer: id(OLD), certificate: old.certificate };
    parties.party(ONLOOKER).engine.pending.insert(7, pending);
    let proven = Proven { ip: X, name: None, token: old.token, remaining: LEASE };
    let checked = dht::Event::LeaseChecked { id: CommandId(7), from: id(OLD), outcome: Ok(proven) };
    // The proof of the new owner has just ended, so that nothing but its token speaks for it.
    let engine = &mut parties.party(ONLOOKER).engine;
    engine.forget_route(X);
    parties.overlay(ONLOOKER, checked);
    assert_eq!(parties.party(ONLOOKER).engine.bridge.local().route(X), None);
    parties.send(OLD, X, MINE);
    assert!(parties.arrived(ONLOOKER).is_empty());
}

#[test]
fn what_the_register_says_fences_at_once_too() {
    let mut parties = talking();
    parties.party(OLD).deaf = true;
    let new = parties.enter(NEW, X, 9);
    let (token, certificate) = (new.token, new.certificate);
    parties.overlay(ONLOOKER, dht::Event::Superseded { ip: X, owner: id(NEW), token, certificate });
    parties.send(OLD, X, MINE);
    assert_eq!(parties.drops(ONLOOKER, "bridge.superseded-source"), 1);
    // It was talked to, so the new owner is asked about.
    assert_eq!(parties.count(ONLOOKER, is_read), 1);
    parties.own(NEW, X, 9);
    parties.send(ONLOOKER, MINE, X);
    assert_eq!((parties.arrived(NEW).len(), parties.arrived(OLD).len()), (1, 0));
}

#[test]
fn an_owner_that_was_paused_learns_from_those_it_talks_to_and_stops() {
    let mut parties = talking();
    // A hypervisor stops it, clocks and all: for itself its lease runs on.
    parties.party(OLD).paused = true;
    parties.wait(LEASE - secs(1));
    parties.own(ONLOOKER, MINE, 2);
    parties.wait(secs(600));
    parties.own(NEW, X, 9);
    parties.send(NEW, X, MINE);
    assert_eq!(parties.arrived(ONLOOKER), [(X, MINE)]);
    parties.forget();
    parties.party(OLD).paused = false;
    parties.wait(secs(1));
    assert!(parties.has(OLD, X));
    // The other end has forgotten the session, so it takes a handshake.
    for _ in 0..30 {
        parties.send(OLD, X, MINE);
        parties.wait(secs(1));
    }
    assert!(parties.arrived(ONLOOKER).is_empty());
    assert!(!parties.has(OLD, X));
    assert!(parties.has(NEW, X));
}

#[test]
fn of_two_owners_who_meet_the_older_gives_way_whoever_speaks_first() {
    for first in [OLD, NEW] {
        let mut parties = Parties::new(&[OLD, NEW]);
        let (a, b) = (Ipv4Addr::new(10, 70, 0, 30), Ipv4Addr::new(10, 70, 0, 31));
        parties.own(OLD, X, 5);
        parties.own(NEW, X, 9);
        // Both have another host behind their TAP, so that they talk at all.
        parties.own(OLD, a, 6);
        parties.own(NEW, b, 10);
        let second = OLD + NEW - first;
        let (from, to) = if first == OLD { (a, b) } else { (b, a) };
        parties.send(first, from, to);
        parties.send(second, to, from);
        assert!(!parties.has(OLD, X) && parties.has(NEW, X), "{first} spoke first");
        // What the older one shows later changes nothing, and is answered.
        parties.wait(secs(1));
        let old = grant(OLD, X, 5).certificate;
        parties.forget();
        parties.forge(OLD, NEW, Kind::Control, &[&[21], &old[..]].concat());
        assert!(parties.has(NEW, X));
        assert_eq!(parties.count(NEW, |command| matches!(command, Command::Supersede { .. })), 0);
        assert_eq!(parties.count(OLD, |command| matches!(command, Command::Supersede { .. })), 1);
    }
}

#[test]
fn whoever_is_sent_what_is_not_its_own_says_so_and_the_sender_asks_anew() {
    let mut parties = talking();
    // The owner gives it up without a word to the onlooker, and another has it.
    parties.overlay(OLD, dht::Event::LeaseLost { key: LeaseKey::Address(X), why: "it ran out" });
    parties.own(NEW, X, 9);
    parties.forget();
    parties.send(ONLOOKER, MINE, X);
    assert_eq!(parties.drops(OLD, "bridge.no-such-host"), 1);
    assert_eq!(parties.count(ONLOOKER, is_read), 1);
    parties.send(ONLOOKER, MINE, X);
    assert_eq!(parties.arrived(NEW), [(MINE, X)]);
    assert!(parties.arrived(OLD).is_empty());
}

#[test]
fn an_address_is_asked_anew_once_a_second_however_often_somebody_denies_it() {
    let mut parties = talking();
    parties.overlay(OLD, dht::Event::LeaseLost { key: LeaseKey::Address(X), why: "it ran out" });
    parties.forget();
    // The register goes on naming it.
    for _ in 0..100 {
        parties.send(ONLOOKER, MINE, X);
        parties.wait(secs(1) / 50);
    }
    let reads = parties.count(ONLOOKER, is_read);
    assert!((1..=3).contains(&reads), "{reads}");
    assert!(parties.drops(OLD, "bridge.no-such-host") >= 90);
}

#[test]
fn an_address_is_asked_anew_once_a_second_also_for_who_denies_it_without_end() {
    let mut parties = talking();
    for _ in 0..50 {
        parties.forge(OLD, ONLOOKER, Kind::Control, &[&[20], &X.octets()[..]].concat());
    }
    assert_eq!(parties.count(ONLOOKER, is_read), 1);
    assert_eq!(parties.drops(ONLOOKER, "engine.not-owner-again"), 49);
}

#[test]
fn only_whom_we_send_to_may_deny_an_address() {
    let mut parties = talking();
    parties.own(NEW, Ipv4Addr::new(10, 70, 0, 30), 3);
    parties.send(ONLOOKER, MINE, Ipv4Addr::new(10, 70, 0, 30));
    parties.forget();
    parties.forge(NEW, ONLOOKER, Kind::Control, &[&[20], &X.octets()[..]].concat());
    assert_eq!(parties.drops(ONLOOKER, "engine.stray-not-owner"), 1);
    assert_eq!(parties.count(ONLOOKER, is_read), 0);
    parties.send(ONLOOKER, MINE, X);
    assert_eq!(parties.arrived(OLD), [(MINE, X)]);
}

#[test]
fn who_denies_an_address_hands_over_the_newest_certificate() {
    let mut parties = talking();
    parties.own(NEW, X, 9);
    // The old owner has met the new one.
    let new = grant(NEW, X, 9).certificate;
    parties.forge(ONLOOKER, OLD, Kind::Control, &[&[21], &new[..]].concat());
    assert!(!parties.has(OLD, X));
    let shown = (id(NEW), grant(NEW, X, 9).token, new.clone());
    let now = parties.now;
    assert!(parties.party(OLD).engine.acknowledge(X, shown, now));
    parties.forget();
    parties.send(ONLOOKER, MINE, X);
    let handed = |command: &Command| matches!(command, Command::Supersede { certificate } if *certificate == new);
    assert_eq!(parties.count(ONLOOKER, handed), 1);
    parties.send(ONLOOKER, MINE, X);
    assert_eq!(parties.arrived(NEW), [(MINE, X)]);
}

#[test]
fn an_owner_that_the_register_has_lost_is_told_and_renews_once_in_a_while() {
    let mut parties = talking();
    parties.register.remove(&X);
    let is_renewal = |command: &Command| matches!(command, Command::Renew { ip: X });
    for _ in 0..30 {
        parties.send(ONLOOKER, MINE, X);
        parties.send(OLD, X, MINE);
        parties.wait(secs(10));
    }
    assert_eq!(parties.count(OLD, is_renewal), 1);
    // However often it is said.
    for _ in 0..29 {
        parties.forge(ONLOOKER, OLD, Kind::Control, &[&[22], &X.octets()[..]].concat());
        parties.wait(secs(1));
    }
    assert_eq!(parties.count(OLD, is_renewal), 1);
    parties.wait(secs(1));
    parties.forge(ONLOOKER, OLD, Kind::Control, &[&[22], &X.octets()[..]].concat());
    parties.forge(ONLOOKER, OLD, Kind::Control, &[&[22], &MINE.octets()[..]].concat());
    assert_eq!(parties.count(OLD, is_renewal), 2);
    assert_eq!(parties.count(OLD, |command| matches!(command, Command::Renew { .. })), 2);
}

#[test]
fn whoever_is_wrong_about_thousands_of_addresses_is_told_of_few() {
    let mut parties = talking();
    let address = |n: u8| Ipv4Addr::new(10, 70, 0, 100 + n);
    for n in 0..100 {
        let newer = (id(NEW), grant(NEW, address(n), 9).token, grant(NEW, address(n), 9).certificate);
        let now = parties.now;
        assert!(parties.party(ONLOOKER).engine.acknowledge(address(n), newer, now));
    }
    for n in 0..100 {
        let old = grant(OLD, address(n), 5).certificate;
        parties.forge(OLD, ONLOOKER, Kind::Control, &leases(LEASE, &[old]));
    }
    assert_eq!(parties.drops(ONLOOKER, "engine.superseded-lease"), 100);
    // It was told 32 times, and one place of its own bucket was taken by the onlooker's lease before.
    assert_eq!(parties.drops(OLD, "engine.lease-flood"), 1);
    assert_eq!(parties.count(OLD, |command| matches!(command, Command::Supersede { .. })), 31);
}

#[test]
fn a_flood_of_newer_certificates_is_counted_and_bounded() {
    let mut parties = talking();
    for round in 0..100 {
        let shown = grant(NEW, X, 100 + round).certificate;
        parties.forge(OLD, ONLOOKER, Kind::Control, &[&[21], &shown[..]].concat());
    }
    assert_eq!(parties.count(ONLOOKER, |command| matches!(command, Command::Supersede { .. })), 32);
    assert_eq!(parties.drops(ONLOOKER, "engine.lease-flood"), 68);
}
