//! What each word of the command line may be. A refusal names the rule; clap names the word and where help is.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{anyhow, bail, ensure};
use dht::NamespaceId;
use dht::create::{CreateError, CreateRequest};
use dht::identity::SecretKey;
use ipnet::Ipv4Net;

/// RFC 1035 section 2.3.4.
const LABEL_CHARS: usize = 63;
/// `IFNAMSIZ` less the end of the string.
const LINK_CHARS: usize = 15;

/// A namespace's name, or one that it is given here.
pub(super) fn name(text: &str) -> anyhow::Result<String> {
    foundable(text, None, None)?;
    Ok(text.to_owned())
}

/// A name, or the identifier of a namespace.
pub(super) fn name_or_id(text: &str) -> anyhow::Result<String> {
    if NamespaceId::parse(text).is_some() { Ok(text.to_owned()) } else { name(text) }
}

/// The addresses of a namespace.
pub(super) fn range(text: &str) -> anyhow::Result<Ipv4Net> {
    let range = Ipv4Net::from_str(text).map_err(|_| anyhow!("write for example 10.9.0.0/16"))?;
    foundable("x", Some(range), None)?;
    Ok(range)
}

/// How long leases last.
pub(super) fn lease(text: &str) -> anyhow::Result<Duration> {
    let lease = duration(text)?;
    foundable("x", None, Some(lease))?;
    Ok(lease)
}

/// The rules are those of founding, so one is founded, by nobody, and forgotten.
fn foundable(name: &str, range: Option<Ipv4Net>, lease: Option<Duration>) -> Result<(), CreateError> {
    let lease = lease.unwrap_or(Duration::from_secs(3600));
    let request = CreateRequest { name: name.to_owned(), range, lease, recovery: None };
    dht::create::create(request, &SecretKey::from_seed(&[1; 32]), [0; 32], 0).map(|_| ())
}

/// Where libp2p finds a member.
pub(super) fn multiaddr(text: &str) -> anyhow::Result<String> {
    let is_address = text.parse::<libp2p::Multiaddr>().is_ok_and(|address| !address.is_empty());
    ensure!(is_address, "it is no multiaddress; write for example /ip4/192.0.2.1/udp/41821/quic-v1");
    Ok(text.to_owned())
}

/// Where others reach the data port. The host is looked up later: it may not be known yet.
pub(super) fn host_port(text: &str) -> anyhow::Result<String> {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let is_v6 = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok());
    let is_name = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    // libp2p takes the next port.
    let is_port = port.parse::<u16>().is_ok_and(|port| (1..u16::MAX).contains(&port));
    ensure!(
        (is_v6 || is_name) && is_port,
        "write HOST:PORT with a port of 1 to 65534, for example 192.0.2.1:41820 or [2001:db8::1]:41820"
    );
    Ok(text.to_owned())
}

/// A label of the namespace's zone.
pub(super) fn hostname(text: &str) -> anyhow::Result<String> {
    let is_ldh = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let is_label = (1..=LABEL_CHARS).contains(&text.len()) && !text.starts_with('-') && !text.ends_with('-');
    ensure!(is_ldh && is_label, "a host name has 1 to 63 of a-z, 0-9 and '-', with no '-' at either end");
    Ok(text.to_owned())
}

/// The kernel's rule for the name of an interface.
pub(super) fn tap(text: &str) -> anyhow::Result<String> {
    let is_plain = text.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '%'));
    let is_name = (1..=LINK_CHARS).contains(&text.len()) && !matches!(text, "." | "..");
    ensure!(is_plain && is_name, "a device's name has 1 to 15 characters, without a slash, a colon, % or a space");
    Ok(text.to_owned())
}

/// `90`, `90s`, `15m`, `24h` or `7d`.
pub(super) fn duration(text: &str) -> anyhow::Result<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number = u64::from_str(digits).map_err(|_| anyhow!("{text:?} is no duration; write for example 24h"))?;
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        other => bail!("{other:?} is no unit of time; use s, m, h or d"),
    };
    let seconds = number.checked_mul(unit).filter(|seconds| (1..=3_153_600_000).contains(seconds));
    Ok(Duration::from_secs(seconds.ok_or_else(|| anyhow!("{text:?} is not between 1s and 36500d"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T>(parse: fn(&str) -> anyhow::Result<T>, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(parse(text).is_ok(), "{text:?}");
        }
        for text in bad {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_are_labels() {
        let id = NamespaceId([7; 32]).to_string();
        let long = "x".repeat(64);
        check(name, &["lab", "a-1"], &["", "Lab", "a_b", "a.b", "-a", &long[..33], "../etc", &id]);
        check(name_or_id, &["lab", &id], &["Lab", &id[1..]]);
        check(hostname, &["alpha", "Beta-2", &long[..63]], &["", "-a", "a-", "a.b", "a_b", "ä", &long]);
        check(tap, &["ov-home", "tap0", &long[..15]], &["", "a/b", "a b", "a:b", "..", &long[..16]]);
    }

    #[test]
    fn addresses_have_their_form() {
        check(range, &["10.9.0.0/16", "192.168.7.0/29"], &["10.9.0.0", "10.9.0.0/31", "224.0.0.0/16", "127.0.0.0/16"]);
        check(multiaddr, &["/ip4/192.0.2.1/tcp/4001"], &["", "192.0.2.1:4001", "/ip4/192.0.2/tcp/1"]);
        check(
            host_port,
            &["192.0.2.1:41820", "home.example:1", "[2001:db8::1]:65534"],
            &["", "192.0.2.1", "host:", ":1", "host:0", "host:65535", "2001:db8::1:5", "[home]:1", "a b:1"],
        );
    }

    #[test]
    fn durations_have_units_and_limits() {
        assert_eq!(duration("90").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("24h").unwrap(), Duration::from_secs(86_400));
        check(duration, &["36500d"], &["", "h", "-1s", "1y", "0s", "99999999999999999999d", "36501d"]);
        check(lease, &["30s", "3650d"], &["soon", "29s", "3651d"]);
    }
}
