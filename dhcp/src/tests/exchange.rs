//! From DISCOVER to a bound address: RFC 2131 §3.1, §4.3.1, and RFC 4039.

use dhcproto::v4::{DhcpOption, MessageType, OptionCode};

use super::lab::{Host, LEASE, Lab, NONE, Register, ip, kind, reply, seconds, secs, with};
use crate::{DropReason, Event, Hold, Outcome, RequestId};

#[test]
fn a_machine_gets_an_address_that_was_claimed_twice() {
    let mut lab = Lab::new();
    let host = Host::new(1);

    let offer = reply(&lab.send(&host, &host.discover()));
    assert_eq!((kind(&offer), offer.yiaddr()), (MessageType::Offer, ip(2)));
    let claims = lab.claims();
    assert_eq!(claims, [(RequestId(0), None, false, Hold::Offer)]);
    assert_eq!(lab.bound(), NONE);

    let ack = reply(&lab.send(&host, &host.select(ip(2))));
    assert_eq!((kind(&ack), ack.yiaddr()), (MessageType::Ack, ip(2)));
    let events = lab.events();
    let [Event::Claim { id, want, only_wanted, hold, mac, .. }, Event::Bound { client, ip: bound, .. }] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!((*id, *want, *only_wanted, *hold), (RequestId(1), Some(ip(2)), true, Hold::Full));
    assert_eq!((*mac, client, *bound), (host.mac, &host.key(), ip(2)));
    assert_eq!(lab.bound(), [ip(2)]);
}

#[test]
fn two_machines_get_two_addresses() {
    let mut lab = Lab::new();
    let (a, b) = (lab.bind(&Host::new(1)), lab.bind(&Host::new(2)));
    assert_ne!(a, b);
    assert_eq!(lab.bound(), [a, b]);
}

#[test]
fn the_address_asked_for_in_a_discover_is_wished_for_but_not_insisted_on() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    let discover = with(host.discover(), DhcpOption::RequestedIpAddress(ip(77)));
    assert_eq!(reply(&lab.send(&host, &discover)).yiaddr(), ip(77));
    assert_eq!(lab.claims(), [(RequestId(0), Some(ip(77)), false, Hold::Offer)]);
}

#[test]
fn addresses_no_client_can_have_are_not_wished_for() {
    for bad in ["10.64.0.0", "10.64.255.255", "10.64.0.1", "192.168.1.7", "0.0.0.0"] {
        let mut lab = Lab::new();
        let host = Host::new(1);
        lab.send(&host, &with(host.discover(), DhcpOption::RequestedIpAddress(bad.parse().unwrap())));
        assert_eq!(lab.claims(), [(RequestId(0), None, false, Hold::Offer)], "{bad}");
    }
}

#[test]
fn a_repeated_discover_claims_once_and_the_latest_one_is_answered() {
    let mut lab = Lab::new();
    lab.register = Register::Waits;
    let mut host = Host::new(1);
    lab.send(&host, &host.discover());
    let id = lab.only_claim();
    host.xid += 1;
    assert_eq!(lab.send(&host, &host.discover()), []);
    assert_eq!(lab.claims(), []);
    let offer = reply(&lab.answer(id, Outcome::Granted { ip: ip(9), remaining: secs(60) }));
    assert_eq!((offer.xid(), offer.yiaddr()), (host.xid, ip(9)));
}

#[test]
fn a_standing_offer_answers_a_repeated_discover_and_is_claimed_again_when_it_gets_old() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    let first = reply(&lab.send(&host, &host.discover()));
    lab.events();
    lab.pass(secs(10));
    let second = reply(&lab.send(&host, &host.discover()));
    assert_eq!(second.yiaddr(), first.yiaddr());
    assert_eq!(seconds(&second, OptionCode::AddressLeaseTime), Some(40));
    assert_eq!(lab.claims(), []);
    lab.pass(secs(15));
    let third = reply(&lab.send(&host, &host.discover()));
    assert_eq!(third.yiaddr(), first.yiaddr());
    assert_eq!(lab.claims(), [(RequestId(1), Some(ip(2)), false, Hold::Offer)]);
}

#[test]
fn an_offer_not_taken_is_given_back_after_a_minute() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    lab.send(&host, &host.discover());
    lab.pass(secs(59));
    assert_eq!(lab.released(), NONE);
    lab.pass(secs(1));
    assert_eq!(lab.released(), [ip(2)]);
    assert_eq!(lab.server.poll_timeout(), None);
}

#[test]
fn a_machine_that_starts_over_is_offered_the_address_it_has() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    let had = lab.bind(&host);
    lab.events();
    let discover = with(host.discover(), DhcpOption::RequestedIpAddress(ip(99)));
    assert_eq!(reply(&lab.send(&host, &discover)).yiaddr(), had);
    assert_eq!(lab.events(), []);
    assert_eq!(lab.bound(), [had]);
    assert_eq!(reply(&lab.send(&host, &host.select(had))).yiaddr(), had);
}

#[test]
fn a_machine_that_comes_back_after_its_lease_is_offered_what_it_had() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    lab.send(&host, &with(host.discover(), DhcpOption::RequestedIpAddress(ip(50))));
    lab.send(&host, &host.select(ip(50)));
    lab.pass(LEASE);
    assert_eq!(lab.released(), [ip(50)]);
    assert_eq!(lab.bound(), NONE);
    assert_eq!(reply(&lab.send(&host, &host.discover())).yiaddr(), ip(50));
}

#[test]
fn without_quorum_or_with_nothing_free_a_discover_is_not_answered() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    lab.register = Register::NoQuorum;
    assert_eq!(lab.send(&host, &host.discover()), []);
    assert_eq!(lab.dropped(DropReason::Unavailable), 1);
    lab.register = Register::Answers;
    lab.pool = 2..2;
    assert_eq!(lab.send(&host, &host.discover()), []);
    assert_eq!(lab.dropped(DropReason::NoneFree), 1);
    lab.pool = 2..3;
    assert_eq!(reply(&lab.send(&host, &host.discover())).yiaddr(), ip(2));
}

#[test]
fn a_claim_that_is_never_answered_does_not_lock_the_machine_out() {
    let mut lab = Lab::new();
    lab.register = Register::Waits;
    let host = Host::new(1);
    lab.send(&host, &host.discover());
    let lost = lab.only_claim();
    lab.pass(secs(20));
    assert_eq!(lab.dropped(DropReason::ClaimTimedOut), 1);
    lab.send(&host, &host.discover());
    let again = lab.only_claim();
    assert_ne!(lost, again);
    assert_eq!(reply(&lab.answer(again, Outcome::Granted { ip: ip(5), remaining: secs(60) })).yiaddr(), ip(5));
    // The first grant at last: a second address nobody needs.
    assert_eq!(lab.answer(lost, Outcome::Granted { ip: ip(4), remaining: secs(60) }), []);
    assert_eq!(lab.released(), [ip(4)]);
}

#[test]
fn a_late_grant_of_the_address_in_hand_is_not_given_back() {
    let mut lab = Lab::new();
    lab.register = Register::Waits;
    let host = Host::new(1);
    lab.send(&host, &host.discover());
    let first = lab.only_claim();
    lab.send(&host, &host.reboot(ip(7)));
    let second = lab.only_claim();
    lab.answer(first, Outcome::Granted { ip: ip(7), remaining: secs(60) });
    assert_eq!(lab.released(), NONE, "about to be had");
    let ack = reply(&lab.answer(second, Outcome::Granted { ip: ip(7), remaining: LEASE }));
    assert_eq!(kind(&ack), MessageType::Ack);
    assert_eq!(lab.answer(second, Outcome::Taken), [], "a second outcome means nothing");
    assert_eq!(lab.dropped(DropReason::LateOutcome), 2);
    assert_eq!(lab.bound(), [ip(7)]);
}

#[test]
fn a_machine_that_starts_over_while_its_request_is_under_way_is_offered_something() {
    let mut lab = Lab::new();
    lab.register = Register::Waits;
    let host = Host::new(1);
    lab.send(&host, &host.reboot(ip(7)));
    let claim = lab.only_claim();
    assert_eq!(lab.send(&host, &host.discover()), []);
    assert_eq!(lab.claims(), []);
    assert_eq!(lab.answer(claim, Outcome::Taken), []);
    let [(again, want, only_wanted, hold)] = lab.claims()[..] else {
        panic!("one claim");
    };
    assert_eq!((want, only_wanted, hold), (None, false, Hold::Offer));
    let offer = reply(&lab.answer(again, Outcome::Granted { ip: ip(8), remaining: secs(60) }));
    assert_eq!((kind(&offer), offer.yiaddr()), (MessageType::Offer, ip(8)));
}

#[test]
fn rapid_commit_binds_in_two_messages() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    let ack = reply(&lab.send(&host, &host.rapid()));
    assert_eq!((kind(&ack), ack.yiaddr()), (MessageType::Ack, ip(2)));
    assert!(ack.opts().contains(OptionCode::RapidCommit));
    assert_eq!(lab.bound(), [ip(2)]);
    assert_eq!(lab.claims(), [(RequestId(0), None, false, Hold::Full)]);
}

#[test]
fn a_rapid_discover_that_meets_a_claim_for_an_offer_is_answered_by_an_offer() {
    let mut lab = Lab::new();
    lab.register = Register::Waits;
    let host = Host::new(1);
    lab.send(&host, &host.discover());
    let claim = lab.only_claim();
    lab.send(&host, &host.rapid());
    let offer = reply(&lab.answer(claim, Outcome::Granted { ip: ip(5), remaining: secs(60) }));
    assert_eq!(kind(&offer), MessageType::Offer);
    assert!(!offer.opts().contains(OptionCode::RapidCommit));
    assert_eq!(lab.bound(), NONE);
}

#[test]
fn the_client_identifier_counts_before_the_hardware_address() {
    let mut lab = Lab::new();
    let one = Host::identified(1, b"\xff\0\0\0\x01\0\x02one");
    let two = Host::identified(1, b"\xff\0\0\0\x01\0\x02two");
    let moved = Host { mac: [2, 0, 0, 0, 0, 9], ..one.clone() };
    let (a, b) = (lab.bind(&one), lab.bind(&two));
    assert_ne!(a, b, "one card, two clients");
    assert_eq!(lab.bind(&moved), a, "one client, another card");
    let macs: Vec<_> = lab.server.bindings().map(|binding| (binding.ip, binding.mac)).collect();
    assert_eq!(macs, [(a, moved.mac), (b, two.mac)]);
}

#[test]
fn a_client_is_the_same_with_and_without_the_identifier_made_of_its_address() {
    let mut lab = Lab::new();
    let loader = Host::new(3);
    let system = Host::identified(3, &[1, 2, 0, 0, 0, 0, 3]);
    assert_eq!(lab.bind(&loader), lab.bind(&system));
    assert_eq!(lab.server.bindings().count(), 1);
}

#[test]
fn the_name_a_client_gives_comes_with_its_events() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    let name = DhcpOption::Hostname("Web.example".to_owned());
    lab.send(&host, &with(host.discover(), name.clone()));
    lab.send(&host, &with(host.select(ip(2)), name));
    for event in lab.events() {
        match event {
            Event::Claim { hostname, .. } | Event::Bound { hostname, .. } => {
                assert_eq!(hostname.as_deref(), Some("web"));
            }
            Event::Release { .. } | Event::Decline { .. } => panic!("nothing is given back"),
        }
    }
    assert_eq!(lab.server.bindings().next().unwrap().hostname.as_deref(), Some("web"));
}
