//! One running namespace: its driver, its threads, and the task that does what the engine asks of the machine.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use dht::identity::SecretKey;
use dht::token::{Contact, ContactAddress};
use dht::{NamespaceId, Summary};
use dht_driver::{DriverConfig, DriverEvent, Loopback};
use engine::{NamespaceStatus, Reply, Request, RequestId, ViewStatus};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use zeroize::Zeroizing;

use crate::cli::Role;
use crate::control::Input;
use crate::daemon::{Daemon, texts};
use crate::launch::{self, Prepared};
use crate::report;
use crate::shell::Shell;
use crate::state::{NamespaceDir, Settings, random};
use crate::underlay::{Underlay, advertised};

/// Commands and events that may wait on the way to and from libp2p.
pub(crate) const DRIVER_QUEUE: usize = 1024;
/// Interfaces come and go; this often we look.
const ENDPOINTS_EVERY: Duration = Duration::from_secs(15);

/// How far a namespace has come.
#[derive(Clone, Debug)]
pub(crate) enum Progress {
    Starting,
    /// Usable; the line to print.
    Ready(String),
    /// It ended, and why.
    Failed(String),
    /// It was stopped on purpose.
    Stopped,
}

/// One running namespace.
pub(crate) struct Running {
    pub(crate) id: NamespaceId,
    pub(crate) slot: usize,
    dir: NamespaceDir,
    settings: Mutex<Settings>,
    summary: Mutex<Option<Summary>>,
    tap_name: OnceLock<String>,
    control: OnceLock<SyncSender<Input>>,
    replies: Mutex<BTreeMap<u64, oneshot::Sender<Reply>>>,
    identity: Zeroizing<[u8; 32]>,
    progress: watch::Sender<Progress>,
    stop: Notify,
    stopped: watch::Sender<bool>,
}

impl Running {
    /// Starts everything; what happens next shows in [`Running::progress`].
    pub(crate) fn start(daemon: Arc<Daemon>, slot: usize, prepared: Prepared) -> Arc<Self> {
        let running = Arc::new(Self {
            id: prepared.dir.id,
            slot,
            dir: prepared.dir.clone(),
            settings: Mutex::new(prepared.settings.clone()),
            summary: Mutex::new(prepared.summary.clone()),
            tap_name: OnceLock::new(),
            control: OnceLock::new(),
            replies: Mutex::new(BTreeMap::new()),
            identity: daemon.state.identity().unwrap_or_default(),
            progress: watch::Sender::new(Progress::Starting),
            stop: Notify::new(),
            stopped: watch::Sender::new(false),
        });
        let task = Arc::clone(&running);
        tokio::spawn(async move {
            let end = task.clone().live(daemon, prepared).await;
            task.tell(end.map_or_else(|error| Progress::Failed(format!("{error:#}")), |()| Progress::Stopped));
            task.stopped.send_replace(true);
        });
        running
    }

    /// How far it has come.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// This node's identity.
    pub(crate) fn identity(&self) -> SecretKey {
        SecretKey::from_seed(&self.identity)
    }

    /// This node's X25519 secret here.
    pub(crate) fn data_key(&self) -> anyhow::Result<Zeroizing<[u8; 32]>> {
        self.dir.data_key()
    }

    /// How far it has come from here on.
    pub(crate) fn tell(&self, progress: Progress) {
        self.progress.send_replace(progress);
    }

    /// The TAP is made.
    pub(crate) fn set_tap(&self, name: &str) {
        let _ = self.tap_name.set(name.to_owned());
    }

    /// The control thread runs.
    pub(crate) fn set_control(&self, control: SyncSender<Input>) {
        let _ = self.control.set(control);
    }

    /// The engine has answered a request.
    pub(crate) fn replied(&self, id: RequestId, reply: Reply) {
        if let Some(waiting) = lock(&self.replies).remove(&id.0) {
            let _ = waiting.send(reply);
        }
    }

    /// Waits until it has failed, and says why; `None` if it was stopped.
    pub(crate) async fn failure(&self) -> Option<String> {
        let mut progress = self.progress();
        let failed =
            progress.wait_for(|progress| matches!(progress, Progress::Failed(_) | Progress::Stopped)).await.ok()?;
        match &*failed {
            Progress::Failed(why) => Some(why.clone()),
            Progress::Starting | Progress::Ready(_) | Progress::Stopped => None,
        }
    }

    /// What it is called here.
    pub(crate) fn alias(&self) -> String {
        lock(&self.settings).alias.clone()
    }

    pub(crate) fn is_called(&self, name: &str) -> bool {
        launch::names(name, self.id, &lock(&self.settings))
    }

    /// What the overlay says of it, once it is known.
    pub(crate) fn summary(&self) -> Option<Summary> {
        lock(&self.summary).clone()
    }

    /// libp2p's port.
    pub(crate) fn overlay_port(&self) -> u16 {
        lock(&self.settings).overlay_port
    }

    /// Ends it, and waits until its TAP and DNS settings are gone.
    pub(crate) async fn stop(&self) {
        self.stop.notify_one();
        let mut stopped = self.stopped.subscribe();
        let _ = tokio::time::timeout(Duration::from_secs(10), stopped.wait_for(|done| *done)).await;
    }

    /// Erases keys and membership.
    pub(crate) fn erase(&self) -> anyhow::Result<()> {
        self.dir.erase()
    }

    pub(crate) fn refuse_to_destroy(&self, name: &str) -> anyhow::Result<()> {
        if self.dir.authority_key()?.is_some() {
            bail!(
                "this machine holds the authority key of {name}, which exists nowhere else; add --destroy to erase it"
            );
        }
        let summary = self.summary();
        let only = |summary: &Summary| summary.members == [self.identity().peer_id()];
        if summary.as_ref().is_some_and(only) {
            bail!("this machine is the only replica of {name}; add --destroy to erase all leases with it");
        }
        Ok(())
    }

    pub(crate) async fn status(&self) -> anyhow::Result<NamespaceStatus> {
        let Some(control) = self.control.get() else { return Ok(self.status_before_joining()) };
        let (sender, answer) = oneshot::channel();
        control.try_send(Input::Status(sender)).map_err(|_| anyhow!("the control thread is busy; try again"))?;
        let mut status = tokio::time::timeout(Duration::from_secs(5), answer)
            .await
            .map_err(|_| anyhow!("the control thread did not answer within 5 s"))??;
        status.tap = self.tap_name.get().cloned();
        if status.tap.is_none() {
            status.mac = None;
        }
        if let Some(summary) = self.summary() {
            status.view = Some(ViewStatus { number: summary.view, members: texts(&summary.members) });
        }
        Ok(status)
    }

    /// Whether the line to give to others was never printed before; from here on it was.
    pub(crate) fn introduce_once(&self) -> bool {
        let mut settings = lock(&self.settings);
        let first = !settings.introduced;
        settings.introduced = true;
        first && self.dir.write_settings(&settings).is_ok()
    }

    fn status_before_joining(&self) -> NamespaceStatus {
        let cause = match &*self.progress.borrow() {
            Progress::Failed(why) => Some(why.clone()),
            Progress::Starting | Progress::Ready(_) | Progress::Stopped => None,
        };
        let state = if cause.is_some() { engine::State::Denied } else { engine::State::Joining };
        NamespaceStatus::before_joining(&self.alias(), &self.id.to_string(), state, cause)
    }

    pub(crate) async fn ask(&self, id: RequestId, request: Request) -> anyhow::Result<Reply> {
        let control = self.control.get().ok_or_else(|| anyhow!("{} is still joining", self.alias()))?;
        let (sender, reply) = oneshot::channel();
        lock(&self.replies).insert(id.0, sender);
        control
            .try_send(Input::Request { id, request })
            .map_err(|_| anyhow!("the control thread is busy; try again"))?;
        let answer = tokio::time::timeout(Duration::from_secs(10), reply).await;
        lock(&self.replies).remove(&id.0);
        Ok(answer.map_err(|_| anyhow!("no answer within 10 s"))??)
    }

    /// An invite with this machine as the first contact.
    pub(crate) async fn invite_request(
        &self,
        daemon: &Arc<Daemon>,
        uses: u16,
        ttl: Duration,
        role: Role,
        hosts: u16,
    ) -> anyhow::Result<Request> {
        let addresses = self.contact_addresses(daemon).await?;
        let identity = self.identity().public();
        let role = match role {
            Role::Member => dht::Role::Member,
            Role::Router => dht::Role::Router,
        };
        Ok(Request::Invite { uses, ttl, role, hosts, contacts: vec![Contact { identity, addresses }] })
    }

    /// Where a newcomer's libp2p finds ours: what is advertised first, then the machine's own addresses.
    async fn contact_addresses(&self, daemon: &Arc<Daemon>) -> anyhow::Result<Vec<ContactAddress>> {
        let (advertise, port) = {
            let settings = lock(&self.settings);
            (settings.options.advertise.clone(), settings.overlay_port)
        };
        let beside = |addr: SocketAddr| SocketAddr::new(addr.ip(), addr.port().saturating_add(1));
        let mut addresses: Vec<SocketAddr> = advertised(&advertise).await?.into_iter().map(beside).collect();
        let underlay = Underlay::look(daemon).await?;
        addresses.extend(underlay.addresses.into_iter().map(|ip| SocketAddr::new(ip, port)));
        addresses.dedup();
        addresses.truncate(dht::token::MAX_ADDRESSES);
        Ok(addresses.into_iter().map(ContactAddress::Socket).collect())
    }

    /// The namespace's whole life.
    async fn live(self: Arc<Self>, daemon: Arc<Daemon>, prepared: Prepared) -> anyhow::Result<()> {
        let settings = prepared.settings.clone();
        let options = &settings.options;
        let mut driver =
            DriverConfig::new(self.id, self.identity.clone(), self.dir.data_key()?, settings.overlay_port, *random()?);
        driver.advertise = advertised(&options.advertise)
            .await?
            .into_iter()
            .map(|addr| SocketAddr::new(addr.ip(), addr.port().saturating_add(1)))
            .collect();
        driver.peers = options
            .peer
            .iter()
            .map(|text| text.parse().with_context(|| format!("--peer {text} is no multiaddress")))
            .collect::<Result<_, _>>()?;
        driver.filtered = prepared.summary.iter().map(|summary| summary.range).collect();
        let underlay = Underlay::look(&daemon).await?;
        driver.loopback = if underlay.loopback_only { Loopback::Dial } else { Loopback::Refuse };

        let (command_tx, command_rx) = mpsc::channel(DRIVER_QUEUE);
        let (event_tx, mut events) = mpsc::channel(DRIVER_QUEUE);
        let (_shutdown, shutdown) = oneshot::channel();
        let clock = DriverClock(Arc::clone(&daemon.clock));
        let mut driver = tokio::spawn(dht_driver::run(
            driver,
            prepared.start,
            prepared.store,
            clock,
            command_rx,
            event_tx,
            shutdown,
        ));
        let mut shell = None;
        if let Some(summary) = prepared.summary {
            shell = Some(Shell::assemble(&self, &daemon, &settings, summary, command_tx.clone()).await?);
        }
        let result = self.clone().attend(&daemon, &settings, &mut events, command_tx, &mut shell, &mut driver).await;
        if let Some(shell) = shell {
            shell.take_down(&daemon, self.slot).await;
        }
        drop(_shutdown);
        let _ = tokio::time::timeout(Duration::from_secs(5), driver).await;
        result
    }

    async fn attend(
        self: Arc<Self>,
        daemon: &Arc<Daemon>,
        settings: &Settings,
        events: &mut mpsc::Receiver<DriverEvent>,
        commands: mpsc::Sender<dht::Command>,
        shell: &mut Option<Shell>,
        driver: &mut tokio::task::JoinHandle<anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let mut look = tokio::time::interval(ENDPOINTS_EVERY);
        loop {
            let engine_event = async {
                match shell.as_mut() {
                    Some(shell) => shell.next_event().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.stop.notified() => return Ok(()),
                event = events.recv() => match event {
                    Some(event) => self.driver_event(event, daemon, settings, &commands, shell).await?,
                    None => {
                        return driver.await.map_err(|error| anyhow!("the overlay thread died: {error}"))?
                            .and_then(|()| Err(anyhow!("the overlay ended")));
                    }
                },
                event = engine_event => {
                    if let Some(shell) = shell.as_mut() {
                        shell.engine_event(&self, daemon, event).await?;
                    }
                }
                _ = look.tick() => {
                    if let Some(shell) = shell.as_mut() {
                        shell.look_for_endpoints(daemon).await;
                    }
                }
            }
        }
    }

    async fn driver_event(
        self: &Arc<Self>,
        event: DriverEvent,
        daemon: &Arc<Daemon>,
        settings: &Settings,
        commands: &mpsc::Sender<dht::Command>,
        shell: &mut Option<Shell>,
    ) -> anyhow::Result<()> {
        match event {
            DriverEvent::Core(event) => {
                if let Some(shell) = shell {
                    shell.tell(Input::Overlay(event)).await;
                }
            }
            DriverEvent::Joined(summary) => {
                report::note(&format!("{}: joined", self.alias()));
                *lock(&self.summary) = Some((*summary).clone());
                self.joined(&summary)?;
                *shell = Some(Shell::assemble(self, daemon, settings, *summary, commands.clone()).await?);
            }
            DriverEvent::Joining { what } => report::note(&format!("{}: joining: {what}", self.alias())),
            DriverEvent::JoinFailed(why) => bail!("cannot join: {why}"),
            DriverEvent::Listening(addrs) => tracing::debug!(?addrs, "libp2p listens"),
            DriverEvent::ExternalCandidate(addr) => tracing::debug!(%addr, "libp2p seen from outside"),
            DriverEvent::Connected { peer } => tracing::debug!(%peer, "connected"),
            DriverEvent::Disconnected { peer } => tracing::debug!(%peer, "disconnected"),
            DriverEvent::Fatal(why) => bail!(why),
        }
        Ok(())
    }

    fn joined(&self, summary: &Summary) -> anyhow::Result<()> {
        let mut settings = lock(&self.settings);
        settings.joining = false;
        settings.name.clone_from(&summary.name);
        self.dir.write_settings(&settings)
    }
}

/// The driver's view of the machine's clocks.
struct DriverClock(Arc<crate::io::clock::SystemClock>);

impl dht_driver::Clocks for DriverClock {
    fn now(&self) -> dht::clock::Now {
        self.0.now()
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
