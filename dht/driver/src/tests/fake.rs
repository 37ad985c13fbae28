//! A state machine that is easy to foresee, and nodes that run it: the driver under test is the shipped one.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use dht::identity::SecretKey;
use dht::token::Contact;
use dht::{BootId, Command, Event, Level, NamespaceId, Now, Output, OwnerTime, Refusal, ReplicaTime, Write};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use crate::config::{Clocks, DriverConfig, DriverEvent, Loopback};
use crate::driver::run_machine;
use crate::machine::Machine;
use crate::store::Store;

/// Admits whoever knows its secret. Persists each message before it sends it, and tells each that it gets.
/// Messages that are wishes.
pub(crate) const DIAL_BACK: &[u8] = b"dial back";
pub(crate) const PUBLISH: &[u8] = b"publish ";
pub(crate) const SEEK: &[u8] = b"seek ";
/// What the fake says when it hears where a replica is.
pub(crate) const LOCATED: &[u8] = b"located";

#[derive(Debug, Default)]
pub(crate) struct Fake {
    pub(crate) secret: Vec<u8>,
    pub(crate) level: Option<Level>,
    pub(crate) voters: Vec<PeerId>,
    /// Whether it tells that it hears where they are.
    pub(crate) tells_where: bool,
    /// Its own name, for what it tells of hints.
    pub(crate) me: Vec<u8>,
    output: VecDeque<Output>,
}

impl Fake {
    pub(crate) fn new(secret: &[u8]) -> Self {
        Self { secret: secret.to_vec(), ..Self::default() }
    }

    fn admit(&mut self, peer: PeerId) {
        self.output.push_back(Output::Admit { peer, level: self.level.unwrap_or(Level::Member) });
    }

    pub(crate) fn handle_command(&mut self, command: Command) {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the fake is asked two things")]
        match command {
            Command::Signal { to, message } if message == DIAL_BACK => {
                self.output.push_back(Output::DialBack { peer: to });
            }
            Command::Signal { message, .. } if message.starts_with(PUBLISH) => {
                let key = message[PUBLISH.len()..].to_vec();
                self.output.push_back(Output::Publish { value: key.clone(), key });
            }
            Command::Signal { message, .. } if message.starts_with(SEEK) => {
                self.output.push_back(Output::Seek { key: message[SEEK.len()..].to_vec() });
            }
            Command::Signal { to, message } => {
                self.output
                    .push_back(Output::Persist(vec![Write { key: b"sent".to_vec(), value: Some(message.clone()) }]));
                self.output.push_back(Output::Send { to, message });
            }
            Command::Connect { peer } => self.output.push_back(Output::Dial { peer, addrs: Vec::new() }),
            other => panic!("the fake does not know {other:?}"),
        }
    }

    /// Told like a message of that peer's.
    pub(crate) fn set_replica_contact(&mut self, contact: &Contact) {
        if !self.tells_where {
            return;
        }
        let from = contact.identity.peer_id().expect("it was made of one");
        self.output.push_back(Output::Event(Event::Signal { from, message: LOCATED.to_vec() }));
    }

    pub(crate) fn hello(&mut self) -> Vec<u8> {
        self.secret.clone()
    }

    pub(crate) fn handle_hello(&mut self, from: PeerId, request: &[u8]) -> Result<Vec<u8>, Refusal> {
        if request != self.secret {
            return Err(Refusal::OtherNamespace);
        }
        self.admit(from);
        Ok(self.secret.clone())
    }

    pub(crate) fn handle_hello_response(&mut self, from: PeerId, response: &[u8]) -> Result<(), Refusal> {
        if response != self.secret {
            return Err(Refusal::OtherNamespace);
        }
        self.admit(from);
        Ok(())
    }

    pub(crate) fn handle_message(&mut self, from: PeerId, message: &[u8]) {
        self.output.push_back(Output::Event(Event::Signal { from, message: message.to_vec() }));
    }

    pub(crate) fn handle_gone(&mut self, peer: PeerId) {
        self.output.push_back(Output::Event(Event::PeerDenied { peer }));
    }

    pub(crate) fn handle_dialled_back(&mut self, from: PeerId, reached: bool) {
        let message = if reached { b"reached".to_vec() } else { b"not reached".to_vec() };
        self.output.push_back(Output::Event(Event::Signal { from, message }));
    }

    pub(crate) fn handle_hint(&mut self, key: &[u8], value: &[u8]) {
        let message = [key, b"=", value].concat();
        let from = PeerId::from_bytes(&self.me).expect("a fake that seeks has a name");
        self.output.push_back(Output::Event(Event::Signal { from, message }));
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }
}

/// The real clock.
pub(crate) struct RealClock(Instant);

impl RealClock {
    #[expect(clippy::disallowed_methods, reason = "a test needs one real instant as origin")]
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clocks for RealClock {
    fn now(&self) -> Now {
        #[expect(clippy::disallowed_methods, reason = "the driver's timers run in real time")]
        let mono = Instant::now();
        let passed = mono - self.0;
        Now {
            mono,
            owner: OwnerTime(passed),
            replica: ReplicaTime(passed),
            boot: BootId([1; 16]),
            unix_s: 1_800_000_000,
            jumps: 0,
        }
    }
}

/// A port that was free a moment ago, for TCP and UDP.
pub(crate) fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = tcp.local_addr().unwrap().port();
        if UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

pub(crate) fn identity(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

/// How a test's node is set up, on loopback, with neither mDNS nor contacts.
pub(crate) fn config(n: u8, port: u16) -> DriverConfig {
    let mut config =
        DriverConfig::new(NamespaceId([9; 32]), identity(n).seed(), Zeroizing::new([n; 32]), port, [n; 32]);
    config.listen = vec![Ipv4Addr::LOCALHOST.into()];
    config.mdns = false;
    config.loopback = Loopback::Dial;
    config
}

/// A driver that runs.
pub(crate) struct Node {
    pub(crate) peer: PeerId,
    pub(crate) port: u16,
    pub(crate) commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<DriverEvent>,
    shutdown: Option<oneshot::Sender<()>>,
    task: JoinHandle<anyhow::Result<()>>,
}

/// A store in a file that nobody else has.
pub(crate) fn store(name: &str) -> Store {
    Store::create(&super::scratch(name).join("store"), &[]).unwrap().0
}

impl Node {
    pub(crate) fn start(config: DriverConfig, machine: Machine, store: Store) -> Self {
        let (commands, command_receiver) = mpsc::channel(64);
        let (event_sender, events) = mpsc::channel(64);
        let (shutdown, stopped) = oneshot::channel();
        let (peer, port) = (SecretKey::from_seed(&config.identity).peer_id(), config.port);
        let running = run_machine(config, machine, store, RealClock::new(), command_receiver, event_sender, stopped);
        Self { peer, port, commands, events, shutdown: Some(shutdown), task: tokio::spawn(running) }
    }

    pub(crate) fn fake(config: DriverConfig, fake: Fake, name: &str) -> Self {
        Self::start(config, Machine::Fake(Box::new(fake)), store(name))
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// With its name at the end.
    pub(crate) fn multiaddr(&self) -> Multiaddr {
        crate::address::multiaddrs_of(self.addr())[0].clone().with_p2p(self.peer).unwrap()
    }

    pub(crate) async fn command(&self, command: Command) {
        self.commands.send(command).await.unwrap();
    }

    pub(crate) async fn signal(&self, to: PeerId, message: &[u8]) {
        self.command(Command::Signal { to, message: message.to_vec() }).await;
    }

    /// The first event that is wanted. Fails after ten seconds.
    pub(crate) async fn wait<T>(&mut self, what: &str, wanted: impl Fn(DriverEvent) -> Option<T>) -> T {
        let mut seen = Vec::new();
        let search = async {
            loop {
                let event = self.events.recv().await.expect("the driver runs");
                seen.push(format!("{event:?}"));
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
        };
        let Ok(found) = tokio::time::timeout(Duration::from_secs(10), search).await else {
            panic!("{what} did not happen, but {seen:#?}")
        };
        found
    }

    pub(crate) async fn listening(&mut self) {
        self.wait("listening", |event| {
            matches!(event, DriverEvent::Listening(addrs) if !addrs.is_empty()).then_some(())
        })
        .await;
    }

    pub(crate) async fn connected(&mut self, with: PeerId) {
        self.wait("a connection", |event| (event == DriverEvent::Connected { peer: with }).then_some(())).await;
    }

    pub(crate) async fn signalled(&mut self) -> (PeerId, Vec<u8>) {
        self.wait("a message", |event| {
            let DriverEvent::Core(Event::Signal { from, message }) = event else { return None };
            Some((from, message))
        })
        .await
    }

    pub(crate) async fn gone(&mut self, peer: PeerId) {
        self.wait("giving up", |event| (event == DriverEvent::Core(Event::PeerDenied { peer })).then_some(())).await;
    }

    /// Whatever has been told by now.
    pub(crate) fn told(&mut self) -> Vec<DriverEvent> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }

    /// Everything that the driver still tells, when it has ended by itself.
    pub(crate) async fn ended(mut self) -> (anyhow::Result<()>, Vec<DriverEvent>) {
        let mut events = Vec::new();
        while let Some(event) = self.events.recv().await {
            events.push(event);
        }
        (self.task.await.unwrap(), events)
    }

    pub(crate) async fn stop(mut self) {
        drop(self.shutdown.take());
        self.events.close();
        self.task.await.unwrap().unwrap();
    }
}
