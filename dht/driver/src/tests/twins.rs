//! Two namespaces on the same two machines: one name and two ports on each, and everybody sees all four.

use std::collections::BTreeSet;
use std::time::Duration;

use dht::NamespaceId;
use libp2p::Multiaddr;

use super::fake::{Fake, Node, config, free_port, identity};
use crate::config::{DriverConfig, DriverEvent};

/// libp2p tries the lower of two ports first, so `work` is the one that is met in the wrong place.
const NAMESPACES: [&str; 2] = ["home", "work"];

struct Machine {
    n: u8,
    ports: [u16; 2],
}

impl Machine {
    fn new(n: u8) -> Self {
        let mut ports = [free_port(), free_port()];
        while ports[0] == ports[1] {
            ports[1] = free_port();
        }
        ports.sort_unstable();
        Self { n, ports }
    }

    fn config(&self, namespace: usize) -> DriverConfig {
        let mut config = config(self.n, self.ports[namespace]);
        config.namespace = NamespaceId([u8::try_from(namespace).unwrap(); 32]);
        config
    }

    async fn start(&self, namespace: usize, config: DriverConfig, test: &str) -> Node {
        let name = format!("{test}-{}-{namespace}", self.n);
        let mut node = Node::fake(config, Fake::new(NAMESPACES[namespace].as_bytes()), &name);
        node.listening().await;
        node
    }

    /// Where one of its swarms listens.
    fn addresses(&self, namespace: usize) -> [Multiaddr; 2] {
        crate::address::multiaddrs_of((std::net::Ipv4Addr::LOCALHOST, self.ports[namespace]).into())
            .map(|address| address.with_p2p(identity(self.n).peer_id()).unwrap())
    }

    /// What mDNS tells of it.
    fn seen(&self) -> Vec<(libp2p::PeerId, Multiaddr)> {
        (0..2).flat_map(|one| self.addresses(one)).map(|address| (identity(self.n).peer_id(), address)).collect()
    }
}

async fn both_pairs_connect(test: &str, named: impl Fn(&Machine, usize) -> Vec<Multiaddr>) {
    let (a, b) = (Machine::new(1), Machine::new(2));
    let mut listeners = Vec::new();
    for namespace in 0..2 {
        listeners.push(a.start(namespace, a.config(namespace), test).await);
    }
    let mut pairs = Vec::new();
    for (namespace, listener) in listeners.into_iter().enumerate() {
        let mut config = b.config(namespace);
        config.peers = named(&a, namespace);
        config.seen = a.seen();
        pairs.push((listener, b.start(namespace, config, test).await));
    }
    for (listener, caller) in &mut pairs {
        let connect = async {
            caller.connected(listener.peer).await;
            listener.connected(caller.peer).await;
        };
        tokio::time::timeout(Duration::from_secs(4), connect).await.expect("to connect within seconds");
        caller.signal(listener.peer, b"hello").await;
        assert_eq!(listener.signalled().await, (caller.peer, b"hello".to_vec()));
    }
}

#[tokio::test]
async fn two_namespaces_connect_at_the_addresses_of_their_tokens() {
    both_pairs_connect("twins-named", |a, namespace| a.addresses(namespace).to_vec()).await;
}

#[tokio::test]
async fn two_namespaces_connect_when_all_that_is_known_is_the_lan() {
    both_pairs_connect("twins-lan", |_, _| Vec::new()).await;
}

#[tokio::test]
async fn two_namespaces_connect_when_what_is_named_is_the_other_ones_address() {
    both_pairs_connect("twins-crossed", |a, namespace| a.addresses(1 - namespace).to_vec()).await;
}

#[tokio::test]
async fn who_comes_by_mistake_is_sent_away_and_the_connection_that_stands_is_not_disturbed() {
    let (a, b) = (Machine::new(1), Machine::new(2));
    let mut listener = a.start(0, a.config(0), "astray").await;
    let mut config = b.config(0);
    config.peers = a.addresses(0).to_vec();
    let mut caller = b.start(0, config, "astray").await;
    caller.connected(listener.peer).await;
    listener.connected(caller.peer).await;

    // The same machine's other namespace takes this one for its own.
    let mut config = b.config(1);
    config.seen = a.seen().into_iter().take(2).collect();
    config.peers = a.addresses(0).to_vec();
    let mut astray = b.start(1, config, "astray").await;
    for n in 0..200 {
        listener.signal(caller.peer, &[n]).await;
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    // No message is lost to a connection that was let in by mistake, and none brings down the one that stands.
    let mut arrived = BTreeSet::new();
    while arrived.len() < 200 {
        let next = |event| {
            assert!(!matches!(event, DriverEvent::Disconnected { .. }));
            let DriverEvent::Core(dht::Event::Signal { message, .. }) = event else { return None };
            Some(message)
        };
        arrived.insert(caller.wait("a message", next).await);
    }
    astray.gone(listener.peer).await;
    assert!(!astray.told().contains(&DriverEvent::Connected { peer: listener.peer }));
    let told = listener.told();
    assert!(!told.iter().any(|event| matches!(event, DriverEvent::Disconnected { .. })), "{told:?}");
}
