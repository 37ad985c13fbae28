//! No program at all: what the link gives.

use std::fs;

use super::link::Link;
use super::peer::{Kind, Peer, Running};

pub(crate) struct Bare;

impl Peer for Bare {
    fn name(&self) -> &'static str {
        "bare"
    }

    fn kind(&self) -> Kind {
        Kind::Bare
    }

    fn layer(&self) -> &'static str {
        "–"
    }

    fn settings(&self) -> &'static str {
        "the link itself"
    }

    fn obtain(&self) -> anyhow::Result<String> {
        Ok(format!("Linux {}", fs::read_to_string("/proc/sys/kernel/osrelease")?.trim()))
    }

    fn start(&self, link: &Link) -> anyhow::Result<Running> {
        Ok(Running::new("eth0", link.b.underlay(), Vec::new()))
    }
}
