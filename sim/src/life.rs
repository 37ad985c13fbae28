//! The beginnings and ends of a node's process: first start, restart from disk, becoming a member, crash.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use dht::clock::LeaseClocks;
use dht::identity::SecretKey;
use dht::join::Joiner;
use dht::membership::{Stage, stage};
use dht::token::Token;
use dht::{Keys, Namespace, NamespaceId, Now};
use engine::{Config, Engine, RELAY_RATE};
use rand::RngExt;
use tunnel::Tunnel;

use crate::disk::Unsynced;
use crate::driver::{Driver, Input, Moment};
use crate::machine::Machine;
use crate::node::{Effect, Node, Observation, Process};

impl Node {
    /// Starts the process from what is on disk, or with its token.
    pub(crate) fn start(&mut self, at: Duration) {
        if self.process.is_some() {
            return;
        }
        let mut clocks = LeaseClocks::new(self.clock.reading(at));
        let now = self.clock.now(&mut clocks, at);
        let machine = self.machine(now);
        let member = machine.namespace().is_some();
        self.processes += 1;
        let driver = Driver::new(machine, self.peer, at);
        self.process = Some(Process {
            clocks,
            driver,
            engine: None,
            snapshot: None,
            replies: BTreeMap::new(),
            claims: BTreeMap::new(),
            last: None,
        });
        self.guest.set_link(true);
        if member {
            self.assemble(Moment { at, now });
        }
        self.pump(at);
    }

    fn machine(&mut self, now: Now) -> Machine {
        let seed = self.seed();
        let stage = stage(self.disk.image()).expect("the disk gives back what was written");
        match stage {
            Stage::Joined(_) => Machine::Member(Box::new(self.load(seed, now))),
            Stage::Joining(_) => {
                let (key, data, name) = (self.key(), self.identity.data.clone(), &self.identity.namespace);
                let joiner = Joiner::resume(key, data, name, self.disk.image(), seed, now);
                Machine::Joiner(Box::new(joiner.expect("the disk gives back what was written")))
            }
            Stage::Empty => {
                let text = self.identity.token.clone().expect("whoever has no store has a token");
                let token = Token::parse(&text).expect("the token was made by this namespace");
                let (key, data, name) = (self.key(), self.identity.data.clone(), &self.identity.namespace);
                Machine::Joiner(Box::new(Joiner::new(key, data, name, token, self.disk.image(), seed, now)))
            }
        }
    }

    fn key(&self) -> SecretKey {
        SecretKey::from_seed(&self.identity.key.seed())
    }

    fn load(&self, seed: [u8; 32], now: Now) -> Namespace {
        let authority = self.identity.authority.as_ref().map(|key| SecretKey::from_seed(&key.seed()));
        let keys = Keys { identity: self.key(), data: self.identity.data.clone(), authority };
        Namespace::load(keys, self.disk.image(), seed, now).expect("the disk gives back what was written")
    }

    pub(crate) fn become_member(&mut self, moment: Moment) {
        let seed = self.seed();
        let namespace = self.load(seed, moment.now);
        if let Some(process) = &mut self.process {
            process.driver.become_member(Machine::Member(Box::new(namespace)), moment);
        }
        self.assemble(moment);
    }

    /// Makes the engine of a namespace that is known, as the shell does.
    fn assemble(&mut self, moment: Moment) {
        let Some(summary) = self.namespace().map(Namespace::summary) else { return };
        let instance = self.rng.random();
        let tunnel = tunnel::Config {
            namespace: summary.id.0,
            identity: self.peer,
            secret: self.identity.data.clone(),
            credential_hash: summary.credential_hash,
            slot: 0,
            instance,
            outer_mtu: 1500,
            heads: summary.heads,
            suites: tunnel::Suites::default(),
            relay: summary.relay.then_some(RELAY_RATE),
        };
        let tunnel = Tunnel::new(tunnel, summary.handshake_floor, self.seed(), moment.now.mono);
        let config = Config {
            name: summary.name.clone(),
            namespace: summary.id.0,
            range: summary.range,
            service: summary.service,
            zone: summary.zone.clone(),
            mtu: summary.mtu,
            identity: self.key(),
            mode: self.identity.mode,
            addressing: self.identity.addressing,
            hostname: self.wanted_name(),
            tap_mac: self.guest.mac(),
            gateway_mac: self.gateway_mac(summary.id),
            instance,
            loopback_underlay: false,
        };
        let seed = self.seed();
        let mut engine = Engine::new(config, tunnel, seed, moment.now);
        engine.start(moment.now);
        engine.handle_endpoints(vec![self.underlay], Vec::new(), moment.now);
        if let Some(process) = &mut self.process {
            process.engine = Some(engine);
        }
        self.effects.push(Effect::Seen(Observation::Started));
    }

    /// The hardware address that stands for everybody else.
    pub(crate) fn gateway_mac(&self, namespace: NamespaceId) -> [u8; 6] {
        [0x06, namespace.0[0], namespace.0[1], 0, 0, u8::try_from(self.id.0).unwrap_or(0)]
    }

    /// The process ends here and now, with its TAP.
    pub(crate) fn crash(&mut self, unsynced: Unsynced) {
        self.process = None;
        self.disk.crash(unsynced);
        self.guest.set_link(false);
    }

    /// Something for the overlay's driver.
    pub(crate) fn tell_driver(&mut self, input: Input, at: Duration) {
        if let Some(process) = &mut self.process {
            process.driver.take(input);
        }
        self.pump(at);
    }

    /// The transaction under way is safe.
    pub(crate) fn handle_synced(&mut self, at: Duration) {
        self.disk.sync();
        if let Some(moment) = self.moment(at)
            && let Some(process) = &mut self.process
        {
            process.driver.handle_synced(moment);
        }
        self.pump(at);
    }

    /// Where its data socket is reached from here on.
    pub(crate) fn set_underlay(&mut self, underlay: SocketAddr, at: Duration) {
        self.underlay = underlay;
        if let Some(Moment { now, .. }) = self.moment(at)
            && let Some(engine) = self.process.as_mut().and_then(|process| process.engine.as_mut())
        {
            engine.handle_endpoints(vec![underlay], Vec::new(), now);
        }
        self.pump(at);
    }
}
