//! Leases that go over to another owner while they run. No command leads to these operations yet: they are signed here.

use std::net::Ipv4Addr;

use super::net::{D, Net, Packet, guards, none, secs};
use crate::cell::millis;
use crate::command::{ClientId, LeaseKey};
use crate::env::Rules;
use crate::identity::PublicKey;
use crate::message::Message;
use crate::record::{Hint, Op, OpKind, RegisterKey, Scope, SignedOp, Value, guard};
use crate::right::{Handover, Right};

const A: u8 = 10;
const B: u8 = 11;
const C: u8 = 12;

/// One replica and three routers; one host is behind all of them.
struct Segment {
    net: Net,
    ip: Ipv4Addr,
}

/// What a router asks of the register.
#[derive(Clone)]
struct Ask {
    kind: OpKind,
    client: &'static [u8],
    op_seq: u64,
    right: Right,
    deputies: Vec<PublicKey>,
}

fn ask(kind: OpKind, op_seq: u64) -> Ask {
    Ask { kind, client: b"host", op_seq, right: Right::None, deputies: Vec::new() }
}

fn public(number: u8) -> PublicKey {
    Net::secret(number).public()
}

fn deputy_of(owner: u8, op_seq: u64) -> Right {
    Right::Deputy { owner: public(owner), op_seq }
}

impl Segment {
    fn new(rules: Rules) -> Self {
        let net = Net::new(1, &[A, B, C], Rules { views_change: false, ..rules });
        let ip = net.ip(5);
        Self { net, ip }
    }

    /// Sends it to the replica, and says who has the address then.
    fn asks(&mut self, router: u8, ask: Ask) -> Option<u8> {
        let Ask { kind, client, op_seq, right, deputies } = ask;
        let net = &mut self.net;
        let key = LeaseKey::Address(self.ip);
        let live = net.nodes[&1].live.as_ref().unwrap();
        let shard = RegisterKey::Lease(key.clone()).shard(&net.world.ns, live.membership().config());
        let scope = Scope { incarnation: 0, shard, view: 0 };
        let (client, nonce, dur_ms, hint) = (ClientId::of(client), op_seq, millis(D), Hint::None);
        let op = Op { scope, kind, key, client, op_seq, nonce, dur_ms, hint, right, deputies };
        let ops = vec![SignedOp::sign(&net.world.ns, &Net::secret(router), op)];
        net.wire.push(Packet { from: router, to: 1, message: Message::Ops { scope, ops } });
        net.settle();
        self.owner()
    }

    fn owner(&self) -> Option<u8> {
        let Some(Value::Lease(record)) = self.net.peek(1, LeaseKey::Address(self.ip)) else { return None };
        record.held().then(|| [A, B, C].into_iter().find(|router| public(*router) == record.owner()))?
    }

    fn handover(&self, from: u8, to: u8, client: &[u8], op_seq: u64) -> Right {
        let of = (&LeaseKey::Address(self.ip), ClientId::of(client));
        Right::Handed(Box::new(Handover::sign(&self.net.world.ns, &Net::secret(from), &public(to), of, op_seq)))
    }
}

#[test]
fn a_lease_that_is_handed_over_needs_not_be_waited_for() {
    let mut segment = Segment::new(Rules::ALL);
    assert_eq!(segment.asks(A, ask(OpKind::Claim, 1)), Some(A));
    let right = segment.handover(A, B, b"host", 2);
    assert_eq!(segment.asks(B, Ask { right, ..ask(OpKind::Claim, 1) }), Some(B));
    // What the former owner still has under way counts no more.
    assert_eq!(segment.asks(A, ask(OpKind::Renew, 1)), Some(B));
    assert_eq!(segment.asks(A, ask(OpKind::Claim, 3)), Some(B));
}

#[test]
fn a_handover_is_for_one_taker_and_one_client_and_signed_by_the_owner() {
    let mut segment = Segment::new(Rules::ALL);
    segment.asks(A, ask(OpKind::Claim, 1));
    let drops = |segment: &Segment| segment.net.nodes[&1].live.as_ref().unwrap().drops().values().sum::<u64>();
    let before = drops(&segment);
    let to_c = segment.handover(A, C, b"host", 2);
    let by_c = segment.handover(C, B, b"host", 2);
    let for_another = segment.handover(A, B, b"guest", 2);
    let Right::Handed(forged) = segment.handover(C, B, b"host", 2) else { unreachable!() };
    let forged = Right::Handed(Box::new(Handover { from: public(A), ..*forged }));
    for (number, right) in (1..).zip([to_c, by_c, for_another.clone(), forged]) {
        assert_eq!(segment.asks(B, Ask { right, ..ask(OpKind::Claim, number) }), Some(A), "{number}");
    }
    // Three of them do not even verify; that of C itself does, and is none of the owner's.
    assert_eq!(drops(&segment) - before, 3);
    let guest = Ask { client: b"guest", right: for_another, ..ask(OpKind::Claim, 9) };
    assert_eq!(segment.asks(B, guest), Some(A), "the owner has it for another client");
}

/// P7: the owner thinks better of it and claims again.
#[test]
fn stale_handover() {
    let broken = |rules| {
        let mut segment = Segment::new(rules);
        segment.asks(A, ask(OpKind::Claim, 1));
        let right = segment.handover(A, B, b"host", 2);
        assert_eq!(segment.asks(A, ask(OpKind::Claim, 3)), Some(A));
        segment.asks(B, Ask { right, ..ask(OpKind::Claim, 1) }) == Some(B)
    };
    guards("stale_handover", broken, |rules| rules.handover_compared = false);
}

#[test]
fn only_a_deputy_takes_over_and_only_for_the_same_client() {
    let mut segment = Segment::new(Rules::ALL);
    segment.asks(A, Ask { deputies: vec![public(B)], ..ask(OpKind::Claim, 1) });
    let claim = |right| Ask { right, ..ask(OpKind::Claim, 1) };
    assert_eq!(segment.asks(C, claim(deputy_of(A, 1))), Some(A), "C is no deputy");
    assert_eq!(segment.asks(B, Ask { client: b"guest", ..claim(deputy_of(A, 1)) }), Some(A));
    assert_eq!(segment.asks(B, Ask { op_seq: 2, ..claim(Right::None) }), Some(A));
    assert_eq!(segment.asks(B, Ask { op_seq: 3, ..claim(deputy_of(A, 1)) }), Some(B));
    // It named nobody itself.
    assert_eq!(segment.asks(A, Ask { op_seq: 2, ..claim(deputy_of(B, 3)) }), Some(B));
}

/// A copy of the deputy's claim arrives when the owner has long come back.
#[test]
fn a_deputy_takes_over_what_it_has_seen_and_nothing_later() {
    let broken = |rules| {
        let mut segment = Segment::new(rules);
        segment.asks(A, Ask { deputies: vec![public(B)], ..ask(OpKind::Claim, 1) });
        segment.asks(A, Ask { deputies: vec![public(B)], ..ask(OpKind::Renew, 2) });
        segment.asks(B, Ask { right: deputy_of(A, 1), ..ask(OpKind::Claim, 1) }) == Some(B)
    };
    guards("a_deputy_names_the_lease", broken, |rules| rules.deputy_names_lease = false);
}

/// The former owner is cut off, and answers for the address to the end of its lease.
#[test]
fn what_a_deputy_gives_back_is_kept_for_its_client() {
    let broken = |rules| {
        let mut segment = Segment::new(rules);
        segment.asks(A, Ask { deputies: vec![public(B)], ..ask(OpKind::Claim, 1) });
        segment.net.run(secs(60), none);
        assert_eq!(segment.asks(B, Ask { right: deputy_of(A, 1), ..ask(OpKind::Claim, 1) }), Some(B));
        assert_eq!(segment.asks(B, ask(OpKind::Renew, 2)), Some(B));
        assert_eq!(segment.asks(B, ask(OpKind::Release, 3)), None);
        let guest = Ask { client: b"guest", ..ask(OpKind::Claim, 1) };
        let early = segment.asks(C, guest.clone());
        // Its own client gets it again from the same router, and the time goes on.
        if early.is_none() {
            assert_eq!(segment.asks(B, ask(OpKind::Claim, 4)), Some(B));
            assert_eq!(segment.asks(B, ask(OpKind::Release, 5)), None);
        }
        segment.net.run(guard(D, 10_000) - secs(65), none);
        let late = segment.asks(C, Ask { op_seq: 2, ..guest.clone() });
        segment.net.run(secs(10), none);
        assert_eq!(segment.asks(C, Ask { op_seq: 3, ..guest }), Some(C), "it is free once the first lease has run out");
        early.is_some() || late.is_some()
    };
    guards("what_a_deputy_gives_back_is_kept", broken, |rules| rules.shadow_kept = false);
}
