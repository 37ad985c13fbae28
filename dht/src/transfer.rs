//! How a member of a new view gets what the old one held.
//!
//! It asks the members of the old view, all of them wedged, and begins to serve with what a quorum of those held: of each
//! register the value under the highest ballot, and the longest time for which any of them has held that. Every operation
//! that was ever committed in the old view was accepted by a quorum before it wedged, so each member of the new view has it
//! by itself. Where the old state is gone already, all of one active member of the new view will do.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::acceptor::Acceptor;
use crate::clock::{Now, ReplicaTime};
use crate::env::{DropReason, Env, Outbox};
use crate::identity::PublicKey;
use crate::message::{Held, Message, ViewMessage};
use crate::record::{RegisterKey, Scope};
use crate::slot::Standing;
use crate::top::Top;
use crate::view::View;

/// What does not answer is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// After so many attempts at the old view's members an active member of the new one is asked, too.
const PATIENT: u32 = 2;
/// Most registers of one source: as many as a replica keeps.
const MAX_ITEMS: usize = 1 << 20;

/// What one replica has shown up to now.
#[derive(Debug, Default)]
struct Source {
    items: BTreeMap<RegisterKey, (Held, ReplicaTime)>,
    last: Option<RegisterKey>,
    complete: bool,
}

/// One view that this node is to serve and cannot yet.
#[derive(Debug)]
struct Job {
    view: Scope,
    /// Members of the old view.
    sources: BTreeMap<PublicKey, Source>,
    /// Members of the new one that serve it.
    copies: BTreeMap<PublicKey, Source>,
    again: Instant,
    attempt: u32,
}

/// All of them, by shard.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    jobs: BTreeMap<u16, Job>,
}

/// The state with which a view begins, out of what its sources held.
pub(crate) fn merge<'s>(
    sources: impl Iterator<Item = &'s BTreeMap<RegisterKey, (Held, ReplicaTime)>>,
    now: &Now,
) -> Vec<Held> {
    let mut by_key: BTreeMap<&RegisterKey, Vec<&(Held, ReplicaTime)>> = BTreeMap::new();
    for (key, item) in sources.flatten() {
        by_key.entry(key).or_default().push(item);
    }
    by_key.into_values().map(|items| Top::of(items.into_iter(), now).into_held()).collect()
}

/// Whether so many snapshots of other members, and perhaps this node's own, are all that was ever committed.
pub(crate) fn is_enough(others: usize, own: bool, quorum: usize) -> bool {
    others + usize::from(own) >= quorum
}

impl Transfers {
    /// Begins what is to be begun, and asks again what did not answer.
    pub(crate) fn step(&mut self, env: &Env<'_>, out: &mut Outbox, acceptor: &mut Acceptor) {
        for view in env.newest() {
            // What a recovery left behind is no quorum of anything: see `recovery.rs`.
            let transferring =
                acceptor.stations.standing(env, view) == Some(Standing::Transferring) && !env.chain.is_recovered(view);
            let scope = Scope::of(view);
            if !transferring || self.jobs.get(&scope.shard).is_some_and(|job| job.view != scope) {
                self.jobs.remove(&scope.shard);
            }
            if !transferring {
                continue;
            }
            let job = self.jobs.entry(scope.shard).or_insert_with(|| Job {
                view: scope,
                sources: BTreeMap::new(),
                copies: BTreeMap::new(),
                again: env.now.mono,
                attempt: 0,
            });
            if job.again <= env.now.mono {
                job.ask(env, out, view);
            }
            self.conclude(env, out, acceptor, view);
        }
    }

    /// A part of somebody's snapshot.
    pub(crate) fn handle_snapshot(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        acceptor: &mut Acceptor,
        from: &PublicKey,
        (scope, into, store_id): (Scope, Scope, [u8; 16]),
        (after, last, items): (Option<RegisterKey>, bool, Vec<Held>),
    ) {
        let Some(job) = self.jobs.get_mut(&scope.shard).filter(|job| job.view == into) else {
            return out.drop(DropReason::Unexpected);
        };
        let Some(view) = env.current(&job.view) else { return };
        let source = env.known(&scope).filter(|source| {
            let member = source.index_of(from).and_then(|index| source.member(index));
            member.is_some_and(|member| member.store_id == store_id)
        });
        let sources = match source {
            Some(source) if Scope::of(source) == job.view => &mut job.copies,
            Some(source) if view.previous == source.hash() => &mut job.sources,
            Some(_) | None => return out.drop(DropReason::NotReplica),
        };
        let source = sources.entry(*from).or_default();
        if source.complete || source.last != after || source.items.len() >= MAX_ITEMS {
            return;
        }
        for held in items {
            // Each value proves its owner's wish; a quorum's votes for it were counted where it was decided.
            let Some(value) = held.value.as_ref().filter(|value| value.verify(env.ns, env.config)) else {
                out.drop(DropReason::ForgedValue);
                continue;
            };
            let key = value.key();
            if key.shard(env.ns, env.config) == scope.shard {
                source.last = Some(key.clone());
                source.items.insert(key, (held, env.now.replica));
            }
        }
        source.complete = last;
        if !last {
            let ask = ViewMessage::AskSnapshot { scope, into, after: source.last.clone() };
            out.send(env, from, Message::View(ask));
            job.again = env.now.mono + ASK_AGAIN;
        }
        self.conclude(env, out, acceptor, view);
    }

    /// Begins to serve the view as soon as enough is here.
    fn conclude(&mut self, env: &Env<'_>, out: &mut Outbox, acceptor: &mut Acceptor, view: &View) {
        let Some(job) = self.jobs.get(&view.shard) else { return };
        let Some(old) = env.chain.before(view) else { return };
        let complete = |sources: &BTreeMap<PublicKey, Source>| -> Vec<BTreeMap<RegisterKey, (Held, ReplicaTime)>> {
            sources.values().filter(|source| source.complete).map(|source| source.items.clone()).collect()
        };
        let others = job.sources.values().filter(|source| source.complete).count();
        let own = acceptor.own_snapshot(env, old);
        let quorum = is_enough(others, own.is_some(), old.quorum());
        let sources = if quorum {
            let mut sources = complete(&job.sources);
            let own = own.into_iter().flatten().filter_map(|held| {
                let key = held.value.as_ref()?.key();
                Some((key, (held, env.now.replica)))
            });
            sources.push(own.collect());
            sources
        } else {
            complete(&job.copies).into_iter().take(1).collect()
        };
        if sources.is_empty() {
            return;
        }
        acceptor.install(env, out, view, merge(sources.iter(), &env.now));
        self.jobs.remove(&view.shard);
        let (scope, store_id) = (Scope::of(view), acceptor.store_id());
        let standing = acceptor.stations.standing(env, view).unwrap_or_default();
        for member in old.members.iter().chain(&view.members) {
            out.send(env, &member.identity, Message::View(ViewMessage::Station { scope, store_id, standing }));
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.jobs.values().map(|job| (job.again, "ask for the state of a view")).min()
    }
}

impl Job {
    fn ask(&mut self, env: &Env<'_>, out: &mut Outbox, view: &View) {
        self.again = env.now.mono + ASK_AGAIN.saturating_mul(1 << self.attempt.min(5));
        self.attempt = self.attempt.saturating_add(1);
        let Some(old) = env.chain.before(view) else { return };
        let successor = env.chain.successor(&Scope::of(view)).cloned();
        for member in &old.members {
            if member.identity == env.me {
                continue;
            }
            // It may not know yet that its view is over, and gives nothing before.
            if let Some(successor) = successor.clone().filter(|_| env.rules.snapshot_after_wedge) {
                out.send(env, &member.identity, Message::Moved { views: vec![successor] });
            }
            ask(env, out, &member.identity, (Scope::of(old), self.view), self.sources.get(&member.identity));
        }
        if self.attempt > PATIENT {
            for member in view.members.iter().filter(|member| member.identity != env.me) {
                ask(env, out, &member.identity, (self.view, self.view), self.copies.get(&member.identity));
            }
        }
    }
}

fn ask(env: &Env<'_>, out: &mut Outbox, of: &PublicKey, (scope, into): (Scope, Scope), source: Option<&Source>) {
    if source.is_none_or(|source| !source.complete) {
        let after = source.and_then(|source| source.last.clone());
        out.send(env, of, Message::View(ViewMessage::AskSnapshot { scope, into, after }));
    }
}
