//! DNS for one namespace: answers for its zone and its reverse zones, everything else handed on.
//!
//! *What goes in*: DNS messages as the bridge cut them out of frames addressed to the service address
//! ([`Responder::handle_query`]), what the lease registers said ([`Responder::handle_resolved`]), what the system's own
//! resolvers said ([`Responder::handle_forwarded`]), and time.
//!
//! *What comes out*: replies for the guest ([`Responder::poll_reply`]) and questions for others
//! ([`Responder::poll_event`]): [`Event::Resolve`] for the registers, [`Event::Forward`] for the outside world.
//!
//! *The loop*: after each input drain events, then replies, then ask [`Responder::poll_timeout`] when to come back.
//!
//! # The path of a query
//!
//! 1. `message.rs`: bytes become a `Request`, or a counted drop, or an error reply (FORMERR, NOTIMP, REFUSED, BADVERS).
//! 2. `zone.rs`: its name becomes a `Target`: outside, known here, certainly absent, or to be asked.
//! 3. `responder.rs`: outside goes to [`Event::Forward`]; known and absent are answered at once; the rest waits in
//!    `pending.rs` (bounded, with a deadline, equal questions once) for [`Event::Resolve`] to be answered.
//! 4. `reply.rs`: an outcome becomes bytes: A, PTR, NODATA, NXDOMAIN (only when absence is certain) or SERVFAIL, with
//!    the SOA of the zone in negative answers (RFC 2308), the case of the question kept, cut to what the asker takes.
//!
//! A name exists or does not independently of the type asked for, so every type of a name is one and the same question
//! to the register, and AAAA of a name with an address is NODATA, never NXDOMAIN (RFC 2308 §2.2).
#![forbid(unsafe_code)]

mod cache;
mod computed;
mod config;
mod event;
mod forwarded;
#[doc(hidden)]
pub mod fuzz;
mod message;
mod pending;
mod reply;
mod responder;
mod reverse;
mod zone;

#[cfg(test)]
mod tests;

pub use computed::{computed_name, parse_computed_name};
pub use config::Config;
pub use event::{Answer, DropReason, Event, QueryId, Question, Token, Transport};
pub use responder::Responder;
pub use reverse::reverse_zones;
