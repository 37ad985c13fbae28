//! One replica, two owners: what must hold when answers are late, processes restart and clocks disagree.

use std::net::Ipv4Addr;

use super::net::{D, FREE, Keep, Net, guards, is_ops, is_results, none, secs};
use crate::codec::Wire;
use crate::command::{ClientId, Command, CommandId, Hold, LeaseKey};
use crate::env::Rules;
use crate::event::{ClaimError, Event, Resolution};
use crate::message::Message;
use crate::record::{Hint, Op, OpKind, Scope, SignedOp, Value};
use crate::right::Right;

const A: u8 = 10;
const B: u8 = 11;

#[test]
fn a_claim_is_granted_renewed_released_and_granted_to_another() {
    let mut net = Net::new(1, &[A, B], Rules::ALL);
    let ip = net.ip(5);
    let lease = net.claim(A, ip).unwrap();
    assert_eq!(lease.usable_until.0, net.now(A).owner.0 + D);
    assert_eq!(net.owners(ip), [A]);
    let error = net.claim(B, ip).unwrap_err();
    let ClaimError::Taken { owner, remaining } = error else { panic!("{error:?}") };
    assert_eq!(owner, crate::membership::fixture::peer(A));
    assert!(remaining > D && remaining < FREE, "{remaining:?}");
    net.release(A, ip);
    assert!(net.owners(ip).is_empty());
    net.settle();
    let again = net.claim(B, ip).unwrap();
    assert!(again.token > lease.token);
    assert_eq!(net.owners(ip), [B]);
}

#[test]
fn claims_that_are_made_at_once_go_together_and_are_answered_each() {
    let mut net = Net::new(1, &[A], Rules::ALL);
    // A credential of a plain member allows four.
    let claims = (0..4).map(|n| Command::ClaimAddress {
        id: CommandId(1000 + u64::from(n)),
        client: ClientId::of(&[n]),
        want: Some(net.ip(n + 5)),
        only_wanted: true,
        hold: Hold::Full,
        keep: false,
    });
    let (claims, now): (Vec<Command>, _) = (claims.collect(), net.now(A));
    net.live(A).handle_commands(claims, now);
    net.drain(A);
    assert_eq!(net.wire.iter().filter(|packet| is_ops(packet)).count(), 1);
    net.settle();
    for n in 0..4 {
        net.claimed(A, CommandId(1000 + n)).unwrap().unwrap();
    }
}

#[test]
fn the_founder_leases_from_itself_without_a_message() {
    let mut net = Net::new(1, &[], Rules::ALL);
    let ip = net.ip(5);
    let lease = net.claim(1, ip).unwrap();
    assert!(net.wire.is_empty());
    // Counted from before its own replica saw it.
    assert_eq!(lease.usable_until.0, net.now(1).owner.0 + D);
}

#[test]
fn a_kept_lease_is_renewed_from_a_quarter_on_and_survives_restarts() {
    let mut net = Net::new(1, &[A], Rules::ALL);
    let ip = net.ip(5);
    let id = net.begin_claim(A, ip, "self", Keep::Yes);
    net.settle();
    let first = net.claimed(A, id).unwrap().unwrap();
    net.run(D / 4 - secs(1), none);
    assert!(!net.nodes[&A].events.iter().any(|e| matches!(e, Event::LeaseChanged { .. })));
    net.run(D * 3, none);
    assert_eq!(net.owners(ip), [A]);
    let renewals = net.nodes[&A].events.iter().filter(|e| matches!(e, Event::LeaseChanged { .. })).count();
    assert!((10..=13).contains(&renewals), "{renewals}");
    net.crash(A);
    net.run(secs(60), none);
    net.start(A);
    net.settle();
    net.run(secs(1), none);
    let last = net.nodes[&A].events.iter().rev().find_map(|event| match event {
        Event::LeaseChanged { lease } => Some(lease.clone()),
        _ => None,
    });
    assert!(last.unwrap().token > first.token);
    assert_eq!(net.owners(ip), [A]);
}

#[test]
fn a_lease_without_its_replica_ends_and_comes_back_with_it() {
    let mut net = Net::new(1, &[A], Rules::ALL);
    let ip = net.ip(5);
    net.begin_claim(A, ip, "self", Keep::Yes);
    net.settle();
    net.crash(1);
    net.run(D + secs(1), none);
    assert!(net.owners(ip).is_empty());
    let events = &net.nodes[&A].events;
    assert!(events.iter().any(|e| matches!(e, Event::LeaseLost { why: "it ran out", .. })));
    let named = crate::membership::fixture::peer(1).to_string();
    assert!(
        events
            .iter()
            .any(|e| matches!(e, Event::Quorum { reachable: false, why: Some(why), .. } if why.contains(&named)))
    );
    net.start(1);
    net.run(secs(20), none);
    assert_eq!(net.owners(ip), [A]);
    let quorum = |event: &&Event| matches!(event, Event::Quorum { .. });
    let last = net.nodes[&A].events.iter().rev().find(quorum);
    assert!(matches!(last, Some(Event::Quorum { reachable: true, .. })));
}

#[test]
fn a_taken_address_is_answered_with_another_one() {
    let mut net = Net::new(1, &[A, B], Rules::ALL);
    let ip = net.ip(5);
    net.claim(A, ip).unwrap();
    let client = ClientId::of(b"b");
    let hold = Hold::Offer;
    let want = Some(ip);
    let id = net.command(B, |id| Command::ClaimAddress { id, client, want, only_wanted: false, hold, keep: false });
    net.settle();
    let lease = net.claimed(B, id).unwrap().unwrap();
    assert_ne!(lease.key, LeaseKey::Address(ip));
    assert_eq!(lease.usable_until.0, net.now(B).owner.0 + secs(60));
}

#[test]
fn restart_reuses_op_seq() {
    let broken = |rules| {
        let mut net = Net::new(1, &[A, B], rules);
        let ip = net.ip(5);
        net.begin_claim(A, ip, "self", Keep::Yes);
        net.settle();
        net.crash(A);
        net.freeze(D / 2);
        net.reboot(A);
        net.run(secs(1), none);
        net.run(FREE - D / 2, is_ops);
        let _ = net.claim(B, ip);
        net.owners(ip).len() > 1
    };
    guards("restart_reuses_op_seq", broken, |rules| (rules.op_seq_on_disk, rules.nonce) = (false, false));
}

#[test]
fn shorter_renewal_lost_reply() {
    let broken = |rules| {
        let mut net = Net::new(1, &[A, B], rules);
        let ip = net.ip(5);
        net.claim(A, ip).unwrap();
        let now = net.now(A);
        net.live(A).force(&LeaseKey::Address(ip), (OpKind::Renew, 60_000), now);
        net.drain(A);
        let ops = net.take(is_ops);
        net.deliver(&ops[0]);
        net.take(is_results);
        net.freeze(secs(120));
        let _ = net.claim(B, ip);
        net.owners(ip).len() > 1
    };
    guards("shorter_renewal_lost_reply", broken, |rules| rules.longest_duration = false);
}

#[test]
fn capped_duration() {
    let broken = |rules| {
        let mut net = Net::new(1, &[A, B], rules);
        let ip = net.ip(5);
        net.claim(A, ip).unwrap();
        let now = net.now(A);
        let three = u64::try_from((D * 3).as_millis()).unwrap();
        net.live(A).force(&LeaseKey::Address(ip), (OpKind::Claim, three), now);
        net.drain(A);
        net.settle();
        net.freeze(FREE);
        let _ = net.claim(B, ip);
        net.owners(ip).len() > 1
    };
    guards("capped_duration", broken, |rules| rules.granted_duration = false);
}

#[test]
fn late_grant_after_release() {
    let broken = |rules| {
        let mut net = Net::new(1, &[A, B], rules);
        let ip = net.ip(5);
        net.begin_claim(A, ip, "self", Keep::No);
        let claim = net.take(is_ops);
        net.deliver(&claim[0]);
        let granted = net.take(is_results);
        net.release(A, ip);
        let release = net.take(is_ops);
        net.deliver(&release[0]);
        let _released = net.take(is_results);
        net.claim(B, ip).unwrap();
        net.deliver(&granted[0]);
        net.owners(ip).len() > 1
    };
    guards("late_grant_after_release", broken, |rules| rules.newest_only = false);
}

#[test]
fn delayed_release() {
    let broken = |rules| {
        let mut net = Net::new(1, &[A, B], rules);
        let ip = net.ip(5);
        net.claim(A, ip).unwrap();
        net.release(A, ip);
        let release = net.take(is_ops);
        net.claim(A, ip).unwrap();
        net.deliver(&release[0]);
        net.settle();
        let _ = net.claim(B, ip);
        net.owners(ip).len() > 1
    };
    guards("delayed_release", broken, |rules| rules.op_seq_compared = false);
}

#[test]
fn lease_from_other_boot() {
    let broken = |rules| {
        let mut net = Net::new(1, &[A, B], rules);
        let ip = net.ip(5);
        net.begin_claim(A, ip, "self", Keep::Yes);
        net.settle();
        net.crash(A);
        net.freeze(D / 2);
        net.reboot(A);
        // Nothing of it gets through: it knows only what is on its disk.
        net.run(FREE - D / 2, |packet| packet.from == A);
        let _ = net.claim(B, ip);
        net.owners(ip).len() > 1
    };
    guards("lease_from_other_boot", broken, |rules| rules.boot_compared = false);
}

#[test]
fn a_restart_in_the_same_boot_goes_on_with_a_little_less() {
    let mut net = Net::new(1, &[A], Rules::ALL);
    let ip = net.ip(5);
    net.begin_claim(A, ip, "self", Keep::Yes);
    net.settle();
    net.freeze(secs(1000));
    net.crash(A);
    net.start(A);
    net.take(|_| true);
    let lease = net.live(A).summary();
    assert_eq!(lease.reachable, None);
    assert_eq!(net.owners(ip), [A]);
    net.run(D - secs(1000 + 15), |_| true);
    assert!(net.owners(ip).is_empty(), "what the clock may have lost is taken off the end");
}

#[test]
fn t0_before_local_accept() {
    let broken = |rules| {
        let mut net = Net::new(1, &[A, B], rules);
        let ip = net.ip(5);
        net.begin_claim(A, ip, "self", Keep::Yes);
        let claim = net.take(is_ops);
        net.deliver(&claim[0]);
        let granted = net.take(is_results);
        net.freeze(D / 2);
        net.deliver(&granted[0]);
        assert_eq!(net.owners(ip), [A]);
        net.take(|_| true);
        net.freeze(FREE - D / 2);
        let _ = net.claim(B, ip);
        net.owners(ip).len() > 1
    };
    guards("t0_before_local_accept", broken, |rules| rules.count_from_send = false);
}

#[test]
fn frozen_owner_sends_nothing() {
    let broken = |rules| {
        let mut net = Net::new(1, &[A, B], rules);
        let ip = net.ip(5);
        net.claim(A, ip).unwrap();
        // A is stopped: no timer of it fires, until it is asked something.
        net.freeze(FREE);
        net.claim(B, ip).unwrap();
        let owner = net.resolve(A, |id| Command::ResolveAddress { id, ip });
        let Resolution::Found { owner, .. } = owner else { panic!("{owner:?}") };
        owner == crate::membership::fixture::peer(A)
    };
    guards("frozen_owner_sends_nothing", broken, |rules| rules.checked_at_use = false);
}

#[test]
fn a_machine_that_slept_uses_no_lease_until_it_is_renewed() {
    let mut net = Net::new(1, &[A], Rules::ALL);
    let ip = net.ip(5);
    net.begin_claim(A, ip, "self", Keep::Yes);
    net.settle();
    net.nodes.get_mut(&A).unwrap().slept = secs(10);
    net.tick(A);
    assert!(net.owners(ip).is_empty());
    assert!(net.nodes[&A].events.iter().any(|e| matches!(e, Event::LeaseLost { .. })));
    net.settle();
    assert_eq!(net.owners(ip), [A]);
}

#[test]
fn after_a_jump_of_the_wall_clock_no_lease_is_used_until_it_is_renewed_not_even_by_another_process() {
    let mut net = Net::new(1, &[A], Rules::ALL);
    let ip = net.ip(5);
    net.begin_claim(A, ip, "self", Keep::Yes);
    net.settle();
    net.nodes.get_mut(&A).unwrap().jumps += 1;
    net.tick(A);
    assert!(net.owners(ip).is_empty());
    assert!(net.nodes[&A].events.iter().any(|e| matches!(e, Event::LeaseLost { .. })));
    // The next process counts jumps from its own start.
    net.crash(A);
    net.nodes.get_mut(&A).unwrap().jumps = 0;
    net.start(A);
    assert!(net.owners(ip).is_empty());
    net.settle();
    net.tick(A);
    net.settle();
    assert_eq!(net.owners(ip), [A]);
}

#[test]
fn same_owner_other_client() {
    let broken = |rules| {
        let mut net = Net::new(1, &[A], rules);
        let ip = net.ip(5);
        let id = net.begin_claim(A, ip, "one", Keep::No);
        net.settle();
        net.claimed(A, id).unwrap().unwrap();
        // Another process with A's key that knows nothing of the first client.
        let scope = scope_of(&net, ip);
        let op = Op {
            scope,
            kind: OpKind::Claim,
            key: LeaseKey::Address(ip),
            client: ClientId::of(b"two"),
            op_seq: u64::MAX / 2,
            nonce: 1,
            dur_ms: 60_000,
            hint: Hint::None,
            right: Right::None,
            deputies: Vec::new(),
        };
        let ops = vec![SignedOp::sign(&net.world.ns, &Net::secret(A), op)];
        net.wire.push(super::net::Packet { from: A, to: 1, message: Message::Ops { scope, ops } });
        net.settle();
        let Some(Value::Lease(record)) = net.peek(1, LeaseKey::Address(ip)) else { panic!() };
        record.request.op.client != ClientId::of(b"one")
    };
    guards("same_owner_other_client", broken, |rules| rules.client_compared = false);
}

fn scope_of(net: &Net, ip: Ipv4Addr) -> Scope {
    let key = crate::record::RegisterKey::Lease(LeaseKey::Address(ip));
    Scope { incarnation: 0, shard: key.shard(&net.world.ns, &net.world.config()), view: 0 }
}

#[test]
fn a_second_client_of_one_router_gets_another_address() {
    let mut net = Net::new(1, &[A], Rules::ALL);
    let ip = net.ip(5);
    net.begin_claim(A, ip, "one", Keep::No);
    net.settle();
    let id = net.begin_claim(A, ip, "two", Keep::No);
    net.settle();
    assert!(matches!(net.claimed(A, id), Some(Err(ClaimError::Taken { .. }))));
}

#[test]
fn elapsed_survives_reboot() {
    let broken = |rules| {
        let mut net = Net::new(1, &[A, B], rules);
        let ip = net.ip(5);
        net.claim(A, ip).unwrap();
        net.crash(A);
        for _ in 0..4 {
            net.run(D / 2, none);
            net.reboot(1);
        }
        net.claim(B, ip).is_err()
    };
    guards("elapsed_survives_reboot", broken, |rules| rules.elapsed_saved = false);
}

#[test]
fn ghost_grant_is_released() {
    let broken = |rules| {
        let mut net = Net::new(1, &[A, B], rules);
        let ip = net.ip(5);
        let id = net.begin_claim(A, ip, "self", Keep::No);
        let ghost = net.take(is_ops);
        net.run(secs(5), |packet| packet.from == A);
        assert!(matches!(net.claimed(A, id), Some(Err(ClaimError::Unavailable(_)))));
        net.deliver(&ghost[0]);
        net.run(secs(60), none);
        net.claim(B, ip).is_err()
    };
    guards("ghost_grant_is_released", broken, |rules| rules.release_given_up = false);
}

#[test]
fn one_client_keeps_one_address() {
    let broken = |rules| {
        let mut net = Net::new(1, &[A, B], rules);
        let (first, second) = (net.ip(5), net.ip(6));
        let id = net.begin_claim(A, first, "self", Keep::Yes);
        net.run(secs(5), |packet| packet.from == A);
        assert!(matches!(net.claimed(A, id), Some(Err(ClaimError::Unavailable(_)))));
        // The claim goes on in the background, but its user is content with another address by now.
        net.command(A, |id| kept(id, Some(second), true));
        net.settle();
        net.run(D * 3, none);
        assert_eq!(net.owners(second), [A]);
        net.claim(B, first).is_err()
    };
    guards("one_client_keeps_one_address", broken, |rules| rules.one_kept_address = false);
}

#[test]
fn who_has_another_address_loses_the_one_before() {
    let mut net = Net::new(1, &[A], Rules::ALL);
    let (first, second) = (net.ip(5), net.ip(6));
    for ip in [first, second] {
        net.command(A, |id| kept(id, Some(ip), true));
        net.settle();
    }
    let events = &net.nodes[&A].events;
    let lost = |event: &Event| matches!(event, Event::LeaseLost { key, .. } if *key == LeaseKey::Address(first));
    let lost = events.iter().position(lost).unwrap();
    let claimed = |event: &Event| matches!(event, Event::Claimed { outcome: Ok(lease), .. } if lease.key == LeaseKey::Address(second));
    assert!(lost < events.iter().position(claimed).unwrap(), "its use ends before that of the next begins");
    assert_eq!((net.owners(first), net.owners(second)), (vec![], vec![A]));
}

#[test]
fn who_has_a_name_asks_for_its_last_address_first_all_the_same() {
    let mut net = Net::new(1, &[A], Rules::ALL);
    net.claim_name(A, "printer").unwrap();
    let ip = net.ip(5);
    let id = net.command(A, |id| kept(id, Some(ip), true));
    net.run(secs(5), |packet| packet.from == A);
    assert!(matches!(net.claimed(A, id), Some(Err(ClaimError::Unavailable(_)))));
    net.run(secs(20), |packet| packet.from == A);
    let id = net.command(A, |id| kept(id, None, false));
    // The pauses between attempts are long by now, but not for a new claim.
    net.run(secs(2), none);
    assert_eq!(net.claimed(A, id).unwrap().unwrap().key, LeaseKey::Address(ip));
}

fn kept(id: CommandId, want: Option<Ipv4Addr>, only_wanted: bool) -> Command {
    let client = ClientId::of(b"self");
    Command::ClaimAddress { id, client, want, only_wanted, hold: Hold::Full, keep: true }
}

#[test]
fn the_guard_covers_clocks_that_disagree() {
    let broken = |rules| {
        let mut net = Net::new(1, &[A, B], rules);
        // An owner's clock that loses 1 % against a replica's that gains 1 %.
        net.nodes.get_mut(&A).unwrap().rates.0 = 99;
        net.nodes.get_mut(&1).unwrap().rates.1 = 101;
        let ip = net.ip(5);
        net.claim(A, ip).unwrap();
        net.freeze(D + secs(60));
        let _ = net.claim(B, ip);
        net.owners(ip).len() > 1
    };
    guards("the_guard_covers_clocks_that_disagree", broken, |rules| rules.guarded = false);
}

#[test]
fn name_normal_form() {
    let broken = |rules| {
        let mut net = Net::new(1, &[B], rules);
        let client = ClientId::of(b"self");
        let id = net.command(1, |id| Command::ClaimName { id, name: "Lab.".to_owned(), client, keep: false });
        let first = net.claimed(1, id).is_some_and(|outcome| outcome.is_ok());
        !first || net.claim_name(B, "lab").is_ok()
    };
    guards("name_normal_form", broken, |rules| rules.normal_names = false);
}

#[test]
fn reserved_names_addresses_and_more_than_the_quota_are_refused() {
    let mut net = Net::new(1, &[A], Rules::ALL);
    for name in ["localhost", "WPAD", "isatap.", "a.b", ""] {
        assert!(matches!(net.claim_name(A, name), Err(ClaimError::Refused(_))), "{name}");
    }
    let config = net.world.config();
    for ip in [config.service(), config.range.network(), config.range.broadcast(), [192, 0, 2, 1].into()] {
        assert!(matches!(net.claim(A, ip), Err(ClaimError::Refused(_))), "{ip}");
    }
    for last in 1..=4 {
        let ip = net.ip(last);
        net.begin_claim(A, ip, &format!("client {last}"), Keep::No);
    }
    net.settle();
    let ip = net.ip(5);
    assert!(matches!(net.claim(A, ip), Err(ClaimError::Refused(_))));
    net.claim_name(A, "one").unwrap();
    net.claim_name(A, "two").unwrap();
    assert!(matches!(net.claim_name(A, "three"), Err(ClaimError::Refused(_))));
    let ip = net.ip(1);
    net.release(A, ip);
    net.settle();
    let ip = net.ip(5);
    net.claim(A, ip).unwrap();
}

#[test]
fn leaving_gives_everything_back() {
    let mut net = Net::new(1, &[A, B], Rules::ALL);
    let ip = net.ip(5);
    net.claim(A, ip).unwrap();
    net.claim_name(A, "host").unwrap();
    let id = net.command(A, |id| Command::Leave { id });
    assert!(net.owners(ip).is_empty());
    net.settle();
    assert!(net.nodes[&A].events.contains(&Event::Left { id }));
    net.claim(B, ip).unwrap();
    net.claim_name(B, "host").unwrap();
}

#[test]
fn an_op_of_somebody_else_is_not_run() {
    let mut net = Net::new(1, &[A, B], Rules::ALL);
    let ip = net.ip(5);
    net.begin_claim(A, ip, "self", Keep::No);
    let mut ops = net.take(is_ops);
    ops[0].from = B;
    net.deliver(&ops[0]);
    assert!(net.take(is_results).is_empty());
    assert_eq!(net.live(1).drops().get(&crate::DropReason::ForgedOp), Some(&1));
}

#[test]
fn no_cut_or_flipped_message_does_harm() {
    let mut net = Net::new(1, &[A, B], Rules::ALL);
    let ip = net.ip(5);
    net.begin_claim(A, ip, "self", Keep::No);
    let bytes = net.take(is_ops)[0].message.to_bytes();
    let now = net.now(1);
    for place in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[place] ^= 1 << (place % 8);
        net.live(1).handle_message(crate::membership::fixture::peer(A), &flipped, now);
        net.live(1).handle_message(crate::membership::fixture::peer(A), &bytes[..place], now);
    }
    assert_eq!(net.peek(1, LeaseKey::Address(ip)), None);
}
