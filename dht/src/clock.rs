//! The two clocks of the lease protocol, and everything else that a step is told about time.
//!
//! Owners and replicas must err to different sides: an owner stops early, a replica frees late. Neither may trust
//! a clock that the operating system slews (chrony alone goes up to 8.3 %), and only the owner counts the time that
//! a machine was suspended. So both are sums over short steps of the three kernel clocks:
//!
//! - owner: `max(dBOOTTIME, dMONOTONIC_RAW + dBOOTTIME - dMONOTONIC)`, the fastest reading that includes suspension;
//! - replica: `min(dMONOTONIC, dMONOTONIC_RAW)`, the slowest reading that leaves it out.

use std::time::{Duration, Instant};

/// A point on the owner's clock, since that clock's start in this boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnerTime(pub Duration);

/// A point on the replica's clock, since that clock's start in this boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReplicaTime(pub Duration);

/// One boot of one machine: points of one boot's clocks say nothing in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootId(pub [u8; 16]);

/// What a step is told about time.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For retries and timeouts, never for leases.
    pub mono: Instant,
    /// How long this node has used what it was granted.
    pub owner: OwnerTime,
    /// How long this node has kept what it granted.
    pub replica: ReplicaTime,
    /// The boot that `owner` and `replica` belong to.
    pub boot: BootId,
    /// Wall clock, seconds since 1970: for the expiry dates of invites and credentials only.
    pub unix_s: u64,
}

/// One reading of the kernel's clocks, all since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// `CLOCK_BOOTTIME`: steered, counts suspension.
    pub boottime: Duration,
    /// `CLOCK_MONOTONIC`: steered, does not count suspension.
    pub monotonic: Duration,
    /// `CLOCK_MONOTONIC_RAW`: the bare crystal, does not count suspension.
    pub raw: Duration,
}

/// Adds readings up to the two clocks. Feed it at least every 60 s.
#[derive(Clone, Debug)]
pub struct LeaseClocks {
    last: Reading,
    owner: Duration,
    replica: Duration,
}

impl LeaseClocks {
    /// Starts both clocks at this reading's own time since boot, so that restarts within one boot agree.
    pub fn new(first: Reading) -> Self {
        Self {
            last: first,
            owner: first.boottime.max(first.raw + first.boottime.saturating_sub(first.monotonic)),
            replica: first.monotonic.min(first.raw),
        }
    }

    /// Advances both clocks; a reading that went backwards advances by nothing.
    pub fn advance(&mut self, reading: Reading) -> (OwnerTime, ReplicaTime) {
        let boottime = reading.boottime.saturating_sub(self.last.boottime);
        let monotonic = reading.monotonic.saturating_sub(self.last.monotonic);
        let raw = reading.raw.saturating_sub(self.last.raw);
        let suspended = boottime.saturating_sub(monotonic);
        self.owner += boottime.max(raw + suspended);
        self.replica += monotonic.min(raw);
        self.last = reading;
        (OwnerTime(self.owner), ReplicaTime(self.replica))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boottime: u64, monotonic: u64, raw: u64) -> Reading {
        let ms = Duration::from_millis;
        Reading { boottime: ms(boottime), monotonic: ms(monotonic), raw: ms(raw) }
    }

    #[test]
    fn slewed_owner_and_replica_err_to_opposite_sides() {
        let mut slowed = LeaseClocks::new(at(0, 0, 0));
        let (owner, replica) = slowed.advance(at(920, 920, 1000));
        assert_eq!((owner.0.as_millis(), replica.0.as_millis()), (1000, 920));
        let mut hurried = LeaseClocks::new(at(0, 0, 0));
        let (owner, replica) = hurried.advance(at(1080, 1080, 1000));
        assert_eq!((owner.0.as_millis(), replica.0.as_millis()), (1080, 1000));
    }

    #[test]
    fn the_owner_counts_a_suspension_and_the_replica_does_not() {
        let mut clocks = LeaseClocks::new(at(0, 0, 0));
        let (owner, replica) = clocks.advance(at(61_000, 1000, 1000));
        assert_eq!((owner.0.as_secs(), replica.0.as_secs()), (61, 1));
    }

    #[test]
    fn resume_jump_replica_is_not_hurried_by_what_the_real_time_clock_says() {
        let mut clocks = LeaseClocks::new(at(0, 0, 0));
        let (_, replica) = clocks.advance(at(86_400_000, 10, 10));
        assert_eq!(replica.0.as_millis(), 10);
    }

    #[test]
    fn a_clock_that_goes_backwards_stands_still() {
        let mut clocks = LeaseClocks::new(at(100, 100, 100));
        assert_eq!(
            clocks.advance(at(50, 50, 50)),
            (OwnerTime(Duration::from_millis(100)), ReplicaTime(Duration::from_millis(100)))
        );
    }
}
