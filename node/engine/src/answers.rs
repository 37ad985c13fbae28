//! What the TAP's side asks and the overlay answers: routes, DHCP, DNS.

use smoltcp::wire::EthernetAddress;
use std::collections::BTreeMap;

use bridge::DnsClient;
use dht::clock::Now;
use dht::{ClaimError, Command};

use crate::engine::{Engine, Event, Pending};
use crate::standing::Standing;
use crate::status::Quorum;

/// DNS questions under way; the responder's own table is smaller.
const MAX_DNS_CLIENTS: usize = 1024;

/// Who asked which DNS question.
#[derive(Default)]
pub(crate) struct DnsClients {
    next: u64,
    waiting: BTreeMap<u64, DnsClient>,
}

impl DnsClients {
    fn token(&mut self, client: DnsClient) -> dns::Token {
        if self.waiting.len() >= MAX_DNS_CLIENTS {
            self.waiting.pop_first();
        }
        self.next += 1;
        self.waiting.insert(self.next, client);
        dns::Token(self.next)
    }
}

impl Engine {
    pub(crate) fn bridge_event(&mut self, event: bridge::Event, now: Now) {
        match event {
            bridge::Event::Dhcp { source, message } => self.dhcp.handle_message(source.0, &message, now.mono),
            bridge::Event::Dns { client, message } => {
                let transport = match client {
                    DnsClient::Udp { .. } => dns::Transport::Udp,
                    DnsClient::Tcp(_) => dns::Transport::Tcp,
                };
                let token = self.dns_clients.token(client);
                self.dns.handle_query(token, transport, &message, now.mono);
            }
            bridge::Event::Heard { ip, mac } => self.heard(ip, mac.0, now),
            bridge::Event::Disputed { ip, mac } => self.disputed(ip, mac.0, now),
            bridge::Event::Resolve { ip } => self.resolve(ip, now),
            bridge::Event::Unproven { peer, ip } => self.ask_lease(peer, ip, now),
            bridge::Event::Superseded { peer, ip } => self.show_newer(peer, ip, now),
            bridge::Event::NotHere { peer, ip } => self.say_not_owner(peer, ip, now),
        }
    }

    /// Hands replies of DHCP and DNS to the bridge; whether there were any.
    pub(crate) fn drain_replies(&mut self, now: Now) -> bool {
        let mut any = false;
        while let Some(reply) = self.dhcp.poll_reply() {
            any = true;
            let to = match reply.to {
                dhcp::Destination::Broadcast => bridge::DhcpDestination::Broadcast,
                dhcp::Destination::Unicast { mac, ip } => {
                    bridge::DhcpDestination::Unicast { mac: EthernetAddress(mac), ip }
                }
            };
            self.bridge.send_dhcp(to, &reply.message, now.mono);
        }
        while let Some((token, message)) = self.dns.poll_reply() {
            any = true;
            if let Some(client) = self.dns_clients.waiting.remove(&token.0) {
                self.bridge.send_dns(client, &message, now.mono);
            }
        }
        any
    }

    pub(crate) fn dns_event(&mut self, event: dns::Event, now: Now) {
        let (query, given) = match event {
            dns::Event::Resolve { id: query, what: dns::Question::Name(name) } => {
                (query, self.command(Pending::DnsName { query }, |id| Command::ResolveName { id, name }))
            }
            dns::Event::Resolve { id: query, what: dns::Question::Address(ip) } => {
                (query, self.command(Pending::DnsAddress { query }, |id| Command::ResolvePeerName { id, ip }))
            }
            dns::Event::Forward { id, transport, message } => {
                return self.emit(Event::Forward { id, transport, message });
            }
        };
        if !given {
            self.dns.handle_resolved(query, dns::Answer::Unknown, now.mono);
        }
    }

    pub(crate) fn overlay_event(&mut self, event: dht::Event, now: Now) {
        match event {
            dht::Event::Claimed { id, outcome } => self.claimed(id.0, outcome, now),
            dht::Event::LeaseChanged { lease } => self.lease_changed(lease, now),
            dht::Event::LeaseLost { key, why } => self.lease_lost(&key, why, now),
            // A release is not waited for.
            dht::Event::Released { id: _ } => {}
            dht::Event::Resolved { id, outcome } => self.resolved(id.0, outcome, now),
            dht::Event::LeaseChecked { id, from, outcome } => {
                if let Some(Pending::CheckLease { peer, certificate }) = self.pending.remove(&id.0)
                    && peer == from
                {
                    self.lease_checked(peer, certificate, outcome, now);
                }
            }
            dht::Event::Superseded { ip, owner, token, certificate } => {
                self.superseded(ip, (owner, token, certificate), now);
            }
            dht::Event::PeerKeys { peer, x25519, credential_hash } => {
                self.peer_keys(peer, tunnel::PeerKeys { x25519, credential_hash }, now);
            }
            dht::Event::PeerDenied { peer } => self.peer_denied(peer, now),
            dht::Event::Signal { from, message } => self.signalled(from, &message, now),
            dht::Event::Invited { id, outcome } => self.invited(id.0, outcome),
            dht::Event::Recovered { id, outcome } => self.recovered(id.0, outcome),
            dht::Event::HandshakesReserved { upto } => self.tunnel.handshakes_reserved(upto),
            dht::Event::Quorum { reachable, why, since } => {
                self.quorum = Quorum { reachable, why, since: Some(since) };
            }
            dht::Event::Left { id } => self.left(id.0, now),
            dht::Event::HandedOver { id } => self.handed_over(id.0),
            dht::Event::Status { summary } => self.standing = Some(Standing { summary, at: now.mono }),
            dht::Event::StoreLost => self.count("lease-store-set-back"),
        }
    }

    fn claimed(&mut self, id: u64, outcome: Result<dht::Lease, ClaimError>, now: Now) {
        let pending = self.pending.remove(&id);
        self.segment.resuming = false;
        let outcome = match outcome {
            // Nobody waits for it any more: what was granted is given back.
            Ok(lease) if pending.is_none() || self.hosts.left => {
                self.give_back(lease.key);
                Err(ClaimError::GivenUp)
            }
            outcome => outcome,
        };
        match pending {
            Some(Pending::OwnAddress) => self.own_address_claimed(outcome, now),
            Some(Pending::DhcpAddress { request, own, only_wanted }) => {
                self.dhcp_claimed(request, (own, only_wanted), outcome, now);
            }
            Some(Pending::SegmentAddress { ip, mac }) => self.segment_claimed((ip, mac), outcome, now),
            Some(Pending::OwnName { name }) => self.own_name_claimed(name, outcome, now),
            Some(Pending::ClientName { ip, name }) => self.client_name_claimed(ip, name, outcome),
            _ => self.count("stray-claim"),
        }
    }

    fn resolved(&mut self, id: u64, outcome: dht::Resolution, now: Now) {
        match self.pending.remove(&id) {
            Some(Pending::Route { ip }) => self.route_resolved(ip, outcome, now),
            Some(Pending::DnsName { query }) => {
                let answer = match outcome {
                    dht::Resolution::Found { ip, remaining, .. } => dns::Answer::Address { ip, ttl: remaining },
                    dht::Resolution::Absent => dns::Answer::Absent,
                    dht::Resolution::Unknown => dns::Answer::Unknown,
                };
                self.dns.handle_resolved(query, answer, now.mono);
            }
            Some(Pending::DnsAddress { query }) => {
                let answer = match outcome {
                    dht::Resolution::Found { name, remaining, .. } => dns::Answer::Name { name, ttl: remaining },
                    dht::Resolution::Absent => dns::Answer::Absent,
                    dht::Resolution::Unknown => dns::Answer::Unknown,
                };
                self.dns.handle_resolved(query, answer, now.mono);
            }
            Some(Pending::Request { id }) => self.request_resolved(id, outcome, now),
            _ => self.count("stray-resolution"),
        }
    }
}
