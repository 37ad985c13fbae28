//! What the authority signs to recover shards, and what it is told before.

use std::time::Duration;

use libp2p_identity::PeerId;
use thiserror::Error;

use crate::acceptor::Acceptor;
use crate::codec::Wire;
use crate::config::{Checkpoint, Config, ConfigError, MAX_CHECKPOINTS, MAX_CONFIG, SignedConfig};
use crate::env::Env;
use crate::identity::SecretKey;
use crate::record::Scope;
use crate::slot::Standing;
use crate::view::{ChainError, Member, Successor, View};

/// What a recovery does to one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardPlan {
    /// The shard.
    pub shard: u16,
    /// The number of its newest view, as far as is known here.
    pub view: u64,
    /// Its replicas, and whether each of them answered just now.
    pub members: Vec<(PeerId, bool)>,
    /// How many of them would have to.
    pub needed: usize,
    /// How many leases this machine knows of as a replica. What the others granted besides is forgotten.
    pub leases: usize,
}

/// What a recovery would do, or has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryPlan {
    /// The shards that are given to this machine.
    pub shards: Vec<ShardPlan>,
    /// How many shards there are.
    pub of: u16,
    /// How many were recovered here before and wait already.
    pub waiting: usize,
    /// For how long nothing is granted in them.
    pub wait: Duration,
    /// Whether it was done.
    pub done: bool,
}

/// Why nothing was recovered.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RecoverError {
    /// The key is elsewhere.
    #[error(
        "recover needs the authority key of this namespace, which is not on this machine: run it where it was created"
    )]
    NoAuthority,
    /// One key is not enough.
    #[error("recover needs the signatures of {0} authority keys, and this version gives one")]
    Threshold(u8),
    /// This machine could not take the places over.
    #[error("the membership of this machine does not let it be a replica")]
    NoReplica,
    /// Another one is under way.
    #[error("a recovery is under way already")]
    Busy,
    /// A quorum answers everywhere.
    #[error("nothing to recover: every shard has a quorum of replicas that answer, or waits already")]
    NothingLost,
    /// Too many recoveries in the life of one namespace.
    #[error(
        "the configuration has no room for the checkpoints of {0} shards: recover fewer, or create a new namespace"
    )]
    Full(usize),
    /// A number is at its end.
    #[error("a counter of the namespace is at its end")]
    Exhausted,
    /// The new configuration does not count.
    #[error("{0}")]
    Config(ConfigError),
    /// A new view does not count.
    #[error("{0}")]
    View(ChainError),
}

/// What is known of a shard, for people who decide about it.
pub(crate) fn shard_plan(
    env: &Env<'_>,
    acceptor: &Acceptor,
    view: &View,
    there: impl Fn(&Member) -> bool,
) -> ShardPlan {
    let members = view.members.iter().filter_map(|member| Some((member.identity.peer_id()?, there(member))));
    ShardPlan {
        shard: view.shard,
        view: view.number,
        members: members.collect(),
        needed: view.quorum(),
        leases: acceptor.leases_of(env, Scope::of(view)).len(),
    }
}

/// The configuration that puts `me` in the place of the replicas of these shards, and their next views.
pub(crate) fn replace(
    env: &Env<'_>,
    acceptor: &Acceptor,
    (me, shards): (Member, &[u16]),
    signed: &SignedConfig,
    authority: &SecretKey,
) -> Result<(SignedConfig, Vec<Successor>), RecoverError> {
    let old = signed.config();
    let index = old.authority.iter().position(|key| *key == authority.public());
    let index = index.and_then(|index| u8::try_from(index).ok()).ok_or(RecoverError::NoAuthority)?;
    let mut checkpoints = old.checkpoints.clone();
    let mut views = Vec::new();
    for shard in shards {
        let Some(newest) = env.chain.newest(*shard) else { continue };
        let view = next_view(old, newest, me).ok_or(RecoverError::Exhausted)?;
        checkpoints.push(Checkpoint {
            shard: *shard,
            incarnation: view.incarnation,
            view: view.number,
            hash: view.hash(),
            floor: floor(env, acceptor, *shard),
        });
        views.push(Successor::recovered(view));
    }
    checkpoints.sort_by_key(|checkpoint| (checkpoint.shard, checkpoint.incarnation));
    let epoch = old.invite_epoch.checked_add(u32::from(env.rules.recovery_voids_invites));
    let config = Config {
        version: old.version.checked_add(1).ok_or(RecoverError::Exhausted)?,
        previous: signed.hash(),
        issued_at: old.issued_at.max(env.now.unix_s),
        invite_epoch: epoch.ok_or(RecoverError::Exhausted)?,
        checkpoints,
        ..old.clone()
    };
    if config.checkpoints.len() > MAX_CHECKPOINTS || config.to_bytes().len() > MAX_CONFIG {
        return Err(RecoverError::Full(shards.len()));
    }
    Ok((SignedConfig::sign(env.ns, config, index, authority), views))
}

/// Of a higher incarnation than any that the authority has begun, even where its view is not known here.
fn next_view(config: &Config, newest: &View, me: Member) -> Option<View> {
    let begun = config.checkpoints.iter().filter(|checkpoint| checkpoint.shard == newest.shard);
    let highest = begun.map(|checkpoint| checkpoint.incarnation).max().unwrap_or(0).max(newest.incarnation);
    Some(View {
        incarnation: highest.checked_add(1)?,
        number: newest.number.checked_add(1)?,
        members: vec![me],
        previous: newest.hash(),
        ..newest.clone()
    })
}

/// Where an earlier recovery has waited to its end, everything before it ran out then.
fn floor(env: &Env<'_>, acceptor: &Acceptor, shard: u16) -> u64 {
    let all = env.config.checkpoints.iter().filter(|checkpoint| checkpoint.shard == shard);
    let Some(last) = all.max_by_key(|checkpoint| checkpoint.incarnation) else { return 0 };
    let Some(view) = env.chain.get(shard, last.incarnation, last.view) else { return last.floor };
    // Only members that serve a view decide about the next one.
    let ended = last.view.checked_add(1).is_some_and(|next| env.chain.get(shard, last.incarnation, next).is_some());
    let serves = acceptor.stations.standing(env, view) == Some(Standing::Active);
    if ended || serves { last.view } else { last.floor }
}
