//! Claims under way: one command, possibly several addresses tried one after the other.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::address::{MAX_TRIES, first_choice, next_choice};
use crate::cell::millis;
use crate::codec::Wire;
use crate::command::{ClientId, CommandId, Hold, LeaseKey};
use crate::env::{Env, Outbox};
use crate::event::{ClaimError, Event, Lease};
use crate::identity::PublicKey;
use crate::record::{OpKind, normal_name};

use super::entry::{Entry, entry_key};
use super::{Leases, PATIENCE, RESEND, silence};

/// Most claims under way at once.
const MAX_JOBS: usize = 1024;
/// Most leases of one node.
const MAX_ENTRIES: usize = 8192;
/// An offer to a DHCP client holds an address for so long.
const OFFER: Duration = Duration::from_secs(60);

/// A claim of an address, as it is commanded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AddressClaim {
    pub(crate) client: ClientId,
    pub(crate) want: Option<Ipv4Addr>,
    pub(crate) only_wanted: bool,
    pub(crate) hold: Hold,
    pub(crate) keep: bool,
}

/// A claim under way.
#[derive(Debug)]
pub(super) struct Job {
    client: ClientId,
    keep: bool,
    dur_ms: u64,
    key: LeaseKey,
    /// What else to try, in this order, before other free addresses.
    choices: Vec<Ipv4Addr>,
    tried: BTreeSet<Ipv4Addr>,
    /// Whether any other address is of use.
    only: bool,
    pub(super) deadline: Instant,
}

impl Leases {
    /// Begins to claim an address.
    pub(crate) fn claim_address(&mut self, env: &Env<'_>, out: &mut Outbox, id: CommandId, claim: AddressClaim) {
        let lease = env.config.lease();
        let dur = match claim.hold {
            Hold::Offer => OFFER.min(lease / 2),
            Hold::Full => lease,
        };
        let last = self.addresses_of(&claim.client);
        let last = last.max_by_key(|(_, entry)| (entry.usable(env), entry.held.as_ref().map(|held| held.token)));
        let last = last.map(|(ip, _)| ip);
        let choices = if claim.only_wanted {
            vec![claim.want]
        } else {
            vec![last, claim.want, first_choice(env.ns, env.config, &env.me, &claim.client)]
        };
        let mut choices: Vec<Ipv4Addr> =
            choices.into_iter().flatten().filter(|ip| env.config.is_claimable(*ip)).collect();
        choices.reverse();
        let Some(ip) = choices.pop() else {
            let error = ClaimError::Refused("no such address can be claimed");
            return out.event(Event::Claimed { id, outcome: Err(error) });
        };
        let job = Job {
            client: claim.client,
            keep: claim.keep,
            dur_ms: millis(dur),
            key: LeaseKey::Address(ip),
            choices,
            tried: BTreeSet::new(),
            only: claim.only_wanted,
            deadline: env.now.mono + PATIENCE,
        };
        self.begin(env, out, id, job);
    }

    /// Begins to claim a name.
    pub(crate) fn claim_name(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        id: CommandId,
        (name, client, keep): (String, ClientId, bool),
    ) {
        let normal = if env.rules.normal_names { normal_name(&name) } else { Some(name) };
        let Some(name) = normal.filter(|name| !env.config.is_reserved_name(name)) else {
            let error = ClaimError::Refused("not a host name that can be claimed");
            return out.event(Event::Claimed { id, outcome: Err(error) });
        };
        let job = Job {
            client,
            keep,
            dur_ms: millis(env.config.lease()),
            key: LeaseKey::Name(name),
            choices: Vec::new(),
            tried: BTreeSet::new(),
            only: true,
            deadline: env.now.mono + PATIENCE,
        };
        self.begin(env, out, id, job);
    }

    fn begin(&mut self, env: &Env<'_>, out: &mut Outbox, id: CommandId, job: Job) {
        if self.jobs.len() >= MAX_JOBS || self.entries.len() >= MAX_ENTRIES {
            let error = ClaimError::Unavailable("too many claims at once".to_owned());
            return out.event(Event::Claimed { id, outcome: Err(error) });
        }
        self.jobs.insert(id, job);
        self.attempt(env, out, id);
    }

    /// Claims the key that the job has come to.
    fn attempt(&mut self, env: &Env<'_>, out: &mut Outbox, id: CommandId) {
        let Some(job) = self.jobs.get(&id) else { return };
        let (key, client, keep, dur_ms) = (job.key.clone(), job.client, job.keep, job.dur_ms);
        if let Some(entry) = self.entries.get_mut(&key)
            && entry.client != client
        {
            // One owner, but another client: taken as by anybody else. What is being given back is not free yet either.
            let remaining = entry.remaining(env);
            return self.try_next(env, out, id, (env.me, remaining), &[]);
        }
        let entry = self.entries.entry(key.clone()).or_insert_with(|| Entry::new(client, keep, dur_ms));
        let dur_ms = if entry.usable(env) { dur_ms.max(entry.dur_ms) } else { dur_ms };
        (entry.gone, entry.keep, entry.dur_ms) = (false, keep, dur_ms);
        let fresh = entry.remaining(env) >= Duration::from_millis(dur_ms / 4 * 3);
        if fresh
            && entry.pending.is_none()
            && let Some(lease) = entry.lease(env, &key)
        {
            out.persist(entry_key(&key), Some(entry.to_bytes()));
            self.keep_one(env, out, &key);
            return self.end_job(out, id, Ok(lease));
        }
        entry.jobs.push(id);
        let joins = |op: &crate::record::Op| op.kind == OpKind::Claim && op.dur_ms == dur_ms;
        if let Some(pending) = entry.pending.as_mut().filter(|pending| joins(&pending.op.op)) {
            // Whoever claims now need not wait for as long as the silence has made the pauses.
            pending.resend_at = pending.resend_at.min(env.now.mono + RESEND);
            return;
        }
        out.persist(entry_key(&key), Some(entry.to_bytes()));
        self.start_op(env, out, &key, OpKind::Claim);
    }

    /// The addresses that this node holds, or wants, for a client.
    fn addresses_of(&self, client: &ClientId) -> impl Iterator<Item = (Ipv4Addr, &Entry)> {
        self.entries.iter().filter(|(_, entry)| entry.client == *client && !entry.gone).filter_map(|(key, entry)| {
            match key {
                LeaseKey::Address(ip) => Some((*ip, entry)),
                LeaseKey::Name(_) => None,
            }
        })
    }

    /// A client keeps one address: with a new one, any other that is kept for it, or still claimed in the background,
    /// is given back. It would be renewed for ever, and nobody would use it.
    pub(super) fn keep_one(&mut self, env: &Env<'_>, out: &mut Outbox, key: &LeaseKey) {
        let Some(entry) = self.entries.get(key).filter(|entry| entry.keep && env.rules.one_kept_address) else {
            return;
        };
        let LeaseKey::Address(ip) = *key else { return };
        let kept = self.addresses_of(&entry.client).filter(|(other, entry)| *other != ip && entry.keep);
        let others: Vec<Ipv4Addr> = kept.map(|(other, _)| other).collect();
        for other in others.into_iter().map(LeaseKey::Address) {
            self.refused(out, &other, "its user has another address now");
            self.release(env, out, &other);
        }
    }

    /// The key is taken: those who wait for it go on to another, or are told.
    pub(super) fn next_try(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        key: &LeaseKey,
        holder: (PublicKey, Duration),
        used: &[u8],
        told: bool,
    ) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let waiting = std::mem::take(&mut entry.jobs);
        if !entry.gone {
            if waiting.is_empty() && !told {
                out.event(Event::LeaseLost { key: key.clone(), why: "somebody else holds it" });
            }
            self.forget(out, key);
        }
        for id in waiting {
            self.try_next(env, out, id, holder, used);
        }
    }

    fn try_next(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        id: CommandId,
        (owner, remaining): (PublicKey, Duration),
        used: &[u8],
    ) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let LeaseKey::Address(taken) = job.key else {
            return self.end_job(out, id, Err(taken_by(owner, remaining)));
        };
        job.tried.insert(taken);
        if job.only {
            return self.end_job(out, id, Err(taken_by(owner, remaining)));
        }
        let tries = u32::try_from(job.tried.len()).unwrap_or(u32::MAX);
        let next = loop {
            match job.choices.pop() {
                Some(ip) if job.tried.contains(&ip) => {}
                Some(ip) => break Some(ip),
                None if tries >= MAX_TRIES => break None,
                None => {
                    let (who, known) = ((&env.me, &job.client), (taken, used, &job.tried));
                    break next_choice(env.ns, env.config, who, known, tries, &mut self.rng);
                }
            }
        };
        match next {
            Some(ip) => {
                job.key = LeaseKey::Address(ip);
                self.attempt(env, out, id);
            }
            None => self.end_job(out, id, Err(ClaimError::NoneFree)),
        }
    }

    /// Tells the node, once.
    pub(super) fn end_job(&mut self, out: &mut Outbox, id: CommandId, outcome: Result<Lease, ClaimError>) {
        if self.jobs.remove(&id).is_some() {
            out.event(Event::Claimed { id, outcome });
        }
    }

    /// Ends claims that no quorum answered. What might still be granted is given back, or it would be blocked for
    /// as long as a lease lasts.
    pub(super) fn give_up_jobs(&mut self, env: &Env<'_>, out: &mut Outbox) {
        let late: Vec<CommandId> =
            self.jobs.iter().filter(|(_, job)| job.deadline <= env.now.mono).map(|(id, _)| *id).collect();
        for id in late {
            let Some(key) = self.jobs.get(&id).map(|job| job.key.clone()) else { continue };
            self.unreached(env, out, &key);
            self.end_job(out, id, Err(ClaimError::Unavailable(silence(env, &key))));
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            entry.jobs.retain(|waiting| *waiting != id);
            // A kept one is still wanted: it goes on in the background.
            if entry.jobs.is_empty() && !entry.usable(env) && !entry.gone && !entry.keep {
                if env.rules.release_given_up {
                    self.give_back(env, out, &key);
                } else {
                    self.forget(out, &key);
                }
            }
        }
    }
}

fn taken_by(owner: PublicKey, remaining: Duration) -> ClaimError {
    match owner.peer_id() {
        Some(owner) => ClaimError::Taken { owner, remaining },
        None => ClaimError::NoneFree,
    }
}
