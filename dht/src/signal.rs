//! Where a node may be reached, told to one other node over the control network.
//!
//! Signed for one receiver and numbered, and filtered by it, so that nobody can aim a node's probes at a third party.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use ipnet::Ipv4Net;
use libp2p_identity::PeerId;
use thiserror::Error;

use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::identity::{PublicKey, SecretKey};
use crate::sign::{self, Label, NamespaceId, Signature};

/// Most addresses in one message.
pub const MAX_CANDIDATES: usize = 16;

/// Most relays in one message.
pub const MAX_RELAYS: usize = 4;

/// Peers whose numbers are remembered.
const MAX_PEERS: usize = 4096;

/// Ended processes of one peer that are remembered.
const MAX_ENDED: usize = 8;

/// One address at which the sender's data socket may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// How the sender knows it; the engine gives it a meaning.
    pub kind: u8,
    /// The address.
    pub addr: SocketAddr,
}

/// What one node tells another about its paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidates {
    /// The only node that may act on it.
    pub to: PublicKey,
    /// Rises with every message of one process.
    pub seq: u64,
    /// Random per process.
    pub instance: [u8; 8],
    /// Whether the sender wants the receiver's in return.
    pub want_reply: bool,
    /// At most 16.
    pub list: Vec<Candidate>,
    /// Members that the sender has asked to carry between the two; at most 4.
    pub relays: Vec<PublicKey>,
}

/// Why candidates are not acted upon.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, PartialOrd, Ord)]
pub enum SignalError {
    /// Not the layout.
    #[error("malformed")]
    Malformed,
    /// Meant for another node.
    #[error("for-another")]
    ForAnother,
    /// Not signed by the sender.
    #[error("signature")]
    Signature,
    /// Heard before.
    #[error("repeated")]
    Repeated,
}

impl Candidates {
    /// The signed message.
    pub fn sign(&self, ns: &NamespaceId, identity: &SecretKey) -> Vec<u8> {
        let mut bytes = self.to_bytes();
        let signature = sign::sign(identity, Label::Candidates, ns, &bytes);
        bytes.extend_from_slice(&signature.0);
        bytes
    }

    /// Reads a signed message that `from` sent to `me`.
    pub fn open(ns: &NamespaceId, from: &PublicKey, me: &PublicKey, message: &[u8]) -> Result<Self, SignalError> {
        let (body, signature) = message.split_last_chunk::<64>().ok_or(SignalError::Malformed)?;
        let candidates = Self::from_bytes(body).map_err(|_| SignalError::Malformed)?;
        if candidates.to != *me {
            return Err(SignalError::ForAnother);
        }
        sign::verify(from, Label::Candidates, ns, body, &Signature(*signature)).map_err(|_| SignalError::Signature)?;
        Ok(candidates)
    }
}

impl Wire for Candidates {
    fn encode(&self, out: &mut Writer) {
        self.to.encode(out);
        out.u64(self.seq);
        out.raw(&self.instance);
        out.u8(u8::from(self.want_reply));
        out.list(&self.list);
        out.list(&self.relays);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            to: PublicKey::decode(input)?,
            seq: input.u64()?,
            instance: input.array()?,
            want_reply: input.flag("wish for a reply")?,
            list: input.list(MAX_CANDIDATES, "list of candidates")?,
            relays: input.list(MAX_RELAYS, "list of relays")?,
        })
    }
}

impl Wire for Candidate {
    fn encode(&self, out: &mut Writer) {
        out.u8(self.kind);
        match self.addr.ip() {
            IpAddr::V4(ip) => {
                out.u8(4);
                out.raw(&ip.octets());
            }
            IpAddr::V6(ip) => {
                out.u8(6);
                out.raw(&ip.octets());
            }
        }
        out.u16(self.addr.port());
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kind = input.u8()?;
        let ip: IpAddr = match input.u8()? {
            4 => input.array::<4>()?.into(),
            6 => input.array::<16>()?.into(),
            _ => return Err(DecodeError::Invalid("kind of address")),
        };
        Ok(Self { kind, addr: SocketAddr::new(ip, input.u16()?) })
    }
}

/// Whether loopback addresses may be probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loopback {
    /// Everything runs on one machine.
    Allowed,
    /// Anywhere else.
    Refused,
}

/// Which addresses may be probed at all.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Loopback.
    pub loopback: Loopback,
    /// The ranges of our own overlays: no tunnel in a tunnel.
    pub overlays: Vec<Ipv4Net>,
}

impl Filter {
    /// Whether this address may be probed.
    pub fn allows(&self, addr: &SocketAddr) -> bool {
        let ip = addr.ip().to_canonical();
        if addr.port() == 0 || ip.is_unspecified() || ip.is_multicast() {
            return false;
        }
        if ip.is_loopback() {
            return self.loopback == Loopback::Allowed;
        }
        match ip {
            IpAddr::V4(ip) => {
                let overlay = self.overlays.iter().any(|range| range.contains(&ip));
                !ip.is_broadcast() && ip.octets()[0] != 0 && ip.octets()[0] < 240 && !overlay
            }
            // Link-local addresses mean nothing without the interface, which is the sender's.
            IpAddr::V6(ip) => !ip.is_unicast_link_local(),
        }
    }
}

/// The newest number of every peer, so that an old message is not acted upon again.
#[derive(Debug, Default)]
pub struct Freshness {
    peers: BTreeMap<PeerId, Heard>,
    order: VecDeque<PeerId>,
}

#[derive(Debug)]
struct Heard {
    instance: [u8; 8],
    seq: u64,
    /// Instances before this one: a message of theirs is a replay.
    ended: VecDeque<[u8; 8]>,
}

impl Freshness {
    /// Fails for what was heard before.
    pub fn check(&mut self, from: PeerId, candidates: &Candidates) -> Result<(), SignalError> {
        let Candidates { instance, seq, .. } = *candidates;
        let Some(heard) = self.peers.get_mut(&from) else {
            if self.order.len() >= MAX_PEERS
                && let Some(oldest) = self.order.pop_front()
            {
                self.peers.remove(&oldest);
            }
            self.order.push_back(from);
            self.peers.insert(from, Heard { instance, seq, ended: VecDeque::new() });
            return Ok(());
        };
        if heard.ended.contains(&instance) || (heard.instance == instance && seq <= heard.seq) {
            return Err(SignalError::Repeated);
        }
        if heard.instance != instance {
            heard.ended.push_back(heard.instance);
            if heard.ended.len() > MAX_ENDED {
                heard.ended.pop_front();
            }
        }
        (heard.instance, heard.seq) = (instance, seq);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::fixture::{key, peer};

    const NS: NamespaceId = NamespaceId([7; 32]);

    fn candidates(seq: u64, instance: u8) -> Candidates {
        let list = ["192.0.2.1:5000", "[2001:db8::1]:5000"];
        Candidates {
            to: key(2).public(),
            seq,
            instance: [instance; 8],
            want_reply: true,
            list: list.iter().map(|addr| Candidate { kind: 1, addr: addr.parse().unwrap() }).collect(),
            relays: vec![key(3).public()],
        }
    }

    #[test]
    fn the_receiver_reads_what_was_signed_for_it() {
        let message = candidates(1, 1).sign(&NS, &key(1));
        let read = Candidates::open(&NS, &key(1).public(), &key(2).public(), &message);
        assert_eq!(read, Ok(candidates(1, 1)));
    }

    #[test]
    fn nobody_else_does_and_no_byte_may_change() {
        let message = candidates(1, 1).sign(&NS, &key(1));
        let open = |ns, from: u8, me: u8, message: &[u8]| {
            Candidates::open(&ns, &key(from).public(), &key(me).public(), message).unwrap_err()
        };
        assert_eq!(open(NS, 1, 3, &message), SignalError::ForAnother);
        assert_eq!(open(NS, 3, 2, &message), SignalError::Signature);
        assert_eq!(open(NamespaceId([8; 32]), 1, 2, &message), SignalError::Signature);
        for place in 0..message.len() {
            let mut changed = message.clone();
            changed[place] ^= 1;
            open(NS, 1, 2, &changed);
        }
        for cut in 0..message.len() {
            open(NS, 1, 2, &message[..cut]);
        }
    }

    #[test]
    fn a_number_counts_once_and_an_ended_process_never_again() {
        let mut fresh = Freshness::default();
        assert_eq!(fresh.check(peer(1), &candidates(5, 1)), Ok(()));
        assert_eq!(fresh.check(peer(1), &candidates(5, 1)), Err(SignalError::Repeated));
        assert_eq!(fresh.check(peer(1), &candidates(4, 1)), Err(SignalError::Repeated));
        assert_eq!(fresh.check(peer(1), &candidates(1, 2)), Ok(()));
        assert_eq!(fresh.check(peer(1), &candidates(9, 1)), Err(SignalError::Repeated));
        assert_eq!(fresh.check(peer(2), &candidates(1, 1)), Ok(()));
        for instance in 3..100 {
            assert_eq!(fresh.check(peer(1), &candidates(1, instance)), Ok(()));
        }
        assert_eq!(fresh.check(peer(1), &candidates(9, 98)), Err(SignalError::Repeated));
        assert!(fresh.peers[&peer(1)].ended.len() <= MAX_ENDED);
    }

    #[test]
    fn nothing_is_probed_that_could_be_a_victim_or_ourselves() {
        let filter = Filter { loopback: Loopback::Refused, overlays: vec!["10.64.0.0/16".parse().unwrap()] };
        let allows = |text: &str| filter.allows(&text.parse().unwrap());
        for good in
            ["192.0.2.1:5000", "192.168.1.7:5000", "10.63.0.1:1", "100.64.0.1:9", "[2001:db8::1]:5000", "[fd00::1]:1"]
        {
            assert!(allows(good), "{good}");
        }
        for bad in [
            "192.0.2.1:0",
            "0.0.0.0:5000",
            "0.1.2.3:5000",
            "127.0.0.1:5000",
            "224.0.0.1:5000",
            "239.255.255.250:1900",
            "255.255.255.255:5000",
            "240.0.0.1:5000",
            "10.64.3.4:5000",
            "[::]:5000",
            "[::1]:5000",
            "[ff02::1]:5000",
            "[fe80::1]:5000",
            "[::ffff:127.0.0.1]:5000",
            "[::ffff:10.64.3.4]:5000",
        ] {
            assert!(!allows(bad), "{bad}");
        }
        let local = Filter { loopback: Loopback::Allowed, ..filter.clone() };
        assert!(local.allows(&"127.0.0.1:5000".parse().unwrap()));
    }
}
