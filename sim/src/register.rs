//! Nothing but registers: many [`dht::Namespace`] in virtual time, without engines, packets or guests, so that thousands of
//! lives pass in minutes.
//!
//! ```text
//! machine    keys, disk with what is not yet synced, clocks as wrong as the protocol bears, the process
//! world      the events in the order of true time
//! wire       connections, delays, losses, copies, partitions; hints that get lost
//! nemesis    what chance does to it: crashes, reboots, lost disks, pauses, sleep, partitions, view changes, churn
//! schedules  what chance finds too seldom, played on purpose
//! watch      looks at every machine after each of its steps
//! history    what owners and readers saw, with true times, and the order that the fencing tokens give it
//! linear     a search for any order of it that a register allows
//! life       one seed: founding, joining, faults, healing
//! scarce     a life with fewer addresses than machines
//! lives      many, on all cores
//! mutants    the protocol with something missing: do they notice?
//! ```
//!
//! The invariants: nobody begins to use a key that another uses at that moment of true time; the history of every key is
//! linearizable with an expiry that comes no earlier than the lease allows; no view has two successors; once all is mended
//! whoever had an address keeps it, everybody who wants one gets it, all know the same view, and a quorum of it serves.

pub mod history;
pub mod life;
pub mod linear;
mod links;
pub mod lives;
mod machine;
pub mod mutants;
pub mod nemesis;
pub mod scarce;
pub mod schedules;
mod watch;
mod wire;
mod world;

pub use life::{Life, Report, run};
pub use world::{Failure, World};
