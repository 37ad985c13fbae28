//! Measurements that the demonstration and the benchmarks share.

use std::time::Duration;

use anyhow::Context;
use e2e::{Node, Process, wait};

/// Which way a stream runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the client to the server.
    There,
    /// From the server to the client.
    Back,
}

/// Starts `iperf3 -s` on a machine.
///
/// # Errors
/// It does not start.
pub(crate) fn serve(node: &Node) -> anyhow::Result<Process> {
    let mut server = node.spawn(&["iperf3", "-s", "--forceflush"])?;
    server.wait_for_line(Duration::from_secs(10), |line| line.contains("Server listening"))?;
    Ok(server)
}

/// Gbit/s of one stream. Cubic: the default here may be bbr, which hides losses.
///
/// # Errors
/// The server cannot be reached.
pub(crate) fn tcp(node: &Node, server: &str, seconds: u32, direction: Direction) -> anyhow::Result<f64> {
    let seconds = seconds.to_string();
    let mut command = vec!["iperf3", "-c", server, "-t", &seconds, "-C", "cubic", "-f", "m"];
    if direction == Direction::Back {
        command.push("-R");
    }
    let said = node.run(&command)?;
    let line = said.lines().find(|line| line.ends_with("receiver")).context("iperf3 names no receiver")?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let unit = words.iter().position(|word| *word == "Mbits/sec").context("iperf3 names no speed")?;
    let speed: f64 = words[unit - 1].parse()?;
    Ok(speed / 1000.0)
}

/// Round trips of `count` echoes, 10 ms apart, in ms, sorted.
///
/// # Errors
/// None is answered.
pub(crate) fn round_trips(node: &Node, to: &str, count: u32) -> anyhow::Result<Vec<f64>> {
    let said = node.try_run(&["ping", "-i", "0.01", "-W", "2", "-c", &count.to_string(), to])?.stdout;
    let times = said.split("time=").skip(1).filter_map(|rest| rest.split_whitespace().next()?.parse().ok());
    sorted(times.collect()).context("no echo was answered")
}

/// Sorts what was measured; nothing if nothing was.
pub(crate) fn sorted(mut values: Vec<f64>) -> Option<Vec<f64>> {
    values.sort_by(f64::total_cmp);
    (!values.is_empty()).then_some(values)
}

/// The value below which a share of the sorted values lies.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let at = (last as f64 * share).round() as usize;
    sorted[at.min(last)]
}

/// How long something takes, in ms.
///
/// # Errors
/// It fails.
pub(crate) fn milliseconds<T>(what: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, f64)> {
    let before = wait::now();
    let value = what()?;
    Ok((value, before.elapsed().as_secs_f64() * 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values = sorted(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|share| quantile(&values, share)), [1.0, 2.0, 3.0, 3.0]);
        assert!(sorted(Vec::new()).is_none());
    }
}
