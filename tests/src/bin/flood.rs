//! Sends datagrams to one member, as fast as one thread can, until it is killed. What it has sent it says every second.
//!
//! ```text
//! flood garbage TARGET             any bytes, of any length
//! flood forged TARGET INDEX        datagrams of a session that there is, with any content
//! flood inits TARGET CAPTURE       first messages of handshakes: any content, and those that were recorded
//! flood replay TARGET DEVICE       what passes a device on its way to the target, again and again
//! ```
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use e2e::capture::{self, Capture, INIT, INIT_LENGTHS};
use e2e::wait;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};

/// The largest payload of a datagram in an Ethernet frame.
const IN_A_FRAME: usize = 1472;
/// The largest payload of any datagram.
const LARGEST: usize = 65_507;
/// As many datagrams of one size as the kernel takes in one call.
const IN_A_CALL: usize = 64;
/// One call in so many sends a datagram that has to be cut into fragments.
const LARGE_EVERY: u64 = 32;
/// Recorded datagrams that are kept.
const KEPT: usize = 256;
/// Every recorded datagram is sent so often in a row: it is replayed before the next one is there, and after.
const TIMES: usize = 8;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let [what, target, rest @ ..] = &args[..] else { bail!("flood WHAT TARGET …") };
    let target: SocketAddrV4 = target.parse()?;
    let sender = Arc::new(Sender::new(target)?);
    let reporting = Arc::clone(&sender);
    thread::spawn(move || reporting.report());
    match (*what, rest) {
        ("garbage", []) => garbage(&sender),
        ("forged", [index]) => forged(&sender, u32::from_str_radix(index, 16)?),
        ("inits", [capture]) => inits(&sender, &capture::inits(Path::new(capture), target)?),
        ("replay", [device]) => replay(&sender, target, device),
        _ => bail!("unknown: {args:?}"),
    }
}

/// Any bytes, of any length.
fn garbage(sender: &Sender) -> anyhow::Result<()> {
    let mut random = Random::new();
    loop {
        let length = random.length(0, IN_A_FRAME);
        let calls = random.some(length);
        sender.send(calls, length)?;
    }
}

/// Datagrams of a session, of every kind, with any counter and content.
fn forged(sender: &Sender, index: u32) -> anyhow::Result<()> {
    let mut random = Random::new();
    let mut bytes = Vec::new();
    loop {
        let length = random.length(32, IN_A_FRAME);
        bytes.clear();
        bytes.extend_from_slice(random.some(length));
        for datagram in bytes.chunks_mut(length) {
            let kind = (random.next() % 7) as u8;
            datagram[..8].copy_from_slice(&[&[4, kind, 0, 0], &index.to_be_bytes()[..]].concat());
        }
        sender.send(&bytes, length)?;
    }
}

/// Inits with any content, and in turn with them those that were recorded.
fn inits(sender: &Sender, recorded: &[Vec<u8>]) -> anyhow::Result<()> {
    let mut random = Random::new();
    let mut bytes = Vec::new();
    let mut recorded = recorded.iter().cycle();
    loop {
        let length = random.length(INIT_LENGTHS.0, INIT_LENGTHS.1).min(INIT_LENGTHS.1);
        bytes.clear();
        bytes.extend_from_slice(random.some(length));
        bytes.chunks_mut(length).for_each(|datagram| datagram[..4].copy_from_slice(&INIT));
        sender.send(&bytes, length)?;
        let Some(init) = recorded.next() else { continue };
        bytes.clear();
        (0..IN_A_CALL.min(LARGEST / init.len())).for_each(|_| bytes.extend_from_slice(init));
        sender.send(&bytes, init.len())?;
    }
}

/// What passes the device on its way to the target, while it is fresh and when it is no longer.
fn replay(sender: &Sender, target: SocketAddrV4, device: &str) -> anyhow::Result<()> {
    let own = sender.port()?;
    let filter = format!("udp and dst host {} and dst port {} and not src port {own}", target.ip(), target.port());
    let mut sniffer = Command::new("tcpdump")
        .args(["-U", "--immediate-mode", "-s", "0", "-Z", "root", "-w", "-", "-i", device, &filter])
        .stdout(Stdio::piped())
        .spawn()
        .context("tcpdump")?;
    let mut capture = Capture::read(sniffer.stdout.take().context("its output is piped")?)?;
    let kept = Arc::new(Kept::default());
    let keeping = Arc::clone(&kept);
    thread::spawn(move || {
        while let Ok(Some(datagram)) = capture.read_next() {
            datagram.split().into_iter().for_each(|one| keeping.keep(one));
        }
    });
    let mut random = Random::new();
    let mut bytes = Vec::new();
    loop {
        let Some(one) = kept.one(random.next()) else {
            wait::pause(Duration::from_millis(10));
            continue;
        };
        bytes.clear();
        (0..TIMES.min(LARGEST / one.len().max(1))).for_each(|_| bytes.extend_from_slice(&one));
        sender.send(&bytes, one.len())?;
    }
}

/// The newest datagrams.
#[derive(Default)]
struct Kept(Mutex<VecDeque<Vec<u8>>>);

impl Kept {
    fn keep(&self, datagram: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(datagram.to_vec());
    }

    fn one(&self, random: u64) -> Option<Vec<u8>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(usize::try_from(random.checked_rem(kept.len() as u64)?).ok()?).cloned()
    }
}

/// A socket, and what it has sent.
struct Sender {
    socket: UdpSocket,
    target: SockaddrIn,
    sent: AtomicU64,
}

impl Sender {
    fn new(target: SocketAddrV4) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_broadcast(true)?;
        Ok(Self { socket, target: target.into(), sent: AtomicU64::new(0) })
    }

    fn port(&self) -> anyhow::Result<u16> {
        Ok(self.socket.local_addr()?.port())
    }

    /// Sends all in datagrams of this length, by one call.
    fn send(&self, bytes: &[u8], length: usize) -> anyhow::Result<()> {
        let segment = u16::try_from(length)?;
        let slices = [IoSlice::new(bytes)];
        let cut = [ControlMessage::UdpGsoSegments(&segment)];
        let cut = if bytes.len() > length { &cut[..] } else { &[] };
        match sendmsg(self.socket.as_raw_fd(), &slices, cut, MsgFlags::empty(), Some(&self.target)) {
            Ok(_) => {
                let count = bytes.len().div_ceil(length.max(1)).max(1);
                self.sent.fetch_add(count as u64, Ordering::Relaxed);
                Ok(())
            }
            // The target is restarted, buffers are full, or the device carries less.
            Err(Errno::ECONNREFUSED | Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR | Errno::EMSGSIZE) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("{} bytes by {length}", bytes.len())),
        }
    }

    fn report(&self) {
        let said = |sent| writeln!(io::stdout(), "sent {sent}");
        while said(self.sent.load(Ordering::Relaxed)).is_ok() {
            wait::pause(Duration::from_millis(250));
        }
    }
}

/// Marsaglia's xorshift, and a store of bytes that it filled.
struct Random {
    state: u64,
    store: Vec<u8>,
}

impl Random {
    fn new() -> Self {
        let mut random = Self { state: 0x9e37_79b9_7f4a_7c15, store: Vec::new() };
        random.store = (0..1 << 17).flat_map(|_| random.next().to_le_bytes()).collect();
        random
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// Mostly up to `longest`; now and then as long as a datagram can be.
    fn length(&mut self, shortest: usize, longest: usize) -> usize {
        let longest = if self.next().is_multiple_of(LARGE_EVERY) { LARGEST } else { longest };
        shortest + (self.next() % (longest - shortest + 1) as u64) as usize
    }

    /// As many bytes as make up a call's worth of datagrams of this length, or one that is cut into fragments.
    fn some(&mut self, length: usize) -> &[u8] {
        let count = if length > IN_A_FRAME || length == 0 { 1 } else { IN_A_CALL.min(LARGEST / length) };
        let start = self.next() as usize % (self.store.len() - LARGEST);
        &self.store[start..start + count * length]
    }
}
