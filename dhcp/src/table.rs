//! The clients and what they hold, with the indexes that find them by address, deadline and idleness.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use crate::{Binding, ClientKey, DropReason, Hold, RequestId, quarantine, request::Request};

/// Clients remembered. One that holds nothing gives way to a newer one.
pub(crate) const MAX_CLIENTS: usize = 4096;

/// Offers not yet taken up: with the 60 s that each stands, this bounds what a flood of made-up clients can claim.
pub(crate) const MAX_OFFERS: usize = 256;

/// How long an offer stands.
pub(crate) const OFFER: Duration = Duration::from_secs(60);

/// By how much a client's lease ends before the grant it rests on.
pub(crate) const MARGIN: Duration = Duration::from_secs(10);

/// Declines in a row after which a client has to wait: more than that is not bad luck.
const MAX_DECLINES: u8 = 4;
const DECLINE_PAUSE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Kept for the client until it has chosen.
    Offered,
    /// In use.
    Bound,
}

/// An address held for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) ip: Ipv4Addr,
    pub(crate) phase: Phase,
    pub(crate) granted: Instant,
    /// What is granted, less the margin.
    pub(crate) usable_until: Instant,
    /// When the client has to stop using it; while offered, until when the offer stands.
    pub(crate) until: Instant,
    /// The transaction that led to the address, as its REQUEST for another server's offer repeats it.
    pub(crate) xid: u32,
    /// How much of the fuzz of T1 and T2 is applied, in 1/256. Fixed, so that a repeated ACK repeats it.
    pub(crate) fuzz: u8,
}

impl Lease {
    /// When it is given back, unless something happens before.
    fn deadline(&self) -> Instant {
        match self.phase {
            Phase::Offered => self.until,
            // A client whose clock is a little slow is still done.
            Phase::Bound => self.until + MARGIN,
        }
    }

    /// What is left for the client to use.
    pub(crate) fn left(&self, now: Instant) -> Duration {
        self.usable_until.saturating_duration_since(now)
    }
}

/// A claim under way for a client.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) id: RequestId,
    pub(crate) want: Option<Ipv4Addr>,
    pub(crate) only_wanted: bool,
    pub(crate) hold: Hold,
    /// How many grants of resting addresses were turned down on the way.
    pub(crate) tries: u8,
    /// The message to be answered: the latest one.
    pub(crate) request: Request,
}

#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) mac: [u8; 6],
    pub(crate) hostname: Option<String>,
    pub(crate) lease: Option<Lease>,
    pub(crate) pending: Option<Pending>,
    /// The address it had last: it gets it again if it can.
    pub(crate) previous: Option<Ipv4Addr>,
    /// The address that was lost under it: refused until it asks for a new one.
    pub(crate) lost: Option<Ipv4Addr>,
    pub(crate) seen: Instant,
    declines: u8,
    declined: Option<Instant>,
}

impl Client {
    fn new(mac: [u8; 6], now: Instant) -> Self {
        Self {
            mac,
            hostname: None,
            lease: None,
            pending: None,
            previous: None,
            lost: None,
            seen: now,
            declines: 0,
            declined: None,
        }
    }

    pub(crate) fn note_decline(&mut self, now: Instant) {
        if self.declined.is_none_or(|at| now >= at + quarantine::REST) {
            self.declines = 0;
        }
        self.declines = self.declines.saturating_add(1);
        self.declined = Some(now);
    }

    pub(crate) fn must_wait(&self, now: Instant) -> bool {
        self.declines >= MAX_DECLINES && self.declined.is_some_and(|at| now < at + DECLINE_PAUSE)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    clients: BTreeMap<ClientKey, Client>,
    holders: BTreeMap<Ipv4Addr, ClientKey>,
    deadlines: BTreeSet<(Instant, ClientKey)>,
    /// Clients without lease and claim, the longest silent first.
    idle: BTreeSet<(Instant, ClientKey)>,
    offers: usize,
}

impl Table {
    pub(crate) fn get(&self, key: &ClientKey) -> Option<&Client> {
        self.clients.get(key)
    }

    pub(crate) fn lease(&self, key: &ClientKey) -> Option<Lease> {
        self.get(key)?.lease
    }

    pub(crate) fn holder(&self, ip: Ipv4Addr) -> Option<&ClientKey> {
        self.holders.get(&ip)
    }

    pub(crate) fn offers(&self) -> usize {
        self.offers
    }

    /// Makes room for a client, at the cost of the one that has been silent longest among those that hold nothing.
    pub(crate) fn admit(&mut self, key: &ClientKey, mac: [u8; 6], now: Instant) -> Result<(), DropReason> {
        if self.clients.contains_key(key) {
            return Ok(());
        }
        if self.clients.len() >= MAX_CLIENTS {
            let (_, silent) = self.idle.pop_first().ok_or(DropReason::ClientsFull)?;
            self.clients.remove(&silent);
        }
        let client = Client::new(mac, now);
        self.index(key, &client);
        self.clients.insert(key.clone(), client);
        Ok(())
    }

    /// Changes a client; the only way to, so that the indexes are always right. The caller has made sure that nobody
    /// else holds the address it puts into a lease.
    pub(crate) fn update<R>(&mut self, key: &ClientKey, change: impl FnOnce(&mut Client) -> R) -> Option<R> {
        let mut client = self.clients.remove(key)?;
        self.unindex(key, &client);
        let result = change(&mut client);
        self.index(key, &client);
        self.clients.insert(key.clone(), client);
        Some(result)
    }

    fn index(&mut self, key: &ClientKey, client: &Client) {
        if let Some(lease) = client.lease {
            self.holders.insert(lease.ip, key.clone());
            self.deadlines.insert((lease.deadline(), key.clone()));
            self.offers += usize::from(lease.phase == Phase::Offered);
        } else if client.pending.is_none() {
            self.idle.insert((client.seen, key.clone()));
        }
    }

    fn unindex(&mut self, key: &ClientKey, client: &Client) {
        if let Some(lease) = client.lease {
            self.holders.remove(&lease.ip);
            self.deadlines.remove(&(lease.deadline(), key.clone()));
            self.offers -= usize::from(lease.phase == Phase::Offered);
        } else if client.pending.is_none() {
            self.idle.remove(&(client.seen, key.clone()));
        }
    }

    pub(crate) fn first_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Takes the lease that ended first, if its time has come.
    pub(crate) fn pop_expired(&mut self, now: Instant) -> Option<(ClientKey, Lease)> {
        let key = self.deadlines.first().filter(|(at, _)| *at <= now).map(|(_, key)| key.clone())?;
        let lease = self.update(&key, |client| {
            client.previous = client.lease.map(|lease| lease.ip);
            client.lease.take()
        })??;
        Some((key, lease))
    }

    pub(crate) fn bindings(&self) -> impl Iterator<Item = Binding> {
        self.clients.iter().filter_map(|(key, client)| {
            let lease = client.lease.filter(|lease| lease.phase == Phase::Bound)?;
            let hostname = client.hostname.clone();
            Some(Binding { client: key.clone(), mac: client.mac, ip: lease.ip, hostname, until: lease.until })
        })
    }
}
