//! Whether a stranger would reach a peer: a connection of its own, from a port that the peer has never seen, so that what
//! the peer's router lets through because of an older connection does not count. It is closed as soon as it stands.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};

use crate::config::Clocks;
use crate::driver::Driver;

/// At once.
const MOST: usize = 8;
/// Peers whose addresses are waited for.
const MOST_WANTED: usize = 64;
/// How long an attempt is waited for, and the addresses of a peer.
const PATIENCE: Duration = Duration::from_secs(10);
const ADDRESSES: Duration = Duration::from_secs(5);

/// Attempts under way.
#[derive(Debug, Default)]
pub(crate) struct DialBacks {
    running: BTreeMap<ConnectionId, Attempt>,
    /// Asked for, but nothing is known yet of where these peers listen.
    wanted: BTreeMap<PeerId, Instant>,
}

#[derive(Debug)]
struct Attempt {
    peer: PeerId,
    until: Instant,
    /// It stands, and is being closed.
    reached: bool,
}

impl DialBacks {
    /// Whether there is such a connection to this peer: libp2p may give it a message by mistake.
    pub(crate) fn has(&self, peer: PeerId) -> bool {
        self.running.values().any(|attempt| attempt.peer == peer)
    }

    fn may_begin(&self, peer: PeerId) -> bool {
        self.running.len() < MOST && !self.has(peer)
    }

    /// A connection was made. If it is one of these, the peer that was reached.
    fn reached(&mut self, connection: ConnectionId) -> Option<PeerId> {
        let attempt = self.running.get_mut(&connection)?;
        attempt.reached = true;
        Some(attempt.peer)
    }

    /// A connection ended, or could not be made. If it is one of these, the peer and whether it was reached.
    fn ended(&mut self, connection: ConnectionId) -> Option<(PeerId, bool)> {
        let attempt = self.running.remove(&connection)?;
        Some((attempt.peer, attempt.reached))
    }

    /// Those that took too long, and the end of waiting for addresses.
    fn take_late(&mut self, now: Instant) -> Vec<PeerId> {
        let late: Vec<ConnectionId> =
            self.running.iter().filter(|(_, attempt)| attempt.until <= now).map(|(id, _)| *id).collect();
        let late: Vec<Attempt> = late.into_iter().filter_map(|id| self.running.remove(&id)).collect();
        let waited: Vec<PeerId> =
            self.wanted.iter().filter(|(_, until)| **until <= now).map(|(peer, _)| *peer).collect();
        self.wanted.retain(|_, until| *until > now);
        late.into_iter().filter(|attempt| !attempt.reached).map(|attempt| attempt.peer).chain(waited).collect()
    }

    /// When something is late.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.running.values().map(|attempt| attempt.until).chain(self.wanted.values().copied()).min()
    }
}

impl<C: Clocks> Driver<C> {
    /// The state machine wants to know.
    pub(crate) fn dial_back(&mut self, peer: PeerId) {
        let now = self.now();
        let addresses = self.addresses_told(peer);
        if addresses.is_empty() && self.dial_backs.wanted.len() < MOST_WANTED {
            // Its identify is on the way.
            self.dial_backs.wanted.entry(peer).or_insert(now.mono + ADDRESSES);
            return;
        }
        if !self.dial_backs.may_begin(peer) {
            return self.machine.handle_dialled_back(peer, false, now);
        }
        let options = DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(addresses);
        let options = options.allocate_new_port().build();
        let connection = options.connection_id();
        let attempt = Attempt { peer, until: now.mono + PATIENCE, reached: false };
        self.dial_backs.running.insert(connection, attempt);
        if let Err(error) = self.swarm.dial(options) {
            tracing::debug!(%peer, %error, "cannot dial back");
            self.dial_backs.ended(connection);
            self.machine.handle_dialled_back(peer, false, now);
        }
    }

    /// Where a peer says that it listens.
    fn addresses_told(&self, peer: PeerId) -> Vec<Multiaddr> {
        let addresses = self.book.addresses(&peer).iter();
        addresses.filter(|address| self.filter.is_dialable(address)).cloned().collect()
    }

    /// A peer has said where it listens.
    pub(crate) fn dial_back_if_wanted(&mut self, peer: PeerId) {
        if self.dial_backs.wanted.remove(&peer).is_some() {
            self.dial_back(peer);
        }
    }

    /// A connection stands. Whether it was made only to see that it can be.
    pub(crate) fn dialled_back(&mut self, connection: ConnectionId) -> bool {
        let Some(peer) = self.dial_backs.reached(connection) else { return false };
        tracing::debug!(%peer, "reached from a new port");
        self.swarm.close_connection(connection);
        let now = self.now();
        self.machine.handle_dialled_back(peer, true, now);
        true
    }

    /// A connection ended or failed. Whether it was one of these.
    pub(crate) fn dial_back_ended(&mut self, connection: ConnectionId) -> bool {
        let Some((peer, reached)) = self.dial_backs.ended(connection) else { return false };
        if !reached {
            tracing::debug!(%peer, "not reached from a new port");
            let now = self.now();
            self.machine.handle_dialled_back(peer, false, now);
        }
        true
    }

    /// Gives up what takes too long.
    pub(crate) fn give_up_dial_backs(&mut self) {
        let now = self.now();
        for peer in self.dial_backs.take_late(now.mono) {
            self.machine.handle_dialled_back(peer, false, now);
        }
    }
}
