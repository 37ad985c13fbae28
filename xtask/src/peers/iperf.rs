//! What iperf3 reports.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{Node, Process};
use serde_json::Value;

use crate::measure::Direction;

/// What arrived of one or more TCP streams.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stream {
    /// Bytes.
    pub(crate) bytes: f64,
    /// Seconds.
    pub(crate) seconds: f64,
    /// Segments that were sent again.
    pub(crate) retransmits: f64,
}

/// What became of UDP packets that were sent as fast as they could be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Flood {
    /// Packets that arrived, in a second.
    pub(crate) arrived: f64,
    /// The share that did not, 0 to 1.
    pub(crate) lost: f64,
}

/// Starts streams from `node` to a server, with that congestion control.
///
/// # Errors
/// iperf3 is missing.
pub(crate) fn begin(
    node: &Node,
    to: &str,
    seconds: u32,
    streams: u32,
    direction: Direction,
    congestion: &str,
) -> anyhow::Result<Process> {
    let (seconds, streams) = (seconds.to_string(), streams.to_string());
    let mut command = command(to, &seconds);
    command.extend_from_slice(&["-C", congestion, "-P", &streams]);
    if direction == Direction::Back {
        command.push("-R");
    }
    node.spawn(&command)
}

/// Waits for the end of streams that [`begin`] started.
///
/// # Errors
/// The server was not reached, or nothing arrived.
pub(crate) fn end(streams: Process) -> anyhow::Result<Stream> {
    stream(&report(streams)?)
}

/// Sends UDP packets with so many bytes in each for some seconds, as fast as possible.
///
/// # Errors
/// The server was not reached, or nothing arrived.
pub(crate) fn flood(node: &Node, to: &str, seconds: u32, bytes: u32) -> anyhow::Result<Flood> {
    let (seconds, bytes) = (seconds.to_string(), bytes.to_string());
    let mut command = command(to, &seconds);
    command.extend_from_slice(&["-u", "-b", "0", "-l", &bytes]);
    packets(&report(node.spawn(&command)?)?)
}

fn command<'a>(to: &'a str, seconds: &'a str) -> Vec<&'a str> {
    vec!["iperf3", "-J", "--connect-timeout", "5000", "-c", to, "-t", seconds]
}

fn report(process: Process) -> anyhow::Result<Value> {
    // It reports failures in the same form, with an exit status of 1.
    let said = process.finish(Duration::from_secs(30))?;
    serde_json::from_str(&said.stdout).with_context(|| format!("iperf3 said {} {}", said.stdout, said.stderr))
}

fn stream(report: &Value) -> anyhow::Result<Stream> {
    let bytes = number(report, "/end/sum_received/bytes")?;
    let seconds = number(report, "/end/sum_received/seconds")?;
    ensure!(bytes > 0.0 && seconds > 0.0, "nothing arrived");
    // None where the sender's kernel does not count them.
    let retransmits = number(report, "/end/sum_sent/retransmits").unwrap_or_default();
    Ok(Stream { bytes, seconds, retransmits })
}

fn packets(report: &Value) -> anyhow::Result<Flood> {
    let [packets, lost, seconds] =
        ["packets", "lost_packets", "seconds"].map(|what| number(report, &format!("/end/sum/{what}")));
    let (packets, lost, seconds) = (packets?, lost?, seconds?);
    ensure!(packets > 0.0 && seconds > 0.0, "nothing arrived");
    // Packets that overtake others are counted twice among the lost.
    let arrived = (packets - lost).max(0.0);
    Ok(Flood { arrived: arrived / seconds, lost: 1.0 - arrived / packets })
}

fn number(report: &Value, at: &str) -> anyhow::Result<f64> {
    if let Some(error) = report["error"].as_str() {
        anyhow::bail!("iperf3: {error}");
    }
    report.pointer(at).and_then(Value::as_f64).with_context(|| format!("iperf3 reports no {at}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn streams_are_what_the_receiver_got() {
        let report = json!({"end": {
            "sum_sent": {"bytes": 3000, "seconds": 2.0, "retransmits": 7},
            "sum_received": {"bytes": 2500, "seconds": 2.5},
        }});
        assert_eq!(stream(&report).unwrap(), Stream { bytes: 2500.0, seconds: 2.5, retransmits: 7.0 });
    }

    #[test]
    fn a_failure_is_said_in_the_words_of_iperf3() {
        let report = json!({"start": {}, "end": {}, "error": "unable to connect to server"});
        assert_eq!(stream(&report).unwrap_err().to_string(), "iperf3: unable to connect to server");
        assert!(packets(&report).is_err());
    }

    #[test]
    fn nothing_is_no_stream() {
        let sums = json!({"bytes": 0, "seconds": 2.0});
        assert!(stream(&json!({"end": {"sum_sent": sums, "sum_received": sums}})).is_err());
        assert!(stream(&json!({})).is_err());
        assert!(packets(&json!({"end": {"sum": {"packets": 0, "lost_packets": 0, "seconds": 1.0}}})).is_err());
    }

    #[test]
    fn of_a_flood_counts_what_arrived() {
        let sum = json!({"packets": 1000, "lost_packets": 900, "seconds": 2.0});
        assert_eq!(packets(&json!({"end": {"sum": sum}})).unwrap(), Flood { arrived: 50.0, lost: 0.9 });
        let overtaken = json!({"packets": 10, "lost_packets": 12, "seconds": 1.0});
        assert_eq!(packets(&json!({"end": {"sum": overtaken}})).unwrap(), Flood { arrived: 0.0, lost: 1.0 });
    }
}
