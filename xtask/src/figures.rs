//! What measuring programs print: lines of a word and `key=value` pairs.

use std::collections::BTreeMap;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Figures {
    what: String,
    values: BTreeMap<String, String>,
}

impl Figures {
    /// Reads a line; `None` if it is anything else.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let what = words.next()?.to_owned();
        let pair = |word: &str| word.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        let values: BTreeMap<_, _> = words.map(pair).collect::<Option<_>>()?;
        (!values.is_empty()).then_some(Self { what, values })
    }

    /// All lines of a text, in order.
    pub(crate) fn of(text: &str) -> Vec<Self> {
        text.lines().filter_map(Self::parse).collect()
    }

    /// Whether the line is about this.
    pub(crate) fn is(&self, what: &str) -> bool {
        self.what == what
    }

    /// A value as it was printed; `–` for none.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.values.get(key).map_or("–", String::as_str)
    }

    /// A value as a number; none is not a number.
    pub(crate) fn number(&self, key: &str) -> f64 {
        self.values.get(key).and_then(|value| value.parse().ok()).unwrap_or(f64::NAN)
    }
}

/// Best straight line through points: where it meets zero, and its slope.
pub(crate) fn fit(points: &[(f64, f64)]) -> (f64, f64) {
    #[expect(clippy::cast_precision_loss, reason = "a handful")]
    let count = points.len().max(1) as f64;
    let mean = |pick: fn(&(f64, f64)) -> f64| points.iter().map(pick).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let up: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let across: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let slope = if across == 0.0 { 0.0 } else { up / across };
    (y - slope * x, slope)
}

/// A number with a comma at each thousand and no more digits than it deserves.
pub(crate) fn show(value: f64) -> String {
    if value.is_nan() {
        return "–".to_owned();
    }
    let digits = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let mut grouped = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) && digit.is_ascii_digit() && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let rest = rest.map(|rest| rest.trim_end_matches('0')).filter(|rest| !rest.is_empty());
    rest.map_or(grouped.clone(), |rest| format!("{grouped}.{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_pairs_are_read_and_others_are_not() {
        let line = Figures::parse("kad n=100 hops=0.5 share=0:1,1:2").unwrap();
        assert!(line.is("kad"));
        assert_eq!((line.number("hops"), line.text("share"), line.text("none")), (0.5, "0:1,1:2", "–"));
        assert!(line.number("none").is_nan());
        for other in ["", "kad", "warning: unused import", "thread panicked at x=1 here"] {
            assert_eq!(Figures::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_line_fits_itself() {
        let (start, slope) = fit(&[(1.0, 5.0), (2.0, 7.0), (4.0, 11.0)]);
        assert!((start - 3.0).abs() < 1e-9 && (slope - 2.0).abs() < 1e-9);
        assert_eq!(fit(&[(2.0, 7.0)]), (7.0, 0.0));
    }

    #[test]
    fn numbers_are_shown_shortly() {
        let shown = [0.0, 1.5, 12.34, 999.6, 1234.5, 1_234_567.0, -1234.0, f64::NAN].map(show);
        assert_eq!(shown, ["0", "1.5", "12.3", "1,000", "1,234", "1,234,567", "-1,234", "–"]);
    }
}
