//! The control socket: one JSON call per connection, answered by JSON lines, the last of which is `done` or `failed`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

use crate::cli::{JoinOptions, Role};
use crate::daemon::Daemon;

/// The longest call: an invite of at most 1 KiB and some options.
const MAX_CALL: u64 = 64 * 1024;
/// How long a client may take to say what it wants.
const CALL_WAIT: Duration = Duration::from_secs(5);
/// Calls at once.
const MAX_CALLS: usize = 64;
/// Members of this group may look but not touch.
const GROUP: &str = "overlay";

/// What a client asks of the running daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Call {
    Status { namespace: Option<String> },
    Lookup { namespace: Option<String>, what: String },
    Ping { namespace: Option<String>, what: String },
    Invite { namespace: String, uses: u16, ttl_s: u64, role: Role, hosts: u16 },
    Recover { namespace: String, all: bool, confirmed: bool },
    Leave { namespace: String, forget: bool, destroy: bool },
    Start(Box<Start>),
    Doctor,
}

/// A namespace to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Start {
    Create {
        name: String,
        range: Option<ipnet::Ipv4Net>,
        /// `None` for a day.
        lease_s: Option<u64>,
        recovery: Option<[u8; 32]>,
        options: JoinOptions,
    },
    Join {
        name: String,
        token: Option<String>,
        options: JoinOptions,
    },
}

impl Start {
    /// What the namespace is to be called here.
    pub(crate) fn called(&self) -> &str {
        match self {
            Self::Create { name, options, .. } | Self::Join { name, options, .. } => {
                options.alias.as_ref().unwrap_or(name)
            }
        }
    }

    pub(crate) fn options(&self) -> &JoinOptions {
        match self {
            Self::Create { options, .. } | Self::Join { options, .. } => options,
        }
    }

    pub(crate) fn token(&self) -> Option<&str> {
        match self {
            Self::Create { .. } => None,
            Self::Join { token, .. } => token.as_deref(),
        }
    }

    pub(crate) fn recovery(&self) -> Option<&[u8; 32]> {
        match self {
            Self::Create { recovery, .. } => recovery.as_ref(),
            Self::Join { .. } => None,
        }
    }

    /// What was asked for and is not so, because the namespace was founded otherwise.
    pub(crate) fn notes(&self, range: ipnet::Ipv4Net, lease: Duration) -> Vec<String> {
        let Self::Create { range: asked, lease_s, .. } = self else { return Vec::new() };
        let name = self.called();
        let mut notes = Vec::new();
        if let Some(asked) = asked.filter(|asked| asked.trunc() != range) {
            notes.push(format!("{name} is here already, with the range {range}; --range {asked} changes nothing"));
        }
        if let Some(asked) = lease_s.filter(|asked| *asked != lease.as_secs()) {
            let lease = lease.as_secs();
            notes.push(format!("{name} is here already, with leases of {lease} s; --lease {asked}s changes nothing"));
        }
        notes
    }
}

/// What the daemon answers, a line each.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// On the way.
    Note(String),
    /// The namespace is usable.
    Ready(String),
    /// The end.
    Done(serde_json::Value),
    /// The end, and why.
    Failed(String),
}

impl Call {
    fn is_read_only(&self) -> bool {
        match self {
            Self::Status { .. } | Self::Lookup { .. } | Self::Ping { .. } | Self::Doctor => true,
            Self::Invite { .. } | Self::Recover { .. } | Self::Leave { .. } | Self::Start(_) => false,
        }
    }
}

/// Where answers go.
pub(crate) struct Answers(OwnedWriteHalf);

impl Answers {
    /// Sends one line; a client that is gone is no error.
    pub(crate) async fn send(&mut self, answer: &Answer) {
        if let Ok(mut line) = serde_json::to_vec(answer) {
            line.push(b'\n');
            let _ = self.0.write_all(&line).await;
        }
    }
}

/// Opens the socket, replacing one that a dead daemon left; the state directory's lock is held by then.
pub(crate) fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).with_context(|| format!("cannot open {}", path.display()))?;
    // Whoever may open it is asked for its user id besides.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    if let Some(group) = group_id(GROUP) {
        let _ = std::os::unix::fs::chown(path, None, Some(group));
        if let Some(dir) = path.parent() {
            let _ = std::os::unix::fs::chown(dir, None, Some(group));
            let _ = std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o710));
        }
    }
    Ok(listener)
}

/// Answers calls until the daemon ends.
pub(crate) async fn serve(listener: UnixListener, daemon: Arc<Daemon>) {
    let permits = Arc::new(tokio::sync::Semaphore::new(MAX_CALLS));
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let daemon = Arc::clone(&daemon);
        tokio::spawn(async move {
            if let Err(error) = answer_one(stream, daemon).await {
                tracing::debug!(%error, "control call");
            }
            drop(permit);
        });
    }
}

async fn answer_one(stream: UnixStream, daemon: Arc<Daemon>) -> anyhow::Result<()> {
    let user = stream.peer_cred()?.uid();
    let (read, write) = stream.into_split();
    let mut answers = Answers(write);
    let call = tokio::time::timeout(CALL_WAIT, read_call(read)).await;
    let call = match call.unwrap_or_else(|_| Err(anyhow!("it did not come within {} s", CALL_WAIT.as_secs()))) {
        Ok(call) => call,
        Err(error) => {
            answers.send(&Answer::Failed(format!("not a call: {error}"))).await;
            return Ok(());
        }
    };
    let privileged = user == 0 || user == rustix::process::getuid().as_raw();
    if !privileged && !call.is_read_only() {
        answers.send(&Answer::Failed("only root may change something; try again with sudo".into())).await;
        return Ok(());
    }
    let _under_way = daemon.count_call();
    match daemon.answer(call, &mut answers).await {
        Ok(value) => answers.send(&Answer::Done(value)).await,
        Err(error) => answers.send(&Answer::Failed(format!("{error:#}"))).await,
    }
    Ok(())
}

async fn read_call(read: OwnedReadHalf) -> anyhow::Result<Call> {
    let mut line = Vec::new();
    BufReader::new(read.take(MAX_CALL)).read_until(b'\n', &mut line).await?;
    Ok(serde_json::from_slice(&line)?)
}

fn group_id(name: &str) -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    let line = groups.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_founded_namespace_cannot_change_is_said() {
        let create = |range: Option<&str>, lease_s| Start::Create {
            name: "home".into(),
            range: range.map(|range| range.parse().unwrap()),
            lease_s,
            recovery: None,
            options: JoinOptions::default(),
        };
        let (range, day) = ("10.9.0.0/16".parse().unwrap(), Duration::from_secs(86_400));
        assert_eq!(create(None, None).notes(range, day), [""; 0]);
        assert_eq!(create(Some("10.9.1.2/16"), Some(86_400)).notes(range, day), [""; 0]);
        let notes = create(Some("10.8.0.0/16"), Some(60)).notes(range, day);
        assert!(matches!(&notes[..], [a, b] if a.contains("--range 10.8.0.0/16") && b.contains("--lease 60s")));
    }
}
