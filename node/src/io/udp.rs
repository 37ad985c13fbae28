//! The data socket: datagrams in batches, with the kernel's segmentation and coalescing where it has them.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use anyhow::Context;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg, setsockopt, sockopt};
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, Socket, Type};

/// Buffers this small would cut a coalesced train of datagrams without a word.
const RECEIVE_BUFFER: usize = 65_536;
/// What the socket may hold in the kernel, either way: 4 MiB, about 3 ms at 10 Gbit/s.
const SOCKET_BUFFER: usize = 4 << 20;

/// The socket that carries sealed datagrams of all namespaces.
pub(crate) struct DataSocket {
    socket: UdpSocket,
    state: UdpSocketState,
    v4_only: bool,
}

impl DataSocket {
    /// Binds the port on all addresses, IPv6 included where the kernel has it. Port 0 takes a free one.
    pub(crate) fn bind(port: u16) -> anyhow::Result<Self> {
        let (socket, v4_only) = match dual_stack(port) {
            Ok(socket) => (socket, false),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(error).with_context(|| format!("UDP port {port} is in use; choose another with --port"));
            }
            Err(_) => (v4(port).with_context(|| format!("cannot bind UDP port {port}"))?, true),
        };
        let socket = UdpSocket::from(socket);
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        forgo_destination(&socket, v4_only);
        let _ = state.set_send_buffer_size(UdpSockRef::from(&socket), SOCKET_BUFFER);
        let _ = state.set_recv_buffer_size(UdpSockRef::from(&socket), SOCKET_BUFFER);
        Ok(Self { socket, state, v4_only })
    }

    /// The port it is bound to.
    pub(crate) fn port(&self) -> io::Result<u16> {
        Ok(self.socket.local_addr()?.port())
    }

    /// How many equal datagrams one call may carry.
    pub(crate) fn max_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Sends `bytes` to one address as datagrams of `segment` bytes, the last of which may be shorter. Waits for
    /// room in the kernel's buffer instead of losing what it was given.
    pub(crate) fn send(&self, to: SocketAddr, bytes: &[u8], segment: usize) -> io::Result<()> {
        let transmit = Transmit {
            destination: self.mapped(to),
            ecn: None,
            contents: bytes,
            segment_size: (bytes.len() > segment).then_some(segment),
            src_ip: None,
        };
        loop {
            match self.state.try_send(UdpSockRef::from(&self.socket), &transmit) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::OUT, 100)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Sends one datagram that passes fewer routers than usual: it opens our own edge and arrives nowhere.
    pub(crate) fn send_with_ttl(&self, to: SocketAddr, datagram: &[u8], ttl: u8) -> io::Result<()> {
        let ttl = i32::from(ttl);
        // To an IPv4 address also a socket of both families takes the IPv4 option.
        let option = match to.ip().to_canonical() {
            IpAddr::V4(_) => ControlMessage::Ipv4Ttl(&ttl),
            IpAddr::V6(_) => ControlMessage::Ipv6HopLimit(&ttl),
        };
        let to = SockaddrStorage::from(self.mapped(to));
        let slices = [IoSlice::new(datagram)];
        sendmsg(self.socket.as_raw_fd(), &slices, &[option], MsgFlags::MSG_DONTWAIT, Some(&to))?;
        Ok(())
    }

    /// Waits up to `timeout_ms` for datagrams.
    pub(crate) fn wait_readable(&self, timeout_ms: i64) {
        // A socket that cannot be waited for cannot be read either, and that is reported.
        let _ = self.wait(PollFlags::IN, timeout_ms);
    }

    /// Fills the batch with what is there, without waiting.
    pub(crate) fn receive(&self, batch: &mut ReceiveBatch) -> io::Result<usize> {
        let mut slices: Vec<IoSliceMut<'_>> = batch.buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
        match self.state.recv(UdpSockRef::from(&self.socket), &mut slices, &mut batch.meta) {
            Ok(count) => Ok(count),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
            // An ICMP error for an earlier datagram; the path's own timers notice the silence.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn wait(&self, flags: PollFlags, timeout_ms: i64) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.socket, flags)];
        let timeout = Timespec { tv_sec: timeout_ms / 1000, tv_nsec: (timeout_ms % 1000) * 1_000_000 };
        match poll(&mut fds, Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn mapped(&self, to: SocketAddr) -> SocketAddr {
        match to {
            SocketAddr::V4(v4) if !self.v4_only => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
            SocketAddr::V4(_) | SocketAddr::V6(_) => to,
        }
    }
}

/// Room for one call's worth of received datagrams.
pub(crate) struct ReceiveBatch {
    buffers: Vec<Vec<u8>>,
    meta: Vec<RecvMeta>,
}

impl ReceiveBatch {
    /// Room for as many trains of datagrams as one call returns.
    pub(crate) fn new() -> Self {
        let count = quinn_udp::BATCH_SIZE;
        Self { buffers: vec![vec![0; RECEIVE_BUFFER]; count], meta: vec![RecvMeta::default(); count] }
    }

    /// The sender and bytes of every datagram among the first `count` buffers.
    pub(crate) fn datagrams(&mut self, count: usize) -> impl Iterator<Item = (SocketAddr, &mut [u8])> {
        self.buffers.iter_mut().zip(&self.meta).take(count).flat_map(|(buffer, meta)| {
            let from = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
            buffer[..meta.len].chunks_mut(meta.stride.max(1)).map(move |datagram| (from, datagram))
        })
    }
}

/// quinn-udp has the kernel say of each datagram which of our addresses it was sent to. Nobody here asks, and it takes a
/// tenth of what a datagram costs.
fn forgo_destination(socket: &UdpSocket, v4_only: bool) {
    let _ = setsockopt(socket, sockopt::Ipv4PacketInfo, &false);
    if !v4_only {
        let _ = setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &false);
    }
}

fn dual_stack(port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_only_v6(false)?;
    socket.bind(&SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port).into())?;
    Ok(socket)
}

fn v4(port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind(&SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port).into())?;
    Ok(socket)
}
