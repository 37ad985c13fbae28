//! What an operation makes of the newest value: the rules of the lease, without any message.

use std::time::Duration;

use crate::cell::millis;
use crate::env::{Env, Rules};
use crate::message::Outcome;
use crate::record::{MIN_LEASE, OpKind, Record, SignedOp, Value};
use crate::right::{self, Right};
use crate::top::Top;

use super::{Source, slots};

/// What comes of an operation: an answer, and what is to be written before it may be given.
#[derive(Clone, Debug)]
pub(crate) struct Decision {
    pub(crate) outcome: Outcome,
    /// The value, and for how long it was held already. Without it the answer is given at once.
    pub(crate) write: Option<(Value, u64)>,
    /// What becomes of a joiner's request.
    pub(super) slot: slots::Verdict,
}

impl Decision {
    /// Whether it may rest on a promise that came with an earlier vote. A refusal may not: another coordinator may have
    /// changed the register since.
    pub(crate) fn needs_no_phase_1(&self, rules: &Rules) -> bool {
        self.write.is_some() || !rules.fast_path_never_refuses
    }

    fn refuse(outcome: Outcome) -> Self {
        Self { outcome, write: None, slot: slots::Verdict::None }
    }
    fn write(outcome: Outcome, value: Value, elapsed: Duration) -> Self {
        Self { outcome, write: Some((value, millis(elapsed))), slot: slots::Verdict::None }
    }
}

/// `None` if there is nothing to do.
pub(super) fn decide(env: &Env<'_>, source: &Source, top: &Top) -> Option<Decision> {
    match source {
        Source::Op(op) => Some(decide_op(env, op, top)),
        Source::Redeem { request, .. } => Some(slots::decide(env, request, top)),
        Source::Settle(_) => settle(top),
    }
}

/// The newest value once more, with the time that it was held.
pub(crate) fn settle(top: &Top) -> Option<Decision> {
    let value = top.held.value.clone()?;
    Some(Decision::write(Outcome::Released, value, top.elapsed))
}

/// What an owner's operation makes of the newest value.
pub(crate) fn decide_op(env: &Env<'_>, op: &SignedOp, top: &Top) -> Decision {
    let rules = env.rules;
    let current = top.record();
    let mine = current.filter(|record| record.owner() == op.owner);
    if let Some(record) = mine {
        let last = record.request.op.op_seq;
        let retry = record.request.is_retry_of(op) || (!rules.nonce && last == op.op.op_seq);
        if retry {
            // Settled as it stands: the timer goes on from the first time.
            let outcome = if record.held() { Outcome::Granted(Vec::new()) } else { Outcome::Released };
            return Decision::write(outcome, Value::Lease(record.clone()), top.elapsed);
        }
        if op.op.op_seq <= last && rules.op_seq_compared {
            return Decision::refuse(Outcome::Stale { last });
        }
    }
    let same = mine.filter(|record| record.request.op.client == op.op.client || !rules.client_compared);
    let ours = same.filter(|record| record.held());
    let succeeds = || current.is_some_and(|record| right::succeeds(&rules, record, op));
    let shadow_ms = current.map_or(0, |record| shadow(env, record, op, top.elapsed));
    let new = |dur_ms| Value::Lease(Record { request: op.clone(), dur_ms, shadow_ms });
    let granted = || Decision::write(Outcome::Granted(Vec::new()), new(duration(env, op, mine)), Duration::ZERO);
    match op.op.kind {
        OpKind::Claim => match current.filter(|record| top.elapsed < busy(env, record)) {
            Some(other) if same.is_none() && !succeeds() => taken(env, other, top),
            Some(_) | None => granted(),
        },
        // Also after the guard, if nobody took it.
        OpKind::Renew if ours.is_some() => granted(),
        OpKind::Renew => Decision::refuse(Outcome::Lost),
        OpKind::Release => {
            let ours = mine.is_some_and(Record::held);
            if ours || current.is_none() {
                let dur_ms = mine.map_or(millis(MIN_LEASE), |record| record.dur_ms);
                Decision::write(Outcome::Released, new(dur_ms), Duration::ZERO)
            } else {
                Decision::refuse(Outcome::Released)
            }
        }
    }
}

/// How long a record keeps others out, from when it was written.
fn busy(env: &Env<'_>, record: &Record) -> Duration {
    let guard = if record.held() { env.guard(record.dur()) } else { Duration::ZERO };
    guard.max(record.shadow())
}

/// For how long others than the next owner may yet answer for the key: those who might before, and whoever loses it to a deputy.
fn shadow(env: &Env<'_>, before: &Record, op: &SignedOp, elapsed: Duration) -> u64 {
    if !env.rules.shadow_kept {
        return 0;
    }
    let left = |until: Duration| until.saturating_sub(elapsed);
    let displaced = before.held() && before.owner() != op.owner && matches!(op.op.right, Right::Deputy { .. });
    let guard = if displaced { env.guard(before.dur()) } else { Duration::ZERO };
    millis(left(before.shadow().max(guard)))
}

/// What was asked for within what is allowed, but never less than this owner was promised before.
fn duration(env: &Env<'_>, op: &SignedOp, mine: Option<&Record>) -> u64 {
    let asked = op.op.dur_ms.clamp(millis(MIN_LEASE), millis(env.config.max_lease()));
    match mine.filter(|record| record.held() && env.rules.longest_duration) {
        Some(record) => asked.max(record.dur_ms),
        None => asked,
    }
}

fn taken(env: &Env<'_>, other: &Record, top: &Top) -> Decision {
    let remaining_ms = millis(busy(env, other).saturating_sub(top.elapsed));
    let outcome = Outcome::Taken { owner: other.owner(), remaining_ms, used: Vec::new() };
    if env.rules.refusals_write_nothing {
        return Decision::refuse(outcome);
    }
    Decision::write(outcome, Value::Lease(other.clone()), top.elapsed)
}
