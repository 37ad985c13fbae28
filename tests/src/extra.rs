//! What stands between two members where none of the ten edges tells it all.

use std::time::Duration;

use anyhow::ensure;
use wan::Edge;

use crate::lab::{Lab, Router};
use crate::pair::{Pair, Seen};

/// One such pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extra {
    /// Two home routers; no UDP passes outside the first.
    NoUdp,
    /// A home router behind a carrier's translator, and a home router.
    DoubleNat,
    /// The first of these behind a symmetric one.
    DoubleNatSymmetric,
    /// Two home routers behind one carrier's translator, which does not send back what goes to its own address.
    SameCarrier,
    /// Both behind one home router, which does not send back either.
    SameLan,
    /// A router that maps ports when asked, and one that draws its ports.
    PortMapping,
    /// A machine in a cloud, and one behind a router that draws its ports.
    OneToOne,
    /// Two home routers that forget a flow after two seconds.
    ShortTimers,
    /// Both have IPv6 as well, behind routers that draw the ports of IPv4.
    BothIpv6,
    /// One has nothing but IPv6, the other nothing but IPv4.
    Ipv6AndIpv4,
}

/// What has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Demand {
    /// Packets pass.
    Connected,
    /// They pass, by no third machine.
    Direct,
}

impl Extra {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::NoUdp,
        Self::DoubleNat,
        Self::DoubleNatSymmetric,
        Self::SameCarrier,
        Self::SameLan,
        Self::PortMapping,
        Self::OneToOne,
        Self::ShortTimers,
        Self::BothIpv6,
        Self::Ipv6AndIpv4,
    ];

    /// As it is called in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoUdp => "home without UDP, home",
            Self::DoubleNat => "home behind a carrier's translator, home",
            Self::DoubleNatSymmetric => "symmetric behind a carrier's translator, open firewall",
            Self::SameCarrier => "two homes behind one carrier's translator, no hairpin",
            Self::SameLan => "both behind one home router, no hairpin",
            Self::PortMapping => "home that maps ports (PCP), symmetric random",
            Self::OneToOne => "cloud (1:1), symmetric random",
            Self::ShortTimers => "two homes that forget after 2 s",
            Self::BothIpv6 => "symmetric random, both with IPv6",
            Self::Ipv6AndIpv4 => "IPv6 only, IPv4 only",
        }
    }

    /// What has to be.
    pub fn demand(self) -> Demand {
        match self {
            Self::NoUdp | Self::DoubleNatSymmetric | Self::SameCarrier | Self::Ipv6AndIpv4 => Demand::Connected,
            Self::DoubleNat
            | Self::SameLan
            | Self::PortMapping
            | Self::OneToOne
            | Self::ShortTimers
            | Self::BothIpv6 => Demand::Direct,
        }
    }

    /// The pair, joined, but nothing sent yet; nothing where kernel tests are left out.
    ///
    /// # Errors
    /// The kernel refuses, or one does not join.
    pub fn pair(self) -> anyhow::Result<Option<Pair>> {
        if self == Self::NoUdp {
            return Pair::without_udp("no-udp", [Edge::Home, Edge::Home], 1, [true, false]);
        }
        let Some(mut lab) = crate::lab("extra")? else { return Ok(None) };
        if matches!(self, Self::BothIpv6 | Self::Ipv6AndIpv4) {
            lab.with_ipv6()?;
        }
        let open = vec![lab.public("o0")?];
        let Gates { a, b, others } = self.gates(&mut lab)?;
        let mut processes = Vec::new();
        if self == Self::PortMapping {
            processes.push(a.map_ports(&lab, "enable_natpmp=yes\nenable_upnp=no\n")?);
        }
        let (mut routers, mut b) = (vec![a], b);
        let one = lab.behind(&mut routers[0], "a")?;
        let other = lab.behind(b.as_mut().unwrap_or(&mut routers[0]), "b")?;
        if self == Self::Ipv6AndIpv4 {
            one.run(&["ip", "-4", "addr", "flush", "dev", "eth0"])?;
            other.run(&["ip", "-6", "addr", "flush", "dev", "eth0"])?;
        }
        routers.extend(b.into_iter().chain(others));
        let mut pair = Pair::joined(lab, open, [one, other], routers)?;
        pair.processes = processes;
        Ok(Some(pair))
    }

    fn gates(self, lab: &mut Lab) -> anyhow::Result<Gates> {
        let two = |lab: &mut Lab, a: Edge, b: Edge| -> anyhow::Result<Gates> {
            Ok(Gates { a: lab.router(a)?, b: Some(lab.router(b)?), others: Vec::new() })
        };
        let carried = |lab: &mut Lab, a: Edge, b: Edge| -> anyhow::Result<Gates> {
            let mut carrier = lab.router(Edge::HomeOtherPort)?;
            Ok(Gates { a: lab.router_behind(&mut carrier, a)?, b: Some(lab.router(b)?), others: vec![carrier] })
        };
        match self {
            Self::NoUdp | Self::Ipv6AndIpv4 => two(lab, Edge::Home, Edge::Home),
            Self::SameLan => Ok(Gates { a: lab.router(Edge::Home)?, b: None, others: Vec::new() }),
            Self::DoubleNat => carried(lab, Edge::Home, Edge::Home),
            Self::DoubleNatSymmetric => carried(lab, Edge::SymmetricRandom, Edge::Firewall),
            Self::SameCarrier => {
                let mut carrier = lab.router(Edge::HomeOtherPort)?;
                let (a, b) =
                    (lab.router_behind(&mut carrier, Edge::Home)?, lab.router_behind(&mut carrier, Edge::Home)?);
                Ok(Gates { a, b: Some(b), others: vec![carrier] })
            }
            Self::PortMapping => two(lab, Edge::Home, Edge::SymmetricRandom),
            Self::OneToOne => {
                let gates = two(lab, Edge::Home, Edge::SymmetricRandom)?;
                gates.a.become_one_to_one()?;
                Ok(gates)
            }
            Self::ShortTimers => {
                let gates = two(lab, Edge::Home, Edge::Home)?;
                for router in [&gates.a].into_iter().chain(&gates.b) {
                    router.run(&[&["sysctl", "-qw"][..], &FORGETFUL].concat())?;
                }
                Ok(gates)
            }
            Self::BothIpv6 => two(lab, Edge::SymmetricRandom, Edge::SymmetricRandom),
        }
    }

    /// Whether it is as it has to be.
    ///
    /// # Errors
    /// It is not.
    pub fn judge(self, seen: &Seen) -> anyhow::Result<()> {
        ensure!(seen.first.is_some(), "{}: no packet arrived", self.name());
        ensure!(self.demand() == Demand::Connected || seen.direct.is_some(), "{}: not direct", self.name());
        Ok(())
    }

    /// How long to wait for a direct way.
    pub fn patience(self) -> Duration {
        match self.demand() {
            Demand::Direct => Duration::from_secs(30),
            Demand::Connected => Duration::from_secs(6),
        }
    }
}

/// What stands before `a` and before `b`, which is the same where `b` has none, and what stands before those.
struct Gates {
    a: Router,
    b: Option<Router>,
    others: Vec<Router>,
}

const FORGETFUL: [&str; 2] =
    ["net.netfilter.nf_conntrack_udp_timeout=2", "net.netfilter.nf_conntrack_udp_timeout_stream=2"];
