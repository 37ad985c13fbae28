//! Who carries for us: members whom everybody reaches are asked for a circuit as soon as somebody is looked for, and named to
//! the other end, so that both meet there while they try for a direct way. See `docs/decisions/012-relays.md`.

use dht::clock::Now;
use dht::identity::PublicKey;
use dht::signal::Candidates;
use libp2p_identity::PeerId;

use crate::engine::Engine;

/// What one member may send through this one to others, in bytes per second: 100 Mbit/s.
pub const RELAY_RATE: u64 = 12_500_000;
/// How many are asked for one pair: one may be gone.
const RELAYS: usize = 2;
/// A member that serves others is itself reached directly; only after being looked for in vain this often is one of them
/// looked for by way of another.
const PATIENCE: u32 = 3;

impl Engine {
    /// The voters, of whom everybody knows where they are: first those with a session, by round trip; the others in an order
    /// of our own, so that not all members ask the same ones.
    pub(crate) fn voters(&self, besides: PeerId, now: Now) -> Vec<PeerId> {
        let me = self.me;
        let Some(standing) = &self.standing else { return Vec::new() };
        let all = standing.summary.replicas.iter().filter(|voter| **voter != me && **voter != besides);
        let mut ranked: Vec<_> = all
            .map(|voter| {
                let view = self.tunnel.peer(voter, now.mono).filter(|view| view.up);
                let rtt = view.and_then(|view| view.rtt);
                let order = dht::sign::hash("voters", &[&me.to_bytes(), &voter.to_bytes()]);
                (!self.peers.is_up(voter), rtt, order, *voter)
            })
            .collect();
        ranked.sort();
        ranked.into_iter().map(|(.., voter)| voter).collect()
    }

    /// Chooses who is to carry to a peer, and asks them.
    pub(crate) fn ask_relays(&mut self, peer: PeerId, now: Now) {
        let Some(entry) = self.peers.entry(peer) else { return };
        entry.missed = entry.missed.saturating_add(1);
        if entry.serves && entry.missed < PATIENCE {
            return;
        }
        let mut relays = self.voters(peer, now);
        relays.truncate(RELAYS);
        self.meet_at(peer, relays, now);
    }

    /// The peer has asked these, or some others, to carry between us.
    pub(crate) fn follow_to_relays(&mut self, from: PeerId, candidates: &Candidates, now: Now) {
        let me = self.me;
        let named = candidates.relays.iter().filter_map(PublicKey::peer_id);
        let relays: Vec<PeerId> = named.filter(|relay| *relay != me && *relay != from).take(RELAYS).collect();
        if !relays.is_empty() {
            self.meet_at(from, relays, now);
        }
    }

    fn meet_at(&mut self, peer: PeerId, relays: Vec<PeerId>, now: Now) {
        for relay in &relays {
            self.make_session(*relay, now);
            self.tunnel.open_circuit(*relay, peer, now.mono);
        }
        if let Some(entry) = self.peers.entry(peer) {
            entry.relays = relays;
        }
    }

    /// Brings about a session with a member that is to serve us: to say where it sees us, or to carry.
    pub(crate) fn make_session(&mut self, peer: PeerId, now: Now) {
        let Some(entry) = self.peers.entry(peer) else { return self.count("too-many-peers") };
        (entry.wanted, entry.serves) = (true, true);
        match (entry.up, entry.keyed) {
            (true, _) => {}
            (false, true) => self.signal(peer, true, now),
            (false, false) => self.connect(peer, now),
        }
    }
}
