//! Programs that know nothing of the overlay run over it: an MPI job and a BitTorrent swarm, of eight members behind four routers.
//!
//! `cargo xtask demos` installs the programs and runs these tests; they say what they saw.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{Member, Process, Route, Sites, say, wait};

/// A last resort, not a promise: the machine may be busy with other things.
const LIMIT: Duration = Duration::from_secs(120);

/// What a cluster's administrator sets where machines have several networks: both the launcher and the ranks use the overlay's device.
/// Shared memory is no way between ranks, though all of these machines are one kernel; and they share two processors or so, which is
/// why ranks that wait let others run.
const SETTINGS: [(&str, &str); 6] = [
    ("orte_keep_fqdn_hostnames", "true"),
    ("oob_tcp_if_include", "ov-lab"),
    ("btl_tcp_if_include", "ov-lab"),
    ("btl", "tcp,self"),
    ("pml", "ob1"),
    ("mpi_yield_when_idle", "1"),
];

/// The program, and how often and how much it exchanges.
struct Job {
    program: PathBuf,
    hosts: PathBuf,
    kib: u64,
    rounds: u64,
}

impl Job {
    fn new(sites: &Sites, kib: u64, rounds: u64) -> anyhow::Result<Self> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/alltoall.c");
        let (program, hosts) = (sites.shared().join("alltoall"), sites.shared().join("hosts"));
        let compiled = Command::new("mpicc.openmpi").arg("-O2").arg("-o").arg(&program).arg(source).status();
        ensure!(compiled.context("Failed to run mpicc (libopenmpi-dev)")?.success(), "mpicc failed");
        let names: String = sites.members.iter().map(|member| member.full_name() + " slots=1\n").collect();
        fs::write(&hosts, names)?;
        Ok(Self { program, hosts, kib, rounds })
    }

    /// Started on the first member, as a user of a cluster does.
    fn start(&self, sites: &Sites) -> anyhow::Result<Process> {
        let (program, hosts) = (text(&self.program)?, text(&self.hosts)?);
        let ranks = sites.members.len().to_string();
        let (kib, rounds) = (self.kib.to_string(), self.rounds.to_string());
        let mut command = vec!["mpirun.openmpi", "--allow-run-as-root", "--hostfile", hosts, "-n", &ranks];
        for (name, value) in SETTINGS {
            command.extend(["--mca", name, value]);
        }
        command.extend([program, &kib, &rounds]);
        sites.members[0].spawn(&command)
    }

    /// What must cross from machine to machine, at least.
    fn bytes(&self, ranks: u64) -> u64 {
        self.rounds * ranks * (ranks - 1) * self.kib * 1024
    }
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path of the laboratory is text")
}

/// How many pairs go which way.
fn kinds(ways: &[Route]) -> String {
    let mut counts = BTreeMap::new();
    for way in ways {
        *counts.entry(way.kind.as_str()).or_insert(0) += 1;
    }
    let each: Vec<String> = counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    format!("of {} pairs {}", ways.len(), each.join(", "))
}

/// The seconds of each round, as the job says them.
fn rounds(said: &str) -> Vec<f64> {
    let lines = said.lines().filter(|line| line.starts_with("round "));
    lines.filter_map(|line| line.split_whitespace().nth(3)?.parse().ok()).collect()
}

/// Each rank ran on a machine of its own, and the job was right to its end.
fn check_job(sites: &Sites, job: &Job, said: &str) -> anyhow::Result<()> {
    for member in &sites.members {
        let on =
            said.lines().filter(|line| line.starts_with("rank ") && line.ends_with(&format!(" on {}", member.name)));
        ensure!(on.count() == 1, "not one rank on {}: {said}", member.name);
    }
    let last = format!("all {} rounds of {} ranks are right", job.rounds, sites.members.len());
    ensure!(said.contains(&last), "{said}");
    Ok(())
}

#[test]
#[ignore = "needs Open MPI and an SSH server; cargo xtask demos"]
fn an_mpi_job_runs_over_eight_members() -> anyhow::Result<()> {
    let Some(sites) = Sites::new("mpi", 1)? else { return Ok(()) };
    sites.check_apart()?;
    let job = Job::new(&sites, 1024, 20)?;
    let (before, began) = (sites.sent()?, wait::now());
    let said = job.start(&sites)?.finish(LIMIT)?.ok()?;
    let (took, sent) = (began.elapsed(), sites.sent()? - before);
    check_job(&sites, &job, &said)?;
    let payload = job.bytes(8);
    ensure!(sent > payload, "only {sent} bytes went over the overlay, and {payload} were exchanged");
    say(&said);
    say(&format!(
        "MPI: {:.1} s, {} MiB exchanged, {} MiB sent over the overlay's devices",
        took.as_secs_f64(),
        payload >> 20,
        sent >> 20
    ));
    say(&kinds(&sites.wait_ways(LIMIT)?));
    Ok(())
}

#[test]
#[ignore = "needs Open MPI and an SSH server; cargo xtask demos"]
fn an_mpi_job_goes_on_when_its_relay_is_killed() -> anyhow::Result<()> {
    let Some(mut sites) = Sites::new("mpi-killed", 3)? else { return Ok(()) };
    // A view grows when new members have been there for a while, and who is in it carries.
    wait::until_ok("three voters", LIMIT * 3, || {
        let view = e2e::view_members(&sites.open[0].status()?);
        wait::expect(view.len() >= 3, || format!("the voters are {view:?}"))
    })?;
    sites.wait_ways(LIMIT)?;
    let job = Job::new(&sites, 256, 150)?;
    let mut running = job.start(&sites)?;
    running.wait_for_line(LIMIT, |line| line.starts_with("round 10 "))?;
    let ways = sites.ways()?;
    let (number, id, pairs) = busiest(&sites, &ways)?;
    let before = rounds(&running.stdout()).len();
    sites.open[number].kill();
    let said = running.finish(LIMIT * 3)?.ok()?;
    check_job(&sites, &job, &said)?;
    let rounds = rounds(&said);
    let mut sorted = rounds.clone();
    sorted.sort_by(f64::total_cmp);
    say(&format!(
        "MPI: in round {before} of {} o{number} was killed, which carried for {pairs} pairs ({}); the longest round took {:.1} s, the \
         median {:.2} s",
        job.rounds,
        kinds(&ways),
        sorted.last().context("no rounds")?,
        sorted[sorted.len() / 2]
    ));
    let ways = sites.wait_ways(LIMIT)?;
    ensure!(!carriers(&ways).contains_key(id.as_str()), "still by way of the one that is gone: {ways:?}");
    say(&kinds(&ways));
    Ok(())
}

/// Who carries for how many pairs, by identity.
fn carriers(ways: &[Route]) -> BTreeMap<&str, usize> {
    let mut carriers = BTreeMap::new();
    for way in ways.iter().filter(|way| way.kind == "relay") {
        *carriers.entry(way.endpoint.as_str()).or_insert(0) += 1;
    }
    carriers
}

/// Which of those in the open carries for most pairs, its identity, and for how many.
fn busiest(sites: &Sites, ways: &[Route]) -> anyhow::Result<(usize, String, usize)> {
    let carriers = carriers(ways);
    let mut found = Vec::new();
    for (n, node) in sites.open.iter().enumerate() {
        let id = node.whole_status()?["peer_id"].as_str().context("no peer id")?.to_owned();
        let pairs = carriers.get(id.as_str()).copied().unwrap_or(0);
        found.push((n, id, pairs));
    }
    found
        .into_iter()
        .max_by_key(|(_, _, pairs)| *pairs)
        .filter(|(_, _, pairs)| *pairs > 0)
        .with_context(|| format!("{carriers:?}"))
}

/// A tracker on the last member, a seeder on the first, and the file that is spread.
struct Swarm {
    file: PathBuf,
    torrent: PathBuf,
    hook: String,
    _tracker: Process,
}

impl Swarm {
    fn new(sites: &Sites, mib: usize) -> anyhow::Result<Self> {
        let dir = sites.shared().join("swarm");
        fs::create_dir_all(&dir)?;
        let (file, torrent) = (dir.join("file"), dir.join("file.torrent"));
        let (first, last) = (&sites.members[0], sites.members.last().context("there are members")?);
        first.node.run(&[
            "dd",
            "if=/dev/urandom",
            &format!("of={}", text(&file)?),
            "bs=1M",
            &format!("count={mib}"),
        ])?;
        let announce = format!("http://{}:6969/announce", last.full_name());
        first.node.run(&["mktorrent", "-a", &announce, "-o", text(&torrent)?, text(&file)?])?;
        let tracker = tracker(last, &dir, &torrent)?;
        // Who goes on as a seeder says nothing when it has all; it calls this.
        let hook = dir.join("complete");
        fs::write(&hook, "#!/bin/sh\ntouch \"$3.complete\"\n")?;
        first.node.run(&["chmod", "a+x", text(&hook)?])?;
        let hook = format!("--on-bt-download-complete={}", text(&hook)?);
        Ok(Self { file, torrent, hook, _tracker: tracker })
    }

    /// Downloads to a directory, or seeds what is there, until the process ends.
    fn take_part(&self, member: &Member) -> anyhow::Result<Process> {
        let dir = member.home();
        let listen = ["--listen-port=6881", "--enable-dht=false", "--bt-enable-lpd=false", "--seed-ratio=0"];
        let look = ["--console-log-level=notice", "--show-console-readout=false", "--summary-interval=0", "--no-conf"];
        let place = ["--allow-overwrite=true", "--check-integrity=true", &self.hook, "--dir"];
        let command = [&["aria2c"][..], &listen, &look, &place, &[text(&dir)?, text(&self.torrent)?]].concat();
        member.spawn(&command)
    }
}

/// Debian's tracker serves the torrents of a list. It gives up root, and sees nothing but a directory.
fn tracker(member: &Member, dir: &Path, torrent: &Path) -> anyhow::Result<Process> {
    let shown = member.node.run(&["aria2c", "--no-conf", "-S", text(torrent)?])?;
    let hash = shown.lines().find_map(|line| line.strip_prefix("Info Hash: ")).with_context(|| shown.clone())?;
    let root = dir.join("tracker");
    fs::create_dir_all(&root)?;
    fs::write(root.join("torrents"), format!("{hash}\n"))?;
    let tracker =
        member.spawn(&["opentracker", "-i", &member.ip, "-p", "6969", "-d", text(&root)?, "-w", "torrents"])?;
    let listens = || member.node.run(&["sh", "-c", "ss -Hltn 'sport = :6969' | grep -q ."]);
    wait::until_ok("the tracker to listen", Duration::from_secs(10), listens).context(tracker.said())?;
    Ok(tracker)
}

#[test]
#[ignore = "needs aria2, mktorrent and opentracker; cargo xtask demos"]
fn a_bittorrent_swarm_spreads_a_file_to_eight_members() -> anyhow::Result<()> {
    const MIB: u64 = 32;
    let Some(sites) = Sites::new("swarm", 1)? else { return Ok(()) };
    let swarm = Swarm::new(&sites, 32)?;
    let (seeder, leechers) = sites.members.split_first().context("there are members")?;
    fs::copy(&swarm.file, seeder.home().join("file"))?;
    let (before, began) = (sites.sent()?, wait::now());
    let mut seeding = swarm.take_part(seeder)?;
    let _leeching = leechers.iter().map(|member| swarm.take_part(member)).collect::<anyhow::Result<Vec<_>>>()?;
    for member in leechers {
        let complete = member.home().join("file.complete");
        wait::until(&format!("the file on {}", member.name), LIMIT, || complete.exists().then_some(()))?;
        say(&format!("BitTorrent: {} has it after {:.1} s at most", member.name, began.elapsed().as_secs_f64()));
    }
    let ways = sites.ways()?;
    ensure!(seeding.is_running(), "{}", seeding.said());
    let wanted = fs::read(&swarm.file)?;
    for member in leechers {
        ensure!(fs::read(member.home().join("file"))? == wanted, "{} has another file", member.name);
    }
    let (sent, payload) = (sites.sent()? - before, leechers.len() as u64 * MIB);
    ensure!(sent > payload << 20, "only {sent} bytes went over the overlay");
    say(&format!(
        "BitTorrent: {payload} MiB to {} leechers, {} MiB sent over the overlay's devices",
        leechers.len(),
        sent >> 20
    ));
    say(&kinds(&ways));
    Ok(())
}
