//! What the packet threads see: who is local, who is remote, and which session leads there.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bridge::Local;
use dht::clock::{Now, OwnerTime};
use libp2p_identity::PeerId;
use tunnel::{Endpoint, LegView, Session, Way};

/// A peer that sends by another way than ours is reported this often.
const REPORT_EVERY: Duration = Duration::from_millis(250);

/// How datagrams to a peer are sealed, and where they go.
#[derive(Clone)]
pub struct Outlet {
    /// The keys.
    pub session: Arc<Session>,
    /// Straight to the peer, or inside the session with a relay.
    pub way: Way,
}

/// A session in which datagrams arrive.
#[derive(Clone)]
pub struct Inlet {
    /// Whom it is with.
    pub peer: PeerId,
    /// The keys.
    pub session: Arc<Session>,
    /// Where they are expected from.
    pub endpoint: Option<Endpoint>,
    /// Of those that come from elsewhere, which are reported.
    pub reports: Arc<Reports>,
}

/// An immutable view for forwarding, replaced whole by the engine.
#[derive(Clone)]
pub struct Snapshot {
    /// Hosts, routes and permitted sources.
    pub local: Arc<Local>,
    /// The session to send on, by peer.
    pub sending: HashMap<PeerId, Outlet>,
    /// All confirmed sessions, by the index in arriving datagrams.
    pub receiving: HashMap<u32, Inlet, BuildHasherDefault<IndexHasher>>,
    /// What we carry for others: by sender and circuit.
    pub legs: HashMap<(PeerId, u16), LegView>,
    /// From here on some address in `local` may be no longer ours, or no longer the peer's: nothing may be forwarded before
    /// the engine has looked.
    pub lapses: Option<OwnerTime>,
    /// How often the clocks had jumped ([`Now::jumps`]); with the next jump all of it lapses.
    pub jumps: u32,
}

impl Snapshot {
    /// Whether every address in it may still be used at this time. To be asked once for each batch.
    pub fn is_usable(&self, now: &Now) -> bool {
        self.jumps == now.jumps && self.lapses.is_none_or(|end| now.owner < end)
    }
}

/// For our own indices: nobody else chooses them, so one multiplication spreads them well enough.
#[derive(Clone, Copy, Debug, Default)]
pub struct IndexHasher(u64);

impl Hasher for IndexHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, index: u32) {
        self.0 = (self.0 ^ u64::from(index)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Lets the first report through, and then one in a while: the two ends of a pair may take different ways for hours.
pub struct Reports {
    origin: Instant,
    /// When the next one may go, in nanoseconds since the origin.
    next: AtomicU64,
}

impl Reports {
    pub(crate) fn new(origin: Instant) -> Self {
        Self { origin, next: AtomicU64::new(0) }
    }

    pub(crate) fn take(&self, now: Instant) -> bool {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let now = nanos(now.saturating_duration_since(self.origin));
        let next = |next: u64| (now >= next).then(|| now.saturating_add(nanos(REPORT_EVERY)));
        self.next.fetch_update(Relaxed, Relaxed, next).is_ok()
    }
}
