//! What must hold in true time, whatever happens.
//!
//! 1. No two nodes may use one address or name at once: compared at each grant, and whenever a node begins to forward.
//! 2. No frame leaves a node from an address whose lease is over on that node's own clock.
//! 3. No ping is delivered from a source that whoever really sent it did not hold.
//! 4. Every queue and table stays small.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use dht::LeaseKey;
use dht::clock::OwnerTime;

use crate::node::{Node, NodeId, Observation};
use crate::probe::Seen;
use crate::setup::MOST_NODES;

/// The longest that a packet may be under way or wait, from sender to receiver.
const LONGEST_FLIGHT: Duration = Duration::from_secs(15);
/// Connections and messages that may wait at one node of a small world.
const MOST_BACKLOG: usize = 2000;
/// Reasons, hosts and peers in the status of one node of a small world.
const MOST_LISTED: usize = 256;

/// A node had an address, from here to there.
#[derive(Clone, Copy, Debug)]
struct Holding {
    node: NodeId,
    since: Duration,
    until: Option<Duration>,
}

/// Watches all nodes.
#[derive(Debug, Default)]
pub struct Watch {
    holdings: BTreeMap<Ipv4Addr, Vec<Holding>>,
    addresses: BTreeMap<NodeId, BTreeSet<Ipv4Addr>>,
    told: BTreeMap<(NodeId, Ipv4Addr), OwnerTime>,
    keys: BTreeSet<LeaseKey>,
    /// When each address last came to another node than before, or went.
    moved: BTreeMap<Ipv4Addr, Duration>,
    /// When a frame last left each node for another.
    pub left: BTreeMap<NodeId, Duration>,
    /// Pings that arrived from the tunnel.
    pub arrived: u64,
    violations: Vec<String>,
}

impl Watch {
    /// What was broken so far.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// When this address was last gained or lost by anybody.
    pub fn moved(&self, ip: Ipv4Addr) -> Duration {
        self.moved.get(&ip).copied().unwrap_or_default()
    }

    /// How many nodes have had this address, one after the other.
    pub fn owners(&self, ip: Ipv4Addr) -> usize {
        let nodes = self.holdings.get(&ip).into_iter().flatten().map(|holding| holding.node);
        nodes.collect::<BTreeSet<_>>().len()
    }

    pub(crate) fn observe(&mut self, node: NodeId, seen: &Observation, nodes: &[Node], at: Duration) {
        match seen {
            Observation::Granted { key, until } => {
                if let LeaseKey::Address(ip) = key {
                    self.told.insert((node, *ip), *until);
                }
                self.keys.insert(key.clone());
                self.check_key(key, nodes, at);
            }
            Observation::Forwarding | Observation::Bound(_) | Observation::Lost(..) => {
                self.note_addresses(&nodes[node.index()], nodes, at);
            }
            Observation::Left(source) => {
                self.left.insert(node, at);
                self.check_left(&nodes[node.index()], *source, at);
            }
            Observation::Arrived(seen) => self.check_arrived(node, *seen, at),
            Observation::JoinFailed(_)
            | Observation::Started
            | Observation::State(_)
            | Observation::Named(_)
            | Observation::Dropped(_) => {}
        }
    }

    /// The process of a node ended, and with it every use of an address.
    pub(crate) fn ended(&mut self, node: NodeId, at: Duration) {
        self.told.retain(|(owner, _), _| *owner != node);
        for ip in self.addresses.remove(&node).unwrap_or_default() {
            self.end(node, ip, at);
        }
    }

    /// Everything at once: after a resume, and every now and then.
    pub(crate) fn check_all(&mut self, nodes: &[Node], at: Duration) {
        for key in self.keys.clone() {
            self.check_key(&key, nodes, at);
        }
        for node in nodes {
            let backlog = node.backlog();
            let drops = node.all_drops(at).len();
            let hosts = node.addresses(at).len();
            if backlog > MOST_BACKLOG || drops > MOST_LISTED || hosts > MOST_LISTED {
                self.violate(at, format!("{} has {backlog} waiting, {drops} drops, {hosts} hosts", node.id));
            }
        }
    }

    fn check_key(&mut self, key: &LeaseKey, nodes: &[Node], at: Duration) {
        let owners: Vec<String> =
            nodes.iter().filter(|node| node.lease(key, at).is_some()).map(|node| node.id.to_string()).collect();
        if owners.len() > 1 {
            self.violate(at, format!("{key} is leased to {} at once", owners.join(" and ")));
        }
    }

    fn note_addresses(&mut self, node: &Node, nodes: &[Node], at: Duration) {
        let now: BTreeSet<Ipv4Addr> = node.addresses(at).into_iter().collect();
        let before = self.addresses.insert(node.id, now.clone()).unwrap_or_default();
        for ip in before.difference(&now) {
            self.end(node.id, *ip, at);
        }
        for ip in now.difference(&before) {
            self.moved.insert(*ip, at);
            self.holdings.entry(*ip).or_default().push(Holding { node: node.id, since: at, until: None });
        }
        for ip in &now {
            let users: Vec<String> =
                nodes.iter().filter(|node| node.forwards_from(*ip, at)).map(|node| node.id.to_string()).collect();
            if users.len() > 1 {
                self.violate(at, format!("{ip} is used by {} at once", users.join(" and ")));
            }
        }
    }

    fn end(&mut self, node: NodeId, ip: Ipv4Addr, at: Duration) {
        self.moved.insert(ip, at);
        let holdings = self.holdings.entry(ip).or_default();
        for holding in holdings.iter_mut().filter(|holding| holding.node == node && holding.until.is_none()) {
            holding.until = Some(at);
        }
    }

    fn check_left(&mut self, node: &Node, source: Ipv4Addr, at: Duration) {
        let until = self.told.get(&(node.id, source));
        let owner = node.glance(at).map(|now| now.owner);
        if owner.zip(until).is_none_or(|(owner, until)| owner >= *until) {
            self.violate(at, format!("a frame left {} from {source}, which it has no lease of", node.id));
        }
    }

    fn check_arrived(&mut self, receiver: NodeId, seen: Seen, at: Duration) {
        self.arrived += 1;
        if !seen.is_request {
            return;
        }
        let sender = NodeId(seen.probe.node % MOST_NODES);
        let earliest = at.saturating_sub(LONGEST_FLIGHT);
        let held = self.holdings.get(&seen.source).is_some_and(|holdings| {
            holdings.iter().any(|h| h.node == sender && h.since <= at && h.until.is_none_or(|until| until >= earliest))
        });
        if !held {
            self.violate(at, format!("{receiver} was given a ping of {sender} from {}, not its address", seen.source));
        }
    }

    pub(crate) fn violate(&mut self, at: Duration, what: String) {
        self.violations.push(format!("at {:.6} s: {what}", at.as_secs_f64()));
    }
}
