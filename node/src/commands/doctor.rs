//! `overlay doctor`: what is wrong, why, and what to change.

use std::path::Path;
use std::sync::Arc;

use engine::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::client;
use crate::commands::why;
use crate::daemon::Daemon;
use crate::report;
use crate::socket::Call;

/// One thing looked at.
#[derive(Serialize, Deserialize)]
struct Finding {
    /// Whether it is as it should be.
    ok: bool,
    /// What was looked at, and what was seen.
    what: String,
    /// What to do about it.
    cure: Option<String>,
}

impl Finding {
    fn good(what: impl Into<String>) -> Self {
        Self { ok: true, what: what.into(), cure: None }
    }
    fn bad(what: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { ok: false, what: what.into(), cure: Some(cure.into()) }
    }
    /// No fault, and yet it could be better.
    fn improvable((what, cure): (String, String)) -> Self {
        Self { ok: true, what, cure: Some(cure) }
    }
}

pub(crate) fn print(state: &Path, json: bool) -> anyhow::Result<()> {
    let findings: Vec<Finding> = match client::connect(state)? {
        Some(stream) => serde_json::from_value(client::call(stream, &Call::Doctor, |_| ())?)?,
        None => without_daemon(state),
    };
    if json {
        report::line(&serde_json::to_string_pretty(&findings)?);
        return Ok(());
    }
    for finding in findings {
        report::line(&format!("{} {}", if finding.ok { "ok " } else { "BAD" }, finding.what));
        if let Some(cure) = finding.cure {
            report::line(&format!("    {cure}"));
        }
    }
    Ok(())
}

fn without_daemon(state: &Path) -> Vec<Finding> {
    vec![
        device(),
        privilege(),
        Finding::bad(
            format!("no overlay runs on {}", state.display()),
            "start one with `overlay create`, `overlay join` or `overlay up`",
        ),
    ]
}

fn device() -> Finding {
    if Path::new("/dev/net/tun").exists() {
        Finding::good("/dev/net/tun is there")
    } else {
        Finding::bad("/dev/net/tun is missing", "load the kernel module: modprobe tun")
    }
}

fn privilege() -> Finding {
    if rustix::process::geteuid().is_root() {
        Finding::good("running as root")
    } else {
        Finding::bad("not running as root", "a TAP device needs root or CAP_NET_ADMIN: use sudo, or --no-tap")
    }
}

/// The daemon's own view.
pub(crate) async fn examine(daemon: &Arc<Daemon>) -> anyhow::Result<Value> {
    let mut findings = vec![device()];
    let data = daemon.port;
    findings.push(trains(daemon.socket.offload()));
    findings.extend(mapping(&daemon.mappings.status()));
    for running in daemon.matching(None).await? {
        let name = running.alias();
        let overlay = running.overlay_port();
        let tls = running.tls_port().map_or(String::new(), |port| format!(", and by TLS alone on TCP {port}"));
        findings.push(Finding::good(format!(
            "{name}: others reach this machine on UDP {data}, UDP {overlay} and TCP {overlay}{tls}; open these in a firewall"
        )));
        if let Some((what, cure)) = running.unreachable(daemon).await {
            findings.push(Finding::bad(format!("{name}: {what}"), cure));
        }
        let status = running.status().await?;
        findings.push(state_finding(&name, status.state, status.cause.as_deref()));
        if let Some(recovering) = status.recovering.as_ref().filter(|_| status.state != State::Recovering) {
            let (shards, of, left) = (recovering.shards, recovering.of, recovering.left_s);
            let what = format!("{name}: {shards} of {of} shards were recovered and grant nothing for another {left} s");
            findings.push(Finding::bad(what, WAIT_FOR_LEASES));
        }
        if let Some(warning) = status.warning {
            findings.push(Finding::bad(
                format!("{name}: {warning}"),
                "keep the replicas running, and add members that are always on and that others can reach",
            ));
        }
        if let Some(candidacy) = status.candidacy {
            findings.push(Finding::good(format!("{name}: role of this node: {candidacy}")));
        }
        if let Some(nat) = why::own_nat(status.nat.as_ref()) {
            findings.push(Finding::good(format!("{name}: this machine {nat}")));
        }
        let ways = status.peers.iter().filter_map(|peer| why::not_direct(status.nat.as_ref(), peer, data));
        findings.extend(ways.map(|(what, cure)| Finding::improvable((format!("{name}: {what}"), cure))));
        for peer in status.peers.iter().filter(|peer| peer.path == "none") {
            let why = peer.why.as_deref().unwrap_or("no address of it answered");
            findings.push(Finding::bad(
                format!("{name}: no path to {}: {why}", peer.peer_id),
                format!("open UDP {data} on one of the two machines, and name it there with --advertise HOST:{data}"),
            ));
        }
        let notable = status.drops.iter().filter(|(_, count)| **count > 0);
        let drops: Vec<String> = notable.map(|(reason, count)| format!("{reason} {count}")).collect();
        if !drops.is_empty() {
            findings.push(Finding::good(format!("{name}: dropped so far: {}", drops.join(", "))));
        }
    }
    Ok(serde_json::to_value(findings)?)
}

/// What the router was asked for. That it does nothing is no fault: others are reached all the same, by way of a relay if need be.
fn trains(offload: Result<String, String>) -> Finding {
    match offload {
        Ok(how_many) => Finding::good(format!("the kernel cuts trains of datagrams, {how_many}")),
        Err(why) => Finding::improvable((
            format!("datagrams are sent one by one: {why}"),
            "packets take more of the processor so; a newer kernel may help, or OVERLAY_UDP_OFFLOAD=on".into(),
        )),
    }
}

fn mapping(status: &portmap::Status) -> Option<Finding> {
    let gateway = status.gateway?;
    let ports = status.ports.iter().map(|port| match (port.external, port.protocol) {
        (Some(external), Some(protocol)) => format!("{:?} {} at {external} by {protocol}", port.transport, port.port),
        (Some(_) | None, _) => format!("{:?} {} not", port.transport, port.port),
    });
    let ports: Vec<String> = ports.collect();
    let protocols = status.protocols.iter().map(|(protocol, word)| format!("{protocol}: {word}"));
    let protocols: Vec<String> = protocols.collect();
    Some(Finding::good(format!(
        "port mapping: the router {gateway} lets others in to {} ({})",
        ports.join(", "),
        protocols.join(", ")
    )))
}

const WAIT_FOR_LEASES: &str = "wait, and keep this machine on: the time that it is off does not count";

/// What remains where waiting does not help.
fn if_lost(name: &str) -> String {
    format!("if most of them are lost for good, run overlay recover {name} on the machine that created the namespace")
}

fn state_finding(name: &str, state: State, cause: Option<&str>) -> Finding {
    let what = format!("{name}: {state}{}", cause.map_or(String::new(), |cause| format!(": {cause}")));
    match state {
        State::Bound | State::Joined => Finding::good(what),
        State::Joining | State::Claiming => {
            Finding::bad(what, "wait; if it stays so, check that a member can be reached")
        }
        State::Renewing => {
            let cure = format!("bring the named replica back before the lease ends; {}", if_lost(name));
            Finding::bad(what, cure)
        }
        State::Partitioned | State::Lost => Finding::bad(
            what,
            format!("bring replicas back until most of them are up and reachable; {}", if_lost(name)),
        ),
        State::Recovering => Finding::bad(what, WAIT_FOR_LEASES),
        State::Denied => Finding::bad(what, "ask a member for a new invite"),
    }
}
