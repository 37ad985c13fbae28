//! Runs register lives on all cores: `registers --seeds 100000`, or one of them with every line: `registers --seed 7 --trace`.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dht::Rules;
use sim::register::{Life, run};

const USAGE: &str = "\
usage: registers [--seeds COUNT] [--from FIRST] [--seed SEED] [--trace] [--faults SECONDS] [--without RULE] [--stop]
  --without RULE   switches a rule of the protocol off: wedge, transfer, guarded, op_seq_compared, count_from_send
  --stop           ends with the first failure";

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(arguments) => all(&arguments),
        Err(what) => {
            eprintln!("{what}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

struct Arguments {
    first: u64,
    count: u64,
    life: Life,
    stop: bool,
    words: String,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments { first: 1, count: 1000, life: Life::new(0), stop: false, words: String::new() };
    while let Some(word) = words.next() {
        let mut text = || words.next().ok_or_else(|| format!("{word} wants something after it"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text} is no number"));
        match word.as_str() {
            "--seeds" => arguments.count = number(text()?)?,
            "--from" => arguments.first = number(text()?)?,
            "--seed" => (arguments.first, arguments.count) = (number(text()?)?, 1),
            "--faults" => {
                let seconds = number(text()?)?;
                arguments.life.faults = Duration::from_secs(seconds);
                arguments.words.push_str(&format!(" --faults {seconds}"));
            }
            "--without" => {
                let rule = text()?;
                switch_off(&mut arguments.life.rules, &rule)?;
                arguments.words.push_str(&format!(" --without {rule}"));
            }
            "--trace" => arguments.life.trace = true,
            "--stop" => arguments.stop = true,
            _ => return Err(format!("unknown word {word}")),
        }
    }
    Ok(arguments)
}

fn switch_off(rules: &mut Rules, rule: &str) -> Result<(), String> {
    match rule {
        "wedge" => rules.wedge = false,
        "transfer" => rules.transfer = false,
        "guarded" => rules.guarded = false,
        "op_seq_compared" => rules.op_seq_compared = false,
        "count_from_send" => rules.count_from_send = false,
        "active_reads" => rules.active_reads = false,
        "snapshot_after_wedge" => rules.snapshot_after_wedge = false,
        "transferring_has_no_vote" => rules.transferring_has_no_vote = false,
        "repropose_runs_phase_1" => rules.repropose_runs_phase_1 = false,
        "promises_kept" => rules.promises_kept = false,
        _ => return Err(format!("no rule is called {rule}")),
    }
    Ok(())
}

#[derive(Default)]
struct Totals {
    failed: u64,
    grants: u64,
    renewals: u64,
    refusals: u64,
    reads: u64,
    views: u64,
    messages: u64,
    faults: std::collections::BTreeMap<&'static str, u64>,
}

fn all(arguments: &Arguments) -> ExitCode {
    let next = AtomicU64::new(arguments.first);
    let end = arguments.first.saturating_add(arguments.count);
    let totals = Mutex::new(Totals::default());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let (report, result) = run(Life { seed, ..arguments.life });
                    let Ok(mut totals) = totals.lock() else { return };
                    totals.grants += report.counts.grants;
                    totals.renewals += report.counts.renewals;
                    totals.refusals += report.counts.refusals;
                    totals.reads += report.counts.reads;
                    totals.messages += report.counts.messages;
                    totals.views += report.views;
                    for (name, count) in report.faults {
                        *totals.faults.entry(name).or_default() += count;
                    }
                    if let Err(failure) = result {
                        totals.failed += 1;
                        println!("seed {seed}: {failure}");
                        let words = &arguments.words;
                        println!("  again: cargo run --release -p sim --bin registers -- --seed {seed} --trace{words}");
                        if arguments.stop {
                            next.store(end, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let Ok(totals) = totals.into_inner() else { return ExitCode::FAILURE };
    println!(
        "{} seeds, {} failed: {} grants, {} renewals, {} refusals, {} reads, {} view changes, {} messages",
        next.load(Ordering::Relaxed).min(end) - arguments.first,
        totals.failed,
        totals.grants,
        totals.renewals,
        totals.refusals,
        totals.reads,
        totals.views,
        totals.messages
    );
    println!("faults: {:?}", totals.faults);
    let lived = next.load(Ordering::Relaxed).min(end) - arguments.first;
    let word = if totals.failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {word}. {} passed; {} failed; 0 ignored", lived - totals.failed, totals.failed);
    if totals.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
