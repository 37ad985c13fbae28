//! A TAP device with virtio-net headers, so that super-frames and unfinished checksums pass in one call; and the priority of the
//! threads that read and write it. Used by the program and by the laboratory's lines.
//!
//! The device lives as long as its file descriptor: when the process dies, however it dies, the kernel takes the
//! device, its address and its routes away.

mod priority;

pub use priority::Priority;

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use anyhow::Context;
use bridge::{Frame, Offload};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The largest frame the kernel hands over: a 64 KiB packet behind an Ethernet header.
pub const MAX_FRAME: usize = 14 + 65_535;

/// What a coalesced frame consists of at most, besides its headers.
const MOST_PARTS: usize = 64;
const NAME_BYTES: usize = libc::IFNAMSIZ;
// linux/if_tun.h
const TUN_F_CSUM: libc::c_uint = 0x01;
const TUN_F_TSO4: libc::c_uint = 0x02;
const TUN_F_TSO6: libc::c_uint = 0x04;
const TUN_F_USO4: libc::c_uint = 0x20;
const TUN_F_USO6: libc::c_uint = 0x40;

/// One queue of an open TAP device, shared by the thread that reads it and those that write.
#[derive(Clone)]
pub struct Tap {
    queues: Arc<[File]>,
    queue: usize,
    name: String,
}

impl Tap {
    /// Makes the device, with so many queues, and gives its first one. `name` may hold `%d`, which the kernel replaces by the
    /// first free number.
    pub fn create(name: &str, queues: usize) -> anyhow::Result<Self> {
        let mut name = name.to_owned();
        let mut files = Vec::new();
        for _ in 0..queues.max(1) {
            let file = File::options().read(true).write(true).open("/dev/net/tun").context(
                "cannot open /dev/net/tun: run as root (or with CAP_NET_ADMIN), and load the kernel module tun if it is missing",
            )?;
            name = attach(&file.as_fd().try_clone_to_owned()?, &name, queues)
                .with_context(|| format!("cannot make the TAP device {name}"))?;
            enable_offloads(&file).context("cannot switch the TAP device's offloads on")?;
            rustix::io::ioctl_fionbio(&file, true)?;
            files.push(file);
        }
        Ok(Self { queues: files.into(), queue: 0, name })
    }

    /// All queues.
    pub fn queues(&self) -> impl Iterator<Item = Self> {
        (0..self.queues.len()).map(|queue| Self { queue, ..self.clone() })
    }

    fn file(&self) -> &File {
        &self.queues[self.queue]
    }

    /// The name the kernel gave it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until a frame can be read, at most `timeout_ms`.
    pub fn wait_readable(&self, timeout_ms: i64) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.file(), PollFlags::IN)];
        let timeout = Timespec { tv_sec: timeout_ms / 1000, tv_nsec: (timeout_ms % 1000) * 1_000_000 };
        match poll(&mut fds, Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads one frame into `frame` without waiting; `None` if there is none.
    pub fn read(&self, frame: &mut [u8]) -> io::Result<Option<(usize, Offload)>> {
        let mut header = [0; Offload::LEN];
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(frame)];
        match self.file().read_vectored(&mut parts) {
            Ok(length) => {
                let offload = Offload::parse(&header).unwrap_or_default();
                Ok(Some((length.saturating_sub(Offload::LEN), offload)))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes one frame, given in parts so that nothing need be copied to put them together.
    pub fn write(&self, frame: &Frame<'_, '_>) -> io::Result<()> {
        self.write_at(self.queue, frame)
    }

    /// As [`Self::write`], by the queue of another thread: the kernel answers the flow there.
    pub fn write_at(&self, queue: usize, frame: &Frame<'_, '_>) -> io::Result<()> {
        let header = frame.offload.emit();
        let mut slices = [IoSlice::new(&[]); 2 + MOST_PARTS];
        let count = 2 + frame.parts.len();
        let slices = slices.get_mut(..count).ok_or(io::ErrorKind::InvalidInput)?;
        slices[0] = IoSlice::new(&header);
        slices[1] = IoSlice::new(frame.head);
        for (slice, part) in slices[2..].iter_mut().zip(frame.parts) {
            *slice = IoSlice::new(part);
        }
        let whole = slices.iter().map(|part| part.len()).sum::<usize>();
        let mut file = &self.queues[queue % self.queues.len()];
        if file.write_vectored(slices)? < whole {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(())
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file().as_fd()
    }
}

#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME_BYTES],
    flags: libc::c_short,
    // struct ifreq ends in a union of 24 bytes, of which the flags are the first two.
    rest: [u8; 22],
}

fn attach(fd: &OwnedFd, name: &str, queues: usize) -> io::Result<String> {
    let many = if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
    let mut request = InterfaceRequest {
        name: [0; NAME_BYTES],
        flags: (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | many) as libc::c_short,
        rest: [0; 22],
    };
    if name.len() >= NAME_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an interface name has at most 15 characters"));
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which `request` is laid out as and outlives.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as libc::Ioctl, &raw mut request) })?;
    let length = request.name.iter().position(|byte| *byte == 0).unwrap_or(NAME_BYTES);
    Ok(String::from_utf8_lossy(&request.name[..length]).into_owned())
}

fn enable_offloads(file: &File) -> io::Result<()> {
    let header_length: libc::c_int = 10;
    let little_endian: libc::c_int = 1;
    // SAFETY: both calls read one int behind a pointer that is valid for the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ as libc::Ioctl, &raw const header_length) })?;
    // SAFETY: as above.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETLE as libc::Ioctl, &raw const little_endian) })?;
    let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    let all = check(unsafe {
        libc::ioctl(
            file.as_raw_fd(),
            libc::TUNSETOFFLOAD as libc::Ioctl,
            libc::c_ulong::from(tcp | TUN_F_USO4 | TUN_F_USO6),
        )
    });
    if all.is_err() {
        // Kernels before 6.2 know no segmentation of UDP.
        // SAFETY: as above.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD as libc::Ioctl, libc::c_ulong::from(tcp)) })?;
    }
    Ok(())
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
