//! Joining a namespace with a token.
//!
//! The token goes to disk before anything is sent. A contact then shows the founding, the configuration and the views,
//! which the joiner checks against the token alone: it needs no trust in whom it asks. Last it redeems the invite, the
//! same bytes again and again, here and there, until an answer is proven. A crash at any point loses nothing.
//!
//! After each input take all of [`Joiner::poll_output`], then all of [`Joiner::poll_event`].

mod error;
mod targets;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;
use zeroize::Zeroizing;

use crate::clock::Now;
use crate::codec::Wire;
use crate::config::{Config, SignedConfig, SignedGenesis, Verdict};
use crate::credential::{AdmissionProof, Credential, DataKey, data_public};
use crate::event::{Level, Output, Refusal, Write};
use crate::hello::{self, Claim, Heads, MAX_HELLO, Request, Response};
use crate::identity::{PublicKey, SecretKey};
use crate::membership::{DATA_KEY_LIFE_S, Stage, store};
use crate::message::Message;
use crate::namespace::{Image, LoadError};
use crate::redeem::{self, Entry, RedeemOutcome, RedeemRequest, RefusedHint, SpentProof};
use crate::sign::NamespaceId;
use crate::token::Token;
use crate::view::{Chain, Successor, ViewRef, page};

pub use error::JoinError;
use targets::{Step, Targets};

/// How long a contact has to take a connection and answer a hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one coordinator is asked before another contact is.
const REDEEM_TIMEOUT: Duration = Duration::from_secs(15);

/// The first wait, doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(300);

/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What a joiner tells its driver.
#[derive(Debug)]
pub enum JoinerEvent {
    /// For people: what it waits for.
    Progress(String),
    /// This machine is a member once the writes are on disk; then load the [`Namespace`](crate::Namespace).
    Joined {
        /// The namespace.
        ns: NamespaceId,
        /// What its founder called it.
        name: String,
        /// To be written in one transaction. They erase the token.
        writes: Vec<Write>,
    },
    /// Nothing will change this; the joiner does nothing more.
    Failed(JoinError),
}

/// What has been verified of the namespace.
struct Founded {
    genesis: SignedGenesis,
    config: SignedConfig,
    chain: Chain,
}

/// What an answer to a hello comes to.
enum Checked {
    /// All that is needed, and where replicas are.
    All(Box<Founded>, Vec<crate::token::Contact>),
    /// It verifies as far as it goes, and there are more views.
    More,
}

/// What the joiner waits for.
enum Phase {
    /// A contact's answer to a hello.
    Hello { peer: PeerId, until: Instant },
    /// The end of a connection over which a page of the views came. The next page comes with another hello.
    Page { peer: PeerId, until: Instant },
    /// A coordinator's answer to the redemption.
    Redeem { peer: PeerId, again: Instant, wait: Duration, until: Instant },
    /// The next attempt.
    Pause { until: Instant },
    /// Nothing: joined or failed.
    Done,
}

/// The state machine that turns a token into a membership.
pub struct Joiner {
    ns: NamespaceId,
    identity: SecretKey,
    peer_id: PeerId,
    x25519: [u8; 32],
    request: RedeemRequest,
    pinned_config: (u32, u64),
    pinned_views: [u8; 32],
    known_config: Option<SignedConfig>,
    expected_name: String,
    rng: ChaCha20Rng,
    instance: [u8; 8],
    pending: BTreeMap<PeerId, [u8; 16]>,
    satisfied: BTreeSet<PeerId>,
    targets: Targets,
    /// Views that were verified while there were more of them than fit into one answer.
    learnt: Option<(SignedGenesis, Chain)>,
    founded: Option<Founded>,
    phase: Phase,
    output: VecDeque<Output>,
    events: VecDeque<JoinerEvent>,
}

impl std::fmt::Debug for Joiner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Joiner {} of {:?}", self.peer_id, self.ns)
    }
}

impl Joiner {
    /// Begins with a token for the namespace that the user called `name`, which is its name or its identifier;
    /// `data` is the X25519 secret.
    pub fn new(
        identity: SecretKey,
        data: Zeroizing<[u8; 32]>,
        name: &str,
        token: Token,
        image: &Image,
        seed: [u8; 32],
        now: Now,
    ) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let mut instance = [0; 8];
        rng.fill_bytes(&mut instance);
        let entry = Entry::new(&token.ns, &token.key(), &identity);
        let mut joiner = Self {
            ns: token.ns,
            peer_id: identity.peer_id(),
            identity,
            x25519: data_public(&data),
            request: RedeemRequest { invite: token.invite(), entry },
            pinned_config: token.config,
            pinned_views: token.views,
            known_config: None,
            expected_name: name.to_owned(),
            rng,
            instance,
            pending: BTreeMap::new(),
            satisfied: BTreeSet::new(),
            targets: Targets::new(&token.contacts),
            learnt: None,
            founded: None,
            phase: Phase::Done,
            output: VecDeque::from([Output::Persist(vec![store::write_token(&token.to_text())])]),
            events: VecDeque::new(),
        };
        match store::namespace(image) {
            Ok(Some((ns, ..))) if ns != token.ns => joiner.fail(JoinError::Store(LoadError::OtherKey("namespace"))),
            Ok(known) => {
                joiner.known_config = known.map(|(_, _, config)| config);
                joiner.try_next(now);
            }
            Err(error) => joiner.fail(JoinError::Store(error)),
        }
        joiner
    }

    /// Begins again after a crash, with the token that the store still has.
    pub fn resume(
        identity: SecretKey,
        data: Zeroizing<[u8; 32]>,
        name: &str,
        image: &Image,
        seed: [u8; 32],
        now: Now,
    ) -> Result<Self, JoinError> {
        match store::stage(image).map_err(JoinError::Store)? {
            Stage::Joining(text) => {
                let token = Token::parse(&text).map_err(|_| JoinError::Store(LoadError::Damaged("invite")))?;
                Ok(Self::new(identity, data, name, token, image, seed, now))
            }
            Stage::Empty | Stage::Joined(_) => Err(JoinError::Store(LoadError::Missing("invite"))),
        }
    }

    /// The namespace of the token.
    pub fn ns(&self) -> NamespaceId {
        self.ns
    }

    /// Adds an address of a contact, such as what the DNS name in the token stands for.
    pub fn add_address(&mut self, peer: PeerId, addr: SocketAddr) {
        self.targets.add(peer, &[addr]);
    }

    /// DNS names in the token, to be looked up and given to [`add_address`](Self::add_address).
    pub fn dns_contacts(&self) -> &[(PeerId, String, u16)] {
        self.targets.dns()
    }

    /// The first bytes to a peer that this node dialled.
    pub fn hello(&mut self, to: PeerId, _now: Now) -> Vec<u8> {
        let mut nonce = [0; 16];
        self.rng.fill_bytes(&mut nonce);
        self.pending.insert(to, nonce);
        let heads = Heads { era: self.pinned_config.0, version: self.pinned_config.1, list: 0 };
        Request {
            tag: hello::request_tag(&self.ns, &nonce, &self.peer_id, &to),
            nonce,
            instance: self.instance,
            heads,
            claim: Claim::Joiner(Box::new(self.request), self.pinned_views),
            known: self.learnt.as_ref().map(|(_, chain)| chain.heads()).unwrap_or_default(),
            views: Vec::new(),
        }
        .to_bytes()
    }

    /// The answer to [`hello`](Self::hello). After `Err` close the connection.
    pub fn handle_hello_response(&mut self, from: PeerId, response: &[u8], now: Now) -> Result<(), Refusal> {
        let nonce = self.pending.remove(&from).ok_or(Refusal::NotAdmitted)?;
        if matches!(self.phase, Phase::Done) {
            return Ok(());
        }
        let response = self.parse_response(&from, &nonce, response).inspect_err(|_| self.give_up(from, now))?;
        match self.check_response(&from, response, now) {
            Ok(Checked::More) => {
                self.phase = Phase::Page { peer: from, until: now.mono + HELLO_TIMEOUT };
                Err(Refusal::UnknownView)
            }
            Ok(Checked::All(founded, replicas)) => {
                let founded = *founded;
                self.output.push_back(Output::Persist(store::write_namespace(
                    &founded.genesis,
                    &founded.config,
                    &founded.chain,
                )));
                self.output.push_back(Output::Admit { peer: from, level: Level::Member });
                self.founded = Some(founded);
                self.satisfied.insert(from);
                self.redeem_at(from, &replicas, now);
                Ok(())
            }
            Err(error) if error.is_final() => {
                self.fail(error);
                Err(Refusal::Forged)
            }
            Err(error) => {
                self.targets.accuse(&from, error);
                self.give_up(from, now);
                Err(Refusal::Forged)
            }
        }
    }

    /// A message from a peer whose answer to the hello was good.
    pub fn handle_message(&mut self, from: PeerId, message: &[u8], now: Now) {
        let Ok(Message::Redeemed(answer)) = Message::from_bytes(message) else { return };
        if answer.invite != self.request.invite.invite || matches!(self.phase, Phase::Done) {
            return;
        }
        match answer.outcome {
            RedeemOutcome::Admitted(proof) => self.handle_admitted(from, proof, now),
            RedeemOutcome::Spent(proof) => self.handle_spent(from, &proof, now),
            RedeemOutcome::Refused(hint) => {
                let error = match hint {
                    RefusedHint::Expired => JoinError::Expired,
                    RefusedHint::Era => JoinError::Void,
                    RefusedHint::Signature => JoinError::Forged,
                };
                self.targets.accuse(&from, error);
                self.give_up(from, now);
            }
            RedeemOutcome::Retry => {}
        }
    }

    /// The last connection to this peer ended, it could not be dialled, or a message to it could not be delivered.
    pub fn handle_gone(&mut self, peer: PeerId, now: Now) {
        self.satisfied.remove(&peer);
        if self.pending.remove(&peer).is_some() {
            self.targets.closed_without_answer(&peer);
        }
        self.give_up(peer, now);
    }

    /// Time has come to [`poll_timeout`](Self::poll_timeout), or any other time.
    pub fn handle_timeout(&mut self, now: Now) {
        match self.phase {
            Phase::Hello { peer, until } | Phase::Page { peer, until } if now.mono >= until => self.give_up(peer, now),
            Phase::Redeem { peer, until, .. } if now.mono >= until => self.ask_anew(peer, now),
            Phase::Redeem { peer, again, wait, until } if now.mono >= again => {
                let wait = (wait * 2).min(LONGEST_WAIT);
                self.phase = Phase::Redeem { peer, again: now.mono + wait, wait, until };
                self.send_redeem(peer);
            }
            Phase::Pause { until } if now.mono >= until => self.try_next(now),
            Phase::Hello { .. } | Phase::Page { .. } | Phase::Redeem { .. } | Phase::Pause { .. } | Phase::Done => {}
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        match self.phase {
            Phase::Hello { until, .. } => Some((until, "a contact does not answer")),
            Phase::Page { until, .. } => Some((until, "a connection does not end")),
            Phase::Redeem { again, until, .. } => Some((again.min(until), "ask again for a slot")),
            Phase::Pause { until } => Some((until, "ask the next contact")),
            Phase::Done => None,
        }
    }

    /// The next thing to be done, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    /// The next thing to be told.
    pub fn poll_event(&mut self) -> Option<JoinerEvent> {
        self.events.pop_front()
    }

    fn try_next(&mut self, now: Now) {
        match self.targets.next() {
            // Still connected, so nobody would say hello again.
            Step::Dial { peer, .. } if self.satisfied.contains(&peer) => self.start_redeeming(peer, now),
            Step::Dial { peer, addrs } => {
                self.events.push_back(JoinerEvent::Progress(format!("asking {peer}")));
                self.dial(peer, addrs, now);
            }
            Step::RoundOver { wait } => {
                // Its own clock ends a joiner only after everybody was asked once: who has a slot already must be
                // able to fetch the proof of it.
                let body = &self.request.invite.body;
                if now.unix_s > body.not_after.saturating_add(300) {
                    self.fail(JoinError::Expired);
                    return;
                }
                self.events.push_back(JoinerEvent::Progress("no contact answers yet".to_owned()));
                self.phase = Phase::Pause { until: now.mono + wait };
            }
            Step::Hopeless(error) => self.fail(error),
        }
    }

    fn dial(&mut self, peer: PeerId, addrs: Vec<SocketAddr>, now: Now) {
        self.phase = Phase::Hello { peer, until: now.mono + HELLO_TIMEOUT };
        self.output.push_back(Output::Dial { peer, addrs });
    }

    /// Turns to the next contact if it is this one that is waited for, or asks it for what follows.
    fn give_up(&mut self, peer: PeerId, now: Now) {
        match self.phase {
            Phase::Hello { peer: awaited, .. } | Phase::Redeem { peer: awaited, .. } if awaited == peer => {
                self.try_next(now);
            }
            Phase::Page { peer: awaited, .. } if awaited == peer => self.dial(peer, self.targets.addresses(&peer), now),
            Phase::Hello { .. } | Phase::Page { .. } | Phase::Redeem { .. } | Phase::Pause { .. } | Phase::Done => {}
        }
    }

    /// What was learnt from this peer may be out of date: views change, and a proof that rests on a newer one proves
    /// nothing here. The next connection begins with a hello, and that brings what is new.
    fn ask_anew(&mut self, peer: PeerId, now: Now) {
        if self.satisfied.remove(&peer) {
            self.output.push_back(Output::Refuse { peer, reason: Refusal::UnknownView });
        }
        self.give_up(peer, now);
    }

    fn fail(&mut self, error: JoinError) {
        self.phase = Phase::Done;
        self.events.push_back(JoinerEvent::Failed(error));
    }

    fn parse_response(&self, from: &PeerId, nonce: &[u8; 16], response: &[u8]) -> Result<Response, Refusal> {
        if response.len() > MAX_HELLO {
            return Err(Refusal::Malformed);
        }
        let response = Response::from_bytes(response).map_err(|_| Refusal::Malformed)?;
        if !hello::same_tag(&hello::response_tag(&self.ns, nonce, &self.peer_id, from), &response.tag) {
            return Err(Refusal::OtherNamespace);
        }
        Ok(response)
    }

    /// Everything from the token outwards: founding, configuration, own invite, views, and only then the contact.
    fn check_response(&mut self, from: &PeerId, response: Response, now: Now) -> Result<Checked, JoinError> {
        let (Some(start), Some(config)) = (response.start, response.config) else {
            return Err(JoinError::Incomplete);
        };
        start.genesis.verify(&self.ns).map_err(JoinError::Config)?;
        let name = &start.genesis.first.config().name;
        if *name != self.expected_name && self.ns.to_string() != self.expected_name {
            return Err(JoinError::Name { wanted: self.expected_name.clone(), actual: name.clone() });
        }
        if start.genesis.first.judge(&config, &self.ns).map_err(JoinError::Config)? == Verdict::Older {
            return Err(JoinError::Stale);
        }
        let known = self.known_config.as_ref().map(|known| known.config().rank());
        if config.config().rank() < known.unwrap_or_default().max(self.pinned_config) {
            return Err(JoinError::Stale);
        }
        self.request.verify(&self.ns, config.config()).map_err(|_| JoinError::Forged)?;
        let founded = (&start.genesis, config.config());
        let Some(chain) = self.learn(founded, &response.views)? else { return Ok(Checked::More) };
        if ViewRef::list_hash(&start.pinned) != self.pinned_views || !chain.passes(&start.pinned) {
            return Err(JoinError::Stale);
        }
        if PublicKey::from_peer_id(from) != Some(response.credential.identity()) {
            return Err(JoinError::Contact);
        }
        response.credential.verify(&self.ns, config.config(), &chain).map_err(|_| JoinError::Contact)?;
        if now.unix_s >= config.config().issued_at {
            response.credential.verify_dates(now.unix_s).map_err(|_| JoinError::Contact)?;
        }
        Ok(Checked::All(Box::new(Founded { genesis: start.genesis, config, chain }), start.replicas))
    }

    /// Takes a page of views over. `None` if there are more: then this one is kept, and whoever is asked next goes on from it.
    fn learn(
        &mut self,
        (genesis, config): (&SignedGenesis, &Config),
        views: &[Successor],
    ) -> Result<Option<Chain>, JoinError> {
        let learnt = self.learnt.take().filter(|(of, _)| of == genesis);
        let mut chain = learnt.map_or_else(|| Chain::new(self.ns, &genesis.genesis), |(_, chain)| chain);
        chain.vouch(config);
        let known = chain.successors().len();
        let taken = views.iter().try_for_each(|successor| chain.extend(successor).map(drop));
        let more = taken.is_ok() && page::is_full(views) && chain.successors().len() > known;
        self.learnt = Some((genesis.clone(), chain.clone()));
        taken.map_err(|_| JoinError::Stale)?;
        Ok((!more).then_some(chain))
    }

    /// Redeems at this peer if it is a replica of the invite's register, else at a replica that it knows of.
    fn redeem_at(&mut self, from: PeerId, replicas: &[crate::token::Contact], now: Now) {
        let Some(founded) = &self.founded else { return };
        let shard = redeem::shard_of(&self.ns, &self.request.invite.invite, founded.chain.shard_count());
        let members: Vec<PublicKey> = founded
            .chain
            .newest(shard)
            .map(|view| view.members.iter().map(|m| m.identity).collect())
            .unwrap_or_default();
        let is_replica = PublicKey::from_peer_id(&from).is_some_and(|identity| members.contains(&identity));
        if !is_replica {
            let known = replicas.iter().filter(|contact| members.contains(&contact.identity));
            if self.targets.add_replicas(known) {
                self.try_next(now);
                return;
            }
        }
        // A member that is no replica may still pass it on.
        self.start_redeeming(from, now);
    }

    fn start_redeeming(&mut self, from: PeerId, now: Now) {
        self.events.push_back(JoinerEvent::Progress(format!("redeeming the invite at {from}")));
        self.phase = Phase::Redeem {
            peer: from,
            again: now.mono + FIRST_WAIT,
            wait: FIRST_WAIT,
            until: now.mono + REDEEM_TIMEOUT,
        };
        self.send_redeem(from);
    }

    fn send_redeem(&mut self, to: PeerId) {
        self.output.push_back(Output::Send { to, message: Message::Redeem(self.request).to_bytes() });
    }

    fn handle_admitted(&mut self, from: PeerId, proof: AdmissionProof, now: Now) {
        let Some(founded) = &self.founded else { return };
        let config = founded.config.config();
        let until = if now.unix_s >= config.issued_at { now.unix_s.saturating_add(DATA_KEY_LIFE_S) } else { 0 };
        let data_key = DataKey { seq: 1, x25519: self.x25519, until };
        let RedeemRequest { invite, entry } = self.request;
        let credential = Credential::new(&self.ns, &self.identity, invite, entry, proof, data_key);
        if credential.verify(&self.ns, config, &founded.chain).is_err() {
            // Not proven, so not believed.
            return self.ask_anew(from, now);
        }
        let mut store_id = [0; 16];
        self.rng.fill_bytes(&mut store_id);
        let mut writes = store::write_namespace(&founded.genesis, &founded.config, &founded.chain);
        writes.push(store::write_store_id(store_id));
        writes.push(store::write_credential(&credential));
        writes.push(store::erase_token());
        self.phase = Phase::Done;
        let name = config.name.clone();
        self.events.push_back(JoinerEvent::Joined { ns: self.ns, name, writes });
    }

    /// Believed only with the proof: a value that was never chosen could turn everybody away.
    fn handle_spent(&mut self, from: PeerId, proof: &SpentProof, now: Now) {
        let Some(founded) = &self.founded else { return };
        let proven = proof.verify(&self.ns, &self.request.invite, founded.config.config(), &founded.chain);
        if proven.is_err() || proof.redeemed.slot_of(&self.identity.public()).is_some() {
            return self.ask_anew(from, now);
        }
        let winners = proof.redeemed.entries.iter().filter_map(|entry| entry.identity.peer_id()).collect();
        self.fail(JoinError::Spent { winners });
    }
}
