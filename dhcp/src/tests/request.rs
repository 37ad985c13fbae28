//! REQUEST in its five states: RFC 2131 §4.3.2, §4.3.6.

use dhcproto::v4::{DhcpOption, MessageType, OptionCode};

use super::lab::{Host, LEASE, Lab, NONE, Register, ip, kind, reply, seconds, secs, to, with};
use crate::{Destination, DropReason, Hold, Outcome};

const ELSEWHERE: std::net::Ipv4Addr = std::net::Ipv4Addr::new(192, 168, 1, 1);

#[test]
fn taking_another_servers_offer_gives_ours_back() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    lab.send(&host, &host.discover());
    lab.events();
    let request = with(host.reboot(ELSEWHERE), DhcpOption::ServerIdentifier(ELSEWHERE));
    assert_eq!(lab.send(&host, &request), []);
    assert_eq!(lab.released(), [ip(2)]);
    assert_eq!(lab.dropped(DropReason::OtherServer), 1);
    assert_eq!(lab.server.poll_timeout(), None);
}

#[test]
fn taking_another_servers_offer_gives_a_rapid_commit_back_but_not_an_older_lease() {
    let mut lab = Lab::new();
    let mut host = Host::new(1);
    lab.send(&host, &host.rapid());
    lab.events();
    let elsewhere = |host: &Host| with(host.reboot(ELSEWHERE), DhcpOption::ServerIdentifier(ELSEWHERE));
    lab.send(&host, &elsewhere(&host));
    assert_eq!(lab.released(), [ip(2)]);

    lab.bind(&host);
    lab.events();
    host.xid += 1;
    lab.send(&host, &elsewhere(&host));
    assert_eq!(lab.released(), NONE);
    assert_eq!(lab.bound(), [ip(2)]);
}

#[test]
fn a_claim_under_way_for_a_client_that_takes_another_server_is_given_back_when_it_comes() {
    let mut lab = Lab::new();
    lab.register = Register::Waits;
    let host = Host::new(1);
    lab.send(&host, &host.discover());
    let claim = lab.only_claim();
    lab.send(&host, &with(host.reboot(ELSEWHERE), DhcpOption::ServerIdentifier(ELSEWHERE)));
    assert_eq!(lab.answer(claim, Outcome::Granted { ip: ip(9), remaining: secs(60) }), []);
    assert_eq!(lab.released(), [ip(9)]);
}

#[test]
fn a_request_to_another_server_by_a_stranger_means_nothing() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    assert_eq!(lab.send(&host, &with(host.reboot(ELSEWHERE), DhcpOption::ServerIdentifier(ELSEWHERE))), []);
    assert_eq!(lab.events(), []);
    assert_eq!(lab.dropped(DropReason::OtherServer), 1);
}

#[test]
fn an_offer_that_was_lost_to_somebody_else_is_refused_at_the_request() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    lab.send(&host, &host.discover());
    lab.occupy(ip(2));
    assert_eq!(kind(&reply(&lab.send(&host, &host.select(ip(2))))), MessageType::Nak);
    assert_eq!(reply(&lab.send(&host, &host.discover())).yiaddr(), ip(3));
}

#[test]
fn an_offer_made_before_the_server_restarted_is_still_good() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    assert_eq!(kind(&reply(&lab.send(&host, &host.select(ip(40))))), MessageType::Ack);
    assert_eq!(lab.bound(), [ip(40)]);
}

#[test]
fn taking_another_address_than_the_one_offered_gives_the_offered_one_back() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    lab.send(&host, &host.discover());
    lab.events();
    assert_eq!(reply(&lab.send(&host, &host.select(ip(40)))).yiaddr(), ip(40));
    assert_eq!(lab.released(), [ip(2)]);
    assert_eq!(lab.bound(), [ip(40)]);
}

#[test]
fn a_repeated_request_is_acknowledged_again_without_a_claim() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    let bound = lab.bind(&host);
    lab.events();
    lab.pass(secs(4));
    let again = reply(&lab.send(&host, &host.select(bound)));
    assert_eq!(kind(&again), MessageType::Ack);
    assert_eq!(seconds(&again, OptionCode::AddressLeaseTime), Some(86_400 - 10 - 4));
    assert_eq!(lab.claims(), []);
    lab.pass(secs(10));
    lab.send(&host, &host.select(bound));
    assert_eq!(lab.claims().len(), 1, "an old grant is asked for again");
}

#[test]
fn a_repeated_request_while_the_claim_is_under_way_claims_once() {
    let mut lab = Lab::new();
    lab.register = Register::Waits;
    let host = Host::new(1);
    lab.send(&host, &host.reboot(ip(7)));
    let claim = lab.only_claim();
    lab.send(&host, &host.reboot(ip(7)));
    assert_eq!(lab.claims(), []);
    lab.send(&host, &host.reboot(ip(8)));
    let second = lab.only_claim();
    assert_eq!(lab.answer(claim, Outcome::Granted { ip: ip(7), remaining: LEASE }), []);
    assert_eq!(lab.released(), NONE, "the claim under way might be granted the same");
    assert_eq!(reply(&lab.answer(second, Outcome::Granted { ip: ip(8), remaining: LEASE })).yiaddr(), ip(8));
    assert_eq!(lab.released(), [ip(7)]);
    assert_eq!(lab.bound(), [ip(8)]);
}

#[test]
fn a_machine_that_restarts_keeps_its_address() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    let ack = reply(&lab.send(&host, &host.reboot(ip(30))));
    assert_eq!((kind(&ack), ack.yiaddr()), (MessageType::Ack, ip(30)));
    let claims = lab.claims();
    assert_eq!((claims[0].1, claims[0].2, claims[0].3), (Some(ip(30)), true, Hold::Full));
}

#[test]
fn a_machine_that_restarts_with_an_address_of_somebody_else_is_refused() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    lab.occupy(ip(30));
    let replies = lab.send(&host, &host.reboot(ip(30)));
    assert_eq!(kind(&reply(&replies)), MessageType::Nak);
    assert_eq!(to(&replies), Destination::Broadcast);
    assert_eq!(lab.bound(), NONE);
}

#[test]
fn an_address_of_another_network_or_of_nobody_is_refused_without_asking() {
    for bad in ["192.168.1.7", "10.64.0.0", "10.64.255.255", "10.64.0.1"] {
        let mut lab = Lab::new();
        let host = Host::new(1);
        let bad = bad.parse().unwrap();
        for request in [host.reboot(bad), host.renew(bad), host.select(bad)] {
            let replies = lab.send(&host, &request);
            assert_eq!(kind(&reply(&replies)), MessageType::Nak, "{bad}");
            assert_eq!(to(&replies), Destination::Broadcast);
        }
        assert_eq!(lab.events(), []);
    }
}

#[test]
fn a_renewal_claims_the_address_again_and_starts_the_lease_anew() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    let bound = lab.bind(&host);
    lab.events();
    lab.pass(LEASE / 2);
    let replies = lab.send(&host, &host.renew(bound));
    let ack = reply(&replies);
    assert_eq!((kind(&ack), ack.yiaddr(), ack.ciaddr()), (MessageType::Ack, bound, bound));
    assert_eq!(to(&replies), Destination::Unicast { mac: host.mac, ip: bound });
    assert_eq!(seconds(&ack, OptionCode::AddressLeaseTime), Some(86_390));
    let claims = lab.claims();
    assert_eq!((claims[0].1, claims[0].2, claims[0].3), (Some(bound), true, Hold::Full));
    lab.pass(LEASE - secs(11));
    assert_eq!(lab.bound(), [bound]);
}

#[test]
fn a_renewal_with_the_server_named_is_still_a_renewal() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    let bound = lab.bind(&host);
    let named = with(host.renew(bound), DhcpOption::ServerIdentifier(super::lab::SERVER));
    assert_eq!(kind(&reply(&lab.send(&host, &named))), MessageType::Ack);
    let confused = with(host.renew(bound), DhcpOption::RequestedIpAddress(ip(99)));
    assert_eq!(reply(&lab.send(&host, &confused)).yiaddr(), bound);
    let other = with(host.renew(bound), DhcpOption::ServerIdentifier(ELSEWHERE));
    assert_eq!(lab.send(&host, &other), []);
    assert_eq!(lab.bound(), [bound]);
}

#[test]
fn without_quorum_a_renewal_is_not_answered_and_the_address_stays_until_its_end() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    let bound = lab.bind(&host);
    lab.events();
    lab.pass(LEASE / 2);
    lab.register = Register::NoQuorum;
    assert_eq!(lab.send(&host, &host.renew(bound)), []);
    assert_eq!(lab.send(&host, &host.reboot(bound)), []);
    assert_eq!(lab.bound(), [bound]);
    lab.pass(LEASE / 2 - secs(1));
    assert_eq!(lab.bound(), [bound]);
    lab.pass(secs(1));
    assert_eq!(lab.released(), [bound]);
}

#[test]
fn a_lease_lost_in_the_register_is_refused_at_the_next_request_until_the_machine_starts_over() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    let bound = lab.bind(&host);
    lab.lose(bound);
    assert_eq!(lab.bound(), NONE);
    lab.events();
    for request in [host.renew(bound), host.renew(bound), host.reboot(bound)] {
        assert_eq!(kind(&reply(&lab.send(&host, &request))), MessageType::Nak);
    }
    assert_eq!(lab.events(), []);
    assert_eq!(reply(&lab.send(&host, &host.discover())).yiaddr(), bound);
    assert_eq!(kind(&reply(&lab.send(&host, &host.select(bound)))), MessageType::Ack);
    assert_eq!(kind(&reply(&lab.send(&host, &host.renew(bound)))), MessageType::Ack);
}

#[test]
fn the_loss_of_an_address_that_nobody_here_has_means_nothing() {
    let mut lab = Lab::new();
    lab.lose(ip(200));
    assert_eq!(lab.events(), []);
}

#[test]
fn a_renewal_of_an_address_that_went_to_somebody_else_is_refused_and_the_host_taken_off() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    let bound = lab.bind(&host);
    lab.pass(secs(60));
    lab.events();
    lab.occupy(bound);
    assert_eq!(kind(&reply(&lab.send(&host, &host.renew(bound)))), MessageType::Nak);
    assert_eq!(lab.released(), [bound]);
    assert_eq!(lab.bound(), NONE);
}

#[test]
fn grants_that_were_not_asked_for_are_not_passed_on() {
    let mut lab = Lab::new();
    let (host, other) = (Host::new(1), Host::new(2));
    let used = lab.bind(&other);
    lab.register = Register::Waits;
    for wrong in [used, ip(31), ip(1), ELSEWHERE] {
        lab.events();
        lab.send(&host, &host.reboot(ip(30)));
        let claim = lab.only_claim();
        let nak = lab.answer(claim, Outcome::Granted { ip: wrong, remaining: LEASE });
        assert_eq!(kind(&reply(&nak)), MessageType::Nak, "{wrong}");
        let back = if wrong == used { vec![] } else { vec![wrong] };
        assert_eq!(lab.released(), back, "{wrong}");
    }
    assert_eq!(lab.dropped(DropReason::WrongGrant), 4);
    assert_eq!(lab.bound(), [used]);
}

#[test]
fn the_address_of_another_client_here_is_neither_offered_nor_given_back() {
    let mut lab = Lab::new();
    let used = lab.bind(&Host::new(2));
    lab.register = Register::Waits;
    let host = Host::new(1);
    lab.events();
    lab.send(&host, &host.discover());
    let claim = lab.only_claim();
    assert_eq!(lab.answer(claim, Outcome::Granted { ip: used, remaining: secs(60) }), []);
    assert_eq!(lab.released(), NONE);
    assert_eq!(lab.bound(), [used]);
}

#[test]
fn a_grant_too_short_for_a_lease_is_not_passed_on() {
    let mut lab = Lab::new();
    lab.register = Register::Waits;
    let host = Host::new(1);
    lab.send(&host, &host.reboot(ip(30)));
    let claim = lab.only_claim();
    assert_eq!(lab.answer(claim, Outcome::Granted { ip: ip(30), remaining: secs(13) }), []);
    assert_eq!(lab.dropped(DropReason::TooShort), 1);
    assert_eq!(lab.released(), [ip(30)]);
    lab.send(&host, &host.reboot(ip(30)));
    let claim = lab.only_claim();
    let ack = reply(&lab.answer(claim, Outcome::Granted { ip: ip(30), remaining: secs(14) }));
    let times = [OptionCode::AddressLeaseTime, OptionCode::Renewal, OptionCode::Rebinding];
    assert_eq!(times.map(|code| seconds(&ack, code).unwrap()), [4, 2, 3]);
}
