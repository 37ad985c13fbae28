//! One machine: keys and disk, which last; clocks, which a boot begins anew; and the process.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use dht::clock::{LeaseClocks, Now};
use dht::identity::SecretKey;
use dht::join::{Joiner, JoinerEvent};
use dht::token::Token;
use dht::{Command, Keys, Lease, LeaseKey, Namespace, Output, Refusal, Rules};
use libp2p_identity::PeerId;
use zeroize::Zeroizing;

use crate::clock::MachineClock;
use crate::disk::Disk;

/// What runs.
pub(super) enum Process {
    Off,
    Joiner(Box<Joiner>),
    Live(Box<Namespace>),
}

/// What reaches a process.
#[derive(Clone, Debug)]
pub(super) enum Input {
    Hello {
        from: usize,
        request: Vec<u8>,
    },
    Answer {
        from: usize,
        response: Vec<u8>,
    },
    Message {
        from: usize,
        message: Vec<u8>,
    },
    /// The connection is over, or never came to be.
    Gone {
        peer: usize,
        number: u64,
    },
    DialledBack {
        peer: usize,
        reached: bool,
    },
    Hint {
        key: Vec<u8>,
        value: Vec<u8>,
    },
    Command(Command),
}

/// One end of a connection.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub(super) open: bool,
    pub(super) waiting: Vec<Vec<u8>>,
    /// Tells an attempt from the next one.
    pub(super) number: u64,
}

/// One machine.
pub(super) struct Machine {
    pub(super) key: SecretKey,
    pub(super) peer: PeerId,
    pub(super) data: Zeroizing<[u8; 32]>,
    pub(super) disk: Disk,
    pub(super) clock: MachineClock,
    clocks: LeaseClocks,
    pub(super) process: Process,
    /// How many processes there were: what was meant for an older one is not for this one.
    pub(super) life: u64,
    pub(super) inbox: VecDeque<Input>,
    /// What is done when the disk has synced.
    pub(super) held: Option<Vec<Output>>,
    pub(super) links: BTreeMap<usize, Link>,
    pub(super) paused: bool,
    /// Whether a stranger reaches it.
    pub(super) public: bool,
    pub(super) wake: Option<Duration>,
}

impl Machine {
    pub(super) fn new(
        key: SecretKey,
        data: Zeroizing<[u8; 32]>,
        disk: Disk,
        clock: MachineClock,
        at: Duration,
    ) -> Self {
        Self {
            peer: key.peer_id(),
            key,
            data,
            disk,
            clocks: LeaseClocks::new(clock.reading(at)),
            clock,
            process: Process::Off,
            life: 0,
            inbox: VecDeque::new(),
            held: None,
            links: BTreeMap::new(),
            paused: false,
            public: true,
            wake: None,
        }
    }

    /// What its process is told about time.
    pub(super) fn now(&mut self, at: Duration) -> Now {
        self.clock.now(&mut self.clocks, at)
    }

    /// The same without touching the clocks.
    pub(super) fn glance(&self, at: Duration) -> Now {
        self.clock.now(&mut self.clocks.clone(), at)
    }

    fn keys(&self) -> Keys {
        Keys { identity: SecretKey::from_seed(&self.key.seed()), data: self.data.clone(), authority: None }
    }

    /// Starts the process with what is on disk.
    pub(super) fn start(&mut self, rules: Rules, seed: [u8; 32], at: Duration) {
        self.clocks = LeaseClocks::new(self.clock.reading(at));
        let now = self.now(at);
        self.life += 1;
        let loaded = Namespace::load_with(rules, self.keys(), self.disk.image(), seed, now);
        self.process = Process::Live(Box::new(loaded.expect("a store that was written by it")));
    }

    /// Starts as somebody with an invite.
    pub(super) fn join(&mut self, name: &str, token: Token, seed: [u8; 32], at: Duration) {
        let now = self.now(at);
        self.life += 1;
        let identity = SecretKey::from_seed(&self.key.seed());
        let joiner = Joiner::new(identity, self.data.clone(), name, token, self.disk.image(), seed, now);
        self.process = Process::Joiner(Box::new(joiner));
    }

    /// The process ends here and now.
    pub(super) fn stop(&mut self) {
        self.process = Process::Off;
        self.life += 1;
        self.inbox.clear();
        self.held = None;
        self.links.clear();
        self.paused = false;
        self.wake = None;
    }

    /// Whether it takes anything in at this moment.
    pub(super) fn is_awake(&self) -> bool {
        !matches!(self.process, Process::Off) && !self.paused && !self.clock.is_asleep()
    }

    pub(super) fn is_on(&self) -> bool {
        !matches!(self.process, Process::Off)
    }

    pub(super) fn namespace(&self) -> Option<&Namespace> {
        match &self.process {
            Process::Live(namespace) => Some(namespace),
            Process::Off | Process::Joiner(_) => None,
        }
    }

    /// Whether it is a replica that has all that it needs.
    pub(super) fn serves(&self, at: Duration) -> bool {
        self.namespace().is_some_and(|namespace| namespace.serves(0, self.glance(at)))
    }

    /// The lease that its process would use at this moment, were it to look.
    pub(super) fn lease(&self, key: &LeaseKey, at: Duration) -> Option<Lease> {
        self.namespace()?.lease(key, self.glance(at))
    }

    pub(super) fn hello(&mut self, to: PeerId, at: Duration) -> Option<Vec<u8>> {
        let now = self.now(at);
        match &mut self.process {
            Process::Off => None,
            Process::Joiner(joiner) => Some(joiner.hello(to, now)),
            Process::Live(namespace) => Some(namespace.hello(to, now)),
        }
    }

    pub(super) fn handle_hello(&mut self, from: PeerId, request: &[u8], at: Duration) -> Result<Vec<u8>, Refusal> {
        let now = self.now(at);
        match &mut self.process {
            Process::Off | Process::Joiner(_) => Err(Refusal::NotAdmitted),
            Process::Live(namespace) => namespace.handle_hello(from, request, now),
        }
    }

    pub(super) fn handle_answer(&mut self, from: PeerId, response: &[u8], at: Duration) -> Result<(), Refusal> {
        let now = self.now(at);
        match &mut self.process {
            Process::Off => Err(Refusal::NotAdmitted),
            Process::Joiner(joiner) => joiner.handle_hello_response(from, response, now),
            Process::Live(namespace) => namespace.handle_hello_response(from, response, now),
        }
    }

    pub(super) fn handle_message(&mut self, from: PeerId, message: &[u8], at: Duration) {
        let now = self.now(at);
        match &mut self.process {
            Process::Off => {}
            Process::Joiner(joiner) => joiner.handle_message(from, message, now),
            Process::Live(namespace) => namespace.handle_message(from, message, now),
        }
    }

    pub(super) fn handle_gone(&mut self, peer: PeerId, at: Duration) {
        let now = self.now(at);
        match &mut self.process {
            Process::Off => {}
            Process::Joiner(joiner) => joiner.handle_gone(peer, now),
            Process::Live(namespace) => namespace.handle_gone(peer, now),
        }
    }

    /// What only a member is told.
    pub(super) fn with_namespace(&mut self, at: Duration, act: impl FnOnce(&mut Namespace, Now)) {
        let now = self.now(at);
        if let Process::Live(namespace) = &mut self.process {
            act(namespace, now);
        }
    }

    pub(super) fn handle_timeout(&mut self, at: Duration) {
        let now = self.now(at);
        match &mut self.process {
            Process::Off => {}
            Process::Joiner(joiner) => joiner.handle_timeout(now),
            Process::Live(namespace) => namespace.handle_timeout(now),
        }
    }

    pub(super) fn poll_output(&mut self) -> Option<Output> {
        match &mut self.process {
            Process::Off => None,
            Process::Joiner(joiner) => joiner.poll_output(),
            Process::Live(namespace) => namespace.poll_output(),
        }
    }

    pub(super) fn poll_joiner(&mut self) -> Option<JoinerEvent> {
        match &mut self.process {
            Process::Joiner(joiner) => joiner.poll_event(),
            Process::Off | Process::Live(_) => None,
        }
    }

    /// When its timer is due, in true time.
    pub(super) fn due(&self) -> Option<Duration> {
        let due = match &self.process {
            Process::Off => None,
            Process::Joiner(joiner) => joiner.poll_timeout(),
            Process::Live(namespace) => namespace.poll_timeout(),
        };
        due.map(|(at, _)| self.clock.true_time(at))
    }
}
