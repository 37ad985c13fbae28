//! The protocols of one namespace's swarm, each with its limits, and the swarm itself.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use dht::NamespaceId;
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::core::Transport;
use libp2p::core::upgrade::Version;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{PeerId, StreamProtocol, Swarm, SwarmBuilder};
use libp2p::{identify, identity, kad, mdns, noise, ping, quic, yamux};
use tokio::sync::mpsc;

use crate::address::AddressFilter;
use crate::config::DriverConfig;
use crate::gate::Gate;
use crate::hello;
use crate::hints;
use crate::lan::Lan;
use crate::message::MessageCodec;
use crate::proxy::Refusal;
use crate::stream;
use crate::wire::Wire;

/// A connection that nothing goes over and nobody wants to keep.
const IDLE: Duration = if cfg!(test) { Duration::from_secs(3) } else { Duration::from_secs(20) };
/// Below the 30 s after which the shortest NAT mappings end, and no more often than every 25 s.
const KEEP_ALIVE: Duration = Duration::from_secs(25);
/// Two keep-alives lost and a bit.
const SILENCE_MS: u32 = 60_000;
/// QUIC notices silence by itself; this is for TCP.
const PING_EVERY: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams of one connection at one time.
const STREAMS: u32 = 64;
/// Nothing here is long: 64 KiB for a message and room for several at once.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const MOST_PENDING: u32 = 64;
const MOST_ESTABLISHED: u32 = 1024;
/// Two are kept; a third is let in so that a peer that restarted can replace a connection that died unseen. And one each way
/// may be there only to see whether it can be made.
const MOST_PER_PEER: u32 = 6;

#[cfg(not(test))]
type OnLan = Toggle<mdns::tokio::Behaviour>;
#[cfg(test)]
type OnLan = crate::tests::seen::Seen;

/// The order matters: a gate is told to open before the hello that lets the peer know is sent.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) limits: connection_limits::Behaviour,
    pub(crate) message: Gate<request_response::Behaviour<MessageCodec>>,
    pub(crate) stream: Gate<stream::Behaviour>,
    pub(crate) kad: Gate<kad::Behaviour<MemoryStore>>,
    pub(crate) identify: Gate<identify::Behaviour>,
    pub(crate) hello: hello::Behaviour,
    pub(crate) ping: ping::Behaviour,
    pub(crate) mdns: Lan<OnLan>,
}

/// The names of a namespace's protocols. They tell it to who knows its identifier, and nothing to others.
#[derive(Clone, Debug)]
pub(crate) struct Protocols {
    pub(crate) message: StreamProtocol,
    pub(crate) kad: StreamProtocol,
    pub(crate) stream: StreamProtocol,
}

impl Protocols {
    pub(crate) fn of(namespace: &NamespaceId) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = dht::sign::hash("kad", &[&namespace.0]);
        let name = format!("{:016x}", u64::from_be_bytes([a, b, c, d, e, f, g, h]));
        let protocol = |kind: &str| {
            StreamProtocol::try_from_owned(format!("/overlay/{name}/{kind}/1")).expect("it begins with a slash")
        };
        Self { message: protocol("message"), kad: protocol("kad"), stream: protocol("datagrams") }
    }
}

/// Builds the swarm. It listens nowhere yet. What the proxy refuses goes to `refusals`.
pub(crate) fn swarm(
    config: &DriverConfig,
    filter: &Arc<AddressFilter>,
    refusals: mpsc::Sender<Refusal>,
) -> anyhow::Result<Swarm<Behaviour>> {
    let mut seed = *config.identity;
    let keypair = identity::Keypair::ed25519_from_bytes(&mut seed).context("the identity is not a key")?;
    let wire = Wire::new(config.proxy.clone(), refusals).context("failed to set up TLS")?;
    let builder = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_quic_config(quic_config)
        .with_other_transport(|key| {
            let noise = noise::Config::new(key)?;
            Ok(wire.upgrade(Version::V1Lazy).authenticate(noise).multiplex(yamux_config()))
        })
        .context("failed to set up TCP")?;
    let filter = filter.clone();
    let build = |key: &identity::Keypair| behaviour(key, config, &filter);
    let settings = |settings: libp2p::swarm::Config| settings.with_idle_connection_timeout(IDLE).with_smart_dial();
    Ok(builder.with_behaviour(build)?.with_swarm_config(settings).build())
}

fn yamux_config() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(usize::try_from(STREAMS).unwrap_or(usize::MAX));
    config
}

fn quic_config(mut config: quic::Config) -> quic::Config {
    config.keep_alive_interval = KEEP_ALIVE;
    config.max_idle_timeout = SILENCE_MS;
    config.max_concurrent_stream_limit = STREAMS;
    config.max_stream_data = STREAM_WINDOW;
    config.max_connection_data = CONNECTION_WINDOW;
    config
}

fn behaviour(key: &identity::Keypair, config: &DriverConfig, filter: &Arc<AddressFilter>) -> Behaviour {
    let me = key.public().to_peer_id();
    let protocols = Protocols::of(&config.namespace);
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(MOST_PENDING))
        .with_max_pending_outgoing(Some(MOST_PENDING))
        .with_max_established(Some(MOST_ESTABLISHED))
        .with_max_established_per_peer(Some(MOST_PER_PEER));
    let message = request_response::Behaviour::new(
        [(protocols.message, ProtocolSupport::Full)],
        request_response::Config::default()
            .with_request_timeout(MESSAGE_TIMEOUT)
            .with_max_concurrent_streams(usize::try_from(STREAMS).unwrap_or(usize::MAX)),
    );
    let identify = identify::Behaviour::new(
        identify::Config::new("/overlay/1".to_owned(), key.public())
            .with_agent_version(String::new())
            .with_cache_size(0)
            .with_push_listen_addr_updates(true),
    );
    let mdns = config.mdns.then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), me)).and_then(|mdns| {
        // Whoever is not on this LAN is reached without it.
        mdns.inspect_err(|error| tracing::warn!(%error, "cannot look for other nodes on the LAN")).ok()
    });
    let mdns = Toggle::from(mdns);
    #[cfg(test)]
    let mdns = OnLan::new(mdns, &config.seen);
    Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        message: Gate::new(message, filter.clone()),
        stream: Gate::new(stream::Behaviour::new(protocols.stream), filter.clone()),
        kad: Gate::new(kademlia(me, protocols.kad), filter.clone()),
        identify: Gate::new(identify, filter.clone()),
        hello: hello::Behaviour::new(filter.clone()),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_EVERY).with_timeout(PING_TIMEOUT)),
        mdns: Lan::new(mdns),
    }
}

/// Kademlia for finding peers. Its store holds hints that were checked, and nothing is copied on by itself.
fn kademlia(me: PeerId, protocol: StreamProtocol) -> kad::Behaviour<MemoryStore> {
    let mut config = kad::Config::new(protocol);
    config
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_record_ttl(None)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .set_caching(kad::Caching::Disabled)
        .set_parallelism(const { NonZeroUsize::new(5).unwrap() })
        .set_query_timeout(Duration::from_secs(15))
        .set_max_packet_size(16 * 1024)
        .set_periodic_bootstrap_interval(Some(Duration::from_secs(120)));
    let store = MemoryStore::with_config(
        me,
        MemoryStoreConfig {
            max_records: hints::MOST + hints::MOST_OWN,
            max_value_bytes: hints::LONGEST,
            max_provided_keys: 0,
            max_providers_per_key: 0,
        },
    );
    let mut kad = kad::Behaviour::with_config(me, store, config);
    kad.set_mode(Some(kad::Mode::Server));
    kad
}
