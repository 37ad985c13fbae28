//! Why a way is not direct, and what would make it so.

use engine::{NatStatus, PeerStatus};

/// What is known of the translator before one of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// Others see it where it is.
    Open,
    /// One port for all destinations.
    OnePort,
    /// Each destination gets a port of its own, and `counting` says that the next one can be foretold.
    ManyPorts { counting: bool },
    /// Nobody has said.
    Unknown,
}

impl Side {
    fn of(mapping: Option<&str>) -> Self {
        match mapping {
            Some("none") => Self::Open,
            Some("endpoint-independent") => Self::OnePort,
            Some("address-dependent") => Self::ManyPorts { counting: false },
            Some("counting") => Self::ManyPorts { counting: true },
            Some(_) | None => Self::Unknown,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Open => "has no translator before it",
            Self::OnePort => "is behind a router with one port for all destinations",
            Self::ManyPorts { counting: false } => "is behind a router that gives each destination another port",
            Self::ManyPorts { counting: true } => "is behind a router that gives each destination the next port",
            Self::Unknown => "is behind nobody knows what yet",
        }
    }
}

/// What stands before this machine, in a sentence; `None` while nobody has said.
pub(super) fn own_nat(nat: Option<&NatStatus>) -> Option<String> {
    let nat = nat?;
    let words = match Side::of(Some(&nat.mapping)) {
        Side::Unknown => "is seen by too few to say what stands before it",
        side @ (Side::Open | Side::OnePort | Side::ManyPorts { .. }) => side.words(),
    };
    Some(match nat.observers {
        1 => format!("{words} (one member sees it)"),
        observers => format!("{words} ({observers} members see it)"),
    })
}

/// Why a peer is reached over others, or by a stream, and what would change that. `None` where the way is direct, or there is none.
pub(super) fn not_direct(own: Option<&NatStatus>, peer: &PeerStatus, port: u16) -> Option<(String, String)> {
    let name = peer.hostname.as_deref().unwrap_or(&peer.peer_id);
    let by = peer.endpoint.as_deref().unwrap_or("another member");
    let open = |whose: &str| {
        format!(
            "have the router before {whose} map ports (UPnP, NAT-PMP or PCP), or forward UDP {port} on it and name that with --advertise HOST:{port}"
        )
    };
    if peer.path == "stream" {
        let what = format!("{name} is reached by TCP: no UDP has come through between this machine and that one");
        return Some((what, format!("let UDP from and to port {port} pass the firewall, here or there")));
    }
    if peer.path != "relay" {
        return None;
    }
    let (here, there) = (Side::of(own.map(|nat| nat.mapping.as_str())), Side::of(peer.nat.as_deref()));
    let cure = match (here, there) {
        (Side::ManyPorts { .. }, Side::ManyPorts { .. }) => open("one of the two"),
        (Side::ManyPorts { .. }, Side::OnePort | Side::Open | Side::Unknown) => open("this machine"),
        (Side::OnePort | Side::Open | Side::Unknown, Side::ManyPorts { .. }) => open(name),
        (Side::Unknown, _) | (_, Side::Unknown) => {
            "wait: it is tried again after 5, 10, 20, 40 s and then every 80 s while there is something to send"
                .to_owned()
        }
        (Side::OnePort | Side::Open, Side::OnePort | Side::Open) => format!(
            "a direct way is possible and is tried again every 80 s at most; if there is none by then, a firewall drops UDP: let port {port} in on one side"
        ),
    };
    Some((format!("{name} is reached over {by}: this machine {}, and {name} {}", here.words(), there.words()), cure))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nat(mapping: &str) -> NatStatus {
        NatStatus { mapping: mapping.into(), step: None, observers: 2 }
    }

    fn peer(path: &str, mapping: Option<&str>) -> PeerStatus {
        PeerStatus {
            peer_id: "12D3".into(),
            ip: None,
            hostname: Some("b".into()),
            path: path.into(),
            endpoint: Some("12D3relay".into()),
            rtt_ms: None,
            tx_bytes: 0,
            rx_bytes: 0,
            nat: mapping.map(Into::into),
            why: None,
        }
    }

    #[test]
    fn a_direct_way_needs_no_reason_and_none_has_another() {
        assert_eq!(not_direct(None, &peer("direct", None), 1), None);
        assert_eq!(not_direct(None, &peer("none", None), 1), None);
    }

    #[test]
    fn each_pair_of_routers_has_its_reason_and_its_cure() {
        let cure = |own: &str, other: Option<&str>| {
            let (what, cure) = not_direct(Some(&nat(own)), &peer("relay", other), 4000).unwrap();
            assert!(what.starts_with("b is reached over 12D3relay: this machine "), "{what}");
            cure
        };
        assert!(cure("address-dependent", Some("counting")).starts_with("have the router before one of the two map"));
        assert!(
            cure("address-dependent", Some("endpoint-independent")).starts_with("have the router before this machine")
        );
        assert!(cure("endpoint-independent", Some("address-dependent")).starts_with("have the router before b map"));
        assert!(cure("none", Some("endpoint-independent")).contains("let port 4000 in"));
        assert!(cure("unknown", Some("endpoint-independent")).starts_with("wait"));
        assert!(cure("endpoint-independent", None).starts_with("wait"));
    }

    #[test]
    fn a_stream_means_that_udp_does_not_pass() {
        let (what, cure) = not_direct(None, &peer("stream", None), 4000).unwrap();
        assert!(what.contains("no UDP") && cure.contains("UDP from and to port 4000"), "{what}: {cure}");
    }

    #[test]
    fn what_stands_before_this_machine_has_words() {
        assert_eq!(own_nat(None), None);
        let said = own_nat(Some(&nat("counting"))).unwrap();
        assert_eq!(said, "is behind a router that gives each destination the next port (2 members see it)");
        assert!(own_nat(Some(&nat("unknown"))).unwrap().starts_with("is seen by too few"));
    }
}
