//! Where admitted peers were last reached, so that a restart finds somebody. Bounded, and forgotten without harm.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dht::{Image, Write};
use libp2p::{Multiaddr, PeerId};

/// Peers remembered; whoever was not seen for longest goes first.
const MOST_PEERS: usize = 64;
/// Addresses of one peer.
const MOST_ADDRESSES: usize = 8;
/// How long what is noted may wait to be stored: of a peer that is new here, and of one whose address is stored already. Each time
/// costs a sync, and every peer tells its addresses anew on every connection.
const NEW_WAITS: Duration = Duration::from_secs(1);
const KNOWN_WAITS: Duration = Duration::from_secs(60);

/// Addresses of admitted peers, and the changes that are not stored yet.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pages: BTreeMap<PeerId, Page>,
    newest: u64,
    /// By the keys in the store.
    unsaved: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    due: Option<Instant>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Page {
    /// Greater for who was seen later.
    seen: u64,
    /// The best first.
    addresses: Vec<Multiaddr>,
}

impl Book {
    /// Reads what [`take_unsaved`](Self::take_unsaved) gave. Whatever cannot be read is left out.
    pub(crate) fn load(image: &Image) -> Self {
        let pages: BTreeMap<_, _> = image.iter().filter_map(|(key, value)| parse(key, value)).collect();
        let newest = pages.values().map(|page| page.seen).max().unwrap_or(0);
        Self { pages, newest, ..Self::default() }
    }

    /// Puts these addresses of an admitted peer before those known.
    pub(crate) fn note(&mut self, peer: PeerId, addresses: impl IntoIterator<Item = Multiaddr>, now: Instant) {
        let mut merged: Vec<Multiaddr> = Vec::new();
        let known = self.pages.get(&peer).map(|page| page.addresses.clone()).unwrap_or_default();
        for address in addresses.into_iter().chain(known) {
            if merged.len() < MOST_ADDRESSES && !merged.contains(&address) {
                merged.push(address);
            }
        }
        let is_newest = self.pages.get(&peer).is_some_and(|page| page.seen == self.newest && page.addresses == merged);
        if is_newest || merged.is_empty() {
            return;
        }
        self.newest = self.newest.saturating_add(1);
        let page = Page { seen: self.newest, addresses: merged };
        let due = now + if self.pages.contains_key(&peer) { KNOWN_WAITS } else { NEW_WAITS };
        self.due = Some(self.due.map_or(due, |before| before.min(due)));
        self.unsaved.insert(peer.to_bytes(), Some(emit(&page)));
        self.pages.insert(peer, page);
        self.shrink();
    }

    /// The addresses of a peer, the best first.
    pub(crate) fn addresses(&self, peer: &PeerId) -> &[Multiaddr] {
        self.pages.get(peer).map_or(&[], |page| &page.addresses)
    }

    /// All peers, the one seen last first.
    pub(crate) fn latest(&self) -> Vec<PeerId> {
        let mut peers: Vec<_> = self.pages.iter().map(|(peer, page)| (page.seen, *peer)).collect();
        peers.sort_unstable_by(|a, b| b.cmp(a));
        peers.into_iter().map(|(_, peer)| peer).collect()
    }

    /// When to store what is not stored yet, at the latest.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What to write to the store.
    pub(crate) fn take_unsaved(&mut self) -> Vec<Write> {
        self.due = None;
        std::mem::take(&mut self.unsaved).into_iter().map(|(key, value)| Write { key, value }).collect()
    }

    fn shrink(&mut self) {
        while self.pages.len() > MOST_PEERS {
            let Some(oldest) = self.pages.iter().min_by_key(|(_, page)| page.seen).map(|(peer, _)| *peer) else {
                return;
            };
            self.pages.remove(&oldest);
            self.unsaved.insert(oldest.to_bytes(), None);
        }
    }
}

/// `seen`, then each address behind its two-byte length.
fn emit(page: &Page) -> Vec<u8> {
    let mut out = page.seen.to_be_bytes().to_vec();
    for address in &page.addresses {
        let bytes = address.to_vec();
        let Ok(length) = u16::try_from(bytes.len()) else { continue };
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&bytes);
    }
    out
}

fn parse(key: &[u8], value: &[u8]) -> Option<(PeerId, Page)> {
    let peer = PeerId::from_bytes(key).ok()?;
    let (seen, mut rest) = value.split_first_chunk()?;
    let mut page = Page { seen: u64::from_be_bytes(*seen), addresses: Vec::new() };
    while let Some((length, tail)) = rest.split_first_chunk() {
        let (bytes, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        page.addresses.push(Multiaddr::try_from(bytes.to_vec()).ok()?);
        rest = tail;
    }
    (rest.is_empty() && page.addresses.len() <= MOST_ADDRESSES).then_some((peer, page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test needs one real instant as origin")]
    fn now() -> Instant {
        Instant::now()
    }

    fn address(n: usize) -> Multiaddr {
        format!("/ip4/192.0.2.1/tcp/{}", 4000 + n).parse().unwrap()
    }

    fn saved(book: &mut Book, image: &mut Image) {
        for Write { key, value } in book.take_unsaved() {
            match value {
                Some(value) => image.insert(key, value),
                None => image.remove(&key),
            };
        }
    }

    #[test]
    fn a_book_that_is_loaded_says_what_the_saved_one_said() {
        let (a, b) = (PeerId::random(), PeerId::random());
        let (mut book, mut image) = (Book::default(), Image::new());
        book.note(a, [address(1), address(2)], now());
        book.note(b, [address(3)], now());
        book.note(a, [address(2)], now());
        saved(&mut book, &mut image);
        let loaded = Book::load(&image);
        assert_eq!(loaded.pages, book.pages);
        assert_eq!(loaded.addresses(&a), [address(2), address(1)]);
        assert_eq!(loaded.latest(), [a, b]);
    }

    #[test]
    fn seeing_the_last_peer_again_writes_nothing() {
        let (mut book, a) = (Book::default(), PeerId::random());
        book.note(a, [address(1)], now());
        book.take_unsaved();
        book.note(a, [address(1)], now());
        assert_eq!(book.take_unsaved(), []);
    }

    #[test]
    fn many_notes_are_stored_together_and_the_first_of_a_peer_soon() {
        let (mut book, now) = (Book::default(), now());
        let peers: Vec<_> = (0..10).map(|_| PeerId::random()).collect();
        assert_eq!(book.due(), None);
        for (n, peer) in peers.iter().enumerate() {
            book.note(*peer, [address(n)], now + Duration::from_millis(n as u64));
        }
        assert_eq!(book.due(), Some(now + NEW_WAITS));
        assert_eq!((book.take_unsaved().len(), book.due()), (10, None));
        let later = now + Duration::from_secs(5);
        for _ in 0..3 {
            for peer in &peers {
                book.note(*peer, [address(0)], later);
            }
        }
        assert_eq!(book.due(), Some(later + KNOWN_WAITS));
        book.note(PeerId::random(), [address(0)], later + Duration::from_secs(2));
        assert_eq!(book.due(), Some(later + Duration::from_secs(2) + NEW_WAITS));
        assert_eq!(book.take_unsaved().len(), 11, "the last word of each");
    }

    #[test]
    fn the_peer_not_seen_for_longest_is_forgotten_on_disk_too() {
        let (mut book, mut image) = (Book::default(), Image::new());
        let peers: Vec<_> = (0..=MOST_PEERS).map(|_| PeerId::random()).collect();
        for peer in &peers {
            book.note(*peer, (0..20).map(address), now());
        }
        saved(&mut book, &mut image);
        assert_eq!((image.len(), book.addresses(&peers[0]).len()), (MOST_PEERS, 0));
        assert_eq!(book.addresses(&peers[1]).len(), MOST_ADDRESSES);
    }

    #[test]
    fn a_damaged_page_is_left_out() {
        let (mut book, mut image, peer) = (Book::default(), Image::new(), PeerId::random());
        book.note(peer, [address(1)], now());
        saved(&mut book, &mut image);
        let (key, value) = image.pop_first().unwrap();
        for end in 0..value.len() {
            let page = parse(&key, &value[..end]);
            assert!(page.is_none_or(|(_, page)| page.addresses.is_empty()), "{end}");
        }
        assert!(parse(b"not a peer", &value).is_none());
    }
}
