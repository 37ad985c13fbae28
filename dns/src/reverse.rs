//! Names of addresses under `in-addr.arpa` (RFC 1035 §3.5), and which of them are ours.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Where a name under `in-addr.arpa` stands with respect to a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reverse {
    /// Somebody else's.
    Outside,
    /// The top of one of the range's reverse zones.
    Apex,
    /// Between a zone and its addresses: exists, has nothing.
    Between,
    /// One address of the range.
    Address(Ipv4Addr),
    /// Below a zone of ours, but no address.
    Nonsense,
}

/// The reverse zones that together are exactly `range`, one per octet boundary below it: a /12 has sixteen, a /16 one.
pub fn reverse_zones(range: Ipv4Net) -> Vec<String> {
    let depth = zone_depth(range);
    // At most seven bits from the prefix to the next boundary, so at most 128 zones.
    let zones = 1_u32 << (8 * depth - u32::from(range.prefix_len()));
    let step = 1_u64 << (32 - 8 * depth);
    (0..zones)
        .map(|zone| u64::from(u32::from(range.network())) + u64::from(zone) * step)
        .filter_map(|start| u32::try_from(start).ok())
        .map(|start| {
            let octets = Ipv4Addr::from(start).octets();
            octets.iter().take(depth as usize).rev().map(|octet| format!("{octet}.")).collect::<String>()
                + "in-addr.arpa"
        })
        .collect()
}

/// How many octets the names of the range's zones have.
pub(crate) fn zone_depth(range: Ipv4Net) -> u32 {
    u32::from(range.prefix_len()).div_ceil(8)
}

/// Places the labels in front of `in-addr.arpa`, in the order of the name.
pub(crate) fn locate(labels: &[&[u8]], range: Ipv4Net) -> Reverse {
    let mut octets = [0; 4];
    let mut known = 0;
    for (octet, label) in octets.iter_mut().zip(labels.iter().rev()) {
        let Some(value) = parse_octet(label) else { break };
        *octet = value;
        known += 1;
    }
    let depth = zone_depth(range) as usize;
    let mut zone = [0; 4];
    zone[..depth].copy_from_slice(&octets[..depth]);
    if known < depth || !range.contains(&Ipv4Addr::from(zone)) {
        return Reverse::Outside;
    }
    match labels.len() {
        4 if known == 4 => Reverse::Address(Ipv4Addr::from(octets)),
        length if length == depth => Reverse::Apex,
        length if length == known => Reverse::Between,
        _ => Reverse::Nonsense,
    }
}

/// An octet in the one way it is written; `007` and `+7` are other names.
fn parse_octet(label: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(label).ok()?;
    let value: u8 = text.parse().ok()?;
    (value.to_string() == text).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str, range: &str) -> Reverse {
        let labels: Vec<&[u8]> = name.split('.').filter(|label| !label.is_empty()).map(str::as_bytes).collect();
        locate(&labels, range.parse().unwrap())
    }

    #[test]
    fn a_range_on_an_octet_boundary_is_one_zone() {
        assert_eq!(reverse_zones("10.64.0.0/16".parse().unwrap()), ["64.10.in-addr.arpa"]);
        assert_eq!(reverse_zones("10.0.0.0/8".parse().unwrap()), ["10.in-addr.arpa"]);
        assert_eq!(reverse_zones("192.168.7.0/24".parse().unwrap()), ["7.168.192.in-addr.arpa"]);
        assert_eq!(reverse_zones("0.0.0.0/0".parse().unwrap()), ["in-addr.arpa"]);
    }

    #[test]
    fn a_range_off_the_boundary_is_listed_zone_by_zone() {
        let zones = reverse_zones("172.16.0.0/12".parse().unwrap());
        assert_eq!(zones.len(), 16);
        assert_eq!(zones[0], "16.172.in-addr.arpa");
        assert_eq!(zones[15], "31.172.in-addr.arpa");
        let zones = reverse_zones("255.255.255.252/30".parse().unwrap());
        assert_eq!(zones.len(), 4);
        assert_eq!(zones[3], "255.255.255.255.in-addr.arpa");
        assert_eq!(reverse_zones("128.0.0.0/1".parse().unwrap()).len(), 128);
    }

    #[test]
    fn only_what_lies_wholly_in_the_range_is_ours() {
        assert_eq!(place("7.0.64.10", "10.64.0.0/16"), Reverse::Address(Ipv4Addr::new(10, 64, 0, 7)));
        assert_eq!(place("0.64.10", "10.64.0.0/16"), Reverse::Between);
        assert_eq!(place("64.10", "10.64.0.0/16"), Reverse::Apex);
        assert_eq!(place("10", "10.64.0.0/16"), Reverse::Outside);
        assert_eq!(place("", "10.64.0.0/16"), Reverse::Outside);
        assert_eq!(place("65.10", "10.64.0.0/16"), Reverse::Outside);
        assert_eq!(place("7.0.65.10", "10.64.0.0/16"), Reverse::Outside);
        assert_eq!(place("10", "10.0.0.0/16"), Reverse::Outside, "an octet that is not said is not zero");
        assert_eq!(place("x.10", "10.0.0.0/16"), Reverse::Outside);
        assert_eq!(place("31.172", "172.16.0.0/12"), Reverse::Apex);
        assert_eq!(place("32.172", "172.16.0.0/12"), Reverse::Outside);
        assert_eq!(place("15.172", "172.16.0.0/12"), Reverse::Outside);
        assert_eq!(place("172", "172.16.0.0/12"), Reverse::Outside);
        assert_eq!(place("130.7.168.192", "192.168.7.128/25"), Reverse::Address(Ipv4Addr::new(192, 168, 7, 130)));
        assert_eq!(place("7.168.192", "192.168.7.128/25"), Reverse::Outside);
        assert_eq!(place("127.7.168.192", "192.168.7.128/25"), Reverse::Outside);
    }

    #[test]
    fn what_is_no_address_below_our_zone_is_nonsense() {
        for name in [
            "lb._dns-sd._udp.0.0.64.10",
            "x.64.10",
            "1.7.0.64.10",
            "007.0.64.10",
            "256.0.64.10",
            "x.0.64.10",
            "+7.0.64.10",
        ] {
            assert_eq!(place(name, "10.64.0.0/16"), Reverse::Nonsense, "{name}");
        }
    }
}
