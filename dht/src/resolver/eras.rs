//! Since when later views are known, and so, whose certificates can be of nothing that still runs.
//!
//! Whoever was once a quorum can sign a certificate of its view for ever. But a lease that runs was granted or renewed
//! within the longest lease; so once a later view has been known for so long, what an older one proves is history.

use std::collections::{BTreeMap, VecDeque};

use crate::certificate::LeaseCert;
use crate::clock::OwnerTime;
use crate::env::Env;
use crate::record::{RegisterKey, Scope};

/// Most views of one shard that are remembered; a forgotten one only makes others count for longer.
const MAX_VIEWS: usize = 16;

/// The newest views of each shard, and when they became known here. The first is the last that is known for long enough.
#[derive(Debug, Default)]
pub(super) struct Eras {
    since: BTreeMap<u16, VecDeque<(Scope, OwnerTime)>>,
}

impl Eras {
    /// Notes the views that are new.
    pub(super) fn note(&mut self, env: &Env<'_>) {
        let longest = env.guard(env.config.max_lease());
        for scope in env.newest().map(Scope::of) {
            let since = self.since.entry(scope.shard).or_default();
            if since.back().is_some_and(|(last, _)| *last == scope) {
                continue;
            }
            since.push_back((scope, env.now.owner));
            let settled = |since: &VecDeque<(Scope, OwnerTime)>| {
                since.get(1).is_some_and(|(_, at)| env.now.owner.0.saturating_sub(at.0) >= longest)
            };
            while settled(since) {
                since.pop_front();
            }
            if since.len() > MAX_VIEWS {
                since.remove(1);
            }
        }
    }

    /// Whether nothing that this proves can still be in use.
    pub(super) fn is_over(&self, env: &Env<'_>, cert: &LeaseCert) -> bool {
        let key = RegisterKey::Lease(cert.record.request.op.key.clone());
        let of = Scope { incarnation: cert.incarnation, shard: key.shard(env.ns, env.config), view: cert.ballot.view };
        let longest = env.guard(env.config.max_lease());
        let old = |(scope, at): &(Scope, OwnerTime)| *scope > of && env.now.owner.0.saturating_sub(at.0) >= longest;
        let below = env.config.checkpoints.iter().any(|checkpoint| {
            checkpoint.shard == of.shard && checkpoint.incarnation > of.incarnation && of.view < checkpoint.floor
        });
        let late = self.since.get(&of.shard).is_some_and(|since| since.iter().any(old));
        env.rules.old_views_are_no_news && (late || below)
    }
}
