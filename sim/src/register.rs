//! Nothing but registers: many [`dht::Namespace`] in virtual time, without engines, packets or guests, so that thousands of
//! lives pass in minutes.
//!
//! ```text
//! machine   keys, disk with what is not yet synced, clocks as wrong as the protocol bears, the process
//! world     the events in the order of true time; connections, delays, losses, copies, partitions
//! nemesis   what chance does to it: crashes, reboots, lost disks, pauses, sleep, partitions, view changes, churn
//! history   what owners and readers saw, with true times, and the order that the fencing tokens give it
//! life      one seed: founding, joining, faults, healing; the invariants
//! ```
//!
//! The invariants: at the moment of each grant nobody else may use that key; the history of every key is linearizable
//! with an expiry that comes no earlier than the lease allows; no view has two successors; once all is healed everybody
//! who wants a lease has one within one lease time and a guard.

pub mod history;
pub mod life;
pub mod linear;
mod links;
pub mod lives;
mod machine;
pub mod mutants;
pub mod nemesis;
pub mod schedules;
mod watch;
mod wire;
mod world;

pub use life::{Life, Report, run};
pub use world::{Failure, World};
