//! Pairs stay connected while the network around them changes, and what runs over them survives.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e::{Edge, Node, Pair, Process, say, wait};
use rustix::process::Signal;

/// A last resort, not a promise: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);

/// A TCP stream from `b` to `a` that lasts while something is done to the network, and what was seen of it.
struct Stream {
    server: Process,
    client: Process,
}

impl Stream {
    fn start(pair: &Pair) -> anyhow::Result<Self> {
        let mut server = pair.b.spawn(&["iperf3", "-s", "-1", "-i", "0.5", "--forceflush", "-f", "k"])?;
        server.wait_for_line(LIMIT, |line| line.contains("Server listening"))?;
        let client =
            pair.a.spawn(&["iperf3", "-c", &pair.b_ip, "-t", "30", "-b", "2M", "--connect-timeout", "5000"])?;
        wait::pause(Duration::from_secs(3));
        Ok(Self { server, client })
    }

    /// The longest time in which nothing arrived, once all of it has ended well.
    fn longest_gap(self) -> anyhow::Result<Duration> {
        self.client.finish(LIMIT)?.ok().context("the stream did not survive")?;
        let report = self.server.finish(LIMIT)?.ok()?;
        let intervals = report.lines().filter(|line| line.contains("sec") && !line.contains("receiver"));
        let dark = intervals.map(|line| line.contains(" 0.00 Bytes")).collect::<Vec<_>>();
        ensure!(dark.len() > 40, "too few intervals: {report}");
        let longest = dark.split(|dark| !dark).map(<[bool]>::len).max().unwrap_or_default();
        Ok(Duration::from_millis(500) * u32::try_from(longest)?)
    }
}

/// Two members with a direct way, and what becomes of a stream between them when `change` is done.
fn survives(name: &str, edges: [Edge; 2], change: impl FnOnce(&mut Pair) -> anyhow::Result<()>) -> anyhow::Result<()> {
    goes_on(name, edges, "direct", change)
}

/// The same, where they take such a way after it.
fn goes_on(
    name: &str,
    edges: [Edge; 2],
    way: &str,
    change: impl FnOnce(&mut Pair) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let Some(mut pair) = Pair::new(name, edges, 1)? else { return Ok(()) };
    pair.first_packet(LIMIT)?;
    pair.wait_path("direct", LIMIT)?;
    let stream = Stream::start(&pair)?;
    change(&mut pair)?;
    let changed: Instant = wait::now();
    pair.wait_path(way, LIMIT)?;
    let took = changed.elapsed();
    let gap = stream.longest_gap()?;
    say(&format!("{name}: nothing arrived for {gap:?} at most, {way} {:.1} s after the change", took.as_secs_f64()));
    ensure!(gap < Duration::from_secs(15) && took < Duration::from_secs(40), "dark for {gap:?}, {way} after {took:?}");
    Ok(())
}

#[test]
fn a_router_that_forgets_all_flows() -> anyhow::Result<()> {
    survives("forgets", [Edge::Home, Edge::Home], |pair| pair.routers[0].forget())
}

#[test]
fn a_router_that_comes_back_with_other_ports() -> anyhow::Result<()> {
    survives("other-ports", [Edge::Home, Edge::Home], |pair| pair.routers[0].become_a(Edge::HomeOtherPort))
}

#[test]
fn routers_that_begin_to_draw_their_ports() -> anyhow::Result<()> {
    goes_on("symmetric", [Edge::Home, Edge::Home], "relay", |pair| {
        pair.routers.iter().try_for_each(|router| router.become_a(Edge::SymmetricRandom))
    })
}

#[test]
fn a_line_that_carries_less_than_before() -> anyhow::Result<()> {
    survives("narrower", [Edge::Home, Edge::Home], |pair| {
        // What the stream's segments come to is too big for it, and the router says so.
        pair.routers[0].run(&["ip", "link", "set", "dev", "wan", "mtu", "1280"])?;
        Ok(())
    })
}

#[test]
fn a_machine_that_gets_another_address() -> anyhow::Result<()> {
    survives("readdressed", [Edge::Home, Edge::Home], |pair| {
        let old = format!("{}/24", pair.a.underlay());
        let new = old.replace(".2/24", ".77/24");
        let gateway = old.replace(".2/24", ".1");
        pair.a.run(&["ip", "addr", "del", &old, "dev", "eth0"])?;
        pair.a.run(&["ip", "addr", "add", &new, "dev", "eth0"])?;
        pair.a.run(&["ip", "route", "replace", "default", "via", &gateway, "dev", "eth0"])?;
        Ok(())
    })
}

#[test]
fn a_machine_with_two_uplinks_loses_one_and_gets_it_back() -> anyhow::Result<()> {
    survives("uplinks", [Edge::Home, Edge::Home], |pair| {
        let mut other = pair.lab.router(Edge::Home)?;
        other.second_uplink(&pair.a, "eth1")?;
        pair.a.run(&["ip", "link", "set", "eth0", "down"])?;
        let took = pair.wait_path("direct", LIMIT)?;
        say(&format!("by the second uplink: direct {:.1} s after the first one was gone", took.as_secs_f64()));
        let old = format!("{}/24", pair.a.underlay());
        pair.a.run(&["ip", "link", "set", "eth0", "up"])?;
        let gateway = old.replace(".2/24", ".1");
        pair.a.run(&["ip", "route", "replace", "default", "via", &gateway, "dev", "eth0", "metric", "100"])?;
        pair.routers.push(other);
        Ok(())
    })
}

/// Somebody sends all of a machine's packets through the overlay, its own datagrams among them. Those must not go in circles,
/// and all is as before once the route is gone.
#[test]
fn a_default_route_into_the_tunnel() -> anyhow::Result<()> {
    let Some(mut pair) = Pair::new("circle", [Edge::Home, Edge::Home], 1)? else { return Ok(()) };
    pair.first_packet(LIMIT)?;
    pair.wait_path("direct", LIMIT)?;
    for half in ["0.0.0.0/1", "128.0.0.0/1"] {
        pair.a.run(&["ip", "route", "add", half, "dev", "ov-lab"])?;
    }
    let received = |node: &Node| -> anyhow::Result<u64> {
        Ok(node.run(&["cat", "/sys/class/net/ov-lab/statistics/rx_packets"])?.trim().parse()?)
    };
    let before = received(&pair.b)?;
    let stranger = pair.a.try_run(&["ping", "-c", "3", "-i", "0.2", "-W", "1", "198.51.100.7"])?;
    wait::pause(Duration::from_secs(5));
    ensure!(stranger.ok().is_err(), "who has answered?");
    let came = received(&pair.b)? - before;
    ensure!(came < 100, "{came} packets in a circle");
    ensure!(pair.a.daemon()?.is_running(), "the daemon has ended");
    for half in ["0.0.0.0/1", "128.0.0.0/1"] {
        pair.a.run(&["ip", "route", "del", half, "dev", "ov-lab"])?;
    }
    let began = wait::now();
    pair.first_packet(LIMIT)?;
    let first = began.elapsed();
    pair.wait_path("direct", LIMIT)?;
    say(&format!("no circle; answered {:.1} s after the route was gone", first.as_secs_f64()));
    Ok(())
}

/// As a suspended machine: its translators forget it, its peers give it up.
#[test]
fn a_program_that_was_stopped_for_ten_seconds() -> anyhow::Result<()> {
    let Some(mut pair) = Pair::new("stopped", [Edge::Home, Edge::Home], 1)? else { return Ok(()) };
    for router in &pair.routers {
        router.run(&[
            "sysctl",
            "-qw",
            "net.netfilter.nf_conntrack_udp_timeout=2",
            "net.netfilter.nf_conntrack_udp_timeout_stream=2",
        ])?;
    }
    pair.first_packet(LIMIT)?;
    pair.wait_path("direct", LIMIT)?;
    pair.a.daemon()?.signal(Signal::STOP)?;
    wait::pause(Duration::from_secs(10));
    pair.a.daemon()?.signal(Signal::CONT)?;
    let resumed = wait::now();
    let answered = || pair.a.run(&["ping", "-c", "1", "-W", "0.3", &pair.b_ip]);
    wait::until_ok("an answer", LIMIT, answered)?;
    let first = resumed.elapsed();
    pair.wait_path("direct", LIMIT)?;
    let direct = resumed.elapsed();
    let [first_s, direct_s] = [first, direct].map(|time| time.as_secs_f64());
    say(&format!("stopped: an answer {first_s:.2} s after going on, direct {direct_s:.1} s after"));
    ensure!(first < Duration::from_secs(10) && direct < Duration::from_secs(40), "{first:?}, {direct:?}");
    Ok(())
}
