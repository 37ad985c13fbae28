//! One namespace on one machine, without I/O: the Ethernet brain, the tunnel, DHCP, DNS and the lease client joined.
//!
//! In go frames from the TAP, datagrams from the data socket, events of the overlay ([`dht::Event`]), requests of the
//! command line, and time. Out come frames, datagrams, commands for the overlay and events for the shell. The daemon
//! and the simulator drive the same [`Engine`].
//!
//! ```text
//! loop {
//!     engine.handle_…(input, now);
//!     while let Some(output) = engine.poll_output() { … }
//!     publish(engine.snapshot());
//!     wait until an input or engine.poll_timeout()
//! }
//! ```
//!
//! Plain forwarding does not pass through the engine: [`fast`] does it from an immutable [`Snapshot`] that the engine
//! replaces whole, and hands everything else to the engine.
#![forbid(unsafe_code)]

mod answers;
mod bucket;
pub mod codel;
mod config;
mod engine;
pub mod fast;
mod fence;
mod hosts;
mod look;
mod names;
mod once;
mod peers;
mod recovery;
mod relays;
mod requests;
mod routes;
mod segment;
mod session_message;
mod snapshot;
mod standing;
mod status;
#[cfg(test)]
mod tests;
mod told;

pub use config::{Addressing, Config, Hostname, Mode};
pub use engine::{Engine, Event, Output};
pub use recovery::{AskedReplica, LostShard, RecoveringStatus, Recovery};
pub use relays::RELAY_RATE;
pub use requests::{Reply, Request, RequestId};
pub use snapshot::{Inlet, Outlet, Snapshot};
pub use standing::{Basis, SilentReplica, ViewStatus};
pub use status::{HostStatus, LeaseStatus, NamespaceStatus, NatStatus, PeerStatus, State, TurnedAwayStatus};
