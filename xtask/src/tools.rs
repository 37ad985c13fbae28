//! The programs that tests and measurements call, and the Debian packages they come in.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

use crate::say::say;

/// What the kernel tests call: program, package.
pub(crate) const TESTS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("conntrack", "conntrack"),
    ("ping", "iputils-ping"),
    ("iperf3", "iperf3"),
    ("dhclient", "isc-dhcp-client"),
    ("udhcpc", "udhcpc"),
    ("dhcpcd", "dhcpcd-base"),
    ("tcpdump", "tcpdump"),
    ("nft", "nftables"),
    ("ethtool", "ethtool"),
    ("dig", "dnsutils"),
    ("dnsmasq", "dnsmasq-base"),
    ("socat", "socat"),
    ("tinyproxy", "tinyproxy-bin"),
    ("miniupnpd", "miniupnpd-nftables"),
    ("ps", "procps"),
    ("sysctl", "procps"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
    ("cc", "gcc"),
];

/// Installs what is missing.
///
/// # Errors
/// Something is missing and cannot be installed.
pub(crate) fn ensure_installed(tools: &[(&str, &str)]) -> anyhow::Result<()> {
    let mut missing: Vec<&str> =
        tools.iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| *package).collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    say(&format!("== installing {}", missing.join(" ")));
    if !apt_get("install", &missing)? {
        // A fresh machine may have no package lists yet.
        apt_get("update", &[])?;
        ensure!(
            apt_get("install", &missing)?,
            "missing: {}; as root: apt-get install {}",
            missing.join(", "),
            missing.join(" ")
        );
    }
    Ok(())
}

fn is_there(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    path.split(':').any(|dir| Path::new(dir).join(program).exists())
}

fn apt_get(verb: &str, packages: &[&str]) -> anyhow::Result<bool> {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["-qq", "-y", "--no-install-recommends", verb]);
    let status = command.args(packages).status().context("Failed to run apt-get; install the packages by hand")?;
    Ok(status.success())
}
