//! The claims under way, and those whose outcome no longer counts.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use crate::{ClientKey, DropReason, RequestId};

/// Claims that may be under way at once. A cluster of this many machines can boot together; a flood stops here.
const MAX_LIVE: usize = 256;

/// Claims remembered after they stopped to count, so that a late grant can be given back.
const MAX_ABANDONED: usize = 256;

/// Grants waiting for the claim after them; more are given back at once.
const MAX_STRAYS: usize = 256;

/// After this time a claim is taken for lost, and the client's next message makes another one. Clients repeat
/// themselves after 4, 8, 16 s (RFC 2131 §4.1), so their third try is heard.
const TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, Default)]
pub(crate) struct Claims {
    next: u64,
    /// Ordered by age, as ids are.
    live: BTreeMap<RequestId, (ClientKey, Instant)>,
    abandoned: BTreeMap<RequestId, ClientKey>,
    /// Late grants to clients that have another claim under way. That one may be granted the same address, so nothing
    /// is given back before its outcome is known: the release would hit the newer grant.
    strays: BTreeMap<Ipv4Addr, ClientKey>,
}

/// Whether an outcome is still waited for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    Live(ClientKey),
    Abandoned(ClientKey),
    Unknown,
}

impl Claims {
    pub(crate) fn open(&mut self, client: ClientKey, now: Instant) -> Result<RequestId, DropReason> {
        if self.live.len() >= MAX_LIVE {
            return Err(DropReason::ClaimsFull);
        }
        let id = RequestId(self.next);
        self.next = self.next.wrapping_add(1);
        self.live.insert(id, (client, now));
        Ok(id)
    }

    pub(crate) fn close(&mut self, id: RequestId) -> Closed {
        if let Some((client, _)) = self.live.remove(&id) {
            return Closed::Live(client);
        }
        self.abandoned.remove(&id).map_or(Closed::Unknown, Closed::Abandoned)
    }

    pub(crate) fn abandon(&mut self, id: RequestId) {
        let Some((client, _)) = self.live.remove(&id) else {
            return;
        };
        if self.abandoned.len() >= MAX_ABANDONED {
            self.abandoned.pop_first();
        }
        self.abandoned.insert(id, client);
    }

    /// Keeps a late grant until the client's claim has ended, if there is room.
    pub(crate) fn keep_stray(&mut self, ip: Ipv4Addr, client: &ClientKey) -> bool {
        let room = self.strays.len() < MAX_STRAYS;
        if room {
            self.strays.insert(ip, client.clone());
        }
        room
    }

    pub(crate) fn forget_stray(&mut self, ip: Ipv4Addr) {
        self.strays.remove(&ip);
    }

    pub(crate) fn take_strays(&mut self, client: &ClientKey) -> Vec<Ipv4Addr> {
        self.strays.extract_if(.., |_, owner| owner == client).map(|(ip, _)| ip).collect()
    }

    /// Abandons the oldest claim if it has waited too long, and says which and whose it was.
    pub(crate) fn pop_timed_out(&mut self, now: Instant) -> Option<(RequestId, ClientKey)> {
        let (id, (client, since)) = self.live.first_key_value()?;
        if now < *since + TIMEOUT {
            return None;
        }
        let (id, client) = (*id, client.clone());
        self.abandon(id);
        Some((id, client))
    }

    pub(crate) fn first_deadline(&self) -> Option<Instant> {
        self.live.first_key_value().map(|(_, (_, since))| *since + TIMEOUT)
    }
}
