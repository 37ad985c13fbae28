//! An exhaustive search of the register at small scope: every interleaving of a few owners, replicas, rounds and view
//! changes, in which messages are lost, late, doubled and overtaken at will.
//!
//! The rules are not written down again: states are turned into the types of the shipped functions, those are called, and
//! what they return is turned back. Written here is only what a shell does around them, and what must never be.
//!
//! `docs/lease-search.md` says what is searched, what was found, and what is left out.
#![expect(clippy::cast_possible_truncation, reason = "numbers are small here")]

mod check;
mod list;
mod long;
mod owners;
mod pack;
mod rights;
mod rounds;
mod run;
mod scenario;
mod state;
mod step;
mod stores;
mod tests;
mod views;
mod witness;
mod world;

use scenario::Scenario;

/// Searches all of these, and says everything that is not as it must be.
fn all(scenarios: Vec<Scenario>, limit: usize) {
    let mut wrong = Vec::new();
    for scenario in scenarios {
        let report = run::search(&scenario, limit);
        let speed = report.states as f64 / report.took.as_secs_f64().max(0.001);
        let found = match &report.fault {
            Some((fault, way)) => format!("{fault} in {} steps", way.len()),
            None if report.whole => "no fault in the whole".to_owned(),
            None => "no fault, cut".to_owned(),
        };
        println!(
            "{:46} {:>10} states {:>7.1} s {:>6.0} k/s  {found}  {:?}",
            report.name,
            report.states,
            report.took.as_secs_f64(),
            speed / 1000.0,
            report.witnesses
        );
        if let Some((_, way)) = &report.fault {
            println!("    {}", way.join("; "));
        }
        wrong.extend(report.verdict(&scenario).err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every one of these is searched to its end.
const LIMIT: usize = 1_000_000;

/// How far the long ones go, in states: 60 bytes of memory each, and more for those that wait. `SEARCH_LIMIT` says
/// otherwise, `SEARCH_ONLY` names one.
const LONG_LIMIT: usize = 20_000_000;

#[test]
#[ignore = "takes an hour; docs/lease-search.md says how to run it"]
fn long() {
    let variable = |name: &str| std::env::var(name).ok();
    let limit = variable("SEARCH_LIMIT").and_then(|limit| limit.parse().ok()).unwrap_or(LONG_LIMIT);
    let only = variable("SEARCH_ONLY").unwrap_or_default();
    all(long::long().into_iter().filter(|scenario| scenario.name.contains(&only)).collect(), limit);
}

#[test]
fn one_view() {
    all(list::one_view(), LIMIT);
}

#[test]
fn disks() {
    all(list::disks(), LIMIT);
}

#[test]
fn one_change() {
    all(list::one_change(), LIMIT);
}

#[test]
fn crashing_changes() {
    all(list::crashing_changes(), LIMIT);
}

#[test]
fn more_changes() {
    all(list::more_changes(), LIMIT);
}

#[test]
fn rights_to_a_running_lease() {
    all(rights::rights(), LIMIT);
}

#[test]
fn tombstones() {
    all(list::tombstones(), LIMIT);
}
