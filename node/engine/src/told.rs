//! What a peer's own list of addresses says of the translator before it. It is for people: nothing is decided by it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use dht::is_global;
use tunnel::{Candidate, CandidateKind};

/// How the translator before a peer maps (RFC 4787 section 4.1), in the words of [`NatStatus`](crate::NatStatus); `None` if the list does not say.
pub(crate) fn mapping(list: &[Candidate]) -> Option<&'static str> {
    let of = |kind: CandidateKind| {
        list.iter().filter(move |candidate| candidate.kind == kind).map(|candidate: &Candidate| candidate.addr)
    };
    if of(CandidateKind::Predicted).next().is_some() {
        return Some("counting");
    }
    let mut ports: BTreeMap<IpAddr, BTreeSet<u16>> = BTreeMap::new();
    for addr in of(CandidateKind::Observed) {
        ports.entry(addr.ip()).or_default().insert(addr.port());
    }
    match ports.values().map(BTreeSet::len).max() {
        Some(0 | 1) => Some("endpoint-independent"),
        Some(_) => Some("address-dependent"),
        None => of(CandidateKind::Lan).any(|addr: SocketAddr| is_global(addr.ip())).then_some("none"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(list: &[(CandidateKind, &str)]) -> Option<&'static str> {
        let one = |(kind, addr): &(CandidateKind, &str)| Candidate { kind: *kind, addr: addr.parse().unwrap() };
        mapping(&list.iter().map(one).collect::<Vec<_>>())
    }

    #[test]
    fn a_list_says_what_stands_before_who_made_it() {
        use CandidateKind::{Configured, Lan, Observed, Predicted};
        let (home, seen, other) = ((Lan, "192.168.1.2:4000"), (Observed, "8.8.1.1:4000"), (Observed, "8.8.1.1:4001"));
        assert_eq!(said(&[]), None);
        assert_eq!(said(&[home]), None, "nobody has seen it yet");
        assert_eq!(said(&[(Configured, "8.8.1.1:1")]), None);
        assert_eq!(said(&[(Lan, "8.8.1.1:4000")]), Some("none"));
        assert_eq!(said(&[home, seen]), Some("endpoint-independent"));
        assert_eq!(said(&[home, seen, (Observed, "8.8.1.2:4001")]), Some("endpoint-independent"), "two uplinks");
        assert_eq!(said(&[home, seen, other]), Some("address-dependent"));
        assert_eq!(said(&[home, seen, (Predicted, "8.8.1.1:4001")]), Some("counting"));
    }
}
