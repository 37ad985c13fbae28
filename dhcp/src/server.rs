//! The server: which message of a client leads to which claim or reply. What a claim's outcome leads to is in
//! `outcome.rs`.

use std::{
    collections::{BTreeMap, VecDeque},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    Binding, ClientKey, Config, DropReason, Event, Hold, Reply,
    claims::Claims,
    quarantine::Quarantine,
    reply::{self, Terms},
    request::{Commit, Kind, Request},
    table::{Lease, MARGIN, MAX_OFFERS, OFFER, Pending, Phase, Table},
};

/// A grant younger than this answers a repeated REQUEST by itself: the ACK was lost, not the lease.
const FRESH: Duration = Duration::from_secs(10);

/// A lease with this much left can be offered without asking; its REQUEST will ask.
const OFFERABLE: Duration = Duration::from_secs(30);

/// A client cannot ask for less, or it would ask all the time.
const MIN_ASKED: u32 = 60;

/// How often to draw an address before leaving the choice to whoever grants it.
const DRAWS: u32 = 16;

/// A DHCP server for the machines behind one TAP.
///
/// Getters; `handle_*` for what arrives; `poll_*` for what is to be done. After each `handle_*` drain the events, then
/// the replies, then look at the next timeout.
#[derive(Debug)]
pub struct Server {
    pub(crate) config: Config,
    pub(crate) table: Table,
    pub(crate) claims: Claims,
    pub(crate) quarantine: Quarantine,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) replies: VecDeque<Reply>,
    pub(crate) events: VecDeque<Event>,
    drops: BTreeMap<DropReason, u64>,
}

impl Server {
    /// Makes a server without any client. The seed feeds the fuzz of the renewal times and the choice of an address
    /// after a conflict.
    pub fn new(config: Config, seed: [u8; 32], _now: Instant) -> Self {
        Self {
            config,
            table: Table::default(),
            claims: Claims::default(),
            quarantine: Quarantine::default(),
            rng: ChaCha8Rng::from_seed(seed),
            replies: VecDeque::new(),
            events: VecDeque::new(),
            drops: BTreeMap::new(),
        }
    }

    /// The addresses in use.
    pub fn bindings(&self) -> impl Iterator<Item = Binding> {
        self.table.bindings()
    }

    /// What was refused or ignored, by reason.
    pub fn drops(&self) -> &BTreeMap<DropReason, u64> {
        &self.drops
    }

    /// A DHCP message came in a frame from `source`.
    pub fn handle_message(&mut self, source: [u8; 6], message: &[u8], now: Instant) {
        let request = match Request::parse(message) {
            Ok(request) => request,
            Err(reason) => return self.count(reason),
        };
        let handled = match request.kind {
            Kind::Discover { want, commit } => self.discover(request, want, commit, now),
            Kind::Select { ip } => self.select(request, ip, now),
            Kind::Reboot { ip } | Kind::Renew { ip } => self.reuse(request, ip, now),
            Kind::Decline { ip } => self.decline(source, &request, ip, now),
            Kind::Release { ip } => self.release(source, &request, ip),
            Kind::Inform { ip } => self.inform(&request, ip),
        };
        if let Err(reason) = handled {
            self.count(reason);
        }
    }

    /// The lease of `ip` was lost or ran out. The client learns it by a NAK to its next REQUEST.
    pub fn handle_lost(&mut self, ip: Ipv4Addr, _now: Instant) {
        self.claims.forget_stray(ip);
        let Some(key) = self.table.holder(ip).cloned() else {
            return;
        };
        self.table.update(&key, |client| {
            client.lease = None;
            client.lost = Some(ip);
            client.previous = Some(ip);
        });
    }

    /// Time has passed: offers not taken up and leases not renewed are given back, unanswered claims forgotten.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((client, lease)) = self.table.pop_expired(now) {
            self.events.push_back(Event::Release { client, ip: lease.ip });
        }
        while let Some((id, key)) = self.claims.pop_timed_out(now) {
            self.count(DropReason::ClaimTimedOut);
            self.table.update(&key, |client| client.pending.take_if(|pending| pending.id == id));
            self.settle(&key, None);
        }
    }

    /// The next message to a client.
    pub fn poll_reply(&mut self) -> Option<Reply> {
        self.replies.pop_front()
    }

    /// The next thing to do or to know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Server::handle_timeout`] is next due, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let lease = self.table.first_deadline().map(|at| (at, "an offer or a lease runs out"));
        let claim = self.claims.first_deadline().map(|at| (at, "a claim is not answered"));
        lease.into_iter().chain(claim).min()
    }

    /// RFC 2131 §4.3.1. The address is the current one, else the previous one, else the one asked for, else any.
    fn discover(
        &mut self,
        request: Request,
        want: Option<Ipv4Addr>,
        commit: Commit,
        now: Instant,
    ) -> Result<(), DropReason> {
        let known = self.table.get(&request.client);
        if known.is_some_and(|client| client.must_wait(now)) {
            return Err(DropReason::DeclineLoop);
        }
        let lease = known.and_then(|client| client.lease);
        let previous = known.and_then(|client| client.previous);
        if known.is_some_and(|client| client.pending.is_some()) {
            self.join(request, now);
            return Ok(());
        }
        if commit == Commit::Offered
            && let Some(lease) = lease.filter(|lease| lease.left(now) >= OFFERABLE)
        {
            self.meet(&request, now)?;
            return self.offer(&request, lease, now);
        }
        if lease.is_none() && self.table.offers() >= MAX_OFFERS {
            return Err(DropReason::OffersFull);
        }
        let wishes = [lease.map(|lease| lease.ip), previous, want];
        let wish = wishes.into_iter().flatten().find(|ip| self.available(*ip, now));
        // The choice of whoever grants may depend on the client alone, and so lead to the resting address again.
        let rests = wishes.into_iter().flatten().any(|ip| self.quarantine.holds(ip, now));
        let want = if wish.is_none() && rests { self.draw(now) } else { wish };
        let hold = match commit {
            Commit::Offered => Hold::Offer,
            Commit::Rapid => Hold::Full,
        };
        self.claim(request, Wish { want, only_wanted: false, hold, tries: 0 }, now)
    }

    /// RFC 2131 §4.3.2, "DHCPREQUEST generated during SELECTING state".
    fn select(&mut self, request: Request, ip: Ipv4Addr, now: Instant) -> Result<(), DropReason> {
        if request.server == Some(self.config.server) {
            return self.reuse(request, ip, now);
        }
        // The client took another server's offer. What it holds of this transaction goes back; a lease from an earlier
        // one stands until it ends, for nothing says that the client has dropped it.
        let key = &request.client;
        let chosen_against =
            self.table.lease(key).filter(|lease| lease.phase == Phase::Offered || lease.xid == request.xid);
        self.abandon(key);
        if chosen_against.is_some() {
            self.give_back(key);
        }
        Err(DropReason::OtherServer)
    }

    /// A client wants to use an address, now or still: RFC 2131 §4.3.2 and §4.3.6.
    fn reuse(&mut self, request: Request, ip: Ipv4Addr, now: Instant) -> Result<(), DropReason> {
        if request.server.is_some_and(|server| server != self.config.server) {
            return Err(DropReason::OtherServer);
        }
        let key = &request.client;
        let client = self.table.get(key);
        if client.is_some_and(|client| client.lost == Some(ip)) {
            return self.refuse(&request, "lease lost");
        }
        if !self.config.usable(ip) {
            return self.refuse(&request, "address not of this network");
        }
        if self.quarantine.holds(ip, now) {
            return self.refuse(&request, "address in use by another machine");
        }
        let pending = client.and_then(|client| client.pending.as_ref());
        if pending.is_some_and(|pending| pending.hold == Hold::Full && pending.want == Some(ip) && pending.only_wanted)
        {
            self.join(request, now);
            return Ok(());
        }
        let lease = client.and_then(|client| client.lease);
        let fresh = lease.filter(|lease| {
            lease.phase == Phase::Bound && lease.ip == ip && now < lease.granted + FRESH && lease.left(now) >= FRESH
        });
        if let Some(lease) = fresh {
            self.abandon(&request.client);
            return self.ack(&request, lease, Commit::Offered, now);
        }
        self.claim(request, Wish { want: Some(ip), only_wanted: true, hold: Hold::Full, tries: 0 }, now)
    }

    /// RFC 2131 §4.3.3. The frame has to come from the machine that got the address, or anybody could give it away.
    fn decline(&mut self, source: [u8; 6], request: &Request, ip: Ipv4Addr, now: Instant) -> Result<(), DropReason> {
        self.check_holder(source, request, ip)?;
        self.abandon(&request.client);
        self.quarantine.add(ip, now);
        self.table.update(&request.client, |client| {
            client.lease = None;
            client.previous = Some(ip);
            client.note_decline(now);
        });
        self.events.push_back(Event::Decline { client: request.client.clone(), ip });
        Ok(())
    }

    /// RFC 2131 §4.3.4.
    fn release(&mut self, source: [u8; 6], request: &Request, ip: Ipv4Addr) -> Result<(), DropReason> {
        self.check_holder(source, request, ip)?;
        self.abandon(&request.client);
        self.give_back(&request.client);
        Ok(())
    }

    fn check_holder(&self, source: [u8; 6], request: &Request, ip: Ipv4Addr) -> Result<(), DropReason> {
        if request.server.is_some_and(|server| server != self.config.server) {
            return Err(DropReason::OtherServer);
        }
        let client = self.table.get(&request.client).ok_or(DropReason::NotHolder)?;
        let holds = client.lease.is_some_and(|lease| lease.ip == ip);
        if !holds || client.mac != request.mac || source != request.mac {
            return Err(DropReason::NotHolder);
        }
        Ok(())
    }

    /// RFC 2131 §4.3.5: whether anybody leased the address is not asked.
    fn inform(&mut self, request: &Request, ip: Ipv4Addr) -> Result<(), DropReason> {
        if !self.config.usable(ip) {
            return Err(DropReason::Foreign);
        }
        self.replies.push_back(reply::inform(&self.config, request, ip)?);
        Ok(())
    }

    /// Says that the address cannot be used. The client starts over, so what was claimed for it is not waited for.
    pub(crate) fn refuse(&mut self, request: &Request, why: &str) -> Result<(), DropReason> {
        self.abandon(&request.client);
        self.replies.push_back(reply::nak(&self.config, request, why)?);
        Ok(())
    }

    /// Offers an address that is held, and lets the offer stand from now on.
    pub(crate) fn offer(&mut self, request: &Request, lease: Lease, now: Instant) -> Result<(), DropReason> {
        let reply = reply::offer(&self.config, request, lease.ip, terms(&lease, request, now))?;
        self.table.update(&request.client, |client| {
            client.lost = None;
            if let Some(lease) = client.lease.as_mut().filter(|lease| lease.phase == Phase::Offered) {
                lease.until = (now + OFFER).min(lease.usable_until + MARGIN);
                lease.xid = request.xid;
            }
        });
        self.replies.push_back(reply);
        Ok(())
    }

    /// Commits an address that is held and bound.
    pub(crate) fn ack(
        &mut self,
        request: &Request,
        lease: Lease,
        commit: Commit,
        now: Instant,
    ) -> Result<(), DropReason> {
        let terms = terms(&lease, request, now);
        let reply = reply::ack(&self.config, request, lease.ip, terms, commit)?;
        let hostname = self.table.update(&request.client, |client| {
            client.lost = None;
            client.mac = request.mac;
            client.hostname = request.hostname.clone().or(client.hostname.take());
            if let Some(lease) = &mut client.lease {
                // The client may miss this ACK and go by the one before.
                lease.until = lease.until.max(now + Duration::from_secs(terms.lease.into())).min(lease.usable_until);
                lease.xid = request.xid;
            }
            client.hostname.clone()
        });
        self.events.push_back(Event::Bound {
            client: request.client.clone(),
            mac: request.mac,
            ip: lease.ip,
            hostname: hostname.flatten(),
        });
        self.replies.push_back(reply);
        Ok(())
    }

    /// Asks for an address on behalf of the client, instead of anything asked for before.
    pub(crate) fn claim(&mut self, request: Request, wish: Wish, now: Instant) -> Result<(), DropReason> {
        self.meet(&request, now)?;
        self.abandon(&request.client);
        let id = self.claims.open(request.client.clone(), now)?;
        let Wish { want, only_wanted, hold, tries } = wish;
        self.events.push_back(Event::Claim {
            id,
            client: request.client.clone(),
            mac: request.mac,
            want,
            only_wanted,
            hold,
            hostname: request.hostname.clone(),
        });
        let key = request.client.clone();
        let pending = Pending { id, want, only_wanted, hold, tries, request };
        self.table.update(&key, |client| client.pending = Some(pending));
        Ok(())
    }

    /// Lets a repeated or newer message be the one that the outcome of the claim under way answers.
    fn join(&mut self, request: Request, now: Instant) {
        let key = request.client.clone();
        self.table.update(&key, |client| {
            client.seen = now;
            if let Some(pending) = &mut client.pending {
                pending.request = request;
            }
        });
    }

    fn meet(&mut self, request: &Request, now: Instant) -> Result<(), DropReason> {
        self.table.admit(&request.client, request.mac, now)?;
        self.table.update(&request.client, |client| client.seen = now);
        Ok(())
    }

    fn abandon(&mut self, key: &ClientKey) {
        if let Some(pending) = self.table.update(key, |client| client.pending.take()).flatten() {
            self.claims.abandon(pending.id);
            self.settle(key, None);
        }
    }

    /// The client's claim has ended, with or without a grant: its late grants of other addresses go back.
    pub(crate) fn settle(&mut self, key: &ClientKey, granted: Option<Ipv4Addr>) {
        let held = self.table.lease(key).map(|lease| lease.ip);
        for ip in self.claims.take_strays(key) {
            if granted != Some(ip) && held != Some(ip) {
                self.events.push_back(Event::Release { client: key.clone(), ip });
            }
        }
    }

    /// Gives back what the client holds.
    pub(crate) fn give_back(&mut self, key: &ClientKey) {
        let lease = self.table.update(key, |client| {
            let lease = client.lease.take();
            client.previous = lease.map(|lease| lease.ip).or(client.previous);
            lease
        });
        if let Some(lease) = lease.flatten() {
            self.events.push_back(Event::Release { client: key.clone(), ip: lease.ip });
        }
    }

    /// Whether to ask for this address at all.
    pub(crate) fn available(&self, ip: Ipv4Addr, now: Instant) -> bool {
        self.config.usable(ip) && !self.quarantine.holds(ip, now)
    }

    /// Some address of the range that nobody here holds.
    pub(crate) fn draw(&mut self, now: Instant) -> Option<Ipv4Addr> {
        let first = u32::from(self.config.subnet.network());
        let last = u32::from(self.config.subnet.broadcast());
        (0..DRAWS).find_map(|_| {
            let ip = Ipv4Addr::from(self.rng.random_range(first..=last));
            (self.available(ip, now) && self.table.holder(ip).is_none()).then_some(ip)
        })
    }

    pub(crate) fn count(&mut self, reason: DropReason) {
        *self.drops.entry(reason).or_default() += 1;
    }
}

/// What to ask for.
pub(crate) struct Wish {
    pub(crate) want: Option<Ipv4Addr>,
    pub(crate) only_wanted: bool,
    pub(crate) hold: Hold,
    pub(crate) tries: u8,
}

/// What the client is told: what is left and no more, or the shorter time it asked for. T1 and T2 are a little earlier
/// than half and seven eighths, each client's by another amount (RFC 2131 §4.4.5 wants "fuzz").
fn terms(lease: &Lease, request: &Request, now: Instant) -> Terms {
    let left = u32::try_from(lease.left(now).as_secs()).unwrap_or(u32::MAX - 1);
    let asked = request.lease.map_or(u32::MAX, |asked| asked.max(MIN_ASKED));
    let time = left.min(asked);
    let fuzz = time / 32 / 256 * u32::from(lease.fuzz) + time / 32 % 256 * u32::from(lease.fuzz) / 256;
    Terms { lease: time, renew: time / 2 - fuzz, rebind: time - time.div_ceil(8) - fuzz }
}
