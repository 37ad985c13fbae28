use std::{
    collections::{BTreeMap, VecDeque},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RecordType},
};

use crate::{
    Answer, Config, DropReason, Event, QueryId, Question, Token, Transport,
    cache::{Cache, Fact, MAX_TTL},
    computed::computed_name,
    forwarded,
    message::{self, Received, Reply, Request},
    pending::{Added, Pending, Waiter},
    reply,
    zone::{Place, Target, Zone, normalise},
};

/// Ours: a read of the registers takes one round trip to a quorum; who has none within this will not get one, and a stub
/// resolver asks again after 5 s.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(2);

/// Ours: a resolver that has to walk from the root takes longer than our registers; still below the 5 s after which a
/// stub resolver gives up (resolv.conf(5)).
const FORWARD_PATIENCE: Duration = Duration::from_secs(4);

/// Equal but for its id: what makes two forwarded queries the same question.
type Forwarding = (Transport, Vec<u8>);

/// The DNS server of one namespace as a state machine.
///
/// Methods are getters, commands ([`set_local`](Self::set_local), [`remove_local`](Self::remove_local),
/// [`forget`](Self::forget)), inputs (`handle_*`) and outputs (`poll_*`). After each input drain the outputs.
#[derive(Debug)]
pub struct Responder {
    config: Config,
    zone: Zone,
    cache: Cache,
    resolving: Pending<Question>,
    forwarding: Pending<Forwarding>,
    next_id: u64,
    replies: VecDeque<(Token, Vec<u8>)>,
    events: VecDeque<Event>,
    drops: BTreeMap<DropReason, u64>,
}

impl Responder {
    /// A server that knows its own name and the apex of its zones.
    pub fn new(config: Config, _now: Instant) -> Self {
        Self {
            zone: Zone::new(&config),
            config,
            cache: Cache::default(),
            resolving: Pending::new(RESOLVE_PATIENCE),
            forwarding: Pending::new(FORWARD_PATIENCE),
            next_id: 0,
            replies: VecDeque::new(),
            events: VecDeque::new(),
            drops: BTreeMap::new(),
        }
    }

    /// Takes the name of this machine or of a host behind its TAP, answered from then on without asking. An address has
    /// one name; with an empty one it goes by its computed name.
    pub fn set_local(&mut self, name: &str, ip: Ipv4Addr) {
        self.cache.forget(ip);
        if self.zone.set_local(name, ip).is_err() {
            self.count(DropReason::LocalFull);
        }
    }

    /// Forgets a local address and its name.
    pub fn remove_local(&mut self, ip: Ipv4Addr) {
        self.zone.remove_local(ip);
        self.cache.forget(ip);
    }

    /// Forgets what the registers said about an address, because its owner changed.
    pub fn forget(&mut self, ip: Ipv4Addr) {
        self.cache.forget(ip);
    }

    /// Takes a query of a guest.
    pub fn handle_query(&mut self, token: Token, transport: Transport, message: &[u8], now: Instant) {
        let request = match message::receive(message, transport) {
            Received::Request(request) => *request,
            Received::Rejected(reason, bytes) => {
                self.count(reason);
                return self.replies.push_back((token, bytes));
            }
            Received::Silent(reason) => return self.count(reason),
        };
        match self.zone.locate(&request.query.name) {
            Target::Outside => self.forward(token, request, transport, message, now),
            Target::Loopback => self.send(token, &request, Some(reply::loopback(&request))),
            Target::Inside { .. } if request.query.query_type == RecordType::ANY => {
                self.count(DropReason::NotImplemented);
                self.send(token, &request, Some(Reply::error(ResponseCode::NotImp)));
            }
            Target::Inside { apex, place: Place::Ask(what) } => {
                self.resolve(Waiter { token, request, apex }, what, now);
            }
            Target::Inside { apex, place } => self.answer(&Waiter { token, request, apex }, &place, MAX_TTL),
        }
    }

    /// Takes what the registers said to [`Event::Resolve`].
    pub fn handle_resolved(&mut self, id: QueryId, answer: Answer, now: Instant) {
        let Some(waiting) = self.resolving.take(id) else {
            return self.count(DropReason::UnexpectedAnswer);
        };
        let (fact, ttl) = match self.judge(&waiting.key, answer) {
            Judged::Fact(fact, ttl) => (fact, ttl),
            Judged::Absent => {
                return waiting.waiters.iter().for_each(|waiter| self.answer(waiter, &Place::Absent, Duration::ZERO));
            }
            Judged::Failed(reason) => return self.fail(&waiting.waiters, reason),
        };
        for waiter in &waiting.waiters {
            self.answer(waiter, &place(&waiting.key, &fact, waiter), ttl);
        }
        self.cache.insert(waiting.key, fact, ttl, now);
    }

    /// Takes what the system's resolvers said to [`Event::Forward`]; `None` if they said nothing.
    pub fn handle_forwarded(&mut self, id: QueryId, reply: Option<&[u8]>, _now: Instant) {
        let Some(waiting) = self.forwarding.take(id) else {
            return self.count(DropReason::UnexpectedAnswer);
        };
        let Some(reply) = reply else {
            return self.fail(&waiting.waiters, DropReason::NotForwarded);
        };
        let Some(first) = waiting.waiters.first() else { return };
        let Some(checked) = forwarded::check(reply, &first.request.query, self.config.range) else {
            return self.fail(&waiting.waiters, DropReason::ForwardedMalformed);
        };
        if checked.rebinding > 0 {
            *self.drops.entry(DropReason::Rebinding).or_default() += checked.rebinding;
        }
        for waiter in &waiting.waiters {
            match checked.for_asker(&waiter.request, self.config.max_udp) {
                Some(bytes) => self.replies.push_back((waiter.token, bytes)),
                None => self.send(waiter.token, &waiter.request, None),
            }
        }
    }

    /// Answers what waited too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        for waiting in self.resolving.take_expired(now) {
            self.fail(&waiting.waiters, DropReason::Deadline);
        }
        for waiting in self.forwarding.take_expired(now) {
            self.fail(&waiting.waiters, DropReason::Deadline);
        }
    }

    /// The next reply to a guest.
    pub fn poll_reply(&mut self) -> Option<(Token, Vec<u8>)> {
        self.replies.pop_front()
    }

    /// The next question to others.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Responder::handle_timeout`] wants to be called, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let resolving = self.resolving.deadline().map(|at| (at, "DNS question to the registers"));
        let forwarding = self.forwarding.deadline().map(|at| (at, "DNS question to the system's resolvers"));
        [resolving, forwarding].into_iter().flatten().min()
    }

    /// What was not answered as asked, by reason.
    pub fn drops(&self) -> &BTreeMap<DropReason, u64> {
        &self.drops
    }

    /// The configuration given at the start.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn forward(&mut self, token: Token, request: Request, transport: Transport, message: &[u8], now: Instant) {
        let key = (transport, message[2..].to_vec());
        let id = QueryId(self.next_id);
        let waiter = Waiter { token, request, apex: Name::root() };
        match self.forwarding.add(key, id, waiter.clone(), now) {
            Added::First => {
                self.next_id += 1;
                self.events.push_back(Event::Forward { id, transport, message: message.to_vec() });
            }
            Added::Joined => {}
            Added::Full => self.fail(&[waiter], DropReason::TableFull),
        }
    }

    fn resolve(&mut self, waiter: Waiter, what: Question, now: Instant) {
        if let Some((fact, ttl)) = self.cache.get(&what, now) {
            let place = place(&what, fact, &waiter);
            return self.answer(&waiter, &place, ttl);
        }
        let id = QueryId(self.next_id);
        match self.resolving.add(what.clone(), id, waiter.clone(), now) {
            Added::First => {
                self.next_id += 1;
                self.events.push_back(Event::Resolve { id, what });
            }
            Added::Joined => {}
            Added::Full => self.fail(&[waiter], DropReason::TableFull),
        }
    }

    /// An answer counts only if it is one to the question.
    fn judge(&self, question: &Question, answer: Answer) -> Judged {
        match (question, answer) {
            (_, Answer::Absent) => Judged::Absent,
            (_, Answer::Unknown) => Judged::Failed(DropReason::Unknown),
            (Question::Name(_), Answer::Address { ip, ttl }) if self.zone.range().contains(&ip) => {
                Judged::Fact(Fact::Host(ip), ttl)
            }
            (Question::Address(asked), Answer::Address { ip, ttl }) if *asked == ip => {
                Judged::Fact(Fact::Holder(None), ttl)
            }
            (Question::Address(_), Answer::Name { name, ttl }) => {
                Judged::Fact(Fact::Holder(name.and_then(|name| normalise(name.as_bytes()))), ttl)
            }
            (Question::Name(_), Answer::Name { .. }) | (_, Answer::Address { .. }) => {
                Judged::Failed(DropReason::UnexpectedAnswer)
            }
        }
    }

    fn answer(&mut self, waiter: &Waiter, place: &Place, ttl: Duration) {
        let (request, apex, zone) = (&waiter.request, &waiter.apex, &self.zone);
        let reply = match place {
            Place::Apex => reply::apex(request, zone, apex),
            Place::Host(ip) => reply::host(request, zone, apex, *ip, ttl),
            Place::Pointer(label) => reply::pointer(request, zone, apex, label, ttl),
            Place::Empty => reply::empty(zone, apex),
            Place::Absent => reply::absent(zone, apex),
            Place::Ask(_) => Some(Reply::error(ResponseCode::ServFail)),
        };
        self.send(waiter.token, request, reply);
    }

    fn fail(&mut self, waiters: &[Waiter], reason: DropReason) {
        for waiter in waiters {
            self.count(reason);
            self.send(waiter.token, &waiter.request, Some(Reply::error(ResponseCode::ServFail)));
        }
    }

    /// Nobody is left without an answer: what cannot be written becomes SERVFAIL.
    fn send(&mut self, token: Token, request: &Request, reply: Option<Reply>) {
        if let Some(bytes) = reply.and_then(|reply| request.write(reply, self.config.max_udp)) {
            return self.replies.push_back((token, bytes));
        }
        self.count(DropReason::NotEncoded);
        if let Some(bytes) = request.write(Reply::error(ResponseCode::ServFail), self.config.max_udp) {
            self.replies.push_back((token, bytes));
        }
    }

    fn count(&mut self, reason: DropReason) {
        *self.drops.entry(reason).or_default() += 1;
    }
}

enum Judged {
    Fact(Fact, Duration),
    Absent,
    Failed(DropReason),
}

/// The same fact about an address is an A record under its computed name and a PTR record under `in-addr.arpa`.
fn place(question: &Question, fact: &Fact, waiter: &Waiter) -> Place {
    match (question, fact) {
        (_, Fact::Host(ip)) => Place::Host(*ip),
        (Question::Address(ip), Fact::Holder(name)) if waiter.in_reverse_zone() => {
            Place::Pointer(name.clone().unwrap_or_else(|| computed_name(*ip)))
        }
        (Question::Address(ip), Fact::Holder(_)) => Place::Host(*ip),
        (Question::Name(_), Fact::Holder(_)) => Place::Empty,
    }
}
