//! Views in pages: the history of a namespace grows for ever, and a message does not.
//!
//! Whoever asks says what it knows, and asks again as long as the answers bring something new and are full. So nobody keeps
//! anything about anybody's place in the history, and an answer that gets lost costs nothing but its own repetition.

use super::{Successor, View};
use crate::codec::Wire;
use crate::record::Scope;

/// Bytes of views in one message or hello; what else is in it needs less than the rest of its limit.
const ROOM: usize = 32 * 1024;
/// No view with its votes takes more.
const LARGEST: usize = 1024;
/// More views than fit into a page.
pub(crate) const MAX_VIEWS: usize = 200;

/// The first of these views, as many as fit.
pub(crate) fn first<'a>(views: impl Iterator<Item = &'a Successor>) -> Vec<Successor> {
    let mut left = ROOM;
    let fits = |view: &&Successor| {
        let rest = left.checked_sub(view.to_bytes().len());
        left = rest.unwrap_or(left);
        rest.is_some()
    };
    views.take_while(fits).take(MAX_VIEWS).cloned().collect()
}

/// The last of these views, as many as fit, in their order.
pub(crate) fn last<'a>(views: impl DoubleEndedIterator<Item = &'a Successor>) -> Vec<Successor> {
    let mut page = first(views.rev());
    page.reverse();
    page
}

/// Whether there may be more than this page: one more view might not have fitted.
pub(crate) fn is_full(page: &[Successor]) -> bool {
    let bytes: usize = page.iter().map(|view| view.to_bytes().len()).sum();
    bytes.saturating_add(LARGEST) > ROOM || page.len() >= MAX_VIEWS
}

/// Whether a view is newer than what somebody knows who names these; of a shard that is not named it knows the founding.
pub(crate) fn is_news(known: &[Scope], view: &View) -> bool {
    let newest = known.iter().find(|scope| scope.shard == view.shard);
    newest.is_none_or(|scope| (scope.incarnation, scope.view) < (view.incarnation, view.number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ballot::Ballot;
    use crate::identity::PublicKey;
    use crate::sign::{NamespaceId, Signature};
    use crate::view::{MAX_MEMBERS, Member, Vote};

    fn successor(number: u64, members: usize) -> Successor {
        let member = |n: usize| {
            let n = u8::try_from(n).unwrap();
            Member { identity: PublicKey([n; 32]), store_id: [n; 16], serial: [n; 16] }
        };
        let vote = |n: usize| Vote { index: u8::try_from(n).unwrap(), signature: Signature([7; 64]) };
        let members = (0..members).map(member).collect::<Vec<_>>();
        let votes = (0..members.len()).map(vote).collect();
        let view = View { ns: NamespaceId([1; 32]), incarnation: 0, shard: 3, number, members, previous: [2; 32] };
        Successor { view, ballot: Ballot { view: number, round: 1, replica: 0 }, votes }
    }

    fn bytes(page: &[Successor]) -> usize {
        page.iter().map(|view| view.to_bytes().len()).sum()
    }

    #[test]
    fn no_view_is_larger_than_a_full_page_leaves_room_for() {
        assert!(successor(u64::MAX, MAX_MEMBERS).to_bytes().len() <= LARGEST);
        assert!(successor(1, 1).to_bytes().len() * MAX_VIEWS > ROOM, "bytes, not views, end a page");
    }

    #[test]
    fn pages_are_of_bytes_and_the_last_one_is_not_full() {
        for members in [1, 3, 5] {
            let all: Vec<Successor> = (1..=300).map(|number| successor(number, members)).collect();
            let mut known: Vec<Scope> = Vec::new();
            let mut seen = Vec::new();
            loop {
                let page = first(all.iter().filter(|next| is_news(&known, &next.view)));
                assert!(bytes(&page) <= ROOM && page.len() < MAX_VIEWS);
                known = page.last().map(|last| Scope::of(&last.view)).into_iter().collect();
                let more = is_full(&page);
                seen.extend(page);
                assert_eq!(more, seen.len() < all.len());
                if !more {
                    break;
                }
            }
            assert_eq!(seen, all);
        }
    }

    #[test]
    fn the_last_page_ends_with_the_newest_and_keeps_the_order() {
        let all: Vec<Successor> = (1..=300).map(|number| successor(number, 5)).collect();
        let page = last(all.iter());
        assert_eq!(page.last(), all.last());
        assert!(bytes(&page) <= ROOM && page.is_sorted_by(|a, b| a.view.number < b.view.number));
        assert_eq!(last(all[..3].iter()), all[..3]);
    }
}
