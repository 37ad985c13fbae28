//! What is known of one program on one underlay.

use super::iperf::{Flood, Stream};
use super::machine::{CALM, Spent};
use super::peer::Kind;
use crate::measure::{quantile, sorted};

/// A value, and how many processors others used while it was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Taken<T> {
    pub(crate) value: T,
    pub(crate) foreign: f64,
}

impl<T> Taken<T> {
    /// Whether others were at work.
    pub(crate) fn is_disturbed(&self) -> bool {
        self.foreign > CALM
    }
}

/// TCP for some seconds, and what it cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Run {
    pub(crate) stream: Stream,
    pub(crate) spent: Spent,
}

impl Run {
    /// Gbit/s.
    pub(crate) fn speed(&self) -> f64 {
        self.stream.bytes * 8.0 / self.stream.seconds / 1e9
    }

    /// Nanoseconds of the whole machine's processors for a byte.
    pub(crate) fn cost(&self) -> f64 {
        self.spent.busy * 1e9 / self.stream.bytes
    }

    /// Those of the two programs alone.
    pub(crate) fn daemons_cost(&self) -> f64 {
        self.spent.daemons * 1e9 / self.stream.bytes
    }

    /// Segments that were sent again, for a gigabyte.
    pub(crate) fn retransmits(&self) -> f64 {
        self.stream.retransmits * 1e9 / self.stream.bytes
    }
}

/// Round trips, in ms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Trip {
    pub(crate) median: f64,
    pub(crate) p99: f64,
}

/// One program's measurements. What is missing could not be measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    /// Of the device inside, in bytes.
    pub(crate) mtu: u64,
    /// One stream, there and back, each several times.
    pub(crate) one: [Vec<Taken<Run>>; 2],
    /// Four streams, there and back.
    pub(crate) four: [Option<Taken<Run>>; 2],
    /// Small and large packets.
    pub(crate) floods: [Option<Taken<Flood>>; 2],
    pub(crate) idle: Option<Taken<Trip>>,
    /// Beside four streams.
    pub(crate) loaded: Option<Taken<Trip>>,
    /// MB of both programs after all of this.
    pub(crate) memory: Vec<f64>,
}

impl Figures {
    /// The median of one stream, all runs that way.
    pub(crate) fn one(&self, way: usize, of: impl Fn(&Run) -> f64) -> Option<f64> {
        median(self.one[way].iter().map(|run| of(&run.value)))
    }

    /// The median of one stream, all runs both ways.
    pub(crate) fn both(&self, of: impl Fn(&Run) -> f64) -> Option<f64> {
        median(self.one.iter().flatten().map(|run| of(&run.value)))
    }

    /// How many values were measured while others were at work, and of how many.
    pub(crate) fn disturbed(&self) -> (usize, usize) {
        let runs = self.one.iter().flatten().chain(self.four.iter().flatten()).map(Taken::is_disturbed);
        let floods = self.floods.iter().flatten().map(Taken::is_disturbed);
        let trips = self.idle.iter().chain(&self.loaded).map(Taken::is_disturbed);
        let all: Vec<bool> = runs.chain(floods).chain(trips).collect();
        (all.iter().filter(|disturbed| **disturbed).count(), all.len())
    }
}

/// One line of the tables.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) layer: &'static str,
    /// Or why there are none.
    pub(crate) figures: Result<Figures, String>,
}

/// The middle value, or the mean of the middle two.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values = sorted(values.collect())?;
    let (half, odd) = (values.len() / 2, values.len() % 2 == 1);
    Some(if odd { values[half] } else { f64::midpoint(values[half - 1], values[half]) })
}

/// Median and 99 % of sorted times.
pub(crate) fn trip(times: &[f64]) -> Trip {
    Trip { median: quantile(times, 0.5), p99: quantile(times, 0.99) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A stream of this speed that cost 1 ns a byte.
    pub(crate) fn run(gigabits: f64) -> Taken<Run> {
        let bytes = gigabits * 1e9 / 8.0;
        let spent = Spent { elapsed: 1.0, busy: bytes / 1e9, daemons: bytes / 2e9, foreign: 0.0 };
        Taken { value: Run { stream: Stream { bytes, seconds: 1.0, retransmits: 10.0 }, spent }, foreign: 0.0 }
    }

    /// A row whose streams there are of these speeds, and half as fast back.
    pub(crate) fn row(name: &str, kind: Kind, gigabits: &[f64]) -> Row {
        let runs = |factor: f64| gigabits.iter().map(|speed| run(speed * factor)).collect();
        let figures = Figures { one: [runs(1.0), runs(0.5)], ..Figures::default() };
        Row { name: name.to_owned(), kind, layer: "IP", figures: Ok(figures) }
    }

    #[test]
    fn the_median_of_two_lies_between_them() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
    }

    #[test]
    fn a_run_is_reckoned_by_what_arrived() {
        let spent = Spent { elapsed: 2.0, busy: 3.0, daemons: 1.0, foreign: 0.0 };
        let run = Run { stream: Stream { bytes: 1e9, seconds: 2.0, retransmits: 30.0 }, spent };
        assert_eq!((run.speed(), run.cost(), run.daemons_cost(), run.retransmits()), (4.0, 3.0, 1.0, 30.0));
    }

    #[test]
    fn disturbed_values_are_counted() {
        let mut figures = Figures { one: [vec![run(1.0); 2], Vec::new()], ..Figures::default() };
        figures.one[0][1].foreign = 0.5;
        figures.idle = Some(Taken { value: Trip { median: 1.0, p99: 2.0 }, foreign: 0.05 });
        assert_eq!(figures.disturbed(), (1, 3));
    }
}
