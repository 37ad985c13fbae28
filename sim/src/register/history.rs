//! What owners and readers saw of each key, and whether one register could have shown it.
//!
//! Two checks, which trust different things. The fencing tokens put all grants of a key in one order: that order has to
//! agree with true time, an owner may follow another only after a release or no earlier than the lease allows, and a reader
//! may see nothing older than what was granted before it asked. And [`linear`](super::linear) searches for any order at
//! all, without a look at the tokens.
//!
//! Refusals say nothing: they are hints. An operation may act once more later, as a delayed copy; then it has a token of its
//! own, and nobody was told of it.

use std::collections::BTreeMap;
use std::time::Duration;

use dht::{ClientId, LeaseKey, Token};

use super::linear::{Action, Claim, Op, Seen};

/// A grant as its owner saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The owner's machine.
    pub node: usize,
    /// For whom behind it.
    pub client: ClientId,
    /// The fencing token.
    pub token: Token,
    /// The owner counts from no earlier moment than this.
    pub asked: Duration,
    /// When the owner had it.
    pub answered: Duration,
    /// How long it lasts.
    pub dur: Duration,
}

/// A quorum's answer to a reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// When it asked.
    pub asked: Duration,
    /// When it had the answer.
    pub answered: Duration,
    /// The owner and the token of the lease, or that there was none.
    pub found: Option<(usize, Token)>,
}

/// The history of one key.
#[derive(Clone, Debug, Default)]
pub struct KeyHistory {
    /// Grants, in the order in which they were answered.
    pub grants: Vec<Grant>,
    /// When an owner gave it back, or may have begun to: because it lost it, gave its claim up, or began anew without it.
    pub releases: Vec<(usize, Duration)>,
    /// When an owner claimed it, with whatever outcome.
    pub claims: Vec<Claim>,
    /// What readers saw.
    pub reads: Vec<Read>,
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub struct History {
    keys: BTreeMap<LeaseKey, KeyHistory>,
    asked: BTreeMap<u64, (LeaseKey, Duration)>,
}

impl History {
    /// A claim with this number is made.
    pub fn claimed(&mut self, id: u64, key: &LeaseKey, claim: Claim) {
        self.asked.insert(id, (key.clone(), claim.at));
        self.keys.entry(key.clone()).or_default().claims.push(claim);
    }

    /// From here on this key is looked at, whoever claims it.
    pub fn watch(&mut self, key: &LeaseKey) {
        self.keys.entry(key.clone()).or_default();
    }

    /// A question with this number is asked.
    pub fn asked(&mut self, id: u64, key: &LeaseKey, at: Duration) {
        self.asked.insert(id, (key.clone(), at));
    }

    /// A grant, in answer to a command or to a renewal that the owner made by itself.
    pub fn granted(&mut self, key: &LeaseKey, grant: Grant) {
        let key = self.keys.entry(key.clone()).or_default();
        // Shown once more, by a process that went on with it.
        if !key.grants.iter().any(|known| known.node == grant.node && known.token == grant.token) {
            key.grants.push(grant);
        }
    }

    /// A claim came to nothing, and may be undone by its owner if it goes through after all.
    pub fn refused(&mut self, id: u64, node: usize, at: Duration) {
        if let Some((key, _)) = self.asked.remove(&id) {
            self.released(node, &key, at);
        }
    }

    /// An owner gives a key back, or may do so from here on.
    pub fn released(&mut self, node: usize, key: &LeaseKey, at: Duration) {
        self.keys.entry(key.clone()).or_default().releases.push((node, at));
    }

    /// The keys that anybody has claimed.
    pub fn keys(&self) -> impl Iterator<Item = &LeaseKey> {
        self.keys.keys()
    }

    /// A question of this machine was answered: with an owner and a token, or with nobody. Where it sees itself named for
    /// what it does not use, it gives it back.
    pub fn read(&mut self, id: u64, node: usize, found: Option<(usize, Token)>, at: Duration) {
        let Some((key, asked)) = self.asked.remove(&id) else { return };
        let key = self.keys.entry(key).or_default();
        key.reads.push(Read { asked, answered: at, found });
        if found.is_some_and(|(owner, _)| owner == node) {
            key.releases.push((node, asked));
        }
    }

    /// How many operations there are to be put in order.
    pub fn len(&self) -> usize {
        self.keys.values().map(|key| key.grants.len() + key.reads.len()).sum()
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether each key's history is one of a register.
    pub fn check(&self) -> Result<(), String> {
        self.keys.iter().try_for_each(|(key, history)| {
            history.check().and_then(|()| history.seen().check()).map_err(|what| format!("{key}: {what}"))
        })
    }
}

impl KeyHistory {
    /// Whether the order of the tokens explains it.
    pub fn check(&self) -> Result<(), String> {
        let mut order: Vec<&Grant> = self.grants.iter().collect();
        order.sort_by_key(|grant| grant.token);
        for pair in order.windows(2) {
            self.follows(pair[0], pair[1])?;
        }
        self.grants_agree_with_time()?;
        self.reads.iter().try_for_each(|read| self.is_seen(read))
    }

    /// Whether one grant may follow another.
    fn follows(&self, first: &Grant, second: &Grant) -> Result<(), String> {
        let same = |a: &Grant, b: &Grant| (a.node, a.client) == (b.node, b.client);
        if first.token == second.token {
            return Err(format!("one token, two grants: {first:?}, {second:?}"));
        }
        if same(first, second) {
            return Ok(());
        }
        let given_back = self.given_back(first.node, first.asked, second.answered);
        let over = second.answered >= first.asked.saturating_add(first.dur);
        if given_back || over { Ok(()) } else { Err(format!("{second:?} came while {first:?} ran")) }
    }

    /// The same without tokens.
    fn seen(&self) -> Seen {
        let grants = self.grants.iter().map(|grant| {
            let action = Action::Grant { node: grant.node, client: grant.client, dur: grant.dur };
            Op { from: grant.asked, until: grant.answered, action }
        });
        let reads = self.reads.iter().map(|read| {
            let action = read.found.map_or(Action::Absent, |(node, _)| Action::Found { node });
            Op { from: read.asked, until: read.answered, action }
        });
        Seen { ops: grants.chain(reads).collect(), releases: self.releases.clone(), claims: self.claims.clone() }
    }

    fn given_back(&self, node: usize, from: Duration, until: Duration) -> bool {
        self.releases.iter().any(|(by, at)| *by == node && (from..=until).contains(at))
    }

    /// What was answered before something was asked for has the lower token.
    fn grants_agree_with_time(&self) -> Result<(), String> {
        for late in &self.grants {
            for early in self.grants.iter().filter(|grant| grant.answered < late.asked) {
                if early.token > late.token {
                    return Err(format!("{late:?} is older than {early:?}, which had ended before it began"));
                }
            }
        }
        Ok(())
    }

    /// Whether a reader may have seen that.
    fn is_seen(&self, read: &Read) -> Result<(), String> {
        let before = self.grants.iter().filter(|grant| grant.answered < read.asked);
        match read.found {
            Some((_, token)) => match before.filter(|grant| grant.token > token).max_by_key(|grant| grant.token) {
                Some(newer) => Err(format!("{read:?} is older than {newer:?}")),
                None => Ok(()),
            },
            None => {
                let runs = |grant: &&Grant| {
                    read.answered < grant.asked.saturating_add(grant.dur * 49 / 50)
                        && !self.given_back(grant.node, grant.asked, read.answered)
                };
                let runs = before.filter(runs).max_by_key(|grant| grant.token);
                runs.map_or(Ok(()), |grant| Err(format!("{read:?} finds nobody while {grant:?} runs")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use dht::Ballot;

    use super::*;

    const LEAST: Duration = Duration::from_secs(60);

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn token(round: u64) -> Token {
        Token { incarnation: 0, ballot: Ballot { view: 0, round, replica: 0 } }
    }

    fn grant(node: usize, round: u64, asked: u64, answered: u64) -> Grant {
        let client = ClientId([7; 32]);
        Grant { node, client, token: token(round), asked: secs(asked), answered: secs(answered), dur: LEAST }
    }

    fn read(asked: u64, answered: u64, round: Option<u64>) -> Read {
        Read { asked: secs(asked), answered: secs(answered), found: round.map(|round| (1, token(round))) }
    }

    fn history(grants: &[Grant]) -> KeyHistory {
        KeyHistory { grants: grants.to_vec(), ..KeyHistory::default() }
    }

    #[test]
    fn a_renewal_and_a_takeover_after_the_lease_are_fine() {
        let good = history(&[grant(1, 1, 0, 1), grant(1, 2, 20, 21), grant(2, 3, 79, 81)]);
        assert_eq!(good.check(), Ok(()));
    }

    #[test]
    fn a_takeover_within_the_lease_is_not() {
        let bad = history(&[grant(1, 1, 0, 1), grant(2, 2, 50, 59)]);
        assert!(bad.check().is_err());
        // Unless it was given back.
        let good = KeyHistory { releases: vec![(1, secs(30))], ..bad.clone() };
        assert_eq!(good.check(), Ok(()));
        let before =
            KeyHistory { grants: vec![grant(1, 1, 10, 11), grant(2, 2, 50, 59)], releases: vec![(1, secs(9))], ..bad };
        assert!(before.check().is_err());
    }

    #[test]
    fn another_client_of_one_owner_is_another_owner() {
        let other = Grant { client: ClientId([8; 32]), ..grant(1, 2, 5, 6) };
        assert!(history(&[grant(1, 1, 0, 1), other]).check().is_err());
    }

    #[test]
    fn one_token_for_two_is_wrong() {
        assert!(history(&[grant(1, 1, 0, 1), grant(2, 1, 100, 101)]).check().is_err());
    }

    #[test]
    fn a_grant_that_goes_back_in_the_order_is_wrong() {
        assert!(history(&[grant(1, 5, 0, 1), grant(1, 4, 2, 3)]).check().is_err());
        // At the same time either order will do.
        assert_eq!(history(&[grant(1, 5, 0, 3), grant(1, 4, 2, 4)]).check(), Ok(()));
    }

    #[test]
    fn a_reader_sees_what_was_granted_before_it_asked_or_something_newer() {
        let grants = [grant(1, 1, 0, 1), grant(2, 2, 70, 71)];
        let with = |read| KeyHistory { reads: vec![read], ..history(&grants) };
        assert_eq!(with(read(72, 73, Some(2))).check(), Ok(()));
        assert!(with(read(72, 73, Some(1))).check().is_err());
        // It asked before that was answered.
        assert_eq!(with(read(70, 73, Some(1))).check(), Ok(()));
        assert_eq!(with(read(72, 73, Some(3))).check(), Ok(()));
    }

    #[test]
    fn nobody_is_seen_only_when_nobody_may_be_there() {
        let with = |read, releases| KeyHistory { reads: vec![read], releases, ..history(&[grant(1, 1, 0, 1)]) };
        assert!(with(read(10, 11, None), Vec::new()).check().is_err());
        assert_eq!(with(read(10, 11, None), vec![(1, secs(10))]).check(), Ok(()));
        assert_eq!(with(read(59, 60, None), Vec::new()).check(), Ok(()));
        assert_eq!(with(read(0, 5, None), Vec::new()).check(), Ok(()));
    }
}
