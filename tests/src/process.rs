//! A process of ours: its words are kept, and it ends when the value does.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// A running process with captured output.
pub struct Process {
    what: String,
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

/// How a process ended and what it said.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Exit status; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Standard output, if the exit status is 0.
    ///
    /// # Errors
    /// It is not; the error holds both outputs.
    pub fn ok(self) -> anyhow::Result<String> {
        ensure!(self.code == Some(0), "exit status {:?}\n{}\n{}", self.code, self.stdout, self.stderr);
        Ok(self.stdout)
    }
}

type Lines = Arc<Mutex<Vec<String>>>;

impl Process {
    /// Starts it, without standard input.
    ///
    /// # Errors
    /// The program is missing, most likely.
    pub fn spawn(mut command: Command) -> anyhow::Result<Self> {
        let what = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("Failed to start {what}"))?;
        let stdout = collect(child.stdout.take().context("stdout is piped")?);
        let stderr = collect(child.stderr.take().context("stderr is piped")?);
        Ok(Self { what, child, stdout, stderr })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Standard output so far.
    pub fn stdout(&self) -> String {
        joined(&self.stdout)
    }

    /// Standard error so far.
    pub fn stderr(&self) -> String {
        joined(&self.stderr)
    }

    /// Both outputs so far.
    pub fn said(&self) -> String {
        self.stdout() + &self.stderr()
    }

    /// The first line of either output that fits, whether it is there yet or not.
    ///
    /// # Errors
    /// The process ended or the deadline passed without such a line.
    pub fn wait_for_line(&mut self, limit: Duration, fits: impl Fn(&str) -> bool) -> anyhow::Result<String> {
        let seen = wait::until("a line of output", limit, || {
            // Ended first, lines second: the other way round a last line could be missed.
            let ended = !matches!(self.child.try_wait(), Ok(None));
            if ended {
                wait::pause(Duration::from_millis(100));
            }
            let line = self.said().lines().find(|line| fits(line)).map(str::to_owned);
            (line.is_some() || ended).then_some(line)
        });
        match seen {
            Ok(Some(line)) => Ok(line),
            Ok(None) => bail!("{} ended before it said what was expected:\n{}", self.what, self.said()),
            Err(error) => Err(error.context(format!("{} said only:\n{}", self.what, self.said()))),
        }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal to this very process.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, signal).with_context(|| format!("Failed to signal {}", self.what))?;
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It did not end in time; it is killed then.
    pub fn finish(mut self, limit: Duration) -> anyhow::Result<Finished> {
        let status = self.wait(limit)?;
        // The readers need a moment to drain the pipes, longer if a grandchild holds them.
        let drained = || Arc::strong_count(&self.stdout) + Arc::strong_count(&self.stderr) == 2;
        let _ = wait::until("the pipes' end", Duration::from_secs(2), || drained().then_some(()));
        Ok(Finished { code: status.code(), stdout: self.stdout(), stderr: self.stderr() })
    }

    /// Interrupts it as Ctrl-C does and waits for its end.
    ///
    /// # Errors
    /// It did not end in time.
    pub fn interrupt(self, limit: Duration) -> anyhow::Result<Finished> {
        self.signal(Signal::INT)?;
        self.finish(limit)
    }

    fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let ended = wait::until("its end", limit, || self.child.try_wait().transpose());
        let status = ended.map_err(|error| anyhow!("{}: {error:#}\n{}", self.what, self.said()))?;
        Ok(status?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(from: impl Read + Send + 'static) -> Lines {
    let lines = Lines::default();
    let into = Arc::clone(&lines);
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while matches!(from.read_until(b'\n', &mut line), Ok(count) if count > 0) {
            let text = String::from_utf8_lossy(&line).into_owned();
            if let Ok(mut into) = into.lock() {
                into.push(text);
            }
            line.clear();
        }
    });
    lines
}

fn joined(lines: &Lines) -> String {
    lines.lock().map(|lines| lines.concat()).unwrap_or_default()
}
