//! What stands between two members where none of the ten edges tells it all.

use std::time::Duration;

use anyhow::ensure;
use wan::Edge;

use crate::lab::{Lab, Router};
use crate::node::Node;
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
        let mut processes = Vec::new();
        let (a, b, routers) = match self {
            Self::NoUdp | Self::SameLan => {
                let mut router = lab.router(Edge::Home)?;
                (lab.behind(&mut router, "a")?, lab.behind(&mut router, "b")?, vec![router])
            }
            Self::DoubleNat => {
                let mut carrier = lab.router(Edge::HomeOtherPort)?;
                let home = lab.router_behind(&mut carrier, Edge::Home)?;
                behind(&mut lab, home, Some(carrier), Edge::Home)?
            }
            Self::DoubleNatSymmetric => {
                let mut carrier = lab.router(Edge::HomeOtherPort)?;
                let home = lab.router_behind(&mut carrier, Edge::SymmetricRandom)?;
                behind(&mut lab, home, Some(carrier), Edge::Firewall)?
            }
            Self::SameCarrier => {
                let mut carrier = lab.router(Edge::HomeOtherPort)?;
                let mut homes =
                    [lab.router_behind(&mut carrier, Edge::Home)?, lab.router_behind(&mut carrier, Edge::Home)?];
                let [first, second] = &mut homes;
                let (a, b) = (lab.behind(first, "a")?, lab.behind(second, "b")?);
                (a, b, homes.into_iter().chain([carrier]).collect())
            }
            Self::PortMapping => {
                let home = lab.router(Edge::Home)?;
                processes.push(home.map_ports(&lab, "enable_natpmp=yes\nenable_upnp=no\n")?);
                behind(&mut lab, home, None, Edge::SymmetricRandom)?
            }
            Self::OneToOne => {
                let cloud = lab.router(Edge::Home)?;
                cloud.become_one_to_one()?;
                behind(&mut lab, cloud, None, Edge::SymmetricRandom)?
            }
            Self::ShortTimers => {
                let home = lab.router(Edge::Home)?;
                let (a, b, routers) = behind(&mut lab, home, None, Edge::Home)?;
                for router in &routers {
                    let timers =
                        ["net.netfilter.nf_conntrack_udp_timeout=2", "net.netfilter.nf_conntrack_udp_timeout_stream=2"];
                    router.run(&[&["sysctl", "-qw"][..], &timers].concat())?;
                }
                (a, b, routers)
            }
            Self::BothIpv6 => {
                let home = lab.router(Edge::SymmetricRandom)?;
                behind(&mut lab, home, None, Edge::SymmetricRandom)?
            }
            Self::Ipv6AndIpv4 => {
                let home = lab.router(Edge::Home)?;
                let (a, b, routers) = behind(&mut lab, home, None, Edge::Home)?;
                a.run(&["ip", "-4", "addr", "flush", "dev", "eth0"])?;
                b.run(&["ip", "-6", "addr", "flush", "dev", "eth0"])?;
                (a, b, routers)
            }
        };
        let mut pair = Pair::joined(lab, open, [a, b], routers)?;
        pair.processes = processes;
        Ok(Some(pair))
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

/// `a` behind this router, and `b` behind one of that kind.
fn behind(
    lab: &mut Lab,
    mut one: Router,
    outer: Option<Router>,
    other: Edge,
) -> anyhow::Result<(Node, Node, Vec<Router>)> {
    let mut other = lab.router(other)?;
    let (a, b) = (lab.behind(&mut one, "a")?, lab.behind(&mut other, "b")?);
    Ok((a, b, [one, other].into_iter().chain(outer).collect()))
}
