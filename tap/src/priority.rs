//! Packet threads go before the programs whose packets they carry.
//!
//! On a busy machine an ordinary thread waits for its turn for milliseconds, and meanwhile packets pile up before it: under
//! load the round trip was 8 ms where it is 0.3 ms with this, and less was carried. As the kernel's own packet work goes before
//! every program, so do these threads, by the lowest real-time priority (sched(7), `SCHED_RR`). Unlike the kernel's they
//! give it up as soon as their work does not end: what arrives without pause must not take the machine from everybody else.

use std::io;
use std::time::{Duration, Instant};

/// So long a thread goes before others without having run out of work.
const PATIENCE: Duration = Duration::from_millis(20);

/// The priority of the thread that made this; it stays there.
pub struct Priority {
    /// Whether the kernel lets us.
    allowed: bool,
    first: bool,
    /// Since when there was always something to do.
    busy: Option<Instant>,
}

impl Priority {
    /// Puts the calling thread before ordinary ones, if the kernel allows it: it wants `CAP_SYS_NICE`.
    pub fn of_this_thread() -> Self {
        let allowed = match set(libc::SCHED_RR, 1) {
            Ok(()) => true,
            Err(error) => {
                tracing::info!(%error, "no real-time priority for packets: the round trip gets longer on a busy machine");
                false
            }
        };
        Self { allowed, first: allowed, busy: None }
    }

    /// There was nothing left to do.
    pub fn rested(&mut self) {
        self.busy = None;
        self.go_first(true);
    }

    /// There is more to do, now.
    pub fn goes_on(&mut self, now: Instant) {
        let since = *self.busy.get_or_insert(now);
        if now.saturating_duration_since(since) > PATIENCE {
            self.go_first(false);
        }
    }

    fn go_first(&mut self, first: bool) {
        if !self.allowed || self.first == first {
            return;
        }
        let (policy, priority) = if first { (libc::SCHED_RR, 1) } else { (libc::SCHED_OTHER, 0) };
        self.first = first;
        self.allowed = set(policy, priority).is_ok();
    }
}

fn set(policy: libc::c_int, priority: libc::c_int) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the call reads one `sched_param` behind a pointer that is valid for the call. Thread 0 is the caller.
    match unsafe { libc::sched_setscheduler(0, policy | libc::SCHED_RESET_ON_FORK, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> libc::c_int {
        // SAFETY: it has no memory to do with.
        unsafe { libc::sched_getscheduler(0) & !libc::SCHED_RESET_ON_FORK }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an origin; what it is does not matter")]
    fn whoever_never_rests_waits_like_everybody_else() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut priority = Priority::of_this_thread();
        if !priority.allowed {
            assert_eq!(policy(), libc::SCHED_OTHER);
            priority.goes_on(at(0));
            priority.goes_on(at(1000));
            priority.rested();
            return assert_eq!(policy(), libc::SCHED_OTHER);
        }
        assert_eq!(policy(), libc::SCHED_RR);
        [0, 10, 20].into_iter().for_each(|ms| priority.goes_on(at(ms)));
        assert_eq!(policy(), libc::SCHED_RR);
        priority.goes_on(at(21));
        assert_eq!(policy(), libc::SCHED_OTHER);
        priority.goes_on(at(500));
        assert_eq!(policy(), libc::SCHED_OTHER);
        priority.rested();
        assert_eq!(policy(), libc::SCHED_RR);
        [600, 620].into_iter().for_each(|ms| priority.goes_on(at(ms)));
        assert_eq!(policy(), libc::SCHED_RR);
    }
}
