//! One register at one replica: what was promised, what is held, and since when. The rules of an acceptor, without any
//! message, signature or disk, so that the exhaustive search runs these very lines.

use std::time::Duration;

use crate::ballot::Ballot;
use crate::clock::{Now, ReplicaTime};
use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::env::Rules;
use crate::message::{AcceptItem, Held};

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// One register in one view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) promised: Ballot,
    pub(crate) held: Held,
    pub(crate) base: ReplicaTime,
    pub(crate) boot: [u8; 16],
}

/// What becomes of a value that a coordinator wants accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acceptance {
    /// It is held now, and must be on disk before that is said.
    Accepted,
    /// It was held before, under this very ballot: a copy of a message that was served. Its timer is not started again.
    Repeated,
    /// A higher ballot was promised.
    Promised(Ballot),
    /// Another value is held under this very ballot: somebody contradicts itself.
    SecondValue,
}

impl Cell {
    /// The state with which a register begins in a new view: what the old one held, and for how long.
    pub(crate) fn carried(held: Held, now: &Now) -> Self {
        Self { promised: held.ballot, held, base: now.replica, boot: now.boot.0 }
    }

    /// How long the value has been held: what was counted before, and since then on this boot's clock.
    pub(crate) fn elapsed(&self, now: &Now) -> Duration {
        let counted = Duration::from_millis(self.held.elapsed_ms);
        if self.boot != now.boot.0 {
            return counted;
        }
        counted.saturating_add(now.replica.0.saturating_sub(self.base.0))
    }

    /// What is held, with the time up to now.
    pub(crate) fn at(&self, now: &Now) -> Held {
        Held { elapsed_ms: millis(self.elapsed(now)), ..self.held.clone() }
    }

    /// Phase 1: promises the ballot if it is above all before, else names the one that was promised.
    pub(crate) fn prepare(&mut self, ballot: Ballot, now: &Now) -> Result<Held, Ballot> {
        if ballot <= self.promised {
            return Err(self.promised);
        }
        self.promised = ballot;
        Ok(self.at(now))
    }

    /// Phase 2. `next` is a ballot to be promised along with the acceptance, for the fast path.
    pub(crate) fn accept(
        &mut self,
        rules: &Rules,
        ballot: Ballot,
        next: Option<Ballot>,
        item: AcceptItem,
        now: &Now,
    ) -> Acceptance {
        if ballot < self.promised && rules.promises_kept {
            return Acceptance::Promised(self.promised);
        }
        if ballot == self.held.ballot && self.held.value.is_some() && rules.one_value_per_ballot {
            return if self.held.value.as_ref() == Some(&item.value) {
                Acceptance::Repeated
            } else {
                Acceptance::SecondValue
            };
        }
        *self = Self {
            promised: next.filter(|next| *next > ballot).unwrap_or(ballot),
            held: Held { ballot, value: Some(item.value), elapsed_ms: item.elapsed_ms },
            base: now.replica,
            boot: now.boot.0,
        };
        Acceptance::Accepted
    }
}

impl Wire for Cell {
    fn encode(&self, out: &mut Writer) {
        self.promised.encode(out);
        self.held.encode(out);
        out.u64(millis(self.base.0));
        out.raw(&self.boot);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            promised: Ballot::decode(input)?,
            held: Held::decode(input)?,
            base: ReplicaTime(Duration::from_millis(input.u64()?)),
            boot: input.array()?,
        })
    }
}
