//! One daemon: one identity, one data socket, many namespaces.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use arc_swap::ArcSwap;
use dht::NamespaceId;
use dht::token::Token;
use dht_driver::{StreamServer, Streams};
use engine::{NamespaceStatus, Reply, Request, RequestId};
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};

use crate::inbound::{self, Lane, Lanes, SLOTS};
use crate::io::changes;
use crate::io::clock::SystemClock;
use crate::io::link::Links;
use crate::io::power::{self, Power};
use crate::io::threads::packet_threads;
use crate::io::udp::DataSocket;
use crate::io::vmgenid;
use crate::launch::{self, Prepared};
use crate::mapping::Mappings;
use crate::proxy::ProxyText;
use crate::report;
use crate::runtime::{Progress, Running};
use crate::shell;
use crate::socket::{self, Answer, Answers, Call, Start};
use crate::state::StateDir;

/// How long `leave` waits for the register.
const LEAVE_WAIT: Duration = Duration::from_secs(22);
/// How long a stop waits for others to take over a replica's place. Whoever does not want to wait stops twice.
const HAND_OVER_WAIT: Duration = Duration::from_secs(14);

/// Everything that namespaces share.
pub(crate) struct Daemon {
    pub(crate) state: StateDir,
    pub(crate) socket: Arc<DataSocket>,
    pub(crate) port: u16,
    /// The proxy for all namespaces, where one was named.
    pub(crate) proxy: Option<ProxyText>,
    pub(crate) clock: Arc<SystemClock>,
    pub(crate) links: Links,
    /// What this machine runs on.
    pub(crate) power: watch::Receiver<Power>,
    /// News of the kernel's addresses and routes.
    pub(crate) changes: watch::Receiver<u64>,
    pub(crate) stop: Arc<AtomicBool>,
    /// What routers send on to this machine.
    pub(crate) mappings: Arc<Mappings>,
    lanes: Arc<ArcSwap<Lanes>>,
    namespaces: Mutex<BTreeMap<NamespaceId, Arc<Running>>>,
    requests: AtomicU64,
    /// Calls of the control socket under way.
    calls: watch::Sender<usize>,
    _lock: std::fs::File,
}

impl Daemon {
    /// Opens the state directory and the data socket, and answers on the control socket.
    pub(crate) fn start(path: &Path, port: Option<u16>, proxy: Option<ProxyText>) -> anyhow::Result<Arc<Self>> {
        let state = StateDir::open(path)?;
        let lock = state.lock()?;
        crate::dns::clean_up_after_crash(state.path());
        state.identity()?;
        let socket = Arc::new(DataSocket::bind(state.port(port)?, packet_threads())?);
        let (port, links, clock) = (socket.port()?, Links::open()?, Arc::new(SystemClock::start()));
        let changes = changes::watch();
        let daemon = Arc::new(Self {
            proxy,
            mappings: Mappings::start(state.path(), port, links.clone(), changes.clone(), Arc::clone(&clock))?,
            port,
            socket,
            clock,
            links,
            power: power::watch(),
            changes,
            stop: Arc::new(AtomicBool::new(false)),
            lanes: Arc::new(ArcSwap::from_pointee(std::array::from_fn(|_| None))),
            namespaces: Mutex::new(BTreeMap::new()),
            requests: AtomicU64::new(1),
            calls: watch::Sender::new(0),
            state,
            _lock: lock,
        });
        let listener = socket::listen(&daemon.state.control_socket())?;
        tokio::spawn(socket::serve(listener, Arc::clone(&daemon)));
        daemon.receive()?;
        vmgenid::watch(Arc::clone(&daemon.clock));
        Ok(daemon)
    }

    fn receive(&self) -> anyhow::Result<()> {
        for queue in 0..self.socket.queues() {
            let (socket, lanes) = (Arc::clone(&self.socket), Arc::clone(&self.lanes));
            let (clock, stop) = (Arc::clone(&self.clock), Arc::clone(&self.stop));
            std::thread::Builder::new()
                .name("inbound".into())
                .spawn(move || inbound::run(&socket, queue, &lanes, &clock, &stop))
                .context("cannot start the inbound thread")?;
        }
        Ok(())
    }

    /// Prepares and runs a namespace; one that runs already is returned as it is. With it come things worth a note.
    pub(crate) async fn run(self: &Arc<Self>, start: Start) -> anyhow::Result<(Arc<Running>, Vec<String>)> {
        if let Some(port) = start.options().port.filter(|port| *port != self.port) {
            bail!("overlay runs here on port {}, for all its namespaces; end it first to use --port {port}", self.port);
        }
        self.make_way(&start).await;
        let mut namespaces = self.namespaces.lock().await;
        namespaces.retain(|_, running| !running.is_over());
        if let Some(running) = already_running(&namespaces, &start) {
            running.refuse_other_mode(&start)?;
            if start.recovery().is_some() {
                bail!(launch::ONLY_WHEN_FOUNDED);
            }
            let notes = running.summary().map_or(Vec::new(), |summary| start.notes(summary.range, summary.lease));
            return Ok((running, notes));
        }
        let known = self.state.namespaces()?.len();
        let wanted = start.clone();
        let prepared = launch::prepare(&self.state, start, self.port, self.clock.now())?;
        let others = namespaces.values().filter(|running| running.id != prepared.dir.id);
        let ranges: Vec<_> = others.filter_map(|other| Some((other.summary()?.range, other.alias()))).collect();
        if let Some(summary) = &prepared.summary
            && !prepared.settings.options.no_tap
            && let Err(error) = shell::refuse_overlap(self, &ranges, summary).await
        {
            if self.state.namespaces()?.len() > known {
                // Founded a moment ago, and nobody has seen it: the next try may choose another range.
                prepared.dir.erase()?;
            }
            return Err(error);
        }
        let notes = prepared.summary.as_ref().map_or(Vec::new(), |summary| wanted.notes(summary.range, summary.lease));
        Ok((self.begin(&mut namespaces, prepared)?, notes))
    }

    /// Ends a join that has led to nothing yet, where another token comes for its name.
    async fn make_way(&self, start: &Start) {
        if start.token().is_none() {
            return;
        }
        let found = already_running(&*self.namespaces.lock().await, start);
        if let Some(running) = found.filter(|running| running.summary().is_none()) {
            // Without the lock: on its way it may look at the others.
            running.stop().await;
        }
    }

    /// Runs every namespace that is known here, was not left, and does not run yet. Each stands for itself.
    pub(crate) async fn run_all(self: &Arc<Self>) -> anyhow::Result<Vec<(String, anyhow::Result<Arc<Running>>)>> {
        let mut namespaces = self.namespaces.lock().await;
        namespaces.retain(|_, running| !running.is_over());
        let mut started = Vec::new();
        for (dir, settings) in self.state.entries()? {
            if namespaces.contains_key(&dir.id) || settings.as_ref().is_ok_and(|settings| settings.left) {
                continue;
            }
            let name = settings.as_ref().map_or_else(|_| dir.id.to_string(), |settings| settings.alias.clone());
            let running = settings
                .and_then(|settings| launch::resume(&self.state, dir, settings, self.clock.now()))
                .and_then(|prepared| self.begin(&mut namespaces, prepared));
            started.push((name, running));
        }
        Ok(started)
    }

    /// Whether any namespace runs here.
    pub(crate) async fn runs_any(&self) -> bool {
        self.namespaces.lock().await.values().any(|running| !running.is_over())
    }

    /// Waits until no namespace runs here any more, and whoever asked for that has the answer.
    pub(crate) async fn until_none_runs(&self) {
        loop {
            let running: Vec<_> = self.namespaces.lock().await.values().filter(|one| !one.is_over()).cloned().collect();
            if running.is_empty() {
                break;
            }
            futures::future::select_all(running.iter().map(|one| Box::pin(one.ended()))).await;
        }
        let mut calls = self.calls.subscribe();
        let _ = tokio::time::timeout(LEAVE_WAIT, calls.wait_for(|calls| *calls == 0)).await;
    }

    /// A call is under way as long as the result lives.
    pub(crate) fn count_call(&self) -> CallUnderWay<'_> {
        self.calls.send_modify(|calls| *calls += 1);
        CallUnderWay(&self.calls)
    }

    fn begin(
        self: &Arc<Self>,
        namespaces: &mut BTreeMap<NamespaceId, Arc<Running>>,
        prepared: Prepared,
    ) -> anyhow::Result<Arc<Running>> {
        let id = prepared.dir.id;
        namespaces.retain(|_, running| !running.is_over());
        let used: Vec<usize> = namespaces.values().map(|running| running.slot).collect();
        let slot = (0..SLOTS)
            .find(|slot| !used.contains(slot))
            .ok_or_else(|| anyhow!("this daemon runs {SLOTS} namespaces, and that is the most"))?;
        let running = Running::start(Arc::clone(self), slot, prepared);
        namespaces.insert(id, Arc::clone(&running));
        Ok(running)
    }

    /// Ranges of the other namespaces here, with their names.
    pub(crate) async fn ranges_besides(&self, id: NamespaceId) -> Vec<(ipnet::Ipv4Net, String)> {
        let namespaces = self.namespaces.lock().await;
        let others = namespaces.values().filter(|running| running.id != id);
        others.filter_map(|running| Some((running.summary()?.range, running.alias()))).collect()
    }

    /// Streams for the namespace in this slot. What comes in them goes the way of what the inbound thread receives.
    pub(crate) fn streams(&self, slot: usize) -> (Streams, StreamServer) {
        let (lanes, clock) = (Arc::clone(&self.lanes), Arc::clone(&self.clock));
        let deliver = move |peer, datagram: &mut [u8]| {
            inbound::from_stream(&lanes.load(), slot, peer, datagram, clock.now());
        };
        Streams::new(Arc::new(deliver))
    }

    /// Lets the inbound thread reach a namespace, or no longer.
    pub(crate) fn set_lane(&self, slot: usize, lane: Option<Arc<Lane>>) {
        self.lanes.rcu(|lanes| {
            let mut next: Lanes = lanes.as_ref().clone();
            next[slot].clone_from(&lane);
            next
        });
    }

    /// Ends all namespaces in order: their leases and memberships stay.
    pub(crate) async fn shut_down(&self) {
        let namespaces = std::mem::take(&mut *self.namespaces.lock().await);
        let end = async |running: &Arc<Running>| {
            let asked = self.ask(running, Request::HandOver);
            let _ = tokio::time::timeout(HAND_OVER_WAIT, asked).await;
            running.stop().await;
        };
        futures::future::join_all(namespaces.values().map(end)).await;
        self.mappings.stop().await;
        self.stop.store(true, Ordering::Relaxed);
        let _ = std::fs::remove_file(self.state.control_socket());
    }

    /// Answers one call of the control socket.
    pub(crate) async fn answer(self: &Arc<Self>, call: Call, answers: &mut Answers) -> anyhow::Result<Value> {
        match call {
            Call::Status { namespace } => self.status(namespace).await,
            Call::Lookup { namespace, what } => {
                let running = self.one(namespace).await?;
                reply_value(self.ask(&running, Request::Lookup { what }).await?)
            }
            Call::Ping { namespace, what } => {
                let running = self.one(namespace).await?;
                let reply = self.ask(&running, Request::Ping { what }).await?;
                Ok(serde_json::to_value(reply)?)
            }
            Call::Invite { namespace, uses, ttl_s, role, hosts } => {
                let running = self.one(Some(namespace)).await?;
                if let Some((what, cure)) = running.unreachable(self).await {
                    answers.send(&Answer::Note(format!("{what}; {cure}"))).await;
                }
                let request = running.invite_request(self, uses, Duration::from_secs(ttl_s), role, hosts).await?;
                reply_value(self.ask(&running, request).await?)
            }
            Call::Recover { namespace, all, confirmed } => {
                let running = self.one(Some(namespace)).await?;
                reply_value(self.ask(&running, Request::Recover { all, confirmed }).await?)
            }
            Call::Leave { namespace, forget, destroy } => self.leave(&namespace, forget, destroy).await,
            Call::Start(start) => {
                let (running, notes) = self.run(*start).await?;
                for note in notes {
                    answers.send(&Answer::Note(note)).await;
                }
                let line = wait_ready(&running).await?;
                answers.send(&Answer::Ready(line)).await;
                // Whoever asked for it is gone by the time it may fail.
                tokio::spawn(async move {
                    if let Some(why) = running.failure().await {
                        report::note(&format!("{}: {why}", running.alias()));
                    }
                });
                Ok(Value::Null)
            }
            Call::Doctor => crate::commands::doctor::examine(self).await,
        }
    }

    /// A one-use invite for the person who has just created the namespace.
    pub(crate) async fn first_token(self: &Arc<Self>, running: &Running) -> anyhow::Result<String> {
        let day = Duration::from_secs(86_400);
        let request = running.invite_request(self, 1, day, crate::cli::Role::Member, 256).await?;
        match self.ask(running, request).await? {
            Reply::Token(token) => Ok(token),
            Reply::Failed(why) => bail!(why),
            Reply::Owner { .. }
            | Reply::Pong { .. }
            | Reply::NoPong { .. }
            | Reply::Recovery(_)
            | Reply::Left
            | Reply::HandedOver => bail!("no token came back"),
        }
    }

    async fn status(&self, namespace: Option<String>) -> anyhow::Result<Value> {
        let peer_id = dht::identity::SecretKey::from_seed(&*self.state.identity()?).peer_id().to_string();
        let mut list: Vec<NamespaceStatus> = Vec::new();
        for running in self.matching(namespace).await? {
            list.push(running.status().await?);
        }
        let version = env!("CARGO_PKG_VERSION");
        let port_mapping = self.mappings.status();
        Ok(json!({"version": version, "peer_id": peer_id, "namespaces": list, "port_mapping": port_mapping}))
    }

    /// All namespaces that run here, or the one of this name.
    pub(crate) async fn matching(&self, namespace: Option<String>) -> anyhow::Result<Vec<Arc<Running>>> {
        let namespaces = self.namespaces.lock().await;
        let all = namespaces.values().cloned();
        let Some(name) = namespace else { return Ok(all.collect()) };
        let found: Vec<_> = all.filter(|running| running.is_called(&name)).collect();
        if found.is_empty() {
            bail!("no namespace {name} runs here; `overlay status` lists those that do");
        }
        Ok(found)
    }

    async fn one(&self, namespace: Option<String>) -> anyhow::Result<Arc<Running>> {
        let is_named = namespace.is_some();
        let mut found = self.matching(namespace).await?;
        found.retain(|running| is_named || !running.is_over());
        match (found.pop(), found.is_empty()) {
            (Some(running), true) => Ok(running),
            (None, _) => bail!("no namespace runs here"),
            (Some(_), false) => bail!("several namespaces run here; say which with --namespace"),
        }
    }

    async fn ask(&self, running: &Running, request: Request) -> anyhow::Result<Reply> {
        let id = RequestId(self.requests.fetch_add(1, Ordering::Relaxed));
        running.ask(id, request).await
    }

    async fn leave(&self, name: &str, forget: bool, destroy: bool) -> anyhow::Result<Value> {
        let running = self.one(Some(name.to_owned())).await?;
        if forget && !destroy {
            running.refuse_to_destroy(name)?;
        }
        let left = tokio::time::timeout(LEAVE_WAIT, self.ask(&running, Request::Leave)).await;
        let told = matches!(left, Ok(Ok(Reply::Left)));
        // It stays in the map until then: no second one may begin on its store.
        running.stop().await;
        if forget {
            running.erase()?;
        } else {
            running.mark_left()?;
        }
        self.namespaces.lock().await.retain(|_, other| !Arc::ptr_eq(other, &running));
        if !told {
            report::note("the register did not answer; the leases end by themselves");
        }
        Ok(json!({"left": name, "released": told, "forgotten": forget}))
    }
}

/// Waits until a namespace is usable.
pub(crate) async fn wait_ready(running: &Running) -> anyhow::Result<String> {
    let mut progress = running.progress();
    loop {
        match progress.borrow_and_update().clone() {
            Progress::Ready(line) => return Ok(line),
            Progress::Failed(why) | Progress::Denied(why) => return Err(anyhow!(why)),
            Progress::Stopped => bail!("the namespace was stopped"),
            Progress::Starting(_) => {}
        }
        progress.changed().await.map_err(|_| anyhow!("the namespace was stopped"))?;
    }
}

/// Counts a call until it is dropped.
pub(crate) struct CallUnderWay<'a>(&'a watch::Sender<usize>);

impl Drop for CallUnderWay<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|calls| *calls -= 1);
    }
}

fn already_running(namespaces: &BTreeMap<NamespaceId, Arc<Running>>, start: &Start) -> Option<Arc<Running>> {
    // The namespace of a token may run under another name than the one given now.
    let ns = start.token().and_then(|token| Token::parse(token.trim()).ok()).map(|token| token.ns);
    let called = namespaces.values().find(|running| running.is_called(start.called()));
    called.or_else(|| namespaces.get(&ns?)).cloned()
}

fn reply_value(reply: Reply) -> anyhow::Result<Value> {
    match reply {
        Reply::Failed(why) => Err(anyhow!(why)),
        Reply::Owner { .. }
        | Reply::Pong { .. }
        | Reply::NoPong { .. }
        | Reply::Token(_)
        | Reply::Recovery(_)
        | Reply::Left
        | Reply::HandedOver => {
            let value = serde_json::to_value(reply)?;
            // The name of the variant says nothing that the caller does not know.
            let only = value.as_object().and_then(|object| object.values().next()).cloned();
            Ok(only.unwrap_or(value))
        }
    }
}
