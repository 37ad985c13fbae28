//! Whole namespaces in virtual time: every rule of the lease protocol with the schedule that breaks without it.

mod invite;
mod lease;
mod net;
mod quorum;
mod resolve;
