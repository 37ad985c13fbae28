//! The programs that tests and measurements call, and the Debian packages they come in.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

use crate::say::say;

/// What the kernel tests call: program, package.
pub(crate) const TESTS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("conntrack", "conntrack"),
    ("ping", "iputils-ping"),
    ("arping", "iputils-arping"),
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

/// What `cargo xtask demos` calls besides: program, package.
pub(crate) const DEMOS: &[(&str, &str)] = &[
    ("mpirun.openmpi", "openmpi-bin"),
    ("mpicc.openmpi", "libopenmpi-dev"),
    ("ssh", "openssh-client"),
    ("dropbear", "dropbear-bin"),
    ("aria2c", "aria2"),
    ("mktorrent", "mktorrent"),
    ("opentracker", "opentracker"),
];

/// As [`ensure_installed`], and no service begins to run on this machine: the tracker's package brings one.
///
/// # Errors
/// As [`ensure_installed`].
pub(crate) fn ensure_installed_only(tools: &[(&str, &str)]) -> anyhow::Result<()> {
    // Debian's packages ask this program whether they may start what they bring; 101 is no.
    let policy = Path::new("/usr/sbin/policy-rc.d");
    if policy.exists() || tools.iter().all(|(program, _)| is_there(program)) {
        return ensure_installed(tools);
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o755).open(policy);
    file.and_then(|mut file| file.write_all(b"#!/bin/sh\nexit 101\n")).context("Failed to hold back services")?;
    let installed = ensure_installed(tools);
    fs::remove_file(policy).context("Failed to let services start again")?;
    installed
}

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
