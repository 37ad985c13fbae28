//! Who ought to be the replicas of a shard: a pure choice from what is known of members and candidates.
//!
//! Views have 1, 3 or 5 members: two or four would need as many up as the next larger size and bear no more failures. Of
//! all that are eligible those are chosen whose place on the ring is closest to the shard's, and nobody chooses a place. A
//! view that works is left alone for an hour, so that what comes and goes does not move the state about.

use std::time::Duration;

use crate::view::Member;

/// A member that was not heard for so long is replaced.
pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(300);
/// A member that was not heard for so long gives its place up even if nobody takes it.
const GONE_AFTER: Duration = Duration::from_secs(3600);
/// How long a candidate must have been up while there are too few replicas, and otherwise.
const UP_TO_GROW: Duration = Duration::from_secs(60);
const UP_TO_REPLACE: Duration = Duration::from_secs(600);
/// How long a view that works is left alone before a closer candidate takes a place.
const SETTLED: Duration = Duration::from_secs(3600);

/// What a proposer knows of one node that is a member, or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// As it would stand in a view.
    pub(crate) member: Member,
    /// How far its place on the ring is from the shard's.
    pub(crate) distance: [u8; 32],
    /// How long nothing was heard of it.
    pub(crate) silent: Duration,
    /// For how long it has been up.
    pub(crate) up: Duration,
    /// Its membership lets it be a replica, others reach it, it is willing, and it is there nearly always.
    pub(crate) eligible: bool,
    /// It is about to stop.
    pub(crate) leaving: bool,
}

impl Known {
    fn is_alive(&self) -> bool {
        self.silent < DEAD_AFTER && !self.leaving
    }
}

/// What is to be decided upon.
#[derive(Clone, Debug)]
pub(crate) struct Situation {
    /// The members as the view has them.
    pub(crate) members: Vec<Member>,
    /// Everybody who is known, the members included.
    pub(crate) known: Vec<Known>,
    /// How many replicas a shard grows to: 1, 3 or 5.
    pub(crate) target: usize,
    /// How long ago the view began.
    pub(crate) age: Duration,
}

/// The next members, if others than these are better. Strictly sorted by identity.
pub(crate) fn next(situation: &Situation) -> Option<Vec<Member>> {
    let Situation { members, known, target, age } = situation;
    let find = |member: &Member| known.iter().find(|known| known.member == *member);
    let alive: Vec<&Known> = members.iter().filter_map(find).filter(|known| known.is_alive()).collect();
    let mut candidates: Vec<&Known> = known.iter().filter(|known| !members.contains(&known.member)).collect();
    candidates.retain(|known| known.eligible && known.is_alive());
    // The nearest first; a store that a member lost has no state, but may well come back as another.
    candidates.sort_by_key(|known| known.distance);

    let size = members.len();
    let grown = |up: Duration| candidates.iter().filter(move |known| known.up >= up).copied();
    let growable = alive.len() + grown(UP_TO_GROW).count();
    let larger = [5, 3].into_iter().find(|n| *n > size && *n <= *target && *n <= growable);
    if let Some(larger) = larger
        && alive.len() == size
    {
        return choose(&alive, grown(UP_TO_GROW), larger);
    }
    if alive.len() < size {
        let leaving = members.iter().filter_map(find).any(|known| known.leaving);
        let patience = if leaving || size < *target { UP_TO_GROW } else { UP_TO_REPLACE };
        let replaced = choose(&alive, grown(patience), size).filter(|next| next.len() == size);
        return replaced.or_else(|| shrunk(situation, &alive, leaving));
    }
    if size > *target {
        return choose(&nearest(&alive), std::iter::empty(), *target);
    }
    // Somebody is closer, and this view is old enough.
    let unsteady = alive.iter().any(|known| !known.eligible);
    let farthest = alive.iter().max_by_key(|known| (!known.eligible, known.distance))?;
    let closer = grown(UP_TO_REPLACE).find(|known| known.distance < farthest.distance || unsteady)?;
    let settled = *age >= SETTLED || unsteady && *age >= UP_TO_REPLACE;
    if !settled || size == 1 && !unsteady {
        return None;
    }
    let rest: Vec<&Known> = alive.iter().copied().filter(|known| known.member != farthest.member).collect();
    choose(&rest, [closer].into_iter(), size)
}

/// Fewer members: what remains when nobody takes the places of those that are gone.
fn shrunk(situation: &Situation, alive: &[&Known], leaving: bool) -> Option<Vec<Member>> {
    let size = situation.members.len();
    let quorum = size / 2 + 1;
    let gone = |member: &&Member| {
        let known = situation.known.iter().find(|known| known.member == **member);
        known.is_none_or(|known| known.leaving || known.silent >= GONE_AFTER)
    };
    let gone = situation.members.iter().filter(gone).count();
    let smaller = [3, 1].into_iter().find(|n| *n < size && *n <= alive.len())?;
    // While those that are up are more than a quorum, an absent one may come back; when it is known to leave and no more
    // than a quorum is left, the next loss would stop the shard.
    let spare = alive.len().saturating_sub(quorum);
    let now = gone > 0 && (leaving && spare == 0 || gone + alive.len() == size && !leaving);
    if !now {
        return None;
    }
    choose(&steadiest(alive), std::iter::empty(), smaller)
}

fn steadiest<'k>(alive: &[&'k Known]) -> Vec<&'k Known> {
    let mut alive = alive.to_vec();
    alive.sort_by_key(|known| (!known.eligible, std::cmp::Reverse(known.up), known.distance));
    alive
}

fn nearest<'k>(alive: &[&'k Known]) -> Vec<&'k Known> {
    let mut alive = alive.to_vec();
    alive.sort_by_key(|known| (!known.eligible, known.distance));
    alive
}

/// The first `size` of those that stay and then of those that come, one for each identity.
fn choose<'k>(stay: &[&'k Known], come: impl Iterator<Item = &'k Known>, size: usize) -> Option<Vec<Member>> {
    let mut chosen: Vec<Member> = Vec::new();
    for known in stay.iter().copied().chain(come) {
        if chosen.len() < size && !chosen.iter().any(|member| member.identity == known.member.identity) {
            chosen.push(known.member);
        }
    }
    chosen.sort_by_key(|member| member.identity);
    (chosen.len() == size).then_some(chosen)
}

/// Whether enough of the next view's members are live members of this one: all old state is then with a quorum of the next
/// by itself. Growth from one, and the move of a lone replica, are the exceptions.
pub(crate) fn keeps_a_quorum(members: &[Member], next: &[Member]) -> bool {
    let both = next.iter().filter(|member| members.contains(member)).count();
    both > next.len() / 2 || members.len() == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::PublicKey;

    fn member(n: u8) -> Member {
        Member { identity: PublicKey([n; 32]), store_id: [n; 16], serial: [n; 16] }
    }

    fn known(n: u8) -> Known {
        Known {
            member: member(n),
            distance: [n; 32],
            silent: Duration::ZERO,
            up: Duration::from_secs(7200),
            eligible: true,
            leaving: false,
        }
    }

    fn situation(members: &[u8], all: &[u8]) -> Situation {
        Situation {
            members: members.iter().map(|n| member(*n)).collect(),
            known: all.iter().map(|n| known(*n)).collect(),
            target: 5,
            age: Duration::from_secs(700),
        }
    }

    fn numbers(next: Option<Vec<Member>>) -> Option<Vec<u8>> {
        next.map(|members| members.iter().map(|member| member.identity.0[0]).collect())
    }

    fn change(situation: &mut Situation, n: u8, change: impl FnOnce(&mut Known)) {
        change(situation.known.iter_mut().find(|known| known.member == member(n)).unwrap());
    }

    #[test]
    fn views_grow_from_one_to_three_to_five_and_never_to_two_or_four() {
        assert_eq!(numbers(next(&situation(&[1], &[1]))), None);
        assert_eq!(numbers(next(&situation(&[1], &[1, 2]))), None);
        assert_eq!(numbers(next(&situation(&[1], &[1, 2, 3]))), Some(vec![1, 2, 3]));
        assert_eq!(numbers(next(&situation(&[1], &[1, 2, 3, 4]))), Some(vec![1, 2, 3]));
        assert_eq!(numbers(next(&situation(&[1, 2, 3], &[1, 2, 3, 4]))), None);
        assert_eq!(numbers(next(&situation(&[1, 2, 3], &[1, 2, 3, 4, 5]))), Some(vec![1, 2, 3, 4, 5]));
        let mut small = situation(&[1, 2, 3], &[1, 2, 3, 4, 5]);
        small.target = 3;
        assert_eq!(numbers(next(&small)), None);
    }

    #[test]
    fn a_candidate_counts_once_it_has_been_up_for_a_minute() {
        let mut young = situation(&[1], &[1, 2, 3]);
        change(&mut young, 3, |known| known.up = Duration::from_secs(59));
        assert_eq!(numbers(next(&young)), None);
        change(&mut young, 3, |known| known.up = Duration::from_secs(60));
        assert_eq!(numbers(next(&young)), Some(vec![1, 2, 3]));
        change(&mut young, 3, |known| known.eligible = false);
        assert_eq!(numbers(next(&young)), None);
    }

    #[test]
    fn a_silent_member_is_replaced_after_five_minutes_and_not_before() {
        let mut silent = situation(&[1, 2, 3], &[1, 2, 3, 4]);
        change(&mut silent, 2, |known| known.silent = Duration::from_secs(299));
        assert_eq!(numbers(next(&silent)), None);
        change(&mut silent, 2, |known| known.silent = Duration::from_secs(300));
        assert_eq!(numbers(next(&silent)), Some(vec![1, 3, 4]));
    }

    #[test]
    fn a_member_that_lost_its_store_is_replaced_by_its_new_one() {
        let mut lost = situation(&[1, 2, 3], &[1, 3]);
        let again = Known { member: Member { store_id: [99; 16], ..member(2) }, ..known(2) };
        lost.known.push(again);
        assert_eq!(next(&lost), Some(vec![member(1), again.member, member(3)]));
    }

    #[test]
    fn three_become_one_only_when_the_third_does_not_come_back() {
        let mut two = situation(&[1, 2, 3], &[1, 2, 3]);
        change(&mut two, 3, |known| known.silent = Duration::from_secs(3599));
        assert_eq!(numbers(next(&two)), None);
        change(&mut two, 3, |known| known.silent = Duration::from_secs(3600));
        change(&mut two, 1, |known| known.up = Duration::from_secs(7000));
        assert_eq!(numbers(next(&two)), Some(vec![2]));
    }

    #[test]
    fn whoever_leaves_hands_over_first() {
        let mut leaves = situation(&[1], &[1, 2]);
        change(&mut leaves, 1, |known| known.leaving = true);
        assert_eq!(numbers(next(&leaves)), Some(vec![2]));
        let mut leaves = situation(&[1, 2, 3], &[1, 2, 3, 4]);
        change(&mut leaves, 1, |known| known.leaving = true);
        assert_eq!(numbers(next(&leaves)), Some(vec![2, 3, 4]));
        let mut leaves = situation(&[1, 2, 3], &[1, 2, 3]);
        change(&mut leaves, 1, |known| known.leaving = true);
        assert_eq!(numbers(next(&leaves)), Some(vec![2]));
        let mut leaves = situation(&[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5]);
        change(&mut leaves, 1, |known| known.leaving = true);
        assert_eq!(numbers(next(&leaves)), None);
    }

    #[test]
    fn a_closer_candidate_waits_for_an_hour() {
        let mut closer = situation(&[2, 3, 4], &[1, 2, 3, 4]);
        assert_eq!(numbers(next(&closer)), None);
        closer.age = Duration::from_secs(3600);
        assert_eq!(numbers(next(&closer)), Some(vec![1, 2, 3]));
        let mut farther = situation(&[1, 2, 3], &[1, 2, 3, 4]);
        farther.age = Duration::from_secs(36_000);
        assert_eq!(numbers(next(&farther)), None);
    }

    #[test]
    fn a_member_that_is_often_away_makes_room_sooner() {
        let mut unsteady = situation(&[1, 2, 3], &[1, 2, 3, 4]);
        change(&mut unsteady, 1, |known| known.eligible = false);
        assert_eq!(numbers(next(&unsteady)), Some(vec![2, 3, 4]));
    }

    #[test]
    fn most_of_the_next_view_must_know_the_state_already() {
        let of = |all: &[u8]| all.iter().map(|n| member(*n)).collect::<Vec<_>>();
        assert!(keeps_a_quorum(&of(&[1, 2, 3]), &of(&[2, 3, 4])));
        assert!(!keeps_a_quorum(&of(&[1, 2, 3]), &of(&[3, 4, 5])));
        assert!(keeps_a_quorum(&of(&[1]), &of(&[1, 2, 3])));
        assert!(keeps_a_quorum(&of(&[1, 2, 3]), &of(&[1, 2, 3, 4, 5])));
    }
}
