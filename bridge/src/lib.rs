//! The Ethernet brain behind a TAP: who is local, who is remote, who may speak, and what is silently ignored.
//!
//! One flat IPv4 subnet. Hosts behind the TAP find members elsewhere by ARP at our virtual MAC, which also is the
//! virtual DHCP and DNS server of the namespace. Nothing is believed of what is heard: hosts are named by
//! [`Bridge::set_host`], members elsewhere by [`Bridge::permit`] and [`Bridge::handle_resolved`]. In a router's bridge
//! ([`Mode::Router`]) what machines of its segment say of themselves is told, for somebody else to ask the register.
//!
//! *In*: frames from the TAP and packets from peers, each with its [`Offload`], answers to what was asked, and
//! time. *Out*: frames for the TAP, packets for peers, [`Event`]s. No socket, clock or randomness of its own.
//!
//! Plain forwarding does not touch the [`Bridge`]: [`Local`] decides it, an immutable view shared by threads.
//! ```text
//! outbound:  TAP ─frame→ Local::outbound ─Forward→ tunnel
//!                          └─Control→ Bridge::handle_frame ─→ poll_frame, poll_packet, poll_event
//! inbound:   tunnel ─packet→ Local::inbound ─Deliver→ TAP
//!                          └─Control→ Bridge::handle_packet ─→ poll_frame, poll_event
//! ```
//! What has no route waits, is asked about ([`Event::Resolve`]) and goes out when the route comes, so the first
//! packet to somebody is not lost. What comes from an address that its sender has not proven waits for the proof
//! ([`Event::Unproven`]). Both are bounded, and everything that goes no further has a [`DropReason`].
//!
//! The caller's loop, after each input and command: drain `poll_event`, `poll_frame` and `poll_packet`; publish
//! [`Bridge::local`] if it is another; call [`Bridge::handle_timeout`] no later than [`Bridge::poll_timeout`].
#![forbid(unsafe_code)]

mod bridge;
mod checksum;
mod coalesce;
mod compose;
mod config;
mod dns_tcp;
mod drop_reason;
mod ecn;
mod event;
mod fence;
#[doc(hidden)]
pub mod fuzz;
mod headers;
mod ipv4;
mod local;
mod lookup;
mod mss;
mod neighbours;
pub mod offload;
mod rate;
mod segment;
#[cfg(test)]
mod tests;
mod unproven;
mod waiting;

pub use bridge::Bridge;
pub use coalesce::{Coalescer, Frame};
pub use config::{Config, Mode};
pub use drop_reason::DropReason;
pub use ecn::Ecn;
pub use event::{DhcpDestination, DnsClient, Event, OutFrame, OutPacket, Resolution};
pub use headers::MAX_HEADERS;
pub use local::{Inbound, Local, Outbound};
pub use offload::Offload;
pub use segment::{complete_checksum, segment, settle};
