//! The plots of `docs/scale.md`.

use crate::figures::{Figures, fit};
use crate::plot::{Axis, Plot, Series};

/// All of them, by the name of their file.
pub(super) fn all(figures: &[Figures]) -> Vec<(&'static str, Plot)> {
    let line = |name, what, phase, key| series(name, points(figures, what, phase, key));
    let replica = |name, key| series(name, megabytes(points(figures, "replica", "", key)));
    let powers = (Axis::Powers, Axis::Powers);
    let mut idle =
        plot("Real nodes at rest", "packets in a minute, each node", vec![line("packets", "real", "", "packets")]);
    (idle.axes, idle.across) = ((Axis::Even, Axis::Even), "nodes in one process");
    vec![
        ("hops", plot("Lookup: questions one after the other", "hops", hops(figures))),
        (
            "lookup",
            plot(
                "Lookup: questions in all",
                "questions",
                vec![line("model", "kad", "", "requests"), line("real nodes", "lookup", "", "requests")],
            ),
        ),
        (
            "claim",
            plot(
                "A new member's address: from the command to the grant",
                "ms",
                vec![line("median", "crowd", "join", "claim_ms"), line("99 %", "crowd", "join", "claim99_ms")],
            ),
        ),
        ("tries", plot("Addresses tried for one claim", "mean", vec![line("joining", "crowd", "join", "tries")])),
        (
            "messages",
            plot(
                "Register: messages of one member in an hour",
                "messages",
                vec![
                    line("steady", "crowd", "steady", "messages"),
                    line("30 % churn an hour", "crowd", "churn", "messages"),
                ],
            ),
        ),
        (
            "replica",
            Plot {
                axes: powers,
                ..plot(
                    "One replica that holds every shard",
                    "MB",
                    vec![replica("memory", "memory_kb"), replica("store", "store_kb")],
                )
            },
        ),
        ("idle", idle),
    ]
}

fn plot(title: &'static str, up: &'static str, series: Vec<Series>) -> Plot {
    Plot { title, across: "members", up, axes: (Axis::Powers, Axis::Even), series }
}

fn series(name: &str, points: Vec<(f64, f64)>) -> Series {
    Series { name: name.to_owned(), points, computed: false }
}

/// Pairs of the number of members and a figure, in order; the mean where there are several.
pub(super) fn points(figures: &[Figures], what: &str, phase: &str, key: &str) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = Vec::new();
    let mut counts: Vec<f64> = Vec::new();
    for line in figures.iter().filter(|line| line.is(what) && (phase.is_empty() || line.text("phase") == phase)) {
        let (n, value) = (line.number("n"), line.number(key));
        if let Some(place) = points.iter().position(|point| point.0 == n) {
            points[place].1 += value;
            counts[place] += 1.0;
        } else {
            points.push((n, value));
            counts.push(1.0);
        }
    }
    points.iter_mut().zip(counts).for_each(|(point, count)| point.1 /= count);
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}

/// The straight line through what the model says from 1,000 nodes on, over the logarithm.
pub(super) fn growth(points: &[(f64, f64)]) -> (f64, f64) {
    let large: Vec<_> =
        points.iter().filter(|point| point.0 >= 1000.0).map(|point| (point.0.log2(), point.1)).collect();
    fit(&large)
}

fn hops(figures: &[Figures]) -> Vec<Series> {
    let mean = points(figures, "kad", "", "hops");
    let (start, slope) = growth(&mean);
    let line = mean.iter().filter(|point| point.0 >= 1000.0).map(|point| (point.0, start + slope * point.0.log2()));
    let line = Series { name: format!("{start:.2} + {slope:.3} log2 N"), points: line.collect(), computed: true };
    vec![series("mean", mean), series("99 %", points(figures, "kad", "", "hops99")), line]
}

fn megabytes(mut points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    points.iter_mut().for_each(|point| point.1 /= 1024.0);
    points
}
