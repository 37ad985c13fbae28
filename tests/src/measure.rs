//! What the tools of others say of a way: how many echoes are answered, and how fast a stream is.

use std::time::Duration;

use anyhow::Context;

use crate::node::Node;

/// How many echo requests were sent, and how many answered, as `ping` says at its end.
///
/// # Errors
/// It says no such thing.
pub fn counts(report: &str) -> anyhow::Result<(u32, u32)> {
    let line = report.lines().find(|line| line.contains("packets transmitted")).context(report.to_owned())?;
    let mut numbers = line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok());
    numbers.next().zip(numbers.next()).with_context(|| line.to_owned())
}

/// Bits per second of a TCP stream of a few seconds. CUBIC, because others may hide what loss and marks do.
///
/// # Errors
/// iperf3 fails.
pub fn stream(from: &Node, to: &Node, ip: &str) -> anyhow::Result<f64> {
    let mut server = to.spawn(&["iperf3", "-s", "-1", "--forceflush"])?;
    server.wait_for_line(Duration::from_secs(10), |line| line.contains("Server listening"))?;
    let report = from.run(&["iperf3", "-c", ip, "-t", "4", "-C", "cubic", "-J"])?;
    let report: serde_json::Value = serde_json::from_str(&report)?;
    report["end"]["sum_received"]["bits_per_second"].as_f64().with_context(|| report.to_string())
}
