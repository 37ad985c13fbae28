//! The virtual DHCP server behind the TAP (RFC 2131), as a state machine without sockets, clock or knowledge of where
//! leases come from.
//!
//! - **In**: DHCP messages of the machines behind the TAP, the outcomes of the claims this server asked for, the news
//!   that a lease was lost, and the time.
//! - **Out**: replies with the place to send them to, and events: claim this address, it is bound, it is given back.
//!
//! The loop of the caller: after each `handle_*` drain [`Server::poll_event`], then [`Server::poll_reply`], and call
//! [`Server::handle_timeout`] when [`Server::poll_timeout`] says so. Late, early and repeated calls are harmless.
//!
//! # How an address comes about
//! A DISCOVER becomes [`Event::Claim`] with [`Hold::Offer`]; [`Outcome::Granted`] becomes the OFFER. The REQUEST that
//! takes it becomes a second claim of that very address with [`Hold::Full`], and its grant becomes the ACK and
//! [`Event::Bound`]. A renewal, a rebinding and a reboot are that second step alone. `Taken` becomes a NAK;
//! `Unavailable` becomes silence, because a client that hears nothing keeps its address and asks again.
//!
//! # What the caller may rely on
//! - A client has at most one claim that counts. A repeated message replaces the one to be answered and claims nothing.
//! - Each address that was granted ends in exactly one [`Event::Release`] or [`Event::Decline`], or in a call of
//!   [`Server::handle_lost`]; the lease running out without a renewal is a `Release` too.
//! - The lease time handed out is 10 s less than what is left of the grant, so a client is done before the grant is.
//! - No reply carries a route (options 3, 33, 121, 249), whatever the client asked for.
//! - Everything a stranger can make grow is bounded, and everything refused is counted under a [`DropReason`].
#![forbid(unsafe_code)]

mod claims;
mod client_key;
mod config;
mod drop_reason;
mod event;
#[doc(hidden)]
pub mod fuzz;
mod hostname;
mod option;
mod outcome;
mod quarantine;
mod reply;
mod request;
mod server;
mod table;
#[cfg(test)]
mod tests;

pub use client_key::ClientKey;
pub use config::Config;
pub use drop_reason::DropReason;
pub use event::{Binding, Destination, Event, Hold, Outcome, Reply, RequestId};
pub use server::Server;
