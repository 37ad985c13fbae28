//! The internet in a namespace, NAT routers, and the removal of all of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use wan::Edge;

use crate::edge;
use crate::node::Node;
use crate::process::{Finished, Process};
use crate::wait;

/// Every namespace of ours is called `ovlab-<pid>-<count>-<name>`.
const PREFIX: &str = "ovlab";
/// The gateway and, when asked for, name server of the internet.
pub(crate) const INTERNET: &str = "203.0.113.1";
/// The same (RFC 3849).
const INTERNET6: &str = "2001:db8::1";

/// Whoever asks may map what is above the ports that need privilege, for itself.
const MINIUPNPD: &str = "ext_ifname=wan\nlistening_ip=lan\nhttp_port=0\nsecure_mode=yes\nmin_lifetime=60\nmax_lifetime=86400\n\
    upnp_table_name=filter\nupnp_nat_table_name=filter\nupnp_forward_chain=miniupnpd\nupnp_nat_chain=prerouting_miniupnpd\n\
    upnp_nat_postrouting_chain=postrouting_miniupnpd\nuuid=00000000-0000-4000-8000-000000000000\n\
    allow 1024-65535 0.0.0.0/0 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n";

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A laboratory: namespaces that end with it. Declare it before its nodes, so that they end first.
pub struct Lab {
    prefix: String,
    pub(crate) dir: PathBuf,
    pub(crate) ports: u32,
    ipv6: bool,
}

/// A router with a network behind it, and what it does to its packets.
pub struct Router {
    namespace: String,
    outside: String,
    number: u32,
    machines: u32,
    rules: PathBuf,
}

impl Lab {
    /// Makes the internet.
    ///
    /// # Errors
    /// No root, no TUN device, or a tool is missing.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        check_privilege()?;
        remove_leftovers()?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{PREFIX}-{}-{count}", std::process::id());
        let dir = std::env::temp_dir().join(format!("{prefix}-{name}"));
        fs::create_dir_all(&dir).with_context(|| format!("Failed to make {}", dir.display()))?;
        let lab = Self { prefix, dir, ports: 0, ipv6: false };
        lab.add_namespace("net")?;
        let net = lab.internet();
        ip(&["-n", &net, "link", "add", "name", "br0", "type", "bridge"])?;
        ip(&["-n", &net, "addr", "add", &format!("{INTERNET}/24"), "dev", "br0"])?;
        ip(&["-n", &net, "link", "set", "br0", "up"])?;
        let forwards =
            ["net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.br0.send_redirects=0"];
        exec(&net, &[&["sysctl", "-qw"][..], &forwards].concat())?;
        Ok(lab)
    }

    /// All that is made from here on has IPv6 as well; its routers translate none of it, and let in what was asked for.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn with_ipv6(&mut self) -> anyhow::Result<()> {
        let net = self.internet();
        exec(&net, &["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"])?;
        ip(&["-n", &net, "addr", "add", &format!("{INTERNET6}/64"), "dev", "br0", "nodad"])?;
        self.ipv6 = true;
        Ok(())
    }

    /// A machine with a public address.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn public(&mut self, name: &str) -> anyhow::Result<Node> {
        let namespace = self.add_namespace(name)?;
        let address = self.plug(&namespace, "eth0")?;
        self.lead_out(&namespace)?;
        Node::new(namespace, &self.dir, address)
    }

    /// A router with a public address.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn router(&mut self, edge: Edge) -> anyhow::Result<Router> {
        let number = self.ports + 1;
        let namespace = self.add_namespace(&format!("r{number}"))?;
        let outside = self.plug(&namespace, "wan")?;
        // All others lie behind the internet's own machine: a datagram passes it on its way to another router.
        ip(&["-n", &namespace, "-4", "addr", "flush", "dev", "wan"])?;
        ip(&["-n", &namespace, "addr", "add", &format!("{outside}/32"), "dev", "wan"])?;
        ip(&["-n", &namespace, "route", "add", INTERNET, "dev", "wan", "src", &outside])?;
        ip(&["-n", &namespace, "route", "add", "default", "via", INTERNET, "dev", "wan", "src", &outside])?;
        // Without translation those behind it are reached at their own addresses.
        let net = self.internet();
        ip(&["-n", &net, "route", "add", &format!("192.168.{number}.0/24"), "via", &outside])?;
        if self.ipv6 {
            exec(&namespace, &["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"])?;
            ip(&["-n", &namespace, "-6", "route", "add", "default", "via", INTERNET6, "dev", "wan"])?;
            ip(&["-n", &net, "-6", "route", "add", &format!("{}/64", inside6(number, 0)), "via", &outside6(number)])?;
        }
        self.route(namespace, outside, number, edge)
    }

    /// A router behind another one, as at a home whose carrier translates.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn router_behind(&mut self, outer: &mut Router, edge: Edge) -> anyhow::Result<Router> {
        self.ports += 1;
        let number = self.ports;
        let namespace = self.add_namespace(&format!("r{number}"))?;
        let outside = outer.connect(&namespace, "wan")?;
        self.route(namespace, outside, number, edge)
    }

    /// The inside of a router, and its rules.
    fn route(&self, namespace: String, outside: String, number: u32, edge: Edge) -> anyhow::Result<Router> {
        ip(&["-n", &namespace, "link", "add", "name", "lan", "type", "bridge"])?;
        ip(&["-n", &namespace, "addr", "add", &format!("192.168.{number}.1/24"), "dev", "lan"])?;
        if self.ipv6 {
            ip(&["-n", &namespace, "addr", "add", &format!("{}/64", inside6(number, 1)), "dev", "lan", "nodad"])?;
        }
        ip(&["-n", &namespace, "link", "set", "lan", "up"])?;
        exec(&namespace, &["sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
        let rules = self.dir.join(format!("nat-{number}.nft"));
        let router = Router { namespace, outside, number, machines: 0, rules };
        router.become_a(edge)?;
        Ok(router)
    }

    /// A machine behind a router.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn behind(&mut self, router: &mut Router, name: &str) -> anyhow::Result<Node> {
        let namespace = self.add_namespace(name)?;
        let address = router.connect(&namespace, "eth0")?;
        if self.ipv6 {
            let (own, gateway) = (inside6(router.number, router.machines + 1), inside6(router.number, 1));
            ip(&["-n", &namespace, "addr", "add", &format!("{own}/64"), "dev", "eth0", "nodad"])?;
            ip(&["-n", &namespace, "-6", "route", "add", "default", "via", &gateway, "dev", "eth0"])?;
        }
        Node::new(namespace, &self.dir, address)
    }

    /// A bridge on a machine, with nobody on it yet, and with a hardware address that does not change with its ports.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_bridge(&self, head: &Node, bridge: &str) -> anyhow::Result<()> {
        let mac = "02:00:00:00:b0:00";
        ip(&["-n", head.namespace(), "link", "add", "name", bridge, "address", mac, "type", "bridge"])?;
        ip(&["-n", head.namespace(), "link", "set", bridge, "up"])
    }

    /// A machine on the segment of another one's bridge, and nowhere else. Its `eth0` is up and has no address.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn on_bridge(&mut self, head: &Node, bridge: &str, name: &str) -> anyhow::Result<Node> {
        let namespace = self.add_namespace(name)?;
        join(&namespace, "eth0", head.namespace(), name, bridge)?;
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
        Node::new(namespace, &self.dir, String::new())
    }

    /// A machine at the other end of a cable, which is `nic` on the first one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn on_cable(&mut self, head: &Node, nic: &str, name: &str) -> anyhow::Result<Node> {
        let namespace = self.add_namespace(name)?;
        let ends = ["type", "veth", "peer", "name", nic, "netns", head.namespace()];
        ip(&[&["link", "add", "name", "eth0", "netns", &namespace][..], &ends].concat())?;
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
        ip(&["-n", head.namespace(), "link", "set", nic, "up"])?;
        Node::new(namespace, &self.dir, String::new())
    }

    /// The namespace of the internet, for a capture or a server.
    pub fn internet(&self) -> String {
        format!("{}-net", self.prefix)
    }

    /// A directory that ends with the laboratory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts something on the internet's own machine (203.0.113.1).
    ///
    /// # Errors
    /// The program is missing.
    pub fn spawn(&self, command: &[&str]) -> anyhow::Result<Process> {
        Process::spawn(in_namespace(&self.internet(), command))
    }

    /// Writes down all that passes the internet, into `file`, until the process ends.
    ///
    /// # Errors
    /// `tcpdump` does not start.
    pub fn capture(&self, file: &Path) -> anyhow::Result<Process> {
        let mut capture = self.spawn(&[
            "tcpdump",
            "-U",
            "--immediate-mode",
            "-s",
            "0",
            "-i",
            "br0",
            "-Z",
            "root",
            "-w",
            path(file)?,
        ])?;
        capture.wait_for_line(Duration::from_secs(10), |line| line.contains("listening on"))?;
        Ok(capture)
    }

    pub(crate) fn add_namespace(&self, name: &str) -> anyhow::Result<String> {
        let namespace = format!("{}-{name}", self.prefix);
        ip(&["netns", "add", &namespace])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Connects a namespace to the internet and gives it an address there.
    fn plug(&mut self, namespace: &str, link: &str) -> anyhow::Result<String> {
        self.ports += 1;
        join(namespace, link, &self.internet(), &self.port(), "br0")?;
        self.settle(namespace, link)
    }

    /// What the latest port of the internet is called.
    pub(crate) fn port(&self) -> String {
        format!("p{}", self.ports)
    }

    /// The address of whoever is at that port.
    pub(crate) fn outside(&self) -> String {
        format!("203.0.113.{}", 10 + self.ports)
    }

    /// Gives a link that is at that port its address.
    pub(crate) fn settle(&self, namespace: &str, link: &str) -> anyhow::Result<String> {
        let address = self.outside();
        ip(&["-n", namespace, "addr", "add", &format!("{address}/24"), "dev", link])?;
        if self.ipv6 {
            ip(&["-n", namespace, "addr", "add", &format!("{}/64", outside6(self.ports)), "dev", link, "nodad"])?;
        }
        ip(&["-n", namespace, "link", "set", link, "up"])?;
        Ok(address)
    }

    /// The way of a machine to everybody else.
    pub(crate) fn lead_out(&self, namespace: &str) -> anyhow::Result<()> {
        ip(&["-n", namespace, "route", "add", "default", "via", INTERNET, "dev", "eth0"])?;
        if self.ipv6 {
            ip(&["-n", namespace, "-6", "route", "add", "default", "via", INTERNET6, "dev", "eth0"])?;
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in namespaces().unwrap_or_default() {
            if namespace.starts_with(&format!("{}-", self.prefix)) {
                remove(&namespace);
            }
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Router {
    /// Plugs a machine in, and gives it an address and a default route. The address.
    fn connect(&mut self, namespace: &str, link: &str) -> anyhow::Result<String> {
        self.machines += 1;
        let port = format!("p{}", self.machines);
        let address = format!("192.168.{}.{}", self.number, self.machines + 1);
        join(namespace, link, &self.namespace, &port, "lan")?;
        ip(&["-n", namespace, "addr", "add", &format!("{address}/24"), "dev", link])?;
        ip(&["-n", namespace, "link", "set", link, "up"])?;
        let gateway = format!("192.168.{}.1", self.number);
        ip(&["-n", namespace, "route", "add", "default", "via", &gateway, "dev", link])?;
        Ok(address)
    }

    /// Gives a machine that stands elsewhere a further uplink, by which it goes where the first one leads nowhere.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn second_uplink(&mut self, node: &Node, link: &str) -> anyhow::Result<()> {
        let first = node.run(&["ip", "-4", "route", "show", "default"])?;
        node.run(&["ip", "-4", "route", "del", "default"])?;
        self.connect(node.namespace(), link)?;
        let second = node.run(&["ip", "-4", "route", "show", "default"])?;
        node.run(&["ip", "-4", "route", "del", "default"])?;
        for (route, metric) in [(first, "100"), (second, "200")] {
            let words: Vec<&str> = route.split_whitespace().collect();
            node.run(&[&["ip", "-4", "route", "add"][..], &words, &["metric", metric]].concat())?;
        }
        Ok(())
    }

    /// What is outside reaches the first machine behind it at the router's own address, as in a cloud.
    ///
    /// # Errors
    /// nftables refuses.
    pub fn become_one_to_one(&self) -> anyhow::Result<()> {
        let inside = format!("192.168.{}.2", self.number);
        self.load(&edge::one_to_one(&self.outside, &inside))
    }

    /// From here on it does this to packets. Flows that are under way are forgotten.
    ///
    /// # Errors
    /// nftables refuses.
    pub fn become_a(&self, edge: Edge) -> anyhow::Result<()> {
        self.load(&edge::rules(edge, &self.outside))
    }

    fn load(&self, rules: &str) -> anyhow::Result<()> {
        fs::write(&self.rules, format!("flush ruleset\n{rules}{}", edge::IPV6))?;
        exec(&self.namespace, &["nft", "-f", path(&self.rules)?])?;
        self.forget()
    }

    /// Forgets all flows, as after a loss of power.
    ///
    /// # Errors
    /// `conntrack` is missing.
    pub fn forget(&self) -> anyhow::Result<()> {
        exec(&self.namespace, &["conntrack", "-F"])?;
        Ok(())
    }

    /// Has it map ports for whoever asks, as long as the result lives. `protocols` are lines of miniupnpd's configuration.
    ///
    /// # Errors
    /// `miniupnpd` or nftables refuses.
    pub fn map_ports(&self, lab: &Lab, protocols: &str) -> anyhow::Result<Process> {
        // The internet's own range is for documentation (RFC 5737), and miniupnpd refuses such addresses.
        let public = format!("25.0.0.{}", self.number);
        ip(&["-n", &lab.internet(), "route", "add", &public, "via", &self.outside])?;
        let (rules, config) = (self.rules.with_extension("maps.nft"), self.rules.with_extension("maps.conf"));
        fs::write(&rules, edge::MAPPED_PORTS)?;
        exec(&self.namespace, &["nft", "-f", path(&rules)?])?;
        fs::write(&config, format!("{MINIUPNPD}ext_ip={public}\n{protocols}"))?;
        let pid = config.with_extension("pid");
        // In the foreground, as it does not always come up behind it.
        let command = ["miniupnpd", "-d", "-f", path(&config)?, "-P", path(&pid)?];
        let mut daemon = Process::spawn(in_namespace(&self.namespace, &command))?;
        let listens = |line: &str| line.contains("HTTP listening on port") || line.contains("Listening for NAT-PMP");
        daemon.wait_for_line(Duration::from_secs(10), listens)?;
        Ok(daemon)
    }

    /// The ports that it maps, as its rules for what comes in.
    ///
    /// # Errors
    /// nftables refuses.
    pub fn mapped_ports(&self) -> anyhow::Result<Vec<String>> {
        let rules = exec(&self.namespace, &["nft", "list", "chain", "inet", "filter", "prerouting_miniupnpd"])?;
        Ok(rules.lines().filter(|line| line.contains("dnat")).map(|line| line.trim().to_owned()).collect())
    }

    /// Its address on the internet.
    pub fn outside(&self) -> &str {
        &self.outside
    }

    /// Runs a command on the router.
    ///
    /// # Errors
    /// It fails.
    pub fn run(&self, command: &[&str]) -> anyhow::Result<String> {
        exec(&self.namespace, command)
    }
}

/// Of what has this port of the internet's.
fn outside6(number: u32) -> String {
    format!("2001:db8::1:{number}")
}

/// Of a machine behind a router; `0` is all of them.
fn inside6(router: u32, machine: u32) -> String {
    format!("2001:db8:{router}::{machine}")
}

/// A command inside a namespace; it ends with the thread that starts it.
pub(crate) fn in_namespace(namespace: &str, command: &[&str]) -> Command {
    let mut inside = Command::new("ip");
    inside.args(["netns", "exec", namespace, "setpriv", "--pdeathsig", "KILL"]).args(command);
    inside
}

/// Runs a command inside a namespace for at most a minute.
pub(crate) fn finish(namespace: &str, command: &[&str]) -> anyhow::Result<Finished> {
    Process::spawn(in_namespace(namespace, command))?.finish(Duration::from_secs(60))
}

pub(crate) fn exec(namespace: &str, command: &[&str]) -> anyhow::Result<String> {
    finish(namespace, command)?.ok().with_context(|| command.join(" "))
}

pub(crate) fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path of the laboratory is text")
}

fn join(namespace: &str, link: &str, other: &str, port: &str, bridge: &str) -> anyhow::Result<()> {
    ip(&["link", "add", "name", link, "netns", namespace, "type", "veth", "peer", "name", port, "netns", other])?;
    ip(&["-n", other, "link", "set", port, "master", bridge])?;
    ip(&["-n", other, "link", "set", port, "up"])?;
    Ok(())
}

pub(crate) fn ip(args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(args).stdin(Stdio::null()).output().context("Failed to run ip (iproute2)")?;
    ensure!(output.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn check_privilege() -> anyhow::Result<()> {
    let cure = "run as root, or set OVERLAY_SKIP_KERNEL_TESTS=1 to leave the kernel tests out";
    if !rustix::process::geteuid().is_root() {
        bail!("kernel tests make network namespaces: {cure}");
    }
    if !Path::new("/dev/net/tun").exists() {
        bail!("kernel tests need /dev/net/tun, which is missing here: {cure}");
    }
    Ok(())
}

/// Removes what a run left that was killed before it could tidy up.
fn remove_leftovers() -> anyhow::Result<()> {
    for namespace in namespaces()? {
        if owner(&namespace).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            remove(&namespace);
        }
    }
    for entry in fs::read_dir(std::env::temp_dir())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if owner(&name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

fn owner(name: &str) -> Option<u32> {
    let mut parts = name.split('-');
    (parts.next() == Some(PREFIX)).then(|| parts.next()?.parse().ok())?
}

fn namespaces() -> anyhow::Result<Vec<String>> {
    let output = Command::new("ip").args(["netns", "list"]).output().context("Failed to run ip (iproute2)")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

/// Ends what still runs in a namespace of ours, then the namespace and its files under `/etc/netns`.
fn remove(namespace: &str) {
    let running = || {
        let output = Command::new("ip").args(["netns", "pids", namespace]).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    };
    for pid in running().lines().filter_map(|line| line.trim().parse().ok()).filter_map(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
    let _ = wait::until("the last process", Duration::from_secs(5), || running().trim().is_empty().then_some(()));
    let _ = ip(&["netns", "del", namespace]);
    let _ = fs::remove_dir_all(Path::new("/etc/netns").join(namespace));
}
