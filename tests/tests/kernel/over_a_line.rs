//! Members who are far from each other, over lines that lose packets, and behind translators of the model.

use std::time::Duration;

use anyhow::ensure;
use e2e::{Edge, Lab, Lines, Pair, say, wait};
use wan::{Outcome, Technique, direct_path_possible};

use crate::line_itself::transfer;

/// A last resort, not a promise: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(30);
/// What has no direct way after so long has none.
const PATIENCE: Duration = Duration::from_secs(6);
const ROUND_TRIP: Duration = Duration::from_millis(20);

#[test]
fn a_pair_far_apart_talks_over_a_line_that_loses() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("far")? else { return Ok(()) };
    let mut stretch = lab.stretch(["a", "b"], Lines::far(ROUND_TRIP, 10_000), 1)?;
    stretch.a.create_lab(&["--hostname", "a"])?;
    let b = stretch.b.join_lab(&stretch.a, &["--hostname", "b"])?.ip()?.to_string();
    wait::until_ok("an echo", LIMIT, || stretch.a.ping_once(&b))?;
    let echo = stretch.a.try_run(&["ping", "-c", "50", "-i", "0.02", "-W", "2", &b])?;
    let (sent, answered) = e2e::counts(&echo.stdout)?;
    // One in fifty is missing in the mean; ten are more than seven deviations from it.
    ensure!(sent == 50 && answered >= 40, "{}", echo.stdout);
    transfer(&stretch.a, &stretch.b, &b, 2 << 20)?;
    stretch.a.interrupt()?;
    stretch.b.interrupt()?;
    let report = stretch.line.stop()?;
    say(&format!("{answered} of {sent} echoes; {}", report.to_json()));
    let line = report.there;
    ensure!(line.lost > 0 && line.packets == line.delivered + line.dropped() + line.under_way, "{}", report.to_json());
    Ok(())
}

/// The model's translators, on the kernel's packets: what is predicted is what the program does.
fn behind_model(lab: Lab, edges: [Edge; 2]) -> anyhow::Result<()> {
    let mut lab = lab;
    let open = vec![lab.public("o0")?];
    let line = || Lines::far(ROUND_TRIP, 0);
    let (a, at_a) = lab.behind_model("a", edges[0], line(), 1)?;
    let (b, at_b) = lab.behind_model("b", edges[1], line(), 2)?;
    let pair = Pair::joined(lab, open, [a, b], Vec::new())?;
    let predicted = direct_path_possible(edges[0], edges[1], Technique::ALL);
    let patience = if predicted == Outcome::Direct { LIMIT } else { PATIENCE };
    let seen = pair.look(LIMIT, patience)?;
    let names = edges.map(Edge::name).join(" and ");
    say(&format!("{names}: predicted {predicted:?}, {seen:?}"));
    ensure!(seen.first.is_some(), "{names}: no packet within {LIMIT:?}");
    ensure!(seen.direct.is_some() == (predicted == Outcome::Direct), "{names}: predicted {predicted:?}, {seen:?}");
    drop(pair);
    for report in [at_a.stop()?, at_b.stop()?] {
        ensure!(report.there.delivered > 0 && report.back.delivered > 0, "{}", report.to_json());
    }
    Ok(())
}

#[test]
fn behind_two_home_routers_of_the_model() -> anyhow::Result<()> {
    let Some(lab) = e2e::lab("model")? else { return Ok(()) };
    behind_model(lab, [Edge::Home, Edge::HomeOtherPort])
}

#[test]
fn behind_a_home_router_and_a_symmetric_one_of_the_model() -> anyhow::Result<()> {
    let Some(lab) = e2e::lab("model-symmetric")? else { return Ok(()) };
    behind_model(lab, [Edge::Home, Edge::SymmetricRandom])
}
