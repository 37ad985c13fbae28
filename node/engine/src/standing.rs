//! What the namespace rests on, as far as this node can see: replicas, and the grants behind its own leases.

use std::time::{Duration, Instant};

use dht::clock::Now;
use dht::{LeaseFacts, LeaseKey, ShardFacts, Summary};
use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};

use crate::recovery::RecoveringStatus;

/// What the overlay said last of itself, and when.
pub(crate) struct Standing {
    pub(crate) summary: Box<Summary>,
    pub(crate) at: Instant,
}

/// A view as status shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ViewStatus {
    /// Its number.
    pub number: u64,
    /// The shard that it decides about.
    #[serde(default)]
    pub shard: u16,
    /// Its replicas.
    pub members: Vec<String>,
    /// How many of them have to answer for anything to be granted or renewed.
    pub needed: usize,
    /// Those that were not heard for longer than they ought to. Only another replica watches.
    pub silent: Vec<SilentReplica>,
}

/// A replica that does not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilentReplica {
    /// Its P2P id.
    pub peer_id: String,
    /// For how long, seconds.
    pub silent_s: u64,
}

/// What a lease rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Basis {
    /// The number of the view that granted or renewed it last.
    pub view: u64,
    /// The members of that view.
    pub members: Vec<String>,
    /// Those of them who answered to that.
    pub answered: Vec<String>,
    /// When it is renewed, seconds; zero while that is under way. `null` if it ends unless it is claimed again.
    pub renewal_s: Option<u64>,
}

impl Standing {
    fn age(&self, now: Now) -> Duration {
        now.mono.saturating_duration_since(self.at)
    }

    /// The newest view of the shard that the fewest losses would stop.
    pub(crate) fn view(&self, now: Now) -> ViewStatus {
        self.view_of(&self.summary.weakest, now)
    }

    /// What an operator should do before it is too late.
    pub(crate) fn warning(&self, now: Now) -> Option<String> {
        let Summary { weakest, home, votes_in: (_, all), .. } = &*self.summary;
        let warning = self.view(now).warning()?;
        Some(if weakest.shard == home.shard { warning } else { format!("shard {} of {all}: {warning}", weakest.shard) })
    }

    fn view_of(&self, facts: &ShardFacts, now: Now) -> ViewStatus {
        let silent = facts.silent.iter().map(|(peer, silent)| SilentReplica {
            peer_id: peer.to_string(),
            silent_s: (*silent + self.age(now)).as_secs(),
        });
        ViewStatus {
            number: facts.view,
            shard: facts.shard,
            members: facts.members.iter().map(ToString::to_string).collect(),
            needed: quorum(facts),
            silent: silent.collect(),
        }
    }

    /// The view in which this node, one of its replicas, misses so many others that what rests on it cannot be granted or
    /// renewed. Other shards may do as they please, and who is no replica does not watch.
    fn minority(&self, me: &PeerId) -> Option<&ShardFacts> {
        let lacks = |facts: &&ShardFacts| {
            facts.members.contains(me) && facts.members.len().saturating_sub(facts.silent.len()) < quorum(facts)
        };
        self.summary.rests.iter().find(lacks)
    }

    /// Whether there is such a view.
    pub(crate) fn is_minority(&self, me: &PeerId) -> bool {
        self.minority(me).is_some()
    }

    /// Since when the first of those was missed without whom nothing is granted.
    pub(crate) fn missed_since(&self, me: &PeerId) -> Option<Instant> {
        let facts = self.minority(me)?;
        let mut times: Vec<Duration> = facts.silent.iter().map(|(_, time)| *time).collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        // The longest silences leave a quorum; the one after them does not.
        let spare = facts.members.len().saturating_sub(quorum(facts));
        times.get(spare).and_then(|time| self.at.checked_sub(*time))
    }

    /// Who does not answer, of those that matter first.
    pub(crate) fn silence(&self, me: &PeerId, now: Now) -> Option<String> {
        let rests = self.summary.rests.iter();
        let mut views = self.minority(me).into_iter().chain([&self.summary.home]).chain(rests);
        views.find_map(|facts| self.view_of(facts, now).silence())
    }

    pub(crate) fn basis(&self, key: &LeaseKey, now: Now) -> Option<Basis> {
        let facts: &LeaseFacts = self.summary.leases.iter().find(|facts| facts.key == *key)?;
        Some(Basis {
            view: facts.view,
            members: facts.members.iter().map(ToString::to_string).collect(),
            answered: facts.accepted.iter().map(ToString::to_string).collect(),
            renewal_s: facts.renewal.map(|renewal| renewal.saturating_sub(self.age(now)).as_secs()),
        })
    }

    /// What the authority recovered on this machine and is not served yet.
    pub(crate) fn recovering(&self, now: Now) -> Option<RecoveringStatus> {
        let (shards, left) = self.summary.recovering?;
        let left_s = left.saturating_sub(self.age(now)).as_secs();
        Some(RecoveringStatus { shards, of: self.summary.votes_in.1, left_s })
    }

    /// Whether this node is a replica, or why it is none.
    pub(crate) fn candidacy(&self) -> String {
        let Summary { votes_in, hindrance, .. } = &*self.summary;
        match (votes_in, hindrance) {
            ((0, _), Some(why)) => format!("no replica, and no candidate for one: {why}"),
            ((0, _), None) => "no replica now, and a candidate for one".into(),
            ((1, 1), None) => "replica".into(),
            ((1, 1), Some(why)) => format!("replica, to be replaced: {why}"),
            ((mine, all), _) => format!("replica of {mine} of {all} shards"),
        }
    }
}

fn quorum(facts: &ShardFacts) -> usize {
    facts.members.len() / 2 + 1
}

impl ViewStatus {
    /// Who does not answer, if any replica is known not to.
    pub(crate) fn silence(&self) -> Option<String> {
        if self.silent.is_empty() {
            return None;
        }
        let names: Vec<String> =
            self.silent.iter().map(|silent| format!("{} for {} s", silent.peer_id, silent.silent_s)).collect();
        let (count, all) = (self.silent.len(), self.members.len());
        let verb = if count == 1 { "does" } else { "do" };
        Some(format!("{count} of {all} replicas of view {} {verb} not answer: {}", self.number, names.join(", ")))
    }

    /// What an operator should do before it is too late.
    fn warning(&self) -> Option<String> {
        let (all, needed) = (self.members.len(), self.needed);
        let up = all - self.silent.len().min(all);
        let cure = "an always-on member helps (--no-tap on a small server will do)";
        match (all, self.silent.is_empty()) {
            (0, _) => None,
            (1, _) => {
                Some(format!("one machine's sleep would stop grants: the only replica is {}; {cure}", self.members[0]))
            }
            (_, true) if up <= needed => {
                Some(format!("one machine's sleep would stop grants: both of {all} replicas are needed; {cure}"))
            }
            (_, false) if up == needed => Some(format!(
                "one more loss would stop grants: {up} of {all} replicas answer, and {needed} are needed; {cure}"
            )),
            (_, false) if up < needed => Some(format!(
                "nothing is granted or renewed: {up} of {all} replicas answer, and {needed} are needed; if the others \
                     are lost for good, see overlay recover"
            )),
            _ => None,
        }
    }
}
