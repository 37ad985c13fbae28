//! The overlay's shared state without its network: who is a member, and who owns which address and name.
//!
//! Everything here is a state machine. Messages, time and randomness go in through `handle_*`; signed answers, writes to
//! the store and events come out through `poll_*`. `dht-driver` runs it over libp2p, `sim` in virtual time.
//!
//! - [`sign`] is the only place that signs or verifies; [`codec`] the only reader of bytes from others.
#![forbid(unsafe_code)]

pub mod clock;
pub mod codec;
pub mod identity;
pub mod sign;
