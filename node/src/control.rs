//! The control thread of one namespace: everything that is not plain forwarding, one input after the other.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bridge::{Ecn, Frame, Offload};
use dht::Command;
use dht::clock::Now;
use engine::fast::{Roamed, Run};
use engine::{Engine, NamespaceStatus, Output, Request, RequestId, Snapshot};
use libp2p::PeerId;
use tokio::sync::{mpsc, oneshot};

use crate::inbox::{Drops, Place};
use crate::io::clock::SystemClock;
use crate::io::uplink::{Unsent, Uplink};
use tap::Tap;

/// Commands that wait for the driver. The engine bounds what is under way; this guards against the sum.
const MAX_BACKLOG: usize = 16_384;
/// The longest sleep: the lease clocks want a reading at least every minute.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// What the control thread is told.
pub(crate) enum Input {
    Frame {
        frame: Vec<u8>,
        offload: Offload,
        place: Place,
    },
    Datagram {
        from: tunnel::Endpoint,
        datagram: Vec<u8>,
        place: Place,
    },
    Opened {
        peer: PeerId,
        kind: tunnel::Kind,
        payload: Vec<u8>,
        place: Place,
    },
    Roamed {
        roamed: Roamed,
        place: Place,
    },
    TooBig {
        to: SocketAddr,
        size: usize,
    },
    TapGone,
    Overlay(dht::Event),
    Forwarded {
        id: ::dns::QueryId,
        reply: Option<Vec<u8>>,
    },
    Stream {
        peer: PeerId,
        connected: bool,
    },
    Endpoints {
        lan: Vec<SocketAddr>,
        configured: Vec<SocketAddr>,
    },
    Mapped(Vec<SocketAddr>),
    /// The hardware address by which this machine speaks on a router's segment.
    OwnMac([u8; 6]),
    Request {
        id: RequestId,
        request: Request,
    },
    Status(oneshot::Sender<NamespaceStatus>),
    Stop,
}

/// What the control thread drives.
pub(crate) struct Control {
    pub(crate) engine: Engine,
    pub(crate) tap: Option<Tap>,
    pub(crate) uplink: Uplink,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) events: mpsc::Sender<engine::Event>,
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) clock: Arc<SystemClock>,
    pub(crate) drops: Arc<Drops>,
}

impl Control {
    /// Runs until told to stop or until nobody is left to tell.
    pub(crate) fn run(mut self, inputs: &Receiver<Input>) {
        let mut backlog = VecDeque::new();
        let mut last = self.clock.now();
        self.engine.start(last);
        self.act(&mut backlog);
        loop {
            let now = self.clock.now();
            let wait = self.engine.poll_timeout(now).map_or(MAX_WAIT, |(at, _)| {
                at.saturating_duration_since(now.mono).min(if backlog.is_empty() { MAX_WAIT } else { Duration::ZERO })
            });
            let input = inputs.recv_timeout(wait.max(Duration::from_millis(1)));
            let now = self.clock.now();
            if last.jumps != now.jumps {
                match crate::state::random() {
                    Ok(seed) => self.engine.begin_anew(*seed, now),
                    Err(error) => tracing::error!(%error, "after a jump of the clocks"),
                }
            }
            last = now;
            match input {
                // Without its device a namespace has ended; whoever waits for our events learns it from their end.
                Ok(Input::Stop | Input::TapGone) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(input) => self.take(input, now),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.engine.poll_timeout(now).is_some_and(|(at, _)| at <= now.mono) {
                self.engine.handle_timeout(now);
            }
            self.act(&mut backlog);
        }
    }

    fn take(&mut self, input: Input, now: Now) {
        let engine = &mut self.engine;
        match input {
            Input::Frame { frame, offload, place } => {
                engine.handle_frame(&frame, offload, now);
                drop(place);
            }
            Input::Datagram { from, datagram, place } => {
                if self.drops.take_pressure() {
                    engine.handle_pressure(now);
                }
                engine.handle_datagram(from, &datagram, now);
                drop(place);
            }
            Input::Opened { peer, kind, payload, place } => {
                engine.handle_opened(peer, kind, &payload, now);
                drop(place);
            }
            Input::Roamed { roamed, place } => {
                engine.handle_roamed(roamed, now);
                drop(place);
            }
            Input::TooBig { to, size } => {
                // The kernel does not say how much would pass; the next smaller usual size is tried.
                let outer = if size + 48 > 1500 { 1500 } else { 1280 };
                engine.handle_too_big(to, outer, now);
            }
            Input::Overlay(event) => engine.handle_overlay(event, now),
            Input::Forwarded { id, reply } => engine.handle_forwarded(id, reply.as_deref(), now),
            Input::Stream { peer, connected } => engine.handle_stream(peer, connected, now),
            Input::Endpoints { lan, configured } => engine.handle_endpoints(lan, configured, now),
            Input::OwnMac(mac) => engine.handle_own_mac(mac, now),
            Input::Mapped(mapped) => engine.handle_mapped(mapped, now),
            Input::Request { id, request } => engine.handle_request(id, request, now),
            Input::Status(answer) => {
                let mut status = engine.status(now);
                let fast = self.drops.read();
                status.drops.extend(fast.into_iter().map(|(reason, count)| (format!("node.{reason}"), count)));
                let _ = answer.send(status);
            }
            Input::Stop | Input::TapGone => {}
        }
    }

    /// Does what the engine wants done. The snapshot goes first: a session may be used once its first datagram left.
    fn act(&mut self, backlog: &mut VecDeque<Command>) {
        let snapshot = self.engine.snapshot();
        if !Arc::ptr_eq(&snapshot, &self.snapshot.load()) {
            self.snapshot.store(snapshot);
        }
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Frame { frame, offload } => self.write(&frame, offload),
                Output::Transmit { to, datagram, ttl } => {
                    let sent = match ttl {
                        None => {
                            let (bytes, segment) = (datagram.as_slice(), datagram.len());
                            self.uplink.send(Run { to, ecn: Ecn::NotCapable, bytes, segment })
                        }
                        Some(ttl) => self.uplink.open_edge(to, &datagram, ttl),
                    };
                    match sent {
                        Ok(()) => {}
                        // What the engine sends is repeated where it matters, and is mostly small.
                        Err(Unsent::TooBig { .. }) => self.drops.count("datagram-too-big"),
                        Err(Unsent::Dropped(reason)) => self.drops.count(reason),
                    }
                }
                Output::Command(command) if backlog.len() < MAX_BACKLOG => backlog.push_back(command),
                Output::Command(_) => self.drops.count("command-backlog-full"),
                Output::Event(event) => {
                    if self.events.try_send(event).is_err() {
                        self.drops.count("event-queue-full");
                    }
                }
            }
        }
        // Waiting here could wait for ever: the driver may be waiting to hand us an event.
        while let Some(command) = backlog.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(command)) = self.commands.try_send(command) {
                backlog.push_front(command);
                break;
            }
        }
    }

    fn write(&self, frame: &[u8], offload: Offload) {
        let Some(tap) = &self.tap else { return };
        if tap.write(&Frame { offload, head: frame, parts: &[] }).is_err() {
            self.drops.count("tap-refused-frame");
        }
    }
}
