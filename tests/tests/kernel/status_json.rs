//! `overlay status --json`: every field that scripts rely on, and that it tells the truth.

use anyhow::{Context, ensure};
use serde_json::Value;

fn is(value: &Value, kind: &str) -> bool {
    match kind {
        "text" => value.as_str().is_some_and(|text| !text.is_empty()),
        "number" => value.is_u64(),
        "decimal" => value.is_number(),
        "list" => value.is_array(),
        "map" => value.is_object(),
        _ => false,
    }
}

fn has(object: &Value, fields: &[(&str, &str)]) -> anyhow::Result<()> {
    for (pointer, kind) in fields {
        let value = object.pointer(pointer).with_context(|| format!("no {pointer} in {object:#}"))?;
        ensure!(is(value, kind), "{pointer} is no {kind}: {object:#}");
    }
    Ok(())
}

#[test]
fn status_has_every_field_and_tells_the_truth() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("status")? else { return Ok(()) };
    let mut a = lab.public("a")?;
    let mut b = lab.public("b")?;
    let at_a = a.create_lab(&["--hostname", "a"])?;
    let at_b = b.join_lab(&a, &["--hostname", "b"])?;
    b.ping_once(&at_a.ip()?.to_string())?;
    b.wait_status("a as a direct peer with a round trip", |status| {
        status["peers"]
            .as_array()
            .is_some_and(|peers| peers.iter().any(|p| p["path"] == "direct" && is(&p["rtt_ms"], "decimal")))
    })?;

    let all = b.whole_status()?;
    has(&all, &[("/version", "text"), ("/peer_id", "text"), ("/namespaces", "list")])?;
    let lab_status = b.wait_status("the name", |status| status["hostname"] == "b")?;
    for field in ["name", "id", "state", "mode", "tap", "mac", "ip", "hostname", "zone", "dns"] {
        ensure!(is(&lab_status[field], "text"), "{field}: {lab_status:#}");
    }
    has(&lab_status, &[("/prefix_len", "number"), ("/lease/token", "text"), ("/lease/remaining_s", "number")])?;
    has(&lab_status, &[("/view/number", "number"), ("/view/members", "list"), ("/hosts", "list"), ("/drops", "map")])?;

    let (ip, prefix) = at_b.address.context("b has an address")?;
    let link: Value = serde_json::from_str(&b.run(&["ip", "-j", "link", "show", "dev", "ov-lab"])?)?;
    for (field, truth) in [
        ("name", Value::from("lab")),
        ("state", "bound".into()),
        ("mode", "workstation".into()),
        ("tap", "ov-lab".into()),
        ("mac", link[0]["address"].clone()),
        ("ip", ip.to_string().into()),
        ("prefix_len", prefix.into()),
        ("zone", "lab.internal".into()),
    ] {
        ensure!(lab_status[field] == truth, "{field} is {}, not {truth}", lab_status[field]);
    }
    ensure!(lab_status["view"]["members"] == Value::from(vec![a.whole_status()?["peer_id"].clone()]), "{lab_status:#}");
    let remaining = lab_status["lease"]["remaining_s"].as_u64().unwrap_or(0);
    ensure!((80_000..=86_400).contains(&remaining), "a lease of a day has {remaining} s left");

    let peer = &lab_status["peers"][0];
    has(peer, &[("/peer_id", "text"), ("/ip", "text"), ("/path", "text"), ("/endpoint", "text")])?;
    has(peer, &[("/rtt_ms", "decimal"), ("/tx_bytes", "number"), ("/rx_bytes", "number")])?;
    ensure!(peer["ip"] == at_a.ip()?.to_string() && peer["hostname"] == "a", "{peer:#}");
    ensure!(peer["endpoint"].as_str().is_some_and(|text| text.starts_with(a.underlay())), "{peer:#}");
    ensure!(peer["rx_bytes"].as_u64() > Some(0), "{peer:#}");
    Ok(())
}

#[test]
fn what_a_dhcp_client_holds_is_listed() -> anyhow::Result<()> {
    use e2e::dhcp_client::{Segment, address, udhcpc};
    let Some(mut lab) = e2e::lab("hosts")? else { return Ok(()) };
    let mut a = lab.public("a")?;
    let ready = a.create_lab(&["--hostname", "a", "--no-address"])?;
    ensure!(ready.address.is_none(), "{ready:?}");
    a.wait_status("a member without an address", |status| status["state"] == "joined" && status["ip"].is_null())?;
    let dns = a.status()?["dns"].as_str().unwrap_or_default().parse()?;
    let segment = Segment { node: &a, device: "ov-lab", server: dns, other: dns, search: "lab.internal", mtu: 1400 };
    let client = udhcpc(&segment, &["-x", "hostname:printer"])?;
    let ip = address(&segment, &client)?.to_string();
    let status = a.wait_status("the host", |status| {
        status["hosts"][0]["ip"] == *ip && status["hosts"][0]["hostname"] == "printer"
    })?;
    has(&status["hosts"][0], &[("/mac", "text"), ("/ip", "text"), ("/hostname", "text"), ("/remaining_s", "number")])
}
