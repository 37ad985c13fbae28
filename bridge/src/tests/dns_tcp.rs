use std::collections::VecDeque;

use smoltcp::iface::{Config as GuestConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant as WireInstant;
use smoltcp::wire::{HardwareAddress, IpCidr};

use super::*;
use crate::DnsClient;

#[test]
fn a_question_over_tcp_is_answered() {
    let mut lab = Lab::new();
    let socket = lab.connect();
    lab.say(socket, &framed(b"first question"));
    let [(client, message)] = &lab.questions()[..] else { panic!("one question") };
    assert_eq!(message, b"first question");
    lab.answer(*client, b"an answer");
    assert_eq!(lab.hear(socket), framed(b"an answer"));
    assert!(lab.bench.bridge.drops().is_empty());
}

#[test]
fn questions_come_in_pieces_and_in_bunches() {
    let mut lab = Lab::new();
    let socket = lab.connect();
    let bytes = [framed(b"question one"), framed(b"question two"), framed(b"question three")].concat();
    for byte in bytes.chunks(5) {
        lab.say(socket, byte);
        // Nagle's algorithm waits for the acknowledgement, which is delayed.
        lab.pass(SECOND / 20);
    }
    let questions: Vec<_> = lab.questions().into_iter().map(|(_, message)| message).collect();
    assert_eq!(questions, [&b"question one"[..], b"question two", b"question three"]);
}

#[test]
fn a_large_answer_arrives_whole() {
    let mut lab = Lab::new();
    let socket = lab.connect();
    lab.say(socket, &framed(b"send me a lot"));
    let (client, _) = lab.questions()[0];
    let answer: Vec<u8> = (0..65_535u32).map(|n| (n * 7) as u8).collect();
    lab.answer(client, &answer);
    assert_eq!(lab.hear(socket), framed(&answer));
}

#[test]
fn at_most_eight_questions_of_a_connection_are_open() {
    let mut lab = Lab::new();
    let socket = lab.connect();
    lab.say(socket, &framed(b"question ...").repeat(20));
    let questions = lab.questions();
    assert_eq!(questions.len(), 8);
    for (client, _) in questions {
        lab.answer(client, b"answer");
    }
    assert_eq!(lab.questions().len(), 8);
    assert_eq!(lab.hear(socket).len(), 8 * 8);
}

#[test]
fn a_question_has_one_answer() {
    let mut lab = Lab::new();
    let socket = lab.connect();
    lab.say(socket, &framed(b"the question"));
    let (client, _) = lab.questions()[0];
    lab.answer(client, b"an answer");
    lab.answer(client, b"another answer");
    assert_eq!(lab.hear(socket), framed(b"an answer"));
    assert_eq!(lab.bench.dropped(DropReason::ConnectionGone), 1);
}

#[test]
fn a_client_that_closed_its_half_still_gets_its_answer() {
    let mut lab = Lab::new();
    let socket = lab.connect();
    lab.say(socket, &framed(b"the question"));
    lab.sockets.get_mut::<Socket<'_>>(socket).close();
    lab.settle();
    let (client, _) = lab.questions()[0];
    lab.answer(client, b"an answer");
    assert_eq!(lab.hear(socket), framed(b"an answer"));
    assert_eq!(lab.state(socket), State::TimeWait);
    // The socket serves the next one.
    lab.answer(client, b"another answer");
    assert_eq!(lab.bench.dropped(DropReason::ConnectionGone), 1);
    for _ in 0..20 {
        let socket = lab.connect();
        lab.say(socket, &framed(b"the question"));
        let (client, _) = lab.questions()[0];
        lab.answer(client, b"an answer");
        lab.sockets.get_mut::<Socket<'_>>(socket).close();
        lab.settle();
    }
}

#[test]
fn an_idle_connection_is_reset() {
    let mut lab = Lab::new();
    let socket = lab.connect();
    lab.pass(9 * SECOND);
    assert_eq!(lab.state(socket), State::Established);
    lab.say(socket, &framed(b"the question"));
    lab.pass(9 * SECOND);
    assert_eq!(lab.state(socket), State::Established);
    lab.pass(SECOND);
    assert_eq!(lab.state(socket), State::Closed);
    assert_eq!(lab.bench.bridge.poll_timeout(), None);
}

#[test]
fn feeding_a_byte_a_second_is_idling() {
    let mut lab = Lab::new();
    let socket = lab.connect();
    for byte in [0, 200, 1, 1, 1, 1, 1, 1, 1, 1] {
        lab.say(socket, &[byte]);
        lab.pass(SECOND);
    }
    assert_eq!(lab.state(socket), State::Closed);
}

#[test]
fn there_are_sixteen_connections_and_the_next_is_refused() {
    let mut lab = Lab::new();
    let all: Vec<_> = (0..16).map(|_| lab.connect()).collect();
    assert!(all.iter().all(|socket| lab.state(*socket) == State::Established));
    let refused = lab.connect();
    assert_eq!(lab.state(refused), State::Closed);
    lab.pass(10 * SECOND);
    let served = lab.connect();
    assert_eq!(lab.state(served), State::Established);
}

#[test]
fn another_port_is_refused() {
    let mut lab = Lab::new();
    let socket = lab.connect_to(80);
    assert_eq!(lab.state(socket), State::Closed);
}

#[test]
fn nonsense_ends_the_connection() {
    for bytes in [&[0, 0][..], &[0, 11], &[0x10, 1], &[0xff, 0xff]] {
        let mut lab = Lab::new();
        let socket = lab.connect();
        lab.say(socket, bytes);
        assert_eq!(lab.state(socket), State::Closed);
        assert_eq!(lab.bench.dropped(DropReason::BadLength), 1);
    }
}

#[test]
fn a_wrong_checksum_is_not_for_the_stack() {
    let mut lab = Lab::new();
    lab.bend_checksum = true;
    let socket = lab.connect();
    assert_eq!(lab.state(socket), State::SynSent);
    assert!(lab.bench.dropped(DropReason::BadChecksum) > 0);
    lab.vouched = Offload { flags: 1, csum_start: 34, csum_offset: 16, ..PLAIN };
    lab.pass(2 * SECOND);
    assert_eq!(lab.state(socket), State::Established);
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

/// A bridge and a guest behind its TAP, a full smoltcp stack on Ethernet.
struct Lab {
    bench: Bench,
    guest: Interface,
    cable: Cable,
    sockets: SocketSet<'static>,
    start: Instant,
    next_port: u16,
    questions: Vec<(DnsClient, Vec<u8>)>,
    /// Spoils the TCP checksum of what the guest sends.
    bend_checksum: bool,
    /// What the kernel says about frames of the guest.
    vouched: Offload,
}

impl Lab {
    fn new() -> Self {
        let bench = Bench::new();
        let mut cable = Cable::default();
        let config = GuestConfig::new(HardwareAddress::Ethernet(HOST));
        let mut guest = Interface::new(config, &mut cable, WireInstant::ZERO);
        guest.update_ip_addrs(|list| list.push(IpCidr::new(HOST_IP.into(), 16)).unwrap());
        let start = bench.now;
        Self {
            bench,
            guest,
            cable,
            sockets: SocketSet::new(Vec::new()),
            start,
            next_port: 40_000,
            questions: Vec::new(),
            bend_checksum: false,
            vouched: PLAIN,
        }
    }

    fn connect(&mut self) -> SocketHandle {
        self.connect_to(53)
    }

    fn connect_to(&mut self, port: u16) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; 100_000]);
        let mut socket = Socket::new(buffer(), buffer());
        self.next_port += 1;
        socket.connect(self.guest.context(), (SERVICE, port), self.next_port).unwrap();
        let handle = self.sockets.add(socket);
        self.settle();
        handle
    }

    fn say(&mut self, socket: SocketHandle, bytes: &[u8]) {
        let sent = self.sockets.get_mut::<Socket<'_>>(socket).send_slice(bytes);
        assert_eq!(sent, Ok(bytes.len()));
        self.settle();
    }

    fn answer(&mut self, client: DnsClient, message: &[u8]) {
        self.bench.bridge.send_dns(client, message, self.bench.now);
        self.settle();
    }

    fn hear(&mut self, socket: SocketHandle) -> Vec<u8> {
        let mut heard = Vec::new();
        // Delayed acknowledgements take their time.
        for _ in 0..20 {
            self.pass(SECOND / 50);
            let socket = self.sockets.get_mut::<Socket<'_>>(socket);
            while socket.can_recv() {
                socket
                    .recv(|bytes| {
                        heard.extend_from_slice(bytes);
                        (bytes.len(), ())
                    })
                    .unwrap();
            }
        }
        heard
    }

    fn questions(&mut self) -> Vec<(DnsClient, Vec<u8>)> {
        std::mem::take(&mut self.questions)
    }

    fn state(&self, socket: SocketHandle) -> State {
        self.sockets.get::<Socket<'_>>(socket).state()
    }

    /// Carries frames both ways until nobody has any.
    fn settle(&mut self) {
        loop {
            let at = WireInstant::from_micros((self.bench.now - self.start).as_micros() as i64);
            self.guest.poll(at, &mut self.cable, &mut self.sockets);
            let quiet = self.cable.sent.is_empty();
            while let Some(mut frame) = self.cable.sent.pop_front() {
                if self.bend_checksum && frame[12..14] == [8, 0] {
                    frame[51] ^= 1;
                }
                self.bench.bridge.handle_frame(&frame, self.vouched, self.bench.now);
            }
            self.cable.received.extend(self.bench.frames());
            for event in self.bench.events() {
                let Event::Dns { client, message } = event else { panic!("{event:?}") };
                self.questions.push((client, message));
            }
            if quiet && self.cable.received.is_empty() {
                return;
            }
        }
    }

    fn pass(&mut self, duration: Duration) {
        let step = Duration::from_millis(5);
        let end = self.bench.now + duration;
        while self.bench.now < end {
            self.bench.pass(step.min(end - self.bench.now));
            self.settle();
        }
    }
}

#[derive(Default)]
struct Cable {
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

impl Device for Cable {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: WireInstant) -> Option<(Arrived, Leaving<'_>)> {
        let frame = self.received.pop_front()?;
        Some((Arrived(frame), Leaving(&mut self.sent)))
    }

    fn transmit(&mut self, _: WireInstant) -> Option<Leaving<'_>> {
        Some(Leaving(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1414;
        capabilities
    }
}

struct Arrived(Vec<u8>);

impl phy::RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Leaving<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}
