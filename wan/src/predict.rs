//! Whether a direct path is possible between two machines, from what stands before each.
//!
//! A path is there when both let the other's datagrams in. With address-and-port filtering that takes sending to the very port that
//! the other one's datagrams come from. So the other's port must be known: it is the one that everybody sees, or it can be
//! foretold, or a datagram of it has come through to learn it from.

use crate::edge::Edge;
use crate::nat::{Filtering, Mapping, Ports, Settings, Unsolicited};

/// How the two try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Technique {
    /// The first datagram lives just long enough to pass one's own edge.
    pub low_ttl: bool,
    /// The next ports of a translator that counts are tried, too.
    pub prediction: bool,
}

impl Technique {
    /// Both send to where others have seen the other one.
    pub const PLAIN: Self = Self { low_ttl: false, prediction: false };
    /// All that is known.
    pub const ALL: Self = Self { low_ttl: true, prediction: true };
}

/// What to expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Direct, whoever begins.
    Direct,
    /// Direct if a certain one begins.
    OneOrder,
    /// Only over a third.
    Relay,
}

/// Whether two edges let a direct path through.
pub fn direct_path_possible(a: Edge, b: Edge, technique: Technique) -> Outcome {
    let (one, other) = (a.settings(), b.settings());
    if !(lets_in(&one, &other, technique) && lets_in(&other, &one, technique)) {
        return Outcome::Relay;
    }
    // Whoever is sent to first loses the port that the other one knows, where both sides insist on it.
    let moves = |it: &Settings, by: &Settings| {
        let insists = by.filtering == Filtering::AddressAndPortDependent;
        it.unsolicited == Unsolicited::Remembered && insists && !technique.low_ttl
    };
    match (moves(&one, &other), moves(&other, &one)) {
        (false, false) => Outcome::Direct,
        (true, true) => Outcome::Relay,
        (true, false) | (false, true) => Outcome::OneOrder,
    }
}

/// Whether datagrams of the other one get in, once both have sent to where they know each other.
fn lets_in(it: &Settings, other: &Settings, technique: Technique) -> bool {
    let known = match (other.mapping, other.ports) {
        (Mapping::EndpointIndependent, _) => true,
        (Mapping::AddressAndPortDependent, Ports::Sequential(_)) => technique.prediction,
        (Mapping::AddressDependent | Mapping::AddressAndPortDependent, _) => false,
    };
    known || it.filtering != Filtering::AddressAndPortDependent
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The 55 pairs as they were measured on a kernel with nftables: D direct, d if one begins, R relay; P is a relay without
    /// prediction and direct with it, p the same if one begins.
    const MEASURED: [&str; 10] = [
        "D D D D D D D D D D",
        ". D D D D d D R P R",
        ". . D D D D D D D D",
        ". . . D D D D D D D",
        ". . . . D d D R P R",
        ". . . . . R d R p R",
        ". . . . . . D R P R",
        ". . . . . . . R R R",
        ". . . . . . . . P R",
        ". . . . . . . . . R",
    ];

    #[test]
    fn what_was_measured_is_what_is_predicted() {
        for (a, row) in Edge::ALL.into_iter().zip(MEASURED) {
            for (b, measured) in Edge::ALL.into_iter().zip(row.split(' ')) {
                let predicts = |technique| direct_path_possible(a, b, technique);
                let (plain, counted) =
                    (predicts(Technique::PLAIN), predicts(Technique { prediction: true, ..Technique::PLAIN }));
                let wanted = match measured {
                    "D" => (Outcome::Direct, Outcome::Direct),
                    "d" => (Outcome::OneOrder, Outcome::OneOrder),
                    "R" => (Outcome::Relay, Outcome::Relay),
                    "P" => (Outcome::Relay, Outcome::Direct),
                    "p" => (Outcome::Relay, Outcome::OneOrder),
                    _ => continue,
                };
                assert_eq!((plain, counted), wanted, "{} and {}", a.name(), b.name());
                assert_eq!(direct_path_possible(b, a, Technique::PLAIN), plain, "both ways");
            }
        }
    }

    #[test]
    fn a_low_ttl_makes_a_home_router_of_one_that_remembers() {
        for other in Edge::ALL {
            let with = |edge| direct_path_possible(edge, other, Technique { low_ttl: true, prediction: false });
            assert_eq!(with(Edge::HomeWithoutInputDrop), with(Edge::Home), "{}", other.name());
        }
        let both = direct_path_possible(Edge::HomeWithoutInputDrop, Edge::HomeWithoutInputDrop, Technique::ALL);
        assert_eq!(both, Outcome::Direct);
    }
}
