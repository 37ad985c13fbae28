//! systemd-resolved over D-Bus (org.freedesktop.resolve1(5)).
//!
//! Everything is set on our link, so it is gone with the link, whatever becomes of us. The link is made responsible for
//! our zone and our reverse zones, and never for anything else: without `SetLinkDefaultRoute(false)` resolved would send
//! us the world's queries too, and we would send them back to it.

use std::{fs, future::Future, io, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, bail};
use ipnet::Ipv4Net;
use zbus_systemd::{
    resolve1::ManagerProxy,
    zbus::{self, Connection, fdo::DBusProxy, names::BusName},
};

/// Ours: the bus is on this machine; one that does not answer within this does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

const SERVICE: &str = "org.freedesktop.resolve1";

/// Address family of `SetLinkDNS`.
const AF_INET: i32 = libc::AF_INET;

/// A systemd-resolved that serves this network namespace.
#[derive(Debug)]
pub(super) struct Resolved {
    manager: ManagerProxy<'static>,
}

impl Resolved {
    /// `None` if it does not run, or runs elsewhere: a network namespace shares the bus of its host, but a link index
    /// means another link there.
    pub(super) async fn find() -> anyhow::Result<Option<Self>> {
        let Ok(connection) = within(Connection::system()).await else { return Ok(None) };
        let bus = within(DBusProxy::new(&connection)).await?;
        let name = BusName::try_from(SERVICE).context("Failed to name systemd-resolved")?;
        let Ok(process) = within(bus.get_connection_unix_process_id(name)).await else { return Ok(None) };
        if !shares_our_network(process).context("Failed to find the network namespace of systemd-resolved")? {
            return Ok(None);
        }
        Ok(Some(Self { manager: within(ManagerProxy::new(&connection)).await? }))
    }

    /// Makes the link responsible for the zone and the range, or leaves it as it was.
    pub(super) async fn set(&self, link: i32, server: Ipv4Addr, zone: &str, range: Ipv4Net) -> anyhow::Result<()> {
        let outcome = self.try_set(link, server, zone, range).await;
        if outcome.is_err() {
            let _ = self.revert(link).await;
        }
        outcome
    }

    /// Takes everything back.
    pub(super) async fn revert(&self, link: i32) -> anyhow::Result<()> {
        within(self.manager.revert_link(link)).await.context("Failed to revert the link in systemd-resolved")
    }

    async fn try_set(&self, link: i32, server: Ipv4Addr, zone: &str, range: Ipv4Net) -> anyhow::Result<()> {
        let manager = &self.manager;
        // Before the server is set, so that not one query of the world is sent to it.
        within(manager.set_link_default_route(link, false)).await.context("Failed to keep the default DNS route")?;
        within(manager.set_link_domains(link, domains(zone, range))).await.context("Failed to set the DNS domains")?;
        // A zone that no root delegates cannot be validated, and nobody else is on the link to ask by multicast or TLS.
        // Builds of resolved without one of these refuse it, and then it is off anyway.
        let _ = within(manager.set_link_dnssec(link, "no".to_owned())).await;
        let _ = within(manager.set_link_dns_over_tls(link, "no".to_owned())).await;
        let _ = within(manager.set_link_llmnr(link, "no".to_owned())).await;
        let _ = within(manager.set_link_multicast_dns(link, "no".to_owned())).await;
        let server = vec![(AF_INET, server.octets().to_vec())];
        within(manager.set_link_dns(link, server)).await.context("Failed to set the DNS server")
    }
}

/// The zone to search and to route, the reverse zones to route only. One by one: resolved knows no zones off the octet
/// boundary (systemd issue 21526).
fn domains(zone: &str, range: Ipv4Net) -> Vec<(String, bool)> {
    let mut domains = vec![(zone.to_owned(), false)];
    domains.extend(::dns::reverse_zones(range).into_iter().map(|zone| (zone, true)));
    domains
}

/// Who may not look (a unit without privileges) was started by the system's own service manager and so on the system's
/// own network; who looks and finds no such process sits in a container.
fn shares_our_network(process: u32) -> io::Result<bool> {
    let ours = fs::read_link("/proc/self/ns/net")?;
    match fs::read_link(format!("/proc/{process}/ns/net")) {
        Ok(theirs) => Ok(theirs == ours),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

async fn within<T, E>(call: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
where
    zbus::Error: From<E>,
{
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(outcome) => outcome.map_err(|error| zbus::Error::from(error).into()),
        Err(_) => bail!("the system bus does not answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zone_is_searched_and_the_reverse_zones_are_routed() {
        let domains = domains("home.internal", "172.16.0.0/12".parse().unwrap());
        assert_eq!(domains[0], ("home.internal".to_owned(), false));
        assert_eq!(domains.len(), 17);
        assert!(domains[1..].iter().all(|(zone, route_only)| *route_only && zone.ends_with(".172.in-addr.arpa")));
    }

    #[test]
    fn only_a_process_on_our_network_counts() {
        assert!(shares_our_network(std::process::id()).unwrap());
        assert!(!shares_our_network(u32::MAX).unwrap());
    }
}
