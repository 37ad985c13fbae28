//! Nine machines, five addresses, and everything that goes wrong: at no time has an address two users.
//!
//! `OVERLAY_NEMESIS_S` says for how many seconds things go wrong (100 if not set), `OVERLAY_NEMESIS_SEED` what (something
//! else each time if not set; the seed is told). With `OVERLAY_LAB_LOGS=<directory>` the daemons' words are kept there. For
//! an hour of it:
//!
//! ```text
//! OVERLAY_NEMESIS_S=3600 cargo test --release -p e2e one_owner_nine_nodes -- --nocapture
//! ```

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use e2e::nemesis::Nemesis;
use e2e::watcher::Watcher;
use e2e::{Nine, say, wait};

/// The shortest that can be asked for.
const LEASE: Duration = Duration::from_secs(30);
/// A last resort, not a promise: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(300);

/// Six addresses, of which the first is the service's: four of nine machines always want what others have.
const RANGE: &str = "10.99.0.0/29";
const CLAIMABLE: usize = 5;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[expect(clippy::disallowed_methods, reason = "any number will do for a seed, and it is told")]
fn seed() -> u64 {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    number("OVERLAY_NEMESIS_SEED").unwrap_or_else(now)
}

/// All addresses are in use, each by one machine.
fn all_taken(nine: &Nine) -> anyhow::Result<Vec<Ipv4Addr>> {
    let all = nine.addresses();
    let distinct: BTreeSet<Ipv4Addr> = all.iter().flatten().copied().collect();
    let held = all.iter().flatten().count();
    ensure!(held == distinct.len(), "one address twice: {all:?}");
    ensure!(held == CLAIMABLE, "{held} of {CLAIMABLE} addresses are in use: {all:?}");
    Ok(distinct.into_iter().collect())
}

/// And when everything is mended, every address is in use again.
#[test]
fn no_address_has_two_users_whatever_goes_wrong() -> anyhow::Result<()> {
    let Some(mut nine) = Nine::new("nemesis", 9)? else { return Ok(()) };
    let (seed, duration) = (seed(), Duration::from_secs(number("OVERLAY_NEMESIS_S").unwrap_or(100)));
    say(&format!("nemesis: seed {seed}, {} s; replay with OVERLAY_NEMESIS_SEED={seed}", duration.as_secs()));
    let range: Vec<Ipv4Addr> = (1..=6).map(|last| Ipv4Addr::new(10, 99, 0, last)).collect();
    let watcher = Watcher::start(&nine.nodes, range.clone(), LEASE)?;
    nine.found(&["--range", RANGE, "--lease", "30s"])?;
    wait::until_ok("all addresses to be in use", LIMIT, || all_taken(&nine))?;
    nine.wait_view(0, 3, LIMIT)?;

    let mut nemesis = Nemesis::new(seed, nine.nodes.len(), LEASE);
    nemesis.run(&mut nine, &watcher, duration)?;
    say(&format!("{}\n{}", nemesis.summary(), watcher.verdict()));
    let after = wait::until_ok("all addresses to be in use again", LIMIT, || all_taken(&nine));
    let verdict = watcher.finish()?;
    say(&verdict.to_string());
    ensure!(verdict.faults.is_empty(), "{verdict}\n{}\n{}", nemesis.summary(), nemesis.log());
    after.with_context(|| format!("{}\n{}\n{}", nine.owners(&range), nine.report(), nemesis.log()))?;
    // A watcher that was blind would have found nothing either.
    ensure!(verdict.uses > 0 && verdict.users > CLAIMABLE && verdict.addresses == CLAIMABLE, "{verdict}");
    Ok(())
}
