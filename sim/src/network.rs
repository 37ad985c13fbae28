//! What lies between the machines: delay, jitter, loss, duplication, reordering and cuts, all from one seed.
//!
//! Without I/O: asked for the fate of something sent, it names the moments at which that arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::node::NodeId;

/// A stream sends what was lost again after about this.
const RETRANSMIT: Duration = Duration::from_millis(200);

/// How good a link is. Chances are in parts per million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quality {
    /// One way.
    pub delay: Duration,
    /// Up to so much more.
    pub jitter: Duration,
    /// That a datagram is lost, or a segment of a stream has to be sent again.
    pub loss: u32,
    /// That a datagram arrives twice.
    pub duplicate: u32,
    /// That a datagram is overtaken by later ones.
    pub reorder: u32,
    /// That an overlay message is lost without a word, arrives twice, or late: more than a stream would do to it.
    pub message_faults: u32,
}

impl Quality {
    /// Ten milliseconds, and nothing goes wrong.
    pub const GOOD: Self = Self {
        delay: Duration::from_millis(10),
        jitter: Duration::from_millis(2),
        loss: 0,
        duplicate: 0,
        reorder: 0,
        message_faults: 0,
    };
    /// One datagram in five is lost, some come twice or late.
    pub const LOSSY: Self = Self {
        delay: Duration::from_millis(25),
        jitter: Duration::from_millis(15),
        loss: 200_000,
        duplicate: 20_000,
        reorder: 50_000,
        message_faults: 30_000,
    };
}

/// What becomes of something sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// There is no way.
    Cut,
    /// Lost on the way.
    Lost,
    /// Arrives after these delays; more than one where it is duplicated.
    Arrives(Vec<Duration>),
}

/// Every way between two machines.
pub struct Network {
    rng: ChaCha8Rng,
    quality: Quality,
    cut: BTreeSet<(NodeId, NodeId)>,
    /// The latest arrival on each way, for what keeps its order.
    latest: BTreeMap<(NodeId, NodeId), Duration>,
    /// Datagrams lost, and datagrams that met a cut.
    pub lost: u64,
    /// Datagrams that met a cut.
    pub met_a_cut: u64,
}

impl Network {
    /// A network on which every link is of this quality.
    pub fn new(quality: Quality, seed: u64) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Self { rng, quality, cut: BTreeSet::new(), latest: BTreeMap::new(), lost: 0, met_a_cut: 0 }
    }

    /// Changes the quality of all links.
    pub(crate) fn set_quality(&mut self, quality: Quality) {
        self.quality = quality;
    }

    /// Cuts the way from one machine to another, not the way back.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cut.insert((from, to));
    }

    /// Heals all cuts.
    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// Whether there is no way.
    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Whether two machines can talk both ways.
    pub fn connects(&self, a: NodeId, b: NodeId) -> bool {
        !self.is_cut(a, b) && !self.is_cut(b, a)
    }

    /// Whether nothing is cut and nothing gets lost.
    pub fn is_good(&self) -> bool {
        self.cut.is_empty() && self.quality.loss == 0
    }

    /// The fate of a datagram.
    pub fn datagram(&mut self, from: NodeId, to: NodeId, now: Duration) -> Fate {
        if self.is_cut(from, to) {
            self.met_a_cut += 1;
            return Fate::Cut;
        }
        if self.happens(self.quality.loss) {
            self.lost += 1;
            return Fate::Lost;
        }
        let mut delays = vec![self.in_order(from, to, now)];
        if self.happens(self.quality.reorder) {
            delays[0] += (self.quality.delay + self.quality.jitter) * 3;
        }
        if self.happens(self.quality.duplicate) {
            delays.push(delays[0] + self.jitter());
        }
        Fate::Arrives(delays)
    }

    /// The fate of what a stream carries: late rather than lost.
    pub fn stream(&mut self, from: NodeId, to: NodeId) -> Fate {
        if self.is_cut(from, to) {
            return Fate::Cut;
        }
        let mut delay = self.quality.delay + self.jitter();
        while self.happens(self.quality.loss) {
            delay += RETRANSMIT;
        }
        Fate::Arrives(vec![delay])
    }

    /// The fate of an overlay message: a stream's, and then what the protocol has to bear besides.
    pub fn message(&mut self, from: NodeId, to: NodeId) -> Fate {
        let Fate::Arrives(mut delays) = self.stream(from, to) else { return Fate::Cut };
        if self.happens(self.quality.message_faults) {
            match self.rng.random_range(0..3) {
                0 => return Fate::Lost,
                1 => delays.push(delays[0] + RETRANSMIT),
                _ => delays[0] += RETRANSMIT * self.rng.random_range(1..30),
            }
        }
        Fate::Arrives(delays)
    }

    fn in_order(&mut self, from: NodeId, to: NodeId, now: Duration) -> Duration {
        let arrival = now + self.quality.delay + self.jitter();
        let latest = self.latest.entry((from, to)).or_default();
        *latest = arrival.max(*latest);
        *latest - now
    }

    fn jitter(&mut self) -> Duration {
        let most = u64::try_from(self.quality.jitter.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.rng.random_range(0..=most))
    }

    fn happens(&mut self, chance: u32) -> bool {
        chance > 0 && self.rng.random_range(0..1_000_000) < chance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(0);
    const B: NodeId = NodeId(1);

    #[test]
    fn a_good_link_keeps_order_and_loses_nothing() {
        let mut network = Network::new(Quality { jitter: Duration::from_millis(50), ..Quality::GOOD }, 1);
        let mut last = Duration::ZERO;
        for n in 0..1000 {
            let now = Duration::from_micros(n * 100);
            let Fate::Arrives(delays) = network.datagram(A, B, now) else { panic!("lost") };
            assert_eq!(delays.len(), 1);
            assert!(now + delays[0] >= last);
            last = now + delays[0];
        }
    }

    #[test]
    fn a_lossy_link_loses_about_what_it_says() {
        let mut network = Network::new(Quality::LOSSY, 2);
        let lost = (0..5000).filter(|_| network.datagram(A, B, Duration::ZERO) == Fate::Lost).count();
        assert!((900..1100).contains(&lost), "{lost}");
    }

    #[test]
    fn a_cut_is_for_one_direction() {
        let mut network = Network::new(Quality::GOOD, 3);
        network.cut(A, B);
        assert_eq!(network.datagram(A, B, Duration::ZERO), Fate::Cut);
        assert!(matches!(network.datagram(B, A, Duration::ZERO), Fate::Arrives(_)));
        network.heal();
        assert!(network.connects(A, B));
    }
}
