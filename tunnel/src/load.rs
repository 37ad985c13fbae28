//! How many Inits are too many: cookies from a thousand a second on, then a share for each source and a budget
//! for all.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use libp2p_identity::PeerId;

use crate::endpoint::Endpoint;
use crate::limits::{LOAD_BUDGET, LOAD_INITS, SOURCE_INITS, SOURCES};

const SECOND: Duration = Duration::from_secs(1);

/// Counts per second, in windows that begin with the first Init after the last window.
pub(crate) struct Load {
    window: Instant,
    inits: u32,
    opened: u32,
    sources: BTreeMap<(Option<PeerId>, u128), u32>,
    under_load_until: Option<Instant>,
}

/// Why an Init with a good cookie is dropped all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overload {
    Source,
    Budget,
}

impl Load {
    pub(crate) fn new(now: Instant) -> Self {
        Self { window: now, inits: 0, opened: 0, sources: BTreeMap::new(), under_load_until: None }
    }

    /// Counts an Init with a right mac1. True if a cookie is needed.
    pub(crate) fn note_init(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.window) >= SECOND {
            self.window = now;
            self.inits = 0;
            self.opened = 0;
            self.sources.clear();
        }
        self.inits = self.inits.saturating_add(1);
        if self.inits > LOAD_INITS {
            self.press(now);
        }
        self.under_load_until.is_some_and(|until| now < until)
    }

    /// Under load for the next second, whatever the counts say.
    pub(crate) fn press(&mut self, now: Instant) {
        self.under_load_until = Some(now + SECOND);
    }

    /// Takes the share of a source that has shown a cookie.
    pub(crate) fn take(&mut self, from: Endpoint) -> Result<(), Overload> {
        let source = source(from);
        if self.sources.len() >= SOURCES && !self.sources.contains_key(&source) {
            return Err(Overload::Source);
        }
        let count = self.sources.entry(source).or_default();
        if *count >= SOURCE_INITS {
            return Err(Overload::Source);
        }
        *count += 1;
        if self.opened >= LOAD_BUDGET {
            return Err(Overload::Budget);
        }
        self.opened += 1;
        Ok(())
    }
}

/// An IPv4 address, the 64 bits that one IPv6 customer has, a relay with its circuit, or the member at the end of a stream.
fn source(from: Endpoint) -> (Option<PeerId>, u128) {
    match from {
        Endpoint::Direct(addr) => match addr.ip().to_canonical() {
            IpAddr::V4(ip) => (None, u128::from(ip.to_bits())),
            IpAddr::V6(ip) => (None, ip.to_bits() >> 64 << 64),
        },
        Endpoint::Relayed { relay, circuit } => (Some(relay), u128::from(circuit)),
        Endpoint::Stream(peer) => (Some(peer), u128::MAX),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::tests::origin;

    #[test]
    fn each_source_has_its_share_and_all_have_a_budget() {
        let mut load = Load::new(origin());
        let one = Endpoint::Direct("192.0.2.1:5".parse().unwrap());
        let shares = (0..100).filter(|_| load.take(one).is_ok()).count();
        assert_eq!(shares, SOURCE_INITS as usize);
        assert_eq!(
            load.take(Endpoint::Direct("192.0.2.1:6".parse().unwrap())),
            Err(Overload::Source),
            "the port is no other source"
        );
        let v6 = |host: u16| Endpoint::Direct(SocketAddr::new(IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, host]), 5));
        let shares = (0..100).filter(|host| load.take(v6(*host)).is_ok()).count();
        assert_eq!(shares, SOURCE_INITS as usize, "nor is another host of one /64");
        let all = (0..10_000u32)
            .filter(|n| load.take(SocketAddr::from((std::net::Ipv4Addr::from(*n), 1)).into()).is_ok())
            .count();
        assert_eq!(all, (LOAD_BUDGET - 2 * SOURCE_INITS) as usize);
        assert!(load.sources.len() <= SOURCES);
    }

    #[test]
    fn load_begins_with_the_thousand_and_first_init_and_ends_a_second_later() {
        let mut load = Load::new(origin());
        assert!((0..LOAD_INITS).all(|_| !load.note_init(origin())));
        assert!(load.note_init(origin()));
        assert!(load.note_init(origin() + SECOND / 2));
        assert!(!load.note_init(origin() + SECOND * 2));
    }
}
