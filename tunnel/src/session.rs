//! The transport keys of one session: sealing and opening data datagrams, on any thread.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use zeroize::Zeroizing;

use crate::cipher::Cipher;
use crate::config::Suite;
use crate::drops::DropReason;
use crate::event::Kind;
use crate::limits::{REFUSE_BLOCKS, REKEY_BLOCKS, REKEY_FORGED};
use crate::replay::{Refused, Window};
use crate::wire::{HEADER, TAG, bytes_at, data_header, u32_at, u64_at};

/// Why a payload was not sealed. All three: hand it to [`Tunnel::send`](crate::Tunnel::send).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SealError {
    /// The session is past its time or was erased.
    #[error("the session is closed")]
    Closed,
    /// The key has sealed as many blocks as it may.
    #[error("the key is used up")]
    UsedUp,
    /// The payload does not fit into one datagram on this path.
    #[error("the payload is larger than the path carries")]
    TooBig,
}

/// An authentic data datagram.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened<'d> {
    /// What the payload is.
    pub kind: Kind,
    /// Its number in the session.
    pub counter: u64,
    /// Whether no greater number was seen; only such a datagram may move the endpoint.
    pub newest: bool,
    /// Of a carried datagram, the relay's number for where it goes or comes from.
    pub circuit: u16,
    /// Decrypted in place; what was carried is opened once more there.
    pub payload: &'d mut [u8],
}

/// One side of an established session. Shared by the threads of the fast path through an `Arc`; once the
/// tunnel closes it, every thread is refused at once, whatever snapshot it holds.
pub struct Session {
    index: u32,
    remote_index: u32,
    max_payload: AtomicU32,
    closed: AtomicBool,
    sealing: Cipher,
    opening: Cipher,
    sent: Sent,
    received: Received,
    window: Mutex<Window>,
    /// What is above was never seen, so that most need not be looked up before they are opened.
    next: AtomicU64,
}

/// Written by the sealing threads only; apart from [`Received`], so that the two directions do not pull one
/// cache line to and fro.
#[repr(align(128))]
struct Sent {
    counter: AtomicU64,
    blocks: AtomicU64,
    data: AtomicU64,
    bytes: AtomicU64,
}

/// Written by the opening threads only.
#[repr(align(128))]
struct Received {
    datagrams: AtomicU64,
    data: AtomicU64,
    bytes: AtomicU64,
    forged: AtomicU64,
}

/// What a session has done so far, sampled by the timers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) sent: u64,
    pub(crate) sent_data: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) received: u64,
    pub(crate) received_data: u64,
    pub(crate) received_bytes: u64,
}

/// The keys of the two directions as this side uses them.
pub(crate) struct DataKeys {
    pub(crate) suite: Suite,
    pub(crate) sealing: Zeroizing<[u8; 32]>,
    pub(crate) opening: Zeroizing<[u8; 32]>,
}

impl Session {
    pub(crate) fn new(keys: &DataKeys, index: u32, remote_index: u32, max_payload: usize) -> Self {
        Self::starting_at(keys, index, remote_index, max_payload, 0, 0)
    }

    /// A session that has already sealed `blocks` in `counter` datagrams, so that tests reach the limits.
    pub(crate) fn starting_at(
        keys: &DataKeys,
        index: u32,
        remote_index: u32,
        max_payload: usize,
        counter: u64,
        blocks: u64,
    ) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            index,
            remote_index,
            max_payload: AtomicU32::new(u32::try_from(max_payload).unwrap_or(0)),
            closed: AtomicBool::new(false),
            sealing: Cipher::new(keys.suite, &keys.sealing),
            opening: Cipher::new(keys.suite, &keys.opening),
            sent: Sent {
                counter: AtomicU64::new(counter),
                blocks: AtomicU64::new(blocks),
                data: zero(),
                bytes: zero(),
            },
            received: Received { datagrams: zero(), data: zero(), bytes: zero(), forged: zero() },
            window: Mutex::new(Window::new()),
            next: zero(),
        }
    }

    /// The receiver index that the peer writes into datagrams for this session.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Largest head and payload together that fit into one datagram on this path. Larger ones go through
    /// [`Tunnel::send`](crate::Tunnel::send), which cuts them.
    pub fn max_payload(&self) -> usize {
        self.max_payload.load(Relaxed) as usize
    }

    pub(crate) fn set_max_payload(&self, max: usize) {
        self.max_payload.store(u32::try_from(max).unwrap_or(0), Relaxed);
    }

    /// Appends one datagram of 32 bytes, `head` and `payload` to `out`. Does not allocate where `out` has room.
    pub fn seal(&self, kind: Kind, head: &[u8], payload: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        self.seal_as(kind, kind != Kind::Control, head, payload, out)
    }

    /// Appends one datagram that holds another, to be carried on or having been. Costs 32 bytes.
    pub fn seal_carried(&self, kind: Kind, circuit: u16, datagram: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        self.seal_whole(kind, circuit, kind == Kind::Forward, &[], datagram, out)
    }

    /// As [`Self::seal`]; `expects_answer` tells the timers whether silence afterwards means that the peer is
    /// gone. A keepalive does not, or two idle peers would keep each other awake.
    pub(crate) fn seal_as(
        &self,
        kind: Kind,
        expects_answer: bool,
        head: &[u8],
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        self.seal_whole(kind, 0, expects_answer, head, payload, out)
    }

    fn seal_whole(
        &self,
        kind: Kind,
        circuit: u16,
        expects_answer: bool,
        head: &[u8],
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let len = head.len() + payload.len();
        if self.closed.load(Relaxed) {
            return Err(SealError::Closed);
        }
        // A control message may be there to find out whether more passes.
        if len > self.max_payload() && kind != Kind::Control {
            return Err(SealError::TooBig);
        }
        if self.sent.blocks.load(Relaxed) >= REFUSE_BLOCKS {
            return Err(SealError::UsedUp);
        }
        // One block for the tag's mask, so that a counter is never worth nothing.
        self.sent.blocks.fetch_add(len.div_ceil(16) as u64 + 1, Relaxed);
        let counter = self.sent.counter.fetch_add(1, Relaxed);
        let header = data_header(kind, circuit, self.remote_index, counter);
        let start = out.len();
        out.reserve(HEADER + len + TAG);
        out.extend_from_slice(&header);
        out.extend_from_slice(head);
        out.extend_from_slice(payload);
        let Ok(tag) = self.sealing.seal(counter, header, &mut out[start + HEADER..]) else {
            out.truncate(start);
            return Err(SealError::Closed);
        };
        out.extend_from_slice(&tag);
        self.sent.bytes.fetch_add((HEADER + len + TAG) as u64, Relaxed);
        if expects_answer {
            self.sent.data.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// Opens a datagram in place.
    pub fn open<'d>(&self, datagram: &'d mut [u8]) -> Result<Opened<'d>, DropReason> {
        let len = datagram.len();
        let [4, kind, high, low, ..] = *datagram else {
            return Err(DropReason::Malformed);
        };
        let circuit = u16::from_be_bytes([high, low]);
        if len < HEADER + TAG {
            return Err(DropReason::Malformed);
        }
        let kind = Kind::from_number(kind).ok_or(DropReason::UnknownKind)?;
        if circuit != 0 && !kind.is_carried() {
            return Err(DropReason::Malformed);
        }
        if u32_at(datagram, 4) != self.index {
            return Err(DropReason::UnknownIndex);
        }
        if self.closed.load(Relaxed) {
            return Err(DropReason::SessionClosed);
        }
        let counter = u64_at(datagram, 8);
        if counter < self.next.load(Relaxed) {
            self.window().check(counter).map_err(refused)?;
        }
        let header: [u8; HEADER] = bytes_at(datagram, 0);
        let Ok(payload) = self.opening.open(counter, header, &mut datagram[HEADER..]) else {
            self.received.forged.fetch_add(1, Relaxed);
            return Err(DropReason::Forged);
        };
        let newest = self.window().take(counter).map_err(refused)?;
        if newest {
            self.next.fetch_max(counter + 1, Relaxed);
        }
        self.received.datagrams.fetch_add(1, Relaxed);
        self.received.bytes.fetch_add(len as u64, Relaxed);
        // To what a relay carries, its sender expects no answer of ours.
        if !matches!(kind, Kind::Control | Kind::Carried) {
            self.received.data.fetch_add(1, Relaxed);
        }
        Ok(Opened { kind, counter, newest, circuit, payload })
    }

    /// Notes that a control message is one to which the peer expects an answer.
    pub(crate) fn note_expecting(&self) {
        self.received.data.fetch_add(1, Relaxed);
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Relaxed);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Whether the key has done so much that a new one is due.
    pub(crate) fn is_worn(&self) -> bool {
        self.sent.blocks.load(Relaxed) >= REKEY_BLOCKS || self.received.forged.load(Relaxed) >= REKEY_FORGED
    }

    pub(crate) fn counters(&self) -> Counters {
        Counters {
            sent: self.sent.counter.load(Relaxed),
            sent_data: self.sent.data.load(Relaxed),
            sent_bytes: self.sent.bytes.load(Relaxed),
            received: self.received.datagrams.load(Relaxed),
            received_data: self.received.data.load(Relaxed),
            received_bytes: self.received.bytes.load(Relaxed),
        }
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        // A window is whole after every statement, so one left by a panicking thread is as good as any.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names the session by its index and never shows a key.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("index", &self.index).finish_non_exhaustive()
    }
}

fn refused(why: Refused) -> DropReason {
    match why {
        Refused::Seen => DropReason::Replayed,
        Refused::TooOld => DropReason::TooOld,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::Window;

    /// A session that opens what it has sealed itself.
    fn mirror(suite: Suite) -> Session {
        let keys = DataKeys { suite, sealing: Zeroizing::new([1; 32]), opening: Zeroizing::new([1; 32]) };
        Session::new(&keys, 0x1234_5678, 0x1234_5678, 1440)
    }

    #[test]
    fn exact_bytes() {
        let mut out = Vec::new();
        let session = mirror(Suite::Aes256Gcm);
        session.seal(Kind::Packet, &[], b"", &mut out).unwrap();
        out.clear();
        session.seal(Kind::Offloaded, b"head", b"tail", &mut out).unwrap();
        assert_eq!(out[..16], [4, 1, 0, 0, 0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(out.len(), 32 + 8);
        let opened = session.open(&mut out).unwrap();
        assert_eq!((opened.kind, opened.payload), (Kind::Offloaded, b"headtail".to_vec().as_mut_slice()));
    }

    #[test]
    fn sealing_appends_and_does_not_allocate_where_there_is_room() {
        let session = mirror(Suite::ChaCha20Poly1305);
        let mut out = Vec::with_capacity(4096);
        out.extend_from_slice(b"before");
        let capacity = (out.as_ptr(), out.capacity());
        session.seal(Kind::Packet, &[], &[7; 1000], &mut out).unwrap();
        session.seal(Kind::Packet, &[], &[8; 1000], &mut out).unwrap();
        assert_eq!((out.as_ptr(), out.capacity()), capacity);
        assert_eq!(&out[..6], b"before");
        assert_eq!(session.open(&mut out[6..6 + 1032]).unwrap().payload, [7; 1000]);
        assert_eq!(session.open(&mut out[6 + 1032..]).unwrap().payload, [8; 1000]);
    }

    #[test]
    fn of_many_threads_with_one_datagram_one_gets_it() {
        let session = mirror(Suite::Aes256Gcm);
        for _ in 0..50 {
            let mut datagram = Vec::new();
            session.seal(Kind::Packet, &[], b"once", &mut datagram).unwrap();
            let opened = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    (0..4).map(|_| scope.spawn(|| session.open(&mut datagram.clone()).is_ok())).collect();
                threads.into_iter().filter_map(|thread| thread.join().unwrap().then_some(())).count()
            });
            assert_eq!(opened, 1);
        }
    }

    #[test]
    fn of_many_threads_none_seals_under_the_same_counter() {
        let session = mirror(Suite::Aes256Gcm);
        let counters = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut out = Vec::new();
                        (0..500).for_each(|_| session.seal(Kind::Packet, &[], b"", &mut out).unwrap());
                        out.chunks(32).map(|datagram| u64_at(datagram, 8)).collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<std::collections::BTreeSet<_>>()
        });
        assert_eq!(counters.len(), 2000);
    }

    #[test]
    fn the_window_is_as_deep_as_it_says() {
        let session = mirror(Suite::Aes256Gcm);
        let mut datagrams: Vec<Vec<u8>> = (0..=crate::limits::WINDOW)
            .map(|_| {
                let mut out = Vec::new();
                session.seal(Kind::Packet, &[], b"", &mut out).unwrap();
                out
            })
            .collect();
        assert!(session.open(datagrams.last_mut().unwrap()).unwrap().newest);
        assert_eq!(session.open(&mut datagrams[0]), Err(DropReason::TooOld));
        assert!(!session.open(&mut datagrams[1]).unwrap().newest);
        assert_eq!(Window::new().check(0), Ok(()));
    }

    #[test]
    fn sessions_and_tunnels_go_where_the_threads_are() {
        fn is_send<T: Send>() {}
        fn is_sync<T: Sync>() {}
        is_send::<crate::Tunnel>();
        is_send::<Session>();
        is_sync::<Session>();
    }
}
