//! The zone, and everything else, asked as programs ask.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::dhcp_client::{Segment, address, udhcpc};
use e2e::{Lab, Node, Process};

struct Scene {
    a: Node,
    b: Node,
    a_ip: String,
    b_ip: String,
    dns: String,
    _upstream: Process,
}

/// Two members, and a name server of the internet that knows one name.
fn scene(lab: &mut Lab, b_options: &[&str]) -> anyhow::Result<Scene> {
    let mut upstream = lab.spawn(&[
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--log-facility=-",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        "--interface=br0",
        "--pid-file=",
        "--host-record=www.example.test,198.51.100.7",
        "--txt-record=long.example.test,0123456789012345678901234567890123456789",
    ])?;
    upstream.wait_for_line(Duration::from_secs(10), |line| line.contains("started"))?;
    let mut a = lab.public("a")?;
    let mut b = lab.public("b")?;
    let a_ip = a.create_lab(&["--hostname", "a"])?.ip()?.to_string();
    let ready = b.join_lab(&a, b_options)?;
    let b_ip = ready.address.map(|(ip, _)| ip.to_string()).unwrap_or_default();
    let dns = a.status()?["dns"].as_str().context("no dns in the status")?.to_owned();
    Ok(Scene { a, b, a_ip, b_ip, dns, _upstream: upstream })
}

impl Scene {
    fn dig(&self, node: &Node, words: &[&str]) -> anyhow::Result<String> {
        let server = format!("@{}", self.dns);
        node.run(&[&["dig", "+tries=2", "+time=5", &server], words].concat())
    }

    fn short(&self, node: &Node, words: &[&str]) -> anyhow::Result<String> {
        Ok(self.dig(node, &[&["+short"], words].concat())?.trim().to_owned())
    }
}

#[test]
fn names_and_addresses_of_members_are_answered_over_udp_and_tcp() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("zone")? else { return Ok(()) };
    let scene = scene(&mut lab, &["--hostname", "b"])?;
    for node in [&scene.a, &scene.b] {
        for transport in ["+notcp", "+tcp"] {
            for (name, ip) in [("a.lab.internal", &scene.a_ip), ("b.lab.internal", &scene.b_ip)] {
                assert_eq!(&scene.short(node, &[transport, name, "A"])?, ip, "{name} {transport}");
                assert_eq!(scene.short(node, &[transport, "-x", ip])?, format!("{name}."), "{ip} {transport}");
            }
            assert_eq!(&scene.short(node, &[transport, "B.Lab.INTERNAL", "A"])?, &scene.b_ip);
        }
    }
    Ok(())
}

#[test]
fn what_is_not_there_is_said_to_be_not_there() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("nodata")? else { return Ok(()) };
    let scene = scene(&mut lab, &["--hostname", "b"])?;
    for (question, status) in [
        (["b.lab.internal", "AAAA"], "NOERROR"),
        (["b.lab.internal", "MX"], "NOERROR"),
        (["nobody.lab.internal", "A"], "NXDOMAIN"),
    ] {
        let answer = scene.dig(&scene.a, &question)?;
        ensure!(answer.contains(&format!("status: {status}")) && answer.contains("ANSWER: 0"), "{answer}");
    }
    Ok(())
}

#[test]
fn everything_else_goes_to_the_machines_own_name_server() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("forward")? else { return Ok(()) };
    let scene = scene(&mut lab, &["--hostname", "b"])?;
    for transport in ["+notcp", "+tcp"] {
        assert_eq!(scene.short(&scene.b, &[transport, "www.example.test", "A"])?, "198.51.100.7");
        let text = scene.short(&scene.b, &[transport, "long.example.test", "TXT"])?;
        assert_eq!(text, "\"0123456789012345678901234567890123456789\"");
    }
    // As a program asks, by resolv.conf.
    let hosts = scene.b.run(&["getent", "ahostsv4", "www.example.test"])?;
    assert!(hosts.contains("198.51.100.7"), "{hosts}");
    let hosts = scene.b.run(&["getent", "ahostsv4", "a.lab.internal"])?;
    assert!(hosts.contains(&scene.a_ip), "{hosts}");
    Ok(())
}

#[test]
fn hosts_of_dhcp_clients_have_their_own_or_a_computed_name() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("computed")? else { return Ok(()) };
    let scene = scene(&mut lab, &["--no-address", "--hostname", "b"])?;
    let server = scene.dns.parse()?;
    let segment =
        Segment { node: &scene.b, device: "ov-lab", server, other: server, search: "lab.internal", mtu: 1400 };
    // The machine's own client goes by the machine's name; a guest behind the TAP that says none has a computed one.
    let guest = Segment { device: "guest", ..segment };
    scene.b.run(&["ip", "link", "set", "dev", segment.device, "up"])?;
    scene.b.run(&[
        "ip",
        "link",
        "add",
        "name",
        guest.device,
        "link",
        segment.device,
        "type",
        "macvlan",
        "mode",
        "bridge",
    ])?;
    let nameless = udhcpc(&guest, &[])?;
    let ip = address(&guest, &nameless)?;
    let computed = ip.octets().iter().fold(String::from("c"), |name, octet| format!("{name}{octet:03}"));
    assert_eq!(scene.short(&scene.a, &["-x", &ip.to_string()])?, format!("{computed}.lab.internal."));
    assert_eq!(scene.short(&scene.a, &[&format!("{computed}.lab.internal"), "A"])?, ip.to_string());
    drop(nameless);
    scene.b.run(&["ip", "link", "del", "dev", guest.device])?;

    let named = udhcpc(&segment, &["-x", "hostname:printer"])?;
    let ip = address(&segment, &named)?.to_string();
    scene.b.wait_status("the host's name", |status| {
        status["hosts"].as_array().is_some_and(|hosts| hosts.iter().any(|host| host["hostname"] == "printer"))
    })?;
    assert_eq!(scene.short(&scene.a, &["printer.lab.internal", "A"])?, ip);
    assert_eq!(scene.short(&scene.a, &["-x", &ip])?, "printer.lab.internal.");
    Ok(())
}

#[test]
fn a_taken_name_is_numbered_by_default_and_refused_when_asked_for() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("taken")? else { return Ok(()) };
    let mut nodes = [lab.public("a")?, lab.public("b")?, lab.public("c")?];
    let [a, b, c] = &mut nodes;
    // All namespaces of this machine share its host name.
    a.start_ready(&["create", "lab", "--dns", "off"])?;
    let name = a.wait_status("a name", |status| status["hostname"].is_string())?["hostname"].clone();
    let name = name.as_str().context("a has a name")?;
    b.join_lab(a, &[])?;
    b.wait_status("the numbered name", |status| status["hostname"] == format!("{name}-2"))?;
    let ready = c.join_lab(a, &["--hostname", name])?;
    let peer = a.whole_status()?["peer_id"].as_str().context("a has an id")?.to_owned();
    c.wait_status("the holder of the name in the cause", |status| {
        status["hostname"].is_null()
            && status["cause"].as_str().is_some_and(|why| why.contains(name) && why.contains(&peer))
    })?;
    let computed = ready.ip()?.octets().iter().fold(String::from("c"), |name, octet| format!("{name}{octet:03}"));
    a.run(&["ping", "-c", "1", "-W", "5", &ready.ip()?.to_string()])?;
    let dns = a.status()?["dns"].as_str().context("no dns")?.to_owned();
    let found = a.run(&["dig", &format!("@{dns}"), "+short", &format!("{computed}.lab.internal")])?;
    assert_eq!(found.trim(), ready.ip()?.to_string());
    Ok(())
}
