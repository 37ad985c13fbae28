//! Beginning a session. The flow: 1 an attempt starts, 2 an Init goes to the addresses that may be tried, 3 a
//! cookie may come back, 4 the Resp completes it and what waited is sent.

use std::time::{Duration, Instant};

use rand_chacha::rand_core::Rng;
use snow::HandshakeState;

use crate::config::{PeerKeys, Suite};
use crate::cookie;
use crate::core::Core;
use crate::drops::DropReason;
use crate::endpoint::Endpoint;
use crate::limits::{
    ATTEMPT, COOKIE_LIFE, FIRST_RETRIES, NEED_INTERVAL, RETRY, RETRY_JITTER_MS, ROUND_TRIES, STREAM_AFTER,
};
use crate::mac::{self, MacKeys};
use crate::noise::{self, FIRST_OVERHEAD, Role};
use crate::payload::{INIT_PAYLOAD, InitPayload, MINOR, RESP_PAYLOAD, RespPayload};
use crate::peer::{Generation, Hello, Peer};
use crate::session::Session;
use crate::wire::{INIT_MIN, MAJOR, RESP, bytes_at, u32_at};

/// Where the Noise part of a Resp begins.
const RESP_NOISE: usize = 12;

/// One row of Inits.
pub(crate) struct Attempt {
    pub(crate) started: Instant,
    /// When the next Init is due.
    pub(crate) due: Instant,
    rounds: usize,
    /// Inits sent, over all addresses.
    sent: u8,
    /// Whether we have given way to the peer's own attempt; once is enough.
    pub(crate) yielded: bool,
    /// The last Init. A Resp to an earlier one is not taken: the responder keeps only its latest session.
    pub(crate) outstanding: Option<Outstanding>,
    /// Index and time of earlier Inits: a Resp to one of them says that the path is slow.
    earlier: Vec<(u32, Instant)>,
}

/// An Init that may still be answered.
pub(crate) struct Outstanding {
    noise: Box<HandshakeState>,
    pub(crate) index: u32,
    number: u64,
    mac1: [u8; 16],
    pub(crate) sent_at: Instant,
    pub(crate) sent_to: Vec<Endpoint>,
    /// The datagram, for addresses that become known while it is under way.
    init: Vec<u8>,
}

impl Attempt {
    fn new(now: Instant) -> Self {
        let outstanding = None;
        Self { started: now, due: now, rounds: 0, sent: 0, yielded: false, outstanding, earlier: Vec::new() }
    }

    /// Receiver indices that the attempt holds.
    pub(crate) fn indices(&self) -> impl Iterator<Item = u32> {
        self.outstanding.iter().map(|sent| sent.index).chain(self.earlier.iter().map(|(index, _)| *index))
    }

    pub(crate) fn ends(&self) -> Instant {
        self.started + ATTEMPT
    }
}

impl Peer {
    /// Begins to make a session, unless that is under way.
    pub(crate) fn begin(&mut self, core: &mut Core, now: Instant) {
        if self.keys.is_none() {
            self.why_down = Some("keys unknown");
            self.need(core, now);
            return;
        }
        if self.attempt.is_none() {
            self.attempt = Some(Attempt::new(now));
            self.send_init(core, now);
        }
    }

    /// New addresses are known: an attempt under way goes there at once, and a payload that waits begins one.
    pub(crate) fn restart_attempt(&mut self, core: &mut Core, now: Instant) {
        self.begin_probing(now);
        let Some(attempt) = &mut self.attempt else {
            if !self.queue.is_empty() && self.sealing().is_none() {
                self.begin(core, now);
            }
            return;
        };
        let rested = attempt.outstanding.as_ref().map_or(now, |sent| sent.sent_at + FIRST_RETRIES[0]);
        (attempt.rounds, attempt.sent) = (0, 0);
        if !attempt.yielded {
            attempt.due = attempt.due.min(rested);
        }
        if attempt.due <= now {
            self.send_init(core, now);
        } else {
            self.extend(core, now);
        }
    }

    /// The overlay has a connection with the peer: an attempt under way goes there as soon as it may.
    pub(crate) fn hasten(&mut self, now: Instant) {
        if let Some(attempt) = self.attempt.as_mut().filter(|attempt| !attempt.yielded) {
            attempt.due = attempt.due.min(now.max(attempt.started + STREAM_AFTER));
        }
    }

    /// The Init under way goes to what has become known since, too: the peer takes the first that arrives.
    fn extend(&mut self, core: &mut Core, now: Instant) {
        let Some(attempt) = self.attempt.as_ref().filter(|attempt| !attempt.yielded) else { return };
        let Some(outstanding) = &attempt.outstanding else { return };
        let init = outstanding.init.clone();
        let known = &outstanding.sent_to;
        let fresh = self.endpoints(attempt, now).into_iter().filter(|endpoint| !known.contains(endpoint)).collect();
        let sent = self.transmit_init(core, fresh, &init, now);
        if let Some(Attempt { outstanding: Some(outstanding), .. }) = &mut self.attempt {
            outstanding.sent_to.extend(sent);
        }
    }

    /// Sends an Init there, or where our own edge has to be opened first only that. Returns where it may arrive.
    fn transmit_init(&mut self, core: &mut Core, endpoints: Vec<Endpoint>, init: &[u8], now: Instant) -> Vec<Endpoint> {
        if let Some(attempt) = &mut self.attempt {
            attempt.sent = attempt.sent.saturating_add(u8::try_from(endpoints.len()).unwrap_or(u8::MAX));
        }
        let mut sent = Vec::new();
        for endpoint in endpoints {
            if let Some(addr) = endpoint.direct() {
                if self.candidates.take_opening(addr, now) {
                    core.open_edge(addr, init.to_vec());
                    continue;
                }
                self.candidates.note_try(addr, now);
            }
            core.transmit(endpoint, init.to_vec());
            sent.push(endpoint);
        }
        sent
    }

    /// Sends the Init that is due.
    pub(crate) fn send_init(&mut self, core: &mut Core, now: Instant) {
        let (Some((keys, macs)), Some(attempt)) = (self.keys, &self.attempt) else {
            return;
        };
        let addresses = self.endpoints(attempt, now);
        if addresses.is_empty() {
            self.starve(core, now);
            return;
        }
        let Some(number) = core.numbers.take() else {
            core.blocked.insert(self.id);
            return;
        };
        core.reserve();
        self.supersede(core, now);
        let Some(mut outstanding) = self.write_init(core, &keys, &macs, number, now) else {
            self.pause(core, now);
            return;
        };
        self.doubt(core, now);
        outstanding.sent_to = self.transmit_init(core, addresses, &outstanding.init, now);
        if let Some(attempt) = &mut self.attempt {
            attempt.outstanding = Some(outstanding);
        }
        self.pause(core, now);
    }

    /// Where the next Init goes. A session that works is renewed where it works; everything else is tried when
    /// that stays silent.
    fn endpoints(&self, attempt: &Attempt, now: Instant) -> Vec<Endpoint> {
        let mut endpoints: Vec<Endpoint> = self.paths.active().into_iter().collect();
        let renewing = self.sealing().is_some() && self.unanswered_since.is_none() && attempt.rounds == 0;
        if endpoints.is_empty() || !renewing {
            let first = self.candidates.open(now).map(Endpoint::Direct).chain(self.paths.relays());
            // Only where nothing else has answered in time, be it that addresses had to be asked for first: it costs the
            // peer a connection that stays.
            let waited = now >= attempt.started + STREAM_AFTER;
            for endpoint in first.chain(self.paths.stream().filter(|_| waited)) {
                if !endpoints.contains(&endpoint) {
                    endpoints.push(endpoint);
                }
            }
        }
        endpoints.truncate(usize::from(ROUND_TRIES.saturating_sub(attempt.sent)));
        endpoints
    }

    /// An Init had no answer: perhaps the peer has to open its side, or is elsewhere, and the caller knows. After several it
    /// counts as gone.
    fn doubt(&mut self, core: &mut Core, now: Instant) {
        let rounds = self.attempt.as_ref().map_or(0, |attempt| attempt.rounds);
        let working = self.sealing().is_some() && self.unanswered_since.is_none();
        if working || rounds == 0 {
            return;
        }
        if rounds >= FIRST_RETRIES.len() {
            self.why_down = Some("no answer");
            self.fall(core, "no answer");
        }
        self.need(core, now);
    }

    /// There is nowhere to send to.
    fn starve(&mut self, core: &mut Core, now: Instant) {
        if let (Some(attempt), Some(ready)) = (&mut self.attempt, self.candidates.ready(now)) {
            attempt.due = ready;
            return;
        }
        let silent = !self.candidates.is_empty() || self.paths.active().is_some();
        let reason = if silent { "no address answers" } else { "no addresses known" };
        self.why_down = Some(reason);
        if self.sealing().is_none() || self.unanswered_since.is_some() {
            self.fall(core, reason);
        }
        self.need(core, now);
        let stream = self.paths.stream().is_some();
        if let Some(attempt) = &mut self.attempt {
            let waits = stream && now < attempt.started + STREAM_AFTER;
            attempt.due = if waits { attempt.started + STREAM_AFTER } else { now + NEED_INTERVAL };
        }
    }

    /// Sets the time of the next Init.
    fn pause(&mut self, core: &mut Core, now: Instant) {
        let jitter = Duration::from_millis(u64::from(core.rng.next_u32()) % (RETRY_JITTER_MS + 1));
        if let Some(attempt) = &mut self.attempt {
            attempt.due = now + FIRST_RETRIES.get(attempt.rounds).copied().unwrap_or(RETRY + jitter);
            attempt.rounds += 1;
        }
    }

    /// Makes room for the next Init.
    fn supersede(&mut self, core: &mut Core, now: Instant) {
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        if let Some(sent) = attempt.outstanding.take() {
            attempt.earlier.push((sent.index, sent.sent_at));
        }
        if attempt.earlier.len() > FIRST_RETRIES.len() {
            let (index, _) = attempt.earlier.remove(0);
            core.indices.free(index, now);
        }
    }

    /// A Resp came to an Init that a later one has superseded. The later one gets the time that this one took, and
    /// as much again, before it is superseded in turn.
    fn handle_late_resp(&mut self, core: &mut Core, receiver: u32, resp: &[u8], now: Instant) {
        core.drop(DropReason::LateResp);
        let Some(attempt) = self.attempt.as_mut().filter(|_| core.macs.check(resp)) else {
            return;
        };
        let earlier = attempt.earlier.iter().find(|(index, _)| *index == receiver);
        if let (Some((_, sent_at)), Some(last)) = (earlier, &attempt.outstanding) {
            let took = now.saturating_duration_since(*sent_at).min(RETRY);
            attempt.due = attempt.due.max(last.sent_at + took * 2);
        }
    }

    fn write_init(
        &mut self,
        core: &mut Core,
        keys: &PeerKeys,
        macs: &MacKeys,
        number: u64,
        now: Instant,
    ) -> Option<Outstanding> {
        let prologue = noise::prologue(&core.config.namespace, &self.identity);
        let seed = core.seed();
        let mut noise = noise::initiator(&core.config.secret, &keys.x25519, &prologue, seed).ok()?;
        let payload = InitPayload {
            number,
            min_minor: MINOR,
            max_minor: MINOR,
            suites: core.config.suites.to_wire(),
            caps: [0; 4],
            instance: core.config.instance,
            credential_hash: core.config.credential_hash,
            heads: core.config.heads,
            mtu: core.config.outer_mtu,
            inline: Vec::new(),
        };
        let mut sealed = [0; FIRST_OVERHEAD + INIT_PAYLOAD];
        // Fails only where the peer's key is a point of small order.
        noise.write_message(&payload.emit(), &mut sealed).ok()?;
        let Some(index) = core.indices.allocate(self.id, &mut core.rng, now) else {
            core.drop(DropReason::NoFreeIndex);
            return None;
        };
        let mut init = Vec::with_capacity(INIT_MIN);
        init.extend_from_slice(&[1, MAJOR, 0, 0]);
        init.extend_from_slice(&index.to_be_bytes());
        init.extend_from_slice(&sealed);
        let cookie =
            self.cookie.filter(|(since, _)| now.saturating_duration_since(*since) < COOKIE_LIFE).map(|(_, c)| c);
        let mac1 = macs.seal(cookie.as_ref(), &mut init);
        Some(Outstanding { noise: Box::new(noise), index, number, mac1, sent_at: now, sent_to: Vec::new(), init })
    }

    /// A responder under load asks us to show that we receive at our address. The next Init carries the cookie; it
    /// goes out at its own time, so that a forged Cookie message makes us send nothing.
    pub(crate) fn handle_cookie(&mut self, core: &mut Core, from: Endpoint, message: &[u8], now: Instant) {
        let outstanding = self.attempt.as_ref().and_then(|attempt| attempt.outstanding.as_ref());
        let (Some((_, macs)), Some(outstanding)) = (&self.keys, outstanding) else {
            core.drop(DropReason::UnknownIndex);
            return;
        };
        let Some(cookie) = cookie::open(&macs.cookie, &outstanding.mac1, message)
            .filter(|_| outstanding.sent_to.contains(&from) && u32_at(message, 4) == outstanding.index)
        else {
            core.drop(DropReason::ForgedCookie);
            return;
        };
        self.cookie = Some((now, cookie));
        from.direct().into_iter().for_each(|addr| self.candidates.note_cookie(addr));
    }

    /// The answer to our Init. The session is up: only the peer could have made it.
    pub(crate) fn handle_resp(&mut self, core: &mut Core, from: Endpoint, receiver: u32, resp: &[u8], now: Instant) {
        let outstanding = self.attempt.as_mut().and_then(|attempt| attempt.outstanding.as_mut());
        let (Some((keys, _)), Some(outstanding)) = (self.keys, outstanding.filter(|sent| sent.index == receiver))
        else {
            self.handle_late_resp(core, receiver, resp, now);
            return;
        };
        let (payload, suite) = match read_resp(core, &keys, outstanding, resp) {
            Ok(read) => read,
            Err(reason) => {
                core.drop(reason);
                return;
            }
        };
        let keys = noise::data_keys(&mut outstanding.noise, suite, Role::Initiator);
        let rank = (outstanding.number, core.public);
        let session = Session::new(&keys, outstanding.index, u32_at(resp, 4), 0);
        let asked = outstanding.sent_to.contains(&from);
        // Its index lives on in the session.
        let index = session.index();
        self.attempt.take().iter().flat_map(Attempt::indices).filter(|held| *held != index).for_each(|held| {
            core.indices.free(held, now);
        });
        core.blocked.remove(&self.id);
        // A session that we answered meanwhile stays: the peer may have completed that one and not this.
        if asked {
            self.prove(from, now);
        } else {
            self.paths.roam(from, self.received_bytes(), resp.len() as u64, now);
        }
        let hello = Hello { heads: payload.heads, instance: payload.instance, mtu: payload.mtu };
        let generation = Generation::new(session, Role::Initiator, rank, &hello, now);
        self.establish(core, generation, hello, now);
        core.ready.insert(self.id, now);
        // The first transport packet is the proof that lets the responder send.
        self.begin_echo(core, now);
        self.begin_probing(now);
    }
}

/// Reads a Resp against the Init that it answers; a forged one leaves the handshake as it was.
fn read_resp(
    core: &Core,
    keys: &PeerKeys,
    outstanding: &mut Outstanding,
    resp: &[u8],
) -> Result<(RespPayload, Suite), DropReason> {
    if !core.macs.check(resp) || !mac::is_mac2_empty(resp) {
        return Err(DropReason::WrongMac);
    }
    let noise: [u8; RESP - RESP_NOISE - mac::MACS] = bytes_at(resp, RESP_NOISE);
    let mut payload = [0; RESP_PAYLOAD];
    outstanding.noise.read_message(&noise, &mut payload).map_err(|_| DropReason::HandshakeForged)?;
    let payload = RespPayload::parse(&payload).ok_or(DropReason::Malformed)?;
    if payload.credential_hash != keys.credential_hash {
        return Err(DropReason::WrongCredential);
    }
    if payload.minor != u16::from(MINOR) {
        return Err(DropReason::NoCommonVersion);
    }
    let suite = Suite::from_number(payload.suite)
        .filter(|suite| core.config.suites.contains(*suite))
        .ok_or(DropReason::NoCommonSuite)?;
    Ok((payload, suite))
}
