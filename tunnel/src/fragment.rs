//! Payloads larger than the path carries: kind 2, inside the session.
//!
//! ```text
//! id 16 | index 8 | last 8 | part
//! ```
//! Bit 0 of the last byte is set on the last fragment, bits 4 and 5 hold the kind of the whole payload, the
//! others are zero. All fragments but the last are equally long.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use crate::drops::{DropReason, Drops};
use crate::event::Kind;
use crate::limits::{MAX_PAYLOAD, REASSEMBLY_BYTES, REASSEMBLY_LEN, REASSEMBLY_LIFE};

/// Bytes before each part.
pub(crate) const FRAGMENT_HEADER: usize = 4;
/// The index has eight bits.
const FRAGMENTS: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FragmentHeader {
    pub(crate) id: u16,
    pub(crate) index: u8,
    pub(crate) last: bool,
    /// Never [`Kind::Fragment`].
    pub(crate) kind: Kind,
}

impl FragmentHeader {
    pub(crate) fn parse(payload: &[u8]) -> Option<(Self, &[u8])> {
        let ([high, low, index, flags], part) = payload.split_first_chunk()?;
        let kind = Kind::from_number(flags >> 4)?;
        if flags & 0b1110 != 0 || kind == Kind::Fragment {
            return None;
        }
        Some((Self { id: u16::from_be_bytes([*high, *low]), index: *index, last: flags & 1 != 0, kind }, part))
    }

    pub(crate) fn emit(self) -> [u8; FRAGMENT_HEADER] {
        let [high, low] = self.id.to_be_bytes();
        [high, low, self.index, (self.kind as u8) << 4 | u8::from(self.last)]
    }
}

/// Cuts a payload into parts for datagrams of `max_payload`. `None` where even 256 parts do not hold it.
pub(crate) fn cut(
    id: u16,
    kind: Kind,
    payload: &[u8],
    max_payload: usize,
) -> Option<impl Iterator<Item = (FragmentHeader, &[u8])>> {
    let room = max_payload.checked_sub(FRAGMENT_HEADER).filter(|room| *room > 0)?;
    let count = payload.len().div_ceil(room);
    if count > FRAGMENTS {
        return None;
    }
    Some(payload.chunks(room).enumerate().map(move |(index, part)| {
        let index = u8::try_from(index).expect("there are at most 256 parts");
        (FragmentHeader { id, index, last: usize::from(index) + 1 == count, kind }, part)
    }))
}

/// Parts of one peer's payloads. Only an authenticated peer can fill it, and only this far.
#[derive(Default)]
pub(crate) struct Reassembly {
    /// Oldest first.
    partial: VecDeque<Partial>,
    bytes: usize,
}

struct Partial {
    id: u16,
    kind: Kind,
    since: Instant,
    parts: BTreeMap<u8, Vec<u8>>,
    last: Option<u8>,
    bytes: usize,
}

impl Reassembly {
    /// Takes the payload of a fragment; returns the whole when it was the missing part.
    pub(crate) fn handle_fragment(
        &mut self,
        payload: &[u8],
        drops: &mut Drops,
        now: Instant,
    ) -> Option<(Kind, Vec<u8>)> {
        self.expire(drops, now);
        let Some((header, part)) = FragmentHeader::parse(payload).filter(|(_, part)| !part.is_empty()) else {
            drops.count(DropReason::MalformedFragment);
            return None;
        };
        let at = self.place(header, drops, now);
        let partial = &mut self.partial[at];
        if !partial.fits(header, part) {
            drops.count(DropReason::MalformedFragment);
            self.remove(at);
            return None;
        }
        if partial.parts.contains_key(&header.index) {
            return None;
        }
        partial.parts.insert(header.index, part.to_vec());
        partial.bytes += part.len();
        self.bytes += part.len();
        if header.last {
            partial.last = Some(header.index);
        }
        if partial.is_whole() {
            let whole = self.remove(at)?;
            return Some((whole.kind, whole.parts.into_values().collect::<Vec<_>>().concat()));
        }
        self.shrink(drops);
        None
    }

    /// When the oldest is given up.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.partial.front().map(|partial| partial.since + REASSEMBLY_LIFE)
    }

    /// Gives up what has waited too long.
    pub(crate) fn expire(&mut self, drops: &mut Drops, now: Instant) {
        while self.deadline().is_some_and(|deadline| deadline <= now) {
            self.remove(0);
            drops.count(DropReason::FragmentsMissing);
        }
    }

    /// Position of the payload that `header` belongs to, a new one if need be.
    fn place(&mut self, header: FragmentHeader, drops: &mut Drops, now: Instant) -> usize {
        if let Some(at) = self.partial.iter().position(|partial| partial.id == header.id) {
            return at;
        }
        if self.partial.len() == REASSEMBLY_LEN {
            self.remove(0);
            drops.count(DropReason::ReassemblyFull);
        }
        let (id, kind) = (header.id, header.kind);
        self.partial.push_back(Partial { id, kind, since: now, parts: BTreeMap::new(), last: None, bytes: 0 });
        self.partial.len() - 1
    }

    fn shrink(&mut self, drops: &mut Drops) {
        while self.bytes > REASSEMBLY_BYTES {
            self.remove(0);
            drops.count(DropReason::ReassemblyFull);
        }
    }

    fn remove(&mut self, at: usize) -> Option<Partial> {
        let partial = self.partial.remove(at)?;
        self.bytes -= partial.bytes;
        Some(partial)
    }
}

impl Partial {
    /// Whether a part may belong to this payload.
    fn fits(&self, header: FragmentHeader, part: &[u8]) -> bool {
        let behind_last = self.last.is_some_and(|last| header.index > last || (header.last && header.index != last));
        let last_before_others =
            header.last && self.parts.last_key_value().is_some_and(|(greatest, _)| *greatest > header.index);
        self.kind == header.kind
            && !behind_last
            && !last_before_others
            && self.bytes.saturating_add(part.len()) <= MAX_PAYLOAD
    }

    fn is_whole(&self) -> bool {
        self.last.is_some_and(|last| self.parts.len() == usize::from(last) + 1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::tests::origin;

    fn parts(id: u16, payload: &[u8], max: usize) -> Vec<Vec<u8>> {
        cut(id, Kind::Packet, payload, max).unwrap().map(|(header, part)| [&header.emit(), part].concat()).collect()
    }

    #[test]
    fn exact_bytes() {
        assert_eq!(parts(0x1234, b"abcdefg", 8), [b"\x12\x34\x00\x00abcd".to_vec(), b"\x12\x34\x01\x01efg".to_vec(),]);
        let header = FragmentHeader { id: 1, index: 2, last: true, kind: Kind::Control };
        assert_eq!(header.emit(), [0, 1, 2, 0x31]);
        assert_eq!(FragmentHeader::parse(&[0, 1, 2, 0x20]), None, "a fragment of fragments");
        assert_eq!(FragmentHeader::parse(&[0, 1, 2, 0x02]), None, "a reserved bit");
    }

    #[test]
    fn what_does_not_fit_256_parts_is_not_cut() {
        assert!(cut(0, Kind::Packet, &[0; 257], 5).is_none());
        assert_eq!(parts(0, &[0; 256], 5).len(), 256);
        assert!(cut(0, Kind::Packet, &[0; 1], 4).is_none());
    }

    #[test]
    fn a_missing_part_is_given_up_after_a_second() {
        let (mut drops, now) = (Drops::default(), origin());
        let mut reassembly = Reassembly::default();
        let parts = parts(1, &[7; 100], 54);
        assert_eq!(reassembly.handle_fragment(&parts[0], &mut drops, now), None);
        assert_eq!(reassembly.handle_fragment(&parts[1], &mut drops, now + Duration::from_secs(1)), None);
        assert_eq!(drops.as_map()[&DropReason::FragmentsMissing], 1);
    }

    #[test]
    fn memory_is_bounded_in_number_and_bytes() {
        let (mut drops, now) = (Drops::default(), origin());
        let mut reassembly = Reassembly::default();
        for id in 0..1000 {
            let header = FragmentHeader { id, index: 0, last: false, kind: Kind::Packet };
            let fragment = [&header.emit()[..], &vec![0; 60_000]].concat();
            assert_eq!(reassembly.handle_fragment(&fragment, &mut drops, now), None);
            assert!(reassembly.partial.len() <= REASSEMBLY_LEN && reassembly.bytes <= REASSEMBLY_BYTES);
        }
        assert!(drops.as_map()[&DropReason::ReassemblyFull] > 900);
    }

    #[test]
    fn contradicting_parts_are_dropped_with_their_payload() {
        let (mut drops, now) = (Drops::default(), origin());
        let fragment = |index, last, kind| [&FragmentHeader { id: 9, index, last, kind }.emit()[..], b"x"].concat();
        for second in [
            fragment(3, true, Kind::Packet),
            fragment(6, true, Kind::Packet),
            fragment(7, false, Kind::Packet),
            fragment(2, false, Kind::Control),
        ] {
            let mut reassembly = Reassembly::default();
            reassembly.handle_fragment(&fragment(5, true, Kind::Packet), &mut drops, now);
            reassembly.handle_fragment(&second, &mut drops, now);
            assert_eq!((reassembly.partial.len(), reassembly.bytes), (0, 0), "{second:?}");
        }
    }

    proptest! {
        #[test]
        fn any_order_gives_the_payload_back(
            payload in proptest::collection::vec(any::<u8>(), 1..4000),
            max in 40usize..1500,
            seed in any::<u64>(),
        ) {
            let mut parts = parts(5, &payload, max);
            let mut state = seed;
            for i in (1..parts.len()).rev() {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                parts.swap(i, (state >> 33) as usize % (i + 1));
            }
            let (mut drops, mut reassembly) = (Drops::default(), Reassembly::default());
            let mut whole = None;
            for part in &parts {
                prop_assert!(whole.is_none());
                whole = reassembly.handle_fragment(part, &mut drops, origin());
            }
            prop_assert_eq!(whole, Some((Kind::Packet, payload)));
            prop_assert_eq!(reassembly.bytes, 0);
        }

        #[test]
        fn any_bytes_do_no_harm(fragments in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..12), 0..60)) {
            let (mut drops, mut reassembly) = (Drops::default(), Reassembly::default());
            for fragment in &fragments {
                crate::fuzz::fragment_header(fragment);
                reassembly.handle_fragment(fragment, &mut drops, origin());
                prop_assert_eq!(reassembly.bytes, reassembly.partial.iter().map(|p| p.bytes).sum::<usize>());
            }
        }
    }
}
