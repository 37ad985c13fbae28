use super::*;

#[test]
fn a_local_name_is_answered_without_asking() {
    let mut guest = Guest::new();
    guest.responder.set_local("box", HOST);
    let reply = guest.answer("box.home.internal.", RecordType::A);
    assert_eq!(address(&reply), Some((HOST, 60)));
    assert!(reply.metadata.authoritative && reply.metadata.recursion_available && reply.metadata.recursion_desired);
    assert_eq!(pointer(&guest.answer("7.0.64.10.in-addr.arpa.", RecordType::PTR)).unwrap(), "box.home.internal.");
}

#[test]
fn the_case_of_the_question_is_kept() {
    let mut guest = Guest::new();
    guest.responder.set_local("box", HOST);
    let reply = guest.answer("bOx.HoMe.INTERNAL.", RecordType::A);
    assert_eq!(reply.queries[0].name.to_ascii(), "bOx.HoMe.INTERNAL.");
    assert_eq!(reply.answers[0].name.to_ascii(), "bOx.HoMe.INTERNAL.");
}

#[test]
fn every_other_type_of_an_existing_name_is_nodata() {
    let mut guest = Guest::new();
    guest.responder.set_local("box", HOST);
    for kind in [RecordType::AAAA, RecordType::MX, RecordType::TXT, RecordType::HTTPS, RecordType::Unknown(65000)] {
        let reply = guest.answer("box.home.internal.", kind);
        assert!(nodata(&reply), "{reply}");
        assert_eq!(denied_by(&reply).unwrap(), "home.internal.");
    }
    let reply = guest.answer("7.0.64.10.in-addr.arpa.", RecordType::A);
    assert!(nodata(&reply));
    assert_eq!(denied_by(&reply).unwrap(), "64.10.in-addr.arpa.");
}

#[test]
fn the_registers_say_where_a_name_is() {
    let mut guest = Guest::new();
    guest.ask("Printer.home.internal.", RecordType::A);
    let (id, what) = guest.resolve();
    assert_eq!(what, Question::Name("printer".to_owned()));
    let reply = guest.resolved(id, Answer::Address { ip: HOST, ttl: Duration::from_millis(9900) });
    assert_eq!(address(&reply), Some((HOST, 9)), "rounded down");
}

#[test]
fn absent_is_nxdomain_and_unknown_is_servfail() {
    let mut guest = Guest::new();
    for kind in [RecordType::A, RecordType::AAAA] {
        guest.ask("nobody.home.internal.", kind);
        let (id, _) = guest.resolve();
        assert!(nxdomain(&guest.resolved(id, Answer::Absent)));
        guest.ask("nobody.home.internal.", kind);
        let (id, _) = guest.resolve();
        let reply = guest.resolved(id, Answer::Unknown);
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        assert!(reply.authorities.is_empty(), "nothing to cache");
    }
    assert_eq!(guest.dropped(DropReason::Unknown), 2);
}

#[test]
fn aaaa_of_a_name_in_the_registers_is_nodata() {
    let mut guest = Guest::new();
    guest.ask("printer.home.internal.", RecordType::AAAA);
    let (id, _) = guest.resolve();
    assert!(nodata(&guest.resolved(id, Answer::Address { ip: HOST, ttl: HOUR })));
}

#[test]
fn a_computed_name_exists_while_its_address_is_leased() {
    let mut guest = Guest::new();
    guest.ask("c010064000007.home.internal.", RecordType::A);
    let (id, what) = guest.resolve();
    assert_eq!(what, Question::Address(HOST));
    assert!(nxdomain(&guest.resolved(id, Answer::Absent)));
    guest.ask("C010064000007.home.internal.", RecordType::A);
    let (id, _) = guest.resolve();
    let reply = guest.resolved(id, Answer::Name { name: Some("printer".to_owned()), ttl: HOUR });
    assert_eq!(address(&reply), Some((HOST, 60)));
    let reply = guest.answer("7.0.64.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(pointer(&reply).unwrap(), "printer.home.internal.", "one read of the registers serves both ways");
}

#[test]
fn a_leased_address_without_a_name_points_to_its_computed_name() {
    let mut guest = Guest::new();
    guest.ask("7.0.64.10.in-addr.arpa.", RecordType::PTR);
    let (id, what) = guest.resolve();
    assert_eq!(what, Question::Address(HOST));
    let reply = guest.resolved(id, Answer::Name { name: None, ttl: HOUR });
    assert_eq!(pointer(&reply).unwrap(), "c010064000007.home.internal.");
}

#[test]
fn computed_names_of_addresses_that_cannot_be_leased_are_absent_at_once() {
    let mut guest = Guest::new();
    for label in ["c010065000007", "c192168000001", "c010064000000", "c010064255255"] {
        assert!(nxdomain(&guest.answer(&format!("{label}.home.internal."), RecordType::A)), "{label}");
    }
    assert_eq!(address(&guest.answer("c010064000001.home.internal.", RecordType::A)), Some((SERVICE, 60)));
}

#[test]
fn the_server_has_a_name_both_ways() {
    let mut guest = Guest::new();
    assert_eq!(address(&guest.answer("dns.home.internal.", RecordType::A)), Some((SERVICE, 60)));
    assert_eq!(pointer(&guest.answer("1.0.64.10.in-addr.arpa.", RecordType::PTR)).unwrap(), "dns.home.internal.");
    guest.responder.set_local("dns", HOST);
    assert_eq!(address(&guest.answer("dns.home.internal.", RecordType::A)), Some((SERVICE, 60)), "nobody takes it");
}

#[test]
fn the_apex_has_soa_and_ns_and_nothing_else() {
    let mut guest = Guest::new();
    for apex in ["home.internal.", "64.10.in-addr.arpa."] {
        let reply = guest.answer(apex, RecordType::SOA);
        assert!(matches!(&reply.answers[0].data, RData::SOA(soa) if soa.mname.to_ascii() == "dns.home.internal."));
        let reply = guest.answer(apex, RecordType::NS);
        assert!(matches!(&reply.answers[0].data, RData::NS(name) if name.0.to_ascii() == "dns.home.internal."));
        assert!(matches!(&reply.additionals[0].data, RData::A(ip) if ip.0 == SERVICE));
        assert!(nodata(&guest.answer(apex, RecordType::A)));
    }
}

#[test]
fn names_below_a_name_and_labels_nobody_can_claim_are_absent_at_once() {
    let mut guest = Guest::new();
    guest.responder.set_local("box", HOST);
    for name in [
        "a.box.home.internal.",
        "www.google.com.home.internal.",
        "_http._tcp.home.internal.",
        "a_b.home.internal.",
        "wpad.home.internal.",
        "isatap.home.internal.",
        "localhost.home.internal.",
    ] {
        let reply = guest.answer(name, RecordType::A);
        assert!(nxdomain(&reply), "{name}");
        assert_eq!(denied_by(&reply).unwrap(), "home.internal.");
    }
}

#[test]
fn reverse_names_between_zone_and_address_are_empty_and_nonsense_is_absent() {
    let mut guest = Guest::new();
    assert!(nodata(&guest.answer("0.64.10.in-addr.arpa.", RecordType::PTR)));
    assert!(nxdomain(&guest.answer("lb._dns-sd._udp.0.0.64.10.in-addr.arpa.", RecordType::PTR)));
}

#[test]
fn a_range_off_the_octet_boundary_answers_for_itself_and_not_for_its_neighbour() {
    let mut guest = Guest::in_range("172.16.0.0/12");
    guest.ask("1.2.31.172.in-addr.arpa.", RecordType::PTR);
    let (id, what) = guest.resolve();
    assert_eq!(what, Question::Address(Ipv4Addr::new(172, 31, 2, 1)));
    assert_eq!(denied_by(&guest.resolved(id, Answer::Absent)).unwrap(), "31.172.in-addr.arpa.");
    guest.ask("1.2.32.172.in-addr.arpa.", RecordType::PTR);
    guest.forward();
    guest.ask("172.in-addr.arpa.", RecordType::SOA);
    guest.forward();
}

#[test]
fn localhost_is_this_machine() {
    let mut guest = Guest::new();
    assert_eq!(address(&guest.answer("localhost.", RecordType::A)), Some((Ipv4Addr::LOCALHOST, 60)));
    assert_eq!(guest.answer("a.LocalHost.", RecordType::AAAA).answers.len(), 1);
}

#[test]
fn an_answer_lives_sixty_seconds_here_and_at_the_asker_together() {
    let mut guest = Guest::new();
    guest.ask("printer.home.internal.", RecordType::A);
    let (id, _) = guest.resolve();
    assert_eq!(address(&guest.resolved(id, Answer::Address { ip: HOST, ttl: HOUR })), Some((HOST, 60)));
    guest.now += Duration::from_secs(40);
    assert_eq!(address(&guest.answer("printer.home.internal.", RecordType::A)), Some((HOST, 20)));
    guest.now += Duration::from_secs(20);
    guest.ask("printer.home.internal.", RecordType::A);
    guest.resolve();
}

#[test]
fn what_changed_owner_is_asked_for_again() {
    let mut guest = Guest::new();
    guest.ask("printer.home.internal.", RecordType::A);
    let (id, _) = guest.resolve();
    guest.resolved(id, Answer::Address { ip: HOST, ttl: HOUR });
    guest.responder.forget(HOST);
    guest.ask("printer.home.internal.", RecordType::A);
    guest.resolve();
}

#[test]
fn an_answer_to_another_question_is_servfail() {
    let mut guest = Guest::new();
    let outside = Ipv4Addr::new(192, 0, 2, 1);
    for (name, answer) in [
        ("printer.home.internal.", Answer::Address { ip: outside, ttl: HOUR }),
        ("printer.home.internal.", Answer::Name { name: None, ttl: HOUR }),
        ("7.0.64.10.in-addr.arpa.", Answer::Address { ip: SERVICE, ttl: HOUR }),
    ] {
        guest.ask(name, RecordType::A);
        let (id, _) = guest.resolve();
        assert_eq!(guest.resolved(id, answer).metadata.response_code, ResponseCode::ServFail);
    }
    assert_eq!(guest.dropped(DropReason::UnexpectedAnswer), 3);
}
