//! PCP and NAT-PMP: one datagram there, one back. The sockets are connected, so only what the gateway sends is read.

use std::net::{IpAddr, SocketAddrV4};
use std::num::NonZeroU16;
use std::time::Duration;

use crab_nat::pcp::{BaseMapRequest, DropMappingRange};
use crab_nat::{
    GatewayAddress, InternetProtocol, MappingFailure, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig,
    natpmp, pcp,
};

use crate::mapping::{Answer, Left, Network, Owner, Port, Protocol, Refusal, Transport};

/// Gateways are near: 1.75 s in all, where RFC 6887 section 8.1.1 would go on for minutes. Whoever is silent is asked again later.
const ASK: TimeoutConfig =
    TimeoutConfig { initial_timeout: Duration::from_millis(250), max_retries: 2, max_retry_timeout: None };
/// A deletion may be all that keeps the program from ending.
const DELETE: TimeoutConfig =
    TimeoutConfig { initial_timeout: Duration::from_millis(250), max_retries: 1, max_retry_timeout: None };
/// A deletion of nothing needs a port to name.
const DISCARD: NonZeroU16 = NonZeroU16::new(9).expect("nine is not zero");

/// Whether the gateway speaks PCP. To delete a mapping that is not there makes and takes nothing (RFC 6887 section 15).
pub(crate) async fn probe_pcp(network: Network, owner: Owner) -> Answer {
    let range = DropMappingRange::Single { internal_port: DISCARD, protocol: InternetProtocol::Udp };
    let local = IpAddr::V4(network.local.addr());
    let told = pcp::try_drop_mapping(network.gateway.into(), local, owner.0, range, Some(ASK)).await;
    match told.map_err(MappingFailure::from).map_err(answer_of) {
        Ok(()) | Err(Answer::Refused(_)) => Answer::Speaks(None),
        Err(silent) => silent,
    }
}

/// Whether the gateway speaks NAT-PMP, and its external address.
pub(crate) async fn probe_nat_pmp(network: Network) -> Answer {
    match natpmp::external_address(network.gateway.into(), Some(ASK)).await {
        Ok(ip) => Answer::Speaks(Some(ip)),
        // Where it does not know its own address, nothing that it maps could be told to anybody.
        Err(failure) => Answer::Silent(reason(&failure.into())),
    }
}

/// Asks for a mapping by one of the two.
pub(crate) async fn map(left: &Left, lease: Duration) -> Answer {
    let options = PortMappingOptions {
        external_port: NonZeroU16::new(left.external),
        lifetime_seconds: u32::try_from(lease.as_secs()).ok(),
        timeout_config: Some(ASK),
    };
    let Some((protocol, port)) = internal(left.port) else { return Answer::Silent("port 0 cannot be mapped".into()) };
    let gateway = GatewayAddress::from(left.gateway);
    if left.protocol == Protocol::Pcp {
        let base = BaseMapRequest::new(gateway, left.local.into(), protocol, port);
        let told = pcp::port_mapping(base, Some(left.owner.0), None, options).await;
        return told.map_or_else(|failure| answer_of(failure.into()), |mapping| mapped(&mapping));
    }
    let mapping = match natpmp::port_mapping(gateway, protocol, port, options).await {
        Ok(mapping) => mapping,
        Err(failure) => return answer_of(failure.into()),
    };
    match natpmp::external_address(gateway, Some(ASK)).await {
        Ok(ip) => Answer::Mapped {
            external: SocketAddrV4::new(ip, mapping.external_port().get()),
            lease: Some(Duration::from_secs(mapping.lifetime().into())),
        },
        // The mapping is there, so this is no refusal.
        Err(failure) => Answer::Silent(failure.to_string()),
    }
}

/// Deletes a mapping. By NAT-PMP a machine can delete only its own, by PCP only with their nonce.
pub(crate) async fn delete(left: &Left) -> Answer {
    let Some((protocol, internal_port)) = internal(left.port) else { return Answer::Deleted };
    let gateway = GatewayAddress::from(left.gateway);
    let told = if left.protocol == Protocol::Pcp {
        let range = DropMappingRange::Single { internal_port, protocol };
        let told = pcp::try_drop_mapping(gateway, left.local.into(), left.owner.0, range, Some(DELETE)).await;
        told.map_err(MappingFailure::from)
    } else {
        let told = natpmp::try_drop_mapping(gateway, protocol, Some(internal_port), Some(DELETE)).await;
        told.map_err(MappingFailure::from)
    };
    match told.map_err(answer_of) {
        // Some say so of what is not there.
        Ok(()) | Err(Answer::Refused(_)) => Answer::Deleted,
        Err(silent) => silent,
    }
}

fn internal(port: Port) -> Option<(InternetProtocol, NonZeroU16)> {
    let protocol = match port.transport {
        Transport::Udp => InternetProtocol::Udp,
        Transport::Tcp => InternetProtocol::Tcp,
    };
    Some((protocol, NonZeroU16::new(port.port)?))
}

fn mapped(mapping: &PortMapping) -> Answer {
    match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip: IpAddr::V4(ip), .. } => Answer::Mapped {
            external: SocketAddrV4::new(ip, mapping.external_port().get()),
            lease: Some(Duration::from_secs(mapping.lifetime().into())),
        },
        PortMappingType::Pcp { external_ip: IpAddr::V6(ip), .. } => {
            Answer::Silent(format!("it gave the IPv6 address {ip} for an IPv4 port"))
        }
        PortMappingType::NatPmp => Answer::Silent("it answered by another protocol".into()),
    }
}

/// A refusal is one that the gateway spells out; everything else may mean that it does not speak the protocol at all.
fn answer_of(failure: MappingFailure) -> Answer {
    use crab_nat::{natpmp::Failure as NatPmp, pcp::Failure as Pcp};
    match failure {
        MappingFailure::Pcp(
            Pcp::Socket(_)
            | Pcp::Timeout
            | Pcp::Nonce
            | Pcp::InvalidResponse(_)
            | Pcp::UnsupportedVersion(_)
            | Pcp::AddressMismatch,
        )
        | MappingFailure::NatPmp(
            NatPmp::Socket(_) | NatPmp::Timeout | NatPmp::InvalidResponse(_) | NatPmp::UnsupportedVersion(_),
        ) => Answer::Silent(reason(&failure)),
        MappingFailure::Pcp(
            Pcp::NotAuthorized(_)
            | Pcp::MalformedRequest
            | Pcp::UnsupportedOpcode
            | Pcp::UnsupportedOption
            | Pcp::MalformedOption
            | Pcp::NetworkFailure(_)
            | Pcp::NoResources(_)
            | Pcp::UnsupportedProtocol
            | Pcp::UserExceededQuota(_)
            | Pcp::CannotProvideExternal(_)
            | Pcp::ExcessiveRemotePeers,
        )
        | MappingFailure::NatPmp(
            NatPmp::NotAuthorized | NatPmp::NetworkFailure | NatPmp::OutOfResources | NatPmp::UnsupportedOpcode,
        ) => Answer::Refused(Refusal::Other(reason(&failure))),
    }
}

fn reason(failure: &MappingFailure) -> String {
    match failure {
        MappingFailure::Pcp(pcp::Failure::Timeout) | MappingFailure::NatPmp(natpmp::Failure::Timeout) => {
            "no answer".into()
        }
        // Whoever has no such service says so by ICMP.
        MappingFailure::Pcp(pcp::Failure::Socket(error)) | MappingFailure::NatPmp(natpmp::Failure::Socket(error)) => {
            error.to_string()
        }
        MappingFailure::Pcp(failure) => failure.to_string(),
        MappingFailure::NatPmp(failure) => failure.to_string(),
    }
}
