//! Questions about addresses, names and certificates, and what peers show unasked.

use std::time::Duration;

use libp2p_identity::PeerId;

use crate::certificate::{CertError, LeaseCert};
use crate::clock::Now;
use crate::codec::{Reader, Wire};
use crate::command::{Command, CommandId, LeaseKey};
use crate::config::SignedConfig;
use crate::env::{DropReason, Env};
use crate::event::{Event, Level, Proven, Resolution};
use crate::identity::PublicKey;
use crate::letter::{self, Letter};
use crate::message::Message;
use crate::record::{Hint, normal_name};
use crate::view::{Successor, page};

use super::Namespace;

impl Namespace {
    pub(super) fn resolve(&mut self, id: CommandId, command: Command, now: Now) {
        let env = env!(self, now);
        if let Some(outcome) = self.own_answer(&env, &command) {
            return self.out.event(Event::Resolved { id, outcome });
        }
        match command {
            Command::ResolveAddress { id, ip } => self.resolver.resolve_address(&env, &mut self.out, id, ip),
            Command::ResolveName { id, name } => self.resolver.resolve_name(&env, &mut self.out, id, &name),
            Command::ResolvePeerName { id, ip } => self.resolver.resolve_peer_name(&env, &mut self.out, id, ip),
            Command::ReadAddress { id, ip } => self.resolver.read_address(&env, &mut self.out, id, ip),
            Command::ClaimAddress { .. }
            | Command::ReleaseAddress { .. }
            | Command::ClaimName { .. }
            | Command::ReleaseName { .. }
            | Command::LookUp { .. }
            | Command::CheckLease { .. }
            | Command::Supersede { .. }
            | Command::Renew { .. }
            | Command::Signal { .. }
            | Command::Connect { .. }
            | Command::Invite { .. }
            | Command::Recover { .. }
            | Command::Leave { .. }
            | Command::HandOver { .. }
            | Command::Serve { .. }
            | Command::ReserveHandshakes { .. } => {}
        }
    }

    /// As a question, but what was learnt before does not count.
    pub(super) fn look_up(&mut self, id: CommandId, key: LeaseKey, now: Now) {
        self.resolver.forget(&key);
        let question = match key {
            LeaseKey::Address(ip) => Command::ResolvePeerName { id, ip },
            LeaseKey::Name(name) => Command::ResolveName { id, name },
        };
        self.resolve(id, question, now);
    }

    /// What this node's own leases answer, as far as they may be used at this moment.
    pub(super) fn own_answer(&self, env: &Env<'_>, command: &Command) -> Option<Resolution> {
        let ip = match command {
            Command::ResolveAddress { ip, .. }
            | Command::ResolvePeerName { ip, .. }
            | Command::ReadAddress { ip, .. } => *ip,
            Command::ResolveName { name, .. } => {
                let key = LeaseKey::Name(normal_name(name)?);
                self.leases.lease(env, &key)?;
                match self.leases.hint_for(env, &key) {
                    Hint::Address(ip) => ip,
                    Hint::Name(_) | Hint::None => return None,
                }
            }
            Command::ClaimAddress { .. }
            | Command::ReleaseAddress { .. }
            | Command::ClaimName { .. }
            | Command::ReleaseName { .. }
            | Command::LookUp { .. }
            | Command::CheckLease { .. }
            | Command::Supersede { .. }
            | Command::Renew { .. }
            | Command::Signal { .. }
            | Command::Connect { .. }
            | Command::Invite { .. }
            | Command::Recover { .. }
            | Command::Leave { .. }
            | Command::HandOver { .. }
            | Command::Serve { .. }
            | Command::ReserveHandshakes { .. } => return None,
        };
        let lease = self.leases.lease(env, &LeaseKey::Address(ip))?;
        Some(Resolution::Found {
            ip,
            owner: self.membership.peer_id(),
            name: self.leases.name_of(env, ip),
            token: lease.token,
            certificate: lease.certificate,
            remaining: lease.usable_until.0.saturating_sub(env.now.owner.0),
            deciders: Box::new(env.deciders(ip)),
        })
    }

    pub(super) fn check_lease(&mut self, handed: (PeerId, &[u8], Duration), now: Now) -> Result<Proven, CertError> {
        let env = env!(self, now);
        let (proven, cert) = self.resolver.check_lease(&env, &mut self.out, handed)?;
        let own = self.leases.lease(&env, &LeaseKey::Address(proven.ip));
        if own.is_some_and(|own| own.token > proven.token) {
            return Err(CertError::Superseded);
        }
        self.leases.superseded(&env, &mut self.out, &cert);
        Ok(proven)
    }

    pub(super) fn handle_supersede(&mut self, certificate: &[u8], now: Now) {
        let env = env!(self, now);
        let cert = LeaseCert::from_bytes(certificate).ok();
        match cert.filter(|cert| cert.verify(env.ns, env.config, env.chain).is_ok()) {
            Some(cert) if self.resolver.is_over(&env, &cert) => self.out.drop(DropReason::OldView),
            Some(cert) => {
                self.resolver.note(&env, &mut self.out, &cert);
                self.leases.superseded(&env, &mut self.out, &cert);
            }
            None => self.out.drop(DropReason::BadCertificate),
        }
    }

    /// Says something to another engine: on the connection, and where there is none, by letters, as it may be that nobody
    /// can dial it.
    pub(super) fn signal(&mut self, to: PeerId, signal: Vec<u8>) {
        if let Some(reader) = PublicKey::from_peer_id(&to).filter(|_| self.membership.level(&to) != Some(Level::Member))
        {
            let letter = Letter { credential: self.membership.credential().clone(), signal: signal.clone() }.to_bytes();
            for way in letter::ways(self.replicas(), self.membership.peer_id(), to) {
                self.out.send_peer(way, &Message::Pass { to: reader, letter: letter.clone() });
            }
        }
        self.out.send_peer(to, &Message::Signal { bytes: signal });
    }

    /// Passes a letter on, if its reader is connected here. Nobody is dialled for it.
    pub(super) fn pass(&mut self, from: &PublicKey, to: &PublicKey, letter: Vec<u8>) {
        match to.peer_id().filter(|peer| self.membership.level(peer) == Some(Level::Member)) {
            Some(peer) => self.out.send_peer(peer, &Message::Passed { from: *from, letter }),
            None => self.out.drop(DropReason::NoWay),
        }
    }

    /// A letter for this node: what its writer shows is checked as on a connection.
    pub(super) fn handle_letter(&mut self, from: &PublicKey, letter: &[u8], now: Now) {
        let peer = from.peer_id().filter(|peer| *peer != self.membership.peer_id());
        let (Some(peer), Ok(letter)) = (peer, Letter::from_bytes(letter)) else {
            return self.out.drop(DropReason::ForgedLetter);
        };
        if self.membership.introduced(peer, letter.credential, now).is_err() {
            return self.out.drop(DropReason::ForgedLetter);
        }
        self.pump();
        self.out.event(Event::Signal { from: peer, message: letter.signal });
    }

    /// What is signed that this node has: the configuration, and views after the founded ones, as many as fit.
    pub(super) fn handle_fetch(&mut self, to: &PublicKey) {
        let mut bytes = self.membership.signed_config().to_bytes();
        let views = page::first(self.membership.chain().successors().iter());
        bytes.extend(views.iter().flat_map(Wire::to_bytes));
        if let Some(peer) = to.peer_id() {
            self.out.send_peer(peer, &Message::Fetched { bytes });
            // What only the configuration proves may lie far behind what else there is to tell.
            if views.iter().any(|successor| successor.votes.is_empty()) {
                self.out.send_peer(peer, &self.membership.news());
            }
        }
    }

    pub(super) fn handle_fetched(&mut self, from: &PublicKey, bytes: &[u8], now: Now) {
        let mut input = Reader::new(bytes);
        let config = SignedConfig::decode(&mut input);
        if config.is_ok_and(|config| self.membership.observe_config(config).is_ok()) {
            let mut views = Vec::new();
            while input.remaining() > 0 {
                let Ok(view) = Successor::decode(&mut input) else { break };
                views.push(view);
            }
            self.handle_views(Some(from), &views, now);
        } else {
            self.out.drop(DropReason::BadFetch);
        }
    }
}
