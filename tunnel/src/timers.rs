//! What happens by time alone. Counters of the sessions are sampled once a second, so that the fast path needs
//! no clock; a second is as exact as these timers are.

use std::time::{Duration, Instant};

use crate::control::Control;
use crate::core::Core;
use crate::endpoint::Endpoint;
use crate::limits::{
    DIRECT_RETRY, KEEPALIVE_AFTER, LARGE, MISSED, REFUSE_AFTER, REKEY_AFTER, REKEY_RESPONDER_AFTER, SAMPLE,
    SEAL_MARGIN, SPARE_EVERY, STOPPED, SUSPECT_AFTER, UNANSWERED_AFTER, UNCONFIRMED,
};
use crate::noise::Role;
use crate::peer::{Generation, Peer};
use crate::session::Counters;

impl Peer {
    /// The earliest thing to do, and what it is.
    pub(crate) fn next_deadline(&self, core: &Core) -> Option<(Instant, &'static str)> {
        let attempt = self.attempt.as_ref();
        let blocked = core.blocked.contains(&self.id);
        let unanswered = self.unanswered_since.filter(|_| attempt.is_none());
        let sealing = self.generations().filter(|generation| !generation.retired);
        [
            attempt.filter(|_| !blocked).map(|attempt| (attempt.due, "send an Init")),
            attempt.map(|attempt| (attempt.ends(), "give up the handshake")),
            self.queue.deadline().map(|at| (at, "drop what waited too long")),
            self.trust.deadline().map(|at| (at, "forget a copy")),
            self.current.as_ref().map(|_| (self.next_sample, "sample the counters")),
            sealing.map(|generation| (generation.established + REFUSE_AFTER - SEAL_MARGIN, "stop sealing")).min(),
            self.generations().map(|generation| (generation.established + REFUSE_AFTER, "erase a session")).min(),
            self.next.as_ref().map(|next| (next.generation.established + UNCONFIRMED, "forget an Init")),
            self.owing_since.map(|since| (since + KEEPALIVE_AFTER, "send a keepalive")),
            unanswered.map(|since| (since + self.patience(), "ask whether the peer is there")),
            self.paths.echo_due().map(|at| (at, "repeat an echo")),
            self.paths.size_due().filter(|_| self.sealing().is_some()).map(|at| (at, "try a size")),
            self.probe.map(|(at, _)| (at, "try the addresses it may have")),
            self.wishes.due().filter(|_| self.sealing().is_some()).map(|at| (at, "ask for a circuit")),
            self.reassembly.deadline().map(|at| (at, "give up a payload in fragments")),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub(crate) fn handle_timeout(&mut self, core: &mut Core, now: Instant) {
        self.queue.expire(&mut core.drops, now);
        self.trust.expire(now);
        self.reassembly.expire(&mut core.drops, now);
        if self.next.as_ref().is_some_and(|next| now >= next.generation.established + UNCONFIRMED) {
            self.close_next(core, now);
        }
        self.sample(core, now);
        self.age(core, now);
        self.keep_alive(core, now);
        self.send_echoes(core, now);
        self.try_sizes(core, now);
        self.send_probes(core, now);
        self.ask_for_circuits(core, now);
        self.question(core, now);
        self.retry(core, now);
    }

    /// Looks at what the sessions did since the last time.
    fn sample(&mut self, core: &mut Core, now: Instant) {
        if self.current.is_none() || now < self.next_sample {
            return;
        }
        let stopped = now.saturating_duration_since(self.next_sample) > STOPPED;
        let was_in_use = self.used_at.is_some_and(|at| self.next_sample.saturating_duration_since(at) < MISSED);
        self.next_sample = now + SAMPLE;
        let delta = self.take_delta();
        if delta.received > 0 {
            self.last_contact = Some(now);
            self.rise(core);
        }
        // Within one sample the order is unknown. Both sides assume the worse: that what came in came last and
        // wants a sign of life, and that what went out went last and wants an answer. The one makes up for the
        // other.
        if delta.received_data > 0 {
            let restart = delta.sent > 0 || self.owing_since.is_none();
            self.owing_since = if restart { Some(now) } else { self.owing_since };
        } else if delta.sent > 0 {
            self.owing_since = None;
        }
        let aside = std::mem::take(&mut self.aside);
        if delta.received > aside {
            self.unanswered_since = (delta.sent_data > 0).then_some(now);
        } else if delta.sent_data > 0 {
            self.unanswered_since.get_or_insert(now);
        }
        self.keep_ways(core, delta, now);
        if delta.sent_bytes >= LARGE.saturating_mul(delta.sent.max(1)) {
            self.paths.check_size(core.config.outer_mtu, delta.received == 0, now);
        }
        if delta.sent_data == 0 {
            self.rest(core, now);
        }
        if stopped && was_in_use {
            self.wake(core, now);
        }
        if self.paths.expire_mtu(now) {
            self.resize(core);
        }
        if self.current.as_ref().is_some_and(|current| current.wants_renewal(delta, now)) {
            self.begin(core, now);
        }
    }

    fn try_sizes(&mut self, core: &mut Core, now: Instant) {
        if self.sealing().is_some() {
            self.send_sizes(core, now);
        }
    }

    /// This machine is elsewhere in the network. Whoever was in use is asked by all ways at once, which tells it, too.
    pub(crate) fn handle_moved(&mut self, core: &mut Core, now: Instant) {
        let in_use = self.used_at.is_some_and(|at| now.saturating_duration_since(at) < MISSED);
        if in_use && self.sealing().is_some() {
            self.wake(core, now);
            self.send_echoes(core, now);
        }
    }

    /// Nothing was done here for a while: the program was stopped, or the machine. Translators may have forgotten us, and waiting
    /// for answers would take as long again.
    fn wake(&mut self, core: &mut Core, now: Instant) {
        self.suspected = true;
        self.unanswered_since.get_or_insert(now);
        self.paths.begin_all_echoes(now);
        self.need(core, now);
    }

    fn take_delta(&mut self) -> Counters {
        let mut sum = Counters::default();
        for generation in self.current.iter_mut().chain(&mut self.previous) {
            let counters = generation.session.counters();
            let before = std::mem::replace(&mut generation.sampled, counters);
            sum.sent += counters.sent - before.sent;
            sum.sent_data += counters.sent_data - before.sent_data;
            sum.sent_bytes += counters.sent_bytes - before.sent_bytes;
            sum.received += counters.received - before.received;
            sum.received_data += counters.received_data - before.received_data;
        }
        sum
    }

    /// Retires and erases sessions by their age.
    fn age(&mut self, core: &mut Core, now: Instant) {
        for generation in self.current.iter_mut().chain(&mut self.previous) {
            if !generation.retired && now >= generation.established + REFUSE_AFTER - SEAL_MARGIN {
                generation.retired = true;
                core.sessions_changed();
            }
        }
        let old = |generation: &mut Generation| now >= generation.established + REFUSE_AFTER;
        let gone = [self.current.take_if(old), self.previous.take_if(old)];
        if gone.iter().all(Option::is_none) {
            return;
        }
        gone.into_iter().flatten().for_each(|generation| self.close(core, generation, now));
        core.sessions_changed();
        if self.current.is_none() && self.previous.is_none() {
            let reason = if self.unanswered_since.is_some() { "no answer" } else { "idle" };
            self.owing_since = None;
            self.unanswered_since = None;
            self.paths.stop_echo();
            self.fall(core, reason);
        }
    }

    fn keep_alive(&mut self, core: &mut Core, now: Instant) {
        if self.owing_since.is_some_and(|since| now >= since + KEEPALIVE_AFTER) {
            self.owing_since = None;
            self.send_control(core, None, &Control::Keepalive);
        }
    }

    fn question(&mut self, core: &mut Core, now: Instant) {
        let Some(since) = self.unanswered_since.filter(|_| self.attempt.is_none()) else { return };
        if now >= since + UNANSWERED_AFTER {
            self.begin(core, now);
        } else if now >= since + SUSPECT_AFTER && !self.suspected {
            self.suspected = true;
            self.paths.begin_all_echoes(now);
            self.send_echoes(core, now);
        }
    }

    /// How long a silent peer is waited for, before the next thing is done about it.
    fn patience(&self) -> Duration {
        if self.suspected { UNANSWERED_AFTER } else { SUSPECT_AFTER }
    }

    /// Keeps open the circuits behind a way in use, and tries for a direct way while another one is in use.
    fn keep_ways(&mut self, core: &mut Core, delta: Counters, now: Instant) {
        let in_use = delta.sent_data > 0 || delta.received_data > 0;
        if in_use {
            self.used_at = Some(now);
        }
        let direct = self.paths.active().is_none_or(Endpoint::is_direct);
        // Where packets go both ways all the time, some are always unanswered.
        if self.unanswered_since.is_none() || delta.received_data > 0 {
            self.suspected = false;
        }
        let due = self.spare_asked.is_none_or(|at| now.saturating_duration_since(at) >= SPARE_EVERY);
        if due && in_use {
            self.spare_asked = Some(now);
            // Also the one that is taken: one that delays is told by nothing else.
            for way in self.paths.relays().collect::<Vec<_>>() {
                self.paths.begin_echo(way, now);
            }
        }
        if direct {
            self.direct_retry = None;
        } else if in_use {
            let (due, pause) = *self.direct_retry.get_or_insert((now + DIRECT_RETRY.0, DIRECT_RETRY.0 * 2));
            if now >= due {
                self.direct_retry = Some((now + pause, (pause * 2).min(DIRECT_RETRY.1)));
                self.need(core, now);
            }
        }
    }

    /// The next Init, or the end of the attempt.
    fn retry(&mut self, core: &mut Core, now: Instant) {
        let Some(attempt) = &self.attempt else {
            return;
        };
        if now < attempt.ends() {
            if now >= attempt.due {
                self.send_init(core, now);
            }
            return;
        }
        let working = self.sealing().is_some() && self.unanswered_since.is_none();
        self.cancel_attempt(core, now);
        if working {
            return;
        }
        // Where the peer was is no better than any other address by now.
        self.candidates.forget_answers();
        self.erase(core, "no answer", now);
        self.paths.clear();
        self.why_down = Some("no answer");
    }
}

impl Generation {
    /// Whether a new session should take this one's place: by age if it is in use, by wear in any case.
    fn wants_renewal(&self, delta: Counters, now: Instant) -> bool {
        let in_use = delta.sent_data > 0 || delta.received_data > 0;
        let due = match self.role {
            Role::Initiator => REKEY_AFTER,
            Role::Responder => REKEY_RESPONDER_AFTER,
        };
        self.session.is_worn() || (in_use && now.saturating_duration_since(self.established) >= due)
    }
}
