//! `--dns auto|resolved|file|off`: this machine's own resolver learns of our zone, and forgets it again.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use ipnet::Ipv4Net;

use super::{
    file::{self, Edit},
    resolv_conf::{self, Mark},
    resolved::Resolved,
};
use crate::cli::DnsMode;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Where systemd-resolved lists the servers it uses itself (systemd-resolved.service(8)).
const BEHIND_THE_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// Where it listens instead of them.
const STUBS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54))];

const DNS_PORT: u16 = 53;

/// The TAP device.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// Its index in the kernel.
    pub(crate) index: u32,
    /// Its name.
    pub(crate) name: String,
}

/// What was set, and how to take it back.
#[derive(Debug)]
pub(crate) struct Applied {
    how: How,
    upstreams: Vec<SocketAddr>,
}

#[derive(Debug)]
enum How {
    Resolved { resolved: Resolved, link: i32 },
    File(Edit),
    Nothing,
}

/// Tells the system's resolver that `server`, reached over `link`, knows `zone` and the names of `range`.
pub(crate) async fn apply(
    mode: DnsMode,
    link: Link,
    server: Ipv4Addr,
    zone: &str,
    range: Ipv4Net,
    state_dir: &Path,
) -> anyhow::Result<Applied> {
    let resolv_conf = Path::new(RESOLV_CONF);
    let mut upstreams = system_upstreams(resolv_conf);
    upstreams.retain(|upstream| !within(upstream.ip(), range));
    let how = match mode {
        DnsMode::Off => How::Nothing,
        DnsMode::File => by_file(resolv_conf, &link, server, zone, state_dir)?,
        DnsMode::Resolved => match Resolved::find().await? {
            Some(resolved) => by_resolved(resolved, &link, server, zone, range).await?,
            None => bail!("systemd-resolved does not run here; start it, or use --dns file"),
        },
        DnsMode::Auto => match Resolved::find().await {
            Ok(Some(resolved)) if asks_resolved(resolv_conf) => {
                by_resolved(resolved, &link, server, zone, range).await?
            }
            Ok(_) | Err(_) if is_of_another_network(resolv_conf) => bail!(
                "{RESOLV_CONF} is shared with another network namespace; give this one its own \
                 (/etc/netns/<name>/resolv.conf), or insist with --dns file"
            ),
            Ok(_) | Err(_) => by_file(resolv_conf, &link, server, zone, state_dir)?,
        },
    };
    Ok(Applied { how, upstreams })
}

impl Applied {
    /// The resolvers of the system as they were before.
    pub(crate) fn upstreams(&self) -> &[SocketAddr] {
        &self.upstreams
    }

    /// Takes everything back.
    pub(crate) async fn undo(self) -> anyhow::Result<()> {
        match self.how {
            How::Resolved { resolved, link } => resolved.revert(link).await,
            How::File(edit) => edit.undo(),
            How::Nothing => Ok(()),
        }
    }
}

/// Takes back what a daemon on this state directory did not live to take back. Nobody else may be using it.
pub(crate) fn clean_up_after_crash(state_dir: &Path) {
    // Later edits repeat earlier ones in their search line, and each takes out its own, so the order does not matter.
    for edit in file::left_behind(state_dir) {
        match edit.and_then(Edit::undo) {
            Ok(()) => tracing::info!("restored resolv.conf"),
            Err(error) => tracing::warn!("resolv.conf was not restored: {error:#}"),
        }
    }
}

/// The resolvers the system uses, without the lines we wrote, and without systemd-resolved in front of them: what it
/// would ask is asked directly, because it may be asking us.
pub(crate) fn system_upstreams(resolv_conf: &Path) -> Vec<SocketAddr> {
    upstreams(resolv_conf, Path::new(BEHIND_THE_STUB))
}

fn upstreams(resolv_conf: &Path, behind_the_stub: &Path) -> Vec<SocketAddr> {
    let mut servers = servers_of(resolv_conf);
    if servers.iter().any(|server| STUBS.contains(server)) {
        servers.retain(|server| !STUBS.contains(server));
        servers.extend(servers_of(behind_the_stub).into_iter().filter(|server| !STUBS.contains(server)));
    }
    servers.into_iter().map(|server| SocketAddr::new(server, DNS_PORT)).collect()
}

fn servers_of(path: &Path) -> Vec<IpAddr> {
    fs::read_to_string(path).map(|text| resolv_conf::name_servers(&text)).unwrap_or_default()
}

fn by_file(path: &Path, link: &Link, server: Ipv4Addr, zone: &str, state_dir: &Path) -> anyhow::Result<How> {
    Edit::make(path, Mark { zone, link: &link.name }, server, state_dir).map(How::File)
}

async fn by_resolved(
    resolved: Resolved,
    link: &Link,
    server: Ipv4Addr,
    zone: &str,
    range: Ipv4Net,
) -> anyhow::Result<How> {
    let link = i32::try_from(link.index).context("a link index beyond what D-Bus carries")?;
    resolved.set(link, server, zone, range).await?;
    Ok(How::Resolved { resolved, link })
}

/// Whether programs on this machine ask systemd-resolved at all: over its stub, or over nss-resolve.
fn asks_resolved(resolv_conf: &Path) -> bool {
    let linked = fs::canonicalize(resolv_conf).is_ok_and(|path| path.starts_with("/run/systemd/resolve"));
    let stub = servers_of(resolv_conf).iter().any(|server| STUBS.contains(server));
    linked || stub || nss_resolve(&fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default())
}

/// Whether a process we descend from sees the same file on another network: `ip netns exec` gives a network of its own
/// and leaves the host's resolv.conf in place, and the programs of the host cannot reach our server. Processes that we
/// may not look at are passed over.
fn is_of_another_network(resolv_conf: &Path) -> bool {
    let Some((network, file)) = network_and_file("self", resolv_conf) else { return false };
    // Deeper than any process tree; the walk ends at the first process, which has no parent.
    let mut process = parent("self");
    for _ in 0..256 {
        let Some(ancestor) = process.filter(|ancestor| ancestor != "0") else { return false };
        let seen = network_and_file(&ancestor, resolv_conf);
        if seen.is_some_and(|(other, same)| other != network && same == file) {
            return true;
        }
        process = parent(&ancestor);
    }
    false
}

/// The network namespace of a process, and the device and inode it finds at `path`.
fn network_and_file(process: &str, path: &Path) -> Option<(PathBuf, (u64, u64))> {
    let folder = Path::new("/proc").join(process);
    let network = fs::read_link(folder.join("ns/net")).ok()?;
    let file = fs::metadata(folder.join("root").join(path.strip_prefix("/").ok()?)).ok()?;
    Some((network, (file.dev(), file.ino())))
}

fn parent(process: &str) -> Option<String> {
    let status = fs::read_to_string(Path::new("/proc").join(process).join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")).map(|id| id.trim().to_owned())
}

fn nss_resolve(nsswitch: &str) -> bool {
    nsswitch.lines().any(|line| {
        let line = line.split('#').next().unwrap_or_default();
        line.trim()
            .strip_prefix("hosts:")
            .is_some_and(|sources| sources.split_whitespace().any(|word| word == "resolve"))
    })
}

fn within(address: IpAddr, range: Ipv4Net) -> bool {
    match address {
        IpAddr::V4(address) => range.contains(&address),
        IpAddr::V6(address) => address.to_ipv4_mapped().is_some_and(|address| range.contains(&address)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stub_is_looked_behind() {
        let folder = std::env::temp_dir().join(format!("overlay-upstreams-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (front, behind) = (folder.join("resolv.conf"), folder.join("behind.conf"));
        fs::write(&front, "nameserver 127.0.0.53\noptions edns0 trust-ad\n").unwrap();
        fs::write(&behind, "nameserver 192.0.2.53\nnameserver 2001:db8::1\nnameserver 127.0.0.53\n").unwrap();
        let found = upstreams(&front, &behind);
        assert_eq!(found, ["192.0.2.53:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()]);
        fs::write(&front, "nameserver 127.0.0.1\n").unwrap();
        assert_eq!(upstreams(&front, &behind), ["127.0.0.1:53".parse().unwrap()]);
        assert!(upstreams(&folder.join("missing"), &behind).is_empty());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn on_the_network_of_our_parents_the_file_is_ours() {
        assert!(parent("self").is_some());
        assert!(network_and_file("self", Path::new("/proc/version")).is_some());
        assert!(!is_of_another_network(Path::new("/proc/version")));
    }

    #[test]
    fn nss_resolve_counts_only_for_hosts() {
        assert!(nss_resolve("passwd: files\nhosts:  files resolve [!UNAVAIL=return] dns # x\n"));
        assert!(!nss_resolve("hosts: files dns # resolve\n"));
        assert!(!nss_resolve("passwd: resolve\n"));
    }
}
