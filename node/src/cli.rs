//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::proxy::ProxyText;
use crate::segment::RouterOptions;
use crate::serve::Serve;

mod words;

/// A peer-to-peer virtual network: addresses nobody else has, without a server.
#[derive(Parser)]
#[command(name = "overlay", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// Where identity, leases and the control socket are kept.
    #[arg(long, global = true, value_name = "DIR", default_value = "/var/lib/overlay")]
    pub(crate) state: PathBuf,
    /// Print JSON for programs.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say more; twice for still more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Found a namespace; this machine is its first member.
    Create(Create),
    /// Join a namespace with an invite, or come back to one.
    Join(Join),
    /// Join a namespace, or come back to one, for all machines of a segment: they get addresses by DHCP, and need no software.
    Router(Router),
    /// Run every namespace that this state directory has joined.
    Up {
        /// An HTTP proxy for all of them, as with join.
        #[arg(long, value_name = "URL")]
        proxy: Option<ProxyText>,
    },
    /// Make an invite, where the namespace was created.
    Invite(Invite),
    /// Shut a member out.
    Revoke {
        /// The namespace.
        namespace: String,
        /// A P2P id, an address or a name.
        member: String,
    },
    /// Put this machine in the place of replicas that are lost for good, where the namespace was created.
    ///
    /// Where most of the replicas are gone, no address can be granted or renewed. This ends it: shards without a quorum that
    /// answers are given to this machine alone, and grow again from here. They grant nothing until every lease that the
    /// lost replicas may have given has run out, for little longer than a lease lasts. Do it only if they cannot come back:
    /// while they still run elsewhere, both sides give the same addresses away. Open invites become void.
    Recover {
        /// The namespace.
        namespace: String,
        /// Do it; without this it is only told, and a person at a terminal is asked.
        #[arg(long)]
        yes: bool,
        /// Also shards whose replicas answer.
        #[arg(long)]
        all: bool,
    },
    /// Who is here, over which path, and what is wrong.
    Status {
        /// One namespace; all if left out.
        namespace: Option<String>,
    },
    /// The members this machine has a path to, or tried to reach.
    Peers {
        /// One namespace; all if left out.
        namespace: Option<String>,
    },
    /// The addresses that this machine holds.
    Leases {
        /// One namespace; all if left out.
        namespace: Option<String>,
    },
    /// Who owns an address or a name.
    Lookup {
        /// An address or a name.
        what: String,
        /// In which namespace, where there is more than one.
        #[arg(long)]
        namespace: Option<String>,
    },
    /// Reach the owner of an address or a name; each reply names its path.
    Ping {
        /// An address or a name.
        what: String,
        /// How often; for ever if 0.
        #[arg(short, long, default_value_t = 4)]
        count: u32,
        /// In which namespace, where there is more than one.
        #[arg(long)]
        namespace: Option<String>,
    },
    /// What is wrong, why, and what to change.
    Doctor,
    /// Give up this machine's leases in a namespace, and stop it.
    Leave {
        /// The namespace.
        namespace: String,
        /// Erase the membership too.
        #[arg(long)]
        forget: bool,
        /// Even if that destroys the authority key or the only replica.
        #[arg(long, requires = "forget")]
        destroy: bool,
    },
}

#[derive(Args)]
pub(crate) struct Create {
    /// The namespace's name: 1 to 32 of a-z, 0-9 and -.
    #[arg(value_parser = words::name)]
    pub(crate) namespace: String,
    /// The subnet; by default 10.64.0.0/16 to 10.127.0.0/16, by the namespace's key.
    #[arg(long, value_name = "CIDR", value_parser = words::range)]
    pub(crate) range: Option<Ipv4Net>,
    /// For how long an address is leased: 30s to 3650d, 24h if left out.
    #[arg(long, value_name = "TIME", value_parser = words::lease)]
    pub(crate) lease: Option<Duration>,
    /// Write a recovery key to this file, and nowhere else.
    #[arg(long, value_name = "FILE")]
    pub(crate) recovery_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) options: JoinOptions,
}

#[derive(Args)]
pub(crate) struct Join {
    /// The namespace's name, or its identifier.
    #[arg(value_parser = words::name_or_id)]
    pub(crate) namespace: String,
    /// An invite: the token, @FILE, or - for standard input.
    #[arg(long, value_name = "TOKEN")]
    pub(crate) invite: Option<String>,
    #[command(flatten)]
    pub(crate) options: JoinOptions,
}

#[derive(Args)]
pub(crate) struct Router {
    /// The namespace's name, or its identifier.
    #[arg(value_parser = words::name_or_id)]
    pub(crate) namespace: String,
    /// The bridge whose segment is served, or a NIC, around which a bridge is made.
    #[arg(long, value_name = "BRIDGE_OR_NIC", value_parser = words::tap)]
    pub(crate) bridge: String,
    /// Put the NIC into a bridge even if it carries this machine's own connection; its addresses and routes move there
    /// meanwhile.
    #[arg(long)]
    pub(crate) take_nic: bool,
    /// An invite made with --role router: the token, @FILE, or - for standard input.
    #[arg(long, value_name = "TOKEN")]
    pub(crate) invite: Option<String>,
    #[command(flatten)]
    pub(crate) options: JoinOptions,
}

/// What can be said of any namespace on this machine; kept for the next start.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct JoinOptions {
    /// A member to ask first, besides those in the invite.
    #[arg(long, value_name = "MULTIADDR", value_parser = words::multiaddr)]
    pub(crate) peer: Vec<String>,
    /// Where others reach this machine's data port from outside.
    #[arg(long, value_name = "HOST:PORT", value_parser = words::host_port)]
    pub(crate) advertise: Vec<String>,
    /// The name to claim.
    #[arg(long, value_name = "NAME", value_parser = words::hostname)]
    pub(crate) hostname: Option<String>,
    /// The TAP device's name.
    #[arg(long, value_name = "NAME", value_parser = words::tap)]
    pub(crate) tap: Option<String>,
    /// The UDP port of packets; libp2p takes the next.
    #[arg(long, value_name = "UDP", value_parser = clap::value_parser!(u16).range(1..=65_534))]
    pub(crate) port: Option<u16>,
    /// A further TCP port at which others come in by TLS, such as 443 for those whose firewalls let nothing else pass; 0 for
    /// none.
    #[arg(long, value_name = "TCP")]
    pub(crate) tls_port: Option<u16>,
    /// An HTTP proxy, as http://HOST:PORT or http://USER:PASSWORD@HOST:PORT, for members that are not reached without; none for
    /// none. If left out, what https_proxy and no_proxy say.
    #[arg(long, value_name = "URL")]
    pub(crate) proxy: Option<ProxyText>,
    /// Another name for the namespace on this machine.
    #[arg(long = "as", value_name = "NAME", value_parser = words::name)]
    pub(crate) alias: Option<String>,
    /// Leave the address to a DHCP client.
    #[arg(long)]
    pub(crate) no_address: bool,
    /// No TAP device: only a replica for others.
    #[arg(long)]
    pub(crate) no_tap: bool,
    /// How this machine's resolver learns of the zone.
    #[arg(long, value_enum)]
    pub(crate) dns: Option<DnsMode>,
    /// When this machine offers to keep a part of the register for others.
    #[arg(long, value_enum)]
    pub(crate) serve: Option<Serve>,
    /// Whether routers before this machine are asked to let others in to it (default on).
    #[arg(long, value_enum, value_name = "on|off")]
    pub(crate) port_mapping: Option<PortMapping>,
    /// How much each other member may send through this machine to those it cannot reach itself, in Mbit/s (default 100); 0
    /// carries for nobody.
    #[arg(long, value_name = "MBIT", value_parser = clap::value_parser!(u32).range(..=100_000))]
    pub(crate) relay_limit: Option<u32>,
    /// The segment that is served, with `overlay router`.
    #[arg(skip)]
    #[serde(default)]
    pub(crate) router: Option<RouterOptions>,
}

/// Whether routers are asked for port mappings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PortMapping {
    /// By PCP, NAT-PMP and UPnP.
    #[default]
    On,
    /// Not at all.
    Off,
}

/// How this machine's resolver learns of the zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DnsMode {
    /// systemd-resolved where it runs, else resolv.conf.
    #[default]
    Auto,
    /// systemd-resolved.
    Resolved,
    /// resolv.conf.
    File,
    /// Not at all.
    Off,
}

#[derive(Args)]
pub(crate) struct Invite {
    /// The namespace.
    pub(crate) namespace: String,
    /// How many may use it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) uses: u16,
    /// For how long.
    #[arg(long, default_value = "24h", value_parser = words::duration)]
    pub(crate) ttl: Duration,
    /// What those who use it may be.
    #[arg(long, value_enum, default_value_t = Role::Member)]
    pub(crate) role: Role,
    /// How many addresses a router may claim.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) hosts: u16,
}

/// What a new member may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// A workstation.
    Member,
    /// A router for a whole segment.
    Router,
}

impl JoinOptions {
    /// What clap cannot refuse without showing a password.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.proxy.as_ref().map_or(Ok(()), ProxyText::check)
    }

    /// The further port for TLS.
    pub(crate) fn tls_port(&self) -> Option<u16> {
        self.tls_port.filter(|port| *port != 0)
    }

    /// What was said this time over what was said before.
    pub(crate) fn over(self, before: Self) -> Self {
        let list = |new: Vec<String>, old| if new.is_empty() { old } else { new };
        Self {
            peer: list(self.peer, before.peer),
            advertise: list(self.advertise, before.advertise),
            hostname: self.hostname.or(before.hostname),
            tap: self.tap.or(before.tap),
            port: self.port.or(before.port),
            tls_port: self.tls_port.or(before.tls_port),
            proxy: self.proxy.or(before.proxy),
            alias: self.alias.or(before.alias),
            no_address: self.no_address,
            no_tap: self.no_tap,
            dns: self.dns.or(before.dns),
            serve: self.serve.or(before.serve),
            port_mapping: self.port_mapping.or(before.port_mapping),
            relay_limit: self.relay_limit.or(before.relay_limit),
            router: self.router,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn words_that_cannot_be_meant_are_refused_before_anything_is_done() {
        for bad in [
            "create Lab",
            "create lab --range 10.9.0.0/31",
            "create lab --lease 5s",
            "create lab --port 0",
            "create lab --port 65535",
            "create lab --tls-port 65536",
            "create lab --as a_b",
            "create lab --hostname a.b",
            "create lab --tap ov/lab",
            "join lab --peer 192.0.2.1:4001",
            "join lab --advertise 192.0.2.1",
            "join lab --serve sometimes",
            "join lab --port-mapping maybe",
            "join lab --relay-limit some",
            "join lab --relay-limit 100001",
            "router lab",
            "router lab --bridge br/0",
            "join lab --bridge br0",
        ] {
            assert!(Cli::try_parse_from(["overlay"].into_iter().chain(bad.split(' '))).is_err(), "{bad}");
        }
    }
}
