//! What a recovery of lost replicas does, as programs read it.

use serde::{Deserialize, Serialize};

/// Which shards this machine takes over, and what that costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// Whether it was done; else it would be.
    pub done: bool,
    /// The shards that are taken over.
    pub shards: Vec<LostShard>,
    /// How many shards there are.
    pub of: u16,
    /// How many were recovered on this machine before and wait already.
    pub waiting: usize,
    /// For how long nothing is granted or renewed in them, seconds.
    pub wait_s: u64,
}

/// A shard that is taken over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostShard {
    /// Its number.
    pub shard: u16,
    /// The number of its newest view, as far as is known here.
    pub view: u64,
    /// Its replicas.
    pub members: Vec<AskedReplica>,
    /// How many of them would have to answer.
    pub needed: usize,
    /// How many leases this machine knows of. What was granted besides is forgotten.
    pub leases: usize,
}

/// A replica that was asked whether it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedReplica {
    /// Its P2P id.
    pub peer_id: String,
    /// Whether it answered.
    pub answered: bool,
}

impl From<dht::RecoveryPlan> for Recovery {
    fn from(plan: dht::RecoveryPlan) -> Self {
        let replica = |(peer, answered): (libp2p_identity::PeerId, bool)| {
            let peer_id = peer.to_string();
            AskedReplica { peer_id, answered }
        };
        let lost = |shard: dht::ShardPlan| LostShard {
            shard: shard.shard,
            view: shard.view,
            members: shard.members.into_iter().map(replica).collect(),
            needed: shard.needed,
            leases: shard.leases,
        };
        Self {
            done: plan.done,
            shards: plan.shards.into_iter().map(lost).collect(),
            of: plan.of,
            waiting: plan.waiting,
            // Rounded up: a second too early is an empty promise.
            wait_s: plan.wait.as_secs().saturating_add(1),
        }
    }
}

/// Shards that wait, as status shows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveringStatus {
    /// How many.
    pub shards: usize,
    /// Of how many.
    pub of: usize,
    /// How long the last of them waits, seconds.
    pub left_s: u64,
}

impl RecoveringStatus {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let Self { shards, of, left_s } = self;
        let which = if of == shards { "the register was".to_owned() } else { format!("{shards} of {of} shards were") };
        format!(
            "{which} recovered, and nothing is granted there for another {left_s} s, until every old lease has run out"
        )
    }
}
