//! The watcher on the wire: who sends from which address, and who is reached at it.
//!
//! What counts is not what stands on a TAP: the kernel of a machine whose daemon is stopped keeps the address, and goes on
//! sending into a queue that nobody reads. What counts is what *crosses the overlay*. So on every machine a post sends,
//! several times a second, a datagram from each address that the kernel has there to each address of the range, and says in
//! it which machine it is, which addresses it means, and when it was sent. A post that receives one knows two things: at
//! some moment between sending and now the sender was believed to be the user of the source address, and the machine it
//! came to answered for the destination. That is all a MAC address could tell, and more: between a TAP and the overlay every
//! remote machine has the gateway's MAC, so frames on a TAP do not say where they come from; the datagram does.
//!
//! Beside that, each daemon is asked twice a second over its control socket (what `overlay status --json` prints; a process
//! for each question would cost more than the namespaces) which addresses it holds, and for how long. What it said then
//! binds it, and everybody else, to that end, also if it is killed, stopped or cut off the moment after.
//!
//! [`crate::trace`] judges. The posts' sockets are in the machines' namespaces; the clock is one.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use crate::node::Node;
use crate::trace::{Holding, Release, Trace, Use, Verdict};
use crate::wait;

/// Where posts listen.
const PORT: u16 = 17_017;
/// Between two rounds of datagrams.
const ROUND: Duration = Duration::from_millis(200);
/// Between two questions to a daemon, and how long it may take to answer.
const QUESTION: Duration = Duration::from_millis(500);
const ANSWER: Duration = Duration::from_secs(2);
/// How long a post waits for a datagram before it looks at the time.
const LISTEN: Duration = Duration::from_millis(20);

/// Posts on all machines. They end with the value.
pub struct Watcher {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<anyhow::Result<()>>>,
}

struct Shared {
    begin: Instant,
    end: AtomicBool,
    trace: Mutex<Trace>,
    range: Vec<Ipv4Addr>,
}

struct Post {
    shared: Arc<Shared>,
    node: usize,
    namespace: String,
    state: PathBuf,
}

impl Watcher {
    /// Watches `range` on these machines; `lease` is for how long an address is leased there.
    ///
    /// # Errors
    /// A namespace cannot be entered.
    pub fn start(nodes: &[Node], range: Vec<Ipv4Addr>, lease: Duration) -> anyhow::Result<Self> {
        let trace = Mutex::new(Trace { lease, ..Trace::default() });
        let shared = Arc::new(Shared { begin: wait::now(), end: AtomicBool::new(false), trace, range });
        let mut watcher = Self { shared, threads: Vec::new() };
        for (node, machine) in nodes.iter().enumerate() {
            let post = || Post {
                shared: Arc::clone(&watcher.shared),
                node,
                namespace: machine.namespace().to_owned(),
                state: machine.state(),
            };
            let (wire, questions) = (post(), post());
            watcher.threads.push(thread::Builder::new().name(format!("post-{node}")).spawn(move || wire.watch())?);
            watcher.threads.push(thread::Builder::new().name(format!("ask-{node}")).spawn(move || {
                questions.ask();
                Ok(())
            })?);
        }
        Ok(watcher)
    }

    /// The watcher's clock.
    pub fn time(&self) -> Duration {
        self.shared.time()
    }

    /// Who said within the last seconds that it holds an address.
    pub fn holders(&self) -> Vec<usize> {
        let since = self.time().saturating_sub(QUESTION * 2 + ANSWER);
        let mut holders = Vec::new();
        self.shared.note(|trace| {
            let recent = trace.holdings.iter().rev().take_while(|holding| holding.from >= since);
            holders = recent.map(|holding| holding.node).collect();
        });
        holders.sort_unstable();
        holders.dedup();
        holders
    }

    /// This machine is about to give back all it holds. To be said before it does.
    pub fn release_begins(&self, node: usize) {
        let from = self.time();
        self.shared.note(|trace| trace.releases.push(Release { node, from, to: Duration::MAX }));
    }

    /// This machine is about to come back. To be said before it does.
    pub fn release_ends(&self, node: usize) {
        let now = self.time();
        self.shared.note(|trace| {
            if let Some(release) = trace.releases.iter_mut().rev().find(|release| release.node == node) {
                release.to = release.to.min(now);
            }
        });
    }

    /// What was seen so far, judged.
    pub fn verdict(&self) -> Verdict {
        let trace = self.shared.trace.lock().map(|trace| trace.clone()).unwrap_or_default();
        trace.verdict()
    }

    /// Ends watching and judges.
    ///
    /// # Errors
    /// A post was not able to watch.
    pub fn finish(mut self) -> anyhow::Result<Verdict> {
        self.shared.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow!("a post panicked"))??;
        }
        Ok(self.verdict())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn time(&self) -> Duration {
        wait::now().saturating_duration_since(self.begin)
    }

    fn is_over(&self) -> bool {
        self.end.load(Ordering::Relaxed)
    }

    fn note(&self, note: impl FnOnce(&mut Trace)) {
        if let Ok(mut trace) = self.trace.lock() {
            note(&mut trace);
        }
    }
}

impl Post {
    /// Sends and receives until the end. This thread never leaves the machine's namespace.
    fn watch(&self) -> anyhow::Result<()> {
        enter(&self.namespace)?;
        let inbox = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).context("Failed to open a post")?;
        inbox.set_read_timeout(Some(LISTEN))?;
        let mut next = Duration::ZERO;
        let mut buffer = [0; 256];
        while !self.shared.is_over() {
            if self.shared.time() >= next {
                self.send_round();
                next = self.shared.time() + ROUND;
            }
            if let Ok((length, from)) = inbox.recv_from(&mut buffer) {
                self.received(&buffer[..length], from.ip());
            }
        }
        Ok(())
    }

    /// Which addresses the kernel has here is tried out: it lets nobody bind to another.
    fn send_round(&self) {
        let sockets: Vec<(Ipv4Addr, UdpSocket)> =
            self.shared.range.iter().filter_map(|ip| Some((*ip, UdpSocket::bind((*ip, 0)).ok()?))).collect();
        for (from, socket) in &sockets {
            // A full queue towards a daemon that is stopped must not stop the post.
            if socket.set_nonblocking(true).is_err() {
                continue;
            }
            for to in self.shared.range.iter().filter(|to| sockets.iter().all(|(local, _)| local != *to)) {
                let said = format!("{} {from} {to} {}", self.node, self.shared.time().as_micros());
                let _ = socket.send_to(said.as_bytes(), (*to, PORT));
            }
        }
    }

    fn received(&self, datagram: &[u8], source: IpAddr) {
        let to = self.shared.time();
        let Some((node, from_ip, to_ip, sent)) = parse(datagram) else { return };
        if IpAddr::V4(from_ip) != source {
            return;
        }
        self.shared.note(|trace| {
            trace.uses.push(Use { ip: from_ip, node, from: sent, to });
            trace.uses.push(Use { ip: to_ip, node: self.node, from: sent, to });
        });
    }

    /// Asks the daemon until the end; one that is not there has nothing to say.
    fn ask(&self) {
        while !self.shared.is_over() {
            let before = self.shared.time();
            let answer = status(&self.state);
            let after = self.shared.time();
            for (ip, remaining, token) in answer.iter().flat_map(held) {
                // It was said after the question was put: the end is not before this.
                let (node, from, until) = (self.node, after, before + remaining);
                self.shared.note(|trace| trace.holdings.push(Holding { ip, node, from, until, token }));
            }
            wait::pause(QUESTION);
        }
    }
}

/// Moves this thread, and no other, into a network namespace.
fn enter(namespace: &str) -> anyhow::Result<()> {
    let path = Path::new("/run/netns").join(namespace);
    let file = File::open(&path).with_context(|| format!("Failed to open {}", path.display()))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("Failed to enter {namespace}"))
}

fn parse(datagram: &[u8]) -> Option<(usize, Ipv4Addr, Ipv4Addr, Duration)> {
    let text = std::str::from_utf8(datagram).ok()?;
    let words: Vec<&str> = text.split(' ').collect();
    let [node, from, to, sent] = words[..] else { return None };
    Some((node.parse().ok()?, from.parse().ok()?, to.parse().ok()?, Duration::from_micros(sent.parse().ok()?)))
}

/// One question over the control socket.
fn status(state: &Path) -> anyhow::Result<Value> {
    let mut stream = UnixStream::connect(state.join("control.sock"))?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    stream.write_all(b"{\"status\":{\"namespace\":null}}\n")?;
    for line in BufReader::new(stream).lines() {
        let answer: Value = serde_json::from_str(&line?)?;
        ensure!(answer.get("failed").is_none(), "{answer}");
        if let Some(done) = answer.get("done") {
            return Ok(done.clone());
        }
    }
    Err(anyhow!("the daemon ended"))
}

/// What a status says is held: address, for how long, token.
fn held(status: &Value) -> Vec<(Ipv4Addr, Duration, String)> {
    let namespaces = status["namespaces"].as_array().map(Vec::as_slice).unwrap_or_default();
    let hosts = namespaces.iter().filter_map(|one| one["hosts"].as_array()).flatten();
    let one = |host: &Value| {
        let remaining = Duration::from_secs(host["remaining_s"].as_u64()?);
        Some((host["ip"].as_str()?.parse().ok()?, remaining, host["token"].as_str()?.to_owned()))
    };
    hosts.filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_tells_what_is_held() {
        let status = serde_json::json!({"namespaces": [{"hosts": [
            {"ip": "10.99.0.2", "mac": "-", "remaining_s": 17, "token": "0.3.1"}, {"ip": "nonsense"}]}, {"hosts": null}]});
        let expected = vec![(Ipv4Addr::new(10, 99, 0, 2), Duration::from_secs(17), "0.3.1".to_owned())];
        assert_eq!(held(&status), expected);
    }
}
