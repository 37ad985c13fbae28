//! Slots of invites: whoever joins gets one slot, once, whatever is lost, doubled or crashes.

use std::time::Duration;

use super::net::{Net, Packet, guards, none, secs};
use crate::codec::Wire;
use crate::command::Role;
use crate::env::Rules;
use crate::join::Joiner;
use crate::membership::fixture::{data, key, peer};
use crate::message::{AcceptItem, Message};
use crate::namespace::Image;
use crate::record::{RegisterKey, Slots, Value};
use crate::redeem::{Entry, RedeemOutcome, RedeemRequest, Redeemed};
use crate::token::Token;

/// Identities without membership, who ask the founders for slots.
const JOINERS: [u8; 3] = [20, 21, 22];

struct Door {
    net: Net,
    token: Token,
}

impl Door {
    fn new(founders: u8, uses: u16, rules: Rules) -> Self {
        let net = Net::new(founders, &[], rules);
        let token = net.world.invite_as(uses, Role::Member, secs(3600), 99);
        Self { net, token }
    }

    fn request(&self, joiner: u8) -> RedeemRequest {
        let entry = Entry::new(&self.net.world.ns, &self.token.key(), &key(joiner));
        RedeemRequest { invite: self.token.invite(), entry }
    }

    /// Sends the request to a founder, which hears it as from a peer that it admitted to the door.
    fn knock(&mut self, joiner: u8, founder: u8) {
        let message = Message::Redeem(self.request(joiner));
        self.let_in(joiner, founder);
        let now = self.net.now(founder);
        self.net.live(founder).handle_message(peer(joiner), &message.to_bytes(), now);
        self.net.drain(founder);
    }

    fn let_in(&mut self, joiner: u8, founder: u8) {
        let now = self.net.now(founder);
        let token = Token::parse(&self.token.to_text()).unwrap();
        let mut newcomer = Joiner::new(key(joiner), data(joiner), "lab", token, &Image::new(), [joiner; 32], now);
        let hello = newcomer.hello(peer(founder), now);
        self.net.live(founder).handle_hello(peer(joiner), &hello, now).unwrap();
        self.net.drain(founder);
    }

    /// What the joiners were told since the last time.
    fn answers(&mut self) -> Vec<(u8, RedeemOutcome)> {
        let outcome = |packet: Packet| match packet.message {
            Message::Redeemed(answer) => Some((packet.to, answer.outcome)),
            _ => None,
        };
        std::mem::take(&mut self.net.outside).into_iter().filter_map(outcome).collect()
    }

    /// Delivers everything between founders, with some time for second tries.
    fn settle(&mut self) -> Vec<(u8, RedeemOutcome)> {
        self.settle_but(none)
    }

    fn settle_but(&mut self, lost: impl Fn(&Packet) -> bool) -> Vec<(u8, RedeemOutcome)> {
        self.net.run(Duration::from_millis(1500), lost);
        self.answers()
    }

    fn holds(&self, outcome: &RedeemOutcome, joiner: u8) -> bool {
        let founder = self.net.world.founder();
        let (ns, invite) = (&self.net.world.ns, self.token.invite());
        match outcome {
            RedeemOutcome::Admitted(proof) => proof.verify(ns, &invite, &key(joiner).public(), founder.chain()).is_ok(),
            RedeemOutcome::Spent(proof) => proof.verify(ns, &invite, founder.config(), founder.chain()).is_ok(),
            RedeemOutcome::Refused(_) | RedeemOutcome::Retry => true,
        }
    }

    fn admitted(&self, answers: &[(u8, RedeemOutcome)]) -> Vec<(u8, u16)> {
        let mut admitted: Vec<(u8, u16)> = answers
            .iter()
            .filter(|(joiner, outcome)| self.holds(outcome, *joiner))
            .filter_map(|(joiner, outcome)| match outcome {
                RedeemOutcome::Admitted(proof) => Some((*joiner, proof.slot)),
                RedeemOutcome::Spent(_) | RedeemOutcome::Refused(_) | RedeemOutcome::Retry => None,
            })
            .collect();
        admitted.sort_unstable();
        admitted.dedup();
        admitted
    }

    fn key(&self) -> RegisterKey {
        RegisterKey::Redeem(self.token.invite().invite)
    }
}

/// A small generator, so that a schedule is a number.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n
    }
}

/// Joiners knock at random founders again and again; messages are lost, doubled and overtake each other; founders crash.
fn scramble(founders: u8, seed: u64, rules: Rules) -> (Door, Vec<(u8, RedeemOutcome)>) {
    let mut door = Door::new(founders, 1, rules);
    let mut dice = Dice(seed);
    let mut answers = Vec::new();
    for _ in 0..60 {
        match dice.below(12) {
            0..3 => {
                let founder = u8::try_from(1 + dice.below(usize::from(founders))).unwrap();
                door.knock(JOINERS[dice.below(3)], founder);
            }
            3 => {
                let founder = u8::try_from(1 + dice.below(usize::from(founders))).unwrap();
                door.net.crash(founder);
                door.net.start(founder);
            }
            4 => {
                door.net.freeze(Duration::from_millis(100));
                (1..=founders).for_each(|founder| door.net.tick(founder));
            }
            roll if !door.net.wire.is_empty() => {
                let place = dice.below(door.net.wire.len());
                let packet = door.net.wire[place].clone();
                if roll != 5 {
                    door.net.wire.remove(place);
                }
                if roll != 6 {
                    door.net.deliver(&packet);
                }
            }
            _ => {}
        }
        answers.extend(door.answers());
    }
    (door, answers)
}

#[test]
fn one_use_one_member() {
    for founders in [1, 3] {
        for seed in 0..4 {
            let (mut door, mut answers) = scramble(founders, seed, Rules::ALL);
            // In the end everybody asks again in peace.
            answers.extend(door.settle());
            for joiner in JOINERS {
                door.knock(joiner, 1);
                answers.extend(door.settle());
            }
            let admitted = door.admitted(&answers);
            assert_eq!(admitted.len(), 1, "founders {founders}, seed {seed}: {admitted:?}");
            assert!(answers.iter().all(|(joiner, outcome)| door.holds(outcome, *joiner)));
        }
    }
}

#[test]
fn two_coordinators_cannot_both_give_the_last_slot() {
    let broken = |rules| {
        let mut door = Door::new(3, 1, rules);
        // Both gather promises before either writes.
        door.knock(20, 1);
        let first: Vec<Packet> = door.net.take(|_| true);
        first.iter().for_each(|packet| door.net.deliver(packet));
        let promises: Vec<Packet> = door.net.take(|packet| packet.to == 1);
        // The first accepts of this one wait.
        promises.iter().for_each(|packet| door.net.deliver(packet));
        let accepts = door.net.take(|packet| matches!(packet.message, Message::Accept { .. }));
        // A coordinator that was away hears nothing of them, and comes with a higher round.
        door.knock(21, 2);
        let mut answers = door.settle_but(|packet| packet.to == 1);
        accepts.iter().for_each(|packet| door.net.deliver(packet));
        answers.extend(door.settle());
        door.admitted(&answers).len() > 1
    };
    guards("promises_kept", broken, |rules| rules.promises_kept = false);
}

#[test]
fn redeem_replay_same_slot() {
    let broken = |rules| {
        let mut door = Door::new(1, 2, rules);
        door.knock(20, 1);
        door.knock(20, 1);
        door.knock(21, 1);
        let mut answers = door.settle();
        door.net.crash(1);
        door.net.start(1);
        door.knock(20, 1);
        answers.extend(door.settle());
        let same = |outcome: &RedeemOutcome| matches!(outcome, RedeemOutcome::Admitted(proof) if proof.slot == 0);
        let of_first: Vec<_> = answers.iter().filter(|(joiner, _)| *joiner == 20).collect();
        of_first.len() != 3 || !of_first.iter().all(|(_, outcome)| same(outcome))
    };
    guards("redeem_replay_same_slot", broken, |rules| (rules.slot_found_again, rules.spent_cached) = (false, false));
}

#[test]
fn spent_costs_no_round() {
    let broken = |rules| {
        let mut door = Door::new(1, 1, rules);
        door.knock(20, 1);
        door.settle();
        let before = door.net.nodes[&1].persisted;
        for _ in 0..10 {
            door.knock(21, 1);
            door.knock(20, 1);
        }
        let answers = door.settle();
        assert_eq!(door.admitted(&answers), [(20, 0)]);
        door.net.nodes[&1].persisted > before
    };
    guards("spent_costs_no_round", broken, |rules| rules.spent_cached = false);
}

/// Only founder 1 holds joiner 20's append, and has forgotten that it proposed it.
fn unchosen(rules: Rules) -> Door {
    let mut door = Door::new(3, 1, rules);
    door.knock(20, 1);
    while !door.net.wire.is_empty() {
        door.net.take(|packet| matches!(packet.message, Message::Accept { .. }));
        if !door.net.wire.is_empty() {
            let packet = door.net.wire.remove(0);
            door.net.deliver(&packet);
        }
    }
    door.net.crash(1);
    door.net.start(1);
    door
}

#[test]
fn unchosen_append_strands_nobody() {
    let broken = |rules| {
        let mut door = unchosen(rules);
        // A coordinator that sees the append says that all is spent...
        door.knock(21, 1);
        let mut answers = door.settle();
        door.knock(20, 2);
        door.knock(21, 2);
        answers.extend(door.settle());
        // ...and must be able to prove it.
        !answers.iter().all(|(joiner, outcome)| door.holds(outcome, *joiner)) || door.admitted(&answers).len() != 1
    };
    guards("unchosen_append_strands_nobody", broken, |rules| rules.spent_is_settled = false);
}

#[test]
fn an_append_that_nobody_else_saw_gives_way() {
    let mut door = unchosen(Rules::ALL);
    door.net.crash(1);
    door.knock(21, 2);
    let mut answers = door.settle();
    door.net.start(1);
    door.knock(20, 1);
    answers.extend(door.settle());
    door.knock(20, 2);
    answers.extend(door.settle());
    assert_eq!(door.admitted(&answers), [(21, 0)]);
    assert!(answers.iter().any(|(joiner, outcome)| *joiner == 20 && matches!(outcome, RedeemOutcome::Spent(_))));
}

#[test]
fn acceptor_checks_redeem() {
    let broken = |rules| {
        let mut door = Door::new(3, 1, rules);
        // Founder 1 writes somebody into the slot who was never invited.
        let mut entry = door.request(20).entry;
        entry.identity = key(66).public();
        let value = Value::Slots(Slots { invite: door.token.invite(), redeemed: Redeemed { entries: vec![entry] } });
        let founder = door.net.world.founder();
        let shard = door.key().shard(&door.net.world.ns, founder.config());
        let view = founder.chain().newest(shard).unwrap();
        let replica = view.index_of(&key(1).public()).unwrap();
        let scope = crate::record::Scope::of(view);
        let ballot = crate::Ballot { view: 0, round: 5, replica };
        let items = vec![AcceptItem { value, elapsed_ms: 0 }];
        let message = Message::Accept { scope, votes: 0, ballot, next_round: 0, items };
        door.net.deliver(&Packet { from: 1, to: 2, message });
        let now = door.net.now(2);
        let key = door.key();
        door.net.live(2).peek(&key, now).is_some()
    };
    guards("acceptor_checks_redeem", broken, |rules| rules.acceptor_checks = false);
}

#[test]
fn expired_unchosen_append_does_not_block() {
    let broken = |rules| {
        let mut door = unchosen(rules);
        door.net.wall = 10 * 86_400;
        door.knock(21, 1);
        let mut answers = door.settle();
        for _ in 0..3 {
            door.knock(20, 1);
            answers.extend(door.settle());
        }
        door.admitted(&answers) != [(20, 0)]
    };
    guards("expired_unchosen_append_does_not_block", broken, |rules| rules.dates_at_append_only = false);
}

#[test]
fn an_expired_invite_gives_no_new_slot() {
    let mut door = Door::new(1, 1, Rules::ALL);
    door.net.wall = 10 * 86_400;
    door.knock(20, 1);
    assert!(matches!(door.settle()[..], [(20, RedeemOutcome::Refused(_))]));
    assert!(door.net.wire.is_empty());
    door.net.run(secs(1), none);
}

#[test]
fn a_joiner_may_only_redeem() {
    let mut door = Door::new(1, 1, Rules::ALL);
    door.let_in(20, 1);
    let now = door.net.now(1);
    let message = Message::Signal { bytes: vec![1] };
    door.net.live(1).handle_message(peer(20), &message.to_bytes(), now);
    door.net.live(1).handle_message(peer(21), &message.to_bytes(), now);
    let drops = door.net.live(1).drops().clone();
    assert_eq!(drops.get(&crate::DropReason::JoinerMayNot), Some(&1));
    assert_eq!(drops.get(&crate::DropReason::NotAdmitted), Some(&1));
    // Nor may it redeem for another.
    let other = Message::Redeem(door.request(21));
    door.net.live(1).handle_message(peer(20), &other.to_bytes(), now);
    door.net.drain(1);
    assert!(matches!(door.answers()[..], [(20, RedeemOutcome::Refused(_))]));
}
