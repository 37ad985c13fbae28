//! A member that carries for others, and lies.

use std::time::Duration;

use tunnel::{Kind, data_kind, receiver_index};

use crate::node::{Effect, Node};

/// How a relay lies. What it sends for itself is as it should be, and so is what goes straight to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// It carries nothing.
    Drops,
    /// It carries so much later.
    Delays(Duration),
    /// It changes a byte of each datagram, and seals it well.
    Rewrites,
}

impl Node {
    /// Takes what is to be carried, if this node carries it otherwise than it should.
    pub(crate) fn lie_about(&mut self, datagram: &[u8]) -> bool {
        if data_kind(datagram) != Some(Kind::Forward) {
            return false;
        }
        match self.lie {
            None | Some(Lie::Delays(_)) => false,
            Some(Lie::Drops) => {
                self.lied += 1;
                true
            }
            Some(Lie::Rewrites) => self.rewrite(datagram).is_some(),
        }
    }

    fn rewrite(&mut self, datagram: &[u8]) -> Option<()> {
        let snapshot = self.process_snapshot()?;
        let inlet = snapshot.receiving.get(&receiver_index(datagram)?)?;
        let mut datagram = datagram.to_vec();
        let opened = inlet.session.open(&mut datagram).ok()?;
        let leg = snapshot.legs.get(&(inlet.peer, opened.circuit))?;
        let mut altered = opened.payload.to_vec();
        *altered.last_mut()? ^= 1;
        let tunnel::NextHop::Udp(to) = leg.to else { return None };
        let mut bytes = Vec::new();
        leg.session.seal_carried(Kind::Carried, leg.next, &altered, &mut bytes).ok()?;
        self.lied += 1;
        self.effects.push(Effect::Datagram { to, bytes, ttl: None });
        Some(())
    }

    /// How much later than it should this node sends a datagram.
    pub(crate) fn delay_of(&mut self, datagram: &[u8]) -> Duration {
        match self.lie {
            Some(Lie::Delays(time)) if data_kind(datagram) == Some(Kind::Carried) => {
                self.lied += 1;
                time
            }
            None | Some(Lie::Delays(_) | Lie::Drops | Lie::Rewrites) => Duration::ZERO,
        }
    }
}
