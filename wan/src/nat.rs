//! A translator in the words of RFC 4787: how it maps, whom it lets in, how it picks ports, and when it forgets.
//!
//! Only UDP over IPv4: what punches holes. A firewall without translation is one that keeps addresses ([`Ports::None`]).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What two datagrams from one inside socket must have in common to leave by one outside port (section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// Nothing: one port for all destinations.
    EndpointIndependent,
    /// The destination's address.
    AddressDependent,
    /// The destination's address and port.
    AddressAndPortDependent,
}

/// Whose datagrams reach the inside socket (section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filtering {
    /// Anybody's, while the mapping lasts.
    EndpointIndependent,
    /// Those of addresses that the socket has sent to.
    AddressDependent,
    /// Those of addresses and ports that the socket has sent to.
    AddressAndPortDependent,
}

/// How outside ports are chosen (section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Address and port stay as they are: a firewall, or nothing at all.
    None,
    /// The inside port where it is free, else any.
    Preserved,
    /// Any.
    Random,
    /// The one after the last, so far apart.
    Sequential(u16),
}

/// What a datagram from outside that nothing was sent to leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsolicited {
    /// Nothing.
    Forgotten,
    /// An entry for the router itself, as in Linux without a rule that drops it: the inside socket can no longer be mapped to that
    /// port for this sender, and leaves by another.
    Remembered,
}

/// When flows are forgotten (section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// After the last datagram of a flow that was never answered.
    pub unanswered: Duration,
    /// After the last datagram of a flow that went both ways.
    pub answered: Duration,
    /// Whether datagrams from outside put that off, too.
    pub inbound_refreshes: bool,
}

impl Timers {
    /// Linux: 30 s, and 120 s once it is a stream.
    pub const LINUX: Self =
        Self { unanswered: Duration::from_secs(30), answered: Duration::from_secs(120), inbound_refreshes: true };
}

/// All of a translator's behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How it maps.
    pub mapping: Mapping,
    /// Whom it lets in.
    pub filtering: Filtering,
    /// How it picks ports.
    pub ports: Ports,
    /// What the unsolicited leaves behind.
    pub unsolicited: Unsolicited,
    /// Whether a datagram from inside to an outside address of its own comes back in (section 6).
    pub hairpin: bool,
    /// When it forgets.
    pub timers: Timers,
    /// Outside ports there are, from [`FIRST_PORT`] on.
    pub capacity: u16,
}

/// The lowest outside port that is chosen; preserved ones may be below.
pub const FIRST_PORT: u16 = 30_000;

/// Where a datagram goes on, with its addresses as they are then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// On its way to the other side.
    Through {
        /// Its source.
        from: SocketAddrV4,
        /// Its destination.
        to: SocketAddrV4,
    },
    /// Back to where it came from.
    Back {
        /// Its source.
        from: SocketAddrV4,
        /// Its destination.
        to: SocketAddrV4,
    },
    /// Nowhere.
    Dropped(Reason),
}

/// Why a datagram goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// No inside socket has this port.
    NoMapping,
    /// The inside socket has not sent to whom it is from.
    Filtered,
    /// All ports are in use.
    NoPort,
    /// To an outside address of its own, and it does not turn datagrams round.
    NoHairpin,
}

/// One outside port of one inside socket.
#[derive(Clone, Debug)]
struct Mapped {
    inside: SocketAddrV4,
    /// The destination that it is for; parts that do not matter are zero.
    scope: SocketAddrV4,
    port: u16,
    /// Whom the socket has sent to through it, or heard from.
    flows: BTreeMap<SocketAddrV4, Flow>,
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    last: Duration,
    answered: bool,
    /// The socket has sent there: what filters ask.
    ours: bool,
}

const ANYWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);

/// A translator, or a firewall.
#[derive(Clone, Debug)]
pub struct Nat {
    settings: Settings,
    outside: Ipv4Addr,
    mapped: Vec<Mapped>,
    /// What the router itself heard: by port and sender, since when.
    heard: BTreeMap<(u16, SocketAddrV4), Duration>,
    last_port: u16,
    rng: ChaCha8Rng,
}

impl Nat {
    /// One with this address outside.
    pub fn new(settings: Settings, outside: Ipv4Addr, seed: u64) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Self { settings, outside, mapped: Vec::new(), heard: BTreeMap::new(), last_port: FIRST_PORT - 1, rng }
    }

    /// Its address outside.
    pub fn outside(&self) -> Ipv4Addr {
        self.outside
    }

    /// Forgets everything, as after a loss of power. A new address may come with it.
    pub fn reboot(&mut self, outside: Ipv4Addr) {
        self.outside = outside;
        self.mapped.clear();
        self.heard.clear();
    }

    /// How many outside ports are in use.
    pub fn in_use(&mut self, now: Duration) -> usize {
        self.expire(now);
        self.mapped.len()
    }

    /// A datagram from inside.
    pub fn outbound(&mut self, from: SocketAddrV4, to: SocketAddrV4, now: Duration) -> Passage {
        self.expire(now);
        let Some(place) = self.mapping(from, to) else { return Passage::Dropped(Reason::NoPort) };
        let mapped = &mut self.mapped[place];
        let flow = mapped.flows.entry(to).or_insert(Flow { last: now, answered: false, ours: true });
        (flow.last, flow.ours) = (now, true);
        let source = match self.settings.ports {
            Ports::None => from,
            Ports::Preserved | Ports::Random | Ports::Sequential(_) => SocketAddrV4::new(self.outside, mapped.port),
        };
        if *to.ip() != self.outside || self.settings.ports == Ports::None {
            return Passage::Through { from: source, to };
        }
        if !self.settings.hairpin {
            return Passage::Dropped(Reason::NoHairpin);
        }
        match self.inbound(source, to, now) {
            Passage::Through { from, to } => Passage::Back { from, to },
            other @ (Passage::Back { .. } | Passage::Dropped(_)) => other,
        }
    }

    /// A datagram from outside.
    pub fn inbound(&mut self, from: SocketAddrV4, to: SocketAddrV4, now: Duration) -> Passage {
        self.expire(now);
        let ours = |mapped: &Mapped| match self.settings.ports {
            Ports::None => mapped.inside == to,
            Ports::Preserved | Ports::Random | Ports::Sequential(_) => mapped.port == to.port(),
        };
        let filtering = self.settings.filtering;
        let Some(place) = self.mapped.iter().position(|mapped| ours(mapped) && mapped.lets_in(filtering, from)) else {
            return self.refuse(from, to, now);
        };
        let (timers, mapped) = (self.settings.timers, &mut self.mapped[place]);
        let flow = mapped.flows.entry(from).or_insert(Flow { last: now, answered: false, ours: false });
        flow.answered = true;
        if timers.inbound_refreshes {
            flow.last = now;
        }
        Passage::Through { from, to: mapped.inside }
    }

    fn refuse(&mut self, from: SocketAddrV4, to: SocketAddrV4, now: Duration) -> Passage {
        // An open machine is reached without having sent anything.
        if self.settings.ports == Ports::None && self.settings.filtering == Filtering::EndpointIndependent {
            return Passage::Through { from, to };
        }
        if self.settings.unsolicited == Unsolicited::Remembered {
            self.heard.insert((to.port(), from), now);
        }
        let known = self.mapped.iter().any(|mapped| mapped.port == to.port());
        Passage::Dropped(if known { Reason::Filtered } else { Reason::NoMapping })
    }

    /// The mapping for this destination, made if need be.
    fn mapping(&mut self, inside: SocketAddrV4, to: SocketAddrV4) -> Option<usize> {
        let clash = self.heard.contains_key(&(self.wished(inside), to));
        let scope = match self.settings.mapping {
            // The port that it would have is the router's own in this flow: for this destination alone it gets another.
            _ if clash => to,
            Mapping::EndpointIndependent => ANYWHERE,
            Mapping::AddressDependent => SocketAddrV4::new(*to.ip(), 0),
            Mapping::AddressAndPortDependent => to,
        };
        // A flow that is under way stays where it is.
        let flowing = |mapped: &Mapped| mapped.inside == inside && mapped.flows.get(&to).is_some_and(|flow| flow.ours);
        let fits = |mapped: &Mapped| mapped.inside == inside && mapped.scope == scope;
        let known = self.mapped.iter().position(flowing).or_else(|| self.mapped.iter().position(fits));
        if known.is_some() {
            return known;
        }
        let port = self.port(inside, clash)?;
        self.mapped.push(Mapped { inside, scope, port, flows: BTreeMap::new() });
        Some(self.mapped.len() - 1)
    }

    /// The port that a socket has, or would have.
    fn wished(&self, inside: SocketAddrV4) -> u16 {
        let has = self.mapped.iter().find(|mapped| mapped.inside == inside && mapped.scope == ANYWHERE);
        has.map_or(inside.port(), |mapped| mapped.port)
    }

    fn port(&mut self, inside: SocketAddrV4, clash: bool) -> Option<u16> {
        let taken = |port: u16| self.mapped.iter().any(|mapped| mapped.port == port);
        match self.settings.ports {
            Ports::None => return Some(inside.port()),
            Ports::Preserved if !clash && !taken(inside.port()) => return Some(inside.port()),
            Ports::Preserved | Ports::Random | Ports::Sequential(_) => {}
        }
        let range = self.settings.capacity.max(1);
        let first = match self.settings.ports {
            Ports::Sequential(step) => self.last_port.wrapping_sub(FIRST_PORT).wrapping_add(step) % range,
            Ports::None | Ports::Preserved | Ports::Random => self.rng.random_range(0..range),
        };
        let port = (0..range).map(|n| FIRST_PORT + (first + n) % range).find(|port| !taken(*port))?;
        self.last_port = port;
        Some(port)
    }

    fn expire(&mut self, now: Duration) {
        let timers = self.settings.timers;
        let alive = |flow: &Flow| {
            let life = if flow.answered { timers.answered } else { timers.unanswered };
            now < flow.last + life
        };
        for mapped in &mut self.mapped {
            mapped.flows.retain(|_, flow| alive(flow));
        }
        self.mapped.retain(|mapped| !mapped.flows.is_empty());
        self.heard.retain(|_, since| now < *since + timers.unanswered);
    }
}

impl Mapped {
    fn lets_in(&self, filtering: Filtering, from: SocketAddrV4) -> bool {
        let mut sent_to = self.flows.iter().filter(|(_, flow)| flow.ours).map(|(to, _)| to);
        match filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => sent_to.any(|to| to.ip() == from.ip()),
            Filtering::AddressAndPortDependent => sent_to.any(|to| *to == from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::Edge;

    const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

    fn at(text: &str) -> SocketAddrV4 {
        text.parse().unwrap()
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn nat(edge: Edge) -> Nat {
        Nat::new(edge.settings(), OUTSIDE, 1)
    }

    fn source(passage: Passage) -> SocketAddrV4 {
        let Passage::Through { from, .. } = passage else { panic!("{passage:?}") };
        from
    }

    #[test]
    fn a_home_router_keeps_the_port_and_lets_in_whom_was_sent_to() {
        let mut nat = nat(Edge::Home);
        let (inside, one, other) = (at("192.168.1.2:4000"), at("198.51.100.1:1"), at("198.51.100.1:2"));
        let outside = source(nat.outbound(inside, one, secs(0)));
        assert_eq!(outside, at("203.0.113.1:4000"));
        assert_eq!(nat.inbound(one, outside, secs(1)), Passage::Through { from: one, to: inside });
        assert_eq!(nat.inbound(other, outside, secs(1)), Passage::Dropped(Reason::Filtered));
        assert_eq!(nat.inbound(one, at("203.0.113.1:4001"), secs(1)), Passage::Dropped(Reason::NoMapping));
        assert_eq!(source(nat.outbound(inside, other, secs(1))), outside, "one port for all destinations");
    }

    #[test]
    fn a_second_socket_with_the_same_port_gets_another() {
        let mut nat = nat(Edge::Home);
        let to = at("198.51.100.1:1");
        source(nat.outbound(at("192.168.1.2:4000"), to, secs(0)));
        let second = source(nat.outbound(at("192.168.1.3:4000"), to, secs(0)));
        assert_ne!(second.port(), 4000);
        assert_eq!(nat.inbound(to, second, secs(0)), Passage::Through { from: to, to: at("192.168.1.3:4000") });
    }

    #[test]
    fn each_kind_of_mapping_is_seen_from_two_places() {
        let inside = at("192.168.1.2:4000");
        let same = |edge: Edge, one: &str, other: &str| {
            let mut nat = nat(edge);
            let first = source(nat.outbound(inside, at(one), secs(0)));
            first == source(nat.outbound(inside, at(other), secs(0)))
        };
        let (port, address) = (("198.51.100.1:1", "198.51.100.1:2"), ("198.51.100.1:1", "198.51.100.2:1"));
        assert!(same(Edge::FullCone, port.0, port.1) && same(Edge::FullCone, address.0, address.1));
        assert!(same(Edge::AddressDependentMapping, port.0, port.1));
        assert!(!same(Edge::AddressDependentMapping, address.0, address.1));
        assert!(!same(Edge::SymmetricRandom, port.0, port.1));
    }

    #[test]
    fn a_counting_one_counts() {
        let mut nat = nat(Edge::SymmetricSequential);
        let inside = at("192.168.1.2:4000");
        let ports: Vec<u16> = (1..=3)
            .map(|port| {
                source(nat.outbound(inside, SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 1), port), secs(0))).port()
            })
            .collect();
        assert_eq!(ports, [30_000, 30_001, 30_002]);
    }

    #[test]
    fn flows_are_forgotten_by_their_timers() {
        let mut nat = nat(Edge::Home);
        let (inside, to) = (at("192.168.1.2:4000"), at("198.51.100.1:1"));
        let outside = source(nat.outbound(inside, to, secs(0)));
        assert_eq!(nat.in_use(secs(29)), 1);
        assert_eq!(nat.in_use(secs(30)), 0);
        source(nat.outbound(inside, to, secs(40)));
        assert!(matches!(nat.inbound(to, outside, secs(41)), Passage::Through { .. }));
        assert_eq!(nat.in_use(secs(160)), 1, "it went both ways");
        assert_eq!(nat.in_use(secs(161)), 0);
    }

    #[test]
    fn what_comes_in_refreshes_only_where_it_does() {
        let timers = Timers { inbound_refreshes: false, ..Timers::LINUX };
        let mut nat = Nat::new(Settings { timers, ..Edge::Home.settings() }, OUTSIDE, 1);
        let (inside, to) = (at("192.168.1.2:4000"), at("198.51.100.1:1"));
        let outside = source(nat.outbound(inside, to, secs(0)));
        for n in 1..12 {
            assert!(matches!(nat.inbound(to, outside, secs(n * 10)), Passage::Through { .. }), "{n}");
        }
        assert_eq!(nat.inbound(to, outside, secs(120)), Passage::Dropped(Reason::NoMapping));
    }

    #[test]
    fn the_unsolicited_takes_the_port_away_where_it_is_remembered() {
        let (inside, to) = (at("192.168.1.2:4000"), at("198.51.100.1:1"));
        let moved = |edge: Edge| {
            let mut nat = nat(edge);
            source(nat.outbound(inside, at("198.51.100.9:9"), secs(0)));
            nat.inbound(to, at("203.0.113.1:4000"), secs(1));
            source(nat.outbound(inside, to, secs(2))).port() != 4000
        };
        assert!(!moved(Edge::Home));
        assert!(moved(Edge::HomeWithoutInputDrop));
    }

    #[test]
    fn hairpin_is_a_setting() {
        let (one, other) = (at("192.168.1.2:4000"), at("192.168.1.3:5000"));
        let settings = Edge::FullCone.settings();
        let mut nat = Nat::new(Settings { hairpin: true, ..settings }, OUTSIDE, 1);
        source(nat.outbound(one, at("198.51.100.1:1"), secs(0)));
        let back = nat.outbound(other, at("203.0.113.1:4000"), secs(0));
        assert_eq!(back, Passage::Back { from: at("203.0.113.1:5000"), to: one });
        let mut nat = Nat::new(settings, OUTSIDE, 1);
        source(nat.outbound(one, at("198.51.100.1:1"), secs(0)));
        assert_eq!(nat.outbound(other, at("203.0.113.1:4000"), secs(0)), Passage::Dropped(Reason::NoHairpin));
    }

    #[test]
    fn a_full_one_lets_nothing_new_out_and_what_it_has_goes_on() {
        let settings = Settings { capacity: 4, ..Edge::SymmetricRandom.settings() };
        let mut nat = Nat::new(settings, OUTSIDE, 1);
        let inside = at("192.168.1.2:4000");
        let to = |port: u16| SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 1), port);
        for port in 1..=4 {
            source(nat.outbound(inside, to(port), secs(0)));
        }
        assert_eq!(nat.outbound(inside, to(5), secs(0)), Passage::Dropped(Reason::NoPort));
        source(nat.outbound(inside, to(1), secs(0)));
    }

    #[test]
    fn a_firewall_keeps_addresses_and_an_open_machine_is_always_reached() {
        let (inside, to) = (at("203.0.113.7:4000"), at("198.51.100.1:1"));
        let mut firewall = nat(Edge::Firewall);
        assert!(matches!(firewall.inbound(to, inside, secs(0)), Passage::Dropped(_)));
        assert_eq!(source(firewall.outbound(inside, to, secs(0))), inside);
        assert_eq!(firewall.inbound(to, inside, secs(0)), Passage::Through { from: to, to: inside });
        let mut open = nat(Edge::Open);
        assert_eq!(open.inbound(to, inside, secs(0)), Passage::Through { from: to, to: inside });
    }
}
