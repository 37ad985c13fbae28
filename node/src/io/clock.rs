//! The only place that reads a clock.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use dht::clock::{BootId, JumpWatch, LeaseClocks, Now, Reading};
use rustix::time::{ClockId, clock_gettime};

/// Clocks that were read within this count as read at one moment.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The machine's clocks, shared by all threads.
pub(crate) struct SystemClock {
    boot: BootId,
    leases: Mutex<(LeaseClocks, JumpWatch)>,
    /// How often the machine was restored without its clocks showing it.
    restored: AtomicU32,
}

impl SystemClock {
    /// Starts the lease clocks. Without the kernel's boot id every start counts as another boot: leases lapse
    /// until renewed, which is the safe side.
    pub(crate) fn start() -> Self {
        let (reading, wall_clock) = at_one_moment();
        let leases = Mutex::new((LeaseClocks::new(reading), JumpWatch::new(reading, wall_clock)));
        Self { boot: boot_id(), leases, restored: AtomicU32::new(0) }
    }

    /// The machine goes on from an earlier state: as if its clocks had jumped.
    pub(crate) fn note_restored(&self) {
        self.restored.fetch_add(1, Ordering::Relaxed);
    }

    /// All clocks at this moment.
    pub(crate) fn now(&self) -> Now {
        let mut leases = self.leases.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (clocks, watch) = &mut *leases;
        let (reading, wall_clock) = at_one_moment();
        let (owner, replica) = clocks.advance(reading);
        let jumps = watch.look(reading, wall_clock).wrapping_add(self.restored.load(Ordering::Relaxed));
        Now { mono: monotonic(), owner, replica, boot: self.boot, unix_s: wall_clock.as_secs(), jumps }
    }
}

/// For retries and timeouts.
#[expect(clippy::disallowed_methods, reason = "this is the shell's clock")]
pub(crate) fn monotonic() -> Instant {
    Instant::now()
}

/// Time since 1970, for expiry dates and handshake numbers. A clock before 1970 reads as 1970.
#[expect(clippy::disallowed_methods, reason = "this is the shell's clock")]
pub(crate) fn wall() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// The kernel's clocks and the wall clock. A thread may be paused between two of them, which would look like a jump.
fn at_one_moment() -> (Reading, Duration) {
    loop {
        let (first, wall_clock) = (reading(), wall());
        if read(ClockId::Boottime).saturating_sub(first.boottime) < AT_ONCE {
            return (first, wall_clock);
        }
    }
}

fn read(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn reading() -> Reading {
    Reading { boottime: read(ClockId::Boottime), monotonic: read(ClockId::Monotonic), raw: read(ClockId::MonotonicRaw) }
}

fn boot_id() -> BootId {
    let parsed = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().and_then(|text| {
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        Some(u128::from_str_radix(&digits, 16).ok()?.to_be_bytes())
    });
    BootId(parsed.unwrap_or_else(|| {
        let mut random = [0; 16];
        // Without randomness the program does not get this far: keys are made first.
        let _ = getrandom::fill(&mut random);
        random
    }))
}
