//! DNS outside the pure `dns` crate: who is asked about everything that is not ours, and how this machine's own
//! resolver learns of our zone.
//!
//! - `forward.rs`: queries for the outside world, to the resolvers the system had before we changed anything.
//! - `setup.rs`: `--dns auto|resolved|file|off`, undone on exit and, after a crash, on the next start.
//! - `resolved.rs`: systemd-resolved over D-Bus; per link, so it is gone with the link whatever happens.
//! - `file.rs`: `resolv.conf` edited in place, with a record of the edit in the state directory.
//! - `resolv_conf.rs`: the text of that file.

mod file;
mod forward;
mod resolv_conf;
mod resolved;
mod setup;

pub(crate) use forward::Forwarder;
pub(crate) use setup::{Applied, Link, apply, clean_up_after_crash, system_upstreams};
