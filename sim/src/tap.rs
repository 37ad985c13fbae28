//! The TAP between a guest and its node: two bounded queues of frames.

use std::collections::VecDeque;

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

/// Frames that wait on either side, as many as on a real device.
const QUEUE: usize = 1000;
/// Ethernet header and packet.
const MTU: usize = 14 + 1400;

/// Both queues.
#[derive(Default)]
pub(crate) struct Tap {
    inbound: VecDeque<Vec<u8>>,
    outbound: VecDeque<Vec<u8>>,
}

impl Tap {
    /// A frame for the guest.
    pub(crate) fn receive(&mut self, frame: Vec<u8>) {
        if self.inbound.len() < QUEUE {
            self.inbound.push_back(frame);
        }
    }

    /// How many frames wait for the guest.
    pub(crate) fn received(&self) -> usize {
        self.inbound.len()
    }

    /// A frame of the guest.
    pub(crate) fn poll_frame(&mut self) -> Option<Vec<u8>> {
        self.outbound.pop_front()
    }

    pub(crate) fn clear(&mut self) {
        self.inbound.clear();
        self.outbound.clear();
    }
}

impl Device for Tap {
    type RxToken<'a> = Received;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Room<'_>)> {
        let frame = self.inbound.pop_front()?;
        Some((Received(frame), Room(&mut self.outbound)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Room<'_>> {
        (self.outbound.len() < QUEUE).then_some(Room(&mut self.outbound))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.max_transmission_unit = MTU;
        capabilities.medium = Medium::Ethernet;
        capabilities
    }
}

pub(crate) struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

pub(crate) struct Room<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut frame = vec![0; length];
        let result = write(&mut frame);
        self.0.push_back(frame);
        result
    }
}
