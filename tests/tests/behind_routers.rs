//! Two members behind a router each reach each other directly, where the routers let them.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{Edge, say, wait};

/// A last resort, not a promise: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);

/// How long the first packet takes from one to the other; nothing if it does not arrive in time.
fn reaches(edges: [Edge; 2], limit: Duration) -> anyhow::Result<Option<Duration>> {
    let Some(mut lab) = e2e::lab("behind")? else { return Ok(Some(Duration::ZERO)) };
    let mut open = lab.public("o")?;
    let mut routers = [lab.router(edges[0])?, lab.router(edges[1])?];
    let [first, second] = &mut routers;
    let mut a = lab.behind(first, "a")?;
    let mut b = lab.behind(second, "b")?;
    open.create_lab(&["--hostname", "o"])?;
    a.join_lab(&open, &["--hostname", "a"])?;
    let ip = b.join_lab(&open, &["--hostname", "b"])?.ip()?.to_string();
    let began = wait::now();
    if wait::until_ok("a to reach b", limit, || a.ping_once(&ip)).is_err() {
        return Ok(None);
    }
    let took = began.elapsed();
    let replies = a.overlay_ok(&["ping", "--count", "2", "b"])?;
    ensure!(replies.matches("direct").count() == 2, "{replies}");
    Ok(Some(took))
}

fn reach_each_other(edges: [Edge; 2]) -> anyhow::Result<()> {
    let names = edges.map(Edge::name).join(" and ");
    let took = reaches(edges, LIMIT)?.with_context(|| format!("{names}: not within {LIMIT:?}"))?;
    say(&format!("{names}: reached after {:.1} s", took.as_secs_f64()));
    Ok(())
}

/// Members behind all pairs of edges, one after the other: seconds until the first packet arrived, `-` if none did.
#[test]
#[ignore = "takes ten minutes; docs/paths.md says how to run it"]
fn all_pairs_of_edges() -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for (row, a) in Edge::ALL.into_iter().enumerate() {
        let mut line = format!("{:26}{}", a.name(), "     ".repeat(row));
        for b in Edge::ALL.into_iter().skip(row) {
            let took = reaches([a, b], Duration::from_secs(12))?;
            line += &took.map_or("    -".to_owned(), |took| format!(" {:4.1}", took.as_secs_f64()));
            let possible = wan::direct_path_possible(a, b, wan::Technique::PLAIN);
            if possible == wan::Outcome::Direct && took.is_none() {
                wrong.push(format!("{} and {}", a.name(), b.name()));
            }
        }
        say(&line);
    }
    ensure!(wrong.is_empty(), "not connected, though the edges let them: {}", wrong.join("; "));
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

#[test]
fn behind_two_firewalls() -> anyhow::Result<()> {
    reach_each_other([Edge::Firewall, Edge::Firewall])
}
