//! How much memory a member takes does not depend on how much it carries.

use std::time::Duration;

use anyhow::ensure;
use e2e::load::{Resident, Stream, mean};
use e2e::{Node, say, wait};

/// Of each kind of load, each time.
const LONG: Duration = Duration::from_secs(10);
/// So much more may be resident after the second time than after the first, in KiB. What packets leave behind would be more:
/// gigabytes pass.
const GROWTH: u64 = 1024;
/// What a member may take at most, in KiB.
const MOST: u64 = 40 * 1024;

#[test]
fn packets_leave_no_memory_behind() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("memory")? else { return Ok(()) };
    let (mut a, mut b) = (lab.public("a")?, lab.public("b")?);
    a.create_lab(&["--hostname", "a"])?;
    let b_ip = b.join_lab(&a, &["--hostname", "b"])?.ip()?.to_string();
    a.ping_once(&b_ip)?;
    say(&format!("before: sends {}; receives {}", a.resident()?, b.resident()?));
    let first = load([&mut a, &mut b], &b_ip)?;
    let second = load([&mut a, &mut b], &b_ip)?;
    for (first, second) in first.into_iter().zip(second) {
        ensure!(second.own < first.own + GROWTH, "{first}, then {second}");
        ensure!(second.all() < MOST, "{second}");
    }
    Ok(())
}

/// A stream, then small datagrams as fast as they go. What sender and receiver take afterwards.
fn load([from, to]: [&mut Node; 2], ip: &str) -> anyhow::Result<[Resident; 2]> {
    for (what, options) in [("TCP", &["-C", "cubic"][..]), ("64 octets by UDP", &["-u", "-b", "0", "-l", "64"])] {
        let mut stream = Stream::start([from, to], ip, [&[], &[]], options)?;
        wait::pause(LONG);
        let rate = mean(&stream.take()?);
        ensure!(rate > 0.0, "{what}: nothing arrives");
        let (sends, receives) = (from.resident()?, to.resident()?);
        say(&format!("{what}, {:.0} Mbit/s: sends {sends}; receives {receives}", rate / 1e6));
    }
    Ok([from.resident()?, to.resident()?])
}
