//! Words between members that are not connected with each other.

use super::net::{Net, Packet, none, secs};
use crate::codec::Wire;
use crate::command::Command;
use crate::env::Rules;
use crate::event::Event;
use crate::letter::Letter;
use crate::membership::fixture::{key, peer};
use crate::message::Message;

const A: u8 = 10;
const B: u8 = 11;

/// Both are connected with the founder, and not with each other.
fn apart() -> Net {
    let mut net = Net::new(1, &[A, B], Rules { views_change: false, ..Rules::ALL });
    for (one, other) in [(A, B), (B, A)] {
        let now = net.now(one);
        net.live(one).handle_gone(peer(other), now);
        net.drain(one);
    }
    net.settle();
    net
}

fn signal(net: &mut Net, from: u8, to: u8) {
    net.command(from, |_| Command::Signal { to: peer(to), message: b"here I am".to_vec() });
}

fn heard(net: &Net, node: u8) -> Vec<(u8, Vec<u8>)> {
    let of = |event: &Event| match event {
        Event::Signal { from, message } => {
            [1, A, B].into_iter().find(|n| peer(*n) == *from).map(|n| (n, message.clone()))
        }
        _ => None,
    };
    net.nodes[&node].events.iter().filter_map(of).collect()
}

fn drops(net: &Net, node: u8, reason: &str) -> u64 {
    let drops = net.nodes[&node].live.as_ref().unwrap().drops();
    drops.iter().filter(|(why, _)| why.as_str() == reason).map(|(_, count)| *count).sum()
}

fn is_direct(packet: &Packet) -> bool {
    matches!(packet.message, Message::Signal { .. })
}

#[test]
fn who_is_not_connected_is_told_by_way_of_a_voter() {
    let mut net = apart();
    signal(&mut net, A, B);
    // It is dialled, too; behind a translator that comes to nothing.
    assert_eq!(net.take(is_direct).len(), 1);
    net.settle();
    assert_eq!(heard(&net, B), [(A, b"here I am".to_vec())]);
    // The answer goes the same way.
    signal(&mut net, B, A);
    net.take(is_direct);
    net.settle();
    assert_eq!(heard(&net, A), [(B, b"here I am".to_vec())]);
}

#[test]
fn who_is_connected_is_told_directly_and_so_is_who_has_nobody_between() {
    let mut net = apart();
    signal(&mut net, A, 1);
    assert!(net.wire.iter().all(is_direct));
    net.settle();
    signal(&mut net, 1, B);
    net.settle();
    assert_eq!((heard(&net, 1).len(), heard(&net, B).len()), (1, 1));
}

#[test]
fn nothing_is_passed_on_to_whom_there_is_no_connection() {
    let mut net = apart();
    let now = net.now(1);
    net.live(1).handle_gone(peer(B), now);
    net.drain(1);
    signal(&mut net, A, B);
    net.settle();
    assert_eq!((heard(&net, B), drops(&net, 1, "letter-to-no-neighbour")), (vec![], 1));
}

#[test]
fn a_letter_proves_who_wrote_it_and_whoever_passes_it_on_is_believed_nothing() {
    let mut net = apart();
    signal(&mut net, A, B);
    let passed = net.take(|packet| matches!(packet.message, Message::Pass { .. }));
    let Message::Pass { letter, .. } = &passed[0].message else { unreachable!() };
    let mut changed = Letter::from_bytes(letter).unwrap();
    changed.credential.data_key.x25519[0] ^= 1;
    let to_b = |from: u8, letter: Vec<u8>| {
        let message = Message::Passed { from: key(from).public(), letter };
        Packet { from: 1, to: B, message }
    };
    for forged in [
        to_b(1, letter.clone()),
        to_b(B, letter.clone()),
        to_b(A, changed.to_bytes()),
        to_b(A, letter[..letter.len() - 1].to_vec()),
    ] {
        net.deliver(&forged);
    }
    net.run(secs(1), none);
    assert_eq!((heard(&net, B), drops(&net, B, "forged-letter")), (vec![], 4));
    net.deliver(&to_b(A, letter.clone()));
    net.run(secs(1), none);
    assert_eq!(heard(&net, B).len(), 1);
}
