//! Ordinary DHCP clients, as they run on people's machines, taken through a lease's whole life.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::Signal;

use crate::node::Node;
use crate::process::Process;
use crate::wait::{self, expect};

const LIMIT: Duration = Duration::from_secs(40);

/// A DHCP client program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// `dhclient` of isc-dhcp-client.
    Dhclient,
    /// `dhcpcd` of dhcpcd-base.
    Dhcpcd,
    /// busybox' `udhcpc`.
    Udhcpc,
    /// systemd-networkd's own client.
    Networkd,
}

/// Where a client runs and what it is to learn there.
#[derive(Clone, Copy)]
pub struct Segment<'a> {
    /// The machine.
    pub node: &'a Node,
    /// The device on which the client asks.
    pub device: &'a str,
    /// The DHCP server.
    pub server: Ipv4Addr,
    /// Somebody to ping once there is an address.
    pub other: Ipv4Addr,
    /// The search domain.
    pub search: &'a str,
    /// The MTU.
    pub mtu: u64,
}

/// Gets a lease, renews it, releases it and gets one again. `held` tells whether the server side holds an address.
///
/// # Errors
/// The client, or what it was told, is not as it should be.
pub fn whole_life(
    client: Client,
    segment: &Segment<'_>,
    held: impl Fn(Ipv4Addr) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let node = segment.node;
    let routes = node.run(&["ip", "-4", "route", "show", "default"])?;
    ensure!(routes.contains("default via"), "the machine has a default route before: {routes:?}");

    let mut running = client.start(segment)?;
    let ip = address(segment, &running)?;
    wait::until_ok("the server side holds the address", LIMIT, || expect(held(ip)?, || format!("{ip} is not held")))?;
    learned(client, segment).with_context(|| running.said())?;
    let after = node.run(&["ip", "-4", "route", "show", "default"])?;
    ensure!(after == routes, "the default route was {routes:?} and is {after:?}");
    node.ping_once(&segment.other.to_string())?;

    let granted = client.grants(&running);
    client.renew(&running)?;
    wait::until("a renewal", LIMIT, || (client.grants(&running) > granted).then_some(()))
        .with_context(|| running.said())?;
    ensure!(address(segment, &running)? == ip, "a renewal changed the address");

    client.release(segment, running)?;
    wait::until_ok("the lease's end", LIMIT, || expect(!held(ip)?, || format!("{ip} is still held")))?;
    // udhcpc says that it has released before its script takes the address off.
    wait::until_ok("the client to take the address off", LIMIT, || {
        let kept = node.addresses(segment.device)?;
        expect(kept.is_empty(), || format!("it kept {kept:?}"))
    })?;

    running = client.start(segment)?;
    let again = address(segment, &running)?;
    node.ping_once(&segment.other.to_string())?;
    wait::until_ok("the second lease", LIMIT, || expect(held(again)?, || format!("{again} is not held")))?;
    client.release(segment, running)
}

/// A member without an address of its own, and a DHCP client on its TAP.
///
/// # Errors
/// As [`whole_life`].
pub fn life_on_a_tap(client: Client, create: &[&str]) -> anyhow::Result<()> {
    let Some(mut lab) = crate::lab("dhcp")? else { return Ok(()) };
    let mut creator = lab.public("a")?;
    let mut node = lab.public("b")?;
    let other = creator.create_lab(&[&["--hostname", "a"], create].concat())?.ip()?;
    let ready = node.join_lab(&creator, &["--no-address", "--hostname", "b"])?;
    ensure!(ready.address.is_none(), "--no-address, but ready says {ready:?}");
    let server = node.status()?["dns"].as_str().context("status names no dns")?.parse()?;
    let segment = Segment { node: &node, device: &ready.tap, server, other, search: "lab.internal", mtu: 1400 };
    whole_life(client, &segment, |ip| {
        let status = node.status()?;
        let hosts = status["hosts"].as_array().context("status lists no hosts")?;
        Ok(hosts.iter().any(|host| host["ip"] == ip.to_string()))
    })
}

/// The address that the client put on the device.
///
/// # Errors
/// It comes not within 40 s.
pub fn address(segment: &Segment<'_>, running: &Process) -> anyhow::Result<Ipv4Addr> {
    let found = wait::until("an address", LIMIT, || {
        let addresses = segment.node.addresses(segment.device).ok()?;
        addresses.first()?.split('/').next()?.parse().ok()
    });
    found.with_context(|| running.said())
}

/// MTU and search list must have arrived where the client puts them.
fn learned(client: Client, segment: &Segment<'_>) -> anyhow::Result<()> {
    wait::until_ok("the MTU", LIMIT, || {
        if client == Client::Dhcpcd {
            // It leaves the device alone and says so on the route.
            let routes = segment.node.run(&["ip", "-4", "route", "show", "dev", segment.device])?;
            return expect(routes.contains(&format!("mtu {}", segment.mtu)), || {
                format!("no route has the MTU: {routes}")
            });
        }
        let mtu = segment.node.mtu(segment.device)?;
        expect(mtu == segment.mtu, || format!("the MTU is {mtu}, not {}", segment.mtu))
    })?;
    wait::until_ok("the search list", LIMIT, || {
        let text = match client {
            Client::Dhclient | Client::Udhcpc => segment.node.resolv_conf()?,
            Client::Dhcpcd => fs::read_to_string(segment.node.dir().join("dhcpcd.told"))?,
            Client::Networkd => networkd_links(segment)?,
        };
        let names = |line: &str| {
            let list = line.strip_prefix("search ").or_else(|| line.strip_prefix("DOMAINS="));
            list.is_some_and(|list| list.split_whitespace().any(|word| word.trim_end_matches('.') == segment.search))
        };
        expect(text.lines().any(names), || format!("{} is not searched: {text}", segment.search))
    })
}

impl Client {
    /// Starts it in the foreground, talkative, its files in the node's own directory.
    ///
    /// # Errors
    /// It is not installed.
    pub fn start(self, segment: &Segment<'_>) -> anyhow::Result<Process> {
        match self {
            Self::Dhclient => segment.node.spawn(&strs(&dhclient(segment, &["-d", "-v"])?)),
            Self::Dhcpcd => dhcpcd(segment),
            Self::Udhcpc => udhcpc(segment, &[]),
            Self::Networkd => networkd(segment),
        }
    }

    /// How many leases and renewals it was granted so far.
    pub fn grants(self, running: &Process) -> usize {
        let mark = match self {
            Self::Dhclient => "DHCPACK of",
            Self::Dhcpcd => ": acknowledged ",
            Self::Udhcpc => " obtained from ",
            Self::Networkd => "DHCPv4 client: ACK",
        };
        running.said().matches(mark).count()
    }

    /// Makes it renew now. dhclient renews by itself (its configuration says after 4 s), and so does networkd, which
    /// would listen to D-Bus only: its test hands out short leases.
    fn renew(self, running: &Process) -> anyhow::Result<()> {
        match self {
            Self::Dhclient | Self::Networkd => Ok(()),
            Self::Dhcpcd | Self::Udhcpc => running.signal(Signal::USR1),
        }
    }

    /// Makes it give the lease back and end.
    ///
    /// # Errors
    /// It does not end.
    pub fn release(self, segment: &Segment<'_>, running: Process) -> anyhow::Result<()> {
        match self {
            Self::Dhclient => {
                segment.node.run(&strs(&dhclient(segment, &["-r", "-v"])?))?;
                running.finish(LIMIT)?;
            }
            Self::Dhcpcd => {
                // Its control socket hides in the mount namespace; this signal means the same as `dhcpcd --release`.
                // One that comes while it waits for its hook is lost now and then.
                let mut running = running;
                running.signal(Signal::ALARM)?;
                let mut asked = wait::now();
                let ended = wait::until("dhcpcd's end", LIMIT, || {
                    if running.is_running() && asked.elapsed() > Duration::from_secs(5) {
                        asked = wait::now();
                        let _ = running.signal(Signal::ALARM);
                    }
                    (!running.is_running()).then_some(())
                });
                ended.with_context(|| running.said())?;
            }
            Self::Udhcpc => {
                running.signal(Signal::USR2)?;
                wait::until("the release", LIMIT, || running.said().contains("entering released state").then_some(()))
                    .with_context(|| running.said())?;
            }
            Self::Networkd => {
                running.signal(Signal::TERM)?;
                running.finish(LIMIT)?;
            }
        }
        Ok(())
    }
}

/// dhclient with files of the node's own; its script copes with the bind-mounted `resolv.conf`.
fn dhclient(segment: &Segment<'_>, options: &[&str]) -> anyhow::Result<Vec<String>> {
    let file = |name: &str| segment.node.dir().join(name).display().to_string();
    fs::write(
        file("dhclient.conf"),
        "request subnet-mask, routers, domain-name, domain-name-servers, domain-search, interface-mtu;\n\
         supersede dhcp-renewal-time 4;\ntimeout 30;\ninitial-interval 1;\nbackoff-cutoff 2;\n",
    )?;
    let mut command: Vec<String> = ["unshare", "--uts", "dhclient"].map(str::to_owned).to_vec();
    command.extend(options.iter().map(|&option| option.to_owned()));
    for (option, name) in [("-cf", "dhclient.conf"), ("-lf", "dhclient.leases"), ("-pf", "dhclient.pid")] {
        command.extend([option.to_owned(), file(name)]);
    }
    command.push(segment.device.to_owned());
    Ok(command)
}

/// dhcpcd keeps leases and sockets at fixed paths: its mount namespace gets its own. What it was told is written down
/// before Debian's hooks run, for these write one `domain` where a list has only the domain itself.
fn dhcpcd(segment: &Segment<'_>) -> anyhow::Result<Process> {
    let file = |name: &str| segment.node.dir().join(name).display().to_string();
    let hook = format!(
        "#!/bin/sh\necho \"search $new_domain_search\" >>{}\nexec /usr/lib/dhcpcd/dhcpcd-run-hooks \"$@\"\n",
        file("dhcpcd.told")
    );
    fs::write(file("dhcpcd.hook"), hook)?;
    fs::set_permissions(file("dhcpcd.hook"), fs::Permissions::from_mode(0o755))?;
    let config = format!(
        "clientid\noption domain_name_servers, domain_name, domain_search, interface_mtu, routers\n\
         option classless_static_routes\nrequire dhcp_server_identifier\nnoipv6\nnoipv4ll\nnohook hostname, ntp\n\
         script {}\n",
        file("dhcpcd.hook")
    );
    fs::write(file("dhcpcd.conf"), config)?;
    let script = "mkdir -p /run/dhcpcd /var/lib/dhcpcd; mount -t tmpfs none /run/dhcpcd && \
                  mount -t tmpfs none /var/lib/dhcpcd && exec dhcpcd -B -d -f \"$1\" \"$2\"";
    segment.node.spawn(&["unshare", "--uts", "sh", "-c", script, "sh", &file("dhcpcd.conf"), segment.device])
}

/// busybox' client with a script that does what Debian's does, and says what it was told.
///
/// # Errors
/// It is not installed.
pub fn udhcpc(segment: &Segment<'_>, options: &[&str]) -> anyhow::Result<Process> {
    let file = segment.node.dir().join("udhcpc.script");
    let script = r#"#!/bin/sh
echo "script $1 ip=$ip mask=$mask mtu=$mtu search=$search domain=$domain dns=$dns router=$router lease=$lease"
case "$1" in
deconfig) ip -4 addr flush dev "$interface"; ip link set dev "$interface" up ;;
bound | renew)
    ip addr replace "$ip/$mask" dev "$interface"
    [ -z "$mtu" ] || ip link set dev "$interface" mtu "$mtu"
    [ -z "$router" ] || ip route replace default via "${router%% *}" dev "$interface"
    { [ -z "$search" ] || echo "search $search"; for one in $dns; do echo "nameserver $one"; done; } >/etc/resolv.conf ;;
esac
"#;
    fs::write(&file, script)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    let file = file.display().to_string();
    let mut command = vec!["udhcpc", "-f", "-i", segment.device, "-s", &file, "-O", "search", "-O", "mtu"];
    command.extend_from_slice(&["-t", "10", "-T", "1", "-A", "1"]);
    command.extend_from_slice(options);
    segment.node.spawn(&command)
}

/// networkd without D-Bus and udev: with a read-only /sys it does not wait for udev, and its runtime directory is ours.
fn networkd(segment: &Segment<'_>) -> anyhow::Result<Process> {
    let dir = networkd_dir(segment);
    fs::create_dir_all(dir.join("network"))?;
    fs::create_dir_all(dir.join("netif"))?;
    let network = format!(
        "[Match]\nName={}\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n\
         [DHCPv4]\nUseMTU=yes\nUseDomains=yes\nUseHostname=no\nSendRelease=yes\n",
        segment.device
    );
    fs::write(dir.join("network/lab.network"), network)?;
    let script = "mkdir -p /run/systemd && mount --bind \"$1\" /run/systemd && \
                  chown -R systemd-network /run/systemd/netif && mount -o remount,ro /sys && \
                  SYSTEMD_LOG_LEVEL=debug exec /lib/systemd/systemd-networkd";
    segment.node.spawn(&["unshare", "--uts", "sh", "-c", script, "sh", &dir.display().to_string()])
}

fn networkd_dir(segment: &Segment<'_>) -> PathBuf {
    segment.node.dir().join("systemd")
}

/// What networkd says of its links; without resolved it writes no resolv.conf.
fn networkd_links(segment: &Segment<'_>) -> anyhow::Result<String> {
    let mut all = String::new();
    for entry in fs::read_dir(networkd_dir(segment).join("netif/links"))? {
        all += &fs::read_to_string(entry?.path())?;
    }
    Ok(all)
}

fn strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}
