//! Three replicas: one ballot carries one value, quorums are counted for each key, and a minority's word is no answer.

use std::time::Duration;

use super::net::{ASKING, D, FREE, Keep, Net, Packet, guards_from, is_ops, none, secs, steady};
use crate::command::{ClientId, Command, LeaseKey};
use crate::env::Rules;
use crate::event::{ClaimError, Event, Resolution};
use crate::membership::fixture::peer;
use crate::message::Message;
use crate::record::{Hint, Op, OpKind, RegisterKey, Scope, SignedOp, Value};
use crate::right::Right;

const A: u8 = 10;
const B: u8 = 11;

/// Without the fast path: a ballot promised along with a vote would spoil the schedules here, which count rounds.
fn guards(name: &str, broken: impl Fn(Rules) -> bool, off: impl FnOnce(&mut Rules)) {
    guards_from(Rules { fast_path: false, ..steady() }, name, broken, off);
}

#[test]
fn three_replicas_grant_with_one_of_them_away() {
    let mut net = Net::new(3, &[A, B], Rules::ALL);
    let ip = net.ip(5);
    for away in 1..=3 {
        net.crash(away);
        let id = net.begin_claim(A, ip, "self", Keep::No);
        net.run(secs(4), none);
        let claimed = net.claimed(A, id);
        assert!(matches!(claimed, Some(Ok(_))), "without {away}: {claimed:?}");
        net.start(away);
        net.release(A, ip);
        net.run(secs(4), none);
    }
    net.crash(1);
    net.crash(2);
    let id = net.begin_claim(A, ip, "self", Keep::No);
    net.run(secs(5), none);
    assert!(matches!(net.claimed(A, id), Some(Err(ClaimError::Unavailable(_)))));
    assert_eq!(
        net.nodes[&A].events.iter().rev().find_map(|e| match e {
            Event::Quorum { reachable, .. } => Some(*reachable),
            _ => None,
        }),
        Some(false)
    );
}

#[test]
fn a_summary_says_what_each_lease_rests_on() {
    let mut net = Net::new(3, &[A], Rules::ALL);
    let (kept, lent) = (net.ip(5), net.ip(6));
    net.crash(3);
    net.begin_claim(A, kept, "self", Keep::Yes);
    net.begin_claim(A, lent, "guest", Keep::No);
    net.run(secs(4), none);
    let now = net.now(A);
    let told = net.nodes[&A].events.iter().rev().find_map(|event| match event {
        Event::Status { summary } => {
            Some(summary.leases.iter().map(|lease| (lease.key.clone(), lease.token)).collect())
        }
        _ => None,
    });
    let leases = net.live(A).summary_at(now).leases;
    let of = |ip| leases.iter().find(|lease| lease.key == LeaseKey::Address(ip)).unwrap();
    let mut up = vec![peer(1), peer(2)];
    up.sort();
    for ip in [kept, lent] {
        let lease = of(ip);
        let mut accepted = lease.accepted.clone();
        accepted.sort();
        assert_eq!((lease.members.len(), accepted), (3, up.clone()));
        assert!(lease.remaining <= D && lease.remaining > D - secs(10));
    }
    let renewal = of(kept).renewal.unwrap();
    assert!(renewal > D / 4 - secs(10) && renewal < D / 3, "{renewal:?}");
    assert_eq!(of(lent).renewal, None);
    // Whoever shows it learns of each grant.
    let told: std::collections::BTreeMap<LeaseKey, crate::Token> = told.unwrap();
    assert_eq!(told, leases.iter().map(|lease| (lease.key.clone(), lease.token)).collect());
    net.run(D, none);
    let now = net.now(A);
    assert!(net.live(A).summary_at(now).leases.iter().all(|lease| lease.key == LeaseKey::Address(kept)));
}

/// A namespace of sixteen shards: the address of this node decides which of them status shows.
#[test]
fn a_summary_is_of_the_shards_that_something_rests_on() {
    let mut net = Net::new(3, &[A], Rules { views_change: false, ..Rules::ALL });
    let shard = |net: &mut Net, key: LeaseKey| {
        let ns = net.world.ns;
        RegisterKey::Lease(key).shard(&ns, net.live(A).membership().config())
    };
    let ips: Vec<_> = (0..=255).map(|block| net.ip_in(block, 5)).collect();
    let ip = *ips.iter().find(|ip| shard(&mut net, LeaseKey::Address(**ip)) != 0).unwrap();
    let other = *ips
        .iter()
        .find(|other| shard(&mut net, LeaseKey::Address(**other)) != shard(&mut net, LeaseKey::Address(ip)))
        .unwrap();
    let (own, lent) = (shard(&mut net, LeaseKey::Address(ip)), shard(&mut net, LeaseKey::Address(other)));
    let told = |net: &mut Net| {
        let now = net.now(A);
        let summary = net.live(A).summary_at(now);
        (summary.home.shard, summary.rests.iter().map(|facts| facts.shard).collect::<Vec<_>>())
    };
    assert_eq!(told(&mut net), (0, vec![0]));
    // A claim that nobody has answered yet counts; an address lent to a client is no address of its own.
    net.begin_claim(A, ip, "self", Keep::Yes);
    assert_eq!(told(&mut net), (own, vec![own]));
    net.settle();
    net.begin_claim(A, other, "guest", Keep::No);
    net.settle();
    let mut both = vec![own, lent];
    both.sort_unstable();
    assert_eq!(told(&mut net), (own, both));
    net.release(A, ip);
    assert_eq!(told(&mut net), (0, vec![lent]));
    // What a node says last is what it would say now.
    let said = net.nodes[&A].events.iter().rev().find_map(|event| match event {
        Event::Status { summary } => Some((summary.home.shard, summary.rests.len())),
        _ => None,
    });
    assert_eq!(said, Some((0, 1)));
}

#[test]
fn silence_is_told_by_those_who_vote_and_of_each_shard_alike() {
    let mut net = Net::new(3, &[A], Rules { views_change: false, ..Rules::ALL });
    net.begin_claim(1, net.ip(5), "self", Keep::Yes);
    net.begin_claim(A, net.ip(6), "self", Keep::Yes);
    net.settle();
    net.crash(3);
    net.run(secs(400), none);
    let silent = |net: &mut Net, number| {
        let now = net.now(number);
        let summary = net.live(number).summary_at(now);
        assert_eq!(summary.rests.len(), 1);
        assert_eq!(summary.rests[0], summary.home);
        summary.home.silent.into_iter().map(|(peer, _)| peer).collect::<Vec<_>>()
    };
    assert_eq!(silent(&mut net, 1), [peer(3)]);
    // Nobody tells a node without a vote that it is there.
    assert_eq!(silent(&mut net, A), []);
}

#[test]
fn contenders_with_delays_losses_and_copies_never_both_own() {
    for seed in 0..6u64 {
        let mut net = Net::new(3, &[A, B], Rules::ALL);
        let ip = net.ip(5);
        let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut roll = |n: u64| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            dice % n
        };
        for _ in 0..150 {
            match roll(10) {
                0 => drop(net.begin_claim(A, ip, "self", Keep::No)),
                1 => drop(net.begin_claim(B, ip, "self", Keep::No)),
                2 if roll(3) == 0 => net.release(if roll(2) == 0 { A } else { B }, ip),
                3 => {
                    net.freeze(Duration::from_millis(roll(700)));
                    [1, 2, 3, A, B].into_iter().for_each(|n| net.tick(n));
                }
                4 if roll(4) == 0 => {
                    let number = [1, 2, 3][usize::try_from(roll(3)).unwrap()];
                    net.crash(number);
                    net.start(number);
                }
                kind if !net.wire.is_empty() => {
                    let place = usize::try_from(roll(net.wire.len() as u64)).unwrap();
                    let packet = net.wire[place].clone();
                    if kind != 5 {
                        net.wire.remove(place);
                    }
                    if kind != 6 {
                        net.deliver(&packet);
                    }
                }
                _ => {}
            }
            assert!(net.owners(ip).len() <= 1, "seed {seed}");
        }
    }
}

/// A restarted coordinator with promises for its own earlier round.
#[test]
fn ballot_used_twice() {
    let broken = |rules| {
        let mut net = Net::new(3, &[A, B], rules);
        let ip = net.ip(5);
        net.begin_claim(A, ip, "self", Keep::No);
        let ops = net.take(is_ops);
        let coordinator = ops[0].to;
        net.deliver(&ops[0]);
        let prepares = net.take(|_| true);
        prepares.iter().for_each(|packet| net.deliver(packet));
        // Promises that hold nothing yet; copies of them are still under way later.
        let old = net.take(|packet| matches!(packet.message, Message::Promise { .. }));
        net.deliver(&old[0]);
        let accepts = net.take(|packet| packet.to == old[0].from);
        accepts.iter().for_each(|packet| net.deliver(packet));
        net.settle();
        assert_eq!(net.owners(ip), [A]);
        net.crash(coordinator);
        net.start(coordinator);
        net.run(ASKING, none);
        net.begin_claim(B, ip, "self", Keep::No);
        let mut ops = net.take(is_ops);
        ops[0].to = coordinator;
        net.deliver(&ops[0]);
        net.take(|packet| matches!(packet.message, Message::Prepare { .. }));
        old.iter().for_each(|packet| net.deliver(packet));
        net.settle();
        net.owners(ip).len() > 1
    };
    // Those it asks after a restart would tell it their rounds, too.
    guards("ballot_used_twice", broken, |rules| {
        (rules.rounds_on_disk, rules.one_value_per_ballot, rules.restored_asks_first) = (false, false, false);
    });
}

/// Two operations on one address in one batch.
#[test]
fn ballot_used_twice_in_a_batch() {
    let broken = |rules| {
        let mut net = Net::new(1, &[A], rules);
        let ip = net.ip(5);
        let key = LeaseKey::Address(ip);
        let register = RegisterKey::Lease(key.clone());
        let scope = Scope { incarnation: 0, shard: register.shard(&net.world.ns, &net.world.config()), view: 0 };
        let op = |client: &[u8], op_seq| {
            let client = ClientId::of(client);
            let kind = OpKind::Claim;
            let (nonce, dur_ms, hint, right, deputies) = (1, 60_000, Hint::None, Right::None, Vec::new());
            let op = Op { scope, kind, key: key.clone(), client, op_seq, nonce, dur_ms, hint, right, deputies };
            SignedOp::sign(&net.world.ns, &Net::secret(A), op)
        };
        let ops = vec![op(b"one", 1), op(b"two", 2)];
        net.wire.push(Packet { from: A, to: 1, message: Message::Ops { scope, ops } });
        net.settle();
        let Some(Value::Lease(record)) = net.peek(1, key) else { panic!() };
        record.request.op.client != ClientId::of(b"one")
    };
    guards("ballot_used_twice_in_a_batch", broken, |rules| {
        (rules.one_op_per_key, rules.one_value_per_ballot) = (false, false);
    });
}

#[test]
fn batch_counts_per_ip() {
    let broken = |rules| {
        let mut net = Net::new(3, &[A, B], rules);
        let (free, taken) = (net.ip(5), net.ip(6));
        // B holds one of the two by two replicas; the third, A's coordinator, has not heard of it.
        let lost = |packet: &Packet| packet.to == 1 || packet.from == 1;
        for _ in 0..2 {
            net.release(B, taken);
            net.begin_claim(B, taken, "self", Keep::No);
            for mut ops in net.take(is_ops) {
                ops.to = 2;
                net.deliver(&ops);
                net.run(Duration::from_millis(100), lost);
            }
        }
        assert_eq!(net.owners(taken), [B]);
        let now = net.now(A);
        let command = |id, ip| Command::ClaimAddress {
            id: crate::CommandId(id),
            client: ClientId::of(&[u8::try_from(id).unwrap()]),
            want: Some(ip),
            only_wanted: true,
            hold: crate::Hold::Full,
            keep: false,
        };
        net.live(A).handle_command(command(100, free), now);
        net.live(A).handle_command(command(101, taken), now);
        net.drain(A);
        let both: Vec<SignedOp> = net
            .take(is_ops)
            .into_iter()
            .flat_map(|packet| match packet.message {
                Message::Ops { ops, .. } => ops,
                _ => Vec::new(),
            })
            .collect();
        let scope = both[0].op.scope;
        net.deliver(&Packet { from: A, to: 1, message: Message::Ops { scope, ops: both } });
        // The round of the batch is below what was promised to B's.
        let mut wrote_taken = false;
        for _ in 0..200 {
            let Some(packet) = (!net.wire.is_empty()).then(|| net.wire.remove(0)) else { break };
            if let Message::Accept { items, ballot, .. } = &packet.message
                && ballot.round < 3
            {
                wrote_taken |=
                    items.iter().any(|item| item.value.key() == RegisterKey::Lease(LeaseKey::Address(taken)));
            }
            net.deliver(&packet);
        }
        net.run(secs(3), none);
        assert_eq!(net.owners(free), [A]);
        assert_eq!(net.owners(taken), [B]);
        wrote_taken
    };
    guards("batch_counts_per_ip", broken, |rules| rules.quorum_per_key = false);
}

#[test]
fn refusals_do_not_prolong_a_dead_owners_lease() {
    let broken = |rules| {
        let mut net = Net::new(3, &[A, B], rules);
        let ip = net.ip(5);
        net.begin_claim(A, ip, "self", Keep::No);
        net.run(secs(1), none);
        net.crash(A);
        let end = net.time + D;
        let mut coordinator = 1;
        while net.time < end {
            net.freeze(secs(3600));
            net.begin_claim(B, ip, "self", Keep::No);
            // Two coordinators take turns, each while the other cannot be heard.
            let away = 3 - coordinator;
            for _ in 0..3 {
                while !net.wire.is_empty() {
                    let mut packet = net.wire.remove(0);
                    if matches!(packet.message, Message::Ops { .. }) {
                        packet.to = coordinator;
                    }
                    if packet.to == away || packet.from == away {
                        continue;
                    }
                    // A value is under way for ten minutes, in which nobody counts.
                    if matches!(packet.message, Message::Accept { .. }) && net.time < end {
                        net.freeze(secs(600));
                    }
                    net.deliver(&packet);
                }
                net.freeze(Duration::from_millis(300));
                net.tick(coordinator);
            }
            coordinator = away;
        }
        net.freeze(FREE - D + secs(3600));
        net.begin_claim(B, ip, "self", Keep::No);
        net.run(secs(4), none);
        net.owners(ip) != [B]
    };
    guards("refusals_do_not_prolong_a_dead_owners_lease", broken, |rules| rules.refusals_write_nothing = false);
}

#[test]
fn a_minority_says_unknown_and_a_quorum_says_absent() {
    let mut net = Net::new(3, &[A], Rules::ALL);
    let ip = net.ip(5);
    assert_eq!(net.resolve(A, |id| Command::ResolveAddress { id, ip }), Resolution::Absent);
    net.run(secs(6), none);
    net.crash(1);
    net.crash(2);
    let id = net.command(A, |id| Command::ResolveAddress { id, ip });
    net.run(secs(4), none);
    assert_eq!(net.resolved(A, id), Some(Resolution::Unknown));
}

#[test]
fn replicas_that_differ_are_made_to_agree() {
    let mut net = Net::new(3, &[A, B], Rules::ALL);
    let ip = net.ip(5);
    // A's claim is accepted by one replica only, and another is away when somebody asks.
    net.begin_claim(A, ip, "self", Keep::No);
    let mut kept = false;
    while !net.wire.is_empty() {
        let packet = net.wire.remove(0);
        let accept = matches!(packet.message, Message::Accept { .. });
        if !accept || !kept {
            net.deliver(&packet);
        }
        kept |= accept;
    }
    net.crash(A);
    let id = net.command(B, |id| Command::ResolveAddress { id, ip });
    net.run(secs(3), none);
    assert!(matches!(net.resolved(B, id), Some(Resolution::Absent | Resolution::Found { .. })));
}
