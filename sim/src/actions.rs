//! What is done to a world from outside: people, failures, and guests that want something.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use dht::{ClaimError, ClientId, Command, CommandId, Hold, Lease};
use engine::{Reply, Request};
use rand::Rng;

use crate::disk::Unsynced;
use crate::driver::Input;
use crate::edges::GateId;
use crate::lie::Lie;
use crate::network::Quality;
use crate::node::{FIRST_CLAIM, NodeId};
use crate::probe::{self, Probe};
use crate::setup::NAMESPACE;
use crate::world::{Failure, World};

/// A ping under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PingId {
    /// Who asks.
    pub node: NodeId,
    /// Its number there.
    pub number: u32,
}

/// How much of a machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process, by a signal.
    Process,
    /// The whole machine, by a power cut: its clocks begin anew.
    Machine,
}

impl World {
    /// Ends a process without a word.
    pub fn crash(&mut self, id: NodeId, how: Crash, unsynced: Unsynced) {
        if self.node(id).process.is_none() {
            return;
        }
        self.log.note(self.now(), id, "crash", &[], || format!("{how:?}, unsynced {unsynced:?}"));
        let end = self.process_end(id);
        self.with(id, |node, _| node.crash(unsynced));
        self.watch.ended(id, self.now());
        self.overlay_ended(end, how == Crash::Process);
        if how == Crash::Machine {
            let mut boot = [0; 16];
            self.rng.fill_bytes(&mut boot);
            self.with(id, |node, at| node.clock.reboot(boot, at));
        }
    }

    /// Starts a process from what is on its disk.
    pub fn start(&mut self, id: NodeId) {
        self.log.note(self.now(), id, "start", &[], String::new);
        self.with(id, |node, at| node.start(at));
    }

    /// Suspends a machine.
    pub fn sleep(&mut self, id: NodeId) {
        self.log.note(self.now(), id, "sleep", &[], String::new);
        self.with(id, |node, at| node.clock.sleep(at));
        self.overlay_doubt();
    }

    /// Resumes it.
    pub fn wake(&mut self, id: NodeId) {
        self.log.note(self.now(), id, "wake", &[], String::new);
        self.with(id, |node, at| {
            node.clock.wake(at);
            // Packets may be faster than timers.
            node.pump(at);
            node.call(at);
        });
        self.watch.check_all(&self.nodes, self.now());
    }

    /// Has the overlay thread of a machine do nothing for so long, while its packet threads go on.
    pub fn stick(&mut self, id: NodeId, time: Duration) {
        self.log.note(self.now(), id, "stuck", &[], || format!("for {time:?}"));
        let until = self.now() + time;
        self.with(id, |node, _| node.stuck_until = until);
    }

    /// Cuts these machines off from all others, which stay connected among themselves.
    pub fn isolate(&mut self, inside: &[NodeId]) {
        self.log.note(self.now(), NodeId(0), "partition", &[], || format!("{inside:?}"));
        for a in self.nodes.iter().map(|node| node.id).filter(|id| inside.contains(id)) {
            for b in self.nodes.iter().map(|node| node.id).filter(|id| !inside.contains(id)) {
                self.network.cut(a, b);
                self.network.cut(b, a);
            }
        }
        self.overlay_doubt();
    }

    /// Cuts one way between two machines, not the other.
    pub fn cut_one_way(&mut self, from: NodeId, to: NodeId) {
        self.log.note(self.now(), from, "one-way cut", &[], || format!("to {to}"));
        self.network.cut(from, to);
        self.overlay_doubt();
    }

    /// Heals all partitions.
    pub fn heal(&mut self) {
        self.log.note(self.now(), NodeId(0), "heal", &[], String::new);
        self.network.heal();
    }

    /// Makes all links of another quality.
    pub fn set_quality(&mut self, quality: Quality) {
        self.log.note(self.now(), NodeId(0), "links", &[], || format!("{quality:?}"));
        self.network.set_quality(quality);
    }

    /// Gives a machine another address on the underlay.
    pub fn roam(&mut self, id: NodeId) {
        let old = self.node(id).underlay;
        let new = SocketAddr::new(old.ip(), old.port() + 1);
        self.log.note(self.now(), id, "roam", &[], || format!("to {new}"));
        self.with(id, |node, at| node.set_underlay(new, at));
    }

    /// A gate forgets everything, and with it all connections through it, of which no end is told. With `moves` it comes back with
    /// another address; if it moves again, with the one before.
    pub fn reboot_gate(&mut self, gate: GateId, moves: bool) {
        self.log.note(self.now(), NodeId(0), "gate-reboot", &[u8::from(moves)], || format!("{gate:?}, moves: {moves}"));
        self.edges.reboot(gate, moves);
        self.overlay_doubt();
    }

    /// A machine is plugged in behind another gate, and knows its new address there.
    pub fn move_to(&mut self, id: NodeId, gate: GateId) {
        let new = self.edges.settle(id, gate);
        self.log.note(self.now(), id, "move", &[], || format!("to {new}"));
        self.with(id, |node, at| node.set_underlay(new, at));
        self.overlay_doubt();
    }

    /// Has a machine lie about what it carries, or carry again as it should.
    pub fn lie(&mut self, id: NodeId, lie: Option<Lie>) {
        self.log.note(self.now(), id, "lie", &[], || format!("{lie:?}"));
        self.with(id, |node, _| node.lie = lie);
    }

    /// One ping from a machine's guest.
    pub fn ping(&mut self, node: NodeId, to: Ipv4Addr) -> PingId {
        self.log.note(self.now(), node, "ping", &to.octets(), || to.to_string());
        let number = self.with(node, |node, at| {
            let number = node.guest.ping(to, at);
            node.pump(at);
            number
        });
        PingId { node, number }
    }

    /// One ping from a machine of a router's segment; its number.
    pub fn ping_from_segment(&mut self, router: NodeId, machine: usize, to: Ipv4Addr) -> u32 {
        self.with(router, |node, at| {
            let number = node.neighbours[machine].ping(to, at);
            node.pump(at);
            number
        })
    }

    /// Carries a machine from one router's segment to another's. Its link goes down meanwhile, and its client begins anew.
    pub fn move_machine(&mut self, from: NodeId, machine: usize, to: NodeId) {
        let mut guest = self.with(from, |node, _| node.neighbours.remove(machine));
        guest.set_link(false);
        guest.set_link(true);
        self.with(to, |node, at| {
            node.neighbours.push(guest);
            node.pump(at);
        });
    }

    /// How long a ping took, if it was answered.
    pub fn round_trip(&self, ping: PingId) -> Option<Duration> {
        let ping = self.node(ping.node).guest.pings.get(&ping.number)?;
        Some(ping.answered? - ping.asked)
    }

    /// Asks the virtual DNS server for a host of this namespace, and pings what it says. Gives the question's number.
    pub fn ping_name(&mut self, node: NodeId, host: &str) -> u32 {
        let name = format!("{host}.{NAMESPACE}.internal");
        self.log.note(self.now(), node, "ping", name.as_bytes(), || name.clone());
        self.with(node, |node, at| {
            let number = node.guest.look_up(&name, true);
            node.pump(at);
            number
        })
    }

    /// Whether the ping that followed a question was answered.
    pub fn name_answered(&self, node: NodeId, question: u32) -> bool {
        let guest = &self.node(node).guest;
        let ping = guest.lookups.get(&question).and_then(|lookup| lookup.pinged).and_then(|n| guest.pings.get(&n));
        ping.is_some_and(|ping| ping.answered.is_some())
    }

    /// Sends bytes from one guest to another over TCP.
    pub fn transfer(&mut self, from: NodeId, to: Ipv4Addr, bytes: usize) {
        self.log.note(self.now(), from, "transfer", &to.octets(), || format!("{bytes} bytes to {to}"));
        self.with(from, |node, at| {
            node.guest.transfer(to, bytes);
            node.pump(at);
        });
    }

    /// Ends all TCP connections of all guests, without a word.
    pub fn forget_transfers(&mut self) {
        for id in self.nodes().iter().map(|node| node.id).collect::<Vec<_>>() {
            self.with(id, |node, at| {
                node.guest.forget_transfers();
                node.pump(at);
            });
        }
    }

    /// Has a guest's DHCP client release its lease and stop, or begin again.
    pub fn want_lease(&mut self, id: NodeId, wanted: bool) {
        self.log.note(self.now(), id, "want-lease", &[u8::from(wanted)], || wanted.to_string());
        self.with(id, |node, at| {
            let released = node.guest.want_lease(wanted);
            if let Some((address, server)) = released
                && let Some(namespace) = node.namespace().map(dht::Namespace::summary)
            {
                let packet = probe::release_packet(node.guest.mac(), address, server);
                let frame = probe::framed(&packet, node.guest.mac(), node.gateway_mac(namespace.id));
                node.handle_frame(&frame, at);
            }
            node.pump(at);
        });
    }

    /// Has a guest send a ping from an address that may not be its own.
    pub fn spoof(&mut self, id: NodeId, source: Ipv4Addr, to: Ipv4Addr) {
        self.log.note(self.now(), id, "spoof", &source.octets(), || format!("{source} to {to}"));
        self.with(id, |node, at| {
            let Some(namespace) = node.namespace().map(dht::Namespace::summary) else { return };
            let packet = probe::ping_packet(source, to, Probe { node: id.0, number: 0 });
            let frame = probe::framed(&packet, node.guest.mac(), node.gateway_mac(namespace.id));
            node.handle_frame(&frame, at);
            node.pump(at);
        });
    }

    /// Has a node that was tampered with send a packet from an address that may not be its own, in its session with
    /// another. Says whether there is a session.
    pub fn forge(&mut self, id: NodeId, peer: NodeId, source: Ipv4Addr) -> bool {
        let Some(to) = self.address(peer) else { return false };
        let peer = self.node(peer).peer;
        self.log.note(self.now(), id, "forge", &source.octets(), || format!("{source} to {to}"));
        let packet = probe::ping_packet(source, to, Probe { node: id.0, number: 0 });
        self.with(id, |node, _| node.send_forged(peer, &packet))
    }

    /// Has a node claim an address, that one or none, as if a client behind it had wanted it. The claim's number.
    pub fn claim(&mut self, id: NodeId, ip: Ipv4Addr) -> u64 {
        self.requests += 1;
        let number = FIRST_CLAIM + self.requests;
        let client = ClientId::of(&number.to_be_bytes());
        let (hold, only_wanted, keep) = (Hold::Full, true, true);
        let claim = Command::ClaimAddress { id: CommandId(number), client, want: Some(ip), only_wanted, hold, keep };
        self.log.note(self.now(), id, "claim", &ip.octets(), || ip.to_string());
        self.with(id, |node, at| node.tell_driver(Input::Command(claim), at));
        number
    }

    /// What became of a claim.
    pub fn claimed(&self, id: NodeId, claim: u64) -> Option<&Result<Lease, ClaimError>> {
        self.node(id).process.as_ref()?.claims.get(&claim)
    }

    /// Waits until the guests of these machines have addresses.
    pub fn wait_for_addresses(&mut self, ids: &[NodeId], limit: Duration) -> Result<Duration, Failure> {
        self.run_until("everybody has an address", limit, |world| ids.iter().all(|id| world.address(*id).is_some()))
    }

    /// Pings, waits for the answer, and says how long it took.
    pub fn ping_and_wait(&mut self, from: NodeId, to: NodeId, limit: Duration) -> Result<Duration, Failure> {
        let Some(ip) = self.address(to) else { return Err(self.failure(format!("{to} has no address"))) };
        let ping = self.ping(from, ip);
        self.run_until(&format!("the ping from {from} to {to} is answered"), limit, |w| w.round_trip(ping).is_some())
    }

    /// Asks a node's engine something, as the command line does, and waits for the answer.
    pub fn ask(&mut self, id: NodeId, request: Request) -> Result<Reply, Failure> {
        self.requests += 1;
        let number = self.requests;
        self.with(id, |node, at| node.request(number, request, at));
        self.run_until("an answer to the command line", Duration::from_secs(20), |world| {
            world.node(id).reply(number).is_some()
        })?;
        self.node(id).reply(number).cloned().ok_or_else(|| self.failure("the answer is gone".into()))
    }

    /// Gives back all leases of a node, and ends it.
    pub fn leave(&mut self, id: NodeId) -> Result<Reply, Failure> {
        let reply = self.ask(id, Request::Leave)?;
        self.crash(id, Crash::Process, Unsynced::Kept);
        Ok(reply)
    }
}
