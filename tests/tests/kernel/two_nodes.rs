//! Create, invite, join, talk.

use e2e::{Lab, Node};

fn pair(lab: &mut Lab) -> anyhow::Result<(Node, Node)> {
    let mut a = lab.public("a")?;
    let mut b = lab.public("b")?;
    a.create_lab(&["--hostname", "a"])?;
    b.join_lab(&a, &["--hostname", "b"])?;
    Ok((a, b))
}

#[test]
fn two_members_have_different_addresses_on_their_taps() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("two")? else { return Ok(()) };
    let mut a = lab.public("a")?;
    let mut b = lab.public("b")?;
    let at_a = a.create_lab(&["--hostname", "a"])?;
    let at_b = b.join_lab(&a, &["--hostname", "b"])?;
    assert_ne!(at_a.ip()?, at_b.ip()?);
    for (node, ready) in [(&a, &at_a), (&b, &at_b)] {
        assert_eq!(ready.namespace, "lab");
        assert_eq!(ready.tap, "ov-lab");
        let (ip, prefix) = ready.address.expect("ready names an address");
        assert_eq!(node.addresses("ov-lab")?, [format!("{ip}/{prefix}")]);
        assert_eq!(node.mtu("ov-lab")?, 1400);
    }
    Ok(())
}

#[test]
fn the_first_packet_to_a_stranger_arrives() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("first")? else { return Ok(()) };
    let (a, mut b) = pair(&mut lab)?;
    let mut c = lab.public("c")?;
    let at_c = c.join_lab(&a, &["--hostname", "c"])?;
    // b and c have met nobody but a.
    b.ping_once(&at_c.ip()?.to_string())?;
    c.ping_once("b.lab.internal")?;
    b.daemon()?.is_running().then_some(()).ok_or_else(|| anyhow::anyhow!("the daemon ended"))
}

#[test]
fn each_reaches_the_other_by_name_and_address() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("names")? else { return Ok(()) };
    let (a, b) = pair(&mut lab)?;
    for (from, to, name) in [(&a, &b, "b"), (&b, &a, "a")] {
        let ip = to.status()?["ip"].as_str().expect("the other has an address").to_owned();
        from.ping_once(&format!("{name}.lab.internal"))?;
        from.ping_once(&ip)?;
        // The largest packet that fits the TAP, and one that has to be cut into several.
        from.run(&["ping", "-c", "1", "-W", "5", "-M", "do", "-s", "1372", &ip])?;
        from.run(&["ping", "-c", "1", "-W", "5", "-s", "8000", &ip])?;
    }
    Ok(())
}

#[test]
fn overlay_ping_names_the_path_and_lookup_the_owner() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("path")? else { return Ok(()) };
    let (a, b) = pair(&mut lab)?;
    let status = b.status()?;
    let ip = status["ip"].as_str().expect("b has an address");
    let peer = b.whole_status()?["peer_id"].as_str().expect("b has an id").to_owned();
    for what in [ip, "b"] {
        let replies = a.overlay_ok(&["ping", "--count", "2", what])?;
        assert_eq!(replies.matches("direct").count(), 2, "{replies}");
        let owner = a.overlay_ok(&["lookup", what])?;
        assert!(owner.contains(&peer) && owner.contains(ip), "{owner}");
    }
    let found: serde_json::Value = serde_json::from_str(&a.overlay_ok(&["lookup", "--json", ip])?)?;
    let replicas = &found["view"]["members"];
    assert_eq!(replicas, &serde_json::json!([a.whole_status()?["peer_id"]]), "{found:#}");
    Ok(())
}

#[test]
fn members_behind_two_home_routers_reach_the_one_in_the_open() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("routers")? else { return Ok(()) };
    let mut a = lab.public("a")?;
    let (mut first, mut second) = (lab.router(e2e::Edge::Home)?, lab.router(e2e::Edge::SymmetricRandom)?);
    let mut b = lab.behind(&mut first, "b")?;
    let mut c = lab.behind(&mut second, "c")?;
    let at_a = a.create_lab(&["--hostname", "a"])?.ip()?.to_string();
    for (node, name) in [(&mut b, "b"), (&mut c, "c")] {
        let ip = node.join_lab(&a, &["--hostname", name])?.ip()?.to_string();
        node.ping_once(&at_a)?;
        a.ping_once(&ip)?;
    }
    Ok(())
}

#[test]
fn the_one_in_the_open_reaches_a_member_behind_a_router_that_has_not_spoken_yet() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("reverse")? else { return Ok(()) };
    let mut a = lab.public("a")?;
    let mut router = lab.router(e2e::Edge::Home)?;
    let mut b = lab.behind(&mut router, "b")?;
    a.create_lab(&["--hostname", "a"])?;
    let ip = b.join_lab(&a, &["--hostname", "b"])?.ip()?.to_string();
    a.ping_once(&ip)
}
