//! Could one register have shown this history? A search, which trusts no token.
//!
//! Every operation took effect at one moment between its beginning and its end. The search looks for an order of these
//! moments that a lease register allows, as Wing and Gong do, and remembers what it has tried, as Lowe does. Each key is
//! searched by itself: operations on one say nothing about another.
//!
//! In a given order each moment may be as early as the rules let it, and earlier is never worse for what follows; so an
//! order alone decides, and time needs no guessing. What a register allows:
//!
//! - A claim or a renewal is granted where nobody holds the key, where the same client of the same owner does, where the
//!   lease has run for its duration, or where the holder gave it back after the operation that it holds it by.
//! - A refusal says nothing. Its claim may still be carried out later, any number of times, and a reader may see that.
//! - A reader that finds somebody finds the holder. One that finds nobody comes when nobody holds it, or when the lease is
//!   over; replicas' clocks may be fast, and there is no guard for readers.

use std::collections::HashMap;
use std::time::Duration;

use dht::ClientId;

/// What took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// This client of this owner was granted the key, or its renewal, for so long.
    Grant {
        /// The owner.
        node: usize,
        /// Which of its clients.
        client: ClientId,
        /// How long the lease lasts.
        dur: Duration,
    },
    /// A reader found this owner.
    Found {
        /// The owner.
        node: usize,
    },
    /// A reader found nobody.
    Absent,
}

/// One operation with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// It took effect no earlier.
    pub from: Duration,
    /// And no later.
    pub until: Duration,
    /// What it was.
    pub action: Action,
}

/// All that was seen of one key.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// What was answered.
    pub ops: Vec<Op>,
    /// From when an owner's release may take effect. It ends what was claimed before, and nothing else.
    pub releases: Vec<(usize, Duration)>,
    /// What owners asked for, whatever was answered.
    pub claims: Vec<Claim>,
}

/// A claim that may be carried out at any time after this, and more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The owner.
    pub node: usize,
    /// When it asked.
    pub at: Duration,
    /// For how long.
    pub dur: Duration,
}

/// More than any history needs that is not hopelessly concurrent.
const MOST_STEPS: usize = 2_000_000;

/// Who holds the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holder {
    /// By which operation, or, counted on after these, by which claim that nobody was told of.
    by: usize,
    node: usize,
    /// `None` where it is not known.
    client: Option<ClientId>,
    /// Releases before this are about something else.
    asked: Duration,
    since: Duration,
    dur: Duration,
}

#[derive(Clone, Debug)]
struct State {
    done: Vec<u64>,
    count: usize,
    now: Duration,
    holder: Option<Holder>,
}

impl State {
    fn has(&self, op: usize) -> bool {
        self.done[op / 64] >> (op % 64) & 1 == 1
    }
}

/// When each state was reached, of those that differ in nothing else: the earliest of them.
type Tried = HashMap<(Vec<u64>, Option<usize>), Vec<(Duration, Duration)>>;

impl Seen {
    /// Whether there is such an order. The error names the operation that fits in nowhere.
    pub fn check(&self) -> Result<(), String> {
        let mut sorted = self.clone();
        sorted.ops.sort_by_key(|op| (op.from, op.until));
        sorted.search()
    }

    fn search(&self) -> Result<(), String> {
        let mut tried = Tried::new();
        let done = vec![0; self.ops.len().div_ceil(64)];
        let mut stack = vec![State { done, count: 0, now: Duration::ZERO, holder: None }];
        let (mut best, mut stuck) = (0, None);
        let mut steps = 0;
        while let Some(state) = stack.pop() {
            if state.count == self.ops.len() {
                return Ok(());
            }
            steps += 1;
            if steps > MOST_STEPS {
                return Err(format!("no order found in {MOST_STEPS} steps, after {best} operations"));
            }
            let open = |op: &usize| !state.has(*op);
            let Some(first) = (0..self.ops.len()).filter(open).min_by_key(|op| self.ops[*op].until) else { continue };
            let limit = self.ops[first].until;
            if state.count >= best {
                (best, stuck) = (state.count, Some((first, state.holder)));
            }
            // The last to be pushed is tried first: that is the one that has to end soonest.
            let mut next: Vec<usize> =
                (0..self.ops.len()).filter(open).take_while(|op| self.ops[*op].from <= limit).collect();
            next.sort_by_key(|op| std::cmp::Reverse(self.ops[*op].until));
            for op in next {
                if let Some(after) = self.after(&state, op).filter(|after| after.now <= limit)
                    && is_new(&mut tried, &after)
                {
                    stack.push(after);
                }
            }
        }
        let stuck = stuck
            .map(|(op, holder)| format!("{:?} fits in nowhere; the holder would be {holder:?}", self.ops[op]))
            .unwrap_or_default();
        Err(stuck)
    }

    /// The state once this operation has taken effect, as early as it may.
    fn after(&self, state: &State, op: usize) -> Option<State> {
        let Op { from, until, action } = &self.ops[op];
        let now = state.now.max(*from);
        let free = |fraction| state.holder.map_or(now, |holder| now.max(self.over(&holder, fraction)));
        let (now, holder) = match *action {
            Action::Grant { node, client, dur } => {
                let same = state.holder.is_some_and(|holder| (holder.node, holder.client) == (node, Some(client)));
                let since = if same { now } else { free(100) };
                (since, Some(Holder { by: op, node, client: Some(client), asked: *from, since, dur }))
            }
            Action::Found { node } if state.holder.is_some_and(|holder| holder.node == node) => (now, state.holder),
            Action::Found { node } => {
                // Nobody was told when that was: it may have been long before somebody looked.
                let earliest = state.holder.map_or(state.now, |holder| state.now.max(self.over(&holder, 100)));
                let holder = self.late(node, earliest)?;
                (now.max(holder.since), Some(holder))
            }
            Action::Absent => (free(98), None),
        };
        let mut done = state.done.clone();
        done[op / 64] |= 1 << (op % 64);
        (now <= *until).then_some(State { done, count: state.count + 1, now, holder })
    }

    /// When the holder's lease is over: when so much of it in a hundred has passed, or once it was given back.
    fn over(&self, holder: &Holder, percent: u32) -> Duration {
        let own = self.releases.iter().filter(|(node, at)| *node == holder.node && *at >= holder.asked);
        let out = holder.since.saturating_add(holder.dur * percent / 100);
        own.map(|(_, at)| *at).min().map_or(out, |given| given.min(out))
    }

    /// A claim of this owner, of which it was told nothing or heard no more, is carried out.
    fn late(&self, node: usize, now: Duration) -> Option<Holder> {
        let claims = self.claims.iter().enumerate().filter(|(_, claim)| claim.node == node);
        let (number, claim) = claims.min_by_key(|(_, claim)| claim.at)?;
        let dur = self.claims.iter().filter(|claim| claim.node == node).map(|claim| claim.dur).min()?;
        let by = self.ops.len() + number;
        Some(Holder { by, node, client: None, asked: claim.at, since: now.max(claim.at), dur })
    }
}

/// Whether no state that differs only in times was reached as early as this one.
fn is_new(tried: &mut Tried, state: &State) -> bool {
    let key = (state.done.clone(), state.holder.map(|holder| holder.by));
    let times = (state.now, state.holder.map_or(Duration::ZERO, |holder| holder.since));
    let seen = tried.entry(key).or_default();
    if seen.iter().any(|(now, since)| *now <= times.0 && *since <= times.1) {
        return false;
    }
    seen.push(times);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn grant(node: usize, from: u64, until: u64) -> Op {
        let action = Action::Grant { node, client: ClientId([7; 32]), dur: secs(60) };
        Op { from: secs(from), until: secs(until), action }
    }

    fn found(node: usize, from: u64, until: u64) -> Op {
        Op { from: secs(from), until: secs(until), action: Action::Found { node } }
    }

    fn absent(from: u64, until: u64) -> Op {
        Op { from: secs(from), until: secs(until), action: Action::Absent }
    }

    fn claim(node: usize, at: u64) -> Claim {
        Claim { node, at: secs(at), dur: secs(60) }
    }

    fn seen(ops: &[Op]) -> Seen {
        Seen { ops: ops.to_vec(), ..Seen::default() }
    }

    fn good(seen: &Seen) {
        assert_eq!(seen.check(), Ok(()));
    }

    fn bad(seen: &Seen) {
        assert!(seen.check().is_err(), "{seen:?}");
    }

    #[test]
    fn renewals_and_a_takeover_once_the_last_of_them_has_run_out() {
        good(&seen(&[grant(1, 0, 1), grant(1, 20, 21), grant(2, 75, 81)]));
        bad(&seen(&[grant(1, 0, 1), grant(1, 20, 21), grant(2, 75, 79)]));
    }

    #[test]
    fn two_grants_within_one_lease() {
        bad(&seen(&[grant(1, 0, 1), grant(2, 2, 3)]));
        // Not even where both were under way at once.
        bad(&seen(&[grant(1, 0, 10), grant(2, 0, 10)]));
    }

    #[test]
    fn two_clients_of_one_owner_are_two() {
        let client = ClientId([8; 32]);
        let other = Op { from: secs(2), until: secs(3), action: Action::Grant { node: 1, client, dur: secs(60) } };
        bad(&seen(&[grant(1, 0, 1), other]));
    }

    #[test]
    fn a_grant_after_a_release_is_fine_and_before_it_is_not() {
        let released = |at| Seen { releases: vec![(1, secs(at))], ..seen(&[grant(1, 0, 1), grant(2, 4, 5)]) };
        good(&released(3));
        good(&released(5));
        bad(&released(6));
    }

    #[test]
    fn a_release_ends_only_what_was_claimed_before_it() {
        let again = [grant(1, 0, 1), grant(1, 10, 11), grant(2, 20, 21)];
        bad(&Seen { releases: vec![(1, secs(5))], ..seen(&again) });
        good(&Seen { releases: vec![(1, secs(5)), (1, secs(12))], ..seen(&again) });
        bad(&Seen { releases: vec![(2, secs(12))], ..seen(&again) });
    }

    #[test]
    fn readers_find_the_holder() {
        good(&seen(&[grant(1, 0, 1), found(1, 2, 3)]));
        bad(&seen(&[grant(1, 0, 1), found(2, 2, 3)]));
        // The lease may be over for as long as nobody has taken it.
        good(&seen(&[grant(1, 0, 1), found(1, 100, 101)]));
    }

    #[test]
    fn a_claim_that_nobody_was_told_of_may_have_been_carried_out_long_before_it_is_found() {
        // Register life 5020: granted at 5 at the earliest, found at 50, and over by 70.
        let hidden = |from| Seen { claims: vec![claim(1, 5)], ..seen(&[found(1, 50, 51), absent(from, from + 1)]) };
        good(&hidden(70));
        // Nobody has it only once its lease is over, whenever that began.
        bad(&hidden(55));
        // And not before somebody found nobody.
        let after = Seen { claims: vec![claim(1, 5)], ..seen(&[absent(30, 31), found(1, 50, 51), absent(70, 71)]) };
        bad(&after);
    }

    #[test]
    fn a_stale_read() {
        let claims = vec![claim(1, 0), claim(2, 70)];
        let with = |read| Seen { claims: claims.clone(), ..seen(&[grant(1, 0, 1), grant(2, 70, 71), read]) };
        bad(&with(found(1, 72, 73)));
        good(&with(found(1, 70, 73)));
        good(&with(found(2, 72, 73)));
    }

    #[test]
    fn readers_agree_on_an_order() {
        let claims = vec![claim(1, 0), claim(2, 60)];
        let all = |first, second| {
            let ops = [grant(1, 0, 1), grant(2, 60, 90), found(first, 70, 71), found(second, 72, 73)];
            Seen { claims: claims.clone(), ..seen(&ops) }
        };
        good(&all(1, 2));
        good(&all(1, 1));
        good(&all(2, 2));
        bad(&all(2, 1));
    }

    #[test]
    fn nobody_is_found_only_where_nobody_holds_it() {
        bad(&seen(&[grant(1, 0, 1), absent(10, 11)]));
        good(&seen(&[grant(1, 0, 1), absent(0, 11)]));
        good(&seen(&[grant(1, 0, 1), absent(58, 60)]));
        good(&Seen { releases: vec![(1, secs(5))], ..seen(&[grant(1, 0, 1), absent(10, 11)]) });
    }

    #[test]
    fn a_refused_claim_constrains_nothing_and_may_act_later() {
        let refused = |read| Seen { claims: vec![claim(1, 0), claim(2, 5)], ..seen(&[grant(1, 0, 1), read]) };
        // It was carried out after the lease had run out, and before no one.
        good(&refused(found(2, 61, 62)));
        bad(&refused(found(2, 30, 31)));
        bad(&refused(found(3, 61, 62)));
        // Then it holds the key as anybody else does, until it gives it back.
        let then = |releases| {
            let ops = [grant(1, 0, 1), found(2, 61, 62), grant(3, 63, 64)];
            Seen { releases, claims: vec![claim(2, 5)], ..seen(&ops) }
        };
        bad(&then(Vec::new()));
        good(&then(vec![(2, secs(6))]));
    }

    #[test]
    fn many_at_once_are_no_matter() {
        let mut ops: Vec<Op> = (0..60).map(|n| grant(1, n, 200)).collect();
        ops.extend((0..60).map(|n| found(1, n, 200)));
        good(&seen(&ops));
        let mut ops: Vec<Op> = (0..6).flat_map(|n| [grant(1, n, 200), found(1, n, 200)]).collect();
        ops.extend([grant(1, 0, 1), grant(2, 30, 40)]);
        bad(&seen(&ops));
    }
}
