//! What the registers said a moment ago. An answer is given out with what is left of its time, so that a name that
//! moves is seen everywhere within [`MAX_TTL`].

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use crate::Question;

/// No answer of ours lives longer, here and at the asker together.
pub(crate) const MAX_TTL: Duration = Duration::from_secs(60);

/// Ours: about 100 KiB.
const MAX_FACTS: usize = 1024;

/// Something that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fact {
    /// The name has this address.
    Host(Ipv4Addr),
    /// The address is leased, to the holder of this label.
    Holder(Option<String>),
}

#[derive(Debug, Default)]
pub(crate) struct Cache {
    facts: BTreeMap<Question, (Fact, Instant)>,
}

impl Cache {
    pub(crate) fn insert(&mut self, question: Question, fact: Fact, ttl: Duration, now: Instant) {
        if self.facts.len() >= MAX_FACTS && !self.facts.contains_key(&question) {
            self.make_room(now);
        }
        self.facts.insert(question, (fact, now + ttl.min(MAX_TTL)));
    }

    pub(crate) fn get(&self, question: &Question, now: Instant) -> Option<(&Fact, Duration)> {
        let (fact, until) = self.facts.get(question)?;
        let left = until.checked_duration_since(now)?;
        (!left.is_zero()).then_some((fact, left))
    }

    /// Forgets everything said about an address.
    pub(crate) fn forget(&mut self, ip: Ipv4Addr) {
        self.facts.retain(|question, (fact, _)| *question != Question::Address(ip) && *fact != Fact::Host(ip));
    }

    /// The expired go, and if none has, the one that would expire first.
    fn make_room(&mut self, now: Instant) {
        self.facts.retain(|_, (_, until)| *until > now);
        if self.facts.len() < MAX_FACTS {
            return;
        }
        if let Some(first) =
            self.facts.iter().min_by_key(|(_, (_, until))| *until).map(|(question, _)| question.clone())
        {
            self.facts.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test needs one real instant as origin")]
    fn origin() -> Instant {
        Instant::now()
    }

    #[test]
    fn the_first_to_expire_makes_room() {
        let (mut cache, now) = (Cache::default(), origin());
        for host in 0..=MAX_FACTS as u32 {
            let ttl = Duration::from_millis(u64::from(5000 - host));
            cache.insert(Question::Address(Ipv4Addr::from(host)), Fact::Holder(None), ttl, now);
        }
        assert_eq!(cache.facts.len(), MAX_FACTS);
        assert!(cache.get(&Question::Address(Ipv4Addr::from(MAX_FACTS as u32 - 1)), now).is_none());
        assert!(cache.get(&Question::Address(Ipv4Addr::from(0)), now).is_some());
    }
}
