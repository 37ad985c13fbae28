//! `wan-shell`: lays a line between two network namespaces until it is told to end.

use std::io::{Write, stderr, stdout};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use wan::{Edge, Line};
use wan_shell::{End, Lines, MEMORY, Settings, Shell, Translation, Way, line};

/// How often it looks whether the devices are still there.
const LOOK: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Lays a line between two TAP devices, which it makes, until SIGTERM, Ctrl-C or the end of a pipe at its standard input.
/// Then it prints what happened as one line of JSON.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The first end, as NAMESPACE:DEVICE (of `ip netns`) or DEVICE.
    first: String,
    /// The second end.
    second: String,
    /// Both directions, for example delay=10ms,jitter=2ms,loss=1%/6,reorder=1%,duplicate=1%,rate=50Mbit,queue=256k,longest=1400.
    #[arg(long, default_value = "")]
    line: String,
    /// From the first end to the second one, if it is not like the other direction.
    #[arg(long)]
    there: Option<String>,
    /// From the second end to the first one.
    #[arg(long)]
    back: Option<String>,
    /// What the line becomes: AFTER:LINE for both directions, AFTER:there:LINE or AFTER:back:LINE for one. May be repeated.
    #[arg(long, value_name = "AFTER:[WAY:]LINE")]
    then: Vec<String>,
    /// A translator at the first end: KIND:INSIDE:OUTSIDE, with a kind of wan::Edge such as "home" or "symmetric, random".
    #[arg(long, value_name = "KIND:INSIDE:OUTSIDE")]
    nat: Option<String>,
    /// Of all that is left to chance; random if it is not given, and printed.
    #[arg(long)]
    seed: Option<u64>,
    /// MiB that may be under way in each direction.
    #[arg(long, default_value_t = MEMORY >> 20)]
    memory: usize,
    /// The devices' MTU.
    #[arg(long, default_value_t = 1500)]
    mtu: u16,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    // Before the threads begin, which inherit it.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?;
    let settings = args.settings()?;
    let shell = Shell::lay(&settings)?;
    writeln!(stderr(), "seed {}", settings.seed)?;
    writeln!(stderr(), "ready")?;
    wait(&shell, signals.as_fd())?;
    writeln!(stdout(), "{}", shell.stop()?.to_json())?;
    Ok(())
}

/// Returns when it is time to end.
fn wait(shell: &Shell, signals: BorrowedFd<'_>) -> anyhow::Result<()> {
    let stdin = std::io::stdin();
    // What is no pipe, /dev/null above all, has its end at the beginning.
    let is_pipe = FileType::from_raw_mode(fstat(&stdin)?.st_mode) == FileType::Fifo;
    while shell.is_running() {
        let mut fds = vec![PollFd::from_borrowed_fd(signals, PollFlags::IN)];
        if is_pipe {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
        }
        match poll(&mut fds, Some(&LOOK)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
        let spoke = fds.get(1).is_some_and(|stdin| !stdin.revents().is_empty());
        if spoke && rustix::io::read(&stdin, &mut [0_u8; 256][..])? == 0 {
            return Ok(());
        }
    }
    Ok(())
}

impl Args {
    fn settings(&self) -> anyhow::Result<Settings> {
        let of = |one: &Option<String>| line(one.as_ref().unwrap_or(&self.line));
        let mut lines = Lines { there: of(&self.there)?, back: of(&self.back)?, schedule: Vec::new() };
        for text in &self.then {
            lines.schedule.extend(later(text).with_context(|| format!("--then {text:?}"))?);
        }
        let seed = self.seed.map_or_else(getrandom::u64, Ok)?;
        let mut settings = Settings::new([end(&self.first), end(&self.second)], lines, seed);
        settings.translation = self.nat.as_deref().map(translation).transpose()?;
        (settings.memory, settings.mtu) = (self.memory << 20, self.mtu);
        ensure!(self.memory > 0, "a line needs memory");
        Ok(settings)
    }
}

fn end(text: &str) -> End {
    match text.split_once(':') {
        Some((namespace, device)) => End { namespace: Some(namespace.to_owned()), device: device.to_owned() },
        None => End { namespace: None, device: text.to_owned() },
    }
}

fn later(text: &str) -> anyhow::Result<Vec<(Duration, Way, Line)>> {
    let (after, rest) = text.split_once(':').context("no time")?;
    let after = wan_shell::time(after)?;
    let (ways, words) = match rest.split_once(':') {
        Some(("there", words)) => (&[Way::There][..], words),
        Some(("back", words)) => (&[Way::Back][..], words),
        Some(_) | None => (&[Way::There, Way::Back][..], rest),
    };
    let line = line(words)?;
    Ok(ways.iter().map(|way| (after, *way, line)).collect())
}

fn translation(text: &str) -> anyhow::Result<Translation> {
    let (rest, outside) = text.rsplit_once(':').context("KIND:INSIDE:OUTSIDE")?;
    let (kind, inside) = rest.rsplit_once(':').context("KIND:INSIDE:OUTSIDE")?;
    let edge = Edge::ALL.into_iter().find(|edge| edge.name() == kind);
    let edge = edge.with_context(|| format!("kinds are: {}", Edge::ALL.map(Edge::name).join("; ")))?;
    Ok(Translation { edge, inside: inside.parse()?, outside: outside.parse()? })
}
