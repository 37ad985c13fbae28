//! Whether the members of a view hold the same: they compare short digests, and whoever lags behind has the registers that
//! differ settled by ordinary rounds. Nothing is ever copied outside rounds and view changes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::acceptor::Acceptor;
use crate::ballot::Ballot;
use crate::codec::Wire;
use crate::env::{Env, Outbox};
use crate::identity::PublicKey;
use crate::message::{BUCKETS, MAX_BALLOTS, Message, ViewMessage};
use crate::record::{RegisterKey, Scope};
use crate::sign;
use crate::view::View;

/// How often what has changed is compared, and how often what has not.
const EVERY: Duration = Duration::from_secs(60);
const ALWAYS: Duration = Duration::from_secs(600);
/// Most registers that one list makes this node settle.
const MAX_SETTLED: usize = 32;

/// What was compared last.
#[derive(Debug)]
pub(crate) struct Entropy {
    sent: BTreeMap<Scope, (Vec<u64>, Instant)>,
    turn: usize,
    next: Instant,
}

impl Entropy {
    pub(crate) fn new(now: Instant) -> Self {
        Self { sent: BTreeMap::new(), turn: 0, next: now + EVERY }
    }

    /// Sends digests of what has changed, each to one other member in turn.
    pub(crate) fn handle_timeout(&mut self, env: &Env<'_>, out: &mut Outbox, acceptor: &Acceptor) {
        if env.now.mono < self.next {
            return;
        }
        self.next = env.now.mono + EVERY;
        self.turn = self.turn.wrapping_add(1);
        self.sent.retain(|scope, _| env.current(scope).is_some());
        for view in env.newest().filter(|view| view.members.len() > 1) {
            let Some((index, _)) = acceptor.serving(env, view) else { continue };
            let scope = Scope::of(view);
            let buckets = digest(acceptor, scope);
            let known = self.sent.get(&scope);
            if known.is_some_and(|(sent, at)| *sent == buckets && env.now.mono < *at + ALWAYS) {
                continue;
            }
            let others: Vec<&PublicKey> = (0u8..)
                .zip(&view.members)
                .filter(|(place, _)| *place != index)
                .map(|(_, member)| &member.identity)
                .collect();
            if let Some(other) = others.get(self.turn % others.len().max(1)) {
                let message = ViewMessage::Digest { scope, buckets: buckets.clone() };
                out.send(env, other, Message::View(message));
            }
            self.sent.insert(scope, (buckets, env.now.mono));
        }
    }

    pub(crate) fn poll_timeout(&self, is_replica: bool) -> Option<(Instant, &'static str)> {
        is_replica.then_some((self.next, "compare what replicas hold"))
    }
}

/// Another member's digest: it is sent the ballots of those parts that differ.
pub(crate) fn handle_digest(
    env: &Env<'_>,
    out: &mut Outbox,
    acceptor: &Acceptor,
    from: &PublicKey,
    (scope, theirs): (Scope, Vec<u64>),
) {
    if fellow(env, acceptor, from, &scope).is_none() {
        return;
    }
    let ours = digest(acceptor, scope);
    for (bucket, _) in (0u8..).zip(ours.iter().zip(&theirs)).filter(|(_, (a, b))| a != b) {
        let all = ballots(acceptor, scope, bucket);
        let whole = all.len() <= MAX_BALLOTS;
        let ballots = all.into_iter().take(MAX_BALLOTS).collect();
        out.send(env, from, Message::View(ViewMessage::Bucket { scope, bucket, ballots, whole }));
    }
}

/// The ballots that another member holds: returns the registers in which this node lags behind, to be settled, and answers
/// with those in which the other does.
pub(crate) fn handle_bucket(
    env: &Env<'_>,
    out: &mut Outbox,
    acceptor: &Acceptor,
    from: &PublicKey,
    (scope, bucket, theirs, whole): (Scope, u8, Vec<(RegisterKey, Ballot)>, bool),
) -> Vec<RegisterKey> {
    if fellow(env, acceptor, from, &scope).is_none() {
        return Vec::new();
    }
    let theirs: BTreeMap<RegisterKey, Ballot> = theirs.into_iter().collect();
    let ours = ballots(acceptor, scope, bucket);
    let newer = |key: &RegisterKey, than: &BTreeMap<RegisterKey, Ballot>, ballot: Ballot| {
        than.get(key).is_none_or(|other| *other < ballot)
    };
    let ahead: Vec<(RegisterKey, Ballot)> =
        ours.iter().filter(|(key, ballot)| newer(key, &theirs, **ballot)).map(|(k, b)| (k.clone(), *b)).collect();
    // Only a whole list is answered, and never with one: two members do not send each other lists for ever.
    if whole && !ahead.is_empty() {
        let ballots = ahead.into_iter().take(MAX_BALLOTS).collect();
        out.send(env, from, Message::View(ViewMessage::Bucket { scope, bucket, ballots, whole: false }));
    }
    let behind = theirs.iter().filter(|(key, ballot)| newer(key, &ours, **ballot));
    let mine = |key: &RegisterKey| key.shard(env.ns, env.config) == scope.shard && bucket_of(key) == bucket;
    behind.map(|(key, _)| key.clone()).filter(mine).take(MAX_SETTLED).collect()
}

/// The newest view, if this node serves it and the sender is another member.
fn fellow<'a>(env: &Env<'a>, acceptor: &Acceptor, from: &PublicKey, scope: &Scope) -> Option<&'a View> {
    let view = env.current(scope)?;
    acceptor.serving(env, view)?;
    view.index_of(from).map(|_| view)
}

fn bucket_of(key: &RegisterKey) -> u8 {
    let buckets = u8::try_from(BUCKETS).unwrap_or(u8::MAX);
    sign::hash("bucket", &[&key.to_bytes()])[0] % buckets
}

fn ballots(acceptor: &Acceptor, scope: Scope, bucket: u8) -> BTreeMap<RegisterKey, Ballot> {
    let held = acceptor.of_scope(scope).filter(|(_, cell)| cell.held.value.is_some());
    held.filter(|(key, _)| bucket_of(key) == bucket).map(|(key, cell)| (key.clone(), cell.held.ballot)).collect()
}

/// One number for each bucket: equal where the same ballots are held.
fn digest(acceptor: &Acceptor, scope: Scope) -> Vec<u64> {
    let mut buckets = vec![0u64; BUCKETS];
    for (key, cell) in acceptor.of_scope(scope).filter(|(_, cell)| cell.held.value.is_some()) {
        let line = sign::hash("digest", &[&key.to_bytes(), &cell.held.ballot.to_bytes()]);
        let number = line[..8].try_into().map_or(0, u64::from_be_bytes);
        // A sum does not depend on the order, and changes with every line.
        let bucket = &mut buckets[usize::from(bucket_of(key))];
        *bucket = bucket.wrapping_add(number);
    }
    buckets
}
