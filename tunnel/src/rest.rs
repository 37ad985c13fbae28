//! Peers that have rested: translators forget a flow on which nothing goes, and nothing tells.
//!
//! A way on which nothing has come for [`REST`] is not trusted any more. It is still taken, but what goes there is kept as well,
//! and an echo asks the peer. If it answers at once, nothing was lost and the copies are let go; if it does not, the peer is looked
//! for at once, by all ways, and the copies go by the first that answers. So a peer at rest costs nothing, and the first packet
//! after it neither is lost nor waits for a round trip.

use std::time::Instant;

use crate::core::Core;
use crate::event::Kind;
use crate::limits::{REFUSE_AFTER, REST, SAMPLE, SEAL_MARGIN};
use crate::peer::Peer;
use crate::queue::Queue;

/// Whether what is sent is believed to arrive.
#[derive(Default)]
pub(crate) enum Trust {
    /// As far as anybody knows.
    #[default]
    Trusted,
    /// Nothing has come for a while, and nothing was sent. But the peer may have asked by the way that is taken since then.
    Resting { asked: Option<Instant> },
    /// Something was sent after that, of which these are copies.
    Doubted(Queue),
}

impl Trust {
    /// Whether packets may leave without being seen here.
    pub(crate) fn is_trusted(&self) -> bool {
        match self {
            Self::Trusted => true,
            Self::Resting { .. } | Self::Doubted(_) => false,
        }
    }

    pub(crate) fn is_doubted(&self) -> bool {
        match self {
            Self::Doubted(_) => true,
            Self::Trusted | Self::Resting { .. } => false,
        }
    }

    /// When the oldest copy is let go.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Doubted(copies) => copies.deadline(),
            Self::Trusted | Self::Resting { .. } => None,
        }
    }

    pub(crate) fn expire(&mut self, now: Instant) {
        if let Self::Doubted(copies) = self {
            copies.forget_old(now);
        }
    }
}

impl Peer {
    /// Nothing was sent lately: if nothing has come for long either, the peer rests.
    pub(crate) fn rest(&mut self, core: &mut Core, now: Instant) {
        let silent = self.last_contact.is_none_or(|at| now.saturating_duration_since(at) >= REST);
        if silent && self.trust.is_trusted() {
            self.trust = Trust::Resting { asked: None };
            core.sessions_changed();
        }
    }

    /// An echo request has come by the way that is taken, and so the answer takes it.
    pub(crate) fn note_question(&mut self, now: Instant) {
        if let Trust::Resting { asked } = &mut self.trust {
            *asked = Some(now);
        }
    }

    /// Whether the session is renewed in a moment, and with it what is known of the way.
    fn is_ending(&self, now: Instant) -> bool {
        let ends = self.sealing().map(|generation| generation.established + REFUSE_AFTER - SEAL_MARGIN);
        ends.is_none_or(|ends| now + SAMPLE * 2 >= ends)
    }

    /// A payload has left. After a rest a copy of it is kept until it is known whether that was of use.
    pub(crate) fn keep_copy(&mut self, core: &mut Core, kind: Kind, payload: &[u8], now: Instant) {
        let ending = self.is_ending(now);
        let recent = |at: &Option<Instant>| at.is_some_and(|at| now.saturating_duration_since(at) < REST);
        match &mut self.trust {
            Trust::Trusted => {}
            Trust::Doubted(copies) => copies.push_copy(kind, payload, now),
            Trust::Resting { asked } if ending || recent(asked) => {
                self.trust = Trust::Trusted;
                core.sessions_changed();
            }
            Trust::Resting { .. } => {
                let mut copies = Queue::default();
                copies.push_copy(kind, payload, now);
                self.trust = Trust::Doubted(copies);
                self.begin_echo(core, now);
            }
        }
    }

    /// The first echo after a rest has had no answer: what stood before the peer has forgotten us. True if all ways are to be
    /// asked now.
    pub(crate) fn seek_after_rest(&mut self, core: &mut Core, now: Instant) -> bool {
        let lost = self.trust.is_doubted() && !self.suspected && self.paths.is_asking_again();
        if lost {
            self.suspected = true;
            self.paths.begin_all_echoes(now);
            self.need(core, now);
        }
        lost
    }

    /// It is known what became of what was sent after a rest.
    pub(crate) fn end_doubt(&mut self, core: &mut Core, arrived: bool, now: Instant) {
        if !self.trust.is_doubted() {
            return;
        }
        if let Trust::Doubted(copies) = std::mem::take(&mut self.trust)
            && !arrived
        {
            self.queue.append(copies, &mut core.drops);
            core.ready.insert(self.id, now);
        }
        core.sessions_changed();
    }
}
