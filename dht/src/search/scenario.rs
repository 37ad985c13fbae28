//! What is searched: who there is, what they want, and how much may happen.

use std::time::Duration;

use crate::env::Rules;

use super::check::Fault;
use super::state::{KEYS, OWNERS, Shape};
use super::witness::Witness;

/// What an owner does next. `dur` is in ticks, `keys` one bit for each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) kind: Kind,
    pub(super) dur: u8,
    pub(super) keys: u8,
    /// For whom: 0 for a client of its own.
    pub(super) client: u8,
    pub(super) by: By,
    /// Whether the other owner is named as a deputy.
    pub(super) deputy: bool,
}

/// By what right it claims what the other owner may have. The number is that of the other's step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    None,
    /// What was handed over in that step.
    Handed(u8),
    /// As a deputy, the lease of that step.
    Deputy(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Claim,
    Renew,
    Release,
    /// Stops using it, and signs that the other may have it.
    HandOver,
    /// The process ends and begins again, in the same boot.
    Restart,
    /// The machine boots.
    Reboot,
}

const fn step(kind: Kind, dur: u8, keys: u8) -> Step {
    Step { kind, dur, keys, client: 0, by: By::None, deputy: false }
}
pub(super) const fn claim(dur: u8) -> Step {
    step(Kind::Claim, dur, 1)
}
pub(super) const fn claim_on(key: u8, dur: u8) -> Step {
    step(Kind::Claim, dur, 1 << key)
}
pub(super) const fn claim_both(dur: u8) -> Step {
    step(Kind::Claim, dur, 3)
}
pub(super) const fn renew(dur: u8) -> Step {
    step(Kind::Renew, dur, 1)
}
pub(super) const fn release() -> Step {
    step(Kind::Release, 1, 1)
}
pub(super) const fn restart() -> Step {
    step(Kind::Restart, 0, 0)
}
pub(super) const fn reboot() -> Step {
    step(Kind::Reboot, 0, 0)
}
pub(super) const fn hand_over() -> Step {
    step(Kind::HandOver, 0, 0).of(SHARED)
}

/// A client that is behind both owners.
pub(super) const SHARED: u8 = 1;

impl Step {
    /// The same for this client.
    pub(super) const fn of(self, client: u8) -> Self {
        Self { client, ..self }
    }
    pub(super) const fn by(self, by: By) -> Self {
        Self { by, ..self }
    }
    pub(super) const fn with_deputy(self) -> Self {
        Self { deputy: true, ..self }
    }
}

/// What is done around the shipped functions as the program does it, unless a mutant says otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Glue {
    /// Mutant: an answer leaves a replica before what it rests on is on disk.
    pub(super) replica_sends_first: bool,
    /// Mutant: an operation leaves its owner before what it rests on is on disk.
    pub(super) owner_sends_first: bool,
    /// Mutant: a copy of a view that was still served is counted as a snapshot of it.
    pub(super) copy_for_snapshot: bool,
    /// Mutant: a view change drops every tombstone.
    pub(super) tombstones_at_once: bool,
    /// Mutant: a replica that lost its disk goes on as the member that it was.
    pub(super) empty_restart: bool,
    /// Mutant: a new view counts the time before it once more.
    pub(super) time_counts_twice: bool,
    /// Mutant: the first replica does not answer in time what it has seen of a store.
    pub(super) silent_witness: bool,
    /// Mutant: coordinators run an operation in whatever view they are.
    pub(super) ops_of_other_views: bool,
}

/// One bounded system.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    /// The rules under which it runs, and what else is done wrongly.
    pub(super) rules: Rules,
    pub(super) glue: Glue,
    /// The members of view 0, one bit for each.
    pub(super) first: u8,
    /// What may be proposed as view 1, 2, …
    pub(super) next: Vec<Vec<u8>>,
    pub(super) scripts: [Vec<Step>; OWNERS],
    /// How many ballots, view proposals, ticks, and reboots of each replica.
    pub(super) rounds: usize,
    pub(super) proposals: usize,
    pub(super) time: u8,
    pub(super) reboots: u8,
    /// The longest lease, in ticks.
    pub(super) max_lease: u8,
    /// Members that hold the first owner's first claim from the beginning, one bit for each.
    pub(super) held: u8,
    /// Rounds that only write again what is there.
    pub(super) settles: bool,
    /// An operation is chosen when its promises are there, not before: ballots may come in any order.
    pub(super) late: bool,
    /// No registers, only views.
    pub(super) views_only: bool,
    /// Old state is dropped once a quorum of the next view has it.
    pub(super) retires: bool,
    /// Memory and disk differ, and processes crash: so often at most.
    pub(super) crashes: u8,
    /// The replica whose store is set back.
    pub(super) setback: Option<usize>,
    /// The member to which copies are under way.
    pub(super) copied: Option<usize>,
    /// One client is behind both owners, and for a moment both may answer for it.
    pub(super) shares: bool,
    /// What must be reached.
    pub(super) must: Vec<Witness>,
    /// The fault that must be found. Without one there must be none.
    pub(super) fault: Option<Fault>,
}

impl Scenario {
    /// One view of these members, and nothing else.
    pub(super) fn new(name: &'static str, first: u8) -> Self {
        Self {
            name,
            rules: Rules { fast_path: false, ..Rules::ALL },
            glue: Glue::default(),
            first,
            next: Vec::new(),
            scripts: [Vec::new(), Vec::new()],
            rounds: 3,
            proposals: 0,
            time: 0,
            reboots: 0,
            max_lease: 9,
            held: 0,
            settles: false,
            late: false,
            views_only: false,
            retires: false,
            crashes: 0,
            setback: None,
            copied: None,
            shares: false,
            must: vec![Witness::Granted],
            fault: None,
        }
    }

    /// The same with something wrong, which must show.
    pub(super) fn mutant(&self, name: &'static str, fault: Fault, change: impl FnOnce(&mut Self)) -> Self {
        let mut mutant = Self { name, fault: Some(fault), must: Vec::new(), ..self.clone() };
        change(&mut mutant);
        mutant
    }

    pub(super) fn is_crashing(&self) -> bool {
        self.crashes > 0
    }

    pub(super) fn has_coordinators(&self) -> bool {
        self.setback.is_some() || !self.rules.rounds_on_disk
    }

    /// The members of the views that may be, as sets.
    fn sets(&self) -> Vec<u8> {
        std::iter::once(self.first).chain(self.next.iter().flatten().copied()).chain([self.held]).collect()
    }

    pub(super) fn shape(&self) -> Shape {
        let replicas = (8 - self.sets().into_iter().fold(0, |all, set| all | set).leading_zeros()) as usize;
        let steps = || self.scripts.iter().flatten();
        Shape {
            replicas,
            views: self.next.len() + 1,
            keys: if steps().any(|step| step.keys > 1) { KEYS } else { 1 },
            ops: steps().map(|step| step.keys.count_ones() as usize).sum(),
            disks: self.is_crashing(),
            setback: self.setback.is_some(),
            copied: self.copied.is_some(),
            shares: self.shares,
            coordinators: self.has_coordinators(),
        }
    }

    /// Replicas that nothing tells apart.
    pub(super) fn groups(&self) -> Vec<Vec<usize>> {
        let sets = self.sets();
        let kind = |replica: usize| -> Vec<bool> {
            let special = self.setback == Some(replica) || self.copied == Some(replica);
            sets.iter().map(|set| set >> replica & 1 == 1).chain([special]).collect()
        };
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for replica in 0..self.shape().replicas {
            let same = |group: &&mut Vec<usize>| kind(group[0]) == kind(replica);
            match groups.iter_mut().find(same).filter(|_| !self.has_coordinators()) {
                Some(group) => group.push(replica),
                None => groups.push(vec![replica]),
            }
        }
        groups
    }
}

/// The time of one tick: long against the clock error that a guard allows for within a lease.
pub(super) const TICK: Duration = Duration::from_secs(1000);
