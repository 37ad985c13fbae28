//! The inbound thread: data socket → open → TAP, for all namespaces of the daemon; and data socket → open → seal → data socket
//! for what we carry between others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;

use arc_swap::{ArcSwap, Guard};
use bridge::{Coalescer, Ecn, Frame};
use dht::clock::Now;
use engine::Snapshot;
use engine::fast::{self, Arrival, Datagrams};
use libp2p::PeerId;
use tunnel::Endpoint;

use crate::control::Input;
use crate::inbox::{self, Drops, Place, Share};
use crate::io::clock::SystemClock;
use crate::io::udp::{DataSocket, ReceiveBatch};
use crate::io::uplink::Uplink;
use tap::{Priority, Tap};

/// Namespaces of one daemon: the top four bits of a receiver index name the namespace.
pub(crate) const SLOTS: usize = 16;
const SLOT_SHIFT: u32 = 28;

/// What the inbound thread needs of one namespace.
pub(crate) struct Lane {
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) tap: Option<Tap>,
    pub(crate) control: SyncSender<Input>,
    pub(crate) drops: Arc<Drops>,
    pub(crate) uplink: Uplink,
}

/// The namespaces by slot.
pub(crate) type Lanes = [Option<Arc<Lane>>; SLOTS];

/// Takes what comes by one queue of the socket, until `stop`.
pub(crate) fn run(socket: &DataSocket, queue: usize, lanes: &ArcSwap<Lanes>, clock: &SystemClock, stop: &AtomicBool) {
    let mut batch = ReceiveBatch::new();
    let mut memory: [Gathered<'_>; SLOTS] = std::array::from_fn(|_| Gathered { queue, ..Gathered::default() });
    let mut priority = Priority::of_this_thread();
    while !stop.load(Ordering::Relaxed) {
        let count = match socket.receive(queue, &mut batch) {
            Ok(0) => {
                priority.rested();
                socket.wait_readable(queue, 500);
                continue;
            }
            Ok(count) => count,
            Err(error) => {
                tracing::warn!(%error, "receiving datagrams");
                continue;
            }
        };
        let now = clock.now();
        priority.goes_on(now.mono);
        let lanes = lanes.load();
        let mut taken = Batch::new(&lanes, now, memory.map(Gathered::recycle));
        for (from, ecn, datagram) in batch.datagrams(count) {
            taken.take(from, ecn, datagram);
        }
        memory = taken.finish().map(Gathered::recycle);
    }
}

/// What one batch of datagrams brings one namespace: frames for its TAP, and what is carried on.
#[derive(Default)]
struct Gathered<'b> {
    /// The TAP's, by which the frames go.
    queue: usize,
    frames: Coalescer<'b>,
    carried: Datagrams,
}

impl Gathered<'_> {
    fn recycle<'other>(self) -> Gathered<'other> {
        Gathered { queue: self.queue, frames: self.frames.recycle(), carried: self.carried }
    }
}

/// A datagram, and what is known of it from outside.
struct Arrived<'b> {
    from: Endpoint,
    ecn: Ecn,
    datagram: &'b mut [u8],
}

/// One batch of datagrams: one look at the clock, and one at each snapshot.
struct Batch<'l, 'b> {
    lanes: &'l Lanes,
    now: Now,
    snapshots: [Option<Guard<Arc<Snapshot>>>; SLOTS],
    gathered: [Gathered<'b>; SLOTS],
}

impl<'l, 'b> Batch<'l, 'b> {
    fn new(lanes: &'l Lanes, now: Now, gathered: [Gathered<'b>; SLOTS]) -> Self {
        let snapshots = std::array::from_fn(|slot| lanes[slot].as_ref().map(|lane| lane.snapshot.load()));
        Self { lanes, now, snapshots, gathered }
    }

    fn take(&mut self, from: SocketAddr, ecn: Ecn, datagram: &'b mut [u8]) {
        if let Some(index) = tunnel::receiver_index(datagram) {
            let slot = (index >> SLOT_SHIFT) as usize;
            match (&self.lanes[slot], &self.snapshots[slot]) {
                (Some(lane), Some(snapshot)) => {
                    let gathered = &mut self.gathered[slot];
                    let arrived = Arrived { from: Endpoint::Direct(from), ecn, datagram };
                    lane.receive(snapshot, index, arrived, self.now, gathered);
                }
                _ => count(self.lanes, "no-such-slot"),
            }
        } else if tunnel::is_init(datagram) {
            // It does not say for whom: each namespace looks for its own mark.
            for lane in self.lanes.iter().flatten() {
                let from = Endpoint::Direct(from);
                lane.hand_over(Share::Strangers, datagram.len(), |place| Input::Datagram {
                    from,
                    datagram: datagram.to_vec(),
                    place,
                });
            }
        } else {
            count(self.lanes, "not-a-message");
        }
    }

    /// Hands over what was gathered. What it leaves is empty.
    fn finish(mut self) -> [Gathered<'b>; SLOTS] {
        for (lane, gathered) in self.lanes.iter().zip(&mut self.gathered) {
            if let Some(lane) = lane {
                lane.finish(gathered);
            }
        }
        self.gathered
    }
}

/// A datagram in a stream of a member of the namespace in this slot: as in a [`Batch`], but it is for that namespace, or nobody's.
pub(crate) fn from_stream(lanes: &Lanes, slot: usize, peer: PeerId, datagram: &mut [u8], now: Now) {
    let Some(lane) = lanes.get(slot).and_then(Option::as_ref) else { return };
    let from = Endpoint::Stream(peer);
    match tunnel::receiver_index(datagram) {
        Some(index) if (index >> SLOT_SHIFT) as usize == slot => {
            let mut gathered = Gathered::default();
            // Over TCP a router's sign of congestion is TCP's own affair.
            let arrived = Arrived { from, ecn: Ecn::NotCapable, datagram };
            lane.receive(&lane.snapshot.load(), index, arrived, now, &mut gathered);
            lane.finish(&mut gathered);
        }
        Some(_) => lane.drops.count("no-such-slot"),
        None if tunnel::is_init(datagram) => {
            lane.hand_over(Share::Members, datagram.len(), |place| Input::Datagram {
                from,
                datagram: datagram.to_vec(),
                place,
            });
        }
        None => lane.drops.count("not-a-message"),
    }
}

/// What is nobody's is counted by each.
fn count(lanes: &Lanes, reason: &'static str) {
    lanes.iter().flatten().for_each(|lane| lane.drops.count(reason));
}

impl Lane {
    fn receive<'b>(
        &self,
        snapshot: &Snapshot,
        index: u32,
        arrived: Arrived<'b>,
        now: Now,
        gathered: &mut Gathered<'b>,
    ) {
        let Arrived { from, ecn, datagram } = arrived;
        let sealed = |from: Endpoint, datagram: &[u8]| {
            let known = snapshot.receiving.contains_key(&index);
            let share = if known { Share::Members } else { Share::Strangers };
            self.hand_over(share, datagram.len(), |place| Input::Datagram { from, datagram: datagram.to_vec(), place });
        };
        if !snapshot.is_usable(&now) {
            return sealed(from, datagram);
        }
        let received = fast::inbound(snapshot, from, ecn, datagram, now.mono, &mut gathered.carried);
        match received.arrival {
            Arrival::Frame { offload, header, packet } => {
                let queue = gathered.queue;
                gathered.frames.push(header, offload, packet, &mut |frame| self.write(queue, &frame));
            }
            Arrival::Opened { peer, kind, payload } => {
                let opened = |place| Input::Opened { peer, kind, payload: payload.to_vec(), place };
                self.hand_over(Share::Members, payload.len(), opened);
            }
            Arrival::Dropped(reason) => self.drops.count(reason),
            Arrival::Sealed { from, datagram } => sealed(from, datagram),
            Arrival::Carried => {}
        }
        for roamed in received.roamed.into_iter().flatten() {
            self.hand_over(Share::Members, 0, |place| Input::Roamed { roamed, place });
        }
    }

    /// Writes the frames that are left, and sends on what one member has sent to another one through us.
    fn finish(&self, gathered: &mut Gathered<'_>) {
        let queue = gathered.queue;
        gathered.frames.flush(&mut |frame| self.write(queue, &frame));
        gathered.carried.drain(|run| {
            if let Err(unsent) = self.uplink.send(run) {
                unsent.report(&self.control, &self.drops);
            }
        });
    }

    fn write(&self, queue: usize, frame: &Frame<'_, '_>) {
        let Some(tap) = &self.tap else { return self.drops.count("no-tap") };
        if tap.write_at(queue, frame).is_err() {
            self.drops.count("tap-refused-frame");
        }
    }

    fn hand_over(&self, share: Share, bytes: usize, input: impl FnOnce(Place) -> Input) {
        inbox::hand_over(&self.control, &self.drops, share, bytes, input);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::mpsc::{Receiver, sync_channel};

    use dht::clock::{BootId, OwnerTime, ReplicaTime};
    use dht::identity::SecretKey;
    use engine::{Addressing, Config, Engine, Hostname};
    use tunnel::Tunnel;
    use zeroize::Zeroizing;

    use super::*;

    const SLOT: usize = 2;

    #[expect(clippy::disallowed_methods, reason = "a test needs one real instant as origin")]
    fn now() -> Now {
        Now {
            mono: std::time::Instant::now(),
            owner: OwnerTime::default(),
            replica: ReplicaTime::default(),
            boot: BootId([0; 16]),
            unix_s: 0,
            jumps: 0,
        }
    }

    fn engine() -> Engine {
        let identity = SecretKey::from_seed(&[1; 32]);
        let tunnel = tunnel::Config {
            namespace: [0; 32],
            identity: identity.peer_id(),
            secret: Zeroizing::new([2; 32]),
            credential_hash: [0; 32],
            slot: SLOT as u8,
            instance: 1,
            outer_mtu: 1500,
            heads: [0; 8],
            suites: tunnel::Suites::default(),
            relay: None,
        };
        let config = Config {
            name: "lab".into(),
            namespace: [0; 32],
            range: "10.70.0.0/24".parse().unwrap(),
            service: [10, 70, 0, 1].into(),
            zone: "lab.internal".into(),
            mtu: 1400,
            identity,
            instance: 1,
            mode: engine::Mode::Workstation,
            addressing: Addressing::Clients,
            hostname: Hostname::Default("node".into()),
            tap_mac: [2; 6],
            gateway_mac: [6; 6],
            loopback_underlay: false,
        };
        Engine::new(config, Tunnel::new(tunnel, 0, [3; 32], now().mono), [4; 32], now())
    }

    fn lanes(queue: usize) -> (Box<Lanes>, Arc<Lane>, Receiver<Input>) {
        let (control, inputs) = sync_channel(queue);
        let snapshot = Arc::new(ArcSwap::new(engine().snapshot()));
        let socket = Arc::new(DataSocket::bind(0, 1).unwrap());
        let uplink = Uplink::new(socket, dht_driver::Streams::new(Arc::new(|_, _| {})).0);
        let lane = Arc::new(Lane { snapshot, tap: None, control, drops: Arc::default(), uplink });
        let mut lanes: Box<Lanes> = Box::default();
        lanes[SLOT] = Some(Arc::clone(&lane));
        (lanes, lane, inputs)
    }

    fn message(kind: u8, second: u8, length: usize, slot: u8) -> Vec<u8> {
        let mut bytes = vec![0; length];
        bytes[..2].copy_from_slice(&[kind, second]);
        bytes[4] = slot << 4;
        bytes[8] = slot << 4;
        bytes
    }

    fn arrive(lanes: &Lanes, mut datagram: Vec<u8>) {
        let mut batch = Batch::new(lanes, now(), Default::default());
        batch.take(SocketAddr::from(([192, 0, 2, 1], 4000)), Ecn::NotCapable, &mut datagram);
        batch.finish();
    }

    #[test]
    fn what_is_no_message_is_counted_and_never_copied_to_control() {
        let (lanes, lane, inputs) = lanes(64);
        let slot = SLOT as u8;
        let none = [
            vec![],
            vec![0xff; 60_000],
            message(1, 1, 203, 0),
            message(1, 1, 1201, 0),
            message(1, 2, 300, 0),
            message(2, 1, 151, slot),
            message(3, 1, 65, slot),
            message(4, 0, 31, slot),
            message(4, 9, 100, slot),
            message(5, 1, 300, slot),
        ];
        let count = none.len() as u64;
        none.into_iter().for_each(|datagram| arrive(&lanes, datagram));
        arrive(&lanes, message(4, 0, 100, slot + 1));
        assert!(inputs.try_recv().is_err());
        assert_eq!(lane.drops.read(), BTreeMap::from([("not-a-message", count), ("no-such-slot", 1)]));
        let all = [message(1, 1, 204, 0), message(2, 1, 152, slot), message(3, 1, 64, slot), message(4, 0, 32, slot)];
        all.into_iter().for_each(|datagram| arrive(&lanes, datagram));
        assert_eq!(inputs.try_iter().count(), 4);
    }

    #[test]
    fn what_comes_in_a_stream_is_for_its_own_namespace() {
        let (lanes, lane, inputs) = lanes(64);
        let peer = PeerId::random();
        let slot = SLOT as u8;
        for mut datagram in [message(1, 1, 204, 0), message(4, 0, 32, slot), message(4, 0, 32, slot + 1), vec![9; 40]] {
            from_stream(&lanes, SLOT, peer, &mut datagram, now());
        }
        from_stream(&lanes, SLOT + 1, peer, &mut message(1, 1, 204, 0), now());
        from_stream(&lanes, SLOTS, peer, &mut message(1, 1, 204, 0), now());
        assert_eq!(lane.drops.read(), BTreeMap::from([("not-a-message", 1), ("no-such-slot", 1)]));
        let from = inputs
            .try_iter()
            .map(|input| matches!(input, Input::Datagram { from, .. } if from == Endpoint::Stream(peer)));
        assert_eq!(from.collect::<Vec<_>>(), [true, true]);
    }

    #[test]
    fn strangers_leave_room_in_the_queue_and_get_theirs_back() {
        let (lanes, lane, inputs) = lanes(4096);
        let flood = || (0..5000).for_each(|_| arrive(&lanes, message(1, 1, 300, 0)));
        flood();
        (0..5000).for_each(|_| arrive(&lanes, message(4, 0, 300, SLOT as u8)));
        assert_eq!(lane.drops.read()["too-many-from-strangers"], 10_000 - 256);
        assert!(lane.control.try_send(Input::TapGone).is_ok());
        assert_eq!(inputs.try_iter().count(), 256 + 1);
        flood();
        assert_eq!(inputs.try_iter().count(), 256);
    }

    #[test]
    fn a_full_queue_gives_the_place_back() {
        let (lanes, lane, inputs) = lanes(1);
        (0..1000).for_each(|_| arrive(&lanes, message(1, 1, 300, 0)));
        assert_eq!(lane.drops.read(), BTreeMap::from([("control-queue-full", 999)]));
        drop(inputs);
        assert_eq!(lane.drops.waiting(Share::Strangers), (0, 0));
    }
}
