//! What time does to leases: they are renewed, sent again, and end.

use std::time::Instant;

use crate::clock::{MAX_JUMP, OwnerTime};
use crate::codec::Wire;
use crate::command::LeaseKey;
use crate::env::{Env, Outbox};
use crate::event::Event;
use crate::record::{OpKind, RegisterKey};

use super::entry::entry_key;
use super::{Leases, PATIENCE, RESEND, RESEND_MAX, coordinator};

impl Leases {
    /// Does what is due: notices a suspension, ends what has run out, renews, sends again, gives up.
    pub(crate) fn handle_timeout(&mut self, env: &Env<'_>, out: &mut Outbox) {
        self.notice_jump(env, out);
        for key in self.entries.keys().cloned().collect::<Vec<_>>() {
            self.end_if_over(env, out, &key);
            self.begin_if_due(env, out, &key);
            self.resend_if_due(env, out, &key);
        }
        self.give_up_jobs(env, out);
        self.check_left(env);
    }

    pub(crate) fn notice_jump(&mut self, env: &Env<'_>, out: &mut Outbox) {
        let (mono, owner) = self.seen;
        self.seen = (env.now.mono, env.now.owner);
        let step = env.now.mono.saturating_duration_since(mono);
        let jumped = std::mem::replace(&mut self.jumps, env.now.jumps) != env.now.jumps;
        // The monotonic clock may be slewed by a tenth.
        if !jumped && env.now.owner.0.saturating_sub(owner.0) <= step + step / 10 + MAX_JUMP {
            return;
        }
        for (key, entry) in &mut self.entries {
            let Some(held) = entry.held.as_mut().filter(|held| !held.lapsed) else { continue };
            held.lapsed = true;
            // On disk too: a process that starts now would not know of the jump.
            held.until = OwnerTime::default();
            entry.next = Some(env.now.mono);
            out.persist(entry_key(key), Some(entry.to_bytes()));
            out.event(Event::LeaseLost { key: key.clone(), why: "the machine slept, or its clock jumped" });
        }
    }

    pub(super) fn end_if_over(&mut self, env: &Env<'_>, out: &mut Outbox, key: &LeaseKey) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let Some(held) = &mut entry.held else { return };
        if !held.lapsed && env.now.owner >= held.until {
            held.lapsed = true;
            out.event(Event::LeaseLost { key: key.clone(), why: "it ran out" });
            if entry.keep && entry.pending.is_none() {
                entry.next = Some(env.now.mono);
            }
        }
        if held.lapsed && !entry.keep && entry.pending.is_none() {
            self.forget(out, key);
        }
    }

    pub(super) fn begin_if_due(&mut self, env: &Env<'_>, out: &mut Outbox, key: &LeaseKey) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.pending.is_some() || entry.next.is_none_or(|next| next > env.now.mono) {
            return;
        }
        let kind = match (entry.gone, entry.usable(env)) {
            (true, _) => OpKind::Release,
            (false, true) => OpKind::Renew,
            (false, false) => OpKind::Claim,
        };
        self.start_op(env, out, key, kind);
    }

    pub(super) fn resend_if_due(&mut self, env: &Env<'_>, out: &mut Outbox, key: &LeaseKey) {
        let Some(pending) = self.entries.get_mut(key).and_then(|entry| entry.pending.as_mut()) else { return };
        if pending.resend_at > env.now.mono {
            return;
        }
        let Some(view) = env.view_of(&RegisterKey::Lease(key.clone())) else { return };
        pending.attempts = pending.attempts.saturating_add(1);
        pending.resend_at = env.now.mono + RESEND.saturating_mul(1 << pending.attempts.min(5)).min(RESEND_MAX);
        self.outgoing.push((coordinator(env, view, key, pending.attempts), pending.op.clone()));
        if pending.since + PATIENCE <= env.now.mono {
            self.unreached(env, out, key);
        }
    }

    /// When something is due.
    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let (mono, owner) = self.seen;
        let entries = self.entries.values().flat_map(|entry| {
            let end = entry
                .held
                .as_ref()
                .filter(|held| !held.lapsed)
                .map(|held| (mono + held.until.0.saturating_sub(owner.0), "a lease runs out"));
            let next = entry.next.filter(|_| entry.pending.is_none()).map(|at| (at, "renew a lease"));
            let resend = entry.pending.as_ref().map(|pending| (pending.resend_at, "send an operation again"));
            [end, next, resend].into_iter().flatten()
        });
        let jobs = self.jobs.values().map(|job| (job.deadline, "give a claim up"));
        let leaving = self.leaving.map(|(_, until)| (until, "leave"));
        entries.chain(jobs).chain(leaving).min()
    }
}
