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
    /// How often the clocks were seen to jump apart ([`JumpWatch`]). What was leased before a jump has lapsed until it is
    /// renewed.
    pub jumps: u32,
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

/// A difference between two clocks that grows by more than this at once is a jump.
pub const MAX_JUMP: Duration = Duration::from_secs(5);

/// Notices that the machine slept, was restored from an image, or had its wall clock set.
///
/// A time daemon steers boot time and wall clock alike, so that their difference changes by steps alone; that of boot time
/// and monotonic time is exactly the time slept. So both may be compared however long nobody looked. A wall clock that was
/// set says that somebody knows better what time it is: the machine may have been paused while its boot clock stood still.
#[derive(Clone, Debug)]
pub struct JumpWatch {
    /// Time slept, and the wall clock's lead over boot time, when they last counted as a jump or were first seen.
    slept: i128,
    lead: i128,
    jumps: u32,
}

impl JumpWatch {
    /// From here on.
    pub fn new(reading: Reading, wall: Duration) -> Self {
        let (slept, lead) = differences(reading, wall);
        Self { slept, lead, jumps: 0 }
    }

    /// How many jumps there were up to this reading.
    pub fn look(&mut self, reading: Reading, wall: Duration) -> u32 {
        let (slept, lead) = differences(reading, wall);
        let far = |a: i128, b: i128| a.abs_diff(b) > MAX_JUMP.as_nanos();
        if far(slept, self.slept) || far(lead, self.lead) {
            (self.slept, self.lead) = (slept, lead);
            self.jumps = self.jumps.wrapping_add(1);
        }
        self.jumps
    }
}

fn differences(reading: Reading, wall: Duration) -> (i128, i128) {
    let nanos = |time: Duration| i128::try_from(time.as_nanos()).unwrap_or(i128::MAX / 2);
    (nanos(reading.boottime) - nanos(reading.monotonic), nanos(wall) - nanos(reading.boottime))
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
    fn a_set_wall_clock_and_a_suspension_are_jumps_and_steering_is_none() {
        let wall = |ms: u64| Duration::from_millis(1_800_000_000_000 + ms);
        let mut watch = JumpWatch::new(at(0, 0, 0), wall(0));
        // A day during which all clocks were steered by a twelfth, and nobody looked; then a leap second.
        assert_eq!(watch.look(at(93_600_000, 93_600_000, 86_400_000), wall(93_600_000)), 0);
        assert_eq!(watch.look(at(93_600_000, 93_600_000, 86_400_000), wall(93_601_000)), 0);
        // Set forward, and back again.
        assert_eq!(watch.look(at(93_601_000, 93_601_000, 86_401_000), wall(93_607_001)), 1);
        assert_eq!(watch.look(at(93_602_000, 93_602_000, 86_402_000), wall(93_608_001)), 1);
        assert_eq!(watch.look(at(93_603_000, 93_603_000, 86_403_000), wall(93_603_000)), 2);
        // Set in steps that are small by themselves.
        let steps: Vec<u32> =
            (1..=3).map(|step| watch.look(at(93_603_000, 93_603_000, 0), wall(93_603_000 + step * 2000))).collect();
        assert_eq!(steps, [2, 2, 3]);
        // Asleep: a wall clock that went on with boot time does not hide it.
        assert_eq!(watch.look(at(93_609_000, 93_604_000, 0), wall(93_615_000)), 3);
        assert_eq!(watch.look(at(93_609_001, 93_604_000, 0), wall(93_615_001)), 4);
        // A clock of 1970 that learns the date.
        let mut watch = JumpWatch::new(at(1000, 1000, 1000), Duration::ZERO);
        assert_eq!(watch.look(at(2000, 2000, 2000), wall(0)), 1);
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
