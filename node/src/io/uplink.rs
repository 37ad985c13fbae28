//! The ways out of this machine: UDP, or a stream of the overlay's connection where UDP does not pass.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use dht_driver::{NotSent, Streams};
use engine::fast::Run;
use tunnel::NextHop;

use crate::control::Input;
use crate::inbound::Drops;
use crate::io::udp::DataSocket;

/// Sends the sealed datagrams of one namespace.
#[derive(Clone)]
pub(crate) struct Uplink {
    socket: Arc<DataSocket>,
    streams: Streams,
}

/// Why datagrams did not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsent {
    /// The kernel knows that the way carries less.
    TooBig { to: SocketAddr, size: usize },
    /// Counted under this name.
    Dropped(&'static str),
}

impl Unsent {
    /// Counts it, and tells control of a size that does not pass.
    pub(crate) fn report(self, control: &SyncSender<Input>, drops: &Drops) {
        match self {
            Self::TooBig { to, size } => {
                let _ = control.try_send(Input::TooBig { to, size });
                drops.count("datagram-too-big");
            }
            Self::Dropped(reason) => drops.count(reason),
        }
    }
}

impl Uplink {
    pub(crate) fn new(socket: Arc<DataSocket>, streams: Streams) -> Self {
        Self { socket, streams }
    }

    /// Sends a run of datagrams.
    pub(crate) fn send(&self, run: Run<'_>) -> Result<(), Unsent> {
        let Run { to, ecn, bytes, segment } = run;
        match to {
            NextHop::Udp(to) => self.socket.send(to, ecn, bytes, segment).map_err(|error| unsent(to, segment, &error)),
            NextHop::Stream(peer) => {
                // One that does not fit leaves the others as they are.
                let mut result = Ok(());
                for datagram in bytes.chunks(segment.max(1)) {
                    result = result.and(self.streams.send(peer, datagram).map_err(not_sent));
                }
                result
            }
        }
    }

    /// How many bytes of all datagrams are in this machine yet, with what the kernel needs for them.
    pub(crate) fn queued(&self) -> usize {
        self.socket.queued()
    }

    /// Sends one datagram that passes our own edge and arrives nowhere.
    pub(crate) fn open_edge(&self, to: NextHop, datagram: &[u8], ttl: u8) -> Result<(), Unsent> {
        match to {
            NextHop::Udp(addr) => {
                let sent = self.socket.send_with_ttl(addr, datagram, ttl);
                sent.map_err(|error| unsent(addr, datagram.len(), &error))
            }
            // Nothing is in the way of a stream.
            NextHop::Stream(_) => Ok(()),
        }
    }
}

fn unsent(to: SocketAddr, size: usize, error: &io::Error) -> Unsent {
    if error.raw_os_error() == Some(libc::EMSGSIZE) {
        return Unsent::TooBig { to, size };
    }
    tracing::debug!(%error, %to, "sending datagrams");
    Unsent::Dropped("send-failed")
}

fn not_sent(reason: NotSent) -> Unsent {
    Unsent::Dropped(match reason {
        NotSent::Full => "stream-full",
        NotSent::TooLong => "datagram-too-long",
        NotSent::NoStream => "no-stream",
    })
}
