//! Recovery of a lost majority: what the authority may do, what it must wait for, and what is over then.

use std::net::Ipv4Addr;

use super::net::{D, FREE, Keep, Net, Packet, guards_steady, none, secs, steady};
use crate::certificate::{CertError, LeaseCert};
use crate::codec::Wire;
use crate::command::{Command, Role};
use crate::config::{Checkpoint, SignedConfig};
use crate::env::{DropReason, Rules};
use crate::event::Event;
use crate::join::Joiner;
use crate::membership::fixture::{World, data, key, peer};
use crate::message::Message;
use crate::namespace::Image;
use crate::record::Scope;
use crate::recovery::{RecoverError, RecoveryPlan};
use crate::redeem::{Entry, RedeemRequest};
use crate::sign::{Label, sign};
use crate::view::{ChainError, Member, Successor, View, Vote};

const A: u8 = 10;
const B: u8 = 11;

/// Three founders, of whom the first has the authority key, and two members.
fn net(rules: Rules) -> (Net, Ipv4Addr) {
    let mut net = Net::new(3, &[A, B], rules);
    let ip = net.ip(5);
    net.run(secs(1), none);
    (net, ip)
}

fn ask(net: &mut Net, at: u8, all: bool, confirmed: bool) -> Result<RecoveryPlan, RecoverError> {
    let wanted = net.command(at, |id| Command::Recover { id, all, confirmed });
    net.run(secs(10), none);
    let answer = net.nodes[&at].events.iter().find_map(|event| match event {
        Event::Recovered { id, outcome } if *id == wanted => Some(outcome.clone()),
        _ => None,
    });
    answer.unwrap()
}

fn recover(net: &mut Net) -> RecoveryPlan {
    ask(net, 1, false, true).unwrap()
}

fn lose_majority(net: &mut Net) {
    net.crash(2);
    net.crash(3);
}

/// A gets an address of which the first founder hears nothing.
fn granted_by_the_others(net: &mut Net, ip: Ipv4Addr) {
    let id = net.begin_claim(A, ip, "self", Keep::No);
    net.run(secs(10), |packet| packet.to == 1 || packet.from == 1);
    assert!(net.claimed(A, id).unwrap().is_ok());
}

/// Whether B gets the address within a few seconds.
fn b_gets(net: &mut Net, ip: Ipv4Addr) -> bool {
    let id = net.begin_claim(B, ip, "self", Keep::No);
    net.run(secs(10), none);
    net.claimed(B, id).is_some_and(|outcome| outcome.is_ok())
}

fn newest(net: &Net, node: u8, ip: Ipv4Addr) -> View {
    let chain = net.nodes[&node].live.as_ref().unwrap().membership().chain();
    let key = crate::record::RegisterKey::Lease(crate::LeaseKey::Address(ip));
    chain.newest(key.shard(&net.world.ns, &net.world.config())).unwrap().clone()
}

#[test]
fn recovery_waits_before_serving() {
    let broken = |rules| {
        let (mut net, ip) = net(rules);
        granted_by_the_others(&mut net, ip);
        lose_majority(&mut net);
        let plan = recover(&mut net);
        assert_eq!((plan.done, plan.shards.len()), (true, usize::from(plan.of)));
        b_gets(&mut net, ip);
        net.owners(ip).len() > 1
    };
    guards_steady("recovery_waits_before_serving", broken, |rules| rules.recovery_waits = false);
}

#[test]
fn a_recovered_shard_serves_when_the_wait_is_over_and_grows_again() {
    let (mut net, ip) = net(Rules::ALL);
    granted_by_the_others(&mut net, ip);
    lose_majority(&mut net);
    let plan = recover(&mut net);
    assert!(plan.wait > D && plan.wait < FREE);
    net.run(plan.wait - secs(30), none);
    assert!(!b_gets(&mut net, ip));
    net.run(secs(20), none);
    assert!(b_gets(&mut net, ip));
    assert_eq!(net.owners(ip), [B]);
    net.run(secs(300), none);
    let view = newest(&net, B, ip);
    let now = net.now(1);
    assert_eq!((view.incarnation, view.members.len()), (1, 3), "{}", net.live(1).describe(view.shard, now));
    assert_eq!(net.owners(ip), [B]);
}

/// Who had an address when the majority was lost, and is known to the survivor, has it before anybody else.
#[test]
fn an_address_that_the_survivor_knows_of_goes_on() {
    let (mut net, ip) = net(steady());
    net.begin_claim(A, ip, "self", Keep::Yes);
    net.settle();
    net.run(secs(1), none);
    assert_eq!(net.owners(ip), [A]);
    lose_majority(&mut net);
    let plan = recover(&mut net);
    let leases: usize = plan.shards.iter().map(|shard| shard.leases).sum();
    assert_eq!(leases, 1);
    net.freeze(plan.wait);
    net.run(secs(600), none);
    assert_eq!(net.owners(ip), [A]);
}

/// Whoever recovers what was not lost fences those who are there: they stop, and what they granted goes on.
#[test]
fn a_majority_that_lives_stops_as_soon_as_it_hears_of_a_recovery() {
    let (mut net, ip) = net(steady());
    granted_by_the_others(&mut net, ip);
    let plan = ask(&mut net, 1, true, true).unwrap();
    assert_eq!(plan.shards.len(), usize::from(plan.of));
    for node in [2, 3] {
        let view = newest(&net, node, ip);
        assert_eq!(view.incarnation, 1);
        let now = net.now(node);
        assert!((0..plan.of).all(|shard| !net.live(node).serves(shard, now)));
    }
    assert!(!b_gets(&mut net, ip));
    assert_eq!(net.owners(ip), [A]);
    let why = net.nodes[&B].events.iter().rev().find_map(|event| match event {
        Event::Quorum { why, .. } => why.clone(),
        _ => None,
    });
    assert!(why.unwrap().contains("waits until old leases have run out"));
    net.freeze(plan.wait);
    net.run(secs(1), none);
    assert!(b_gets(&mut net, ip));
    assert_eq!(net.owners(ip), [B]);
    // What the others held is of no use any more, and dropped.
    let held = |net: &Net, node: u8| {
        let disk = &net.nodes[&node].disk;
        disk.keys().filter(|key| key.starts_with(b"cell/")).count()
    };
    net.run(secs(60), none);
    assert_eq!((held(&net, 2), held(&net, 3)), (0, 0));
}

#[test]
fn recovery_needs_the_authority_key_and_a_loss() {
    let (mut net, ip) = net(steady());
    assert_eq!(ask(&mut net, 2, false, true), Err(RecoverError::NoAuthority));
    assert_eq!(ask(&mut net, 1, false, true), Err(RecoverError::NothingLost));
    net.crash(3);
    let plan = ask(&mut net, 1, false, false).unwrap();
    assert!(plan.shards.is_empty() && !plan.done);
    net.crash(2);
    // Only told.
    let plan = ask(&mut net, 1, false, false).unwrap();
    assert_eq!((plan.shards.len(), plan.done), (usize::from(plan.of), false));
    let up = |shard: &crate::ShardPlan| shard.members.iter().filter(|(_, up)| *up).count();
    assert!(plan.shards.iter().all(|shard| (up(shard), shard.needed) == (1, 2)));
    assert_eq!(newest(&net, 1, ip).number, 0);
    recover(&mut net);
    // What waits is not recovered again.
    assert_eq!(ask(&mut net, 1, true, true), Err(RecoverError::NothingLost));
    assert_eq!(newest(&net, 1, ip).incarnation, 1);
}

#[test]
fn a_restart_of_the_process_or_the_machine_never_shortens_the_wait() {
    let (mut net, ip) = net(steady());
    granted_by_the_others(&mut net, ip);
    lose_majority(&mut net);
    let plan = recover(&mut net);
    net.freeze(secs(3600));
    net.run(secs(61), none);
    net.crash(1);
    net.start(1);
    net.run(secs(1), none);
    let left = |net: &mut Net| {
        let now = net.now(1);
        net.live(1).summary_at(now).recovering.unwrap().1
    };
    let first = left(&mut net);
    assert!(first > plan.wait - secs(3700) && first < plan.wait - secs(3500), "{first:?} of {:?}", plan.wait);
    // Nothing of the time that the machine was off, and all but the last minute before.
    net.run(secs(600), none);
    net.crash(1);
    net.freeze(FREE);
    net.reboot(1);
    net.run(secs(1), none);
    let second = left(&mut net);
    assert!(second > first - secs(605) && second < first - secs(535), "{second:?} after {first:?}");
    assert!(!net.live(1).membership().chain().newest_list().iter().any(|view| view.incarnation != 1));
    net.freeze(second);
    net.run(secs(10), none);
    assert!(b_gets(&mut net, ip));
}

#[test]
fn recovery_survives_a_restart() {
    let (mut net, ip) = net(steady());
    lose_majority(&mut net);
    recover(&mut net);
    let (config, view) = (net.live(1).membership().config().clone(), newest(&net, 1, ip));
    net.reboot(1);
    assert_eq!(*net.live(1).membership().config(), config);
    assert_eq!(newest(&net, 1, ip), view);
    let waiting = |net: &mut Net| {
        let now = net.now(1);
        net.live(1).summary_at(now).recovering.map(|(shards, _)| shards)
    };
    assert_eq!(waiting(&mut net), Some(usize::from(config.shards)));
    net.freeze(FREE);
    net.run(secs(1), none);
    assert_eq!(waiting(&mut net), None);
    // Once it serves, it does after a restart too.
    net.reboot(1);
    net.run(secs(1), none);
    assert_eq!(waiting(&mut net), None);
    assert!(b_gets(&mut net, ip));
}

/// The others come back after the recovery: they are members of nothing, and grant nothing.
#[test]
fn old_incarnation_loses() {
    let (mut net, ip) = net(steady());
    let lease = {
        let id = net.begin_claim(A, ip, "self", Keep::No);
        net.run(secs(10), |packet| packet.to == 1 || packet.from == 1);
        net.claimed(A, id).unwrap().unwrap()
    };
    lose_majority(&mut net);
    net.crash(A);
    let plan = recover(&mut net);
    net.freeze(plan.wait);
    net.run(secs(1), none);
    assert!(b_gets(&mut net, ip));
    // Whatever the ballots say, the incarnation comes first.
    let now = net.now(B);
    let new = net.live(B).lease(&crate::LeaseKey::Address(ip), now).unwrap();
    assert!(new.token > lease.token && new.token.incarnation == 1);
    net.start(2);
    net.start(3);
    net.run(secs(60), none);
    let chain = net.live(2).membership().chain().clone();
    assert!(chain.newest_list().iter().all(|view| view.incarnation == 1));
    assert!((0..chain.shard_count()).all(|shard| !net.nodes[&2].live.as_ref().unwrap().serves(shard, net.now(2))));
    // It verifies, as a fact of the past.
    let old = LeaseCert::from_bytes(&lease.certificate).unwrap();
    assert_eq!(old.verify(&net.world.ns, &net.world.config(), &chain), Ok(()));
    net.command(B, |_| Command::Supersede { certificate: lease.certificate.clone() });
    net.settle();
    assert_eq!(net.owners(ip), [B]);
}

/// A quorum that was recovered away signs a certificate afterwards, when nothing of its time can be in use any more.
#[test]
fn a_view_that_has_long_been_over_proves_nothing_new() {
    let broken = |rules| {
        let (mut net, ip) = net(rules);
        let id = net.begin_claim(A, ip, "self", Keep::No);
        net.run(secs(10), |packet| packet.to == 1 || packet.from == 1);
        let lease = net.claimed(A, id).unwrap().unwrap();
        lose_majority(&mut net);
        net.crash(A);
        let plan = recover(&mut net);
        let check = |net: &mut Net| {
            let (certificate, remaining) = (lease.certificate.clone(), secs(60));
            let wanted = net.command(B, |id| Command::CheckLease { id, from: peer(A), certificate, remaining });
            let events = &net.nodes[&B].events;
            let answer = events.iter().find_map(|event| match event {
                Event::LeaseChecked { id, outcome, .. } if *id == wanted => Some(outcome.clone()),
                _ => None,
            });
            answer.unwrap().map(drop)
        };
        net.freeze(plan.wait + secs(1));
        let answer = check(&mut net);
        assert!(answer.is_ok() || answer == Err(CertError::Lapsed), "{answer:?}");
        answer.is_ok()
    };
    guards_steady("a_view_that_has_long_been_over", broken, |rules| rules.old_views_are_no_news = false);
}

#[test]
fn recovery_voids_open_invites() {
    let broken = |rules| {
        let (mut net, _) = net(rules);
        let token = net.world.invite_as(1, Role::Member, D * 10, 99);
        lose_majority(&mut net);
        let plan = recover(&mut net);
        net.freeze(plan.wait);
        net.run(secs(1), none);
        let config = net.live(1).membership().config().clone();
        assert_eq!((config.version, config.checkpoints.len()), (2, usize::from(config.shards)));
        // Its register may be among what is lost, and with it how often it was used.
        token.invite().may_append(&config, 0).is_ok()
    };
    guards_steady("recovery_voids_open_invites", broken, |rules| rules.recovery_voids_invites = false);
}

/// A survivor's copy of an invite's register may lack whom the others admitted last: it must not turn them away.
#[test]
fn members_stay_members_after_a_recovery() {
    let (mut net, ip) = net(steady());
    // In the register that the three share, A's slot is somebody else's.
    let token = || net.world.invite_as(1, Role::Member, secs(3600), A);
    let request =
        RedeemRequest { invite: token().invite(), entry: Entry::new(&net.world.ns, &token().key(), &key(20)) };
    let now = net.now(1);
    let hello = Joiner::new(key(20), data(20), "lab", token(), &Image::new(), [20; 32], now).hello(peer(1), now);
    net.live(1).handle_hello(peer(20), &hello, now).unwrap();
    net.live(1).handle_message(peer(20), &Message::Redeem(request).to_bytes(), now);
    net.drain(1);
    net.run(secs(2), none);
    let refused = |net: &mut Net| {
        let id = net.begin_claim(A, ip, "self", Keep::No);
        net.run(secs(10), none);
        net.claimed(A, id).unwrap().is_err()
    };
    assert!(refused(&mut net));
    lose_majority(&mut net);
    let plan = recover(&mut net);
    net.freeze(plan.wait);
    net.run(secs(1), none);
    assert!(!refused(&mut net));
}

/// What the first founder has signed, taken off the wire.
fn news(net: &mut Net) -> (SignedConfig, Vec<Successor>) {
    let bytes = net.live(1).membership().signed_config().to_bytes();
    let views = net.live(1).membership().chain().successors().to_vec();
    (SignedConfig::from_bytes(&bytes).unwrap(), views)
}

#[test]
fn checkpoint_of_another_authority_is_refused() {
    let (mut net, ip) = net(steady());
    lose_majority(&mut net);
    let hears_nothing = |packet: &Packet| packet.to == B;
    net.command(1, |id| Command::Recover { id, all: false, confirmed: true });
    net.run(secs(10), hears_nothing);
    let (config, views) = news(&mut net);
    let deliver = |net: &mut Net, message| {
        net.deliver(&Packet { from: A, to: B, message });
        net.take(|_| true);
        newest(net, B, ip).incarnation
    };
    // Without the configuration the views prove nothing.
    let count = |net: &mut Net, reason| net.live(B).drops().get(&reason).copied().unwrap_or(0);
    assert_eq!(deliver(&mut net, Message::Moved { views: views.clone() }), 0);
    // The same words in the mouth of somebody else.
    let forged = SignedConfig::sign(&net.world.ns, config.config().clone(), 0, &World::twin().authority);
    let forged =
        if forged == config { SignedConfig::sign(&net.world.ns, config.config().clone(), 0, &key(2)) } else { forged };
    let bytes = [forged.to_bytes(), views.iter().flat_map(Wire::to_bytes).collect()].concat();
    let before = count(&mut net, DropReason::BadFetch);
    assert_eq!(deliver(&mut net, Message::Fetched { bytes }), 0);
    assert_eq!(count(&mut net, DropReason::BadFetch), before + 1);
    // Other members under the true checkpoint.
    let mut others = views.clone();
    for successor in &mut others {
        successor.view.members[0].store_id[0] ^= 1;
    }
    let bytes = [config.to_bytes(), others.iter().flat_map(Wire::to_bytes).collect()].concat();
    assert_eq!(deliver(&mut net, Message::Fetched { bytes }), 0);
    // Not even the votes of all old replicas replace the checkpoint.
    let mut voted = views.clone();
    for successor in &mut voted {
        let founded = net.live(1).membership().chain().get(successor.view.shard, 0, 0).unwrap();
        let vote = |(index, member)| {
            let founder = (1..=3).map(key).find(|key| key.public() == Member::clone(member).identity).unwrap();
            let body = Successor::body(&successor.view, successor.ballot, member);
            Vote { index, signature: sign(&founder, Label::ViewAccepted, &founded.ns, &body) }
        };
        successor.votes = (0u8..).zip(&founded.members).map(vote).collect();
    }
    assert_eq!(deliver(&mut net, Message::Moved { views: voted }), 0);
    let bytes = [config.to_bytes(), views.iter().flat_map(Wire::to_bytes).collect()].concat();
    assert_eq!(deliver(&mut net, Message::Fetched { bytes }), 1);
}

#[test]
fn who_was_not_there_learns_of_it_when_it_comes_back() {
    let (mut net, ip) = net(steady());
    lose_majority(&mut net);
    // B is there, and has no connection to the one that recovers.
    net.command(1, |id| Command::Recover { id, all: false, confirmed: true });
    net.run(secs(10), |packet| packet.from == 1 && packet.to == B);
    assert_eq!(newest(&net, B, ip).incarnation, 1);
    let (mut net, ip) = self::net(steady());
    net.crash(B);
    lose_majority(&mut net);
    recover(&mut net);
    assert_eq!(newest(&net, A, ip).incarnation, 1);
    // From somebody who did not recover it, either way round.
    net.crash(1);
    net.start(B);
    net.run(secs(5), none);
    assert_eq!(newest(&net, B, ip).incarnation, 1);
    net.start(2);
    net.run(secs(5), none);
    assert_eq!(newest(&net, 2, ip).incarnation, 1);
}

/// The lost majority had gone on where nobody heard of it.
#[test]
fn views_that_were_left_aside_stay_known_and_do_not_count() {
    let (mut net, ip) = net(steady());
    let members = vec![net.member(2), net.member(3), net.member(A)];
    net.propose(2, ip, members);
    net.run(secs(5), |packet| [1, B].contains(&packet.to) || [1, B].contains(&packet.from));
    let aside = newest(&net, 2, ip);
    assert_eq!((aside.incarnation, aside.number, newest(&net, 1, ip).number), (0, 1, 0));
    let lease = {
        let id = net.begin_claim(A, ip, "self", Keep::No);
        net.run(secs(5), |packet| [1, B].contains(&packet.to) || [1, B].contains(&packet.from));
        net.claimed(A, id).unwrap().unwrap()
    };
    for gone in [2, 3, A] {
        net.crash(gone);
    }
    recover(&mut net);
    let view = newest(&net, 1, ip);
    assert_eq!((view.incarnation, view.number), (1, 1));
    for back in [2, A] {
        net.start(back);
    }
    net.run(secs(60), none);
    for node in [1, 2, A, B] {
        assert_eq!(newest(&net, node, ip), view, "node {node}");
    }
    // A quorum of the view before is here, but knows nothing of what was granted in the one aside.
    assert_eq!(net.owners(ip), [A]);
    assert!(!b_gets(&mut net, ip));
    // Both lines survive a restart, and what was decided aside is proven to whoever heard of it.
    net.reboot(2);
    assert_eq!(newest(&net, 2, ip), view);
    let old = LeaseCert::from_bytes(&lease.certificate).unwrap();
    let chain = net.live(2).membership().chain().clone();
    assert_eq!(old.verify(&net.world.ns, &net.world.config(), &chain), Ok(()));
    assert_eq!(chain.get(aside.shard, 0, 1), Some(&aside));
}

#[test]
fn a_shard_that_was_recovered_can_be_lost_and_recovered_again() {
    let (mut net, ip) = net(steady());
    lose_majority(&mut net);
    let plan = recover(&mut net);
    net.freeze(plan.wait);
    net.run(secs(1), none);
    assert!(b_gets(&mut net, ip));
    let plan = ask(&mut net, 1, true, true).unwrap();
    assert_eq!(newest(&net, B, ip).incarnation, 2);
    let config = net.live(B).membership().config().clone();
    let floors: Vec<u64> = config.checkpoints.iter().map(|checkpoint| checkpoint.floor).collect();
    assert!(floors.chunks(2).all(|floors| floors == [0, 1]), "{floors:?}");
    assert_eq!((config.version, config.invite_epoch), (3, 2));
    net.reboot(1);
    net.freeze(plan.wait);
    net.run(secs(1), none);
    assert!(b_gets(&mut net, ip));
}

#[test]
fn an_incarnation_that_is_over_does_not_go_on_for_ever() {
    let (mut net, ip) = net(steady());
    lose_majority(&mut net);
    recover(&mut net);
    let mut chain = net.live(1).membership().chain().clone();
    let mut before = chain.get(newest(&net, 1, ip).shard, 0, 0).unwrap().clone();
    let mut grown = 0;
    let end = loop {
        let view = View { number: before.number + 1, previous: before.hash(), ..before.clone() };
        let ballot = crate::Ballot { view: before.number, round: 1, replica: 0 };
        let vote = |number: u8| {
            let index = before.index_of(&key(number).public()).unwrap();
            let body = Successor::body(&view, ballot, before.member(index).unwrap());
            Vote { index, signature: sign(&key(number), Label::ViewAccepted, &net.world.ns, &body) }
        };
        let mut votes = vec![vote(2), vote(3)];
        votes.sort_by_key(|vote| vote.index);
        match chain.extend(&Successor { view: view.clone(), ballot, votes }) {
            Ok(new) => grown += u32::from(new),
            Err(error) => break error,
        }
        before = view;
    };
    assert_eq!((end, grown), (ChainError::Over, 64));
    assert_eq!(chain.newest(before.shard).map(|view| view.incarnation), Some(1));
}

#[test]
fn a_recovered_view_and_its_checkpoint_have_exactly_these_bytes() {
    let (mut net, ip) = net(steady());
    lose_majority(&mut net);
    recover(&mut net);
    let view = newest(&net, 1, ip);
    let before = net.live(1).membership().chain().get(view.shard, 0, 0).unwrap().clone();
    let member = net.member(1);
    let [high, low] = view.shard.to_be_bytes();
    let bytes = [
        &net.world.ns.0[..],
        &[0, 0, 0, 1, high, low, 0, 0, 0, 0, 0, 0, 0, 1],
        // One member.
        &[0, 1],
        &member.identity.0,
        &member.store_id,
        &member.serial,
        &before.hash(),
        // No ballot and no votes.
        &[0; 17],
        &[0],
    ]
    .concat();
    let successor = Successor::recovered(view.clone());
    assert_eq!(successor.to_bytes(), bytes);
    assert_eq!(Successor::from_bytes(&bytes), Ok(successor));
    assert_eq!(Scope::of(&view).to_bytes(), [0, 0, 0, 0, 1, high, low, 0, 0, 0, 0, 0, 0, 0, 1]);
    let config = net.live(1).membership().config().clone();
    let checkpoint = config.checkpoints.iter().find(|checkpoint| checkpoint.shard == view.shard).unwrap();
    let bytes = [&[high, low, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1], &view.hash()[..], &[0; 8]].concat();
    assert_eq!(checkpoint.to_bytes(), bytes);
    assert_eq!(Checkpoint::from_bytes(&bytes), Ok(*checkpoint));
}
