//! Grants per second at the register's interface.

use std::fmt::Write as _;
use std::process::Command;

use anyhow::{Context, ensure};

use crate::cargo;
use crate::figures::{Figures, show};

/// Where this part of the page begins.
pub(crate) const HEAD: &str = "\n## The register\n";

/// Measures, and writes this part of `docs/benchmarks.md`.
///
/// # Errors
/// It does not build or run.
pub(crate) fn section() -> anyhow::Result<String> {
    let build = ["build", "--locked", "--release", "--package", "dht-driver", "--example", "register"];
    ensure!(cargo::run("benchmark", &build, &[])?.failed == 0, "it does not build");
    let target = cargo::target_dir();
    let done = Command::new(target.join("release/examples/register")).arg(target.join("bench-register")).output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    page(&Figures::of(std::str::from_utf8(&done.stdout)?))
}

fn page(figures: &[Figures]) -> anyhow::Result<String> {
    let raw: Vec<f64> = figures.iter().filter(|line| line.is("raw")).map(|line| line.number("syncs_s")).collect();
    let (first, last) = raw.first().zip(raw.last()).context("the disk was not measured")?;
    let disk = f64::midpoint(*first, *last);
    let mut page = format!(
        "{HEAD}\n`cargo xtask bench-register` measures the lease register alone: n replicas in one process, each with its \
         thread and its\nstore on disk (redb, every commit synced), messages handed over in memory, the driver's loop of up to \
         64 inputs for each\ncommit. Claims of 64 owners, of addresses that are free, come signed; so many are under way at \
         a time. No sockets, and all\nreplicas share the cores, which are busy with signatures at n = 3 and 5.\nThe disk alone \
         (`write` of 4 KiB and `fdatasync`, before and after): {} and {} syncs/s.\n\n\
         | n | under way | grants/s | latency, median (99 %) | syncs for a grant, all replicas | grants/s to the disk's syncs/s |\n\
         |---|---|---|---|---|---|\n",
        show(*first),
        show(*last)
    );
    for line in figures.iter().filter(|line| line.is("register")) {
        let number = |key| line.number(key);
        writeln!(
            page,
            "| {} | {} | {} | {} ms ({}) | {} | {:.2} |",
            show(number("n")),
            show(number("window")),
            show(number("grants_s")),
            show(number("p50_ms")),
            show(number("p99_ms")),
            show(number("syncs")),
            number("grants_s") / disk
        )?;
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_to_the_mean_of_both_measurements_of_the_disk() {
        let lines =
            "raw syncs_s=900\nregister n=3 window=64 grants_s=500 p50_ms=2 p99_ms=9 syncs=0.5\nraw syncs_s=1100";
        let page = page(&Figures::of(lines)).unwrap();
        assert!(page.starts_with(HEAD) && page.contains("| 3 | 64 | 500 | 2 ms (9) | 0.5 | 0.50 |"), "{page}");
        assert!(super::page(&[]).is_err());
    }
}
