//! One running namespace: its driver, its threads, and the task that does what the engine asks of the machine.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use dht::identity::SecretKey;
use dht::token::{Contact, ContactAddress};
use dht::{NamespaceId, Summary};
use dht_driver::{DriverConfig, DriverEvent, Loopback, Proxy};
use engine::{NamespaceStatus, Reply, Request, RequestId, State};
use libp2p::Multiaddr;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use zeroize::Zeroizing;

use crate::cli::{JoinOptions, PortMapping, Role};
use crate::control::Input;
use crate::daemon::Daemon;
use crate::launch::{self, Prepared};
use crate::mapping;
use crate::proxy;
use crate::report;
use crate::serve::Offer;
use crate::shell::{DriverEnds, Shell};
use crate::socket::Start;
use crate::state::{NamespaceDir, Settings, StateDir, random};
use crate::underlay::{Underlay, advertised};

/// Commands and events that may wait on the way to and from libp2p.
pub(crate) const DRIVER_QUEUE: usize = 1024;
/// Interfaces come and go; this often we look, should the kernel not have told.
const ENDPOINTS_EVERY: Duration = Duration::from_secs(15);

/// How far a namespace has come.
#[derive(Clone, Debug)]
pub(crate) enum Progress {
    /// Not usable yet; what is waited for, once that can be told.
    Starting(Option<String>),
    /// Usable; the line to print.
    Ready(String),
    /// It ended, and why.
    Failed(String),
    /// The namespace did not let this machine in, and why; asking again changes nothing.
    Denied(String),
    /// It was stopped on purpose.
    Stopped,
}

impl Progress {
    /// Why it ended, if it was not stopped on purpose.
    fn failure(&self) -> Option<&String> {
        match self {
            Self::Failed(why) | Self::Denied(why) => Some(why),
            Self::Starting(_) | Self::Ready(_) | Self::Stopped => None,
        }
    }

    /// What the status says of it where no engine can be asked.
    fn cause(&self) -> Option<&String> {
        match self {
            Self::Starting(what) => what.as_ref(),
            Self::Failed(_) | Self::Denied(_) | Self::Ready(_) | Self::Stopped => self.failure(),
        }
    }

    /// The state that goes with it.
    fn state(&self, was_ready: bool) -> State {
        match self {
            Self::Denied(_) => State::Denied,
            Self::Failed(_) | Self::Starting(_) | Self::Ready(_) | Self::Stopped if was_ready => State::Lost,
            Self::Failed(_) | Self::Starting(_) | Self::Ready(_) | Self::Stopped => State::Joining,
        }
    }
}

/// A join that is over for good.
#[derive(Debug)]
struct JoinOver(String);

impl std::fmt::Display for JoinOver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot join: {}", self.0)
    }
}

impl std::error::Error for JoinOver {}

/// One running namespace.
pub(crate) struct Running {
    pub(crate) id: NamespaceId,
    pub(crate) slot: usize,
    dir: NamespaceDir,
    settings: Mutex<Settings>,
    summary: Mutex<Option<Summary>>,
    tap_name: OnceLock<String>,
    bridge_name: OnceLock<String>,
    control: OnceLock<SyncSender<Input>>,
    replies: Mutex<BTreeMap<u64, oneshot::Sender<Reply>>>,
    identity: Zeroizing<[u8; 32]>,
    progress: watch::Sender<Progress>,
    was_ready: AtomicBool,
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
            bridge_name: OnceLock::new(),
            control: OnceLock::new(),
            replies: Mutex::new(BTreeMap::new()),
            identity: daemon.state.identity().unwrap_or_default(),
            progress: watch::Sender::new(Progress::Starting(None)),
            was_ready: AtomicBool::new(false),
            stop: Notify::new(),
            stopped: watch::Sender::new(false),
        });
        let task = Arc::clone(&running);
        tokio::spawn(async move {
            // A task of its own: its death must not leave a namespace that never ends.
            let end = tokio::spawn(task.clone().live(daemon, prepared)).await;
            let end = end.unwrap_or_else(|error| Err(anyhow!("the namespace's task died: {error}")));
            task.tell(task.how_it_ended(end));
            task.stopped.send_replace(true);
        });
        running
    }

    fn how_it_ended(&self, end: anyhow::Result<()>) -> Progress {
        match end {
            Ok(()) => Progress::Stopped,
            Err(error) if error.is::<JoinOver>() => {
                // Nothing was proven, so nothing may stay under its name. A redeemed invite is not lost by a late error.
                if !launch::was_redeemed(&self.dir).unwrap_or(true)
                    && let Err(error) = self.dir.erase()
                {
                    report::note(&format!("{}: {error:#}", self.alias()));
                }
                Progress::Denied(format!("{error:#}"))
            }
            Err(error) => Progress::Failed(format!("{error:#}")),
        }
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
        if matches!(progress, Progress::Ready(_)) {
            self.was_ready.store(true, Ordering::Relaxed);
        }
        self.progress.send_replace(progress);
    }

    /// The TAP is made.
    pub(crate) fn set_tap(&self, name: &str) {
        let _ = self.tap_name.set(name.to_owned());
    }

    /// The segment of this bridge is served.
    pub(crate) fn set_bridge(&self, name: &str) {
        let _ = self.bridge_name.set(name.to_owned());
    }

    /// A namespace that runs as a workstation is no router, nor does it change its bridge by being asked to.
    pub(crate) fn refuse_other_mode(&self, start: &Start) -> anyhow::Result<()> {
        let Start::Join { options, .. } = start else { return Ok(()) };
        let settings = lock(&self.settings);
        if settings.options.router == options.router {
            return Ok(());
        }
        let name = &settings.alias;
        match &settings.options.router {
            Some(router) => bail!("{name} runs here as the router of {}; end that first", router.bridge),
            None => bail!("{name} runs here as a workstation; end that first"),
        }
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

    /// Waits until it has ended, and says why; `None` if it was stopped.
    pub(crate) async fn failure(&self) -> Option<String> {
        self.ended().await;
        self.progress.borrow().failure().cloned()
    }

    /// Waits until nothing of it runs any more.
    pub(crate) async fn ended(&self) {
        // The sender lives as long as `self`.
        let _ = self.stopped.subscribe().wait_for(|done| *done).await;
    }

    /// Whether nothing of it runs any more.
    pub(crate) fn is_over(&self) -> bool {
        *self.stopped.borrow()
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

    /// The further port for TLS.
    pub(crate) fn tls_port(&self) -> Option<u16> {
        lock(&self.settings).options.tls_port()
    }

    /// Keeps that it was left: from here on it starts only when asked for by name.
    pub(crate) fn mark_left(&self) -> anyhow::Result<()> {
        let mut settings = lock(&self.settings);
        settings.left = true;
        // A join that failed has left no folder.
        if self.dir.settings()?.is_some() { self.dir.write_settings(&settings) } else { Ok(()) }
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
        if summary.is_some_and(|summary| summary.alone) {
            bail!(
                "this machine is the only replica of {name}, or of a part of it; add --destroy to erase all leases with it"
            );
        }
        Ok(())
    }

    pub(crate) async fn status(&self) -> anyhow::Result<NamespaceStatus> {
        let Some(control) = self.control.get() else { return Ok(self.status_without_engine()) };
        let (sender, answer) = oneshot::channel();
        match control.try_send(Input::Status(sender)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => bail!("the control thread of {} is busy; try again", self.alias()),
            Err(TrySendError::Disconnected(_)) => return Ok(self.status_without_engine()),
        }
        let answer = tokio::time::timeout(Duration::from_secs(5), answer).await;
        let answer = answer.map_err(|_| anyhow!("the control thread of {} did not answer within 5 s", self.alias()))?;
        // It ended in between.
        let Ok(mut status) = answer else { return Ok(self.status_without_engine()) };
        status.tap = self.tap_name.get().cloned();
        status.bridge = self.bridge_name.get().cloned();
        if status.tap.is_none() {
            status.mac = None;
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

    /// Before the namespace is known, and once it has ended.
    fn status_without_engine(&self) -> NamespaceStatus {
        let progress = self.progress.borrow();
        let state = progress.state(self.was_ready.load(Ordering::Relaxed));
        NamespaceStatus::before_joining(&self.alias(), &self.id.to_string(), state, progress.cause().cloned())
    }

    pub(crate) async fn ask(&self, id: RequestId, request: Request) -> anyhow::Result<Reply> {
        let control = self.control.get().ok_or_else(|| self.cannot_ask("is still joining"))?;
        let (sender, reply) = oneshot::channel();
        lock(&self.replies).insert(id.0, sender);
        let _forget = Forget { replies: &self.replies, id };
        control.try_send(Input::Request { id, request }).map_err(|error| match error {
            TrySendError::Full(_) => anyhow!("the control thread is busy; try again"),
            TrySendError::Disconnected(_) => self.cannot_ask("has ended"),
        })?;
        let answer = tokio::time::timeout(Duration::from_secs(10), reply).await;
        Ok(answer.map_err(|_| anyhow!("no answer within 10 s"))??)
    }

    fn cannot_ask(&self, why: &str) -> anyhow::Error {
        let name = self.alias();
        match self.progress.borrow().failure() {
            Some(failure) => anyhow!("{name} has ended: {failure}"),
            None => anyhow!("{name} {why}"),
        }
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
        let mut addresses = self.overlay_advertised(daemon).await?;
        if lock(&self.settings).options.port_mapping.unwrap_or_default() == PortMapping::On {
            addresses.extend(daemon.mappings.overlay(self.overlay_port()).into_iter().map(|(_, addr)| addr));
        }
        let underlay = Underlay::look(daemon).await?;
        addresses.extend(underlay.addresses.into_iter().map(|ip| SocketAddr::new(ip, self.overlay_port())));
        addresses.dedup();
        if let Some(port) = self.tls_port() {
            // Beside the first address, which is the likeliest: an invite has room for three.
            if let Some(first) = addresses.first().copied() {
                addresses.insert(1, SocketAddr::new(first.ip(), port));
            }
        }
        addresses.truncate(dht::token::MAX_ADDRESSES);
        Ok(addresses.into_iter().map(ContactAddress::Socket).collect())
    }

    /// What to say where members elsewhere cannot reach this machine, and the cure.
    pub(crate) async fn unreachable(&self, daemon: &Arc<Daemon>) -> Option<(String, String)> {
        if daemon.mappings.opens(self.overlay_port()) {
            return None;
        }
        let advertise = lock(&self.settings).options.advertise.clone();
        Underlay::look(daemon).await.ok()?.unreachable_from_outside(&advertise, daemon.port)
    }

    /// What `--advertise` says of the data port, carried over to libp2p's: both are open side by side.
    async fn overlay_advertised(&self, daemon: &Arc<Daemon>) -> anyhow::Result<Vec<SocketAddr>> {
        let list = lock(&self.settings).options.advertise.clone();
        let offset = self.overlay_port().wrapping_sub(daemon.port);
        let beside = |addr: SocketAddr| SocketAddr::new(addr.ip(), addr.port().wrapping_add(offset));
        Ok(advertised(&list).await?.into_iter().map(beside).collect())
    }

    /// The namespace's whole life.
    async fn live(self: Arc<Self>, daemon: Arc<Daemon>, prepared: Prepared) -> anyhow::Result<()> {
        let settings = prepared.settings.clone();
        let is_mapped = settings.options.port_mapping.unwrap_or_default() == PortMapping::On;
        let _wanted = is_mapped.then(|| daemon.mappings.want(self.id, settings.overlay_port));
        let (mapped_tx, mapped_rx) = watch::channel(Vec::new());
        let mut config = self.driver_config(&daemon, &settings.options, prepared.summary.as_ref()).await?;
        let (streams, server) = daemon.streams(self.slot);
        config.streams = Some(server);
        config.mapped = mapped_rx;
        let mapped = is_mapped.then_some(mapped_tx);
        let (command_tx, command_rx) = mpsc::channel(DRIVER_QUEUE);
        let (event_tx, mut events) = mpsc::channel(DRIVER_QUEUE);
        let (shutdown_tx, shutdown) = oneshot::channel();
        let ends = DriverEnds { commands: command_tx, streams };
        let clock = DriverClock(Arc::clone(&daemon.clock));
        let mut driver = tokio::spawn(dht_driver::run(
            config,
            prepared.start,
            prepared.store,
            clock,
            command_rx,
            event_tx,
            shutdown,
        ));
        let mut shell = None;
        let result = async {
            if let Some(summary) = prepared.summary {
                shell = Some(Shell::assemble(&self, &daemon, &settings, summary, ends.clone()).await?);
            }
            let attended = (&mut shell, &mut driver);
            self.clone().attend(&daemon, &mut events, ends, attended, mapped).await
        }
        .await;
        if let Some(shell) = shell {
            shell.take_down(&daemon, self.slot).await;
        }
        drop((shutdown_tx, events));
        // Only then can the store be opened again.
        if !driver.is_finished() {
            let _ = tokio::time::timeout(Duration::from_secs(5), driver).await;
        }
        result
    }

    async fn driver_config(
        &self,
        daemon: &Arc<Daemon>,
        options: &JoinOptions,
        summary: Option<&Summary>,
    ) -> anyhow::Result<DriverConfig> {
        let data = self.dir.data_key()?;
        let mut driver = DriverConfig::new(self.id, self.identity.clone(), data, self.overlay_port(), *random()?);
        // A name may not resolve yet while the machine starts; that is no reason not to start.
        driver.advertise = self.overlay_advertised(daemon).await.unwrap_or_else(|error| {
            report::note(&format!("{}: {error:#}", self.alias()));
            Vec::new()
        });
        let multiaddr = |text: &String| text.parse().with_context(|| format!("--peer {text} is no multiaddress"));
        driver.peers = options.peer.iter().map(multiaddr).collect::<Result<_, _>>()?;
        driver.tls_port = options.tls_port();
        driver.proxy = self.proxy(daemon, options);
        driver.filtered = summary.iter().map(|summary| summary.range).collect();
        let underlay = Underlay::look(daemon).await?;
        driver.loopback = if underlay.loopback_only { Loopback::Dial } else { Loopback::Refuse };
        Ok(driver)
    }

    /// The proxy that is asked. A bad word in the environment is no reason not to start.
    fn proxy(&self, daemon: &Arc<Daemon>, options: &JoinOptions) -> Option<Proxy> {
        let said = daemon.proxy.as_ref().or(options.proxy.as_ref());
        proxy::choose(said, proxy::variable).unwrap_or_else(|error| {
            report::note(&format!("{}: {error:#}", self.alias()));
            None
        })
    }

    async fn attend(
        self: Arc<Self>,
        daemon: &Arc<Daemon>,
        events: &mut mpsc::Receiver<DriverEvent>,
        ends: DriverEnds,
        (shell, driver): (&mut Option<Shell>, &mut tokio::task::JoinHandle<anyhow::Result<()>>),
        mapped: Option<watch::Sender<Vec<Multiaddr>>>,
    ) -> anyhow::Result<()> {
        let mut mappings = daemon.mappings.watch();
        mappings.mark_changed();
        let mut look = tokio::time::interval(ENDPOINTS_EVERY);
        let mut changes = daemon.changes.clone();
        let serve = lock(&self.settings).options.serve.unwrap_or_default();
        let mut offer = Offer::new(serve, daemon.power.clone());
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
                    Some(event) => {
                        if matches!(event, DriverEvent::Joined(_)) {
                            offer.begin_anew();
                            // Its engine has to hear what is mapped, too.
                            mappings.mark_changed();
                        }
                        self.driver_event(event, daemon, &ends, shell).await?;
                    }
                    None => {
                        return driver.await.map_err(|error| anyhow!("the overlay thread died: {error}"))?
                            .and_then(|()| Err(anyhow!("the overlay ended")));
                    }
                },
                event = engine_event => {
                    let event = event?;
                    if let Some(shell) = shell.as_mut() {
                        shell.engine_event(&self, daemon, event).await?;
                    }
                }
                () = offer.changed() => {}
                Ok(()) = mappings.changed(), if mapped.is_some() => {
                    let now = mappings.borrow_and_update().clone();
                    if let Some(mapped) = &mapped {
                        mapped.send_replace(mapping::multiaddrs(&now, self.overlay_port()));
                    }
                    if let Some(shell) = shell.as_mut() {
                        shell.tell(Input::Mapped(daemon.mappings.data(&now))).await;
                    }
                }
                Ok(()) = changes.changed() => look.reset_immediately(),
                _ = look.tick() => {
                    if let Some(shell) = shell.as_mut() {
                        shell.look_for_endpoints(daemon).await;
                    }
                }
            }
            offer.tell(&ends.commands);
        }
    }

    async fn driver_event(
        self: &Arc<Self>,
        event: DriverEvent,
        daemon: &Arc<Daemon>,
        ends: &DriverEnds,
        shell: &mut Option<Shell>,
    ) -> anyhow::Result<()> {
        match event {
            DriverEvent::Core(dht::Event::Status { summary }) => {
                *lock(&self.summary) = Some((*summary).clone());
                if let Some(shell) = shell {
                    shell.tell(Input::Overlay(dht::Event::Status { summary })).await;
                }
            }
            DriverEvent::Core(event) => {
                if let Some(shell) = shell {
                    shell.tell(Input::Overlay(event)).await;
                }
            }
            DriverEvent::Joined(summary) => {
                report::note(&format!("{}: joined", self.alias()));
                *lock(&self.summary) = Some((*summary).clone());
                let settings = self.joined(&daemon.state, &summary)?;
                *shell = Some(Shell::assemble(self, daemon, &settings, *summary, ends.clone()).await?);
            }
            DriverEvent::Joining { what } => {
                report::note(&format!("{}: joining: {what}", self.alias()));
                self.tell(Progress::Starting(Some(what)));
            }
            DriverEvent::ProxyRefuses(why) => {
                report::note(&format!("{}: {why}", self.alias()));
                if shell.is_none() {
                    self.tell(Progress::Starting(Some(why)));
                }
            }
            DriverEvent::JoinFailed(why) => return Err(JoinOver(why).into()),
            DriverEvent::Listening(addrs) => tracing::debug!(?addrs, "libp2p listens"),
            DriverEvent::ExternalCandidate(addr) => tracing::debug!(%addr, "libp2p seen from outside"),
            DriverEvent::Connected { peer } => {
                tracing::debug!(%peer, "connected");
                if let Some(shell) = shell {
                    shell.tell(Input::Stream { peer, connected: true }).await;
                }
            }
            DriverEvent::Disconnected { peer } => {
                tracing::debug!(%peer, "disconnected");
                if let Some(shell) = shell {
                    shell.tell(Input::Stream { peer, connected: false }).await;
                }
            }
            DriverEvent::Fatal(why) => bail!(why),
        }
        Ok(())
    }

    fn joined(&self, state: &StateDir, summary: &Summary) -> anyhow::Result<Settings> {
        let others = state.namespaces()?;
        let taken = others.iter().any(|(dir, other)| dir.id != self.id && other.alias == summary.name);
        let mut settings = lock(&self.settings);
        settings.became_member(self.id, &summary.name, taken);
        self.dir.write_settings(&settings)?;
        Ok(settings.clone())
    }
}

/// Takes a question off the list, also where nobody waits for its answer any more.
struct Forget<'a> {
    replies: &'a Mutex<BTreeMap<u64, oneshot::Sender<Reply>>>,
    id: RequestId,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(self.replies).remove(&self.id.0);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refused_join_is_denied() {
        let failed = || Progress::Failed("no TAP".into());
        assert_eq!(Progress::Denied("spent".into()).state(false), State::Denied);
        assert_eq!(failed().state(false), State::Joining);
        assert_eq!(failed().state(true), State::Lost);
        let asking = Progress::Starting(Some("asking".into()));
        assert_eq!((asking.state(false), asking.cause().map(String::as_str)), (State::Joining, Some("asking")));
        assert_eq!(failed().failure().map(String::as_str), Some("no TAP"));
        assert_eq!(Progress::Stopped.failure(), None);
    }

    #[test]
    fn a_question_without_an_asker_is_forgotten() {
        let replies = Mutex::new(BTreeMap::from([(1, oneshot::channel().0), (2, oneshot::channel().0)]));
        drop(Forget { replies: &replies, id: RequestId(1) });
        assert_eq!(lock(&replies).keys().collect::<Vec<_>>(), [&2]);
    }
}
