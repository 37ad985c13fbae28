use hickory_proto::rr::DNSClass;

use super::*;

fn raw(guest: &mut Guest, bytes: &[u8]) -> Option<Message> {
    guest.responder.handle_query(Token(1), Transport::Udp, bytes, guest.now);
    assert!(guest.responder.poll_event().is_none());
    guest.responder.poll_reply().map(|(_, bytes)| Message::from_vec(&bytes).unwrap())
}

#[test]
fn responses_and_stubs_are_dropped_in_silence() {
    let mut guest = Guest::new();
    let mut message = query("box.home.internal.", RecordType::A);
    message.metadata.message_type = MessageType::Response;
    assert!(raw(&mut guest, &message.to_vec().unwrap()).is_none());
    assert!(raw(&mut guest, &[0; 11]).is_none());
    assert_eq!((guest.dropped(DropReason::Response), guest.dropped(DropReason::TooShort)), (1, 1));
}

#[test]
fn other_operations_are_not_implemented() {
    let mut guest = Guest::new();
    for code in [OpCode::Status, OpCode::Notify, OpCode::Update, OpCode::Unknown(9)] {
        let mut message = query("home.internal.", RecordType::SOA);
        message.metadata.op_code = code;
        let reply = raw(&mut guest, &message.to_vec().unwrap()).unwrap();
        assert_eq!((reply.metadata.response_code, reply.metadata.op_code), (ResponseCode::NotImp, code));
        assert_eq!((reply.metadata.id, reply.metadata.message_type), (0x1234, MessageType::Response));
    }
    assert_eq!(guest.dropped(DropReason::NotImplemented), 4);
}

#[test]
fn no_question_and_two_questions_are_formerr() {
    let mut guest = Guest::new();
    let mut message = query("box.home.internal.", RecordType::A);
    message.add_query(Query::query(Name::from_ascii("a.home.internal.").unwrap(), RecordType::A));
    for bytes in [
        message.to_vec().unwrap(),
        b"\x12\x34\x01\x00\0\0\0\0\0\0\0\0".to_vec(),
        b"\x12\x34\x01\x00\xff\xff\0\0\0\0\0\0".to_vec(),
    ] {
        let reply = raw(&mut guest, &bytes).unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::FormErr);
        assert!(reply.metadata.recursion_desired && reply.queries.is_empty());
    }
}

#[test]
fn other_classes_and_transfers_are_refused_and_any_is_not_implemented() {
    let mut guest = Guest::new();
    for class in [DNSClass::CH, DNSClass::HS, DNSClass::ANY, DNSClass::NONE, DNSClass::Unknown(700)] {
        let mut message = query("version.bind.", RecordType::TXT);
        message.queries[0].query_class = class;
        assert_eq!(raw(&mut guest, &message.to_vec().unwrap()).unwrap().metadata.response_code, ResponseCode::Refused);
    }
    for kind in [RecordType::AXFR, RecordType::IXFR] {
        assert_eq!(guest.answer("home.internal.", kind).metadata.response_code, ResponseCode::Refused);
    }
    assert_eq!(guest.answer("home.internal.", RecordType::ANY).metadata.response_code, ResponseCode::NotImp);
}

#[test]
fn an_unknown_edns_version_is_badvers() {
    let mut guest = Guest::new();
    let mut message = query("box.home.internal.", RecordType::A);
    let mut edns = edns(4096);
    edns.set_version(1);
    message.set_edns(edns);
    let reply = raw(&mut guest, &message.to_vec().unwrap()).unwrap();
    assert_eq!(u16::from(reply.metadata.response_code), 16, "BADVERS, whose number TSIG uses for BADSIG");
    assert_eq!(reply.edns.unwrap().version(), 0);
}

#[test]
fn a_compression_loop_is_formerr() {
    let mut guest = Guest::new();
    let reply = raw(&mut guest, b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\xc0\x0c\0\x01\0\x01").unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::FormErr);
}

#[test]
fn a_message_larger_than_a_query_is_formerr() {
    let mut guest = Guest::new();
    let mut bytes = query("box.home.internal.", RecordType::A).to_vec().unwrap();
    bytes.resize(4097, 0);
    assert_eq!(raw(&mut guest, &bytes).unwrap().metadata.response_code, ResponseCode::FormErr);
    assert_eq!(guest.dropped(DropReason::TooLong), 1);
}

#[test]
fn edns_is_answered_with_edns_and_only_then() {
    let mut guest = Guest::new();
    let mut message = query("dns.home.internal.", RecordType::A);
    guest.send(&message);
    assert!(guest.reply().edns.is_none());
    let mut asked = edns(65535);
    asked.set_dnssec_ok(true);
    message.set_edns(asked);
    guest.send(&message);
    let edns = guest.reply().edns.unwrap();
    assert_eq!((edns.max_payload(), edns.version(), edns.flags().dnssec_ok), (1232, 0, true));
}

#[test]
fn a_name_of_the_greatest_length_gets_its_answer() {
    let mut guest = Guest::new();
    let long = format!("{}.{}.{}.{}.home.internal.", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(47));
    assert!(nxdomain(&guest.answer(&long, RecordType::A)));
}
