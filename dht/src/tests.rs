//! Whole namespaces in virtual time: every rule of the lease protocol with the schedule that breaks without it.
#![expect(clippy::wildcard_enum_match_arm, reason = "a test picks the one event or message that it is about")]

mod invite;
mod lease;
mod letter;
mod net;
mod quorum;
mod recover;
mod resolve;
mod rights;
mod thread;
mod views;
