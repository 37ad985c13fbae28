//! Who owns an address or a name: from certificates that were handed over, else from a quorum of replicas.
//!
//! A certificate has no date: it counts for as long as a live peer says, never for longer than it can last after this
//! node first saw its token, and never against a higher token. *Absent* is only what a quorum says; silence is *unknown*.

mod eras;

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use crate::ballot::{Ballot, Token};
use crate::certificate::{CertError, LeaseCert, MAX_CERTIFICATE, accepted_body};
use crate::clock::OwnerTime;
use crate::codec::Wire;
use crate::command::{ClientId, CommandId, LeaseKey};
use crate::env::{DropReason, Env, Outbox};
use crate::event::{Event, Proven, Resolution};
use crate::identity::PublicKey;
use crate::message::{Message, ReadHeld};
use crate::record::{Hint, RegisterKey, Scope, Value, normal_name};
use crate::sign::{Label, verify};
use crate::view::{View, Vote};
use eras::Eras;

/// Longest use of an answer; refreshed at half.
const POSITIVE: Duration = Duration::from_secs(600);
/// A quorum's "nobody" is repeated for so long.
const NEGATIVE: Duration = Duration::from_secs(5);
/// A read without a quorum is sent again after this, and is unknown after the other.
const ASK_AGAIN: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(3);
/// Most entries of each table here.
const MAX_ENTRIES: usize = 4096;
/// Most questions under way, and most that wait for one answer.
const MAX_READS: usize = 1024;
const MAX_WAITING: usize = 64;

/// What a quorum, or a live owner, said last about a key.
#[derive(Clone, Debug)]
struct Cached {
    /// `None`: nobody has it.
    found: Option<Found>,
    /// When it was said, and until when it is used, on the clock that stops early.
    since: OwnerTime,
    until: OwnerTime,
}

#[derive(Clone, Debug)]
struct Found {
    owner: PublicKey,
    client: ClientId,
    token: Token,
    hint: Hint,
    certificate: Vec<u8>,
}

/// The highest token that was seen of an address.
#[derive(Clone, Copy, Debug)]
struct Seen {
    token: Token,
    owner: PublicKey,
    first: OwnerTime,
}

/// A table that forgets what it learned first.
#[derive(Debug)]
struct Bounded<V> {
    map: BTreeMap<LeaseKey, V>,
    order: VecDeque<LeaseKey>,
}

impl<V> Bounded<V> {
    fn new() -> Self {
        Self { map: BTreeMap::new(), order: VecDeque::new() }
    }
    fn insert(&mut self, key: LeaseKey, value: V) {
        if self.map.insert(key.clone(), value).is_none() {
            self.order.push_back(key);
        }
        while self.map.len() > MAX_ENTRIES {
            let Some(oldest) = self.order.pop_front() else { break };
            self.map.remove(&oldest);
        }
    }
}

/// A question under way.
#[derive(Debug)]
struct Read {
    id: u64,
    replies: BTreeMap<u8, Option<ReadHeld>>,
    waiting: Vec<Question>,
    again: Instant,
    deadline: Instant,
}

/// Who asked, and what is to become of the answer.
#[derive(Clone, Debug)]
enum Question {
    /// The owner of an address.
    Address(CommandId),
    /// The address of a name: first the name's record...
    Name(CommandId, String),
    /// ...then that of the address it points to, which must be of the same pair.
    NameAt(CommandId, String, PublicKey, ClientId),
    /// The name of an address: first the address's record...
    Reverse(CommandId),
    /// ...then that of the name it points to.
    ReverseAt(CommandId, Box<Found>, Ipv4Addr, OwnerTime),
    /// Nobody: the cache is kept warm.
    Refresh,
}

/// What this node knows of others' leases.
#[derive(Debug)]
pub(crate) struct Resolver {
    cache: Bounded<Cached>,
    seen: Bounded<Seen>,
    reads: BTreeMap<LeaseKey, Read>,
    eras: Eras,
    rng: ChaCha20Rng,
}

impl Resolver {
    pub(crate) fn new(env: &Env<'_>, seed: [u8; 32]) -> Self {
        let rng = ChaCha20Rng::from_seed(seed);
        let mut eras = Eras::default();
        eras.note(env);
        Self { cache: Bounded::new(), seen: Bounded::new(), reads: BTreeMap::new(), eras, rng }
    }

    /// Who owns an address?
    pub(crate) fn resolve_address(&mut self, env: &Env<'_>, out: &mut Outbox, id: CommandId, ip: Ipv4Addr) {
        if !env.config.range.contains(&ip) {
            return answer(out, id, Resolution::Absent);
        }
        self.ask(env, out, LeaseKey::Address(ip), Question::Address(id));
    }

    /// Which address has this name?
    pub(crate) fn resolve_name(&mut self, env: &Env<'_>, out: &mut Outbox, id: CommandId, name: &str) {
        let Some(name) = normal_name(name) else {
            return answer(out, id, Resolution::Absent);
        };
        self.ask(env, out, LeaseKey::Name(name.clone()), Question::Name(id, name));
    }

    /// Which name has this address?
    pub(crate) fn resolve_peer_name(&mut self, env: &Env<'_>, out: &mut Outbox, id: CommandId, ip: Ipv4Addr) {
        if !env.config.range.contains(&ip) {
            return answer(out, id, Resolution::Absent);
        }
        self.ask(env, out, LeaseKey::Address(ip), Question::Reverse(id));
    }

    fn ask(&mut self, env: &Env<'_>, out: &mut Outbox, key: LeaseKey, question: Question) {
        if let Some(cached) = self.cache.map.get(&key).filter(|cached| env.now.owner < cached.until).cloned() {
            let half = (cached.until.0.saturating_sub(cached.since.0)) / 2;
            if cached.found.is_some() && env.now.owner.0 >= cached.since.0 + half {
                self.read(env, out, key.clone(), Question::Refresh);
            }
            return self.tell(env, out, &key, Some(&cached), question);
        }
        self.read(env, out, key, question);
    }

    fn read(&mut self, env: &Env<'_>, out: &mut Outbox, key: LeaseKey, question: Question) {
        if let Some(read) = self.reads.get_mut(&key) {
            if read.waiting.len() < MAX_WAITING {
                read.waiting.push(question);
            } else {
                out.drop(DropReason::Overflow);
                self.tell(env, out, &key, None, question);
            }
            return;
        }
        if self.reads.len() >= MAX_READS {
            out.drop(DropReason::Overflow);
            return self.tell(env, out, &key, None, question);
        }
        let now = env.now.mono;
        let id = self.rng.next_u64();
        let (again, deadline) = (now + ASK_AGAIN, now + PATIENCE);
        self.reads.insert(key.clone(), Read { id, replies: BTreeMap::new(), waiting: vec![question], again, deadline });
        self.send_reads(env, out, &key, id);
    }

    fn send_reads(&self, env: &Env<'_>, out: &mut Outbox, key: &LeaseKey, id: u64) {
        let key = RegisterKey::Lease(key.clone());
        let Some(view) = env.view_of(&key) else { return };
        for member in &view.members {
            out.send(env, &member.identity, Message::Read { scope: Scope::of(view), id, key: key.clone() });
        }
    }

    /// A replica's answer. A quorum of the same view with the same ballot is what counts. Returns the certificate
    /// if it names this node itself.
    pub(crate) fn handle_reply(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        from: &PublicKey,
        (scope, store_id, id, key, held): (Scope, [u8; 16], u64, RegisterKey, Option<ReadHeld>),
    ) -> Option<LeaseCert> {
        let RegisterKey::Lease(lease_key) = &key else { return None };
        let view = match checked(env, from, (&scope, &store_id, &key), held.as_ref()) {
            Ok((view, index)) => {
                let read = self.reads.get_mut(lease_key).filter(|read| read.id == id)?;
                read.replies.insert(index, held);
                view
            }
            Err(reason) => {
                out.drop(reason);
                return None;
            }
        };
        let read = self.reads.get(lease_key)?;
        let ballot = |held: &Option<ReadHeld>| held.as_ref().map_or(Ballot::default(), |read| read.held.ballot);
        let mut counts: BTreeMap<Ballot, usize> = BTreeMap::new();
        for reply in read.replies.values() {
            *counts.entry(ballot(reply)).or_default() += 1;
        }
        let chosen = counts.iter().rev().find(|(_, count)| **count >= view.quorum()).map(|(ballot, _)| *ballot);
        if let Some(chosen) = chosen {
            let read = self.reads.remove(lease_key)?;
            let agreed = read.replies.iter().filter(|(_, held)| ballot(held) == chosen);
            let agreed: Vec<(u8, ReadHeld)> = agreed.filter_map(|(i, held)| Some((*i, held.clone()?))).collect();
            let cached = self.conclude(env, out, lease_key, view.hash(), scope, &agreed);
            for question in read.waiting {
                self.tell(env, out, lease_key, cached.as_ref(), question);
            }
            let mine = cached?.found.filter(|found| found.owner == env.me)?;
            return LeaseCert::from_bytes(&mine.certificate).ok();
        } else if read.replies.len() == view.members.len() {
            // They differ: a round makes them agree, and the next question finds that.
            let coordinator = view.members.iter().max_by_key(|member| member.identity == env.me);
            if let Some(member) = coordinator {
                out.send(env, &member.identity, Message::Settle { scope, key: key.clone() });
            }
        }
        None
    }

    /// What equal answers of a quorum mean. `None`: not even that can be said.
    fn conclude(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        key: &LeaseKey,
        view_hash: [u8; 32],
        scope: Scope,
        agreed: &[(u8, ReadHeld)],
    ) -> Option<Cached> {
        let since = env.now.owner;
        let absent = Cached { found: None, since, until: OwnerTime(since.0 + NEGATIVE) };
        let elapsed = agreed.iter().map(|(_, read)| read.held.elapsed_ms).max().unwrap_or(0);
        let elapsed = Duration::from_millis(elapsed);
        let record = agreed.first().and_then(|(_, read)| match &read.held.value {
            Some(Value::Lease(record)) => Some((record.clone(), read.held.ballot)),
            Some(Value::Slots(_)) | None => None,
        });
        let live = record.filter(|(record, _)| record.held() && elapsed < env.guard(record.dur()));
        let Some((record, ballot)) = live else {
            self.cache.insert(key.clone(), absent.clone());
            return Some(absent);
        };
        let votes = agreed.iter().map(|(index, read)| Vote { index: *index, signature: read.signature }).collect();
        let cert = LeaseCert { record, incarnation: scope.incarnation, ballot, view_hash, votes };
        if cert.verify(env.ns, env.config, env.chain).is_err() {
            out.drop(DropReason::BadCertificate);
            return None;
        }
        // In the guard nobody may have it yet, though its owner has stopped: a short answer.
        let left = cert.record.dur().saturating_sub(elapsed).max(Duration::from_secs(1));
        Some(self.learn(env, out, &cert, left))
    }

    /// Remembers a verified certificate, and says so if the address has another owner than before.
    fn learn(&mut self, env: &Env<'_>, out: &mut Outbox, cert: &LeaseCert, remaining: Duration) -> Cached {
        let key = cert.record.request.op.key.clone();
        let (owner, token) = (cert.record.owner(), cert.token());
        let before = self.seen.map.get(&key).copied();
        if before.is_none_or(|seen| token > seen.token) {
            self.seen.insert(key.clone(), Seen { token, owner, first: env.now.owner });
            if let (Some(seen), Some(ip), Some(peer)) = (before, cert.address(), owner.peer_id())
                && seen.owner != owner
            {
                out.event(Event::Superseded { ip, owner: peer, token, certificate: cert.to_bytes() });
            }
        }
        let op = &cert.record.request.op;
        let found = Found { owner, client: op.client, token, hint: op.hint.clone(), certificate: cert.to_bytes() };
        let since = env.now.owner;
        let cached = Cached { found: Some(found), since, until: OwnerTime(since.0 + remaining.min(POSITIVE)) };
        if before.is_none_or(|seen| token >= seen.token) {
            self.cache.insert(key, cached.clone());
        }
        cached
    }

    /// Answers one question, or asks the next one that it leads to.
    fn tell(&mut self, env: &Env<'_>, out: &mut Outbox, key: &LeaseKey, cached: Option<&Cached>, question: Question) {
        let found = cached.and_then(|cached| cached.found.as_ref());
        let until = cached.map_or(env.now.owner, |cached| cached.until);
        let nothing = if cached.is_some() { Resolution::Absent } else { Resolution::Unknown };
        match (question, found, key) {
            (Question::Refresh, _, _) => {}
            (Question::Address(id), Some(found), LeaseKey::Address(ip)) => {
                let name = hinted_name(found);
                answer(out, id, resolution(env, *ip, found, name, until).unwrap_or(Resolution::Unknown));
            }
            (Question::Name(id, name), Some(found), LeaseKey::Name(_)) => match found.hint {
                Hint::Address(ip) if env.config.range.contains(&ip) => {
                    let next = Question::NameAt(id, name, found.owner, found.client);
                    self.ask(env, out, LeaseKey::Address(ip), next);
                }
                Hint::Address(_) | Hint::Name(_) | Hint::None => answer(out, id, Resolution::Absent),
            },
            (Question::NameAt(id, name, owner, client), Some(found), LeaseKey::Address(ip)) => {
                // The address of the same pair, or none: the two registers expire on their own.
                let outcome = if (found.owner, found.client) == (owner, client) {
                    resolution(env, *ip, found, Some(name), until).unwrap_or(Resolution::Unknown)
                } else {
                    Resolution::Absent
                };
                answer(out, id, outcome);
            }
            (Question::Reverse(id), Some(found), LeaseKey::Address(ip)) => match hinted_name(found) {
                Some(name) => {
                    let next = Question::ReverseAt(id, Box::new(found.clone()), *ip, until);
                    self.ask(env, out, LeaseKey::Name(name), next);
                }
                None => answer(out, id, resolution(env, *ip, found, None, until).unwrap_or(Resolution::Unknown)),
            },
            (Question::ReverseAt(id, pair, ip, until), named, LeaseKey::Name(name)) => {
                if cached.is_none() {
                    return answer(out, id, Resolution::Unknown);
                }
                let same = named.is_some_and(|named| (named.owner, named.client) == (pair.owner, pair.client));
                let outcome = resolution(env, ip, &pair, same.then(|| name.clone()), until);
                answer(out, id, outcome.unwrap_or(Resolution::Unknown));
            }
            (
                Question::Address(id)
                | Question::Name(id, _)
                | Question::NameAt(id, ..)
                | Question::Reverse(id)
                | Question::ReverseAt(id, ..),
                _,
                _,
            ) => answer(out, id, nothing),
        }
    }

    /// Checks a certificate that a peer handed over in a session, and remembers it.
    pub(crate) fn check_lease(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        (from, certificate, stated): (PeerId, &[u8], Duration),
    ) -> Result<(Proven, LeaseCert), CertError> {
        let cert = LeaseCert::from_bytes(certificate)
            .ok()
            .filter(|_| certificate.len() <= MAX_CERTIFICATE)
            .ok_or(CertError::Malformed)?;
        let ip = cert.address().filter(|ip| env.config.is_claimable(*ip)).ok_or(CertError::WrongKey)?;
        if cert.record.owner().peer_id() != Some(from) {
            return Err(CertError::NotOwner);
        }
        let token = cert.token();
        let seen = self.seen.map.get(&LeaseKey::Address(ip)).copied();
        if seen.is_some_and(|seen| token < seen.token) {
            return Err(CertError::Superseded);
        }
        // What is remembered was verified: the same bytes need that no second time.
        let cached = self.cache.map.get(&LeaseKey::Address(ip)).and_then(|cached| cached.found.as_ref());
        if cached.is_none_or(|found| found.certificate != certificate) {
            cert.verify(env.ns, env.config, env.chain)?;
            if seen.is_none_or(|seen| seen.token != token) && self.eras.is_over(env, &cert) {
                return Err(CertError::Lapsed);
            }
        }
        // Whatever the peer says of its remaining time, it ends with what this token can last here.
        let first = seen.filter(|seen| seen.token == token).map_or(env.now.owner, |seen| seen.first);
        let end = first.0.saturating_add(env.guard(cert.record.dur()));
        let remaining = stated.min(end.saturating_sub(env.now.owner.0));
        if remaining.is_zero() {
            return Err(CertError::Lapsed);
        }
        let learnt = self.learn(env, out, &cert, remaining);
        let name = learnt.found.as_ref().and_then(hinted_name);
        Ok((Proven { ip, name, token, remaining }, cert))
    }

    /// Forgets what was said of a key that this node itself just changed.
    pub(crate) fn forget(&mut self, key: &LeaseKey) {
        self.cache.map.remove(key);
        self.cache.order.retain(|other| other != key);
    }

    /// Who owns an address, by the register and not from memory?
    pub(crate) fn read_address(&mut self, env: &Env<'_>, out: &mut Outbox, id: CommandId, ip: Ipv4Addr) {
        self.forget(&LeaseKey::Address(ip));
        self.resolve_address(env, out, id, ip);
    }

    /// Whether nothing that this certificate proves can still be in use, as its view has long been over.
    pub(crate) fn is_over(&self, env: &Env<'_>, cert: &LeaseCert) -> bool {
        self.eras.is_over(env, cert)
    }

    /// A verified certificate from somewhere: no date, so nothing is answered from it, but older ones count no more.
    pub(crate) fn note(&mut self, env: &Env<'_>, out: &mut Outbox, cert: &LeaseCert) {
        let key = &cert.record.request.op.key;
        if self.seen.map.get(key).is_none_or(|seen| cert.token() > seen.token) {
            self.learn(env, out, cert, Duration::ZERO);
        }
    }

    /// The views have changed: what is under way is asked again.
    pub(crate) fn handle_moved(&mut self, env: &Env<'_>) {
        self.eras.note(env);
        for read in self.reads.values_mut() {
            read.replies.clear();
            read.again = env.now.mono;
        }
    }

    /// Asks again, and gives up.
    pub(crate) fn handle_timeout(&mut self, env: &Env<'_>, out: &mut Outbox) {
        let now = env.now.mono;
        for key in self.reads.keys().cloned().collect::<Vec<_>>() {
            let Some(read) = self.reads.get_mut(&key) else { continue };
            if read.deadline <= now {
                let Some(read) = self.reads.remove(&key) else { continue };
                for question in read.waiting {
                    self.tell(env, out, &key, None, question);
                }
            } else if read.again <= now {
                read.again = now + ASK_AGAIN;
                read.replies.clear();
                let id = read.id;
                self.send_reads(env, out, &key, id);
            }
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.reads.values().map(|read| (read.again.min(read.deadline), "ask replicas again")).min()
    }
}

/// The member that sent an answer, and whether it signed what it says it holds.
fn checked<'a>(
    env: &Env<'a>,
    from: &PublicKey,
    (scope, store_id, key): (&Scope, &[u8; 16], &RegisterKey),
    held: Option<&ReadHeld>,
) -> Result<(&'a View, u8), DropReason> {
    let view = env.current(scope).filter(|view| env.view_of(key) == Some(*view)).ok_or(DropReason::OldView)?;
    let index = view.index_of(from).ok_or(DropReason::NotReplica)?;
    let member = view.member(index).filter(|member| member.store_id == *store_id).ok_or(DropReason::NotReplica)?;
    if let Some(ReadHeld { held, signature }) = held {
        let value = held.value.as_ref().filter(|value| value.key() == *key).ok_or(DropReason::ForgedValue)?;
        let body = accepted_body(view, member, key, held.ballot, value.hash());
        verify(from, Label::Accepted, env.ns, &body, signature).map_err(|_| DropReason::ForgedVote)?;
    }
    Ok((view, index))
}

fn hinted_name(found: &Found) -> Option<String> {
    match &found.hint {
        Hint::Name(name) => Some(name.clone()),
        Hint::None | Hint::Address(_) => None,
    }
}

fn resolution(
    env: &Env<'_>,
    ip: Ipv4Addr,
    found: &Found,
    name: Option<String>,
    until: OwnerTime,
) -> Option<Resolution> {
    let remaining = until.0.saturating_sub(env.now.owner.0);
    let (token, certificate) = (found.token, found.certificate.clone());
    let (owner, deciders) = (found.owner.peer_id()?, Box::new(env.deciders(ip)));
    Some(Resolution::Found { ip, owner, name, token, certificate, remaining, deciders })
}

fn answer(out: &mut Outbox, id: CommandId, outcome: Resolution) {
    out.event(Event::Resolved { id, outcome });
}
