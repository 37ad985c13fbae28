//! UPnP: the gateway is found by multicast, and by asking it directly. Only a device at the default gateway's own address is
//! believed: anybody on the network may answer a search.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{AddPortError, PortMappingProtocol, RemovePortError, RequestError, SearchOptions};

use crate::mapping::{Answer, Left, Network, Refusal, Transport};

/// UPnP Device Architecture 1.1 section 1.3.2 has devices answer within the second that is asked for, or three.
const SEARCH: Duration = Duration::from_secs(3);
/// UPnP Device Architecture 1.1 section 1.1.
const SSDP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 255, 255, 250)), 1900);
/// Mappings of all the network that are looked through for one of ours.
const MOST_ENTRIES: u32 = 64;

/// The device that was found, until another network is.
#[derive(Default)]
pub(crate) struct Upnp(Mutex<Option<Gateway<Tokio>>>);

impl Upnp {
    /// Whether the gateway speaks UPnP, and its external address.
    pub(crate) async fn probe(&self, network: Network) -> Answer {
        let direct = SocketAddr::new(network.gateway.into(), SSDP.port());
        let (all, one) = tokio::join!(search(network, SSDP), search(network, direct));
        let Some(gateway) = all.or(one) else { return Answer::Silent("no answer".into()) };
        let external = gateway.get_external_ip().await;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(gateway);
        match external {
            Ok(IpAddr::V4(ip)) => Answer::Speaks(Some(ip)),
            Ok(IpAddr::V6(ip)) => Answer::Silent(format!("its external address is {ip}")),
            Err(error) => Answer::Silent(error.to_string()),
        }
    }

    fn gateway(&self, ip: Ipv4Addr) -> Option<Gateway<Tokio>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.filter(|gateway| gateway.addr.ip() == IpAddr::V4(ip))
    }

    /// Asks for a mapping; without a lease for one that stays.
    pub(crate) async fn map(&self, left: &Left, lease: Option<Duration>) -> Answer {
        let Some(gateway) = self.gateway(left.gateway) else { return Answer::Silent("it is not known".into()) };
        let local = SocketAddr::new(left.local.into(), left.port.port);
        let seconds = lease.map_or(0, |lease| u32::try_from(lease.as_secs()).unwrap_or(u32::MAX));
        let description = left.owner.description();
        let told = gateway.add_port(protocol(left.port.transport), left.external, local, seconds, &description).await;
        if let Err(error) = told {
            return refusal(error);
        }
        match gateway.get_external_ip().await {
            Ok(IpAddr::V4(ip)) => Answer::Mapped { external: SocketAddrV4::new(ip, left.external), lease },
            Ok(IpAddr::V6(ip)) => Answer::Silent(format!("its external address is {ip}")),
            Err(error) => Answer::Silent(error.to_string()),
        }
    }

    /// Deletes a mapping. Unless it is certainly ours, it has to be in the gateway's list with our description.
    pub(crate) async fn delete(&self, left: &Left, certain: bool) -> Answer {
        let Some(gateway) = self.gateway(left.gateway) else { return Answer::Silent("it is not known".into()) };
        if !certain && !is_listed(&gateway, left).await {
            return Answer::Deleted;
        }
        match gateway.remove_port(protocol(left.port.transport), left.external).await {
            Ok(()) | Err(RemovePortError::NoSuchPortMapping) => Answer::Deleted,
            Err(RemovePortError::ActionNotAuthorized) => Answer::Refused(Refusal::Other("not authorised".into())),
            Err(RemovePortError::RequestError(error)) => Answer::Silent(error.to_string()),
        }
    }
}

async fn search(network: Network, whom: SocketAddr) -> Option<Gateway<Tokio>> {
    let mut options = SearchOptions::default();
    options.bind_addr = SocketAddr::new(network.local.addr().into(), 0);
    options.broadcast_address = whom;
    options.timeout = Some(SEARCH);
    let found = search_gateway(options).await.ok()?;
    (found.addr.ip() == IpAddr::V4(network.gateway)).then_some(found)
}

/// Whether the gateway's list shows that the mapping is there and ours.
async fn is_listed(gateway: &Gateway<Tokio>, left: &Left) -> bool {
    let description = left.owner.description();
    for index in 0..MOST_ENTRIES {
        let Ok(entry) = gateway.get_generic_port_mapping_entry(index).await else { return false };
        if entry.external_port == left.external && entry.protocol == protocol(left.port.transport) {
            return entry.port_mapping_description == description && entry.internal_port == left.port.port;
        }
    }
    false
}

fn protocol(transport: Transport) -> PortMappingProtocol {
    match transport {
        Transport::Udp => PortMappingProtocol::UDP,
        Transport::Tcp => PortMappingProtocol::TCP,
    }
}

fn refusal(error: AddPortError) -> Answer {
    let why = error.to_string();
    match error {
        AddPortError::PortInUse => Answer::Refused(Refusal::PortTaken),
        AddPortError::OnlyPermanentLeasesSupported => Answer::Refused(Refusal::OnlyPermanent),
        AddPortError::ActionNotAuthorized
        | AddPortError::InternalPortZeroInvalid
        | AddPortError::ExternalPortZeroInvalid
        | AddPortError::SamePortValuesRequired
        | AddPortError::DescriptionTooLong
        | AddPortError::RequestError(RequestError::ErrorCode(..) | RequestError::UnsupportedAction(_)) => {
            Answer::Refused(Refusal::Other(why))
        }
        AddPortError::RequestError(
            RequestError::IoError(_)
            | RequestError::InvalidResponse(_)
            | RequestError::HyperError(_)
            | RequestError::HyperClientError(_)
            | RequestError::HttpError(_)
            | RequestError::Utf8Error(_),
        ) => Answer::Silent(why),
    }
}
