use std::collections::{BTreeMap, BTreeSet};

use libp2p_identity::PeerId;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::Resolution;
use crate::fuzz::peer;

#[derive(Clone, Debug)]
enum Operation {
    SetHost(u8),
    RemoveHost(u8),
    Permit(u8, u8),
    Forbid(u8, u8),
    ForbidAll(u8),
    Frame { from: u8, to: u8 },
    Packet { peer: u8, from: u8, to: u8 },
    Resolved(u8, Option<Resolution>),
    Pass(u16),
}

fn operations() -> impl Strategy<Value = Operation> {
    let ip = || 2u8..8;
    let who = || 1u8..4;
    prop_oneof![
        2 => ip().prop_map(Operation::SetHost),
        1 => ip().prop_map(Operation::RemoveHost),
        2 => (who(), ip()).prop_map(|(p, i)| Operation::Permit(p, i)),
        1 => (who(), ip()).prop_map(|(p, i)| Operation::Forbid(p, i)),
        1 => who().prop_map(Operation::ForbidAll),
        8 => (ip(), ip()).prop_map(|(from, to)| Operation::Frame { from, to }),
        8 => (who(), ip(), ip()).prop_map(|(peer, from, to)| Operation::Packet { peer, from, to }),
        2 => (ip(), who()).prop_map(|(i, p)| Operation::Resolved(i, Some(Resolution::Peer(peer(p))))),
        1 => ip().prop_map(|i| Operation::Resolved(i, Some(Resolution::Absent))),
        1 => ip().prop_map(|i| Operation::Resolved(i, None)),
        3 => (0u16..4000).prop_map(Operation::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn nobody_spoofs_and_every_loss_has_a_reason(operations in vec(operations(), 1..120)) {
        let mut world = World::new();
        for operation in operations {
            world.apply(operation);
            world.check();
        }
        world.bench.pass(100 * SECOND);
        world.check();
        prop_assert_eq!(world.bench.bridge.poll_timeout(), None);
        let limited = world.bench.dropped(DropReason::IcmpLimited);
        let dropped: u64 = world.bench.bridge.drops().values().sum();
        prop_assert_eq!(world.entered, world.left + dropped - limited);
    }
}

/// The bridge, and what anybody could know of who has which address.
struct World {
    bench: Bench,
    hosts: BTreeSet<Ipv4Addr>,
    owners: BTreeMap<Ipv4Addr, PeerId>,
    entered: u64,
    left: u64,
}

impl World {
    fn new() -> Self {
        let bench = Bench::new();
        Self { bench, hosts: [HOST_IP].into(), owners: BTreeMap::new(), entered: 0, left: 0 }
    }

    fn apply(&mut self, operation: Operation) {
        let bridge = &mut self.bench.bridge;
        match operation {
            Operation::SetHost(ip) => {
                self.hosts.insert(member(ip));
                bridge.set_host(member(ip), mac(ip));
            }
            Operation::RemoveHost(ip) => {
                self.hosts.remove(&member(ip));
                bridge.remove_host(member(ip));
            }
            Operation::Permit(who, ip) => {
                self.owners.insert(member(ip), peer(who));
                bridge.permit(peer(who), member(ip));
            }
            Operation::Forbid(who, ip) => {
                self.owners.retain(|owned, owner| (*owned, *owner) != (member(ip), peer(who)));
                bridge.forbid(peer(who), member(ip));
            }
            Operation::ForbidAll(who) => {
                self.owners.retain(|_, owner| *owner != peer(who));
                bridge.forbid_all(peer(who));
            }
            Operation::Frame { from, to } => {
                self.entered += 1;
                let packet = udp((member(from), 1), (member(to), 2), &[]);
                self.bench.hear(&ethernet(GATEWAY, mac(from), 0x0800, &packet));
            }
            Operation::Packet { peer: who, from, to } => {
                self.entered += 1;
                let packet = udp((member(from), 1), (member(to), 2), &[who]);
                bridge.handle_packet(peer(who), &packet, PLAIN, self.bench.now);
            }
            Operation::Resolved(ip, answer) => {
                bridge.handle_resolved(member(ip), answer.unwrap_or(Resolution::Unknown), self.bench.now);
            }
            Operation::Pass(milliseconds) => self.bench.pass(Duration::from_millis(milliseconds.into())),
        }
    }

    /// What leaves is from whom it says, and goes to whom it should.
    fn check(&mut self) {
        for out in self.bench.packets() {
            self.left += 1;
            let (from, to) = addresses(&out.packet);
            assert!(self.hosts.contains(&from) && !self.hosts.contains(&to));
            assert_eq!(self.bench.bridge.local().route(to), Some(out.peer));
            assert!(self.owners.get(&to).is_none_or(|owner| *owner == out.peer));
        }
        for frame in self.bench.frames() {
            let (from, to) = addresses(&frame[14..]);
            assert!(self.hosts.contains(&to));
            if frame[23] == 17 {
                self.left += 1;
                assert!(!self.hosts.contains(&from));
                assert_eq!(self.owners.get(&from), Some(&peer(frame[42])));
            }
        }
        for event in self.bench.events() {
            if let Event::Resolve { ip } = event {
                assert!(!self.hosts.contains(&ip));
            }
        }
    }
}

fn mac(ip: u8) -> EthernetAddress {
    EthernetAddress([2, 0, 0, 0, 0, ip])
}

fn addresses(packet: &[u8]) -> (Ipv4Addr, Ipv4Addr) {
    let view = Ipv4Packet::new_checked(packet).unwrap();
    (view.src_addr(), view.dst_addr())
}
