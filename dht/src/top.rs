//! The newest value among several replicas' answers, and how long it has been held.

use std::time::Duration;

use crate::cell::millis;
use crate::clock::{Now, ReplicaTime};
use crate::message::Held;
use crate::record::{Record, Value};

/// The newest value among answers.
#[derive(Clone, Debug)]
pub(crate) struct Top {
    pub(crate) held: Held,
    /// The longest that any replica which reports this ballot has held it. The owner began before the first of them.
    pub(crate) elapsed: Duration,
}

impl Top {
    /// Counts every answer on until it is used.
    pub(crate) fn of<'p>(answers: impl Iterator<Item = &'p (Held, ReplicaTime)>, now: &Now) -> Self {
        let mut top = Self { held: Held::default(), elapsed: Duration::ZERO };
        for (held, at) in answers {
            let elapsed = Duration::from_millis(held.elapsed_ms).saturating_add(now.replica.0.saturating_sub(at.0));
            if held.ballot > top.held.ballot {
                top = Self { held: held.clone(), elapsed };
            } else if held.ballot == top.held.ballot {
                top.elapsed = top.elapsed.max(elapsed);
            }
        }
        top
    }

    /// The lease that is held, or was.
    pub(crate) fn record(&self) -> Option<&Record> {
        match &self.held.value {
            Some(Value::Lease(record)) => Some(record),
            Some(Value::Slots(_)) | None => None,
        }
    }

    /// The value with the time up to now.
    pub(crate) fn into_held(self) -> Held {
        Held { elapsed_ms: millis(self.elapsed), ..self.held }
    }
}
