//! Ten kinds of edges: what stands between a machine and the internet.

use crate::nat::{Filtering, Mapping, Ports, Settings, Timers, Unsolicited};

/// One kind of edge. The kernel's rule sets for each are in `tests/src/edge.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Edge {
    /// Nothing: a public address, every port reachable.
    Open,
    /// A stateful firewall without translation.
    Firewall,
    /// A translator that lets anybody in to a port that is mapped.
    FullCone,
    /// One that lets in addresses which were sent to.
    AddressRestricted,
    /// The usual home router: one port for all destinations, kept where possible; lets in whom was sent to.
    Home,
    /// The same, which remembers what was sent to it unasked, and then has to give the inside another port.
    HomeWithoutInputDrop,
    /// The same as [`Self::Home`], with another port than the inside one.
    HomeOtherPort,
    /// Another port for each destination address.
    AddressDependentMapping,
    /// Another port for each destination, one after the other.
    SymmetricSequential,
    /// Another port for each destination, at random.
    SymmetricRandom,
}

impl Edge {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Open,
        Self::Firewall,
        Self::FullCone,
        Self::AddressRestricted,
        Self::Home,
        Self::HomeWithoutInputDrop,
        Self::HomeOtherPort,
        Self::AddressDependentMapping,
        Self::SymmetricSequential,
        Self::SymmetricRandom,
    ];

    /// As it is called in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Firewall => "firewall",
            Self::FullCone => "full cone",
            Self::AddressRestricted => "address-restricted",
            Self::Home => "home",
            Self::HomeWithoutInputDrop => "home, no input drop",
            Self::HomeOtherPort => "home, port not kept",
            Self::AddressDependentMapping => "address-dependent mapping",
            Self::SymmetricSequential => "symmetric, counting",
            Self::SymmetricRandom => "symmetric, random",
        }
    }

    /// How it behaves.
    pub fn settings(self) -> Settings {
        let (mapping, filtering, ports) = match self {
            Self::Open => (Mapping::EndpointIndependent, Filtering::EndpointIndependent, Ports::None),
            Self::Firewall => (Mapping::EndpointIndependent, Filtering::AddressAndPortDependent, Ports::None),
            Self::FullCone => (Mapping::EndpointIndependent, Filtering::EndpointIndependent, Ports::Preserved),
            Self::AddressRestricted => (Mapping::EndpointIndependent, Filtering::AddressDependent, Ports::Preserved),
            Self::Home | Self::HomeWithoutInputDrop => {
                (Mapping::EndpointIndependent, Filtering::AddressAndPortDependent, Ports::Preserved)
            }
            Self::HomeOtherPort => (Mapping::EndpointIndependent, Filtering::AddressAndPortDependent, Ports::Random),
            Self::AddressDependentMapping => {
                (Mapping::AddressDependent, Filtering::AddressAndPortDependent, Ports::Random)
            }
            Self::SymmetricSequential => {
                (Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent, Ports::Sequential(1))
            }
            Self::SymmetricRandom => {
                (Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent, Ports::Random)
            }
        };
        let unsolicited = match self {
            Self::HomeWithoutInputDrop => Unsolicited::Remembered,
            Self::Open
            | Self::Firewall
            | Self::FullCone
            | Self::AddressRestricted
            | Self::Home
            | Self::HomeOtherPort
            | Self::AddressDependentMapping
            | Self::SymmetricSequential
            | Self::SymmetricRandom => Unsolicited::Forgotten,
        };
        Settings { mapping, filtering, ports, unsolicited, hairpin: false, timers: Timers::LINUX, capacity: 20_000 }
    }
}
