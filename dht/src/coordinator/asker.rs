//! Whose operations are run: what the invite of their owner allows.

use crate::acceptor::Acceptor;
use crate::command::LeaseKey;
use crate::config::PinKey;
use crate::env::Env;
use crate::identity::PublicKey;
use crate::message::RefusedOp;
use crate::record::{OpKind, RegisterKey, SignedOp, Value};

/// What a coordinator knows of an operation's owner.
#[derive(Debug)]
pub(crate) struct Owner {
    /// Whom the connection proved.
    pub(crate) identity: PublicKey,
    /// The serial of its membership.
    pub(crate) serial: [u8; 16],
    /// The addresses it may hold.
    pub(crate) addresses: usize,
    /// The names it may hold.
    pub(crate) names: usize,
    /// The invite whose register must name it, unless it founded the namespace.
    pub(crate) invite: Option<PublicKey>,
}

impl Owner {
    /// Whether its operation is run at all. A release always is: it gives something back.
    pub(super) fn may(&self, env: &Env<'_>, acceptor: &Acceptor, op: &SignedOp) -> Result<(), RefusedOp> {
        if op.op.kind == OpKind::Release {
            return Ok(());
        }
        let (claimable, pin, quota) = match &op.op.key {
            LeaseKey::Address(ip) => (env.config.is_claimable(*ip), PinKey::Address(*ip), self.addresses),
            LeaseKey::Name(name) => (!env.config.is_reserved_name(name), PinKey::Name(name.clone()), self.names),
        };
        if !claimable || env.config.pinned_to(&pin).is_some_and(|serial| serial != self.serial) {
            return Err(RefusedOp::NotClaimable);
        }
        // The register of its invite is the truth about an admission: a proof that a former quorum signed late buys
        // nothing.
        if let Some(invite) = self.invite
            && let Some(Value::Slots(slots)) = acceptor.peek(env, &RegisterKey::Redeem(invite))
            && slots.redeemed.slot_of(&self.identity).is_none()
        {
            return Err(RefusedOp::NotAdmitted);
        }
        if acceptor.held_count(env, &self.identity, &op.op.key) >= quota {
            return Err(RefusedOp::Quota);
        }
        Ok(())
    }
}
