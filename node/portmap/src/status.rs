//! What is known, for people and programs.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::belief::Reach;
use crate::machine::{Asked, Mapper};
use crate::mapping::{Protocol, Transport};

/// Who was asked, and what came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The default gateway; none while nothing is asked for, or without one.
    pub gateway: Option<Ipv4Addr>,
    /// For each protocol that was tried: `answers`, `asked`, or why not.
    pub protocols: BTreeMap<Protocol, String>,
    /// The ports of this machine that are to be mapped.
    pub ports: Vec<PortStatus>,
}

/// One port of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// UDP or TCP.
    pub transport: Transport,
    /// Its number.
    pub port: u16,
    /// Where it is reached, if it is mapped.
    pub external: Option<SocketAddrV4>,
    /// From where.
    pub reach: Option<Reach>,
    /// By what it was asked for.
    pub protocol: Option<Protocol>,
    /// How long it goes on without a renewal, seconds.
    pub remaining_s: Option<u64>,
    /// The router keeps it until it is deleted.
    pub permanent: bool,
    /// What went wrong last.
    pub why: Option<String>,
}

impl Mapper {
    /// All of it.
    pub fn status(&self, now: Instant) -> Status {
        let word = |asked: &Asked| match asked {
            Asked::Waiting => "asked".to_owned(),
            Asked::Speaks => "answers".to_owned(),
            Asked::Silent(why) => why.clone(),
        };
        let ports = self.slots.iter().map(|(port, slot)| {
            let held = slot.held();
            PortStatus {
                transport: port.transport,
                port: port.port,
                external: held.map(|held| held.external),
                reach: held.map(|held| held.reach),
                protocol: held.map(|held| held.protocol),
                remaining_s: held.map(|held| held.until.saturating_duration_since(now).as_secs()),
                permanent: held.is_some_and(|held| held.permanent),
                why: slot.why.clone(),
            }
        });
        Status {
            gateway: self.network.map(|network| network.gateway).filter(|_| !self.slots.is_empty()),
            protocols: self.protocols.iter().map(|(protocol, asked)| (*protocol, word(asked))).collect(),
            ports: ports.collect(),
        }
    }
}
