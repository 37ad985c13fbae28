//! Answering a session. The flow: 1 the cheap checks, 2 the load, 3 Noise, 4 who it is, 5 whether its number is
//! fresh, 6 which of two attempts goes first, 7 the Resp. The session counts from its first datagram on, in
//! `confirm`.

use std::collections::BTreeMap;
use std::time::Instant;

use libp2p_identity::PeerId;
use snow::HandshakeState;

use crate::config::{Suite, is_usable};
use crate::core::Core;
use crate::drops::DropReason;
use crate::endpoint::Endpoint;
use crate::limits::{INIT_INTERVAL, SIMULTANEOUS, WAYS, YIELD};
use crate::load::Overload;
use crate::mac::MACS;
use crate::noise::{self, FIRST_OVERHEAD, Role, SECOND_OVERHEAD};
use crate::payload::{InitPayload, MINOR, RESP_PAYLOAD, RespPayload};
use crate::peer::{Generation, Hello, Peer, Unconfirmed};
use crate::session::Session;
use crate::wire::{MAJOR, RESP, u32_at};

/// Where the Noise part of an Init begins.
const INIT_NOISE: usize = 8;

/// An Init that Noise has accepted.
pub(crate) struct Initiation {
    noise: Box<HandshakeState>,
    pub(crate) initiator: [u8; 32],
    pub(crate) payload: InitPayload,
    sender: u32,
}

impl Core {
    /// Steps 1 to 3.
    pub(crate) fn read_init(&mut self, from: Endpoint, init: &[u8], now: Instant) -> Result<Initiation, DropReason> {
        // Answering a source that is nobody's own address would only serve an attacker.
        let addr = from.direct();
        if addr.is_some_and(|addr| addr.port() == 0 || !(addr.ip().is_loopback() || is_usable(addr))) {
            return Err(DropReason::BadSource);
        }
        if !self.macs.check(init) {
            return Err(DropReason::WrongMac);
        }
        if self.load.note_init(now) {
            // Who comes through a relay need not show that it receives there: the relay's session does.
            if let Some(addr) = addr.filter(|addr| !self.cookies.check(*addr, init, now)) {
                let cookie = self.cookies.answer(&self.macs.cookie, addr, init, &mut self.rng, now);
                self.transmit(from, cookie);
                return Err(DropReason::CookieAsked);
            }
            self.load.take(from).map_err(|overload| match overload {
                Overload::Source => DropReason::SourceRate,
                Overload::Budget => DropReason::HandshakeBudget,
            })?;
        }
        let sealed = &init[INIT_NOISE..init.len() - MACS];
        let prologue = noise::prologue(&self.config.namespace, &self.identity);
        let seed = self.seed();
        let mut noise =
            noise::responder(&self.config.secret, &prologue, seed).map_err(|_| DropReason::HandshakeForged)?;
        let mut payload = vec![0; sealed.len() - FIRST_OVERHEAD];
        noise.read_message(sealed, &mut payload).map_err(|_| DropReason::HandshakeForged)?;
        let initiator: [u8; 32] =
            noise.get_remote_static().and_then(|key| key.try_into().ok()).ok_or(DropReason::HandshakeForged)?;
        if initiator == self.public {
            return Err(DropReason::Reflected);
        }
        let payload = InitPayload::parse(&payload).ok_or(DropReason::Malformed)?;
        Ok(Initiation { noise: Box::new(noise), initiator, payload, sender: u32_at(init, 4) })
    }
}

/// Step 4: the member whose data key and credential these are. Two members may have one key certified, of which
/// only one can know the secret; the credential's hash says which one speaks.
pub(crate) fn find_initiator<'p>(
    initiation: &Initiation,
    by_key: &BTreeMap<[u8; 32], Vec<PeerId>>,
    peers: &'p mut BTreeMap<PeerId, Peer>,
) -> Result<&'p mut Peer, DropReason> {
    let candidates = by_key.get(&initiation.initiator).ok_or(DropReason::UnknownKey)?;
    let hash = initiation.payload.credential_hash;
    let id = candidates
        .iter()
        .find(|id| {
            let keys = peers.get(id).and_then(|peer| peer.keys);
            keys.is_some_and(|(keys, _)| keys.credential_hash == hash && keys.x25519 == initiation.initiator)
        })
        .ok_or(DropReason::WrongCredential)?;
    peers.get_mut(id).ok_or(DropReason::UnknownKey)
}

impl Peer {
    /// Steps 5 to 7. Changes nothing that a replayed or forged Init must not change: sessions, endpoint, queue.
    pub(crate) fn handle_init(&mut self, core: &mut Core, from: Endpoint, initiation: Initiation, now: Instant) {
        match self.try_handle_init(core, from, initiation, now) {
            Ok(resp) => core.transmit(from, resp),
            Err(reason) => core.drop(reason),
        }
    }

    fn try_handle_init(
        &mut self,
        core: &mut Core,
        from: Endpoint,
        initiation: Initiation,
        now: Instant,
    ) -> Result<Vec<u8>, DropReason> {
        let payload = &initiation.payload;
        if let Some(resp) = self.answer_again(from, &initiation) {
            return Ok(resp);
        }
        if self.numbers.is_replay(payload.number, self.last_contact, now) {
            return Err(DropReason::HandshakeReplayed);
        }
        if self.numbers.last_init().is_some_and(|last| now.saturating_duration_since(last) < INIT_INTERVAL) {
            return Err(DropReason::HandshakeTooSoon);
        }
        if !(payload.min_minor..=payload.max_minor).contains(&MINOR) {
            return Err(DropReason::NoCommonVersion);
        }
        let suite = core.config.suites.choose(payload.suites).ok_or(DropReason::NoCommonSuite)?;
        if self.ours_goes_first(core, from, now) {
            return Err(DropReason::SimultaneousStart);
        }
        self.give_way(core, now);
        self.write_resp(core, from, initiation, suite, now)
    }

    /// The same Init by another way: the first one may not lead back. The same answer goes there, too.
    fn answer_again(&mut self, from: Endpoint, initiation: &Initiation) -> Option<Vec<u8>> {
        let rank = (initiation.payload.number, initiation.initiator);
        let next = self.next.as_mut().filter(|next| next.generation.rank == rank)?;
        let another = next.from.len() < WAYS && !next.from.contains(&from);
        another.then(|| {
            next.from.push(from);
            next.resp.clone()
        })
    }

    /// Both began: for half a second the smaller key stays initiator, and the other gives way. Not longer, not anew with each
    /// Init, and only where ours went to where theirs comes from: the peer may sit behind a NAT that lets nothing of ours in.
    fn ours_goes_first(&self, core: &Core, from: Endpoint, now: Instant) -> bool {
        let (Some(attempt), Some((keys, _))) = (&self.attempt, &self.keys) else { return false };
        let fresh = now.saturating_duration_since(attempt.started) < SIMULTANEOUS;
        let met = attempt.outstanding.as_ref().is_some_and(|sent| sent.sent_to.contains(&from));
        core.public < keys.x25519 && met && fresh
    }

    /// Drops our own Init for the peer's. The attempt goes on a second later, and gives way only once, because an
    /// Init can be replayed and must not keep us from beginning.
    fn give_way(&mut self, core: &mut Core, now: Instant) {
        let smaller = self.keys.is_some_and(|(keys, _)| core.public < keys.x25519);
        let Some(attempt) = self.attempt.as_mut().filter(|attempt| !smaller && !attempt.yielded) else {
            return;
        };
        if let Some(outstanding) = attempt.outstanding.take() {
            attempt.yielded = true;
            attempt.due = now + YIELD;
            core.indices.free(outstanding.index, now);
        }
    }

    fn write_resp(
        &mut self,
        core: &mut Core,
        from: Endpoint,
        mut initiation: Initiation,
        suite: Suite,
        now: Instant,
    ) -> Result<Vec<u8>, DropReason> {
        let (_, macs) = self.keys.ok_or(DropReason::UnknownKey)?;
        let payload = RespPayload {
            suite: suite as u16,
            minor: u16::from(MINOR),
            caps: [0; 4],
            instance: core.config.instance,
            credential_hash: core.config.credential_hash,
            heads: core.config.heads,
            mtu: core.config.outer_mtu,
            flags: 0,
        };
        let mut sealed = [0; SECOND_OVERHEAD + RESP_PAYLOAD];
        initiation.noise.write_message(&payload.emit(), &mut sealed).map_err(|_| DropReason::HandshakeForged)?;
        let index = core.indices.allocate(self.id, &mut core.rng, now).ok_or(DropReason::NoFreeIndex)?;
        let mut resp = Vec::with_capacity(RESP);
        resp.extend_from_slice(&[2, MAJOR, 0, 0]);
        resp.extend_from_slice(&index.to_be_bytes());
        resp.extend_from_slice(&initiation.sender.to_be_bytes());
        resp.extend_from_slice(&sealed);
        macs.seal(None, &mut resp);

        let keys = noise::data_keys(&mut initiation.noise, suite, Role::Responder);
        let told = initiation.payload;
        let session = Session::new(&keys, index, initiation.sender, self.paths.max_payload(core.config.outer_mtu));
        let hello = Hello { heads: told.heads, instance: told.instance, mtu: told.mtu };
        let rank = (told.number, initiation.initiator);
        let generation = Generation::new(session, Role::Responder, rank, &hello, now);
        self.close_next(core, now);
        self.next = Some(Unconfirmed { generation, from: vec![from], resp: resp.clone(), hello });
        self.numbers.note_init(told.number, now);
        Ok(resp)
    }

    /// The first datagram of a session that we answered was authentic: the initiator has read our Resp. Only here
    /// does its Init take effect.
    pub(crate) fn confirm(&mut self, core: &mut Core, now: Instant) {
        let Some(next) = self.next.take() else {
            return;
        };
        self.numbers.confirm(next.generation.rank.0);
        let (was_up, endpoint) = (self.up, self.paths.active());
        match *next.from {
            [way] => self.prove(way, now),
            // Which of the answers it has read is not known: each way is asked.
            ref ways => ways.iter().for_each(|way| self.paths.begin_echo(*way, now)),
        }
        self.cancel_attempt(core, now);
        self.establish(core, next.generation, next.hello, now);
        core.ready.insert(self.id, now);
        if !was_up || endpoint != self.paths.active() {
            self.begin_echo(core, now);
        }
        self.send_echoes(core, now);
        self.begin_probing(now);
    }
}
