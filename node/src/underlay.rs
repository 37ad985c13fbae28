//! The networks this machine is on, as opposed to those it makes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use dht::{NamespaceId, is_global};

use crate::daemon::Daemon;
use crate::io::link::Interface;

/// The machine's own addresses, outside of any overlay.
pub(crate) struct Underlay {
    /// Where others may find it, in order.
    pub(crate) addresses: Vec<IpAddr>,
    /// The smallest of its interfaces.
    pub(crate) mtu: u16,
    /// Whether there is nothing but the loopback interface, as in a laboratory.
    pub(crate) loopback_only: bool,
}

impl Underlay {
    /// Looks at the kernel's interfaces and addresses.
    pub(crate) async fn look(daemon: &Arc<Daemon>) -> anyhow::Result<Self> {
        let all = daemon.links.addresses().await?;
        let ours = |link: &Interface| link.name.starts_with("ov-");
        let ranges = daemon.ranges_besides(NamespaceId([0; 32])).await;
        let inside = |ip: &IpAddr| matches!(ip, IpAddr::V4(v4) if ranges.iter().any(|(range, _)| range.contains(v4)));
        let outside: Vec<_> = all
            .iter()
            .filter(|(link, ip)| !link.loopback && !ours(link) && usable_contact(*ip) && !inside(ip))
            .collect();
        let mtu = outside.iter().map(|(link, _)| link.mtu).min().unwrap_or(1500);
        let loopback_only = outside.is_empty();
        // Only the first few fit into an invite: what others reach most likely comes first.
        let likely = |(link, ip): &&&(Interface, IpAddr)| (!link.leads_out, !is_global(*ip), ip.is_ipv6(), *ip);
        let mut outside: Vec<_> = outside.iter().collect();
        outside.sort_by_key(likely);
        let mut addresses: Vec<IpAddr> = outside.iter().map(|(_, ip)| *ip).collect();
        if loopback_only {
            addresses.push(IpAddr::from([127, 0, 0, 1]));
        }
        Ok(Self { addresses, mtu: u16::try_from(mtu).unwrap_or(u16::MAX), loopback_only })
    }
}

impl Underlay {
    /// What to say, and what to do, where nobody outside this machine's own network can reach it; `None` where it has
    /// an address that means the same everywhere. Whether a firewall stands in front of that one, only others can tell.
    pub(crate) fn unreachable_from_outside(&self, advertise: &[String], port: u16) -> Option<(String, String)> {
        if !advertise.is_empty() || self.addresses.iter().any(|ip| is_global(*ip)) {
            return None;
        }
        let list: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        let what =
            format!("this machine has only private addresses ({}): members elsewhere cannot reach it", list.join(", "));
        let cure = format!(
            "forward UDP {port}, UDP {next} and TCP {next} on the router to it and name that with --advertise HOST:{port}, or have one member that is reachable",
            next = port.saturating_add(1)
        );
        Some((what, cure))
    }
}

/// The addresses behind `--advertise`.
pub(crate) async fn advertised(list: &[String]) -> anyhow::Result<Vec<SocketAddr>> {
    let mut found = Vec::new();
    for text in list {
        let resolved = tokio::net::lookup_host(text)
            .await
            .with_context(|| format!("--advertise {text} is not HOST:PORT, or the host is not known"))?;
        found.extend(resolved);
    }
    Ok(found)
}

fn usable_contact(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unspecified() && !v6.is_unicast_link_local(),
    }
}
