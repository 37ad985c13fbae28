//! DECLINE, RELEASE and INFORM: RFC 2131 §4.3.3 to §4.3.5.

use dhcproto::v4::{DhcpOption, MessageType, OptionCode};

use super::lab::{Host, LEASE, Lab, NONE, Register, ip, kind, reply, secs, to, with};
use crate::{Destination, DropReason, Event, Outcome};

#[test]
fn a_released_address_is_given_back_and_offered_to_the_same_machine_again() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    let bound = lab.bind(&host);
    lab.events();
    assert_eq!(lab.send(&host, &host.release(bound)), []);
    assert_eq!(lab.events(), [Event::Release { client: host.key(), ip: bound }]);
    assert_eq!(lab.bound(), NONE);
    assert_eq!(lab.send(&host, &host.release(bound)), [], "a repeated one means nothing");
    assert_eq!(lab.events(), []);
    assert_eq!(lab.bind(&host), bound);
}

#[test]
fn a_release_during_a_renewal_gives_back_what_the_renewal_gets() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    let bound = lab.bind(&host);
    lab.pass(LEASE / 2);
    lab.events();
    lab.register = Register::Waits;
    lab.send(&host, &host.renew(bound));
    let claim = lab.only_claim();
    lab.send(&host, &host.release(bound));
    assert_eq!(lab.released(), [bound]);
    assert_eq!(lab.answer(claim, Outcome::Granted { ip: bound, remaining: LEASE }), []);
    assert_eq!(lab.released(), [bound]);
    assert_eq!(lab.bound(), NONE);
}

#[test]
fn only_the_machine_that_has_an_address_can_give_it_away() {
    let mut lab = Lab::new();
    let (host, other) = (Host::new(1), Host::new(2));
    let bound = lab.bind(&host);
    lab.events();
    let to_other = |message| with(message, DhcpOption::ServerIdentifier(ip(99)));
    lab.send(&other, &other.release(bound));
    lab.send(&other, &other.decline(bound));
    lab.send(&host, &host.release(ip(77)));
    // The holder's message, from another machine's card.
    lab.send(&other, &host.release(bound));
    lab.send(&other, &host.decline(bound));
    assert_eq!(lab.dropped(DropReason::NotHolder), 5);
    lab.send(&host, &to_other(host.release(bound)));
    lab.send(&host, &to_other(host.decline(bound)));
    assert_eq!(lab.dropped(DropReason::OtherServer), 2);
    assert_eq!(lab.events(), []);
    assert_eq!(lab.bound(), [bound]);
}

#[test]
fn a_declined_address_rests_and_the_machine_gets_another() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    let bound = lab.bind(&host);
    lab.events();
    assert_eq!(lab.send(&host, &host.decline(bound)), []);
    assert_eq!(lab.events(), [Event::Decline { client: host.key(), ip: bound }]);
    let second = lab.bind(&host);
    assert_ne!(second, bound);
    assert_eq!(lab.bound(), [second]);
}

#[test]
fn a_declined_address_is_refused_to_whoever_asks_for_it_until_it_has_rested() {
    let mut lab = Lab::new();
    let (host, other) = (Host::new(1), Host::new(2));
    let bound = lab.bind(&host);
    lab.send(&host, &host.decline(bound));
    lab.events();
    assert_eq!(kind(&reply(&lab.send(&other, &other.reboot(bound)))), MessageType::Nak);
    // The register would grant it as the first free one, and is asked for another.
    let offer = reply(&lab.send(&other, &other.discover()));
    assert_ne!(offer.yiaddr(), bound);
    assert!(lab.released().contains(&bound));
    lab.pass(secs(600));
    assert_eq!(kind(&reply(&lab.send(&other, &other.reboot(bound)))), MessageType::Ack);
}

#[test]
fn a_register_that_insists_on_a_resting_address_is_asked_a_few_times_and_no_more() {
    let mut lab = Lab::new();
    let (host, other) = (Host::new(1), Host::new(2));
    let bound = lab.bind(&host);
    lab.send(&host, &host.decline(bound));
    lab.events();
    lab.register = Register::Waits;
    lab.send(&other, &other.discover());
    for round in 0..5 {
        let claim = lab.only_claim();
        assert_eq!(lab.answer(claim, Outcome::Granted { ip: bound, remaining: secs(60) }), [], "{round}");
    }
    assert_eq!(lab.released(), [bound], "the last one; the others went with the claims");
    assert_eq!(lab.dropped(DropReason::NoneFree), 1);
}

#[test]
fn a_machine_that_declines_everything_has_to_wait() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    for _ in 0..4 {
        let bound = lab.bind(&host);
        lab.send(&host, &host.decline(bound));
    }
    lab.events();
    assert_eq!(lab.send(&host, &host.discover()), []);
    assert_eq!(lab.dropped(DropReason::DeclineLoop), 1);
    assert_eq!(lab.events(), []);
    lab.pass(secs(60));
    assert_eq!(lab.send(&host, &host.discover()).len(), 1);
}

#[test]
fn declines_of_long_ago_are_forgotten() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    for _ in 0..6 {
        let bound = lab.bind(&host);
        lab.send(&host, &host.decline(bound));
        lab.pass(secs(600));
    }
    assert_eq!(lab.dropped(DropReason::DeclineLoop), 0);
}

#[test]
fn inform_is_answered_with_parameters_but_neither_address_nor_times() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    let mut inform = host.inform(ip(200));
    inform.set_flags(dhcproto::v4::Flags::default().set_broadcast());
    let replies = lab.send(&host, &inform);
    assert_eq!(to(&replies), Destination::Unicast { mac: host.mac, ip: ip(200) });
    let ack = reply(&replies);
    assert_eq!(kind(&ack), MessageType::Ack);
    assert!(ack.yiaddr().is_unspecified());
    assert_eq!(ack.ciaddr(), ip(200));
    for absent in [OptionCode::AddressLeaseTime, OptionCode::Renewal, OptionCode::Rebinding] {
        assert!(!ack.opts().contains(absent), "{absent:?}");
    }
    assert!(ack.opts().contains(OptionCode::DomainNameServer));
    assert_eq!(lab.events(), []);
}

#[test]
fn inform_from_another_network_or_without_address_is_not_answered() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    assert_eq!(lab.send(&host, &host.inform([192, 168, 1, 7].into())), []);
    assert_eq!(lab.send(&host, &host.message(MessageType::Inform)), []);
    assert_eq!((lab.dropped(DropReason::Foreign), lab.dropped(DropReason::NoAddress)), (1, 1));
}
