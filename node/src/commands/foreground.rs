//! `create`, `join` and `up`: run in the foreground, or hand over to the daemon that already runs.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::JoinOptions;
use crate::client;
use crate::daemon::{Daemon, wait_ready};
use crate::report;
use crate::runtime::Running;
use crate::socket::{Answer, Call, Start};

/// What follows once the namespace is usable.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// Say how others join.
    Introduce,
    /// Nothing.
    Nothing,
}

/// Runs the given namespaces, or all that are known here if none is given, until interrupted.
pub(crate) fn run(state: &Path, starts: Vec<Start>, after: After) -> anyhow::Result<()> {
    if let Some(stream) = client::connect(state)? {
        return hand_over(stream, starts);
    }
    // Two threads: libp2p must not wait for netlink or the control socket, and packets have threads of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("overlay")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(stay(state, starts, after));
    runtime.shutdown_timeout(Duration::from_millis(200));
    result
}

fn hand_over(stream: std::os::unix::net::UnixStream, starts: Vec<Start>) -> anyhow::Result<()> {
    let Some(start) = starts.into_iter().next() else { bail!("overlay already runs on this state directory") };
    let value = client::call(stream, &Call::Start(start), |answer| match answer {
        Answer::Ready(line) => report::line(&line),
        Answer::Note(text) => report::note(&text),
        Answer::Done(_) | Answer::Failed(_) => {}
    });
    value.map(|_: Value| ())
}

async fn stay(state: &Path, starts: Vec<Start>, after: After) -> anyhow::Result<()> {
    harden();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let port = starts.iter().find_map(|start| options(start).port);
    let daemon = Daemon::start(state, port)?;
    let result = tokio::select! {
        result = live(&daemon, starts, after) => result,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    daemon.shut_down().await;
    result
}

async fn live(daemon: &Arc<Daemon>, starts: Vec<Start>, after: After) -> anyhow::Result<()> {
    let running = if starts.is_empty() {
        let all = daemon.run_all().await?;
        if all.is_empty() {
            bail!("no namespace is known here; use `overlay create` or `overlay join` first");
        }
        all
    } else {
        let mut all = Vec::new();
        for start in starts {
            all.push(daemon.run(start).await?);
        }
        all
    };
    for namespace in &running {
        report::line(&wait_ready(namespace).await?);
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    if after == After::Introduce {
        for namespace in &running {
            introduce(daemon, namespace).await;
        }
    }
    until_one_fails(&running).await
}

/// The end of the only namespace is the end of the program; one of several is news.
async fn until_one_fails(running: &[Arc<Running>]) -> anyhow::Result<()> {
    if let [only] = running {
        return only.failure().await.map_or(Ok(()), |why| Err(anyhow!(why)));
    }
    let mut failures: FuturesUnordered<_> =
        running.iter().map(|one| async move { (one.alias(), one.failure().await) }).collect();
    while let Some((name, why)) = failures.next().await {
        report::note(&format!("{name}: {}", why.unwrap_or_else(|| "stopped".into())));
    }
    Ok(())
}

/// The line to give to others: with a token only to a person's terminal, and only the first time.
async fn introduce(daemon: &Arc<Daemon>, namespace: &Running) {
    let name = namespace.alias();
    if !std::io::stderr().is_terminal() || !namespace.introduce_once() {
        report::note(&format!("to let others in: overlay invite {name}"));
        return;
    }
    match daemon.first_token(namespace).await {
        Ok(token) => report::note(&format!(
            "another machine joins with (once, within 24 h):\n  overlay join {name} --invite {token}"
        )),
        Err(error) => report::note(&format!("no invite could be made: {error:#}")),
    }
}

fn options(start: &Start) -> &JoinOptions {
    match start {
        Start::Create { options, .. } | Start::Join { options, .. } => options,
    }
}

/// Keys stay out of core dumps.
fn harden() {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}
