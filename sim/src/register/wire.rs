//! What passes between the machines, and what a process wants done outside of itself.

use std::collections::BTreeSet;
use std::time::Duration;

use dht::Output;
use dht::codec::Wire;
use dht::message::Message;
use rand::RngExt;

use super::links::Weather;
use super::machine::{Input, Link};
use super::world::{What, World};

/// A handshake that is not through by then has failed.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// Messages that wait for a connection.
const MOST_WAITING: usize = 64;

/// Decides about a message, by sender and receiver: after how long each copy of it arrives. `None` leaves it to the
/// weather.
pub(super) type Postman = Box<dyn FnMut(usize, usize, &Message) -> Option<Vec<Duration>>>;

impl World {
    /// From here on this one looks at every message.
    pub(super) fn set_postman(&mut self, postman: Option<Postman>) {
        self.postman = postman;
    }

    pub(super) fn carry(&mut self, from: usize, to: usize, input: Input) {
        let decided = if let (Some(postman), Input::Message { message, .. }) = (&mut self.postman, &input)
            && !self.links.is_cut(from, to)
        {
            Message::from_bytes(message.as_slice()).ok().and_then(|message| postman(from, to, &message))
        } else {
            None
        };
        let delays = decided.unwrap_or_else(|| self.links.deliveries(from, to, &mut self.rng));
        for delay in delays {
            // Delays are counted from when it arrives at the process that runs then.
            let life = self.machines[to].life;
            self.later(delay, What::Input { node: to, life, input: input.clone() });
        }
    }

    pub(super) fn connect(&mut self, node: usize, to: usize) {
        if node == to || self.machines[node].links.contains_key(&to) || !self.machines[node].is_on() {
            return;
        }
        self.next += 1;
        let number = self.next;
        let peer = self.machines[to].peer;
        let Some(request) = self.machines[node].hello(peer, self.time) else { return };
        self.machines[node].links.insert(to, Link { number, ..Link::default() });
        self.later(HANDSHAKE, What::HandshakeOver { node, peer: to, number });
        if self.machines[to].is_on() {
            self.carry(node, to, Input::Hello { from: node, request });
        }
    }

    fn send(&mut self, node: usize, to: usize, message: Vec<u8>) {
        self.connect(node, to);
        let Some(link) = self.machines[node].links.get_mut(&to) else { return };
        if link.open {
            self.carry(node, to, Input::Message { from: node, message });
        } else if link.waiting.len() < MOST_WAITING {
            link.waiting.push(message);
        }
    }

    pub(super) fn fulfil(&mut self, node: usize, wishes: Vec<Output>) {
        for wish in wishes {
            match wish {
                Output::Persist(_) | Output::Admit { .. } | Output::Refuse { .. } => {}
                Output::Send { to, message } => {
                    if let Some(to) = self.number_of(&to) {
                        self.send(node, to, message);
                    }
                }
                Output::Dial { peer, .. } => {
                    if let Some(to) = self.number_of(&peer) {
                        self.connect(node, to);
                    }
                }
                // Hints get lost, too.
                Output::Publish { key, value } => {
                    if self.rng.random_bool(0.8) {
                        self.hints.insert(key, value);
                    }
                }
                Output::Seek { key } => {
                    let found = self.hints.get(&key).cloned().filter(|_| self.rng.random_bool(0.8));
                    if let Some(value) = found {
                        let (delay, life) = (self.links.delay(&mut self.rng), self.machines[node].life);
                        self.later(delay, What::Input { node, life, input: Input::Hint { key, value } });
                    }
                }
                Output::DialBack { peer } => {
                    let Some(to) = self.number_of(&peer) else { continue };
                    let there = &self.machines[to];
                    let reached = there.is_awake() && there.public && !self.links.is_cut(node, to);
                    let (delay, life) = (self.links.delay(&mut self.rng), self.machines[node].life);
                    let input = Input::DialledBack { peer: to, reached };
                    self.later(delay, What::Input { node, life, input });
                }
                Output::Event(event) => self.observe(node, event),
            }
        }
    }

    /// Everybody notices, sooner or later, that somebody is gone.
    pub(super) fn drop_links(&mut self, node: usize) {
        for peer in 0..self.machines.len() {
            if self.machines[peer].links.contains_key(&node) {
                let delay = Duration::from_millis(self.rng.random_range(10..6000));
                self.end_link(peer, node, delay);
            }
        }
    }

    /// One end of a connection notices, after a while, that it is over: this very connection, not a later one.
    pub(super) fn end_link(&mut self, node: usize, peer: usize, delay: Duration) {
        if let Some(number) = self.machines[node].links.get(&peer).map(|link| link.number) {
            let life = self.machines[node].life;
            self.later(delay, What::Input { node, life, input: Input::Gone { peer, number } });
        }
    }

    /// How bad the network is from here on.
    pub fn set_weather(&mut self, weather: Weather) {
        self.links.weather = weather;
    }

    /// Cuts these directions, and mends all others. Whoever cannot be heard is noticed to be gone after a while.
    pub fn set_cut(&mut self, cut: BTreeSet<(usize, usize)>) {
        self.say(|| format!("cut {cut:?}"));
        for (a, b) in &cut {
            for (node, peer) in [(*a, *b), (*b, *a)] {
                if self.machines[node].links.contains_key(&peer) {
                    let delay = Duration::from_millis(self.rng.random_range(3000..12_000));
                    self.end_link(node, peer, delay);
                }
            }
        }
        self.links.cut = cut;
    }
}
