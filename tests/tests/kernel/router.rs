//! Machines that know nothing of the overlay, behind a router on their segment.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::dhcp_client::{Client, Segment, address, udhcpc};
use e2e::wait::{self, expect};
use e2e::{Lab, Node, Process};

const LIMIT: Duration = Duration::from_secs(20);

/// A workstation that founded the namespace, and where its servers are.
struct Founder {
    node: Node,
    ip: Ipv4Addr,
    dns: Ipv4Addr,
}

/// A machine on a router's segment, with an address.
struct Guest {
    node: Node,
    ip: Ipv4Addr,
    client: Option<Process>,
}

impl Founder {
    fn new(lab: &mut Lab, options: &[&str]) -> anyhow::Result<Self> {
        let mut node = lab.public("a")?;
        let ip = node.create_lab(&[&["--hostname", "a"], options].concat())?.ip()?;
        let dns = node.status()?["dns"].as_str().context("no dns in the status")?.parse()?;
        Ok(Self { node, ip, dns })
    }

    fn token(&self) -> anyhow::Result<String> {
        self.node.invite("lab", &["--role", "router", "--hosts", "32"])
    }

    /// A router with a bridge and nobody on it.
    fn router(&self, lab: &mut Lab, name: &str, options: &[&str]) -> anyhow::Result<Node> {
        let mut router = lab.public(name)?;
        lab.add_bridge(&router, "br0")?;
        let token = self.token()?;
        router.start_ready(&[&["router", "lab", "--bridge", "br0", "--invite", &token], options].concat())?;
        Ok(router)
    }

    fn segment<'n>(&self, node: &'n Node) -> Segment<'n> {
        Segment { node, device: "eth0", server: self.dns, other: self.ip, search: "lab.internal", mtu: 1400 }
    }

    /// A machine with an address by one of the usual clients.
    fn guest(&self, lab: &mut Lab, router: &Node, name: &str, client: Client) -> anyhow::Result<Guest> {
        let node = lab.on_bridge(router, "br0", name)?;
        let segment = self.segment(&node);
        let running = match client {
            Client::Udhcpc => udhcpc(&segment, &["-x", &format!("hostname:{name}")])?,
            Client::Dhclient | Client::Dhcpcd | Client::Networkd => client.start(&segment)?,
        };
        let ip = address(&segment, &running)?;
        Ok(Guest { node, ip, client: Some(running) })
    }
}

impl Guest {
    fn gateway(&self, other: Ipv4Addr) -> anyhow::Result<String> {
        let entry = self.node.run(&["ip", "neigh", "show", &other.to_string()])?;
        let mac = entry.split("lladdr ").nth(1).and_then(|rest| rest.split_whitespace().next());
        Ok(mac.with_context(|| format!("no hardware address of {other}: {entry}"))?.to_owned())
    }
}

fn origin(status: &serde_json::Value, ip: Ipv4Addr) -> Option<String> {
    let hosts = status["hosts"].as_array()?;
    let host = hosts.iter().find(|host| host["ip"] == ip.to_string())?;
    Some(host["origin"].as_str()?.to_owned())
}

/// What a machine's tables say, without the numbers of interfaces and without what needs a moment to settle.
fn tables(node: &Node) -> anyhow::Result<String> {
    let traces = node.traces()?;
    let plain = |line: &str| line.trim_start_matches(|c: char| c.is_ascii_digit()).replace(" UNKNOWN ", " UP      ");
    Ok(traces.lines().filter(|line| !line.starts_with("one@")).map(|line| plain(line) + "\n").collect())
}

/// What a capture says, in the words of tcpdump.
fn read_capture(node: &Node, file: &str, filter: &str) -> anyhow::Result<String> {
    node.run(&["tcpdump", "-e", "-n", "-r", file, filter])
}

#[test]
fn machines_without_software_are_on_the_subnet_by_their_own_dhcp_clients() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("router")? else { return Ok(()) };
    let founder = Founder::new(&mut lab, &[])?;
    let router = founder.router(&mut lab, "r", &["--hostname", "r"])?;
    let file = router.dir().join("tap.pcap").display().to_string();
    let mut capture = router.spawn(&["tcpdump", "-U", "-i", "ov-lab", "-Z", "root", "-w", &file])?;
    capture.wait_for_line(LIMIT, |line| line.contains("listening on"))?;

    let clients = [("one", Client::Dhclient), ("two", Client::Dhcpcd), ("three", Client::Udhcpc)];
    let mut guests = Vec::new();
    for (name, client) in clients {
        let guest = founder.guest(&mut lab, &router, name, client);
        guests.push(guest.with_context(|| format!("{name} with {client:?}"))?);
    }
    // One is configured by hand, with an address that is free.
    let node = lab.on_bridge(&router, "br0", "static")?;
    let [first, second, ..] = founder.ip.octets();
    let ip = Ipv4Addr::new(first, second, 7, 77);
    node.run(&["ip", "addr", "add", &format!("{ip}/16"), "dev", "eth0"])?;
    guests.push(Guest { node, ip, client: None });

    for (guest, how) in guests.iter().zip(["dhcp", "dhcp", "dhcp", "static"]) {
        wait::until_ok("a member answers", LIMIT, || guest.node.ping_once(&founder.ip.to_string()))?;
        founder.node.ping_once(&guest.ip.to_string())?;
        let status = router.status()?;
        ensure!(origin(&status, guest.ip).as_deref() == Some(how), "{} is not by {how}: {status:#}", guest.ip);
    }
    let status = router.status()?;
    ensure!(status["mode"] == "router" && status["bridge"] == "br0", "{status:#}");
    // The router's machine is on the segment itself, as any other.
    let own: Ipv4Addr = status["ip"].as_str().context("the router has no address")?.parse()?;
    guests[0].node.ping_once(&own.to_string())?;
    founder.node.ping_once(&own.to_string())?;
    router.run(&["ping", "-c", "1", "-W", "5", &guests[1].ip.to_string()])?;
    // By name, both ways.
    guests[2].node.run(&["ping", "-c", "1", "-W", "5", "a.lab.internal"])?;
    founder.node.run(&["ping", "-c", "1", "-W", "5", "three.lab.internal"])?;
    neighbours_talk_directly(&founder, &router, &guests, &file)?;

    // Released, it is free at once.
    let gone = guests.remove(2);
    Client::Udhcpc.release(&founder.segment(&gone.node), gone.client.context("it has a client")?)?;
    router.wait_status("the end of its lease", |status| origin(status, gone.ip).is_none())?;
    Ok(())
}

/// What two machines of a segment send to each other never comes to the TAP device.
fn neighbours_talk_directly(founder: &Founder, router: &Node, guests: &[Guest], file: &str) -> anyhow::Result<()> {
    let (one, two) = (&guests[0], &guests[1]);
    let virtual_mac = one.gateway(founder.ip)?;
    let received = || router.run(&["cat", "/sys/class/net/ov-lab/statistics/tx_packets"]);
    one.node.ping_once(&two.ip.to_string())?;
    ensure!(one.gateway(two.ip)? != virtual_mac, "the router answered for a machine of its own segment");
    let before: u64 = received()?.trim().parse()?;
    one.node.run(&["ping", "-q", "-f", "-c", "2000", "-s", "1300", &two.ip.to_string()])?;
    let after: u64 = received()?.trim().parse()?;
    ensure!(after - before < 100, "{} frames came to the TAP device", after - before);
    let filter = format!("ip and host {} and host {}", one.ip, two.ip);
    let seen = read_capture(router, file, &filter)?;
    ensure!(seen.is_empty(), "the TAP device saw: {seen}");
    // Nor do the multicasts of machines; those of the router's own the kernel sends to every port.
    let own = |link: &str| router.run(&["cat", &format!("/sys/class/net/{link}/address")]);
    let (bridge, tap) = (own("br0")?, own("ov-lab")?);
    let filter =
        format!("multicast and not broadcast and not ether src {} and not ether src {}", bridge.trim(), tap.trim());
    let stray = read_capture(router, file, &filter)?;
    ensure!(stray.is_empty(), "the TAP device saw: {stray}");
    // One virtual hardware address, and only the router speaks with it.
    let speakers = read_capture(router, file, &format!("ether src {virtual_mac}"))?;
    ensure!(!speakers.is_empty(), "nothing was sent from {virtual_mac}");
    Ok(())
}

#[test]
fn two_segments_are_one_subnet_and_hosts_that_ignore_the_mtu_lose_nothing() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("segments")? else { return Ok(()) };
    let founder = Founder::new(&mut lab, &[])?;
    let left = founder.router(&mut lab, "r", &["--no-address"])?;
    let right = founder.router(&mut lab, "q", &["--no-address"])?;
    let one = founder.guest(&mut lab, &left, "one", Client::Udhcpc)?;
    let two = founder.guest(&mut lab, &right, "two", Client::Udhcpc)?;
    one.node.ping_once(&two.ip.to_string())?;
    two.node.ping_once(&one.ip.to_string())?;
    ensure!(one.gateway(two.ip)? != two.gateway(one.ip)?, "two routers share a virtual hardware address");
    // As if they had not heard what the lease says.
    for guest in [&one, &two] {
        guest.node.run(&["ip", "link", "set", "eth0", "mtu", "1500"])?;
    }
    let to = two.ip.to_string();
    let too_big = one.node.try_run(&["ping", "-M", "do", "-c", "1", "-W", "2", "-s", "1472", &to])?;
    ensure!(too_big.code != Some(0) && too_big.stdout.contains("mtu = 1400"), "{too_big:?}");
    one.node.run(&["ping", "-M", "do", "-c", "1", "-W", "2", "-s", "1372", &to])?;
    one.node.run(&["ping", "-M", "dont", "-c", "1", "-W", "2", "-s", "4000", &to])?;
    // Super-frames are cut to what the tunnel carries.
    transfer(&one, &two)?;
    // And not even what the router says of it: TCP has to manage by what the ends agreed on.
    for guest in [&one, &two] {
        guest.node.run(&["ip", "route", "flush", "cache"])?;
        guest.node.run(&["ethtool", "-K", "eth0", "tso", "off", "gso", "off", "gro", "off"])?;
        let rules = "table ip deaf {\nchain in {\ntype filter hook input priority 0; policy accept;\nicmp type destination-unreachable drop\n}\n}\n";
        let path = guest.node.dir().join("deaf.nft");
        std::fs::write(&path, rules)?;
        guest.node.run(&["nft", "-f", &path.display().to_string()])?;
    }
    transfer(&one, &two)
}

/// Some bytes of TCP from one to the other.
fn transfer(from: &Guest, to: &Guest) -> anyhow::Result<()> {
    let mut server = to.node.spawn(&["iperf3", "-s", "-1", "--forceflush"])?;
    server.wait_for_line(LIMIT, |line| line.contains("listening"))?;
    let ip = to.ip.to_string();
    let sent = from.node.run(&["iperf3", "-c", &ip, "-n", "20M", "-C", "cubic", "--connect-timeout", "5000"])?;
    let line = sent.lines().find(|line| line.contains("receiver")).with_context(|| sent.clone())?;
    e2e::say(&format!("host, router, router, host: {}", line.trim()));
    Ok(())
}

#[test]
fn an_address_that_is_anothers_is_refused_and_said_so() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("squatter")? else { return Ok(()) };
    let founder = Founder::new(&mut lab, &[])?;
    let router = founder.router(&mut lab, "r", &["--no-address"])?;
    let squatter = lab.on_bridge(&router, "br0", "squatter")?;
    let ip = founder.ip.to_string();
    squatter.run(&["ip", "addr", "add", &format!("{ip}/16"), "dev", "eth0"])?;
    // It looks for somebody, and so says who it is.
    let [first, second, ..] = founder.ip.octets();
    let _ = squatter.try_run(&["ping", "-c", "1", "-W", "1", &format!("{first}.{second}.9.9")])?;
    let status = router.wait_status("a machine that was refused", |status| {
        let refused = status["turned_away"].as_array();
        refused.is_some_and(|all| all.iter().any(|one| one["ip"] == ip.as_str()))
    })?;
    ensure!(status["hosts"].as_array().is_some_and(Vec::is_empty), "{status:#}");
    // Whoever asks before it uses an address is told.
    let probing = lab.on_bridge(&router, "br0", "probing")?;
    squatter.run(&["ip", "link", "set", "eth0", "down"])?;
    wait::until_ok("an answer to a probe", LIMIT, || {
        let probe = probing.try_run(&["arping", "-D", "-c", "2", "-w", "3", "-I", "eth0", &ip])?;
        expect(probe.code == Some(1), || format!("{probe:?}"))
    })?;
    let free =
        probing.try_run(&["arping", "-D", "-c", "2", "-w", "3", "-I", "eth0", &format!("{first}.{second}.9.8")])?;
    ensure!(free.code == Some(0), "a free address is taken: {free:?}");
    founder.node.ping_once(&ip)?;
    Ok(())
}

#[test]
fn a_killed_router_is_back_with_all_its_hosts_and_leaves_the_bridge_as_it_was() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("killed")? else { return Ok(()) };
    let founder = Founder::new(&mut lab, &[])?;
    let mut router = lab.public("r")?;
    lab.add_bridge(&router, "br0")?;
    // Somebody is on it, so that it has a hardware address of its own.
    let still = lab.on_bridge(&router, "br0", "still")?;
    let before = tables(&router)?;
    let token = founder.token()?;
    router.start_ready(&["router", "lab", "--bridge", "br0", "--invite", &token])?;
    let guest = founder.guest(&mut lab, &router, "one", Client::Udhcpc)?;
    guest.node.ping_once(&founder.ip.to_string())?;
    router.kill();
    let at_death = wait::now();
    router.start_ready(&["up"])?;
    // Its lease goes on, and it need not do anything.
    wait::until_ok("the host reaches a member again", LIMIT, || {
        guest.node.run(&["ping", "-c", "1", "-W", "1", &founder.ip.to_string()])
    })?;
    e2e::say(&format!("a host behind a killed router was back after {:?}", at_death.elapsed()));
    ensure!(origin(&router.status()?, guest.ip).as_deref() == Some("kept"), "{:#}", router.status()?);
    router.kill();
    ensure!(router.run(&["ip", "-4", "addr", "show", "dev", "br0"])?.contains("/16"), "there is nothing to undo");
    router.start_ready(&["up"])?;
    router.interrupt()?;
    drop(guest);
    let after = tables(&router)?;
    ensure!(after.contains("br0"), "{after}");
    ensure!(after == before, "before:\n{before}\nafter:\n{after}");
    drop(still);
    Ok(())
}

#[test]
fn a_nic_in_use_is_refused_and_its_connection_moves_to_the_bridge_where_that_is_wanted() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("nic")? else { return Ok(()) };
    let founder = Founder::new(&mut lab, &[])?;
    let mut router = lab.public("r")?;
    let token = founder.token()?;
    let neighbour = lab.on_cable(&router, "eth1", "neighbour")?;
    // Nobody's connection: a bridge is made around it without a word.
    let plain = tables(&router)?;
    router.start_ready(&["router", "lab", "--bridge", "eth1", "--invite", &token, "--no-address"])?;
    let segment = founder.segment(&neighbour);
    let client = udhcpc(&segment, &[])?;
    address(&segment, &client)?;
    neighbour.ping_once(&founder.ip.to_string())?;
    drop(client);
    router.interrupt()?;
    ensure!(tables(&router)? == plain, "before:\n{plain}\nafter:\n{}", tables(&router)?);

    router.run(&["ip", "addr", "add", "198.51.100.1/24", "dev", "eth1"])?;
    router.run(&["ip", "route", "add", "192.0.2.0/24", "via", "198.51.100.2", "metric", "7"])?;
    neighbour.run(&["ip", "addr", "flush", "dev", "eth0"])?;
    neighbour.run(&["ip", "addr", "add", "198.51.100.2/24", "dev", "eth0"])?;
    let before = tables(&router)?;
    for (nic, carries) in [("eth0", "and the default route"), ("eth1", "198.51.100.1")] {
        let refused = router.overlay(&["router", "lab", "--bridge", nic, "--no-address"])?;
        ensure!(refused.code == Some(1), "{refused:?}");
        let says = &refused.stderr;
        ensure!(says.contains(carries) && says.contains("--take-nic"), "{says}");
        ensure!(tables(&router)? == before, "a refusal left traces: {}", tables(&router)?);
    }
    router.start_ready(&["router", "lab", "--bridge", "eth1", "--take-nic", "--no-address"])?;
    router.ping_once("198.51.100.2")?;
    let routes = router.run(&["ip", "-4", "route"])?;
    ensure!(routes.contains("192.0.2.0/24 via 198.51.100.2 dev br-eth1 metric 7"), "{routes}");
    let during = tables(&router)?;
    router.kill();
    router.ping_once("198.51.100.2")?;
    router.start_ready(&["up"])?;
    ensure!(tables(&router)? == during, "while it ran:\n{during}\nagain:\n{}", tables(&router)?);
    router.interrupt()?;
    ensure!(tables(&router)? == before, "before:\n{before}\nafter:\n{}", tables(&router)?);
    router.ping_once("198.51.100.2")?;

    // Its only connection, over which it is a member.
    router.start_ready(&["router", "lab", "--bridge", "eth0", "--take-nic", "--no-address"])?;
    let routes = router.run(&["ip", "-4", "route", "show", "default"])?;
    ensure!(routes.contains("via 203.0.113.1 dev br-eth0"), "{routes}");
    router.ping_once("203.0.113.1")?;
    router.interrupt()?;
    ensure!(tables(&router)? == before, "before:\n{before}\nafter:\n{}", tables(&router)?);
    Ok(())
}

#[test]
fn a_bridge_that_is_made_anew_is_joined_again() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("anew")? else { return Ok(()) };
    let founder = Founder::new(&mut lab, &[])?;
    let mut router = founder.router(&mut lab, "r", &[])?;
    let guest = founder.guest(&mut lab, &router, "one", Client::Udhcpc)?;
    guest.node.ping_once(&founder.ip.to_string())?;
    router.run(&["ip", "link", "del", "br0"])?;
    let without = "the segment is not served";
    wait::until_ok("a word about it", LIMIT, || {
        expect(router.daemon()?.said().contains(without), || "nothing was said".into())
    })?;
    lab.add_bridge(&router, "br0")?;
    router.run(&["ip", "link", "set", "one", "master", "br0"])?;
    wait::until_ok("the host reaches a member again", LIMIT, || {
        guest.node.run(&["ping", "-c", "1", "-W", "1", &founder.ip.to_string()])
    })?;
    let own = router.status()?["ip"].as_str().context("the router has an address")?.to_owned();
    guest.node.ping_once(&own)?;
    ensure!(router.daemon()?.said().matches(without).count() == 1, "{}", router.daemon()?.said());
    Ok(())
}

#[test]
fn a_plain_member_is_no_router() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("plain")? else { return Ok(()) };
    let founder = Founder::new(&mut lab, &[])?;
    let router = lab.public("r")?;
    lab.add_bridge(&router, "br0")?;
    let before = tables(&router)?;
    let ended = router.overlay(&["router", "lab", "--bridge", "br0"])?;
    ensure!(ended.stderr.contains("overlay invite lab --role router"), "{ended:?}");
    let token = founder.node.invite("lab", &[])?;
    let ended = router.overlay(&["router", "lab", "--bridge", "br0", "--invite", &token])?;
    ensure!(ended.code == Some(1) && ended.stderr.contains("--role router"), "{ended:?}");
    ensure!(tables(&router)? == before, "before:\n{before}\nafter:\n{}", tables(&router)?);
    Ok(())
}
