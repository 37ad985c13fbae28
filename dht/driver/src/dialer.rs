//! Whom this node tries to reach, how long it waits between attempts, and what is to be sent once it got there.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use libp2p::kad::QueryId;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::aside::{Aside, Source};

/// Peers that something is known or waits for.
const MOST_TARGETS: usize = 512;
/// Messages waiting for one connection, and in all.
const MOST_WAITING: usize = 64;
const MOST_WAITING_IN_ALL: usize = 1024;
/// Addresses tried at once.
const MOST_ADDRESSES: usize = 16;
/// Connections made in one attempt whose hello came to nothing, say because another namespace listens there.
const MOST_GREETINGS: u32 = 16;
/// Between attempts that this node makes by itself.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// And at most after connections that the other side did not keep.
const LONGEST_UNKEPT: Duration = Duration::from_secs(60);
/// A connection that ended within this time was not kept.
const UNKEPT: Duration = Duration::from_secs(45);
/// A peer that failed so often in a row is hard to reach.
const HARD: u32 = 3;
/// Between attempts that the state machine asks for; it has its own patience.
const LEAST_PAUSE: Duration = Duration::from_millis(200);

/// Who wants a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// The state machine, for something at hand.
    Asked,
    /// The driver, because the connection ought to stand.
    Standing,
}

/// What an attempt is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    None,
    /// A connection to a named address.
    Dialling(ConnectionId),
    /// A connection to an address seen on the LAN.
    DiallingLan(ConnectionId),
    /// A Kademlia lookup of the peer.
    Looking(QueryId),
    /// A connection to a looked up address, the last resort.
    DiallingFound(ConnectionId),
}

impl Attempt {
    /// The connection that it is waiting for.
    pub(crate) fn connection(self) -> Option<ConnectionId> {
        match self {
            Self::Dialling(connection) | Self::DiallingLan(connection) | Self::DiallingFound(connection) => {
                Some(connection)
            }
            Self::None | Self::Looking(_) => None,
        }
    }
}

#[derive(Debug)]
struct Target {
    /// Addresses that the state machine or the configuration named.
    given: Vec<Multiaddr>,
    /// One of them is new and was not tried yet.
    fresh: bool,
    /// Those seen on the LAN, which may belong to another namespace.
    lan: VecDeque<Multiaddr>,
    greetings: u32,
    attempt: Attempt,
    failures: u32,
    /// Connections in a row that stood only for a moment.
    unkept: u32,
    ended: Option<Instant>,
    pause: Duration,
    waiting: VecDeque<Vec<u8>>,
    /// The state machine has asked for this peer and has no answer yet.
    asked: bool,
}

impl Target {
    fn pause_ends(&self) -> Option<Instant> {
        if self.fresh {
            return None;
        }
        let pause = match (self.asked, self.failures) {
            (true, 0) => Duration::ZERO,
            (true, _) => LEAST_PAUSE,
            (false, _) => self.pause,
        };
        self.ended.map(|ended| ended + pause)
    }
}

/// All peers that this node tries to reach.
#[derive(Debug)]
pub(crate) struct Dialer {
    targets: BTreeMap<PeerId, Target>,
    aside: Aside,
    rng: ChaCha8Rng,
    overflowed: u64,
}

impl Dialer {
    pub(crate) fn new(rng: ChaCha8Rng) -> Self {
        Self { targets: BTreeMap::new(), aside: Aside::default(), rng, overflowed: 0 }
    }

    /// Adds addresses to those to try for a peer.
    pub(crate) fn note(&mut self, peer: PeerId, addresses: impl IntoIterator<Item = Multiaddr>) {
        let target = self.target(peer);
        for address in addresses {
            target.fresh |= !target.given.contains(&address);
            target.given.retain(|known| *known != address);
            target.given.insert(0, address);
        }
        target.given.truncate(MOST_ADDRESSES);
    }

    /// Says whether something was given that was not tried yet. From now on it was.
    pub(crate) fn take_fresh(&mut self, peer: PeerId) -> bool {
        self.targets.get_mut(&peer).is_some_and(|target| std::mem::take(&mut target.fresh))
    }

    /// Adds an address that was seen on the LAN. It takes no other one's place, except the oldest of its kind.
    pub(crate) fn note_lan(&mut self, peer: PeerId, address: Multiaddr) {
        let target = self.target(peer);
        if !target.lan.contains(&address) {
            target.lan.push_front(address);
            target.lan.truncate(MOST_ADDRESSES);
        }
    }

    /// An address is no longer seen on the LAN.
    pub(crate) fn forget_lan(&mut self, peer: PeerId, address: &Multiaddr) {
        if let Some(target) = self.targets.get_mut(&peer) {
            target.lan.retain(|known| known != address);
        }
    }

    /// Peers that may be on the LAN.
    pub(crate) fn on_lan(&self, now: Instant) -> Vec<PeerId> {
        let usable = |peer: PeerId, target: &Target| target.lan.iter().any(|it| !self.aside.has(peer, it, now));
        self.targets.iter().filter(|(peer, target)| usable(**peer, target)).map(|(peer, _)| *peer).collect()
    }

    /// Notes a wish that has to wait for what is being done.
    pub(crate) fn remember(&mut self, peer: PeerId, wish: Wish) {
        self.target(peer).asked |= wish == Wish::Asked;
    }

    /// Notes a wish and says whether an attempt may begin: none runs, and the pause after the last is over.
    pub(crate) fn may_begin(&mut self, peer: PeerId, wish: Wish, now: Instant) -> bool {
        let target = self.target(peer);
        target.asked |= wish == Wish::Asked;
        target.attempt == Attempt::None && target.pause_ends().is_none_or(|end| now >= end)
    }

    /// When this peer may be tried next, if that only waits for the pause to end.
    pub(crate) fn next_attempt(&self, peer: PeerId) -> Option<Instant> {
        let target = self.targets.get(&peer)?;
        if target.attempt == Attempt::None { target.pause_ends() } else { None }
    }

    /// Peers that the state machine has asked for and that nothing is being done about.
    pub(crate) fn asked(&self) -> Vec<PeerId> {
        let idle = |target: &Target| target.asked && target.attempt == Attempt::None;
        self.targets.iter().filter(|(_, target)| idle(target)).map(|(peer, _)| *peer).collect()
    }

    /// The addresses to try first: those given, then those of the book, without those set aside.
    pub(crate) fn addresses(&self, peer: PeerId, book: &[Multiaddr], now: Instant) -> Vec<Multiaddr> {
        let given = self.targets.get(&peer).map_or(&[][..], |target| &target.given);
        self.usable(peer, given.iter().chain(book), now)
    }

    /// Those to try when none of the first answers: seen on the LAN, and neither named nor set aside.
    pub(crate) fn lan_addresses(&self, peer: PeerId, book: &[Multiaddr], now: Instant) -> Vec<Multiaddr> {
        let Some(target) = self.targets.get(&peer) else { return Vec::new() };
        let unnamed = target.lan.iter().filter(|address| !target.given.contains(address) && !book.contains(address));
        self.usable(peer, unnamed, now)
    }

    fn usable<'a>(&self, peer: PeerId, all: impl Iterator<Item = &'a Multiaddr>, now: Instant) -> Vec<Multiaddr> {
        let mut addresses: Vec<Multiaddr> = Vec::new();
        for address in all {
            let usable = !addresses.contains(address) && !self.aside.has(peer, address, now);
            if usable && addresses.len() < MOST_ADDRESSES {
                addresses.push(address.clone());
            }
        }
        addresses
    }

    /// The addresses that were given, set aside or not.
    pub(crate) fn given(&self, peer: PeerId) -> Vec<Multiaddr> {
        self.targets.get(&peer).map(|target| target.given.clone()).unwrap_or_default()
    }

    pub(crate) fn is_aside(&self, peer: PeerId, address: &Multiaddr, now: Instant) -> bool {
        self.aside.has(peer, address, now)
    }

    pub(crate) fn set_attempt(&mut self, peer: PeerId, attempt: Attempt) {
        self.target(peer).attempt = attempt;
    }

    pub(crate) fn attempt(&self, peer: PeerId) -> Attempt {
        self.targets.get(&peer).map_or(Attempt::None, |target| target.attempt)
    }

    /// The peer whose attempt waits for this.
    pub(crate) fn waiting_for(&self, attempt: impl Fn(Attempt) -> bool) -> Option<PeerId> {
        self.targets.iter().find(|(_, target)| attempt(target.attempt)).map(|(peer, _)| *peer)
    }

    /// A connection was made at this address, and its hello succeeded.
    pub(crate) fn greeted(&mut self, peer: PeerId, address: Multiaddr) {
        self.aside.take_back(peer, address);
    }

    /// A connection was made at this address, and its hello failed: sets it aside. Says whether another try is worth
    /// it.
    pub(crate) fn greeted_in_vain(
        &mut self,
        peer: PeerId,
        address: Multiaddr,
        book: &[Multiaddr],
        now: Instant,
    ) -> bool {
        let target = self.target(peer);
        let is_named = target.given.contains(&address) || book.contains(&address);
        let source = if is_named || !target.lan.contains(&address) { Source::Named } else { Source::Lan };
        self.aside.put(peer, address, source, now);
        let target = self.target(peer);
        target.greetings = target.greetings.saturating_add(1);
        target.greetings < MOST_GREETINGS
    }

    /// Ends an attempt without success. What waited for it is dropped; says how many messages.
    pub(crate) fn give_up(&mut self, peer: PeerId, longest: Duration, now: Instant) -> usize {
        // Up to half as much again, so that nodes that lost the same peer do not come back together.
        let jitter = self.rng.random_range(100..150);
        let target = self.target(peer);
        target.attempt = Attempt::None;
        target.greetings = 0;
        target.ended = Some(now);
        let doubled = SHORTEST_PAUSE.saturating_mul(1 << target.failures.min(6));
        target.pause = doubled.min(longest) * jitter / 100;
        target.failures = target.failures.saturating_add(1);
        target.asked = false;
        let dropped = target.waiting.len();
        target.waiting.clear();
        dropped
    }

    /// A connection is open. Gives what waited for it.
    pub(crate) fn reached(&mut self, peer: PeerId, now: Instant) -> VecDeque<Vec<u8>> {
        let target = self.target(peer);
        target.attempt = Attempt::None;
        target.greetings = 0;
        target.failures = 0;
        // Should it close again at once, it is not redialled at once.
        target.ended = Some(now);
        target.pause = SHORTEST_PAUSE;
        target.asked = false;
        std::mem::take(&mut target.waiting)
    }

    /// A connection that this node would have kept has ended. A replica that has too many lets the idle ones end, so whoever
    /// comes back at once comes back for ever: each time it waits longer.
    pub(crate) fn disconnected(&mut self, peer: PeerId, since: Instant, now: Instant) {
        let jitter = self.rng.random_range(100..150);
        let target = self.target(peer);
        if now.saturating_duration_since(since) >= UNKEPT {
            target.unkept = 0;
            return;
        }
        let doubled = SHORTEST_PAUSE.saturating_mul(1 << target.unkept.min(6));
        target.unkept = target.unkept.saturating_add(1);
        target.ended = Some(now);
        target.pause = doubled.min(LONGEST_UNKEPT) * jitter / 100;
    }

    /// Whether this peer is away, or lets connections end. Others of its kind will do as well.
    pub(crate) fn is_hard(&self, peer: PeerId) -> bool {
        self.targets.get(&peer).is_some_and(|target| target.failures >= HARD || target.unkept >= HARD)
    }

    /// Keeps a message until the peer is reached. A full queue drops its oldest.
    pub(crate) fn wait(&mut self, peer: PeerId, message: Vec<u8>) {
        let in_all: usize = self.targets.values().map(|target| target.waiting.len()).sum();
        let target = self.target(peer);
        target.waiting.push_back(message);
        if target.waiting.len() > MOST_WAITING || in_all >= MOST_WAITING_IN_ALL {
            target.waiting.pop_front();
            self.overflowed = self.overflowed.saturating_add(1);
            tracing::debug!(%peer, overflowed = self.overflowed, "dropped a message that waited for a connection");
        }
    }

    fn target(&mut self, peer: PeerId) -> &mut Target {
        if !self.targets.contains_key(&peer) && self.targets.len() >= MOST_TARGETS {
            let idle = |target: &Target| target.attempt == Attempt::None && !target.asked && target.waiting.is_empty();
            let oldest = self.targets.iter().filter(|(_, target)| idle(target)).min_by_key(|(_, target)| target.ended);
            if let Some(oldest) = oldest.map(|(peer, _)| *peer) {
                self.targets.remove(&oldest);
            }
        }
        self.targets.entry(peer).or_insert_with(|| Target {
            given: Vec::new(),
            fresh: false,
            lan: VecDeque::new(),
            greetings: 0,
            attempt: Attempt::None,
            failures: 0,
            unkept: 0,
            ended: None,
            pause: Duration::ZERO,
            waiting: VecDeque::new(),
            asked: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test needs one real instant as origin")]
    fn origin() -> Instant {
        Instant::now()
    }

    const MINUTE: Duration = Duration::from_secs(60);

    fn dialer() -> (Dialer, PeerId, Instant) {
        (Dialer::new(ChaCha8Rng::from_seed([1; 32])), PeerId::random(), origin())
    }

    fn address(n: usize) -> Multiaddr {
        format!("/ip4/192.0.2.1/tcp/{}", 4000 + n).parse().unwrap()
    }

    #[test]
    fn who_is_let_go_again_and_again_comes_back_ever_later_until_it_is_kept() {
        let (mut dialer, peer, mut now) = dialer();
        let mut pauses = Vec::new();
        for _ in 0..10 {
            dialer.reached(peer, now);
            let ended = now + Duration::from_secs(21);
            dialer.disconnected(peer, now, ended);
            now = dialer.next_attempt(peer).unwrap();
            pauses.push((now - ended).as_secs());
        }
        assert!(pauses[0] <= 1 && (60..=90).contains(&pauses[9]), "{pauses:?}");
        assert!(dialer.is_hard(peer));
        // What the state machine asks for does not wait.
        assert!(dialer.may_begin(peer, Wish::Asked, now - Duration::from_secs(50)));
        dialer.reached(peer, now);
        dialer.disconnected(peer, now, now + UNKEPT);
        assert!(!dialer.is_hard(peer) && dialer.may_begin(peer, Wish::Standing, now + UNKEPT));
    }

    #[test]
    fn pauses_grow_from_a_second_to_a_minute_and_a_half() {
        let (mut dialer, peer, now) = dialer();
        let mut pauses = Vec::new();
        for _ in 0..10 {
            dialer.give_up(peer, MINUTE, now);
            pauses.push(dialer.next_attempt(peer).unwrap() - now);
        }
        assert!(pauses[0] >= Duration::from_secs(1) && pauses[0] < Duration::from_millis(1500), "{pauses:?}");
        assert!(pauses[3] >= Duration::from_secs(8) && pauses[3] < Duration::from_secs(12), "{pauses:?}");
        assert!(pauses[9] >= Duration::from_secs(60) && pauses[9] < Duration::from_secs(90), "{pauses:?}");
    }

    #[test]
    fn the_state_machine_does_not_wait_for_a_long_pause_to_end() {
        let (mut dialer, peer, now) = dialer();
        for _ in 0..10 {
            dialer.give_up(peer, MINUTE, now);
        }
        let soon = now + LEAST_PAUSE;
        assert!(!dialer.may_begin(peer, Wish::Standing, soon));
        assert!(!dialer.may_begin(peer, Wish::Asked, now));
        assert_eq!((dialer.asked(), dialer.next_attempt(peer)), (vec![peer], Some(soon)));
        assert!(dialer.may_begin(peer, Wish::Asked, soon));
        dialer.give_up(peer, MINUTE, soon);
        assert_eq!(dialer.asked(), []);
    }

    #[test]
    fn a_peer_that_was_just_there_is_asked_for_again_without_a_pause() {
        let (mut dialer, peer, now) = dialer();
        dialer.reached(peer, now);
        assert!(!dialer.may_begin(peer, Wish::Standing, now));
        assert!(dialer.may_begin(peer, Wish::Asked, now));
    }

    #[test]
    fn reaching_a_peer_gives_what_waited_and_forgets_the_failures() {
        let (mut dialer, peer, now) = dialer();
        dialer.give_up(peer, MINUTE, now);
        dialer.give_up(peer, MINUTE, now);
        dialer.wait(peer, vec![1]);
        dialer.wait(peer, vec![2]);
        assert_eq!(dialer.reached(peer, now), [vec![1], vec![2]]);
        assert_eq!(dialer.next_attempt(peer), Some(now + SHORTEST_PAUSE));
    }

    #[test]
    fn giving_up_drops_what_waited() {
        let (mut dialer, peer, now) = dialer();
        dialer.wait(peer, vec![1]);
        assert_eq!(dialer.give_up(peer, MINUTE, now), 1);
        assert_eq!(dialer.reached(peer, now), VecDeque::<Vec<u8>>::new());
    }

    #[test]
    fn a_full_queue_drops_its_oldest() {
        let (mut dialer, peer, now) = dialer();
        for n in 0..=64 {
            dialer.wait(peer, vec![n]);
        }
        let waited = dialer.reached(peer, now);
        assert_eq!((waited.len(), &waited[0]), (MOST_WAITING, &vec![1]));
    }

    #[test]
    fn an_address_where_another_namespace_listens_is_not_tried_twice_in_one_attempt() {
        let (mut dialer, peer, now) = dialer();
        dialer.note(peer, [address(1), address(2)]);
        assert_eq!(dialer.addresses(peer, &[address(3), address(1)], now), [address(2), address(1), address(3)]);
        assert!(dialer.greeted_in_vain(peer, address(2), &[], now));
        assert!(dialer.greeted_in_vain(peer, address(3), &[address(3)], now));
        assert_eq!(dialer.addresses(peer, &[address(3)], now), [address(1)]);
        dialer.give_up(peer, MINUTE, now);
        assert_eq!(dialer.addresses(peer, &[address(3)], now), [address(1)]);
        assert_eq!(dialer.addresses(peer, &[address(3)], now + SHORTEST_PAUSE).len(), 3);
    }

    #[test]
    fn a_new_address_ends_the_pause_and_a_known_one_does_not() {
        let (mut dialer, peer, now) = dialer();
        dialer.note(peer, [address(1)]);
        assert!(dialer.take_fresh(peer) && !dialer.take_fresh(peer));
        dialer.give_up(peer, MINUTE, now);
        dialer.note(peer, [address(1)]);
        assert!(!dialer.may_begin(peer, Wish::Standing, now));
        dialer.note(peer, [address(2)]);
        assert!(dialer.may_begin(peer, Wish::Standing, now));
    }

    #[test]
    fn addresses_seen_on_the_lan_displace_no_named_one() {
        let (mut dialer, peer, now) = dialer();
        dialer.note(peer, [address(1)]);
        for n in 0..40 {
            dialer.note_lan(peer, address(n));
        }
        assert_eq!(dialer.addresses(peer, &[address(2)], now), [address(1), address(2)]);
        let lan = dialer.lan_addresses(peer, &[address(39)], now);
        assert_eq!((lan.len(), &lan[0]), (MOST_ADDRESSES - 1, &address(38)));
        dialer.greeted_in_vain(peer, address(38), &[], now);
        assert!(!dialer.lan_addresses(peer, &[], now + LEAST_PAUSE).contains(&address(38)));
        dialer.forget_lan(peer, &address(37));
        assert!(!dialer.lan_addresses(peer, &[], now).contains(&address(37)));
        assert_eq!(dialer.on_lan(now), [peer]);
    }

    #[test]
    fn an_attempt_ends_after_sixteen_hellos_in_vain() {
        let (mut dialer, peer, now) = dialer();
        let worth: Vec<_> = (0..16).map(|n| dialer.greeted_in_vain(peer, address(n), &[], now)).collect();
        assert_eq!(worth.iter().position(|worth| !worth), Some(15));
    }

    #[test]
    fn targets_are_bounded_and_those_with_work_stay() {
        let (mut dialer, busy, now) = dialer();
        dialer.wait(busy, vec![1]);
        for _ in 0..2 * MOST_TARGETS {
            dialer.give_up(PeerId::random(), MINUTE, now);
        }
        assert_eq!(dialer.targets.len(), MOST_TARGETS);
        assert_eq!(dialer.reached(busy, now), [vec![1]]);
    }
}
