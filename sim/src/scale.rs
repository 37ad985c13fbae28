//! What grows with the number of members, and how fast: up to 100,000 of them on one machine.
//!
//! Two halves, and only the first is a model:
//!
//! - [`table`] and [`lookup`]: Kademlia's routing tables as libp2p fills them with the driver's settings, and its iterative
//!   lookup. libp2p itself holds some hundred nodes in one process; with those the model is checked
//!   (`dht/driver/examples/crowd.rs`).
//! - [`crowd`]: the shipped state machines (`dht::join::Joiner`, `dht::Namespace`) of all members in virtual time, with
//!   delays between each pair, disks that take a while, and connections that are made when something is to be sent.
//!   No engine, no data plane, no Kademlia; nothing is lost. `register` is for faults, this is for numbers.
//!
//! And two about paths: [`nats`], a model of who is connected directly and of what relays carry, and [`whole`], whole nodes behind
//! edges, by which it is checked.

pub mod crowd;
pub mod delay;
pub mod figures;
mod founding;
mod line;
pub mod lookup;
mod member;
pub mod nats;
pub mod table;
pub mod whole;

pub use line::Line;
