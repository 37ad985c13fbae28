//! One step of the searched system, and all the steps that may follow a state.

use std::fmt;

use super::check::Fault;
use super::scenario::Kind;
use super::state::State;
use super::witness::Witnesses;
use super::world::World;
use super::{owners, rounds, stores, views};

/// What happened, for telling the way to a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Tick,
    Reboot { replica: usize },
    Does { owner: usize, kind: Kind },
    OwnerSyncs { owner: usize },
    OwnerLearns { owner: usize, view: usize },
    Opens { round: usize, op: u8, at: usize, again: bool },
    Promises { round: usize, replica: usize },
    Decides { round: usize, key: usize, op: u8, outcome: u8 },
    Votes { round: usize, key: usize, replica: usize },
    Ready { round: usize, key: usize },
    Hears { round: usize, key: usize, outcome: u8 },
    Proposes { proposal: usize, members: u8, again: bool },
    PromisesView { proposal: usize, replica: usize },
    SendsView { proposal: usize, members: u8 },
    VotesView { proposal: usize, replica: usize },
    LearnsView { replica: usize, view: usize },
    Activates { replica: usize, view: usize, from: u8 },
    Copies { replica: usize, view: usize, from: usize },
    Shows { replica: usize, to: usize },
    Retires { replica: usize },
    Syncs { replica: usize },
    Crashes { replica: usize },
    BackUp { replica: usize },
    Restores { replica: usize },
    Asked { replica: usize, noticed: bool },
    Empties { replica: usize },
}

/// Collects what may follow one state.
pub(super) struct Next<'w> {
    pub(super) world: &'w World,
    pub(super) found: Vec<(State, Action, Option<Fault>)>,
    pub(super) witnesses: Witnesses,
}

impl<'w> Next<'w> {
    pub(super) fn new(world: &'w World) -> Self {
        Self { world, found: Vec::new(), witnesses: Witnesses::default() }
    }

    /// A state that may follow.
    pub(super) fn add(&mut self, state: State, action: Action) {
        self.found.push((state, action, None));
    }

    /// One in which something is wrong already by the way it came about.
    pub(super) fn add_wrong(&mut self, state: State, action: Action, fault: Option<Fault>) {
        self.found.push((state, action, fault));
    }

    /// All that may follow this state, tidied.
    pub(super) fn all(&mut self, state: &State) {
        self.found.clear();
        let scenario = &self.world.scenario;
        if state.time < scenario.time {
            let mut next = *state;
            next.time += 1;
            owners::forget_ended(&mut next);
            self.add(next, Action::Tick);
        }
        owners::steps(self, state);
        if !scenario.views_only {
            rounds::steps(self, state);
        }
        views::steps(self, state);
        stores::steps(self, state);
        let mut found = std::mem::take(&mut self.found);
        for (next, ..) in &mut found {
            rounds::tidy(self.world, next);
        }
        self.found = found;
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |owner: usize| ["A", "B"][owner];
        let outcome =
            |outcome: u8| ["none", "granted", "released", "taken", "lost", "stale", "settled"][usize::from(outcome)];
        match *self {
            Self::Tick => f.write_str("a tick passes"),
            Self::Reboot { replica } => write!(f, "replica {replica} reboots"),
            Self::Does { owner, kind } => write!(f, "{}: {kind:?}", name(owner)),
            Self::OwnerSyncs { owner } => write!(f, "{} has it on disk", name(owner)),
            Self::OwnerLearns { owner, view } => write!(f, "{} learns view {view}", name(owner)),
            Self::Opens { round, op, at, again } => {
                let again = if again { " under a ballot that was used" } else { "" };
                match op {
                    0 => write!(f, "round {round} opens{again}"),
                    super::state::SETTLE => write!(f, "round {round} opens to settle"),
                    op => write!(f, "round {round} opens at {at} for operation {}{again}", op - 1),
                }
            }
            Self::Promises { round, replica } => write!(f, "{replica} promises round {round}"),
            Self::Decides { round, key, op, outcome: what } => {
                let key = ["", " key 1"][key];
                let op = op.wrapping_sub(1);
                write!(f, "round {round}{key} decides operation {op}: {}", outcome(what))
            }
            Self::Votes { round, key, replica } => write!(f, "{replica} accepts round {round}{}", ["", " key 1"][key]),
            Self::Ready { round, .. } => write!(f, "round {round} is promised"),
            Self::Hears { round, outcome: what, .. } => {
                write!(f, "the owner hears of round {round}: {}", outcome(what))
            }
            Self::Proposes { proposal, members, again } => {
                let again = if again { " without phase 1" } else { "" };
                write!(f, "proposal {proposal} for {members:05b}{again}")
            }
            Self::PromisesView { proposal, replica } => write!(f, "{replica} promises proposal {proposal}"),
            Self::SendsView { proposal, members } => write!(f, "proposal {proposal} sends {members:05b}"),
            Self::VotesView { proposal, replica } => write!(f, "{replica} accepts proposal {proposal}"),
            Self::LearnsView { replica, view } => write!(f, "{replica} learns view {view}"),
            Self::Activates { replica, view, from } => {
                write!(f, "{replica} serves view {view} by snapshots of {from:05b}")
            }
            Self::Copies { replica, view, from } => write!(f, "{replica} serves view {view} by a copy of {from}"),
            Self::Shows { replica, to } => write!(f, "{replica} sends {to} a copy"),
            Self::Retires { replica } => write!(f, "{replica} drops old state"),
            Self::Syncs { replica } => write!(f, "{replica} has it on disk"),
            Self::Crashes { replica } => write!(f, "{replica} crashes"),
            Self::BackUp { replica } => write!(f, "the store of {replica} is copied"),
            Self::Restores { replica } => write!(f, "{replica} gets its old store"),
            Self::Asked { replica, noticed: true } => write!(f, "{replica} notices and begins anew"),
            Self::Asked { replica, noticed: false } => write!(f, "{replica} has asked all and votes again"),
            Self::Empties { replica } => write!(f, "{replica} loses its disk and goes on"),
        }
    }
}
