//! The same over a line with a delay and with losses: one stream, as TCP gets along with it.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use e2e::wait;

use super::iperf;
use super::link::Link;
use super::peer::{Kind, Peer};
use super::probe::Plan;
use crate::figures::show;
use crate::measure::{self, Direction};
use crate::say::say;

/// There and back.
const ROUND_TRIP: Duration = Duration::from_millis(20);
/// Of a million packets each way, and the congestion controls with which a stream is tried. BBR does not stop for single losses,
/// so it shows what a program carries where CUBIC shows only itself.
const LINES: [(u32, &[&str]); 3] = [(0, &["cubic"]), (1_000, &["cubic"]), (10_000, &["cubic", "bbr"])];
/// What this program is to reach of the bare line.
const WANTED: f64 = 0.9;

/// One program on all lines.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Far {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Gbit/s, in the order of [`columns`], or why not.
    pub(crate) speeds: Vec<Result<f64, String>>,
}

/// Measures one program on each line.
pub(crate) fn measure(peer: &dyn Peer, plan: &Plan) -> Far {
    let mut speeds = Vec::new();
    for (loss, controls) in LINES {
        let on_line = on_line(peer, loss, controls, plan).map_err(|error| format!("{error:#}"));
        speeds.extend((0..controls.len()).map(|at| on_line.clone().map(|speeds| speeds[at])));
    }
    let far = Far { name: peer.name().to_owned(), kind: peer.kind(), speeds };
    say(&format!("{} at a distance: {}", far.name, far.speeds.iter().map(cell).collect::<Vec<_>>().join(", ")));
    far
}

fn on_line(peer: &dyn Peer, loss: u32, controls: &[&str], plan: &Plan) -> anyhow::Result<Vec<f64>> {
    let link = Link::far(ROUND_TRIP, loss)?;
    let running = peer.start(&link)?;
    wait::until_ok("the first echo", Duration::from_secs(50), || link.a.ping_once(&running.to))?;
    let speeds = controls.iter().map(|control| {
        let _server = measure::serve(&link.b)?;
        let stream = iperf::begin(&link.a, &running.to, plan.far, 1, Direction::There, control)?;
        let stream = iperf::end(stream)?;
        Ok(stream.bytes * 8.0 / stream.seconds / 1e9)
    });
    speeds.collect::<anyhow::Result<_>>().with_context(|| running.last_words())
}

fn columns() -> impl Iterator<Item = (u32, &'static str)> {
    LINES.into_iter().flat_map(|(loss, controls)| controls.iter().map(move |control| (loss, *control)))
}

/// The part of the page.
pub(crate) fn section(all: &[Far], seconds: u32) -> String {
    let mut text = format!(
        "\n## Delay and loss\n\nOne TCP stream of {seconds} s over a line of [the laboratory](lab.md) with a round trip of {} ms, which loses packets each way. In \
         brackets: of what the bare line carries. CUBIC stops for each loss, on the bare line, too; BBR does not.\n\n|",
        ROUND_TRIP.as_millis()
    );
    for (loss, control) in columns() {
        let _ = write!(text, " | {} % lost, {control}, Gbit/s", f64::from(loss) / 10_000.0);
    }
    let _ = writeln!(text, " |\n|---{}|", "|---".repeat(columns().count()));
    let bare = all.iter().find(|far| far.kind == Kind::Bare);
    for far in all {
        let cells = far.speeds.iter().enumerate().map(|(at, speed)| {
            let share = bare.filter(|bare| bare.name != far.name).and_then(|bare| share(speed, &bare.speeds[at]));
            cell(speed) + &share.map_or_else(String::new, |share| format!(" ({share:.2})"))
        });
        let _ = writeln!(text, "| {} | {} |", far.name, cells.collect::<Vec<_>>().join(" | "));
    }
    let ours = all.iter().find(|far| far.kind == Kind::Ours);
    let shares = ours.zip(bare).map(|(ours, bare)| {
        ours.speeds.iter().zip(&bare.speeds).zip(columns()).filter(|(_, (loss, _))| *loss == 10_000).map(
            |((ours, bare), (_, control))| {
                let met = |share| if share >= WANTED { "met" } else { "missed" };
                share(ours, bare).map_or_else(
                    || "not measured".to_owned(),
                    |share| format!("**{share:.2}** with {control}: {}", met(share)),
                )
            },
        )
    });
    if let Some(shares) = shares {
        let _ = writeln!(
            text,
            "\nWanted with 1 % of loss: ≥ {WANTED} of the bare line; {}.",
            shares.collect::<Vec<_>>().join(", ")
        );
    }
    text
}

fn share(speed: &Result<f64, String>, bare: &Result<f64, String>) -> Option<f64> {
    let (speed, bare) = (speed.as_ref().ok()?, bare.as_ref().ok()?);
    (*bare > 0.0).then(|| speed / bare)
}

fn cell(speed: &Result<f64, String>) -> String {
    match speed {
        Ok(speed) => show(*speed),
        Err(_) => "failed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_the_bare_line() {
        let far = |name: &str, kind, speeds: [f64; 4]| Far { name: name.into(), kind, speeds: speeds.map(Ok).to_vec() };
        let mut all = vec![
            far("bare", Kind::Bare, [8.0, 0.04, 0.008, 4.0]),
            far("other", Kind::Packaged, [0.5, 0.02, 0.004, 0.5]),
            far("overlay", Kind::Ours, [4.0, 0.04, 0.0076, 2.0]),
        ];
        all[1].speeds[0] = Err("it does not come up".into());
        let text = section(&all, 6);
        assert!(text.contains("| bare | 8.00 |") || text.contains("| bare | 8"), "{text}");
        assert!(text.contains("| other | failed | 0.02"), "{text}");
        assert!(
            text.contains("(0.50)") && text.contains("**0.95** with cubic: met, **0.50** with bbr: missed"),
            "{text}"
        );
    }
}
