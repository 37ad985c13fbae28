//! What stands between two members where none of the ten edges tells it all: they are connected, directly where that is possible.

use std::time::Duration;

use anyhow::ensure;
use e2e::{Edge, Extra, Pair, Seen, say};

/// A last resort, not a promise: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(30);

fn is_connected(extra: Extra) -> anyhow::Result<()> {
    let Some(pair) = extra.pair()? else { return Ok(()) };
    let seen = pair.look(LIMIT, extra.patience())?;
    let Seen { first, direct, path } = &seen;
    say(&format!("{}: first packet after {first:.2?}, direct after {direct:.1?}, path {path}", extra.name()));
    extra.judge(&seen)
}

#[test]
fn two_translators_in_a_row() -> anyhow::Result<()> {
    is_connected(Extra::DoubleNat)?;
    is_connected(Extra::DoubleNatSymmetric)
}

#[test]
fn one_translator_before_both() -> anyhow::Result<()> {
    is_connected(Extra::SameCarrier)?;
    is_connected(Extra::SameLan)
}

#[test]
fn one_address_in_a_cloud() -> anyhow::Result<()> {
    is_connected(Extra::OneToOne)
}

#[test]
fn translators_that_forget_soon() -> anyhow::Result<()> {
    is_connected(Extra::ShortTimers)
}

/// Its flows to the voters are there already; a new one finds no place.
#[test]
fn a_router_whose_table_of_flows_is_full() -> anyhow::Result<()> {
    let Some(pair) = Pair::new("full", [Edge::Home, Edge::Home], 1)? else { return Ok(()) };
    let full = "table inet full {
        chain passing {
            type filter hook forward priority 0
            ct state new counter drop
        }
    }";
    pair.routers[0].run(&["nft", full])?;
    let first = pair.first_packet(LIMIT)?;
    let path = pair.way()?["path"].clone();
    say(&format!("no room for a flow: first packet after {first:.2?}, path {path}"));
    ensure!(path == "relay", "{path}");
    // Once there is room again, the pair goes over to a direct way by itself.
    pair.routers[0].run(&["nft", "delete", "table", "inet", "full"])?;
    let took = pair.wait_path("direct", LIMIT * 4)?;
    say(&format!("direct {:.1} s after there was room", took.as_secs_f64()));
    Ok(())
}

#[test]
fn ipv6() -> anyhow::Result<()> {
    is_connected(Extra::BothIpv6)?;
    is_connected(Extra::Ipv6AndIpv4)
}
