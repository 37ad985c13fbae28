//! A laboratory of network namespaces for the program `overlay`, on the real kernel.
//!
//! A [`Lab`] is an "internet" (a bridge in a namespace of its own) with machines on it, in the open or behind NAT
//! routers. A [`Node`] is one such machine: its own network namespace, `resolv.conf` and state directory, on which
//! `overlay` and whatever else run as [`Process`]es. All of it disappears when the values go out of scope, and what a
//! killed run left is removed by the next. Lines with delay, loss and the like ([`Lab::stretch`], [`Lab::distant`]) are those of `wan-shell`.
//!
//! It needs root, `/dev/net/tun` and the tools that `cargo xtask test` installs.
#![forbid(unsafe_code)]

mod cable;
pub mod dhcp_client;
mod edge;
mod extra;
mod lab;
mod line;
mod measure;
pub mod nemesis;
mod nine;
mod node;
mod pair;
mod process;
mod sites;
pub mod trace;
pub mod wait;
pub mod watcher;

pub use extra::{Demand, Extra};
pub use lab::{Lab, Router};
pub use line::Stretch;
pub use measure::{counts, stream};
pub use nine::{Nine, Way, view_members};
pub use node::{Node, Ready, overlay_binary};
pub use pair::{Pair, Seen, peer};
pub use process::{Finished, Process};
pub use sites::{Member, Route, Sites};
pub use wan::Edge;
pub use wan_shell::{Lines, Report, Shell, Way as Direction};

use std::io::Write;

/// Opens a laboratory, or says aloud that the test is skipped because `OVERLAY_SKIP_KERNEL_TESTS=1` asks for that.
///
/// # Errors
/// The machine cannot run kernel tests (and was not told to skip them), or the namespaces cannot be made.
pub fn lab(name: &str) -> anyhow::Result<Option<Lab>> {
    if std::env::var("OVERLAY_SKIP_KERNEL_TESTS").is_ok_and(|value| value == "1") {
        say(&format!("SKIPPED {name}: OVERLAY_SKIP_KERNEL_TESTS=1"));
        return Ok(None);
    }
    Ok(Some(Lab::new(name)?))
}

/// A line for whoever watches the tests run; the test harness would swallow other output.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
