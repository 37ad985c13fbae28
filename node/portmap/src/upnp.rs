//! UPnP: the gateway is found by multicast, and by asking it directly. Only a device at the default gateway's own address is
//! believed: anybody on the network may answer a search.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{AddPortError, PortMappingEntry, PortMappingProtocol, RemovePortError, RequestError, SearchOptions};

use crate::mapping::{Answer, Left, Network, Refusal, Transport};

/// UPnP Device Architecture 1.1 section 1.3.2 has devices answer within the second that is asked for, or three.
const SEARCH: Duration = Duration::from_secs(3);
/// UPnP Device Architecture 1.1 section 1.1.
const SSDP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 255, 255, 250)), 1900);
/// Mappings of all the network that are looked through for one of ours.
const MOST_ENTRIES: u32 = 64;

/// The list is read entry by entry, and one that others delete meanwhile moves ours up past the reader. So it is read again.
const READINGS: usize = 3;

#[derive(Default)]
pub(crate) struct Upnp {
    /// The device that was found, until another network is.
    device: Mutex<Option<Gateway<Tokio>>>,
    /// One at a time, or each would move the entries that the others are reading.
    deleting: tokio::sync::Mutex<()>,
}

impl Upnp {
    /// Whether the gateway speaks UPnP, and its external address.
    pub(crate) async fn probe(&self, network: Network) -> Answer {
        let direct = SocketAddr::new(network.gateway.into(), SSDP.port());
        let (all, one) = tokio::join!(search(network, SSDP), search(network, direct));
        let Some(gateway) = all.or(one) else { return Answer::Silent("no answer".into()) };
        let external = gateway.get_external_ip().await;
        *self.device.lock().unwrap_or_else(PoisonError::into_inner) = Some(gateway);
        match external {
            Ok(IpAddr::V4(ip)) => Answer::Speaks(Some(ip)),
            Ok(IpAddr::V6(ip)) => Answer::Silent(format!("its external address is {ip}")),
            Err(error) => Answer::Silent(error.to_string()),
        }
    }

    fn gateway(&self, ip: Ipv4Addr) -> Option<Gateway<Tokio>> {
        let known = self.device.lock().unwrap_or_else(PoisonError::into_inner).clone();
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
        let _alone = self.deleting.lock().await;
        if !certain && !is_ours(&gateway, left).await {
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
async fn is_ours(gateway: &Gateway<Tokio>, left: &Left) -> bool {
    for _ in 0..READINGS {
        if let Some(entry) = listed(gateway, left).await {
            return entry.port_mapping_description == left.owner.description() && entry.internal_port == left.port.port;
        }
    }
    false
}

async fn listed(gateway: &Gateway<Tokio>, left: &Left) -> Option<PortMappingEntry> {
    for index in 0..MOST_ENTRIES {
        let entry = gateway.get_generic_port_mapping_entry(index).await.ok()?;
        if entry.external_port == left.external && entry.protocol == protocol(left.port.transport) {
            return Some(entry);
        }
    }
    None
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::mapping::Port;
    use crate::tests::left;

    /// External ports that a device maps, in order, all of them for us.
    type Table = Arc<Mutex<Vec<u16>>>;

    fn between<'text>(text: &'text str, from: &str, to: &str) -> &'text str {
        text.split_once(from).unwrap().1.split_once(to).unwrap().0
    }

    fn answer(table: &Table, asked: &str) -> String {
        let mut table = table.lock().unwrap();
        if asked.contains("DeletePortMapping") {
            let port: u16 = between(asked, "<NewExternalPort>", "<").parse().unwrap();
            table.retain(|mapped| *mapped != port);
            return "<u:DeletePortMappingResponse xmlns:u=\"u\"/>".into();
        }
        let index: usize = between(asked, "<NewPortMappingIndex>", "<").parse().unwrap();
        let Some(port) = table.get(index) else { return "<s:Fault xmlns:s=\"s\"/>".into() };
        let description = left().owner.description();
        format!(
            "<u:GetGenericPortMappingEntryResponse xmlns:u=\"u\"><NewRemoteHost/><NewExternalPort>{port}</NewExternalPort>\
             <NewProtocol>UDP</NewProtocol><NewInternalPort>{port}</NewInternalPort>\
             <NewInternalClient>192.168.1.7</NewInternalClient><NewEnabled>1</NewEnabled>\
             <NewPortMappingDescription>{description}</NewPortMappingDescription><NewLeaseDuration>60</NewLeaseDuration>\
             </u:GetGenericPortMappingEntryResponse>"
        )
    }

    /// One request of one connection, as slowly as others may come between.
    async fn serve(stream: TcpStream, table: Table) {
        let mut stream = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(said) = line.strip_prefix("content-length:") {
                length = said.trim().parse().unwrap();
            }
        }
        let mut asked = vec![0; length];
        stream.read_exact(&mut asked).await.unwrap();
        let said = answer(&table, std::str::from_utf8(&asked).unwrap());
        let body = format!("<e:Envelope xmlns:e=\"e\"><e:Body>{said}</e:Body></e:Envelope>");
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).await.unwrap();
    }

    #[tokio::test]
    async fn all_that_is_left_is_deleted_though_each_deletion_moves_the_others_in_the_list() {
        let table = Table::new(Mutex::new((41820..41840).collect()));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let served = Arc::clone(&table);
        let device = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&served)));
            }
        });
        let gateway = Gateway {
            addr,
            root_url: "/".into(),
            control_url: "/control".into(),
            control_schema_url: "/schema".into(),
            control_schema: [("DeletePortMapping".into(), vec!["NewExternalPort".into()])].into(),
            service_type: "urn:schemas-upnp-org:service:WANIPConnection:1".into(),
            provider: Tokio,
        };
        let upnp = Arc::new(Upnp { device: Mutex::new(Some(gateway)), ..Upnp::default() });
        let mut deletions = tokio::task::JoinSet::new();
        for external in 41820..41840 {
            let port = Port { transport: Transport::Udp, port: external };
            let (upnp, left) = (Arc::clone(&upnp), Left { gateway: Ipv4Addr::LOCALHOST, external, port, ..left() });
            deletions.spawn(async move { upnp.delete(&left, false).await });
        }
        assert!(deletions.join_all().await.iter().all(|answer| *answer == Answer::Deleted));
        assert_eq!(*table.lock().unwrap(), [0; 0]);
        device.abort();
    }
}
