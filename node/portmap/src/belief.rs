//! What is believed of a gateway's answer. It may be broken, or somebody else's.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::mapping::Network;

/// A mapping that lasts less is none: to renew it would keep this machine and the gateway busy. RFC 6887 section 15 has servers
/// grant 120 s at least.
const SHORTEST: Duration = Duration::from_secs(60);
/// A longer one is renewed as if it were this long: gateways forget when they restart.
pub(crate) const LONGEST: Duration = Duration::from_secs(1200);

/// From where a mapped address is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// From everywhere, as far as its number tells.
    Public,
    /// A second translator stands before the gateway, and only others behind that one reach it there.
    BetweenTranslators,
}

/// Why an answer is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// No machine can have that address.
    NoHost(Ipv4Addr),
    /// It lies inside our own network, where the gateway stands before us.
    Inside(Ipv4Addr),
    /// Port 0.
    NoPort,
    /// So short a lease, in seconds.
    Short(u64),
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHost(ip) => write!(f, "the router has no external address that could be one ({ip})"),
            Self::Inside(ip) => write!(f, "the router says that outside it is {ip}, which is inside this network"),
            Self::NoPort => f.write_str("the router gave port 0"),
            Self::Short(seconds) => write!(f, "the router grants only {seconds} s"),
        }
    }
}

/// What an external address is good for.
///
/// # Errors
/// It is nonsense.
pub(crate) fn reach(ip: Ipv4Addr, network: &Network) -> Result<Reach, Doubt> {
    let first = ip.octets()[0];
    if first == 0 || first >= 224 || ip.is_loopback() || ip.is_link_local() {
        return Err(Doubt::NoHost(ip));
    }
    if network.local.contains(&ip) || ip == network.gateway {
        return Err(Doubt::Inside(ip));
    }
    // RFC 6598: carriers number their customers' routers so.
    let shared = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10).contains(&ip);
    Ok(if ip.is_private() || shared { Reach::BetweenTranslators } else { Reach::Public })
}

/// What a granted mapping is good for, and for how long it is used; `None` where it does not end.
///
/// # Errors
/// It is nonsense.
pub(crate) fn granted(
    external: SocketAddrV4,
    lease: Option<Duration>,
    network: &Network,
) -> Result<(Reach, Option<Duration>), Doubt> {
    let reach = reach(*external.ip(), network)?;
    if external.port() == 0 {
        return Err(Doubt::NoPort);
    }
    if let Some(lease) = lease.filter(|lease| *lease < SHORTEST) {
        return Err(Doubt::Short(lease.as_secs()));
    }
    Ok((reach, lease.map(|lease| lease.min(LONGEST))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> Network {
        Network { gateway: Ipv4Addr::new(192, 168, 1, 1), local: "192.168.1.7/24".parse().unwrap() }
    }

    #[test]
    fn only_an_address_that_a_router_can_have_outside_is_believed() {
        let reach = |ip: &str| reach(ip.parse().unwrap(), &network());
        for public in ["203.0.113.9", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.32.0.1"] {
            assert_eq!(reach(public), Ok(Reach::Public), "{public}");
        }
        for between in ["10.0.0.1", "100.64.0.1", "100.127.255.254", "172.16.0.9", "192.168.2.1"] {
            assert_eq!(reach(between), Ok(Reach::BetweenTranslators), "{between}");
        }
        for inside in ["192.168.1.1", "192.168.1.7", "192.168.1.200"] {
            assert_eq!(reach(inside), Err(Doubt::Inside(inside.parse().unwrap())), "{inside}");
        }
        for none in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "169.254.1.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"] {
            assert_eq!(reach(none), Err(Doubt::NoHost(none.parse().unwrap())), "{none}");
        }
    }

    #[test]
    fn a_gateway_outside_its_own_network_is_inside_all_the_same() {
        let odd = Network { gateway: Ipv4Addr::new(10, 0, 0, 1), ..network() };
        assert_eq!(reach(odd.gateway, &odd), Err(Doubt::Inside(odd.gateway)));
    }

    #[test]
    fn ports_and_leases_are_checked() {
        let at = |port| SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 9), port);
        let s = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(granted(at(0), s(600), &network()), Err(Doubt::NoPort));
        assert_eq!(granted(at(1), s(0), &network()), Err(Doubt::Short(0)));
        assert_eq!(granted(at(1), s(59), &network()), Err(Doubt::Short(59)));
        assert_eq!(granted(at(1), s(60), &network()), Ok((Reach::Public, s(60))));
        assert_eq!(granted(at(1), s(u64::from(u32::MAX)), &network()), Ok((Reach::Public, Some(LONGEST))));
        assert_eq!(granted(at(1), None, &network()), Ok((Reach::Public, None)));
    }
}
