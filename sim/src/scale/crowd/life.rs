//! How members come, go, and come back.

use std::time::Duration;

use dht::join::JoinerEvent;
use dht::{Command, CommandId};
use rand::RngExt;

use super::super::founding::apply;
use super::super::member::{Clock, Machine};
use super::{AWAY, Crowd, What, seed};

impl Crowd {
    pub(super) fn start(&mut self, node: u32) {
        let (at, seed) = (self.time, seed(self, node));
        self.members[node as usize].start(at, seed);
        self.drain(node);
    }

    /// A newcomer begins with its token.
    pub(super) fn join(&mut self, node: u32) {
        let (at, seed) = (self.time, seed(self, node));
        let clock = Clock::new(Duration::ZERO);
        let token = self.founding.invite(&clock, at);
        self.joining.insert(node, at);
        self.members[node as usize].begin_to_join(token, at, seed);
    }

    /// What the joiner tells its driver.
    pub(super) fn take_joiner_events(&mut self, node: u32) {
        while let Some(event) = self.members[node as usize].poll_joiner() {
            match event {
                JoinerEvent::Progress(_) => {}
                JoinerEvent::Joined { writes, .. } => {
                    apply(&mut self.members[node as usize].disk, writes);
                    return self.become_member(node);
                }
                JoinerEvent::Failed(_) => {
                    self.joining.remove(&node);
                    self.counts.turned_away += 1;
                    self.members[node as usize].machine = Machine::Off;
                    return;
                }
            }
        }
    }

    fn become_member(&mut self, node: u32) {
        if let Some(since) = self.joining.remove(&node) {
            self.counts.joined.add((self.time - since).as_secs_f64());
        }
        self.hang_up(node);
        let (at, seed) = (self.time, seed(self, node));
        self.members[node as usize].load(at, seed);
        self.claim(node);
        if self.churning {
            self.plan_going(node);
        }
    }

    /// From now on members go and come back.
    pub fn begin_churning(&mut self) {
        self.churning = true;
        for node in u32::from(self.plan.founders)..self.plan.members {
            if self.members[node as usize].is_on() {
                self.plan_going(node);
            }
        }
    }

    fn plan_going(&mut self, node: u32) {
        let mean = Duration::from_secs(3600).div_f64(self.plan.churn);
        let stay = self.exponential(mean);
        self.later(stay, node, What::Go);
    }

    fn exponential(&mut self, mean: Duration) -> Duration {
        let uniform: f64 = self.rng.random_range(f64::EPSILON..1.0);
        mean.mul_f64(-uniform.ln())
    }

    /// Every second one that goes says so, the other loses its power.
    pub(super) fn go(&mut self, node: u32) {
        if !matches!(self.members[node as usize].machine, Machine::Live(_)) {
            return;
        }
        self.counts.left += 1;
        if self.rng.random_bool(0.5) {
            self.command += 1;
            let id = CommandId(self.command);
            self.members[node as usize].command(Command::Leave { id }, self.time);
        } else {
            self.stop(node);
        }
    }

    pub(super) fn stop(&mut self, node: u32) {
        if !self.members[node as usize].is_on() {
            return;
        }
        self.hang_up(node);
        let member = &mut self.members[node as usize];
        member.machine = Machine::Off;
        member.wake = None;
        member.claims.clear();
        member.held.clear();
        let away = self.exponential(AWAY);
        self.later(away, node, What::Return);
    }

    /// Starts again as a member, and asks for what it had.
    pub(super) fn come_back(&mut self, node: u32) {
        if self.members[node as usize].is_on() {
            return;
        }
        self.start(node);
        self.claim(node);
        if self.churning {
            self.plan_going(node);
        }
    }

    /// All connections end; the others notice when the last packet is there.
    fn hang_up(&mut self, node: u32) {
        let links = std::mem::take(&mut self.members[node as usize].links);
        for peer in links.into_keys() {
            let delay = self.delay(node, peer);
            self.later(delay, peer, What::Gone(node));
        }
    }
}
