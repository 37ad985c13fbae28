//! Two sockets behind two edges punch holes, in virtual time and with none of our protocol: what the edges alone allow.
//!
//! Both ask two observers where they are seen, tell each other, and send: to where the other one is seen, where technique says so
//! also to the ports that come next, and to wherever something came from. Whoever hears the other one answers with three more.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use crate::edge::Edge;
use crate::nat::{Nat, Passage, Ports};
use crate::predict::{Outcome, Technique};

/// One way between the edges.
const DELAY: Duration = Duration::from_millis(10);
/// How much later the second one begins: what the first one sent has arrived by then.
const LATER: Duration = Duration::from_millis(15);
/// After a datagram that lives only to pass one's own edge.
const AFTER_LOW_TTL: Duration = Duration::from_millis(20);
/// Between two rounds of datagrams, and how many there are.
const ROUND: Duration = Duration::from_millis(50);
const ROUNDS: u32 = 6;
/// Sent to whom something came from.
const ANSWERS: usize = 3;
/// Ports ahead that are tried, and the largest step that is taken for counting.
const AHEAD: i32 = 12;
const STEP: i32 = 16;

const OBSERVERS: [SocketAddrV4; 2] =
    [SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 1), 3478), SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 2), 3478)];

/// One socket and its edge.
struct Side {
    socket: SocketAddrV4,
    nat: Nat,
    targets: Vec<SocketAddrV4>,
    heard: bool,
}

/// What happens at a time.
enum Event {
    /// A round of datagrams of this side.
    Send { side: usize, low_ttl: bool },
    /// A datagram is before the edge of this side.
    Arrives { side: usize, from: SocketAddrV4, to: SocketAddrV4 },
}

struct Attempt {
    sides: [Side; 2],
    queue: BTreeMap<(Duration, u64), Event>,
    count: u64,
    now: Duration,
}

/// Whether the two reach each other both ways if this one (0 or 1) begins.
pub fn punch(edges: [Edge; 2], first: usize, technique: Technique, seed: u64) -> bool {
    let side = |number: usize| Side::new(edges[number], number, seed);
    let sides = [side(0), side(1)];
    let mut attempt = Attempt { sides, queue: BTreeMap::new(), count: 0, now: Duration::ZERO };
    attempt.introduce(technique);
    for side in [first, 1 - first] {
        let mut start = attempt.now + if side == first { Duration::ZERO } else { LATER };
        if technique.low_ttl {
            attempt.later(start, Event::Send { side, low_ttl: true });
            start += AFTER_LOW_TTL;
        }
        for round in 0..ROUNDS {
            attempt.later(start + ROUND * round, Event::Send { side, low_ttl: false });
        }
    }
    attempt.run();
    attempt.sides.iter().all(|side| side.heard)
}

/// Both start orders in one word.
pub fn outcome(edges: [Edge; 2], technique: Technique, seed: u64) -> Outcome {
    match [0, 1].map(|first| punch(edges, first, technique, seed)) {
        [true, true] => Outcome::Direct,
        [false, false] => Outcome::Relay,
        [true, false] | [false, true] => Outcome::OneOrder,
    }
}

impl Side {
    fn new(edge: Edge, number: usize, seed: u64) -> Self {
        let last = if number == 0 { 1 } else { 2 };
        let outside = Ipv4Addr::new(203, 0, 113, last);
        let settings = edge.settings();
        let inside = match settings.ports {
            Ports::None => outside,
            Ports::Preserved | Ports::Random | Ports::Sequential(_) => Ipv4Addr::new(192, 168, last, 2),
        };
        let nat = Nat::new(settings, outside, seed.wrapping_mul(2).wrapping_add(u64::from(last)));
        Self { socket: SocketAddrV4::new(inside, 4000), nat, targets: Vec::new(), heard: false }
    }

    /// Where each observer sees it.
    fn observed(&mut self) -> [Option<SocketAddrV4>; 2] {
        OBSERVERS.map(|observer| {
            let Passage::Through { from, .. } = self.nat.outbound(self.socket, observer, Duration::ZERO) else {
                return None;
            };
            self.nat.inbound(observer, from, Duration::ZERO);
            Some(from)
        })
    }
}

/// Where somebody may be found who was seen there. The ports that come next are first: where both sides count, the n-th datagram
/// of one must go to the port from which the other one sends its n-th.
fn places(seen: [Option<SocketAddrV4>; 2], technique: Technique) -> Vec<SocketAddrV4> {
    let mut places = Vec::new();
    if let ([Some(one), Some(other)], true) = (seen, technique.prediction) {
        let step = i32::from(other.port()) - i32::from(one.port());
        if step != 0 && step.abs() <= STEP {
            let next = (1..=AHEAD).filter_map(|n| u16::try_from(i32::from(other.port()) + step * n).ok());
            places.extend(next.map(|port| SocketAddrV4::new(*other.ip(), port)));
        }
    }
    places.extend(seen[0]);
    places
}

impl Attempt {
    fn introduce(&mut self, technique: Technique) {
        let [one, other] = &mut self.sides;
        let (seen_one, seen_other) = (one.observed(), other.observed());
        one.targets = places(seen_other, technique);
        other.targets = places(seen_one, technique);
    }

    fn later(&mut self, at: Duration, event: Event) {
        self.count += 1;
        self.queue.insert((at, self.count), event);
    }

    fn run(&mut self) {
        while let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = at;
            match event {
                Event::Send { side, low_ttl } => {
                    for to in self.sides[side].targets.clone() {
                        self.send(side, to, low_ttl);
                    }
                }
                Event::Arrives { side, from, to } => self.arrives(side, from, to),
            }
        }
    }

    fn send(&mut self, side: usize, to: SocketAddrV4, low_ttl: bool) {
        let Side { socket, nat, .. } = &mut self.sides[side];
        let Passage::Through { from, to } = nat.outbound(*socket, to, self.now) else { return };
        let other = &self.sides[1 - side].nat;
        if *to.ip() == other.outside() && !low_ttl {
            self.later(self.now + DELAY, Event::Arrives { side: 1 - side, from, to });
        }
    }

    fn arrives(&mut self, side: usize, from: SocketAddrV4, to: SocketAddrV4) {
        let me = &mut self.sides[side];
        let Passage::Through { from, to } = me.nat.inbound(from, to, self.now) else { return };
        if to != me.socket {
            return;
        }
        me.heard = true;
        // Only the first of each place is answered, or two that hear each other would never stop.
        let fresh = !me.targets.contains(&from);
        if fresh {
            me.targets.push(from);
        }
        if fresh || !self.sides[1 - side].heard {
            (0..ANSWERS).for_each(|_| self.send(side, from, false));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predict::direct_path_possible;

    #[test]
    fn the_model_does_what_is_predicted_for_all_pairs() {
        let techniques = [
            Technique::PLAIN,
            Technique { prediction: true, ..Technique::PLAIN },
            Technique { low_ttl: true, ..Technique::PLAIN },
            Technique::ALL,
        ];
        for technique in techniques {
            for a in Edge::ALL {
                for b in Edge::ALL {
                    for seed in 0..5 {
                        let predicted = direct_path_possible(a, b, technique);
                        let found = outcome([a, b], technique, seed);
                        assert_eq!(found, predicted, "{} and {}, {technique:?}, seed {seed}", a.name(), b.name());
                    }
                }
            }
        }
    }
}
