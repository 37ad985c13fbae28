//! Datagrams in streams between two drivers, over TCP.

use std::sync::Arc;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::fake::{Fake, Node, config, free_port};
use crate::{NotSent, Streams};

struct Party {
    node: Node,
    streams: Streams,
    came: mpsc::Receiver<(PeerId, Vec<u8>)>,
}

async fn party(n: u8, contact: Option<&Node>, name: &str) -> Party {
    let contact = contact.map(|contact| format!("/ip4/127.0.0.1/tcp/{}", contact.port).parse().unwrap());
    start(n, contact, name).await
}

async fn start(n: u8, contact: Option<Multiaddr>, name: &str) -> Party {
    let (sender, came) = mpsc::channel(1024);
    let deliver = move |from: PeerId, datagram: &mut [u8]| {
        sender.try_send((from, datagram.to_vec())).unwrap();
    };
    let (streams, server) = Streams::new(Arc::new(deliver));
    let mut config = config(n, free_port());
    config.streams = Some(server);
    config.peers = contact.into_iter().collect();
    let mut node = Node::fake(config, Fake::new(b"same"), name);
    node.listening().await;
    Party { node, streams, came }
}

/// Sends until there is room; a queue that overflows is no failure here.
async fn send(streams: &Streams, to: PeerId, datagram: &[u8]) {
    loop {
        match streams.send(to, datagram) {
            Ok(()) => return,
            Err(NotSent::Full) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(error) => panic!("{error:?}"),
        }
    }
}

async fn next(party: &mut Party) -> (PeerId, Vec<u8>) {
    tokio::time::timeout(Duration::from_secs(10), party.came.recv()).await.expect("in time").unwrap()
}

#[tokio::test]
async fn datagrams_go_both_ways_whole_and_in_order() {
    let mut a = party(1, None, "stream-a").await;
    let mut b = party(2, Some(&a.node), "stream-b").await;
    b.node.connected(a.node.peer).await;
    a.node.connected(b.node.peer).await;
    let sizes = [48, 1500, 0, 9000, 65_535];
    for (n, size) in (0..200u8).zip(sizes.into_iter().cycle()) {
        send(&b.streams, a.node.peer, &vec![n; size]).await;
    }
    for (n, size) in (0..200u8).zip(sizes.into_iter().cycle()) {
        let (from, datagram) = next(&mut a).await;
        assert!(from == b.node.peer && datagram == vec![n; size], "number {n}");
    }
    send(&a.streams, b.node.peer, b"back").await;
    assert_eq!(next(&mut b).await, (a.node.peer, b"back".to_vec()));
}

#[tokio::test]
async fn a_stream_is_opened_anew_once_the_peer_is_back() {
    let mut a = party(1, None, "stream-again-a").await;
    let mut b = party(2, Some(&a.node), "stream-again-b").await;
    b.node.connected(a.node.peer).await;
    a.node.connected(b.node.peer).await;
    send(&a.streams, b.node.peer, b"first").await;
    assert_eq!(next(&mut b).await.1, b"first");
    let peer = b.node.peer;
    b.node.stop().await;
    let gone = |event| (event == crate::DriverEvent::Disconnected { peer }).then_some(());
    a.node.wait("the end", gone).await;
    // To nobody: it is dropped, and nothing of it stays.
    for _ in 0..1000 {
        let _ = a.streams.send(peer, b"lost");
        tokio::task::yield_now().await;
    }
    let mut b = party(2, Some(&a.node), "stream-again-b2").await;
    a.node.connected(peer).await;
    send(&a.streams, peer, b"second").await;
    assert_eq!(next(&mut b).await.1, b"second");
}

/// Passes on what comes to one port to a node: TCP for ever, UDP, of one sender, until it is stopped.
async fn middle(node: &Node) -> (u16, JoinHandle<()>) {
    let (port, to) = (free_port(), node.addr());
    let tcp = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = tcp.accept().await {
            let mut far = TcpStream::connect(to).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    let udp = UdpSocket::bind(("127.0.0.1", port)).await.unwrap();
    let far = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    far.connect(to).await.unwrap();
    let passing = tokio::spawn(async move {
        let (mut out, mut back, mut sender) = ([0; 65_536], [0; 65_536], None);
        loop {
            tokio::select! {
                Ok((length, from)) = udp.recv_from(&mut out) => {
                    sender = Some(from);
                    far.send(&out[..length]).await.unwrap();
                }
                Ok(length) = far.recv(&mut back) => {
                    udp.send_to(&back[..length], sender.unwrap()).await.unwrap();
                }
            }
        }
    });
    (port, passing)
}

#[tokio::test]
async fn a_connection_over_which_udp_passes_no_more_makes_way_for_tcp() {
    let mut a = party(1, None, "stream-quic-a").await;
    let (port, udp) = middle(&a.node).await;
    let quic = format!("/ip4/127.0.0.1/udp/{port}/quic-v1/p2p/{}", a.node.peer).parse().unwrap();
    let mut b = start(2, Some(quic), "stream-quic-b").await;
    b.node.connected(a.node.peer).await;
    a.node.connected(b.node.peer).await;
    udp.abort();
    send(&b.streams, a.node.peer, b"first").await;
    assert_eq!(next(&mut a).await, (b.node.peer, b"first".to_vec()));
    send(&a.streams, b.node.peer, b"back").await;
    assert_eq!(next(&mut b).await.1, b"back");
}
