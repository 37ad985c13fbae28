//! What the watcher saw, and the judgement of it: had an address two users at once?
//!
//! All times are of one clock, that of the watcher's process: every machine of a laboratory runs on the same kernel.
//!
//! Three things are written down. A [`Use`]: a datagram that crossed the overlay shows that a machine used an address at
//! some moment between sending and delivery. A [`Holding`]: a machine said that an address is its own until some moment,
//! by its own clock, whatever becomes of its process. A [`Release`]: no earlier holding of that machine counts from then on.
//!
//! Each of these faults is one by itself:
//!
//! - two machines hold one address at the same moment;
//! - a machine uses an address while another one holds it;
//! - a machine's use lies between two uses by others that are less than one lease apart, and it released nothing in between.
//!   This one believes nobody's word: whoever used the address first had a lease, so the second one's began later, and keeps
//!   everybody else out for its whole duration.
//!
//! A use whose moment is not known well enough (the receiver was stopped) speaks for the accused.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

/// So many faults are told; one mistake may show a thousand times.
const TOLD: usize = 12;

/// Somebody sent from an address, or was reached at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// The address.
    pub ip: Ipv4Addr,
    /// The machine.
    pub node: usize,
    /// Not before this.
    pub from: Duration,
    /// Not after this.
    pub to: Duration,
}

/// Somebody said that an address is its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The address.
    pub ip: Ipv4Addr,
    /// The machine.
    pub node: usize,
    /// When it had said so.
    pub from: Duration,
    /// When that ends if it is not renewed.
    pub until: Duration,
    /// The fencing token.
    pub token: String,
}

/// Somebody gives back all that it has, or tries to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// The machine.
    pub node: usize,
    /// It is told to. What it held until then it may hold no longer.
    pub from: Duration,
    /// It is told to come back. What it says in between does not count: it may be given back the next moment.
    pub to: Duration,
}

/// All that was seen.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// For how long an address is leased.
    pub lease: Duration,
    /// In the order in which they were seen.
    pub uses: Vec<Use>,
    /// In the order in which they were seen.
    pub holdings: Vec<Holding>,
    /// In the order in which they began.
    pub releases: Vec<Release>,
}

/// The judgement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Faults, as sentences.
    pub faults: Vec<String>,
    /// Datagrams that crossed the overlay, each seen at both ends.
    pub uses: usize,
    /// Addresses that were used.
    pub addresses: usize,
    /// Machines that used one.
    pub users: usize,
    /// How often an address was used by another machine than the last time.
    pub moves: usize,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { faults, uses, addresses, users, moves } = self;
        write!(f, "{uses} uses of {addresses} addresses by {users} machines, {moves} moves, {} faults", faults.len())?;
        faults.iter().take(TOLD).try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

/// Successive uses by one machine.
struct Run {
    node: usize,
    first: Use,
    last: Use,
}

/// A stretch of time in which a machine holds an address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tenure {
    node: usize,
    from: Duration,
    until: Duration,
    token: String,
}

impl Trace {
    /// Judges what was seen.
    pub fn verdict(&self) -> Verdict {
        let addresses: BTreeSet<Ipv4Addr> = self.uses.iter().map(|one| one.ip).collect();
        let users: BTreeSet<usize> = self.uses.iter().map(|one| one.node).collect();
        let mut verdict =
            Verdict { uses: self.uses.len(), addresses: addresses.len(), users: users.len(), ..Verdict::default() };
        let tenures = self.tenures();
        for (ip, tenures) in &tenures {
            self.held_twice(*ip, tenures, &mut verdict.faults);
            self.used_while_held(*ip, tenures, &mut verdict.faults);
        }
        for ip in addresses {
            let runs = self.runs(ip);
            verdict.moves += runs.len().saturating_sub(1);
            self.came_back_too_soon(ip, &runs, &mut verdict.faults);
        }
        verdict
    }

    /// How long each machine holds each address: what it said at one time and another is put together.
    fn tenures(&self) -> BTreeMap<Ipv4Addr, Vec<Tenure>> {
        let mut all: BTreeMap<Ipv4Addr, Vec<Tenure>> = BTreeMap::new();
        for said in &self.holdings {
            let releases = self.releases.iter().filter(|one| one.node == said.node && one.to >= said.from);
            let until = releases.map(|one| one.from).fold(said.until, Duration::min);
            if until <= said.from {
                continue;
            }
            let of_ip = all.entry(said.ip).or_default();
            match of_ip.iter_mut().rev().find(|tenure| tenure.node == said.node) {
                Some(tenure) if said.from <= tenure.until => {
                    tenure.until = tenure.until.max(until);
                    tenure.token.clone_from(&said.token);
                }
                _ => of_ip.push(Tenure { node: said.node, from: said.from, until, token: said.token.clone() }),
            }
        }
        all
    }

    fn held_twice(&self, ip: Ipv4Addr, tenures: &[Tenure], faults: &mut Vec<String>) {
        for (at, one) in tenures.iter().enumerate() {
            for other in tenures[at + 1..].iter().filter(|other| other.node != one.node) {
                let (from, until) = (one.from.max(other.from), one.until.min(other.until));
                if from < until {
                    let (a, b, s, t) = (one.node, other.node, seconds(from), seconds(until));
                    let tokens = format!("tokens {} and {}", one.token, other.token);
                    faults.push(format!("{ip} is held by node {a} and node {b} from {s} to {t} s, {tokens}"));
                }
            }
        }
    }

    fn used_while_held(&self, ip: Ipv4Addr, tenures: &[Tenure], faults: &mut Vec<String>) {
        for used in self.uses.iter().filter(|used| used.ip == ip) {
            let others = tenures.iter().filter(|tenure| tenure.node != used.node);
            if let Some(held) = others.into_iter().find(|held| held.from < used.from && used.to < held.until) {
                let (user, holder, s, t) = (used.node, held.node, seconds(used.from), seconds(used.to));
                let (from, until, token) = (seconds(held.from), seconds(held.until), &held.token);
                faults.push(format!(
                    "{ip} is used by node {user} between {s} and {t} s, and held by node {holder} from {from} to {until} s, \
                     token {token}"
                ));
            }
        }
    }

    fn runs(&self, ip: Ipv4Addr) -> Vec<Run> {
        let mut uses: Vec<Use> = self.uses.iter().filter(|used| used.ip == ip).copied().collect();
        uses.sort_by_key(|used| (used.from, used.to));
        let mut runs: Vec<Run> = Vec::new();
        for used in uses {
            match runs.last_mut() {
                Some(run) if run.node == used.node => run.last = used,
                _ => runs.push(Run { node: used.node, first: used, last: used }),
            }
        }
        runs
    }

    fn came_back_too_soon(&self, ip: Ipv4Addr, runs: &[Run], faults: &mut Vec<String>) {
        for three in runs.windows(3) {
            let [before, run, after] = three else { continue };
            let (before, after) = (before.last, after.first);
            let in_order = |used: &Use| before.to < used.from && used.to < after.from;
            let Some(between) = [run.first, run.last].into_iter().find(in_order) else { continue };
            let released =
                self.releases.iter().any(|one| one.node == run.node && before.from <= one.to && one.from <= after.to);
            if !released && after.to < before.from + self.lease {
                let (a, b, c) = (before.node, between.node, after.node);
                let (r, s, t) = (seconds(before.from), seconds(between.from), seconds(after.to));
                faults.push(format!(
                    "within one lease {ip} is used by node {a} at {r} s, node {b} at {s} s and node {c} at {t} s"
                ));
            }
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const IP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn used(node: usize, from: u64, to: u64) -> Use {
        Use { ip: IP, node, from: ms(from), to: ms(to) }
    }

    fn held(node: usize, from: u64, until: u64) -> Holding {
        Holding { ip: IP, node, from: ms(from), until: ms(until), token: format!("0.1.{from}") }
    }

    fn judge(uses: Vec<Use>, holdings: Vec<Holding>, releases: Vec<(usize, u64)>) -> Verdict {
        let release = |(node, at)| Release { node, from: ms(at), to: ms(at + 500) };
        let releases = releases.into_iter().map(release).collect();
        Trace { lease: ms(30_000), uses, holdings, releases }.verdict()
    }

    #[test]
    fn an_address_that_moves_after_its_lease_is_no_fault() {
        let uses = vec![used(0, 1000, 1010), used(0, 29_000, 29_010), used(1, 33_000, 33_010), used(0, 70_000, 70_010)];
        let verdict = judge(uses, vec![held(0, 900, 30_900), held(1, 32_000, 62_000), held(0, 65_000, 95_000)], vec![]);
        assert_eq!(verdict.faults, Vec::<String>::new());
        assert_eq!((verdict.uses, verdict.addresses, verdict.users, verdict.moves), (4, 1, 2, 2));
    }

    #[test]
    fn an_address_that_moves_after_its_release_is_no_fault() {
        let uses = vec![used(0, 1000, 1010), used(1, 3000, 3010), used(0, 6000, 6010)];
        let holdings = vec![held(0, 900, 30_900), held(1, 2900, 32_900), held(0, 5900, 35_900)];
        assert_eq!(judge(uses, holdings, vec![(0, 2000), (1, 4000)]).faults, Vec::<String>::new());
    }

    #[test]
    fn who_uses_what_another_holds_is_seen() {
        let verdict = judge(vec![used(1, 5000, 5010)], vec![held(0, 1000, 31_000)], vec![]);
        assert_eq!(verdict.faults.len(), 1, "{verdict}");
        // A dead owner's lease counts as well as a living one's, to its end, and not beyond.
        assert_eq!(judge(vec![used(1, 30_900, 30_990)], vec![held(0, 1000, 31_000)], vec![]).faults.len(), 1);
        assert!(judge(vec![used(1, 30_900, 31_010)], vec![held(0, 1000, 31_000)], vec![]).faults.is_empty());
        // Its own is nobody else's affair.
        assert!(judge(vec![used(0, 5000, 5010)], vec![held(0, 1000, 31_000)], vec![]).faults.is_empty());
    }

    #[test]
    fn renewals_prolong_what_is_held() {
        let holdings = vec![held(0, 1000, 31_000), held(0, 16_000, 46_000), held(1, 44_000, 74_000)];
        let verdict = judge(vec![used(1, 40_000, 40_010)], holdings, vec![]);
        assert_eq!(verdict.faults.len(), 2, "{verdict}");
    }

    #[test]
    fn a_release_does_not_cover_what_is_held_afterwards() {
        let holdings = vec![held(0, 1000, 31_000), held(0, 6000, 36_000), held(1, 8000, 38_000)];
        assert_eq!(judge(vec![], holdings, vec![(0, 5000)]).faults.len(), 1);
    }

    #[test]
    fn what_somebody_says_while_it_gives_everything_back_does_not_count() {
        let holdings = vec![held(0, 1000, 31_000), held(0, 5100, 35_000), held(1, 5300, 35_300)];
        assert!(judge(vec![], holdings.clone(), vec![(0, 5000)]).faults.is_empty());
        assert_eq!(judge(vec![], holdings, vec![]).faults.len(), 1);
    }

    #[test]
    fn two_that_take_turns_within_one_lease_are_seen_without_anybodys_word() {
        let turns = |third| vec![used(0, 1000, 1010), used(1, 2000, 2010), used(0, third, third + 10)];
        assert_eq!(judge(turns(3000), vec![], vec![]).faults.len(), 1);
        assert_eq!(judge(turns(30_900), vec![], vec![]).faults.len(), 1);
        assert!(judge(turns(31_100), vec![], vec![]).faults.is_empty());
        // The first one's release explains the first move, not the second.
        assert_eq!(judge(turns(3000), vec![], vec![(0, 1500)]).faults.len(), 1);
        assert!(judge(turns(3000), vec![], vec![(1, 2500)]).faults.is_empty());
    }

    #[test]
    fn a_use_whose_moment_is_uncertain_speaks_for_the_accused() {
        // Sent before the freeze, delivered after it.
        let uses = vec![used(0, 1000, 40_000), used(1, 35_000, 35_010), used(0, 1500, 40_010)];
        assert!(judge(uses, vec![held(1, 34_000, 64_000)], vec![]).faults.is_empty());
    }
}
