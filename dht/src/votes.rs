//! Whether this replica's disk is what it was: how many votes its store has given, and what others have seen of that.
//!
//! A store that was set back, from a backup or a file-system snapshot, has forgotten promises that others rely on, and
//! cannot know it. So every vote carries the number of votes of its store; peers remember the highest; and after a start,
//! before its first vote, a replica asks them. If anybody saw more, the store is lost: it begins anew under another number,
//! as a member of nothing. Where nobody answers there is no proof, only the fencing tokens.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::env::{Env, Outbox};
use crate::identity::PublicKey;
use crate::message::{Message, ViewMessage};
use crate::namespace::{Image, LoadError};

/// How long it is waited for answers.
const PATIENCE: Duration = Duration::from_secs(3);
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
    asking: Option<Asking>,
}

/// Who has not answered yet, and until when it is waited for.
#[derive(Debug)]
struct Asking {
    until: Instant,
    silent: BTreeSet<PublicKey>,
    answered: bool,
}

impl Votes {
    /// Takes up what is on disk. A store that has voted before asks first.
    pub(crate) fn load(env: &Env<'_>, store_id: [u8; 16], image: &Image) -> Result<Self, LoadError> {
        let damaged = |_| LoadError::Damaged("count of votes");
        let count = image.get(VOTES).map(|bytes| <[u8; 8]>::try_from(bytes.as_slice())).transpose().map_err(damaged)?;
        let count = count.map_or(0, u64::from_be_bytes);
        let mut seen = BTreeMap::new();
        for (key, value) in image.range(SEEN.to_vec()..).take_while(|(key, _)| key.starts_with(SEEN)) {
            let id = <[u8; 16]>::try_from(&key[SEEN.len()..]).map_err(damaged)?;
            seen.insert(id, u64::from_be_bytes(value.as_slice().try_into().map_err(damaged)?));
        }
        let mine = |view: &&crate::view::View| {
            view.index_of(&env.me).and_then(|index| view.member(index)).is_some_and(|m| m.store_id == store_id)
        };
        let silent: BTreeSet<PublicKey> = env
            .newest()
            .filter(mine)
            .flat_map(|view| view.members.iter().map(|member| member.identity))
            .filter(|identity| *identity != env.me)
            .collect();
        // A lone replica has only those to ask who have dealt with it; none is known to have, none is waited for.
        let asks = env.rules.restored_asks_first && count > 0 && !silent.is_empty();
        let asking = asks.then(|| Asking { until: env.now.mono + PATIENCE, silent, answered: false });
        Ok(Self { store_id, count, seen, unsaved: BTreeSet::new(), save_at: env.now.mono + SAVE_EVERY, asking })
    }

    /// The store begins anew under another number, and owes nobody anything.
    pub(crate) fn begin_anew(&mut self, out: &mut Outbox, store_id: [u8; 16]) {
        (self.store_id, self.count, self.asking) = (store_id, 0, None);
        out.persist(VOTES.to_vec(), None);
    }

    /// Whether this replica may vote at all.
    pub(crate) fn may(&self) -> bool {
        self.asking.is_none()
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

    /// A vote of another store came with this number.
    pub(crate) fn saw(&mut self, store_id: [u8; 16], votes: u64) {
        if store_id == self.store_id {
            return;
        }
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
        if self.asking.is_some() {
            out.send(env, peer, Message::View(ViewMessage::AskVotes { store_id: self.store_id }));
        }
    }

    /// Answers that question.
    pub(crate) fn handle_ask(&self, env: &Env<'_>, out: &mut Outbox, from: &PublicKey, store_id: [u8; 16]) {
        let votes = self.seen.get(&store_id).copied().unwrap_or(0);
        out.send(env, from, Message::View(ViewMessage::VotesSeen { store_id, votes }));
    }

    /// Takes an answer. Whether it shows that this store was set back.
    pub(crate) fn handle_seen(&mut self, from: &PublicKey, store_id: [u8; 16], votes: u64) -> bool {
        let Some(asking) = self.asking.as_mut().filter(|_| store_id == self.store_id) else { return false };
        asking.silent.remove(from);
        asking.answered = true;
        if votes > self.count {
            return true;
        }
        if asking.silent.is_empty() {
            self.asking = None;
        }
        false
    }

    /// Stops waiting, and saves what was seen.
    pub(crate) fn handle_timeout(&mut self, env: &Env<'_>, out: &mut Outbox) {
        if self.asking.as_ref().is_some_and(|asking| asking.until <= env.now.mono) {
            self.asking = None;
        }
        if self.save_at <= env.now.mono {
            self.save_at = env.now.mono + SAVE_EVERY;
            for store_id in std::mem::take(&mut self.unsaved) {
                let votes = self.seen.get(&store_id).copied().unwrap_or(0);
                out.persist([SEEN, &store_id].concat(), Some(votes.to_be_bytes().to_vec()));
            }
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let asking = self.asking.as_ref().map(|asking| (asking.until, "wait for what others saw of this store"));
        let saving = (!self.unsaved.is_empty()).then_some((self.save_at, "save what was seen of stores"));
        asking.into_iter().chain(saving).min()
    }
}
