//! What is sent first after a rest arrives, whatever translators have forgotten.

use std::cell::Cell;
use std::rc::Rc;

use super::net::{Net, ms, secs};
use crate::limits::QUEUE_LEN;
use crate::{Endpoint, Event};

/// Nodes 0 and 1 have a direct way, and a third one would carry; then a minute passes. While the cell says so, nothing passes between
/// the two.
fn rested() -> (Net, Rc<Cell<bool>>) {
    let mut net = Net::new(3);
    let forgotten = Rc::new(Cell::new(false));
    let (a, b, cut) = (net.nodes[0].addr, net.nodes[1].addr, Rc::clone(&forgotten));
    net.filter = Box::new(move |flight| !cut.get() || ![(a, b), (b, a)].contains(&(flight.from, flight.to)));
    net.send(0, 1, b"first");
    net.run(secs(60));
    assert_eq!(net.view(0, 1).endpoint, Some(Endpoint::Direct(b)));
    net.nodes.iter_mut().for_each(|node| node.events.clear());
    net.seen.clear();
    (net, forgotten)
}

/// Time passes, and nodes 0 and 1 are helped as the engine would when they ask.
fn run_helped(net: &mut Net, tenths: u32) {
    for _ in 0..tenths {
        net.run(ms(100));
        for (a, b) in [(0, 1), (1, 0)] {
            let asks = |(_, event): &(_, Event)| matches!(event, Event::NeedPeer { .. });
            let before = net.nodes[a].events.len();
            net.nodes[a].events.retain(|event| !asks(event));
            if net.nodes[a].events.len() < before {
                net.open(a, 2, b);
                net.open(b, 2, a);
            }
        }
    }
}

#[test]
fn where_nothing_was_forgotten_it_leaves_at_once_and_once() {
    let (mut net, _) = rested();
    net.send_fast(0, 1, b"x");
    net.run(ms(10));
    assert_eq!(net.nodes[1].packets(), [b"x"], "without waiting for anything");
    net.run(secs(5));
    assert_eq!(net.nodes[1].packets(), [b"x"]);
    // Nobody knows what came last within the second, so there is another echo.
    assert!(net.seen.len() <= 5, "it, an echo and the answer: {:?}", net.seen);
    net.seen.clear();
    for _ in 0..100 {
        net.send_fast(0, 1, b"y");
        net.run(ms(500));
    }
    let others = net.seen.iter().filter(|flight| flight.from == net.nodes[0].addr).count() - 100;
    assert!(others <= 1, "what is answered by keepalives is doubted once: {others}");
}

#[test]
fn where_all_was_forgotten_it_goes_another_way_within_a_second() {
    let (mut net, forgotten) = rested();
    forgotten.set(true);
    net.send_fast(0, 1, b"x");
    net.send_fast(0, 1, b"y");
    run_helped(&mut net, 10);
    assert_eq!(net.nodes[1].packets(), [b"x", b"y"]);
    net.send_fast(1, 0, b"z");
    run_helped(&mut net, 50);
    assert_eq!(net.nodes[1].packets(), [b"x", b"y"], "and only once");
    assert_eq!(net.nodes[0].packets(), [b"z"]);
}

#[test]
fn where_it_was_lost_it_is_sent_again_on_the_same_way() {
    let (mut net, forgotten) = rested();
    forgotten.set(true);
    net.send_fast(0, 1, b"x");
    net.run(ms(200));
    forgotten.set(false);
    net.run(ms(300));
    assert_eq!(net.nodes[1].packets(), [b"x"]);
}

#[test]
fn only_so_many_copies_are_kept_and_not_for_long() {
    let (mut net, forgotten) = rested();
    forgotten.set(true);
    for n in 0..100u8 {
        net.send_fast(0, 1, &[n]);
    }
    run_helped(&mut net, 20);
    let first: Vec<Vec<u8>> = (0..100u8).take(QUEUE_LEN).map(|n| vec![n]).collect();
    assert_eq!(net.nodes[1].packets(), first);

    let (mut net, forgotten) = rested();
    forgotten.set(true);
    net.send_fast(0, 1, b"x");
    net.run(secs(4));
    forgotten.set(false);
    run_helped(&mut net, 100);
    assert!(net.nodes[1].packets().is_empty(), "nobody waits for it any more");
}
