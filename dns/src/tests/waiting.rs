use super::*;

#[test]
fn equal_questions_are_asked_once_and_all_are_answered() {
    let mut guest = Guest::new();
    for (token, name, kind) in [
        (1, "printer.home.internal.", RecordType::A),
        (2, "PRINTER.home.internal.", RecordType::A),
        (3, "printer.home.internal.", RecordType::AAAA),
    ] {
        let bytes = query(name, kind).to_vec().unwrap();
        guest.responder.handle_query(Token(token), Transport::Udp, &bytes, guest.now);
    }
    let (id, _) = guest.resolve();
    assert!(guest.silent());
    guest.responder.handle_resolved(id, Answer::Address { ip: HOST, ttl: HOUR }, guest.now);
    let replies: Vec<_> = std::iter::from_fn(|| guest.responder.poll_reply()).collect();
    assert_eq!(replies.iter().map(|(token, _)| token.0).collect::<Vec<_>>(), [1, 2, 3]);
    let second = Message::from_vec(&replies[1].1).unwrap();
    assert_eq!(second.answers[0].name.to_ascii(), "PRINTER.home.internal.");
    assert!(nodata(&Message::from_vec(&replies[2].1).unwrap()));
}

#[test]
fn nobody_answering_is_servfail_after_two_seconds() {
    let mut guest = Guest::new();
    guest.ask("printer.home.internal.", RecordType::A);
    let (id, _) = guest.resolve();
    let (at, _) = guest.responder.poll_timeout().unwrap();
    assert_eq!(at, guest.now + Duration::from_secs(2));
    guest.responder.handle_timeout(at - Duration::from_millis(1));
    assert!(guest.silent(), "early calls are harmless");
    guest.responder.handle_timeout(at);
    assert_eq!(guest.reply().metadata.response_code, ResponseCode::ServFail);
    assert_eq!(guest.responder.poll_timeout(), None);
    guest.responder.handle_timeout(at);
    guest.responder.handle_resolved(id, Answer::Absent, at);
    assert!(guest.silent(), "late answers are counted and nothing else");
    assert_eq!(guest.dropped(DropReason::UnexpectedAnswer), 1);
    assert_eq!(guest.dropped(DropReason::Deadline), 1);
}

#[test]
fn two_hundred_and_fifty_six_wait_and_the_next_is_servfail() {
    let mut guest = Guest::new();
    for host in 0..256 {
        guest.ask(&format!("h{}.home.internal.", host % 200), RecordType::A);
        assert!(guest.responder.poll_reply().is_none());
    }
    assert_eq!(guest.answer("one-more.home.internal.", RecordType::A).metadata.response_code, ResponseCode::ServFail);
    assert_eq!(guest.answer("h7.home.internal.", RecordType::A).metadata.response_code, ResponseCode::ServFail);
    assert_eq!(guest.dropped(DropReason::TableFull), 2);
    guest.responder.handle_timeout(guest.now + Duration::from_secs(2));
    assert_eq!(std::iter::from_fn(|| guest.responder.poll_reply()).count(), 256);
    guest.ask("one-more.home.internal.", RecordType::A);
    assert!(guest.responder.poll_reply().is_none(), "there is room again");
}

#[test]
fn a_dead_resolver_outside_leaves_our_own_names_alone() {
    let mut guest = Guest::new();
    for host in 0..300 {
        guest.ask(&format!("h{host}.example."), RecordType::A);
    }
    while guest.responder.poll_event().is_some() || guest.responder.poll_reply().is_some() {}
    guest.ask("printer.home.internal.", RecordType::A);
    let (id, _) = guest.resolve();
    assert_eq!(address(&guest.resolved(id, Answer::Address { ip: HOST, ttl: HOUR })), Some((HOST, 60)));
}
