//! Plain forwarding, from a snapshot: the only code a packet of a running flow meets.
//!
//! Outbound: frame → who has that address → session → datagram. Inbound: datagram → session → whose source may this be
//! → frame. Where a relay is between, a datagram is sealed once more for it, and opened twice where it arrives; what we
//! carry for others goes from session to session. Anything that is not plain goes to the engine.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use bridge::offload::ETHERNET;
use bridge::{DropReason as Refusal, Ecn, Inbound, MAX_HEADERS, Offload, Outbound, segment};
use libp2p_identity::PeerId;
use tunnel::{DropReason, Endpoint, Kind, LegView, NextHop, SealError, Way, data_kind, receiver_index};

use crate::snapshot::{Inlet, Outlet, Snapshot};

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
    /// It did not, or not all of it; counted under this name.
    Dropped(&'static str),
}

/// Sealed datagrams, grouped into runs that one call can send.
#[derive(Default)]
pub struct Datagrams {
    bytes: Vec<u8>,
    runs: Vec<Span>,
    /// One datagram that a relay is to carry, before it is sealed for the relay.
    inner: Vec<u8>,
}

/// Where a run lies in the bytes of all.
struct Span {
    to: NextHop,
    ecn: Ecn,
    start: usize,
    end: usize,
    segment: usize,
    open: bool,
}

/// Datagrams of equal size that go the same way; the last may be shorter.
#[derive(Debug)]
pub struct Run<'d> {
    /// Where they go.
    pub to: NextHop,
    /// What their outside says of congestion.
    pub ecn: Ecn,
    /// All of them.
    pub bytes: &'d [u8],
    /// The size of all but the last.
    pub segment: usize,
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
    /// Hands each run to `send`, and forgets them.
    pub fn drain(&mut self, mut send: impl FnMut(Run<'_>)) {
        for Span { to, ecn, start, end, segment, .. } in self.runs.drain(..) {
            send(Run { to, ecn, bytes: &self.bytes[start..end], segment });
        }
        self.bytes.clear();
    }

    fn push(&mut self, outlet: &Outlet, ecn: Ecn, kind: Kind, head: &[u8], packet: &[u8]) -> Result<(), SealError> {
        let start = self.bytes.len();
        let to = match &outlet.way {
            Way::Direct(to) => {
                outlet.session.seal(kind, head, packet, &mut self.bytes)?;
                *to
            }
            Way::Relayed { session, circuit, to } => {
                self.inner.clear();
                outlet.session.seal(kind, head, packet, &mut self.inner)?;
                session.seal_carried(Kind::Forward, *circuit, &self.inner, &mut self.bytes)?;
                *to
            }
        };
        self.extend_run(to, ecn, start);
        Ok(())
    }

    fn push_carried(&mut self, leg: &LegView, ecn: Ecn, datagram: &[u8]) -> Result<(), SealError> {
        let start = self.bytes.len();
        leg.session.seal_carried(Kind::Carried, leg.next, datagram, &mut self.bytes)?;
        self.extend_run(leg.to, ecn, start);
        Ok(())
    }

    /// What was appended from `start` on is one datagram: it goes into the last run, or begins one.
    fn extend_run(&mut self, to: NextHop, ecn: Ecn, start: usize) {
        let end = self.bytes.len();
        let size = end - start;
        if let Some(run) = self.runs.last_mut()
            && run.open
            && run.to == to
            && run.ecn == ecn
            && size <= run.segment
            && end - run.start <= MAX_RUN
            && (run.end - run.start) / run.segment < MAX_SEGMENTS
        {
            run.end = end;
            run.open = size == run.segment;
            return;
        }
        self.runs.push(Span { to, ecn, start, end, segment: size, open: true });
    }
}

/// Seals one frame from the TAP into `out`. If it is to `tell` its sender of congestion, it is marked, or loses a segment.
pub fn outbound(snapshot: &Snapshot, frame: &mut [u8], offload: Offload, tell: bool, out: &mut Datagrams) -> Verdict {
    let (peer, length) = match snapshot.local.outbound_sized(frame, offload) {
        Outbound::Forward { peer, packet } => (peer, packet.len()),
        Outbound::Control => return Verdict::Control,
        Outbound::Drop(reason) => return Verdict::Dropped(reason.as_str()),
    };
    let Some(outlet) = snapshot.sending.get(&peer) else { return Verdict::Control };
    let loses = tell && !Ecn::mark(&mut frame[ETHERNET..]);
    let packet = &frame[ETHERNET..ETHERNET + length];
    // A partial checksum inside an inner tunnel, say: only the slow way completes it.
    let Ok(offload) = offload.check(packet) else { return Verdict::Control };
    if offload.is_super_frame() {
        return forward_segments(outlet, frame, Ecn::of(packet), offload, loses, out);
    }
    if loses {
        return Verdict::Dropped(Refusal::Congested.as_str());
    }
    let ecn = Ecn::of(packet);
    let sealed = if packet.len() + OFFLOAD_BYTES > outlet.session.max_payload() {
        Err(SealError::TooBig)
    } else if offload.is_plain() {
        out.push(outlet, ecn, Kind::Packet, &[], packet)
    } else {
        out.push(outlet, ecn, Kind::Offloaded, &offload.to_wire(), packet)
    };
    // What cannot be sealed here goes the slow way: as fragments, or after a new handshake.
    if sealed.is_ok() { Verdict::Forwarded } else { Verdict::Control }
}

/// A super-frame that fails in the middle is not repeated as a whole: its first segments have left. One that `loses` a segment
/// loses the first, so that the others tell of it at once.
fn forward_segments(
    outlet: &Outlet,
    frame: &[u8],
    ecn: Ecn,
    offload: Offload,
    mut loses: bool,
    out: &mut Datagrams,
) -> Verdict {
    let max_packet = outlet.session.max_payload().saturating_sub(OFFLOAD_BYTES);
    let (mut sealed, mut failed, lost) = (0, false, loses);
    let mut prefix = [0; OFFLOAD_BYTES + MAX_HEADERS];
    let cut = segment(frame, offload, max_packet, &mut |head, payload, offload| {
        if std::mem::take(&mut loses) {
            return;
        }
        let headers = &head[ETHERNET..];
        let prefix = &mut prefix[..OFFLOAD_BYTES + headers.len()];
        prefix[..OFFLOAD_BYTES].copy_from_slice(&offload.to_wire());
        prefix[OFFLOAD_BYTES..].copy_from_slice(headers);
        failed |= out.push(outlet, ecn, Kind::Offloaded, prefix, payload).is_err();
        sealed += usize::from(!failed);
    });
    match cut {
        Err(reason) if sealed == 0 && !failed => Verdict::Dropped(reason.as_str()),
        _ if failed && sealed == 0 => Verdict::Control,
        Ok(()) if !failed && lost => Verdict::Dropped(Refusal::Congested.as_str()),
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
    /// Not plain, still sealed: the engine must see the datagram. Where it was carried to us, this is what the relay's
    /// session held.
    Sealed {
        /// Where it came from.
        from: Endpoint,
        /// As it came.
        datagram: &'d [u8],
    },
    /// It is carried on.
    Carried,
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

/// The peer's newest packet came by another way than the one by which we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roamed {
    /// Our index of the session.
    pub index: u32,
    /// The packet's number.
    pub counter: u64,
    /// Where it came from.
    pub from: Endpoint,
}

/// What one datagram has brought.
#[derive(Debug)]
pub struct Received<'d> {
    /// Its content.
    pub arrival: Arrival<'d>,
    /// Of its sender, and of the member whose datagram it held.
    pub roamed: [Option<Roamed>; 2],
}

/// Opens one datagram in place. `ecn` is what its outside says. What is to be carried on is appended to `out`.
pub fn inbound<'d>(
    snapshot: &Snapshot,
    from: Endpoint,
    ecn: Ecn,
    datagram: &'d mut [u8],
    now: Instant,
    out: &mut Datagrams,
) -> Received<'d> {
    let kind = data_kind(datagram);
    let inlet = match inlet(snapshot, datagram) {
        Some(inlet) if kind.is_some_and(is_plain) => inlet,
        _ => return Received { arrival: Arrival::Sealed { from, datagram }, roamed: [None, None] },
    };
    if !from.can_be_of(&inlet.peer) {
        return Received { arrival: Arrival::Dropped(DropReason::ForeignStream.as_str()), roamed: [None, None] };
    }
    // One that we do not carry, or not yet: the engine has an answer to it.
    let circuit = tunnel::circuit(datagram);
    let forward = kind == Some(Kind::Forward);
    let leg = if forward { snapshot.legs.get(&(inlet.peer, circuit)) } else { None };
    if forward && leg.is_none() {
        return Received { arrival: Arrival::Sealed { from, datagram }, roamed: [None, None] };
    }
    let (payload, roamed) = match open(inlet, from, datagram, now) {
        Ok(opened) => opened,
        Err(reason) => return Received { arrival: Arrival::Dropped(reason.as_str()), roamed: [None, None] },
    };
    match (kind, leg) {
        (Some(Kind::Forward), Some(leg)) => {
            let carried = carry(leg, ecn, payload, now, out);
            let arrival = carried.map_or_else(|reason| Arrival::Dropped(reason.as_str()), |()| Arrival::Carried);
            Received { arrival, roamed: [roamed, None] }
        }
        (Some(Kind::Carried), _) => {
            let from = Endpoint::Relayed { relay: inlet.peer, circuit };
            let (arrival, inner) = unwrap(snapshot, from, ecn, payload, now);
            Received { arrival, roamed: [roamed, inner] }
        }
        (kind, _) => {
            let arrival = deliver(snapshot, inlet.peer, ecn, kind.unwrap_or(Kind::Packet), payload);
            Received { arrival, roamed: [roamed, None] }
        }
    }
}

fn is_plain(kind: Kind) -> bool {
    matches!(kind, Kind::Packet | Kind::Offloaded) || kind.is_carried()
}

fn inlet<'s>(snapshot: &'s Snapshot, datagram: &[u8]) -> Option<&'s Inlet> {
    snapshot.receiving.get(&receiver_index(datagram)?)
}

fn open<'d>(
    inlet: &Inlet,
    from: Endpoint,
    datagram: &'d mut [u8],
    now: Instant,
) -> Result<(&'d mut [u8], Option<Roamed>), DropReason> {
    let opened = inlet.session.open(datagram)?;
    let elsewhere = opened.newest && Some(from) != inlet.endpoint && inlet.reports.take(now);
    let roamed = Roamed { index: inlet.session.index(), counter: opened.counter, from };
    Ok((opened.payload, elsewhere.then_some(roamed)))
}

/// A member's datagram goes on to the other end of its circuit.
fn carry(leg: &LegView, ecn: Ecn, datagram: &[u8], now: Instant, out: &mut Datagrams) -> Result<(), DropReason> {
    if !leg.rate.take(datagram.len(), now) {
        return Err(DropReason::RelayRate);
    }
    out.push_carried(leg, ecn, datagram).map_err(|error| match error {
        SealError::TooBig => DropReason::TooBigToCarry,
        SealError::Closed | SealError::UsedUp => DropReason::CircuitBroken,
    })?;
    leg.carried.fetch_add(datagram.len() as u64, Relaxed);
    Ok(())
}

/// Opens what a relay has carried to us.
fn unwrap<'d>(
    snapshot: &Snapshot,
    from: Endpoint,
    ecn: Ecn,
    datagram: &'d mut [u8],
    now: Instant,
) -> (Arrival<'d>, Option<Roamed>) {
    let kind = data_kind(datagram);
    if kind.is_some_and(Kind::is_carried) {
        return (Arrival::Dropped(DropReason::NestedRelay.as_str()), None);
    }
    let (Some(kind), Some(inlet)) = (kind.filter(|kind| is_plain(*kind)), inlet(snapshot, datagram)) else {
        return (Arrival::Sealed { from, datagram }, None);
    };
    match open(inlet, from, datagram, now) {
        Ok((payload, roamed)) => (deliver(snapshot, inlet.peer, ecn, kind, payload), roamed),
        Err(reason) => (Arrival::Dropped(reason.as_str()), None),
    }
}

fn deliver<'d>(snapshot: &Snapshot, peer: PeerId, ecn: Ecn, kind: Kind, payload: &'d mut [u8]) -> Arrival<'d> {
    let (offload, start) = match kind {
        Kind::Packet => (Offload::default(), 0),
        Kind::Offloaded => match split_offload(payload) {
            Ok((offload, _)) => (offload, OFFLOAD_BYTES),
            Err(reason) => return Arrival::Dropped(reason),
        },
        Kind::Fragment | Kind::Control | Kind::Forward | Kind::Carried => {
            return Arrival::Opened { peer, kind, payload };
        }
    };
    match snapshot.local.inbound(&peer, &payload[start..]) {
        Inbound::Deliver(header) => match ecn.enter(&mut payload[start..]) {
            Ok(()) => Arrival::Frame { offload, header, packet: &payload[start..] },
            Err(reason) => Arrival::Dropped(reason.as_str()),
        },
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
