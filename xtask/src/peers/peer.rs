//! What a program must be able to do to be measured, and who can.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{Node, Process, wait};

use super::link::Link;
use super::{bare, easytier, fastd, nebula, openvpn, overlay, wireguard};

/// The addresses inside, where the program does not give them itself.
pub(crate) const INSIDE: [&str; 2] = ["10.88.0.1", "10.88.0.2"];

/// What it is compared as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No program: the link itself.
    Bare,
    /// Somebody else's program, as released.
    Packaged,
    /// This project's.
    Ours,
}

/// A program that joins two machines.
pub(crate) trait Peer {
    /// As in the table and on the command line.
    fn name(&self) -> &'static str;

    /// What it is compared as.
    fn kind(&self) -> Kind {
        Kind::Packaged
    }

    /// Whether it carries Ethernet frames, or only IP packets.
    fn layer(&self) -> &'static str;

    /// What is set otherwise than by default, and the cipher.
    fn settings(&self) -> &'static str;

    /// Installs it if it is missing. Its version.
    ///
    /// # Errors
    /// It cannot be had.
    fn obtain(&self) -> anyhow::Result<String>;

    /// Starts it on both machines.
    ///
    /// # Errors
    /// It does not come up.
    fn start(&self, link: &Link) -> anyhow::Result<Running>;
}

/// What was started. It ends with this value, by process id.
pub(crate) struct Running {
    /// The device inside, the same on both machines or named on the first.
    pub(crate) device: String,
    /// The second machine's address inside.
    pub(crate) to: String,
    /// The program on the first and on the second machine.
    pub(crate) daemons: Vec<Process>,
    /// Files that they leave outside of the laboratory.
    pub(crate) left: Vec<PathBuf>,
}

impl Running {
    /// Programs that leave nothing behind.
    pub(crate) fn new(device: &str, to: &str, daemons: Vec<Process>) -> Self {
        Self { device: device.to_owned(), to: to.to_owned(), daemons, left: Vec::new() }
    }

    /// What the programs said last, for whoever asks why it does not work.
    pub(crate) fn last_words(&self) -> String {
        let last = |daemon: &Process| daemon.said().lines().rev().take(3).collect::<Vec<_>>().join(" / ");
        self.daemons.iter().map(last).collect::<Vec<_>>().join(" // ")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.daemons.clear();
        for file in &self.left {
            let _ = fs::remove_file(file);
        }
    }
}

/// All of them, the bare link first, ours last.
pub(crate) fn all() -> Vec<Box<dyn Peer>> {
    vec![
        Box::new(bare::Bare),
        Box::new(wireguard::WireGuard),
        Box::new(fastd::Fastd),
        Box::new(openvpn::OpenVpn),
        Box::new(nebula::Nebula),
        Box::new(easytier::EasyTier::Udp),
        Box::new(easytier::EasyTier::Tcp),
        Box::new(overlay::Overlay),
    ]
}

/// A word of what a program says of its version.
///
/// # Errors
/// It is not there, or says less.
pub(crate) fn version(command: &[&str], word: usize) -> anyhow::Result<String> {
    let said = Command::new(command[0]).args(&command[1..]).output().with_context(|| format!("no {}", command[0]))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
    let found = said.split_whitespace().nth(word).map(str::to_owned);
    found.with_context(|| format!("{} says no version: {said}", command.join(" ")))
}

/// Runs a command on this machine, outside of all namespaces; its standard output.
///
/// # Errors
/// It fails.
pub(crate) fn here(command: &[&str]) -> anyhow::Result<String> {
    let done = Command::new(command[0]).args(&command[1..]).output().with_context(|| format!("no {}", command[0]))?;
    ensure!(done.status.success(), "{}: {}", command.join(" "), String::from_utf8_lossy(&done.stderr));
    Ok(String::from_utf8(done.stdout)?)
}

/// Writes a file into a machine's directory. Its path.
///
/// # Errors
/// The disk refuses.
pub(crate) fn write(node: &Node, name: &str, text: &str) -> anyhow::Result<String> {
    let path: PathBuf = node.dir().join(name);
    fs::write(&path, text)?;
    text_of(path)
}

/// The path of a file in a machine's directory.
///
/// # Errors
/// It is no text.
pub(crate) fn file(node: &Node, name: &str) -> anyhow::Result<String> {
    text_of(node.dir().join(name))
}

fn text_of(path: PathBuf) -> anyhow::Result<String> {
    path.into_os_string().into_string().ok().context("a path of the laboratory is text")
}

/// Waits for a device on both machines.
///
/// # Errors
/// It is not there in time.
pub(crate) fn wait_device(link: &Link, device: &str) -> anyhow::Result<()> {
    for node in link.ends() {
        wait::until(device, Duration::from_secs(10), || node.has_device(device).ok().filter(|there| *there))?;
    }
    Ok(())
}

/// Gives a device an address inside, and takes it up.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn address(node: &Node, device: &str, address: &str) -> anyhow::Result<()> {
    node.run(&["ip", "addr", "add", &format!("{address}/24"), "dev", device])?;
    node.run(&["ip", "link", "set", device, "up"])?;
    Ok(())
}
