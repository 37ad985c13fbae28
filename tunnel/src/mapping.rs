//! What stands before us, judged by where others see us: how a translator maps (RFC 4787 section 4.1), and which ports it gives next.
//!
//! Each observer is a destination of its own. One that sees another port than the others says that the translator gives each
//! destination a port; ports close together say that it counts, and then the next ones can be told to a peer before they are given.
//! No two ports of one observer are ever seen, so that it is not known whether the destination's port matters, too.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;

use crate::limits::{AHEAD, BEHIND, OBSERVERS, PORT_GAP, PORT_GAP_MAX, PORT_ORDER, PORT_RATE};

/// How the translator before us maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// Fewer than two observers have said anything.
    Unknown,
    /// One address and port for all destinations, or no translator at all.
    EndpointIndependent,
    /// Another port for each destination: what RFC 4787 calls address-dependent, or address-and-port-dependent.
    AddressDependent,
    /// The same, and each port is so far from the one before; at least three observers see it so.
    Counting {
        /// From one port to the next; negative where it counts down.
        step: i32,
    },
}

/// Where each observer has seen us last, in the order of time.
#[derive(Clone, Debug, Default)]
pub struct Observations(Vec<Seen>);

#[derive(Clone, Copy, Debug)]
struct Seen {
    by: PeerId,
    addr: SocketAddr,
    /// When it was first seen: about then the translator gave the port.
    since: Instant,
}

/// Ports that count.
struct Row {
    step: i32,
    /// In the order of counting.
    ports: Vec<u16>,
}

impl Observations {
    /// An observer sees us there. True unless it did before.
    pub fn note(&mut self, by: PeerId, addr: SocketAddr, now: Instant) -> bool {
        if self.0.iter().any(|seen| seen.by == by && seen.addr == addr) {
            return false;
        }
        self.0.retain(|seen| seen.by != by);
        if self.0.len() >= OBSERVERS {
            self.0.remove(0);
        }
        self.0.push(Seen { by, addr, since: now });
        true
    }

    /// How the translator before us maps.
    pub fn mapping(&self) -> Mapping {
        let seen = self.of_one_address();
        let (Some(first), true) = (seen.first(), seen.len() > 1) else { return Mapping::Unknown };
        if seen.iter().all(|other| other.addr.port() == first.addr.port()) {
            return Mapping::EndpointIndependent;
        }
        match row(&seen) {
            Some(Row { step, ports }) if ports.len() > 2 => Mapping::Counting { step },
            Some(_) | None => Mapping::AddressDependent,
        }
    }

    /// How many observers the judgement rests on.
    pub fn observers(&self) -> usize {
        self.of_one_address().len()
    }

    /// Where we are seen, the newest first, each address once. Where ports count, only the newest: the others are for others.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let seen = self.of_one_address();
        if let (Some(row), Some(first)) = (row(&seen), seen.first()) {
            return row.ports.last().map(|port| SocketAddr::new(first.addr.ip(), *port)).into_iter().collect();
        }
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for seen in self.0.iter().rev() {
            if !addresses.contains(&seen.addr) {
                addresses.push(seen.addr);
            }
        }
        addresses
    }

    /// The ports that a peer should try: those that come next, and then the last ones that nobody has seen, which may have been given
    /// to the peer already. Two observers are enough to try: a wrong guess costs a few datagrams.
    pub fn predicted(&self) -> Vec<SocketAddr> {
        let seen = self.of_one_address();
        let (Some(row), Some(first)) = (row(&seen), seen.first()) else { return Vec::new() };
        row.next().map(|port| SocketAddr::new(first.addr.ip(), port)).collect()
    }

    /// Those who see us at one address, which most of them do: a liar alone changes nothing, and neither does an address of the
    /// other family. Of as many, those who have spoken last.
    fn of_one_address(&self) -> Vec<Seen> {
        let v4 = self.0.iter().any(|seen| seen.addr.is_ipv4());
        let at = |ip: IpAddr| self.0.iter().filter(move |seen| seen.addr.ip() == ip);
        let ips = self.0.iter().map(|seen| seen.addr.ip()).filter(|ip| ip.is_ipv4() == v4);
        let most = ips.max_by_key(|ip| (at(*ip).count(), at(*ip).map(|seen| seen.since).max()));
        most.map_or_else(Vec::new, |ip| at(ip).copied().collect())
    }
}

impl Row {
    fn next(&self) -> impl Iterator<Item = u16> {
        let last = self.ports.last().copied().map_or(0, i32::from);
        let ahead = (1..=AHEAD).map(move |n| last + self.step * n);
        let seen = |port: &i32| self.ports.iter().any(|seen| i32::from(*seen) == *port);
        let behind = (1..).map(move |n| last - self.step * n).filter(move |port| !seen(port)).take(BEHIND);
        ahead.chain(behind).filter_map(|port| u16::try_from(port).ok()).filter(|port| *port > 0)
    }
}

/// The ports as a row that counts, if they are one: different, and close together for the time between them. Whether it counts
/// down, and by how much, only three can say: of two, other flows may lie between.
fn row(seen: &[Seen]) -> Option<Row> {
    let mut ports: Vec<(u16, Instant)> = Vec::new();
    for seen in seen {
        if ports.iter().all(|(port, _)| *port != seen.addr.port()) {
            ports.push((seen.addr.port(), seen.since));
        }
    }
    let many = ports.len() > 2;
    let falls = many && falls(&ports);
    ports.sort_unstable();
    let mut step = 0;
    for two in ports.windows(2) {
        let gap = two[1].0 - two[0].0;
        if gap > largest_gap(two[1].1.max(two[0].1) - two[0].1.min(two[1].1)) {
            return None;
        }
        step = common_divisor(step, gap);
    }
    let mut ports: Vec<u16> = ports.into_iter().map(|(port, _)| port).collect();
    let step = if many { i32::from(step) } else { 1 };
    if falls {
        ports.reverse();
    }
    (ports.len() > 1).then_some(Row { step: if falls { -step } else { step }, ports })
}

/// Whether later ports are lower. Answers that come at about the same time may have overtaken each other; what they cannot say is
/// taken for the usual.
fn falls(ports: &[(u16, Instant)]) -> bool {
    let later = |one: &(u16, Instant), other: &(u16, Instant)| other.1 >= one.1 + PORT_ORDER;
    let pairs =
        || ports.iter().flat_map(|one| ports.iter().filter(|other| later(one, other)).map(|other| (one.0, other.0)));
    pairs().next().is_some() && pairs().all(|(earlier, later)| later < earlier)
}

/// How far apart two ports may be that were given so long one after the other: others count, too.
fn largest_gap(between: Duration) -> u16 {
    let more = u16::try_from(between.as_secs()).unwrap_or(u16::MAX).saturating_mul(PORT_RATE);
    PORT_GAP.saturating_add(more).min(PORT_GAP_MAX)
}

fn common_divisor(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::net::{ms, peer_id, secs};
    use crate::tests::origin;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, 1], port))
    }

    /// Observers that speak one after the other, so long between two of them.
    fn seen(ports: &[u16], between: Duration) -> Observations {
        let mut observations = Observations::default();
        for (n, port) in (0u8..).zip(ports) {
            observations.note(peer_id([n; 32]), at(*port), origin() + between * u32::from(n));
        }
        observations
    }

    fn ports(addresses: &[SocketAddr]) -> Vec<u16> {
        addresses.iter().map(SocketAddr::port).collect()
    }

    #[test]
    fn the_mapping_is_told_from_what_observers_see() {
        use Mapping::{AddressDependent, Counting, EndpointIndependent, Unknown};
        for (list, mapping) in [
            (&[][..], Unknown),
            (&[4000], Unknown),
            (&[4000, 4000], EndpointIndependent),
            (&[4000, 4000, 4000], EndpointIndependent),
            (&[4000, 31_000], AddressDependent),
            (&[30_000, 30_001], AddressDependent),
            (&[30_000, 30_001, 30_002], Counting { step: 1 }),
            (&[30_000, 30_004, 30_006], Counting { step: 2 }),
            // Answers may overtake each other.
            (&[30_001, 30_000, 30_002], Counting { step: 1 }),
            (&[30_002, 30_001, 30_000], Counting { step: 1 }),
            (&[30_000, 30_001, 31_000], AddressDependent),
            // Two observers with one address, where the destination's address is what counts.
            (&[30_000, 30_000, 30_001], AddressDependent),
            (&[1, 65_535, 2], AddressDependent),
        ] {
            assert_eq!(seen(list, ms(20)).mapping(), mapping, "{list:?}");
        }
        assert_eq!(seen(&[30_005, 30_004, 30_003], secs(1)).mapping(), Counting { step: -1 });
        assert_eq!(seen(&[30_005, 30_003, 30_004], secs(1)).mapping(), Counting { step: 1 });
    }

    #[test]
    fn ports_may_be_further_apart_the_later_they_are_given() {
        let gap = PORT_GAP + 1;
        assert!(seen(&[30_000, 30_000 + gap], ms(20)).predicted().is_empty());
        assert!(!seen(&[30_000, 30_000 + gap], secs(1)).predicted().is_empty());
        assert!(seen(&[30_000, 30_001 + PORT_GAP_MAX], secs(100_000)).predicted().is_empty());
    }

    #[test]
    fn the_next_ports_come_first_and_then_the_last_that_nobody_has_seen() {
        let predicted = seen(&[30_000, 30_001], ms(20)).predicted();
        let ahead = usize::try_from(AHEAD).unwrap();
        assert_eq!(ports(&predicted)[..3], [30_002, 30_003, 30_004]);
        assert_eq!(ports(&predicted)[ahead..], [29_999, 29_998, 29_997, 29_996]);
        let predicted = ports(&seen(&[30_000, 30_004, 30_010], ms(20)).predicted());
        assert_eq!(predicted[..2], [30_012, 30_014]);
        assert_eq!(predicted[ahead..], [30_008, 30_006, 30_002, 29_998]);
        let predicted = ports(&seen(&[30_005, 30_004, 30_002], secs(1)).predicted());
        assert_eq!(predicted[..2], [30_001, 30_000]);
        assert_eq!(predicted[ahead..], [30_003, 30_006, 30_007, 30_008]);
        assert_eq!(ports(&seen(&[65_533, 65_534], ms(20)).predicted())[..2], [65_535, 65_532], "no port is beyond");
        assert_eq!(ports(&seen(&[4, 3, 2], secs(1)).predicted()), [1, 5, 6, 7, 8]);
        assert!(seen(&[4000, 4000], ms(20)).predicted().is_empty());
        assert!(seen(&[31_000, 47_000, 52_000], ms(20)).predicted().is_empty());
    }

    #[test]
    fn where_ports_count_only_the_newest_is_worth_telling() {
        assert_eq!(ports(&seen(&[30_000, 30_002, 30_001], ms(20)).addresses()), [30_002]);
        assert_eq!(ports(&seen(&[4000, 31_000, 4000], ms(20)).addresses()), [4000, 31_000]);
    }

    #[test]
    fn what_an_observer_said_before_counts_no_more() {
        let mut observations = seen(&[30_000, 30_001, 30_002], ms(20));
        assert!(!observations.note(peer_id([0; 32]), at(30_000), origin() + secs(1)));
        assert!(observations.note(peer_id([0; 32]), at(30_003), origin() + secs(1)));
        assert_eq!(ports(&observations.addresses()), [30_003]);
        assert_eq!(observations.observers(), 3);
    }

    #[test]
    fn a_liar_is_outvoted_and_observers_are_bounded() {
        let mut observations = seen(&[30_000, 30_001, 30_002], ms(20));
        observations.note(peer_id([9; 32]), "198.51.100.9:5".parse().unwrap(), origin() + secs(1));
        observations.note(peer_id([10; 32]), "[2001:db8::1]:5".parse().unwrap(), origin() + secs(1));
        assert_eq!(observations.mapping(), Mapping::Counting { step: 1 });
        for n in 20..100 {
            observations.note(peer_id([n; 32]), at(u16::from(n)), origin() + secs(2));
        }
        assert_eq!(observations.0.len(), OBSERVERS);
    }

    #[test]
    fn after_a_change_of_address_the_newest_ones_are_judged() {
        let mut observations = seen(&[4000, 4000], ms(20));
        for n in [0, 1] {
            let moved: SocketAddr = SocketAddr::from(([198, 51, 100, 1], 5000 + u16::from(n) * 7000));
            observations.note(peer_id([n; 32]), moved, origin() + secs(9));
        }
        assert_eq!(observations.mapping(), Mapping::AddressDependent);
    }
}
