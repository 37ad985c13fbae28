//! Where a firewall lets no UDP pass, packets go in a stream of the overlay's TCP connection to whoever carries, or to the peer.

use std::time::Duration;

use anyhow::ensure;
use e2e::{Edge, Pair, counts, peer, say, stream, wait};

/// A last resort, not a promise: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);

const HOME: [Edge; 2] = [Edge::Home, Edge::Home];

#[test]
fn members_without_udp_reach_each_other_and_everybody_else() -> anyhow::Result<()> {
    for blocked in [[true, false], [true, true]] {
        let name = if blocked[1] { "no-udp2" } else { "no-udp1" };
        let Some(pair) = Pair::without_udp(name, HOME, 1, blocked)? else { return Ok(()) };
        let first = pair.first_packet(LIMIT)?;
        pair.wait_path("relay", LIMIT)?;
        pair.b.run(&["ping", "-c", "3", "-i", "0.2", "-W", "2", &pair.a_ip])?;
        let to_founder = peer(&pair.a, "o0")?;
        ensure!(to_founder["path"] == "stream", "{to_founder}");
        let rate = stream(&pair.a, &pair.b, &pair.b_ip)?;
        let who = if blocked[1] { "both" } else { "one" };
        say(&format!(
            "no UDP for {who}: first packet after {:.2} s, a TCP stream at {:.0} Mbit/s",
            first.as_secs_f64(),
            rate / 1e6
        ));
        ensure!(rate > 5e6, "{rate} bit/s");
    }
    Ok(())
}

#[test]
fn udp_that_ends_in_mid_session_is_replaced_and_taken_again() -> anyhow::Result<()> {
    let Some(pair) = Pair::new("udp-ends", HOME, 1)? else { return Ok(()) };
    pair.first_packet(LIMIT)?;
    pair.wait_path("direct", LIMIT)?;
    let echoes = pair.a.spawn(&["ping", "-i", "0.1", "-c", "200", "-W", "5", "-q", &pair.b_ip])?;
    wait::pause(Duration::from_secs(2));
    pair.block_udp()?;
    let took = pair.wait_path("relay", LIMIT)?;
    let (sent, answered) = counts(&echoes.finish(LIMIT)?.stdout)?;
    say(&format!("on another way {:.1} s after UDP ended; {answered} of {sent} echoes answered", took.as_secs_f64()));
    ensure!(answered + 150 > sent, "dark for more than fifteen seconds: {answered} of {sent}");
    let echoes = pair.a.spawn(&["ping", "-i", "0.02", "-c", "1500", "-W", "5", "-q", &pair.b_ip])?;
    pair.unite()?;
    let took = pair.wait_path("direct", LIMIT * 2)?;
    let (sent, answered) = counts(&echoes.finish(LIMIT)?.stdout)?;
    say(&format!("direct {:.1} s after UDP was back; {answered} of {sent} echoes answered", took.as_secs_f64()));
    ensure!(answered == sent, "{answered} of {sent}");
    Ok(())
}
