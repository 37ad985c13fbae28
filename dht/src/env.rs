//! What every part of the register is told with each step, and where it puts what it wants done.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use libp2p_identity::PeerId;

use crate::clock::Now;
use crate::codec::Wire;
use crate::command::LeaseKey;
use crate::config::Config;
use crate::event::{Deciders, Event, Output, Write};
use crate::identity::{PublicKey, SecretKey};
use crate::invite::SignedInvite;
use crate::message::{AcceptItem, Message};
use crate::record::{RegisterKey, Scope, Value, guard};
use crate::sign::NamespaceId;
use crate::view::{Chain, View};

/// The rules of the lease protocol without which it breaks. All hold; tests switch one off to see their schedule fail.
#[derive(Clone, Copy, Debug)]
#[doc(hidden)]
pub struct Rules {
    /// A retry is known by its nonce as well as by its number.
    pub nonce: bool,
    /// The number of an operation is on disk before the operation is sent.
    pub op_seq_on_disk: bool,
    /// Operations that are not above the last one of the same owner do nothing.
    pub op_seq_compared: bool,
    /// A renewal never shortens a lease.
    pub longest_duration: bool,
    /// The owner counts the duration of the granted record.
    pub granted_duration: bool,
    /// Rounds are reserved on disk, so that a restarted coordinator uses no ballot again.
    pub rounds_on_disk: bool,
    /// A batch holds at most one operation for each key.
    pub one_op_per_key: bool,
    /// An acceptor refuses a second value under one ballot.
    pub one_value_per_ballot: bool,
    /// Results of any but the newest operation are ignored.
    pub newest_only: bool,
    /// A lease of another boot has lapsed until it is renewed.
    pub boot_compared: bool,
    /// The owner counts from before anything is sent.
    pub count_from_send: bool,
    /// The end of a lease is compared at each use.
    pub checked_at_use: bool,
    /// A lease belongs to an owner and one client of it.
    pub client_compared: bool,
    /// What a replica counted is saved every minute.
    pub elapsed_saved: bool,
    /// Quorums are counted for each key of a batch.
    pub quorum_per_key: bool,
    /// A claim that was given up is followed by a release.
    pub release_given_up: bool,
    /// A client that keeps an address gives back any other that was kept for it.
    pub one_kept_address: bool,
    /// A handover counts only until its signer does anything else.
    pub handover_compared: bool,
    /// A deputy takes over the very lease that it has seen.
    pub deputy_names_lease: bool,
    /// What a deputy took over is kept for its client until the former owner's lease has run out.
    pub shadow_kept: bool,
    /// Names have one spelling.
    pub normal_names: bool,
    /// Refusals write nothing.
    pub refusals_write_nothing: bool,
    /// A replica waits for longer than the duration.
    pub guarded: bool,
    /// "All slots are given" is answered only for a value that was chosen.
    pub spent_is_settled: bool,
    /// An acceptor accepts nothing below what it promised.
    pub promises_kept: bool,
    /// Acceptors check the signatures in slots.
    pub acceptor_checks: bool,
    /// Acceptors and coordinators carry on an append whose date has passed.
    pub dates_at_append_only: bool,
    /// A spent invite is answered from memory.
    pub spent_cached: bool,
    /// An identity that has a slot gets no second one.
    pub slot_found_again: bool,
    /// Whoever has accepted or learnt of a later view serves the older one no more.
    pub wedge: bool,
    /// A member of a new view serves it only with the state of a quorum of the old one.
    pub transfer: bool,
    /// A member without the state does not vote on the next view.
    pub transferring_has_no_vote: bool,
    /// A member that brings a view change to its end runs phase 1 again.
    pub repropose_runs_phase_1: bool,
    /// What counts as a snapshot was taken after the old view was wedged.
    pub snapshot_after_wedge: bool,
    /// A late member may copy from one active member, when the old view's state is gone.
    pub copy_from_active: bool,
    /// Only members that serve a view answer reads in it.
    pub active_reads: bool,
    /// The next ballot is promised along with a vote. No rule: a thing to do without, where a test needs one round to follow another.
    pub fast_path: bool,
    /// Replicas propose other members by themselves. No rule either: tests of one view want it to stay.
    pub views_change: bool,
    /// Promises that came with a vote serve one operation, and only if a quorum gave them.
    pub promise_serves_once: bool,
    /// A refusal rests on a phase 1 of its own.
    pub fast_path_never_refuses: bool,
    /// A replica asks others, before its first vote, whether its store was set back.
    pub restored_asks_first: bool,
    /// It asks as well if its store knows of no vote.
    pub fresh_store_asks: bool,
    /// Those whom a coordinator asks for votes are told of its own.
    pub own_votes_told: bool,
    /// What the authority recovered is served only when every lease of the lost replicas has run out.
    pub recovery_waits: bool,
    /// A recovery voids the invites that are open, as their registers may be lost.
    pub recovery_voids_invites: bool,
    /// A certificate of a view that has long been over is no news.
    pub old_views_are_no_news: bool,
}

impl Rules {
    /// All of them.
    pub const ALL: Self = Self {
        nonce: true,
        op_seq_on_disk: true,
        op_seq_compared: true,
        longest_duration: true,
        granted_duration: true,
        rounds_on_disk: true,
        one_op_per_key: true,
        one_value_per_ballot: true,
        newest_only: true,
        boot_compared: true,
        count_from_send: true,
        checked_at_use: true,
        client_compared: true,
        elapsed_saved: true,
        quorum_per_key: true,
        release_given_up: true,
        one_kept_address: true,
        handover_compared: true,
        deputy_names_lease: true,
        shadow_kept: true,
        normal_names: true,
        refusals_write_nothing: true,
        guarded: true,
        spent_is_settled: true,
        promises_kept: true,
        acceptor_checks: true,
        dates_at_append_only: true,
        spent_cached: true,
        slot_found_again: true,
        wedge: true,
        transfer: true,
        transferring_has_no_vote: true,
        repropose_runs_phase_1: true,
        snapshot_after_wedge: true,
        copy_from_active: true,
        active_reads: true,
        fast_path: true,
        views_change: true,
        promise_serves_once: true,
        fast_path_never_refuses: true,
        restored_asks_first: true,
        fresh_store_asks: true,
        own_votes_told: true,
        recovery_waits: true,
        recovery_voids_invites: true,
        old_views_are_no_news: true,
    };

    /// Whether an acceptor takes slots whatever the date is: it may be obliged to carry an old append on.
    pub(crate) fn judge_no_dates(self, env: &Env<'_>, item: &AcceptItem) -> bool {
        let in_time = |invite: &SignedInvite| invite.may_append(env.config, env.now.unix_s).is_ok();
        match &item.value {
            Value::Slots(slots) => self.dates_at_append_only || in_time(&slots.invite),
            Value::Lease(_) => true,
        }
    }
}

/// What every step may look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Env<'a> {
    pub(crate) ns: &'a NamespaceId,
    pub(crate) identity: &'a SecretKey,
    pub(crate) me: PublicKey,
    pub(crate) config: &'a Config,
    pub(crate) chain: &'a Chain,
    pub(crate) rules: Rules,
    pub(crate) now: Now,
}

impl<'a> Env<'a> {
    /// The newest view that decides about a key.
    pub(crate) fn view_of(&self, key: &RegisterKey) -> Option<&'a View> {
        self.chain.newest(key.shard(self.ns, self.config))
    }

    /// The view of this scope, if it is the newest one of its shard. (Without the rule that wedges, any.)
    pub(crate) fn current(&self, scope: &Scope) -> Option<&'a View> {
        if !self.rules.wedge {
            return self.known(scope);
        }
        self.chain.newest(scope.shard).filter(|view| Scope::of(view) == *scope)
    }

    /// The view of this scope, if it is known.
    pub(crate) fn known(&self, scope: &Scope) -> Option<&'a View> {
        self.chain.get(scope.shard, scope.incarnation, scope.view)
    }

    /// The newest views of all shards.
    pub(crate) fn newest(&self) -> impl Iterator<Item = &'a View> + use<'a> {
        let chain = self.chain;
        (0..chain.shard_count()).filter_map(|shard| chain.newest(shard))
    }

    /// Who decides about an address.
    pub(crate) fn deciders(&self, ip: Ipv4Addr) -> Deciders {
        let key = RegisterKey::Lease(LeaseKey::Address(ip));
        let view = self.view_of(&key);
        let members = view.map(|view| view.members.as_slice()).unwrap_or_default();
        Deciders {
            shard: key.shard(self.ns, self.config),
            view: view.map_or(0, |view| view.number),
            members: members.iter().filter_map(|member| member.identity.peer_id()).collect(),
        }
    }

    /// How long a replica keeps a lease of this duration.
    pub(crate) fn guard(&self, dur: Duration) -> Duration {
        if self.rules.guarded { guard(dur, self.config.rho_ppm) } else { dur }
    }
}

/// Why something from a peer was ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// Not the bytes of a message.
    Malformed,
    /// From a peer that was not admitted.
    NotAdmitted,
    /// From a joiner, and not what joiners may send.
    JoinerMayNot,
    /// An operation signed by somebody else, or wrongly.
    ForgedOp,
    /// From somebody who is no replica of the view.
    NotReplica,
    /// A vote with a wrong signature or store.
    ForgedVote,
    /// About a view that is over.
    OldView,
    /// An answer that nobody waits for.
    Unexpected,
    /// A value that does not prove itself.
    ForgedValue,
    /// A second value under one ballot: a replica contradicts itself.
    SecondValue,
    /// A certificate that proves nothing.
    BadCertificate,
    /// More than there is room for.
    Overflow,
    /// Too many from one peer.
    TooOften,
    /// Configuration or views that were not taken over.
    BadFetch,
    /// An operation of this node that it did not make: another machine has the same key.
    Cloned,
    /// From a view whose registers this node does not serve, or not yet.
    NotServing,
    /// A view that does not follow the one it is to follow.
    BadView,
    /// A letter to somebody who is not connected here.
    NoWay,
    /// A letter that does not prove who wrote it.
    ForgedLetter,
    /// Two valid views of one number: replicas contradicted themselves, and the shard is not served any more.
    Fork,
}

impl DropReason {
    /// For status pages and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed-message",
            Self::NotAdmitted => "not-admitted",
            Self::JoinerMayNot => "joiner-may-not",
            Self::ForgedOp => "forged-operation",
            Self::NotReplica => "not-a-replica",
            Self::ForgedVote => "forged-vote",
            Self::OldView => "old-view",
            Self::Unexpected => "unexpected-answer",
            Self::ForgedValue => "forged-value",
            Self::SecondValue => "second-value",
            Self::BadCertificate => "bad-certificate",
            Self::Overflow => "overflow",
            Self::TooOften => "too-often",
            Self::BadFetch => "bad-configuration",
            Self::Cloned => "identity-used-elsewhere",
            Self::NotServing => "not-serving",
            Self::BadView => "bad-view",
            Self::NoWay => "letter-to-no-neighbour",
            Self::ForgedLetter => "forged-letter",
            Self::Fork => "two-views-of-one-number",
        }
    }
}

/// What the parts want done, in order. Messages of this node to itself stay inside.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    output: VecDeque<Output>,
    local: VecDeque<Message>,
    drops: BTreeMap<DropReason, u64>,
}

impl Outbox {
    /// Writes that follow each other go to disk together.
    pub(crate) fn persist(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        if let Some(Output::Persist(writes)) = self.output.back_mut() {
            writes.retain(|write| write.key != key);
            writes.push(Write { key, value });
        } else {
            self.output.push_back(Output::Persist(vec![Write { key, value }]));
        }
    }

    /// Sends, to this node itself by a shorter way.
    pub(crate) fn send(&mut self, env: &Env<'_>, to: &PublicKey, message: Message) {
        if *to == env.me {
            self.local.push_back(message);
        } else if let Some(peer) = to.peer_id() {
            self.send_peer(peer, &message);
        }
    }

    /// Sends to another node.
    pub(crate) fn send_peer(&mut self, to: PeerId, message: &Message) {
        self.output.push_back(Output::Send { to, message: message.to_bytes() });
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.output.push_back(Output::Event(event));
    }

    pub(crate) fn push(&mut self, output: Output) {
        match output {
            Output::Persist(writes) => writes.into_iter().for_each(|write| self.persist(write.key, write.value)),
            Output::Send { .. }
            | Output::Admit { .. }
            | Output::Refuse { .. }
            | Output::Dial { .. }
            | Output::Publish { .. }
            | Output::Seek { .. }
            | Output::DialBack { .. }
            | Output::Event(_) => self.output.push_back(output),
        }
    }

    pub(crate) fn drop(&mut self, reason: DropReason) {
        *self.drops.entry(reason).or_default() += 1;
    }

    pub(crate) fn drops(&self) -> &BTreeMap<DropReason, u64> {
        &self.drops
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    /// Whether this node has something to tell itself.
    pub(crate) fn has_local(&self) -> bool {
        !self.local.is_empty()
    }

    pub(crate) fn poll_local(&mut self) -> Option<Message> {
        self.local.pop_front()
    }
}
