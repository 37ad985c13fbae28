//! Interesting things that a scenario must reach: a search in which they cannot happen shows nothing.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Witness {
    /// An owner has heard of a grant.
    Granted,
    /// Somebody got what another's lease had held until it ran out.
    Takeover,
    /// A retry was settled as it stood.
    Settled,
    /// Something was given back.
    Released,
    /// A release left a tombstone where nothing was.
    EmptyRelease,
    /// A tombstone was dropped by a view change.
    Collected,
    /// An operation needed no phase 1, and was granted.
    Fast,
    /// A quorum of the second view, of the third, serves it.
    SecondView,
    ThirdView,
    /// Granted by the second view, by the third.
    GrantedInSecond,
    GrantedInThird,
    /// A late member copied from an active one; from one that had voted on the next view.
    Copied,
    CopiedFromWedged,
    /// Old state was dropped.
    Retired,
    /// A proposer carried on what another had begun.
    Obliged,
    /// A refusal reached its owner.
    Refused,
    /// A part of a batch was refused by a replica, another was promised.
    PartlyNacked,
    /// A replica, an owner, crashed and lost what was not on disk.
    ReplicaCrashed,
    OwnerCrashed,
    /// A store was set back, and its replica noticed; went on.
    SetbackNoticed,
    SetbackWentOn,
    /// A running lease went over to whom it was handed; to a deputy.
    HandedOver,
    TakenOver,
    /// Something that was given back was kept for its client.
    Kept,
}

impl Witness {
    pub(super) const ALL: [Self; 24] = [
        Self::Granted,
        Self::Takeover,
        Self::Settled,
        Self::Released,
        Self::EmptyRelease,
        Self::Collected,
        Self::Fast,
        Self::SecondView,
        Self::ThirdView,
        Self::GrantedInSecond,
        Self::GrantedInThird,
        Self::Copied,
        Self::CopiedFromWedged,
        Self::Retired,
        Self::Obliged,
        Self::Refused,
        Self::PartlyNacked,
        Self::ReplicaCrashed,
        Self::OwnerCrashed,
        Self::SetbackNoticed,
        Self::SetbackWentOn,
        Self::HandedOver,
        Self::TakenOver,
        Self::Kept,
    ];
}

/// A set of them.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Witnesses(u32);

impl Witnesses {
    pub(super) fn add(&mut self, witness: Witness) {
        self.0 |= 1 << witness as u8;
    }
    pub(super) fn add_if(&mut self, witness: Witness, holds: bool) {
        if holds {
            self.add(witness);
        }
    }
    pub(super) fn has(self, witness: Witness) -> bool {
        self.0 >> witness as u8 & 1 == 1
    }
}

impl fmt::Debug for Witnesses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(Witness::ALL.iter().filter(|witness| self.has(**witness))).finish()
    }
}
