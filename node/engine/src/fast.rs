//! Plain forwarding, from a snapshot: the only code a packet of a running flow meets.
//!
//! Outbound: frame → who has that address → session → datagram. Inbound: datagram → session → whose source may this be
//! → frame. Anything that is not plain goes to the engine.

use std::net::SocketAddr;

use bridge::{Inbound, Offload, Outbound, segment};
use libp2p_identity::PeerId;
use tunnel::{Kind, SealError, data_kind, receiver_index};

use crate::snapshot::{Path, Snapshot};

/// Linux takes at most this many equal datagrams in one call (`UDP_MAX_SEGMENTS`).
const MAX_SEGMENTS: usize = 64;
/// The largest UDP payload of one call.
const MAX_RUN: usize = 65_000;
/// Bytes of offload meaning in front of a packet of [`Kind::Offloaded`].
const OFFLOAD_BYTES: usize = 8;

/// What became of a frame or datagram.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It went its way.
    Forwarded,
    /// Not plain: the engine must see it.
    Control,
    /// Counted under this name.
    Dropped(&'static str),
}

/// Sealed datagrams, grouped into runs that one call can send.
#[derive(Default)]
pub struct Datagrams {
    bytes: Vec<u8>,
    runs: Vec<Run>,
}

/// Datagrams of equal size to one address; the last may be shorter.
struct Run {
    to: SocketAddr,
    start: usize,
    end: usize,
    segment: usize,
    open: bool,
}

impl Datagrams {
    /// How many bytes wait to be sent.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
    /// Calls `send` with address, bytes and segment size of each run, and forgets them.
    pub fn drain(&mut self, mut send: impl FnMut(SocketAddr, &[u8], usize)) {
        for run in self.runs.drain(..) {
            send(run.to, &self.bytes[run.start..run.end], run.segment);
        }
        self.bytes.clear();
    }

    fn push(&mut self, path: &Path, kind: Kind, head: &[u8], packet: &[u8]) -> Result<(), SealError> {
        let start = self.bytes.len();
        path.session.seal(kind, head, packet, &mut self.bytes)?;
        let end = self.bytes.len();
        let size = end - start;
        if let Some(run) = self.runs.last_mut()
            && run.open
            && run.to == path.endpoint
            && size <= run.segment
            && end - run.start <= MAX_RUN
            && (run.end - run.start) / run.segment < MAX_SEGMENTS
        {
            run.end = end;
            run.open = size == run.segment;
            return Ok(());
        }
        self.runs.push(Run { to: path.endpoint, start, end, segment: size, open: true });
        Ok(())
    }
}

/// Seals one frame from the TAP into `out`.
pub fn outbound(snapshot: &Snapshot, frame: &[u8], offload: Offload, out: &mut Datagrams) -> Verdict {
    let (peer, packet) = match snapshot.local.outbound_sized(frame, offload) {
        Outbound::Forward { peer, packet } => (peer, packet),
        Outbound::Control => return Verdict::Control,
        Outbound::Drop(reason) => return Verdict::Dropped(reason.as_str()),
    };
    let Some(path) = snapshot.sending.get(&peer) else { return Verdict::Control };
    // A partial checksum inside an inner tunnel, say: only the slow way completes it.
    let Ok(offload) = offload.check(packet) else { return Verdict::Control };
    if offload.is_super_frame() {
        return forward_segments(path, frame, offload, out);
    }
    let sealed = if packet.len() + OFFLOAD_BYTES > path.session.max_payload() {
        Err(SealError::TooBig)
    } else if offload.is_plain() {
        out.push(path, Kind::Packet, &[], packet)
    } else {
        out.push(path, Kind::Offloaded, &offload.to_wire(), packet)
    };
    // What cannot be sealed here goes the slow way: as fragments, or after a new handshake.
    if sealed.is_ok() { Verdict::Forwarded } else { Verdict::Control }
}

/// A super-frame that fails in the middle is not repeated as a whole: its first segments have left.
fn forward_segments(path: &Path, frame: &[u8], offload: Offload, out: &mut Datagrams) -> Verdict {
    let max_packet = path.session.max_payload().saturating_sub(OFFLOAD_BYTES);
    let mut sealed = 0;
    let mut failed = false;
    let cut = segment(frame, offload, max_packet, &mut |frame, offload| {
        failed |= out.push(path, Kind::Offloaded, &offload.to_wire(), &frame[14..]).is_err();
        sealed += usize::from(!failed);
    });
    match cut {
        Err(reason) if sealed == 0 && !failed => Verdict::Dropped(reason.as_str()),
        _ if failed && sealed == 0 => Verdict::Control,
        Ok(()) if !failed => Verdict::Forwarded,
        _ => Verdict::Dropped("super-frame-cut-short"),
    }
}

/// What the inbound thread does with an opened datagram.
#[derive(Debug)]
pub enum Arrival<'d> {
    /// A frame for the TAP: offload, Ethernet header, packet.
    Frame {
        /// What the kernel has yet to do to the packet.
        offload: Offload,
        /// The Ethernet header to put in front.
        header: [u8; 14],
        /// The packet.
        packet: &'d [u8],
    },
    /// Not plain, still sealed: the engine must see the datagram.
    Control,
    /// Opened, but not plain: the engine must see the payload.
    Opened {
        /// Who sealed it.
        peer: PeerId,
        /// How it was sealed.
        kind: Kind,
        /// What was sealed.
        payload: &'d [u8],
    },
    /// Counted under this name.
    Dropped(&'static str),
}

/// The peer's newest packet came from another address than the one we send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roamed {
    /// Our index of the session.
    pub index: u32,
    /// The packet's number.
    pub counter: u64,
}

/// Opens one datagram in place.
pub fn inbound<'d>(snapshot: &Snapshot, from: SocketAddr, datagram: &'d mut [u8]) -> (Arrival<'d>, Option<Roamed>) {
    let Some(index) = receiver_index(datagram) else { return (Arrival::Control, None) };
    let Some(path) = snapshot.receiving.get(&index) else { return (Arrival::Control, None) };
    if !matches!(data_kind(datagram), Some(Kind::Packet | Kind::Offloaded)) {
        return (Arrival::Control, None);
    }
    let opened = match path.session.open(datagram) {
        Ok(opened) => opened,
        Err(reason) => return (Arrival::Dropped(reason.as_str()), None),
    };
    let roamed = (opened.newest && from != path.endpoint).then_some(Roamed { index, counter: opened.counter });
    (deliver(snapshot, path.peer, opened.kind, opened.payload), roamed)
}

fn deliver<'d>(snapshot: &Snapshot, peer: PeerId, kind: Kind, payload: &'d [u8]) -> Arrival<'d> {
    let (offload, packet) = match kind {
        Kind::Packet => (Offload::default(), payload),
        Kind::Offloaded => match split_offload(payload) {
            Ok(parts) => parts,
            Err(reason) => return Arrival::Dropped(reason),
        },
        Kind::Fragment | Kind::Control => return Arrival::Opened { peer, kind, payload },
    };
    match snapshot.local.inbound(&peer, packet) {
        Inbound::Deliver(header) => Arrival::Frame { offload, header, packet },
        Inbound::Control => Arrival::Opened { peer, kind, payload },
        Inbound::Drop(reason) => Arrival::Dropped(reason.as_str()),
    }
}

/// Takes the offload meaning off the front of a payload of [`Kind::Offloaded`].
pub(crate) fn split_offload(payload: &[u8]) -> Result<(Offload, &[u8]), &'static str> {
    let Some((meaning, packet)) = payload.split_first_chunk::<OFFLOAD_BYTES>() else { return Err("short-offload") };
    let offload = Offload::from_wire(*meaning, packet).map_err(|reason| reason.as_str())?;
    Ok((offload, packet))
}
