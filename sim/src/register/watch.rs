//! Looks at everything that happens: who uses what at which moment, what owners and readers are told, which views follow.
//!
//! Two may not own one key at once. Whoever comes second begins to use it at some step of its process, so every machine is
//! looked at after every step, with the clocks of all others as they stand at that moment of true time. A process that is
//! paused or asleep counts as an owner for as long as it would go on where it stopped; one that is off does not.

use std::time::Duration;

use dht::certificate::LeaseCert;
use dht::codec::Wire;
use dht::{Event, Lease, LeaseKey, Resolution};

use super::history::Grant;
use super::world::{Failure, World};

/// No owner's clock runs slower than this, in thousandths.
const SLOWEST: u32 = 990;

impl World {
    #[expect(clippy::wildcard_enum_match_arm, reason = "only what is judged is looked at")]
    pub(super) fn observe(&mut self, node: usize, event: Event) {
        let at = self.time;
        match event {
            Event::Claimed { id, outcome } => match outcome {
                Ok(lease) => {
                    self.counts.grants += 1;
                    self.say(|| format!("n{node} is granted {} {}", lease.key, lease.token));
                    self.granted(node, &lease);
                    self.check_alone(node, &lease.key);
                }
                Err(error) => {
                    self.counts.refusals += 1;
                    self.say(|| format!("n{node} is refused: {error}"));
                    self.history.refused(id.0, node, at);
                }
            },
            Event::LeaseChanged { lease } => {
                self.counts.renewals += 1;
                self.say(|| format!("n{node} goes on with {} {}", lease.key, lease.token));
                self.granted(node, &lease);
                self.check_alone(node, &lease.key);
            }
            Event::LeaseLost { key, why } => {
                // From here on it does not use it, and may give it back unseen.
                self.counts.losses += 1;
                self.history.released(node, &key, at);
                self.say(|| format!("n{node} loses {key}: {why}"));
            }
            Event::Resolved { id, outcome } => {
                let found = match &outcome {
                    Resolution::Found { owner, token, .. } => self.number_of(owner).map(|owner| (owner, *token)),
                    Resolution::Absent => None,
                    Resolution::Unknown => return,
                };
                self.say(|| match found {
                    Some((owner, token)) => format!("n{node} reads {token} of n{owner}"),
                    None => format!("n{node} reads nobody"),
                });
                self.counts.reads += 1;
                self.history.read(id.0, node, found, at);
            }
            Event::Status { .. } => self.check_views(node),
            _ => {}
        }
    }

    /// What an owner was granted, and from when it counts at the earliest.
    fn granted(&mut self, node: usize, lease: &Lease) {
        let Ok(cert) = LeaseCert::from_bytes(&lease.certificate) else {
            return self.fail(format!("n{node} has a certificate of {} that is none", lease.key));
        };
        let dur = cert.record.dur();
        let now = self.machines[node].glance(self.time).owner.0;
        // The owner counts suspended time as everybody does, and the rest by a clock that may be slow.
        let counted = now.saturating_sub(lease.usable_until.0.saturating_sub(dur));
        let age = counted * 1000 / SLOWEST + Duration::from_millis(2);
        let (client, token, answered) = (lease.client, lease.token, self.time);
        let grant = Grant { node, client, token, asked: answered.saturating_sub(age), answered, dur };
        self.history.granted(&lease.key, grant);
    }

    /// Looks at what a machine uses at this moment, and whether it has just begun to.
    pub(super) fn look_at(&mut self, node: usize) {
        let keys: Vec<LeaseKey> = self.history.keys().cloned().collect();
        for key in keys {
            let now = self.machines[node].lease(&key, self.time).map(|lease| lease.client);
            let before = self.using.get(&(node, key.clone())).copied();
            if now == before {
                continue;
            }
            match now {
                Some(client) => {
                    self.counts.ownerships += 1;
                    self.check_alone(node, &key);
                    self.using.insert((node, key), client);
                }
                None => {
                    self.using.remove(&(node, key));
                }
            }
        }
    }

    /// A process begins: what it does not go on with, it may give back.
    pub(super) fn began(&mut self, node: usize) {
        let keys: Vec<LeaseKey> = self.history.keys().cloned().collect();
        for key in keys {
            if self.machines[node].lease(&key, self.time).is_none() {
                self.history.released(node, &key, self.time);
            }
        }
    }

    /// Nobody else may use this key at this moment.
    pub(super) fn check_alone(&mut self, node: usize, key: &LeaseKey) {
        let Some(mine) = self.lease(node, key) else { return };
        for other in (0..self.machines.len()).filter(|other| *other != node) {
            if let Some(theirs) = self.lease(other, key) {
                let what =
                    format!("n{node} was granted {key} ({}) while n{other} uses it ({})", mine.token, theirs.token);
                return self.fail(what);
            }
        }
    }

    /// Every view has one successor.
    pub(super) fn check_views(&mut self, node: usize) {
        let Some(namespace) = self.machines[node].namespace() else { return };
        let chain = namespace.membership().chain();
        let mut wrong = None;
        for successor in chain.successors() {
            let (view, hash) = ((successor.view.shard, successor.view.number), successor.view.hash());
            if *self.successors.entry(view).or_insert(hash) != hash {
                wrong = Some(format!("n{node} has another view {} than others", successor.view.number));
            }
        }
        if let Some(what) = wrong {
            self.fail(what);
        }
    }

    /// How many views there were after the founded one.
    pub fn views(&self) -> u64 {
        u64::try_from(self.successors.len()).unwrap_or(u64::MAX)
    }

    /// All who run know the same newest view, and a quorum of it serves.
    pub(super) fn agree(&mut self) -> Result<(), Failure> {
        for node in 0..self.len() {
            self.check_views(node);
        }
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let chains = self.machines.iter().filter_map(|machine| Some(machine.namespace()?.membership().chain()));
        let newest: Vec<_> = chains.filter_map(|chain| chain.newest(0)).collect();
        let Some(last) = newest.iter().max_by_key(|view| view.number) else { return Ok(()) };
        if newest.iter().any(|view| view.number != last.number) {
            return Err(self.report("not everybody knows the newest view long after everything was mended".to_owned()));
        }
        let serving = (0..self.len()).filter(|node| self.machines[*node].serves(self.time)).count();
        if serving < last.quorum() {
            return Err(self.report(format!("only {serving} serve the newest view")));
        }
        Ok(())
    }

    /// Something that is wrong, with how everybody stands.
    pub(super) fn report(&self, what: String) -> Failure {
        let all: String = (0..self.len()).map(|node| format!("\n  n{node} {}", self.describe(node))).collect();
        Failure { at: self.time, what: what + &all }
    }
}
