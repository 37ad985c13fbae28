//! What grows with the number of members: `scale kad 1000`, `scale crowd 1000`. `cargo xtask scale` runs it all.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::time::Duration;

use dht::Image;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sim::scale::Line;
use sim::scale::crowd::{Crowd, Plan, load_replica};
use sim::scale::figures::Samples;
use sim::scale::lookup::look_up;
use sim::scale::table::Tables;

const USAGE: &str = "\
usage: scale kad NODES [SEED]                    the model of routing tables and lookups
       scale crowd MEMBERS [MINUTES [SEED]]      all members in virtual time; so many minutes steady, so many of churn
       scale replica FILE MEMBERS                  what one replica with this store costs in memory";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["kad", nodes] => number(nodes).and_then(|nodes| kad(nodes, 1)),
        ["kad", nodes, seed] => number(nodes).and_then(|nodes| kad(nodes, number(seed)?)),
        ["crowd", members] => number(members).and_then(|members| crowd(members, 60, 1)),
        ["crowd", members, minutes] => number(members).and_then(|members| crowd(members, number(minutes)?, 1)),
        ["crowd", members, minutes, seed] => {
            number(members).and_then(|members| crowd(members, number(minutes)?, number(seed)?))
        }
        ["replica", file, members] => number(members).and_then(|members| replica(file, members)),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is no number\n{USAGE}"))
}

/// Lookups that are made in one network.
const LOOKUPS: u32 = 1000;

#[expect(clippy::cast_precision_loss, reason = "counts of entries and buckets")]
fn kad(nodes: u32, seed: u64) -> Result<(), String> {
    if nodes == 0 {
        return Err("at least one node".to_owned());
    }
    let tables = Tables::new(nodes as usize, seed);
    let rng = &mut ChaCha8Rng::seed_from_u64(!seed);
    let [mut known, mut hops, mut rounds, mut requests, mut refresh] = [const { Samples::new() }; 5];
    let mut found = 0;
    let mut share = BTreeMap::<u32, u32>::new();
    for node in 0..nodes {
        known.add(tables.known(node) as f64);
        refresh.add(tables.buckets(node).len() as f64);
    }
    for _ in 0..LOOKUPS {
        let (asker, target) = (rng.random_range(0..nodes), tables.name(rng.random_range(0..nodes)));
        let lookup = look_up(&tables, asker, target, rng);
        hops.add(lookup.hops.into());
        *share.entry(lookup.hops).or_insert(0) += 1;
        rounds.add(lookup.rounds);
        found += u32::from(lookup.found);
    }
    for _ in 0..LOOKUPS {
        let asker = rng.random_range(0..nodes);
        requests.add(look_up(&tables, asker, rng.next_u64(), rng).requests.into());
    }
    println!(
        "{}",
        Line::new("kad")
            .with("n", nodes)
            .number("table", known.mean())
            .number("hops", hops.mean())
            .number("hops99", hops.quantile(0.99))
            .number("hops_most", hops.quantile(1.0))
            .number("rounds", rounds.mean())
            .number("rounds99", rounds.quantile(0.99))
            .number("requests", requests.mean())
            .number("requests99", requests.quantile(0.99))
            // One lookup of itself and one for each bucket but the nearest.
            .number("refresh_lookups", refresh.mean())
            .with("share", share.iter().map(|(hops, count)| format!("{hops}:{count}")).collect::<Vec<_>>().join(","))
            .with("lookups", LOOKUPS)
            .with("found", found)
    );
    Ok(())
}

fn plan(members: u32, minutes: u64, seed: u64) -> Result<Plan, String> {
    let range = if members > 30_000 { "10.64.0.0/14" } else { "10.64.0.0/16" };
    let time = Duration::from_secs(minutes * 60);
    Ok(Plan {
        seed,
        members,
        founders: 5,
        range: range.parse().map_err(|_| "a range".to_owned())?,
        lease: Duration::from_secs(3600),
        // As long as it takes from one renewal to the next, so that the renewals are spread evenly afterwards.
        joining: Duration::from_secs(990),
        steady: time,
        churning: time,
        churn: 0.3,
    })
}

fn crowd(members: u32, minutes: u64, seed: u64) -> Result<(), String> {
    let plan = plan(members, minutes, seed)?;
    let before = resident();
    let mut crowd = Crowd::new(plan);
    let report = |crowd: &mut Crowd, what: &str, time: Duration| {
        let line = crowd.take(what, time);
        let (addresses, twice) = crowd.owners();
        let ignored = crowd.ignored();
        println!(
            "{}",
            line.with("ignored", if ignored.is_empty() { "nothing" } else { &ignored })
                .with("addresses", addresses)
                .with("twice", twice)
                .with("rss_kb", resident())
        );
    };
    // A minute more, for the last one to come.
    let joining = plan.joining + Duration::from_secs(60);
    crowd.run(joining);
    report(&mut crowd, "join", joining);
    let each = (resident() - before) / u64::from(members);
    println!("{}", Line::new("memory").with("n", members).with("member_kb", each));
    crowd.run(plan.steady);
    report(&mut crowd, "steady", plan.steady);
    crowd.begin_churning();
    crowd.run(plan.churning);
    report(&mut crowd, "churn", plan.churning);
    weigh(&crowd, members)
}

/// Resident memory of this process, in kB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// Loads one replica's disk in a process of its own, whose memory nothing else has used before.
fn weigh(crowd: &Crowd, members: u32) -> Result<(), String> {
    let file = std::env::temp_dir().join(format!("overlay-scale-{}-{members}", std::process::id()));
    let told = |error: std::io::Error| error.to_string();
    let program = std::env::current_exe().map_err(told)?;
    std::fs::write(&file, pack(crowd.disk(0))).map_err(told)?;
    let ended = Command::new(program).arg("replica").arg(&file).arg(members.to_string()).status();
    std::fs::remove_file(&file).map_err(told)?;
    if ended.map_err(told)?.success() { Ok(()) } else { Err("the replica could not be loaded".to_owned()) }
}

fn replica(file: &str, members: u32) -> Result<(), String> {
    let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
    let image = unpack(&bytes);
    drop(bytes);
    let stored: usize = image.iter().map(|(key, value)| key.len() + value.len()).sum();
    let registers = image.keys().filter(|key| key.starts_with(b"cell/")).count();
    let plan = plan(members, 0, 1)?;
    let (before, entries) = (resident(), image.len());
    let namespace = load_replica(&plan, image);
    let after = resident();
    println!(
        "{}",
        Line::new("replica")
            .with("n", members)
            .with("registers", registers)
            .with("entries", entries)
            .with("store_kb", stored / 1024)
            .with("memory_kb", after.saturating_sub(before))
    );
    drop(namespace);
    Ok(())
}

/// Each part after its length.
fn pack(image: &Image) -> Vec<u8> {
    let parts = image.iter().flat_map(|(key, value)| [key, value]);
    parts.flat_map(|part| (part.len() as u64).to_be_bytes().into_iter().chain(part.iter().copied())).collect()
}

fn unpack(mut bytes: &[u8]) -> Image {
    let mut part = || {
        let (length, rest) = bytes.split_first_chunk()?;
        let (part, rest) = rest.split_at_checked(usize::try_from(u64::from_be_bytes(*length)).ok()?)?;
        bytes = rest;
        Some(part.to_vec())
    };
    std::iter::from_fn(|| Some((part()?, part()?))).collect()
}
