//! What status pages say.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use libp2p_identity::PeerId;

use crate::ballot::Token;
use crate::clock::Now;
use crate::command::LeaseKey;
use crate::env::Env;
use crate::identity::PublicKey;
use crate::sign::NamespaceId;

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
    /// The newest view of shard 0.
    pub view: u64,
    /// Who votes in it.
    pub members: Vec<PeerId>,
    /// Who votes in any shard, so that every node keeps in touch with them.
    pub replicas: Vec<PeerId>,
    /// Of those in the view of shard 0, which were not heard for longer than they ought to, and for how long.
    pub silent: Vec<(PeerId, Duration)>,
    /// How many shards this node is a replica of, and how many there are.
    pub votes_in: (usize, usize),
    /// How many shards the authority recovered on this machine that are not served yet, and how long the last of them waits.
    pub recovering: Option<(usize, Duration)>,
    /// Why this node is no candidate for a replica; `None` if it is one, or is a replica.
    pub hindrance: Option<&'static str>,
    /// What this node's leases rest on.
    pub leases: Vec<LeaseFacts>,
    /// Admitted peers.
    pub peers: Vec<PeerId>,
    /// Version numbers of what the authority signs, as handshakes carry them.
    pub heads: [u8; 8],
    /// Of this node's own credential.
    pub credential_hash: [u8; 32],
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
        self.summarize()
    }

    /// For status pages.
    pub fn summary_at(&self, now: Now) -> Summary {
        let env = env!(self, now);
        let silent = env.chain.newest(0).map(|view| self.presences.silent(&env, view)).unwrap_or_default();
        let mine = env.newest().filter(|view| self.acceptor.member(&env, view).is_some()).count();
        Summary {
            silent: silent.into_iter().filter_map(|(identity, since)| Some((identity.peer_id()?, since))).collect(),
            votes_in: (mine, usize::from(env.chain.shard_count())),
            recovering: self.waits.left(&env),
            hindrance: self.presences.hindrance(now.mono),
            leases: self.leases.facts(&env),
            ..self.summarize()
        }
    }

    fn summarize(&self) -> Summary {
        let config = self.membership.config();
        let view = self.membership.chain().newest(0);
        let members = view.map(|view| view.members.as_slice()).unwrap_or_default();
        let chain = self.membership.chain();
        let shards = (0..chain.shard_count()).filter_map(|shard| chain.newest(shard));
        let replicas: BTreeSet<PublicKey> = shards.flat_map(|view| &view.members).map(|m| m.identity).collect();
        Summary {
            id: self.ns,
            name: config.name.clone(),
            zone: config.zone.clone(),
            range: config.range,
            service: config.service(),
            mtu: config.mtu,
            lease: config.lease(),
            view: view.map_or(0, |view| view.number),
            members: members.iter().filter_map(|member| member.identity.peer_id()).collect(),
            replicas: replicas.iter().filter_map(PublicKey::peer_id).collect(),
            silent: Vec::new(),
            votes_in: (0, usize::from(chain.shard_count())),
            recovering: None,
            hindrance: None,
            leases: Vec::new(),
            peers: self.membership.admitted().map(|(peer, _)| *peer).collect(),
            heads: self.membership.heads().short(),
            credential_hash: self.membership.credential().hash(&self.ns),
            authority: self.authority.is_some(),
            reachable: self.leases.reachable(),
            handshake_floor: self.handshake_floor,
        }
    }
}
