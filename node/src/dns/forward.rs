//! Queries for the outside world, to the resolvers the system had before we changed anything.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use hickory_server::{
    net::{BufDnsStreamHandle, runtime::TokioTime, xfer::Protocol},
    proto::rr::Name,
    resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts},
    server::{Request, RequestHandler as _, ResponseHandle},
    store::forwarder::{ForwardConfig, ForwardZoneHandler},
    zone_handler::{Catalog, ZoneHandler},
};

/// A try and a second one (hickory counts the repetitions) fit into the 4 s for which the responder waits.
const PATIENCE: Duration = Duration::from_millis(1800);
const REPETITIONS: usize = 1;

/// Ours: answers remembered, about 1 MiB.
const CACHED: u64 = 1024;

/// hickory wants to know who asks; nothing depends on it.
const ASKER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// A forwarding resolver. Cheap to build; it connects when it is asked.
pub(crate) struct Forwarder {
    catalog: Option<Catalog>,
}

impl Forwarder {
    /// Forwards to these servers; without any, nothing is answered.
    pub(crate) fn new(upstreams: Vec<SocketAddr>) -> Self {
        Self { catalog: catalog(&upstreams) }
    }

    /// The answer to a query, fit for the transport and for the size its asker offers; `None` if there is none.
    pub(crate) async fn answer(&self, message: Vec<u8>, transport: ::dns::Transport) -> Option<Vec<u8>> {
        let catalog = self.catalog.as_ref()?;
        let protocol = match transport {
            ::dns::Transport::Udp => Protocol::Udp,
            ::dns::Transport::Tcp => Protocol::Tcp,
        };
        let request = Request::from_bytes(message, ASKER, protocol).ok()?;
        let (sender, mut receiver) = BufDnsStreamHandle::new(ASKER);
        catalog.handle_request::<_, TokioTime>(&request, ResponseHandle::new(ASKER, sender, protocol)).await;
        Some(receiver.next().await?.into_parts().0)
    }
}

impl fmt::Debug for Forwarder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Forwarder").field("has_upstreams", &self.catalog.is_some()).finish()
    }
}

fn catalog(upstreams: &[SocketAddr]) -> Option<Catalog> {
    if upstreams.is_empty() {
        return None;
    }
    let config = ForwardConfig {
        name_servers: upstreams.iter().map(|upstream| name_server(*upstream)).collect(),
        options: Some(options()),
    };
    match ForwardZoneHandler::builder_tokio(config).build() {
        Ok(handler) => {
            let handler: Arc<dyn ZoneHandler> = Arc::new(handler);
            let mut catalog = Catalog::new();
            catalog.upsert(Name::root().into(), vec![handler]);
            Some(catalog)
        }
        Err(error) => {
            tracing::warn!(%error, "no DNS forwarding");
            None
        }
    }
}

/// UDP first; TCP when an answer was cut.
fn name_server(upstream: SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = upstream.port();
    }
    NameServerConfig::new(upstream.ip(), true, connections)
}

fn options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = PATIENCE;
    options.attempts = REPETITIONS;
    options.cache_size = CACHED;
    options
}
