//! The connections of this node: how far each has come, whom it may speak to over it, and which are kept when idle.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use dht::Level;
use libp2p::kad::KBucketKey;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

use crate::address::is_tcp;
use crate::gate::Door;
use crate::hello::Keep;

/// Idle connections that an ordinary node keeps, in all.
const STANDING: usize = 8;
/// A replica is where everybody's leases are, so it keeps more.
const STANDING_OF_A_REPLICA: usize = 64;
/// Two connections made within this time were made by both sides at once; an older one has died unseen.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Who made a connection.
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
    /// The state machine lets the peer in; that may not be on disk yet.
    Accepted,
    /// This node has let the peer in.
    Checked,
    /// And the peer has let this node in.
    Open,
}

/// One connection.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) peer: PeerId,
    pub(crate) address: Multiaddr,
    pub(crate) made_by: MadeBy,
    pub(crate) since: Instant,
    pub(crate) stage: Stage,
    keep: Keep,
}

impl Link {
    /// Whether its other end has shown nothing yet but a name, and came by itself. It may well have meant another
    /// namespace of this machine, so it stands in nobody's way.
    fn is_stranger(&self) -> bool {
        self.made_by == MadeBy::Them && self.stage == Stage::Greeting
    }

    /// Whether this node would have kept it.
    pub(crate) fn ought_to_stand(&self) -> bool {
        self.keep == Keep::Standing
    }
}

/// What it meant that a connection ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) link: Link,
    /// It was the last one to its peer, strangers aside.
    pub(crate) last: bool,
    /// No open one is left, and this one was.
    pub(crate) disconnected: bool,
}

/// All connections, and which peers the state machine has admitted.
#[derive(Debug)]
pub(crate) struct Links {
    me: PeerId,
    links: BTreeMap<ConnectionId, Link>,
    admitted: BTreeMap<PeerId, Level>,
}

impl Links {
    pub(crate) fn new(me: PeerId) -> Self {
        Self { me, links: BTreeMap::new(), admitted: BTreeMap::new() }
    }

    pub(crate) fn get(&self, connection: ConnectionId) -> Option<&Link> {
        self.links.get(&connection)
    }

    pub(crate) fn of(&self, peer: PeerId) -> impl Iterator<Item = ConnectionId> {
        self.links.iter().filter(move |(_, link)| link.peer == peer).map(|(id, _)| *id)
    }

    /// Whether there is a connection, or the makings of one that this node wanted. A stranger's is none.
    pub(crate) fn has(&self, peer: PeerId) -> bool {
        self.links.values().any(|link| link.peer == peer && !link.is_stranger())
    }

    pub(crate) fn is_open(&self, peer: PeerId) -> bool {
        self.links.values().any(|link| link.peer == peer && link.stage == Stage::Open)
    }

    /// Whether some connection to this peer is not open, or not yet.
    pub(crate) fn is_mixed(&self, peer: PeerId) -> bool {
        self.links.values().any(|link| link.peer == peer && link.stage != Stage::Open)
    }

    /// The connection on which streams of datagrams to this peer are opened: one by TCP before the one that is kept.
    pub(crate) fn for_streams(&self, peer: PeerId) -> Option<(ConnectionId, &Link)> {
        let open = self.links.iter().filter(|(_, link)| link.peer == peer && link.stage == Stage::Open);
        let tcp = open.filter(|(_, link)| is_tcp(&link.address)).max_by_key(|(id, link)| (link.since, **id));
        tcp.map(|(id, link)| (*id, link)).or_else(|| self.preferred(peer))
    }

    pub(crate) fn level(&self, peer: PeerId) -> Option<Level> {
        self.admitted.get(&peer).copied()
    }

    /// Peers with an open connection.
    pub(crate) fn open_peers(&self) -> BTreeSet<PeerId> {
        self.links.values().filter(|link| link.stage == Stage::Open).map(|link| link.peer).collect()
    }

    pub(crate) fn insert(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: Multiaddr,
        made_by: MadeBy,
        now: Instant,
    ) {
        let keep = Keep::WhileUsed;
        self.links.insert(connection, Link { peer, address, made_by, since: now, stage: Stage::Greeting, keep });
    }

    pub(crate) fn remove(&mut self, connection: ConnectionId) -> Option<Ended> {
        let link = self.links.remove(&connection)?;
        let none_left = !self.has(link.peer);
        if none_left {
            self.admitted.remove(&link.peer);
        }
        let last = none_left && !link.is_stranger();
        let disconnected = link.stage == Stage::Open && !self.is_open(link.peer);
        Some(Ended { link, last, disconnected })
    }

    /// Forgets all connections, which are being closed: their ends will mean nothing.
    pub(crate) fn forget_all(&mut self) -> Vec<ConnectionId> {
        self.admitted.clear();
        std::mem::take(&mut self.links).into_keys().collect()
    }

    /// The state machine lets this peer in. Nothing is known of it without a connection.
    pub(crate) fn admit(&mut self, peer: PeerId, level: Level) {
        if self.of(peer).next().is_some() {
            self.admitted.insert(peer, level);
        }
    }

    /// Brings a connection forward. Says whether it got there only now.
    pub(crate) fn advance(&mut self, connection: ConnectionId, stage: Stage) -> bool {
        match self.links.get_mut(&connection) {
            Some(link) if link.stage < stage => {
                link.stage = stage;
                true
            }
            Some(_) | None => false,
        }
    }

    /// The door of a protocol that is for peers of at least this level.
    pub(crate) fn door(&self, connection: ConnectionId, least: Level) -> Door {
        let Some(link) = self.links.get(&connection) else { return Door::default() };
        let admitted = match (self.level(link.peer), least) {
            (Some(Level::Member), _) | (Some(Level::Joiner), Level::Joiner) => true,
            (Some(Level::Joiner), Level::Member) | (None, _) => false,
        };
        Door { inbound: admitted && link.stage >= Stage::Checked, outbound: admitted && link.stage == Stage::Open }
    }

    /// Other connections to the same peer that this one, just opened, replaces.
    pub(crate) fn replaced_by(&self, connection: ConnectionId) -> Vec<ConnectionId> {
        let Some(new) = self.links.get(&connection) else { return Vec::new() };
        let mut others: Vec<_> =
            self.links.iter().filter(|(id, link)| **id != connection && link.peer == new.peer).collect();
        others.sort_by_key(|(_, link)| std::cmp::Reverse(link.since));
        let is_dead = |link: &Link| link.since + AT_ONCE < new.since;
        others.into_iter().skip_while(|(_, link)| !is_dead(link)).map(|(id, _)| *id).collect()
    }

    fn limit(&self, voters: &[PeerId]) -> usize {
        if voters.contains(&self.me) { STANDING_OF_A_REPLICA } else { STANDING }
    }

    /// The voters that this node stays connected to. No more than it keeps, or it would go on dialling what it lets end:
    /// those that it is connected to already, for as long as that lasts, then those that are nearest to it by name, so that
    /// nodes spread over the voters. Those that are `hard` to reach come last.
    pub(crate) fn voters_to_keep(&self, voters: &[PeerId], hard: impl Fn(PeerId) -> bool) -> Vec<PeerId> {
        let me = KBucketKey::from(self.me);
        let stands = |peer: PeerId| {
            self.links
                .values()
                .any(|link| link.peer == peer && link.stage == Stage::Open && link.keep == Keep::Standing)
        };
        let mut others: Vec<PeerId> = voters.iter().copied().filter(|peer| *peer != self.me).collect();
        others.sort_by_cached_key(|peer| (!stands(*peer), hard(*peer), me.distance(&KBucketKey::from(*peer))));
        others.dedup();
        others.truncate(self.limit(voters));
        others
    }

    /// Whether this node and that peer both vote.
    pub(crate) fn is_fellow(&self, voters: &[PeerId], peer: PeerId) -> bool {
        voters.contains(&self.me) && voters.contains(&peer)
    }

    /// Decides anew which connections stay when idle, and tells those that changed: the voters' first, then
    /// the oldest, up to a limit; of two to one peer, the one that both sides choose.
    pub(crate) fn choose_standing(
        &mut self,
        voters: &[PeerId],
        hard: impl Fn(PeerId) -> bool,
    ) -> Vec<(PeerId, ConnectionId, Keep)> {
        let limit = self.limit(voters);
        let wanted = self.voters_to_keep(voters, hard);
        let mut candidates: Vec<_> = self.open_peers().into_iter().filter_map(|peer| self.preferred(peer)).collect();
        candidates
            .sort_by_key(|(id, link)| (!wanted.contains(&link.peer), !voters.contains(&link.peer), link.since, *id));
        let standing: BTreeSet<_> = candidates.into_iter().take(limit).map(|(id, _)| id).collect();
        let mut changed = Vec::new();
        for (id, link) in &mut self.links {
            let keep = if standing.contains(id) { Keep::Standing } else { Keep::WhileUsed };
            if link.keep != keep {
                link.keep = keep;
                changed.push((link.peer, *id, keep));
            }
        }
        changed
    }

    /// Of several open connections, the newest of those that the smaller of both names has made.
    fn preferred(&self, peer: PeerId) -> Option<(ConnectionId, &Link)> {
        let chosen = if self.me < peer { MadeBy::Us } else { MadeBy::Them };
        self.links
            .iter()
            .filter(|(_, link)| link.peer == peer && link.stage == Stage::Open)
            .max_by_key(|(id, link)| (link.made_by == chosen, link.since, **id))
            .map(|(id, link)| (*id, link))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Door = Door { inbound: true, outbound: true };
    const SHUT: Door = Door { inbound: false, outbound: false };

    #[expect(clippy::disallowed_methods, reason = "a test needs one real instant as origin")]
    fn origin() -> Instant {
        Instant::now()
    }

    fn id(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }

    fn address() -> Multiaddr {
        "/ip4/192.0.2.1/tcp/1".parse().unwrap()
    }

    fn links() -> (Links, PeerId, Instant) {
        (Links::new(PeerId::random()), PeerId::random(), origin())
    }

    fn open(links: &mut Links, n: usize, peer: PeerId, made_by: MadeBy, now: Instant) {
        links.insert(id(n), peer, address(), made_by, now);
        links.admit(peer, Level::Member);
        links.advance(id(n), Stage::Open);
    }

    #[test]
    fn a_door_opens_inwards_when_checked_and_outwards_when_open() {
        let (mut links, peer, now) = links();
        links.insert(id(1), peer, address(), MadeBy::Them, now);
        links.admit(peer, Level::Member);
        assert_eq!(links.door(id(1), Level::Joiner), SHUT);
        links.advance(id(1), Stage::Checked);
        assert_eq!(links.door(id(1), Level::Member), Door { inbound: true, outbound: false });
        links.advance(id(1), Stage::Open);
        assert_eq!(links.door(id(1), Level::Member), BOTH);
    }

    #[test]
    fn a_joiner_gets_the_message_door_only() {
        let (mut links, peer, now) = links();
        links.insert(id(1), peer, address(), MadeBy::Them, now);
        links.admit(peer, Level::Joiner);
        links.advance(id(1), Stage::Open);
        assert_eq!((links.door(id(1), Level::Joiner), links.door(id(1), Level::Member)), (BOTH, SHUT));
    }

    #[test]
    fn each_connection_says_hello_for_itself() {
        let (mut links, peer, now) = links();
        open(&mut links, 1, peer, MadeBy::Them, now);
        links.insert(id(2), peer, address(), MadeBy::Them, now);
        assert_eq!(links.door(id(2), Level::Joiner), SHUT);
    }

    #[test]
    fn admission_ends_with_the_last_connection() {
        let (mut links, peer, now) = links();
        open(&mut links, 1, peer, MadeBy::Them, now);
        open(&mut links, 2, peer, MadeBy::Us, now);
        let ended = links.remove(id(1)).unwrap();
        assert_eq!((ended.last, ended.disconnected, links.level(peer)), (false, false, Some(Level::Member)));
        let ended = links.remove(id(2)).unwrap();
        assert_eq!((ended.last, ended.disconnected, links.level(peer)), (true, true, None));
    }

    #[test]
    fn a_stranger_with_a_known_name_changes_nothing_for_the_connection_that_stands() {
        let (mut links, peer, now) = links();
        links.insert(id(1), peer, address(), MadeBy::Them, now);
        assert!(!links.has(peer));
        open(&mut links, 2, peer, MadeBy::Us, now);
        let ended = links.remove(id(1)).unwrap();
        assert_eq!((ended.last, ended.disconnected, links.level(peer)), (false, false, Some(Level::Member)));
        links.insert(id(3), peer, address(), MadeBy::Them, now);
        let ended = links.remove(id(2)).unwrap();
        assert_eq!((ended.last, ended.disconnected, links.level(peer)), (true, true, None));
        assert!(!links.remove(id(3)).unwrap().last);
    }

    #[test]
    fn an_accepted_stranger_takes_over_from_the_connection_that_ends() {
        let (mut links, peer, now) = links();
        open(&mut links, 1, peer, MadeBy::Us, now);
        links.insert(id(2), peer, address(), MadeBy::Them, now);
        links.advance(id(2), Stage::Accepted);
        assert!(!links.remove(id(1)).unwrap().last);
        assert_eq!(links.level(peer), Some(Level::Member));
    }

    #[test]
    fn nobody_is_admitted_without_a_connection() {
        let (mut links, peer, now) = links();
        links.admit(peer, Level::Member);
        links.insert(id(1), peer, address(), MadeBy::Them, now);
        links.advance(id(1), Stage::Open);
        assert_eq!(links.door(id(1), Level::Joiner), SHUT);
    }

    #[test]
    fn a_connection_that_died_unseen_is_replaced_and_one_made_at_once_is_not() {
        let (mut links, peer, now) = links();
        open(&mut links, 1, peer, MadeBy::Them, now);
        open(&mut links, 2, peer, MadeBy::Us, now + Duration::from_secs(60));
        open(&mut links, 3, peer, MadeBy::Them, now + Duration::from_secs(61));
        assert_eq!(links.replaced_by(id(3)), [id(1)]);
    }

    #[test]
    fn both_ends_keep_the_same_one_of_two_connections() {
        let (mut ours, peer, now) = links();
        let mut theirs = Links::new(peer);
        open(&mut ours, 1, peer, MadeBy::Us, now);
        open(&mut ours, 2, peer, MadeBy::Them, now);
        let me = ours.me;
        open(&mut theirs, 1, me, MadeBy::Them, now);
        open(&mut theirs, 2, me, MadeBy::Us, now);
        let kept = |links: &mut Links| {
            links.choose_standing(&[], |_| false).into_iter().map(|(_, id, _)| id).collect::<Vec<_>>()
        };
        assert_eq!(kept(&mut ours), kept(&mut theirs));
    }

    #[test]
    fn eight_connections_stand_and_the_voters_are_among_them() {
        let (mut links, _, now) = links();
        let peers: Vec<_> = (0..20).map(|_| PeerId::random()).collect();
        for (n, peer) in peers.iter().enumerate() {
            open(&mut links, n, *peer, MadeBy::Them, now + Duration::from_secs(n as u64));
        }
        let mut choose = |voters: &[PeerId]| links.choose_standing(voters, |_| false);
        let standing: Vec<_> = choose(&[peers[19]]).into_iter().map(|(peer, _, _)| peer).collect();
        assert_eq!(standing.len(), STANDING);
        assert!(standing.contains(&peers[19]) && standing.contains(&peers[0]) && !standing.contains(&peers[10]));
        assert_eq!(choose(&[peers[19]]), []);
    }

    #[test]
    fn a_node_dials_no_more_voters_than_it_keeps_and_the_same_ones_each_time() {
        let (mut links, _, now) = links();
        let mut voters: Vec<_> = (0..40).map(|_| PeerId::random()).collect();
        let first = links.voters_to_keep(&voters, |_| false);
        assert_eq!(first.len(), STANDING);
        voters.reverse();
        assert_eq!(links.voters_to_keep(&voters, |_| false), first);
        let (bad, good) = first.split_at(3);
        let others = links.voters_to_keep(&voters, |peer| bad.contains(&peer));
        assert!(good.iter().all(|peer| others.contains(peer)) && bad.iter().all(|peer| !others.contains(peer)));

        // All forty are connected, the nearest last: once eight stand, they are left alone.
        let nearest_last = voters.iter().filter(|peer| !first.contains(peer)).chain(&first);
        for (n, peer) in nearest_last.enumerate() {
            open(&mut links, n, *peer, MadeBy::Them, now + Duration::from_secs(n as u64));
            let _ = links.choose_standing(&voters, |_| false);
        }
        let kept = links.voters_to_keep(&voters, |_| false);
        assert_eq!(links.choose_standing(&voters, |_| false), []);
        assert!(kept.len() == STANDING && kept.iter().all(|peer| !first.contains(peer)));
        let lost = links.of(kept[0]).next().unwrap();
        links.remove(lost);
        let next = links.voters_to_keep(&voters, |_| false);
        assert!(kept[1..].iter().all(|peer| next.contains(peer)), "the others stay");
    }

    #[test]
    fn replicas_keep_their_fellows_before_anybody_else() {
        let (mut links, _, now) = links();
        let fellows: Vec<_> = (0..40).map(|_| PeerId::random()).collect();
        let voters: Vec<_> = fellows.iter().copied().chain([links.me]).collect();
        // A hundred others were there first.
        for n in 0..100 {
            open(&mut links, n, PeerId::random(), MadeBy::Them, now);
        }
        for (n, peer) in fellows.iter().enumerate() {
            open(&mut links, 100 + n, *peer, MadeBy::Them, now + Duration::from_secs(60));
        }
        let _ = links.choose_standing(&voters, |_| true);
        let standing: Vec<_> =
            links.links.values().filter(|link| link.keep == Keep::Standing).map(|link| link.peer).collect();
        assert_eq!(standing.len(), STANDING_OF_A_REPLICA);
        assert!(fellows.iter().all(|peer| standing.contains(peer)));
        assert_eq!(links.voters_to_keep(&voters, |_| true).len(), 40);
    }
}
