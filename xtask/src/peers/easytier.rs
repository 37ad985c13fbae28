//! EasyTier as its makers release it for cargo, over UDP and over TCP.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, anyhow, ensure};

use super::link::Link;
use super::peer::{INSIDE, Peer, Running, version, wait_device};
use crate::say::say;
use crate::{cargo, tools};

/// The newest that `cargo install` gives.
const VERSION: &str = "2.0.3";
const DEVICE: &str = "easytier";
/// What its build calls. The last is no program: `protoc` needs what it describes.
const BUILD: &[(&str, &str)] = &[
    ("protoc", "protobuf-compiler"),
    ("clang", "clang"),
    ("/usr/include/google/protobuf/timestamp.proto", "libprotobuf-dev"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EasyTier {
    Udp,
    Tcp,
}

impl EasyTier {
    fn protocol(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

impl Peer for EasyTier {
    fn name(&self) -> &'static str {
        match self {
            Self::Udp => "easytier-udp",
            Self::Tcp => "easytier-tcp",
        }
    }

    fn layer(&self) -> &'static str {
        "IP"
    }

    fn settings(&self) -> &'static str {
        match self {
            Self::Udp => "over UDP; AES-128-GCM; `--disable-ipv6`",
            Self::Tcp => "over TCP; AES-128-GCM; `--disable-ipv6`",
        }
    }

    fn obtain(&self) -> anyhow::Result<String> {
        let program = program();
        // What failed once is not tried for each protocol.
        static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
        let built =
            BUILT.get_or_init(|| if program.exists() { Ok(()) } else { build().map_err(|error| format!("{error:#}")) });
        built.clone().map_err(|reason| anyhow!(reason))?;
        version(&[program.to_str().context("the target directory's path is text")?, "--version"], 1)
    }

    fn start(&self, link: &Link) -> anyhow::Result<Running> {
        let program = program();
        let program = program.to_str().context("the target directory's path is text")?;
        let protocol = self.protocol();
        let listener = format!("{protocol}://0.0.0.0:11010");
        let peer = format!("{protocol}://{}:11010", link.b.underlay());
        let network = [program, "--network-name", "bench", "--network-secret", "bench", "--dev-name", DEVICE];
        let common = [&network[..], &["--disable-ipv6", "--rpc-portal", "0", "--listeners", &listener]].concat();
        let second = link.b.spawn(&[&common[..], &["--ipv4", INSIDE[1], "--hostname", "b"]].concat())?;
        let own = ["--ipv4", INSIDE[0], "--hostname", "a", "--peers", &peer];
        let first = link.a.spawn(&[&common[..], &own].concat())?;
        wait_device(link, DEVICE)?;
        Ok(Running::new(DEVICE, INSIDE[1], vec![first, second]))
    }
}

fn root() -> PathBuf {
    cargo::target_dir().join("peers")
}

fn program() -> PathBuf {
    root().join("bin/easytier-core")
}

/// Builds it, which takes several minutes, once: what was built is kept. Nobody else shall have to wait for it.
fn build() -> anyhow::Result<()> {
    tools::ensure_installed_only(BUILD)?;
    say(&format!("== building easytier {VERSION}, six minutes or more"));
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let building = root().join("build");
    let version = format!("={VERSION}");
    let mut command = Command::new("nice");
    command.args(["-n", "19", &cargo, "install", "--quiet", "--locked", "easytier", "--version", &version, "--root"]);
    command.arg(root()).arg("--target-dir").arg(&building);
    ensure!(command.status()?.success(), "easytier {VERSION} does not build");
    // Two gigabytes that nobody needs again.
    fs::remove_dir_all(&building).context("Failed to remove what easytier was built from")
}
