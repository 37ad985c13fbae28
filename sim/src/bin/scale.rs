//! What grows with the number of members: `scale kad 1000`, `scale crowd 1000`. `cargo xtask scale` runs it all.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::time::Duration;

use dht::Image;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sim::scale::crowd::{Crowd, Plan, load_replica};
use sim::scale::figures::Samples;
use sim::scale::lookup::look_up;
use sim::scale::table::Tables;
use sim::scale::{Line, nats, whole};

const USAGE: &str = "\
usage: scale kad NODES [SEED]                    the model of routing tables and lookups
       scale crowd MEMBERS [MINUTES [SEED]]      all members in virtual time; so many minutes steady, so many of churn
       scale nats MEMBERS [TALKS [SEED]]         the model of direct paths and relays; each talks to so many others
       scale whole MEMBERS [SEED]                whole nodes behind edges of all kinds, each of whom talks to one other
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
        ["nats", members] => number(members).and_then(|members| nats(members, 10, 1)),
        ["nats", members, talks] => number(members).and_then(|members| nats(members, number(talks)?, 1)),
        ["nats", members, talks, seed] => {
            number(members).and_then(|members| nats(members, number(talks)?, number(seed)?))
        }
        ["whole", members] => number(members).and_then(|members| whole(members, 1)),
        ["whole", members, seed] => number(members).and_then(|members| whole(members, number(seed)?)),
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

/// As a share, in per cent.
fn percent(part: usize, of: usize) -> String {
    let tenths = part * 1000 / of.max(1);
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn nats(members: u32, talks: u32, seed: u64) -> Result<(), String> {
    if members < 2 {
        return Err("at least two members".to_owned());
    }
    let load = nats::load(members, talks, seed);
    println!(
        "{}",
        Line::new("nats")
            .with("n", members)
            .with("talks", talks)
            .with("voters", load.voters)
            .with("pairs", load.pairs)
            .with("direct", percent(load.direct, load.pairs))
            .with("direct_translated", percent(load.translated.1, load.translated.0))
            .with("relayed", load.pairs - load.direct)
            .measured("carried", &load.carried, Samples::mean)
            .measured("carried_most", &load.carried, |it| it.quantile(1.0))
            .measured("circuits", &load.circuits, Samples::mean)
            .measured("circuits_most", &load.circuits, |it| it.quantile(1.0))
            .with("refused", load.refused)
            .with("unconnected", load.unconnected)
            .measured("ms_relayed", &load.delays.0, |it| it.quantile(0.5))
            .measured("ms_straight", &load.delays.1, |it| it.quantile(0.5))
    );
    Ok(())
}

fn whole(members: u32, seed: u64) -> Result<(), String> {
    let seen = whole::run(members, seed).map_err(|failure| failure.to_string())?;
    println!(
        "{}",
        Line::new("whole")
            .with("n", members)
            .with("voters", seen.voters)
            .with("pairs", seen.pairs)
            .with("answered", percent(seen.answered, seen.pairs))
            .with("direct", percent(seen.direct, seen.pairs))
            .with("predicted", percent(seen.predicted, seen.pairs))
            .with("relays", seen.carried.len())
            .with("carried_most", seen.carried.values().max().copied().unwrap_or_default())
            .with("events", seen.events)
            .with("wrong", seen.wrong.join(","))
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
