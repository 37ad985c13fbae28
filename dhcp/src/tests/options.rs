//! What a reply says and where it goes: RFC 2131 §4.1, §4.3.1, §4.4.5, RFC 2132, 3046, 3396, 3397, 6842.

use std::net::Ipv4Addr;

use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, OptionCode, UnknownOption};

use super::lab::{Host, Lab, NONE, Register, SERVER, config, ip, kind, reply, seconds, secs, to, with};
use crate::{Destination, Outcome, option::Options};

fn ask(message: Message, codes: &[u8]) -> Message {
    with(message, DhcpOption::ParameterRequestList(codes.iter().map(|code| (*code).into()).collect()))
}

/// The codes in the order in which they stand in the reply.
fn codes(message: &[u8]) -> Vec<u8> {
    let mut codes = Vec::new();
    let mut rest = &message[240..];
    while let [code, length, tail @ ..] = rest
        && *code != 255
    {
        codes.push(*code);
        rest = &tail[usize::from(*length)..];
    }
    codes
}

#[test]
fn what_is_asked_for_stands_first_in_the_clients_order_then_what_is_always_given() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    let replies = lab.send(&host, &ask(host.discover(), &[28, 119, 15, 1, 42, 3]));
    assert_eq!(codes(&replies[0].message), [53, 54, 51, 58, 59, 28, 119, 15, 1, 6, 26]);
}

#[test]
fn a_client_without_a_list_is_told_everything() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    let offer = reply(&lab.send(&host, &host.discover()));
    let options = offer.opts();
    assert_eq!(options.get(OptionCode::ServerIdentifier), Some(&DhcpOption::ServerIdentifier(SERVER)));
    let mask = Ipv4Addr::new(255, 255, 0, 0);
    assert_eq!(options.get(OptionCode::SubnetMask), Some(&DhcpOption::SubnetMask(mask)));
    assert_eq!(options.get(OptionCode::DomainNameServer), Some(&DhcpOption::DomainNameServer(vec![SERVER])));
    assert_eq!(options.get(OptionCode::InterfaceMtu), Some(&DhcpOption::InterfaceMtu(1400)));
    let broadcast = Ipv4Addr::new(10, 64, 255, 255);
    assert_eq!(options.get(OptionCode::BroadcastAddr), Some(&DhcpOption::BroadcastAddr(broadcast)));
    assert_eq!(options.get(OptionCode::DomainName), Some(&DhcpOption::DomainName("lab.internal".to_owned())));
    let Some(DhcpOption::DomainSearch(search)) = options.get(OptionCode::DomainSearch) else {
        panic!("a search list");
    };
    assert_eq!(search.len(), 1);
    assert!(search[0].to_ascii().starts_with("lab.internal"), "{search:?}");
}

#[test]
fn no_route_is_given_whatever_is_asked() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    let everything: Vec<u8> = (1..255).collect();
    for message in [ask(host.discover(), &everything), ask(host.select(ip(2)), &everything)] {
        let replies = lab.send(&host, &message);
        for route in [3, 33, 121, 249] {
            assert!(!codes(&replies[0].message).contains(&route), "{route}");
        }
    }
    let replies = lab.send(&host, &ask(host.inform(ip(2)), &[3, 33, 121, 249]));
    assert_eq!(codes(&replies[0].message), [53, 54, 1, 6, 26, 15]);
}

#[test]
fn a_refusal_says_why_and_nothing_else() {
    let mut lab = Lab::new();
    let host = Host::identified(1, b"\xffme");
    let message = ask(host.reboot([192, 168, 0, 9].into()), &[1, 6, 26, 51]);
    let replies = lab.send(&host, &message);
    assert_eq!(codes(&replies[0].message), [53, 54, 56, 61]);
    let nak = reply(&replies);
    for address in [nak.ciaddr(), nak.yiaddr(), nak.siaddr(), nak.giaddr()] {
        assert!(address.is_unspecified());
    }
}

#[test]
fn the_client_identifier_is_echoed_in_every_reply() {
    let mut lab = Lab::new();
    let host = Host::identified(1, b"\xff\0\0\0\x01anything");
    let foreign = host.reboot([192, 168, 0, 9].into());
    for message in [host.discover(), host.select(ip(2)), host.inform(ip(2)), foreign] {
        let answer = reply(&lab.send(&host, &message));
        let echoed = DhcpOption::ClientIdentifier(host.identifier.clone().unwrap());
        assert_eq!(answer.opts().get(OptionCode::ClientIdentifier), Some(&echoed));
    }
    let plain = Host::new(2);
    let offer = reply(&lab.send(&plain, &plain.discover()));
    assert!(!offer.opts().contains(OptionCode::ClientIdentifier));
}

#[test]
fn what_a_switch_added_comes_back_to_it() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    let mut bytes = dhcproto::Encodable::to_vec(&host.discover()).unwrap();
    bytes.pop();
    bytes.extend_from_slice(&[82, 6, 1, 4, b'p', b'o', b'r', b't', 255]);
    let replies = lab.send_bytes(host.mac, &bytes);
    let options = Options::parse(&replies[0].message).unwrap();
    assert_eq!(options.bytes(82), Some(&b"\x01\x04port"[..]));
}

#[test]
fn the_message_is_as_long_as_the_client_takes_and_at_least_300_bytes() {
    let mut config = config();
    config.search = (0..60).map(|n| format!("a-rather-long-name-{n}.example.org")).collect();
    for (limit, longest) in [(None, 548), (Some(100), 548), (Some(700), 672), (Some(1500), 1472)] {
        let mut lab = Lab::with(config.clone());
        let host = Host::identified(1, &[b'x'; 200]);
        let mut discover = ask(host.discover(), &[119]);
        if let Some(limit) = limit {
            discover = with(discover, DhcpOption::MaxMessageSize(limit));
        }
        let replies = lab.send(&host, &discover);
        let length = replies[0].message.len();
        assert!((300..=longest).contains(&length), "{length} for {limit:?}");
        assert!(length > longest - 80, "{length} for {limit:?}: a name more would have fitted");
    }
    let mut lab = Lab::new();
    let host = Host::new(1);
    assert_eq!(lab.send(&host, &ask(host.inform(ip(9)), &[1]))[0].message.len(), 300);
}

#[test]
fn a_search_list_longer_than_an_option_is_split_and_read_by_others() {
    let mut config = config();
    config.search = (0..12).map(|n| format!("a-rather-long-name-{n}.example-{n}.org")).collect();
    let mut lab = Lab::with(config);
    let host = Host::new(1);
    let discover = with(ask(host.discover(), &[119]), DhcpOption::MaxMessageSize(1500));
    let replies = lab.send(&host, &discover);
    assert_eq!(codes(&replies[0].message).iter().filter(|code| **code == 119).count(), 2);
    let offer = reply(&replies);
    let Some(DhcpOption::DomainSearch(names)) = offer.opts().get(OptionCode::DomainSearch) else {
        panic!("a search list");
    };
    assert_eq!(names.len(), 12);
}

#[test]
fn names_that_are_none_are_left_out_of_the_search_list() {
    let mut config = config();
    config.search = vec!["a..b".to_owned(), ".".to_owned(), "x".repeat(64), String::new()];
    config.domain = String::new();
    let mut lab = Lab::with(config);
    let host = Host::new(1);
    let replies = lab.send(&host, &host.discover());
    assert_eq!(codes(&replies[0].message), [53, 54, 51, 58, 59, 1, 6, 26, 28]);
}

#[test]
fn replies_go_where_the_client_can_hear_them() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    let flag = |mut message: Message| {
        message.set_flags(Flags::default().set_broadcast());
        message
    };
    let unicast = Destination::Unicast { mac: host.mac, ip: ip(2) };
    assert_eq!(to(&lab.send(&host, &host.discover())), unicast);
    assert_eq!(to(&lab.send(&host, &flag(host.discover()))), Destination::Broadcast);
    assert_eq!(to(&lab.send(&host, &host.select(ip(2)))), unicast);
    assert_eq!(to(&lab.send(&host, &flag(host.select(ip(2))))), Destination::Broadcast);
    assert_eq!(to(&lab.send(&host, &host.renew(ip(2)))), unicast);
    // An address in use comes before the flag.
    assert_eq!(to(&lab.send(&host, &flag(host.renew(ip(2))))), unicast);
    lab.lose(ip(2));
    assert_eq!(to(&lab.send(&host, &host.renew(ip(2)))), Destination::Broadcast);
}

#[test]
fn fields_are_copied_as_the_table_of_the_rfc_says() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    let mut discover = host.discover();
    discover.set_secs(9).set_hops(3).set_flags(Flags::from(0xffff));
    let offer = reply(&lab.send(&host, &discover));
    assert_eq!((offer.xid(), offer.secs(), offer.hops()), (host.xid, 0, 0));
    assert_eq!(u16::from(offer.flags()), 0x8000, "the other bits must be zero");
    assert_eq!((offer.chaddr(), offer.hlen()), (&host.mac[..], 6));
    assert!(offer.ciaddr().is_unspecified() && offer.siaddr().is_unspecified());
    assert_eq!((offer.sname(), offer.fname()), (None, None));
}

#[test]
fn the_lease_is_what_is_left_less_ten_seconds_or_the_shorter_time_asked_for() {
    let asked = [(None, 3590), (Some(0), 60), (Some(10), 60), (Some(600), 600), (Some(u32::MAX), 3590)];
    for (asked, told) in asked {
        let mut lab = Lab::new();
        lab.register = Register::Waits;
        let host = Host::new(1);
        let mut request = host.reboot(ip(5));
        if let Some(asked) = asked {
            request = with(request, DhcpOption::AddressLeaseTime(asked));
        }
        lab.send(&host, &request);
        let claim = lab.only_claim();
        let ack = reply(&lab.answer(claim, Outcome::Granted { ip: ip(5), remaining: secs(3600) }));
        assert_eq!(seconds(&ack, OptionCode::AddressLeaseTime), Some(told), "{asked:?}");
        let until = lab.server.bindings().next().unwrap().until;
        assert_eq!(until - lab.now, secs(told.into()));
        lab.pass(secs(u64::from(told) + 9));
        assert_eq!(lab.released(), NONE);
        lab.pass(secs(1));
        assert_eq!(lab.released(), [ip(5)]);
    }
}

#[test]
fn a_lease_of_ages_is_neither_negative_nor_for_ever() {
    let mut lab = Lab::new();
    lab.register = Register::Waits;
    let host = Host::new(1);
    lab.send(&host, &host.reboot(ip(5)));
    let claim = lab.only_claim();
    let ack = reply(&lab.answer(claim, Outcome::Granted { ip: ip(5), remaining: std::time::Duration::MAX }));
    assert_eq!(seconds(&ack, OptionCode::AddressLeaseTime), Some(0x7fff_ffff));
}

#[test]
fn renewal_times_are_a_little_before_half_and_seven_eighths_and_differ_between_clients() {
    let mut lab = Lab::new();
    let mut seen = std::collections::BTreeSet::new();
    for last in 1..=20 {
        let host = Host::new(last);
        let offer = reply(&lab.send(&host, &host.discover()));
        let ack = reply(&lab.send(&host, &host.select(offer.yiaddr())));
        let [lease, renew, rebind] = [OptionCode::AddressLeaseTime, OptionCode::Renewal, OptionCode::Rebinding]
            .map(|code| seconds(&ack, code).unwrap());
        assert!((lease * 15 / 32 - 1..=lease / 2).contains(&renew), "{renew}");
        assert!((lease * 27 / 32 - 1..=lease * 7 / 8).contains(&rebind), "{rebind}");
        seen.insert(renew);
        let again = reply(&lab.send(&host, &host.select(offer.yiaddr())));
        assert_eq!(seconds(&again, OptionCode::Renewal), Some(renew), "a repeated ACK repeats it");
    }
    assert!(seen.len() > 15, "{seen:?}");
}

#[test]
fn an_option_nobody_knows_changes_nothing() {
    let mut lab = Lab::new();
    let host = Host::new(1);
    let unknown = DhcpOption::Unknown(UnknownOption::new(OptionCode::from(224), vec![1; 255]));
    assert_eq!(kind(&reply(&lab.send(&host, &with(host.discover(), unknown)))), MessageType::Offer);
}
