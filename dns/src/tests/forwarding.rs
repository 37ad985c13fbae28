use std::net::Ipv6Addr;

use hickory_proto::rr::Record;

use super::*;

fn reply_to(message: &[u8], answers: Vec<RData>) -> Message {
    let mut reply = Message::from_vec(message).unwrap().into_response();
    let name = reply.queries[0].name.clone();
    reply.answers = answers.into_iter().map(|data| Record::from_rdata(name.clone(), 300, data)).collect();
    reply
}

fn v4(ip: [u8; 4]) -> RData {
    RData::A(rdata::A(ip.into()))
}

#[test]
fn everything_outside_goes_out_and_its_answer_comes_back_under_each_id() {
    let mut guest = Guest::new();
    let mut message = query("WWW.example.", RecordType::A);
    guest.send(&message);
    message.metadata.id = 0x4321;
    guest.responder.handle_query(Token(2), Transport::Udp, &message.to_vec().unwrap(), guest.now);
    let (id, asked) = guest.forward();
    assert_eq!(asked, query("WWW.example.", RecordType::A).to_vec().unwrap());
    assert!(guest.silent(), "equal questions go out once");
    let reply = reply_to(&asked, vec![v4([192, 0, 2, 1])]).to_vec().unwrap();
    guest.responder.handle_forwarded(id, Some(&reply), guest.now);
    assert_eq!(guest.responder.poll_reply().unwrap(), (Token(1), reply.clone()));
    let (token, second) = guest.responder.poll_reply().unwrap();
    assert_eq!((token, &second[..2], &second[2..]), (Token(2), &[0x43, 0x21][..], &reply[2..]));
}

#[test]
fn the_same_question_over_tcp_is_another() {
    let mut guest = Guest::new();
    let bytes = query("www.example.", RecordType::A).to_vec().unwrap();
    guest.responder.handle_query(Token(1), Transport::Udp, &bytes, guest.now);
    guest.responder.handle_query(Token(2), Transport::Tcp, &bytes, guest.now);
    guest.forward();
    guest.forward();
}

#[test]
fn a_silent_upstream_is_servfail() {
    let mut guest = Guest::new();
    guest.ask("www.example.", RecordType::A);
    let (id, _) = guest.forward();
    guest.responder.handle_forwarded(id, None, guest.now);
    assert_eq!(guest.reply().metadata.response_code, ResponseCode::ServFail);
    guest.ask("www.example.", RecordType::A);
    guest.responder.handle_timeout(guest.now + Duration::from_secs(4));
    assert_eq!(guest.reply().metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn a_lying_upstream_is_servfail() {
    let mut guest = Guest::new();
    let other = query("other.example.", RecordType::A).to_vec().unwrap();
    let echo = query("www.example.", RecordType::A).to_vec().unwrap();
    for lie in [reply_to(&other, vec![]).to_vec().unwrap(), echo, vec![0; 12], vec![], vec![0xff; 600]] {
        guest.ask("www.example.", RecordType::A);
        let (id, _) = guest.forward();
        guest.responder.handle_forwarded(id, Some(&lie), guest.now);
        assert_eq!(guest.reply().metadata.response_code, ResponseCode::ServFail);
    }
    assert_eq!(guest.dropped(DropReason::ForwardedMalformed), 5);
}

#[test]
fn a_public_name_does_not_lead_into_the_overlay() {
    let mut guest = Guest::new();
    guest.ask("evil.example.", RecordType::A);
    let (id, asked) = guest.forward();
    let mapped: Ipv6Addr = HOST.to_ipv6_mapped();
    let reply = reply_to(&asked, vec![v4(HOST.octets()), v4([192, 0, 2, 1]), RData::AAAA(rdata::AAAA(mapped))]);
    guest.responder.handle_forwarded(id, Some(&reply.to_vec().unwrap()), guest.now);
    let reply = guest.reply();
    assert_eq!(address(&reply), Some((Ipv4Addr::new(192, 0, 2, 1), 300)));
    assert_eq!(guest.dropped(DropReason::Rebinding), 2);
}

#[test]
fn what_does_not_fit_is_cut_to_nothing_and_marked() {
    let many: Vec<RData> = (0..60).map(|host| v4([192, 0, 2, host])).collect();
    for (transport, offer, whole) in [
        (Transport::Udp, None, false),
        (Transport::Udp, Some(512), false),
        (Transport::Udp, Some(100), false),
        (Transport::Udp, Some(1232), true),
        (Transport::Udp, Some(65535), true),
        (Transport::Tcp, None, true),
    ] {
        let mut guest = Guest::new();
        let mut message = query("www.example.", RecordType::A);
        message.edns = offer.map(edns);
        guest.responder.handle_query(Token(1), transport, &message.to_vec().unwrap(), guest.now);
        let (id, asked) = guest.forward();
        let reply = reply_to(&asked, many.clone());
        guest.responder.handle_forwarded(id, Some(&reply.to_vec().unwrap()), guest.now);
        let reply = guest.reply();
        assert_eq!((reply.metadata.truncation, reply.answers.len()), (!whole, if whole { 60 } else { 0 }), "{offer:?}");
    }
}

#[test]
fn the_servers_own_limit_holds_whatever_is_offered() {
    let mut guest = Guest::new();
    let mut message = query("www.example.", RecordType::A);
    message.set_edns(edns(65535));
    guest.send(&message);
    let (id, asked) = guest.forward();
    let reply = reply_to(&asked, (0..100).map(|host| v4([192, 0, 2, host])).collect());
    guest.responder.handle_forwarded(id, Some(&reply.to_vec().unwrap()), guest.now);
    assert!(guest.reply().metadata.truncation);
}
