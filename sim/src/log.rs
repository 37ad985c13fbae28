//! What happened, as one number and, where wanted, as lines. Two runs of one seed have the same number.

use std::time::Duration;

use crate::node::NodeId;

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;
/// Lines that are kept; the latest ones.
const MOST_LINES: usize = 200_000;

/// The log of one run.
pub struct Log {
    hash: u64,
    /// How many things happened.
    pub events: u64,
    lines: Option<Vec<String>>,
}

/// Whether lines are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// Every line is.
    On,
    /// Only the hash is.
    Off,
}

impl Log {
    pub(crate) fn new(trace: Trace) -> Self {
        Self { hash: OFFSET, events: 0, lines: (trace == Trace::On).then(Vec::new) }
    }

    /// Notes that something happened at a node. `text` is made only where lines are kept; `bytes` go into the hash.
    pub(crate) fn note(&mut self, at: Duration, node: NodeId, what: &str, bytes: &[u8], text: impl FnOnce() -> String) {
        self.events += 1;
        self.mix(&at.as_nanos().to_le_bytes());
        self.mix(&node.0.to_le_bytes());
        self.mix(what.as_bytes());
        self.mix(bytes);
        if let Some(lines) = &mut self.lines {
            if lines.len() >= MOST_LINES {
                lines.drain(..MOST_LINES / 2);
            }
            lines.push(format!("{:>12.6} {node} {what} {}", at.as_secs_f64(), text()));
        }
    }

    /// The hash of all that happened.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The lines kept.
    pub fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or_default()
    }

    /// FNV-1a.
    fn mix(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(PRIME);
        }
    }
}
