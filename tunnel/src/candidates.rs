//! Where a peer may be, and how often each address may still be tried.

use std::net::SocketAddr;
use std::time::Instant;

use crate::config::{Candidate, is_usable};
use crate::limits::{CANDIDATES, REFILL, SILENT_TRIES};

/// The candidates of one peer, the best first.
#[derive(Default)]
pub(crate) struct Candidates(Vec<Known>);

struct Known {
    candidate: Candidate,
    /// Inits without an answer.
    tries: u8,
    last_try: Option<Instant>,
    answered: bool,
}

impl Candidates {
    /// Replaces the list, keeping what is known of addresses that stay. Silent ones may be tried again, but a peer
    /// that repeats its list cannot make us send more than three Inits in five seconds to anybody. Returns how
    /// many were refused.
    pub(crate) fn replace(&mut self, mut list: Vec<Candidate>, now: Instant) -> usize {
        let told = list.len();
        list.retain(|candidate| is_usable(candidate.addr));
        list.sort_by_key(|candidate| (candidate.kind, candidate.addr));
        let mut fresh: Vec<Known> = Vec::new();
        for candidate in list {
            if fresh.len() == CANDIDATES || fresh.iter().any(|known| known.candidate.addr == candidate.addr) {
                continue;
            }
            let mut known = Known { candidate, tries: 0, last_try: None, answered: false };
            if let Some(old) = self.find(candidate.addr) {
                let rested = old.last_try.is_none_or(|last| now.saturating_duration_since(last) >= REFILL);
                (known.last_try, known.answered) = (old.last_try, old.answered);
                known.tries = if rested { 0 } else { old.tries };
            }
            fresh.push(known);
        }
        self.0 = fresh;
        told - self.0.len()
    }

    /// Addresses that may be tried, the best first.
    pub(crate) fn open(&self) -> impl Iterator<Item = SocketAddr> {
        self.0.iter().filter(|known| known.answered || known.tries < SILENT_TRIES).map(|known| known.candidate.addr)
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
    use crate::config::CandidateKind::{self, Configured, Lan, Observed};
    use crate::tests::origin;

    fn at(addr: &str, kind: CandidateKind) -> Candidate {
        Candidate { addr: addr.parse().unwrap(), kind }
    }

    #[test]
    fn the_best_come_first_and_each_once() {
        let mut candidates = Candidates::default();
        let refused = candidates.replace(
            vec![
                at("198.51.100.1:1", Configured),
                at("198.51.100.2:1", Observed),
                at("10.0.0.1:1", Lan),
                at("10.0.0.1:1", Observed),
                at("224.0.0.1:1", Lan),
            ],
            origin(),
        );
        let open: Vec<_> = candidates.open().map(|addr| addr.to_string()).collect();
        assert_eq!(open, ["10.0.0.1:1", "198.51.100.2:1", "198.51.100.1:1"]);
        assert_eq!(refused, 2);
    }

    #[test]
    fn a_silent_address_is_tried_three_times_and_not_again_until_signalled_later() {
        let mut candidates = Candidates::default();
        let list = || vec![at("10.0.0.1:1", Lan)];
        let addr = list()[0].addr;
        candidates.replace(list(), origin());
        for _ in 0..3 {
            assert_eq!(candidates.open().count(), 1);
            candidates.note_try(addr, origin());
        }
        assert_eq!(candidates.open().count(), 0);
        candidates.replace(list(), origin() + REFILL / 2);
        assert_eq!(candidates.open().count(), 0);
        candidates.replace(list(), origin() + REFILL);
        assert_eq!(candidates.open().count(), 1);
    }

    #[test]
    fn more_than_sixteen_are_refused() {
        let mut candidates = Candidates::default();
        let list = (0..100).map(|n| at(&format!("10.0.0.{n}:1"), Lan)).collect();
        assert_eq!(candidates.replace(list, origin()), 100 - CANDIDATES);
    }
}
