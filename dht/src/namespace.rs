//! One namespace on this node: membership, the register's replica, this node's leases and what it knows of others'.

/// Borrows only what it names, so that the other parts can be changed meanwhile.
macro_rules! env {
    ($self:ident, $now:expr) => {
        Env {
            ns: &$self.ns,
            identity: $self.membership.identity(),
            me: $self.membership.identity().public(),
            config: $self.membership.config(),
            chain: $self.membership.chain(),
            rules: $self.rules,
            now: $now,
        }
    };
}

mod question;
mod recover;
mod summary;
mod views;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use libp2p_identity::PeerId;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::acceptor::Acceptor;
use crate::ballot::Ballot;
use crate::certificate::verify_hint;
use crate::clock::Now;
use crate::codec::Wire;
use crate::command::{Command, CommandId, LeaseKey};
use crate::coordinator::{Coordinator, Owner};
use crate::credential::ProofKind;
use crate::entropy::Entropy;
use crate::env::{DropReason, Env, Outbox, Rules};
use crate::event::{Event, InviteError, Lease, Level, Output, Refusal, Write};
use crate::identity::{PublicKey, SecretKey};
use crate::invite::{InviteRequest, Roles, issue_invite};
use crate::limits::Limits;
use crate::membership::Membership;
use crate::message::{MAX_MESSAGE, MAX_SIGNAL, Message};
use crate::owner::{AddressClaim, Leases};
use crate::presence::Presences;
use crate::proposer::Proposer;
use crate::recovery::Waits;
use crate::resolver::Resolver;
use crate::rounds::Rounds;
use crate::sign::NamespaceId;
use crate::token::Contact;
use crate::transfer::Transfers;
use crate::view::Member;
use recover::Recovering;
use views::{Chores, Departure, Leaving};

pub use summary::{LeaseFacts, ShardFacts, Summary};

/// All of a namespace's store, as it was at the start.
pub type Image = BTreeMap<Vec<u8>, Vec<u8>>;

/// The keys that live beside the store, in files of their own.
pub struct Keys {
    /// The node's identity, its libp2p key.
    pub identity: SecretKey,
    /// The X25519 secret for the data plane of this namespace.
    pub data: Zeroizing<[u8; 32]>,
    /// Where the namespace was created, the key that signs invites.
    pub authority: Option<SecretKey>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// Why a store is not used. Never a reason to begin with an empty one.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LoadError {
    /// Something that is always there is not.
    #[error("the store lacks its {0}")]
    Missing(&'static str),
    /// Something does not parse or verify.
    #[error("the store's {0} is damaged")]
    Damaged(&'static str),
    /// The keys belong to another store.
    #[error("the store belongs to another {0}")]
    OtherKey(&'static str),
}

const HANDSHAKES: &[u8] = b"hs-floor";

/// The state machine of one namespace on this node. After each input take all of [`poll_output`](Self::poll_output).
///
/// Getters; `handle_*` for what arrived; `poll_*` for what is to be done. A message of this node to itself takes the same
/// way as any other, only inside, so a view of one member runs the very rounds of a view of five.
#[derive(Debug)]
pub struct Namespace {
    ns: NamespaceId,
    membership: Membership,
    authority: Option<SecretKey>,
    acceptor: Acceptor,
    coordinator: Coordinator,
    leases: Leases,
    resolver: Resolver,
    transfers: Transfers,
    waits: Waits,
    recovering: Option<Recovering>,
    proposer: Proposer,
    presences: Presences,
    entropy: Entropy,
    chores: Chores,
    departure: Option<Departure>,
    limits: Limits,
    handshake_floor: u64,
    rules: Rules,
    rng: ChaCha20Rng,
    out: Outbox,
}

impl Namespace {
    /// Resumes from everything that was on disk.
    pub fn load(keys: Keys, image: &Image, seed: [u8; 32], now: Now) -> Result<Self, LoadError> {
        Self::load_with(Rules::ALL, keys, image, seed, now)
    }

    /// As [`load`](Self::load), with some rules of the protocol switched off: for showing that tests notice.
    #[doc(hidden)]
    pub fn load_with(rules: Rules, keys: Keys, image: &Image, seed: [u8; 32], now: Now) -> Result<Self, LoadError> {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let mut part = || {
            let mut seed = [0; 32];
            rng.fill_bytes(&mut seed);
            seed
        };
        let mut out = Outbox::default();
        let membership = Membership::load(keys.identity, &keys.data, image, part(), now)?;
        let ns = membership.ns();
        let floor = image.get(HANDSHAKES).map(|bytes| <[u8; 8]>::try_from(bytes.as_slice())).transpose();
        let floor = floor.map_err(|_| LoadError::Damaged("handshake counter"))?.map_or(0, u64::from_be_bytes);
        let env = Env {
            ns: &ns,
            identity: membership.identity(),
            me: membership.identity().public(),
            config: membership.config(),
            chain: membership.chain(),
            rules,
            now,
        };
        let acceptor = Acceptor::load(&env, &mut out, membership.store_id(), image)?;
        let counter = Rounds::load(image, acceptor.highest_round(), rules.rounds_on_disk)?;
        let coordinator = Coordinator::new(counter, part());
        let leases = Leases::load(&env, &mut out, image, part())?;
        let resolver = Resolver::new(&env, part());
        let waits = Waits::load(&mut out, image, &now)?;
        let proposer = Proposer::new(part(), now.mono);
        let me =
            Member { identity: env.me, store_id: membership.store_id(), serial: membership.credential().serial(&ns) };
        let may_be_replica = membership.credential().invite.body.roles.contains(Roles::REPLICA);
        let mut namespace = Self {
            ns,
            membership,
            authority: keys.authority,
            acceptor,
            coordinator,
            leases,
            resolver,
            transfers: Transfers::default(),
            waits,
            recovering: None,
            proposer,
            presences: Presences::new(me, may_be_replica, now.mono),
            entropy: Entropy::new(now.mono),
            chores: Chores::new(now.mono),
            departure: None,
            limits: Limits::default(),
            handshake_floor: floor,
            rules,
            rng,
            out,
        };
        let env = env!(namespace, now);
        namespace.acceptor.ask_others(&env, &mut namespace.out);
        namespace.transfers.step(&env, &mut namespace.out, &mut namespace.acceptor);
        namespace.waits.step(&env, &mut namespace.out, &mut namespace.acceptor);
        namespace.proposer.step(&env, &mut namespace.out, &namespace.acceptor);
        namespace.settle(now);
        Ok(namespace)
    }

    /// Begins what the node asks for.
    pub fn handle_command(&mut self, command: Command, now: Now) {
        self.handle_commands([command], now);
    }

    /// Begins all that the node asks for at once. Claims among them go to a replica together: the machines of a router's
    /// segment start at the same time.
    pub fn handle_commands(&mut self, commands: impl IntoIterator<Item = Command>, now: Now) {
        self.notice(now);
        for command in commands {
            self.begin(command, now);
        }
        self.settle(now);
    }

    fn begin(&mut self, command: Command, now: Now) {
        match command {
            Command::ClaimAddress { id, client, want, only_wanted, hold, keep } => {
                let claim = AddressClaim { client, want, only_wanted, hold, keep };
                self.leases.claim_address(&env!(self, now), &mut self.out, id, claim);
            }
            Command::ClaimName { id, name, client, keep } => {
                self.leases.claim_name(&env!(self, now), &mut self.out, id, (name, client, keep));
            }
            Command::ReleaseAddress { id, ip } => self.release(id, &LeaseKey::Address(ip), now),
            Command::ReleaseName { id, name } => {
                let name = crate::record::normal_name(&name).unwrap_or_default();
                self.release(id, &LeaseKey::Name(name), now);
            }
            Command::ResolveAddress { id, .. }
            | Command::ResolveName { id, .. }
            | Command::ResolvePeerName { id, .. }
            | Command::ReadAddress { id, .. } => self.resolve(id, command, now),
            Command::LookUp { id, key } => self.look_up(id, key, now),
            Command::CheckLease { id, from, certificate, remaining } => {
                let outcome = self.check_lease((from, &certificate, remaining), now);
                self.out.event(Event::LeaseChecked { id, from, outcome });
            }
            Command::Supersede { certificate } => self.handle_supersede(&certificate, now),
            Command::Renew { ip } => self.leases.renew_now(&env!(self, now), &mut self.out, &LeaseKey::Address(ip)),
            Command::Signal { to, message } => {
                if message.len() <= MAX_SIGNAL {
                    self.signal(to, message);
                } else {
                    self.out.drop(DropReason::Overflow);
                }
            }
            Command::Connect { peer } => self.connect(peer),
            Command::Invite { id, uses, ttl, role, hosts, contacts } => {
                let request = InviteRequest { uses, ttl, role, hosts, contacts };
                let outcome = self.invite(request, now);
                self.out.event(Event::Invited { id, outcome });
            }
            Command::Recover { id, all, confirmed } => self.recover((id, all, confirmed), now),
            Command::Leave { id } => self.leases.leave(&env!(self, now), &mut self.out, id),
            Command::HandOver { id } => self.depart(Leaving::Stopping, Event::HandedOver { id }, now),
            Command::Serve { hindrance } => {
                self.presences.set_unwilling(&env!(self, now), &mut self.out, hindrance);
            }
            Command::ReserveHandshakes { upto } => {
                self.handshake_floor = self.handshake_floor.max(upto);
                let value = self.handshake_floor.to_be_bytes().to_vec();
                self.out.push(Output::Persist(vec![Write { key: HANDSHAKES.to_vec(), value: Some(value) }]));
                self.out.event(Event::HandshakesReserved { upto });
            }
        }
    }

    fn release(&mut self, id: CommandId, key: &LeaseKey, now: Now) {
        self.leases.release(&env!(self, now), &mut self.out, key);
        self.resolver.forget(key);
        self.out.event(Event::Released { id });
    }

    fn connect(&mut self, peer: PeerId) {
        let keys = self.membership.keys_of(&peer).filter(|_| self.membership.level(&peer) == Some(Level::Member));
        match keys {
            Some(keys) => {
                let (x25519, credential_hash) = (keys.x25519, keys.credential_hash);
                self.out.event(Event::PeerKeys { peer, x25519, credential_hash });
            }
            None => self.out.push(Output::Dial { peer, addrs: Vec::new() }),
        }
    }

    fn invite(&mut self, request: InviteRequest, now: Now) -> Result<String, InviteError> {
        let authority = self.authority.as_ref().ok_or(InviteError::NoAuthority)?;
        let (config, views) = (self.membership.config(), self.membership.chain().views_hash());
        let token = issue_invite(authority, &self.ns, config, views, request, &mut self.rng, now.unix_s)?;
        Ok(token.to_text().to_string())
    }

    /// The first bytes to a peer that this node dialled.
    pub fn hello(&mut self, to: PeerId, now: Now) -> Vec<u8> {
        self.membership.hello(to, now)
    }

    /// A dialler's first bytes. `Ok` is the answer; after `Err` close the connection without a word.
    pub fn handle_hello(&mut self, from: PeerId, request: &[u8], now: Now) -> Result<Vec<u8>, Refusal> {
        let known = self.membership.chain().successors().len();
        let answer = self.membership.handle_hello(from, request, now);
        self.admitted(from, known, now);
        answer
    }

    /// The answer to [`hello`](Self::hello).
    pub fn handle_hello_response(&mut self, from: PeerId, response: &[u8], now: Now) -> Result<(), Refusal> {
        let known = self.membership.chain().successors().len();
        let admitted = self.membership.handle_hello_response(from, response, now);
        self.admitted(from, known, now);
        admitted
    }

    /// A hello is over, before which so many changes of views were known.
    fn admitted(&mut self, peer: PeerId, known: usize, now: Now) {
        self.pump();
        if self.membership.chain().successors().len() > known {
            self.views_changed(now);
        }
        if let Some(identity) = PublicKey::from_peer_id(&peer)
            && self.membership.level(&peer) == Some(Level::Member)
        {
            self.presences.set_others(self.membership.others());
            let env = env!(self, now);
            self.leases.handle_admitted(&env, &identity);
            self.presences.handle_admitted(&env, &mut self.out, &identity);
            self.acceptor.votes.handle_admitted(&env, &mut self.out, &identity);
        }
        self.settle(now);
    }

    /// Where a replica may be found, for the joiners that ask this node.
    pub fn set_replica_contact(&mut self, contact: Contact) {
        self.membership.set_replica_contact(contact);
    }

    /// A message over an admitted connection.
    pub fn handle_message(&mut self, from: PeerId, message: &[u8], now: Now) {
        self.notice(now);
        if message.len() > MAX_MESSAGE {
            return self.out.drop(DropReason::Malformed);
        }
        let Some(level) = self.membership.level(&from) else {
            return self.out.drop(DropReason::NotAdmitted);
        };
        let Some(identity) = PublicKey::from_peer_id(&from) else {
            return self.out.drop(DropReason::NotAdmitted);
        };
        let Ok(message) = Message::from_bytes(message) else {
            return self.out.drop(DropReason::Malformed);
        };
        let for_joiners = matches!(message, Message::Redeem(_) | Message::Fetch);
        if level == Level::Joiner && !for_joiners {
            return self.out.drop(DropReason::JoinerMayNot);
        }
        if !self.limits.allows(&identity, &message, now.mono) {
            return self.out.drop(DropReason::TooOften);
        }
        self.dispatch(identity, message, now);
        self.settle(now);
    }

    /// Gives a message to the part that it is for. `from` is this node itself for its own.
    fn dispatch(&mut self, from: PublicKey, message: Message, now: Now) {
        let env = env!(self, now);
        let out = &mut self.out;
        match message {
            Message::Ops { scope, ops } => match asker(&self.membership, &from) {
                Some(owner) => self.coordinator.handle_ops(&env, out, &self.acceptor, &owner, (scope, ops)),
                None => out.drop(DropReason::NotAdmitted),
            },
            Message::Results { scope, votes, items, .. } => {
                self.acceptor.votes.saw(&env, &scope, &from, votes);
                self.leases.handle_results(&env, out, &from, items);
            }
            Message::Prepare { scope, votes, ballot, keys } => {
                self.coordinator.handle_rival(&env, &from, &scope, &ballot);
                self.acceptor.handle_prepare(&env, out, &from, (scope, votes, ballot, keys));
            }
            Message::Promise { scope, store_id, votes, ballot, items } => {
                self.acceptor.votes.saw(&env, &scope, &from, votes);
                let promise = (scope, store_id, ballot, items);
                self.coordinator.handle_promise(&env, out, &self.acceptor, &from, promise);
            }
            Message::Accept { scope, votes, ballot, next_round, items } => {
                let highest = Ballot { round: ballot.round.max(next_round), ..ballot };
                self.coordinator.handle_rival(&env, &from, &scope, &highest);
                self.acceptor.handle_accept(&env, out, &from, (scope, votes, ballot, next_round, items));
            }
            Message::Accepted { scope, store_id, votes, ballot, items } => {
                self.acceptor.votes.saw(&env, &scope, &from, votes);
                let accepted = (scope, store_id, ballot, items);
                self.coordinator.handle_accepted(&env, out, &self.acceptor, &from, accepted);
            }
            Message::Read { scope, id, key } => self.acceptor.handle_read(&env, out, &from, (scope, id, key)),
            Message::ReadReply { scope, store_id, id, key, held } => {
                let named = self.resolver.handle_reply(&env, out, &from, (scope, store_id, id, key, held));
                if let Some(cert) = named {
                    self.leases.named(&env, out, &cert);
                }
            }
            Message::Settle { scope, key } => {
                self.coordinator.handle_settle(&env, out, &self.acceptor, &from, (scope, key));
            }
            Message::Redeem(request) => self.coordinator.handle_redeem(&env, out, &self.acceptor, &from, request),
            Message::Supersede { certificate } => self.handle_supersede(&certificate, now),
            Message::Moved { views } => self.handle_moved(&from, &views, now),
            Message::View(message) => self.dispatch_view(from, message, now),
            Message::Fetch => self.handle_fetch(&from),
            Message::Fetched { bytes } => self.handle_fetched(&from, &bytes, now),
            Message::Signal { bytes } => {
                if let Some(from) = from.peer_id() {
                    out.event(Event::Signal { from, message: bytes });
                }
            }
            Message::Pass { to, letter } => self.pass(&from, &to, letter),
            Message::Passed { from, letter } => self.handle_letter(&from, &letter, now),
            // A member needs no slot.
            Message::Redeemed(_) => out.drop(DropReason::Unexpected),
        }
    }

    /// The last connection to this peer ended, or a message to it could not be delivered.
    pub fn handle_gone(&mut self, peer: PeerId, now: Now) {
        self.notice(now);
        self.membership.handle_gone(peer);
        if let Some(identity) = PublicKey::from_peer_id(&peer) {
            self.leases.handle_gone(&env!(self, now), &mut self.out, &identity);
        }
        self.settle(now);
    }

    /// Time has come to [`poll_timeout`](Self::poll_timeout), or any other time.
    pub fn handle_timeout(&mut self, now: Now) {
        self.membership.handle_timeout(now);
        self.pump();
        let env = env!(self, now);
        self.leases.handle_timeout(&env, &mut self.out);
        self.acceptor.handle_timeout(&env, &mut self.out);
        self.coordinator.handle_timeout(&env, &mut self.out, &self.acceptor);
        self.resolver.handle_timeout(&env, &mut self.out);
        self.views_due(now);
        self.seek(now);
        self.settle(now);
    }

    /// Before anything is done with a lease: has the machine slept?
    fn notice(&mut self, now: Now) {
        self.leases.notice_jump(&env!(self, now), &mut self.out);
    }

    fn pump(&mut self) {
        while let Some(output) = self.membership.poll_output() {
            self.out.push(output);
        }
    }

    /// Carries this node's messages to itself, and sends what they led to.
    fn settle(&mut self, now: Now) {
        self.pump();
        loop {
            let me = self.membership.identity().public();
            while let Some(message) = self.out.poll_local() {
                self.dispatch(me, message, now);
            }
            let env = env!(self, now);
            if self.leases.flush(&env, &mut self.out) {
                continue;
            }
            if self.coordinator.is_due(&now) {
                self.coordinator.handle_timeout(&env, &mut self.out, &self.acceptor);
                continue;
            }
            self.check_departure(now);
            self.check_recovery(now);
            if self.out.has_local() {
                continue;
            }
            return self.tell_status(now);
        }
    }

    /// The next thing to be done, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.poll_output()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let parts = [
            self.membership.poll_timeout(),
            self.leases.poll_timeout(),
            self.acceptor.poll_timeout(),
            self.coordinator.poll_timeout(),
            self.resolver.poll_timeout(),
            self.poll_views_timeout(),
        ];
        parts.into_iter().flatten().min()
    }

    /// Whether a Kademlia value is worth keeping: a valid certificate for its key, newer than what is held.
    pub fn verify_hint(&self, key: &[u8], value: &[u8], held: Option<&[u8]>) -> bool {
        let chain = self.membership.chain();
        verify_hint(key, value, held, &self.ns, self.membership.config(), chain)
            || crate::presence::verify_view_hint(&self.ns, key, value, held, chain)
    }

    /// A lease of this node that may be used at this moment.
    pub fn lease(&self, key: &LeaseKey, now: Now) -> Option<Lease> {
        self.leases.lease(&env!(self, now), key)
    }

    /// What was ignored, by reason.
    pub fn drops(&self) -> &BTreeMap<DropReason, u64> {
        self.out.drops()
    }

    /// Who is a member, and who was turned away.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }
}

impl Namespace {
    /// Whether this node is a replica of the newest view of a shard and serves it.
    #[doc(hidden)]
    pub fn serves(&self, shard: u16, now: Now) -> bool {
        let env = env!(self, now);
        env.chain.newest(shard).is_some_and(|view| self.acceptor.serving(&env, view).is_some())
    }

    /// How this node stands in the newest view of a shard, for people who look for a fault.
    #[doc(hidden)]
    pub fn describe(&self, shard: u16, now: Now) -> String {
        let env = env!(self, now);
        let Some(view) = env.chain.newest(shard) else { return "no such shard".to_owned() };
        let standing = self.acceptor.stations.standing(&env, view);
        let accepted = self.acceptor.stations.accepted(&crate::record::Scope::of(view)).map(|(ballot, _)| *ballot);
        let members: Vec<String> = view.members.iter().map(|member| format!("{:?}", member.identity)).collect();
        let (proposer, votes) = (self.proposer.describe(shard), self.acceptor.votes.may(&env, view));
        let (number, members) = (view.number, members.join(" "));
        let (me, store) = (env.me, &self.acceptor.store_id()[..2]);
        format!(
            "{me:?} store {store:?} view {number} [{members}] {standing:?} {accepted:?} {proposer} may vote {votes}"
        )
    }

    /// Proposes these members for the shard of a key, whatever the policy says: for simulations.
    #[doc(hidden)]
    pub fn force_view(&mut self, key: &LeaseKey, mut members: Vec<Member>, now: Now) {
        members.sort_by_key(|member| member.identity);
        let env = env!(self, now);
        let key = crate::record::RegisterKey::Lease(key.clone());
        let parts = (&self.acceptor, &mut self.coordinator.counter);
        self.proposer.force(&env, &mut self.out, parts, &key, members);
        self.settle(now);
    }
}

#[cfg(test)]
impl Namespace {
    /// An operation that no command leads to.
    pub(crate) fn force(&mut self, key: &LeaseKey, op: (crate::record::OpKind, u64), now: Now) {
        self.leases.force(&env!(self, now), &mut self.out, key, op);
        self.settle(now);
    }

    /// Proposes these members for the shard of a key, above every round up to `above`.
    pub(crate) fn force_view_above(&mut self, key: &LeaseKey, members: Vec<Member>, above: u64, now: Now) {
        self.coordinator.counter.saw(above);
        self.force_view(key, members, now);
    }

    /// What this replica itself holds.
    pub(crate) fn peek(&self, key: &crate::record::RegisterKey, now: Now) -> Option<crate::record::Value> {
        self.acceptor.peek(&env!(self, now), key).cloned()
    }
}

/// What the coordinator must know of the owner of an operation.
fn asker(membership: &Membership, identity: &PublicKey) -> Option<Owner> {
    let peer = identity.peer_id()?;
    let credential = membership.member(&peer)?;
    let rights = membership.rights(&peer)?;
    let quotas = membership.config().quotas;
    let router = rights.roles.contains(Roles::ROUTER);
    let own = |quota: u16| usize::from(quota);
    let hosts = if router { usize::from(rights.hosts) } else { 0 };
    let founder = credential.proof.kind == ProofKind::Genesis;
    Some(Owner {
        identity: *identity,
        serial: rights.serial,
        addresses: own(quotas.addresses) + hosts,
        names: own(quotas.names) + hosts,
        invite: (!founder).then_some(credential.invite.invite),
    })
}
