//! What an engine is told at its start and never changes.

use std::net::Ipv4Addr;

pub use bridge::Mode;
use dht::identity::SecretKey;
use ipnet::Ipv4Net;

/// Who uses addresses behind this TAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// This machine: the engine claims one address by itself, and DHCP on the TAP hands out the same.
    Own,
    /// Whoever asks by DHCP.
    Clients,
}

/// The name this machine asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hostname {
    /// The machine's own; if taken, the next free `name-2`, `name-3` … will do.
    Default(String),
    /// What the user asked for; nothing else will do.
    Explicit(String),
}

/// One namespace on one machine.
pub struct Config {
    /// The namespace's name.
    pub name: String,
    /// The namespace's identifier.
    pub namespace: [u8; 32],
    /// The subnet.
    pub range: Ipv4Net,
    /// The reserved lowest address, where DHCP and DNS answer.
    pub service: Ipv4Addr,
    /// The DNS zone, such as `home.internal`.
    pub zone: String,
    /// The largest packet on the TAP, bytes.
    pub mtu: u16,
    /// This node's identity key, for signing what it tells others of its endpoints.
    pub identity: SecretKey,
    /// Random for each process, so that a restart is told from a replay.
    pub instance: u64,
    /// Whose TAP it is: this machine's, or a port of a segment with machines that know nothing of us.
    pub mode: Mode,
    /// Who uses addresses here.
    pub addressing: Addressing,
    /// The name to claim.
    pub hostname: Hostname,
    /// The hardware address by which this machine speaks behind the TAP: the TAP's own, or a router's on its segment.
    pub tap_mac: [u8; 6],
    /// The hardware address that stands for remote members and the virtual server.
    pub gateway_mac: [u8; 6],
    /// Whether addresses of the loopback interface are worth a try, as in a laboratory on one machine.
    pub loopback_underlay: bool,
}
