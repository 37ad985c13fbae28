//! What those are told who asked for a round.

use crate::acceptor::Acceptor;
use crate::ballot::Ballot;
use crate::certificate::LeaseCert;
use crate::codec::Wire;
use crate::env::{Env, Outbox};
use crate::message::{Message, OpResult, Outcome};
use crate::record::{RegisterKey, Scope, Value};
use crate::redeem::{RedeemAnswer, RedeemOutcome};
use crate::view::Vote;

use super::{Decision, Source, Work};

/// Nothing was decided: the asker may try elsewhere.
pub(super) fn give_up(env: &Env<'_>, out: &mut Outbox, acceptor: &Acceptor, (scope, heard): (Scope, u8), work: Work) {
    match work.source {
        Source::Op(op) => {
            let members = env.chain.newest(scope.shard).map_or(0, |view| view.members.len());
            let silent = (0u8..).take(members).filter(|index| heard >> index & 1 == 0).collect();
            let (op_seq, nonce) = (op.op.op_seq, op.op.nonce);
            let key = RegisterKey::Lease(op.op.key.clone());
            let items = vec![OpResult { op_seq, nonce, key, outcome: Outcome::Retry { silent } }];
            out.send(env, &op.owner, acceptor.results(scope, items));
        }
        Source::Redeem { from, request } => {
            let answer = RedeemAnswer { invite: request.invite.invite, outcome: RedeemOutcome::Retry };
            out.send(env, &from, Message::Redeemed(answer));
        }
        Source::Settle(_) => {}
    }
}

/// What the owner is told.
pub(super) fn outcome(env: &Env<'_>, scope: Scope, ballot: Ballot, decision: Decision, votes: Vec<Vote>) -> Outcome {
    let (Outcome::Granted(_), Some((Value::Lease(record), _))) = (&decision.outcome, &decision.write) else {
        return decision.outcome;
    };
    let Some(view) = env.current(&scope) else { return Outcome::Retry { silent: Vec::new() } };
    let record = record.clone();
    let cert = LeaseCert { record, incarnation: scope.incarnation, ballot, view_hash: view.hash(), votes };
    Outcome::Granted(cert.to_bytes())
}
