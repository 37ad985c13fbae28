//! libp2p addresses, and which of them are worth dialling.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{PoisonError, RwLock};

use ipnet::Ipv4Net;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use crate::config::Loopback;

/// The two addresses of a node whose libp2p listens at `addr`: QUIC, then TCP.
pub(crate) fn multiaddrs_of(addr: SocketAddr) -> [Multiaddr; 2] {
    let ip = Multiaddr::from(addr.ip());
    [ip.clone().with(Protocol::Udp(addr.port())).with(Protocol::QuicV1), ip.with(Protocol::Tcp(addr.port()))]
}

/// Whether this is an address for TCP.
pub(crate) fn is_tcp(address: &Multiaddr) -> bool {
    matches!(address.iter().nth(1), Some(Protocol::Tcp(_)))
}

/// The IP address and port at the front of a libp2p address of ours.
pub(crate) fn socket_addr_of(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = ip_of(&parts.next()?)?;
    let (Protocol::Udp(port) | Protocol::Tcp(port)) = parts.next()? else { return None };
    Some(SocketAddr::new(ip, port))
}

fn ip_of(part: &Protocol<'_>) -> Option<IpAddr> {
    if let Protocol::Ip4(ip) = part {
        return Some(IpAddr::V4(*ip));
    }
    if let Protocol::Ip6(ip) = part { Some(IpAddr::V6(*ip)) } else { None }
}

/// Takes the peer's name off the end of an address.
pub(crate) fn split_peer(mut address: Multiaddr) -> (Multiaddr, Option<PeerId>) {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => {
            address.pop();
            (address, Some(peer))
        }
        Some(_) | None => (address, None),
    }
}

/// Decides which of the addresses that other nodes tell are dialled.
#[derive(Debug)]
pub(crate) struct AddressFilter {
    loopback: Loopback,
    virtual_ranges: RwLock<Vec<Ipv4Net>>,
}

impl AddressFilter {
    pub(crate) fn new(loopback: Loopback, virtual_ranges: Vec<Ipv4Net>) -> Self {
        Self { loopback, virtual_ranges: RwLock::new(virtual_ranges) }
    }

    /// Adds a range that only exists inside a tunnel.
    pub(crate) fn add_virtual_range(&self, range: Ipv4Net) {
        let mut ranges = self.virtual_ranges.write().unwrap_or_else(PoisonError::into_inner);
        if !ranges.contains(&range) {
            ranges.push(range);
        }
    }

    /// Whether to dial this address: an IP address that may be another node's, over QUIC or TCP. No names: whoever
    /// tells one could make this node look up anything.
    pub(crate) fn is_dialable(&self, address: &Multiaddr) -> bool {
        let mut parts = address.iter();
        let (Some(ip), Some(transport)) = (parts.next(), parts.next()) else { return false };
        let ip = ip_of(&ip).is_some_and(|ip| match ip {
            IpAddr::V4(ip) => self.is_dialable_v4(ip),
            IpAddr::V6(ip) => self.is_dialable_v6(ip),
        });
        let rest: Vec<_> = parts.filter(|part| !matches!(part, Protocol::P2p(_))).collect();
        let quic = matches!(transport, Protocol::Udp(1..)) && matches!(rest.as_slice(), [Protocol::QuicV1]);
        let tcp = matches!(transport, Protocol::Tcp(1..)) && rest.is_empty();
        ip && (quic || tcp)
    }

    /// Whether the address lies in a range that only exists inside a tunnel.
    pub(crate) fn is_virtual(&self, address: &Multiaddr) -> bool {
        match address.iter().next() {
            Some(Protocol::Ip4(ip)) => self.in_virtual_range(ip),
            Some(Protocol::Ip6(ip)) => ip.to_ipv4_mapped().is_some_and(|ip| self.in_virtual_range(ip)),
            Some(_) | None => false,
        }
    }

    fn in_virtual_range(&self, ip: Ipv4Addr) -> bool {
        let ranges = self.virtual_ranges.read().unwrap_or_else(PoisonError::into_inner);
        ranges.iter().any(|range| range.contains(&ip))
    }

    fn is_dialable_v4(&self, ip: Ipv4Addr) -> bool {
        (self.loopback == Loopback::Dial || !ip.is_loopback())
            && !ip.is_unspecified()
            && !ip.is_link_local()
            && !ip.is_multicast()
            && !ip.is_broadcast()
            && !self.in_virtual_range(ip)
    }

    fn is_dialable_v6(&self, ip: Ipv6Addr) -> bool {
        if let Some(ip) = ip.to_ipv4_mapped() {
            return self.is_dialable_v4(ip);
        }
        (self.loopback == Loopback::Dial || !ip.is_loopback())
            && !ip.is_unspecified()
            && !ip.is_unicast_link_local()
            && !ip.is_multicast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(loopback: Loopback) -> AddressFilter {
        AddressFilter::new(loopback, vec!["10.64.0.0/16".parse().unwrap()])
    }

    fn dials(address: &str) -> bool {
        filter(Loopback::Refuse).is_dialable(&address.parse().unwrap())
    }

    #[test]
    fn addresses_that_may_be_another_nodes_are_dialled() {
        for address in [
            "/ip4/192.168.1.7/udp/4001/quic-v1",
            "/ip4/192.168.1.7/tcp/4001",
            "/ip4/10.65.0.1/tcp/4001",
            "/ip6/2001:db8::1/udp/4001/quic-v1",
            "/ip6/fd00::1/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
        ] {
            assert!(dials(address), "{address}");
        }
    }

    #[test]
    fn addresses_that_cannot_be_another_nodes_are_not_dialled() {
        for address in [
            "/ip4/127.0.0.1/udp/4001/quic-v1",
            "/ip4/0.0.0.0/tcp/4001",
            "/ip4/169.254.1.1/tcp/4001",
            "/ip4/224.0.0.1/udp/4001/quic-v1",
            "/ip4/255.255.255.255/udp/4001/quic-v1",
            "/ip4/10.64.3.4/udp/4001/quic-v1",
            "/ip4/192.168.1.7/tcp/0",
            "/ip4/192.168.1.7/udp/4001",
            "/ip4/192.168.1.7/tcp/80/ws",
            "/ip4/192.168.1.7",
            "/ip6/::1/tcp/4001",
            "/ip6/fe80::1/tcp/4001",
            "/ip6/ff02::1/tcp/4001",
            "/ip6/::ffff:127.0.0.1/tcp/4001",
            "/ip6/::ffff:10.64.3.4/tcp/4001",
            "/dns4/example.org/tcp/4001",
            "/ip4/192.168.1.7/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit",
        ] {
            assert!(!dials(address), "{address}");
        }
    }

    #[test]
    fn loopback_is_dialled_where_all_nodes_are_on_one_machine() {
        assert!(filter(Loopback::Dial).is_dialable(&"/ip4/127.0.0.1/tcp/4001".parse().unwrap()));
    }

    #[test]
    fn a_socket_address_and_its_two_libp2p_addresses_name_each_other() {
        for addr in ["192.0.2.1:4001", "[2001:db8::1]:4001"] {
            let addr: SocketAddr = addr.parse().unwrap();
            for multiaddr in multiaddrs_of(addr) {
                assert_eq!(socket_addr_of(&multiaddr), Some(addr));
            }
        }
    }
}
