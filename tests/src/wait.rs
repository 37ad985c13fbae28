//! Waiting for what will happen, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};

const STEP: Duration = Duration::from_millis(50);

/// The time; tests on the real kernel have no other.
#[expect(clippy::disallowed_methods, reason = "the real kernel runs in real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// Sleeps; for letting time pass that is itself the subject (a lease that runs out), never for luck.
#[expect(clippy::disallowed_methods, reason = "the real kernel runs in real time")]
pub fn pause(time: Duration) {
    thread::sleep(time);
}

/// Asks again and again until the answer is there.
///
/// # Errors
/// The deadline passed; the error names `what`.
pub fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let deadline = now() + limit;
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if now() >= deadline {
            bail!("waited {limit:?} in vain for: {what}");
        }
        pause(STEP);
    }
}

/// As [`until`], for a question that can fail; the last failure is part of the error.
///
/// # Errors
/// The deadline passed.
pub fn until_ok<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let mut last = None;
    let answer = until(what, limit, || ask().map_err(|error| last = Some(error)).ok());
    answer.map_err(|error| match last {
        Some(last) => error.context(format!("{last:#}")),
        None => error,
    })
}

/// A condition as a result, for [`until_ok`].
///
/// # Errors
/// It does not hold.
pub fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> anyhow::Result<()> {
    if holds { Ok(()) } else { Err(anyhow!(otherwise())) }
}
