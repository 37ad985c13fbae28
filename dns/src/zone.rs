//! Names to what is known about them: the apex, this server, the machine's own names, names that can never be, and the
//! rest, which only the registers know.

use std::{collections::BTreeMap, net::Ipv4Addr};

use hickory_proto::rr::Name;
use ipnet::Ipv4Net;

use crate::{
    Config, Question,
    computed::{computed_name, parse_computed_name},
    reverse::{self, Reverse},
};

/// The label of this server in the zone.
const SERVER: &str = "dns";

/// Names that programs look for by themselves and would obey (WPAD, ISATAP: RFC 5214 §8.3.2, both on the block list of
/// every Windows DNS server; localhost: RFC 6761 §6.3): whoever claims one in the registers gets no traffic by it.
const RESERVED: [&str; 3] = ["localhost", "wpad", "isatap"];

/// More names of this machine and of the hosts behind it than any invitation allows.
const MAX_LOCAL: usize = 4096;

/// What a name is, before anybody is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// In none of our zones.
    Outside,
    /// This very machine (RFC 6761 §6.3).
    Loopback,
    /// In the zone with this apex.
    Inside { apex: Name, place: Place },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The top of the zone: SOA and NS.
    Apex,
    /// Has this address.
    Host(Ipv4Addr),
    /// An address, held by this label of the zone.
    Pointer(String),
    /// Exists and has no records.
    Empty,
    /// Certainly does not exist.
    Absent,
    /// The registers know.
    Ask(Question),
}

#[derive(Debug)]
pub(crate) struct Zone {
    apex: Name,
    range: Ipv4Net,
    service: Ipv4Addr,
    names: BTreeMap<String, Ipv4Addr>,
    addresses: BTreeMap<Ipv4Addr, Option<String>>,
}

/// The table of local names is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LocalFull;

impl Zone {
    pub(crate) fn new(config: &Config) -> Self {
        // RFC 6761 §6.4: no name under `invalid` exists, so a zone that is no name answers for nothing anybody asks.
        let apex = parse_zone(&config.zone).unwrap_or_else(|| name_of(&["invalid"]));
        Self { apex, range: config.range, service: config.service, names: BTreeMap::new(), addresses: BTreeMap::new() }
    }

    pub(crate) fn locate(&self, name: &Name) -> Target {
        let labels: Vec<&[u8]> = name.iter().collect();
        let apex: Vec<&[u8]> = self.apex.iter().collect();
        if let Some(rest) = strip(&labels, &apex) {
            return Target::Inside { apex: self.apex.clone(), place: self.locate_host(rest) };
        }
        if let Some(rest) = strip(&labels, &[b"in-addr", b"arpa"]) {
            return self.locate_reverse(rest);
        }
        match labels.last() {
            Some(last) if last.eq_ignore_ascii_case(b"localhost") => Target::Loopback,
            Some(_) | None => Target::Outside,
        }
    }

    /// The full name of a label of this zone.
    pub(crate) fn member(&self, label: &str) -> Option<Name> {
        self.apex.prepend_label(label).ok()
    }

    pub(crate) fn server(&self) -> Option<Name> {
        self.member(SERVER)
    }

    pub(crate) fn service(&self) -> Ipv4Addr {
        self.service
    }

    pub(crate) fn range(&self) -> Ipv4Net {
        self.range
    }

    /// A name that is no label leaves the address with its computed name.
    pub(crate) fn set_local(&mut self, name: &str, ip: Ipv4Addr) -> Result<(), LocalFull> {
        if !self.addresses.contains_key(&ip) && self.addresses.len() >= MAX_LOCAL {
            return Err(LocalFull);
        }
        self.remove_local(ip);
        let label = normalise(name.as_bytes());
        if let Some(label) = &label
            && let Some(before) = self.names.insert(label.clone(), ip)
        {
            self.addresses.insert(before, None);
        }
        self.addresses.insert(ip, label);
        Ok(())
    }

    pub(crate) fn remove_local(&mut self, ip: Ipv4Addr) {
        if let Some(Some(label)) = self.addresses.remove(&ip) {
            self.names.remove(&label);
        }
    }

    fn locate_host(&self, labels: &[&[u8]]) -> Place {
        let label = match labels {
            [] => return Place::Apex,
            [label] => normalise(label),
            // Names are single labels: nothing is below one.
            [..] => None,
        };
        let Some(label) = label else { return Place::Absent };
        if label == SERVER {
            return Place::Host(self.service);
        }
        if RESERVED.contains(&label.as_str()) {
            return Place::Absent;
        }
        if let Some(ip) = parse_computed_name(&label) {
            return match self.locate_address(ip) {
                Place::Pointer(_) => Place::Host(ip),
                place @ (Place::Apex | Place::Host(_) | Place::Empty | Place::Absent | Place::Ask(_)) => place,
            };
        }
        match self.names.get(&label) {
            Some(ip) => Place::Host(*ip),
            None => Place::Ask(Question::Name(label)),
        }
    }

    fn locate_reverse(&self, labels: &[&[u8]]) -> Target {
        let place = match reverse::locate(labels, self.range) {
            Reverse::Outside => return Target::Outside,
            Reverse::Apex => Place::Apex,
            Reverse::Between => Place::Empty,
            Reverse::Address(ip) => self.locate_address(ip),
            Reverse::Nonsense => Place::Absent,
        };
        let depth = reverse::zone_depth(self.range) as usize;
        let mut apex = labels[labels.len() - depth..].to_vec();
        apex.extend([b"in-addr".as_slice(), b"arpa"]);
        Target::Inside { apex: name_of(&apex), place }
    }

    fn locate_address(&self, ip: Ipv4Addr) -> Place {
        if ip == self.service {
            return Place::Pointer(SERVER.to_owned());
        }
        if !self.can_be_leased(ip) {
            return Place::Absent;
        }
        match self.addresses.get(&ip) {
            Some(name) => Place::Pointer(name.clone().unwrap_or_else(|| computed_name(ip))),
            None => Place::Ask(Question::Address(ip)),
        }
    }

    /// Inside the range, and neither its network nor its broadcast address (both usable in a /31, RFC 3021).
    fn can_be_leased(&self, ip: Ipv4Addr) -> bool {
        let at_the_edge = ip == self.range.network() || ip == self.range.broadcast();
        self.range.contains(&ip) && (self.range.prefix_len() >= 31 || !at_the_edge)
    }
}

/// The one form in which a label is looked up: letters, digits and inner hyphens (RFC 952, 1123 §2.1), lower case.
pub(crate) fn normalise(label: &[u8]) -> Option<String> {
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    let fits = (1..=63).contains(&label.len()) && label.iter().all(inner);
    if !fits || label.starts_with(b"-") || label.ends_with(b"-") {
        return None;
    }
    Some(std::str::from_utf8(label).ok()?.to_ascii_lowercase())
}

fn parse_zone(zone: &str) -> Option<Name> {
    let labels: Vec<String> =
        zone.trim_end_matches('.').split('.').map(|label| normalise(label.as_bytes())).collect::<Option<_>>()?;
    let name = Name::from_labels(labels.iter().map(String::as_bytes)).ok()?;
    // Room for the longest label in front of it within the 255 octets of a name.
    (name.len() + 64 <= Name::MAX_LENGTH).then_some(name)
}

fn name_of<L: AsRef<[u8]>>(labels: &[L]) -> Name {
    Name::from_labels(labels.iter().map(AsRef::as_ref)).unwrap_or_else(|_| Name::root())
}

/// What stands in front of `suffix`, whatever the case (RFC 4343).
fn strip<'l, 'n>(labels: &'l [&'n [u8]], suffix: &[&[u8]]) -> Option<&'l [&'n [u8]]> {
    let at = labels.len().checked_sub(suffix.len())?;
    let (rest, tail) = labels.split_at(at);
    tail.iter().zip(suffix).all(|(left, right)| left.eq_ignore_ascii_case(right)).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Zone {
        Zone::new(&Config {
            zone: "home.internal".to_owned(),
            service: Ipv4Addr::new(10, 64, 0, 1),
            range: "10.64.0.0/16".parse().unwrap(),
            max_udp: 1232,
        })
    }

    fn place(zone: &Zone, name: &str) -> Option<Place> {
        match zone.locate(&Name::from_ascii(name).unwrap()) {
            Target::Inside { place, .. } => Some(place),
            Target::Outside | Target::Loopback => None,
        }
    }

    #[test]
    fn a_name_that_only_ends_alike_is_outside() {
        for name in ["nothome.internal.", "internal.", ".", "home.internal.example.", "64.10.in-addr.arpa.example."] {
            assert_eq!(place(&zone(), name), None, "{name}");
        }
    }

    #[test]
    fn reserved_labels_are_never_asked_for() {
        for name in ["wpad.home.internal.", "ISATAP.home.internal.", "localhost.home.internal."] {
            assert_eq!(place(&zone(), name), Some(Place::Absent), "{name}");
        }
    }

    #[test]
    fn only_letters_digits_and_inner_hyphens_are_looked_up() {
        assert_eq!(normalise(b"Debian-2").as_deref(), Some("debian-2"));
        for label in [b"".as_slice(), b"-x", b"x-", b"a_b", b"a.b", b"\xc3\xa4", &[b'a'; 64]] {
            assert_eq!(normalise(label), None);
        }
    }

    #[test]
    fn a_local_name_moves_with_its_address() {
        let (mut zone, first, second) = (zone(), Ipv4Addr::new(10, 64, 0, 7), Ipv4Addr::new(10, 64, 0, 8));
        zone.set_local("Box", first).unwrap();
        assert_eq!(place(&zone, "box.home.internal."), Some(Place::Host(first)));
        zone.set_local("box", second).unwrap();
        assert_eq!(place(&zone, "BOX.home.internal."), Some(Place::Host(second)));
        assert_eq!(place(&zone, "7.0.64.10.in-addr.arpa."), Some(Place::Pointer("c010064000007".to_owned())));
        zone.set_local("other", second).unwrap();
        assert_eq!(place(&zone, "box.home.internal."), Some(Place::Ask(Question::Name("box".to_owned()))));
        zone.remove_local(second);
        assert_eq!(place(&zone, "other.home.internal."), Some(Place::Ask(Question::Name("other".to_owned()))));
    }

    #[test]
    fn local_names_are_bounded() {
        let mut zone = zone();
        for host in 0..MAX_LOCAL as u32 {
            zone.set_local(&format!("h{host}"), Ipv4Addr::from(host)).unwrap();
        }
        assert_eq!(zone.set_local("more", Ipv4Addr::BROADCAST), Err(LocalFull));
        assert_eq!(zone.set_local("again", Ipv4Addr::from(5)), Ok(()));
    }

    #[test]
    fn a_zone_that_is_no_name_answers_for_nothing() {
        for text in ["", ".", "a..b", "sp ace", &"long.".repeat(60)] {
            let zone = Zone::new(&Config {
                zone: text.to_owned(),
                service: Ipv4Addr::new(10, 64, 0, 1),
                range: "10.64.0.0/16".parse().unwrap(),
                max_udp: 1232,
            });
            assert_eq!(place(&zone, "www.example.com."), None, "{text}");
        }
    }
}
