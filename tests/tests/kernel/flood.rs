//! A stranger on the same link sends to a member as fast as it can. What runs goes on, and what begins comes about.
//!
//! Both are on one machine here, so that the flood takes processors as well as the way. Whether the status is told shows that the
//! control thread has its turn: the daemon itself waits for it for five seconds at most.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddrV4;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::capture::{self, Capture};
use e2e::load::{Answers, Resident, Stream, mean, megabits};
use e2e::{Lab, Node, Process, peer, say, wait};

/// A last resort, not a promise: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);
/// How long nothing disturbs, and how long each flood lasts at least.
const CALM: Duration = Duration::from_secs(4);
const FLOOD: Duration = Duration::from_secs(5);
/// So much more memory may be resident after each flood than before all of them, in KiB: buffers for whole trains of datagrams
/// and a full queue of control's are touched for the first time, and heaps do not give everything back. A datagram each would be
/// a gigabyte.
const GROWTH: u64 = 12 * 1024;

/// The kinds of floods, and as what some of each must be counted: under one name of each list.
const KINDS: [(&str, &[&[&str]]); 4] = [
    ("garbage", &[&["node.not-a-message"]]),
    ("forged", &[&["node.forged"], &["tunnel.forged"]]),
    ("replay", &[&["node.replayed", "node.too-old"]]),
    ("inits", &[&["tunnel.wrong-mac"]]),
];

#[test]
fn a_flood_of_garbage_forgeries_replays_and_handshakes_stops_nothing() -> anyhow::Result<()> {
    let Some(mut scene) = Scene::new()? else { return Ok(()) };
    let mut stream = Stream::start([&scene.a, &scene.b], &scene.b_ip, [&[], &[]], &["-C", "cubic"])?;
    wait::pause(CALM);
    let calm = stream.take()?;
    let memory = scene.b.resident()?;
    say(&format!("before: {}; {memory}", megabits(&calm)));
    for (kind, counted) in KINDS {
        let seen = scene.flood(kind, &mut stream).with_context(|| kind.to_owned())?;
        seen.say(kind, mean(&calm));
        let goes_on = seen.delivered.windows(2).all(|seconds| seconds.iter().sum::<f64>() > 0.0);
        ensure!(goes_on, "{kind}: the stream stood still for two seconds: {:?}", seen.delivered);
        ensure!(seen.sent > 50_000, "{kind}: {} datagrams are no flood", seen.sent);
        ensure!(seen.resident.all() < memory.all() + GROWTH, "{kind}: {}, before {memory}", seen.resident);
        for names in counted {
            let some = names.iter().any(|name| seen.drops.contains_key(*name));
            ensure!(some, "{kind}: none is {names:?}: {:?}", seen.drops);
        }
    }
    wait::pause(CALM);
    say(&format!("after: {}", megabits(&stream.take()?)));
    Ok(())
}

/// `a` sends a stream to `b`, which `c`, no member, floods. `d` is a member that comes and goes.
struct Scene {
    a: Node,
    b: Node,
    c: Node,
    d: Node,
    b_ip: String,
    target: SocketAddrV4,
    /// Of the session in which the stream is.
    index: String,
    capture: String,
    lab: Lab,
}

/// What happened during a flood.
struct Seen {
    delivered: Vec<f64>,
    sent: u64,
    seconds: f64,
    /// How long a member took to start, join and reach the one that is flooded.
    began: Duration,
    answers: Answers,
    resident: Resident,
    path: String,
    drops: BTreeMap<String, u64>,
}

impl Scene {
    fn new() -> anyhow::Result<Option<Self>> {
        let Some(mut lab) = e2e::lab("flood")? else { return Ok(None) };
        let (mut a, mut b, c, mut d) = (lab.public("a")?, lab.public("b")?, lab.public("c")?, lab.public("d")?);
        a.create_lab(&["--hostname", "a"])?;
        let capture = lab.dir().join("handshakes.pcap");
        let recording = lab.capture(&capture)?;
        let b_ip = b.join_lab(&a, &["--hostname", "b"])?.ip()?.to_string();
        d.join_lab(&a, &["--hostname", "d"])?;
        a.ping_once(&b_ip)?;
        d.ping_once(&b_ip)?;
        let endpoint = peer(&a, "b")?["endpoint"].as_str().context("a has a way to b")?.to_owned();
        let target = endpoint.parse().context(endpoint)?;
        // Either of two members may have begun; without a recorded handshake there are the random ones.
        for _ in 0..5 {
            if !capture::inits(&capture, target)?.is_empty() {
                break;
            }
            d.kill();
            d.start_ready(&["join", "lab", "--dns", "file"])?;
            d.ping_once(&b_ip)?;
        }
        recording.interrupt(Duration::from_secs(10))?;
        let index = index(&capture, a.underlay(), target)?;
        let capture = capture.to_str().context("a path of the laboratory is text")?.to_owned();
        Ok(Some(Self { a, b, c, d, b_ip, target, index, capture, lab }))
    }

    /// Floods, and meanwhile has a member begin anew.
    fn flood(&mut self, kind: &str, stream: &mut Stream) -> anyhow::Result<Seen> {
        stream.take()?;
        let drops = drops(&self.b)?;
        let flood = self.start(kind)?;
        let start = wait::now();
        let (d, b_ip) = (&mut self.d, &self.b_ip);
        let (answers, began) = Answers::during(&self.b, &[], || {
            d.kill();
            d.start_ready(&["join", "lab", "--dns", "file"])?;
            wait::until_ok("a new handshake", LIMIT, || d.ping_once(b_ip))?;
            let began = start.elapsed();
            wait::pause(FLOOD.saturating_sub(began));
            Ok(began)
        })?;
        let path = peer(&self.d, "b")?["path"].as_str().unwrap_or_default().to_owned();
        let delivered = stream.take()?;
        let seconds = start.elapsed().as_secs_f64();
        let sent = flood.stdout().lines().filter_map(|line| line.strip_prefix("sent ")?.parse().ok()).max();
        let sent = sent.filter(|sent| *sent > 0).with_context(|| flood.said())?;
        drop(flood);
        let mut after = self::drops(&self.b)?;
        after.iter_mut().for_each(|(name, count)| *count -= drops.get(name).unwrap_or(&0));
        after.retain(|_, count| *count > 0);
        Ok(Seen { delivered, sent, seconds, began, answers, resident: self.b.resident()?, path, drops: after })
    }

    fn start(&self, kind: &str) -> anyhow::Result<Process> {
        let target = self.target.to_string();
        let flood = [env!("CARGO_BIN_EXE_flood"), kind, &target];
        match kind {
            "forged" => self.c.spawn(&[&flood[..], &[&self.index]].concat()),
            "inits" => self.c.spawn(&[&flood[..], &[&self.capture]].concat()),
            // Only who sees what passes can send it again.
            "replay" => self.lab.spawn(&[&flood[..], &["br0"]].concat()),
            _ => self.c.spawn(&flood),
        }
    }
}

impl Seen {
    #[expect(clippy::cast_precision_loss, reason = "millions")]
    fn say(&self, kind: &str, calm: f64) {
        let rate = self.sent as f64 / self.seconds / 1e3;
        let ratio = mean(&self.delivered) / calm;
        say(&format!("{kind}: {rate:.0} thousand datagrams/s; {}, {ratio:.2} of before", megabits(&self.delivered)));
        say(&format!(
            "    {}; a restarted member had joined and was answered after {:.1} s, by {}",
            self.answers,
            self.began.as_secs_f64(),
            self.path
        ));
        say(&format!("    {}; dropped {:?}", self.resident, self.drops));
    }
}

fn drops(node: &Node) -> anyhow::Result<BTreeMap<String, u64>> {
    Ok(serde_json::from_value(node.status()?["drops"].clone())?)
}

/// The receiver index of the newest datagram that was recorded from there to the target, in hexadecimal.
fn index(capture: &Path, from: &str, target: SocketAddrV4) -> anyhow::Result<String> {
    let mut capture = Capture::read(fs::File::open(capture)?)?;
    let mut newest = None;
    while let Some(datagram) = capture.read_next()? {
        if datagram.to == target && datagram.from.ip().to_string() == from && datagram.payload.first() == Some(&4) {
            newest = Some(datagram.payload[4..8].iter().map(|byte| format!("{byte:02x}")).collect());
        }
    }
    newest.context("nothing of a session was recorded")
}
