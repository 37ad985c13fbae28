//! Two members on one processor, and packets without end: what is no packet has its turn all the same.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e::load::{Answers, Stream, megabits};
use e2e::{Node, say, wait};

/// A last resort, not a promise: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);
/// Shorter than what is watched, so that it has to be renewed meanwhile.
const LEASE: &str = "30s";
/// How long nothing disturbs.
const CALM: Duration = Duration::from_secs(2);
/// How long it is watched.
const LONG: Duration = Duration::from_secs(20);
/// The processor.
const ON_IT: &[&str] = &["taskset", "-c", "0"];
/// All others.
const BESIDE: &[&str] = &["taskset", "-c", "1-1023"];

#[test]
fn the_programs_that_send_are_on_it_too() -> anyhow::Result<()> {
    watched("on one core", ON_IT, ON_IT)
}

#[test]
fn the_programs_that_send_have_another_processor() -> anyhow::Result<()> {
    if std::thread::available_parallelism()?.get() < 2 {
        say("SKIPPED the_programs_that_send_have_another_processor: there is one");
        return Ok(());
    }
    watched("with the sender on another core", BESIDE, BESIDE)
}

fn watched(what: &str, client: &[&str], server: &[&str]) -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("one-core")? else { return Ok(()) };
    let (mut a, mut b, mut c) = (lab.public("a")?, lab.public("b")?, lab.public("c")?);
    a.create_lab(&["--hostname", "a", "--lease", LEASE])?;
    let b_ip = b.join_lab(&a, &["--hostname", "b"])?.ip()?.to_string();
    a.ping_once(&b_ip)?;
    let token = a.invite("lab", &[])?;
    for node in [&mut a, &mut b] {
        let pid = node.daemon()?.pid().to_string();
        node.run(&["taskset", "-a", "-c", "-p", "0", &pid])?;
    }
    let (calm, ()) = Answers::during(&b, ON_IT, || Ok(wait::pause(CALM)))?;
    let ends = [lease_end(&a)?, lease_end(&b)?];
    let mut stream = Stream::start([&a, &b], &b_ip, [client, server], &["-u", "-b", "0", "-l", "64"])?;
    let start = wait::now();
    let ((answers_a, (answers_b, joined)), rates) = {
        let watched = Answers::during(&a, ON_IT, || {
            Answers::during(&b, ON_IT, || {
                let ip = c.start_ready(&["join", "lab", "--invite", &token, "--dns", "file"])?.ip()?.to_string();
                wait::until_ok("the new member", LIMIT, || b.ping_once(&ip))?;
                let joined = start.elapsed();
                wait::pause(LONG.saturating_sub(joined));
                Ok(joined)
            })
        })?;
        (watched, stream.take()?)
    };
    say(&format!("64 octets by UDP {what}: {}", megabits(&rates)));
    say(&format!("    before: {calm}"));
    say(&format!("    who sends: {answers_a}"));
    say(&format!(
        "    who receives: {answers_b}; a new member had joined and was reached after {:.1} s",
        joined.as_secs_f64()
    ));
    for (node, end) in [&a, &b].into_iter().zip(ends) {
        let renewed = lease_end(node)?.saturating_duration_since(end);
        ensure!(renewed > Duration::from_secs(2), "a lease was not renewed: {:?}", node.status()?["lease"]);
    }
    ensure!(rates.iter().sum::<f64>() > 0.0, "nothing arrives");
    Ok(())
}

/// When a member's address ends, as it says.
fn lease_end(node: &Node) -> anyhow::Result<Instant> {
    let lease = node.status()?["lease"].clone();
    let left = lease["remaining_s"].as_u64().with_context(|| lease.to_string())?;
    Ok(wait::now() + Duration::from_secs(left))
}
