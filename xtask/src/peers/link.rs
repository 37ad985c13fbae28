//! What is laid for each program anew: two machines and a cable, and what the cable does to packets.

use std::time::Duration;

use anyhow::Context;
use e2e::{Lab, Node, Stretch};
use wan_shell::{Lines, Shell};

/// Of what a line leaves to chance: the same for each program.
const SEED: u64 = 1;

/// What may cross the cable at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Underlay {
    /// Packets of at most 1500 bytes, both ways: no offload.
    Wire,
    /// The same, but whoever receives may join them again, as real network cards have it.
    Receive,
    /// Super-frames, as between virtual machines of one host: all offloads.
    All,
}

impl Underlay {
    /// In the order in which they are measured.
    pub(crate) const EACH: [Self; 3] = [Self::Wire, Self::Receive, Self::All];

    /// The word on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Wire => "wire",
            Self::Receive => "receive",
            Self::All => "all",
        }
    }

    /// Whose word it is.
    ///
    /// # Errors
    /// Nobody's.
    pub(crate) fn parse(word: &str) -> anyhow::Result<Self> {
        let found = Self::EACH.into_iter().find(|underlay| underlay.word() == word);
        found.with_context(|| format!("no underlay is called {word}: wire, receive, or all (all offloads)"))
    }

    /// As it is called on the page.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Wire => "Packets of 1500 bytes",
            Self::Receive => "Packets of 1500 bytes, joined by the receiver",
            Self::All => "All offloads",
        }
    }

    /// What the page says of it.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Wire => {
                "`ethtool -K eth0 tso off gso off gro off tx-udp-segmentation off` at both ends: the worst case."
            }
            Self::Receive => "As before, with `gro on`: the stand-in for a real network card and LAN.",
            Self::All => "The pair of virtual devices as the kernel makes it, as between virtual machines of one host.",
        }
    }

    fn features(self) -> &'static [&'static str] {
        match self {
            Self::Wire => &["tso", "off", "gso", "off", "gro", "off", "tx-udp-segmentation", "off"],
            Self::Receive => &["tso", "off", "gso", "off", "gro", "on", "tx-udp-segmentation", "off"],
            Self::All => &[],
        }
    }
}

/// Two machines and the cable. They end before the laboratory does.
pub(crate) struct Link {
    /// Where streams begin, unless they are turned round.
    pub(crate) a: Node,
    /// Where they end.
    pub(crate) b: Node,
    /// Where there is more between them than a cable.
    _line: Option<Shell>,
    _lab: Lab,
}

impl Link {
    /// # Errors
    /// No root, or a tool is missing.
    pub(crate) fn lay(underlay: Underlay) -> anyhow::Result<Self> {
        let mut lab = Lab::new("peers")?;
        let [a, b] = lab.cable(["a", "b"])?;
        if !underlay.features().is_empty() {
            let command = [&["ethtool", "-K", "eth0"], underlay.features()].concat();
            a.run(&command)?;
            b.run(&command)?;
        }
        Ok(Self { a, b, _line: None, _lab: lab })
    }

    /// A line with that round trip, which loses so many of a million packets each way.
    ///
    /// # Errors
    /// As [`Self::lay`].
    pub(crate) fn far(round_trip: Duration, loss: u32) -> anyhow::Result<Self> {
        let mut lab = Lab::new("peers")?;
        let Stretch { a, b, line } = lab.stretch(["a", "b"], Lines::far(round_trip, loss), SEED)?;
        for node in [&a, &b] {
            let network = ["203.0.113.0/24", "dev", "eth0", "src", node.underlay(), "congctl", "cubic"];
            node.run(&[&["ip", "route", "replace"], &network[..]].concat())?;
        }
        Ok(Self { a, b, _line: Some(line), _lab: lab })
    }

    /// Both machines: the first, the second.
    pub(crate) fn ends(&self) -> [&Node; 2] {
        [&self.a, &self.b]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_underlay_has_a_word_of_its_own() {
        for underlay in Underlay::EACH {
            assert_eq!(Underlay::parse(underlay.word()).unwrap(), underlay);
        }
        assert!(Underlay::parse("wan").is_err());
    }
}
