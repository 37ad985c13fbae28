use std::time::Duration;

use super::fixture::{self, Newcomer, TODAY, World, apply, at, drain, greet, key, now, peer};
use super::*;
use crate::config::Checkpoint;
use crate::invite::Role;
use crate::join::{JoinError, JoinerEvent};
use crate::message::Message;
use crate::redeem::{Entry, RedeemAnswer, RedeemOutcome, Redeemed};
use crate::token::Token;
use crate::view::Vote;

const DAY: Duration = Duration::from_secs(86_400);

/// A hello request in which one field is changed and the tag is right for `from`.
fn forged(world: &World, from: u8, change: impl FnOnce(&mut Request), request: &[u8]) -> Vec<u8> {
    let mut request = Request::from_bytes(request).unwrap();
    change(&mut request);
    request.tag = hello::request_tag(&world.ns, &request.nonce, &peer(from), &peer(1));
    request.to_bytes()
}

fn credential_of(request: &mut Request) -> &mut Credential {
    match &mut request.claim {
        Claim::Member(credential) => credential,
        Claim::Joiner(..) => unreachable!(),
    }
}

#[test]
fn a_founder_and_whoever_joined_admit_each_other() {
    let mut world = World::new();
    let mut member = world.member(world.invite(1), 9);
    let mut founder = world.founder();
    assert_eq!(greet(&mut member, &mut founder, now()), Ok(()));
    assert_eq!((member.level(&peer(1)), founder.level(&peer(9))), (Some(Level::Member), Some(Level::Member)));
    assert_eq!(founder.keys_of(&peer(9)), member.keys_of(&peer(9)));
    let outputs = drain(&mut founder);
    assert!(matches!(
        outputs[..],
        [Output::Persist(_), Output::Admit { level: Level::Member, .. }, Output::Event(Event::PeerKeys { .. })]
    ));
}

#[test]
fn a_credential_with_one_vote_has_581_bytes() {
    let mut world = World::new();
    let member = world.member(world.invite(1), 9);
    assert_eq!(member.credential().to_bytes().len(), 581);
    let mut world = World::with_founders("lab", 3, TODAY);
    let member = world.member(world.invite(1), 9);
    assert_eq!(member.credential().to_bytes().len(), 581 + 2 * 65);
}

#[test]
fn a_joiner_is_let_in_no_further_than_to_redeem() {
    let world = World::new();
    let mut founder = world.founder();
    let mut newcomer = Newcomer::new(world.invite(1), 9);
    let request = newcomer.joiner.hello(peer(1), now());
    founder.handle_hello(peer(9), &request, now()).unwrap();
    assert_eq!(founder.level(&peer(9)), Some(Level::Joiner));
    assert_eq!((founder.keys_of(&peer(9)), founder.rights(&peer(9))), (None, None));
}

#[test]
fn a_joiner_becomes_a_member_on_the_same_connection() {
    let mut world = World::new();
    let mut founder = world.founder();
    let mut newcomer = Newcomer::new(world.invite(1), 9);
    let request = newcomer.joiner.hello(peer(1), now());
    founder.handle_hello(peer(9), &request, now()).unwrap();
    let mut member = world.member(world.invite(1), 9);
    greet(&mut member, &mut founder, now()).unwrap();
    assert_eq!(founder.level(&peer(9)), Some(Level::Member));
}

#[test]
fn spent_names_winner() {
    let mut world = World::new();
    let text = world.invite(1).to_text();
    world.join(Token::parse(&text).unwrap(), 9);
    let loser = world.join(Token::parse(&text).unwrap(), 10);
    let Some(JoinerEvent::Failed(JoinError::Spent { winners })) = &loser.end else { panic!("{:?}", loser.end) };
    assert_eq!(winners, &[peer(9)]);
    assert!(JoinError::Spent { winners: winners.clone() }.to_string().contains(&peer(9).to_string()));
}

#[test]
fn redeem_replay_same_slot() {
    let mut world = World::new();
    let text = world.invite(2).to_text();
    let first = world.join(Token::parse(&text).unwrap(), 9);
    let second = world.join(Token::parse(&text).unwrap(), 10);
    let again = world.join(Token::parse(&text).unwrap(), 9);
    assert_eq!(first.sent[1], again.sent[1], "the same bytes, whatever was lost");
    let slot = |newcomer: &Newcomer| newcomer.membership(now()).credential().proof.slot;
    assert_eq!((slot(&first), slot(&second), slot(&again)), (0, 1, 0));
}

#[test]
fn a_crash_at_any_write_goes_on_with_the_same_bytes() {
    let mut world = World::new();
    let mut newcomer = Newcomer::new(world.invite(1), 9);
    // The token is on disk before anything is sent.
    let Some(Output::Persist(writes)) = newcomer.joiner.poll_output() else { panic!("first the token") };
    let mut disk = Image::new();
    apply(&mut disk, &writes);
    let first = world.join(world.invite(1), 9);
    let joiner = crate::join::Joiner::resume(key(9), fixture::data(9), "lab", &disk, [3; 32], now()).unwrap();
    let mut again = Newcomer { joiner, disk, ..Newcomer::new(world.invite(1), 9) };
    again.run(&mut world, now());
    assert_eq!(first.sent[1], again.sent[1]);
    assert!(matches!(stage(&again.disk).unwrap(), Stage::Joined(ns) if ns == world.ns));
}

#[test]
fn the_token_is_erased_with_the_write_that_admits() {
    let mut world = World::new();
    let token = world.invite(1);
    let text = token.to_text().as_bytes().to_vec();
    let newcomer = world.join(token, 9);
    assert!(matches!(newcomer.end, Some(JoinerEvent::Joined { .. })));
    assert!(!newcomer.disk.values().any(|value| *value == text));
}

#[test]
fn a_spent_without_proof_is_not_believed() {
    let mut world = World::new();
    let mut newcomer = Newcomer::new(world.invite(1), 9);
    newcomer.joiner.poll_output();
    newcomer.joiner.poll_output();
    let mut founder = world.founder();
    let hello = newcomer.joiner.hello(peer(1), now());
    let response = founder.handle_hello(peer(9), &hello, now()).unwrap();
    newcomer.joiner.handle_hello_response(peer(1), &response, now()).unwrap();
    // The value was proposed, never chosen: its votes are of another ballot.
    let token = world.invite(1);
    let cell = Redeemed { entries: vec![Entry::new(&world.ns, &token.key(), &key(10))] };
    let mut proof = world.spent(&token.invite(), &cell);
    proof.ballot.round += 1;
    let spent = RedeemAnswer { invite: token.invite().invite, outcome: RedeemOutcome::Spent(proof) };
    newcomer.joiner.handle_message(peer(1), &Message::Redeemed(spent).to_bytes(), now());
    newcomer.run(&mut world, now());
    assert!(matches!(newcomer.end, Some(JoinerEvent::Joined { .. })), "{:?}", newcomer.end);
}

#[test]
fn a_proof_of_somebody_elses_slot_admits_nobody() {
    let mut world = World::new();
    let text = world.invite(2).to_text();
    let member = world.member(Token::parse(&text).unwrap(), 9);
    let mut founder = world.founder();
    let mut stolen = member.credential().clone();
    let token = Token::parse(&text).unwrap();
    stolen.entry = Entry::new(&world.ns, &token.key(), &key(10));
    let thief = Credential::new(
        &world.ns,
        &key(10),
        stolen.invite,
        stolen.entry,
        stolen.proof.clone(),
        DataKey { seq: 1, x25519: [3; 32], until: 0 },
    );
    assert_eq!(thief.verify(&world.ns, founder.config(), founder.chain()), Err(CredentialError::Votes));
    let request = greeting(&world, 10, &thief);
    assert_eq!(founder.handle_hello(peer(10), &request, now()), Err(Refusal::Forged));
    assert_eq!(founder.refused_credentials()[&CredentialError::Votes], 1);
}

fn greeting(world: &World, from: u8, credential: &Credential) -> Vec<u8> {
    let nonce = [5; 16];
    Request {
        tag: hello::request_tag(&world.ns, &nonce, &peer(from), &peer(1)),
        nonce,
        instance: [0; 8],
        heads: Heads { era: 0, version: 1, list: 0 },
        claim: Claim::Member(Box::new(credential.clone())),
        known: Vec::new(),
        views: Vec::new(),
    }
    .to_bytes()
}

/// Whoever was away knows the founding only, and meets somebody whom a much later view admitted.
#[test]
fn a_member_that_was_away_catches_up_hello_by_hello() {
    let mut world = World::new();
    let mut stale = world.member(world.invite(1), 8);
    world.change_views(4000);
    let mut late = world.member(world.invite_as(1, Role::Member, DAY, 1), 9);
    let rests_on = late.credential().proof.view;
    let mut hellos = 0;
    while greet(&mut stale, &mut late, now()).is_err() {
        hellos += 1;
        assert!(hellos < 10, "{:?}", stale.chain().heads());
    }
    assert!(rests_on > 200 && hellos > 0, "{rests_on} {hellos}");
    assert_eq!(late.level(&peer(8)), Some(Level::Member));
    // What a dialler sends along unasked is a page, too, and the newest one.
    let request = Request::from_bytes(&late.hello(peer(8), now())).unwrap();
    assert_eq!(request.views.last().unwrap().view.number, rests_on);
    assert!(request.to_bytes().len() <= MAX_HELLO);
}

#[test]
fn a_pinned_list_is_found_among_so_many_and_no_more() {
    let mut world = World::new();
    let mut lists = vec![world.founder().chain().newest_list()];
    for _ in 0..3 {
        world.change_views(1);
        lists.push(world.founder().chain().newest_list());
    }
    let find = |world: &World, list: &[crate::view::ViewRef]| {
        world.founder().chain().list_with_hash(&crate::view::ViewRef::list_hash(list))
    };
    for list in &lists {
        assert_eq!(find(&world, list).as_ref(), Some(list));
    }
    world.change_views(1022);
    assert_eq!(find(&world, &lists[0]), None);
    assert_eq!(find(&world, &lists[1]).as_ref(), Some(&lists[1]));
    assert_eq!(find(&world, &world.founder().chain().newest_list()), Some(world.founder().chain().newest_list()));
}

#[test]
fn roles_only_from_invite() {
    let mut world = World::new();
    let mut member = world.member(world.invite(1), 9);
    let request = member.hello(peer(1), now());
    let mut founder = world.founder();
    for change in [
        (|body| body.roles = Role::Router.roles()) as fn(&mut crate::invite::InviteBody),
        |body| body.quota = 4096,
        |body| body.member_until = u64::MAX,
        |body| body.not_after = u64::MAX,
        |body| body.uses = 64,
        |body| body.nonce[0] ^= 1,
    ] {
        let request = forged(&world, 9, |request| change(&mut credential_of(request).invite.body), &request);
        assert_eq!(founder.handle_hello(peer(9), &request, now()), Err(Refusal::Forged));
    }
    assert_eq!(founder.refused_credentials()[&CredentialError::Invite], 6);
    greet(&mut member, &mut founder, now()).unwrap();
    assert!(!founder.rights(&peer(9)).unwrap().roles.contains(Roles::ROUTER));
    let mut router = world.member(world.invite_as(1, Role::Router, DAY, 1), 10);
    greet(&mut router, &mut founder, now()).unwrap();
    let rights = founder.rights(&peer(10)).unwrap();
    assert!(rights.roles.contains(Roles::ROUTER) && rights.hosts == 256);
}

#[test]
fn every_flipped_byte_of_a_hello_and_every_cut_is_refused() {
    let mut world = World::new();
    let mut member = world.member(world.invite(1), 9);
    let mut founder = world.founder();
    let request = member.hello(peer(1), now());
    let instance_and_heads = 33..57;
    for place in (0..request.len()).filter(|place| !instance_and_heads.contains(place)) {
        let mut changed = request.clone();
        changed[place] ^= 1;
        // A right tag, so that what is behind it is looked at.
        if let Ok(mut parsed) = Request::from_bytes(&changed)
            && place > 57
        {
            parsed.tag = hello::request_tag(&world.ns, &parsed.nonce, &peer(9), &peer(1));
            changed = parsed.to_bytes();
        }
        let refused = founder.handle_hello(peer(9), &changed, now());
        assert!(refused.is_err(), "byte {place} of {} counts for nothing", request.len());
    }
    for cut in 0..request.len() {
        assert_eq!(founder.handle_hello(peer(9), &request[..cut], now()), Err(Refusal::Malformed));
    }
    let trailing_byte = [&request[..], &[0]].concat();
    assert_eq!(founder.handle_hello(peer(9), &trailing_byte, now()), Err(Refusal::Malformed));
    assert_eq!((founder.level(&peer(9)), founder.poll_output()), (None, None));
    assert!(founder.handle_hello(peer(9), &request, now()).is_ok());
}

#[test]
fn foreign_credential() {
    let mut world = World::new();
    let mut member = world.member(world.invite(1), 9);
    let mut founder = world.founder();
    let request = member.hello(peer(1), now());
    // Over a channel that proved somebody else, as it was and with a tag for that channel.
    assert_eq!(founder.handle_hello(peer(10), &request, now()), Err(Refusal::OtherNamespace));
    let request = forged(&world, 10, |_| (), &request);
    assert_eq!(founder.handle_hello(peer(10), &request, now()), Err(Refusal::ForeignCredential));
    assert_eq!(founder.refused_credentials()[&CredentialError::Foreign], 1);
}

#[test]
fn cred_update_other_identity() {
    let mut world = World::new();
    let mut member = world.member(world.invite_as(1, Role::Member, DAY, 1), 9);
    let other = world.member(world.invite_as(1, Role::Member, DAY, 2), 10);
    let mut founder = world.founder();
    greet(&mut member, &mut founder, now()).unwrap();
    let request = greeting(&world, 9, other.credential());
    assert_eq!(founder.handle_hello(peer(9), &request, now()), Err(Refusal::ForeignCredential));
    assert_eq!(founder.keys_of(&peer(9)), member.keys_of(&peer(9)));
}

#[test]
fn nothing_of_a_twin_namespace_counts() {
    let mut world = World::new();
    let mut twin = World::twin();
    assert_eq!(world.config().name, twin.config().name);
    let mut member = world.member(world.invite(1), 9);
    let mut founder = twin.founder();
    // The whole hello, then the credential under a tag of the twin.
    let request = member.hello(peer(1), now());
    assert_eq!(founder.handle_hello(peer(9), &request, now()), Err(Refusal::OtherNamespace));
    let request = greeting(&twin, 9, member.credential());
    assert_eq!(founder.handle_hello(peer(9), &request, now()), Err(Refusal::Forged));
    // An invite, and whoever asks for a slot of it.
    let token = world.invite(1);
    let redeem = RedeemRequest { invite: token.invite(), entry: Entry::new(&world.ns, &token.key(), &key(10)) };
    assert!(redeem.verify(&world.ns, &world.config()).is_ok());
    assert!(redeem.verify(&twin.ns, &twin.config()).is_err());
    let entry_only = RedeemRequest { invite: twin.invite(1).invite(), entry: redeem.entry };
    assert!(entry_only.verify(&twin.ns, &twin.config()).is_err());
    // Configuration and founding.
    let ours = world.founder();
    assert!(ours.stored.config.verify(&twin.ns).is_err());
    assert!(ours.stored.genesis.verify(&twin.ns).is_err());
    assert!(founder.observe_config(ours.stored.config.clone()).is_err());
    // An answer to a hello.
    let mut other = twin.member(twin.invite(1), 9);
    other.hello(peer(1), now());
    let request = member.hello(peer(1), now());
    let response = world.founder().handle_hello(peer(9), &request, now()).unwrap();
    assert_eq!(other.handle_hello_response(peer(1), &response, now()), Err(Refusal::OtherNamespace));
}

#[test]
fn an_answer_counts_once_and_for_its_own_question_only() {
    let mut world = World::new();
    let mut member = world.member(world.invite(1), 9);
    let mut founder = world.founder();
    let request = member.hello(peer(1), now());
    let response = founder.handle_hello(peer(9), &request, now()).unwrap();
    let mut restarted = world.join(world.invite(1), 9).membership(at(TODAY, Duration::from_secs(1)));
    assert_eq!(restarted.handle_hello_response(peer(1), &response, now()), Err(Refusal::NotAdmitted));
    member.hello(peer(1), now());
    assert_eq!(member.handle_hello_response(peer(1), &response, now()), Err(Refusal::OtherNamespace));
}

#[test]
fn old_datakey() {
    let mut world = World::new();
    let member = world.member(world.invite(1), 9);
    let old = member.credential().clone();
    let next = DataKey { seq: 2, x25519: [8; 32], until: TODAY + 86_400 };
    let new = Credential::new(&world.ns, &key(9), old.invite, old.entry, old.proof.clone(), next);
    let mut founder = world.founder();
    founder.handle_hello(peer(9), &greeting(&world, 9, &new), now()).unwrap();
    let refused = founder.handle_hello(peer(9), &greeting(&world, 9, &old), now());
    assert_eq!(refused, Err(Refusal::Forged));
    // And after a restart, from what was on disk before the peer was admitted.
    let mut disk = world.founders[0].1.clone();
    for output in drain(&mut founder) {
        match output {
            Output::Persist(writes) => apply(&mut disk, &writes),
            Output::Admit { .. } => break,
            Output::Send { .. }
            | Output::Refuse { .. }
            | Output::Dial { .. }
            | Output::Publish { .. }
            | Output::Seek { .. }
            | Output::DialBack { .. }
            | Output::Event(_) => unreachable!(),
        }
    }
    let mut restarted = Membership::load(key(1), &world.founders[0].0, &disk, [0; 32], now()).unwrap();
    assert_eq!(restarted.handle_hello(peer(9), &greeting(&world, 9, &old), now()), Err(Refusal::Forged));
    assert_eq!(restarted.refused_credentials()[&CredentialError::OldDataKey], 1);
}

#[test]
fn an_expired_membership_and_an_expired_data_key_are_refused() {
    let mut world = World::new();
    let mut config = world.config();
    config.member_days = 1;
    let views = world.founder().chain().views_hash();
    let token = world.invite_with(&config, views, 1, Role::Member, DAY, 0);
    let newcomer = world.join(token, 9);
    let late = at(TODAY + 3 * 86_400, Duration::from_secs(3 * 86_400));
    let mut founder = world.founder_at(1, late);
    let request = greeting(&world, 9, newcomer.membership(late).credential());
    assert_eq!(founder.handle_hello(peer(9), &request, late), Err(Refusal::Expired));
    let ordinary = world.member(world.invite_as(1, Role::Member, DAY, 4), 10);
    let later = at(TODAY + 31 * 86_400, Duration::ZERO);
    let request = greeting(&world, 10, ordinary.credential());
    let mut founder = world.founder_at(1, later);
    assert_eq!(founder.handle_hello(peer(10), &request, later), Err(Refusal::Expired));
    assert_eq!(founder.refused_credentials()[&CredentialError::DataKeyExpired], 1);
    // Signed again at the start, and the data plane sees the same credential.
    let mut restarted = world.join(world.invite_as(1, Role::Member, DAY, 4), 10).membership(later);
    assert_eq!(restarted.credential().hash(&world.ns), ordinary.credential().hash(&world.ns));
    assert_eq!(greet(&mut restarted, &mut founder, later), Ok(()));
}

#[test]
fn epoch_board_joins() {
    let mut world = World::new();
    let epoch = at(100, Duration::ZERO);
    let mut newcomer = Newcomer::new(world.invite(1), 9);
    newcomer.joiner =
        crate::join::Joiner::new(key(9), fixture::data(9), "lab", world.invite(1), &Image::new(), [9; 32], epoch);
    let mut founder = world.founder();
    while let Some(output) = newcomer.joiner.poll_output() {
        match output {
            Output::Persist(writes) => apply(&mut newcomer.disk, &writes),
            Output::Dial { .. } => {
                let hello = newcomer.joiner.hello(peer(1), epoch);
                let response = founder.handle_hello(peer(9), &hello, now()).unwrap();
                newcomer.joiner.handle_hello_response(peer(1), &response, epoch).unwrap();
            }
            Output::Send { message, .. } => {
                let Ok(Message::Redeem(request)) = Message::from_bytes(&message) else { unreachable!() };
                let answer = Message::Redeemed(world.redeem(&request, TODAY)).to_bytes();
                newcomer.joiner.handle_message(peer(1), &answer, epoch);
            }
            Output::Admit { .. }
            | Output::Refuse { .. }
            | Output::Publish { .. }
            | Output::Seek { .. }
            | Output::DialBack { .. }
            | Output::Event(_) => {}
        }
    }
    newcomer.run(&mut world, epoch);
    assert!(matches!(newcomer.end, Some(JoinerEvent::Joined { .. })), "{:?}", newcomer.end);
    let mut board = newcomer.membership(epoch);
    // Others can judge no date of its, and it judges none of theirs.
    assert_eq!(greet(&mut board, &mut founder, epoch), Ok(()));
    assert_eq!(founder.handle_hello(peer(9), &board.hello(peer(1), epoch), now()).map(drop), Ok(()));
}

#[test]
fn config_rollback() {
    let world = World::new();
    let mut founder = world.founder();
    let next = |version: u64, change: fn(&mut Config)| {
        let mut config = world.config();
        config.version = version;
        change(&mut config);
        SignedConfig::sign(&world.ns, config, 0, &world.authority)
    };
    assert_eq!(founder.observe_config(next(7, |_| ())), Ok(Verdict::Newer));
    assert!(matches!(founder.poll_output(), Some(Output::Persist(_))), "stored before it counts");
    assert_eq!(founder.observe_config(next(6, |_| ())), Ok(Verdict::Older));
    assert_eq!(founder.observe_config(next(7, |_| ())), Ok(Verdict::Same));
    assert_eq!(founder.observe_config(next(7, |c| c.mtu = 1280)), Err(ConfigError::Fork));
    assert_eq!(founder.observe_config(next(8, |c| c.rho_ppm = 1)), Err(ConfigError::Fixed("clock error")));
    assert_eq!(founder.observe_config(next(8, |c| c.max_lease_s *= 2)), Err(ConfigError::Fixed("longest lease")));
    assert_eq!(founder.observe_config(next(8 + (1 << 20), |_| ())), Err(ConfigError::TooFarAhead));
    assert_eq!(founder.observe_config(next(8, |c| c.era = 1)), Err(ConfigError::Era));
    let mut other_authority = world.config();
    other_authority.version = 8;
    other_authority.authority = vec![key(66).public()];
    let stolen = SignedConfig::sign(&world.ns, other_authority, 0, &key(66));
    assert_eq!(founder.observe_config(stolen), Err(ConfigError::AuthorityChain));
    let mut by_nobody = world.config();
    by_nobody.version = 8;
    let unsigned = SignedConfig::sign(&world.ns, by_nobody, 0, &key(66));
    assert_eq!(founder.observe_config(unsigned), Err(ConfigError::Signature));
    assert_eq!(founder.config().version, 7);
    assert_eq!(founder.poll_output(), None);
}

#[test]
fn a_configuration_keeps_every_checkpoint() {
    let world = World::new();
    let mut founder = world.founder();
    let checkpoint = |incarnation| Checkpoint { shard: 0, incarnation, view: 4, hash: [3; 32], floor: 0 };
    let next = |version: u64, checkpoints: Vec<Checkpoint>| {
        SignedConfig::sign(&world.ns, Config { version, checkpoints, ..world.config() }, 0, &world.authority)
    };
    assert_eq!(founder.observe_config(next(2, vec![checkpoint(1)])), Ok(Verdict::Newer));
    assert_eq!(founder.observe_config(next(3, vec![])), Err(ConfigError::Checkpoint));
    assert_eq!(founder.observe_config(next(3, vec![checkpoint(2)])), Err(ConfigError::Checkpoint));
    assert_eq!(founder.observe_config(next(1, vec![])), Ok(Verdict::Older));
    assert_eq!(founder.observe_config(next(3, vec![checkpoint(1), checkpoint(2)])), Ok(Verdict::Newer));
}

#[test]
fn a_newer_configuration_comes_with_the_answer_to_a_hello() {
    let mut world = World::new();
    let mut member = world.member(world.invite(1), 9);
    let mut founder = world.founder();
    let mut config = world.config();
    config.version = 2;
    config.reserved_names = vec!["printer".to_owned()];
    founder.observe_config(SignedConfig::sign(&world.ns, config, 0, &world.authority)).unwrap();
    greet(&mut member, &mut founder, now()).unwrap();
    assert!(member.config().is_reserved_name("printer"));
}

#[test]
fn lying_head() {
    let mut world = World::new();
    let mut member = world.member(world.invite(1), 9);
    let mut founder = world.founder();
    let request = member.hello(peer(1), now());
    let heads = Heads { era: u32::MAX, version: u64::MAX, list: u32::MAX };
    let request = forged(&world, 9, |request| request.heads = heads, &request);
    assert!(founder.handle_hello(peer(9), &request, now()).is_ok());
    assert_eq!(founder.config().version, 1);
    assert_eq!(founder.level(&peer(9)), Some(Level::Member));
}

#[test]
fn pos_independent_of_keys() {
    let mut world = World::new();
    let token = world.invite(1).to_text();
    let first = world.member(Token::parse(&token).unwrap(), 9);
    let mut again = World::new();
    let second = again.member(Token::parse(&token).unwrap(), 10);
    assert_ne!(first.credential().identity(), second.credential().identity());
    assert_eq!(first.credential().pos(&world.ns), second.credential().pos(&world.ns));
    assert_eq!(first.credential().serial(&world.ns), second.credential().serial(&world.ns));
}

#[test]
fn a_quorum_is_counted_in_distinct_members_of_that_view() {
    let mut world = World::with_founders("lab", 3, TODAY);
    let credential = world.member(world.invite(1), 9).credential().clone();
    let founder = world.founder();
    let verdict = |change: &dyn Fn(&mut Vec<Vote>)| {
        let mut changed = credential.clone();
        change(&mut changed.proof.votes);
        changed.verify(&world.ns, founder.config(), founder.chain())
    };
    assert_eq!(verdict(&|votes| votes.truncate(2)), Ok(()));
    assert_eq!(verdict(&|votes| votes.truncate(1)), Err(CredentialError::Votes));
    assert_eq!(verdict(&|votes| *votes = vec![votes[0]; 3]), Err(CredentialError::Votes));
    assert_eq!(verdict(&|votes| votes.swap(0, 1)), Err(CredentialError::Votes));
    assert_eq!(verdict(&|votes| votes[1].index = 4), Err(CredentialError::Votes));
    assert_eq!(verdict(&|votes| votes[1].signature = votes[0].signature), Err(CredentialError::Votes));
    let mut elsewhere = credential.clone();
    elsewhere.proof.view_hash[0] ^= 1;
    assert_eq!(elsewhere.verify(&world.ns, founder.config(), founder.chain()), Err(CredentialError::UnknownView));
}

#[test]
fn more_slots_than_uses_admit_nobody_even_with_votes() {
    let mut world = World::new();
    let token = world.invite(1);
    let entry = |number| Entry::new(&world.ns, &token.key(), &key(number));
    let cell = Redeemed { entries: vec![entry(9), entry(10)] };
    let own = cell.entries[1];
    assert_eq!(cell.verify(&world.ns, &token.invite(), &world.config()), Err(RedeemError::Full));
    let (view, ballot, votes) = world.accept(&token.invite().invite, &cell);
    let proof = cell.proof(&token.invite().invite, &own.identity, &view, ballot, votes).unwrap();
    let data_key = DataKey { seq: 1, x25519: [1; 32], until: 0 };
    let credential = Credential::new(&world.ns, &key(10), token.invite(), own, proof, data_key);
    let founder = world.founder();
    assert_eq!(credential.verify(&world.ns, founder.config(), founder.chain()), Err(CredentialError::Proof));
}

#[test]
fn only_the_shard_of_the_invite_admits() {
    let mut world = World::with_founders("lab", 3, TODAY);
    let mut credential = world.member(world.invite(1), 9).credential().clone();
    let founder = world.founder();
    let other = founder.chain().newest((credential.proof.shard + 1) % 16).unwrap();
    (credential.proof.shard, credential.proof.view_hash) = (other.shard, other.hash());
    assert_eq!(credential.verify(&world.ns, founder.config(), founder.chain()), Err(CredentialError::Proof));
}

#[test]
fn acceptors_refuse_what_was_not_invited() {
    let world = World::new();
    let token = world.invite(2);
    let verify = |entries: Vec<Entry>| {
        Redeemed { entries }.verify(&world.ns, &token.invite(), &world.config()).map_err(|error| error.to_string())
    };
    let entry = |number| Entry::new(&world.ns, &token.key(), &key(number));
    assert_eq!(verify(vec![entry(9), entry(10)]), Ok(()));
    assert_eq!(verify(vec![entry(9), entry(9)]), Err(RedeemError::Repeated.to_string()));
    let uninvited = Entry::new(&world.ns, &key(66), &key(10));
    assert_eq!(verify(vec![uninvited]), Err(RedeemError::Entry.to_string()));
    let renamed = Entry { identity: key(11).public(), ..entry(10) };
    assert_eq!(verify(vec![renamed]), Err(RedeemError::Entry.to_string()));
}

#[test]
fn a_founders_proof_is_of_no_use_to_anybody_else() {
    let world = World::new();
    let founder = world.founder();
    let own = founder.credential();
    let mut other = own.clone();
    other.entry.identity = key(9).public();
    assert!(other.verify(&world.ns, founder.config(), founder.chain()).is_err());
    let token = world.invite(1);
    let mut invited = own.clone();
    invited.invite = token.invite();
    invited.entry = Entry::new(&world.ns, &token.key(), &key(9));
    let forged = Credential::new(
        &world.ns,
        &key(9),
        invited.invite,
        invited.entry,
        invited.proof.clone(),
        DataKey { seq: 1, x25519: [1; 32], until: 0 },
    );
    assert_eq!(forged.verify(&world.ns, founder.config(), founder.chain()), Err(CredentialError::Proof));
}

#[test]
fn the_proof_a_member_gives_itself_counts_for_nothing_in_a_namespace_with_an_authority() {
    let mut world = World::new();
    let mut credential = world.member(world.invite(1), 9).credential().clone();
    credential.proof.kind = crate::credential::ProofKind::SelfIssued;
    let founder = world.founder();
    assert_eq!(credential.verify(&world.ns, founder.config(), founder.chain()), Err(CredentialError::Proof));
}

#[test]
fn nothing_secret_is_printed() {
    let mut world = World::new();
    let token = world.invite(1);
    let text = token.to_text().clone();
    let secret_seed = token.key().seed();
    let newcomer = Newcomer::new(Token::parse(&text).unwrap(), 9);
    let member = world.member(world.invite(1), 9);
    let printed = format!(
        "{token:?} {token} {} {:?} {member:?} {:?}",
        token.redacted(),
        newcomer.joiner,
        Token::parse("ov1garbage").unwrap_err()
    );
    assert!(!printed.contains(&text[3..]) && !printed.contains(&text[20..60]), "{printed}");
    for secret in [key(9).seed(), fixture::data(9), secret_seed] {
        assert!(!printed.contains(&format!("{:?}", *secret)), "{printed}");
        assert!(!printed.contains(&bs58::encode(*secret).into_string()), "{printed}");
    }
    assert_eq!(token.redacted().chars().count(), "ov1…".chars().count() + 6);
}

#[test]
fn a_store_of_somebody_else_or_with_a_damaged_part_is_an_error() {
    let mut world = World::new();
    let newcomer = world.join(world.invite(1), 9);
    let load = |number: u8, data: &[u8; 32], image: &Image| {
        Membership::load(key(number), data, image, [0; 32], now()).map(drop)
    };
    assert_eq!(load(9, &fixture::data(9), &newcomer.disk), Ok(()));
    assert_eq!(load(10, &fixture::data(9), &newcomer.disk), Err(LoadError::OtherKey("identity")));
    assert_eq!(load(9, &fixture::data(10), &newcomer.disk), Err(LoadError::OtherKey("data key")));
    for at in newcomer.disk.keys() {
        let mut damaged = newcomer.disk.clone();
        damaged.remove(at);
        assert!(load(9, &fixture::data(9), &damaged).is_err(), "{}", String::from_utf8_lossy(at));
        for place in 0..newcomer.disk[at].len() {
            let mut damaged = newcomer.disk.clone();
            damaged.get_mut(at).unwrap()[place] ^= 0x80;
            let store_id = at.ends_with(b"store-id");
            assert!(store_id || load(9, &fixture::data(9), &damaged).is_err(), "{place} of {at:?}");
        }
    }
}

#[test]
fn strangers_cannot_fill_the_tables() {
    let world = World::new();
    let mut founder = world.founder();
    let text = world.invite(64).to_text();
    let knock = |founder: &mut Membership, number: u8| {
        let token = Token::parse(&text).unwrap();
        let mut joiner =
            crate::join::Joiner::new(key(number), fixture::data(number), "lab", token, &Image::new(), [0; 32], now());
        let hello = joiner.hello(peer(1), now());
        founder.handle_hello(peer(number), &hello, now()).map(drop)
    };
    for number in 10..10 + 64 {
        knock(&mut founder, number).unwrap();
    }
    assert_eq!(knock(&mut founder, 200), Err(Refusal::TooMany));
    assert_eq!(founder.refused()[&Refusal::TooMany], 1);
    founder.handle_gone(peer(10));
    assert_eq!(knock(&mut founder, 200), Ok(()));
}
