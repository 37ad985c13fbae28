//! Slots of an invite: appended one by one, never taken away.

use std::collections::BTreeMap;

use crate::acceptor::Acceptor;
use crate::ballot::Ballot;
use crate::env::{DropReason, Env, Outbox};
use crate::identity::PublicKey;
use crate::invite::InviteError;
use crate::message::{Message, Outcome};
use crate::record::{RegisterKey, Scope, Slots, Value};
use crate::redeem::{RedeemAnswer, RedeemOutcome, RedeemRequest, Redeemed, RefusedHint, SpentProof};
use crate::top::Top;
use crate::view::{View, Vote};

use super::decide::Decision;
use super::{Coordinator, Source, Work};

/// Most spent invites that are answered from memory.
const MAX_SPENT: usize = 256;

/// What becomes of a joiner's request once the value is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This was no request for a slot.
    None,
    /// It has one.
    Admitted,
    /// All are given.
    Spent,
    /// No new slot is given.
    Refused(RefusedHint),
}

impl Coordinator {
    /// Gives a joiner its slot, or finds the one that it has.
    pub(crate) fn handle_redeem(
        &mut self,
        env: &Env<'_>,
        out: &mut Outbox,
        acceptor: &Acceptor,
        from: &PublicKey,
        request: RedeemRequest,
    ) {
        let invite = request.invite.invite;
        if request.entry.identity != *from || request.verify(env.ns, env.config).is_err() {
            let outcome = RedeemOutcome::Refused(RefusedHint::Signature);
            return out.send(env, from, Message::Redeemed(RedeemAnswer { invite, outcome }));
        }
        if env.rules.spent_cached
            && let Some(outcome) = self.spent.lookup(env, &request)
        {
            return out.send(env, from, Message::Redeemed(RedeemAnswer { invite, outcome }));
        }
        let Some(view) = env.view_of(&RegisterKey::Redeem(invite)) else { return };
        if acceptor.member(env, view).is_none() {
            return out.drop(DropReason::NotReplica);
        }
        if acceptor.serving(env, view).is_none() {
            let work = Work { source: Source::Redeem { from: *from, request: Box::new(request) }, attempt: 0 };
            return self.postpone(env, out, acceptor, work);
        }
        let source = Source::Redeem { from: *from, request: Box::new(request) };
        self.start(env, out, acceptor, view, vec![Work { source, attempt: 0 }]);
    }
}

pub(super) fn decide(env: &Env<'_>, request: &RedeemRequest, top: &Top) -> Decision {
    let current = match &top.held.value {
        Some(Value::Slots(slots)) => slots.redeemed.clone(),
        Some(Value::Lease(_)) | None => Redeemed::default(),
    };
    let write = |redeemed, slot| {
        let value = Value::Slots(Slots { invite: request.invite, redeemed });
        Decision { outcome: Outcome::Released, write: Some((value, 0)), slot }
    };
    if env.rules.slot_found_again && current.slot_of(&request.entry.identity).is_some() {
        return write(current, Verdict::Admitted);
    }
    if current.entries.len() >= usize::from(request.invite.body.uses) {
        // Settled first: "spent" is believed only with the votes for a chosen value.
        return write(current, Verdict::Spent);
    }
    // Dates are judged before an append and never again: the value may be one that a later coordinator must carry on.
    if let Err(error) = request.invite.may_append(env.config, env.now.unix_s) {
        let hint = match error {
            InviteError::Expired => RefusedHint::Expired,
            InviteError::Era
            | InviteError::Authority
            | InviteError::Signature
            | InviteError::Limits
            | InviteError::NoAuthority => RefusedHint::Era,
        };
        return Decision { outcome: Outcome::Released, write: None, slot: Verdict::Refused(hint) };
    }
    let mut redeemed = current;
    redeemed.entries.push(request.entry);
    write(redeemed, Verdict::Admitted)
}

/// Chosen values that will never change again, because all slots are given.
#[derive(Debug, Default)]
pub(super) struct SpentCache {
    full: BTreeMap<PublicKey, SpentProof>,
}

impl SpentCache {
    fn lookup(&self, env: &Env<'_>, request: &RedeemRequest) -> Option<RedeemOutcome> {
        let proof = self.full.get(&request.invite.invite)?;
        let key = RegisterKey::Redeem(request.invite.invite);
        let view = env.chain.find(key.shard(env.ns, env.config), proof.incarnation, proof.view, &proof.view_hash)?;
        Some(admitted(request, proof, view).unwrap_or_else(|| RedeemOutcome::Spent(proof.clone())))
    }

    /// What the joiner is told once `votes` chose the decided value.
    pub(super) fn outcome(
        &mut self,
        env: &Env<'_>,
        scope: Scope,
        ballot: Ballot,
        request: &RedeemRequest,
        decision: Decision,
        votes: Vec<Vote>,
    ) -> RedeemOutcome {
        if let Verdict::Refused(hint) = decision.slot {
            return RedeemOutcome::Refused(hint);
        }
        let (Some((Value::Slots(slots), _)), Some(view)) = (decision.write, env.current(&scope)) else {
            return RedeemOutcome::Retry;
        };
        let (incarnation, number) = (scope.incarnation, scope.view);
        let view_hash = view.hash();
        let proof = SpentProof { redeemed: slots.redeemed, incarnation, view: number, view_hash, ballot, votes };
        if proof.redeemed.entries.len() >= usize::from(request.invite.body.uses) {
            while self.full.len() >= MAX_SPENT {
                self.full.pop_first();
            }
            self.full.insert(request.invite.invite, proof.clone());
        }
        admitted(request, &proof, view).unwrap_or(RedeemOutcome::Spent(proof))
    }
}

fn admitted(request: &RedeemRequest, chosen: &SpentProof, view: &View) -> Option<RedeemOutcome> {
    let (invite, identity) = (&request.invite.invite, &request.entry.identity);
    let proof = chosen.redeemed.proof(invite, identity, view, chosen.ballot, chosen.votes.clone())?;
    Some(RedeemOutcome::Admitted(proof))
}
