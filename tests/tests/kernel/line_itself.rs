//! The laboratory's lines are judged first: what they are asked to do to packets is what happens to them, and nothing else.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{Direction, Lines, Node, Stretch, counts, say, wait};
use wan::{Line, Loss};

const LIMIT: Duration = Duration::from_secs(30);
const PORT: u16 = 5000;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Milliseconds of each answered echo.
fn round_trips(report: &str) -> Vec<f64> {
    report.split("time=").skip(1).filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).collect()
}

/// Sends so many numbered datagrams one millisecond apart, and the numbers as they arrive.
fn numbered(stretch: &Stretch, datagrams: u32) -> anyhow::Result<Vec<u32>> {
    let (a, b): (Ipv4Addr, Ipv4Addr) = (stretch.a.underlay().parse()?, stretch.b.underlay().parse()?);
    let receiver = stretch.b.inside(move || Ok(UdpSocket::bind((b, PORT))?))?;
    let sender = stretch.a.inside(move || Ok(UdpSocket::bind((a, PORT))?))?;
    receiver.set_read_timeout(Some(ms(500)))?;
    // At once: what the socket can hold unread is less than that.
    let receiving = thread::spawn(move || {
        let mut datagram = [0; 4];
        let next = || receiver.recv_from(&mut datagram).ok().map(|_| u32::from_be_bytes(datagram));
        std::iter::from_fn(next).collect::<Vec<_>>()
    });
    for number in 0..datagrams {
        sender.send_to(&number.to_be_bytes(), (b, PORT))?;
        wait::pause(ms(1));
    }
    receiving.join().ok().context("the receiver panicked")
}

/// Octets that no mistake leaves as they are.
fn content(octets: usize) -> Vec<u8> {
    (0..octets).map(|n| (n * 31 % 65_521 % 251) as u8).collect()
}

/// Sends a stream from one machine to the other; what arrives must be what was sent.
pub(crate) fn transfer(from: &Node, to: &Node, ip: &str, octets: usize) -> anyhow::Result<()> {
    let ip: Ipv4Addr = ip.parse()?;
    let listener = to.inside(move || Ok(TcpListener::bind((ip, PORT))?))?;
    let sending = from.begin_inside(move || {
        let mut stream = TcpStream::connect_timeout(&(ip, PORT).into(), LIMIT)?;
        Ok(stream.write_all(&content(octets))?)
    })?;
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut arrived = Vec::new();
    stream.read_to_end(&mut arrived)?;
    sending.join().ok().context("the sender panicked")??;
    ensure!(arrived == content(octets), "{} octets arrived, or others than were sent", arrived.len());
    Ok(())
}

#[test]
fn a_round_trip_takes_what_was_asked_for() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("delay")? else { return Ok(()) };
    let mut lines = Lines::both(Line { delay: ms(15), ..Line::GOOD });
    lines.there.delay = ms(25);
    let stretch = lab.stretch(["a", "b"], lines, 1)?;
    let times = round_trips(&stretch.a.run(&["ping", "-c", "20", "-i", "0.02", stretch.b.underlay()])?);
    ensure!(times.len() == 20, "{times:?}");
    let quickest = times.iter().copied().fold(f64::MAX, f64::min);
    // Never before its time. How long after it depends on how busy the machine is.
    ensure!((40.0..80.0).contains(&quickest), "{times:?}");
    let report = stretch.line.stop()?;
    say(&format!("{quickest} ms; {}", report.to_json()));
    ensure!(report.there.packets == report.there.delivered && report.there.missed == 0, "{}", report.to_json());
    Ok(())
}

#[test]
fn so_much_is_lost_as_was_asked_for() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("loss")? else { return Ok(()) };
    let mut lines = Lines::far(ms(2), 0);
    lines.there.loss = Loss::independent(100_000);
    let stretch = lab.stretch(["a", "b"], lines, 7)?;
    let pinged = stretch.a.try_run(&["ping", "-q", "-c", "1000", "-i", "0.002", "-W", "1", stretch.b.underlay()])?;
    let (sent, answered) = counts(&pinged.stdout)?;
    let report = stretch.line.stop()?;
    say(&format!("{answered} of {sent}; {}", report.to_json()));
    // A hundred in the mean, five times the deviation.
    ensure!(sent == 1000 && (853..=947).contains(&answered), "{answered} of {sent}");
    ensure!(report.there.packets == report.there.delivered + report.there.lost, "{}", report.to_json());
    ensure!(report.back.lost == 0, "{}", report.to_json());
    Ok(())
}

#[test]
fn order_is_kept_unless_it_is_asked_not_to_be() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("order")? else { return Ok(()) };
    let uneven = Line { delay: ms(5), jitter: ms(5), ..Line::GOOD };
    let stretch = lab.stretch(["a", "b"], Lines::both(uneven), 1)?;
    let all = numbered(&stretch, 200)?;
    ensure!(all == (0..200).collect::<Vec<_>>(), "{all:?}");
    let line = Line { reorder: 100_000, duplicate: 100_000, ..uneven };
    stretch.line.change(Direction::There, line);
    let all = numbered(&stretch, 200)?;
    let overtaken = all.windows(2).filter(|two| two[1] < two[0]).count();
    let mut numbers = all.clone();
    numbers.sort_unstable();
    numbers.dedup();
    ensure!(numbers.len() == 200, "all of them arrive: {all:?}");
    ensure!((3..=45).contains(&overtaken), "{overtaken} of 200 are overtaken: {all:?}");
    ensure!((3..=45).contains(&(all.len() - 200)), "{} of 200 arrive twice: {all:?}", all.len() - 200);
    Ok(())
}

#[test]
fn what_is_too_long_vanishes_without_a_word() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("hole")? else { return Ok(()) };
    let stretch = lab.stretch(["a", "b"], Lines::both(Line { longest: 1300, ..Line::GOOD }), 1)?;
    let ping = |size: &str| {
        let sized = ["ping", "-c", "3", "-i", "0.05", "-W", "1", "-M", "do", "-s", size, stretch.b.underlay()];
        stretch.a.try_run(&sized)
    };
    // With their headers 1300 and 1301 octets.
    ensure!(counts(&ping("1272")?.stdout)? == (3, 3));
    let silent = ping("1273")?;
    ensure!(counts(&silent.stdout)? == (3, 0), "{}", silent.stdout);
    ensure!(!(silent.stdout + &silent.stderr).to_lowercase().contains("frag"));
    let report = stretch.line.stop()?;
    ensure!(report.there.too_long == 3, "{}", report.to_json());
    Ok(())
}

#[test]
fn a_stream_survives_a_line_that_loses_doubles_and_swaps() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("stream")? else { return Ok(()) };
    let line = Line { delay: ms(1), jitter: ms(1), duplicate: 5000, reorder: 2000, ..Line::GOOD };
    let stretch = lab.stretch(["a", "b"], Lines::both(Line { loss: Loss::bursts(2000, 2), ..line }), 3)?;
    transfer(&stretch.a, &stretch.b, stretch.b.underlay(), 8 << 20)?;
    let report = stretch.line.stop()?;
    say(&report.to_json().to_string());
    // Super-frames came, and were cut.
    ensure!(report.there.cut > 0 && report.there.packets > 2 * report.there.frames, "{}", report.to_json());
    Ok(())
}

#[test]
fn what_is_scheduled_happens_when_it_should_and_devices_end_with_the_line() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("schedule")? else { return Ok(()) };
    let mut lines = Lines::far(ms(2), 0);
    lines.schedule.push((ms(3000), Direction::There, Line { down: true, ..lines.there }));
    let stretch = lab.stretch(["a", "b"], lines, 1)?;
    let began = wait::now();
    stretch.a.ping_once(stretch.b.underlay())?;
    wait::until_ok("the line to go down", LIMIT, || {
        let lost = stretch.a.try_run(&["ping", "-c", "1", "-W", "1", stretch.b.underlay()])?.code != Some(0);
        wait::expect(lost, || "an echo is answered".to_owned())
    })?;
    ensure!(began.elapsed() > ms(2000), "down after {:?}", began.elapsed());
    stretch.line.change(Direction::There, Line::GOOD);
    stretch.a.ping_once(stretch.b.underlay())?;
    stretch.line.outage(Direction::Back, ms(1500));
    let lost = stretch.a.try_run(&["ping", "-c", "1", "-W", "1", stretch.b.underlay()])?;
    ensure!(lost.code != Some(0), "an echo is answered over a line that is down");
    wait::until_ok("the line to be back", LIMIT, || stretch.a.ping_once(stretch.b.underlay()))?;
    let report = stretch.line.stop()?;
    ensure!(report.there.down > 0 && report.back.down > 0, "{}", report.to_json());
    ensure!(!stretch.a.has_device("eth0")? && !stretch.b.has_device("eth0")?, "a device outlives its line");
    Ok(())
}
