//! How the crowd begins: five founders that are every shard's replicas, and invites for everybody.

use std::net::SocketAddr;
use std::time::Duration;

use dht::create::{CreateRequest, found};
use dht::identity::SecretKey;
use dht::token::{Contact, ContactAddress, MAX_CONTACTS, Token};
use dht::{Command, CommandId, Event, Image, Keys, Namespace, Output, Role};
use ipnet::Ipv4Net;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use zeroize::Zeroizing;

use super::member::{Clock, Member};
use crate::clock::EPOCH;

/// The name of the namespace.
pub(super) const NAMESPACE: &str = "crowd";
/// How many may redeem one invite. With each slot that an invite has given its register grows, and every replica checks all
/// of it again: 64 newcomers with one invite cost 2,080 checks of a slot at each replica, with 64 invites they cost 64.
const USES: u16 = 1;

/// What founding gave, and the maker of invites.
pub(super) struct Founding {
    authority: Namespace,
    contacts: Vec<Contact>,
    invites: u64,
}

impl Founding {
    /// Founds the namespace. The founders are given as members that are switched off.
    pub(super) fn new(founders: u8, range: Ipv4Net, lease: Duration, seed: u64) -> (Self, Vec<Member>) {
        let keys: Vec<SecretKey> = (0..founders).map(|number| identity(seed, number.into())).collect();
        let request = CreateRequest { name: NAMESPACE.into(), range: Some(range), lease, recovery: None };
        let (_, authority, created) =
            found(request, &keys.iter().collect::<Vec<_>>(), seed_of(seed, u32::MAX), EPOCH).expect("a sound request");
        let members: Vec<Member> = (0u32..)
            .zip(created)
            .map(|(number, founder)| {
                let mut disk = Image::new();
                apply(&mut disk, founder.writes);
                Member::new(identity(seed, number), founder.data, disk)
            })
            .collect();
        let contacts = keys
            .iter()
            .zip(1u8..)
            .map(|(key, host)| {
                let address = ContactAddress::Socket(SocketAddr::from(([198, 51, 100, host], 4001)));
                Contact { identity: key.public(), addresses: vec![address] }
            })
            .collect();
        // A process of its own, as `overlay invite` is.
        let first = &members[0];
        let keys = Keys { identity: copy(&first.key), data: first.data.clone(), authority: Some(authority) };
        let now = Clock::new(Duration::ZERO).now(Duration::ZERO);
        let authority = Namespace::load(keys, &first.disk, seed_of(seed, u32::MAX - 1), now).expect("just founded");
        (Self { authority, contacts, invites: 0 }, members)
    }

    /// Another invite.
    pub(super) fn invite(&mut self, clock: &Clock, at: Duration) -> Token {
        self.invites += 1;
        let command = Command::Invite {
            id: CommandId(self.invites),
            uses: USES,
            ttl: Duration::from_secs(30 * 86_400),
            role: Role::Member,
            hosts: 0,
            contacts: self.some_contacts(),
        };
        self.authority.handle_command(command, clock.now(at));
        while let Some(output) = self.authority.poll_output() {
            if let Output::Event(Event::Invited { outcome, .. }) = output {
                return Token::parse(&outcome.expect("it has the authority key")).expect("just made");
            }
        }
        unreachable!("every command is answered by one event")
    }

    /// As many founders as fit into an invite, others first each time.
    fn some_contacts(&self) -> Vec<Contact> {
        let first = usize::try_from(self.invites).unwrap_or_default();
        self.contacts
            .iter()
            .cycle()
            .skip(first % self.contacts.len())
            .take(MAX_CONTACTS.min(self.contacts.len()))
            .cloned()
            .collect()
    }
}

/// A member that has nothing but its keys.
pub(super) fn stranger(seed: u64, number: u32) -> Member {
    Member::new(identity(seed, number), Zeroizing::new(seed_of(!seed, number)), Image::new())
}

fn identity(seed: u64, number: u32) -> SecretKey {
    SecretKey::from_seed(&seed_of(seed, number))
}

pub(super) fn seed_of(seed: u64, number: u32) -> [u8; 32] {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(number.into());
    let mut bytes = [0; 32];
    rng.fill_bytes(&mut bytes);
    bytes
}

pub(super) fn copy(key: &SecretKey) -> SecretKey {
    SecretKey::from_seed(&key.seed())
}

pub(super) fn apply(disk: &mut Image, writes: Vec<dht::Write>) {
    for write in writes {
        match write.value {
            Some(value) => disk.insert(write.key, value),
            None => disk.remove(&write.key),
        };
    }
}
