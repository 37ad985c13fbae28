//! What this project wants to be, and whether it is.

use super::link::Underlay;
use super::peer::Kind;
use super::row::{Figures, Row, Run, median};

/// Above this the bare link changed so much meanwhile that ratios to it are doubtful.
pub(crate) const DRIFT: f64 = 0.15;
/// Above this share of disturbed values all of them are doubtful.
pub(crate) const DISTURBED: f64 = 0.2;

/// All that was measured on one underlay.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Section {
    pub(crate) underlay: Underlay,
    /// The bare link comes first and last.
    pub(crate) rows: Vec<Row>,
}

/// What a value has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wanted {
    AtLeast(f64),
    AtMost(f64),
}

/// One wish.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    pub(crate) what: &'static str,
    pub(crate) wanted: Wanted,
    /// Nothing where something was not measured.
    pub(crate) got: Option<f64>,
    /// With whom it is compared.
    pub(crate) with: Option<String>,
}

impl Target {
    /// Whether it is so.
    pub(crate) fn is_met(&self) -> Option<bool> {
        self.got.map(|got| match self.wanted {
            Wanted::AtLeast(limit) => got >= limit,
            Wanted::AtMost(limit) => got <= limit,
        })
    }
}

impl Section {
    fn of(&self, kind: Kind) -> impl Iterator<Item = (&str, &Figures)> {
        let measured = |row: &Row| row.figures.is_ok();
        let rows = self.rows.iter().filter(move |row| row.kind == kind && measured(row));
        rows.filter_map(|row| row.figures.as_ref().ok().map(|figures| (row.name.as_str(), figures)))
    }

    /// This project's figures.
    pub(crate) fn ours(&self) -> Option<&Figures> {
        self.of(Kind::Ours).next().map(|(_, figures)| figures)
    }

    /// A value of the bare link, between what it was before and after all others.
    pub(crate) fn bare(&self, value: impl Fn(&Figures) -> Option<f64>) -> Option<f64> {
        median(self.of(Kind::Bare).filter_map(|(_, figures)| value(figures)))
    }

    /// How much faster the bare link was before than after, or the other way round: 0.1 for a tenth.
    pub(crate) fn drift(&self) -> Option<f64> {
        let speeds: Vec<f64> = self.of(Kind::Bare).filter_map(|(_, figures)| figures.both(Run::speed)).collect();
        let (first, last) = (*speeds.first()?, *speeds.last()?);
        (speeds.len() > 1).then(|| first.max(last) / first.min(last) - 1.0)
    }

    /// How many values were measured while others were at work, and of how many.
    pub(crate) fn disturbed(&self) -> (usize, usize) {
        let figures = self.rows.iter().filter_map(|row| row.figures.as_ref().ok());
        figures.map(Figures::disturbed).fold((0, 0), |sum, row| (sum.0 + row.0, sum.1 + row.1))
    }

    /// Whether what is reckoned from these values says little.
    pub(crate) fn is_doubtful(&self) -> bool {
        let (disturbed, all) = self.disturbed();
        #[expect(clippy::cast_precision_loss, reason = "some hundred")]
        let many = disturbed as f64 > all as f64 * DISTURBED;
        many || self.drift().is_some_and(|drift| drift > DRIFT)
    }

    /// The fastest program of others, one stream this way, and how fast.
    pub(crate) fn best(&self, way: usize) -> Option<(&str, f64)> {
        let speeds = self.of(Kind::Packaged).filter_map(|(name, figures)| Some((name, figures.one(way, Run::speed)?)));
        speeds.max_by(|(_, left), (_, right)| left.total_cmp(right))
    }

    /// Against the fastest of the others: the worse of both ways, and who that is.
    fn against_best(&self) -> Option<(f64, String)> {
        let ours = self.ours()?;
        let ways = (0..2).filter_map(|way| {
            let (name, speed) = self.best(way)?;
            Some((ours.one(way, Run::speed)? / speed, name.to_owned()))
        });
        ways.min_by(|(left, _), (right, _)| left.total_cmp(right))
    }

    /// Against the bare link: the worse of both ways.
    fn against_bare(&self) -> Option<f64> {
        let ours = self.ours()?;
        let ways = (0..2)
            .filter_map(|way| Some(ours.one(way, Run::speed)? / self.bare(|figures| figures.one(way, Run::speed))?));
        ways.min_by(f64::total_cmp)
    }

    /// Each wish, always in the same order.
    pub(crate) fn targets(&self) -> Vec<Target> {
        let (best, bare, cost) = match self.underlay {
            Underlay::Wire => (3.0, 0.45, 1.9),
            Underlay::Receive => (3.5, 0.35, 1.6),
            Underlay::All => (6.0, 0.18, 1.2),
        };
        let target = |what, wanted, got| Target { what, wanted, got, with: None };
        let ours = self.ours();
        let idle = |figures: &Figures| figures.idle.map(|trip| trip.value.median);
        let loaded = |figures: &Figures| figures.loaded.map(|trip| trip.value.median);
        let over = ours.and_then(idle).zip(self.bare(idle)).map(|(ours, bare)| ours - bare);
        let memory = ours.and_then(|figures| figures.memory.iter().copied().max_by(f64::total_cmp));
        let (fastest, with) = self.against_best().unzip();
        vec![
            Target { with, ..target("one stream, against the fastest other program", Wanted::AtLeast(best), fastest) },
            target("one stream, against the bare link", Wanted::AtLeast(bare), self.against_bare()),
            target(
                "processor time of the whole machine, ns a byte",
                Wanted::AtMost(cost),
                ours.and_then(|figures| figures.both(Run::cost)),
            ),
            target("idle round trip over that of the bare link, median, ms", Wanted::AtMost(0.15), over),
            target("round trip beside four streams, median, ms", Wanted::AtMost(1.0), ours.and_then(loaded)),
            target("memory of the larger of both ends, MB", Wanted::AtMost(30.0), memory),
        ]
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::row::tests::row;
    use super::super::row::{Taken, Trip};
    use super::*;

    fn trip(median: f64) -> Taken<Trip> {
        Taken { value: Trip { median, p99: median * 2.0 }, foreign: 0.0 }
    }

    pub(crate) fn section() -> Section {
        let mut rows = vec![
            row("bare", Kind::Bare, &[10.0]),
            row("slow", Kind::Packaged, &[1.0]),
            row("fast", Kind::Packaged, &[2.0, 1.0, 3.0]),
            row("gone", Kind::Packaged, &[]),
            row("overlay", Kind::Ours, &[8.0]),
            row("bare", Kind::Bare, &[20.0]),
        ];
        rows[3].figures = Err("it is not there".to_owned());
        for (at, idle) in [(0, 0.1), (4, 0.4), (5, 0.2)] {
            rows[at].figures.as_mut().unwrap().idle = Some(trip(idle));
        }
        let ours = rows[4].figures.as_mut().unwrap();
        ours.loaded = Some(trip(0.9));
        ours.memory = vec![20.0, 31.0];
        Section { underlay: Underlay::Wire, rows }
    }

    #[test]
    fn the_fastest_of_the_others_is_neither_the_link_nor_ours() {
        assert_eq!(section().best(0), Some(("fast", 2.0)));
        assert_eq!(section().best(1), Some(("fast", 1.0)));
    }

    #[test]
    fn ratios_are_to_the_mean_of_the_link_before_and_after() {
        let section = section();
        let got: Vec<f64> = section.targets().iter().map(|target| target.got.unwrap()).collect();
        for (got, expected) in got.iter().zip([4.0, 8.0 / 15.0, 1.0, 0.25, 0.9, 31.0]) {
            assert!((got - expected).abs() < 1e-9, "{got} is not {expected}");
        }
        assert_eq!(section.targets()[0].with.as_deref(), Some("fast"));
        assert!((section.drift().unwrap() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn wishes_are_met_or_not() {
        let met: Vec<Option<bool>> = section().targets().iter().map(Target::is_met).collect();
        assert_eq!(met, [true, true, true, false, true, false].map(Some));
    }

    #[test]
    fn a_link_that_changed_and_many_disturbed_values_are_doubtful() {
        let mut section = section();
        assert!(section.is_doubtful());
        section.rows[5] = section.rows[0].clone();
        assert!(!section.is_doubtful());
        for run in section.rows[2].figures.as_mut().unwrap().one.iter_mut().flatten() {
            run.foreign = 1.0;
        }
        assert_eq!((section.disturbed(), section.is_doubtful()), ((6, 18), true));
    }

    #[test]
    fn the_worse_way_counts() {
        let mut section = section();
        let ours = section.rows[4].figures.as_mut().unwrap();
        ours.one[1] = row("overlay", Kind::Ours, &[2.0]).figures.unwrap().one[1].clone();
        assert_eq!(section.targets()[0].got, Some(1.0));
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        let nothing = Section { underlay: Underlay::All, rows: Vec::new() };
        assert!(nothing.targets().iter().all(|target| target.got.is_none() && target.is_met().is_none()));
        assert_eq!((nothing.best(0), nothing.drift()), (None, None));
    }
}
