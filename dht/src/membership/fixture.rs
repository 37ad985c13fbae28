//! A namespace in memory for tests: founders that vote, and people who join.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;
use zeroize::Zeroizing;

use super::Membership;
use crate::ballot::Ballot;
use crate::clock::{BootId, Now, OwnerTime, ReplicaTime};
use crate::codec::Wire;
use crate::config::Config;
use crate::create::{CreateRequest, found};
use crate::event::{Output, Write};
use crate::identity::{PublicKey, SecretKey};
use crate::invite::{InviteRequest, Role, SignedInvite, issue_invite};
use crate::join::{Joiner, JoinerEvent};
use crate::message::Message;
use crate::namespace::Image;
use crate::redeem::{self, RedeemAnswer, RedeemOutcome, RedeemRequest, Redeemed, RefusedHint, SpentProof};
use crate::sign::{self, Label, NamespaceId};
use crate::token::{Contact, ContactAddress, Token};
use crate::view::{Accepted, KeyKind, Member, Successor, View, Vote};

/// A date on which nothing of these tests has expired.
pub(crate) const TODAY: u64 = 1_800_000_000;

pub(crate) fn now() -> Now {
    at(TODAY, Duration::ZERO)
}

/// The date, and the time since the test began.
pub(crate) fn at(unix_s: u64, since: Duration) -> Now {
    static ORIGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "a test needs one real instant as origin")]
    let origin = *ORIGIN.get_or_init(Instant::now);
    Now {
        mono: origin + since,
        owner: OwnerTime(since),
        replica: ReplicaTime(since),
        boot: BootId([1; 16]),
        unix_s,
        jumps: 0,
    }
}

pub(crate) fn key(number: u8) -> SecretKey {
    SecretKey::from_seed(&[number; 32])
}

pub(crate) fn peer(number: u8) -> PeerId {
    key(number).peer_id()
}

pub(crate) fn apply(image: &mut Image, writes: &[Write]) {
    for write in writes {
        match &write.value {
            Some(value) => image.insert(write.key.clone(), value.clone()),
            None => image.remove(&write.key),
        };
    }
}

/// A namespace whose founders have the keys 1, 2, …
pub(crate) struct World {
    pub(crate) ns: NamespaceId,
    pub(crate) authority: SecretKey,
    pub(crate) founders: Vec<(Zeroizing<[u8; 32]>, Image)>,
    cells: BTreeMap<PublicKey, Redeemed>,
    rounds: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_founders("lab", 1, TODAY)
    }

    /// The same people, with another authority.
    pub(crate) fn twin() -> Self {
        Self::found("lab", 1, TODAY, [78; 32])
    }

    pub(crate) fn with_founders(name: &str, count: u8, unix_s: u64) -> Self {
        Self::found(name, count, unix_s, [77; 32])
    }

    fn found(name: &str, count: u8, unix_s: u64, seed: [u8; 32]) -> Self {
        let keys: Vec<SecretKey> = (1..=count).map(key).collect();
        let request =
            CreateRequest { name: name.to_owned(), range: None, lease: Duration::from_secs(86_400), recovery: None };
        let (ns, authority, founders) = found(request, &keys.iter().collect::<Vec<_>>(), seed, unix_s).unwrap();
        let founders = founders
            .into_iter()
            .map(|founder| {
                let mut image = Image::new();
                apply(&mut image, &founder.writes);
                (founder.data, image)
            })
            .collect();
        Self { ns, authority, founders, cells: BTreeMap::new(), rounds: 0 }
    }

    /// So many changes of views, of all shards in turn, to the same members; on the disks of all founders.
    pub(crate) fn change_views(&mut self, count: usize) {
        let mut chain = self.founder().chain().clone();
        let keys: Vec<SecretKey> = (1..=5).map(key).collect();
        for (round, shard) in (1..).zip((0..chain.shard_count()).cycle()).take(count) {
            let before = chain.newest(shard).unwrap();
            let view = View { number: before.number + 1, previous: before.hash(), ..before.clone() };
            let ballot = Ballot { view: before.number, round, replica: 0 };
            let vote = |(index, member): (u8, &Member)| {
                let body = Successor::body(&view, ballot, member);
                let founder = keys.iter().find(|key| key.public() == member.identity).unwrap();
                Vote { index, signature: sign::sign(founder, Label::ViewAccepted, &self.ns, &body) }
            };
            let votes = (0u8..).zip(&before.members).map(vote).collect();
            let successor = Successor { view, ballot, votes };
            assert_eq!(chain.extend(&successor), Ok(true));
            for (_, image) in &mut self.founders {
                apply(image, &[super::store::write_view(&successor)]);
            }
        }
    }

    /// The founder with key 1.
    pub(crate) fn founder(&self) -> Membership {
        self.founder_at(1, now())
    }

    pub(crate) fn founder_at(&self, number: u8, now: Now) -> Membership {
        let (data, image) = &self.founders[usize::from(number) - 1];
        Membership::load(key(number), data, image, [number; 32], now).unwrap()
    }

    pub(crate) fn config(&self) -> Config {
        self.founder().config().clone()
    }

    pub(crate) fn invite(&self, uses: u16) -> Token {
        self.invite_as(uses, Role::Member, Duration::from_secs(86_400), 0)
    }

    pub(crate) fn invite_as(&self, uses: u16, role: Role, ttl: Duration, salt: u8) -> Token {
        let founder = self.founder();
        self.invite_with(founder.config(), founder.chain().views_hash(), uses, role, ttl, salt)
    }

    pub(crate) fn invite_with(
        &self,
        config: &Config,
        views: [u8; 32],
        uses: u16,
        role: Role,
        ttl: Duration,
        salt: u8,
    ) -> Token {
        use rand::SeedableRng;
        let contact = Contact {
            identity: key(1).public(),
            addresses: vec![ContactAddress::Socket("192.0.2.1:4001".parse().unwrap())],
        };
        let request = InviteRequest { uses, ttl, role, hosts: 256, contacts: vec![contact] };
        let rng = &mut rand_chacha::ChaCha20Rng::from_seed([salt; 32]);
        issue_invite(&self.authority, &self.ns, config, views, request, rng, TODAY).unwrap()
    }

    /// What a correct coordinator of all founders answers.
    pub(crate) fn redeem(&mut self, request: &RedeemRequest, unix_s: u64) -> RedeemAnswer {
        let founder = self.founder();
        let invite = request.invite.invite;
        let answer = |outcome| RedeemAnswer { invite, outcome };
        if request.verify(&self.ns, founder.config()).is_err() {
            return answer(RedeemOutcome::Refused(RefusedHint::Signature));
        }
        let mut cell = self.cells.get(&invite).cloned().unwrap_or_default();
        if cell.slot_of(&request.entry.identity).is_none() {
            if request.invite.may_append(founder.config(), unix_s).is_err() {
                return answer(RedeemOutcome::Refused(RefusedHint::Expired));
            }
            match cell.append(request.entry, request.invite.body.uses) {
                Ok(longer) => cell = longer,
                Err(_) => return answer(RedeemOutcome::Spent(self.spent(&request.invite, &cell))),
            }
        }
        self.cells.insert(invite, cell.clone());
        let (view, ballot, votes) = self.accept(&invite, &cell);
        let proof = cell.proof(&invite, &request.entry.identity, &view, ballot, votes).unwrap();
        answer(RedeemOutcome::Admitted(proof))
    }

    pub(crate) fn spent(&mut self, invite: &SignedInvite, cell: &Redeemed) -> SpentProof {
        let (view, ballot, votes) = self.accept(&invite.invite, cell);
        SpentProof {
            redeemed: cell.clone(),
            incarnation: view.incarnation,
            view: view.number,
            view_hash: view.hash(),
            ballot,
            votes,
        }
    }

    /// All founders accept this value.
    pub(crate) fn accept(&mut self, invite: &PublicKey, cell: &Redeemed) -> (View, Ballot, Vec<Vote>) {
        self.rounds += 1;
        let chain = self.founder().chain().clone();
        let view = chain.newest(redeem::shard_of(&self.ns, invite, chain.shard_count())).unwrap().clone();
        let ballot = Ballot { view: view.number, round: self.rounds, replica: 0 };
        let votes = (0u8..)
            .zip(&view.members)
            .map(|(index, member)| {
                let body = Accepted {
                    incarnation: 0,
                    shard: view.shard,
                    view: view.number,
                    store_id: member.store_id,
                    kind: KeyKind::Redeem,
                    key: &invite.0,
                    ballot,
                    value: cell.digest(invite),
                }
                .body();
                let founder = (1..=5).map(key).find(|key| key.public() == member.identity).unwrap();
                Vote { index, signature: sign::sign(&founder, Label::Accepted, &self.ns, &body) }
            })
            .collect();
        (view, ballot, votes)
    }

    /// Lets `number` join with the token, over the founder with key 1.
    pub(crate) fn join(&mut self, token: Token, number: u8) -> Newcomer {
        let mut newcomer = Newcomer::new(token, number);
        newcomer.run(self, now());
        newcomer
    }

    /// A member with this key, as after a restart.
    pub(crate) fn member(&mut self, token: Token, number: u8) -> Membership {
        let newcomer = self.join(token, number);
        newcomer.membership(now())
    }
}

/// Somebody who joins, with a disk that keeps what was persisted.
pub(crate) struct Newcomer {
    pub(crate) number: u8,
    pub(crate) joiner: Joiner,
    pub(crate) disk: Image,
    pub(crate) sent: Vec<Vec<u8>>,
    /// The longest answer to a hello.
    pub(crate) longest: usize,
    pub(crate) end: Option<JoinerEvent>,
}

impl Newcomer {
    pub(crate) fn new(token: Token, number: u8) -> Self {
        let joiner = Joiner::new(key(number), data(number), "lab", token, &Image::new(), [number; 32], now());
        Self { number, joiner, disk: Image::new(), sent: Vec::new(), longest: 0, end: None }
    }

    /// Drives the joiner against the founder until it ends or waits.
    pub(crate) fn run(&mut self, world: &mut World, now: Now) {
        let mut founder = world.founder_at(1, now);
        while let Some(output) = self.joiner.poll_output() {
            match output {
                Output::Persist(writes) => apply(&mut self.disk, &writes),
                Output::Dial { peer: to, .. } => {
                    let request = self.joiner.hello(to, now);
                    self.sent.push(request.clone());
                    match founder.handle_hello(peer(self.number), &request, now) {
                        Ok(response) => {
                            self.longest = self.longest.max(response.len());
                            if self.joiner.handle_hello_response(to, &response, now).is_err() {
                                self.joiner.handle_gone(to, now);
                            }
                        }
                        Err(_) => self.joiner.handle_gone(to, now),
                    }
                }
                Output::Send { to, message } => {
                    self.sent.push(message.clone());
                    let Ok(Message::Redeem(request)) = Message::from_bytes(&message) else { unreachable!() };
                    let answer = Message::Redeemed(world.redeem(&request, now.unix_s));
                    self.joiner.handle_message(to, &answer.to_bytes(), now);
                }
                Output::Admit { .. }
                | Output::Refuse { .. }
                | Output::Publish { .. }
                | Output::Seek { .. }
                | Output::DialBack { .. }
                | Output::Event(_) => {}
            }
        }
        while let Some(event) = self.joiner.poll_event() {
            match event {
                JoinerEvent::Progress(_) => {}
                JoinerEvent::Joined { .. } | JoinerEvent::Failed(_) => self.end = Some(event),
            }
        }
        if let Some(JoinerEvent::Joined { writes, .. }) = &self.end {
            apply(&mut self.disk, writes);
        }
    }

    pub(crate) fn membership(&self, now: Now) -> Membership {
        Membership::load(key(self.number), &data(self.number), &self.disk, [self.number; 32], now).unwrap()
    }
}

pub(crate) fn data(number: u8) -> Zeroizing<[u8; 32]> {
    Zeroizing::new([number ^ 0xff; 32])
}

/// Both say hello, as after `a` dialled `b`.
pub(crate) fn greet(a: &mut Membership, b: &mut Membership, now: Now) -> Result<(), crate::event::Refusal> {
    let request = a.hello(b.peer_id(), now);
    let response = b.handle_hello(a.peer_id(), &request, now)?;
    a.handle_hello_response(b.peer_id(), &response, now)
}

pub(crate) fn drain(membership: &mut Membership) -> Vec<Output> {
    std::iter::from_fn(|| membership.poll_output()).collect()
}
