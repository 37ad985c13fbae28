//! Line plots as SVG.

use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 34.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 56.0;
/// Told apart by those who see no red or no green, too.
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

/// How an axis is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Axis {
    /// Evenly, from zero.
    Even,
    /// By powers of ten.
    Powers,
}

/// Points that belong together.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
    /// A line that was computed, not points that were measured.
    pub(crate) computed: bool,
}

/// A plot.
#[derive(Clone, Debug)]
pub(crate) struct Plot {
    pub(crate) title: &'static str,
    pub(crate) across: &'static str,
    pub(crate) up: &'static str,
    pub(crate) axes: (Axis, Axis),
    pub(crate) series: Vec<Series>,
}

/// One axis: from where to where, and what is written at it.
struct Scale {
    axis: Axis,
    from: f64,
    to: f64,
    ticks: Vec<f64>,
}

impl Scale {
    fn new(axis: Axis, values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        match axis {
            Axis::Powers => {
                let (from, to) = (low.max(1e-9).log10().floor(), high.max(1e-9).log10().ceil());
                let to = if to > from { to } else { from + 1.0 };
                let ticks = steps(from, to, 1.0).into_iter().map(|power| 10f64.powf(power)).collect();
                Self { axis, from, to, ticks }
            }
            Axis::Even => {
                let rough = high.max(1e-9) / 5.0;
                let power = 10f64.powf(rough.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * power);
                let step = step.into_iter().find(|step| *step >= rough).unwrap_or(power);
                let to = (high.max(1e-9) / step).ceil() * step;
                Self { axis, from: 0.0, to, ticks: steps(0.0, to, step) }
            }
        }
    }

    /// Which share of the axis lies before a value.
    fn share(&self, value: f64) -> f64 {
        let value = if self.axis == Axis::Powers { value.max(1e-9).log10() } else { value };
        (value - self.from) / (self.to - self.from)
    }
}

fn steps(from: f64, to: f64, step: f64) -> Vec<f64> {
    std::iter::successors(Some(from), |last| Some(last + step)).take_while(|value| *value <= to + step / 1e6).collect()
}

impl Plot {
    /// The picture.
    pub(crate) fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points).filter(|(x, y)| (x + y).is_finite());
        let x = Scale::new(self.axes.0, points().map(|point| point.0));
        let y = Scale::new(self.axes.1, points().map(|point| point.1));
        let right = |value: f64| LEFT + x.share(value) * (WIDTH - LEFT - RIGHT);
        let down = |value: f64| HEIGHT - BOTTOM - y.share(value) * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
        );
        text(&mut svg, (WIDTH / 2.0, 22.0), "middle", "font-size=\"15\"", self.title);
        text(&mut svg, (f64::midpoint(LEFT, WIDTH - RIGHT), HEIGHT - 14.0), "middle", "", self.across);
        let middle = f64::midpoint(TOP, HEIGHT - BOTTOM);
        text(&mut svg, (18.0, middle), "middle", &format!("transform=\"rotate(-90 18 {middle})\""), self.up);
        for tick in &x.ticks {
            line(&mut svg, (right(*tick), TOP), (right(*tick), HEIGHT - BOTTOM), "#dddddd");
            text(&mut svg, (right(*tick), HEIGHT - BOTTOM + 18.0), "middle", "", &label(*tick));
        }
        for tick in &y.ticks {
            line(&mut svg, (LEFT, down(*tick)), (WIDTH - RIGHT, down(*tick)), "#dddddd");
            text(&mut svg, (LEFT - 8.0, down(*tick) + 4.0), "end", "", &label(*tick));
        }
        line(&mut svg, (LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM), "#333333");
        line(&mut svg, (LEFT, TOP), (LEFT, HEIGHT - BOTTOM), "#333333");
        let mut place = LEFT;
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let at: Vec<(f64, f64)> =
                series.points.iter().filter(|(x, y)| (x + y).is_finite()).map(|(x, y)| (right(*x), down(*y))).collect();
            draw(&mut svg, &at, colour, series.computed);
            draw(&mut svg, &[(place, 44.0), (place + 24.0, 44.0)], colour, series.computed);
            text(&mut svg, (place + 30.0, 48.0), "start", "", &series.name);
            #[expect(clippy::cast_precision_loss, reason = "letters of a name")]
            let width = series.name.chars().count() as f64 * 6.6;
            place += width + 48.0;
        }
        svg.push_str("</svg>\n");
        svg
    }
}

fn draw(svg: &mut String, at: &[(f64, f64)], colour: &str, computed: bool) {
    let path: Vec<String> = at.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let dash = if computed { " stroke-dasharray=\"6 4\"" } else { "" };
    let path = path.join(" ");
    let _ = writeln!(svg, "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>");
    if !computed {
        for (x, y) in at {
            let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>");
        }
    }
}

fn line(svg: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str) {
    let _ = writeln!(
        svg,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\" stroke-width=\"1\"/>"
    );
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, more: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {more}>{words}</text>");
}

fn label(value: f64) -> String {
    crate::figures::show(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(axes: (Axis, Axis), points: &[(f64, f64)]) -> String {
        let series = vec![Series { name: "a < b".into(), points: points.to_vec(), computed: false }];
        Plot { title: "T", across: "x", up: "y", axes, series }.svg()
    }

    #[test]
    fn even_axes_begin_at_zero_and_end_at_a_round_number() {
        let scale = Scale::new(Axis::Even, [3.0, 47.0].into_iter());
        assert_eq!((scale.from, scale.to), (0.0, 50.0));
        assert_eq!(scale.ticks, [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]);
        assert_eq!(scale.share(25.0), 0.5);
    }

    #[test]
    fn powers_of_ten_are_evenly_apart() {
        let scale = Scale::new(Axis::Powers, [100.0, 100_000.0].into_iter());
        assert_eq!(scale.ticks.len(), 4);
        assert!((scale.share(1000.0) - 1.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn a_plot_has_all_of_its_points_and_no_bare_brackets() {
        let svg = plot((Axis::Powers, Axis::Even), &[(100.0, 1.0), (1000.0, 2.0), (10.0, f64::NAN)]);
        // Two points, and two at the name.
        assert_eq!(svg.matches("<circle").count(), 4);
        assert!(svg.contains("a &lt; b") && !svg.contains("NaN"), "{svg}");
    }

    #[test]
    fn nothing_and_one_point_are_plots_too() {
        for axes in [(Axis::Even, Axis::Even), (Axis::Powers, Axis::Powers)] {
            assert!(plot(axes, &[]).ends_with("</svg>\n"));
            assert!(!plot(axes, &[(5.0, 5.0)]).contains("NaN"));
        }
    }
}
