//! The plots of `docs/scale.md`.

use crate::figures::{Figures, fit};
use crate::plot::{Axis, Plot, Series};

/// All of them, by the name of their file.
pub(super) fn all(figures: &[Figures]) -> Vec<(&'static str, Plot)> {
    let members = "members";
    let powers = (Axis::Powers, Axis::Even);
    let plot = |title, up, axes, series| Plot { title, across: members, up, axes, series };
    vec![
        ("hops", plot("Lookup: questions one after the other", "hops", powers, hops(figures))),
        (
            "lookup",
            plot(
                "Lookup: questions in all",
                "questions",
                powers,
                vec![
                    series("model", points(figures, "kad", "", "requests")),
                    series("real nodes", points(figures, "lookup", "", "requests")),
                ],
            ),
        ),
        (
            "claim",
            plot(
                "A new member's address: from the command to the grant",
                "ms",
                powers,
                vec![
                    series("median", points(figures, "crowd", "join", "claim_ms")),
                    series("99 %", points(figures, "crowd", "join", "claim99_ms")),
                ],
            ),
        ),
        (
            "tries",
            plot(
                "Addresses tried for one claim",
                "mean",
                powers,
                vec![series("joining", points(figures, "crowd", "join", "tries"))],
            ),
        ),
        (
            "messages",
            plot(
                "Register: messages of one member in an hour",
                "messages",
                powers,
                vec![
                    series("steady", points(figures, "crowd", "steady", "messages")),
                    series("30 % churn an hour", points(figures, "crowd", "churn", "messages")),
                ],
            ),
        ),
        (
            "replica",
            plot(
                "One replica that holds every shard",
                "MB",
                (Axis::Powers, Axis::Powers),
                vec![
                    series("memory", megabytes(points(figures, "replica", "", "memory_kb"))),
                    series("store", megabytes(points(figures, "replica", "", "store_kb"))),
                ],
            ),
        ),
        (
            "idle",
            Plot {
                title: "Real nodes at rest",
                across: "nodes in one process",
                up: "packets in a minute, each node",
                axes: (Axis::Even, Axis::Even),
                series: vec![series("packets", points(figures, "real", "", "packets"))],
            },
        ),
    ]
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
    let large: Vec<_> = points.iter().filter(|point| point.0 >= 1000.0).map(|point| (point.0.log2(), point.1)).collect();
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
