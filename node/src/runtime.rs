//! One running namespace: its driver, its threads, and the task that does what the engine asks of the machine.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use arc_swap::ArcSwap;
use dht::identity::SecretKey;
use dht::token::{Contact, ContactAddress};
use dht::{NamespaceId, Summary};
use dht_driver::{DriverConfig, DriverEvent, Loopback};
use engine::{Addressing, Config, Engine, Event, Hostname, NamespaceStatus, Reply, Request, RequestId, ViewStatus};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tunnel::Tunnel;
use zeroize::Zeroizing;

use crate::cli::{DnsMode, Role};
use crate::control::{Control, Input};
use crate::daemon::{Daemon, texts};
use crate::dns::{Applied, Forwarder};
use crate::inbound::{Drops, Lane};
use crate::io::link::Interface;
use crate::io::tap::Tap;
use crate::launch::{self, Prepared};
use crate::outbound::Outbound;
use crate::report;
use crate::state::{NamespaceDir, Settings, random};

/// Inputs that may wait for the control thread.
const CONTROL_QUEUE: usize = 4096;
/// Commands and events that may wait on the way to and from libp2p.
const DRIVER_QUEUE: usize = 1024;
/// Interfaces come and go; this often we look.
const ENDPOINTS_EVERY: Duration = Duration::from_secs(15);
/// Interface names have 15 characters: `ov-` and 12 of the namespace's name.
const TAP_NAME_CHARS: usize = 12;

/// How far a namespace has come.
#[derive(Clone, Debug)]
pub(crate) enum Progress {
    Starting,
    /// Usable; the line to print.
    Ready(String),
    /// It ended, and why.
    Failed(String),
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
    libp2p_addrs: Mutex<Vec<SocketAddr>>,
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
            libp2p_addrs: Mutex::new(Vec::new()),
            identity: daemon.state.identity().unwrap_or_default(),
            progress: watch::Sender::new(Progress::Starting),
            stop: Notify::new(),
            stopped: watch::Sender::new(false),
        });
        let task = Arc::clone(&running);
        tokio::spawn(async move {
            let name = task.alias();
            if let Err(error) = task.clone().live(daemon, prepared).await {
                report::note(&format!("{name}: {error:#}"));
                task.progress.send_replace(Progress::Failed(format!("{error:#}")));
            }
            task.stopped.send_replace(true);
        });
        running
    }

    /// How far it has come.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
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
        let only = |summary: &Summary| summary.members == [SecretKey::from_seed(&self.identity).peer_id()];
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
            Progress::Starting | Progress::Ready(_) => None,
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
        uses: u16,
        ttl: Duration,
        role: Role,
        hosts: u16,
    ) -> anyhow::Result<Request> {
        let addresses: Vec<ContactAddress> = self.contact_addresses().await?;
        let identity = SecretKey::from_seed(&self.identity).public();
        let role = match role {
            Role::Member => dht::Role::Member,
            Role::Router => dht::Role::Router,
        };
        Ok(Request::Invite { uses, ttl, role, hosts, contacts: vec![Contact { identity, addresses }] })
    }

    async fn contact_addresses(&self) -> anyhow::Result<Vec<ContactAddress>> {
        let (advertise, port) = {
            let settings = lock(&self.settings);
            (settings.options.advertise.clone(), settings.overlay_port)
        };
        let mut addresses: Vec<SocketAddr> =
            advertised(&advertise).await?.into_iter().map(|addr| SocketAddr::new(addr.ip(), addr.port() + 1)).collect();
        let listening = lock(&self.libp2p_addrs).clone();
        addresses.extend(listening.into_iter().filter(|addr| usable_contact(addr.ip())));
        addresses.dedup();
        addresses.truncate(dht::token::MAX_ADDRESSES);
        if addresses.is_empty() {
            addresses.push(SocketAddr::new(IpAddr::from([127, 0, 0, 1]), port));
        }
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
                    Some(shell) => shell.events.recv().await,
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
                Some(event) = engine_event => {
                    if let Some(shell) = shell.as_mut() {
                        shell.engine_event(&self, daemon, event).await?;
                    }
                }
                _ = look.tick() => {
                    if let Some(shell) = shell.as_mut() {
                        shell.look_for_endpoints(daemon).await?;
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
            DriverEvent::Listening(addrs) => *lock(&self.libp2p_addrs) = addrs,
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

/// What runs once the namespace is known: TAP, engine, threads.
struct Shell {
    name: String,
    control: SyncSender<Input>,
    events: mpsc::Receiver<Event>,
    tap: Option<(Tap, Interface)>,
    threads: Vec<std::thread::JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    forwarder: Option<Arc<Forwarder>>,
    dns: Option<Applied>,
    dns_mode: DnsMode,
    summary: Summary,
    advertise: Vec<String>,
    endpoints: Vec<SocketAddr>,
}

impl Shell {
    async fn assemble(
        running: &Arc<Running>,
        daemon: &Arc<Daemon>,
        settings: &Settings,
        summary: Summary,
        commands: mpsc::Sender<dht::Command>,
    ) -> anyhow::Result<Self> {
        refuse_overlap(daemon, running.id, &summary).await?;
        let options = &settings.options;
        let identity = SecretKey::from_seed(&running.identity);
        let gateway_mac = local_mac(b"gateway", running.id, &identity);
        let tap_mac = local_mac(b"tap", running.id, &identity);
        let tap = if options.no_tap {
            None
        } else {
            let tap = make_tap(options.tap.as_deref(), &settings.alias)?;
            let link = daemon.links.by_name(tap.name()).await?;
            daemon.links.bring_up(link.index, tap_mac, summary.mtu).await?;
            let _ = running.tap_name.set(tap.name().to_owned());
            Some((tap, link))
        };
        let underlay = Underlay::look(daemon).await?;
        let now = daemon.clock.now();
        let mut instance = [0; 8];
        instance.copy_from_slice(&random()?[..8]);
        let instance = u64::from_be_bytes(instance);
        let tunnel = Tunnel::new(
            tunnel::Config {
                namespace: running.id.0,
                identity: identity.peer_id(),
                secret: running.dir.data_key()?,
                credential_hash: summary.credential_hash,
                slot: u8::try_from(running.slot).unwrap_or(0),
                instance,
                outer_mtu: underlay.mtu,
                heads: summary.heads,
                suites: tunnel::Suites::default(),
            },
            summary.handshake_floor,
            *random()?,
            now.mono,
        );
        let config = Config {
            name: settings.alias.clone(),
            namespace: running.id.0,
            range: summary.range,
            service: summary.service,
            zone: summary.zone.clone(),
            mtu: summary.mtu,
            identity,
            addressing: if options.no_address || options.no_tap { Addressing::Clients } else { Addressing::Own },
            hostname: hostname(options.hostname.as_deref()),
            tap_mac,
            gateway_mac,
            instance,
            loopback_underlay: underlay.loopback_only,
        };
        let engine = Engine::new(config, tunnel, *random()?, now);
        let mut shell = Self::spawn(running, daemon, engine, tap, commands)?;
        shell.name = settings.alias.clone();
        shell.summary = summary;
        shell.advertise.clone_from(&options.advertise);
        shell.dns_mode = if options.no_tap { DnsMode::Off } else { options.dns.unwrap_or_default() };
        shell.look_for_endpoints(daemon).await?;
        if options.no_address || options.no_tap {
            let tap = running.tap_name.get().map_or("-", String::as_str);
            running.progress.send_replace(Progress::Ready(format!("ready {} - on {tap}", shell.name)));
        }
        Ok(shell)
    }

    fn spawn(
        running: &Arc<Running>,
        daemon: &Arc<Daemon>,
        engine: Engine,
        tap: Option<(Tap, Interface)>,
        commands: mpsc::Sender<dht::Command>,
    ) -> anyhow::Result<Self> {
        let (control_tx, control_rx) = sync_channel(CONTROL_QUEUE);
        let (event_tx, events) = mpsc::channel(DRIVER_QUEUE);
        let snapshot = Arc::new(ArcSwap::new(engine.snapshot()));
        let drops = Arc::new(Drops::default());
        let stop = Arc::new(AtomicBool::new(false));
        let device = tap.as_ref().map(|(tap, _)| tap.clone());
        let mut threads = Vec::new();
        if let Some(tap) = device.clone() {
            let outbound = Outbound {
                tap,
                socket: Arc::clone(&daemon.socket),
                snapshot: Arc::clone(&snapshot),
                control: control_tx.clone(),
                clock: Arc::clone(&daemon.clock),
                drops: Arc::clone(&drops),
                stop: Arc::clone(&stop),
            };
            threads.push(thread("outbound", move || outbound.run())?);
        }
        let control = Control {
            engine,
            tap: device.clone(),
            socket: Arc::clone(&daemon.socket),
            commands,
            events: event_tx,
            snapshot: Arc::clone(&snapshot),
            clock: Arc::clone(&daemon.clock),
            drops: Arc::clone(&drops),
        };
        threads.push(thread("control", move || control.run(&control_rx))?);
        let lane = Lane { snapshot, tap: device, control: control_tx.clone(), drops };
        daemon.set_lane(running.slot, Some(Arc::new(lane)));
        let _ = running.control.set(control_tx.clone());
        Ok(Self {
            name: String::new(),
            control: control_tx,
            events,
            tap,
            threads,
            stop,
            forwarder: None,
            dns: None,
            dns_mode: DnsMode::Off,
            summary: running.summary().ok_or_else(|| anyhow!("the namespace is not known yet"))?,
            advertise: Vec::new(),
            endpoints: Vec::new(),
        })
    }

    /// Hands an input over that must not get lost.
    async fn tell(&self, input: Input) {
        let mut input = input;
        loop {
            match self.control.try_send(input) {
                Ok(()) | Err(TrySendError::Disconnected(_)) => return,
                Err(TrySendError::Full(back)) => {
                    input = back;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    }

    async fn engine_event(&mut self, running: &Running, daemon: &Arc<Daemon>, event: Event) -> anyhow::Result<()> {
        match event {
            Event::AddressBound { ip, prefix_len } => {
                let Some((tap, link)) = &self.tap else { return Ok(()) };
                daemon.links.add_address(link.index, ip, prefix_len).await?;
                let line = format!("ready {} {ip}/{prefix_len} on {}", self.name, tap.name());
                self.set_up_dns(daemon).await;
                running.progress.send_replace(Progress::Ready(line));
            }
            Event::AddressLost { ip, why } => {
                report::note(&format!("{}: lost {ip}: {why}", self.name));
                if let Some((_, link)) = &self.tap {
                    daemon.links.remove_address(link.index, ip).await?;
                }
            }
            Event::NameBound { name } => report::note(&format!("{}: named {name}.{}", self.name, self.summary.zone)),
            Event::StateChanged { state, cause } => {
                let cause = if cause.is_empty() { String::new() } else { format!(": {cause}") };
                report::note(&format!("{}: {state}{cause}", self.name));
            }
            Event::Forward { id, transport, message } => self.forward(id, transport, message),
            Event::Reply { id, reply } => {
                if let Some(waiting) = lock(&running.replies).remove(&id.0) {
                    let _ = waiting.send(reply);
                }
            }
        }
        Ok(())
    }

    fn forward(&mut self, id: ::dns::QueryId, transport: ::dns::Transport, message: Vec<u8>) {
        let forwarder = self.forwarder.get_or_insert_with(|| {
            let upstreams = crate::dns::system_upstreams(std::path::Path::new("/etc/resolv.conf"));
            let range = self.summary.range;
            let outside =
                upstreams.into_iter().filter(|addr| !matches!(addr.ip(), IpAddr::V4(ip) if range.contains(&ip)));
            Arc::new(Forwarder::new(outside.collect()))
        });
        let (forwarder, control) = (Arc::clone(forwarder), self.control.clone());
        tokio::spawn(async move {
            let reply = forwarder.answer(message, transport).await;
            let _ = control.try_send(Input::Forwarded { id, reply });
        });
    }

    async fn set_up_dns(&mut self, daemon: &Arc<Daemon>) {
        let Some((tap, link)) = &self.tap else { return };
        if self.dns.is_some() || self.dns_mode == DnsMode::Off {
            return;
        }
        let link = crate::dns::Link { index: link.index, name: tap.name().to_owned() };
        let summary = &self.summary;
        let applied =
            crate::dns::apply(self.dns_mode, link, summary.service, &summary.zone, summary.range, daemon.state.path())
                .await;
        match applied {
            Ok(applied) => {
                self.forwarder = Some(Arc::new(Forwarder::new(applied.upstreams().to_vec())));
                self.dns = Some(applied);
            }
            Err(error) => report::note(&format!("{}: names will not resolve by themselves: {error:#}", self.name)),
        }
    }

    async fn look_for_endpoints(&mut self, daemon: &Arc<Daemon>) -> anyhow::Result<()> {
        let underlay = Underlay::look(daemon).await?;
        let lan: Vec<SocketAddr> = underlay.addresses.into_iter().map(|ip| SocketAddr::new(ip, daemon.port)).collect();
        if lan == self.endpoints {
            return Ok(());
        }
        self.endpoints.clone_from(&lan);
        let configured = advertised(&self.advertise).await.unwrap_or_default();
        self.tell(Input::Endpoints { lan, configured }).await;
        Ok(())
    }

    async fn take_down(mut self, daemon: &Arc<Daemon>, slot: usize) {
        if let Some(dns) = self.dns.take()
            && let Err(error) = dns.undo().await
        {
            report::note(&format!("{}: the resolver's settings were not restored: {error:#}", self.name));
        }
        daemon.set_lane(slot, None);
        self.stop.store(true, Ordering::Relaxed);
        self.tell(Input::Stop).await;
        let threads = std::mem::take(&mut self.threads);
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())));
        let _ = joined.await;
    }
}

/// The machine's own addresses, outside of any overlay.
struct Underlay {
    addresses: Vec<IpAddr>,
    mtu: u16,
    loopback_only: bool,
}

impl Underlay {
    async fn look(daemon: &Arc<Daemon>) -> anyhow::Result<Self> {
        let all = daemon.links.addresses().await?;
        let ours = |link: &Interface| link.name.starts_with("ov-");
        let ranges = daemon.ranges_besides(NamespaceId([0; 32])).await;
        let inside = |ip: &IpAddr| matches!(ip, IpAddr::V4(v4) if ranges.iter().any(|(range, _)| range.contains(v4)));
        let outside: Vec<_> = all
            .iter()
            .filter(|(link, ip)| !link.loopback && !ours(link) && usable_contact(*ip) && !inside(ip))
            .collect();
        let mtu = outside.iter().map(|(link, _)| link.mtu).min().unwrap_or(1500);
        let loopback_only = outside.is_empty();
        let mut addresses: Vec<IpAddr> = outside.iter().map(|(_, ip)| *ip).collect();
        if loopback_only {
            addresses.push(IpAddr::from([127, 0, 0, 1]));
        }
        addresses.sort_unstable();
        Ok(Self { addresses, mtu: u16::try_from(mtu).unwrap_or(u16::MAX), loopback_only })
    }
}

/// The driver's view of the machine's clocks.
struct DriverClock(Arc<crate::io::clock::SystemClock>);

impl dht_driver::Clocks for DriverClock {
    fn now(&self) -> dht::clock::Now {
        self.0.now()
    }
}

async fn refuse_overlap(daemon: &Arc<Daemon>, id: NamespaceId, summary: &Summary) -> anyhow::Result<()> {
    let overlaps = |net: &ipnet::Ipv4Net| net.contains(&summary.range) || summary.range.contains(net);
    if let Some((range, name)) = daemon.ranges_besides(id).await.into_iter().find(|(range, _)| overlaps(range)) {
        bail!(
            "the range {} overlaps {range} of the namespace {name} on this machine; create one of them with --range",
            summary.range
        );
    }
    if let Some((route, link)) = daemon.links.routes().await?.into_iter().find(|(route, _)| overlaps(route)) {
        bail!(
            "the range {} overlaps the route {route} on {link} of this machine; create the namespace with --range",
            summary.range
        );
    }
    Ok(())
}

fn make_tap(asked: Option<&str>, alias: &str) -> anyhow::Result<Tap> {
    if let Some(name) = asked {
        return Tap::create(name);
    }
    let short: String = alias.chars().take(TAP_NAME_CHARS).collect();
    let taken = |name: &str| std::path::Path::new("/sys/class/net").join(name).exists();
    let plain = format!("ov-{short}");
    if !taken(&plain) {
        return Tap::create(&plain);
    }
    let shorter: String = alias.chars().take(TAP_NAME_CHARS - 2).collect();
    let numbered = (2..100).map(|number| format!("ov-{shorter}{number}")).find(|name| !taken(name));
    Tap::create(&numbered.ok_or_else(|| anyhow!("no free name for the TAP device; name one with --tap"))?)
}

/// A locally administered unicast address that is the same at every start.
fn local_mac(purpose: &[u8], id: NamespaceId, identity: &SecretKey) -> [u8; 6] {
    let hash = dht::sign::hash("mac", &[purpose, &id.0, &identity.public().0]);
    let mut mac: [u8; 6] = std::array::from_fn(|i| hash[i]);
    mac[0] = (mac[0] & 0xfc) | 0x02;
    mac
}

fn hostname(asked: Option<&str>) -> Hostname {
    if let Some(name) = asked {
        return Hostname::Explicit(name.to_ascii_lowercase());
    }
    let system = rustix::system::uname();
    let label = system.nodename().to_string_lossy().split('.').next().unwrap_or_default().to_ascii_lowercase();
    let clean: String = label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(55).collect();
    let clean = clean.trim_matches('-');
    Hostname::Default(if clean.is_empty() || clean == "localhost" { "node".into() } else { clean.into() })
}

async fn advertised(list: &[String]) -> anyhow::Result<Vec<SocketAddr>> {
    let mut found = Vec::new();
    for text in list {
        let resolved = tokio::net::lookup_host(text)
            .await
            .with_context(|| format!("--advertise {text} is not HOST:PORT, or the host is not known"))?;
        found.extend(resolved);
    }
    Ok(found)
}

fn usable_contact(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unspecified() && !v6.is_unicast_link_local(),
    }
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> anyhow::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(run).with_context(|| format!("cannot start the {name} thread"))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
