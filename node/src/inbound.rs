//! The inbound thread: data socket → open → TAP, for all namespaces of the daemon.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use dht::clock::Now;
use engine::Snapshot;
use engine::fast::{self, Arrival};

use crate::control::Input;
use crate::io::clock::SystemClock;
use crate::io::tap::Tap;
use crate::io::udp::{DataSocket, ReceiveBatch};

/// Namespaces of one daemon: the top four bits of a receiver index name the namespace.
pub(crate) const SLOTS: usize = 16;
const SLOT_SHIFT: u32 = 28;

/// What the inbound thread needs of one namespace.
pub(crate) struct Lane {
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) tap: Option<Tap>,
    pub(crate) control: SyncSender<Input>,
    pub(crate) drops: Arc<Drops>,
}

/// The namespaces by slot.
pub(crate) type Lanes = [Option<Arc<Lane>>; SLOTS];

/// Drops counted by the packet threads. Locked only when something is dropped.
#[derive(Default)]
pub(crate) struct Drops(Mutex<BTreeMap<&'static str, u64>>);

impl Drops {
    pub(crate) fn count(&self, reason: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
    }
    pub(crate) fn read(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs until `stop`.
pub(crate) fn run(socket: &DataSocket, lanes: &ArcSwap<Lanes>, clock: &SystemClock, stop: &AtomicBool) {
    let mut batch = ReceiveBatch::new();
    while !stop.load(Ordering::Relaxed) {
        let count = match socket.receive(&mut batch, 500) {
            Ok(0) => continue,
            Ok(count) => count,
            Err(error) => {
                tracing::warn!(%error, "receiving datagrams");
                continue;
            }
        };
        let lanes = lanes.load();
        let now = clock.now();
        batch.for_each(count, |from, datagram| one(&lanes, from, datagram, now));
    }
}

fn one(lanes: &Lanes, from: SocketAddr, datagram: &mut [u8], now: Now) {
    let Some(index) = tunnel::receiver_index(datagram) else {
        // A handshake does not say for whom: each namespace looks for its own mark.
        for lane in lanes.iter().flatten() {
            lane.hand_over(Input::Datagram { from, datagram: datagram.to_vec() });
        }
        return;
    };
    let Some(lane) = &lanes[(index >> SLOT_SHIFT) as usize] else { return };
    lane.receive(from, datagram, now);
}

impl Lane {
    fn receive(&self, from: SocketAddr, datagram: &mut [u8], now: Now) {
        let snapshot = self.snapshot.load();
        if !snapshot.is_usable(now.owner) {
            return self.hand_over(Input::Datagram { from, datagram: datagram.to_vec() });
        }
        // Opening happens in place, so what control may need sealed is copied before: only for kinds that are not
        // plain, which are rare.
        let (arrival, roamed) = fast::inbound(&snapshot, from, datagram);
        match arrival {
            Arrival::Frame { offload, header, packet } => self.write(offload, &header, packet),
            Arrival::Opened { peer, kind, payload } => {
                self.hand_over(Input::Opened { peer, kind, payload: payload.to_vec() });
            }
            Arrival::Dropped(reason) => self.drops.count(reason),
            Arrival::Control => self.hand_over(Input::Datagram { from, datagram: datagram.to_vec() }),
        }
        if let Some(roamed) = roamed {
            self.hand_over(Input::Roamed { roamed, from });
        }
    }

    fn write(&self, offload: bridge::Offload, header: &[u8], packet: &[u8]) {
        let Some(tap) = &self.tap else { return self.drops.count("no-tap") };
        if tap.write(offload, header, packet).is_err() {
            self.drops.count("tap-refused-frame");
        }
    }

    fn hand_over(&self, input: Input) {
        if self.control.try_send(input).is_err() {
            self.drops.count("control-queue-full");
        }
    }
}
