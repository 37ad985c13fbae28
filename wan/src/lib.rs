//! What lies between two machines that want to reach each other: translators, firewalls, and what to expect of them.
//!
//! - [`nat`]: a network address translator as RFC 4787 describes them, with every behaviour that matters to hole punching, as a
//!   state machine: time and randomness are arguments.
//! - [`edge`]: ten kinds of edges as they are found in homes, firms and mobile networks, as settings of that translator.
//! - [`link`]: a line between an edge and the core: delay, jitter, loss in bursts, rate, queue, outages.
//! - [`predict`]: whether two edges let a direct path through, from their properties alone.
//! - [`punch`]: two sockets behind two edges that punch holes in virtual time, without any of our protocol.
//!
//! Three judges, then, and they must agree: the prediction, the model, and the kernel with its own translator
//! (`tests/tests/kernel/nat_edges.rs`). `wan-shell` (`wan/shell/`) has lines and translators do the same to the kernel's packets.
#![forbid(unsafe_code)]

pub mod edge;
pub mod ladder;
pub mod link;
pub mod nat;
pub mod predict;
pub mod punch;

pub use edge::Edge;
pub use ladder::ladder;
pub use link::{Line, Link, Loss};
pub use nat::{Filtering, Mapping, Nat, Passage, Ports, Reason, Settings, Timers, Unsolicited};
pub use predict::{Outcome, Technique, direct_path_possible};
