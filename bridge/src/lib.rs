//! The Ethernet brain behind a TAP.
#![forbid(unsafe_code)]

mod bridge;
mod checksum;
mod config;
mod drop_reason;
mod event;
mod ipv4;
mod local;
pub mod offload;
mod segment;

pub use bridge::Bridge;
pub use config::Config;
pub use drop_reason::DropReason;
pub use event::{DhcpDestination, DnsClient, Event, OutFrame, OutPacket, Resolution};
pub use local::{Inbound, Local, Outbound};
pub use offload::Offload;
pub use segment::{complete_checksum, segment};
