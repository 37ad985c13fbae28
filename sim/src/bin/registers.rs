//! Runs register lives on all cores: `registers --seeds 100000`, or one of them with every line: `registers --seed 7 --trace`.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use sim::register::lives::{Batch, run_all};
use sim::register::{Life, mutants, schedules};

const USAGE: &str = "\
usage: registers [--seeds COUNT] [--from FIRST] [--seed SEED] [--trace] [--faults SECONDS] [--without MUTANT] [--stop]
       registers --mutants [--seeds COUNT] [--from FIRST]
  --without MUTANT  takes something away from the protocol; --mutants names them all
  --stop            ends with the first failure
  --mutants         says for each mutant which schedule notices it, and after how many seeds a random life does";

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(arguments) if arguments.mutants => table(&arguments),
        Ok(arguments) => all(&arguments),
        Err(what) => {
            eprintln!("{what}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

struct Arguments {
    batch: Batch,
    words: String,
    mutants: bool,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let (mut first, mut count) = (1, 1000);
    let (mut life, mut first_failure, mut repeat, mut mutants) = (Life::new(0), false, String::new(), false);
    while let Some(word) = words.next() {
        let mut text = || words.next().ok_or_else(|| format!("{word} wants something after it"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text} is no number"));
        match word.as_str() {
            "--seeds" => count = number(text()?)?,
            "--from" => first = number(text()?)?,
            "--seed" => (first, count) = (number(text()?)?, 1),
            "--faults" => {
                let seconds = number(text()?)?;
                life.faults = Duration::from_secs(seconds);
                repeat.push_str(&format!(" --faults {seconds}"));
            }
            "--without" => {
                let name = text()?;
                let mutant = mutants::find(&name).ok_or_else(|| format!("no mutant is called {name}"))?;
                (mutant.take)(&mut life);
                repeat.push_str(&format!(" --without {name}"));
            }
            "--trace" => life.trace = true,
            "--stop" => first_failure = true,
            "--mutants" => mutants = true,
            _ => return Err(format!("unknown word {word}")),
        }
    }
    let batch = Batch { seeds: first..first.saturating_add(count), first_failure, life };
    Ok(Arguments { batch, words: repeat, mutants })
}

fn all(arguments: &Arguments) -> ExitCode {
    let began = now();
    let totals = run_all(&arguments.batch, |seed, failure| println!("seed {seed}: {failure}"));
    print!("{}", totals.failures(&arguments.words));
    println!("{totals}\n  {:.0} s", now().duration_since(began).as_secs_f64());
    let failed = u64::try_from(totals.failed.len()).unwrap_or(u64::MAX);
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {word}. {} passed; {failed} failed; 0 ignored", totals.lives - failed);
    if totals.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One line for each mutant, as in `docs/register-lives.md`.
fn table(arguments: &Arguments) -> ExitCode {
    println!("| missing | schedule that notices | lives until one notices | what it notices |\n|---|---|---|---|");
    for mutant in mutants::RULES.iter().chain(mutants::OTHERS) {
        let mut batch = Batch { first_failure: true, ..arguments.batch.clone() };
        (mutant.take)(&mut batch.life);
        let noticing: Vec<&str> = schedules::ALL
            .iter()
            .filter(|schedule| (1..=3).any(|seed| (schedule.play)(seed, batch.life.rules).is_err()))
            .map(|schedule| schedule.name)
            .collect();
        let totals = run_all(&batch, |_, _| {});
        let (seeds, what) = match totals.failed.first() {
            Some((seed, failure)) => {
                let what = failure.what.lines().next().unwrap_or_default().to_owned();
                ((seed - batch.seeds.start + 1).to_string(), what)
            }
            None => (format!("none in {}", totals.lives), String::new()),
        };
        println!("| `{}` | {} | {seeds} | {what} |", mutant.name, noticing.join(", "));
    }
    ExitCode::SUCCESS
}

#[expect(clippy::disallowed_methods, reason = "only to say how long it took")]
fn now() -> Instant {
    Instant::now()
}
