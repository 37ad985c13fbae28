//! Reads what `tcpdump` wrote: the UDP datagrams over IPv4 in it.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use anyhow::{bail, ensure};

/// The first four bytes of a message that begins a handshake.
pub const INIT: [u8; 4] = [1, 1, 0, 0];
/// The shortest and the longest of them.
pub const INIT_LENGTHS: (usize, usize) = (204, 1200);
/// The file header, and the header of each frame.
const FILE: usize = 24;
const FRAME: usize = 16;
/// Microseconds, and the byte order of this machine; tcpdump writes no other here.
const MAGIC: u32 = 0xa1b2_c3d4;
const ETHERNET_LINK: u32 = 1;
const ETHERNET: usize = 14;
const UDP: u8 = 17;
const DATA: u8 = 4;

/// A capture that is read while it grows.
pub struct Capture<R> {
    file: BufReader<R>,
}

/// One datagram. What the sender left to its card to cut (UDP segmentation offload) is in one piece.
pub struct Datagram {
    /// Who sent it.
    pub from: SocketAddrV4,
    /// To whom.
    pub to: SocketAddrV4,
    /// What it says.
    pub payload: Vec<u8>,
}

impl<R: Read> Capture<R> {
    /// Reads the file header.
    ///
    /// # Errors
    /// It is none of tcpdump's from Ethernet.
    pub fn read(file: R) -> anyhow::Result<Self> {
        let mut file = BufReader::new(file);
        let mut header = [0; FILE];
        file.read_exact(&mut header)?;
        ensure!(word(&header, 0) == MAGIC && word(&header, 20) == ETHERNET_LINK, "not such a capture: {header:?}");
        Ok(Self { file })
    }

    /// The next datagram; nothing at the end.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read_next(&mut self) -> anyhow::Result<Option<Datagram>> {
        loop {
            let mut header = [0; FRAME];
            match self.file.read_exact(&mut header) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            let length = word(&header, 8) as usize;
            if length > 1 << 18 {
                bail!("a frame of {length} bytes");
            }
            let mut frame = vec![0; length];
            if self.file.read_exact(&mut frame).is_err() {
                return Ok(None);
            }
            if let Some(datagram) = Datagram::of(&frame) {
                return Ok(Some(datagram));
            }
        }
    }
}

impl Datagram {
    fn of(frame: &[u8]) -> Option<Self> {
        let packet = frame.get(ETHERNET..)?;
        let fragment = packet.get(6)? & 0x3f | packet.get(7)?;
        if frame[12..14] != [8, 0] || packet[0] != 0x45 || *packet.get(9)? != UDP || fragment != 0 {
            return None;
        }
        let port = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
        let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
        let end = usize::from(port(2)?).min(packet.len());
        Some(Self {
            from: SocketAddrV4::new(address(12)?, port(20)?),
            to: SocketAddrV4::new(address(16)?, port(22)?),
            payload: packet.get(28..end)?.to_vec(),
        })
    }

    /// The messages of a session that are in one piece: the next one begins where the header comes again, with the next counter.
    pub fn split(&self) -> Vec<&[u8]> {
        let whole = &self.payload[..];
        let counter = |at: usize| Some(u64::from_be_bytes(whole.get(at + 8..at + 16)?.try_into().ok()?));
        let (Some(first), Some(&DATA)) = (counter(0), whole.first()) else { return vec![whole] };
        let follows = |at: &usize| whole[*at..*at + 8] == whole[..8] && counter(*at) == Some(first.wrapping_add(1));
        match (32..whole.len().saturating_sub(15)).find(follows) {
            Some(length) => whole.chunks(length).collect(),
            None => vec![whole],
        }
    }
}

/// The datagrams in a capture that begin a handshake with the target.
///
/// # Errors
/// There is no such capture.
pub fn inits(capture: &Path, target: SocketAddrV4) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut inits = Vec::new();
    let mut capture = Capture::read(File::open(capture)?)?;
    let (shortest, longest) = INIT_LENGTHS;
    while let Some(datagram) = capture.read_next()? {
        let fits = datagram.payload.starts_with(&INIT) && (shortest..=longest).contains(&datagram.payload.len());
        if fits && datagram.to == target {
            inits.push(datagram.payload);
        }
    }
    Ok(inits)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(word)
}
