//! Whole nodes in virtual time.
//!
//! A [`World`] is a network of machines. On each runs what the daemon runs, minus threads and sockets: the overlay's
//! state machine (`dht`, first as a joiner) behind a driver that treats it as the libp2p driver does, the engine
//! (`engine`: bridge, tunnel, DHCP, DNS), and the fast path on the engine's snapshot. Behind each TAP is a simulated
//! guest, smoltcp's full stack: it does DHCP or is given its address, asks ARP and DNS, pings, and transfers over TCP.
//! Between the machines lie links with delay, jitter, loss, duplication, reordering and cuts. A machine may stand behind
//! translators and firewalls ([`edges`]). Each machine has a disk
//! that survives crashes, except for what was not yet synced, and clocks that are as wrong as the protocol has to bear.
//!
//! # The loop
//!
//! ```text
//! loop {
//!     take the earliest of: what is under way (datagram, overlay message, sync of a disk), timers of the nodes
//!     give it to its node; inside, driver, engine, fast path and guest act upon each other until all rest
//!     carry out what the node wants: datagrams and messages get their delays, syncs their latency
//!     look at it: the invariants of [`invariants`] hold in true time, at each grant, frame and delivery
//!     add it to the log, whose hash tells whether two runs are the same
//! }
//! ```
//!
//! Nothing is random but from the seed, and nothing waits: an hour passes in as long as its events take.
//!
//! # Random lives
//!
//! [`scenario`] lets chance decide: joins, leaves, crashes, power cuts, suspensions, partitions, bad links, roaming,
//! DHCP releases, spoofing, pings by address and name. At the end everything is healed, and then every pair must reach
//! each other with the first packet. `cargo run -p sim -- --seeds 1000` runs many; a seed that fails says how to run it
//! again with every line of its log.
#![forbid(unsafe_code)]

mod actions;
pub mod clock;
pub mod disk;
mod driver;
pub mod edges;
pub mod guest;
pub mod invariants;
pub mod lie;
mod life;
mod links;
pub mod log;
mod machine;
pub mod network;
pub mod node;
mod overlay;
mod packets;
mod probe;
pub mod reference;
pub mod register;
pub mod scale;
pub mod scenario;
pub mod setup;
pub mod talk;
mod tap;
mod world;

pub use actions::{Crash, PingId};
pub use dht::ClaimError;
pub use disk::Unsynced;
pub use edges::GateId;
pub use engine::{Addressing, Reply, Request};
pub use lie::Lie;
pub use log::Trace;
pub use network::Quality;
pub use node::{Node, NodeId, Observation};
pub use probe::{Probe, Seen};
pub use setup::{Clocks, Setup};
pub use talk::{Account, Talk};
pub use world::{Failure, World};
