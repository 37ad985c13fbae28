//! Conversations: guests that ping each other all the time, and what becomes of that when something happens to the lines.

use std::time::Duration;

use crate::actions::PingId;
use crate::node::NodeId;
use crate::world::{Failure, World};

/// An answer that comes later than this was held up on the way, and ends a silence only when it is there.
const PROMPT: Duration = Duration::from_millis(1500);

/// Pings between two looks at the ways.
const LOOK_EVERY: usize = 4;

/// Two machines, and what one asked the other.
#[derive(Clone, Debug)]
pub struct Talk {
    /// Who asks.
    pub from: NodeId,
    /// Who answers.
    pub to: NodeId,
    every: Duration,
    asked: Vec<(Duration, PingId)>,
    /// How both their sessions went, at every fourth ping.
    ways: Vec<(Duration, [String; 2])>,
}

/// How a conversation went from some moment on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Until everything was answered.
    pub dark: Duration,
    /// Until both went the direct way for good; nothing if they did not.
    pub direct: Option<Duration>,
    /// Pings that were asked, and answered.
    pub asked: usize,
    /// See [`Self::asked`].
    pub answered: usize,
}

impl Talk {
    /// One that is about to begin.
    pub fn new(from: NodeId, to: NodeId, every: Duration) -> Self {
        Self { from, to, every, asked: Vec::new(), ways: Vec::new() }
    }

    /// How it went from this moment on. The last two seconds do not count: their answers may be on their way.
    pub fn account(&self, world: &World, since: Duration) -> Account {
        let end = world.now().saturating_sub(Duration::from_secs(2));
        let counts = |at: &Duration| since <= *at && *at <= end;
        let mut account = Account { dark: Duration::ZERO, direct: Some(Duration::ZERO), asked: 0, answered: 0 };
        for (at, ping) in self.asked.iter().filter(|(at, _)| counts(at)) {
            account.asked += 1;
            let until = match world.round_trip(*ping) {
                Some(time) if time <= PROMPT => *at,
                Some(time) => *at + time,
                None => *at + self.every,
            };
            account.answered += usize::from(world.round_trip(*ping).is_some());
            if until > *at {
                account.dark = account.dark.max(until - since);
            }
        }
        for (at, ways) in self.ways.iter().filter(|(at, _)| counts(at)) {
            let direct = ways.iter().all(|way| way == "direct");
            if !direct {
                account.direct = Some(*at + self.every * 4 - since);
            }
        }
        let last = self.ways.iter().rev().find(|(at, _)| counts(at));
        let ends_so = last.is_some_and(|(_, ways)| ways.iter().all(|it| it == "direct"));
        account.direct = account.direct.filter(|_| ends_so).map(|time| time.max(account.dark));
        account
    }

    /// The slowest answer to what was asked from this moment on.
    pub fn slowest(&self, world: &World, since: Duration) -> Option<Duration> {
        self.asked.iter().filter(|(at, _)| since <= *at).filter_map(|(_, ping)| world.round_trip(*ping)).max()
    }

    /// When the first ping was answered, from its own time on, and whether any was.
    pub fn first_answer(&self, world: &World) -> Option<Duration> {
        let first = self.asked.first()?.0;
        self.asked.iter().filter_map(|(at, ping)| Some(*at + world.round_trip(*ping)? - first)).min()
    }
}

impl World {
    /// Has them talk for so long. Who sleeps, is down or has no address says nothing meanwhile.
    pub fn talk(&mut self, talks: &mut [Talk], time: Duration) -> Result<(), Failure> {
        let end = self.now() + time;
        while let Some(every) = talks.iter().map(|talk| talk.every).min().filter(|_| self.now() < end) {
            let now = self.now();
            for talk in talks.iter_mut() {
                let due = talk.asked.last().is_none_or(|(at, _)| now >= *at + talk.every);
                let Some(ip) = self.address(talk.to).filter(|_| due && self.node(talk.from).is_running()) else {
                    continue;
                };
                let ping = self.ping(talk.from, ip);
                talk.asked.push((now, ping));
                if talk.asked.len() % LOOK_EVERY != 1 {
                    continue;
                }
                talk.ways.push((now, [self.way(talk.from, talk.to), self.way(talk.to, talk.from)]));
            }
            self.run_for(every.min(end - now))?;
        }
        Ok(())
    }

    /// How a machine's session with another goes: `direct`, `relay`, or another word of the engine's.
    pub fn way(&self, from: NodeId, to: NodeId) -> String {
        let node = self.node(from);
        let Some((engine, now)) = node.engine().zip(node.glance(self.now())) else { return "down".into() };
        let peer = self.node(to).peer.to_string();
        let status = engine.status(now);
        status.peers.into_iter().find(|it| it.peer_id == peer).map_or_else(|| "unknown".into(), |it| it.path)
    }

    /// Who carries what one machine sends to another.
    pub fn carrier(&self, from: NodeId, to: NodeId) -> Option<NodeId> {
        let node = self.node(from);
        let (engine, now) = node.engine().zip(node.glance(self.now()))?;
        let peer = self.node(to).peer.to_string();
        let status = engine.status(now).peers.into_iter().find(|it| it.peer_id == peer)?;
        let endpoint = status.endpoint?;
        self.nodes().iter().find(|node| node.peer.to_string() == endpoint).map(|node| node.id)
    }

    /// Whom a machine takes for voters.
    pub fn voters_of(&self, id: NodeId) -> Vec<NodeId> {
        let Some(namespace) = self.node(id).namespace() else { return Vec::new() };
        let replicas = namespace.replicas();
        let votes = |peer| replicas.iter().any(|replica| *replica == peer);
        self.nodes().iter().filter(|node| votes(node.peer)).map(|node| node.id).collect()
    }
}
