//! Who is a member: this node's own credential, what it was founded on, and every peer it has checked.
//!
//! Everything from a peer is verified before it is stored, and stored before it is used.

mod dates;
#[cfg(test)]
pub(crate) mod fixture;
pub(crate) mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use crate::clock::Now;
use crate::codec::Wire;
use crate::config::{Config, ConfigError, SignedConfig, Verdict};
use crate::credential::{Credential, CredentialError, DataKey, data_public};
use crate::event::{Event, Level, Output, Refusal};
use crate::hello::{self, Claim, Heads, MAX_HELLO, Request, Response, Start};
use crate::identity::{PublicKey, SecretKey};
use crate::invite::Roles;
use crate::message::Message;
use crate::namespace::{Image, LoadError};
use crate::record::Scope;
use crate::redeem::{RedeemError, RedeemRequest};
use crate::sign::{self, NamespaceId};
use crate::token::Contact;
use crate::view::{Chain, ChainError, Successor, page};
use dates::Dates;
use store::Stored;

pub use store::{Stage, stage};

/// How long a data key is signed for; signed again when a third is over.
pub(crate) const DATA_KEY_LIFE_S: u64 = 30 * 86_400;

/// Credentials that need not be verified again.
const MAX_VERIFIED: usize = 4096;

/// Members whose keys are remembered after they went.
const MAX_MEMBERS: usize = 4096;

/// Joiners at one time.
const MAX_JOINERS: usize = 64;

/// Hellos of ours that wait for an answer.
const MAX_PENDING: usize = 256;

/// How often the date that is surely past goes to disk.
const SAVE_DATE: Duration = Duration::from_secs(3600);

/// What one admitted peer may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Its roles.
    pub roles: Roles,
    /// How many addresses of hosts it may hold, if it is a router.
    pub hosts: u16,
    /// The serial of its membership.
    pub serial: [u8; 16],
}

/// What the data plane needs to know of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberKeys {
    /// Its X25519 key.
    pub x25519: [u8; 32],
    /// What names its credential.
    pub credential_hash: [u8; 32],
}

/// Membership of one namespace on this node. After each input take all of [`poll_output`](Self::poll_output).
pub struct Membership {
    identity: SecretKey,
    peer_id: PeerId,
    stored: Stored,
    rng: ChaCha20Rng,
    instance: [u8; 8],
    dates: Dates,
    next_save: Instant,
    admitted: BTreeMap<PeerId, Level>,
    members: BTreeMap<PeerId, Credential>,
    verified: VecDeque<[u8; 32]>,
    pending: BTreeMap<PeerId, [u8; 16]>,
    replicas: BTreeMap<PeerId, Contact>,
    output: VecDeque<Output>,
    refused: BTreeMap<Refusal, u64>,
    refused_credentials: BTreeMap<CredentialError, u64>,
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Membership of {} in {:?}", self.peer_id, self.stored.ns)
    }
}

impl Membership {
    /// Resumes from disk, verifying everything again.
    pub fn load(
        identity: SecretKey,
        data: &[u8; 32],
        image: &Image,
        seed: [u8; 32],
        now: Now,
    ) -> Result<Self, LoadError> {
        let stored = Stored::load(image)?;
        if stored.credential.identity() != identity.public() {
            return Err(LoadError::OtherKey("identity"));
        }
        if stored.credential.data_key.x25519 != data_public(data) {
            return Err(LoadError::OtherKey("data key"));
        }
        let mut rng = ChaCha20Rng::from_seed(seed);
        let mut instance = [0; 8];
        rng.fill_bytes(&mut instance);
        let floor = stored.floor.max(stored.config.config().issued_at);
        let mut membership = Self {
            peer_id: identity.peer_id(),
            identity,
            stored,
            rng,
            instance,
            dates: Dates::new(floor, now),
            next_save: now.mono + SAVE_DATE,
            admitted: BTreeMap::new(),
            members: BTreeMap::new(),
            verified: VecDeque::new(),
            pending: BTreeMap::new(),
            replicas: BTreeMap::new(),
            output: VecDeque::new(),
            refused: BTreeMap::new(),
            refused_credentials: BTreeMap::new(),
        };
        membership.renew_data_key(now);
        Ok(membership)
    }

    /// The namespace.
    pub fn ns(&self) -> NamespaceId {
        self.stored.ns
    }
    /// The newest configuration.
    pub fn config(&self) -> &Config {
        self.stored.config.config()
    }
    /// The newest configuration, as it was signed.
    pub fn signed_config(&self) -> &SignedConfig {
        &self.stored.config
    }
    /// The verified views.
    pub fn chain(&self) -> &Chain {
        &self.stored.chain
    }
    /// This node's own credential.
    pub fn credential(&self) -> &Credential {
        &self.stored.credential
    }
    /// This node's key, for signing.
    pub fn identity(&self) -> &SecretKey {
        &self.identity
    }
    /// This node's name.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }
    /// The number of this node's lease store, as views name it.
    pub fn store_id(&self) -> [u8; 16] {
        self.stored.store_id
    }
    /// The lease store began anew. Its new number is on disk with what else that means.
    pub(crate) fn set_store_id(&mut self, store_id: [u8; 16]) {
        self.stored.store_id = store_id;
    }
    /// How many other members were met.
    pub(crate) fn others(&self) -> usize {
        self.members.len()
    }
    /// Random per process.
    pub fn instance(&self) -> [u8; 8] {
        self.instance
    }
    /// Version numbers of what the authority signs.
    pub fn heads(&self) -> Heads {
        let (era, version) = self.config().rank();
        Heads { era, version, list: 0 }
    }
    /// How far a peer is let in.
    pub fn level(&self, peer: &PeerId) -> Option<Level> {
        self.admitted.get(peer).copied()
    }
    /// Everybody who is let in.
    pub fn admitted(&self) -> impl Iterator<Item = (&PeerId, Level)> {
        self.admitted.iter().map(|(peer, level)| (peer, *level))
    }
    /// The credential of a member, this node included.
    pub fn member(&self, peer: &PeerId) -> Option<&Credential> {
        if *peer == self.peer_id { Some(&self.stored.credential) } else { self.members.get(peer) }
    }
    /// What a member may do, this node included.
    pub fn rights(&self, peer: &PeerId) -> Option<Rights> {
        let credential = self.member(peer)?;
        let body = &credential.invite.body;
        Some(Rights { roles: body.roles, hosts: body.quota, serial: credential.serial(&self.stored.ns) })
    }
    /// What the data plane needs to know of a member.
    pub fn keys_of(&self, peer: &PeerId) -> Option<MemberKeys> {
        let credential = self.member(peer)?;
        Some(MemberKeys { x25519: credential.data_key.x25519, credential_hash: credential.hash(&self.stored.ns) })
    }
    /// Hellos and messages that were turned away, by reason.
    pub fn refused(&self) -> &BTreeMap<Refusal, u64> {
        &self.refused
    }
    /// Credentials that were turned away, by the check that they failed.
    pub fn refused_credentials(&self) -> &BTreeMap<CredentialError, u64> {
        &self.refused_credentials
    }

    /// Remembers where a replica is, for joiners.
    pub fn set_replica_contact(&mut self, contact: Contact) {
        if let Some(peer) = contact.identity.peer_id()
            && self.is_replica(&contact.identity)
        {
            self.replicas.insert(peer, contact);
        }
    }

    fn is_replica(&self, identity: &PublicKey) -> bool {
        let chain = &self.stored.chain;
        let views = (0..chain.shard_count()).filter_map(|shard| chain.newest(shard));
        views.into_iter().any(|view| view.index_of(identity).is_some())
    }

    /// The first bytes to a peer that this node dialled.
    pub fn hello(&mut self, to: PeerId, _now: Now) -> Vec<u8> {
        let mut nonce = [0; 16];
        self.rng.fill_bytes(&mut nonce);
        while self.pending.len() >= MAX_PENDING {
            self.pending.pop_first();
        }
        self.pending.insert(to, nonce);
        Request {
            tag: hello::request_tag(&self.stored.ns, &nonce, &self.peer_id, &to),
            nonce,
            instance: self.instance,
            heads: self.heads(),
            claim: Claim::Member(Box::new(self.stored.credential.clone())),
            known: self.stored.chain.heads(),
            // Those that somebody lacks who was away for a while; whoever was away for longer asks for more itself.
            views: page::last(self.views_to_check_us()),
        }
        .to_bytes()
    }

    /// A dialler's first bytes. `Ok` is the answer, and the peer is admitted; after `Err` say nothing and close.
    pub fn handle_hello(&mut self, from: PeerId, request: &[u8], now: Now) -> Result<Vec<u8>, Refusal> {
        let result = self.try_handle_hello(from, request, now);
        self.count(result)
    }

    /// The answer to [`hello`](Self::hello).
    pub fn handle_hello_response(&mut self, from: PeerId, response: &[u8], now: Now) -> Result<(), Refusal> {
        let result = self.try_handle_hello_response(from, response, now);
        self.count(result)
    }

    /// The last connection to this peer ended.
    pub fn handle_gone(&mut self, peer: PeerId) {
        self.admitted.remove(&peer);
        self.pending.remove(&peer);
    }

    /// Judges a configuration from a peer, and stores a newer one before it counts.
    pub fn observe_config(&mut self, offered: SignedConfig) -> Result<Verdict, ConfigError> {
        let verdict = self.stored.config.judge(&offered, &self.stored.ns)?;
        if verdict == Verdict::Newer {
            self.output.push_back(Output::Persist(vec![store::write_config(&offered)]));
            self.dates.raise_floor(offered.config().issued_at);
            self.stored.chain.vouch(offered.config());
            self.stored.config = offered;
        }
        Ok(verdict)
    }

    /// Adds a view that a peer has shown, and stores it before it counts.
    pub fn observe_view(&mut self, successor: &Successor) -> Result<bool, ChainError> {
        let added = self.stored.chain.extend(successor)?;
        if added {
            self.output.push_back(Output::Persist(vec![store::write_view(successor)]));
        }
        Ok(added)
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.dates.advance(now);
        if now.mono >= self.next_save {
            self.next_save = now.mono + SAVE_DATE;
            if self.dates.trusts(now) && now.unix_s > self.stored.floor {
                self.stored.floor = self.dates.judge(now);
                self.output.push_back(Output::Persist(vec![store::write_floor(self.stored.floor)]));
            }
            self.renew_data_key(now);
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        Some((self.next_save, "save the date"))
    }

    /// The next thing to be done, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    fn try_handle_hello(&mut self, from: PeerId, request: &[u8], now: Now) -> Result<Vec<u8>, Refusal> {
        if request.len() > MAX_HELLO {
            return Err(Refusal::Malformed);
        }
        // The tag comes first, so that whoever does not know the namespace learns nothing from what is refused.
        let request = Request::from_bytes(request).map_err(|_| Refusal::Malformed)?;
        let tag = hello::request_tag(&self.stored.ns, &request.nonce, &from, &self.peer_id);
        if !hello::same_tag(&tag, &request.tag) {
            return Err(Refusal::OtherNamespace);
        }
        let start = match request.claim {
            Claim::Member(credential) => {
                self.take_views(&request.views);
                self.admit_member(from, *credential, now)?;
                self.tell_news(from, request.heads);
                None
            }
            Claim::Joiner(redeem, pin) => {
                self.admit_joiner(from, &redeem)?;
                Some(self.start(&pin))
            }
        };
        let config = (request.heads < self.heads() || start.is_some()).then(|| self.stored.config.clone());
        let response = Response {
            tag: hello::response_tag(&self.stored.ns, &request.nonce, &from, &self.peer_id),
            instance: self.instance,
            heads: self.heads(),
            credential: self.stored.credential.clone(),
            views: self.news_for(&request.known, start.is_some()),
            config,
            start,
        };
        Ok(response.to_bytes())
    }

    fn try_handle_hello_response(&mut self, from: PeerId, response: &[u8], now: Now) -> Result<(), Refusal> {
        let nonce = self.pending.remove(&from).ok_or(Refusal::NotAdmitted)?;
        if response.len() > MAX_HELLO {
            return Err(Refusal::Malformed);
        }
        let response = Response::from_bytes(response).map_err(|_| Refusal::Malformed)?;
        let tag = hello::response_tag(&self.stored.ns, &nonce, &self.peer_id, &from);
        if !hello::same_tag(&tag, &response.tag) {
            return Err(Refusal::OtherNamespace);
        }
        let mut verdict = Verdict::Same;
        if let Some(config) = response.config {
            verdict = self.observe_config(config).map_err(|_| Refusal::Forged)?;
        }
        self.take_views(&response.views);
        self.admit_member(from, response.credential, now)?;
        self.tell_news(from, response.heads);
        if verdict == Verdict::Newer {
            // What the listener said besides may have come before this node let it in.
            self.output.push_back(Output::Send { to: from, message: Message::Fetch.to_bytes() });
        }
        Ok(())
    }

    /// What the authority decided last goes to a member that has not heard of it.
    fn tell_news(&mut self, to: PeerId, heads: Heads) {
        if heads < self.heads() {
            self.output.push_back(Output::Send { to, message: self.news().to_bytes() });
        }
    }

    /// The newest configuration, with the views that nothing but it proves.
    pub(crate) fn news(&self) -> Message {
        let mut bytes = self.stored.config.to_bytes();
        let recovered = self.stored.chain.successors().iter().filter(|successor| successor.votes.is_empty());
        bytes.extend(recovered.flat_map(Wire::to_bytes));
        Message::Fetched { bytes }
    }

    /// Takes what verifies; a view that does not is no reason to turn its sender away, only of no use to it.
    fn take_views(&mut self, views: &[Successor]) {
        for successor in views {
            if self.observe_view(successor).is_err() {
                return;
            }
        }
    }

    /// A member has shown its credential by way of others: it is known from here on, and let in nowhere.
    pub(crate) fn introduced(&mut self, from: PeerId, credential: Credential, now: Now) -> Result<(), Refusal> {
        let before = self.keys_of(&from);
        self.learn_member(from, credential, now)?;
        if let Some(keys) = self.keys_of(&from).filter(|keys| before != Some(*keys)) {
            let MemberKeys { x25519, credential_hash } = keys;
            self.output.push_back(Output::Event(Event::PeerKeys { peer: from, x25519, credential_hash }));
        }
        Ok(())
    }

    fn admit_member(&mut self, from: PeerId, credential: Credential, now: Now) -> Result<(), Refusal> {
        self.learn_member(from, credential, now)?;
        self.admitted.insert(from, Level::Member);
        self.output.push_back(Output::Admit { peer: from, level: Level::Member });
        if let Some(MemberKeys { x25519, credential_hash }) = self.keys_of(&from) {
            self.output.push_back(Output::Event(Event::PeerKeys { peer: from, x25519, credential_hash }));
        }
        Ok(())
    }

    /// Remembers a member whose credential holds.
    fn learn_member(&mut self, from: PeerId, credential: Credential, now: Now) -> Result<(), Refusal> {
        if let Err(error) = self.check_credential(&from, &credential, now) {
            *self.refused_credentials.entry(error).or_default() += 1;
            return Err(refusal(error));
        }
        let identity = credential.identity();
        let seq = credential.data_key.seq;
        if self.stored.data_seqs.get(&identity).is_none_or(|known| *known < seq) {
            self.stored.data_seqs.insert(identity, seq);
            self.output.push_back(Output::Persist(vec![store::write_data_seq(&identity, seq)]));
        }
        while self.members.len() >= MAX_MEMBERS && !self.members.contains_key(&from) {
            let gone = self.members.keys().find(|peer| !self.admitted.contains_key(peer)).copied();
            let Some(gone) = gone else { return Err(Refusal::TooMany) };
            self.members.remove(&gone);
        }
        self.members.insert(from, credential);
        Ok(())
    }

    /// Cheap checks first; each failure has its own counter.
    fn check_credential(&mut self, from: &PeerId, credential: &Credential, now: Now) -> Result<(), CredentialError> {
        if PublicKey::from_peer_id(from) != Some(credential.identity()) {
            return Err(CredentialError::Foreign);
        }
        let known = self.stored.data_seqs.get(&credential.identity());
        if known.is_some_and(|known| credential.data_key.seq < *known) {
            return Err(CredentialError::OldDataKey);
        }
        // The configuration is part of the name: what it changes must be judged again.
        let name = sign::hash("verified", &[&self.stored.config.hash(), &credential.to_bytes()]);
        if !self.verified.contains(&name) {
            credential.verify(&self.stored.ns, self.stored.config.config(), &self.stored.chain)?;
            if self.verified.len() >= MAX_VERIFIED {
                self.verified.pop_front();
            }
            self.verified.push_back(name);
        }
        self.dates.advance(now);
        if self.dates.trusts(now) {
            credential.verify_dates(self.dates.judge(now))?;
        }
        Ok(())
    }

    /// Dates are not judged here: who was given a slot before the invite expired may still fetch the proof of it.
    fn admit_joiner(&mut self, from: PeerId, redeem: &RedeemRequest) -> Result<(), Refusal> {
        if PublicKey::from_peer_id(&from) != Some(redeem.entry.identity) {
            return Err(Refusal::ForeignCredential);
        }
        redeem.verify(&self.stored.ns, self.stored.config.config()).map_err(|error| match error {
            RedeemError::Invite(crate::invite::InviteError::Era) => Refusal::Expired,
            RedeemError::Invite(_)
            | RedeemError::Entry
            | RedeemError::Repeated
            | RedeemError::Full
            | RedeemError::UnknownView
            | RedeemError::Votes(_)
            | RedeemError::Mismatch => Refusal::Forged,
        })?;
        let joiners = self.admitted.values().filter(|level| **level == Level::Joiner).count();
        if joiners >= MAX_JOINERS {
            return Err(Refusal::TooMany);
        }
        // A member that comes again with its invite stays a member.
        if self.admitted.get(&from) != Some(&Level::Member) {
            self.admitted.insert(from, Level::Joiner);
            self.output.push_back(Output::Admit { peer: from, level: Level::Joiner });
        }
        Ok(())
    }

    fn start(&self, pin: &[u8; 32]) -> Start {
        Start {
            genesis: self.stored.genesis.clone(),
            pinned: self.stored.chain.list_with_hash(pin).unwrap_or_default(),
            // Who was one when it was named may be none any more.
            replicas: self
                .replicas
                .values()
                .filter(|known| self.is_replica(&known.identity))
                .take(16)
                .cloned()
                .collect(),
        }
    }

    /// The views of the shard that admitted this node, up to the one that did.
    fn views_to_check_us(&self) -> impl DoubleEndedIterator<Item = &Successor> {
        let proof = &self.stored.credential.proof;
        let rests_on = |next: &&Successor| {
            let Successor { view, .. } = next;
            view.shard == proof.shard && view.number <= proof.view && view.incarnation <= proof.incarnation
        };
        self.stored.chain.successors().iter().filter(rests_on)
    }

    /// A page of what a dialler lacks who knows so much: of everything, or of what it needs to check this node.
    fn news_for(&self, known: &[Scope], everything: bool) -> Vec<Successor> {
        let news = |next: &&Successor| page::is_news(known, &next.view);
        if everything {
            page::first(self.stored.chain.successors().iter().filter(news))
        } else {
            page::first(self.views_to_check_us().filter(news))
        }
    }

    fn renew_data_key(&mut self, now: Now) {
        let key = self.stored.credential.data_key;
        let until = if self.dates.trusts(now) { now.unix_s.saturating_add(DATA_KEY_LIFE_S) } else { 0 };
        let left = key.until.saturating_sub(now.unix_s);
        if until == 0 || left > DATA_KEY_LIFE_S / 3 * 2 && left <= DATA_KEY_LIFE_S {
            return;
        }
        let old = self.stored.credential.clone();
        let data_key = DataKey { until, ..key };
        self.stored.credential =
            Credential::new(&self.stored.ns, &self.identity, old.invite, old.entry, old.proof, data_key);
        self.output.push_back(Output::Persist(vec![store::write_credential(&self.stored.credential)]));
    }

    fn count<T>(&mut self, result: Result<T, Refusal>) -> Result<T, Refusal> {
        if let Err(refusal) = &result {
            *self.refused.entry(*refusal).or_default() += 1;
        }
        result
    }
}

fn refusal(error: CredentialError) -> Refusal {
    match error {
        CredentialError::Layout => Refusal::Malformed,
        CredentialError::Foreign => Refusal::ForeignCredential,
        CredentialError::UnknownView => Refusal::UnknownView,
        CredentialError::Era | CredentialError::Expired | CredentialError::DataKeyExpired => Refusal::Expired,
        CredentialError::Invite
        | CredentialError::Member
        | CredentialError::DataKey
        | CredentialError::OldDataKey
        | CredentialError::Votes
        | CredentialError::Proof => Refusal::Forged,
    }
}
