//! Runs one namespace over libp2p: the sockets, the store and the clock around the state machines of `dht`.
//!
//! In go [`dht::Command`]s, over a bounded channel; out come [`DriverEvent`]s, over another. In between stand one
//! libp2p swarm (QUIC, and TCP inside TLS, on one port), one [`Store`] and one state machine, which is a joiner until a replica has
//! admitted it and a namespace from then on.
//!
//! The loop: wait for one thing to happen, tell the state machine, take everything else that has happened meanwhile,
//! write all that the state machine wants written in one transaction, and only then do the rest of what it wants done.
//!
//! A new connection offers nothing but `/overlay/hello/1` and ping. Every other protocol stands behind a gate of that
//! connection, opened when the state machine has checked the peer's credential. To everybody else this node is an
//! address and a key that speak hello.
#![forbid(unsafe_code)]

mod address;
mod aside;
mod behaviour;
mod book;
mod config;
mod dial;
mod dial_back;
mod dialer;
mod driver;
mod frame;
mod gate;
mod hello;
mod hints;
mod lan;
mod links;
mod listen;
mod machine;
mod message;
mod network;
mod proxy;
mod seek;
mod snapshot;
mod store;
mod stream;
mod streams;
mod tls;
mod wire;

pub use config::{Clocks, DriverConfig, DriverEvent, Loopback, Start};
pub use driver::run;
pub use proxy::{Proxy, ProxyError};
pub use store::{Store, StoreError};
pub use streams::{Deliver, NotSent, StreamServer, Streams};

#[cfg(test)]
mod tests;
