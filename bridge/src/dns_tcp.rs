//! DNS over TCP on the service address (RFC 7766), on smoltcp.
//!
//! A fixed pool of sockets: who comes when all are taken is reset and tries again. A connection that neither
//! asks nor is answered for [`IDLE`] is reset, however slowly it feeds us bytes.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant as WireInstant;
use smoltcp::wire::{HardwareAddress, IpCidr, Ipv4Cidr};

use crate::DropReason;
use crate::drop_reason::Drops;

pub(crate) const PORT: u16 = 53;
/// Connections at once.
const CONNECTIONS: usize = 16;
/// RFC 7766 section 6.2.3 wants some seconds.
const IDLE: Duration = Duration::from_secs(10);
/// Questions of one connection that are not answered yet; more wait in its buffers until then.
const PIPELINED: usize = 8;
/// Longer questions are refused. RFC 1035 allows 65,535 bytes; one question and its options fit easily.
const MAX_QUESTION: usize = 4096;
/// The header of a DNS message.
const MIN_QUESTION: usize = 12;
const RECEIVE_BUFFER: usize = 2048;
const SEND_BUFFER: usize = 8192;
/// The soonest that smoltcp is called again by itself, so that no state of it can make us spin.
const TICK: Duration = Duration::from_millis(1);

/// The TCP side of the virtual DNS server: IP packets and answers in, IP packets and questions out.
pub(crate) struct DnsTcp {
    interface: Interface,
    device: Wire,
    sockets: SocketSet<'static>,
    connections: Vec<Connection>,
    next_id: u64,
    questions: VecDeque<(u64, Vec<u8>)>,
    origin: Instant,
    due: Option<Instant>,
}

struct Connection {
    handle: SocketHandle,
    /// While somebody is connected.
    open: Option<Open>,
}

struct Open {
    id: u64,
    inbox: Vec<u8>,
    outbox: VecDeque<u8>,
    unanswered: usize,
    /// When patience ends.
    until: Instant,
}

impl DnsTcp {
    pub(crate) fn new(service: Ipv4Addr, range: Ipv4Net, mtu: u16, seed: u64, now: Instant) -> Self {
        let mut device = Wire { mtu: usize::from(mtu), received: VecDeque::new(), sent: VecDeque::new() };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut device, WireInstant::ZERO);
        interface.update_ip_addrs(|addresses| {
            // The list is empty and has room for one.
            let _ = addresses.push(IpCidr::Ipv4(Ipv4Cidr::new(service, range.prefix_len())));
        });
        let mut sockets = SocketSet::new(Vec::new());
        let connections =
            (0..CONNECTIONS).map(|_| Connection { handle: sockets.add(listening()), open: None }).collect();
        Self { interface, device, sockets, connections, next_id: 0, questions: VecDeque::new(), origin: now, due: None }
    }

    /// Takes a TCP packet for the service address whose checksum has been verified, or need not be.
    pub(crate) fn handle_packet(&mut self, packet: &[u8], drops: &mut Drops, now: Instant) {
        self.device.received.push_back(packet.to_vec());
        self.run(drops, now);
    }

    /// Takes an answer for a connection.
    pub(crate) fn send(&mut self, id: u64, message: &[u8], drops: &mut Drops, now: Instant) {
        let Ok(len) = u16::try_from(message.len()) else {
            return drops.count(DropReason::Oversize);
        };
        let open =
            self.connections.iter_mut().filter_map(|connection| connection.open.as_mut()).find(|open| open.id == id);
        let Some(open) = open else {
            return drops.count(DropReason::ConnectionGone);
        };
        // A second answer to one question would let the outbox grow without limit.
        if open.unanswered == 0 {
            return drops.count(DropReason::ConnectionGone);
        }
        open.outbox.extend(len.to_be_bytes());
        open.outbox.extend(message);
        open.unanswered -= 1;
        open.until = now + IDLE;
        self.run(drops, now);
    }

    pub(crate) fn handle_timeout(&mut self, drops: &mut Drops, now: Instant) {
        if self.due.is_some_and(|due| due <= now) {
            self.run(drops, now);
        }
    }

    pub(crate) fn poll_question(&mut self) -> Option<(u64, Vec<u8>)> {
        self.questions.pop_front()
    }

    pub(crate) fn poll_packet(&mut self) -> Option<Vec<u8>> {
        self.device.sent.pop_front()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Lets smoltcp and the connections feed each other until neither has anything left to do.
    fn run(&mut self, drops: &mut Drops, now: Instant) {
        loop {
            let at = self.wire_time(now);
            self.interface.poll(at, &mut self.device, &mut self.sockets);
            let mut busy = false;
            for index in 0..self.connections.len() {
                busy |= self.serve(index, drops, now);
            }
            if !busy {
                break;
            }
        }
        self.due = self.deadline(now);
    }

    /// Moves bytes between one socket and its questions and answers. Returns whether smoltcp has more to do.
    fn serve(&mut self, index: usize, drops: &mut Drops, now: Instant) -> bool {
        let connection = &mut self.connections[index];
        let socket = self.sockets.get_mut::<Socket<'_>>(connection.handle);
        match socket.state() {
            State::Listen => {
                connection.open = None;
                return false;
            }
            State::Closed | State::TimeWait => {
                connection.open = None;
                return socket.listen(PORT).is_ok();
            }
            State::SynSent
            | State::SynReceived
            | State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck => {}
        }
        let next_id = &mut self.next_id;
        let open = connection.open.get_or_insert_with(|| {
            *next_id += 1;
            Open { id: *next_id, inbox: Vec::new(), outbox: VecDeque::new(), unanswered: 0, until: now + IDLE }
        });
        if open.until <= now {
            socket.abort();
            return true;
        }
        let read = open.read(socket);
        match open.take_questions(&mut self.questions, now) {
            Ok(()) => {}
            Err(reason) => {
                drops.count(reason);
                socket.abort();
                return true;
            }
        }
        let written = open.write(socket);
        read || written || open.finish(socket)
    }

    fn deadline(&mut self, now: Instant) -> Option<Instant> {
        let at = self.wire_time(now);
        let stack = self.interface.poll_at(at, &self.sockets).map(|at| {
            let micros = u64::try_from(at.total_micros()).unwrap_or(0);
            (self.origin + Duration::from_micros(micros)).max(now + TICK)
        });
        self.connections
            .iter()
            .filter_map(|connection| connection.open.as_ref().map(|open| open.until))
            .chain(stack)
            .min()
    }

    fn wire_time(&self, now: Instant) -> WireInstant {
        let elapsed = now.saturating_duration_since(self.origin).as_micros();
        WireInstant::from_micros(i64::try_from(elapsed).unwrap_or(i64::MAX))
    }
}

impl Open {
    fn read(&mut self, socket: &mut Socket<'_>) -> bool {
        let room = (2 + MAX_QUESTION).saturating_sub(self.inbox.len());
        if room == 0 || !socket.can_recv() {
            return false;
        }
        let read = socket.recv(|bytes| {
            let taken = bytes.len().min(room);
            self.inbox.extend_from_slice(&bytes[..taken]);
            (taken, taken)
        });
        read.is_ok_and(|taken| taken > 0)
    }

    fn take_questions(&mut self, questions: &mut VecDeque<(u64, Vec<u8>)>, now: Instant) -> Result<(), DropReason> {
        while self.unanswered < PIPELINED {
            let Some((len, rest)) = self.inbox.split_first_chunk::<2>() else {
                break;
            };
            let len = usize::from(u16::from_be_bytes(*len));
            if !(MIN_QUESTION..=MAX_QUESTION).contains(&len) {
                return Err(DropReason::BadLength);
            }
            let Some(question) = rest.get(..len) else {
                break;
            };
            questions.push_back((self.id, question.to_vec()));
            self.inbox.drain(..2 + len);
            self.unanswered += 1;
            self.until = now + IDLE;
        }
        Ok(())
    }

    fn write(&mut self, socket: &mut Socket<'_>) -> bool {
        let (front, _) = self.outbox.as_slices();
        if front.is_empty() || !socket.can_send() {
            return false;
        }
        let sent = socket.send_slice(front).unwrap_or(0);
        self.outbox.drain(..sent);
        sent > 0
    }

    /// Closes our half when the client closed its own and has got everything it asked for.
    fn finish(&mut self, socket: &mut Socket<'_>) -> bool {
        let done =
            socket.state() == State::CloseWait && !socket.can_recv() && self.unanswered == 0 && self.outbox.is_empty();
        if done {
            socket.close();
        }
        done
    }
}

fn listening() -> Socket<'static> {
    let mut socket = Socket::new(SocketBuffer::new(vec![0; RECEIVE_BUFFER]), SocketBuffer::new(vec![0; SEND_BUFFER]));
    socket.set_nagle_enabled(false);
    socket.set_timeout(Some(IDLE.into()));
    // A fresh socket with a port that is not zero cannot refuse to listen.
    let _ = socket.listen(PORT);
    socket
}

/// What smoltcp takes for its network device.
struct Wire {
    mtu: usize,
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: WireInstant) -> Option<(Received, Sending<'_>)> {
        let packet = self.received.pop_front()?;
        Some((Received(packet), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: WireInstant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        // A frame from a local socket carries a partial checksum; the bridge verifies the others.
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F>(self, f: F) -> R
    where
        F: FnOnce(&[u8]) -> R,
    {
        f(&self.0)
    }
}

struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Sending<'_> {
    fn consume<R, F>(self, len: usize, f: F) -> R
    where
        F: FnOnce(&mut [u8]) -> R,
    {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}
