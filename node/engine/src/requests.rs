//! What the command line asks a running engine: lookup, ping, invite, recover, leave.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use dht::clock::Now;
use dht::{Command, Contact, LeaseKey, Role};
use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};

use crate::engine::{Engine, Event, Pending};
use crate::recovery::Recovery;
use crate::status::path_word;

/// Requests under way.
const MAX_REQUESTS: usize = 64;
/// A request without an answer ends here.
const DEADLINE: Duration = Duration::from_secs(5);
/// Replicas are given time to answer, even those that have to be dialled.
const RECOVERING: Duration = Duration::from_secs(15);
/// Whoever leaves waits until others have taken over what it held for all.
const LEAVING: Duration = Duration::from_secs(20);

/// Ties a reply to its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What the command line asks.
#[derive(Clone, Debug)]
pub enum Request {
    /// Who owns this address or name?
    Lookup {
        /// An address, or a host name without the zone.
        what: String,
    },
    /// One round trip to whoever owns this address or name.
    Ping {
        /// An address, or a host name without the zone.
        what: String,
    },
    /// Make an invite.
    Invite {
        /// How many may use it.
        uses: u16,
        /// How long.
        ttl: Duration,
        /// What they may be.
        role: Role,
        /// How many addresses a router may claim.
        hosts: u16,
        /// Where to find us.
        contacts: Vec<Contact>,
    },
    /// Put this machine in the place of replicas that are lost for good.
    Recover {
        /// Also where a quorum answers.
        all: bool,
        /// Whether to do it, or only to tell.
        confirmed: bool,
    },
    /// Give back every lease, and one's places among the replicas.
    Leave,
    /// The process is about to stop: see to it that enough replicas remain.
    HandOver,
}

/// The view that decides about an address, as `overlay lookup` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerView {
    /// Its number.
    pub number: u64,
    /// The shard that it decides about.
    pub shard: u16,
    /// The P2P ids of its replicas.
    pub members: Vec<String>,
}

impl OwnerView {
    fn of(deciders: &dht::Deciders) -> Self {
        let members = deciders.members.iter().map(ToString::to_string).collect();
        Self { number: deciders.view, shard: deciders.shard, members }
    }
}

/// What the command line is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Who owns it.
    Owner {
        /// The address.
        ip: Ipv4Addr,
        /// The owner's P2P id.
        peer_id: String,
        /// Its name, if it has one.
        hostname: Option<String>,
        /// The fencing token.
        token: String,
        /// How long the lease goes on, as far as known.
        remaining_s: u64,
        /// Who decides about the address.
        view: OwnerView,
    },
    /// An answer to a ping.
    Pong {
        /// Who answered.
        peer_id: String,
        /// At which address.
        ip: Ipv4Addr,
        /// `direct` or `relay`.
        path: String,
        /// The peer's address on the underlay, or who carries to it.
        endpoint: Option<String>,
        /// The round trip.
        rtt_ms: f64,
    },
    /// No answer to a ping.
    NoPong {
        /// Whom we asked, if anybody owns the address.
        peer_id: Option<String>,
        /// `direct`, `relay` or `none`.
        path: String,
        /// Why there was none.
        why: String,
    },
    /// The invite.
    Token(String),
    /// What is recovered, or would be.
    Recovery(Recovery),
    /// All leases are given back.
    Left,
    /// The process may stop: enough replicas remain, or none can be had.
    HandedOver,
    /// It could not be done.
    Failed(String),
}

struct Waiting {
    kind: Waits,
    until: Instant,
}

enum Waits {
    Lookup,
    PingResolve,
    Pong { peer: PeerId, ip: Ipv4Addr, sent: Instant },
    Invite,
    Recover,
    Leave,
    HandOver,
}

/// Requests under way.
#[derive(Default)]
pub(crate) struct Requests {
    waiting: BTreeMap<RequestId, Waiting>,
}

impl Requests {
    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.waiting.values().map(|waiting| (waiting.until, "a request ends")).min()
    }
}

impl Engine {
    /// A request of the command line; its answer comes as [`Event::Reply`].
    pub fn handle_request(&mut self, id: RequestId, request: Request, now: Now) {
        if self.requests.waiting.len() >= MAX_REQUESTS {
            self.reply(id, Reply::Failed("too many requests at once; try again in a few seconds".into()));
        } else {
            self.begin(id, request, now);
        }
        self.handle_timeout(now);
    }

    fn begin(&mut self, id: RequestId, request: Request, now: Now) {
        let pending = Pending::Request { id };
        let given = match request {
            Request::Lookup { what } => {
                self.wait(id, Waits::Lookup, now);
                self.resolve_for_request(pending, &what)
            }
            Request::Ping { what } => {
                self.wait(id, Waits::PingResolve, now);
                self.resolve_for_request(pending, &what)
            }
            Request::Invite { uses, ttl, role, hosts, contacts } => {
                self.wait(id, Waits::Invite, now);
                self.command(pending, |id| Command::Invite { id, uses, ttl, role, hosts, contacts })
            }
            Request::Recover { all, confirmed } => {
                self.wait(id, Waits::Recover, now);
                self.command(pending, |id| Command::Recover { id, all, confirmed })
            }
            Request::Leave => {
                // Before anything is given back: the next owner may have it long before the register's last answer.
                self.stop_using_all(now);
                self.wait(id, Waits::Leave, now);
                self.command(pending, |id| Command::Leave { id })
            }
            Request::HandOver => {
                self.wait(id, Waits::HandOver, now);
                self.command(pending, |id| Command::HandOver { id })
            }
        };
        if !given {
            self.requests.waiting.remove(&id);
            self.reply(id, Reply::Failed("the register is busy; try again in a few seconds".into()));
        }
    }

    fn wait(&mut self, id: RequestId, kind: Waits, now: Now) {
        let patience = match kind {
            Waits::Leave | Waits::HandOver => LEAVING,
            Waits::Recover => RECOVERING,
            Waits::Lookup | Waits::PingResolve | Waits::Pong { .. } | Waits::Invite => DEADLINE,
        };
        self.requests.waiting.insert(id, Waiting { kind, until: now.mono + patience });
    }

    fn resolve_for_request(&mut self, pending: Pending, what: &str) -> bool {
        let key = what.parse::<Ipv4Addr>().map(LeaseKey::Address).unwrap_or_else(|_| {
            let name = what.trim_end_matches('.').to_ascii_lowercase();
            let label = name.strip_suffix(&format!(".{}", self.config.zone)).unwrap_or(&name);
            LeaseKey::Name(label.to_owned())
        });
        self.command(pending, |id| Command::LookUp { id, key })
    }

    pub(crate) fn request_resolved(&mut self, id: RequestId, outcome: dht::Resolution, now: Now) {
        let Some(waiting) = self.requests.waiting.remove(&id) else { return };
        let (ip, owner, name, token, remaining, deciders) = match outcome {
            dht::Resolution::Found { ip, owner, name, token, remaining, deciders, certificate: _ } => {
                (ip, owner, name, token, remaining, deciders)
            }
            dht::Resolution::Absent => return self.reply(id, self.nobody(&waiting.kind)),
            dht::Resolution::Unknown => return self.reply(id, self.unreachable(&waiting.kind)),
        };
        match waiting.kind {
            Waits::PingResolve if owner == self.me => {
                let (path, endpoint) = ("direct".to_owned(), None);
                self.reply(id, Reply::Pong { peer_id: owner.to_string(), ip, path, endpoint, rtt_ms: 0.0 });
            }
            Waits::PingResolve => {
                self.wait(id, Waits::Pong { peer: owner, ip, sent: now.mono }, now);
                self.send_ping(owner, id.0, now);
            }
            Waits::Lookup | Waits::Pong { .. } | Waits::Invite | Waits::Recover | Waits::Leave | Waits::HandOver => {
                let reply = Reply::Owner {
                    ip,
                    peer_id: owner.to_string(),
                    hostname: name,
                    token: token.to_string(),
                    remaining_s: remaining.as_secs(),
                    view: OwnerView::of(&deciders),
                };
                self.reply(id, reply);
            }
        }
    }

    fn nobody(&self, kind: &Waits) -> Reply {
        let why = "nobody has leased it".to_owned();
        match kind {
            Waits::PingResolve => Reply::NoPong { peer_id: None, path: "none".into(), why },
            Waits::Lookup | Waits::Pong { .. } | Waits::Invite | Waits::Recover | Waits::Leave | Waits::HandOver => {
                Reply::Failed(why)
            }
        }
    }

    fn unreachable(&self, kind: &Waits) -> Reply {
        let replica = self.quorum.why.clone().unwrap_or_else(|| "no answer in time".into());
        let why = format!("the register could not be asked: {replica}");
        match kind {
            Waits::PingResolve => Reply::NoPong { peer_id: None, path: "none".into(), why },
            Waits::Lookup | Waits::Pong { .. } | Waits::Invite | Waits::Recover | Waits::Leave | Waits::HandOver => {
                Reply::Failed(why)
            }
        }
    }

    pub(crate) fn ponged(&mut self, from: PeerId, number: u64, now: Now) {
        let id = RequestId(number);
        let matches = |waiting: &Waiting| matches!(waiting.kind, Waits::Pong { peer, .. } if peer == from);
        if !self.requests.waiting.get(&id).is_some_and(matches) {
            return self.count("stray-pong");
        }
        let Some(Waiting { kind: Waits::Pong { peer, ip, sent }, .. }) = self.requests.waiting.remove(&id) else {
            return;
        };
        let endpoint = self.tunnel.peer(&peer, now.mono).and_then(|view| view.endpoint);
        let path = path_word(endpoint).to_owned();
        let endpoint = endpoint.map(|endpoint| endpoint.to_string());
        let rtt_ms = now.mono.saturating_duration_since(sent).as_secs_f64() * 1000.0;
        self.reply(id, Reply::Pong { peer_id: peer.to_string(), ip, path, endpoint, rtt_ms });
    }

    pub(crate) fn invited(&mut self, command: u64, outcome: Result<String, dht::InviteError>) {
        let Some(Pending::Request { id }) = self.pending.remove(&command) else { return };
        self.requests.waiting.remove(&id);
        let reply = match outcome {
            Ok(token) => Reply::Token(token),
            Err(error) => Reply::Failed(error.to_string()),
        };
        self.reply(id, reply);
    }

    pub(crate) fn recovered(&mut self, command: u64, outcome: Result<dht::RecoveryPlan, dht::RecoverError>) {
        let Some(Pending::Request { id }) = self.pending.remove(&command) else { return };
        self.requests.waiting.remove(&id);
        let reply = match outcome {
            Ok(plan) => Reply::Recovery(plan.into()),
            Err(error) => Reply::Failed(error.to_string()),
        };
        self.reply(id, reply);
    }

    fn stop_using_all(&mut self, now: Now) {
        self.hosts.leave();
        self.names.leave();
        let held: Vec<Ipv4Addr> = self.hosts.leases.keys().copied().collect();
        for ip in held {
            self.unbind(ip, "left the namespace", now);
        }
    }

    pub(crate) fn left(&mut self, command: u64, now: Now) {
        self.stop_using_all(now);
        self.tunnel.erase_all(now.mono);
        if let Some(Pending::Request { id }) = self.pending.remove(&command) {
            self.requests.waiting.remove(&id);
            self.reply(id, Reply::Left);
        }
    }

    pub(crate) fn handed_over(&mut self, command: u64) {
        if let Some(Pending::Request { id }) = self.pending.remove(&command) {
            self.requests.waiting.remove(&id);
            self.reply(id, Reply::HandedOver);
        }
    }

    pub(crate) fn expire_requests(&mut self, now: Now) {
        while let Some(id) =
            self.requests.waiting.iter().find(|(_, waiting)| waiting.until <= now.mono).map(|(id, _)| *id)
        {
            let Some(waiting) = self.requests.waiting.remove(&id) else { return };
            let reply = match waiting.kind {
                Waits::Pong { peer, .. } => self.no_pong(peer, now),
                Waits::PingResolve => self.unreachable(&waiting.kind),
                Waits::Lookup | Waits::Invite | Waits::Recover | Waits::Leave | Waits::HandOver => {
                    self.unreachable(&Waits::Lookup)
                }
            };
            self.reply(id, reply);
        }
    }

    fn no_pong(&self, peer: PeerId, now: Now) -> Reply {
        let view = self.tunnel.peer(&peer, now.mono);
        let endpoint = view.as_ref().and_then(|view| view.endpoint);
        let up = self.peers.is_up(&peer);
        let why = view.and_then(|view| view.why_down).filter(|_| !up).unwrap_or(if up {
            "the peer did not answer within 5 s"
        } else {
            "neither an address of the peer answered nor a relay that both reach: is UDP blocked on one side?"
        });
        let path = if up { path_word(endpoint) } else { "none" };
        Reply::NoPong { peer_id: Some(peer.to_string()), path: path.into(), why: why.into() }
    }

    fn reply(&mut self, id: RequestId, reply: Reply) {
        self.emit(Event::Reply { id, reply });
    }
}
