//! The owner's half of the lease protocol: what this node claims, renews, uses and gives back.
//!
//! A lease counts from before its operation was sent, for the duration that was granted, on a clock that only errs to the
//! early side. Its end is compared at each use. One operation runs for each key; results of any but the newest are
//! ignored. Stopping is on disk before a release is sent, and the number of an operation before the operation.

mod entry;
mod job;
pub(crate) mod result;
mod timer;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use crate::acceptor::RESTART_DOUBT;
use crate::ballot::Token;
use crate::certificate::LeaseCert;
use crate::clock::OwnerTime;
use crate::codec::Wire;
use crate::command::{CommandId, LeaseKey};
use crate::env::{Env, Outbox};
use crate::event::{ClaimError, Event, Lease};
use crate::identity::PublicKey;
use crate::message::{MAX_BATCH, Message};
use crate::namespace::{Image, LeaseFacts, LoadError};
use crate::record::{Hint, Op, OpKind, RegisterKey, Scope, SignedOp};
use crate::right::Right;
use crate::sign;
use crate::view::View;
use entry::{Entry, Pending, entry_key};
use job::Job;

pub(crate) use job::AddressClaim;

/// Operation numbers are reserved on disk in blocks, before one of them is used.
const SEQ_BLOCK: u64 = 256;
/// An operation without an answer is sent again after this, then after twice as long, and so on.
const RESEND: Duration = Duration::from_secs(1);
const RESEND_MAX: Duration = Duration::from_secs(30);
/// Without an answer for this long, the register counts as not reachable and a claim as given up.
const PATIENCE: Duration = Duration::from_secs(4);
/// Pause after a kept lease could not be got back.
const TRY_AGAIN: Duration = Duration::from_secs(5);
const TRY_AGAIN_MAX: Duration = Duration::from_secs(60);

const SEQ: &[u8] = b"op-seq";
/// Far more operations a second than anybody makes, so that the wall clock stays ahead of the counter.
const SEQ_PER_SECOND_BITS: u32 = 16;

/// This node's leases, and its claims under way.
#[derive(Debug)]
pub(crate) struct Leases {
    entries: BTreeMap<LeaseKey, Entry>,
    jobs: BTreeMap<CommandId, Job>,
    next_seq: u64,
    reserved: u64,
    outgoing: Vec<(PublicKey, SignedOp)>,
    reach: Reach,
    seen: (Instant, OwnerTime),
    jumps: u32,
    leaving: Option<(CommandId, Instant)>,
    left: Option<CommandId>,
    rng: ChaCha20Rng,
}

/// Whether the register answers.
#[derive(Debug, Default)]
struct Reach {
    reachable: Option<bool>,
}

impl Leases {
    /// Takes up what is on disk: goes on with what was granted in this boot, and gets everything else back.
    pub(crate) fn load(env: &Env<'_>, out: &mut Outbox, image: &Image, seed: [u8; 32]) -> Result<Self, LoadError> {
        let reserved = image.get(SEQ).map(|bytes| <[u8; 8]>::try_from(bytes.as_slice())).transpose();
        // A store that is new to an old identity must not begin below what that identity used before.
        let fresh = env.now.unix_s << SEQ_PER_SECOND_BITS;
        let reserved = reserved.map_err(|_| LoadError::Damaged("operation counter"))?.map_or(fresh, u64::from_be_bytes);
        let reserved = if env.rules.op_seq_on_disk { reserved } else { 0 };
        let mut leases = Self {
            entries: BTreeMap::new(),
            jobs: BTreeMap::new(),
            next_seq: reserved + 1,
            reserved,
            outgoing: Vec::new(),
            reach: Reach::default(),
            seen: (env.now.mono, env.now.owner),
            jumps: env.now.jumps,
            leaving: None,
            left: None,
            rng: ChaCha20Rng::from_seed(seed),
        };
        for (key, bytes) in image.range(entry::ENTRY.to_vec()..).take_while(|(key, _)| key.starts_with(entry::ENTRY)) {
            let damaged = |_| LoadError::Damaged("leases");
            let key = LeaseKey::from_bytes(&key[entry::ENTRY.len()..]).map_err(damaged)?;
            let entry = Entry::from_bytes(bytes).map_err(damaged)?;
            leases.resume(env, out, key, entry);
        }
        Ok(leases)
    }

    fn resume(&mut self, env: &Env<'_>, out: &mut Outbox, key: LeaseKey, mut entry: Entry) {
        entry.next = Some(env.now.mono);
        if let Some(held) = &mut entry.held {
            if held.boot == env.now.boot.0 {
                // The clock of this process may be behind what the one before it had summed up.
                held.until = OwnerTime(held.until.0.saturating_sub(env.now.owner.0 / RESTART_DOUBT));
            } else if env.rules.boot_compared {
                held.lapsed = true;
            } else {
                held.boot = env.now.boot.0;
            }
        }
        if !entry.gone && !entry.keep {
            if !entry.usable(env) {
                // A claim that was under way, or a lease that nobody asked to keep: what may still come of it is undone.
                entry.gone = true;
                entry.held = None;
            } else {
                entry.next = None;
            }
        }
        if let Some(lease) = entry.lease(env, &key) {
            out.event(Event::LeaseChanged { lease });
        }
        self.entries.insert(key, entry);
    }

    /// A lease that may be used at this moment.
    pub(crate) fn lease(&self, env: &Env<'_>, key: &LeaseKey) -> Option<Lease> {
        self.entries.get(key)?.lease(env, key)
    }

    /// The newest tokens of what may be used at this moment.
    pub(crate) fn tokens(&self, env: &Env<'_>) -> BTreeMap<LeaseKey, Token> {
        let usable = self.entries.iter().filter(|(_, entry)| entry.usable(env));
        usable.filter_map(|(key, entry)| Some((key.clone(), entry.held.as_ref()?.token))).collect()
    }

    /// What they rest on, for status pages.
    pub(crate) fn facts(&self, env: &Env<'_>) -> Vec<LeaseFacts> {
        self.entries.iter().filter_map(|(key, entry)| entry.facts(env, key)).collect()
    }

    /// The name that the client of this address has, if it has one.
    pub(crate) fn name_of(&self, env: &Env<'_>, ip: Ipv4Addr) -> Option<String> {
        match self.hint_for(env, &LeaseKey::Address(ip)) {
            Hint::Name(name) => Some(name),
            Hint::None | Hint::Address(_) => None,
        }
    }

    /// The shards that decide about what this node holds or wants.
    pub(crate) fn shards(&self, env: &Env<'_>) -> std::collections::BTreeSet<u16> {
        self.entries.keys().map(|key| RegisterKey::Lease(key.clone()).shard(env.ns, env.config)).collect()
    }

    /// What this node holds or claims; what it gives back it needs nobody for.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = &LeaseKey> {
        self.entries.iter().filter(|(_, entry)| !entry.gone).map(|(key, _)| key)
    }

    /// What it claims and does not have.
    pub(crate) fn claims(&self, env: &Env<'_>) -> Vec<LeaseKey> {
        let claimed = self.entries.iter().filter(|(_, entry)| !entry.gone && !entry.usable(env));
        claimed.map(|(key, _)| key.clone()).collect()
    }

    /// The address that this node keeps, or claims to keep. What it leases for others ends unless they ask again.
    pub(crate) fn own_address(&self) -> Option<Ipv4Addr> {
        let kept = self.entries.iter().filter(|(_, entry)| entry.keep && !entry.gone);
        let address = |(key, entry): (&LeaseKey, &Entry)| match key {
            LeaseKey::Address(ip) => Some((entry.held.is_none(), *ip)),
            LeaseKey::Name(_) => None,
        };
        kept.filter_map(address).min().map(|(_, ip)| ip)
    }

    pub(crate) fn reachable(&self) -> Option<bool> {
        self.reach.reachable
    }

    /// Gives a lease back. Its use ends, on disk, before anything is sent.
    pub(crate) fn release(&mut self, env: &Env<'_>, out: &mut Outbox, key: &LeaseKey) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let waiting = std::mem::take(&mut entry.jobs);
        self.give_back(env, out, key);
        for id in waiting {
            self.end_job(out, id, Err(ClaimError::GivenUp));
        }
    }

    /// Releases everything, and says when that is known to the register or cannot be waited for.
    pub(crate) fn leave(&mut self, env: &Env<'_>, out: &mut Outbox, id: CommandId) {
        for key in self.entries.keys().cloned().collect::<Vec<_>>() {
            self.release(env, out, &key);
        }
        self.leaving = Some((id, env.now.mono + PATIENCE));
        self.check_left(env);
    }

    /// The command that is answered: everything is released, or could not be.
    pub(crate) fn take_left(&mut self) -> Option<CommandId> {
        self.left.take()
    }

    fn check_left(&mut self, env: &Env<'_>) {
        if let Some((id, until)) = self.leaving
            && (self.entries.is_empty() || until <= env.now.mono)
        {
            self.leaving = None;
            self.left = Some(id);
        }
    }

    fn give_back(&mut self, env: &Env<'_>, out: &mut Outbox, key: &LeaseKey) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.gone = true;
        entry.keep = false;
        entry.held = None;
        out.persist(entry_key(key), Some(entry.to_bytes()));
        self.start_op(env, out, key, OpKind::Release);
    }

    /// An operation that no command leads to.
    #[cfg(test)]
    pub(crate) fn force(&mut self, env: &Env<'_>, out: &mut Outbox, key: &LeaseKey, (kind, dur_ms): (OpKind, u64)) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.dur_ms = dur_ms;
        }
        self.start_op(env, out, key, kind);
    }

    /// Begins an operation, which supersedes any other on this key.
    fn start_op(&mut self, env: &Env<'_>, out: &mut Outbox, key: &LeaseKey, kind: OpKind) {
        let hint = self.hint_for(env, key);
        let op_seq = self.take_seq(env, out);
        let nonce = self.rng.next_u64();
        let Some(entry) = self.entries.get_mut(key) else { return };
        let Some(view) = env.view_of(&RegisterKey::Lease(key.clone())) else { return };
        let (client, dur_ms) = (entry.client, entry.dur_ms);
        let (scope, right, deputies) = (Scope::of(view), Right::None, Vec::new());
        let op = Op { scope, kind, key: key.clone(), client, op_seq, nonce, dur_ms, hint, right, deputies };
        let op = SignedOp::sign(env.ns, env.identity, op);
        entry.next = None;
        let since = entry.pending.as_ref().map_or(env.now.mono, |pending| pending.since);
        let target = coordinator(env, view, key, 0);
        self.outgoing.push((target, op.clone()));
        entry.pending = Some(Pending {
            op,
            t0: env.now.owner,
            since,
            resend_at: env.now.mono + RESEND,
            attempts: 0,
            stale: entry.pending.as_ref().map_or(0, |pending| pending.stale),
        });
    }

    fn take_seq(&mut self, env: &Env<'_>, out: &mut Outbox) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        if seq > self.reserved {
            self.reserved = seq.saturating_add(SEQ_BLOCK);
            if env.rules.op_seq_on_disk {
                out.persist(SEQ.to_vec(), Some(self.reserved.to_be_bytes().to_vec()));
            }
        }
        seq
    }

    /// What the record of one half of a pair says about the other.
    pub(crate) fn hint_for(&self, env: &Env<'_>, key: &LeaseKey) -> Hint {
        let Some(client) = self.entries.get(key).map(|entry| entry.client) else { return Hint::None };
        let mut others = self.entries.iter().filter(|(_, entry)| entry.client == client && entry.usable(env));
        match key {
            LeaseKey::Address(_) => others.find_map(|(key, _)| match key {
                LeaseKey::Name(name) => Some(Hint::Name(name.clone())),
                LeaseKey::Address(_) => None,
            }),
            LeaseKey::Name(_) => others.find_map(|(key, _)| match key {
                LeaseKey::Address(ip) => Some(Hint::Address(*ip)),
                LeaseKey::Name(_) => None,
            }),
        }
        .unwrap_or(Hint::None)
    }

    /// Sends what was begun during one input, in batches by coordinator and view.
    pub(crate) fn flush(&mut self, env: &Env<'_>, out: &mut Outbox) -> bool {
        let mut batches: BTreeMap<(PublicKey, Scope), Vec<SignedOp>> = BTreeMap::new();
        let sent = !self.outgoing.is_empty();
        for (target, op) in self.outgoing.drain(..) {
            let newest = |pending: &Pending| pending.op.op.op_seq == op.op.op_seq;
            if self.entries.get(&op.op.key).is_some_and(|entry| entry.pending.as_ref().is_some_and(newest)) {
                batches.entry((target, op.op.scope)).or_default().push(op);
            }
        }
        for ((target, scope), ops) in batches {
            for ops in ops.chunks(MAX_BATCH) {
                out.send(env, &target, Message::Ops { scope, ops: ops.to_vec() });
            }
        }
        sent
    }

    fn try_later(&mut self, env: &Env<'_>, key: &LeaseKey) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let pause = TRY_AGAIN.saturating_mul(1 << entry.failures.min(4)).min(TRY_AGAIN_MAX);
        entry.failures = entry.failures.saturating_add(1);
        entry.next = Some(env.now.mono + pause);
    }

    fn forget(&mut self, out: &mut Outbox, key: &LeaseKey) {
        if self.entries.remove(key).is_some() {
            out.persist(entry_key(key), None);
        }
    }

    /// A verified certificate with a higher token of somebody else: this node's lease is over.
    pub(crate) fn superseded(&mut self, env: &Env<'_>, out: &mut Outbox, cert: &LeaseCert) {
        let key = cert.record.request.op.key.clone();
        let Some(held) = self.entries.get(&key).and_then(|entry| entry.held.as_ref()) else { return };
        if cert.record.owner() != env.me && cert.token() > held.token {
            let keep = self.entries.get(&key).is_some_and(|entry| entry.keep);
            self.refused(out, &key, "somebody else was granted it");
            if keep {
                self.try_later(env, &key);
            } else {
                self.forget(out, &key);
            }
        }
    }

    /// Somebody misses the lease in the register: it is renewed, or claimed again, without waiting for its time.
    pub(crate) fn renew_now(&mut self, env: &Env<'_>, out: &mut Outbox, key: &LeaseKey) {
        let idle = |entry: &&Entry| entry.pending.is_none() && !entry.gone && entry.usable(env);
        if self.entries.get(key).as_ref().is_some_and(idle) {
            self.start_op(env, out, key, OpKind::Renew);
        }
    }

    /// The register names this node for something: if it does not use it, it gives it back.
    pub(crate) fn named(&mut self, env: &Env<'_>, out: &mut Outbox, cert: &LeaseCert) {
        let op = &cert.record.request.op;
        if cert.record.owner() == env.me && !self.entries.contains_key(&op.key) && env.rules.release_given_up {
            self.entries.insert(op.key.clone(), Entry::new(op.client, false, cert.record.dur_ms));
            self.give_back(env, out, &op.key);
        }
    }

    /// There are newer views: signs what is still waited for again, for the view that decides now.
    pub(crate) fn handle_moved(&mut self, env: &Env<'_>) {
        for (key, entry) in &mut self.entries {
            let Some(pending) = &mut entry.pending else { continue };
            let Some(view) = env.view_of(&RegisterKey::Lease(key.clone())) else { continue };
            if pending.op.op.scope != Scope::of(view) {
                let op = Op { scope: Scope::of(view), ..pending.op.op.clone() };
                pending.op = SignedOp::sign(env.ns, env.identity, op);
                self.outgoing.push((coordinator(env, view, key, 0), pending.op.clone()));
            }
        }
    }

    /// A replica cannot be reached: what waits for it asks another, or says so.
    pub(crate) fn handle_gone(&mut self, env: &Env<'_>, out: &mut Outbox, gone: &PublicKey) {
        let mut alone = None;
        for (key, entry) in &mut self.entries {
            let Some(view) = env.view_of(&RegisterKey::Lease(key.clone())) else { continue };
            let Some(pending) = &mut entry.pending else { continue };
            if coordinator(env, view, key, pending.attempts) != *gone {
                continue;
            }
            if view.members.len() > 1 {
                pending.attempts = pending.attempts.saturating_add(1);
                let next = coordinator(env, view, key, pending.attempts);
                self.outgoing.push((next, pending.op.clone()));
            } else {
                alone = Some(key.clone());
            }
        }
        if let Some(key) = alone {
            self.unreached(env, out, &key);
        }
    }

    /// A replica is there again: what waits for an answer asks at once.
    pub(crate) fn handle_admitted(&mut self, env: &Env<'_>, admitted: &PublicKey) {
        for (key, entry) in &mut self.entries {
            let view = env.view_of(&RegisterKey::Lease(key.clone()));
            if view.is_none_or(|view| view.index_of(admitted).is_none()) {
                continue;
            }
            match &mut entry.pending {
                Some(pending) => {
                    pending.resend_at = env.now.mono + RESEND;
                    self.outgoing.push((*admitted, pending.op.clone()));
                }
                None if entry.failures > 0 => entry.next = Some(env.now.mono),
                None => {}
            }
        }
    }

    fn reached(&mut self, env: &Env<'_>, out: &mut Outbox) {
        if self.reach.reachable != Some(true) {
            self.reach.reachable = Some(true);
            out.event(Event::Quorum { reachable: true, why: None, since: env.now.mono });
        }
    }

    fn unreached(&mut self, env: &Env<'_>, out: &mut Outbox, key: &LeaseKey) {
        if self.reach.reachable == Some(false) {
            return;
        }
        self.reach.reachable = Some(false);
        out.event(Event::Quorum { reachable: false, why: Some(silence(env, key)), since: env.now.mono });
    }
}

/// Names the replicas that are asked about a key.
fn silence(env: &Env<'_>, key: &LeaseKey) -> String {
    let view = env.view_of(&RegisterKey::Lease(key.clone()));
    let members = view.map(|view| view.members.as_slice()).unwrap_or_default();
    let names: Vec<String> = members
        .iter()
        .filter(|member| member.identity != env.me)
        .filter_map(|member| member.identity.peer_id())
        .map(|peer| peer.to_string())
        .collect();
    match names.as_slice() {
        [] => "this node's own replica does not answer".to_owned(),
        [one] if view.is_some_and(|view| env.chain.is_recovered(view)) => {
            format!(
                "replica {one}, which the authority put in the place of lost ones, waits until old leases have run out"
            )
        }
        [one] => format!("replica {one} does not answer"),
        several => format!("too few of the replicas {} answer", several.join(", ")),
    }
}

/// The replica that runs the round: this node itself where it is one, else the nearest to the block, so that
/// contenders for a block meet at one coordinator; with each further attempt the next.
fn coordinator(env: &Env<'_>, view: &View, key: &LeaseKey, attempt: u32) -> PublicKey {
    let place = match key {
        LeaseKey::Address(ip) => sign::hash("near", &[&(u32::from(*ip) >> 8).to_be_bytes()]),
        LeaseKey::Name(name) => sign::hash("near", &[name.as_bytes()]),
    };
    let distance = |identity: &PublicKey| {
        let mut xor = place;
        xor.iter_mut().zip(identity.0).for_each(|(a, b)| *a ^= b);
        (*identity != env.me, xor)
    };
    let mut members: Vec<PublicKey> = view.members.iter().map(|member| member.identity).collect();
    members.sort_by_key(distance);
    members[attempt as usize % members.len()]
}
