//! A line in words, for a command line: `delay=10ms,jitter=2ms,loss=1%/6,rate=50Mbit,longest=1400`.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use wan::{Line, Loss};

/// Reads a line. Words that are missing are as on a line without delay on which nothing goes wrong.
///
/// - `delay=20ms`, `jitter=500us`: one way; `us`, `ms` or `s`
/// - `loss=0.1%`: each packet alone; `loss=1%/6`: in bursts of six in the mean
/// - `reorder=1%`: held back by three times delay and jitter; `duplicate=1%`
/// - `rate=50Mbit` (`kbit`, `Mbit`, `Gbit`), and before it `queue=256k` (octets, with `k` or `M` those times 1024)
/// - `longest=1400`: octets of the longest IP packet that passes; longer ones vanish
/// - `down`: nothing passes
///
/// # Errors
/// A word is none of these.
pub fn line(text: &str) -> anyhow::Result<Line> {
    let mut line = Line { delay: Duration::ZERO, ..Line::GOOD };
    for word in text.split(',').filter(|word| !word.is_empty()) {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        apply(&mut line, name, value).with_context(|| format!("{word:?}"))?;
    }
    Ok(line)
}

fn apply(line: &mut Line, name: &str, value: &str) -> anyhow::Result<()> {
    match name {
        "delay" => line.delay = time(value)?,
        "jitter" => line.jitter = time(value)?,
        "loss" => line.loss = loss(value)?,
        "reorder" => line.reorder = millionths(value)?,
        "duplicate" => line.duplicate = millionths(value)?,
        "rate" => line.rate = Some(scaled(value, &[("kbit", 1000), ("Mbit", 1_000_000), ("Gbit", 1_000_000_000)])?),
        "queue" => line.queue = usize::try_from(scaled(value, &[("k", 1 << 10), ("M", 1 << 20), ("", 1)])?)?,
        "longest" => line.longest = value.parse()?,
        "down" => {
            ensure!(value.is_empty(), "down has no value");
            line.down = true;
        }
        _ => bail!("a line has delay, jitter, loss, reorder, duplicate, rate, queue, longest, down"),
    }
    Ok(())
}

/// A time with its unit.
///
/// # Errors
/// No number, or none of the units.
pub fn time(text: &str) -> anyhow::Result<Duration> {
    Ok(Duration::from_micros(scaled(text, &[("us", 1), ("ms", 1000), ("s", 1_000_000)])?))
}

fn loss(text: &str) -> anyhow::Result<Loss> {
    let (share, length) = text.split_once('/').unwrap_or((text, ""));
    let share = millionths(share)?;
    Ok(if length.is_empty() { Loss::independent(share) } else { Loss::bursts(share, length.parse()?) })
}

/// A share in per cent, as parts per million.
fn millionths(text: &str) -> anyhow::Result<u32> {
    let share = scaled(text, &[("%", 10_000)])?;
    ensure!(share <= 1_000_000, "more than all");
    Ok(u32::try_from(share)?)
}

/// A decimal number and a unit, in the smallest of which what it says is rounded down.
fn scaled(text: &str, units: &[(&str, u64)]) -> anyhow::Result<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = &text[digits.len()..];
    let (_, factor) = units.iter().find(|(name, _)| *name == unit).with_context(|| format!("no unit: {unit:?}"))?;
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    ensure!(part.len() <= 6, "too exact");
    let whole = whole.parse::<u64>()?.checked_mul(*factor).context("too large")?;
    let part: u64 = format!("{part:0<6}").parse()?;
    whole.checked_add(part.checked_mul(*factor).context("too large")? / 1_000_000).context("too large")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_read() {
        let read =
            line("delay=20ms,jitter=0.5ms,loss=0.1%,reorder=1%,duplicate=2%,rate=1.5Gbit,queue=64k,longest=1400,down")
                .unwrap();
        let wanted = Line {
            down: true,
            delay: Duration::from_millis(20),
            jitter: Duration::from_micros(500),
            loss: Loss::independent(1000),
            reorder: 10_000,
            duplicate: 20_000,
            rate: Some(1_500_000_000),
            queue: 65_536,
            longest: 1400,
        };
        assert_eq!(read, wanted);
        assert_eq!(line("loss=1%/6").unwrap().loss, Loss::bursts(10_000, 6));
        assert_eq!(line("").unwrap(), Line { delay: Duration::ZERO, ..Line::GOOD });
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "delay",
            "delay=20",
            "delay=-1ms",
            "loss=101%",
            "loss=1%/x",
            "rate=1",
            "speed=1",
            "down=1",
            "queue=k",
            "delay=1.2.3s",
        ] {
            assert!(line(text).is_err(), "{text}");
        }
    }
}
