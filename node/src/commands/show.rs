//! Commands that look and change nothing.

use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use engine::{Basis, HostStatus, NamespaceStatus, PeerStatus, Reply};
use serde::Deserialize;
use serde_json::Value;

use crate::client::call_daemon;
use crate::report;
use crate::socket::Call;

#[derive(Deserialize)]
struct Status {
    peer_id: String,
    namespaces: Vec<NamespaceStatus>,
}

pub(crate) fn status(state: &Path, namespace: Option<String>, json: bool) -> anyhow::Result<()> {
    let value = call_daemon(state, &Call::Status { namespace })?;
    if json {
        report::line(&serde_json::to_string_pretty(&value)?);
        return Ok(());
    }
    let status: Status = serde_json::from_value(value)?;
    report::line(&format!("this node  {}", status.peer_id));
    for namespace in &status.namespaces {
        for line in namespace_lines(namespace) {
            report::line(&line);
        }
    }
    Ok(())
}

fn namespace_lines(status: &NamespaceStatus) -> Vec<String> {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let cause = status.cause.as_ref().map_or(String::new(), |cause| format!(" ({cause})"));
    let mut lines = vec![String::new(), format!("{}  {}{cause}", status.name, status.state)];
    let mut row = |what: &str, value: String| lines.push(format!("  {what:<9}{value}"));
    row("id", status.id.clone());
    let ip = status.ip.map(|ip| format!("{ip}/{}", status.prefix_len));
    row("address", or_none(ip));
    row("name", or_none(status.hostname.as_ref().map(|name| format!("{name}.{}", status.zone))));
    row("tap", or_none(status.tap.clone()));
    if let Some(bridge) = &status.bridge {
        row("router", format!("of {bridge}, for {} {}", status.hosts.len(), plural(status.hosts.len(), "machine")));
    }
    for machine in &status.turned_away {
        row("refused", format!("{} uses {}: {}", machine.mac, machine.ip, machine.why));
    }
    row("dns", status.dns.to_string());
    if let Some(lease) = &status.lease {
        row("lease", format!("{} more unless renewed, token {}", duration(lease.remaining_s), lease.token));
        if let Some(basis) = &lease.basis {
            row("", basis_text(basis));
        }
    }
    if let Some(view) = &status.view {
        row("view", format!("{} of {} {}", view.number, view.members.len(), plural(view.members.len(), "replica")));
        for silent in &view.silent {
            row("", format!("{} does not answer, for {}", silent.peer_id, duration(silent.silent_s)));
        }
    }
    if let Some(recovering) = &status.recovering {
        let (shards, of, left) = (recovering.shards, recovering.of, duration(recovering.left_s));
        row("recovery", format!("{shards} of {of} {} granting nothing for another {left}", plural(of, "shard")));
    }
    if let Some(candidacy) = &status.candidacy {
        row("role", candidacy.clone());
    }
    if let Some(warning) = &status.warning {
        row("warning", warning.clone());
    }
    for peer in &status.peers {
        row("peer", peer_line(peer));
    }
    lines
}

/// What a lease rests on, in one line.
fn basis_text(basis: &Basis) -> String {
    let renewal = match basis.renewal_s {
        Some(0) => "being renewed".into(),
        Some(seconds) => format!("renewed in {}", duration(seconds)),
        None => "ends unless it is claimed again".into(),
    };
    let (answered, all) = (basis.answered.len(), basis.members.len());
    format!("granted by {answered} of {all} {} of view {}, {renewal}", plural(all, "replica"), basis.view)
}

pub(crate) fn peers(state: &Path, namespace: Option<String>, json: bool) -> anyhow::Result<()> {
    let status: Status = serde_json::from_value(call_daemon(state, &Call::Status { namespace })?)?;
    let all: Vec<&PeerStatus> = status.namespaces.iter().flat_map(|namespace| &namespace.peers).collect();
    if json {
        report::line(&serde_json::to_string_pretty(&all)?);
    } else {
        all.iter().for_each(|peer| report::line(&peer_line(peer)));
    }
    Ok(())
}

fn peer_line(peer: &PeerStatus) -> String {
    let ip = peer.ip.map_or_else(|| "-".into(), |ip| ip.to_string());
    let endpoint = peer.endpoint.as_deref().unwrap_or("-");
    let rtt = peer.rtt_ms.map_or_else(|| "-".into(), |rtt| format!("{rtt:.2} ms"));
    let why = peer.why.as_ref().map_or(String::new(), |why| format!("  {why}"));
    let bytes = format!("tx {} rx {}", peer.tx_bytes, peer.rx_bytes);
    format!("{ip:<15} {:<6} {endpoint:<22} {rtt:<9} {bytes}  {}{why}", peer.path, peer.peer_id)
}

pub(crate) fn leases(state: &Path, namespace: Option<String>, json: bool) -> anyhow::Result<()> {
    let status: Status = serde_json::from_value(call_daemon(state, &Call::Status { namespace })?)?;
    let all: Vec<&HostStatus> = status.namespaces.iter().flat_map(|namespace| &namespace.hosts).collect();
    if json {
        report::line(&serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    for host in all {
        let name = host.hostname.as_deref().unwrap_or("-");
        let basis = host.basis.as_ref().map_or(String::new(), |basis| format!("  {}", basis_text(basis)));
        report::line(&format!(
            "{:<15} {}  {:<6} {name:<20} {}  token {}{basis}",
            host.ip,
            host.mac,
            host.origin,
            duration(host.remaining_s),
            host.token
        ));
    }
    Ok(())
}

pub(crate) fn lookup(state: &Path, namespace: Option<String>, what: String, json: bool) -> anyhow::Result<()> {
    let value = call_daemon(state, &Call::Lookup { namespace, what })?;
    if json {
        report::line(&value.to_string());
        return Ok(());
    }
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
    let number = |key: &str| value.get(key).and_then(Value::as_u64).unwrap_or(0);
    let view = value.pointer("/view/number").and_then(Value::as_u64).unwrap_or(0);
    let remaining = duration(number("remaining_s"));
    report::line(&format!(
        "{}  {}  owner {}  token {}  view {view}  {remaining} more unless renewed",
        text("ip"),
        text("hostname"),
        text("peer_id"),
        text("token")
    ));
    Ok(())
}

pub(crate) fn ping(state: &Path, namespace: Option<String>, what: &str, count: u32, json: bool) -> anyhow::Result<()> {
    let mut answered = 0u64;
    let mut sent = 0u64;
    loop {
        sent += 1;
        let call = Call::Ping { namespace: namespace.clone(), what: what.to_owned() };
        let value = call_daemon(state, &call)?;
        let reply: Reply = serde_json::from_value(value.clone())?;
        let line = reply_line(what, sent, &reply)?;
        answered += u64::from(matches!(reply, Reply::Pong { .. }));
        if json {
            report::line(&inner(&value).to_string());
        } else {
            report::line(&line);
        }
        if count != 0 && sent >= u64::from(count) {
            break;
        }
        pause(Duration::from_secs(1));
    }
    if answered == 0 {
        bail!("{what} did not answer any of {sent} pings");
    }
    Ok(())
}

/// A reply without the name of its kind: pongs and their absence have a path, and only the latter says why.
fn inner(value: &Value) -> &Value {
    value.as_object().and_then(|object| object.values().next()).unwrap_or(value)
}

fn reply_line(what: &str, number: u64, reply: &Reply) -> anyhow::Result<String> {
    Ok(match reply {
        Reply::Pong { ip, path, endpoint, rtt_ms, .. } => {
            let via = endpoint.as_deref().unwrap_or("this machine");
            format!("{ip}: seq={number} path={path} endpoint={via} time={rtt_ms:.2} ms")
        }
        Reply::NoPong { path, why, .. } => format!("{what}: seq={number} path={path} no answer: {why}"),
        Reply::Failed(why) => bail!("{why}"),
        Reply::Owner { .. } | Reply::Token(_) | Reply::Recovery(_) | Reply::Left | Reply::HandedOver => {
            bail!("the daemon speaks another version; restart it")
        }
    })
}

#[expect(clippy::disallowed_methods, reason = "a ping a second is what ping does")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

pub(super) fn plural(count: usize, word: &str) -> String {
    if count == 1 { word.into() } else { format!("{word}s") }
}

pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_says_who_granted_it_and_when_it_is_renewed() {
        let basis = |renewal_s| Basis {
            view: 4,
            members: ["a", "b", "c"].map(String::from).to_vec(),
            answered: ["a", "c"].map(String::from).to_vec(),
            renewal_s,
        };
        let granted = "granted by 2 of 3 replicas of view 4";
        assert_eq!(basis_text(&basis(Some(7300))), format!("{granted}, renewed in 2 h 1 min"));
        assert_eq!(basis_text(&basis(Some(0))), format!("{granted}, being renewed"));
        assert_eq!(basis_text(&basis(None)), format!("{granted}, ends unless it is claimed again"));
    }

    #[test]
    fn each_ping_names_its_path_to_programs() {
        let pong = Reply::Pong {
            peer_id: "p".into(),
            ip: std::net::Ipv4Addr::LOCALHOST,
            path: "direct".into(),
            endpoint: None,
            rtt_ms: 1.0,
        };
        let none = Reply::NoPong { peer_id: None, path: "none".into(), why: "nobody".into() };
        for (reply, path) in [(pong, "direct"), (none, "none")] {
            let value = serde_json::to_value(&reply).unwrap();
            assert_eq!(inner(&value)["path"], path);
        }
        assert!(reply_line("x", 1, &Reply::Failed("no".into())).is_err());
    }
}
