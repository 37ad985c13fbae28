//! How long a shard that the authority recovered waits before it is served.
//!
//! Nobody knows what the lost replicas granted last. So the view that takes their place serves nothing until the longest
//! lease that they can have given has run out, on every clock within the bound, whoever holds it. That time is counted on
//! this replica's own clock and saved every minute; after a restart only what is certain counts, after a reboot only what
//! was saved, which errs to the safe side.

mod plan;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::acceptor::{Acceptor, RESTART_DOUBT};
use crate::cell::millis;
use crate::clock::Now;
use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::env::{Env, Outbox};
use crate::message::{Message, ViewMessage};
use crate::namespace::{Image, LoadError};
use crate::record::Scope;
use crate::slot::Standing;
use crate::view::View;

pub use plan::{RecoverError, RecoveryPlan, ShardPlan};
pub(crate) use plan::{replace, shard_plan};

const WAIT: &[u8] = b"recovery/";
/// How often the time that was waited goes to disk.
const SAVE_EVERY: Duration = Duration::from_secs(60);
/// A replica's clock may lag behind the one that wakes it.
const SHORTEST: Duration = Duration::from_millis(50);

/// One recovered view that is not served yet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wait {
    scope: Scope,
    /// What was counted up to `base`, a point on this boot's replica clock.
    counted_ms: u64,
    base_ms: u64,
    boot: [u8; 16],
}

impl Wait {
    fn new(scope: Scope, now: &Now) -> Self {
        Self { scope, counted_ms: 0, base_ms: millis(now.replica.0), boot: now.boot.0 }
    }

    fn counted(&self, now: &Now) -> Duration {
        let since = if self.boot == now.boot.0 { millis(now.replica.0).saturating_sub(self.base_ms) } else { 0 };
        Duration::from_millis(self.counted_ms.saturating_add(since))
    }

    /// Counts on from here.
    fn rebase(&mut self, counted: Duration, now: &Now) {
        *self = Self { counted_ms: millis(counted), ..Self::new(self.scope, now) };
    }

    /// Takes up what another process counted. Its clock and this one's agree only so far.
    fn resume(&mut self, now: &Now) {
        let saved = Duration::from_millis(self.counted_ms);
        let since = self.counted(now).saturating_sub(saved);
        self.rebase(saved.saturating_add(since.saturating_sub(now.replica.0 / RESTART_DOUBT)), now);
    }
}

impl Wire for Wait {
    fn encode(&self, out: &mut Writer) {
        self.scope.encode(out);
        out.u64(self.counted_ms);
        out.u64(self.base_ms);
        out.raw(&self.boot);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { scope: Scope::decode(input)?, counted_ms: input.u64()?, base_ms: input.u64()?, boot: input.array()? })
    }
}

/// All of them, by shard.
#[derive(Debug)]
pub(crate) struct Waits {
    waits: BTreeMap<u16, Wait>,
    save_at: Instant,
    due: Option<Instant>,
}

impl Waits {
    /// Takes up what is on disk.
    pub(crate) fn load(out: &mut Outbox, image: &Image, now: &Now) -> Result<Self, LoadError> {
        let mut waits = BTreeMap::new();
        for (key, value) in image.range(WAIT.to_vec()..).take_while(|(key, _)| key.starts_with(WAIT)) {
            let mut wait = Wait::from_bytes(value).map_err(|_| LoadError::Damaged("time since a recovery"))?;
            wait.resume(now);
            out.persist(key.clone(), Some(wait.to_bytes()));
            waits.insert(wait.scope.shard, wait);
        }
        Ok(Self { waits, save_at: now.mono + SAVE_EVERY, due: None })
    }

    /// Begins to wait for what was recovered on this machine, and serves what has waited long enough.
    pub(crate) fn step(&mut self, env: &Env<'_>, out: &mut Outbox, acceptor: &mut Acceptor) {
        let waiting = |view: &View| {
            env.chain.is_recovered(view) && acceptor.stations.standing(env, view) == Some(Standing::Transferring)
        };
        let views: Vec<&View> = env.newest().filter(|view| waiting(view)).collect();
        let over: Vec<u16> = self.waits.keys().copied().filter(|s| views.iter().all(|view| view.shard != *s)).collect();
        for shard in over {
            self.waits.remove(&shard);
            out.persist(wait_key(shard), None);
        }
        let need = needed(env);
        let mut least = None;
        for view in views {
            let left = need.saturating_sub(self.counted(env, out, view));
            if left.is_zero() {
                serve(env, out, acceptor, view, need);
                self.waits.remove(&view.shard);
                out.persist(wait_key(view.shard), None);
            } else {
                least = Some(least.map_or(left, |least: Duration| least.min(left)));
            }
        }
        self.due = least.map(|left| env.now.mono + left.max(SHORTEST));
    }

    /// How long this view has waited; from now on if it is new.
    fn counted(&mut self, env: &Env<'_>, out: &mut Outbox, view: &View) -> Duration {
        let scope = Scope::of(view);
        if let Some(wait) = self.waits.get(&view.shard).filter(|wait| wait.scope == scope) {
            return wait.counted(&env.now);
        }
        let wait = Wait::new(scope, &env.now);
        out.persist(wait_key(view.shard), Some(wait.to_bytes()));
        self.waits.insert(view.shard, wait);
        Duration::ZERO
    }

    /// Serves what is due, and saves how long the others have waited.
    pub(crate) fn handle_timeout(&mut self, env: &Env<'_>, out: &mut Outbox, acceptor: &mut Acceptor) {
        if self.save_at <= env.now.mono {
            self.save_at = env.now.mono + SAVE_EVERY;
            for (shard, wait) in &mut self.waits {
                wait.rebase(wait.counted(&env.now), &env.now);
                out.persist(wait_key(*shard), Some(wait.to_bytes()));
            }
        }
        self.step(env, out, acceptor);
    }

    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.due.map(|due| (due.min(self.save_at), "wait for the leases of lost replicas to run out"))
    }

    /// How many shards wait here, and how long the last of them will.
    pub(crate) fn left(&self, env: &Env<'_>) -> Option<(usize, Duration)> {
        let left = |wait: &Wait| needed(env).saturating_sub(wait.counted(&env.now));
        self.waits.values().map(left).max().map(|left| (self.waits.len(), left))
    }

    /// Whether this shard waits here.
    pub(crate) fn holds(&self, shard: u16) -> bool {
        self.waits.contains_key(&shard)
    }
}

/// The longest for which a lease of the lost replicas may still be used, as this replica counts.
pub(crate) fn needed(env: &Env<'_>) -> Duration {
    if env.rules.recovery_waits { env.guard(env.config.max_lease()) } else { Duration::ZERO }
}

/// Begins to serve a recovered view with what this store itself held of the one before: no proof of what its replicas
/// decided last, but all of it has run out, and who had an address gets it again.
fn serve(env: &Env<'_>, out: &mut Outbox, acceptor: &mut Acceptor, view: &View, waited: Duration) {
    let before = env.chain.before(view);
    let leases = before.map(|before| acceptor.leases_of(env, Scope::of(before))).unwrap_or_default();
    let leases = leases.into_iter().map(|mut held| {
        held.elapsed_ms = held.elapsed_ms.max(millis(waited));
        held
    });
    acceptor.install(env, out, view, leases.collect());
    let (scope, store_id) = (Scope::of(view), acceptor.store_id());
    let standing = acceptor.stations.standing(env, view).unwrap_or_default();
    for member in before.map(|before| before.members.as_slice()).unwrap_or_default().iter().chain(&view.members) {
        out.send(env, &member.identity, Message::View(ViewMessage::Station { scope, store_id, standing }));
    }
}

fn wait_key(shard: u16) -> Vec<u8> {
    [WAIT, &shard.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{BootId, ReplicaTime};
    use crate::membership::fixture;

    fn at(seconds: u64, boot: u8) -> Now {
        let replica = ReplicaTime(Duration::from_secs(seconds));
        Now { replica, boot: BootId([boot; 16]), ..fixture::now() }
    }

    fn scope() -> Scope {
        Scope { incarnation: 1, shard: 2, view: 3 }
    }

    #[test]
    fn a_process_that_starts_again_leaves_a_fiftieth_of_the_time_since_boot_uncounted() {
        let mut wait = Wait::new(scope(), &at(1000, 1));
        assert_eq!(wait.counted(&at(1600, 1)), Duration::from_secs(600));
        wait.resume(&at(2000, 1));
        assert_eq!(wait.counted(&at(2000, 1)), Duration::from_secs(960));
        assert_eq!(wait.counted(&at(2001, 1)), Duration::from_secs(961));
    }

    #[test]
    fn a_machine_that_starts_again_counts_what_was_saved() {
        let mut wait = Wait::new(scope(), &at(1000, 1));
        wait.rebase(wait.counted(&at(1060, 1)), &at(1060, 1));
        assert_eq!(wait.counted(&at(5000, 2)), Duration::from_secs(60));
        wait.resume(&at(5000, 2));
        assert_eq!(wait.counted(&at(5010, 2)), Duration::from_secs(70));
    }

    #[test]
    fn what_is_on_disk_has_exactly_these_bytes() {
        let wait = Wait { scope: scope(), counted_ms: 4, base_ms: 5, boot: [6; 16] };
        let bytes = [
            &[0, 0, 0, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3][..],
            &[0, 0, 0, 0, 0, 0, 0, 4],
            &[0, 0, 0, 0, 0, 0, 0, 5],
            &[6; 16],
        ]
        .concat();
        assert_eq!(wait.to_bytes(), bytes);
        assert_eq!(Wait::from_bytes(&bytes), Ok(wait));
    }
}
