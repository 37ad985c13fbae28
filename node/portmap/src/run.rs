//! The shell around [`Mapper`]: sockets, the record on disk, and time.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::mapping::{Answer, Left, Mapping, Network, Owner, Port, Protocol, Refusal};
use crate::status::Status;
use crate::upnp::Upnp;
use crate::{Action, ActionId, Mapper, file, pcp};

/// The end of the program waits no longer for mappings to be deleted.
const FAREWELL: Duration = Duration::from_secs(2);
/// No answer takes longer, whatever the other side does.
const LONGEST_ANSWER: Duration = Duration::from_secs(12);
/// The longest sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// What the mapper is told.
#[derive(Clone, Default)]
struct Wishes {
    wanted: BTreeSet<Port>,
    network: Option<Network>,
    /// Rises when the machine was suspended.
    doubts: u64,
    stop: bool,
}

/// A mapper that runs.
pub struct Handle {
    wishes: watch::Sender<Wishes>,
    mappings: watch::Receiver<Vec<Mapping>>,
    status: watch::Receiver<Status>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

/// Starts on the current runtime. `record` is the file that outlives a crash, `clock` is monotonic.
pub fn start(record: PathBuf, owner: Owner, clock: fn() -> Instant) -> Handle {
    let (wishes, wished) = watch::channel(Wishes::default());
    let (mappings_tx, mappings) = watch::channel(Vec::new());
    let (status_tx, status) = watch::channel(Status::default());
    let shell = Shell {
        record,
        owner,
        clock,
        upnp: Arc::default(),
        unsaved: false,
        tasks: JoinSet::new(),
        mappings: mappings_tx,
        status: status_tx,
    };
    let task = tokio::spawn(shell.run(wished));
    Handle { wishes, mappings, status, task: tokio::sync::Mutex::new(Some(task)) }
}

impl Handle {
    /// The ports to be mapped.
    pub fn want(&self, wanted: BTreeSet<Port>) {
        self.wishes.send_if_modified(|wishes| std::mem::replace(&mut wishes.wanted, wanted.clone()) != wanted);
    }

    /// Where the default route leads.
    pub fn set_network(&self, network: Option<Network>) {
        self.wishes.send_if_modified(|wishes| std::mem::replace(&mut wishes.network, network) != network);
    }

    /// The machine was suspended or restored.
    pub fn doubt(&self) {
        self.wishes.send_modify(|wishes| wishes.doubts += 1);
    }

    /// What is mapped, and when that changes.
    pub fn mappings(&self) -> watch::Receiver<Vec<Mapping>> {
        self.mappings.clone()
    }

    /// What is known.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Deletes all mappings, and waits two seconds for that at most.
    pub async fn stop(&self) {
        self.wishes.send_modify(|wishes| wishes.stop = true);
        let Some(mut task) = self.task.lock().await.take() else { return };
        if tokio::time::timeout(FAREWELL, &mut task).await.is_err() {
            task.abort();
        }
    }
}

struct Shell {
    record: PathBuf,
    owner: Owner,
    clock: fn() -> Instant,
    upnp: Arc<Upnp>,
    /// The record is not on disk.
    unsaved: bool,
    tasks: JoinSet<(ActionId, Answer)>,
    mappings: watch::Sender<Vec<Mapping>>,
    status: watch::Sender<Status>,
}

impl Shell {
    async fn run(mut self, mut wished: watch::Receiver<Wishes>) {
        let left = file::load(&self.record).unwrap_or_else(|error| {
            tracing::warn!("port mappings of an earlier run are not known: {error:#}");
            Vec::new()
        });
        let mut mapper = Mapper::new(self.owner, left, (self.clock)());
        let mut before = Wishes::default();
        loop {
            self.act(&mut mapper).await;
            if mapper.is_clean() {
                return;
            }
            let now = (self.clock)();
            let sleep = mapper.poll_timeout().map_or(LONGEST_SLEEP, |at| at.saturating_duration_since(now));
            tokio::select! {
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => if let Ok((id, answer)) = done {
                    tracing::debug!(?id, ?answer, "the gateway");
                    mapper.handle_answer(id, answer, (self.clock)());
                },
                changed = wished.changed() => {
                    let mut next = wished.borrow_and_update().clone();
                    next.stop |= changed.is_err();
                    tell(&mut mapper, &before, &next, (self.clock)());
                    before = next;
                }
                () = tokio::time::sleep(sleep.max(Duration::from_millis(1))) => mapper.handle_timeout((self.clock)()),
            }
        }
    }

    async fn act(&mut self, mapper: &mut Mapper) {
        while let Some(action) = mapper.poll_action() {
            tracing::debug!(?action, "port mapping");
            match action {
                Action::Save(left) => self.save(left).await,
                Action::Probe { id, protocol, network } => {
                    let (upnp, owner) = (Arc::clone(&self.upnp), self.owner);
                    self.ask(id, async move {
                        match protocol {
                            Protocol::Pcp => pcp::probe_pcp(network, owner).await,
                            Protocol::NatPmp => pcp::probe_nat_pmp(network).await,
                            Protocol::Upnp => upnp.probe(network).await,
                        }
                    });
                }
                Action::Map { id, left, lease } => {
                    let (upnp, unsaved) = (Arc::clone(&self.upnp), self.unsaved);
                    self.ask(id, async move {
                        match (left.protocol, lease) {
                            // Nobody would ever know of it again.
                            (_, None) if unsaved => {
                                Answer::Refused(Refusal::Other("the record cannot be written".into()))
                            }
                            (Protocol::Pcp | Protocol::NatPmp, Some(lease)) => pcp::map(&left, lease).await,
                            (Protocol::Upnp | Protocol::Pcp | Protocol::NatPmp, lease) => upnp.map(&left, lease).await,
                        }
                    });
                }
                Action::Delete { id, left, certain } => {
                    let upnp = Arc::clone(&self.upnp);
                    self.ask(id, async move {
                        match left.protocol {
                            Protocol::Pcp | Protocol::NatPmp => pcp::delete(&left).await,
                            Protocol::Upnp => upnp.delete(&left, certain).await,
                        }
                    });
                }
            }
        }
        let mappings: Vec<Mapping> = mapper.mappings().copied().collect();
        self.mappings.send_if_modified(|told| std::mem::replace(told, mappings.clone()) != mappings);
        self.status.send_replace(mapper.status((self.clock)()));
    }

    fn ask(&mut self, id: ActionId, asking: impl Future<Output = Answer> + Send + 'static) {
        self.tasks.spawn(async move {
            let answer = tokio::time::timeout(LONGEST_ANSWER, asking).await;
            (id, answer.unwrap_or_else(|_| Answer::Silent("no answer".into())))
        });
    }

    /// Whoever syncs may wait long on a busy disk, so a thread of its own does.
    async fn save(&mut self, left: Vec<Left>) {
        let record = self.record.clone();
        let saved = tokio::task::spawn_blocking(move || file::save(&record, &left)).await;
        self.unsaved = !matches!(saved, Ok(Ok(())));
        if let Ok(Err(error)) = saved {
            tracing::warn!("port mappings may outlive a crash: {error:#}");
        }
    }
}

fn tell(mapper: &mut Mapper, before: &Wishes, next: &Wishes, now: Instant) {
    if next.stop {
        return mapper.stop(now);
    }
    mapper.handle_network(next.network, now);
    mapper.handle_wanted(&next.wanted, now);
    if next.doubts != before.doubts {
        mapper.handle_doubt(now);
    }
}
