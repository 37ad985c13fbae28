//! Random messages, and random lives of a few machines against what must always hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use dhcproto::{
    Encodable,
    v4::{DhcpOption, MessageType},
};
use proptest::{collection::vec, prelude::*};

use super::lab::{Host, Lab, Register, ip, kind, reply, secs, with};
use crate::{ClientKey, Event, Outcome, RequestId, fuzz};

#[derive(Clone, Debug)]
enum Step {
    Send { host: u8, what: u8, ip: u8 },
    Answer { which: usize, outcome: u8, ip: u8 },
    Pass { seconds: u16 },
    Lose { ip: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..4u8, 0..9u8, 2..6u8).prop_map(|(host, what, ip)| Step::Send { host, what, ip }),
        6 => (any::<usize>(), 0..6u8, 2..6u8).prop_map(|(which, outcome, ip)| Step::Answer { which, outcome, ip }),
        2 => prop_oneof![0..30u16, 0..2000u16].prop_map(|seconds| Step::Pass { seconds }),
        1 => (2..6u8).prop_map(|ip| Step::Lose { ip }),
    ]
}

/// What a caller knows: claims not answered, and to whom which address is granted.
#[derive(Default)]
struct Book {
    open: Vec<(RequestId, ClientKey, Option<Ipv4Addr>, bool)>,
    granted: BTreeMap<Ipv4Addr, ClientKey>,
}

impl Book {
    fn read(&mut self, lab: &mut Lab) {
        for event in lab.events() {
            match event {
                Event::Claim { id, client, want, only_wanted, .. } => {
                    self.open.push((id, client, want, only_wanted));
                }
                Event::Release { client, ip } | Event::Decline { client, ip } => {
                    assert_eq!(self.granted.remove(&ip), Some(client), "given back by whom it was granted to");
                }
                Event::Bound { client, ip, .. } => {
                    assert_eq!(self.granted.get(&ip), Some(&client), "bound to whom it was granted to");
                }
            }
        }
        let mut bound = BTreeSet::new();
        for binding in lab.server.bindings() {
            assert!(bound.insert(binding.ip), "one address, one client");
            assert_eq!(self.granted.get(&binding.ip), Some(&binding.client));
        }
    }
}

fn message(host: &Host, what: u8, ip: Ipv4Addr) -> dhcproto::v4::Message {
    match what {
        0 | 1 => host.discover(),
        2 => host.rapid(),
        3 => host.select(ip),
        4 => host.reboot(ip),
        5 => host.renew(ip),
        6 => host.release(ip),
        7 => host.decline(ip),
        _ => with(host.reboot(ip), DhcpOption::ServerIdentifier([10, 64, 9, 9].into())),
    }
}

fn play(steps: Vec<Step>) {
    let mut lab = Lab::new();
    lab.register = Register::Waits;
    let mut book = Book::default();
    for step in steps {
        match step {
            Step::Send { host, what, ip: last } => {
                let host = Host::new(host);
                let replies = lab.send(&host, &message(&host, what, ip(last)));
                assert!(replies.len() <= 1);
            }
            Step::Answer { which, outcome, ip: last } => answer(&mut lab, &mut book, which, outcome, ip(last)),
            Step::Pass { seconds } => lab.pass(secs(seconds.into())),
            Step::Lose { ip: last } => {
                book.granted.remove(&ip(last));
                lab.lose(ip(last));
            }
        }
        book.read(&mut lab);
    }
    // In the end every grant has ended.
    for (id, ..) in std::mem::take(&mut book.open) {
        lab.answer(id, Outcome::Unavailable);
    }
    book.read(&mut lab);
    lab.pass(secs(5000));
    book.read(&mut lab);
    assert_eq!(book.granted, BTreeMap::new());
}

fn answer(lab: &mut Lab, book: &mut Book, which: usize, outcome: u8, any: Ipv4Addr) {
    if book.open.is_empty() {
        return;
    }
    let (id, client, want, only_wanted) = book.open.remove(which % book.open.len());
    let ip = want.filter(|_| only_wanted || outcome > 3).unwrap_or(any);
    let outcome = match outcome {
        0 => Outcome::Unavailable,
        1 => Outcome::Taken,
        _ if book.granted.get(&ip).is_some_and(|owner| *owner != client) => Outcome::Taken,
        _ => {
            book.granted.insert(ip, client.clone());
            Outcome::Granted { ip, remaining: secs(1000) }
        }
    };
    for reply in lab.answer(id, outcome) {
        let reply = reply_of(&reply);
        if kind(&reply) == MessageType::Nak {
            continue;
        }
        assert_eq!(book.granted.get(&reply.yiaddr()), Some(&client), "what is told is granted");
    }
}

fn reply_of(one: &crate::Reply) -> dhcproto::v4::Message {
    reply(std::slice::from_ref(one))
}

/// A header that is right, with options of plausible codes and any content.
fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let code = prop_oneof![Just(53), Just(50), Just(54), Just(61), Just(52), Just(57), Just(81), Just(80), any::<u8>()];
    let value = prop_oneof![vec(any::<u8>(), 0..6), vec(0..9u8, 1..2), vec(any::<u8>(), 0..255)];
    (vec((code, value), 0..8), vec(any::<u8>(), 192), 1..9u8).prop_map(|(options, fields, kind)| {
        let mut message = Host::new(1).discover().to_vec().unwrap();
        message.truncate(240);
        message[44..236].copy_from_slice(&fields);
        message.extend_from_slice(&[53, 1, kind]);
        for (code, value) in options {
            message.push(code);
            message.push(u8::try_from(value.len()).unwrap());
            message.extend_from_slice(&value);
        }
        message
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn no_life_of_a_few_machines_breaks_what_the_caller_relies_on(steps in vec(step(), 1..60)) {
        play(steps);
    }

    #[test]
    fn any_bytes_are_taken(data in vec(any::<u8>(), 0..600)) {
        fuzz::message(&data);
    }

    #[test]
    fn any_options_are_taken(message in plausible()) {
        fuzz::message(&message);
    }
}
