//! What stands between two members where none of the ten edges tells it all: they are connected, directly where that is possible.

use std::time::Duration;

use e2e::{Extra, Seen, say};

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

#[test]
fn ipv6() -> anyhow::Result<()> {
    is_connected(Extra::BothIpv6)?;
    is_connected(Extra::Ipv6AndIpv4)
}
