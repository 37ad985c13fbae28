//! Whether this machine is a virtual one that was restored from a snapshot or cloned: the kernel says so (drivers/virt/vmgenid.c)
//! where the hypervisor tells it, by an event on a netlink socket of its own.
//!
//! What comes back from a snapshot has its old clocks, and for a while nothing else shows that time has passed.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use crate::io::clock::SystemClock;

/// The kernel's own events, as opposed to those that udev passes on.
const FROM_KERNEL: u32 = 1;
/// The kernel's limit for one (`UEVENT_BUFFER_SIZE`), and some for the path before it.
const LONGEST: usize = 8192;

/// Listens for as long as the process lives, on a thread that sleeps until then: events are rare, and this one is urgent. Without
/// it the clocks alone tell, as on machines whose hypervisor says nothing.
pub(crate) fn watch(clock: Arc<SystemClock>) {
    let started = open().map_err(anyhow::Error::from).and_then(|events| {
        let thread = std::thread::Builder::new().name("vmgenid".into());
        Ok(thread.spawn(move || listen(&events, &clock))?)
    });
    if let Err(error) = started {
        tracing::debug!(%error, "the kernel's events are not to be had");
    }
}

fn listen(events: &OwnedFd, clock: &SystemClock) {
    loop {
        match receive(events) {
            Ok(true) => {
                tracing::warn!("this machine was restored or cloned: its leases end until they are renewed");
                clock.note_restored();
            }
            // With `NOBUFS`, there were more events than the socket holds, which says nothing of this machine.
            Ok(false) | Err(Errno::INTR | Errno::NOBUFS) => {}
            Err(error) => return tracing::debug!(%error, "the kernel's events have ended"),
        }
    }
}

fn open() -> Result<OwnedFd, Errno> {
    let kind = Some(netlink::KOBJECT_UEVENT);
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, kind)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, FROM_KERNEL))?;
    Ok(socket)
}

/// Whether the next event is the kernel's, and says so.
fn receive(events: &OwnedFd) -> Result<bool, Errno> {
    let mut event = [0; LONGEST];
    let (length, _, from) = rustix::net::recvfrom(events, event.as_mut_slice(), RecvFlags::empty())?;
    let from = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
    Ok(from.is_some_and(|from| from.pid() == 0) && says_restored(event.get(..length).unwrap_or_default()))
}

/// An event is its name and lines of `KEY=value`, each ended by a zero.
fn says_restored(event: &[u8]) -> bool {
    let mut lines = event.split(|byte| *byte == 0);
    lines.next().is_some_and(|name| name.starts_with(b"change@")) && lines.any(|line| line == b"NEW_VMGENID=1")
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESTORED: &str = "change@/devices/LNXSYSTM:00/LNXSYBUS:00/ACPI0004:00/QEMUVGID:00\0ACTION=change\0\
        DEVPATH=/devices/LNXSYSTM:00/LNXSYBUS:00/ACPI0004:00/QEMUVGID:00\0SUBSYSTEM=platform\0NEW_VMGENID=1\0SEQNUM=1833\0";

    #[test]
    fn only_a_new_generation_counts() {
        assert!(says_restored(RESTORED.as_bytes()));
        for other in [
            RESTORED.replace("NEW_VMGENID=1", "NEW_VMGENID=10"),
            RESTORED.replace("NEW_VMGENID=1", "OLD_NEW_VMGENID=1"),
            RESTORED.replace("change@", "add@"),
            "change@/devices/virtual/NEW_VMGENID=1".to_owned(),
            "libudev\0NEW_VMGENID=1\0".to_owned(),
            String::new(),
            "\0\0\0".to_owned(),
        ] {
            assert!(!says_restored(other.as_bytes()), "{other:?}");
        }
    }

    #[test]
    fn no_cut_of_an_event_harms() {
        let event = RESTORED.as_bytes();
        let end = RESTORED.find("NEW_VMGENID=1").unwrap() + "NEW_VMGENID=1".len();
        for cut in 0..event.len() {
            assert_eq!(says_restored(&event[..cut]), cut >= end, "{cut}");
        }
    }

    #[test]
    fn a_restored_machine_has_had_a_jump() {
        let clock = SystemClock::start();
        let before = clock.now().jumps;
        clock.note_restored();
        assert_eq!(clock.now().jumps, before.wrapping_add(1));
    }

    #[test]
    fn the_kernel_lets_anybody_listen() {
        assert!(open().is_ok());
    }
}
