//! Whether this replica's disk is what it was: how many votes its store has given, and what others have seen of that.
//!
//! A store that was set back, from a backup or a file-system snapshot, has forgotten promises that others rely on, and
//! cannot know it. So every vote carries the number of votes of its store, also to those who are asked for theirs; peers
//! remember the highest; and no process votes in a view before it has asked the other members of that view what they
//! have seen. If anybody saw more, the store is lost: it begins anew under another number, as a member of nothing. A
//! view of one has nobody to ask: there only the fencing tokens are left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::env::{Env, Outbox, Rules};
use crate::identity::PublicKey;
use crate::message::{Message, ViewMessage};
use crate::namespace::{Image, LoadError};
use crate::record::Scope;
use crate::view::View;

/// How long a member that does not answer is waited for, as long as a quorum has answered.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often somebody is asked who has not answered, while it is waited for and later.
const ASK_EVERY: Duration = Duration::from_secs(1);
const ASK_LATE: Duration = Duration::from_secs(60);
/// A process does not vote before this has passed: longer than anybody waits for a vote of the process before it, which
/// may have come from a store that was still whole ([`ROUND_TIME`](crate::coordinator::ROUND_TIME) and
/// [`PHASE`](crate::proposer::PHASE), on clocks that run at different rates).
const QUIET: Duration = Duration::from_millis(3200);
/// Most stores of others that are remembered.
const MAX_SEEN: usize = 1024;
/// How often what was seen goes to disk.
const SAVE_EVERY: Duration = Duration::from_secs(60);

const VOTES: &[u8] = b"votes";
const SEEN: &[u8] = b"votes-seen/";

/// The count of this store's votes, and what was seen of others'.
#[derive(Debug)]
pub(crate) struct Votes {
    store_id: [u8; 16],
    count: u64,
    seen: BTreeMap<[u8; 16], u64>,
    unsaved: BTreeSet<[u8; 16]>,
    save_at: Instant,
    /// Until then nothing is voted on; none once that is past.
    quiet_until: Option<Instant>,
    /// How many votes there were when the process began.
    loaded: u64,
    /// The other members of the views that this node is a member of.
    asked: BTreeMap<PublicKey, Question>,
    ask_at: Instant,
}

/// What has become of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    /// Asked, first at this time.
    Open { since: Instant },
    /// Answered to this process.
    Answered,
}

/// Whether a replica asks the other members of a view before its first vote there after a start.
///
/// Also one that knows of no vote: it may have been set back to before its first.
pub(crate) fn asks_first(rules: &Rules, count: u64, alone: bool) -> bool {
    rules.restored_asks_first && !alone && (count > 0 || rules.fresh_store_asks)
}

/// Whether somebody has seen more votes of this store than it knows of.
pub(crate) fn was_set_back(count: u64, seen: u64) -> bool {
    seen > count
}

impl Votes {
    /// Takes up what is on disk.
    pub(crate) fn load(env: &Env<'_>, store_id: [u8; 16], image: &Image) -> Result<Self, LoadError> {
        let damaged = |_| LoadError::Damaged("count of votes");
        let count = image.get(VOTES).map(|bytes| <[u8; 8]>::try_from(bytes.as_slice())).transpose().map_err(damaged)?;
        let count = count.map_or(0, u64::from_be_bytes);
        let mut seen = BTreeMap::new();
        for (key, value) in image.range(SEEN.to_vec()..).take_while(|(key, _)| key.starts_with(SEEN)) {
            let id = <[u8; 16]>::try_from(&key[SEEN.len()..]).map_err(damaged)?;
            seen.insert(id, u64::from_be_bytes(value.as_slice().try_into().map_err(damaged)?));
        }
        let now = env.now.mono;
        Ok(Self {
            store_id,
            count,
            seen,
            unsaved: BTreeSet::new(),
            save_at: now + SAVE_EVERY,
            quiet_until: Some(now + QUIET),
            loaded: count,
            asked: BTreeMap::new(),
            ask_at: now,
        })
    }

    /// The store begins anew under another number, and owes nobody anything.
    pub(crate) fn begin_anew(&mut self, out: &mut Outbox, store_id: [u8; 16]) {
        (self.store_id, self.count) = (store_id, 0);
        self.asked.clear();
        out.persist(VOTES.to_vec(), None);
    }

    /// Whether this replica may vote in a view, and say what it holds there.
    pub(crate) fn may(&self, env: &Env<'_>, view: &View) -> bool {
        let mut others = view.members.iter().map(|member| member.identity).filter(|other| *other != env.me);
        if !asks_first(&env.rules, self.loaded, others.clone().next().is_none()) {
            return true;
        }
        let answered = others.clone().filter(|other| self.asked.get(other) == Some(&Question::Answered)).count();
        let heard_or_late = |other: PublicKey| match self.asked.get(&other) {
            Some(Question::Answered) => true,
            Some(Question::Open { since }) => env.now.mono >= *since + PATIENCE,
            None => false,
        };
        self.quiet_until.is_none_or(|until| env.now.mono >= until)
            && answered + 1 >= view.quorum()
            && others.all(heard_or_late)
    }

    /// Asks everybody who is to be asked and has not answered. `kept` are views that are over and still needed.
    pub(crate) fn ask(&mut self, env: &Env<'_>, out: &mut Outbox, kept: &[Scope]) {
        let kept = kept.iter().filter_map(|scope| env.known(scope));
        let mine = env.newest().chain(kept).filter(|view| view.index_of(&env.me).is_some());
        let others = mine.flat_map(|view| view.members.iter().map(|member| member.identity));
        let others: BTreeSet<PublicKey> = others.filter(|other| *other != env.me).collect();
        if !asks_first(&env.rules, self.loaded, others.is_empty()) {
            return;
        }
        self.asked.retain(|other, _| others.contains(other));
        self.ask_at = env.now.mono + ASK_LATE;
        for other in others {
            let open = Question::Open { since: env.now.mono };
            let Question::Open { since } = *self.asked.entry(other).or_insert(open) else { continue };
            if env.now.mono < since + PATIENCE {
                self.ask_at = env.now.mono + ASK_EVERY;
            }
            self.put(env, out, &other);
        }
    }

    fn put(&self, env: &Env<'_>, out: &mut Outbox, other: &PublicKey) {
        out.send(env, other, Message::View(ViewMessage::AskVotes { store_id: self.store_id }));
    }

    /// Counts one more message of votes, which goes to disk with what it rests on.
    pub(crate) fn cast(&mut self, out: &mut Outbox) -> u64 {
        self.count = self.count.saturating_add(1);
        out.persist(VOTES.to_vec(), Some(self.count.to_be_bytes().to_vec()));
        self.count
    }

    /// The count up to now.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// A member of a view has sent this number with a vote.
    pub(crate) fn saw(&mut self, env: &Env<'_>, scope: &Scope, from: &PublicKey, votes: u64) {
        let view = env.known(scope);
        let Some(member) = view.and_then(|view| view.member(view.index_of(from)?)).filter(|_| *from != env.me) else {
            return;
        };
        let store_id = member.store_id;
        while self.seen.len() >= MAX_SEEN && !self.seen.contains_key(&store_id) {
            self.seen.pop_first();
        }
        let seen = self.seen.entry(store_id).or_default();
        if votes > *seen {
            *seen = votes;
            self.unsaved.insert(store_id);
        }
    }

    /// A peer is here: what has it seen of this store?
    pub(crate) fn handle_admitted(&self, env: &Env<'_>, out: &mut Outbox, peer: &PublicKey) {
        if matches!(self.asked.get(peer), Some(Question::Open { .. })) {
            self.put(env, out, peer);
        }
    }

    /// Answers that question.
    pub(crate) fn handle_ask(
        &self,
        env: &Env<'_>,
        out: &mut Outbox,
        from: &PublicKey,
        (store_id, round): ([u8; 16], u64),
    ) {
        let votes = self.seen.get(&store_id).copied().unwrap_or(0);
        out.send(env, from, Message::View(ViewMessage::VotesSeen { store_id, votes, round }));
    }

    /// Takes an answer. Whether it shows that this store was set back.
    pub(crate) fn handle_seen(&mut self, from: &PublicKey, store_id: [u8; 16], votes: u64) -> bool {
        // Only members are asked: nobody else can take a replica its place.
        let Some(question) = self.asked.get_mut(from).filter(|_| store_id == self.store_id) else { return false };
        *question = Question::Answered;
        was_set_back(self.count, votes)
    }

    /// Asks again, and saves what was seen.
    pub(crate) fn handle_timeout(&mut self, env: &Env<'_>, out: &mut Outbox, kept: &[Scope]) {
        if self.quiet_until.is_some_and(|until| until <= env.now.mono) {
            self.quiet_until = None;
        }
        if self.is_open() && self.ask_at <= env.now.mono {
            self.ask(env, out, kept);
        }
        if self.save_at <= env.now.mono {
            self.save_at = env.now.mono + SAVE_EVERY;
            for store_id in std::mem::take(&mut self.unsaved) {
                let votes = self.seen.get(&store_id).copied().unwrap_or(0);
                out.persist([SEEN, &store_id].concat(), Some(votes.to_be_bytes().to_vec()));
            }
        }
    }

    fn is_open(&self) -> bool {
        self.asked.values().any(|question| matches!(question, Question::Open { .. }))
    }

    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let asking = self.is_open().then_some((self.ask_at, "ask what others saw of this store"));
        let quiet = self.quiet_until.filter(|_| !self.asked.is_empty());
        let quiet = quiet.map(|until| (until, "wait until nobody waits for votes of the process before"));
        let saving = (!self.unsaved.is_empty()).then_some((self.save_at, "save what was seen of stores"));
        asking.into_iter().chain(quiet).chain(saving).min()
    }
}
