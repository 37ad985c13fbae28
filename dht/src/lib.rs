//! The overlay's shared state without its network: who is a member, and who owns which address and name.
//!
//! Everything here is a state machine. Messages, time and randomness go in through `handle_*`; signed answers, writes to
//! the store and events come out through `poll_*`. `dht-driver` runs it over libp2p, `sim` in virtual time.
//!
//! - [`sign`] is the only place that signs or verifies; [`codec`] the only reader of bytes from others.
#![forbid(unsafe_code)]

mod acceptor;
mod address;
pub mod ballot;
mod cell;
pub mod certificate;
pub mod clock;
pub mod codec;
pub mod command;
pub mod config;
mod coordinator;
pub mod create;
pub mod credential;
mod entropy;
mod env;
pub mod event;
#[doc(hidden)]
pub mod fuzz;
pub mod hello;
pub mod identity;
pub mod invite;
pub mod join;
mod letter;
mod limits;
pub mod membership;
pub mod message;
pub mod namespace;
mod owner;
mod policy;
mod presence;
mod proposer;
mod reach;
pub mod record;
pub mod recovery;
pub mod redeem;
mod resolver;
pub mod right;
mod rounds;
pub mod sign;
pub mod signal;
mod slot;
mod stations;
pub mod token;
mod top;
mod transfer;
pub mod view;
mod votes;

pub use ballot::{Ballot, Token};
pub use certificate::CertError;
pub use clock::{BootId, Now, OwnerTime, ReplicaTime};
pub use command::{ClientId, Command, CommandId, Contact, Hold, LeaseKey, Role};
pub use env::DropReason;
#[doc(hidden)]
pub use env::Rules;
pub use event::{ClaimError, Deciders, Event, InviteError, Lease, Level, Output, Proven, Refusal, Resolution, Write};
pub use namespace::{Image, Keys, LeaseFacts, LoadError, Namespace, ShardFacts, Summary};
pub use reach::is_global;
pub use recovery::{RecoverError, RecoveryPlan, ShardPlan};
pub use sign::NamespaceId;

#[cfg(test)]
mod search;
#[cfg(test)]
mod tests;
