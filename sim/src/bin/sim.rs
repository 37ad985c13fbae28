//! Runs random lives: `sim --seeds 1000`, or one of them with every line of its log: `sim --seed 7 --trace`.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

use std::process::ExitCode;

use sim::{Trace, scenario};

const USAGE: &str = "usage: sim [--seeds COUNT] [--from FIRST] [--seed SEED] [--trace]";

struct Arguments {
    first: u64,
    count: u64,
    trace: Trace,
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(arguments) => run(&arguments),
        Err(what) => {
            eprintln!("{what}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments { first: 1, count: 100, trace: Trace::Off };
    while let Some(word) = words.next() {
        let mut number = || {
            let text = words.next().ok_or_else(|| format!("{word} wants a number"))?;
            text.parse::<u64>().map_err(|_| format!("{text} is no number"))
        };
        match word.as_str() {
            "--seeds" => arguments.count = number()?,
            "--from" => arguments.first = number()?,
            "--seed" => (arguments.first, arguments.count) = (number()?, 1),
            "--trace" => arguments.trace = Trace::On,
            _ => return Err(format!("unknown word {word}")),
        }
    }
    Ok(arguments)
}

fn run(arguments: &Arguments) -> ExitCode {
    let mut failed = 0;
    let mut events = 0;
    for seed in arguments.first..arguments.first.saturating_add(arguments.count) {
        let (world, result) = scenario::run(seed, arguments.trace);
        for line in world.lines() {
            println!("{line}");
        }
        match result {
            Ok(report) => {
                events += report.events;
                if arguments.count == 1 {
                    println!("{report:?}");
                }
            }
            Err(failure) => {
                failed += 1;
                println!("{failure}\n  again: cargo run -p sim -- --seed {seed} --trace");
            }
        }
    }
    println!("{} seeds, {failed} failed, {events} events", arguments.count);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
