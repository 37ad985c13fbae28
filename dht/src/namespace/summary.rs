//! What status pages say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use libp2p_identity::PeerId;

use crate::ballot::Token;
use crate::clock::Now;
use crate::command::LeaseKey;
use crate::env::{DropReason, Env};
use crate::identity::PublicKey;
use crate::invite::Roles;
use crate::record::RegisterKey;
use crate::sign::NamespaceId;
use crate::view::View;

use super::Namespace;

/// What one lease of this node rests on. Durations are as of the moment of the summary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseFacts {
    /// What is leased.
    pub key: LeaseKey,
    /// The fencing token.
    pub token: Token,
    /// The number of the view that granted it last.
    pub view: u64,
    /// The members of that view.
    pub members: Vec<PeerId>,
    /// Those of them who accepted the last grant or renewal.
    pub accepted: Vec<PeerId>,
    /// How long it goes on without a renewal.
    pub remaining: Duration,
    /// When it is renewed; zero while that is under way. `None` if nobody asked to keep it.
    pub renewal: Option<Duration>,
}

/// The newest view of one shard that serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardFacts {
    /// The shard.
    pub shard: u16,
    /// The view's number.
    pub view: u64,
    /// Who votes in it.
    pub members: Vec<PeerId>,
    /// Which of them were not heard for longer than they ought to, and for how long; none where this node has no vote.
    pub silent: Vec<(PeerId, Duration)>,
}

impl ShardFacts {
    /// How many of those that answer may be lost before nothing is granted any more; negative if that is so already.
    pub fn spare(&self) -> i64 {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let (all, silent) = (count(self.members.len()), count(self.silent.len()));
        all - silent - (all / 2 + 1)
    }
}

/// What status pages say about a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The identifier.
    pub id: NamespaceId,
    /// The name.
    pub name: String,
    /// The DNS zone.
    pub zone: String,
    /// The virtual addresses, with the prefix length.
    pub range: Ipv4Net,
    /// The lowest usable address, where DHCP and DNS answer.
    pub service: Ipv4Addr,
    /// The inner MTU.
    pub mtu: u16,
    /// The duration of a lease.
    pub lease: Duration,
    /// The shard of this node's own address; 0 while it has and claims none.
    pub home: ShardFacts,
    /// The shard that the fewest losses would stop; the one at home where none is worse off.
    pub weakest: ShardFacts,
    /// The shards that decide about what this node holds or claims; the one at home where that is nothing.
    pub rests: Vec<ShardFacts>,
    /// Who votes in any shard, so that every node keeps in touch with them.
    pub replicas: Vec<PeerId>,
    /// Whether what some shard holds exists on this node only.
    pub alone: bool,
    /// How many shards this node is a replica of, and how many there are.
    pub votes_in: (usize, usize),
    /// How many shards the authority recovered on this machine that are not served yet, and how long the last of them waits.
    pub recovering: Option<(usize, Duration)>,
    /// Why this node is no candidate for a replica; `None` if it is one, or is a replica.
    pub hindrance: Option<&'static str>,
    /// What came from peers and was ignored, and why, some seconds ago.
    pub drops: BTreeMap<DropReason, u64>,
    /// What this node's leases rest on.
    pub leases: Vec<LeaseFacts>,
    /// Admitted peers.
    pub peers: Vec<PeerId>,
    /// Version numbers of what the authority signs, as handshakes carry them.
    pub heads: [u8; 8],
    /// Of this node's own credential.
    pub credential_hash: [u8; 32],
    /// Whether this node's credential lets it carry datagrams for others.
    pub relay: bool,
    /// How many addresses of hosts this node may lease, where its credential makes it a router.
    pub router: Option<u16>,
    /// Whether this node can make invites.
    pub authority: bool,
    /// Whether the register answers; `None` before the first question.
    pub reachable: Option<bool>,
    /// Handshake numbers up to this one may have been used.
    pub handshake_floor: u64,
}

impl Namespace {
    /// For status pages, without what depends on the time.
    pub fn summary(&self) -> Summary {
        self.summarize(None)
    }

    /// For status pages.
    pub fn summary_at(&self, now: Now) -> Summary {
        let env = env!(self, now);
        let mine = env.newest().filter(|view| self.acceptor.member(&env, view).is_some()).count();
        Summary {
            votes_in: (mine, usize::from(env.chain.shard_count())),
            recovering: self.waits.left(&env),
            hindrance: self.presences.hindrance(now.mono),
            leases: self.leases.facts(&env),
            ..self.summarize(Some(now))
        }
    }

    /// Who votes in any shard.
    pub fn replicas(&self) -> BTreeSet<PeerId> {
        let members: BTreeSet<PublicKey> =
            self.newest_views().flat_map(|view| &view.members).map(|m| m.identity).collect();
        members.iter().filter_map(PublicKey::peer_id).collect()
    }

    fn newest_views(&self) -> impl Iterator<Item = &View> {
        let chain = self.membership.chain();
        (0..chain.shard_count()).filter_map(|shard| chain.newest(shard))
    }

    /// The shard of this node's own address, and all that it rests on.
    fn shards(&self) -> (u16, BTreeSet<u16>) {
        let shard = |key: &LeaseKey| RegisterKey::Lease(key.clone()).shard(&self.ns, self.membership.config());
        let home = self.leases.own_address().map_or(0, |ip| shard(&LeaseKey::Address(ip)));
        let mut rests: BTreeSet<u16> = self.leases.wanted().map(shard).collect();
        if rests.is_empty() {
            rests.insert(home);
        }
        (home, rests)
    }

    /// The view of a shard on which grants rest, and who is silent in it at this moment. A newer one that was decided is
    /// shown once a quorum serves it: the members of the one before may go then.
    fn shard_facts(&self, shard: u16, now: Option<Now>) -> ShardFacts {
        let chain = self.membership.chain();
        let newest = chain.newest(shard);
        let settled = |view: &&View| {
            let Some(now) = now else { return true };
            let (env, stations) = (env!(self, now), &self.acceptor.stations);
            stations.is_settled(&env, view, &stations.kept(&env))
        };
        let view = newest.filter(settled).or_else(|| newest.and_then(|newest| chain.before(newest))).or(newest);
        let silent = match (view, now) {
            (Some(view), Some(now)) => self.presences.silent(&env!(self, now), view),
            (Some(_), None) | (None, _) => Vec::new(),
        };
        let members = view.map(|view| view.members.as_slice()).unwrap_or_default();
        ShardFacts {
            shard,
            view: view.map_or(0, |view| view.number),
            members: members.iter().filter_map(|member| member.identity.peer_id()).collect(),
            silent: silent.into_iter().filter_map(|(identity, since)| Some((identity.peer_id()?, since))).collect(),
        }
    }

    /// What holds for this shard holds for all: as many losses as it bears the whole namespace bears.
    fn weakest(&self, home: u16, now: Option<Now>) -> ShardFacts {
        let all = (0..self.membership.chain().shard_count()).map(|shard| self.shard_facts(shard, now));
        let known = all.filter(|facts| !facts.members.is_empty());
        let rank = |facts: &ShardFacts| (facts.spare(), facts.members.len(), facts.shard != home, facts.shard);
        known.min_by_key(rank).unwrap_or_else(|| self.shard_facts(home, now))
    }

    fn routes_for(&self) -> Option<u16> {
        let body = &self.membership.credential().invite.body;
        body.roles.contains(Roles::ROUTER).then_some(body.quota)
    }

    fn summarize(&self, now: Option<Now>) -> Summary {
        let config = self.membership.config();
        let me = self.membership.identity().public();
        let (home, rests) = self.shards();
        Summary {
            id: self.ns,
            name: config.name.clone(),
            zone: config.zone.clone(),
            range: config.range,
            service: config.service(),
            mtu: config.mtu,
            lease: config.lease(),
            home: self.shard_facts(home, now),
            weakest: self.weakest(home, now),
            rests: rests.into_iter().map(|shard| self.shard_facts(shard, now)).collect(),
            replicas: self.replicas().into_iter().collect(),
            alone: self.newest_views().any(|view| view.members.iter().all(|member| member.identity == me)),
            votes_in: (0, usize::from(self.membership.chain().shard_count())),
            recovering: None,
            drops: self.chores.drops().clone(),
            hindrance: None,
            leases: Vec::new(),
            peers: self.membership.admitted().map(|(peer, _)| *peer).collect(),
            heads: self.membership.heads().short(),
            credential_hash: self.membership.credential().hash(&self.ns),
            relay: self.membership.credential().invite.body.roles.contains(Roles::RELAY),
            router: self.routes_for(),
            authority: self.authority.is_some(),
            reachable: self.leases.reachable(),
            handshake_floor: self.handshake_floor,
        }
    }
}
