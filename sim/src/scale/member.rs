//! One machine of the crowd: its keys, its disk, the state machine that runs, and its connections.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use dht::identity::SecretKey;
use dht::join::{Joiner, JoinerEvent};
use dht::token::Token;
use dht::{BootId, Image, Keys, Namespace, Now, Output, OwnerTime, Refusal, ReplicaTime};
use libp2p_identity::PeerId;
use zeroize::Zeroizing;

use super::founding::{NAMESPACE, copy};
use crate::clock::EPOCH;

/// Right clocks; each boot begins anew.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    booted: Duration,
}

impl Clock {
    pub(super) fn new(booted: Duration) -> Self {
        Self { booted }
    }

    pub(super) fn now(&self, at: Duration) -> Now {
        let up = at.saturating_sub(self.booted);
        let mut boot = [0; 16];
        boot.copy_from_slice(&self.booted.as_nanos().to_be_bytes());
        Now {
            mono: origin() + at,
            owner: OwnerTime(up),
            replica: ReplicaTime(up),
            boot: BootId(boot),
            jumps: 0,
            unix_s: EPOCH + at.as_secs(),
        }
    }
}

/// The instant that stands for the beginning of virtual time.
pub(super) fn origin() -> Instant {
    static ORIGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *ORIGIN.get_or_init(crate::clock::origin)
}

/// What runs on the machine.
pub(super) enum Machine {
    Off,
    Joiner(Box<Joiner>),
    Live(Box<Namespace>),
}

/// One end of a connection.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub(super) open: bool,
    /// Whether this end made it.
    pub(super) ours: bool,
    /// Messages that wait for it to open.
    pub(super) waiting: Vec<Vec<u8>>,
    pub(super) used: Duration,
}

/// A claim that was commanded and not yet answered.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) since: Duration,
    pub(super) keys: Vec<dht::LeaseKey>,
    pub(super) is_address: bool,
}

/// One machine.
pub(super) struct Member {
    pub(super) key: SecretKey,
    pub(super) peer: PeerId,
    pub(super) data: Zeroizing<[u8; 32]>,
    pub(super) disk: Image,
    pub(super) machine: Machine,
    pub(super) clock: Clock,
    pub(super) links: BTreeMap<u32, Link>,
    /// When its timer is set for, if it is.
    pub(super) wake: Option<Duration>,
    pub(super) claims: BTreeMap<u64, Claim>,
    /// What it was told it leases.
    pub(super) held: BTreeSet<dht::LeaseKey>,
    pub(super) starts: u32,
}

impl Member {
    pub(super) fn new(key: SecretKey, data: Zeroizing<[u8; 32]>, disk: Image) -> Self {
        Self {
            peer: key.peer_id(),
            key,
            data,
            disk,
            machine: Machine::Off,
            clock: Clock::new(Duration::ZERO),
            links: BTreeMap::new(),
            wake: None,
            claims: BTreeMap::new(),
            held: BTreeSet::new(),
            starts: 0,
        }
    }

    /// Boots with what is on disk.
    pub(super) fn start(&mut self, at: Duration, seed: [u8; 32]) {
        self.starts += 1;
        self.clock = Clock::new(at);
        self.load(at, seed);
    }

    /// Boots as a joiner.
    pub(super) fn begin_to_join(&mut self, token: Token, at: Duration, seed: [u8; 32]) {
        self.starts += 1;
        self.clock = Clock::new(at);
        let now = self.clock.now(at);
        let joiner = Joiner::new(copy(&self.key), self.data.clone(), NAMESPACE, token, &self.disk, seed, now);
        self.machine = Machine::Joiner(Box::new(joiner));
    }

    /// Runs as a member, in the same boot.
    pub(super) fn load(&mut self, at: Duration, seed: [u8; 32]) {
        let keys = Keys { identity: copy(&self.key), data: self.data.clone(), authority: None };
        let namespace = Namespace::load(keys, &self.disk, seed, self.clock.now(at)).expect("its own disk");
        self.machine = Machine::Live(Box::new(namespace));
    }

    pub(super) fn is_on(&self) -> bool {
        !matches!(self.machine, Machine::Off)
    }

    pub(super) fn hello(&mut self, to: PeerId, at: Duration) -> Option<Vec<u8>> {
        let now = self.clock.now(at);
        match &mut self.machine {
            Machine::Off => None,
            Machine::Joiner(joiner) => Some(joiner.hello(to, now)),
            Machine::Live(namespace) => Some(namespace.hello(to, now)),
        }
    }

    pub(super) fn handle_hello(&mut self, from: PeerId, request: &[u8], at: Duration) -> Result<Vec<u8>, Refusal> {
        let now = self.clock.now(at);
        match &mut self.machine {
            Machine::Off | Machine::Joiner(_) => Err(Refusal::NotAdmitted),
            Machine::Live(namespace) => namespace.handle_hello(from, request, now),
        }
    }

    pub(super) fn handle_response(&mut self, from: PeerId, response: &[u8], at: Duration) -> Result<(), Refusal> {
        let now = self.clock.now(at);
        match &mut self.machine {
            Machine::Off => Err(Refusal::NotAdmitted),
            Machine::Joiner(joiner) => joiner.handle_hello_response(from, response, now),
            Machine::Live(namespace) => namespace.handle_hello_response(from, response, now),
        }
    }

    pub(super) fn handle_message(&mut self, from: PeerId, message: &[u8], at: Duration) {
        let now = self.clock.now(at);
        match &mut self.machine {
            Machine::Off => {}
            Machine::Joiner(joiner) => joiner.handle_message(from, message, now),
            Machine::Live(namespace) => namespace.handle_message(from, message, now),
        }
    }

    pub(super) fn handle_gone(&mut self, peer: PeerId, at: Duration) {
        let now = self.clock.now(at);
        match &mut self.machine {
            Machine::Off => {}
            Machine::Joiner(joiner) => joiner.handle_gone(peer, now),
            Machine::Live(namespace) => namespace.handle_gone(peer, now),
        }
    }

    pub(super) fn handle_timeout(&mut self, at: Duration) {
        let now = self.clock.now(at);
        match &mut self.machine {
            Machine::Off => {}
            Machine::Joiner(joiner) => joiner.handle_timeout(now),
            Machine::Live(namespace) => namespace.handle_timeout(now),
        }
    }

    pub(super) fn command(&mut self, command: dht::Command, at: Duration) {
        let now = self.clock.now(at);
        if let Machine::Live(namespace) = &mut self.machine {
            namespace.handle_command(command, now);
        }
    }

    pub(super) fn poll_output(&mut self) -> Option<Output> {
        match &mut self.machine {
            Machine::Off => None,
            Machine::Joiner(joiner) => joiner.poll_output(),
            Machine::Live(namespace) => namespace.poll_output(),
        }
    }

    pub(super) fn poll_joiner(&mut self) -> Option<JoinerEvent> {
        match &mut self.machine {
            Machine::Joiner(joiner) => joiner.poll_event(),
            Machine::Off | Machine::Live(_) => None,
        }
    }

    /// When its timer is due, in virtual time.
    pub(super) fn due(&self) -> Option<Duration> {
        let due = match &self.machine {
            Machine::Off => None,
            Machine::Joiner(joiner) => joiner.poll_timeout(),
            Machine::Live(namespace) => namespace.poll_timeout(),
        };
        due.map(|(at, _)| at.saturating_duration_since(origin()))
    }
}
