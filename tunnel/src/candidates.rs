//! Where a peer may be, and how often each address may still be tried.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::config::{Candidate, CandidateKind, is_usable};
use crate::limits::{CANDIDATES, OPENING, REFILL, SILENT_TRIES};

/// The candidates of one peer, in the order in which they are tried.
#[derive(Default)]
pub(crate) struct Candidates(Vec<Known>);

struct Known {
    candidate: Candidate,
    /// Inits without an answer.
    tries: u8,
    last_try: Option<Instant>,
    answered: bool,
    /// Whether a translator stands before it: nobody has that address himself.
    translated: bool,
    /// When a datagram left for it that only opened our own edge.
    opened: Option<Instant>,
}

/// In which order the ports are tried that the peer foretells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As told.
    Each,
    /// Every second one, and then the others.
    EverySecond,
}

impl Pace {
    /// One side of each pair takes the long steps.
    pub(crate) fn between(own: &[u8; 32], other: &[u8; 32]) -> Self {
        if own < other { Self::EverySecond } else { Self::Each }
    }
}

/// Ports that are foretold go first, then those that a translator gave, and then the others: where our own translator counts, too,
/// each new address that we send to takes one of the ports that we have foretold, and those before a translator have to be sent to
/// from one of them.
///
/// Where both count, a datagram of ours gets through if it goes to the port from which the peer sends to the port that ours leaves
/// by. With both in step that takes two predictions without any error: if there was one other flow before either's first, they
/// are past each other for ever. With one of them at double pace the two meet all the same, as many ports further on as there were
/// other flows.
fn in_order_of_trial(all: Vec<Known>, pace: Pace) -> Vec<Known> {
    let (foretold, rest): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|known| known.candidate.kind == CandidateKind::Predicted);
    let late = |place: usize| pace == Pace::EverySecond && place % 2 == 1;
    let (late, first): (Vec<_>, Vec<_>) = foretold.into_iter().enumerate().partition(|(place, _)| late(*place));
    let (given, rest): (Vec<_>, Vec<_>) = rest.into_iter().partition(|known| known.translated);
    first.into_iter().chain(late).map(|(_, known)| known).chain(given).chain(rest).collect()
}

impl Known {
    fn may_be_tried(&self) -> bool {
        self.answered || self.tries < SILENT_TRIES
    }

    /// Whether our own edge has to be opened first.
    fn is_closed(&self) -> bool {
        self.translated && !self.answered && self.opened.is_none()
    }

    /// When the peer has opened its edge, too, if it began when we did.
    fn ready(&self) -> Option<Instant> {
        self.opened.filter(|_| !self.answered).map(|at| at + OPENING)
    }
}

impl Candidates {
    /// Replaces the list, keeping what is known of addresses that stay. Silent ones may be tried again, but a peer
    /// that repeats its list cannot make us send more than three Inits in five seconds to anybody. Returns how
    /// many were refused.
    pub(crate) fn replace(&mut self, mut list: Vec<Candidate>, pace: Pace, now: Instant) -> usize {
        let told = list.len();
        list.retain(|candidate| is_usable(candidate.addr));
        let foretold = |candidate: &Candidate| candidate.kind == CandidateKind::Predicted;
        list.sort_by_key(|candidate| (candidate.kind, (!foretold(candidate)).then_some(candidate.addr)));
        let own: Vec<IpAddr> =
            list.iter().filter(|told| told.kind == CandidateKind::Lan).map(|told| told.addr.ip()).collect();
        let mut fresh: Vec<Known> = Vec::new();
        for candidate in list {
            if fresh.len() == CANDIDATES || fresh.iter().any(|known| known.candidate.addr == candidate.addr) {
                continue;
            }
            let outside = matches!(candidate.kind, CandidateKind::Observed | CandidateKind::Predicted);
            let translated = outside && !own.contains(&candidate.addr.ip());
            let mut known = Known { candidate, tries: 0, last_try: None, answered: false, translated, opened: None };
            if let Some(old) = self.find(candidate.addr) {
                let rested = old.last_try.is_none_or(|last| now.saturating_duration_since(last) >= REFILL);
                (known.last_try, known.answered) = (old.last_try, old.answered);
                known.tries = if rested { 0 } else { old.tries };
                known.opened = old.opened.filter(|_| !rested);
            }
            fresh.push(known);
        }
        self.0 = in_order_of_trial(fresh, pace);
        told - self.0.len()
    }

    /// Addresses that may be tried now, in this order.
    pub(crate) fn open(&self, now: Instant) -> impl Iterator<Item = SocketAddr> {
        let ready = move |known: &&Known| known.ready().is_none_or(|at| at <= now);
        self.0.iter().filter(|known| known.may_be_tried()).filter(ready).map(|known| known.candidate.addr)
    }

    /// When the next of those that may be tried, but not yet, can be.
    pub(crate) fn ready(&self, now: Instant) -> Option<Instant> {
        let waiting = self.0.iter().filter(|known| known.may_be_tried()).filter_map(Known::ready);
        waiting.filter(|at| *at > now).min()
    }

    /// Whether the next datagram there is to open our own edge only. With many routers, the first datagram that comes in before
    /// one has gone out takes the port for itself; so both sides send one out first that does not arrive. True once for each
    /// address that a translator gave.
    pub(crate) fn take_opening(&mut self, addr: SocketAddr, now: Instant) -> bool {
        let Some(known) = self.find_mut(addr).filter(|known| known.is_closed()) else {
            return false;
        };
        known.opened = Some(now);
        known.last_try = Some(now);
        true
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn note_try(&mut self, addr: SocketAddr, now: Instant) {
        if let Some(known) = self.find_mut(addr) {
            known.tries = known.tries.saturating_add(1);
            known.last_try = Some(now);
        }
    }

    /// An authentic handshake or datagram came from there.
    pub(crate) fn note_answer(&mut self, addr: SocketAddr) {
        if let Some(known) = self.find_mut(addr) {
            known.tries = 0;
            known.answered = true;
        }
    }

    /// A cookie came from there: not proof of the peer, but of something that listens. One more try.
    pub(crate) fn note_cookie(&mut self, addr: SocketAddr) {
        if let Some(known) = self.find_mut(addr) {
            known.tries = known.tries.saturating_sub(1);
        }
    }

    /// When an address became silent that had answered before, so that it counts as any other again.
    pub(crate) fn forget_answers(&mut self) {
        for known in &mut self.0 {
            known.answered = false;
        }
    }

    fn find(&self, addr: SocketAddr) -> Option<&Known> {
        self.0.iter().find(|known| known.candidate.addr == addr)
    }

    fn find_mut(&mut self, addr: SocketAddr) -> Option<&mut Known> {
        self.0.iter_mut().find(|known| known.candidate.addr == addr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CandidateKind::{Configured, Lan, Observed, Predicted};
    use crate::tests::origin;

    fn at(addr: &str, kind: CandidateKind) -> Candidate {
        Candidate { addr: addr.parse().unwrap(), kind }
    }

    #[test]
    fn each_is_tried_once_and_what_a_translator_gave_goes_first() {
        let mut candidates = Candidates::default();
        let refused = candidates.replace(
            vec![
                at("198.51.100.1:1", Configured),
                at("198.51.100.2:1", Observed),
                at("10.0.0.1:1", Lan),
                at("10.0.0.1:1", Observed),
                at("224.0.0.1:1", Lan),
            ],
            Pace::Each,
            origin(),
        );
        let open: Vec<_> = candidates.open(origin()).map(|addr| addr.to_string()).collect();
        assert_eq!(open, ["198.51.100.2:1", "10.0.0.1:1", "198.51.100.1:1"]);
        assert_eq!(refused, 2);
    }

    #[test]
    fn a_silent_address_is_tried_three_times_and_not_again_until_signalled_later() {
        let mut candidates = Candidates::default();
        let list = || vec![at("10.0.0.1:1", Lan)];
        let addr = list()[0].addr;
        candidates.replace(list(), Pace::Each, origin());
        for _ in 0..3 {
            assert_eq!(candidates.open(origin()).count(), 1);
            candidates.note_try(addr, origin());
        }
        assert_eq!(candidates.open(origin()).count(), 0);
        candidates.replace(list(), Pace::Each, origin() + REFILL / 2);
        assert_eq!(candidates.open(origin()).count(), 0);
        candidates.replace(list(), Pace::Each, origin() + REFILL);
        assert_eq!(candidates.open(origin()).count(), 1);
    }

    #[test]
    fn only_an_address_that_a_translator_gave_is_opened_first_and_once() {
        let mut candidates = Candidates::default();
        let list = || {
            vec![
                at("10.0.0.1:1", Lan),
                at("192.0.2.1:1", Lan),
                at("192.0.2.1:7", Observed),
                at("203.0.113.1:1", Observed),
            ]
        };
        candidates.replace(list(), Pace::Each, origin());
        let opens: Vec<_> = list()
            .iter()
            .filter(|told| candidates.take_opening(told.addr, origin()))
            .map(|told| told.addr.to_string())
            .collect();
        assert_eq!(opens, ["203.0.113.1:1"]);
        let translated = list()[3].addr;
        assert!(!candidates.take_opening(translated, origin()));
        let open = |candidates: &Candidates, now| candidates.open(now).any(|addr| addr == translated);
        assert!(!open(&candidates, origin()) && open(&candidates, origin() + OPENING));
        assert_eq!(candidates.ready(origin()), Some(origin() + OPENING));
        assert_eq!(candidates.ready(origin() + OPENING), None);
        candidates.replace(list(), Pace::Each, origin() + REFILL / 2);
        assert!(!candidates.take_opening(translated, origin()), "not again for the same attempt");
        candidates.replace(list(), Pace::Each, origin() + REFILL);
        assert!(candidates.take_opening(translated, origin() + REFILL));
        candidates.note_answer(translated);
        candidates.replace(list(), Pace::Each, origin() + REFILL * 9);
        assert!(!candidates.take_opening(translated, origin() + REFILL * 9), "what has answered is open");
    }

    #[test]
    fn ports_that_are_foretold_go_first_in_the_order_told_or_every_second_one_before_the_others() {
        let list = || {
            let foretold = (0..5).map(|n| at(&format!("203.0.113.1:{}", 9 - n), Predicted));
            foretold.chain([at("203.0.113.1:2", Observed), at("10.0.0.1:1", Lan)]).collect()
        };
        for (pace, order) in [(Pace::Each, [9, 8, 7, 6, 5, 2, 1]), (Pace::EverySecond, [9, 7, 5, 8, 6, 2, 1])] {
            let mut candidates = Candidates::default();
            candidates.replace(list(), pace, origin());
            let open: Vec<u16> = candidates.open(origin()).map(|addr| addr.port()).collect();
            assert_eq!(open, order, "{pace:?}");
        }
        assert_ne!(Pace::between(&[1; 32], &[2; 32]), Pace::between(&[2; 32], &[1; 32]));
        let mut candidates = Candidates::default();
        candidates.replace(list(), Pace::Each, origin());
        let foretold = "203.0.113.1:9".parse().unwrap();
        assert!(candidates.take_opening(foretold, origin()), "a translator stands before it");
        candidates.replace(
            (0..100).map(|n| at(&format!("203.0.113.1:{}", n + 1), Predicted)).collect(),
            Pace::Each,
            origin(),
        );
        assert_eq!(candidates.0.len(), CANDIDATES, "no more than of the others");
    }

    #[test]
    fn more_than_sixteen_are_refused() {
        let mut candidates = Candidates::default();
        let list = (0..100).map(|n| at(&format!("10.0.0.{n}:1"), Lan)).collect();
        assert_eq!(candidates.replace(list, Pace::Each, origin()), 100 - CANDIDATES);
    }
}
