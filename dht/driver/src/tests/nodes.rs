//! Drivers that talk to each other over loopback.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use std::{fmt, io};

use dht::{Command, Event};
use redb::StorageBackend;
use redb::backends::InMemoryBackend;

use super::fake::{Fake, LOCATED, Node, config, free_port, identity};
use super::scratch;
use crate::config::DriverEvent;
use crate::machine::Machine;
use crate::store::Store;

async fn listener(n: u8, secret: &[u8], name: &str) -> Node {
    let mut node = Node::fake(config(n, free_port()), Fake::new(secret), name);
    node.listening().await;
    node
}

async fn caller(n: u8, secret: &[u8], to: &Node, name: &str) -> Node {
    let mut config = config(n, free_port());
    config.peers = vec![to.multiaddr()];
    let mut node = Node::fake(config, Fake::new(secret), name);
    node.listening().await;
    node
}

#[tokio::test]
async fn two_members_connect_and_both_may_speak_first() {
    let mut a = listener(1, b"same", "two-a").await;
    let mut b = caller(2, b"same", &a, "two-b").await;
    b.connected(a.peer).await;
    a.signal(b.peer, b"from a").await;
    a.connected(b.peer).await;
    b.signal(a.peer, b"from b").await;
    assert_eq!(b.signalled().await, (a.peer, b"from a".to_vec()));
    assert_eq!(a.signalled().await, (b.peer, b"from b".to_vec()));
}

#[tokio::test]
async fn a_contact_without_a_name_is_reached_over_tcp_too() {
    let mut a = listener(1, b"same", "unnamed-a").await;
    let mut config = config(2, free_port());
    config.peers = vec![format!("/dns4/localhost/tcp/{}", a.port).parse().unwrap()];
    let mut b = Node::fake(config, Fake::new(b"same"), "unnamed-b");
    b.connected(a.peer).await;
    a.connected(b.peer).await;
}

#[tokio::test]
async fn two_namespaces_with_one_identity_do_not_talk() {
    let mut a = listener(1, b"home", "twin-a").await;
    let mut twin = caller(2, b"work", &a, "twin-b").await;
    twin.gone(a.peer).await;
    let mut b = caller(2, b"home", &a, "twin-c").await;
    b.connected(a.peer).await;
    a.connected(b.peer).await;
    assert!(!twin.told().contains(&DriverEvent::Connected { peer: a.peer }));
}

#[tokio::test]
async fn a_message_to_nobody_comes_back_as_gone() {
    let mut a = listener(1, b"same", "nobody").await;
    let stranger = identity(9).peer_id();
    a.signal(stranger, b"hello?").await;
    a.gone(stranger).await;
}

#[tokio::test]
async fn a_peer_whose_address_nobody_named_is_found_by_asking_others() {
    let mut hub = listener(1, b"same", "find-hub").await;
    let mut a = caller(2, b"same", &hub, "find-a").await;
    let mut b = caller(3, b"same", &hub, "find-b").await;
    let is_candidate = |event| matches!(event, DriverEvent::ExternalCandidate(_)).then_some(());
    // Identified, so in the routing tables.
    a.wait("identify", is_candidate).await;
    b.wait("identify", is_candidate).await;
    hub.wait("identify", is_candidate).await;
    hub.wait("identify", is_candidate).await;
    a.signal(b.peer, b"found you").await;
    assert_eq!(b.signalled().await, (a.peer, b"found you".to_vec()));
}

/// Joiners that ask it are sent on there.
#[tokio::test]
async fn where_a_replica_is_is_known_also_if_it_has_dialled() {
    let mut fake = Fake::new(b"same");
    (fake.voters, fake.tells_where) = (vec![identity(2).peer_id()], true);
    let mut a = Node::fake(config(1, free_port()), fake, "where-a");
    a.listening().await;
    let b = caller(2, b"same", &a, "where-b").await;
    assert_eq!(b.peer, identity(2).peer_id());
    assert_eq!(a.signalled().await, (b.peer, LOCATED.to_vec()));
}

#[tokio::test]
async fn after_a_restart_a_node_finds_the_peers_it_knew() {
    let mut a = listener(1, b"same", "restart-a").await;
    let path = scratch("restart-b").join("store");
    let mut config_b = config(2, free_port());
    config_b.peers = vec![a.multiaddr()];
    let (store, _) = Store::create(&path, &[]).unwrap();
    let mut b = Node::start(config_b, Machine::Fake(Box::new(Fake::new(b"same"))), store);
    b.connected(a.peer).await;
    a.connected(b.peer).await;
    b.wait("identify", |event| matches!(event, DriverEvent::ExternalCandidate(_)).then_some(())).await;
    let peer = b.peer;
    b.stop().await;
    a.wait("its farewell", |event| (event == DriverEvent::Disconnected { peer }).then_some(())).await;
    let (store, _) = Store::open(&path).unwrap();
    let mut b = Node::start(config(2, free_port()), Machine::Fake(Box::new(Fake::new(b"same"))), store);
    b.connected(a.peer).await;
}

#[tokio::test]
async fn a_voter_that_comes_back_is_found_again() {
    let port = free_port();
    let mut a = Node::fake(config(1, port), Fake::new(b"same"), "voter-a");
    a.listening().await;
    let a_peer = a.peer;
    let mut config_b = config(2, free_port());
    config_b.peers = vec![a.multiaddr()];
    let mut fake = Fake::new(b"same");
    fake.voters = vec![a_peer];
    let mut b = Node::fake(config_b, fake, "voter-b");
    b.connected(a_peer).await;
    a.stop().await;
    b.wait("a farewell", |event| (event == DriverEvent::Disconnected { peer: a_peer }).then_some(())).await;
    let mut a = Node::fake(config(1, port), Fake::new(b"same"), "voter-a2");
    a.listening().await;
    b.connected(a_peer).await;
}

/// Three replicas of which two know only the third: each pair connects, and does so again when one comes back.
#[tokio::test]
async fn each_pair_of_replicas_connects_and_does_so_again_after_a_restart() {
    let ports = [free_port(), free_port(), free_port()];
    let peers = [1, 2, 3].map(|n| identity(n).peer_id());
    let start = |n: usize, life: u8, contact: Option<libp2p::Multiaddr>| {
        let mut fake = Fake::new(b"same");
        fake.voters = peers.to_vec();
        let mut config = config(u8::try_from(n).unwrap() + 1, ports[n]);
        config.peers = contact.into_iter().collect();
        Node::fake(config, fake, &format!("fellows-{n}-{life}"))
    };
    let first = start(0, 0, None);
    let contact = first.multiaddr();
    let mut nodes = vec![first, start(1, 0, Some(contact.clone())), start(2, 0, Some(contact))];
    for (n, node) in nodes.iter_mut().enumerate() {
        connected_to_all(node, peers.iter().filter(|peer| **peer != peers[n])).await;
    }
    for n in 0..3 {
        let node = nodes.remove(n);
        node.stop().await;
        for other in &mut nodes {
            let lost = |event| (event == DriverEvent::Disconnected { peer: peers[n] }).then_some(());
            other.wait("a farewell", lost).await;
        }
        // Long enough for several attempts in vain. It comes back with an empty store, and knows nobody's address.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let back = start(n, 1, None);
        nodes.insert(n, back);
        for (other, node) in nodes.iter_mut().enumerate() {
            let lost: Vec<_> = (0..3).filter(|m| *m != other && (other == n || *m == n)).map(|m| &peers[m]).collect();
            connected_to_all(node, lost.into_iter()).await;
        }
    }
}

async fn connected_to_all(node: &mut Node, peers: impl Iterator<Item = &libp2p::PeerId>) {
    let missing = std::cell::RefCell::new(peers.copied().collect::<std::collections::BTreeSet<_>>());
    if !missing.borrow().is_empty() {
        node.wait("a connection to each", |event| {
            if let DriverEvent::Connected { peer } = event {
                missing.borrow_mut().remove(&peer);
            }
            missing.borrow().is_empty().then_some(())
        })
        .await;
    }
}

/// A node that is no replica knows of twenty: it connects to as many as it keeps, and those stay.
#[tokio::test]
async fn a_node_with_many_replicas_connects_to_a_few_and_stays_with_them() {
    let mut replicas = Vec::new();
    for n in 0..20u8 {
        let mut fake = Fake::new(b"same");
        fake.voters = (0..20u8).map(|n| identity(100 + n).peer_id()).collect();
        let mut replica = Node::fake(config(100 + n, free_port()), fake, &format!("many-{n}"));
        replica.listening().await;
        replicas.push(replica);
    }
    let mut fake = Fake::new(b"same");
    fake.voters = replicas.iter().map(|replica| replica.peer).collect();
    let mut config = config(1, free_port());
    // It has all their addresses.
    config.seen = replicas.iter().map(|replica| (replica.peer, replica.multiaddr())).collect();
    let mut node = Node::fake(config, fake, "many");
    // What is seen on the LAN is connected to once, wanted or not. In a test, idle connections end after 3 s; then it
    // comes to rest. A node that dials in circles never does.
    let came = |event: &DriverEvent| matches!(event, DriverEvent::Connected { .. });
    let went = |event: &DriverEvent| matches!(event, DriverEvent::Disconnected { .. });
    let count = |events: &[DriverEvent], wanted: fn(&DriverEvent) -> bool| events.iter().filter(|e| wanted(e)).count();
    let (mut told, mut quiet) = (Vec::new(), 0);
    // Some 15 s, but on a busy machine replicas that have not found each other yet come back to ask the node for others.
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let news = node.told();
        quiet = if news.iter().any(|event| came(event) || went(event)) { 0 } else { quiet + 1 };
        told.extend(news);
        if quiet == 10 && count(&told, went) > 0 {
            break;
        }
    }
    assert!(quiet >= 10, "it does not come to rest: {told:?}");
    assert!(count(&told, went) > 0, "{told:?}");
    assert!(count(&told, came) - count(&told, went) >= 8, "{told:?}");
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let a = listener(1, b"same", "port-a").await;
    let b = Node::fake(config(2, a.port), Fake::new(b"same"), "port-b");
    let (result, _) = b.ended().await;
    let error = result.unwrap_err().to_string();
    assert!(error.contains(&format!("port {} is in use", a.port)), "{error}");
}

#[tokio::test]
async fn the_usual_configuration_listens_on_all_interfaces_by_both_protocols() {
    let mut config = config(1, free_port());
    config.listen = vec![std::net::Ipv4Addr::UNSPECIFIED.into(), std::net::Ipv6Addr::UNSPECIFIED.into()];
    config.mdns = true;
    let mut node = Node::fake(config, Fake::new(b"same"), "usual");
    node.listening().await;
}

/// A disk whose syncs can be held up, or fail.
#[derive(Clone)]
struct SlowDisk {
    inner: Arc<InMemoryBackend>,
    state: Arc<(Mutex<Sync>, Condvar)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Sync {
    Works,
    Hangs,
    Fails,
}

impl SlowDisk {
    fn new() -> Self {
        Self { inner: Arc::new(InMemoryBackend::new()), state: Arc::new((Mutex::new(Sync::Works), Condvar::new())) }
    }

    fn set(&self, sync: Sync) {
        *self.state.0.lock().unwrap() = sync;
        self.state.1.notify_all();
    }
}

impl fmt::Debug for SlowDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SlowDisk")
    }
}

impl StorageBackend for SlowDisk {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }
    fn set_len(&self, length: u64) -> io::Result<()> {
        self.inner.set_len(length)
    }
    fn sync_data(&self) -> io::Result<()> {
        let (lock, changed) = &*self.state;
        let state = changed.wait_while(lock.lock().unwrap(), |state| *state == Sync::Hangs).unwrap();
        match *state {
            Sync::Works | Sync::Hangs => Ok(()),
            Sync::Fails => Err(io::Error::other("no space left on device")),
        }
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }
}

async fn pair_with_slow_disk(name: &str) -> (Node, Node, SlowDisk) {
    let mut a = listener(1, b"same", name).await;
    let mut config_b = config(2, free_port());
    config_b.peers = vec![a.multiaddr()];
    let disk = SlowDisk::new();
    let (store, _) = Store::on_backend(disk.clone()).unwrap();
    let mut b = Node::start(config_b, Machine::Fake(Box::new(Fake::new(b"same"))), store);
    b.connected(a.peer).await;
    a.connected(b.peer).await;
    b.wait("identify", |event| matches!(event, DriverEvent::ExternalCandidate(_)).then_some(())).await;
    (a, b, disk)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_leaves_only_when_what_stands_before_it_is_on_disk() {
    let (mut a, b, disk) = pair_with_slow_disk("order").await;
    disk.set(Sync::Hangs);
    b.signal(a.peer, b"promise").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let early = a.told();
    disk.set(Sync::Works);
    assert!(!early.iter().any(|event| matches!(event, DriverEvent::Core(Event::Signal { .. }))), "{early:?}");
    assert_eq!(a.signalled().await.1, b"promise");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_disk_fails_nothing_is_sent_and_the_driver_ends() {
    let (mut a, b, disk) = pair_with_slow_disk("full").await;
    let b_peer = b.peer;
    disk.set(Sync::Fails);
    b.command(Command::Signal { to: a.peer, message: b"promise".to_vec() }).await;
    let (result, events) = b.ended().await;
    assert!(result.unwrap_err().to_string().contains("no space left on device"));
    assert!(matches!(events.last(), Some(DriverEvent::Fatal(_))), "{events:?}");
    a.wait("its end", |event| (event == DriverEvent::Disconnected { peer: b_peer }).then_some(())).await;
    assert!(!a.told().iter().any(|event| matches!(event, DriverEvent::Core(Event::Signal { .. }))));
}
