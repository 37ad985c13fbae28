//! Whether a stranger would reach a peer: a connection of its own, from a port that the peer has never seen, so that what
//! the peer's router lets through because of an older connection does not count. It is closed as soon as it stands.
//!
//! At the peer it is a stranger's connection that ends without a hello: it stands in nobody's way there, and its end means
//! nothing. Here it is not entered among the links, so no door of it ever opens.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};

use crate::config::Clocks;
use crate::driver::Driver;

/// At once.
const MOST: usize = 8;
/// Peers that wait for their turn.
const MOST_WANTED: usize = 64;
/// Addresses of one peer.
const MOST_ADDRESSES: usize = 8;
/// How long an attempt is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a peer's addresses, and its turn.
const WAIT: Duration = Duration::from_secs(5);

/// Attempts under way.
#[derive(Debug, Default)]
pub(crate) struct DialBacks {
    running: BTreeMap<ConnectionId, Attempt>,
    /// Asked for and not begun, and until when.
    wanted: BTreeMap<PeerId, Instant>,
    reached: u64,
    missed: u64,
}

#[derive(Debug)]
struct Attempt {
    peer: PeerId,
    until: Instant,
    step: Step,
}

/// How far an attempt has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Dialling,
    /// It stands, and is being closed.
    Reached,
    /// It took too long, and that was told. libp2p may still come through with it.
    Late,
}

/// What an established connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    /// The peer was reached in time.
    InTime(PeerId),
    TooLate,
}

impl DialBacks {
    /// Whether there is such a connection to this peer: libp2p may give it a message by mistake.
    pub(crate) fn has(&self, peer: PeerId) -> bool {
        self.running.values().any(|attempt| attempt.peer == peer)
    }

    /// Notes a wish. Says whether there is room for it.
    fn want(&mut self, peer: PeerId, now: Instant) -> bool {
        if self.has(peer) || self.wanted.contains_key(&peer) {
            // Its answer is on the way.
            return true;
        }
        let room = self.wanted.len() < MOST_WANTED;
        if room {
            self.wanted.insert(peer, now + WAIT);
        }
        room
    }

    /// The next peer whose turn it is.
    fn take_next(&mut self, is_known: impl Fn(PeerId) -> bool) -> Option<PeerId> {
        if self.running.len() >= MOST {
            return None;
        }
        let longest = self.wanted.iter().filter(|(peer, _)| is_known(**peer)).min_by_key(|(_, until)| **until);
        let peer = longest.map(|(peer, _)| *peer)?;
        self.wanted.remove(&peer);
        Some(peer)
    }

    fn began(&mut self, connection: ConnectionId, peer: PeerId, now: Instant) {
        self.running.insert(connection, Attempt { peer, until: now + PATIENCE, step: Step::Dialling });
    }

    /// A connection was made: whether it is one of these.
    fn arrived(&mut self, connection: ConnectionId) -> Option<Arrival> {
        let attempt = self.running.get_mut(&connection)?;
        if attempt.step != Step::Dialling {
            return Some(Arrival::TooLate);
        }
        attempt.step = Step::Reached;
        self.reached = self.reached.saturating_add(1);
        Some(Arrival::InTime(attempt.peer))
    }

    /// A connection ended, or could not be made. If it is one of these, the peer, if that was not reached in vain.
    fn ended(&mut self, connection: ConnectionId) -> Option<Option<PeerId>> {
        let attempt = self.running.remove(&connection)?;
        if attempt.step != Step::Dialling {
            return Some(None);
        }
        self.missed = self.missed.saturating_add(1);
        Some(Some(attempt.peer))
    }

    /// Those that took too long.
    fn take_late(&mut self, now: Instant) -> Vec<PeerId> {
        let mut late = Vec::new();
        for attempt in self.running.values_mut() {
            if attempt.step == Step::Dialling && attempt.until <= now {
                // It stays here until libp2p is done with it, lest it be taken for a connection that somebody wanted.
                attempt.step = Step::Late;
                late.push(attempt.peer);
            }
        }
        self.missed = self.missed.saturating_add(u64::try_from(late.len()).unwrap_or(u64::MAX));
        late
    }

    /// Those that have waited for long enough, and whether there is room for one more.
    fn take_waited(&mut self, now: Instant) -> Option<(PeerId, bool)> {
        let peer = self.wanted.iter().find(|(_, until)| **until <= now).map(|(peer, _)| *peer)?;
        self.wanted.remove(&peer);
        Some((peer, self.running.len() < MOST))
    }

    /// When something is late.
    pub(crate) fn next(&self) -> Option<Instant> {
        let dialling = self.running.values().filter(|attempt| attempt.step == Step::Dialling);
        dialling.map(|attempt| attempt.until).chain(self.wanted.values().copied()).min()
    }
}

impl<C: Clocks> Driver<C> {
    /// The state machine wants to know.
    pub(crate) fn dial_back(&mut self, peer: PeerId) {
        let now = self.now();
        if !self.dial_backs.want(peer, now.mono) {
            tracing::debug!(%peer, "too many to dial back");
            return self.machine.handle_dialled_back(peer, false, now);
        }
        self.go_on_dialling_back();
    }

    /// Begins what has addresses and room.
    pub(crate) fn go_on_dialling_back(&mut self) {
        loop {
            let book = &self.book;
            let next = self.dial_backs.take_next(|peer| !book.addresses(&peer).is_empty());
            let Some(peer) = next else { return };
            self.begin_dial_back(peer);
        }
    }

    fn begin_dial_back(&mut self, peer: PeerId) {
        let now = self.now();
        let options = DialOpts::peer_id(peer).condition(PeerCondition::Always);
        let options = options.addresses(self.addresses_told(peer)).allocate_new_port().build();
        let connection = options.connection_id();
        self.dial_backs.began(connection, peer, now.mono);
        if let Err(error) = self.swarm.dial(options) {
            tracing::debug!(%peer, %error, "cannot dial back");
            self.dial_back_ended(connection);
        }
    }

    /// Where a peer says that it listens, and where it is seen.
    fn addresses_told(&self, peer: PeerId) -> Vec<Multiaddr> {
        let seen = self.links.of(peer).filter_map(|connection| self.links.get(connection)).map(|link| &link.address);
        let mut addresses: Vec<Multiaddr> = Vec::new();
        for address in self.book.addresses(&peer).iter().chain(seen) {
            if self.filter.is_dialable(address) && !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        addresses.truncate(MOST_ADDRESSES);
        addresses
    }

    /// A connection stands. Whether it was made only to see that it can be.
    pub(crate) fn dialled_back(&mut self, connection: ConnectionId) -> bool {
        let Some(arrival) = self.dial_backs.arrived(connection) else { return false };
        self.swarm.close_connection(connection);
        if let Arrival::InTime(peer) = arrival {
            tracing::debug!(%peer, reached = self.dial_backs.reached, "reached from a new port");
            let now = self.now();
            self.machine.handle_dialled_back(peer, true, now);
        }
        true
    }

    /// A connection ended or failed. Whether it was one of these.
    pub(crate) fn dial_back_ended(&mut self, connection: ConnectionId) -> bool {
        let Some(missed) = self.dial_backs.ended(connection) else { return false };
        if let Some(peer) = missed {
            self.tell_missed(peer);
        }
        true
    }

    fn tell_missed(&mut self, peer: PeerId) {
        tracing::debug!(%peer, missed = self.dial_backs.missed, "not reached from a new port");
        let now = self.now();
        self.machine.handle_dialled_back(peer, false, now);
    }

    /// Gives up what takes too long.
    pub(crate) fn give_up_dial_backs(&mut self) {
        let now = self.now();
        for peer in self.dial_backs.take_late(now.mono) {
            self.tell_missed(peer);
        }
        while let Some((peer, room)) = self.dial_backs.take_waited(now.mono) {
            if room {
                // It has told no address in time, so where it is seen must do.
                self.begin_dial_back(peer);
            } else {
                tracing::debug!(%peer, "no room to dial back");
                self.machine.handle_dialled_back(peer, false, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test needs one real instant as origin")]
    fn origin() -> Instant {
        Instant::now()
    }

    fn id(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }

    #[test]
    fn a_connection_that_comes_too_late_is_still_known_for_what_it_is() {
        let (mut all, peer, now) = (DialBacks::default(), PeerId::random(), origin());
        all.began(id(1), peer, now);
        assert_eq!(all.take_late(now + PATIENCE), [peer]);
        assert_eq!((all.next(), all.has(peer)), (None, true));
        assert_eq!(all.arrived(id(1)), Some(Arrival::TooLate));
        assert_eq!((all.ended(id(1)), all.ended(id(1))), (Some(None), None));
        assert_eq!((all.reached, all.missed), (0, 1));
    }

    #[test]
    fn each_attempt_is_answered_once() {
        let (mut all, peer, now) = (DialBacks::default(), PeerId::random(), origin());
        all.began(id(1), peer, now);
        assert_eq!(all.arrived(id(1)), Some(Arrival::InTime(peer)));
        assert!(all.take_late(now + PATIENCE).is_empty());
        assert_eq!(all.ended(id(1)), Some(None));
        all.began(id(2), peer, now);
        assert_eq!(all.ended(id(2)), Some(Some(peer)));
        assert_eq!((all.reached, all.missed), (1, 1));
    }

    #[test]
    fn eight_run_at_once_one_to_each_peer_and_the_rest_waits_for_its_turn() {
        let (mut all, now) = (DialBacks::default(), origin());
        let peers: Vec<_> = (0..20).map(|_| PeerId::random()).collect();
        for (n, peer) in peers.iter().enumerate() {
            assert!(all.want(*peer, now + Duration::from_millis(n as u64)));
            assert!(all.want(*peer, now));
        }
        for (n, peer) in peers.iter().take(MOST).enumerate() {
            assert_eq!(all.take_next(|_| true), Some(*peer));
            all.began(id(n), *peer, now);
            assert!(all.want(*peer, now) && !all.wanted.contains_key(peer));
        }
        assert_eq!(all.take_next(|_| true), None);
        all.ended(id(0));
        assert_eq!(all.take_next(|peer| peer != peers[MOST]), Some(peers[MOST + 1]));
        let mut waited = 0;
        while let Some((_, room)) = all.take_waited(now + WAIT + Duration::from_secs(1)) {
            assert!(room);
            waited += 1;
        }
        assert_eq!((waited, all.next()), (20 - MOST - 1, Some(now + PATIENCE)));
    }

    #[test]
    fn a_crowd_is_turned_away() {
        let (mut all, now) = (DialBacks::default(), origin());
        let room = (0..100).filter(|_| all.want(PeerId::random(), now)).count();
        assert_eq!(room, MOST_WANTED);
    }
}
