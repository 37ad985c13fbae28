//! Port mappings: has the router before this machine send on what comes in at a port of its own.
//!
//! ```text
//! Network, wanted ports ─→ Mapper ─Action→ shell (PCP, NAT-PMP, UPnP) ─answer→ Mapper ─→ mappings, status
//! ```
//!
//! [`Mapper`] decides and is pure: time is an argument, and what it wants done comes out as [`Action`]s. [`start`] runs it with
//! real sockets. It asks the default gateway all three protocols at once what does no harm: whether it speaks them. One of those
//! that answer is then asked for mappings, and the next one if that refuses. So no port is mapped twice, which matters because most
//! routers keep one table for all three: to delete the second mapping of a port would delete the first.
//!
//! What is asked for is on disk before it is asked ([`Left`]), and what a killed process left there is deleted when its router
//! answers again. Mappings last ten minutes ([`LEASE`]), so one that nobody deletes goes by itself.
//!
//! IPv4 only.
#![forbid(unsafe_code)]

mod belief;
mod file;
mod machine;
mod mapping;
mod pcp;
mod run;
mod slot;
mod status;
mod upnp;

#[cfg(test)]
mod tests;

pub use belief::{Doubt, Reach};
pub use machine::{Action, ActionId, Mapper};
pub use mapping::{Answer, Left, Mapping, Network, Owner, Port, Protocol, Refusal, Transport};
pub use run::{Handle, start};
pub use slot::LEASE;
pub use status::{PortStatus, Status};
