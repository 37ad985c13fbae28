//! Drives the overlay's state machine of one node as the libp2p driver does: inputs one after the other, writes on disk
//! before anything that follows them is done, then messages, dials and news in their order.
//!
//! While the disk is written to nothing else is taken in, as in the driver, which waits for the commit.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use dht::join::JoinerEvent;
use dht::{Command, Event, Level, Now, Output, Write};
use libp2p_identity::PeerId;

use crate::disk::Disk;
use crate::links::{ConnectionId, Links, MadeBy, Stage};
use crate::machine::Machine;

/// Messages waiting for one connection.
const MOST_WAITING: usize = 64;
/// Between attempts that the state machine asks for.
const LEAST_PAUSE: Duration = Duration::from_millis(200);
/// Between attempts that the driver makes by itself.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often the connections that ought to stand are looked after.
const CARE: Duration = Duration::from_secs(30);

/// A moment as the world knows it and as the node reads it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) at: Duration,
    pub(crate) now: Now,
}

/// What two ends of a connection say to each other.
#[derive(Clone, Debug)]
pub(crate) enum Carried {
    /// The dialler's hello.
    Ask(Vec<u8>),
    /// The listener's answer.
    Answer(Vec<u8>),
    /// The dialler has accepted the answer.
    Confirm,
    /// A message between admitted peers.
    Message(Vec<u8>),
}

/// What happens to a driver.
#[derive(Debug)]
pub(crate) enum Input {
    Command(Command),
    Established {
        id: ConnectionId,
        peer: PeerId,
        made_by: MadeBy,
    },
    DialFailed {
        peer: PeerId,
    },
    /// What a connection only to see whether there can be one has come to.
    DialledBack {
        peer: PeerId,
        reached: bool,
    },
    Carried {
        id: ConnectionId,
        what: Carried,
    },
    Closed {
        id: ConnectionId,
    },
    /// What was carried did not arrive.
    Undelivered {
        id: ConnectionId,
        peer: PeerId,
        is_message: bool,
    },
}

/// What a driver wants.
#[derive(Debug)]
pub(crate) enum Wish {
    Dial {
        peer: PeerId,
    },
    /// Would a stranger reach this peer?
    DialBack {
        peer: PeerId,
    },
    Carry {
        id: ConnectionId,
        what: Carried,
    },
    Close {
        id: ConnectionId,
    },
    /// A transaction was begun: say when it is safe.
    Sync,
    Tell(Event),
    /// The join is over and on disk.
    Joined,
    JoinFailed(String),
}

#[derive(Debug, Default)]
struct Target {
    dialling: bool,
    failures: u32,
    ended: Option<Duration>,
    pause: Duration,
    waiting: VecDeque<Vec<u8>>,
    /// The state machine has asked for this peer and has no answer yet.
    asked: bool,
}

impl Target {
    fn pause_ends(&self) -> Option<Duration> {
        let pause = match (self.asked, self.failures) {
            (true, 0) => Duration::ZERO,
            (true, _) => LEAST_PAUSE,
            (false, _) => self.pause,
        };
        self.ended.map(|ended| ended + pause)
    }
}

/// Who wants a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// The state machine, for something at hand.
    Asked,
    /// The driver, because the connection ought to stand.
    Standing,
}

struct Held {
    wishes: Vec<Output>,
    after: Vec<(ConnectionId, Carried)>,
    joined: bool,
}

pub(crate) struct Driver {
    pub(crate) machine: Machine,
    me: PeerId,
    pub(crate) links: Links,
    targets: BTreeMap<PeerId, Target>,
    inbox: VecDeque<Input>,
    after: Vec<(ConnectionId, Carried)>,
    held: Option<Held>,
    next_care: Duration,
    wishes: VecDeque<Wish>,
    is_over: bool,
}

impl Driver {
    pub(crate) fn new(machine: Machine, me: PeerId, at: Duration) -> Self {
        Self {
            machine,
            me,
            links: Links::default(),
            targets: BTreeMap::new(),
            inbox: VecDeque::new(),
            after: Vec::new(),
            held: None,
            next_care: at,
            wishes: VecDeque::new(),
            is_over: false,
        }
    }

    /// Begins again as a member, with new hellos on new connections.
    pub(crate) fn become_member(&mut self, machine: Machine, moment: Moment) {
        self.machine = machine;
        for id in self.links.forget_all() {
            self.wishes.push_back(Wish::Close { id });
        }
        self.next_care = moment.at;
    }

    pub(crate) fn take(&mut self, input: Input) {
        self.inbox.push_back(input);
    }

    pub(crate) fn backlog(&self) -> usize {
        self.inbox.len() + self.targets.values().map(|target| target.waiting.len()).sum::<usize>()
    }

    pub(crate) fn poll_wish(&mut self) -> Option<Wish> {
        self.wishes.pop_front()
    }

    /// When to call [`Driver::handle_timeout`] next, as the node reads it, or in true time.
    pub(crate) fn poll_timeout(&self) -> (Option<std::time::Instant>, Duration) {
        if self.held.is_some() || self.is_over {
            return (None, Duration::MAX);
        }
        (self.machine.poll_timeout().map(|(at, _)| at), self.next_care)
    }

    pub(crate) fn handle_timeout(&mut self, moment: Moment) {
        if self.held.is_some() || self.is_over {
            return;
        }
        if self.machine.poll_timeout().is_some_and(|(at, _)| at <= moment.now.mono) {
            self.machine.handle_timeout(moment.now);
        }
        if self.next_care <= moment.at {
            self.take_care(moment);
        }
    }

    /// The transaction that [`Wish::Sync`] announced is safe.
    pub(crate) fn handle_synced(&mut self, moment: Moment) {
        if let Some(held) = self.held.take() {
            self.fulfil_all(held, moment);
        }
    }

    /// Takes inputs and fulfils what they lead to, until nothing is left or the disk has to be waited for.
    pub(crate) fn turn(&mut self, disk: &mut Disk, moment: Moment) {
        while self.held.is_none() && !self.is_over {
            let mut writes = Vec::new();
            let mut wishes = Vec::new();
            while let Some(output) = self.machine.poll_output() {
                match output {
                    Output::Persist(more) => writes.extend(more),
                    wish @ (Output::Send { .. }
                    | Output::Admit { .. }
                    | Output::Refuse { .. }
                    | Output::Dial { .. }
                    | Output::Publish { .. }
                    | Output::Seek { .. }
                    | Output::DialBack { .. }
                    | Output::Event(_)) => wishes.push(wish),
                }
            }
            let after = std::mem::take(&mut self.after);
            let joined = self.take_joiner_events(&mut writes);
            let held = Held { wishes, after, joined };
            if !writes.is_empty() {
                disk.begin(writes);
                self.held = Some(held);
                self.wishes.push_back(Wish::Sync);
            } else if !held.wishes.is_empty() || !held.after.is_empty() || joined {
                self.fulfil_all(held, moment);
            } else if let Some(input) = self.inbox.pop_front() {
                self.handle(input, moment);
            } else {
                return;
            }
        }
    }

    fn take_joiner_events(&mut self, writes: &mut Vec<Write>) -> bool {
        let mut joined = false;
        while let Some(event) = self.machine.poll_joiner_event() {
            match event {
                JoinerEvent::Progress(_) => {}
                JoinerEvent::Joined { writes: more, .. } => {
                    writes.extend(more);
                    joined = true;
                }
                JoinerEvent::Failed(error) => {
                    self.wishes.push_back(Wish::JoinFailed(error.to_string()));
                    self.is_over = true;
                }
            }
        }
        joined
    }

    fn fulfil_all(&mut self, held: Held, moment: Moment) {
        for wish in held.wishes {
            self.fulfil(wish, moment);
        }
        for (id, what) in held.after {
            self.finish(id, what, moment);
        }
        if held.joined {
            self.wishes.push_back(Wish::Joined);
        }
    }

    fn fulfil(&mut self, wish: Output, moment: Moment) {
        match wish {
            // A hint is where Kademlia looks first; this overlay finds everybody anyway.
            Output::Persist(_) | Output::Publish { .. } | Output::Seek { .. } => {}
            Output::DialBack { peer } => self.wishes.push_back(Wish::DialBack { peer }),
            Output::Send { to, message } => self.send(to, message, moment),
            Output::Admit { peer, level } => self.links.admit(peer, level),
            Output::Refuse { peer, .. } => self.close_all(peer, moment),
            Output::Dial { peer, .. } => self.dial(peer, moment),
            Output::Event(event) => self.wishes.push_back(Wish::Tell(event)),
        }
    }

    fn finish(&mut self, id: ConnectionId, what: Carried, moment: Moment) {
        match &what {
            Carried::Answer(_) => {
                self.links.advance(id, Stage::Checked);
            }
            Carried::Confirm => self.open(id, moment),
            Carried::Ask(_) | Carried::Message(_) => {}
        }
        self.wishes.push_back(Wish::Carry { id, what });
    }

    fn handle(&mut self, input: Input, moment: Moment) {
        match input {
            Input::Command(command) => self.machine.handle_command(command, moment.now),
            Input::Established { id, peer, made_by } => {
                self.links.insert(id, peer, made_by, moment.at);
                if made_by == MadeBy::Us {
                    let request = self.machine.hello(peer, moment.now);
                    self.after.push((id, Carried::Ask(request)));
                }
            }
            Input::DialFailed { peer } => {
                self.target(peer).dialling = false;
                if !self.links.has(peer) {
                    self.give_up(peer, moment);
                }
            }
            Input::DialledBack { peer, reached } => self.machine.handle_dialled_back(peer, reached, moment.now),
            Input::Carried { id, what } => self.handle_carried(id, what, moment),
            Input::Closed { id } => self.handle_closed(id, moment),
            Input::Undelivered { peer, is_message: true, .. } if self.links.has(peer) => {
                // To the state machine the peer is gone, so it must say hello again, on a new connection.
                self.close_all(peer, moment);
            }
            Input::Undelivered { peer, is_message: true, .. } => self.machine.handle_gone(peer, moment.now),
            Input::Undelivered { id, is_message: false, .. } => self.close(id, moment),
        }
    }

    fn handle_carried(&mut self, id: ConnectionId, what: Carried, moment: Moment) {
        let Some(link) = self.links.get(id) else { return };
        let peer = link.peer;
        match what {
            Carried::Ask(request) => match self.machine.handle_hello(peer, &request, moment.now) {
                Ok(response) => self.after.push((id, Carried::Answer(response))),
                Err(_) => self.close(id, moment),
            },
            Carried::Answer(response) => match self.machine.handle_hello_response(peer, &response, moment.now) {
                Ok(()) => self.after.push((id, Carried::Confirm)),
                Err(_) => self.close(id, moment),
            },
            Carried::Confirm => self.open(id, moment),
            Carried::Message(message) => {
                if self.links.may_hear(id) {
                    self.machine.handle_message(peer, &message, moment.now);
                }
            }
        }
    }

    fn handle_closed(&mut self, id: ConnectionId, moment: Moment) {
        let Some(ended) = self.links.remove(id) else { return };
        if ended.last {
            if ended.stage == Stage::Open {
                self.machine.handle_gone(ended.peer, moment.now);
            } else {
                self.give_up(ended.peer, moment);
            }
        }
        self.next_care = self.next_care.min(moment.at);
    }

    fn open(&mut self, id: ConnectionId, moment: Moment) {
        if !self.links.advance(id, Stage::Open) {
            return;
        }
        for old in self.links.replaced_by(id) {
            self.close(old, moment);
        }
        let Some(peer) = self.links.get(id).map(|link| link.peer) else { return };
        let target = self.target(peer);
        target.dialling = false;
        target.failures = 0;
        target.ended = Some(moment.at);
        target.pause = SHORTEST_PAUSE;
        target.asked = false;
        for message in std::mem::take(&mut target.waiting) {
            self.send(peer, message, moment);
        }
    }

    fn send(&mut self, to: PeerId, message: Vec<u8>, moment: Moment) {
        if let Some(id) = self.links.preferred(self.me, to) {
            self.wishes.push_back(Wish::Carry { id, what: Carried::Message(message) });
            return;
        }
        let target = self.target(to);
        target.waiting.push_back(message);
        if target.waiting.len() > MOST_WAITING {
            target.waiting.pop_front();
        }
        self.connect(to, Wanted::Asked, moment);
    }

    fn dial(&mut self, peer: PeerId, moment: Moment) {
        if self.machine.namespace().is_none() && self.links.is_open(peer) {
            // It gave this contact up and comes back to it; a new hello needs a new connection.
            self.close_all(peer, moment);
            return;
        }
        self.connect(peer, Wanted::Asked, moment);
    }

    /// Tries to reach a peer unless it is being tried or is there already.
    fn connect(&mut self, peer: PeerId, wanted: Wanted, moment: Moment) {
        if peer == self.me || self.links.has(peer) || self.target(peer).dialling {
            return;
        }
        let target = self.target(peer);
        target.asked |= wanted == Wanted::Asked;
        if let Some(next) = target.pause_ends().filter(|next| moment.at < *next) {
            self.next_care = self.next_care.min(next);
            return;
        }
        target.dialling = true;
        self.wishes.push_back(Wish::Dial { peer });
    }

    fn give_up(&mut self, peer: PeerId, moment: Moment) {
        let target = self.target(peer);
        target.dialling = false;
        target.ended = Some(moment.at);
        target.pause = SHORTEST_PAUSE.saturating_mul(1 << target.failures.min(6)).min(LONGEST_PAUSE);
        target.failures = target.failures.saturating_add(1);
        target.asked = false;
        target.waiting.clear();
        self.machine.handle_gone(peer, moment.now);
        self.next_care = self.next_care.min(moment.at + Duration::from_secs(1));
    }

    fn take_care(&mut self, moment: Moment) {
        self.next_care = moment.at + CARE;
        let asked = self.targets.iter().filter(|(_, target)| target.asked && !target.dialling);
        for peer in asked.map(|(peer, _)| *peer).collect::<Vec<_>>() {
            self.connect(peer, Wanted::Asked, moment);
        }
        for peer in self.machine.voters() {
            self.connect(peer, Wanted::Standing, moment);
        }
    }

    fn close(&mut self, id: ConnectionId, moment: Moment) {
        self.wishes.push_back(Wish::Close { id });
        self.handle_closed(id, moment);
    }

    fn close_all(&mut self, peer: PeerId, moment: Moment) {
        for id in self.links.of(peer) {
            self.close(id, moment);
        }
    }

    fn target(&mut self, peer: PeerId) -> &mut Target {
        self.targets.entry(peer).or_default()
    }

    /// Whether this node and that peer have let each other in.
    pub(crate) fn is_connected(&self, peer: PeerId) -> bool {
        self.links.is_open(peer) && self.links.level(peer) == Some(Level::Member)
    }
}
