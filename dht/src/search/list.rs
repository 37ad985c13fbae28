//! The systems that are searched, each with the mutants that it must find.

use crate::env::Rules;

use super::check::Fault;
use super::scenario::{Glue, Scenario, claim, claim_both, claim_on, reboot, release, renew, restart};
use super::witness::Witness;

/// Everything that one view can be asked.
pub(super) fn one_view() -> Vec<Scenario> {
    [restarts(), durations(), ballots(), late_results(), clocks(), fast_path(), batches(), releases()].concat()
}

/// An owner restarts and claims again.
fn restarts() -> Vec<Scenario> {
    let one = Scenario {
        scripts: [vec![claim(2), restart(), claim(2)], vec![claim(2)]],
        time: 3,
        must: vec![Witness::Granted, Witness::Takeover, Witness::Settled],
        ..Scenario::new("owner restarts, n=1", 0b1)
    };
    let three = Scenario {
        held: 0b011,
        scripts: [vec![claim(9), restart(), claim(9)], vec![claim(9)]],
        rounds: 4,
        ..Scenario::new("owner restarts, n=3", 0b111)
    };
    let boots = Scenario {
        scripts: [vec![claim(1), reboot(), claim(1)], vec![claim(1)]],
        time: 3,
        ..Scenario::new("owner reboots, n=1", 0b1)
    };
    let no_seq = one.mutant("op_seq is not on disk", Fault::TwoOwners, |s| {
        (s.rules.op_seq_on_disk, s.rules.nonce) = (false, false);
    });
    let other_boot = boots.mutant("a lease of another boot goes on", Fault::TwoOwners, |s| {
        s.rules.boot_compared = false;
    });
    vec![one, no_seq, three, boots, other_boot]
}

/// A shorter renewal whose answer is lost, and a duration that is cut.
fn durations() -> Vec<Scenario> {
    let shrink = Scenario {
        scripts: [vec![claim(3), renew(1)], vec![claim(1)]],
        time: 4,
        must: vec![Witness::Granted, Witness::Takeover],
        ..Scenario::new("shorter renewal, n=1", 0b1)
    };
    let capped = Scenario {
        scripts: [vec![claim(3)], vec![claim(1)]],
        rounds: 2,
        time: 3,
        max_lease: 1,
        ..Scenario::new("capped duration, n=1", 0b1)
    };
    let shortens = shrink.mutant("a renewal may shorten", Fault::TwoOwners, |s| s.rules.longest_duration = false);
    let asked = capped.mutant("owner counts what it asked for", Fault::TwoOwners, |s| {
        s.rules.granted_duration = false;
    });
    vec![shrink, shortens, capped, asked]
}

/// Two values under one ballot.
fn ballots() -> Vec<Scenario> {
    let two = Scenario {
        scripts: [vec![claim(9)], vec![claim(9)]],
        must: vec![Witness::Granted, Witness::Refused],
        ..Scenario::new("two claims, n=3", 0b111)
    };
    let settled = Scenario {
        settles: true,
        must: vec![Witness::Granted, Witness::Settled],
        ..Scenario { name: "two claims and settling, n=3", ..two.clone() }
    };
    let again = two.mutant("one ballot after a restart", Fault::TwoOwners, |s| {
        s.rounds = 2;
        (s.rules.rounds_on_disk, s.rules.one_value_per_ballot) = (false, false);
    });
    let twin = two.mutant("two operations share a ballot", Fault::TwoOwners, |s| {
        (s.rules.one_op_per_key, s.rules.one_value_per_ballot) = (false, false);
    });
    let unkept = two.mutant("promises are not kept", Fault::TwoOwners, |s| s.rules.promises_kept = false);
    let empty = two.mutant("a replica comes back empty", Fault::TwoOwners, |s| s.glue.empty_restart = true);
    let runs_out = Scenario {
        scripts: [vec![claim(1)], vec![claim(1)]],
        time: 3,
        must: vec![Witness::Granted, Witness::Takeover],
        ..Scenario { name: "settling and running out, n=1", first: 0b1, ..settled.clone() }
    };
    vec![two, again, twin, unkept, empty, settled, runs_out]
}

/// Answers and operations that come late.
fn late_results() -> Vec<Scenario> {
    let release_first = Scenario {
        held: 0b1,
        scripts: [vec![claim(9), release(), claim(9)], vec![claim(9)]],
        rounds: 5,
        must: vec![Witness::Granted, Witness::Released],
        ..Scenario::new("release and claim again, n=1", 0b1)
    };
    let given_up = Scenario {
        scripts: [vec![claim(9), release()], vec![claim(9)]],
        rounds: 4,
        ..Scenario::new("claim given up, n=1", 0b1)
    };
    let uncompared = release_first.mutant("op_seq is not compared", Fault::TwoOwners, |s| {
        s.rules.op_seq_compared = false;
    });
    let old_results = given_up.mutant("results of old operations count", Fault::TwoOwners, |s| {
        s.rules.newest_only = false;
    });
    vec![release_first, uncompared, given_up, old_results]
}

/// Leases that run out.
fn clocks() -> Vec<Scenario> {
    let timer = Scenario {
        scripts: [vec![claim(2), renew(2)], vec![claim(1)]],
        time: 4,
        reboots: 1,
        must: vec![Witness::Granted, Witness::Takeover],
        ..Scenario::new("renewal against takeover with reboots, n=1", 0b1)
    };
    let three = Scenario {
        scripts: [vec![claim(1), renew(1)], vec![claim(1)]],
        time: 2,
        must: vec![Witness::Granted, Witness::Takeover],
        rounds: 2,
        ..Scenario::new("renewal against takeover, n=3", 0b111)
    };
    let answer = timer.mutant("owner counts from the answer", Fault::TwoOwners, |s| s.rules.count_from_send = false);
    let guard = timer.mutant("no guard", Fault::TwoOwners, |s| s.rules.guarded = false);
    vec![timer, answer, guard, three]
}

/// Promises that come along with votes.
fn fast_path() -> Vec<Scenario> {
    let renews = Scenario {
        rules: Rules::ALL,
        scripts: [vec![claim(9), renew(9)], vec![claim(9)]],
        rounds: 4,
        must: vec![Witness::Granted, Witness::Fast],
        ..Scenario::new("fast path, n=1", 0b1)
    };
    let three = Scenario {
        held: 0b011,
        scripts: [vec![claim(9), release(), claim(9)], vec![claim(9)]],
        must: vec![Witness::Granted, Witness::Released],
        rounds: 4,
        ..Scenario { name: "fast path after a release, n=3", first: 0b111, ..renews.clone() }
    };
    let early = Scenario { late: true, ..Scenario { name: "ballots in any order, n=1", rounds: 4, ..renews.clone() } };
    let early = Scenario { rules: Rules { fast_path: false, ..Rules::ALL }, must: vec![Witness::Granted], ..early };
    let twice = Scenario {
        held: 0b1,
        scripts: [vec![claim(9), release(), claim(9)], vec![claim(9)]],
        rounds: 6,
        ..renews.clone()
    }
    .mutant("a promise serves twice", Fault::TwoOwners, |s| {
        (s.rules.promise_serves_once, s.rules.one_value_per_ballot) = (false, false);
    });
    let lost = Scenario { scripts: [vec![claim(9), renew(9)], vec![claim(9), release()]], rounds: 5, ..renews.clone() }
        .mutant("the fast path refuses", Fault::FalseRefusal, |s| s.rules.fast_path_never_refuses = false);
    vec![renews, early, three, twice, lost]
}

/// Two addresses in one message.
fn batches() -> Vec<Scenario> {
    let both = Scenario {
        scripts: [vec![claim_both(9)], vec![claim_on(1, 9)]],
        rounds: 2,
        must: vec![Witness::Granted, Witness::PartlyNacked, Witness::Refused],
        ..Scenario::new("two addresses in one batch, n=3", 0b111)
    };
    let message =
        both.mutant("quorums are counted per message", Fault::DecidedByFew, |s| s.rules.quorum_per_key = false);
    vec![both, message]
}

/// Releases that find nothing.
fn releases() -> Vec<Scenario> {
    let empty = Scenario {
        scripts: [vec![claim(9), release(), claim(9)], vec![claim(9), release()]],
        rounds: 4,
        must: vec![Witness::Granted, Witness::EmptyRelease],
        ..Scenario::new("release on an empty cell, n=1", 0b1)
    };
    vec![empty]
}

/// What disks do.
pub(super) fn disks() -> Vec<Scenario> {
    let crash = Scenario {
        scripts: [vec![claim(9)], vec![claim(9)]],
        rounds: 2,
        crashes: 1,
        must: vec![Witness::Granted, Witness::ReplicaCrashed],
        ..Scenario::new("crash between write and fsync, n=3", 0b111)
    };
    let alone = Scenario {
        scripts: [vec![claim(9), release(), restart()], vec![claim(9)]],
        rounds: 3,
        must: vec![Witness::Granted, Witness::ReplicaCrashed, Witness::OwnerCrashed],
        ..Scenario { name: "owner and replica crash, n=1", first: 0b1, ..crash.clone() }
    };
    let early = crash.mutant("an answer leaves before it is on disk", Fault::TwoOwners, |s| {
        s.glue.replica_sends_first = true;
    });
    let owner = alone.mutant("a release leaves before it is on disk", Fault::TwoOwners, |s| {
        s.glue.owner_sends_first = true;
    });
    let restored = Scenario {
        scripts: [vec![claim(9)], vec![claim(9)]],
        rounds: 3,
        setback: Some(2),
        must: vec![Witness::Granted, Witness::SetbackNoticed],
        ..Scenario::new("a store is set back, n=3", 0b111)
    };
    let restored = Scenario { rounds: 2, ..restored };
    let silent = restored.mutant("it does not ask first", Fault::TwoOwners, |s| s.rules.restored_asks_first = false);
    let fresh = restored.mutant("it asks only if it knows of a vote", Fault::TwoOwners, |s| {
        s.rules.fresh_store_asks = false;
    });
    let untold = restored.mutant("a coordinator's own votes are told to nobody", Fault::TwoOwners, |s| {
        s.rules.own_votes_told = false;
    });
    let away = restored.mutant("who has seen its votes does not answer", Fault::TwoOwners, |s| {
        s.glue.silent_witness = true;
    });
    vec![crash, early, alone, owner, restored, silent, fresh, untold, away]
}

/// One view change, and what races with it.
pub(super) fn one_change() -> Vec<Scenario> {
    let change = Scenario {
        held: 0b0011,
        scripts: [vec![claim(9)], vec![claim(9)]],
        rounds: 3,
        proposals: 1,
        next: vec![vec![0b1110]],
        must: vec![Witness::SecondView, Witness::Refused],
        ..Scenario::new("view change {0,1,2} to {1,2,3}", 0b0111)
    };
    let racing = Scenario {
        held: 0,
        rounds: 2,
        must: vec![Witness::SecondView, Witness::Granted, Witness::GrantedInSecond],
        ..Scenario { name: "claims racing with it", ..change.clone() }
    };
    let copying = Scenario {
        retires: true,
        must: vec![Witness::SecondView, Witness::GrantedInSecond, Witness::Copied, Witness::Retired],
        ..Scenario { name: "claims racing, old state dropped", ..racing.clone() }
    };
    let growing = Scenario {
        first: 0b001,
        next: vec![vec![0b111]],
        ..Scenario { name: "claims racing with 1 to 3", ..copying.clone() }
    };
    let reads = Scenario {
        scripts: [vec![claim(9), release()], vec![claim(9)]],
        must: vec![Witness::SecondView, Witness::Released, Witness::GrantedInSecond],
        ..Scenario { name: "release, view change, claim, reads", ..change.clone() }
    };
    let unwedged = racing.mutant("no wedge", Fault::TwoOwners, |s| {
        (s.first, s.next, s.rules.wedge) = (0b01, vec![vec![0b10]], false);
    });
    let accepts = racing.mutant("no wedge, by its first sign", Fault::WedgedAccepts, |s| s.rules.wedge = false);
    let precopy = racing.mutant("a copy before the wedge counts", Fault::TwoOwners, |s| {
        (s.next, s.rules.snapshot_after_wedge) = (vec![vec![0b1000]], false);
    });
    let empty = change.mutant("no transfer", Fault::TwoOwners, |s| s.rules.transfer = false);
    let stuck = Scenario { scripts: [vec![claim(9)], vec![]], retires: true, ..change.clone() }.mutant(
        "no copy from an active member",
        Fault::BarredForEver,
        |s| s.rules.copy_from_active = false,
    );
    let wedged = reads.mutant("wedged members answer reads", Fault::ReadMissesOwner, |s| {
        (s.first, s.held, s.next, s.rules.active_reads) = (0b01, 0b01, vec![vec![0b10]], false);
    });
    vec![change, empty, stuck, racing, unwedged, accepts, precopy, copying, growing, reads, wedged]
}

/// Crashes in the middle of a view change.
pub(super) fn crashing_changes() -> Vec<Scenario> {
    let moving = Scenario {
        scripts: [vec![claim(9)], vec![claim(9)]],
        rounds: 2,
        proposals: 1,
        crashes: 1,
        retires: true,
        next: vec![vec![0b10]],
        must: vec![Witness::SecondView, Witness::Granted, Witness::GrantedInSecond, Witness::ReplicaCrashed],
        ..Scenario::new("crashes while 1 becomes other 1", 0b01)
    };
    let early = moving.mutant("a vote for a view leaves before it is on disk", Fault::TwoOwners, |s| {
        s.glue.replica_sends_first = true;
    });
    vec![moving, early]
}

/// Rival proposals, and several changes in a row.
pub(super) fn more_changes() -> Vec<Scenario> {
    let rival = Scenario {
        views_only: true,
        proposals: 3,
        next: vec![vec![0b1011, 0b1110]],
        must: vec![Witness::SecondView, Witness::Obliged],
        ..Scenario::new("rival proposals", 0b0111)
    };
    let again = rival.mutant("its own view again without phase 1", Fault::TwoViews, |s| {
        s.rules.repropose_runs_phase_1 = false;
    });
    let twice = Scenario {
        held: 0b0001,
        scripts: [vec![claim(9)], vec![claim(9)]],
        rounds: 2,
        proposals: 2,
        next: vec![vec![0b0111], vec![0b1110]],
        must: vec![Witness::ThirdView, Witness::Refused],
        ..Scenario::new("1 to 3 to other 3", 0b0001)
    };
    let dropping = Scenario {
        retires: true,
        must: vec![Witness::ThirdView, Witness::Copied, Witness::Retired],
        ..Scenario { name: "1 to 3 to other 3, old state dropped", ..twice.clone() }
    };
    let voters = twice.mutant("transferring members vote", Fault::TwoOwners, |s| {
        s.rules.transferring_has_no_vote = false;
    });
    let shrinking = Scenario {
        first: 0b0111,
        held: 0b0011,
        next: vec![vec![0b0001], vec![0b1000]],
        ..Scenario { name: "3 to 1 to other 1", ..twice.clone() }
    };
    let without = Scenario {
        next: vec![vec![0b0100]],
        proposals: 1,
        must: vec![Witness::SecondView, Witness::Refused],
        ..Scenario { name: "3 to 1 without the holders", ..shrinking.clone() }
    };
    let back = Scenario {
        held: 0,
        first: 0b01,
        rounds: 3,
        next: vec![vec![0b10], vec![0b01]],
        must: vec![Witness::ThirdView, Witness::GrantedInThird],
        ..Scenario { name: "1 to other 1 and back", ..twice.clone() }
    };
    let copied = Scenario {
        held: 0,
        rounds: 1,
        scripts: [vec![claim(9)], vec![]],
        copied: Some(2),
        must: vec![Witness::ThirdView, Witness::Granted],
        next: vec![vec![0b0111], vec![0b0100]],
        ..Scenario { name: "a copy under way, 1 to 3 to its receiver", ..twice.clone() }
    };
    let confused = copied.mutant("a copy counts as a snapshot", Fault::MemberLacksCommitted, |s| {
        s.glue.copy_for_snapshot = true;
    });
    vec![rival, again, twice, voters, dropping, shrinking, without, back, copied, confused]
}

/// Tombstones that end with their view.
pub(super) fn tombstones() -> Vec<Scenario> {
    let old = Scenario {
        held: 0b1,
        scripts: [vec![claim(1), release(), claim(1)], vec![claim(1)]],
        rounds: 3,
        proposals: 1,
        time: 3,
        max_lease: 1,
        next: vec![vec![0b1]],
        must: vec![Witness::SecondView, Witness::Released, Witness::Collected, Witness::GrantedInSecond],
        ..Scenario::new("tombstones end with their view, n=1", 0b1)
    };
    // The age of a tombstone, and that an operation counts only in the view it is signed for, cover for each other.
    let at_once = Scenario {
        scripts: [vec![claim(1), release()], vec![]],
        time: 0,
        must: vec![Witness::Collected, Witness::Released, Witness::SecondView],
        glue: Glue { tombstones_at_once: true, ..Glue::default() },
        ..Scenario { name: "tombstones end at once, operations with their view", ..old.clone() }
    };
    let neither = at_once.mutant("tombstones end at once, operations do not", Fault::OldOperationActs, |s| {
        s.glue.ops_of_other_views = true;
    });
    let kept = Scenario {
        glue: Glue { ops_of_other_views: true, ..Glue::default() },
        must: vec![Witness::Released, Witness::SecondView],
        ..Scenario { name: "operations of other views, tombstones kept", ..at_once.clone() }
    };
    let twice =
        Scenario { held: 0b1, scripts: [vec![claim(2)], vec![claim(1)]], max_lease: 2, rounds: 2, ..old.clone() };
    let twice = Scenario {
        must: vec![Witness::SecondView, Witness::Takeover, Witness::GrantedInSecond],
        ..Scenario { name: "a lease runs out across a view change, n=1", ..twice }
    };
    let counted = twice.mutant("a view change counts time twice", Fault::ElapsedTooLong, |s| {
        s.glue.time_counts_twice = true;
    });
    let taken = twice.mutant("a view change counts time twice, two owners", Fault::TwoOwners, |s| {
        s.glue.time_counts_twice = true;
    });
    vec![old, at_once, neither, kept, twice, counted, taken]
}
