use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// What a [`Responder`](crate::Responder) answers for.
#[derive(Clone, Debug)]
pub struct Config {
    /// The zone, `home.internal`. A text that is no domain name answers for nothing.
    pub zone: String,
    /// The virtual address of this server; it has the name `dns.<zone>`.
    pub service: Ipv4Addr,
    /// The range of the namespace; its reverse zones are answered here, and nobody outside may answer with an address of it.
    pub range: Ipv4Net,
    /// The largest reply over UDP, whatever the asker offers (RFC 9715: 1232 crosses every path).
    pub max_udp: u16,
}
