//! Datagrams in streams between two drivers, over TCP.

use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use tokio::sync::mpsc;

use super::fake::{Fake, Node, config, free_port};
use crate::{NotSent, Streams};

struct Party {
    node: Node,
    streams: Streams,
    came: mpsc::UnboundedReceiver<(PeerId, Vec<u8>)>,
}

async fn party(n: u8, contact: Option<&Node>, name: &str) -> Party {
    let (sender, came) = mpsc::unbounded_channel();
    let deliver = move |from: PeerId, datagram: &mut [u8]| {
        let _ = sender.send((from, datagram.to_vec()));
    };
    let (streams, server) = Streams::new(Arc::new(deliver));
    let mut config = config(n, free_port());
    config.streams = Some(server);
    config.peers =
        contact.map(|contact| format!("/ip4/127.0.0.1/tcp/{}", contact.port).parse().unwrap()).into_iter().collect();
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
