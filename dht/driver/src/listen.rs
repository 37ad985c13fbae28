//! Opens the port, and says where it was opened.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use libp2p::core::transport::TransportError;
use libp2p::{Swarm, multiaddr};

use crate::address::{is_tcp, multiaddrs_of, socket_addr_of};
use crate::behaviour::Behaviour;
use crate::config::DriverConfig;

/// How long a port that is in use is waited for: QUIC keeps it for a moment after a driver on it has ended.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(200);

/// Listens on every configured address, by QUIC and TCP, and at the further port by TCP alone: a member has one port from
/// which its QUIC comes. An address that the machine does not have is skipped; a port that somebody else has is an error,
/// since firewalls and contacts name it.
pub(crate) async fn listen(swarm: &mut Swarm<Behaviour>, config: &DriverConfig) -> anyhow::Result<()> {
    let at = |port: u16| config.listen.iter().flat_map(move |ip| multiaddrs_of(SocketAddr::new(*ip, port)));
    open(swarm, at(config.port).collect(), config.port, "--port").await?;
    if let Some(port) = config.tls_port {
        open(swarm, at(port).filter(is_tcp).collect(), port, "--tls-port").await?;
    }
    for addr in &config.advertise {
        let tls = config.tls_port.map(|port| SocketAddr::new(addr.ip(), port));
        let tls = tls.into_iter().flat_map(multiaddrs_of).filter(is_tcp);
        for address in multiaddrs_of(*addr).into_iter().chain(tls) {
            swarm.add_external_address(address);
        }
    }
    Ok(())
}

/// Listens on what it can of these addresses, all at a port that `option` names.
async fn open(
    swarm: &mut Swarm<Behaviour>,
    mut addresses: VecDeque<multiaddr::Multiaddr>,
    port: u16,
    option: &str,
) -> anyhow::Result<()> {
    let mut listening = false;
    let mut waited = Duration::ZERO;
    let mut failed = String::new();
    while let Some(address) = addresses.pop_front() {
        match swarm.listen_on(address.clone()) {
            Ok(_) => listening = true,
            Err(TransportError::Other(error)) if is_in_use(&error) => {
                if waited >= PATIENCE {
                    bail!("port {port} is in use by another program ({address}); choose another with {option}");
                }
                tokio::time::sleep(PAUSE).await;
                waited += PAUSE;
                addresses.push_front(address);
            }
            Err(error) => {
                tracing::debug!(%address, %error, "cannot listen here");
                failed = format!("{address}: {error}");
            }
        }
    }
    if !listening {
        bail!("cannot listen at port {port} ({option}) on any address; the last was {failed}");
    }
    Ok(())
}

/// The addresses that the swarm listens at, each once.
pub(crate) fn listening(swarm: &Swarm<Behaviour>) -> Vec<SocketAddr> {
    let mut addrs: Vec<_> = swarm.listeners().filter_map(socket_addr_of).collect();
    addrs.sort_unstable();
    addrs.dedup();
    addrs
}

/// Looks up the name in front of a contact's address. An address without one stands for itself.
pub(crate) async fn resolve(address: multiaddr::Multiaddr) -> anyhow::Result<Vec<multiaddr::Multiaddr>> {
    use multiaddr::Protocol::{Dns, Dns4, Dns6};
    let mut parts = address.iter();
    let (name, wanted): (_, fn(&IpAddr) -> bool) = match parts.next() {
        Some(Dns(name)) => (name, |_| true),
        Some(Dns4(name)) => (name, IpAddr::is_ipv4),
        Some(Dns6(name)) => (name, IpAddr::is_ipv6),
        Some(_) | None => return Ok(vec![address]),
    };
    let found = tokio::net::lookup_host((name.as_ref(), 0)).await.with_context(|| format!("cannot look up {name}"))?;
    let mut ips: Vec<_> = found.map(|addr| addr.ip()).filter(wanted).collect();
    ips.truncate(8);
    let rest: multiaddr::Multiaddr = parts.collect();
    Ok(ips.into_iter().map(|ip| multiaddr::Multiaddr::from(ip).into_iter().chain(rest.iter()).collect()).collect())
}

fn is_in_use(error: &std::io::Error) -> bool {
    // QUIC wraps the system's error in one of its own.
    error.kind() == std::io::ErrorKind::AddrInUse || error.to_string().contains("Address already in use")
}
