//! `docs/speed.md`, out of what was measured.

use std::fmt::Write as _;

use super::far::{self, Far};
use super::iperf::Flood;
use super::machine::CALM;
use super::peer::Kind;
use super::probe::Plan;
use super::row::{Figures, Row, Run, Taken, Trip};
use super::targets::{DISTURBED, DRIFT, Section, Target, Wanted};
use crate::figures::show;

/// A program as the page names it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) layer: &'static str,
    pub(crate) settings: &'static str,
    /// Or why it is missing.
    pub(crate) version: Result<String, String>,
}

/// Where and when, and what with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Setting {
    pub(crate) date: String,
    pub(crate) machine: String,
    pub(crate) plan: Plan,
    pub(crate) minutes: f64,
    pub(crate) programs: Vec<Program>,
}

/// All of the page.
pub(crate) fn page(setting: &Setting, sections: &[Section], far: &[Far]) -> String {
    let mut page = head(setting, sections);
    page += &wishes(sections);
    for section in sections {
        page += &self::section(section);
    }
    page += &far::section(far, setting.plan.far);
    page += &programs(&setting.programs);
    page
}

fn head(setting: &Setting, sections: &[Section]) -> String {
    let Setting { date, machine, plan, minutes, .. } = setting;
    let sums = sections.iter().map(Section::disturbed);
    let (disturbed, all) = sums.fold((0, 0), |sum, section| (sum.0 + section.0, sum.1 + section.1));
    let quick = if *plan == Plan::QUICK { " Short runs (`--quick`): a look, no measurement." } else { "" };
    format!(
        "# Speed\n\n\
         `cargo xtask bench-peers` (as root, on an otherwise idle machine, half an hour) measures all of this in one run, and writes this page. It installs\n\
         what it compares with; the first time one of them is built, which takes several minutes more.\n\n\
         Measured on {date}, in {minutes:.0} minutes.{quick} Both machines are network namespaces, joined by one pair of virtual Ethernet devices; they, the programs, and\n\
         what sends and receives share {machine}. Two real machines would each have about half of the work.\n\
         TCP is cubic, inside and outside. {disturbed} of {all} values were measured while others used more than {CALM} processors; they bear a \\*.\n\
         All ratios are between values of this run. The bare link is measured before and after all others.\n",
    )
}

fn wishes(sections: &[Section]) -> String {
    let mut text = String::from("\n## What is wanted, and what is\n\n| |");
    for section in sections {
        let doubtful = if section.is_doubtful() { " (doubtful)" } else { "" };
        let _ = write!(text, " {}{doubtful} |", lowercase(section.underlay.title()));
    }
    let _ = writeln!(text, "\n|---|{}", "---|".repeat(sections.len()));
    let columns: Vec<Vec<Target>> = sections.iter().map(Section::targets).collect();
    for at in 0..columns.first().map_or(0, Vec::len) {
        let cells: Vec<String> = columns.iter().map(|column| wish(&column[at])).collect();
        let _ = writeln!(text, "| {} | {} |", columns[0][at].what, cells.join(" | "));
    }
    text += "\nOf the two ways the worse one counts.";
    if sections.iter().any(Section::is_doubtful) {
        let (drift, disturbed) = (DRIFT * 100.0, DISTURBED * 100.0);
        let _ = write!(
            text,
            " Doubtful is what was reckoned while the bare link changed by more than {drift:.0} %, or others disturbed more\n\
             than {disturbed:.0} % of the measurements."
        );
    }
    text.push('\n');
    text
}

fn wish(target: &Target) -> String {
    let wanted = match target.wanted {
        Wanted::AtLeast(limit) => format!("≥ {}", show(limit)),
        Wanted::AtMost(limit) => format!("≤ {}", show(limit)),
    };
    let with = target.with.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
    match (target.got, target.is_met()) {
        (Some(got), Some(true)) => format!("**{}**{with}, wanted {wanted}: met", show(got)),
        (Some(got), _) => format!("**{}**{with}, wanted {wanted}: missed", show(got)),
        (None, _) => format!("not measured, wanted {wanted}"),
    }
}

fn section(section: &Section) -> String {
    let mut text = format!("\n## {}\n\n{}\n", section.underlay.title(), section.underlay.about());
    if let Some(drift) = section.drift() {
        let _ = writeln!(text, "The bare link changed by {:.0} % meanwhile.", drift * 100.0);
    }
    text += "\n| | carries | MTU | one stream →, Gbit/s (least–most) | ← | four streams → | ← | → of the bare link \
             | processor, ns a byte (programs alone) | sent again, for a GB |\n|---|---|---|---|---|---|---|---|---|---|\n";
    for row in &section.rows {
        let _ = writeln!(text, "{}", streams(row, section));
    }
    text += "\n| | UDP 64 bytes, thousands a second (lost) | UDP 1400 bytes | round trip idle, median (99 %), ms \
             | beside four streams | memory of each end, MB |\n|---|---|---|---|---|---|\n";
    for (row, figures) in section.rows.iter().filter_map(|row| Some((row, row.figures.as_ref().ok()?))) {
        let _ = writeln!(text, "{}", packets(row, figures));
    }
    text += &retransmits(section);
    text
}

fn streams(row: &Row, section: &Section) -> String {
    let figures = match &row.figures {
        Ok(figures) => figures,
        Err(reason) => return format!("| {} | {} | | none: {} | | | | | | |", name(row), row.layer, plain(reason)),
    };
    let ratio = figures.one(0, Run::speed).zip(section.bare(|bare| bare.one(0, Run::speed)));
    let cost = figures.both(Run::cost).zip(figures.both(Run::daemons_cost));
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        name(row),
        row.layer,
        figures.mtu,
        one(&figures.one[0]),
        one(&figures.one[1]),
        four(figures.four[0].as_ref()),
        four(figures.four[1].as_ref()),
        ratio.map_or_else(none, |(speed, bare)| format!("{:.3}", speed / bare)),
        cost.map_or_else(none, |(all, daemons)| format!("{all:.2} ({daemons:.2})")),
        figures.both(Run::retransmits).map_or_else(none, show),
    )
}

fn packets(row: &Row, figures: &Figures) -> String {
    let memory: Vec<String> = figures.memory.iter().map(|megabytes| format!("{megabytes:.1}")).collect();
    format!(
        "| {} | {} | {} | {} | {} | {} |",
        name(row),
        flood(figures.floods[0].as_ref()),
        flood(figures.floods[1].as_ref()),
        trip(figures.idle.as_ref()),
        trip(figures.loaded.as_ref()),
        if memory.is_empty() { none() } else { memory.join(", ") },
    )
}

fn name(row: &Row) -> String {
    match row.kind {
        Kind::Bare | Kind::Packaged => row.name.clone(),
        Kind::Ours => format!("**{}**", row.name),
    }
}

fn one(runs: &[Taken<Run>]) -> String {
    let speeds = || runs.iter().map(|run| run.value.speed());
    let Some(middle) = super::row::median(speeds()) else { return none() };
    let mark = mark(runs.iter().any(Taken::is_disturbed));
    let (least, most) = (speeds().fold(f64::INFINITY, f64::min), speeds().fold(0.0, f64::max));
    if runs.len() == 1 { format!("{middle:.2}{mark}") } else { format!("{middle:.2} ({least:.2}–{most:.2}){mark}") }
}

fn four(run: Option<&Taken<Run>>) -> String {
    run.map_or_else(none, |run| format!("{:.2}{}", run.value.speed(), mark(run.is_disturbed())))
}

fn flood(flood: Option<&Taken<Flood>>) -> String {
    flood.map_or_else(none, |taken| {
        let Flood { arrived, lost } = taken.value;
        format!("{:.1} ({:.0} %){}", arrived / 1000.0, lost * 100.0, mark(taken.is_disturbed()))
    })
}

fn trip(trip: Option<&Taken<Trip>>) -> String {
    trip.map_or_else(none, |taken| {
        let Trip { median, p99 } = taken.value;
        format!("{} ({}){}", milliseconds(median), milliseconds(p99), mark(taken.is_disturbed()))
    })
}

/// No more digits than `ping` gives.
fn milliseconds(value: f64) -> String {
    let digits = match value {
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

fn none() -> String {
    "–".to_owned()
}

fn mark(disturbed: bool) -> &'static str {
    if disturbed { " \\*" } else { "" }
}

/// How often TCP has to send again because of us, beside others.
fn retransmits(section: &Section) -> String {
    let again = |figures: &Figures| figures.both(Run::retransmits);
    let Some(ours) = section.ours().and_then(again) else { return String::new() };
    let mut text = format!("\nSent again for a GB of one stream: overlay {}", show(ours));
    if let Some((best, _)) = section.best(0) {
        let row = section.rows.iter().find(|row| row.name == best);
        let theirs = row.and_then(|row| row.figures.as_ref().ok()).and_then(again);
        let _ = write!(text, "; {best}, the fastest of the others, {}", theirs.map_or_else(none, show));
    }
    let _ = writeln!(text, "; the bare link {}.", section.bare(again).map_or_else(none, show));
    text
}

fn programs(programs: &[Program]) -> String {
    let mut text = String::from(
        "\n## The programs\n\n\
         Both ends of each run on the same machine. MTU is that of the device inside; what is larger is cut into fragments there, as the large UDP packets\n\
         (IP packets of 1400 bytes) are where it is below 1400. UDP is sent as fast as one process can, so most of it is lost everywhere: what counts is what arrives.\n\
         The small packets have 64 bytes of payload. Processor time is all that the machine was busy, less what others did, for each byte that TCP received.\n\
         Memory is what is resident after all of this.\n\n| | version | carries | settings |\n|---|---|---|---|\n",
    );
    for Program { name, layer, settings, version } in programs {
        let version = match version {
            Ok(version) => version.clone(),
            Err(reason) => format!("not measured: {}", plain(reason)),
        };
        let _ = writeln!(text, "| {name} | {version} | {layer} | {settings} |");
    }
    text
}

/// A reason, as it fits into a cell.
fn plain(reason: &str) -> String {
    let line = reason.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    if line.chars().count() <= 120 { line } else { line.chars().take(120).chain(['…']).collect() }
}

fn lowercase(title: &str) -> String {
    let mut letters = title.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::super::targets::tests::section as measured;
    use super::*;

    fn setting() -> Setting {
        let program = |name, version| Program { name, layer: "IP", settings: "by default", version };
        Setting {
            date: "2026-11-29".to_owned(),
            machine: "2 cores".to_owned(),
            plan: Plan::WHOLE,
            minutes: 21.4,
            programs: vec![
                program("fast", Ok("1.2".to_owned())),
                program("gone", Err("no | such\npackage".to_owned())),
            ],
        }
    }

    /// The cells of the first line that begins with this one.
    fn line<'a>(page: &'a str, first: &str) -> Vec<&'a str> {
        let line = page.lines().find(|line| line.starts_with(&format!("| {first} |")));
        line.unwrap_or_else(|| panic!("no line for {first} in {page}"))
            .trim_matches('|')
            .split('|')
            .map(str::trim)
            .collect()
    }

    #[test]
    fn each_table_has_as_many_cells_in_each_line() {
        let page = page(&setting(), &[measured()], &[]);
        let cells = |line: &str| line.replace("\\|", "").matches('|').count();
        let mut columns = None;
        for line in page.lines() {
            match (line.starts_with('|'), columns) {
                (true, None) => columns = Some(cells(line)),
                (true, Some(columns)) => assert_eq!(cells(line), columns, "{line}"),
                (false, _) => columns = None,
            }
        }
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    }

    #[test]
    fn a_row_shows_the_median_and_the_spread() {
        let page = page(&setting(), &[measured()], &[]);
        let fast = line(&page, "fast");
        assert_eq!(fast[3..5], ["2.00 (1.00–3.00)", "1.00 (0.50–1.50)"]);
        assert_eq!(fast[7..9], ["0.133", "1.00 (0.50)"]);
        assert_eq!(line(&page, "gone")[3], "none: it is not there");
    }

    #[test]
    fn wishes_say_with_whom_they_compare() {
        let page = page(&setting(), &[measured()], &[]);
        assert_eq!(line(&page, "one stream, against the fastest other program")[1], "**4** (fast), wanted ≥ 3: met");
        assert_eq!(
            line(&page, "memory of the larger of both ends, MB")[1],
            "**31** , wanted ≤ 30: missed".replace(" ,", ",")
        );
        assert!(
            page.contains("Sent again for a GB of one stream: overlay 15; fast, the fastest of the others, "),
            "{page}"
        );
        assert!(page.contains("The bare link changed by 100 % meanwhile"), "{page}");
    }

    #[test]
    fn round_trips_have_no_more_digits_than_ping_gives() {
        assert_eq!([0.0234, 1.234, 12.34, 105.0].map(milliseconds), ["0.023", "1.23", "12.3", "105.0"]);
    }

    #[test]
    fn what_was_disturbed_bears_a_mark() {
        let mut section = measured();
        assert!(page(&setting(), &[section.clone()], &[]).contains(" 0 of "));
        section.rows[2].figures.as_mut().unwrap().one[0][1].foreign = 0.5;
        let page = page(&setting(), &[section], &[]);
        assert_eq!(line(&page, "fast")[3], "2.00 (1.00–3.00) \\*");
        assert!(page.contains(" 1 of "), "{page}");
    }

    #[test]
    fn who_is_missing_is_named() {
        let page = page(&setting(), &[], &[]);
        assert!(page.contains("| gone | not measured: no \\| such package |"), "{page}");
        assert!(plain(&"long ".repeat(100)).chars().count() == 121);
    }
}
