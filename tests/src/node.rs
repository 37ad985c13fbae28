//! One machine of the laboratory.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use crate::lab::{INTERNET, exec, in_namespace, path};
use crate::process::{Finished, Process};
use crate::wait;

/// How long `create` or `join` may take until `ready`.
const READY: Duration = Duration::from_secs(30);
/// How long an interrupted daemon may take to tidy up.
const STOP: Duration = Duration::from_secs(15);

/// A machine: a namespace with one uplink `eth0`, a `resolv.conf`, and a state directory for `overlay`.
pub struct Node {
    namespace: String,
    dir: PathBuf,
    underlay: String,
    daemon: Option<Process>,
    /// Set before every command of this node's, for a clock that is wrong and the like.
    pub env: Vec<(String, String)>,
}

/// What the line `ready …` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The namespace's name.
    pub namespace: String,
    /// Address and prefix length; none with `--no-address`.
    pub address: Option<(Ipv4Addr, u8)>,
    /// The TAP device.
    pub tap: String,
}

impl Ready {
    /// The address.
    ///
    /// # Errors
    /// There is none.
    pub fn ip(&self) -> anyhow::Result<Ipv4Addr> {
        self.address.map(|(ip, _)| ip).context("ready without an address")
    }

    /// Reads `ready <namespace> <ip>/<prefix> on <tap>`.
    ///
    /// # Errors
    /// The line has another form.
    pub fn parse(line: &str) -> anyhow::Result<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["ready", namespace, address, "on", tap] = words[..] else { bail!("no ready line: {line:?}") };
        let address = match address {
            "-" => None,
            address => {
                let (ip, prefix) = address.split_once('/').with_context(|| format!("no prefix length: {line:?}"))?;
                Some((ip.parse()?, prefix.parse()?))
            }
        };
        Ok(Self { namespace: namespace.to_owned(), address, tap: tap.to_owned() })
    }
}

impl Node {
    pub(crate) fn new(namespace: String, lab: &Path, underlay: String) -> anyhow::Result<Self> {
        let dir = lab.join(&namespace);
        fs::create_dir_all(&dir)?;
        let etc = Path::new("/etc/netns").join(&namespace);
        fs::create_dir_all(&etc)?;
        // A node must never look at the real one, and `ip netns exec` puts this in its place.
        fs::write(etc.join("resolv.conf"), format!("nameserver {INTERNET}\n"))?;
        Ok(Self { namespace, dir, underlay, daemon: None, env: Vec::new() })
    }

    /// The name of the namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A directory of this machine's own.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The address on the underlay.
    pub fn underlay(&self) -> &str {
        &self.underlay
    }

    /// Starts `overlay …` in the foreground as this machine's daemon. What ran before is killed.
    ///
    /// # Errors
    /// There is no binary.
    pub fn start(&mut self, args: &[&str]) -> anyhow::Result<&mut Process> {
        self.daemon = None;
        let process = self.overlay_process(args)?;
        Ok(self.daemon.insert(process))
    }

    /// Starts and waits until it is ready.
    ///
    /// # Errors
    /// It is not within 30 s.
    pub fn start_ready(&mut self, args: &[&str]) -> anyhow::Result<Ready> {
        self.start(args)?;
        self.ready()
    }

    /// Creates `lab` on this machine and waits until it is usable.
    ///
    /// # Errors
    /// It is not within 30 s.
    pub fn create_lab(&mut self, options: &[&str]) -> anyhow::Result<Ready> {
        let mut args = vec!["create", "lab", "--dns", "file"];
        args.extend_from_slice(options);
        self.start_ready(&args)
    }

    /// Joins `lab` with a fresh token from `inviter` and waits until it is usable.
    ///
    /// # Errors
    /// It is not within 30 s.
    pub fn join_lab(&mut self, inviter: &Self, options: &[&str]) -> anyhow::Result<Ready> {
        let token = inviter.invite("lab", &[])?;
        let mut args = vec!["join", "lab", "--invite", &token, "--dns", "file"];
        args.extend_from_slice(options);
        self.start_ready(&args)
    }

    /// Waits for the daemon's line `ready …`.
    ///
    /// # Errors
    /// It does not come within 30 s.
    pub fn ready(&mut self) -> anyhow::Result<Ready> {
        let daemon = self.daemon()?;
        daemon.wait_for_line(READY, |line| line.starts_with("ready "))?;
        let lines: Vec<String> =
            daemon.stdout().lines().filter(|line| line.starts_with("ready ")).map(str::to_owned).collect();
        let [line] = &lines[..] else { bail!("standard output has not exactly one ready line: {lines:?}") };
        Ready::parse(line)
    }

    /// The daemon.
    ///
    /// # Errors
    /// None was started.
    pub fn daemon(&mut self) -> anyhow::Result<&mut Process> {
        self.daemon.as_mut().context("no daemon was started on this machine")
    }

    /// Ends the daemon as Ctrl-C does.
    ///
    /// # Errors
    /// It does not end within 15 s.
    pub fn interrupt(&mut self) -> anyhow::Result<Finished> {
        self.daemon.take().context("no daemon was started on this machine")?.interrupt(STOP)
    }

    /// Ends the daemon as a power cut does.
    pub fn kill(&mut self) {
        self.daemon = None;
    }

    /// Starts `overlay …` beside the daemon.
    ///
    /// # Errors
    /// There is no binary.
    pub fn overlay_process(&self, args: &[&str]) -> anyhow::Result<Process> {
        let binary = overlay_binary()?;
        let state = self.state();
        let mut command = vec![path(&binary)?, "--state", path(&state)?];
        command.extend_from_slice(args);
        self.spawn(&command)
    }

    /// Runs `overlay …` to its end.
    ///
    /// # Errors
    /// It does not end within a minute.
    pub fn overlay(&self, args: &[&str]) -> anyhow::Result<Finished> {
        self.overlay_process(args)?.finish(Duration::from_secs(60))
    }

    /// Runs `overlay …`, which must succeed; its standard output.
    ///
    /// # Errors
    /// It fails.
    pub fn overlay_ok(&self, args: &[&str]) -> anyhow::Result<String> {
        self.overlay(args)?.ok().with_context(|| format!("overlay {}", args.join(" ")))
    }

    /// A token for one more member.
    ///
    /// # Errors
    /// `overlay invite` fails, or prints more than the token.
    pub fn invite(&self, namespace: &str, options: &[&str]) -> anyhow::Result<String> {
        let mut args = vec!["invite", namespace];
        args.extend_from_slice(options);
        let printed = self.overlay_ok(&args)?;
        let token = printed.trim().to_owned();
        ensure!(!token.contains(char::is_whitespace) && token.starts_with("ov1"), "not the token alone: {printed:?}");
        Ok(token)
    }

    /// The first namespace in `overlay status --json`.
    ///
    /// # Errors
    /// No daemon answers.
    pub fn status(&self) -> anyhow::Result<Value> {
        let mut all = self.whole_status()?;
        let first = all.pointer_mut("/namespaces/0").map(Value::take);
        first.ok_or_else(|| anyhow!("status names no namespace: {all}"))
    }

    /// All of `overlay status --json`.
    ///
    /// # Errors
    /// No daemon answers.
    pub fn whole_status(&self) -> anyhow::Result<Value> {
        let text = self.overlay_ok(&["status", "--json"])?;
        serde_json::from_str(&text).with_context(|| format!("status is not JSON: {text}"))
    }

    /// Waits until the first namespace's status is as wanted.
    ///
    /// # Errors
    /// It is not within 20 s; the error holds the last status.
    pub fn wait_status(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        wait::until_ok(what, Duration::from_secs(20), || {
            let status = self.status()?;
            ensure!(wanted(&status), "status is {status:#}");
            Ok(status)
        })
    }

    /// Runs a command on this machine to its end.
    ///
    /// # Errors
    /// It does not end within a minute.
    pub fn try_run(&self, command: &[&str]) -> anyhow::Result<Finished> {
        self.spawn(command)?.finish(Duration::from_secs(60))
    }

    /// Runs a command on this machine, which must succeed; its standard output.
    ///
    /// # Errors
    /// It fails.
    pub fn run(&self, command: &[&str]) -> anyhow::Result<String> {
        self.try_run(command)?.ok().with_context(|| format!("{}: {}", self.namespace, command.join(" ")))
    }

    /// Starts a command on this machine.
    ///
    /// # Errors
    /// The program is missing.
    pub fn spawn(&self, command: &[&str]) -> anyhow::Result<Process> {
        let mut inside = in_namespace(&self.namespace, command);
        inside.envs(self.env.iter().map(|(key, value)| (key, value)));
        Process::spawn(inside)
    }

    /// Does something on this machine, on a thread of its own.
    ///
    /// # Errors
    /// It fails, or panics.
    pub fn inside<T: Send + 'static>(
        &self,
        what: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let work = self.begin_inside(what)?;
        work.join().map_err(|_| anyhow!("the thread on {} panicked", self.namespace))?
    }

    /// As [`Self::inside`], without waiting for the end of it.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn begin_inside<T: Send + 'static>(
        &self,
        what: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<JoinHandle<anyhow::Result<T>>> {
        let namespace = File::open(Path::new("/run/netns").join(&self.namespace))?;
        // A thread of its own: it stays in that namespace.
        Ok(thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            what()
        }))
    }

    /// One echo, the very first packet included, answered within 5 s.
    ///
    /// # Errors
    /// No answer.
    pub fn ping_once(&self, to: &str) -> anyhow::Result<()> {
        self.run(&["ping", "-c", "1", "-W", "5", to])?;
        Ok(())
    }

    /// The TAP's addresses, in `a.b.c.d/prefix` form.
    ///
    /// # Errors
    /// There is no such device.
    pub fn addresses(&self, device: &str) -> anyhow::Result<Vec<String>> {
        let text = self.run(&["ip", "-j", "-4", "addr", "show", "dev", device])?;
        let links: Value = serde_json::from_str(&text)?;
        let addresses = links.pointer("/0/addr_info").and_then(Value::as_array).cloned().unwrap_or_default();
        let one = |address: &Value| Some(format!("{}/{}", address["local"].as_str()?, address["prefixlen"]));
        Ok(addresses.iter().filter_map(one).collect())
    }

    /// Whether there is such a device.
    ///
    /// # Errors
    /// `ip` is missing.
    pub fn has_device(&self, device: &str) -> anyhow::Result<bool> {
        Ok(self.try_run(&["ip", "link", "show", "dev", device])?.code == Some(0))
    }

    /// The device's MTU.
    ///
    /// # Errors
    /// There is no such device.
    pub fn mtu(&self, device: &str) -> anyhow::Result<u64> {
        let text = self.run(&["ip", "-j", "link", "show", "dev", device])?;
        let links: Value = serde_json::from_str(&text)?;
        links.pointer("/0/mtu").and_then(Value::as_u64).context("no mtu")
    }

    /// All that a program may leave behind in the kernel's and the resolver's tables, as text to compare.
    ///
    /// # Errors
    /// A tool is missing.
    pub fn traces(&self) -> anyhow::Result<String> {
        let mut all = String::new();
        for command in [
            &["ip", "-o", "-br", "link"][..],
            &["ip", "-4", "-o", "addr"],
            &["ip", "-4", "route", "show", "table", "all"],
            &["ip", "-4", "rule"],
            &["nft", "list", "ruleset"],
            &["cat", "/etc/resolv.conf"],
        ] {
            all += &format!("# {}\n{}", command.join(" "), exec(&self.namespace, command)?);
        }
        Ok(all)
    }

    /// The `resolv.conf` that programs on this machine read.
    ///
    /// # Errors
    /// It is gone.
    pub fn resolv_conf(&self) -> anyhow::Result<String> {
        exec(&self.namespace, &["cat", "/etc/resolv.conf"])
    }
}

/// `$OVERLAY_BIN`, else the release build, else the debug build.
///
/// # Errors
/// None is there.
pub fn overlay_binary() -> anyhow::Result<PathBuf> {
    if let Some(binary) = std::env::var_os("OVERLAY_BIN") {
        return Ok(binary.into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the package lies in the workspace")?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let built = ["release", "debug"].map(|profile| target.join(profile).join("overlay"));
    built.into_iter().find(|binary| binary.exists()).context("no overlay binary; run: cargo build --release")
}
