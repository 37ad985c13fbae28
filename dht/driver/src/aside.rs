//! Addresses at which a peer's name was right and its hello came to nothing: not dialled again for a while.
//!
//! One machine has one name and a port for each namespace, so an address may lead to the right peer in the wrong
//! namespace, every time it is dialled. Other addresses of that peer have to come first.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId};

/// Addresses set aside at one time; beyond, the one whose pause ends first is forgotten.
const MOST: usize = 512;

/// Who said that a peer is at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The token, the configuration, the state machine, a member, or an earlier connection.
    Named,
    /// Somebody on the LAN, on behalf of any namespace.
    Lan,
}

impl Source {
    /// The first pause after a hello in vain, and the longest. A named address is likely to be right, and its peer
    /// may only have been busy starting.
    fn pauses(self) -> (Duration, Duration) {
        match self {
            Self::Named => (Duration::from_secs(1), Duration::from_secs(8)),
            Self::Lan => (Duration::from_secs(5), Duration::from_secs(600)),
        }
    }
}

#[derive(Debug)]
struct Refused {
    times: u32,
    until: Instant,
}

/// All addresses set aside.
#[derive(Debug, Default)]
pub(crate) struct Aside {
    refused: BTreeMap<(PeerId, Multiaddr), Refused>,
}

impl Aside {
    /// A hello there was refused, or answered with nothing. Each time in a row doubles the pause.
    pub(crate) fn put(&mut self, peer: PeerId, address: Multiaddr, source: Source, now: Instant) {
        let key = (peer, address);
        if !self.refused.contains_key(&key) && self.refused.len() >= MOST {
            let first = self.refused.iter().min_by_key(|(_, refused)| refused.until).map(|(key, _)| key.clone());
            if let Some(first) = first {
                self.refused.remove(&first);
            }
        }
        let (shortest, longest) = source.pauses();
        let refused = self.refused.entry(key).or_insert(Refused { times: 0, until: now });
        refused.until = now + shortest.saturating_mul(1 << refused.times.min(10)).min(longest);
        refused.times = refused.times.saturating_add(1);
    }

    /// A hello there was accepted.
    pub(crate) fn take_back(&mut self, peer: PeerId, address: Multiaddr) {
        self.refused.remove(&(peer, address));
    }

    /// Whether the address is not to be dialled now.
    pub(crate) fn has(&self, peer: PeerId, address: &Multiaddr, now: Instant) -> bool {
        self.refused.get(&(peer, address.clone())).is_some_and(|refused| now < refused.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test needs one real instant as origin")]
    fn origin() -> Instant {
        Instant::now()
    }

    fn address(n: usize) -> Multiaddr {
        format!("/ip4/192.0.2.1/tcp/{n}").parse().unwrap()
    }

    /// Seconds for which an address stays aside, refused again each time that it is back.
    fn pauses(source: Source) -> Vec<u64> {
        let (mut aside, peer, mut now) = (Aside::default(), PeerId::random(), origin());
        let pause = |_| {
            aside.put(peer, address(1), source, now);
            let seconds = (1..1000).find(|s| !aside.has(peer, &address(1), now + Duration::from_secs(*s))).unwrap();
            now += Duration::from_secs(seconds);
            seconds
        };
        (0..9).map(pause).collect()
    }

    #[test]
    fn pauses_grow_up_to_a_limit_that_is_short_for_a_named_address() {
        assert_eq!(pauses(Source::Named), [1, 2, 4, 8, 8, 8, 8, 8, 8]);
        assert_eq!(pauses(Source::Lan), [5, 10, 20, 40, 80, 160, 320, 600, 600]);
    }

    #[test]
    fn an_address_is_set_aside_for_one_peer_and_until_a_hello_there_succeeds() {
        let (mut aside, peer, now) = (Aside::default(), PeerId::random(), origin());
        aside.put(peer, address(1), Source::Lan, now);
        assert!(aside.has(peer, &address(1), now));
        assert!(!aside.has(PeerId::random(), &address(1), now) && !aside.has(peer, &address(2), now));
        aside.take_back(peer, address(1));
        assert!(!aside.has(peer, &address(1), now));
    }

    #[test]
    fn however_many_are_refused_the_memory_is_bounded() {
        let (mut aside, peer, now) = (Aside::default(), PeerId::random(), origin());
        for n in 0..=MOST {
            aside.put(peer, address(n), Source::Lan, now + Duration::from_millis(u64::try_from(n).unwrap()));
        }
        assert_eq!(aside.refused.len(), MOST);
        let end = now + Duration::from_secs(1);
        assert!(!aside.has(peer, &address(0), end) && aside.has(peer, &address(MOST), end));
    }
}
