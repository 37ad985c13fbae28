//! Two members on one processor, and packets without end: what is no packet has its turn all the same.
//!
//! Packet threads go before all others there as long as their work ends. That control has its turn shows in that the status is
//! told: the daemon itself waits for it for five seconds at most.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e::load::{Answers, Stream};
use e2e::{Lab, Node, Process, peer, say, wait};

/// A last resort, not a promise: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);
/// Shorter than what is watched, so that it has to be renewed meanwhile.
const LEASE: &str = "30s";
/// How long nothing disturbs.
const CALM: Duration = Duration::from_secs(2);
/// How long it is watched.
const LONG: Duration = Duration::from_secs(16);
/// The processor.
const ON_IT: &[&str] = &["taskset", "-c", "0"];
/// All others.
const BESIDE: &[&str] = &["taskset", "-c", "1-1023"];

#[test]
fn packets_of_programs_that_are_on_it_too() -> anyhow::Result<()> {
    watched("64 octets by UDP, all on one core", |scene| scene.stream(ON_IT))
}

#[test]
fn packets_of_programs_with_a_processor_of_their_own() -> anyhow::Result<()> {
    beside("64 octets by UDP, programs on another core", |scene| scene.stream(BESIDE))
}

#[test]
fn packets_that_go_nowhere() -> anyhow::Result<()> {
    beside("broadcast frames from another core", |scene| {
        let everybody = format!("{}:9", scene.broadcast);
        let command = [BESIDE, &[env!("CARGO_BIN_EXE_flood"), "garbage", &everybody]].concat();
        Ok(vec![scene.a.spawn(&command)?, scene.b.spawn(&command)?])
    })
}

#[test]
fn packets_for_the_service() -> anyhow::Result<()> {
    beside("datagrams for the service from another core", |scene| {
        let service = scene.a.status()?["dns"].as_str().context("the name server's address")?.to_owned();
        let service = format!("{service}:9");
        let command = [BESIDE, &[env!("CARGO_BIN_EXE_flood"), "garbage", &service]].concat();
        Ok(vec![scene.a.spawn(&command)?, scene.b.spawn(&command)?])
    })
}

#[test]
fn garbage_of_a_stranger() -> anyhow::Result<()> {
    beside("garbage from another core", |scene| {
        let target = peer(&scene.a, "b")?["endpoint"].as_str().context("a has a way to b")?.to_owned();
        let command = [BESIDE, &[env!("CARGO_BIN_EXE_flood"), "garbage", &target]].concat();
        Ok(vec![scene.d.spawn(&command)?])
    })
}

/// As [`watched`], where there is another processor.
fn beside(what: &str, load: impl FnOnce(&Scene) -> anyhow::Result<Vec<Process>>) -> anyhow::Result<()> {
    if std::thread::available_parallelism()?.get() < 2 {
        say(&format!("SKIPPED {what}: there is one processor"));
        return Ok(());
    }
    watched(what, load)
}

/// Both members are on one processor, and under load they answer, renew their addresses and take a new member in.
fn watched(what: &str, load: impl FnOnce(&Scene) -> anyhow::Result<Vec<Process>>) -> anyhow::Result<()> {
    let Some(mut scene) = Scene::new()? else { return Ok(()) };
    let (calm, ()) = Answers::during(&scene.b, ON_IT, || {
        wait::pause(CALM);
        Ok(())
    })?;
    let ends = [lease_end(&scene.a)?, lease_end(&scene.b)?];
    let load = load(&scene)?;
    let start = wait::now();
    let Scene { a, b, c, token, .. } = &mut scene;
    let (of_a, (of_b, joined)) = Answers::during(a, ON_IT, || {
        Answers::during(b, ON_IT, || {
            let ip = c.start_ready(&["join", "lab", "--invite", token, "--dns", "file"])?.ip()?.to_string();
            wait::until_ok("the new member", LIMIT, || b.ping_once(&ip))?;
            let joined = start.elapsed();
            wait::pause(LONG.saturating_sub(joined));
            Ok(joined)
        })
    })?;
    let joined = joined.as_secs_f64();
    say(&format!("{what}; before: {calm}"));
    say(&format!("    {of_a}; {of_b}; a new member had joined and was answered after {joined:.1} s"));
    let said: Vec<String> = load.iter().map(|process| process.said()).collect();
    say(&format!("    {}", said.iter().filter_map(|said| said.lines().last()).collect::<Vec<_>>().join("; ")));
    drop(load);
    for (node, end) in [&*a, &*b].into_iter().zip(ends) {
        let renewed = lease_end(node)?.saturating_duration_since(end);
        ensure!(renewed > Duration::from_secs(2), "a lease was not renewed: {:?}", node.status()?["lease"]);
    }
    Ok(())
}

/// `a` and `b` are members, `c` is about to be one, and `d` is a stranger.
struct Scene {
    a: Node,
    b: Node,
    c: Node,
    d: Node,
    b_ip: String,
    broadcast: Ipv4Addr,
    token: String,
    _lab: Lab,
}

impl Scene {
    fn new() -> anyhow::Result<Option<Self>> {
        let Some(mut lab) = e2e::lab("one-core")? else { return Ok(None) };
        let (mut a, mut b, c, d) = (lab.public("a")?, lab.public("b")?, lab.public("c")?, lab.public("d")?);
        let (ip, prefix) = a.create_lab(&["--hostname", "a", "--lease", LEASE])?.address.context("a has an address")?;
        let broadcast = Ipv4Addr::from_bits(ip.to_bits() | u32::MAX >> prefix);
        let b_ip = b.join_lab(&a, &["--hostname", "b"])?.ip()?.to_string();
        a.ping_once(&b_ip)?;
        for node in [&mut a, &mut b] {
            let pid = node.daemon()?.pid().to_string();
            node.run(&["taskset", "-a", "-c", "-p", "0", &pid])?;
        }
        let token = a.invite("lab", &[])?;
        Ok(Some(Self { a, b, c, d, b_ip, broadcast, token, _lab: lab }))
    }

    /// Datagrams of 64 octets from one member to the other, as fast as iperf3 can.
    fn stream(&self, by: &[&str]) -> anyhow::Result<Vec<Process>> {
        Ok(Stream::start([&self.a, &self.b], &self.b_ip, [by, by], &["-u", "-b", "0", "-l", "64"])?.into_processes())
    }
}

/// When a member's address ends, as it says.
fn lease_end(node: &Node) -> anyhow::Result<Instant> {
    let lease = node.status()?["lease"].clone();
    let left = lease["remaining_s"].as_u64().with_context(|| lease.to_string())?;
    Ok(wait::now() + Duration::from_secs(left))
}
