//! A server, a stand-in for the register that grants, and a client made of `dhcproto`, in virtual time.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use dhcproto::{
    Decodable, Decoder, Encodable,
    v4::{DhcpOption, Message, MessageType, OptionCode},
};

use crate::{ClientKey, Config, Destination, DropReason, Event, Hold, Outcome, Reply, RequestId, Server};

pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);
/// No address at all.
pub(crate) const NONE: [Ipv4Addr; 0] = [];
pub(crate) const LEASE: Duration = Duration::from_secs(86_400);

pub(crate) fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 64, 0, last)
}

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[expect(clippy::disallowed_methods, reason = "a test needs one real instant as origin")]
pub(crate) fn origin() -> Instant {
    Instant::now()
}

pub(crate) fn config() -> Config {
    Config {
        server: SERVER,
        subnet: "10.64.0.0/16".parse().unwrap(),
        dns: SERVER,
        domain: "lab.internal".to_owned(),
        search: vec!["lab.internal".to_owned()],
        mtu: 1400,
    }
}

/// How the register behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Register {
    Answers,
    /// Claims stay open until the test answers them.
    Waits,
    NoQuorum,
}

pub(crate) struct Lab {
    pub(crate) server: Server,
    pub(crate) now: Instant,
    pub(crate) register: Register,
    pub(crate) owners: BTreeMap<Ipv4Addr, ClientKey>,
    /// Claims and other events since the last look, in their order.
    pub(crate) events: Vec<Event>,
    /// The last bytes of the addresses to choose from when the choice is the register's: it takes the first free one.
    pub(crate) pool: std::ops::Range<u8>,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self::with(config())
    }

    pub(crate) fn with(config: Config) -> Self {
        let now = origin();
        Self {
            server: Server::new(config, [1; 32], now),
            now,
            register: Register::Answers,
            owners: BTreeMap::new(),
            events: Vec::new(),
            pool: 2..255,
        }
    }

    /// Somebody elsewhere owns the address.
    pub(crate) fn occupy(&mut self, ip: Ipv4Addr) {
        self.owners.insert(ip, ClientKey::from_identifier(b"\0somebody else"));
    }

    pub(crate) fn send(&mut self, host: &Host, message: &Message) -> Vec<Reply> {
        self.send_bytes(host.mac, &message.to_vec().unwrap())
    }

    pub(crate) fn send_bytes(&mut self, source: [u8; 6], message: &[u8]) -> Vec<Reply> {
        self.server.handle_message(source, message, self.now);
        self.drain()
    }

    pub(crate) fn answer(&mut self, id: RequestId, outcome: Outcome) -> Vec<Reply> {
        self.server.handle_outcome(id, outcome, self.now);
        self.drain()
    }

    pub(crate) fn lose(&mut self, ip: Ipv4Addr) {
        self.owners.remove(&ip);
        self.server.handle_lost(ip, self.now);
        assert_eq!(self.drain(), []);
    }

    /// Lets time pass, stopping at each timeout.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((at, _)) = self.server.poll_timeout().filter(|(at, _)| *at <= end) {
            assert!(at >= self.now, "a timeout lies ahead");
            self.now = at;
            self.server.handle_timeout(at);
            self.drain();
            assert!(self.server.poll_timeout().is_none_or(|(next, _)| next > at), "a timeout is done with");
        }
        self.now = end;
    }

    fn drain(&mut self) -> Vec<Reply> {
        while let Some(event) = self.server.poll_event() {
            self.events.push(event.clone());
            self.act(event);
        }
        std::iter::from_fn(|| self.server.poll_reply()).collect()
    }

    fn act(&mut self, event: Event) {
        match event {
            Event::Claim { id, client, want, only_wanted, hold, .. } => {
                let outcome = match self.register {
                    Register::Waits => return,
                    Register::NoQuorum => Outcome::Unavailable,
                    Register::Answers => self.grant(&client, want, only_wanted, hold),
                };
                self.server.handle_outcome(id, outcome, self.now);
            }
            Event::Release { client, ip } | Event::Decline { client, ip } => {
                if self.owners.get(&ip) == Some(&client) {
                    self.owners.remove(&ip);
                }
            }
            Event::Bound { .. } => {}
        }
    }

    fn grant(&mut self, client: &ClientKey, want: Option<Ipv4Addr>, only_wanted: bool, hold: Hold) -> Outcome {
        let free = |ip: &Ipv4Addr| self.owners.get(ip).is_none_or(|owner| owner == client);
        let chosen = want.filter(free).or_else(|| {
            let mut any = self.pool.clone().map(ip).filter(free);
            if only_wanted { None } else { any.next() }
        });
        let Some(ip) = chosen else {
            return Outcome::Taken;
        };
        self.owners.insert(ip, client.clone());
        Outcome::Granted { ip, remaining: if hold == Hold::Offer { secs(60) } else { LEASE } }
    }

    /// The events since the last look.
    pub(crate) fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The claims since the last look.
    pub(crate) fn claims(&mut self) -> Vec<(RequestId, Option<Ipv4Addr>, bool, Hold)> {
        let claim = |event| match event {
            Event::Claim { id, want, only_wanted, hold, .. } => Some((id, want, only_wanted, hold)),
            Event::Bound { .. } | Event::Release { .. } | Event::Decline { .. } => None,
        };
        self.events().into_iter().filter_map(claim).collect()
    }

    pub(crate) fn only_claim(&mut self) -> RequestId {
        let claims = self.claims();
        assert_eq!(claims.len(), 1, "one claim");
        claims[0].0
    }

    /// The addresses given back since the last look.
    pub(crate) fn released(&mut self) -> Vec<Ipv4Addr> {
        let release = |event| match event {
            Event::Release { ip, .. } => Some(ip),
            Event::Bound { .. } | Event::Claim { .. } | Event::Decline { .. } => None,
        };
        self.events().into_iter().filter_map(release).collect()
    }

    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.server.drops().get(&reason).copied().unwrap_or(0)
    }

    /// The whole exchange; the address.
    pub(crate) fn bind(&mut self, host: &Host) -> Ipv4Addr {
        let offer = reply(&self.send(host, &host.discover()));
        assert_eq!(kind(&offer), MessageType::Offer);
        let ack = reply(&self.send(host, &host.select(offer.yiaddr())));
        assert_eq!(kind(&ack), MessageType::Ack);
        ack.yiaddr()
    }

    pub(crate) fn bound(&self) -> Vec<Ipv4Addr> {
        self.server.bindings().map(|binding| binding.ip).collect()
    }
}

pub(crate) fn kind(message: &Message) -> MessageType {
    message.opts().msg_type().unwrap()
}

/// The only reply, as a client of another make reads it.
pub(crate) fn reply(replies: &[Reply]) -> Message {
    let [reply] = replies else {
        panic!("one reply, not {replies:?}");
    };
    Message::decode(&mut Decoder::new(&reply.message)).unwrap()
}

pub(crate) fn to(replies: &[Reply]) -> Destination {
    let [reply] = replies else {
        panic!("one reply, not {replies:?}");
    };
    reply.to
}

pub(crate) fn seconds(message: &Message, code: OptionCode) -> Option<u32> {
    let option = message.opts().get(code)?;
    let (DhcpOption::AddressLeaseTime(time) | DhcpOption::Renewal(time) | DhcpOption::Rebinding(time)) = option else {
        panic!("no time: {option:?}");
    };
    Some(*time)
}

#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) mac: [u8; 6],
    pub(crate) identifier: Option<Vec<u8>>,
    pub(crate) xid: u32,
}

impl Host {
    pub(crate) fn new(last: u8) -> Self {
        Self { mac: [2, 0, 0, 0, 0, last], identifier: None, xid: 0x1000 + u32::from(last) }
    }

    pub(crate) fn identified(last: u8, identifier: &[u8]) -> Self {
        Self { identifier: Some(identifier.to_vec()), ..Self::new(last) }
    }

    pub(crate) fn key(&self) -> ClientKey {
        let by_mac = || ClientKey::from_ethernet(self.mac);
        self.identifier.as_deref().map_or_else(by_mac, ClientKey::from_identifier)
    }

    pub(crate) fn message(&self, kind: MessageType) -> Message {
        let zero = Ipv4Addr::UNSPECIFIED;
        let mut message = Message::new_with_id(self.xid, zero, zero, zero, zero, &self.mac);
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        if let Some(identifier) = &self.identifier {
            message.opts_mut().insert(DhcpOption::ClientIdentifier(identifier.clone()));
        }
        message
    }

    pub(crate) fn discover(&self) -> Message {
        self.message(MessageType::Discover)
    }

    pub(crate) fn rapid(&self) -> Message {
        with(self.discover(), DhcpOption::RapidCommit)
    }

    pub(crate) fn select(&self, ip: Ipv4Addr) -> Message {
        with(self.reboot(ip), DhcpOption::ServerIdentifier(SERVER))
    }

    pub(crate) fn reboot(&self, ip: Ipv4Addr) -> Message {
        with(self.message(MessageType::Request), DhcpOption::RequestedIpAddress(ip))
    }

    pub(crate) fn renew(&self, ip: Ipv4Addr) -> Message {
        let mut message = self.message(MessageType::Request);
        message.set_ciaddr(ip);
        message
    }

    pub(crate) fn decline(&self, ip: Ipv4Addr) -> Message {
        let message = with(self.message(MessageType::Decline), DhcpOption::ServerIdentifier(SERVER));
        with(message, DhcpOption::RequestedIpAddress(ip))
    }

    pub(crate) fn release(&self, ip: Ipv4Addr) -> Message {
        let mut message = with(self.message(MessageType::Release), DhcpOption::ServerIdentifier(SERVER));
        message.set_ciaddr(ip);
        message
    }

    pub(crate) fn inform(&self, ip: Ipv4Addr) -> Message {
        let mut message = self.message(MessageType::Inform);
        message.set_ciaddr(ip);
        message
    }
}

pub(crate) fn with(mut message: Message, option: DhcpOption) -> Message {
    message.opts_mut().insert(option);
    message
}
