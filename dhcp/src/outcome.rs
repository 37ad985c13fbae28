//! What the outcome of a claim leads to.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use rand::RngExt;

use crate::{
    ClientKey, DropReason, Event, Hold, Outcome, RequestId, Server,
    claims::Closed,
    request::{Commit, Kind},
    server::Wish,
    table::{Lease, MARGIN, Pending, Phase},
};

/// A lease shorter than this has no room for T1 and T2.
const MIN_LEASE: Duration = Duration::from_secs(4);

/// Longer leases are told as this: some clients read the time as a signed number, and all ones mean "for ever".
const MAX_LEASE: Duration = Duration::from_secs(0x7fff_ffff);

/// How many grants of a resting address are turned down for one client before it hears nothing.
const MAX_TRIES: u8 = 4;

impl Server {
    /// A claim was answered.
    pub fn handle_outcome(&mut self, id: RequestId, outcome: Outcome, now: Instant) {
        let key = match self.claims.close(id) {
            Closed::Live(key) => key,
            Closed::Abandoned(key) => {
                self.count(DropReason::LateOutcome);
                return self.decline_late(key, outcome);
            }
            Closed::Unknown => return self.count(DropReason::LateOutcome),
        };
        let Some(pending) = self.table.update(&key, |client| client.pending.take()).flatten() else {
            return self.count(DropReason::LateOutcome);
        };
        let granted = match outcome {
            Outcome::Granted { ip, .. } => Some(ip),
            Outcome::Taken | Outcome::Unavailable => None,
        };
        self.settle(&key, granted);
        let handled = match outcome {
            Outcome::Granted { ip, remaining } => self.granted(&key, pending, ip, remaining, now),
            Outcome::Taken => self.taken(&key, pending, now),
            Outcome::Unavailable => Err(DropReason::Unavailable),
        };
        if let Err(reason) = handled {
            self.count(reason);
        }
    }

    /// A grant that nobody waits for goes back, unless the client has that address, or may be about to.
    fn decline_late(&mut self, client: ClientKey, outcome: Outcome) {
        let Outcome::Granted { ip, .. } = outcome else {
            return;
        };
        if self.table.holder(ip).is_some() {
            return;
        }
        let busy = self.table.get(&client).is_some_and(|client| client.pending.is_some());
        if !(busy && self.claims.keep_stray(ip, &client)) {
            self.events.push_back(Event::Release { client, ip });
        }
    }

    fn granted(
        &mut self,
        key: &ClientKey,
        pending: Pending,
        ip: Ipv4Addr,
        remaining: Duration,
        now: Instant,
    ) -> Result<(), DropReason> {
        let held = self.table.holder(ip);
        if held.is_some_and(|holder| holder != key) {
            // It is not given back: the other client uses it.
            self.count(DropReason::WrongGrant);
            return self.taken(key, pending, now);
        }
        let held = held.is_some();
        if !self.config.usable(ip) || pending.only_wanted && pending.want != Some(ip) {
            self.count(DropReason::WrongGrant);
            self.return_grant(key, ip, held);
            return self.taken(key, pending, now);
        }
        if self.quarantine.holds(ip, now) {
            self.return_grant(key, ip, held);
            return self.retry(pending, now);
        }
        let usable = remaining.saturating_sub(MARGIN).min(MAX_LEASE);
        if usable < MIN_LEASE {
            if !held {
                self.return_grant(key, ip, held);
            }
            return Err(DropReason::TooShort);
        }
        self.hold(key, &pending, ip, usable, now)
    }

    /// Gives back a grant that is of no use.
    fn return_grant(&mut self, key: &ClientKey, ip: Ipv4Addr, held: bool) {
        if held {
            self.give_back(key);
        } else {
            self.events.push_back(Event::Release { client: key.clone(), ip });
        }
    }

    /// Writes the lease down and tells the client.
    fn hold(
        &mut self,
        key: &ClientKey,
        pending: &Pending,
        ip: Ipv4Addr,
        usable: Duration,
        now: Instant,
    ) -> Result<(), DropReason> {
        let request = &pending.request;
        let commit = match request.kind {
            Kind::Discover { commit: Commit::Offered, .. } => None,
            // The claim may be that of an earlier message which could not be committed at once.
            Kind::Discover { commit: Commit::Rapid, .. } => (pending.hold == Hold::Full).then_some(Commit::Rapid),
            Kind::Select { .. } | Kind::Reboot { .. } | Kind::Renew { .. } => Some(Commit::Offered),
            Kind::Decline { .. } | Kind::Release { .. } | Kind::Inform { .. } => return Ok(()),
        };
        if self.table.lease(key).is_some_and(|old| old.ip != ip) {
            self.give_back(key);
        }
        let old = self.table.lease(key);
        let bound = commit.is_some() || old.is_some_and(|old| old.phase == Phase::Bound);
        let usable_until = now + usable;
        let lease = Lease {
            ip,
            phase: if bound { Phase::Bound } else { Phase::Offered },
            granted: now,
            usable_until,
            // What the client was told before still holds: it may not hear the reply to come.
            until: old.filter(|old| old.phase == Phase::Bound).map_or(now, |old| old.until).min(usable_until),
            xid: request.xid,
            fuzz: self.rng.random(),
        };
        self.table.update(key, |client| {
            client.lease = Some(lease);
            client.previous = None;
        });
        match commit {
            None => self.offer(request, lease, now),
            Some(commit) => self.ack(request, lease, commit, now),
        }
    }

    /// Somebody else has the address, or there is none.
    fn taken(&mut self, key: &ClientKey, pending: Pending, now: Instant) -> Result<(), DropReason> {
        let (request, want) = (pending.request, pending.want);
        self.table.update(key, |client| client.previous.take_if(|previous| Some(*previous) == want));
        if pending.only_wanted && want.is_some() && self.table.lease(key).map(|lease| lease.ip) == want {
            self.give_back(key);
            self.table.update(key, |client| client.previous = None);
        }
        if !matches!(request.kind, Kind::Discover { .. }) {
            return self.refuse(&request, "address taken");
        }
        if pending.only_wanted {
            // The claim was for a REQUEST, after which the client started over.
            let wish = Wish { want: None, only_wanted: false, hold: Hold::Offer, tries: pending.tries };
            return self.claim(request, wish, now);
        }
        Err(DropReason::NoneFree)
    }

    /// The address granted rests after a conflict: another one, or none.
    fn retry(&mut self, pending: Pending, now: Instant) -> Result<(), DropReason> {
        if !matches!(pending.request.kind, Kind::Discover { .. }) {
            return self.refuse(&pending.request, "address in use by another machine");
        }
        if pending.tries >= MAX_TRIES {
            return Err(DropReason::NoneFree);
        }
        let want = self.draw(now);
        let wish = Wish { want, only_wanted: false, hold: pending.hold, tries: pending.tries + 1 };
        self.claim(pending.request, wish, now)
    }
}
