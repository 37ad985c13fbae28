//! What a member does under load: how much arrives in each second, how soon it answers, how much memory it takes.

use std::fmt;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};

use crate::node::Node;
use crate::process::Process;
use crate::wait;

/// Between two questions.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// A stream of iperf3's that goes on until it is dropped.
pub struct Stream {
    client: Process,
    server: Process,
    taken: usize,
}

impl Stream {
    /// Starts one. `server` and `client` are commands in front of iperf3's, `options` are of its client.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(
        [from, to]: [&Node; 2],
        ip: &str,
        [client, server]: [&[&str]; 2],
        options: &[&str],
    ) -> anyhow::Result<Self> {
        let mut server = to.spawn(&[server, &["iperf3", "-s", "-1", "-i", "1", "-f", "k", "--forceflush"]].concat())?;
        server.wait_for_line(Duration::from_secs(10), |line| line.contains("Server listening"))?;
        let client = from.spawn(&[client, &["iperf3", "-c", ip, "-t", "600"], options].concat())?;
        server.wait_for_line(Duration::from_secs(10), |line| line.contains("bits/sec"))?;
        Ok(Self { client, server, taken: 0 })
    }

    /// What arrived in each whole second since the last call, in bits.
    ///
    /// # Errors
    /// It has ended.
    pub fn take(&mut self) -> anyhow::Result<Vec<f64>> {
        let said = self.server.stdout();
        let rate = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let unit = words.iter().position(|word| *word == "Kbits/sec")?;
            words.get(unit.checked_sub(1)?)?.parse::<f64>().ok().map(|kbits| kbits * 1e3)
        };
        let rates: Vec<f64> = said.lines().filter_map(rate).collect();
        if !self.client.is_running() || !self.server.is_running() {
            return Err(anyhow!("the stream has ended\n{said}\n{}", self.client.said()));
        }
        let new = rates.get(self.taken..).unwrap_or_default().to_vec();
        self.taken = rates.len();
        Ok(new)
    }

    /// The server and the client.
    pub fn into_processes(self) -> Vec<Process> {
        vec![self.server, self.client]
    }
}

/// How long a daemon took to answer, each time that it was asked.
#[derive(Default)]
pub struct Answers(Vec<Duration>);

impl Answers {
    /// Asks a daemon for its status, again and again, while something is done. `before` is a command in front of `overlay`.
    ///
    /// # Errors
    /// It does not answer within a minute, or what was done failed.
    pub fn during<T>(
        node: &Node,
        before: &[&str],
        done: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<(Self, T)> {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let mut answers = Self::default();
                while !over.load(Ordering::Relaxed) {
                    let began = wait::now();
                    node.overlay_by(before, &["status", "--json"])?;
                    answers.0.push(began.elapsed());
                    wait::pause(ASK_EVERY);
                }
                Ok::<_, anyhow::Error>(answers)
            });
            let result = done();
            over.store(true, Ordering::Relaxed);
            let answers = asking.join().map_err(|_| anyhow!("a thread of the test's panicked"))?;
            Ok((answers.context("asking for the status")?, result?))
        })
    }

    /// The longest.
    pub fn worst(&self) -> Duration {
        self.0.iter().max().copied().unwrap_or_default()
    }

    /// Of all, in order of length, the one in the middle.
    pub fn median(&self) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }
}

impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (median, worst) = (self.median().as_millis(), self.worst().as_millis());
        write!(f, "{} answers, after {median} ms in the median and {worst} at worst", self.0.len())
    }
}

/// What of a process's memory is resident, in KiB.
#[derive(Clone, Copy, Debug)]
pub struct Resident {
    /// What it has written to.
    pub own: u64,
    /// The program itself, and libraries: as much of them as has run so far.
    pub code: u64,
}

impl Resident {
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let number = |field: &str| {
            let line = status.lines().find(|line| line.starts_with(field)).context("it has ended")?;
            Ok::<u64, anyhow::Error>(line.split_whitespace().nth(1).context("NAME: NUMBER kB")?.parse()?)
        };
        Ok(Self { own: number("RssAnon:")?, code: number("RssFile:")? })
    }

    /// Both.
    pub fn all(self) -> u64 {
        self.own + self.code
    }
}

impl fmt::Display for Resident {
    #[expect(clippy::cast_precision_loss, reason = "some megabytes")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |kib: u64| kib as f64 / 1024.0;
        let (all, own, code) = (mib(self.all()), mib(self.own), mib(self.code));
        write!(f, "{all:.1} MiB resident ({own:.1} own, {code:.1} code)")
    }
}

/// Rates as a line of Mbit/s.
pub fn megabits(rates: &[f64]) -> String {
    let words: Vec<String> = rates.iter().map(|rate| format!("{:.0}", rate / 1e6)).collect();
    format!("{} Mbit/s", words.join(" "))
}

/// Their mean.
#[expect(clippy::cast_precision_loss, reason = "some seconds")]
pub fn mean(rates: &[f64]) -> f64 {
    rates.iter().sum::<f64>() / rates.len().max(1) as f64
}
