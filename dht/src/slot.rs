//! A replica's place in one view, and its vote on the view that follows. The rules of the view change, without any
//! message, signature or disk, so that the exhaustive search runs these very lines.
//!
//! A view ends by single-decree Paxos among its own members. Whoever accepts a successor stops serving the view before it
//! says so (*wedged*); so when a quorum has accepted, nothing can be committed in the old view any more, and what a quorum
//! of wedged members holds is all that ever was.

use crate::ballot::Ballot;
use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::env::Rules;

/// How far a replica has come in one view that it is a member of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// Has not yet what the view before decided.
    #[default]
    Transferring,
    /// Serves.
    Active,
    /// Has accepted, or learnt of, a view that follows: its registers are frozen.
    Wedged,
    /// A quorum of the next view has what it held, so it was dropped.
    Retired,
}

impl Standing {
    /// Whether registers are prepared, accepted and read in this view.
    pub(crate) fn serves(self, rules: &Rules) -> bool {
        match self {
            Self::Active => true,
            Self::Wedged => !rules.wedge,
            Self::Transferring | Self::Retired => false,
        }
    }

    /// Whether reads are answered. Were frozen members to answer, they would for ever name the owner of an old view.
    pub(crate) fn answers_reads(self, rules: &Rules) -> bool {
        self == Self::Active || self == Self::Wedged && !rules.active_reads
    }

    /// Whether it votes on the next view. A member without the state must not: it would be wedged, and asked for it.
    pub(crate) fn votes(self, rules: &Rules) -> bool {
        matches!(self, Self::Active | Self::Wedged) || self == Self::Transferring && !rules.transferring_has_no_vote
    }

    /// Whether what it holds counts towards a quorum of snapshots of this view.
    pub(crate) fn is_snapshot(self, rules: &Rules) -> bool {
        self == Self::Wedged || self == Self::Active && !rules.snapshot_after_wedge
    }

    /// Whether a late member of the same view may copy all that it holds. That member has voted for nothing, so this
    /// equals messages that come late.
    pub(crate) fn is_copied(self, rules: &Rules) -> bool {
        self == Self::Active && rules.copy_from_active
    }

    /// A later view is known, or was accepted.
    pub(crate) fn wedged(self, rules: &Rules) -> Self {
        match self {
            Self::Active => Self::Wedged,
            Self::Transferring if !rules.transferring_has_no_vote => Self::Wedged,
            other @ (Self::Transferring | Self::Wedged | Self::Retired) => other,
        }
    }
}

impl Wire for Standing {
    fn encode(&self, out: &mut Writer) {
        out.u8(*self as u8);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match input.u8()? {
            0 => Ok(Self::Transferring),
            1 => Ok(Self::Active),
            2 => Ok(Self::Wedged),
            3 => Ok(Self::Retired),
            _ => Err(DecodeError::Invalid("standing")),
        }
    }
}

/// A replica's vote on the view that follows one of its views. `V` is that view.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slot<V> {
    pub(crate) promised: Ballot,
    pub(crate) accepted: Option<(Ballot, V)>,
}

impl<V> Default for Slot<V> {
    fn default() -> Self {
        Self { promised: Ballot::default(), accepted: None }
    }
}

impl<V: Clone + PartialEq> Slot<V> {
    /// Phase 1: promises the ballot if it is above all before, and tells what was accepted.
    pub(crate) fn prepare(&mut self, ballot: Ballot) -> Result<Option<(Ballot, V)>, Ballot> {
        if ballot <= self.promised {
            return Err(self.promised);
        }
        self.promised = ballot;
        Ok(self.accepted.clone())
    }

    /// Phase 2: takes the view. Whoever asks must have wedged the old one before it answers.
    pub(crate) fn accept(&mut self, ballot: Ballot, view: V) -> Result<(), Ballot> {
        if ballot < self.promised {
            return Err(self.promised);
        }
        if let Some((held, other)) = &self.accepted
            && *held == ballot
            && *other != view
        {
            return Err(self.promised);
        }
        self.promised = ballot;
        self.accepted = Some((ballot, view));
        Ok(())
    }
}

/// Which view a proposer must go on with after a quorum's promises: the one accepted under the highest ballot, and only
/// if there is none, its own.
pub(crate) fn obliged<'p, V: Clone + 'p>(
    promises: impl Iterator<Item = &'p Option<(Ballot, V)>>,
    own: Option<&V>,
) -> Option<V> {
    let highest = promises.flatten().max_by_key(|(ballot, _)| *ballot);
    highest.map(|(_, view)| view).or(own).cloned()
}

/// With which standing a member begins to serve a view once it has its state: wedged at once if it has a vote on the
/// next one outstanding, or knows of it.
pub(crate) fn activated<V>(slot: &Slot<V>, knows_later: bool) -> Standing {
    if slot.accepted.is_some() || knows_later { Standing::Wedged } else { Standing::Active }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ballot(round: u64) -> Ballot {
        Ballot { view: 0, round, replica: 0 }
    }

    #[test]
    fn a_slot_keeps_its_promise_and_tells_what_it_accepted() {
        let mut slot = Slot::default();
        assert_eq!(slot.prepare(ballot(2)), Ok(None));
        assert_eq!(slot.prepare(ballot(2)), Err(ballot(2)));
        assert_eq!(slot.accept(ballot(1), 'a'), Err(ballot(2)));
        assert_eq!(slot.accept(ballot(2), 'b'), Ok(()));
        assert_eq!(slot.accept(ballot(2), 'c'), Err(ballot(2)));
        assert_eq!(slot.accept(ballot(2), 'b'), Ok(()));
        assert_eq!(slot.prepare(ballot(3)), Ok(Some((ballot(2), 'b'))));
    }

    #[test]
    fn the_view_accepted_last_obliges_whoever_comes_next() {
        let promises = [None, Some((ballot(1), 'a')), Some((ballot(3), 'b'))];
        assert_eq!(obliged(promises.iter(), Some(&'c')), Some('b'));
        assert_eq!(obliged([None].iter(), Some(&'c')), Some('c'));
        assert_eq!(obliged::<char>([None].iter(), None), None);
    }
}
