//! What the register made of an operation, and what follows from it.

use std::time::Duration;

use rand::Rng;

use crate::certificate::{LeaseCert, hint_key};
use crate::clock::OwnerTime;
use crate::codec::Wire;
use crate::command::LeaseKey;
use crate::env::{DropReason, Env, Outbox, Rules};
use crate::event::{ClaimError, Event, Output};
use crate::identity::PublicKey;
use crate::message::{OpResult, Outcome, RefusedOp};
use crate::record::{Hint, OpKind, RegisterKey};

use super::entry::{Held, Pending, entry_key};
use super::{Leases, PATIENCE};

/// From when a granted lease counts, and for how many milliseconds. `asked` says when its operation was made, and for how
/// long it asked.
pub(crate) fn counted(
    rules: &Rules,
    now: OwnerTime,
    asked: Option<(OwnerTime, u64)>,
    granted_ms: u64,
) -> (OwnerTime, u64) {
    let t0 = asked.filter(|_| rules.count_from_send).map_or(now, |(t0, _)| t0);
    let dur_ms = asked.filter(|_| !rules.granted_duration).map_or(granted_ms, |(_, asked_ms)| asked_ms);
    (t0, dur_ms)
}

impl Leases {
    /// What became of operations.
    pub(crate) fn handle_results(&mut self, env: &Env<'_>, out: &mut Outbox, from: &PublicKey, items: Vec<OpResult>) {
        for item in items {
            let RegisterKey::Lease(key) = &item.key else { continue };
            let Some(entry) = self.entries.get(key) else {
                out.drop(DropReason::Unexpected);
                continue;
            };
            let wanted = |pending: &Pending| (pending.op.op.op_seq, pending.op.op.nonce) == (item.op_seq, item.nonce);
            if !entry.pending.as_ref().is_some_and(wanted) && env.rules.newest_only {
                out.drop(DropReason::Unexpected);
                continue;
            }
            if env.view_of(&item.key).is_none_or(|view| view.index_of(from).is_none()) {
                out.drop(DropReason::NotReplica);
                continue;
            }
            let key = key.clone();
            self.handle_result(env, out, &key, item.outcome);
        }
        self.check_left(env);
    }

    pub(super) fn handle_result(&mut self, env: &Env<'_>, out: &mut Outbox, key: &LeaseKey, outcome: Outcome) {
        match outcome {
            Outcome::Granted(certificate) => self.granted(env, out, key, certificate),
            Outcome::Released => {
                self.reached(env, out);
                if self.entries.get(key).is_some_and(|entry| entry.gone) {
                    self.forget(out, key);
                }
            }
            Outcome::Taken { owner, remaining_ms, used } => {
                self.reached(env, out);
                let told = self.refused(out, key, "somebody else holds it");
                if owner == env.me {
                    self.disown(env, out, key);
                }
                self.next_try(env, out, key, (owner, Duration::from_millis(remaining_ms)), &used, told);
            }
            Outcome::Lost => {
                self.reached(env, out);
                let keep = self.entries.get(key).is_some_and(|entry| entry.keep);
                self.refused(out, key, "the register knows of no such lease");
                if keep {
                    self.try_later(env, key);
                } else {
                    self.forget(out, key);
                }
            }
            Outcome::Stale { last } => self.stale(env, out, key, last),
            Outcome::Retry { silent } => {
                if let Some(pending) = self.entries.get_mut(key).and_then(|entry| entry.pending.as_mut()) {
                    pending.resend_at = pending.resend_at.min(env.now.mono + Duration::from_millis(200));
                }
                if !silent.is_empty() {
                    self.unreached(env, out, key);
                }
            }
            Outcome::Refused(why) => {
                self.reached(env, out);
                self.denied(out, key, why);
            }
        }
    }

    pub(super) fn granted(&mut self, env: &Env<'_>, out: &mut Outbox, key: &LeaseKey, certificate: Vec<u8>) {
        let cert = LeaseCert::from_bytes(&certificate)
            .ok()
            .filter(|cert| cert.verify(env.ns, env.config, env.chain).is_ok() && cert.record.request.op.key == *key);
        let Some((cert, entry)) = cert.zip(self.entries.get_mut(key)) else {
            return out.drop(DropReason::BadCertificate);
        };
        let pending = entry.pending.take();
        let newest = pending.as_ref().is_some_and(|pending| cert.record.request.is_retry_of(&pending.op));
        if cert.record.owner() != env.me || (!newest && env.rules.newest_only && env.rules.nonce) {
            entry.pending = pending;
            return out.drop(DropReason::BadCertificate);
        }
        let asked = pending.as_ref().map(|pending| (pending.t0, pending.op.op.dur_ms));
        let (t0, dur_ms) = counted(&env.rules, env.now.owner, asked, cert.record.dur_ms);
        let until = OwnerTime(t0.0.saturating_add(Duration::from_millis(dur_ms)));
        entry.held = Some(Held {
            until,
            dur_ms,
            boot: env.now.boot.0,
            lapsed: false,
            token: cert.token(),
            hint: cert.record.request.op.hint.clone(),
            certificate,
        });
        (entry.gone, entry.failures) = (false, 0);
        if !entry.usable(env) {
            // The answer took longer than the lease lasts: asked again, as if it had run out.
            entry.next = Some(env.now.mono);
            return;
        }
        if entry.keep {
            let left = Duration::from_millis(dur_ms).saturating_sub(env.now.owner.0.saturating_sub(t0.0));
            let quarter = Duration::from_millis(dur_ms / 4);
            let jitter = Duration::from_millis(self.rng.next_u64() % (dur_ms / 20).max(1));
            entry.next = Some(env.now.mono + (quarter + jitter).min(left / 2));
        }
        out.persist(entry_key(key), Some(entry.to_bytes()));
        if let Some(ip) = cert.address() {
            let value = cert.to_bytes();
            out.push(Output::Publish { key: hint_key(env.ns, ip), value });
        }
        let lease = entry.lease(env, key);
        let waiting = std::mem::take(&mut entry.jobs);
        self.keep_one(env, out, key);
        if let Some(lease) = lease {
            if waiting.is_empty() {
                out.event(Event::LeaseChanged { lease: lease.clone() });
            }
            for id in waiting {
                self.end_job(out, id, Ok(lease.clone()));
            }
        }
        self.reached(env, out);
        self.pair(env, out, key);
    }

    /// Tells the other half of the pair, if its record does not say so yet.
    pub(super) fn pair(&mut self, env: &Env<'_>, out: &mut Outbox, key: &LeaseKey) {
        let Some(client) = self.entries.get(key).map(|entry| entry.client) else { return };
        let same: Vec<LeaseKey> = self
            .entries
            .iter()
            .filter(|(_, e)| e.client == client && e.usable(env))
            .map(|(key, _)| key.clone())
            .collect();
        for other in same {
            let desired = self.hint_for(env, &other);
            let Some(entry) = self.entries.get(&other) else { continue };
            let told = entry.held.as_ref().is_some_and(|held| held.hint == desired);
            if !told && entry.pending.is_none() && !entry.gone && desired != Hint::None {
                self.start_op(env, out, &other, OpKind::Renew);
            }
        }
    }

    /// The lease under this key is not ours, whatever we thought. Whether the node was told just now.
    pub(super) fn refused(&mut self, out: &mut Outbox, key: &LeaseKey, why: &'static str) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        entry.pending = None;
        let lost = entry.held.take().is_some_and(|held| !held.lapsed);
        if lost {
            out.event(Event::LeaseLost { key: key.clone(), why });
        }
        lost
    }

    /// The register names this node for something that it does not use: a claim that was given up went through after
    /// all, or its store was lost. Left alone it would stay blocked until it lapses.
    pub(super) fn disown(&mut self, env: &Env<'_>, out: &mut Outbox, key: &LeaseKey) {
        let waiting = self.entries.get_mut(key).map(|entry| std::mem::take(&mut entry.jobs)).unwrap_or_default();
        self.give_back(env, out, key);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.jobs = waiting;
        }
    }

    pub(super) fn denied(&mut self, out: &mut Outbox, key: &LeaseKey, why: RefusedOp) {
        self.refused(out, key, "the replicas refuse it");
        let text = match why {
            RefusedOp::NotClaimable => "reserved, outside the range, or pinned to another member",
            RefusedOp::Quota => "this member holds as much as its invite allows",
            RefusedOp::NotAdmitted => "the register of the invite does not name this member",
            RefusedOp::Full => "the replicas have no room for more",
        };
        let waiting = self.entries.get_mut(key).map(|entry| std::mem::take(&mut entry.jobs)).unwrap_or_default();
        self.forget(out, key);
        for id in waiting {
            self.end_job(out, id, Err(ClaimError::Refused(text)));
        }
    }

    /// Somebody with this identity used a higher number: an older store, or another machine with the same key.
    pub(super) fn stale(&mut self, env: &Env<'_>, out: &mut Outbox, key: &LeaseKey, last: u64) {
        out.drop(DropReason::Cloned);
        self.reached(env, out);
        // A clone of this identity, or this one in an earlier life that was erased within the same second.
        self.next_seq = self.next_seq.max(last.saturating_add(1));
        let Some(pending) = self.entries.get_mut(key).and_then(|entry| entry.pending.as_mut()) else { return };
        pending.stale += 1;
        if pending.stale > 3 {
            // The next timeout gives it up.
            pending.since = env.now.mono.checked_sub(PATIENCE).unwrap_or(env.now.mono);
            return;
        }
        let kind = pending.op.op.kind;
        self.start_op(env, out, key, kind);
    }
}
