//! What `overlay status --json` shows; fields may be added, never renamed.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use dht::clock::Now;
use serde::{Deserialize, Serialize};
use tunnel::Endpoint;

use crate::config::{Addressing, Mode};
use crate::engine::{Engine, Event};
use crate::hosts::{Host, Origin};
use crate::recovery::RecoveringStatus;
use crate::standing::{Basis, Standing, ViewStatus};

/// A peer is listed this long after its last session.
const LISTED: Duration = Duration::from_secs(3600);

/// Where a namespace stands on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Redeeming an invite.
    Joining,
    /// A member, without an address of its own.
    Joined,
    /// Asking the register for an address.
    Claiming,
    /// With an address that the register granted.
    Bound,
    /// With an address, while the register does not answer; it ends if that goes on.
    Renewing,
    /// Without the address it had.
    Lost,
    /// Without an address, because the register does not answer.
    Partitioned,
    /// The authority has recovered what the register had lost on this machine, and nothing is granted before all old
    /// leases have run out.
    Recovering,
    /// Refused by the namespace.
    Denied,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Joining => "joining",
            Self::Joined => "joined",
            Self::Claiming => "claiming",
            Self::Bound => "bound",
            Self::Renewing => "renewing",
            Self::Lost => "lost",
            Self::Partitioned => "partitioned",
            Self::Recovering => "recovering",
            Self::Denied => "denied",
        })
    }
}

/// A replica that is silent for less than this is no news: connections come and go.
const PATIENCE: Duration = Duration::from_secs(3);

/// Whether the register answers.
pub(crate) struct Quorum {
    pub(crate) reachable: bool,
    pub(crate) why: Option<String>,
    pub(crate) since: Option<Instant>,
}

impl Quorum {
    /// When the silence becomes news, if it lasts.
    fn noticed_at(&self) -> Option<Instant> {
        self.since.filter(|_| !self.reachable).map(|since| since + PATIENCE)
    }

    fn is_silent(&self, now: Now) -> bool {
        self.noticed_at().is_some_and(|at| at <= now.mono)
    }

    pub(crate) fn poll_timeout(&self, state: State) -> Option<(Instant, &'static str)> {
        let told = matches!(state, State::Renewing | State::Partitioned | State::Recovering);
        self.noticed_at().filter(|_| !told).map(|at| (at, "the register is silent"))
    }
}

impl Default for Quorum {
    /// Nothing speaks against it yet.
    fn default() -> Self {
        Self { reachable: true, why: None, since: None }
    }
}

/// One namespace as status shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NamespaceStatus {
    /// Its name.
    pub name: String,
    /// Its identifier in full, base58.
    pub id: String,
    /// Where it stands.
    pub state: State,
    /// Why it stands there, if that needs saying.
    pub cause: Option<String>,
    /// `workstation` or `router`.
    pub mode: String,
    /// The bridge of a router's segment.
    #[serde(default)]
    pub bridge: Option<String>,
    /// The TAP device, if there is one.
    pub tap: Option<String>,
    /// The TAP's hardware address.
    pub mac: Option<String>,
    /// This node's own address.
    pub ip: Option<Ipv4Addr>,
    /// The subnet's prefix length.
    pub prefix_len: u8,
    /// This node's name.
    pub hostname: Option<String>,
    /// The DNS zone.
    pub zone: String,
    /// Where DHCP and DNS answer.
    pub dns: Ipv4Addr,
    /// What was recovered on this machine and is not served yet.
    #[serde(default)]
    pub recovering: Option<RecoveringStatus>,
    /// What is no trouble yet, and what to do about it.
    #[serde(default)]
    pub warning: Option<String>,
    /// Whether this node is a replica, or why it is none.
    #[serde(default)]
    pub candidacy: Option<String>,
    /// What stands before this machine, judged by where others see it.
    #[serde(default)]
    pub nat: Option<NatStatus>,
    /// The lease of this node's own address.
    pub lease: Option<LeaseStatus>,
    /// The replicas of the shard that the fewest losses would stop; that of this node's own address where none is worse off.
    pub view: Option<ViewStatus>,
    /// Addresses that this machine holds.
    pub hosts: Vec<HostStatus>,
    /// Machines of a router's segment that use addresses which they do not get.
    #[serde(default)]
    pub turned_away: Vec<TurnedAwayStatus>,
    /// Peers with a session in the last hour.
    pub peers: Vec<PeerStatus>,
    /// What was dropped, by reason.
    pub drops: BTreeMap<String, u64>,
}

/// The translator before this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatStatus {
    /// How it maps (RFC 4787 section 4.1): `none` (others see an address of this machine's own), `endpoint-independent`,
    /// `address-dependent` (another port for each destination; its port may matter, too), `counting` (the same, each port so far from the
    /// one before), or `unknown` (one observer cannot tell).
    pub mapping: String,
    /// From one port to the next, if it counts.
    pub step: Option<i32>,
    /// How many members say so.
    pub observers: usize,
}

/// A lease as status shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseStatus {
    /// The fencing token.
    pub token: String,
    /// How long it goes on without a renewal, seconds.
    pub remaining_s: u64,
    /// What it rests on.
    #[serde(default)]
    pub basis: Option<Basis>,
}

/// An address that this machine holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostStatus {
    /// Who uses it.
    pub mac: String,
    /// The address.
    pub ip: Ipv4Addr,
    /// Its name.
    pub hostname: Option<String>,
    /// How it came to the address: `own`, `dhcp`, `static` (it was configured with it), or `kept` (it goes on using what was
    /// leased before, though DHCP has ended or this program was started anew).
    #[serde(default)]
    pub origin: String,
    /// How long the lease goes on without a renewal, seconds.
    pub remaining_s: u64,
    /// The fencing token.
    pub token: String,
    /// What the lease rests on.
    #[serde(default)]
    pub basis: Option<Basis>,
}

/// A machine of a router's segment that uses an address which it does not get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnedAwayStatus {
    /// The machine.
    pub mac: String,
    /// The address.
    pub ip: Ipv4Addr,
    /// Why.
    pub why: String,
}

/// Another member.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its P2P id.
    pub peer_id: String,
    /// An address of its.
    pub ip: Option<Ipv4Addr>,
    /// Its name.
    pub hostname: Option<String>,
    /// `direct`, `relay`, `stream` (the overlay's connection, where UDP does not pass) or `none`.
    pub path: String,
    /// Its address on the underlay, or who carries to it.
    pub endpoint: Option<String>,
    /// The last measured round trip.
    pub rtt_ms: Option<f64>,
    /// Bytes sent to it, sealed payloads.
    pub tx_bytes: u64,
    /// Bytes received from it.
    pub rx_bytes: u64,
    /// How the translator before it maps, as far as its own addresses say, in the words of [`NatStatus::mapping`].
    #[serde(default)]
    pub nat: Option<String>,
    /// Why there is no path.
    pub why: Option<String>,
}

impl NamespaceStatus {
    /// Before the namespace is known, there is nothing but its name.
    pub fn before_joining(name: &str, id: &str, state: State, cause: Option<String>) -> Self {
        Self {
            name: name.into(),
            id: id.into(),
            state,
            cause,
            mode: "workstation".into(),
            bridge: None,
            tap: None,
            mac: None,
            ip: None,
            prefix_len: 0,
            hostname: None,
            zone: String::new(),
            dns: Ipv4Addr::UNSPECIFIED,
            recovering: None,
            warning: None,
            candidacy: None,
            nat: None,
            lease: None,
            view: None,
            hosts: Vec::new(),
            turned_away: Vec::new(),
            peers: Vec::new(),
            drops: BTreeMap::new(),
        }
    }
}

impl Engine {
    /// The engine's part of the status; the shell adds the TAP.
    pub fn status(&self, now: Now) -> NamespaceStatus {
        let own = self.hosts.own();
        let remaining = |lease: &dht::Lease| lease.usable_until.0.saturating_sub(now.owner.0).as_secs();
        let basis = |lease: &dht::Lease| self.standing.as_ref().and_then(|standing| standing.basis(&lease.key, now));
        let view = self.standing.as_ref().map(|standing| standing.view(now));
        NamespaceStatus {
            name: self.config.name.clone(),
            id: dht::sign::NamespaceId(self.config.namespace).to_string(),
            state: self.state,
            cause: self.cause(now),
            mode: mode_word(self.config.mode).into(),
            bridge: None,
            tap: None,
            mac: Some(mac_text(self.config.tap_mac)),
            ip: self.hosts.bound.iter().find(|(_, host)| host.own).map(|(ip, _)| *ip),
            prefix_len: self.config.range.prefix_len(),
            hostname: self.names.own.clone(),
            zone: self.config.zone.clone(),
            dns: self.config.service,
            recovering: self.recovering(now),
            warning: self.standing.as_ref().and_then(|standing| standing.warning(now)),
            candidacy: self.standing.as_ref().map(Standing::candidacy),
            nat: self.peers.nat(),
            lease: own.map(|host| LeaseStatus {
                token: host.lease.token.to_string(),
                remaining_s: remaining(&host.lease),
                basis: basis(&host.lease),
            }),
            view,
            hosts: self
                .hosts
                .bound
                .iter()
                .map(|(ip, host)| HostStatus {
                    mac: mac_text(host.mac),
                    ip: *ip,
                    hostname: host.name.clone(),
                    origin: origin_word(host).into(),
                    remaining_s: remaining(&host.lease),
                    token: host.lease.token.to_string(),
                    basis: basis(&host.lease),
                })
                .collect(),
            turned_away: self.segment.turned_away(now.mono),
            peers: self.peer_status(now),
            drops: self.all_drops(),
        }
    }

    fn peer_status(&self, now: Now) -> Vec<PeerStatus> {
        let recent = |at: Option<Instant>| at.is_some_and(|at| now.mono.saturating_duration_since(at) < LISTED);
        self.peers
            .known()
            .filter_map(|peer| Some((peer, self.tunnel.peer(peer, now.mono)?)))
            .filter(|(peer, view)| self.peers.is_up(peer) || recent(view.last_session) || view.why_down.is_some())
            .map(|(peer, view)| {
                let up = self.peers.is_up(peer);
                let address = self.routes.of_peer(peer);
                PeerStatus {
                    peer_id: peer.to_string(),
                    ip: address.as_ref().map(|(ip, _)| *ip),
                    hostname: address.and_then(|(_, name)| name),
                    path: if up { path_word(view.endpoint) } else { "none" }.into(),
                    endpoint: view.endpoint.filter(|_| up).map(|addr| addr.to_string()),
                    rtt_ms: view.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
                    tx_bytes: view.tx_bytes,
                    rx_bytes: view.rx_bytes,
                    nat: self.peers.mapping_of(peer).map(str::to_owned),
                    why: view.why_down.filter(|_| !up).map(str::to_owned),
                }
            })
            .collect()
    }

    fn all_drops(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        let mut add = |part: &str, reason: &str, count: u64| {
            *all.entry(format!("{part}.{reason}")).or_default() += count;
        };
        self.bridge.drops().iter().for_each(|(reason, count)| add("bridge", reason.as_str(), *count));
        self.tunnel.drops().iter().for_each(|(reason, count)| add("tunnel", reason.as_str(), *count));
        self.dhcp.drops().iter().for_each(|(reason, count)| add("dhcp", reason.as_str(), *count));
        self.dns.drops().iter().for_each(|(reason, count)| add("dns", reason.as_str(), *count));
        let dht = self.standing.iter().flat_map(|standing| &standing.summary.drops);
        dht.for_each(|(reason, count)| add("dht", reason.as_str(), *count));
        self.drops.iter().for_each(|(reason, count)| add("engine", reason, *count));
        all
    }

    /// What the user should know beyond the state's word: who does not answer, since when, and what ends when.
    fn cause(&self, now: Now) -> Option<String> {
        let recovering = self.recovering(now).map(|recovering| recovering.text());
        let silent = recovering.or_else(|| self.is_cut_off(now).then(|| self.silence(now)));
        let ours =
            || [&self.hosts.last_error, &self.hosts.clients_error, &self.names.trouble].into_iter().flatten().next();
        silent.or_else(|| ours().cloned())
    }

    /// Whether nothing can be granted or renewed: the register does not answer, or this replica is in a minority.
    fn is_cut_off(&self, now: Now) -> bool {
        self.quorum.is_silent(now) || self.standing.as_ref().is_some_and(|standing| standing.is_minority(&self.me))
    }

    fn recovering(&self, now: Now) -> Option<RecoveringStatus> {
        self.standing.as_ref().and_then(|standing| standing.recovering(now))
    }

    fn silence(&self, now: Now) -> String {
        let known = self.standing.as_ref().and_then(|standing| standing.silence(&self.me, now));
        let since = match (self.quorum.since.filter(|_| !self.quorum.reachable), &self.standing) {
            (Some(since), _) => Some(since),
            (None, Some(standing)) => standing.missed_since(&self.me),
            (None, None) => None,
        };
        let since = since.map_or(0, |since| now.mono.saturating_duration_since(since).as_secs());
        let who = known.unwrap_or_else(|| {
            let why = self.quorum.why.clone().unwrap_or_else(|| "the register does not answer".into());
            format!("{why}, for {since} s")
        });
        let ends = |own: bool| {
            let of = self.hosts.bound.values().filter(|host| host.own == own);
            of.map(|host| host.lease.usable_until.0.saturating_sub(now.owner.0).as_secs()).min()
        };
        match (ends(true), ends(false)) {
            (Some(end), _) => format!("{who}; the address ends in {end} s unless that changes"),
            (None, Some(end)) => format!("{who}; addresses in use stay, the first of them for {end} s"),
            (None, None) => format!("{who}; addresses that others use stay until their leases end"),
        }
    }

    pub(crate) fn note_state(&mut self, now: Now) {
        let next = self.current_state(now);
        if next == self.state {
            return;
        }
        self.state = next;
        let cause = self.cause(now).unwrap_or_default();
        self.emit(Event::StateChanged { state: next, cause });
    }

    fn current_state(&self, now: Now) -> State {
        let reachable = !self.is_cut_off(now);
        let recovering = self.standing.as_ref().is_some_and(|standing| standing.summary.recovering.is_some());
        match (self.config.addressing, self.hosts.own().is_some()) {
            (Addressing::Own, true) if reachable => State::Bound,
            (Addressing::Own, false) if self.hosts.left => State::Joined,
            (Addressing::Own | Addressing::Clients, _) if recovering => State::Recovering,
            (Addressing::Own, true) => State::Renewing,
            (Addressing::Own, false) if !reachable => State::Partitioned,
            (Addressing::Own, false) if self.hosts.lost => State::Lost,
            (Addressing::Own, false) => State::Claiming,
            (Addressing::Clients, _) if reachable => State::Joined,
            (Addressing::Clients, _) => State::Partitioned,
        }
    }
}

/// What a way is called.
pub(crate) fn path_word(endpoint: Option<Endpoint>) -> &'static str {
    match endpoint {
        Some(Endpoint::Direct(_)) => "direct",
        Some(Endpoint::Relayed { .. }) => "relay",
        Some(Endpoint::Stream(_)) => "stream",
        None => "none",
    }
}

fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Workstation => "workstation",
        Mode::Router => "router",
    }
}

fn origin_word(host: &Host) -> &'static str {
    match host.origin {
        Origin::Own => "own",
        Origin::Dhcp => "dhcp",
        Origin::Static => "static",
        Origin::Kept => "kept",
    }
}

pub(crate) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
