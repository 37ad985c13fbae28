//! Views: growth and shrinking, wedge, transfer, activation, and what breaks without each rule of the change.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::net::{ASKING, D, Keep, Net, Packet, guards_steady, is_ops, none, secs, steady};
use crate::command::{Command, LeaseKey};
use crate::env::Rules;
use crate::event::{Event, Resolution};
use crate::membership::fixture::{key, peer};
use crate::message::{Message, ViewMessage};
use crate::view::Member;

const A: u8 = 10;
const B: u8 = 11;
const C: u8 = 12;
const E: u8 = 13;

/// The numbers of those who are in the newest view of the address's shard, as this node knows it.
fn members(net: &Net, node: u8, ip: Ipv4Addr) -> Vec<u8> {
    let (view, _) = net.view(node, ip);
    let all = net.nodes.keys();
    let mut found: Vec<u8> =
        all.filter(|n| view.iter().any(|member| member.identity == key(**n).public())).copied().collect();
    found.sort_unstable();
    found
}

fn numbers(net: &Net, node: u8, ip: Ipv4Addr) -> u64 {
    net.view(node, ip).1
}

#[test]
fn a_namespace_grows_to_three_within_a_minute_and_to_five() {
    let mut net = Net::new(1, &[A, B, C, E], Rules::ALL);
    let ip = net.ip(5);
    for gone in [C, E] {
        net.crash(gone);
    }
    net.claim(A, ip).unwrap();
    net.run(secs(55), none);
    assert_eq!(members(&net, 1, ip), [1]);
    net.run(secs(25), none);
    assert_eq!(members(&net, 1, ip), [1, A, B]);
    assert_eq!(members(&net, B, ip), [1, A, B]);
    // What was granted before is known to those who came.
    net.crash(1);
    assert!(matches!(net.claim(B, ip).unwrap_err(), crate::ClaimError::Taken { .. }));
    net.start(1);
    net.start(C);
    net.start(E);
    net.run(secs(90), none);
    assert_eq!(members(&net, 1, ip), [1, A, B, C, E]);
    assert!(
        net.nodes[&1]
            .events
            .iter()
            .any(|event| matches!(event, Event::Status { summary } if summary.home.members.len() == 5))
    );
}

#[test]
fn a_node_that_nobody_can_reach_becomes_no_replica() {
    let mut net = Net::new(1, &[A, B], Rules::ALL);
    let ip = net.ip(5);
    net.nodes.get_mut(&B).unwrap().public = false;
    net.reboot(B);
    net.run(secs(400), none);
    assert_eq!(members(&net, 1, ip), [1]);
}

/// What status pages show may be relied on: whoever sees the larger view there may switch the creator off.
#[test]
fn a_view_is_shown_once_a_quorum_serves_it() {
    let mut net = Net::new(1, &[A, B], Rules::ALL);
    let ip = net.ip(5);
    net.claim(A, ip).unwrap();
    // The view is decided, and nobody gets what the one before held.
    net.run(secs(90), is_snapshot);
    assert_eq!(members(&net, 1, ip), [1, A, B]);
    let shown = |net: &Net, node: u8| net.nodes[&node].live.as_ref().unwrap().summary_at(net.now(node)).rests[0].view;
    assert_eq!((shown(&net, 1), shown(&net, A)), (0, 0));
    net.run(secs(30), none);
    assert_eq!((shown(&net, 1), shown(&net, A)), (1, 1));
    net.crash(1);
    let id = net.begin_claim(B, net.ip(9), "self", Keep::No);
    net.run(secs(4), none);
    assert!(net.claimed(B, id).unwrap().is_ok());
}

/// … of all shards alike: what is switched off may be the only replica of any of them.
#[test]
fn the_weakest_shard_is_shown_whatever_the_one_at_home_bears() {
    let mut net = Net::new(1, &[A, B], steady());
    let ip = net.ip(5);
    net.begin_claim(A, ip, "self", Keep::Yes);
    net.settle();
    let shown = |net: &Net| {
        let summary = net.nodes[&A].live.as_ref().unwrap().summary_at(net.now(A));
        (summary.home.members.len(), summary.weakest.members.len(), summary.weakest.shard == summary.home.shard)
    };
    assert_eq!(shown(&net), (1, 1, true));
    propose(&mut net, 1, ip, &[1, A, B]);
    net.run(secs(5), none);
    assert_eq!(shown(&net), (3, 1, false));
}

/// What a lease's certificate rests on is the view that granted it. After a change others hold the register, and they vouch for it.
#[test]
fn a_lease_that_was_granted_before_a_change_is_found_after_it() {
    let mut net = Net::new(1, &[A, B, C], Rules::ALL);
    let ip = net.ip(5);
    let granted = net.claim(A, ip).unwrap();
    net.run(secs(90), none);
    assert_eq!(members(&net, 1, ip).len(), 3);
    let seen = |found: Resolution| match found {
        Resolution::Found { owner, token, certificate, .. } => (owner, token, certificate),
        other @ (Resolution::Absent | Resolution::Unknown) => panic!("{other:?}"),
    };
    let (owner, token, certificate) = seen(net.resolve(B, |id| Command::ResolveAddress { id, ip }));
    assert_eq!((owner, token), (peer(A), granted.token));
    // It convinces somebody else, as the owner's own does.
    for shown in [certificate, granted.certificate] {
        let checked =
            net.command(C, |id| Command::CheckLease { id, from: peer(A), certificate: shown, remaining: secs(60) });
        let outcome = net.nodes[&C].events.iter().find_map(|event| match event {
            Event::LeaseChecked { id, outcome, .. } if *id == checked => Some(outcome.clone()),
            _ => None,
        });
        assert_eq!(outcome.unwrap().map(|proven| (proven.ip, proven.token)), Ok((ip, token)));
    }
    let drops = net.live(B).drops().clone();
    assert_eq!(drops.get(&crate::env::DropReason::BadCertificate), None, "{drops:?}");
}

#[test]
fn a_node_that_would_rather_not_becomes_no_replica_and_is_replaced_where_it_is_one() {
    let mut net = Net::new(1, &[A, B, C], Rules::ALL);
    let ip = net.ip(5);
    let serve = |net: &mut Net, n: u8, hindrance| net.command(n, |_| Command::Serve { hindrance });
    let why = |net: &mut Net, n: u8| {
        let now = net.now(n);
        net.live(n).summary_at(now).hindrance
    };
    serve(&mut net, A, Some("it runs on battery"));
    net.run(secs(90), none);
    assert_eq!(members(&net, 1, ip), [1, B, C]);
    assert_eq!((why(&mut net, A), why(&mut net, B)), (Some("it runs on battery"), None));
    // Plugs change places.
    serve(&mut net, A, None);
    serve(&mut net, C, Some("it runs on battery"));
    net.run(secs(400), none);
    assert_eq!(members(&net, 1, ip), [1, B, C], "a laptop that is carried about moves the state now and then at most");
    net.run(secs(300), none);
    assert_eq!(members(&net, 1, ip), [1, A, B]);
    assert_eq!(why(&mut net, A), None);
}

#[test]
fn the_founder_may_die_once_there_are_three() {
    let mut net = Net::new(1, &[A, B, C], Rules::ALL);
    let ip = net.ip(5);
    net.run(secs(90), none);
    assert_eq!(members(&net, C, ip).len(), 3);
    net.crash(1);
    let id = net.begin_claim(C, ip, "self", Keep::Yes);
    net.run(secs(10), none);
    assert!(net.claimed(C, id).unwrap().is_ok());
    // And whoever is up takes its place.
    net.run(secs(420), none);
    let now = members(&net, A, ip);
    assert!(!now.contains(&1) && now.len() == 3, "{now:?}");
    assert_eq!(net.owners(ip), [C]);
}

#[test]
fn whoever_leaves_hands_its_place_over_first() {
    let mut net = Net::new(1, &[A], Rules::ALL);
    let ip = net.ip(5);
    net.claim(A, ip).unwrap();
    net.run(secs(70), none);
    assert_eq!(members(&net, 1, ip), [1]);
    let id = net.command(1, |id| Command::HandOver { id });
    net.run(secs(10), none);
    let over = |event: &Event| matches!(event, Event::HandedOver { id: of } if *of == id);
    assert!(net.nodes[&1].events.iter().any(over));
    net.crash(1);
    assert_eq!(members(&net, A, ip), [A]);
    assert_eq!(net.owners(ip), [A]);
    net.release(A, ip);
    net.settle();
    assert!(net.claim(A, ip).is_ok());
}

#[test]
fn a_lone_node_that_leaves_waits_for_nobody() {
    let mut net = Net::new(1, &[], Rules::ALL);
    let id = net.command(1, |id| Command::HandOver { id });
    let over = |event: &Event| matches!(event, Event::HandedOver { id: of } if *of == id);
    assert!(net.nodes[&1].events.iter().any(over));
}

/// One that lost its disk is another replica: its old place is given to it anew, with what the others hold.
#[test]
fn a_replica_that_lost_its_store_comes_back_as_another() {
    let mut net = Net::new(3, &[A], Rules::ALL);
    let ip = net.ip(5);
    net.nodes.get_mut(&A).unwrap().public = false;
    net.reboot(A);
    net.run(secs(70), none);
    net.claim(A, ip).unwrap();
    net.crash(2);
    net.lose_disk(2, [99; 16]);
    net.start(2);
    let before = numbers(&net, 1, ip);
    assert!(net.view(2, ip).0.iter().all(|member| member.store_id != [99; 16]));
    net.run(secs(120), none);
    assert!(numbers(&net, 1, ip) > before);
    assert!(net.view(1, ip).0.iter().any(|member| member.store_id == [99; 16]), "{:?}", members(&net, 1, ip));
    net.crash(1);
    assert!(net.claim(3, ip).is_err());
}

/// Thousands of changes of views fit into no message: who was away asks again and again, and nobody keeps count.
#[test]
fn whoever_was_away_for_many_changes_of_views_catches_up() {
    let mut net = Net::new(5, &[A], steady());
    net.crash(1);
    net.world.change_views(1000);
    let disk = net.world.founders[0].1.clone();
    net.nodes.get_mut(&1).unwrap().disk = disk;
    net.start(1);
    let heads = |net: &Net, n: u8| net.nodes[&n].live.as_ref().unwrap().membership().chain().heads();
    assert_ne!(heads(&net, A), heads(&net, 1));
    net.run(secs(70), none);
    for n in [2, 3, 4, 5] {
        assert_eq!(heads(&net, n), heads(&net, 1), "{n}");
    }
    // One who votes nowhere hears of it when it asks for something.
    let ip = net.ip(5);
    net.begin_claim(A, ip, "self", Keep::No);
    net.settle();
    assert_eq!(net.view(A, ip).1, net.view(1, ip).1);
}

/// Begins a change of the address's shard to these members, at one of the present ones.
fn propose(net: &mut Net, at: u8, ip: Ipv4Addr, to: &[u8]) {
    let to: Vec<Member> = to.iter().map(|n| net.member(*n)).collect();
    net.propose(at, ip, to);
}

fn is_view(packet: &Packet, wanted: impl Fn(&ViewMessage) -> bool) -> bool {
    matches!(&packet.message, Message::View(message) if wanted(message))
}

fn is_view_accept(packet: &Packet) -> bool {
    is_view(packet, |message| matches!(message, ViewMessage::Accept { .. }))
}

fn is_snapshot(packet: &Packet) -> bool {
    is_view(packet, |message| matches!(message, ViewMessage::Snapshot { .. }))
}

fn is_station(packet: &Packet) -> bool {
    is_view(packet, |message| matches!(message, ViewMessage::Station { .. }))
}

fn is_moved(packet: &Packet) -> bool {
    matches!(packet.message, Message::Moved { .. })
}

/// Nobody hears of the new view but the two that decide it; the old members go on.
#[test]
fn no_wedge() {
    let broken = |rules| {
        let mut net = Net::new(3, &[A, B, C], rules);
        let ip = net.ip(5);
        propose(&mut net, 1, ip, &[3, A, B]);
        // Member 2 hears of it only by its vote; owner C hears nothing at all.
        // And nobody is told that the new view is served, or the old members would drop what they hold.
        net.run(secs(3), |packet| {
            packet.to == C || packet.from == C || is_moved(packet) && packet.to == 2 || is_station(packet)
        });
        assert_eq!(members(&net, 3, ip), [3, A, B]);
        let begin = |net: &mut Net, owner| {
            net.begin_claim(owner, ip, "self", Keep::No);
            net.run(secs(8), |packet| {
                let told = is_moved(packet) && (packet.to == C || packet.to == 2);
                told || is_station(packet) || packet.to == 3 && packet.from == C || packet.from == 3 && packet.to == C
            });
        };
        // C asks the old members, A the new ones.
        begin(&mut net, C);
        begin(&mut net, A);
        net.owners(ip).len() > 1
    };
    guards_steady("no_wedge", broken, |rules| rules.wedge = false);
}

/// The newcomers outvote the one that knows.
#[test]
fn no_transfer() {
    let broken = |rules| {
        let mut net = Net::new(1, &[A, B, C], rules);
        net.run(ASKING, none);
        let ip = net.ip(5);
        net.claim(C, ip).unwrap();
        propose(&mut net, 1, ip, &[1, A, B]);
        net.run(secs(1), |packet| is_snapshot(packet) || packet.to == C);
        net.crash(1);
        net.begin_claim(B, ip, "self", Keep::No);
        net.run(secs(8), none);
        net.owners(ip).len() > 1
    };
    guards_steady("no_transfer", broken, |rules| rules.transfer = false);
}

/// {1} -> {1, A, B}: A and B, still empty, decide the next view; wedged, they serve as snapshots of nothing.
#[test]
fn transferring_has_no_vote() {
    let broken = |rules| {
        let mut net = Net::new(1, &[A, B, C], rules);
        net.run(ASKING, none);
        let ip = net.ip(5);
        net.claim(C, ip).unwrap();
        propose(&mut net, 1, ip, &[1, A, B]);
        net.run(secs(1), is_snapshot);
        net.crash(1);
        assert_eq!(members(&net, A, ip), [1, A, B]);
        propose(&mut net, A, ip, &[A, B, C]);
        net.run(secs(20), none);
        net.begin_claim(B, ip, "self", Keep::No);
        net.run(secs(8), none);
        net.owners(ip).len() > 1
    };
    guards_steady("transferring_has_no_vote", broken, |rules| rules.transferring_has_no_vote = false);
}

/// 1 accepted a view that nobody else saw; 2 and 3 decide another; 1 begins anew with its own.
#[test]
fn repropose_runs_phase_1() {
    let broken = |rules| {
        let mut net = Net::new(3, &[A, B], rules);
        let ip = net.ip(5);
        propose(&mut net, 1, ip, &[1, 2, A]);
        net.run(secs(1), |packet| is_view_accept(packet) && packet.to != 1);
        // It is wedged by its own vote. The other two go on without it, and 3 hears nothing of what they decide.
        propose(&mut net, 2, ip, &[2, 3, B]);
        net.run(secs(1), |packet| packet.to == 1 || packet.from == 1 || is_moved(packet) && packet.to == 3);
        assert_eq!(members(&net, 2, ip), [2, 3, B]);
        assert_eq!(members(&net, 3, ip), [1, 2, 3]);
        // Now 1 hears of 3 and 3 of 1, and of nobody else.
        net.run(secs(60), |packet| {
            let theirs = |message: &ViewMessage| match message {
                ViewMessage::AskStation { .. } => true,
                ViewMessage::Prepare { .. } | ViewMessage::Accept { .. } => packet.from == 3,
                _ => false,
            };
            !matches!((packet.from, packet.to), (1, 3) | (3, 1)) || is_view(packet, theirs)
        });
        let decided: BTreeSet<Vec<u8>> =
            [1, 2, 3].into_iter().filter(|n| numbers(&net, *n, ip) == 1).map(|n| members(&net, n, ip)).collect();
        decided.len() > 1
    };
    guards_steady("repropose_runs_phase_1", broken, |rules| rules.repropose_runs_phase_1 = false);
}

/// A round of the old view completes at a member whose registers were counted before it was wedged.
#[test]
fn precopy_is_not_snapshot() {
    let broken = |rules: Rules| {
        let mut net = Net::new(3, &[A, B, C], rules);
        let ip = net.ip(5);
        // The round of A's claim waits at its second phase.
        net.begin_claim(A, ip, "self", Keep::No);
        let mut accepts = Vec::new();
        while !net.wire.is_empty() {
            let packet = net.wire.remove(0);
            match packet.message {
                Message::Accept { .. } => accepts.push(packet),
                _ => net.deliver(&packet),
            }
        }
        // The coordinator votes for its own values at once; of two members its vote and one more decide.
        let coordinator = accepts[0].from;
        let other = *[1, 2, 3].iter().find(|n| **n != coordinator).unwrap();
        let third = *[1, 2, 3].iter().find(|n| **n != coordinator && **n != other).unwrap();
        // The third and the coordinator decide the next view; `other` hears of none of it, and is asked for its state.
        propose(&mut net, third, ip, &[third, B, C]);
        let lost = |packet: &Packet| {
            let decided = is_moved(packet) && (packet.to == other || packet.to == coordinator);
            let voted = is_view_accept(packet) && packet.to == other;
            decided || voted || is_snapshot(packet) && packet.from == coordinator
        };
        net.run(Duration::from_millis(500), lost);
        accepts.iter().filter(|packet| packet.to == other).for_each(|packet| net.deliver(packet));
        net.run(Duration::from_millis(200), lost);
        assert_eq!(net.owners(ip), [A]);
        net.run(secs(6), |packet| packet.to == other && is_moved(packet));
        net.begin_claim(B, ip, "self", Keep::No);
        net.run(secs(8), |packet| packet.to == other && is_moved(packet));
        net.owners(ip).len() > 1
    };
    guards_steady("precopy_is_not_snapshot", broken, |rules| rules.snapshot_after_wedge = false);
}

/// {1, 2, 3} -> {2, 3, A}: 2 and 3 serve, the old state is dropped, and A has nothing yet.
#[test]
fn late_member_activates() {
    let broken = |rules| {
        let mut net = Net::new(3, &[A, C], rules);
        let ip = net.ip(5);
        net.claim(C, ip).unwrap();
        propose(&mut net, 2, ip, &[2, 3, A]);
        net.run(secs(40), |packet| packet.to == A && is_snapshot(packet));
        // Long enough for the old state to be gone.
        net.run(secs(60), none);
        net.crash(3);
        net.begin_claim(A, net.ip(6), "self", Keep::No);
        net.run(secs(20), none);
        net.owners(net.ip(6)) != [A]
    };
    guards_steady("late_member_activates", broken, |rules| rules.copy_from_active = false);
}

/// The old view's members would for ever name the old owner.
#[test]
fn stale_view_read() {
    let broken = |rules| {
        let mut net = Net::new(3, &[A, B, C], rules);
        let ip = net.ip(5);
        net.claim(A, ip).unwrap();
        let lost = |packet: &Packet| packet.to == C || is_station(packet);
        propose(&mut net, 1, ip, &[3, A, B]);
        net.run(secs(3), lost);
        net.release(A, ip);
        net.run(secs(3), lost);
        net.begin_claim(B, ip, "self", Keep::No);
        net.run(secs(3), lost);
        assert_eq!(net.owners(ip), [B]);
        // C knows the old view only, and hears of no other.
        let id = net.command(C, |id| Command::ResolveAddress { id, ip });
        net.run(secs(5), |packet| packet.to == C && is_moved(packet));
        matches!(net.resolved(C, id), Some(Resolution::Found { owner, .. }) if owner == peer(A))
    };
    guards_steady("stale_view_read", broken, |rules| rules.active_reads = false);
}

/// Two that would have different members end up with one view.
#[test]
fn view_duel_ends() {
    let mut net = Net::new(3, &[A, B], steady());
    let ip = net.ip(5);
    for round in 0..20 {
        if numbers(&net, 1, ip) + numbers(&net, 3, ip) == 0 {
            propose(&mut net, 1, ip, &[1, 2, A]);
            propose(&mut net, 3, ip, &[1, 3, B]);
        }
        net.run(secs(1), |packet| round < 15 && is_view_accept(packet) && packet.from != packet.to);
    }
    net.run(secs(600), none);
    assert!([1, 2, 3].iter().all(|n| numbers(&net, *n, ip) == 1 && members(&net, *n, ip) == members(&net, 1, ip)));
    net.begin_claim(A, ip, "self", Keep::No);
    net.run(secs(10), none);
    assert_eq!(net.owners(ip), [A]);
}

/// Wedged by a vote of which nothing came, and away for a day: the member is told what was decided meanwhile.
#[test]
fn wedged_minority_catches_up() {
    let mut net = Net::new(3, &[A, B], steady());
    let ip = net.ip(5);
    propose(&mut net, 1, ip, &[1, 2, A]);
    net.run(secs(1), |packet| is_view_accept(packet) && packet.to != 1);
    propose(&mut net, 2, ip, &[1, 2, 3, A, B]);
    net.run(secs(86_400), |packet| packet.to == 1 || packet.from == 1);
    assert_eq!((numbers(&net, 1, ip), numbers(&net, 2, ip)), (0, 1));
    net.run(secs(200), none);
    assert_eq!(members(&net, 1, ip), [1, 2, 3, A, B]);
    net.crash(2);
    net.crash(3);
    net.begin_claim(B, ip, "self", Keep::No);
    net.run(secs(10), none);
    assert_eq!(net.owners(ip), [B]);
}

/// A wedged view whose proposer died is brought to its end by whoever accepted it.
#[test]
fn anybody_wedged_completes_the_change() {
    let mut net = Net::new(3, &[A, B], steady());
    let ip = net.ip(5);
    propose(&mut net, 1, ip, &[1, 2, A]);
    net.run(secs(1), |packet| packet.to == 1 && is_view(packet, |m| matches!(m, ViewMessage::Accepted { .. })));
    net.crash(1);
    assert_eq!(numbers(&net, 2, ip), 0);
    net.run(secs(20), none);
    assert_eq!(members(&net, 3, ip), [1, 2, A]);
    net.begin_claim(B, ip, "self", Keep::No);
    net.run(secs(10), none);
    assert_eq!(net.owners(ip), [B]);
}

/// A copy of a view that is still served is no snapshot of one that is over, however late it comes.
#[test]
fn a_copy_is_not_taken_for_a_snapshot() {
    let mut net = Net::new(1, &[A, B, C, E], steady());
    let ip = net.ip(5);
    propose(&mut net, 1, ip, &[1, A, B]);
    // B gets no snapshot of the first view and asks for copies; the answers wait.
    let mut copies = Vec::new();
    for _ in 0..10 {
        net.run(secs(1), |packet| {
            packet.to == B
                && is_view(packet, |m| matches!(m, ViewMessage::Snapshot { scope, into, .. } if scope != into))
        });
        copies.extend(net.take(|packet| packet.to == B && is_snapshot(packet)));
        if net.wire.is_empty() && !copies.is_empty() {
            break;
        }
    }
    net.claim(C, ip).unwrap();
    propose(&mut net, 1, ip, &[1, A, B, C, E]);
    net.run(secs(2), |packet| packet.to == B && is_snapshot(packet));
    copies.iter().for_each(|packet| net.deliver(packet));
    net.run(secs(30), none);
    net.crash(1);
    net.crash(A);
    net.begin_claim(E, ip, "self", Keep::No);
    net.run(secs(10), none);
    assert_eq!(net.owners(ip), [C]);
}

/// A replica whose disk was set back asks the others before it votes.
#[test]
fn restored_replica_asks_first() {
    let broken = |rules| {
        let mut net = Net::new(3, &[A, B], rules);
        let ip = net.ip(5);
        // The store votes on something, so that it knows itself to be one that has voted.
        net.claim(B, net.ip(9)).unwrap();
        let old = net.nodes[&2].disk.clone();
        // A's lease rests on 1 and 2.
        net.begin_claim(A, ip, "self", Keep::No);
        net.run(secs(3), |packet| packet.to == 3 || packet.from == 3);
        assert_eq!(net.owners(ip), [A]);
        set_back_and_alone(&mut net, old, 1);
        net.begin_claim(B, ip, "self", Keep::No);
        net.run(secs(8), none);
        net.owners(ip).len() > 1
    };
    guards_steady("restored_replica_asks_first", broken, |rules| rules.restored_asks_first = false);
}

/// The same if the copy is older than all votes: the store cannot know that it has voted.
#[test]
fn a_store_without_votes_asks_as_well() {
    let broken = |rules| {
        let mut net = Net::new(3, &[A, B], rules);
        let ip = net.ip(5);
        let old = net.nodes[&2].disk.clone();
        net.begin_claim(A, ip, "self", Keep::No);
        net.run(secs(3), |packet| packet.to == 3 || packet.from == 3);
        assert_eq!(net.owners(ip), [A]);
        set_back_and_alone(&mut net, old, 1);
        net.begin_claim(B, ip, "self", Keep::No);
        net.run(secs(8), none);
        net.owners(ip).len() > 1
    };
    guards_steady("a_store_without_votes_asks_as_well", broken, |rules| rules.fresh_store_asks = false);
}

/// The votes that a coordinator gave itself count as well: those whom it asked for theirs have been told.
#[test]
fn a_coordinators_own_votes_are_told() {
    let broken = |rules| {
        let mut net = Net::new(3, &[A, B], rules);
        let ip = net.ip(5);
        let old = net.nodes[&2].disk.clone();
        // A's lease rests on 2, which ran the round, and 3.
        net.begin_claim(A, ip, "self", Keep::No);
        for mut ops in net.take(is_ops) {
            ops.to = 2;
            net.deliver(&ops);
        }
        net.run(secs(1), |packet| packet.to == 1 || packet.from == 1);
        assert_eq!(net.owners(ip), [A]);
        set_back_and_alone(&mut net, old, 3);
        net.begin_claim(B, ip, "self", Keep::No);
        net.run(secs(8), none);
        net.owners(ip).len() > 1
    };
    guards_steady("a_coordinators_own_votes_are_told", broken, |rules| rules.own_votes_told = false);
}

/// 2 comes back with an old disk, has time to ask, and then whoever shares a lease with it goes away.
fn set_back_and_alone(net: &mut Net, old: crate::namespace::Image, gone: u8) {
    net.crash(2);
    net.nodes.get_mut(&2).unwrap().disk = old;
    net.start(2);
    net.run(secs(1), none);
    net.crash(gone);
    net.run(secs(10), none);
}

/// A gathered promise serves one operation: used twice, one ballot would carry two values.
#[test]
fn promise_serves_one_operation() {
    let broken = |rules: Rules| {
        let mut net = Net::new(3, &[A, B], Rules { fast_path: true, ..rules });
        let ip = net.ip(5);
        net.claim(A, ip).unwrap();
        net.release(A, ip);
        net.settle();
        // A's next claim is accepted under the promised ballot by a quorum; B's comes to the same coordinator.
        net.begin_claim(A, ip, "self", Keep::No);
        let ops = net.take(is_ops);
        let coordinator = ops[0].to;
        net.deliver(&ops[0]);
        let held: Vec<Packet> = net.take(|packet| matches!(packet.message, Message::Accept { .. }));
        net.begin_claim(B, ip, "self", Keep::No);
        let mut second = net.take(is_ops);
        second[0].to = coordinator;
        // The first round is overdue at the coordinator before its votes are there.
        net.freeze(secs(3));
        net.tick(coordinator);
        net.deliver(&second[0]);
        let first_to = held[0].to;
        held.iter().filter(|packet| packet.to == first_to).for_each(|packet| net.deliver(packet));
        net.settle();
        net.owners(ip).len() > 1
    };
    let mut rules = steady();
    assert!(!broken(rules));
    (rules.promise_serves_once, rules.one_value_per_ballot) = (false, false);
    let _ = broken(rules);
}

/// Another coordinator changed the register meanwhile: the one that holds an old promise must not say *lost*.
#[test]
fn false_lost() {
    let broken = |rules| {
        let mut net = Net::new(3, &[A, B], rules);
        let ip = net.ip(5);
        // B had it and gave it back through one coordinator, which keeps the promise for what comes next.
        net.claim(B, ip).unwrap();
        net.release(B, ip);
        let ops = net.take(is_ops);
        let first = ops[0].to;
        net.deliver(&ops[0]);
        net.settle();
        // A gets it through another.
        let other = if first == 1 { 2 } else { 1 };
        net.begin_claim(A, ip, "self", Keep::No);
        for mut packet in net.take(is_ops) {
            packet.to = other;
            net.deliver(&packet);
        }
        net.run(secs(1), |packet| packet.to == A && packet.from != other);
        assert_eq!(net.owners(ip), [A]);
        // Its renewal goes to the first.
        let now = net.now(A);
        net.live(A).force(&LeaseKey::Address(ip), (crate::record::OpKind::Renew, 86_400_000), now);
        net.drain(A);
        for mut packet in net.take(is_ops) {
            packet.to = first;
            net.deliver(&packet);
        }
        net.settle();
        net.owners(ip) != [A]
    };
    guards_steady("false_lost", broken, |rules| rules.fast_path_never_refuses = false);
}

/// The second operation on a key through one coordinator takes two round trips less one.
#[test]
fn a_renewal_through_the_same_coordinator_needs_no_phase_1() {
    let mut net = Net::new(3, &[A], steady());
    let ip = net.ip(5);
    net.begin_claim(A, ip, "self", Keep::Yes);
    net.run(secs(1), none);
    let prepares = std::cell::Cell::new(0);
    net.run(D / 2, |packet| {
        prepares.set(prepares.get() + usize::from(matches!(packet.message, Message::Prepare { .. })));
        false
    });
    assert_eq!(net.owners(ip), [A]);
    assert!(net.nodes[&A].events.iter().any(|event| matches!(event, Event::LeaseChanged { .. })));
    assert_eq!(prepares.get(), 0);
}

/// A member that missed votes gets what it lacks by ordinary rounds.
#[test]
fn a_member_that_lags_behind_is_brought_up_to_date() {
    let mut net = Net::new(3, &[A], steady());
    let ip = net.ip(5);
    let claim = |net: &mut Net| net.begin_claim(A, ip, "self", Keep::No);
    claim(&mut net);
    let coordinator = net.wire.iter().find(|packet| is_ops(packet)).unwrap().to;
    let late = if coordinator == 3 { 2 } else { 3 };
    net.run(secs(2), |packet| packet.to == late && !matches!(packet.message, Message::View(_)));
    assert!(net.peek(late, LeaseKey::Address(ip)).is_none());
    net.run(secs(300), none);
    assert!(net.peek(late, LeaseKey::Address(ip)).is_some());
    assert_eq!(net.owners(ip), [A]);
}

/// Two members that hold the same send each other nothing but a digest now and then.
#[test]
fn replicas_that_agree_are_quiet() {
    let mut net = Net::new(3, &[], steady());
    net.run(secs(120), none);
    let before = net.delivered;
    net.run(secs(600), none);
    // Sixteen shards, three members, one digest each in ten minutes, and an hourly attempt to be dialled back.
    assert!(net.delivered - before <= 16 * 3 * 2, "{}", net.delivered - before);
}

/// Whoever has been away for many views finds the present ones through a hint that it cannot check.
#[test]
fn a_shard_whose_replicas_are_gone_is_found_again() {
    let mut net = Net::new(1, &[A, B, C], steady());
    let ip = net.ip(5);
    net.crash(C);
    for (at, to) in [(1, vec![A]), (A, vec![B])] {
        propose(&mut net, at, ip, &to);
        net.run(secs(3), none);
    }
    net.crash(1);
    net.crash(A);
    net.start(C);
    assert_eq!(numbers(&net, C, ip), 0);
    net.begin_claim(C, ip, "self", Keep::Yes);
    net.run(secs(10), |packet| packet.to == C && packet.from == B);
    let key = net.sought.last().expect("the shard is sought").clone();
    let value = net.hints[&key].clone();
    let now = net.now(C);
    net.live(C).handle_hint(&key, &value, now);
    net.drain(C);
    net.run(secs(60), none);
    assert_eq!(net.owners(ip), [C]);
    assert_eq!(numbers(&net, C, ip), 2);
}

/// What a view forgets when it changes: tombstones that nobody can need any more, and no others.
#[test]
fn old_tombstones_end_with_their_view() {
    let mut net = Net::new(1, &[A], steady());
    let (old, young) = (net.ip(5), net.ip(6));
    net.claim(A, old).unwrap();
    net.release(A, old);
    net.settle();
    net.run(D * 2 + secs(7200), none);
    net.claim(A, young).unwrap();
    net.release(A, young);
    net.settle();
    propose(&mut net, 1, old, &[A]);
    net.run(secs(3), none);
    assert_eq!(members(&net, A, old), [A]);
    assert!(net.peek(A, LeaseKey::Address(old)).is_none());
    assert!(net.peek(A, LeaseKey::Address(young)).is_some());
}
