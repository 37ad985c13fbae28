//! What runs once a namespace is known: its TAP, its engine, its threads, and what the engine asks of the machine.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use arc_swap::ArcSwap;
use dht::identity::SecretKey;
use dht::{NamespaceId, Summary};
use engine::{Addressing, Config, Engine, Event, Hostname, Mode, RELAY_RATE};
use ipnet::Ipv4Net;
use tokio::sync::mpsc;
use tunnel::Tunnel;

use crate::cli::{DnsMode, JoinOptions};
use crate::control::{Control, Input};
use crate::daemon::Daemon;
use crate::dns::{Applied, Forwarder};
use crate::inbound::Lane;
use crate::inbox::Drops;
use crate::io::link::Interface;
use crate::io::threads::packet_threads;
use crate::io::uplink::Uplink;
use crate::outbound::Outbound;
use crate::report;
use crate::runtime::{DRIVER_QUEUE, Progress, Running};
use crate::segment::Segment;
use crate::state::{Settings, random};
use crate::underlay::{Underlay, advertised};
use tap::Tap;

/// Inputs that may wait for the control thread.
const CONTROL_QUEUE: usize = 4096;
/// Interface names have 15 characters: `ov-` and 12 of the namespace's name.
const TAP_NAME_CHARS: usize = 12;

/// How the namespace speaks to its driver.
#[derive(Clone)]
pub(crate) struct DriverEnds {
    pub(crate) commands: mpsc::Sender<dht::Command>,
    pub(crate) streams: dht_driver::Streams,
}

/// What runs once the namespace is known: TAP, engine, threads.
pub(crate) struct Shell {
    name: String,
    control: SyncSender<Input>,
    events: mpsc::Receiver<Event>,
    tap: Option<(Tap, Interface)>,
    /// What a router serves.
    segment: Option<Segment>,
    threads: Vec<std::thread::JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    forwarder: Option<Arc<Forwarder>>,
    dns: Option<Applied>,
    dns_mode: DnsMode,
    summary: Summary,
    advertise: Vec<String>,
    /// As told to the engine: the interfaces', and the configured ones.
    endpoints: (Vec<SocketAddr>, Vec<SocketAddr>),
}

impl Shell {
    pub(crate) async fn assemble(
        running: &Arc<Running>,
        daemon: &Arc<Daemon>,
        settings: &Settings,
        summary: Summary,
        driver: DriverEnds,
    ) -> anyhow::Result<Self> {
        if !settings.options.no_tap {
            let others = daemon.ranges_besides(running.id).await;
            refuse_overlap(daemon, &others, &summary).await?;
        }
        let mut segment = prepare_segment(daemon, settings, &summary).await?;
        let assembled = Self::assemble_on(running, daemon, settings, summary, driver, &mut segment).await;
        match (assembled, segment) {
            (Ok(shell), segment) => Ok(Self { segment, ..shell }),
            (Err(error), None) => Err(error),
            (Err(error), Some(segment)) => {
                undo_segment(&settings.alias, segment).await;
                Err(error)
            }
        }
    }

    /// The rest, once the segment is there, if there is to be one. Where that fails, the caller undoes the segment.
    async fn assemble_on(
        running: &Arc<Running>,
        daemon: &Arc<Daemon>,
        settings: &Settings,
        summary: Summary,
        driver: DriverEnds,
        segment: &mut Option<Segment>,
    ) -> anyhow::Result<Self> {
        let options = &settings.options;
        let underlay = Underlay::look(daemon).await?;
        let mut config = engine_config(running, settings, &summary, &underlay)?;
        let tap = make_device(running, daemon, settings, &mut config, segment.as_mut()).await?;
        let now = daemon.clock.now();
        let tunnel = tunnel::Config {
            namespace: running.id.0,
            identity: config.identity.peer_id(),
            secret: running.data_key()?,
            credential_hash: summary.credential_hash,
            slot: u8::try_from(running.slot)?,
            instance: config.instance,
            outer_mtu: underlay.mtu,
            heads: summary.heads,
            suites: tunnel::Suites::default(),
            relay: relay_rate(options).filter(|_| summary.relay),
        };
        // Above everything used before, also where the store was restored; a wrong clock is caught by the store.
        let floor = summary.handshake_floor.max(now.unix_s.saturating_mul(1000) << 16);
        let tunnel = Tunnel::new(tunnel, floor, *random()?, now.mono);
        let engine = Engine::new(config, tunnel, *random()?, now);
        let mut shell = Self::spawn(running, daemon, engine, tap, driver, summary)?;
        shell.name.clone_from(&settings.alias);
        shell.advertise.clone_from(&options.advertise);
        shell.dns_mode = dns_mode(options);
        shell.look_for_endpoints(daemon).await;
        let summary = Box::new(shell.summary.clone());
        shell.tell(Input::Overlay(dht::Event::Status { summary })).await;
        if addressing(options) == Addressing::Clients {
            let tap = shell.tap.as_ref().map_or("-", |(tap, _)| tap.name());
            running.tell(Progress::Ready(format!("ready {} - on {tap}", shell.name)));
        }
        Ok(shell)
    }

    fn spawn(
        running: &Arc<Running>,
        daemon: &Arc<Daemon>,
        engine: Engine,
        tap: Option<(Tap, Interface)>,
        driver: DriverEnds,
        summary: Summary,
    ) -> anyhow::Result<Self> {
        let (control_tx, control_rx) = sync_channel(CONTROL_QUEUE);
        let (event_tx, events) = mpsc::channel(DRIVER_QUEUE);
        let snapshot = Arc::new(ArcSwap::new(engine.snapshot()));
        let drops = Arc::new(Drops::default());
        let stop = Arc::new(AtomicBool::new(false));
        let uplink = Uplink::new(Arc::clone(&daemon.socket), driver.streams);
        let device = tap.as_ref().map(|(tap, _)| tap.clone());
        let mut threads = Vec::new();
        for tap in device.iter().flat_map(Tap::queues) {
            let outbound = Outbound {
                tap,
                uplink: uplink.clone(),
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
            uplink: uplink.clone(),
            commands: driver.commands,
            events: event_tx,
            snapshot: Arc::clone(&snapshot),
            clock: Arc::clone(&daemon.clock),
            drops: Arc::clone(&drops),
        };
        threads.push(thread("control", move || control.run(&control_rx))?);
        let lane = Lane { snapshot, tap: device, control: control_tx.clone(), drops, uplink };
        daemon.set_lane(running.slot, Some(Arc::new(lane)));
        running.set_control(control_tx.clone());
        Ok(Self {
            name: String::new(),
            control: control_tx,
            events,
            tap,
            segment: None,
            threads,
            stop,
            forwarder: None,
            dns: None,
            dns_mode: DnsMode::Off,
            summary,
            advertise: Vec::new(),
            endpoints: Default::default(),
        })
    }

    /// Hands an input over that must not get lost.
    pub(crate) async fn tell(&self, input: Input) {
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

    /// The engine's next wish; an error once its thread has ended, which it does of itself only without its device.
    pub(crate) async fn next_event(&mut self) -> anyhow::Result<Event> {
        let name = self.tap.as_ref().map_or("-", |(tap, _)| tap.name()).to_owned();
        self.events.recv().await.ok_or_else(|| anyhow!("the TAP device {name} is gone; start the namespace again"))
    }

    /// Does what the engine wishes.
    pub(crate) async fn engine_event(
        &mut self,
        running: &Running,
        daemon: &Arc<Daemon>,
        event: Event,
    ) -> anyhow::Result<()> {
        match event {
            Event::AddressBound { ip, prefix_len } => {
                let Some((tap, link)) = &self.tap else { return Ok(()) };
                match &mut self.segment {
                    Some(segment) => segment.add_address(ip, prefix_len).await?,
                    None => daemon.links.add_address(link.index, ip, prefix_len).await?,
                }
                let line = format!("ready {} {ip}/{prefix_len} on {}", self.name, tap.name());
                self.set_up_dns(daemon).await;
                running.tell(Progress::Ready(line));
            }
            Event::AddressLost { ip, why } => {
                report::note(&format!("{}: lost {ip}: {why}", self.name));
                // Without the address nobody reaches the server that the resolver would ask first.
                self.undo_dns().await;
                match (&mut self.segment, &self.tap) {
                    (Some(segment), _) => segment.remove_address(ip).await?,
                    (None, Some((_, link))) => daemon.links.remove_address(link.index, ip).await?,
                    (None, None) => {}
                }
            }
            Event::NameBound { name } => report::note(&format!("{}: named {name}.{}", self.name, self.summary.zone)),
            Event::NameRefused { why } => report::note(&format!("{}: {why}", self.name)),
            Event::StateChanged { state, cause } => {
                let cause = if cause.is_empty() { String::new() } else { format!(": {cause}") };
                report::note(&format!("{}: {state}{cause}", self.name));
            }
            Event::TurnedAway { mac, ip, why } => {
                let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
                report::note(&format!("{}: {mac} uses {ip} and does not get it: {why}", self.name));
            }
            Event::Forward { id, transport, message } => self.forward(id, transport, message),
            Event::Reply { id, reply } => {
                running.replied(id, reply);
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
        let link = match &self.segment {
            Some(segment) => crate::dns::Link { index: segment.index(), name: segment.bridge().to_owned() },
            None => crate::dns::Link { index: link.index, name: tap.name().to_owned() },
        };
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

    async fn undo_dns(&mut self) {
        if let Some(dns) = self.dns.take()
            && let Err(error) = dns.undo().await
        {
            report::note(&format!("{}: the resolver's settings were not restored: {error:#}", self.name));
        }
    }

    /// Tells the engine where this machine can be found, if that has changed.
    pub(crate) async fn look_for_endpoints(&mut self, daemon: &Arc<Daemon>) {
        if let Some(segment) = &mut self.segment {
            match segment.look().await {
                Ok(None) => {}
                Ok(Some(mac)) => self.tell(Input::OwnMac(mac)).await,
                Err(error) => report::note(&format!("{}: the segment is not served: {error:#}", self.name)),
            }
        }
        let underlay = match Underlay::look(daemon).await {
            Ok(underlay) => underlay,
            // Netlink may refuse for a moment; the next look comes soon.
            Err(error) => return tracing::warn!(%error, "looking at the interfaces"),
        };
        let lan: Vec<SocketAddr> = underlay.addresses.into_iter().map(|ip| SocketAddr::new(ip, daemon.port)).collect();
        let configured = match advertised(&self.advertise).await {
            Ok(configured) => configured,
            Err(error) => {
                tracing::warn!(%error, "looking up what is advertised");
                self.endpoints.1.clone()
            }
        };
        if (&lan, &configured) == (&self.endpoints.0, &self.endpoints.1) {
            return;
        }
        self.endpoints = (lan.clone(), configured.clone());
        self.tell(Input::Endpoints { lan, configured }).await;
    }

    /// Undoes everything that outlives a process or a thread.
    pub(crate) async fn take_down(mut self, daemon: &Arc<Daemon>, slot: usize) {
        self.undo_dns().await;
        daemon.set_lane(slot, None);
        self.stop.store(true, Ordering::Relaxed);
        self.tell(Input::Stop).await;
        let threads = std::mem::take(&mut self.threads);
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())));
        let _ = joined.await;
        // The device is a port of the bridge for as long as it is open.
        self.tap = None;
        if let Some(segment) = self.segment.take() {
            undo_segment(&self.name, segment).await;
        }
    }
}

/// The segment that a router is to serve; nothing for a workstation.
async fn prepare_segment(
    daemon: &Arc<Daemon>,
    settings: &Settings,
    summary: &Summary,
) -> anyhow::Result<Option<Segment>> {
    let Some(router) = &settings.options.router else { return Ok(None) };
    let name = &settings.alias;
    if summary.router.is_none() {
        bail!(
            "this machine is a plain member of {name}, and may lease no addresses for others; leave with \
             `overlay leave {name} --forget`, and join with a token from: overlay invite {name} --role router"
        );
    }
    Segment::prepare(&daemon.links, router, daemon.state.path()).await.map(Some)
}

async fn undo_segment(name: &str, segment: Segment) {
    let bridge = segment.bridge().to_owned();
    if let Err(error) = segment.undo().await {
        report::note(&format!("{name}: {bridge} was not left as it was: {error:#}"));
    }
}

/// The TAP device, up: on its own, or as a port of the segment's bridge.
async fn make_device(
    running: &Arc<Running>,
    daemon: &Arc<Daemon>,
    settings: &Settings,
    config: &mut Config,
    segment: Option<&mut Segment>,
) -> anyhow::Result<Option<(Tap, Interface)>> {
    if settings.options.no_tap {
        return Ok(None);
    }
    let tap = make_tap(settings.options.tap.as_deref(), &settings.alias)?;
    let link = daemon.links.by_name(tap.name()).await?;
    match segment {
        None => daemon.links.bring_up(link.index, config.tap_mac, config.mtu).await?,
        Some(segment) => {
            segment.plug(link.index, config.gateway_mac).await?;
            config.tap_mac = segment.mac();
            config.mtu = config.mtu.min(segment.mtu());
            running.set_bridge(segment.bridge());
        }
    }
    running.set_tap(tap.name());
    Ok(Some((tap, link)))
}

/// A router's own resolver is left alone unless somebody says otherwise: its bridge may have settings already.
fn dns_mode(options: &JoinOptions) -> DnsMode {
    match options.dns {
        _ if options.no_tap => DnsMode::Off,
        None if options.router.is_some() => DnsMode::Off,
        mode => mode.unwrap_or_default(),
    }
}

/// What each member may send through this one, in bytes per second.
fn relay_rate(options: &JoinOptions) -> Option<u64> {
    let said = options.relay_limit.map(|megabits| u64::from(megabits) * 125_000);
    Some(said.unwrap_or(RELAY_RATE)).filter(|rate| *rate > 0)
}

fn addressing(options: &JoinOptions) -> Addressing {
    if options.no_address || options.no_tap { Addressing::Clients } else { Addressing::Own }
}

fn engine_config(
    running: &Running,
    settings: &Settings,
    summary: &Summary,
    underlay: &Underlay,
) -> anyhow::Result<Config> {
    let identity = running.identity();
    let mut instance = [0; 8];
    instance.copy_from_slice(&random()?[..8]);
    Ok(Config {
        name: settings.alias.clone(),
        namespace: running.id.0,
        range: summary.range,
        service: summary.service,
        zone: summary.zone.clone(),
        mtu: summary.mtu,
        mode: if settings.options.router.is_some() { Mode::Router } else { Mode::Workstation },
        addressing: addressing(&settings.options),
        hostname: hostname(settings.options.hostname.as_deref()),
        tap_mac: local_mac(b"tap", running.id, &identity),
        gateway_mac: local_mac(b"gateway", running.id, &identity),
        identity,
        instance: u64::from_be_bytes(instance),
        loopback_underlay: underlay.loopback_only,
    })
}

/// A range that overlaps a way this machine already has would cut one of them off.
pub(crate) async fn refuse_overlap(
    daemon: &Daemon,
    ranges: &[(Ipv4Net, String)],
    summary: &Summary,
) -> anyhow::Result<()> {
    let range = summary.range;
    let overlaps = |net: &Ipv4Net| net.contains(&range) || range.contains(net);
    if let Some((other, name)) = ranges.iter().find(|(other, _)| overlaps(other)) {
        bail!(
            "the range {range} overlaps {other} of the namespace {name} on this machine; create one of them with --range"
        );
    }
    if let Some((route, link)) = daemon.links.routes().await?.into_iter().find(|(route, _)| overlaps(route)) {
        bail!(
            "the range {range} overlaps the route {route} on {link} of this machine; create the namespace with another --range"
        );
    }
    Ok(())
}

fn make_tap(asked: Option<&str>, alias: &str) -> anyhow::Result<Tap> {
    if let Some(name) = asked {
        return Tap::create(name, packet_threads());
    }
    let short: String = alias.chars().take(TAP_NAME_CHARS).collect();
    let taken = |name: &str| std::path::Path::new("/sys/class/net").join(name).exists();
    let plain = format!("ov-{short}");
    if !taken(&plain) {
        return Tap::create(&plain, packet_threads());
    }
    let shorter: String = alias.chars().take(TAP_NAME_CHARS - 2).collect();
    let numbered = (2..100).map(|number| format!("ov-{shorter}{number}")).find(|name| !taken(name));
    let free = numbered.ok_or_else(|| anyhow!("no free name for the TAP device; name one with --tap"))?;
    Tap::create(&free, packet_threads())
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

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> anyhow::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(run).with_context(|| format!("cannot start the {name} thread"))
}
