//! What the server tells its clients.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// The parameters of one namespace as its clients see them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The virtual server's own address: server identifier (option 54).
    pub server: Ipv4Addr,
    /// The namespace's range: subnet mask (1) and broadcast address (28).
    pub subnet: Ipv4Net,
    /// The name server (6).
    pub dns: Ipv4Addr,
    /// The zone of the namespace (15), such as `lab.internal`.
    pub domain: String,
    /// The search list (119); names that are no domain names are left out.
    pub search: Vec<String>,
    /// The interface MTU (26).
    pub mtu: u16,
}

impl Config {
    /// Whether a client may have `ip` at all: inside the subnet, and neither the network, the broadcast, nor the
    /// server's own address.
    pub(crate) fn usable(&self, ip: Ipv4Addr) -> bool {
        let ends = self.subnet.prefix_len() < 31 && (ip == self.subnet.network() || ip == self.subnet.broadcast());
        self.subnet.contains(&ip) && !ends && ip != self.server && ip != self.dns
    }
}
