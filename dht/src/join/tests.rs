use super::*;
use crate::ballot::Ballot;
use crate::event::Output;
use crate::invite::Role;
use crate::membership::fixture::{Newcomer, TODAY, World, at, data, key, now, peer};
use crate::sign::{self, Label};
use crate::token::{Contact, ContactAddress};
use crate::view::{Successor, View, Vote};

fn second(since: u64) -> Now {
    at(TODAY, Duration::from_secs(since))
}

fn fresh(token: Token, number: u8) -> Joiner {
    Joiner::new(key(number), data(number), "lab", token, &Image::new(), [number; 32], now())
}

fn dials(joiner: &mut Joiner) -> Vec<PeerId> {
    std::iter::from_fn(|| joiner.poll_output())
        .filter_map(|output| match output {
            Output::Dial { peer, .. } => Some(peer),
            Output::Persist(_)
            | Output::Send { .. }
            | Output::Admit { .. }
            | Output::Refuse { .. }
            | Output::Publish { .. }
            | Output::Seek { .. }
            | Output::DialBack { .. }
            | Output::Event(_) => None,
        })
        .collect()
}

fn failure(joiner: &mut Joiner) -> Option<JoinError> {
    std::iter::from_fn(|| joiner.poll_event()).find_map(|event| match event {
        JoinerEvent::Failed(error) => Some(error),
        JoinerEvent::Progress(_) | JoinerEvent::Joined { .. } => None,
    })
}

#[test]
fn the_token_is_persisted_before_anybody_is_dialled() {
    let world = World::new();
    let mut joiner = fresh(world.invite(1), 9);
    assert!(matches!(joiner.poll_output(), Some(Output::Persist(_))));
    assert!(matches!(joiner.poll_output(), Some(Output::Dial { peer: to, .. }) if to == peer(1)));
}

#[test]
fn the_namespace_is_persisted_before_the_invite_is_redeemed() {
    let world = World::new();
    let mut joiner = fresh(world.invite(1), 9);
    dials(&mut joiner);
    let hello = joiner.hello(peer(1), now());
    let response = world.founder().handle_hello(peer(9), &hello, now()).unwrap();
    joiner.handle_hello_response(peer(1), &response, now()).unwrap();
    let outputs: Vec<Output> = std::iter::from_fn(|| joiner.poll_output()).collect();
    assert!(matches!(outputs[..], [Output::Persist(_), Output::Admit { .. }, Output::Send { .. }]), "{outputs:?}");
}

#[test]
fn a_silent_contact_is_asked_again_with_longer_and_longer_pauses() {
    let world = World::new();
    let mut joiner = fresh(world.invite(1), 9);
    let mut clock = now();
    let mut pauses = Vec::new();
    for _ in 0..8 {
        assert_eq!(dials(&mut joiner), [peer(1)]);
        joiner.handle_gone(peer(1), clock);
        let (until, _) = joiner.poll_timeout().unwrap();
        pauses.push((until - clock.mono).as_millis());
        clock.mono = until;
        joiner.handle_timeout(clock);
    }
    assert_eq!(pauses, [300, 600, 1200, 2400, 4800, 5000, 5000, 5000]);
    assert_eq!(failure(&mut joiner), None, "not for as long as the invite is good");
}

#[test]
fn a_timer_that_fires_early_late_or_twice_changes_nothing() {
    let world = World::new();
    let mut joiner = fresh(world.invite(1), 9);
    dials(&mut joiner);
    joiner.handle_timeout(second(9));
    joiner.handle_timeout(second(9));
    assert_eq!(dials(&mut joiner), []);
    joiner.handle_timeout(second(600));
    joiner.handle_timeout(second(600));
    assert_eq!(dials(&mut joiner), []);
    joiner.handle_timeout(second(1200));
    assert_eq!(dials(&mut joiner), [peer(1)]);
}

#[test]
fn a_lost_answer_brings_the_same_bytes_again() {
    let world = World::new();
    let mut joiner = fresh(world.invite(1), 9);
    dials(&mut joiner);
    let hello = joiner.hello(peer(1), now());
    let response = world.founder().handle_hello(peer(9), &hello, now()).unwrap();
    joiner.handle_hello_response(peer(1), &response, now()).unwrap();
    let mut sent = Vec::new();
    let mut clock = now();
    for _ in 0..3 {
        while let Some(output) = joiner.poll_output() {
            if let Output::Send { message, .. } = output {
                sent.push(message);
            }
        }
        clock.mono = joiner.poll_timeout().unwrap().0;
        joiner.handle_timeout(clock);
    }
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().all(|message| *message == sent[0]));
}

#[test]
fn a_connected_contact_that_does_not_answer_is_asked_anew_from_the_hello_on() {
    let world = World::new();
    let mut joiner = fresh(world.invite(1), 9);
    dials(&mut joiner);
    let hello = joiner.hello(peer(1), now());
    let response = world.founder().handle_hello(peer(9), &hello, now()).unwrap();
    joiner.handle_hello_response(peer(1), &response, now()).unwrap();
    while joiner.poll_output().is_some() {}
    let mut clock = second(16);
    joiner.handle_timeout(clock);
    assert!(matches!(joiner.poll_output(), Some(Output::Refuse { peer: to, .. }) if to == peer(1)));
    joiner.handle_gone(peer(1), clock);
    clock.mono = joiner.poll_timeout().unwrap().0;
    joiner.handle_timeout(clock);
    assert_eq!(dials(&mut joiner), [peer(1)]);
}

/// Views change between the hello and the answer to the redemption, and what was learnt with the hello is out of date.
#[test]
fn a_proof_by_a_view_that_came_after_the_hello_is_believed_after_another_hello() {
    let mut world = World::with_founders("lab", 5, TODAY);
    let mut newcomer = Newcomer::new(world.invite(1), 9);
    let joiner = &mut newcomer.joiner;
    assert_eq!(dials(joiner), [peer(1)]);
    let hello = joiner.hello(peer(1), now());
    let response = world.founder().handle_hello(peer(9), &hello, now()).unwrap();
    joiner.handle_hello_response(peer(1), &response, now()).unwrap();
    world.change_views(20);
    newcomer.run(&mut world, now());
    assert!(newcomer.end.is_none(), "{:?}", newcomer.end);
    let (until, _) = newcomer.joiner.poll_timeout().unwrap();
    assert!(until < now().mono + Duration::from_secs(1), "soon");
    let later = Now { mono: until, ..now() };
    newcomer.joiner.handle_timeout(later);
    newcomer.run(&mut world, later);
    assert!(matches!(newcomer.end, Some(JoinerEvent::Joined { .. })), "{:?}", newcomer.end);
}

#[test]
fn a_contact_that_closes_without_a_word_each_time_is_an_answer() {
    let world = World::new();
    let mut joiner = fresh(world.invite(1), 9);
    let mut clock = now();
    for _ in 0..4 {
        dials(&mut joiner);
        joiner.hello(peer(1), clock);
        joiner.handle_gone(peer(1), clock);
        clock.mono += Duration::from_secs(6);
        joiner.handle_timeout(clock);
    }
    assert_eq!(failure(&mut joiner), Some(JoinError::Refused));
}

#[test]
fn an_invite_for_a_namespace_of_another_name_fails_by_name() {
    let mut world = World::with_founders("office", 1, TODAY);
    let newcomer = world.join(world.invite(1), 9);
    let wanted = JoinError::Name { wanted: "lab".to_owned(), actual: "office".to_owned() };
    assert!(matches!(&newcomer.end, Some(JoinerEvent::Failed(error)) if *error == wanted));
}

#[test]
fn the_identifier_is_accepted_as_the_name() {
    let mut world = World::with_founders("office", 1, TODAY);
    let token = world.invite(1);
    let named = token.ns.to_string();
    let mut newcomer = Newcomer::new(Token::parse(&token.to_text()).unwrap(), 9);
    newcomer.joiner = Joiner::new(key(9), data(9), &named, token, &Image::new(), [9; 32], now());
    newcomer.run(&mut world, now());
    assert!(matches!(&newcomer.end, Some(JoinerEvent::Joined { name, .. }) if name == "office"), "{:?}", newcomer.end);
}

#[test]
fn an_expired_invite_fails_after_everybody_was_asked() {
    let mut world = World::new();
    let token = world.invite_as(1, Role::Member, Duration::from_secs(60), 0);
    let mut newcomer = Newcomer::new(token, 9);
    newcomer.run(&mut world, at(TODAY + 3600, Duration::ZERO));
    assert!(matches!(newcomer.end, Some(JoinerEvent::Failed(JoinError::Expired))), "{:?}", newcomer.end);
}

#[test]
fn whoever_has_a_slot_gets_its_proof_after_the_invite_expired() {
    let mut world = World::new();
    let text = world.invite_as(1, Role::Member, Duration::from_secs(60), 0).to_text();
    world.join(Token::parse(&text).unwrap(), 9);
    let mut late = Newcomer::new(Token::parse(&text).unwrap(), 9);
    late.run(&mut world, at(TODAY + 3600, Duration::ZERO));
    assert!(matches!(late.end, Some(JoinerEvent::Joined { .. })), "{:?}", late.end);
}

#[test]
fn a_forged_invite_gets_no_answer_and_fails() {
    let mut world = World::new();
    let config = world.config();
    let views = world.founder().chain().views_hash();
    // Signed by somebody whose key stands where the authority's should.
    let mut forger = World::new();
    forger.authority = key(66);
    let mut forged_config = config;
    forged_config.authority = vec![key(66).public()];
    let token = forger.invite_with(&forged_config, views, 1, Role::Member, Duration::from_secs(60), 0);
    let mut newcomer = Newcomer::new(token, 9);
    for step in 0..5 {
        newcomer.run(&mut world, second(step * 10));
        newcomer.joiner.handle_timeout(second(step * 10 + 6));
    }
    newcomer.run(&mut world, second(60));
    assert!(matches!(newcomer.end, Some(JoinerEvent::Failed(JoinError::Refused))), "{:?}", newcomer.end);
}

/// View 1 of every shard, decided by the founder.
fn successors(world: &World) -> Vec<Successor> {
    let chain = world.founder().chain().clone();
    (0..chain.shard_count())
        .map(|shard| {
            let before = chain.newest(shard).unwrap();
            let view = View { number: 1, previous: before.hash(), ..before.clone() };
            let ballot = Ballot { view: 0, round: 1, replica: 0 };
            let body = Successor::body(&view, ballot, &before.members[0]);
            let vote = Vote { index: 0, signature: sign::sign(&key(1), Label::ViewAccepted, &world.ns, &body) };
            Successor { view, ballot, votes: vec![vote] }
        })
        .collect()
}

#[test]
fn contact_serves_old_view() {
    let mut world = World::new();
    let mut founder = world.founder();
    for successor in successors(&world) {
        assert_eq!(founder.observe_view(&successor), Ok(true));
    }
    let views = founder.chain().views_hash();
    let token = || world.invite_with(founder.config(), views, 1, Role::Member, Duration::from_secs(86_400), 0);
    // A contact that knows the views that the token pins.
    let mut joiner = fresh(token(), 9);
    dials(&mut joiner);
    let hello = joiner.hello(peer(1), now());
    let mut honest = world.founder();
    for successor in successors(&world) {
        honest.observe_view(&successor).unwrap();
    }
    let response = honest.handle_hello(peer(9), &hello, now()).unwrap();
    assert_eq!(joiner.handle_hello_response(peer(1), &response, now()), Ok(()));
    // And one that shows the founding only.
    let newcomer_token = token();
    let newcomer = world.join(newcomer_token, 9);
    assert!(matches!(newcomer.end, Some(JoinerEvent::Failed(JoinError::Stale))), "{:?}", newcomer.end);
}

/// Three hundred changes of views of five members are some 230 KiB.
#[test]
fn a_joiner_that_knows_the_founding_catches_up_page_by_page() {
    let mut world = World::with_founders("lab", 5, TODAY);
    world.change_views(300);
    let newcomer = world.join(world.invite(1), 9);
    assert!(matches!(newcomer.end, Some(JoinerEvent::Joined { .. })), "{:?}", newcomer.end);
    assert!(newcomer.longest <= MAX_HELLO && newcomer.longest > MAX_HELLO / 2, "{}", newcomer.longest);
    let hellos = newcomer.sent.iter().filter(|sent| Request::from_bytes(sent).is_ok()).count();
    assert!((5..12).contains(&hellos), "{hellos}");
    let member = newcomer.membership(now());
    assert_eq!(member.chain().heads(), world.founder().chain().heads());
}

#[test]
fn pages_that_were_learnt_count_at_the_next_contact() {
    let mut world = World::with_founders("lab", 5, TODAY);
    world.change_views(100);
    let mut token = world.invite(1);
    let second = Contact { identity: key(2).public(), addresses: token.contacts[0].addresses.clone() };
    token.contacts.push(second);
    let mut joiner = fresh(token, 9);
    assert_eq!(dials(&mut joiner), [peer(1)]);
    let hello = joiner.hello(peer(1), now());
    let response = world.founder().handle_hello(peer(9), &hello, now()).unwrap();
    assert_eq!(joiner.handle_hello_response(peer(1), &response, now()), Err(Refusal::UnknownView));
    let learnt = joiner.learnt.as_ref().unwrap().1.successors().len();
    // The connection ends and the same contact is asked for more, but it is gone.
    joiner.handle_gone(peer(1), now());
    assert_eq!(dials(&mut joiner), [peer(1)]);
    joiner.handle_gone(peer(1), now());
    assert_eq!(dials(&mut joiner), [peer(2)]);
    let hello = Request::from_bytes(&joiner.hello(peer(2), now())).unwrap();
    assert_eq!(hello.known.iter().map(|scope| scope.view).sum::<u64>(), learnt as u64);
    // A page that brings nothing new is the last, whatever its size.
    assert!(learnt > 30);
    let genesis = joiner.learnt.as_ref().unwrap().0.clone();
    let same: Vec<Successor> = joiner.learnt.as_ref().unwrap().1.successors()[..learnt].to_vec();
    assert!(page::is_full(&same) && joiner.learn((&genesis, genesis.first.config()), &same).unwrap().is_some());
}

#[test]
fn an_old_configuration_is_no_answer() {
    let mut world = World::new();
    let mut config = world.config();
    config.version = 5;
    let views = world.founder().chain().views_hash();
    let token = world.invite_with(&config, views, 1, Role::Member, Duration::from_secs(86_400), 0);
    let newcomer = world.join(token, 9);
    assert!(matches!(newcomer.end, Some(JoinerEvent::Failed(JoinError::Stale))), "{:?}", newcomer.end);
}

#[test]
fn every_flipped_bit_of_a_contacts_answer_is_noticed() {
    let world = World::with_founders("lab", 1, TODAY);
    let mut founder = world.founder();
    let text = world.invite(1).to_text();
    let mut joiner = fresh(Token::parse(&text).unwrap(), 9);
    dials(&mut joiner);
    let hello = joiner.hello(peer(1), now());
    let response = founder.handle_hello(peer(9), &hello, now()).unwrap();
    let nonce = joiner.pending[&peer(1)];
    while joiner.poll_output().is_some() {}
    let instance_and_heads = 17..41;
    for place in (0..response.len()).filter(|place| !instance_and_heads.contains(place)) {
        let mut changed = response.clone();
        changed[place] ^= 1 << (place % 8);
        joiner.pending.insert(peer(1), nonce);
        joiner.phase = Phase::Hello { peer: peer(1), until: now().mono };
        assert!(joiner.handle_hello_response(peer(1), &changed, now()).is_err(), "byte {place}");
        assert!(!matches!(joiner.poll_output(), Some(Output::Persist(_))), "byte {place} is stored");
    }
    joiner.pending.insert(peer(1), nonce);
    joiner.phase = Phase::Hello { peer: peer(1), until: now().mono };
    assert_eq!(joiner.handle_hello_response(peer(1), &response, now()), Ok(()));
}

#[test]
fn a_contact_that_is_no_replica_names_one() {
    let mut world = World::new();
    let mut member = world.member(world.invite(1), 8);
    member.set_replica_contact(Contact {
        identity: key(1).public(),
        addresses: vec![ContactAddress::Socket("192.0.2.7:4001".parse().unwrap())],
    });
    let mut token = world.invite_as(1, Role::Member, Duration::from_secs(600), 7);
    token.contacts[0].identity = key(8).public();
    let mut joiner = fresh(token, 9);
    assert_eq!(dials(&mut joiner), [peer(8)]);
    let hello = joiner.hello(peer(8), now());
    let response = member.handle_hello(peer(9), &hello, now()).unwrap();
    joiner.handle_hello_response(peer(8), &response, now()).unwrap();
    let outputs: Vec<Output> = std::iter::from_fn(|| joiner.poll_output()).collect();
    let dial = Output::Dial { peer: peer(1), addrs: vec!["192.0.2.7:4001".parse().unwrap()] };
    assert_eq!(outputs.last(), Some(&dial));
}

#[test]
fn a_store_of_another_namespace_is_an_error() {
    let mut world = World::new();
    let disk = world.join(world.invite(1), 9).disk;
    let twin = World::twin();
    let mut joiner = Joiner::new(key(9), data(9), "lab", twin.invite(1), &disk, [0; 32], now());
    assert_eq!(failure(&mut joiner), Some(JoinError::Store(LoadError::OtherKey("namespace"))));
    assert_eq!(dials(&mut joiner), []);
}
