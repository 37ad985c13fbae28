//! The loop: one thing happens, the state machine is told, its writes reach the disk, the rest of its wishes is done.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use dht::identity::SecretKey;
use dht::join::JoinerEvent;
use dht::{Command, Keys, Namespace, Now, Output, Write};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use libp2p::kad::{self, Record, RecordKey};
use libp2p::request_response::OutboundRequestId;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId, Swarm};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::{mpsc, oneshot};

use crate::address::AddressFilter;
use crate::behaviour::{Behaviour, swarm};
use crate::book::Book;
use crate::config::{Clocks, DriverConfig, DriverEvent, Start};
use crate::dial::{Contact, contacts_of};
use crate::dial_back::DialBacks;
use crate::dialer::Dialer;
use crate::hints::Hints;
use crate::links::Links;
use crate::listen::listen;
use crate::machine::Machine;
use crate::proxy::Refusal;
use crate::seek::Seeks;
use crate::store::Store;
use crate::streams::Pipes;
use crate::wire::MOST_REFUSALS;

/// Things that happen before the disk is waited for once.
const MOST_AT_ONCE: usize = 64;
/// Events that the node has not taken yet; beyond, nothing new is let in.
const MOST_UNTOLD: usize = 1024;
/// The lease clocks are sums of steps that must not be longer than a minute.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// Before the same refusal of the proxy is told again, and before another one is.
const SAME_AGAIN: Duration = Duration::from_secs(600);
const OTHER_AGAIN: Duration = Duration::from_secs(10);
/// For telling peers that this node goes.
const FAREWELL: Duration = Duration::from_millis(300);

/// Runs a namespace until `shutdown` is sent or dropped, or something fatal happens.
///
/// `store` is the one that `start` was loaded from. A joiner becomes a namespace here, without another call.
pub async fn run(
    config: DriverConfig,
    start: Start,
    store: Store,
    clocks: impl Clocks,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<DriverEvent>,
    shutdown: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    run_machine(config, start.into(), store, clocks, commands, events, shutdown).await
}

pub(crate) async fn run_machine(
    config: DriverConfig,
    machine: Machine,
    store: Store,
    clocks: impl Clocks,
    mut commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<DriverEvent>,
    shutdown: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    let mut driver = Driver::new(config, machine, store, clocks)?;
    // A joiner has nothing to offer: members that find it on the LAN would only be turned away.
    if !driver.machine.is_joiner() {
        listen(&mut driver.swarm, &driver.config).await?;
    }
    let mut shutdown = pin!(shutdown);
    let mut mapped = driver.config.mapped.clone();
    mapped.mark_changed();
    driver.begin();
    let ending = loop {
        // Before anything else, lest a busy network keep the timers waiting.
        driver.handle_timeout();
        if let Err(error) = driver.turn().await {
            driver.untold.push_back(DriverEvent::Fatal(format!("{error:#}")));
            break Err(error);
        }
        if driver.is_over {
            break Ok(());
        }
        let sleep = driver.sleep();
        let roomy = driver.untold.len() < MOST_UNTOLD;
        let has_untold = !driver.untold.is_empty();
        tokio::select! {
            biased;
            _ = &mut shutdown => break Ok(()),
            place = events.reserve(), if has_untold => match place {
                Ok(place) => if let Some(event) = driver.untold.pop_front() {
                    place.send(event);
                },
                Err(_) => break Ok(()),
            },
            command = commands.recv(), if roomy => match command {
                Some(command) => driver.handle_commands(command, &mut commands),
                None => break Ok(()),
            },
            event = driver.swarm.select_next_some(), if roomy => driver.handle_swarm_events(event),
            asked = driver.pipes.wanted(), if roomy => driver.open_stream(asked),
            Some(refusal) = driver.refusals.recv(), if roomy => driver.handle_refusal(&refusal),
            Some(found) = driver.lookups.next(), if !driver.lookups.is_empty() => driver.handle_lookup(found),
            Ok(()) = mapped.changed() => driver.reach_at(mapped.borrow_and_update().clone()),
            () = tokio::time::sleep(sleep) => {}
        }
    };
    driver.leave(&events).await;
    ending
}

/// A name that was looked up: of which contact, and what it stands for.
pub(crate) struct Found {
    /// Which of the configured contacts.
    pub(crate) contact: Option<usize>,
    pub(crate) peer: Option<PeerId>,
    pub(crate) addresses: Vec<Multiaddr>,
}

/// What is done once everything before it is on disk and done.
pub(crate) enum After {
    Ask { peer: PeerId, connection: ConnectionId, request: Vec<u8> },
    Answer { peer: PeerId, connection: ConnectionId, response: Vec<u8> },
    Confirm { peer: PeerId, connection: ConnectionId },
}

pub(crate) struct Driver<C> {
    pub(crate) config: DriverConfig,
    pub(crate) clocks: C,
    pub(crate) swarm: Swarm<Behaviour>,
    pub(crate) machine: Machine,
    store: Arc<Store>,
    pub(crate) filter: Arc<AddressFilter>,
    pub(crate) links: Links,
    pub(crate) dialer: Dialer,
    pub(crate) dial_backs: DialBacks,
    pub(crate) pipes: Pipes,
    pub(crate) seeks: Seeks,
    pub(crate) book: Book,
    pub(crate) hints: Hints,
    pub(crate) contacts: Vec<Contact>,
    pub(crate) lookups: FuturesUnordered<BoxFuture<'static, Found>>,
    /// Messages that libp2p may have given to a connection that is not open.
    pub(crate) doubtful: HashMap<OutboundRequestId, Vec<u8>>,
    /// What the proxy refuses.
    refusals: mpsc::Receiver<Refusal>,
    /// The last of it that was told, and when.
    told_refusal: Option<(String, Instant)>,
    /// For the node.
    pub(crate) untold: VecDeque<DriverEvent>,
    pub(crate) after: Vec<After>,
    /// When to look again after the connections that ought to stand.
    pub(crate) next_care: Instant,
    /// Where a router sends on to this node.
    mapped: Vec<Multiaddr>,
    rng: ChaCha8Rng,
    is_over: bool,
}

impl<C: Clocks> Driver<C> {
    fn new(mut config: DriverConfig, machine: Machine, store: Store, clocks: C) -> anyhow::Result<Self> {
        let filter = Arc::new(AddressFilter::new(config.loopback, config.filtered.clone()));
        let (sender, refusals) = mpsc::channel(MOST_REFUSALS);
        let swarm = swarm(&config, &filter, sender)?;
        let mut rng = ChaCha8Rng::from_seed(config.seed);
        let pipes = Pipes::new(config.streams.take());
        let dialer = Dialer::new(ChaCha8Rng::from_seed(rng.random()));
        let now = clocks.now();
        Ok(Self {
            links: Links::new(*swarm.local_peer_id()),
            book: Book::load(&store.contacts()?),
            contacts: contacts_of(&config.peers),
            machine,
            store: Arc::new(store),
            hints: Hints::default(),
            lookups: FuturesUnordered::new(),
            doubtful: HashMap::new(),
            refusals,
            told_refusal: None,
            untold: VecDeque::new(),
            after: Vec::new(),
            next_care: now.mono,
            is_over: false,
            config,
            clocks,
            swarm,
            filter,
            dialer,
            dial_backs: DialBacks::default(),
            mapped: Vec::new(),
            pipes,
            seeks: Seeks::default(),
            rng,
        })
    }

    pub(crate) fn now(&self) -> Now {
        self.clocks.now()
    }

    pub(crate) fn tell(&mut self, event: DriverEvent) {
        self.untold.push_back(event);
    }

    fn handle_refusal(&mut self, refusal: &Refusal) {
        let (text, now) = (refusal.to_string(), self.now().mono);
        let pause = |told: &str| if told == text { SAME_AGAIN } else { OTHER_AGAIN };
        let is_soon = |(told, at): &(String, Instant)| now < *at + pause(told);
        if !self.told_refusal.as_ref().is_some_and(is_soon) {
            self.told_refusal = Some((text.clone(), now));
            self.tell(DriverEvent::ProxyRefuses(text));
        }
    }

    fn handle_commands(&mut self, first: Command, commands: &mut mpsc::Receiver<Command>) {
        let now = self.now();
        let more = std::iter::from_fn(|| commands.try_recv().ok()).take(MOST_AT_ONCE - 1);
        let commands = std::iter::once(first).chain(more).collect();
        self.machine.handle_commands(commands, now);
    }

    fn handle_swarm_events(&mut self, first: crate::network::SwarmEvent) {
        self.handle_swarm_event(first);
        for _ in 1..MOST_AT_ONCE {
            let Some(Some(event)) = self.swarm.next().now_or_never() else { return };
            self.handle_swarm_event(event);
        }
    }

    /// A router sends on to this node there, and no longer where it did before.
    fn reach_at(&mut self, mapped: Vec<Multiaddr>) {
        for gone in self.mapped.iter().filter(|address| !mapped.contains(address)) {
            self.swarm.remove_external_address(gone);
        }
        for address in mapped.iter().filter(|address| !self.mapped.contains(address)) {
            self.swarm.add_external_address(address.clone());
        }
        self.mapped = mapped;
    }

    fn handle_timeout(&mut self) {
        let now = self.now();
        if self.machine.poll_timeout().is_some_and(|(at, _)| at <= now.mono) {
            self.machine.handle_timeout(now);
        }
        if self.next_care <= now.mono {
            self.take_care();
        }
        if self.dial_backs.next().is_some_and(|at| at <= now.mono) {
            self.give_up_dial_backs();
        }
    }

    fn sleep(&self) -> Duration {
        let now = self.now().mono;
        let machine = self.machine.poll_timeout().map_or(LONGEST_SLEEP, |(at, _)| at.saturating_duration_since(now));
        let dial_backs = self.dial_backs.next().map_or(LONGEST_SLEEP, |at| at.saturating_duration_since(now));
        let contacts = self.book.due().map_or(LONGEST_SLEEP, |at| at.saturating_duration_since(now));
        machine.min(self.next_care.saturating_duration_since(now)).min(dial_backs).min(contacts).min(LONGEST_SLEEP)
    }

    /// Takes everything that the state machine wants, writes what is to be written in one transaction, then does the
    /// rest in its order. Writing more, earlier, is as good as the order asked for: a crash in between loses
    /// messages, which any network may.
    async fn turn(&mut self) -> anyhow::Result<()> {
        loop {
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
            let idle = writes.is_empty() && wishes.is_empty() && after.is_empty() && joined.is_none();
            let due = self.book.due().is_some_and(|at| at <= self.now().mono);
            if idle && !due {
                return Ok(());
            }
            self.commit(writes).await?;
            for wish in wishes {
                self.fulfil(wish);
            }
            for after in after {
                self.finish(after);
            }
            if let Some(name) = joined {
                self.become_member(&name)?;
                listen(&mut self.swarm, &self.config).await?;
                self.begin();
            }
        }
    }

    /// Contacts wait for writes that have to be synced anyhow, in the same transaction, or for their own time.
    async fn commit(&mut self, writes: Vec<Write>) -> anyhow::Result<()> {
        let due = self.book.due().is_some_and(|at| at <= self.now().mono);
        let contacts = if due || !writes.is_empty() { self.book.take_unsaved() } else { Vec::new() };
        if writes.is_empty() && contacts.is_empty() {
            return Ok(());
        }
        let store = self.store.clone();
        let commit = move || store.commit_all(&writes, &contacts);
        // A sync may take long on a busy disk; connections are served meanwhile, by their own tasks.
        tokio::task::spawn_blocking(commit).await.context("the store's thread died")??;
        Ok(())
    }

    fn fulfil(&mut self, wish: Output) {
        match wish {
            Output::Persist(_) => {}
            Output::Send { to, message } => self.send(to, message),
            Output::Admit { peer, level } => {
                self.links.admit(peer, level);
                self.set_doors_of(peer);
            }
            Output::Refuse { peer, reason } => {
                tracing::debug!(%peer, %reason, "refused");
                self.close_all(peer);
            }
            Output::Dial { peer, addrs } => self.dial(peer, &addrs),
            Output::Publish { key, value } => self.publish(&key, value),
            Output::Seek { key } => self.seek(&key),
            Output::DialBack { peer } => self.dial_back(peer),
            Output::Event(event) => self.tell(DriverEvent::Core(event)),
        }
    }

    /// A hint: where it ends up, and whether, is not waited for. This node keeps it, too.
    fn publish(&mut self, key: &[u8], value: Vec<u8>) {
        let (now, me) = (self.now().mono, *self.swarm.local_peer_id());
        let machine = &self.machine;
        let verify = |key: &[u8], value: &[u8], held: Option<&[u8]>| machine.verify_hint(key, value, held);
        let record = Record { key: RecordKey::new(&key), value, publisher: None, expires: None };
        let kad = self.swarm.behaviour_mut().kad.inner();
        if let Some(record) = self.hints.put_own(kad.store_mut(), me, record, verify, now) {
            let _ = kad.put_record(record, kad::Quorum::One);
        }
    }

    fn finish(&mut self, after: After) {
        match after {
            After::Ask { peer, connection, request } => {
                self.swarm.behaviour_mut().hello.ask(peer, connection, request);
            }
            After::Answer { peer, connection, response } => self.answer(peer, connection, response),
            After::Confirm { peer, connection } => self.confirm(peer, connection),
        }
    }

    /// Says whether the join has succeeded, and under which name; then its writes are among those to commit.
    fn take_joiner_events(&mut self, writes: &mut Vec<Write>) -> Option<String> {
        let mut joined = None;
        while let Some(event) = self.machine.poll_joiner_event() {
            match event {
                JoinerEvent::Progress(what) => self.tell(DriverEvent::Joining { what }),
                JoinerEvent::Joined { name, writes: more, .. } => {
                    writes.extend(more);
                    joined = Some(name);
                }
                JoinerEvent::Failed(error) => {
                    self.tell(DriverEvent::JoinFailed(error.to_string()));
                    self.is_over = true;
                }
            }
        }
        joined
    }

    /// The membership is on disk: begins again as a member, with new hellos on new connections.
    fn become_member(&mut self, name: &str) -> anyhow::Result<()> {
        let image = self.store.image()?;
        let keys = Keys {
            identity: SecretKey::from_seed(&self.config.identity),
            data: self.config.data.clone(),
            authority: None,
        };
        let namespace = Namespace::load(keys, &image, self.rng.random(), self.now())
            .map_err(|error| anyhow!("joined {name}, but cannot load it: {error}"))?;
        let summary = Box::new(namespace.summary());
        self.machine = Machine::Member(Box::new(namespace));
        for connection in self.links.forget_all() {
            self.swarm.close_connection(connection);
        }
        self.tell(DriverEvent::Joined(summary));
        Ok(())
    }

    /// Closes all connections and waits a moment for it to be known; tells the node what is left to tell.
    async fn leave(mut self, events: &mpsc::Sender<DriverEvent>) {
        if let Err(error) = self.store.commit_all(&[], &self.book.take_unsaved()) {
            tracing::debug!(%error, "where peers were is not kept");
        }
        for connection in self.links.forget_all() {
            self.swarm.close_connection(connection);
        }
        let _ = tokio::time::timeout(FAREWELL, async {
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.next().await;
            }
        })
        .await;
        for event in self.untold.drain(..) {
            if events.try_send(event).is_err() {
                return;
            }
        }
    }
}
