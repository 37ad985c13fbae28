//! The command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

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
    /// Run every namespace that this state directory has joined.
    Up,
    /// Make an invite, where the namespace was created.
    Invite(Invite),
    /// Shut a member out.
    Revoke {
        /// The namespace.
        namespace: String,
        /// A P2P id, an address or a name.
        member: String,
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
    pub(crate) namespace: String,
    /// The subnet; by default 10.64.0.0/16 to 10.127.0.0/16, by the namespace's key.
    #[arg(long, value_name = "CIDR")]
    pub(crate) range: Option<Ipv4Net>,
    /// For how long an address is leased.
    #[arg(long, default_value = "24h", value_parser = duration)]
    pub(crate) lease: Duration,
    /// Write a recovery key to this file, and nowhere else.
    #[arg(long, value_name = "FILE")]
    pub(crate) recovery_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) options: JoinOptions,
}

#[derive(Args)]
pub(crate) struct Join {
    /// The namespace's name, or its identifier.
    pub(crate) namespace: String,
    /// An invite: the token, @FILE, or - for standard input.
    #[arg(long, value_name = "TOKEN")]
    pub(crate) invite: Option<String>,
    #[command(flatten)]
    pub(crate) options: JoinOptions,
}

/// What can be said of any namespace on this machine; kept for the next start.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct JoinOptions {
    /// A member to ask first, besides those in the invite.
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) peer: Vec<String>,
    /// Where others reach this machine's data port from outside.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Vec<String>,
    /// The name to claim.
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// The TAP device's name.
    #[arg(long, value_name = "NAME")]
    pub(crate) tap: Option<String>,
    /// The UDP port of packets; libp2p takes the next.
    #[arg(long, value_name = "UDP")]
    pub(crate) port: Option<u16>,
    /// Another name for the namespace on this machine.
    #[arg(long = "as", value_name = "NAME")]
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
    #[arg(long, default_value = "24h", value_parser = duration)]
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
    /// What was said this time over what was said before.
    pub(crate) fn over(self, before: Self) -> Self {
        let list = |new: Vec<String>, old| if new.is_empty() { old } else { new };
        Self {
            peer: list(self.peer, before.peer),
            advertise: list(self.advertise, before.advertise),
            hostname: self.hostname.or(before.hostname),
            tap: self.tap.or(before.tap),
            port: self.port.or(before.port),
            alias: self.alias.or(before.alias),
            no_address: self.no_address,
            no_tap: self.no_tap,
            dns: self.dns.or(before.dns),
        }
    }
}

/// `90`, `90s`, `15m`, `24h` or `7d`.
fn duration(text: &str) -> anyhow::Result<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number = u64::from_str(digits).map_err(|_| anyhow!("{text:?} is no duration; write for example 24h"))?;
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        other => bail!("{other:?} is no unit of time; use s, m, h or d"),
    };
    let seconds = number.checked_mul(unit).filter(|seconds| (1..=3_153_600_000).contains(seconds));
    Ok(Duration::from_secs(seconds.ok_or_else(|| anyhow!("{text:?} is not between 1s and 36500d"))?))
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
    fn durations_have_units_and_limits() {
        assert_eq!(duration("90").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("24h").unwrap(), Duration::from_secs(86_400));
        for bad in ["", "h", "-1s", "1y", "0s", "99999999999999999999d", "36501d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
