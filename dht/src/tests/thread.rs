//! From nothing to two members with an address and a name each, by the shipped interface alone.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::net::secs;
use crate::clock::Now;
use crate::command::{ClientId, Command, CommandId, Contact, Hold, LeaseKey, Role};
use crate::create::{CreateRequest, create};
use crate::event::{Event, Level, Output, Resolution};
use crate::identity::SecretKey;
use crate::join::{Joiner, JoinerEvent};
use crate::membership::fixture::{TODAY, apply, at, data, key, peer};
use crate::namespace::{Image, Keys, Namespace};
use crate::token::{ContactAddress, Token};

const CREATOR: u8 = 1;
const NEWCOMER: u8 = 2;

fn now() -> Now {
    at(TODAY, secs(1))
}

fn seed(number: u8) -> [u8; 32] {
    [number; 32]
}

/// Everything a node wants done: its disk is written, its messages and events come back.
fn drain(node: &mut Namespace, disk: &mut Image) -> (Vec<Vec<u8>>, Vec<Event>, Vec<Output>) {
    let (mut sent, mut events, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(output) = node.poll_output() {
        match output {
            Output::Persist(writes) => apply(disk, &writes),
            Output::Send { message, .. } => sent.push(message),
            Output::Event(event) => events.push(event),
            output => rest.push(output),
        }
    }
    (sent, events, rest)
}

fn found() -> (Namespace, Image) {
    let request = CreateRequest { name: "home".to_owned(), range: None, lease: secs(86_400), recovery: None };
    let identity = key(CREATOR);
    let created = create(request, &identity, seed(9), TODAY).unwrap();
    let mut disk = Image::new();
    apply(&mut disk, &created.writes);
    let authority = Some(SecretKey::from_seed(&created.authority.seed()));
    let keys = Keys { identity, data: created.data, authority };
    (Namespace::load(keys, &disk, seed(1), now()).unwrap(), disk)
}

fn invite(creator: &mut Namespace, disk: &mut Image) -> Token {
    let contact = Contact {
        identity: key(CREATOR).public(),
        addresses: vec![ContactAddress::Socket("192.0.2.1:4001".parse().unwrap())],
    };
    let command = Command::Invite {
        id: CommandId(1),
        uses: 1,
        ttl: Duration::from_secs(3600),
        role: Role::Member,
        hosts: 0,
        contacts: vec![contact],
    };
    creator.handle_command(command, now());
    let (_, events, _) = drain(creator, disk);
    let invited = events.iter().find_map(|event| match event {
        Event::Invited { outcome: Ok(text), .. } => Some(text),
        _ => None,
    });
    Token::parse(invited.expect("an invite")).unwrap()
}

/// Drives the newcomer against the creator until it has joined.
fn join(creator: &mut Namespace, creator_disk: &mut Image, token: Token) -> Image {
    let mut disk = Image::new();
    let mut joiner = Joiner::new(key(NEWCOMER), data(NEWCOMER), "home", token, &disk, seed(2), now());
    loop {
        while let Some(event) = joiner.poll_event() {
            match event {
                JoinerEvent::Joined { writes, .. } => {
                    apply(&mut disk, &writes);
                    return disk;
                }
                JoinerEvent::Failed(error) => panic!("{error}"),
                JoinerEvent::Progress(_) => {}
            }
        }
        match joiner.poll_output().expect("the newcomer ends joined") {
            Output::Persist(writes) => apply(&mut disk, &writes),
            Output::Dial { peer: to, .. } => {
                let request = joiner.hello(to, now());
                let response = creator.handle_hello(peer(NEWCOMER), &request, now()).unwrap();
                joiner.handle_hello_response(to, &response, now()).unwrap();
            }
            Output::Send { to, message } => {
                creator.handle_message(peer(NEWCOMER), &message, now());
                for answer in drain(creator, creator_disk).0 {
                    joiner.handle_message(to, &answer, now());
                }
            }
            Output::Admit { .. }
            | Output::Refuse { .. }
            | Output::Publish { .. }
            | Output::Seek { .. }
            | Output::DialBack { .. }
            | Output::Event(_) => {}
        }
    }
}

#[test]
fn one_creates_and_another_joins_and_both_are_found_by_address_and_name() {
    let (mut creator, mut creator_disk) = found();
    let token = invite(&mut creator, &mut creator_disk);
    let mut member_disk = join(&mut creator, &mut creator_disk, token);
    let keys = Keys { identity: key(NEWCOMER), data: data(NEWCOMER), authority: None };
    let mut member = Namespace::load(keys, &member_disk, seed(3), now()).unwrap();
    let request = member.hello(peer(CREATOR), now());
    let response = creator.handle_hello(peer(NEWCOMER), &request, now()).unwrap();
    member.handle_hello_response(peer(CREATOR), &response, now()).unwrap();
    let (_, events, rest) = drain(&mut member, &mut member_disk);
    assert!(events.iter().any(|e| matches!(e, Event::PeerKeys { peer: of, .. } if *of == peer(CREATOR))));
    assert_eq!(rest, [Output::Admit { peer: peer(CREATOR), level: Level::Member }]);
    let (_, events, rest) = drain(&mut creator, &mut creator_disk);
    assert!(events.iter().any(|e| matches!(e, Event::PeerKeys { peer: of, .. } if *of == peer(NEWCOMER))));
    assert_eq!(rest.last(), Some(&Output::Admit { peer: peer(NEWCOMER), level: Level::Member }));

    let client = ClientId::of(b"self");
    let claim = |id| Command::ClaimAddress {
        id: CommandId(id),
        client,
        want: None,
        only_wanted: false,
        hold: Hold::Full,
        keep: true,
    };
    let name = |id, name: &str| Command::ClaimName { id: CommandId(id), name: name.to_owned(), client, keep: true };
    creator.handle_command(claim(10), now());
    creator.handle_command(name(11, "tower"), now());
    member.handle_command(claim(12), now());
    member.handle_command(name(13, "laptop"), now());
    let mut events = Vec::new();
    for _ in 0..10 {
        let (sent, told, _) = drain(&mut member, &mut member_disk);
        events.extend(told);
        sent.iter().for_each(|message| creator.handle_message(peer(NEWCOMER), message, now()));
        let (sent, told, _) = drain(&mut creator, &mut creator_disk);
        events.extend(told);
        sent.iter().for_each(|message| member.handle_message(peer(CREATOR), message, now()));
    }
    let (first, second) = two_leases_each(&events);
    creator.handle_command(Command::ResolveName { id: CommandId(20), name: "laptop".to_owned() }, now());
    let (_, events, _) = drain(&mut creator, &mut creator_disk);
    let [Event::Resolved { outcome: Resolution::Found { ip, owner, name, .. }, .. }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!((*owner, name.as_deref()), (peer(NEWCOMER), Some("laptop")));
    assert!([first, second].contains(ip));
    let summary = creator.summary();
    assert_eq!((summary.name.as_str(), summary.home.members, summary.authority), ("home", vec![peer(CREATOR)], true));
    // Only where the namespace was founded are invites made.
    let (contacts, role) = (Vec::new(), Role::Member);
    let id = CommandId(21);
    member.handle_command(Command::Invite { id, uses: 1, ttl: secs(60), role, hosts: 0, contacts }, now());
    let (_, events, _) = drain(&mut member, &mut member_disk);
    assert!(matches!(events[..], [Event::Invited { outcome: Err(_), .. }]));
}

/// The two addresses, which differ.
fn two_leases_each(events: &[Event]) -> (Ipv4Addr, Ipv4Addr) {
    let leases: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Claimed { outcome, .. } => Some(outcome.clone().unwrap()),
            _ => None,
        })
        .collect();
    assert_eq!(leases.len(), 4, "{events:?}");
    let mut addresses = leases.iter().filter_map(|lease| match lease.key {
        LeaseKey::Address(ip) => Some(ip),
        LeaseKey::Name(_) => None,
    });
    let (first, second) = (addresses.next().unwrap(), addresses.next().unwrap());
    assert_ne!(first, second);
    (first, second)
}
