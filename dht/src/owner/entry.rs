//! What this node knows of one lease of its own, in memory and on disk.

use std::time::{Duration, Instant};

use crate::ballot::Token;
use crate::cell::millis;
use crate::certificate::{LeaseCert, MAX_CERTIFICATE};
use crate::clock::OwnerTime;
use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::command::{ClientId, CommandId, LeaseKey};
use crate::env::Env;
use crate::event::Lease;
use crate::namespace::LeaseFacts;
use crate::record::{Hint, RegisterKey, SignedOp};

pub(super) const ENTRY: &[u8] = b"lease/";

/// Where an entry is stored.
pub(super) fn entry_key(key: &LeaseKey) -> Vec<u8> {
    [ENTRY, &key.to_bytes()].concat()
}

/// One key that this node holds, wants, or gives back.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) client: ClientId,
    /// Renewed until it is released.
    pub(super) keep: bool,
    /// Given up: only a release may follow.
    pub(super) gone: bool,
    /// What is asked for.
    pub(super) dur_ms: u64,
    pub(super) held: Option<Held>,
    pub(super) pending: Option<Pending>,
    /// When the next operation begins.
    pub(super) next: Option<Instant>,
    /// Claims that wait for the operation under way.
    pub(super) jobs: Vec<CommandId>,
    pub(super) failures: u32,
}

/// What was granted last.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) until: OwnerTime,
    pub(super) dur_ms: u64,
    pub(super) boot: [u8; 16],
    /// Over, until it is renewed.
    pub(super) lapsed: bool,
    pub(super) token: Token,
    pub(super) hint: Hint,
    pub(super) certificate: Vec<u8>,
}

/// The newest operation.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) op: SignedOp,
    /// From when a grant counts.
    pub(super) t0: OwnerTime,
    /// Since when an answer is missing.
    pub(super) since: Instant,
    pub(super) resend_at: Instant,
    pub(super) attempts: u32,
    pub(super) stale: u32,
}

impl Entry {
    pub(super) fn new(client: ClientId, keep: bool, dur_ms: u64) -> Self {
        Self { client, keep, gone: false, dur_ms, held: None, pending: None, next: None, jobs: Vec::new(), failures: 0 }
    }

    /// Whether the lease may be used at this moment.
    pub(super) fn usable(&self, env: &Env<'_>) -> bool {
        let runs = |held: &Held| env.now.owner < held.until || !env.rules.checked_at_use;
        self.held.as_ref().is_some_and(|held| !self.gone && !held.lapsed && runs(held))
    }

    /// How much of it is left.
    pub(super) fn remaining(&self, env: &Env<'_>) -> Duration {
        let until = self.held.as_ref().filter(|_| self.usable(env)).map_or(Duration::ZERO, |held| held.until.0);
        until.saturating_sub(env.now.owner.0)
    }

    /// What it rests on: the votes in its certificate are those of the last grant or renewal.
    pub(super) fn facts(&self, env: &Env<'_>, key: &LeaseKey) -> Option<LeaseFacts> {
        let held = self.held.as_ref().filter(|_| self.usable(env))?;
        let cert = LeaseCert::from_bytes(&held.certificate).ok()?;
        let shard = RegisterKey::Lease(key.clone()).shard(env.ns, env.config);
        let view = env.chain.find(shard, cert.incarnation, cert.ballot.view, &cert.view_hash);
        let member = |index: u8| view?.member(index)?.identity.peer_id();
        let members = view.map(|view| view.members.as_slice()).unwrap_or_default();
        let due = if self.pending.is_some() { Some(env.now.mono) } else { self.next };
        Some(LeaseFacts {
            key: key.clone(),
            token: held.token,
            view: cert.ballot.view,
            members: members.iter().filter_map(|member| member.identity.peer_id()).collect(),
            accepted: cert.votes.iter().filter_map(|vote| member(vote.index)).collect(),
            remaining: self.remaining(env),
            renewal: due.filter(|_| self.keep).map(|due| due.saturating_duration_since(env.now.mono)),
        })
    }

    /// What the node is told of it.
    pub(super) fn lease(&self, env: &Env<'_>, key: &LeaseKey) -> Option<Lease> {
        let held = self.held.as_ref().filter(|_| self.usable(env))?;
        Some(Lease {
            key: key.clone(),
            client: self.client,
            token: held.token,
            usable_until: held.until,
            certificate: held.certificate.clone(),
        })
    }
}

impl Wire for Entry {
    fn encode(&self, out: &mut Writer) {
        out.raw(&self.client.0);
        out.u8(u8::from(self.keep));
        out.u8(u8::from(self.gone));
        out.u64(self.dur_ms);
        match &self.held {
            None => out.u8(0),
            Some(held) => {
                out.u8(1);
                out.raw(&held.boot);
                out.u64(millis(held.until.0));
                out.u64(held.dur_ms);
                out.bytes(&held.certificate);
            }
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let client = ClientId(input.array()?);
        let keep = input.flag("lease")?;
        let gone = input.flag("lease")?;
        let mut entry = Self { gone, ..Self::new(client, keep, input.u64()?) };
        if input.flag("lease")? {
            let boot = input.array()?;
            let until = OwnerTime(Duration::from_millis(input.u64()?));
            let dur_ms = input.u64()?;
            let certificate = input.bytes(MAX_CERTIFICATE, "certificate")?.to_vec();
            let cert = LeaseCert::from_bytes(&certificate)?;
            let (token, hint) = (cert.token(), cert.record.request.op.hint);
            entry.held = Some(Held { until, dur_ms, boot, lapsed: false, token, hint, certificate });
        }
        Ok(entry)
    }
}
