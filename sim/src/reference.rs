//! What ought to happen to a ping: answered, or lost for a reason that can be named.
//!
//! The reference knows only what was done to the world, not what the nodes made of it: since when all machines run, all
//! links are good and nobody moved, and which addresses changed hands.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::actions::PingId;
use crate::node::NodeId;
use crate::world::World;

/// After a disturbance, dead sessions and connections are noticed and replaced within this.
const RECOVERY: Duration = Duration::from_secs(90);
/// What was learnt of an address may be used for this long, though it went to another meanwhile.
const STALE: Duration = Duration::from_secs(601);
/// A ping between two who can talk is answered within this.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What ought to happen to a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// An answer.
    Answer,
    /// An answer, or a drop that somebody counted.
    AnswerOrDrop,
    /// Anything: something was disturbed meanwhile, and with a process go its counters.
    Anything,
}

/// A ping whose outcome is still open.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    /// The ping.
    pub ping: PingId,
    to: Ipv4Addr,
    asked: Duration,
    losses: u64,
    expected: Expected,
}

/// What is known of the world without looking into its nodes.
#[derive(Debug, Default)]
pub struct Reference {
    disturbed: Duration,
    is_disturbed: bool,
    open: Vec<Open>,
    /// Pings that had to be answered, and were.
    pub answered: u64,
    /// Pings that were lost for a reason.
    pub excused: u64,
}

impl Reference {
    /// Something was broken, or mended; `is_disturbed` says whether anything still is broken.
    pub fn disturb(&mut self, at: Duration, is_disturbed: bool) {
        self.disturbed = at;
        self.is_disturbed = is_disturbed;
        for open in &mut self.open {
            open.expected = Expected::Anything;
        }
    }

    /// Has the guest of `from` ping an address, and watches what becomes of it.
    pub fn ping(&mut self, world: &mut World, from: NodeId, to: Ipv4Addr) {
        let expected = self.expect(world, from, to);
        // Before it is sent: it may be lost at once.
        let losses = world.all_losses();
        let ping = world.ping(from, to);
        self.open.push(Open { ping, to, asked: world.now(), losses, expected });
    }

    fn expect(&self, world: &World, from: NodeId, target: Ipv4Addr) -> Expected {
        let now = world.now();
        let calm = !self.is_disturbed && now >= self.disturbed + RECOVERY;
        let Some(source) = world.address(from).filter(|_| calm) else { return Expected::AnswerOrDrop };
        let settled = |ip| {
            let moved = world.watch.moved(ip);
            // The first to have it need not outwait what others learnt of an owner before.
            now >= moved + STALE || world.watch.owners(ip) <= 1
        };
        if settled(source) && settled(target) { Expected::Answer } else { Expected::AnswerOrDrop }
    }

    /// Judges all pings whose time is over. The error names one that was lost without need.
    pub fn judge(&mut self, world: &World) -> Result<(), String> {
        let due = |open: &Open| world.now() >= open.asked + PATIENCE;
        let (due, open) = std::mem::take(&mut self.open).into_iter().partition(due);
        self.open = open;
        for Open { ping, to, asked, losses, expected } in due {
            let kept = world.watch.moved(to) < asked && world.address(ping.node).is_some();
            match (world.round_trip(ping), expected) {
                (Some(_), _) => self.answered += 1,
                (None, Expected::Answer) if kept => {
                    return Err(format!("the ping of {} to {to} at {asked:?} was not answered", ping.node));
                }
                (None, Expected::Answer | Expected::AnswerOrDrop) if world.all_losses() == losses => {
                    return Err(format!("the ping of {} to {to} at {asked:?} was lost without a word", ping.node));
                }
                (None, _) => self.excused += 1,
            }
        }
        Ok(())
    }
}
