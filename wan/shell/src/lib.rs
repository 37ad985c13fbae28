//! Lines of the model ([`wan::Link`], [`wan::Nat`]) between TAP devices on the kernel: what `sim` does in virtual time, in real time.
//!
//! Each end of a line is a TAP device in a network namespace. What is sent into one comes out of the other as the line says: late,
//! in another order, twice, or not at all. The kernel hands over super-frames of up to 64 KiB; [`Shell`] takes them whole,
//! asks the model about each packet in them, and cuts only where it must. So a line carries some ten Gbit/s and still
//! loses single packets of 1500 octets.
//!
//! ```text
//! TAP ─frame→ translate (first end) ─→ direction: link decides per packet ─→ waits ─→ piece ─frame→ TAP
//! ```
//! `piece`, `store`, `direction` and `translate` are pure; `run` is a direction's thread, `shell` lays the line. The program
//! `wan-shell` does the same for whoever has no Rust at hand.
#![forbid(unsafe_code)]

mod counters;
mod direction;
#[cfg(test)]
mod frames;
mod piece;
mod run;
mod shell;
mod spec;
mod store;
mod translate;

pub use counters::Counters;
pub use shell::{End, Lines, MEMORY, Report, Settings, Shell, Way};
pub use spec::{line, time};
pub use translate::Translation;
