//! The calling side of the control socket.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, anyhow, bail};

use crate::socket::{Answer, Call};

/// Whether a daemon answers on this state directory.
pub(crate) fn connect(state: &Path) -> anyhow::Result<Option<UnixStream>> {
    let path = state.join("control.sock");
    match UnixStream::connect(&path) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            bail!("not allowed to talk to the daemon at {}; use sudo or join the group overlay", path.display())
        }
        Err(error) => Err(error).with_context(|| format!("cannot reach {}", path.display())),
    }
}

/// Makes one call and waits for its end; `each` sees what comes before.
pub(crate) fn call(
    mut stream: UnixStream,
    call: &Call,
    mut each: impl FnMut(Answer),
) -> anyhow::Result<serde_json::Value> {
    let mut line = serde_json::to_vec(call)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line?).context("the daemon speaks another version; restart it")? {
            Answer::Done(value) => return Ok(value),
            Answer::Failed(why) => return Err(anyhow!(why)),
            other @ (Answer::Note(_) | Answer::Ready(_)) => each(other),
        }
    }
    bail!("the daemon ended before it answered")
}

/// As [`call`], where a daemon has to run.
pub(crate) fn call_daemon(state: &Path, what: &Call) -> anyhow::Result<serde_json::Value> {
    let stream = connect(state)?.ok_or_else(|| {
        anyhow!("no overlay runs on {}; start one with `overlay up`, `create` or `join`", state.display())
    })?;
    call(stream, what, |answer| {
        if let Answer::Note(text) = answer {
            crate::report::note(&text);
        }
    })
}
