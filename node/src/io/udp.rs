//! The data socket: datagrams in batches, with the kernel's segmentation and coalescing where it has them.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use crate::io::offload::{self, Doubt};
use anyhow::Context;
use bridge::Ecn;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg, setsockopt, sockopt};
use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};
use socket2::{Domain, Protocol, Socket, Type};

/// Buffers this small would cut a coalesced train of datagrams without a word.
const RECEIVE_BUFFER: usize = 65_536;
/// What the socket may hold in the kernel, either way: 4 MiB, about 3 ms at 10 Gbit/s.
const SOCKET_BUFFER: usize = 4 << 20;

/// Linux cuts no longer trains (`UDP_MAX_SEGMENTS` before 6.9), and one call is enough for so many.
const MOST_AT_ONCE: usize = 64;

/// The socket that carries sealed datagrams of all namespaces.
pub(crate) struct DataSocket {
    /// By which everything is sent.
    socket: UdpSocket,
    state: UdpSocketState,
    /// More of the same port, for as many threads that receive. The kernel gives each its own peers.
    others: Vec<(UdpSocket, UdpSocketState)>,
    v4_only: bool,
    /// Why the kernel is not to cut trains of datagrams.
    doubt: Option<Doubt>,
    /// How many datagrams a train had at the start.
    train: usize,
}

impl DataSocket {
    /// Binds the port on all addresses, IPv6 included where the kernel has it, for so many threads that receive. Port 0 takes
    /// a free one.
    pub(crate) fn bind(port: u16, queues: usize) -> anyhow::Result<Self> {
        // Nobody else may have it; what shares it with us comes after.
        let (alone, v4_only) = match dual_stack(port, false) {
            Ok(socket) => (socket, false),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(error).with_context(|| format!("UDP port {port} is in use; choose another with --port"));
            }
            Err(_) => (v4(port, false).with_context(|| format!("cannot bind UDP port {port}"))?, true),
        };
        let (socket, state) = prepare(alone, v4_only)?;
        let train = state.max_gso_segments();
        let mut this = Self { socket, state, others: Vec::new(), v4_only, doubt: offload::doubt(), train };
        if queues > 1 {
            this.share(queues).context("cannot receive by several threads")?;
        }
        Ok(this)
    }

    /// The port is bound anew, so that several sockets may have it.
    fn share(&mut self, queues: usize) -> anyhow::Result<()> {
        let port = self.port()?;
        let bind = |v4_only| if v4_only { v4(port, true) } else { dual_stack(port, true) };
        // What was bound alone lets nobody share.
        self.socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        (self.socket, self.state) = prepare(bind(self.v4_only)?, self.v4_only)?;
        for _ in 1..queues {
            self.others.push(prepare(bind(self.v4_only)?, self.v4_only)?);
        }
        Ok(())
    }

    /// How many threads may receive.
    pub(crate) fn queues(&self) -> usize {
        1 + self.others.len()
    }

    fn queue(&self, queue: usize) -> (&UdpSocket, &UdpSocketState) {
        match queue.checked_sub(1).and_then(|other| self.others.get(other)) {
            Some((socket, state)) => (socket, state),
            None => (&self.socket, &self.state),
        }
    }

    /// The port it is bound to.
    pub(crate) fn port(&self) -> io::Result<u16> {
        Ok(self.socket.local_addr()?.port())
    }

    /// What the kernel does for datagrams, in words, and whether that is all it could.
    pub(crate) fn offload(&self) -> Result<String, String> {
        match &self.doubt {
            Some(Doubt::Told) => Err(format!("{}=off", offload::VARIABLE)),
            Some(Doubt::Spoils(release)) => {
                Err(format!("Linux {release} spoils trains whose last is as long as the others, on some network cards"))
            }
            None if self.train == 1 => Err("the kernel has no UDP segmentation offload (Linux 4.18 has)".into()),
            None if self.state.max_gso_segments() == 1 => Err("the kernel refused a train".into()),
            None => Ok(format!("{} at a time", self.train)),
        }
    }

    /// Sends `bytes` to one address as datagrams of `segment` bytes, the last of which may be shorter. Waits for
    /// room in the kernel's buffer instead of losing what it was given.
    pub(crate) fn send(&self, to: SocketAddr, ecn: Ecn, bytes: &[u8], segment: usize) -> io::Result<()> {
        let to = self.mapped(to);
        for part in bytes.chunks(segment.saturating_mul(MOST_AT_ONCE).max(1)) {
            if part.len() <= segment {
                self.send_train(to, ecn, part, segment)?;
            } else if !self.may_be_train(part, segment) {
                self.send_each(to, ecn, part, segment)?;
            } else if let Err(error) = self.send_train(to, ecn, part, segment) {
                if !refuses_train(&error) {
                    return Err(error);
                }
                // quinn-udp makes no more of them from now on.
                self.send_each(to, ecn, part, segment)?;
            }
        }
        Ok(())
    }

    fn may_be_train(&self, bytes: &[u8], segment: usize) -> bool {
        let able = self.state.max_gso_segments() > 1;
        able && match &self.doubt {
            None => true,
            Some(Doubt::Told) => false,
            // What ends in a shorter one comes out well.
            Some(Doubt::Spoils(_)) => !bytes.len().is_multiple_of(segment),
        }
    }

    /// One datagram, or several that the kernel cuts.
    fn send_train(&self, to: SocketAddr, ecn: Ecn, bytes: &[u8], segment: usize) -> io::Result<()> {
        let transmit = Transmit {
            destination: to,
            ecn: EcnCodepoint::from_bits(ecn as u8),
            contents: bytes,
            segment_size: (bytes.len() > segment).then_some(segment),
            src_ip: None,
        };
        self.when_there_is_room(|| self.state.try_send(UdpSockRef::from(&self.socket), &transmit))
    }

    /// Datagrams that the kernel is not to cut, in one call where nothing need be said on their outside.
    fn send_each(&self, to: SocketAddr, ecn: Ecn, bytes: &[u8], segment: usize) -> io::Result<()> {
        if ecn != Ecn::NotCapable {
            return bytes.chunks(segment).try_for_each(|datagram| self.send_train(to, ecn, datagram, segment));
        }
        let to = SocketAddrAny::from(to);
        let parts: Vec<[IoSlice<'_>; 1]> = bytes.chunks(segment).map(|datagram| [IoSlice::new(datagram)]).collect();
        let mut nothing: Vec<SendAncillaryBuffer<'_, '_, '_>> = parts.iter().map(|_| Default::default()).collect();
        let messages = parts.iter().zip(&mut nothing).map(|(part, nothing)| MMsgHdr::new_with_addr(&to, part, nothing));
        let mut messages: Vec<MMsgHdr<'_>> = messages.collect();
        let mut sent = 0;
        while sent < messages.len() {
            self.when_there_is_room(|| {
                sent += sendmmsg(&self.socket, &mut messages[sent..], SendFlags::DONTWAIT)?;
                Ok(())
            })?;
        }
        Ok(())
    }

    fn when_there_is_room(&self, mut send: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        loop {
            match send() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait(&self.socket, PollFlags::OUT, 100)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// How many bytes wait in the kernel to be sent (udp(7), `SIOCOUTQ`); none where it does not say.
    pub(crate) fn queued(&self) -> usize {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the call writes one int behind a pointer that is valid for it.
        let done = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        if done == 0 { usize::try_from(bytes).unwrap_or(0) } else { 0 }
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
    pub(crate) fn wait_readable(&self, queue: usize, timeout_ms: i64) {
        // A socket that cannot be waited for cannot be read either, and that is reported.
        let _ = wait(self.queue(queue).0, PollFlags::IN, timeout_ms);
    }

    /// Fills the batch with what is there, without waiting.
    pub(crate) fn receive(&self, queue: usize, batch: &mut ReceiveBatch) -> io::Result<usize> {
        let (socket, state) = self.queue(queue);
        let mut slices: Vec<IoSliceMut<'_>> = batch.buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
        match state.recv(UdpSockRef::from(socket), &mut slices, &mut batch.meta) {
            Ok(count) => Ok(count),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
            // An ICMP error for an earlier datagram; the path's own timers notice the silence.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(0),
            Err(error) => Err(error),
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

    /// The sender, the sign of congestion and the bytes of every datagram among the first `count` buffers.
    pub(crate) fn datagrams(&mut self, count: usize) -> impl Iterator<Item = (SocketAddr, Ecn, &mut [u8])> {
        self.buffers.iter_mut().zip(&self.meta).take(count).flat_map(|(buffer, meta)| {
            let from = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
            let ecn = meta.ecn.map_or(Ecn::NotCapable, |ecn| Ecn::from_tos(ecn as u8));
            buffer[..meta.len].chunks_mut(meta.stride.max(1)).map(move |datagram| (from, ecn, datagram))
        })
    }
}

/// quinn-udp has the kernel say of each datagram which of our addresses it was sent to, and when it came. Nobody here asks.
fn forgo_details(socket: &UdpSocket, v4_only: bool) {
    let _ = setsockopt(socket, sockopt::ReceiveTimestampns, &false);
    let _ = setsockopt(socket, sockopt::Ipv4PacketInfo, &false);
    if !v4_only {
        let _ = setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &false);
    }
}

/// As the kernel does where the device cannot finish what it would cut; quinn-udp then makes no more of them.
fn refuses_train(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL))
}

/// A socket that is bound, with all it needs.
fn prepare(socket: Socket, v4_only: bool) -> anyhow::Result<(UdpSocket, UdpSocketState)> {
    let socket = UdpSocket::from(socket);
    let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
    forgo_details(&socket, v4_only);
    let _ = state.set_send_buffer_size(UdpSockRef::from(&socket), SOCKET_BUFFER);
    let _ = state.set_recv_buffer_size(UdpSockRef::from(&socket), SOCKET_BUFFER);
    Ok((socket, state))
}

fn wait(socket: &UdpSocket, flags: PollFlags, timeout_ms: i64) -> io::Result<bool> {
    let mut fds = [PollFd::new(socket, flags)];
    let timeout = Timespec { tv_sec: timeout_ms / 1000, tv_nsec: (timeout_ms % 1000) * 1_000_000 };
    match poll(&mut fds, Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn dual_stack(port: u16, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port).into())?;
    Ok(socket)
}

fn v4(port: u16, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(shared)?;
    socket.bind(&SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port).into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All datagrams that come, with what their outside says.
    fn receive(socket: &DataSocket, bytes: usize) -> Vec<(Ecn, Vec<u8>)> {
        let mut batch = ReceiveBatch::new();
        let mut all = Vec::new();
        while all.iter().map(|(_, datagram): &(Ecn, Vec<u8>)| datagram.len()).sum::<usize>() < bytes {
            socket.wait_readable(0, 5_000);
            let count = socket.receive(0, &mut batch).unwrap();
            assert!(count > 0, "nothing came for five seconds");
            all.extend(batch.datagrams(count).map(|(_, ecn, datagram)| (ecn, datagram.to_vec())));
        }
        all
    }

    #[test]
    fn a_run_arrives_whole_however_it_is_sent() {
        let doubts = [None, Some(Doubt::Told), Some(Doubt::Spoils("7.0".into()))];
        for v4 in [false, true] {
            let receiver = DataSocket::bind(0, 1).unwrap();
            let ip: IpAddr = if v4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            let to = SocketAddr::new(ip, receiver.port().unwrap());
            for doubt in doubts.clone() {
                let sender = DataSocket { doubt, ..DataSocket::bind(0, 1).unwrap() };
                for (length, ecn) in [(500, 0), (1000, 0), (64_000, 2), (100_000, 0), (100_300, 1), (3_001, 2)] {
                    let ecn = Ecn::from_tos(ecn);
                    let bytes: Vec<u8> = (0..length).map(|n| (n / 7) as u8).collect();
                    sender.send(to, ecn, &bytes, 1000).unwrap();
                    let expected: Vec<_> = bytes.chunks(1000).map(|datagram| (ecn, datagram.to_vec())).collect();
                    assert_eq!(receive(&receiver, length), expected, "{length} bytes");
                }
            }
        }
    }

    #[test]
    fn threads_share_a_port_and_nobody_else_does() {
        let receiver = DataSocket::bind(0, 3).unwrap();
        let port = receiver.port().unwrap();
        for queues in [1, 2] {
            let refused = DataSocket::bind(port, queues).err().map(|error| format!("{error:#}")).unwrap_or_default();
            assert!(refused.contains("is in use"), "{refused}");
        }
        let senders: Vec<_> = (0..64).map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
        for sender in &senders {
            (0..3u8).for_each(|n| assert!(sender.send_to(&[n], (Ipv4Addr::LOCALHOST, port)).is_ok()));
        }
        let mut batch = ReceiveBatch::new();
        let mut from_each: std::collections::BTreeMap<SocketAddr, (usize, Vec<u8>)> = Default::default();
        let mut of_each = Vec::new();
        for queue in 0..receiver.queues() {
            let mut came = 0;
            while let count @ 1.. = receiver.receive(queue, &mut batch).unwrap() {
                for (from, _, datagram) in batch.datagrams(count) {
                    let (by, all) = from_each.entry(from).or_insert((queue, Vec::new()));
                    assert_eq!(*by, queue, "one sender, one thread");
                    all.extend_from_slice(datagram);
                    came += 1;
                }
            }
            of_each.push(came);
        }
        assert_eq!(of_each.iter().sum::<usize>(), 64 * 3);
        assert!(of_each.iter().all(|came| *came > 0), "{of_each:?}");
        assert!(from_each.values().all(|(_, all)| *all == [0, 1, 2]), "in order");
    }
}
