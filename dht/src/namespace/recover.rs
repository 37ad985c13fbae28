//! Recovering shards whose replicas are lost: the authority asks everybody once more, and puts itself in their place.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::clock::Now;
use crate::command::CommandId;
use crate::env::Env;
use crate::event::{Event, Level};
use crate::identity::PublicKey;
use crate::invite::Roles;
use crate::message::Message;
use crate::recovery::{RecoverError, RecoveryPlan, ShardPlan, needed, replace, shard_plan};
use crate::view::{Member, View};

use super::Namespace;

/// How long replicas have to answer before they count as lost. A connection may have to be made first.
const PATIENCE: Duration = Duration::from_secs(8);

/// A recovery that waits for replicas to say that they are there after all.
#[derive(Debug)]
pub(super) struct Recovering {
    id: CommandId,
    all: bool,
    confirmed: bool,
    until: Instant,
    /// Who has answered, with which store.
    answered: BTreeSet<(PublicKey, [u8; 16])>,
}

impl Recovering {
    /// A replica says that it is there.
    pub(super) fn heard(&mut self, identity: PublicKey, store_id: [u8; 16]) {
        self.answered.insert((identity, store_id));
    }
}

impl Namespace {
    /// Asks all replicas whether they are there.
    pub(super) fn recover(&mut self, (id, all, confirmed): (CommandId, bool, bool), now: Now) {
        if let Err(error) = self.may_recover() {
            return self.out.event(Event::Recovered { id, outcome: Err(error) });
        }
        let until = now.mono + PATIENCE;
        self.recovering = Some(Recovering { id, all, confirmed, until, answered: BTreeSet::new() });
        let env = env!(self, now);
        let members: BTreeSet<PublicKey> = env.newest().flat_map(|v| &v.members).map(|m| m.identity).collect();
        for member in members.iter().filter(|member| **member != env.me) {
            self.presences.tell(&env, &mut self.out, member, true);
        }
    }

    fn may_recover(&self) -> Result<(), RecoverError> {
        let authority = self.authority.as_ref().ok_or(RecoverError::NoAuthority)?.public();
        let config = self.membership.config();
        if !config.authority.contains(&authority) {
            return Err(RecoverError::NoAuthority);
        }
        if config.threshold != 1 {
            return Err(RecoverError::Threshold(config.threshold));
        }
        if !self.membership.credential().invite.body.roles.contains(Roles::REPLICA) {
            return Err(RecoverError::NoReplica);
        }
        if self.recovering.is_some() {
            return Err(RecoverError::Busy);
        }
        Ok(())
    }

    /// Goes on as soon as all have answered, or had time to.
    pub(super) fn check_recovery(&mut self, now: Now) {
        let Some(Recovering { id, all, confirmed, until, answered }) = &self.recovering else { return };
        let (id, all, confirmed) = (*id, *all, *confirmed);
        let env = env!(self, now);
        let mine = self.acceptor.store_id();
        let there = |member: &Member| match member.identity == env.me {
            true => member.store_id == mine,
            false => answered.contains(&(member.identity, member.store_id)),
        };
        let complete = env.newest().all(|view| view.members.iter().all(there));
        if !complete && now.mono < *until {
            return;
        }
        let wanted = |view: &&View| {
            let up = view.members.iter().filter(|member| there(member)).count();
            (all || up < view.quorum()) && !self.waits.holds(view.shard)
        };
        let views: Vec<&View> = env.newest().filter(wanted).collect();
        let shards = views.iter().map(|view| shard_plan(&env, &self.acceptor, view, there)).collect();
        let waiting = self.waits.left(&env).map_or(0, |(count, _)| count);
        let (of, wait) = (env.chain.shard_count(), needed(&env));
        let plan = RecoveryPlan { shards, of, waiting, wait, done: false };
        self.recovering = None;
        let outcome = if confirmed { self.carry_out(plan, now) } else { Ok(plan) };
        self.out.event(Event::Recovered { id, outcome });
    }

    /// Signs, stores, and tells everybody who is connected.
    fn carry_out(&mut self, plan: RecoveryPlan, now: Now) -> Result<RecoveryPlan, RecoverError> {
        if plan.shards.is_empty() {
            return Err(RecoverError::NothingLost);
        }
        let authority = self.authority.as_ref().ok_or(RecoverError::NoAuthority)?;
        let env = env!(self, now);
        let serial = self.membership.credential().serial(&self.ns);
        let me = Member { identity: env.me, store_id: self.acceptor.store_id(), serial };
        let shards: Vec<u16> = plan.shards.iter().map(|plan: &ShardPlan| plan.shard).collect();
        let (config, views) = replace(&env, &self.acceptor, (me, &shards), self.membership.signed_config(), authority)?;
        self.membership.observe_config(config).map_err(RecoverError::Config)?;
        for view in &views {
            self.membership.observe_view(view).map_err(RecoverError::View)?;
        }
        self.pump();
        self.views_changed(now);
        self.spread_recovery(None);
        Ok(RecoveryPlan { done: true, ..plan })
    }

    /// Gives the configuration, with the views that it vouches for, to all members that are connected.
    pub(super) fn spread_recovery(&mut self, except: Option<&PublicKey>) {
        let except = except.and_then(PublicKey::peer_id);
        let news: Message = self.membership.news();
        let members = self.membership.admitted().filter(|(_, level)| *level == Level::Member);
        for (peer, _) in members.filter(|(peer, _)| Some(**peer) != except) {
            self.out.send_peer(*peer, &news);
        }
    }

    /// When to stop waiting for answers.
    pub(super) fn poll_recovery_timeout(&self) -> Option<(Instant, &'static str)> {
        let asked = self.recovering.as_ref().map(|asked| (asked.until, "recover without those that are silent"));
        asked.into_iter().chain(self.waits.poll_timeout()).min()
    }
}
