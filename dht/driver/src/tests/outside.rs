//! What strangers see: whether a peer is reached from a new port, and what Kademlia has.

use std::time::Duration;

use futures::StreamExt;
use libp2p::swarm::SwarmEvent;

use super::fake::{DIAL_BACK, Fake, Node, PUBLISH, SEEK, config, free_port};
use super::gate::Outsider;
use crate::address::socket_addr_of;
use crate::config::{DriverEvent, Loopback};

async fn pair(name: &str) -> (Node, Node) {
    let mut a = Node::fake(config(1, free_port()), Fake::new(b"same"), &format!("{name}-a"));
    a.listening().await;
    let mut config = config(2, free_port());
    config.peers = vec![a.multiaddr()];
    let mut b = Node::fake(config, Fake::new(b"same"), &format!("{name}-b"));
    b.listening().await;
    b.connected(a.peer).await;
    a.connected(b.peer).await;
    (a, b)
}

#[tokio::test]
async fn a_peer_that_listens_is_dialled_back_and_what_stands_goes_on() {
    let (mut a, mut b) = pair("back").await;
    // At once, before it has said where it listens.
    a.signal(b.peer, DIAL_BACK).await;
    assert_eq!(a.signalled().await, (b.peer, b"reached".to_vec()));
    for _ in 0..20 {
        a.signal(b.peer, DIAL_BACK).await;
        a.signal(b.peer, b"meanwhile").await;
        assert_eq!(a.signalled().await, (b.peer, b"reached".to_vec()));
        assert_eq!(b.signalled().await, (a.peer, b"meanwhile".to_vec()));
        b.signal(a.peer, b"and back").await;
        assert_eq!(a.signalled().await, (b.peer, b"and back".to_vec()));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    for node in [&mut a, &mut b] {
        let told = node.told();
        let disturbed = |event: &DriverEvent| {
            matches!(event, DriverEvent::Disconnected { .. } | DriverEvent::Core(dht::Event::PeerDenied { .. }))
        };
        assert!(!told.iter().any(disturbed), "{told:?}");
    }
}

#[tokio::test]
async fn a_peer_that_cannot_be_reached_is_said_not_to_be() {
    // The one that is to dial takes no loopback address from others: it has none of the other that it could use.
    let mut blind = config(1, free_port());
    blind.loopback = Loopback::Refuse;
    let mut a = Node::fake(blind, Fake::new(b"same"), "deaf-a");
    a.listening().await;
    let mut caller = config(2, free_port());
    caller.peers = vec![a.multiaddr()];
    let mut b = Node::fake(caller, Fake::new(b"same"), "deaf-b");
    b.connected(a.peer).await;
    a.connected(b.peer).await;
    a.signal(b.peer, DIAL_BACK).await;
    assert_eq!(a.signalled().await, (b.peer, b"not reached".to_vec()));
    b.signal(a.peer, b"still here").await;
    assert_eq!(a.signalled().await, (b.peer, b"still here".to_vec()));
}

#[tokio::test]
async fn a_peer_that_only_calls_is_not_reached_where_it_calls_from() {
    let mut node = Node::fake(config(1, free_port()), Fake::new(b"same"), "caller");
    node.listening().await;
    let mut caller = Outsider::member(&node, b"same", None).await;
    let peer = *caller.swarm.local_peer_id();
    node.connected(peer).await;
    node.signal(peer, DIAL_BACK).await;
    tokio::select! {
        told = node.signalled() => assert_eq!(told, (peer, b"not reached".to_vec())),
        () = async { loop { caller.swarm.select_next_some().await; } } => {}
    }
    assert!(!node.told().contains(&DriverEvent::Disconnected { peer }));
}

/// What the peer sees: one connection from a port that it does not know, on which nothing is said, closed at once.
#[tokio::test]
async fn a_peer_is_dialled_back_from_a_new_port_where_it_is_seen_and_nothing_is_said() {
    let mut node = Node::fake(config(1, free_port()), Fake::new(b"same"), "new-port");
    node.listening().await;
    let listen = format!("/ip4/127.0.0.1/udp/{}/quic-v1", free_port()).parse().unwrap();
    let mut member = Outsider::member(&node, b"same", Some(listen)).await;
    let peer = *member.swarm.local_peer_id();
    node.connected(peer).await;
    node.signal(peer, DIAL_BACK).await;
    let visit = async {
        let (mut from, mut made, mut said) = (None, None, 0);
        loop {
            #[expect(clippy::wildcard_enum_match_arm, reason = "libp2p's enum")]
            match member.swarm.select_next_some().await {
                SwarmEvent::IncomingConnection { send_back_addr, .. } => {
                    from = socket_addr_of(&send_back_addr);
                }
                SwarmEvent::ConnectionEstablished { peer_id, connection_id, .. } => {
                    assert_eq!(peer_id, node.peer);
                    made = Some(connection_id);
                }
                SwarmEvent::ConnectionClosed { connection_id, .. } if made == Some(connection_id) => {
                    return (from.unwrap(), said);
                }
                // It was closed before this end was through with its half of the handshake.
                SwarmEvent::IncomingConnectionError { .. } => return (from.unwrap(), said),
                SwarmEvent::Behaviour(_) => said += 1,
                other => panic!("{other:?}"),
            }
        }
    };
    let (from, said) = tokio::time::timeout(Duration::from_secs(9), visit).await.expect("a visit");
    assert_ne!(from.port(), node.port);
    assert_eq!(said, 0);
    assert_eq!(node.signalled().await, (peer, b"reached".to_vec()));
    assert!(!node.told().contains(&DriverEvent::Disconnected { peer }));
}

#[tokio::test]
async fn a_hint_that_one_published_another_finds() {
    let mut hub = Node::fake(config(1, free_port()), Fake::new(b"same"), "seek-hub");
    hub.listening().await;
    let mut others = Vec::new();
    for n in 2..6 {
        let mut config = config(n, free_port());
        config.peers = vec![hub.multiaddr()];
        let mut fake = Fake::new(b"same");
        fake.me = super::fake::identity(n).peer_id().to_bytes();
        let mut node = Node::fake(config, fake, &format!("seek-{n}"));
        node.listening().await;
        node.wait("identify", |event| matches!(event, DriverEvent::ExternalCandidate(_)).then_some(())).await;
        hub.wait("identify", |event| matches!(event, DriverEvent::ExternalCandidate(_)).then_some(())).await;
        others.push(node);
    }
    let hub_peer = hub.peer;
    others[0].signal(hub_peer, &[PUBLISH, b"view"].concat()).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    others[3].signal(hub_peer, &[SEEK, b"view"].concat()).await;
    assert_eq!(others[3].signalled().await.1, b"view=view");
    // Who publishes it keeps it, too, and all have the same, so it is told once.
    others[0].signal(hub_peer, &[SEEK, b"view"].concat()).await;
    assert_eq!(others[0].signalled().await.1, b"view=view");
    tokio::time::sleep(Duration::from_millis(300)).await;
    for node in &mut others {
        let told = node.told();
        assert!(!told.iter().any(|event| matches!(event, DriverEvent::Core(dht::Event::Signal { .. }))), "{told:?}");
    }
}
