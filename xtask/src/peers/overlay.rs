//! This project's program.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{Node, Process, Ready, overlay_binary, wait};

use super::link::Link;
use super::peer::{Kind, Peer, Running, version};
use crate::cargo;

pub(crate) struct Overlay;

impl Peer for Overlay {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn kind(&self) -> Kind {
        Kind::Ours
    }

    fn layer(&self) -> &'static str {
        "IP, on an Ethernet device"
    }

    fn settings(&self) -> &'static str {
        "all by default"
    }

    fn obtain(&self) -> anyhow::Result<String> {
        cargo::build_program()?;
        let program = overlay_binary()?;
        version(&[program.to_str().context("the program's path is text")?, "--version"], 1)
    }

    fn start(&self, link: &Link) -> anyhow::Result<Running> {
        let (first, _) = ready(&link.a, &["create", "lab", "--dns", "file", "--hostname", "a"])?;
        let token = link.a.invite("lab", &[])?;
        let words = ["join", "lab", "--invite", &token, "--dns", "file", "--hostname", "b"];
        let (second, there) = ready(&link.b, &words)?;
        let to = there.ip()?.to_string();
        // What a pair does first, by whatever way, is no measure of what it does then.
        wait::until_ok("the direct path", Duration::from_secs(20), || {
            link.a.ping_once(&to)?;
            let path = e2e::peer(&link.a, "b")?["path"].clone();
            ensure!(path == "direct", "the path is {path}");
            Ok(())
        })?;
        Ok(Running::new(&there.tap, &to, vec![first, second]))
    }
}

fn ready(node: &Node, words: &[&str]) -> anyhow::Result<(Process, Ready)> {
    let mut daemon = node.overlay_process(words)?;
    let line = daemon.wait_for_line(Duration::from_secs(30), |line| line.starts_with("ready "))?;
    Ok((daemon, Ready::parse(&line)?))
}
