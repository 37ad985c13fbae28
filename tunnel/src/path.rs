//! The way to a peer: its endpoint, whether that is proven, and what size it carries.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::limits::{ECHO_RETRY, ECHO_TRIES, MIN_MTU_V4, MIN_MTU_V6, MTU_MEMORY, PROVEN, PROVEN_LIFE, UNPROVEN_FACTOR};
use crate::wire::{HEADER, TAG};

/// The way to one peer.
#[derive(Default)]
pub(crate) struct Path {
    pub(crate) endpoint: Option<SocketAddr>,
    unproven: Option<Unproven>,
    proven: VecDeque<(SocketAddr, Instant)>,
    /// What the peer says its side carries.
    peer_mtu: Option<u16>,
    learned_mtu: Option<(u16, Instant)>,
    echo: Option<Echo>,
    pub(crate) rtt: Option<Duration>,
}

/// An endpoint from which something authentic came, which proves only that somebody wrote that address there.
struct Unproven {
    /// Bytes received from the peer until it came there.
    base: u64,
    /// Bytes with which it came there.
    credit: u64,
    sent: u64,
}

struct Echo {
    token: [u8; 8],
    to: SocketAddr,
    sent: Instant,
    tries: u8,
}

impl Path {
    /// The peer has shown that it receives at `addr`.
    pub(crate) fn prove(&mut self, addr: SocketAddr, now: Instant) {
        if self.endpoint != Some(addr) {
            self.learned_mtu = None;
        }
        self.endpoint = Some(addr);
        self.unproven = None;
        self.remember(addr, now);
    }

    /// An authentic datagram of `credit` bytes came from `addr`, which is not the endpoint; `base` bytes have come
    /// from the peer by now. True if an echo has to prove that the peer is there.
    pub(crate) fn roam(&mut self, addr: SocketAddr, base: u64, credit: u64, now: Instant) -> bool {
        self.learned_mtu = None;
        self.endpoint = Some(addr);
        let proven = self
            .proven
            .iter()
            .any(|(known, since)| *known == addr && now.saturating_duration_since(*since) < PROVEN_LIFE);
        self.unproven = if proven { None } else { Some(Unproven { base, credit, sent: 0 }) };
        !proven
    }

    pub(crate) fn is_proven(&self) -> bool {
        self.endpoint.is_some() && self.unproven.is_none()
    }

    /// Whether `len` bytes may go to the endpoint, after `received` bytes in all have come from the peer; they count
    /// as sent.
    pub(crate) fn take_budget(&mut self, len: u64, received: u64) -> bool {
        let Some(unproven) = &mut self.unproven else {
            return true;
        };
        let sent = unproven.sent.saturating_add(len);
        let earned = received.saturating_sub(unproven.base).saturating_add(unproven.credit);
        if sent > earned.saturating_mul(UNPROVEN_FACTOR) {
            return false;
        }
        unproven.sent = sent;
        true
    }

    pub(crate) fn note_peer_mtu(&mut self, mtu: u16) {
        self.peer_mtu = Some(mtu);
    }

    /// The kernel knows a smaller size on the way.
    pub(crate) fn learn_mtu(&mut self, mtu: u16, now: Instant) {
        let smaller = self.learned_mtu.is_none_or(|(known, _)| mtu <= known);
        if smaller {
            self.learned_mtu = Some((mtu, now + MTU_MEMORY));
        }
    }

    /// Payload of one datagram that the path carries. Numbers from the network cannot make it useless.
    pub(crate) fn max_payload(&self, own_mtu: u16) -> usize {
        let (floor, headers) = match self.endpoint {
            Some(SocketAddr::V6(addr)) if addr.ip().to_ipv4_mapped().is_none() => (MIN_MTU_V6, 40 + 8),
            Some(_) | None => (MIN_MTU_V4, 20 + 8),
        };
        let learned = self.learned_mtu.map(|(mtu, _)| mtu);
        let mtu = [self.peer_mtu, learned].into_iter().flatten().fold(own_mtu, u16::min);
        usize::from(mtu.max(floor)) - headers - HEADER - TAG
    }

    /// Forgets a reported size that is past its time. True if it did.
    pub(crate) fn expire_mtu(&mut self, now: Instant) -> bool {
        self.learned_mtu.take_if(|(_, until)| *until <= now).is_some()
    }

    /// Begins a row of echo requests to the endpoint; the first is due at once.
    pub(crate) fn begin_echo(&mut self, token: [u8; 8], now: Instant) {
        self.echo = self.endpoint.map(|to| Echo { token, to, sent: now, tries: 0 });
    }

    /// When the next echo request is due.
    pub(crate) fn echo_due(&self) -> Option<Instant> {
        let echo = self.echo.as_ref()?;
        match echo.tries {
            0 => Some(echo.sent),
            tries => Some(echo.sent + ECHO_RETRY * (1 << tries.min(8)) / 2),
        }
    }

    /// The request that is due, if it is. The row ends after a few; an endpoint that never answers stays unproven
    /// until the next datagram from it.
    pub(crate) fn take_echo(&mut self, token: [u8; 8], now: Instant) -> Option<(SocketAddr, [u8; 8])> {
        if self.echo_due().is_none_or(|due| now < due) {
            return None;
        }
        let echo = self.echo.as_mut()?;
        if echo.tries >= ECHO_TRIES {
            self.echo = None;
            return None;
        }
        echo.tries += 1;
        echo.token = token;
        echo.sent = now;
        Some((echo.to, echo.token))
    }

    /// An echo came back. Returns the address that it proves.
    pub(crate) fn handle_echo(&mut self, token: [u8; 8], now: Instant) -> Option<SocketAddr> {
        let echo = self.echo.take_if(|echo| echo.tries > 0 && echo.token == token)?;
        self.rtt = Some(now.saturating_duration_since(echo.sent));
        Some(echo.to)
    }

    /// Whether an echo request is under way.
    pub(crate) fn is_asking(&self) -> bool {
        self.echo.is_some()
    }

    pub(crate) fn stop_echo(&mut self) {
        self.echo = None;
    }

    pub(crate) fn remember(&mut self, addr: SocketAddr, now: Instant) {
        self.proven.retain(|(known, _)| *known != addr);
        self.proven.push_back((addr, now));
        if self.proven.len() > PROVEN {
            self.proven.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::origin;

    #[test]
    fn sizes_are_those_of_the_specification() {
        let mut path = Path::default();
        path.prove("192.0.2.1:1".parse().unwrap(), origin());
        assert_eq!(path.max_payload(1500), 1440);
        assert_eq!(path.max_payload(1280), 1220);
        path.prove("[2001:db8::1]:1".parse().unwrap(), origin());
        assert_eq!(path.max_payload(1500), 1420);
        assert_eq!(path.max_payload(1280), 1200);
        path.note_peer_mtu(1400);
        assert_eq!(path.max_payload(1500), 1320);
        path.note_peer_mtu(0);
        assert_eq!(path.max_payload(1500), 1200, "a lie makes no path useless");
        path.learn_mtu(100, origin());
        assert_eq!(path.max_payload(1500), 1200);
    }

    #[test]
    fn an_unproven_endpoint_gets_three_times_what_it_sent() {
        let mut path = Path::default();
        let (old, new) = ("192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap());
        path.prove(old, origin());
        assert!(path.take_budget(1 << 40, 0));
        assert!(path.roam(new, 1100, 100, origin()));
        assert!(path.take_budget(200, 1100) && path.take_budget(100, 1100));
        assert!(!path.take_budget(1, 1100));
        assert!(path.take_budget(30, 1110) && !path.take_budget(1, 1110));
        assert!(!path.roam(old, 1110, 1, origin()), "proven a moment ago");
        assert!(path.is_proven());
    }
}
