//! All pairs of edges on the kernel, without any of our protocol: what is predicted must be what happens.
//!
//! `cargo test -p e2e nat_edges -- --nocapture` prints the table.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use e2e::{Edge, Lab, Node, Router, say, wait};
use wan::{Outcome, Technique, direct_path_possible};

const ROUNDS: usize = 6;
/// Time for a datagram to come through, on a machine that is busy with other tests.
const ON_ITS_WAY: Duration = Duration::from_millis(8);
/// How long an observer is waited for.
const OBSERVED: Duration = Duration::from_millis(500);
const AHEAD: u16 = 12;

/// Two machines behind a router each, and two observers.
struct Scene {
    routers: [Router; 2],
    machines: [Node; 2],
    observers: [UdpSocket; 2],
    /// Of the next attempt: no flow of an earlier one is in its way.
    port: u16,
    _lab: Lab,
}

/// A socket of a machine.
fn socket(node: &Node, port: u16) -> anyhow::Result<UdpSocket> {
    let ip: Ipv4Addr = node.underlay().parse()?;
    node.inside(move || Ok(UdpSocket::bind((ip, port))?))
}

fn v4(addr: SocketAddr) -> anyhow::Result<SocketAddrV4> {
    match addr {
        SocketAddr::V4(addr) => Ok(addr),
        SocketAddr::V6(addr) => Err(anyhow!("{addr} is no IPv4 address")),
    }
}

impl Scene {
    fn new() -> anyhow::Result<Option<Self>> {
        let Some(mut lab) = e2e::lab("edges")? else { return Ok(None) };
        let mut routers = [lab.router(Edge::Open)?, lab.router(Edge::Open)?];
        let [one, other] = &mut routers;
        let machines = [lab.behind(one, "a")?, lab.behind(other, "b")?];
        let observers = [socket(&lab.public("s")?, 3478)?, socket(&lab.public("t")?, 3478)?];
        Ok(Some(Self { routers, machines, observers, port: 4000, _lab: lab }))
    }

    /// Where each observer sees a socket.
    fn observed(&self, socket: &UdpSocket) -> anyhow::Result<[SocketAddrV4; 2]> {
        let mut seen = Vec::new();
        for observer in &self.observers {
            observer.set_read_timeout(Some(OBSERVED))?;
            socket.send_to(b"where am I", observer.local_addr()?)?;
            let (_, from) = observer.recv_from(&mut [0; 16]).context("an observer heard nothing")?;
            observer.send_to(b"there", from)?;
            seen.push(v4(from)?);
        }
        Ok([seen[0], seen[1]])
    }

    /// Whether both hear each other if this one begins.
    fn punch(&mut self, edges: [Edge; 2], first: usize, technique: Technique) -> anyhow::Result<bool> {
        for (router, edge) in self.routers.iter().zip(edges) {
            router.become_a(edge)?;
        }
        self.port += 1;
        let sockets = [socket(&self.machines[0], self.port)?, socket(&self.machines[1], self.port)?];
        let seen = |side: usize| self.observed(&sockets[side]).with_context(|| edges[side].name());
        let mut targets = [places(seen(1)?, technique), places(seen(0)?, technique)];
        // What the observers answered is of no interest.
        wait::pause(ON_ITS_WAY);
        for socket in &sockets {
            socket.set_nonblocking(true)?;
            while socket.recv_from(&mut [0; 16]).is_ok() {}
        }
        let mut heard = [false; 2];
        for round in 0..ROUNDS {
            for side in [first, 1 - first] {
                if technique.low_ttl && round == 0 {
                    // Past one's own router, and not to the other one.
                    sockets[side].set_ttl(2)?;
                }
                for target in &targets[side] {
                    let _ = sockets[side].send_to(b"hello", target);
                }
                sockets[side].set_ttl(64)?;
                wait::pause(ON_ITS_WAY);
                listen(&sockets, &mut targets, &mut heard);
            }
            if heard == [true, true] {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn outcome(&mut self, edges: [Edge; 2], technique: Technique) -> anyhow::Result<Outcome> {
        let both = [self.punch(edges, 0, technique)?, self.punch(edges, 1, technique)?];
        Ok(match both {
            [true, true] => Outcome::Direct,
            [false, false] => Outcome::Relay,
            [true, false] | [false, true] => Outcome::OneOrder,
        })
    }
}

fn listen(sockets: &[UdpSocket; 2], targets: &mut [Vec<SocketAddrV4>; 2], heard: &mut [bool; 2]) {
    for side in 0..2 {
        while let Ok((_, from)) = sockets[side].recv_from(&mut [0; 16]) {
            heard[side] = true;
            if let Ok(from) = v4(from)
                && !targets[side].contains(&from)
            {
                targets[side].push(from);
            }
        }
    }
}

/// The ports that come next are first, as in `wan::punch`.
fn places(seen: [SocketAddrV4; 2], technique: Technique) -> Vec<SocketAddrV4> {
    let step = seen[1].port().wrapping_sub(seen[0].port());
    let counts = technique.prediction && (1..=16).contains(&step);
    let ahead =
        (1..=if counts { AHEAD } else { 0 }).map(|n| SocketAddrV4::new(*seen[1].ip(), seen[1].port() + step * n));
    ahead.chain([seen[0]]).collect()
}

fn letter(outcome: Outcome) -> char {
    match outcome {
        Outcome::Direct => 'D',
        Outcome::OneOrder => 'd',
        Outcome::Relay => 'R',
    }
}

/// The table of one technique, and every pair that is not as predicted.
fn matrix(scene: &mut Scene, technique: Technique) -> anyhow::Result<(String, Vec<String>)> {
    let (mut table, mut wrong) = (String::new(), Vec::new());
    for (row, a) in Edge::ALL.into_iter().enumerate() {
        table += &format!("{:26}{}", a.name(), "  ".repeat(row));
        for b in Edge::ALL.into_iter().skip(row) {
            let predicted = direct_path_possible(a, b, technique);
            let mut found = scene.outcome([a, b], technique)?;
            if found != predicted {
                // A busy machine may have been late once.
                found = scene.outcome([a, b], technique)?;
            }
            if found != predicted {
                wrong.push(format!("{} and {}: {found:?}, and not {predicted:?}", a.name(), b.name()));
            }
            table += &format!(" {}", letter(found));
        }
        table.push('\n');
    }
    Ok((table, wrong))
}

#[test]
fn all_pairs_of_edges_are_as_predicted() -> anyhow::Result<()> {
    let Some(mut scene) = Scene::new()? else { return Ok(()) };
    for technique in [Technique::PLAIN, Technique { prediction: true, ..Technique::PLAIN }, Technique::ALL] {
        let (table, wrong) = matrix(&mut scene, technique)?;
        say(&format!("{technique:?}\n{table}"));
        ensure!(wrong.is_empty(), "{technique:?}: {}", wrong.join("; "));
    }
    Ok(())
}
