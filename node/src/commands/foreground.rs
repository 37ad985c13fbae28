//! `create`, `join` and `up`: run in the foreground, or hand over to the daemon that already runs.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::client;
use crate::daemon::{Daemon, wait_ready};
use crate::proxy::ProxyText;
use crate::report;
use crate::runtime::Running;
use crate::segment;
use crate::socket::{Answer, Call, Start};

/// What follows once the namespace is usable.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// Say how others join.
    Introduce,
    /// Nothing.
    Nothing,
}

/// What to run, and how to speak of it.
pub(crate) struct Wish {
    /// One namespace, or all that are known here.
    pub(crate) start: Option<Start>,
    /// The proxy for all that are known here.
    pub(crate) proxy: Option<ProxyText>,
    pub(crate) after: After,
    pub(crate) json: bool,
}

/// Runs what is wished for until interrupted, or until none of its namespaces runs any more.
pub(crate) fn run(state: &Path, wish: Wish) -> anyhow::Result<()> {
    if let Some(stream) = client::connect(state)? {
        return hand_over(stream, wish);
    }
    // Two threads: libp2p must not wait for netlink or the control socket, and packets have threads of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("overlay")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(stay(state, wish));
    runtime.shutdown_timeout(Duration::from_millis(200));
    result
}

fn hand_over(stream: std::os::unix::net::UnixStream, wish: Wish) -> anyhow::Result<()> {
    let Wish { start: Some(start), after, json, .. } = wish else {
        bail!("overlay already runs on this state directory")
    };
    let name = start.called().to_owned();
    let value = client::call(stream, &Call::Start(Box::new(start)), |answer| match answer {
        Answer::Ready(line) => print_ready(&line, json),
        Answer::Note(text) => report::note(&text),
        Answer::Done(_) | Answer::Failed(_) => {}
    });
    value.map(|_: Value| ())?;
    if after == After::Introduce {
        report::note(&how_to_invite(&name));
    }
    Ok(())
}

async fn stay(state: &Path, wish: Wish) -> anyhow::Result<()> {
    harden();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let ignores_hangup = ignores_hangup();
    let mut hangup = signal(SignalKind::hangup())?;
    let port = wish.start.as_ref().and_then(|start| start.options().port);
    let daemon = Daemon::start(state, port, wish.proxy.clone())?;
    segment::clean_up_after_crash(&daemon.links, daemon.state.path()).await;
    // An interrupt does not undo what has failed before.
    let failed = OnceLock::new();
    tokio::select! {
        () = live(&daemon, wish, &failed) => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv(), if !ignores_hangup => {}
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    daemon.shut_down().await;
    failed.into_inner().map_or(Ok(()), Err)
}

/// Others may have handed their namespaces over, so the end of our own is not the end of the program.
async fn live(daemon: &Arc<Daemon>, wish: Wish, failed: &OnceLock<anyhow::Error>) {
    let Wish { start, after, json, .. } = wish;
    let end = async {
        let result = match start {
            Some(start) => one(daemon, start, after, json).await,
            None => all(daemon, json).await,
        };
        if let Err(error) = result {
            if daemon.runs_any().await {
                report::error(&error);
            }
            let _ = failed.set(error);
        }
    };
    end.await;
    daemon.until_none_runs().await;
}

async fn one(daemon: &Arc<Daemon>, start: Start, after: After, json: bool) -> anyhow::Result<()> {
    let (running, notes) = daemon.run(start).await?;
    notes.iter().for_each(|note| report::note(note));
    print_ready(&wait_ready(&running).await?, json);
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    if after == After::Introduce {
        introduce(daemon, &running).await;
    }
    running.failure().await.map_or(Ok(()), |why| Err(anyhow!(why)))
}

/// One that cannot run, or ends, does not keep the others from running.
async fn all(daemon: &Arc<Daemon>, json: bool) -> anyhow::Result<()> {
    let started = daemon.run_all().await?;
    if started.is_empty() && !daemon.runs_any().await {
        bail!("no namespace is to be run here; use `overlay create` or `overlay join` first");
    }
    let mut lives = FuturesUnordered::new();
    let mut failures = 0;
    for (name, running) in started {
        match running {
            Ok(running) => lives.push(async move { (name, life(&running, json).await) }),
            Err(error) => {
                report::note(&format!("{name}: {error:#}"));
                failures += 1;
            }
        }
    }
    // Whatever can run has begun. How long each takes depends on others, so nobody is to wait for that.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    while let Some((name, end)) = lives.next().await {
        if let Err(error) = end {
            report::note(&format!("{name}: {error:#}"));
            failures += 1;
        }
    }
    match failures {
        0 => Ok(()),
        1 => bail!("a namespace failed, as said above"),
        more => bail!("{more} namespaces failed, as said above"),
    }
}

/// From its start to its end.
async fn life(running: &Running, json: bool) -> anyhow::Result<()> {
    print_ready(&wait_ready(running).await?, json);
    running.failure().await.map_or(Ok(()), |why| Err(anyhow!(why)))
}

fn print_ready(line: &str, json: bool) {
    match ready_json(line).filter(|_| json) {
        Some(value) => report::line(&value.to_string()),
        None => report::line(line),
    }
}

/// `ready NAME IP/PREFIX on TAP` for programs; what is `-` there is `null` here.
fn ready_json(line: &str) -> Option<Value> {
    let words: Vec<&str> = line.split(' ').collect();
    let ["ready", namespace, address, "on", tap] = words[..] else { return None };
    let (ip, prefix_len) = match address.split_once('/') {
        Some((ip, prefix_len)) => (Some(ip), Some(prefix_len.parse::<u8>().ok()?)),
        None => (None, None),
    };
    let tap = Some(tap).filter(|tap| *tap != "-");
    Some(json!({"ready": {"namespace": namespace, "ip": ip, "prefix_len": prefix_len, "tap": tap}}))
}

fn how_to_invite(name: &str) -> String {
    format!("to let others in: overlay invite {name}")
}

/// The line to give to others: with a token only to a person's terminal, and only the first time.
async fn introduce(daemon: &Arc<Daemon>, namespace: &Running) {
    let name = namespace.alias();
    if let Some((what, cure)) = namespace.unreachable(daemon).await {
        report::note(&format!("{what}; {cure}"));
    }
    if !std::io::stderr().is_terminal() || !namespace.introduce_once() {
        report::note(&how_to_invite(&name));
        return;
    }
    match daemon.first_token(namespace).await {
        Ok(token) => report::note(&format!(
            "another machine joins with (once, within 24 h):\n  overlay join {name} --invite {token}"
        )),
        Err(error) => report::note(&format!("no invite could be made: {error:#}")),
    }
}

/// Whether whoever started this wants it to outlive the terminal, as `nohup` does.
fn ignores_hangup() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignored_signals(&status) & 1 != 0)
}

/// The mask of proc(5); signal 1, the hangup, is its lowest bit.
fn ignored_signals(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

/// Keys stay out of core dumps.
fn harden() {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        assert_eq!(ignored_signals("SigBlk:\t0000000000000002\nSigIgn:\t0000000000001001\n"), 0x1001);
        assert_eq!(ignored_signals("Name:\toverlay\n"), 0);
    }

    #[test]
    fn the_ready_line_has_a_form_for_programs() {
        let text = |line| ready_json(line).map(|value| value.to_string());
        assert_eq!(
            text("ready home 10.1.0.2/16 on ov-home").unwrap(),
            r#"{"ready":{"ip":"10.1.0.2","namespace":"home","prefix_len":16,"tap":"ov-home"}}"#
        );
        assert_eq!(
            text("ready home - on -").unwrap(),
            r#"{"ready":{"ip":null,"namespace":"home","prefix_len":null,"tap":null}}"#
        );
        assert_eq!(text("something else"), None);
    }
}
