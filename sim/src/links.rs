//! The overlay connections of one node: how far each has come, and whom it may be used for.

use std::collections::BTreeMap;
use std::time::Duration;

use dht::Level;
use libp2p_identity::PeerId;

/// Two connections made within this time were made by both sides at once; an older one has died unseen.
const AT_ONCE: Duration = Duration::from_secs(5);

/// One connection between two processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnectionId(pub(crate) u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MadeBy {
    Us,
    Them,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// The hello is on its way.
    Greeting,
    /// This node has let the peer in.
    Checked,
    /// And the peer has let this node in.
    Open,
}

#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) peer: PeerId,
    made_by: MadeBy,
    since: Duration,
    stage: Stage,
}

/// What it meant that a connection ended.
pub(crate) struct Ended {
    pub(crate) peer: PeerId,
    pub(crate) stage: Stage,
    /// It was the last one to its peer.
    pub(crate) last: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Links {
    links: BTreeMap<ConnectionId, Link>,
    admitted: BTreeMap<PeerId, Level>,
}

impl Links {
    pub(crate) fn get(&self, id: ConnectionId) -> Option<&Link> {
        self.links.get(&id)
    }
    pub(crate) fn len(&self) -> usize {
        self.links.len()
    }
    /// Begins anew; the connections that there were are to be closed.
    pub(crate) fn forget_all(&mut self) -> Vec<ConnectionId> {
        self.admitted.clear();
        std::mem::take(&mut self.links).into_keys().collect()
    }
    pub(crate) fn of(&self, peer: PeerId) -> Vec<ConnectionId> {
        self.links.iter().filter(|(_, link)| link.peer == peer).map(|(id, _)| *id).collect()
    }
    pub(crate) fn has(&self, peer: PeerId) -> bool {
        self.links.values().any(|link| link.peer == peer)
    }
    pub(crate) fn is_open(&self, peer: PeerId) -> bool {
        self.links.values().any(|link| link.peer == peer && link.stage == Stage::Open)
    }
    pub(crate) fn level(&self, peer: PeerId) -> Option<Level> {
        self.admitted.get(&peer).copied()
    }

    pub(crate) fn insert(&mut self, id: ConnectionId, peer: PeerId, made_by: MadeBy, since: Duration) {
        self.links.insert(id, Link { peer, made_by, since, stage: Stage::Greeting });
    }

    pub(crate) fn admit(&mut self, peer: PeerId, level: Level) {
        if self.has(peer) {
            self.admitted.insert(peer, level);
        }
    }

    /// Brings a connection forward. Says whether it got there only now.
    pub(crate) fn advance(&mut self, id: ConnectionId, stage: Stage) -> bool {
        match self.links.get_mut(&id) {
            Some(link) if link.stage < stage => {
                link.stage = stage;
                true
            }
            Some(_) | None => false,
        }
    }

    pub(crate) fn may_hear(&self, id: ConnectionId) -> bool {
        self.links.get(&id).is_some_and(|link| link.stage >= Stage::Checked && self.level(link.peer).is_some())
    }

    pub(crate) fn remove(&mut self, id: ConnectionId) -> Option<Ended> {
        let link = self.links.remove(&id)?;
        let last = !self.has(link.peer);
        if last {
            self.admitted.remove(&link.peer);
        }
        Some(Ended { peer: link.peer, stage: link.stage, last })
    }

    /// Other connections to the same peer that this one, just opened, replaces.
    pub(crate) fn replaced_by(&self, id: ConnectionId) -> Vec<ConnectionId> {
        let Some(new) = self.links.get(&id) else { return Vec::new() };
        let others = self.links.iter().filter(|(other, link)| **other != id && link.peer == new.peer);
        others.filter(|(_, link)| link.since + AT_ONCE < new.since).map(|(id, _)| *id).collect()
    }

    /// Of several open connections, the newest of those that the smaller of both names has made.
    pub(crate) fn preferred(&self, me: PeerId, peer: PeerId) -> Option<ConnectionId> {
        let chosen = if me < peer { MadeBy::Us } else { MadeBy::Them };
        let open = self.links.iter().filter(|(_, link)| link.peer == peer && link.stage == Stage::Open);
        open.max_by_key(|(id, link)| (link.made_by == chosen, link.since, **id)).map(|(id, _)| *id)
    }
}
