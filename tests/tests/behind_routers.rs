//! Two members behind a router each reach each other directly, where the routers let them.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{Edge, Pair, say};
use wan::Technique;

/// A last resort, not a promise: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);

/// What the program can do.
const TECHNIQUE: Technique = Technique { low_ttl: true, prediction: false };

/// How long the first packet takes from one to the other, and the way to be direct; nothing for what does not happen in time.
fn reaches(edges: [Edge; 2], limit: Duration) -> anyhow::Result<[Option<Duration>; 2]> {
    let Some(pair) = Pair::new("behind", edges, 1)? else { return Ok([Some(Duration::ZERO); 2]) };
    let Ok(first) = pair.first_packet(limit) else { return Ok([None; 2]) };
    let Ok(direct) = pair.wait_path("direct", limit) else { return Ok([Some(first), None]) };
    let replies = pair.a.overlay_ok(&["ping", "--count", "2", "b"])?;
    ensure!(replies.matches("direct").count() == 2, "{replies}");
    Ok([Some(first), Some(first + direct)])
}

fn reach_each_other(edges: [Edge; 2]) -> anyhow::Result<()> {
    let names = edges.map(Edge::name).join(" and ");
    let [first, direct] = reaches(edges, LIMIT)?;
    let first = first.with_context(|| format!("{names}: no packet within {LIMIT:?}"))?;
    let direct = direct.with_context(|| format!("{names}: no direct way within {LIMIT:?}"))?;
    say(&format!(
        "{names}: first packet after {:.2} s, direct after {:.1} s",
        first.as_secs_f64(),
        direct.as_secs_f64()
    ));
    Ok(())
}

/// Members behind all pairs of edges, one after the other: seconds until the first packet arrived (`-` if none did), and
/// until the way was direct (`r` if it still went over a relay after 15 s).
#[test]
#[ignore = "takes twenty minutes; docs/paths.md says how to run it"]
fn all_pairs_of_edges() -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for (row, a) in Edge::ALL.into_iter().enumerate() {
        let mut line = format!("{:26}{}", a.name(), "          ".repeat(row));
        for b in Edge::ALL.into_iter().skip(row) {
            let [first, direct] = reaches([a, b], Duration::from_secs(15))?;
            let text =
                |time: Option<Duration>, none: &str| time.map_or(none.into(), |t| format!("{:.1}", t.as_secs_f64()));
            line += &format!(" {:>4}/{:<4}", text(first, "-"), text(direct, "r"));
            let possible = wan::direct_path_possible(a, b, TECHNIQUE);
            if first.is_none() || (possible == wan::Outcome::Direct && direct.is_none()) {
                wrong.push(format!("{} and {}", a.name(), b.name()));
            }
        }
        say(&line);
    }
    ensure!(wrong.is_empty(), "not connected as they could be: {}", wrong.join("; "));
    Ok(())
}

#[test]
fn behind_two_home_routers() -> anyhow::Result<()> {
    reach_each_other([Edge::Home, Edge::Home])
}

#[test]
fn behind_home_routers_of_which_one_does_not_keep_ports() -> anyhow::Result<()> {
    reach_each_other([Edge::Home, Edge::HomeOtherPort])
}

#[test]
fn behind_a_symmetric_router_and_one_that_lets_everybody_in() -> anyhow::Result<()> {
    reach_each_other([Edge::SymmetricRandom, Edge::FullCone])
}

/// Such a router keeps for itself the port to which something came that nobody behind it had asked for.
#[test]
fn behind_two_routers_that_remember_what_came_unasked() -> anyhow::Result<()> {
    reach_each_other([Edge::HomeWithoutInputDrop, Edge::HomeWithoutInputDrop])
}

#[test]
fn behind_two_firewalls() -> anyhow::Result<()> {
    reach_each_other([Edge::Firewall, Edge::Firewall])
}
