//! What a bridge is told once, and the limits it keeps.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use smoltcp::wire::EthernetAddress;

/// Whose TAP this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// That of one machine, with whatever it runs behind it.
    Workstation,
    /// A port of a segment with machines that know nothing of us: what they say of themselves is heard, and told
    /// ([`crate::Event::Heard`], [`crate::Event::Disputed`]).
    Router,
}

/// What does not change while a bridge lives.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whose TAP this is.
    pub mode: Mode,
    /// The namespace's addresses: one flat subnet.
    pub range: Ipv4Net,
    /// The virtual DHCP and DNS server's address, inside the range.
    pub service: Ipv4Addr,
    /// Our virtual MAC: it answers for remote members and for the service.
    pub gateway_mac: EthernetAddress,
    /// The largest packet that crosses the tunnel whole.
    pub mtu: u16,
}

// Ours: what a stranger on the segment, or a peer, can make us hold.

/// Addresses being looked up, waited for, or known to be absent.
pub(crate) const MAX_LOOKUPS: usize = 1024;
/// Packets that wait for one address's route.
pub(crate) const MAX_WAITING: usize = 8;
/// Bytes that wait for one address's route, or for one peer's proof.
pub(crate) const MAX_WAITING_BYTES: usize = 64 * 1024;
/// ARP questions that wait for one address.
pub(crate) const MAX_QUESTIONS: usize = 8;
/// Bytes of all packets that wait, whatever they wait for.
pub(crate) const MAX_WAITING_BYTES_TOTAL: usize = 8 * 1024 * 1024;
/// How long a packet or a question waits.
pub(crate) const WAIT: Duration = Duration::from_secs(3);
/// How long "nobody has it" is believed.
pub(crate) const ABSENT: Duration = Duration::from_secs(5);
/// How long "could not be asked" is left alone.
pub(crate) const UNKNOWN: Duration = Duration::from_secs(1);
/// A question nobody answered may be asked again after this long.
pub(crate) const ASK_AGAIN: Duration = Duration::from_secs(10);
/// Lookups asked for at once, and then per second: a scan of the range is no reason to scan the overlay.
pub(crate) const ASK_BURST: u32 = 64;
/// See [`ASK_BURST`].
pub(crate) const ASK_PER_SECOND: u32 = 32;
/// How long an answer is a route without the peer having proven the address in a session.
pub(crate) const RESOLVED: Duration = Duration::from_secs(60);
/// Routes that rest on an answer alone.
pub(crate) const MAX_RESOLVED: usize = 4096;
/// Peers whose packets wait for a proof.
pub(crate) const MAX_UNPROVEN: usize = 256;
/// How often one peer is asked to prove an address.
pub(crate) const UNPROVEN_EVERY: Duration = Duration::from_secs(1);
/// Former owners that are remembered, and peers that were told just now what they do not know.
pub(crate) const MAX_FENCED: usize = 4096;
/// How often one peer is the cause of news of one kind.
pub(crate) const NEWS_EVERY: Duration = Duration::from_secs(1);
/// ICMP errors sent at once, and then per second (RFC 1812 section 4.3.2.8 wants a limit).
pub(crate) const ICMP_BURST: u32 = 32;
/// See [`ICMP_BURST`].
pub(crate) const ICMP_PER_SECOND: u32 = 16;
/// A machine of the segment is told of again after this.
pub(crate) const HEARD_EVERY: Duration = Duration::from_secs(10);
/// Machines of the segment without a lease of ours that are remembered, and sources that the fast path drops for it.
pub(crate) const MAX_HEARD: usize = 1024;
/// Machines of the segment told of at once, and then per second, whatever they are flooded with.
pub(crate) const HEARD_BURST: u32 = 256;
/// See [`HEARD_BURST`].
pub(crate) const HEARD_PER_SECOND: u32 = 32;
/// Addresses whose holders are asked for at the same time.
pub(crate) const MAX_WATCHED: usize = 1024;
/// A machine that was refused is heard again after this.
pub(crate) const TURNED_AWAY: Duration = Duration::from_secs(60);
/// How long a dispute lasts after the last claim.
pub(crate) const DISPUTE: Duration = Duration::from_secs(60);
/// An address is defended this often (RFC 5227 section 1.1, `DEFEND_INTERVAL`).
pub(crate) const DEFEND_INTERVAL: Duration = Duration::from_secs(10);
/// Addresses in dispute at the same time.
pub(crate) const MAX_DISPUTES: usize = 256;
