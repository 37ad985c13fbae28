//! The real state machines over the real network, on loopback.

use std::path::PathBuf;
use std::time::Duration;

use dht::create::{CreateRequest, create};
use dht::identity::SecretKey;
use dht::join::Joiner;
use dht::token::{Contact, ContactAddress, Token};
use dht::{
    ClaimError, ClientId, Command, CommandId, Event, Hold, Keys, Lease, LeaseKey, Namespace, NamespaceId, Resolution,
    Role,
};
use zeroize::Zeroizing;

use super::fake::{Node, RealClock, config, free_port, identity};
use super::scratch;
use crate::config::{Clocks, DriverConfig, DriverEvent};
use crate::machine::Machine;
use crate::store::Store;

/// What is on a founder's disk.
struct Founder {
    n: u8,
    port: u16,
    path: PathBuf,
    ns: NamespaceId,
    authority: [u8; 32],
    data: Zeroizing<[u8; 32]>,
}

impl Founder {
    fn new(n: u8, name: &str) -> Self {
        let request = CreateRequest {
            name: "home".to_owned(),
            range: Some("10.99.0.0/24".parse().unwrap()),
            lease: Duration::from_secs(3600),
            recovery: None,
        };
        let path = scratch(name).join("store");
        let unix_s = RealClock::new().now().unix_s;
        let created = create(request, &identity(n), [n; 32], unix_s).unwrap();
        drop(Store::create(&path, &created.writes).unwrap());
        Self { n, port: free_port(), path, ns: created.ns, authority: *created.authority.seed(), data: created.data }
    }

    async fn start(&self) -> Node {
        let (store, image) = Store::open(&self.path).unwrap();
        let keys = Keys {
            identity: identity(self.n),
            data: self.data.clone(),
            authority: Some(SecretKey::from_seed(&self.authority)),
        };
        let namespace = Namespace::load(keys, &image, [7; 32], RealClock::new().now()).unwrap();
        let mut config = config(self.n, self.port);
        config.namespace = self.ns;
        let mut node = Node::start(config, Machine::Member(Box::new(namespace)), store);
        node.listening().await;
        node
    }
}

async fn invite(node: &mut Node, uses: u16) -> Token {
    let contact = Contact {
        identity: dht::identity::PublicKey::from_peer_id(&node.peer).unwrap(),
        addresses: vec![ContactAddress::Socket(node.addr())],
    };
    let command = Command::Invite {
        id: CommandId(900),
        uses,
        ttl: Duration::from_secs(3600),
        role: Role::Member,
        hosts: 0,
        contacts: vec![contact],
    };
    node.command(command).await;
    let text = node
        .wait("an invite", |event| {
            let DriverEvent::Core(Event::Invited { outcome, .. }) = event else { return None };
            Some(outcome.unwrap())
        })
        .await;
    Token::parse(&text).unwrap()
}

fn copy(token: &Token) -> Token {
    Token::parse(&token.to_text()).unwrap()
}

fn joiner_config(n: u8, ns: NamespaceId) -> DriverConfig {
    let mut config = config(n, free_port());
    config.namespace = ns;
    config
}

fn join(n: u8, token: Token, name: &str) -> (Node, PathBuf) {
    let path = scratch(name).join("store");
    let (store, image) = Store::create(&path, &[]).unwrap();
    let config = joiner_config(n, token.ns);
    let data = config.data.clone();
    let joiner = Joiner::new(identity(n), data, "home", token, &image, [n; 32], RealClock::new().now());
    (Node::start(config, Machine::Joiner(Box::new(joiner)), store), path)
}

async fn joined(node: &mut Node) {
    let name = node
        .wait("joining", |event| {
            let DriverEvent::Joined(summary) = event else { return None };
            Some(summary.name)
        })
        .await;
    assert_eq!(name, "home");
}

async fn claim(node: &mut Node, client: &[u8]) -> Result<Lease, ClaimError> {
    let id = CommandId(1);
    let client = ClientId::of(client);
    let (want, only_wanted, hold, keep) = (None, false, Hold::Full, true);
    node.command(Command::ClaimAddress { id, client, want, only_wanted, hold, keep }).await;
    node.wait("an answer to a claim", |event| {
        let DriverEvent::Core(Event::Claimed { outcome, .. }) = event else { return None };
        Some(outcome)
    })
    .await
}

fn ip_of(lease: &Lease) -> std::net::Ipv4Addr {
    let LeaseKey::Address(ip) = lease.key else { panic!("{lease:?} is no address") };
    ip
}

/// So many changes of the founder's view, to itself, in its store.
fn change_views(founder: &Founder, count: usize) {
    let now = RealClock::new().now();
    let (store, image) = Store::open(&founder.path).unwrap();
    let keys = Keys { identity: identity(founder.n), data: founder.data.clone(), authority: None };
    let mut namespace = Namespace::load(keys, &image, [8; 32], now).unwrap();
    let membership = namespace.membership();
    let (store_id, serial) = (membership.store_id(), membership.credential().serial(&founder.ns));
    let me = dht::view::Member { identity: identity(founder.n).public(), store_id, serial };
    let mut writes = Vec::new();
    for _ in 0..count {
        namespace.force_view(&LeaseKey::Address([10, 99, 0, 9].into()), vec![me], now);
        while let Some(output) = namespace.poll_output() {
            if let dht::Output::Persist(more) = output {
                writes.extend(more);
            }
        }
    }
    assert_eq!(namespace.membership().chain().successors().len(), count);
    store.commit(&writes).unwrap();
}

#[tokio::test]
async fn a_joiner_comes_back_for_the_views_that_did_not_fit_into_one_answer() {
    let founder = Founder::new(1, "real-pages-a");
    change_views(&founder, 300);
    let mut a = founder.start().await;
    let token = invite(&mut a, 1).await;
    let (mut b, path) = join(2, token, "real-pages-b");
    joined(&mut b).await;
    claim(&mut b, b"b").await.unwrap();
    b.stop().await;
    let views = Store::open(&path).unwrap().1.keys().filter(|key| key.starts_with(b"m/view/")).count();
    assert_eq!(views, 300);
}

#[tokio::test]
async fn a_joiner_redeems_its_invite_and_leases_an_address_that_the_founder_can_resolve() {
    let founder = Founder::new(1, "real-a");
    let mut a = founder.start().await;
    let a_lease = claim(&mut a, b"a").await.unwrap();
    let token = invite(&mut a, 1).await;
    let (mut b, _) = join(2, token, "real-b");
    joined(&mut b).await;
    let b_lease = claim(&mut b, b"b").await.unwrap();
    assert_ne!(ip_of(&a_lease), ip_of(&b_lease));

    a.command(Command::ResolveAddress { id: CommandId(5), ip: ip_of(&b_lease) }).await;
    let outcome = a
        .wait("a resolution", |event| {
            let DriverEvent::Core(Event::Resolved { id: CommandId(5), outcome }) = event else { return None };
            Some(outcome)
        })
        .await;
    let Resolution::Found { owner, ip, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!((owner, ip), (b.peer, ip_of(&b_lease)));

    b.signal(a.peer, b"candidates").await;
    assert_eq!(a.signalled().await, (b.peer, b"candidates".to_vec()));
}

#[tokio::test]
async fn four_joiners_at_once_get_four_addresses() {
    let founder = Founder::new(1, "four-a");
    let mut a = founder.start().await;
    let token = invite(&mut a, 4).await;
    let mut joiners: Vec<_> = (2..6).map(|n| join(n, copy(&token), &format!("four-{n}")).0).collect();
    let claims = joiners.iter_mut().map(async |node| {
        joined(node).await;
        ip_of(&claim(node, b"own").await.unwrap())
    });
    let mut ips: Vec<_> = futures::future::join_all(claims).await;
    ips.sort_unstable();
    ips.dedup();
    assert_eq!(ips.len(), 4);
}

#[tokio::test]
async fn of_two_joiners_with_one_use_the_loser_is_told_for_good() {
    let founder = Founder::new(1, "spent-a");
    let mut a = founder.start().await;
    let token = invite(&mut a, 1).await;
    let (mut b, _) = join(2, copy(&token), "spent-b");
    joined(&mut b).await;
    let (c, _) = join(3, token, "spent-c");
    let b_peer = b.peer;
    let (result, events) = c.ended().await;
    result.unwrap();
    let Some(DriverEvent::JoinFailed(why)) = events.last() else { panic!("{events:?}") };
    assert!(why.contains(&b_peer.to_string()), "{why}");
}

#[tokio::test]
async fn a_restart_keeps_identity_membership_and_address() {
    let founder = Founder::new(1, "keep-a");
    let mut a = founder.start().await;
    let a_before = ip_of(&claim(&mut a, b"a").await.unwrap());
    let token = invite(&mut a, 1).await;
    let (mut b, path) = join(2, token, "keep-b");
    let (ns, b_peer) = (founder.ns, b.peer);
    joined(&mut b).await;
    let b_before = ip_of(&claim(&mut b, b"b").await.unwrap());
    a.stop().await;
    b.stop().await;

    let mut a = founder.start().await;
    let (store, image) = Store::open(&path).unwrap();
    let config = joiner_config(2, ns);
    let keys = Keys { identity: identity(2), data: config.data.clone(), authority: None };
    let namespace = Namespace::load(keys, &image, [8; 32], RealClock::new().now()).unwrap();
    let mut b = Node::start(config, Machine::Member(Box::new(namespace)), store);
    assert_eq!(b.peer, b_peer);
    b.connected(a.peer).await;
    assert_eq!(ip_of(&claim(&mut b, b"b").await.unwrap()), b_before);
    assert_eq!(ip_of(&claim(&mut a, b"a").await.unwrap()), a_before);
}

#[tokio::test]
async fn a_joiner_waits_for_a_contact_that_comes_up_later() {
    let founder = Founder::new(1, "later-a");
    let mut a = founder.start().await;
    let token = invite(&mut a, 1).await;
    a.stop().await;
    let (mut b, _) = join(2, token, "later-b");
    let asks = |event| matches!(event, DriverEvent::Joining { .. }).then_some(());
    b.wait("asking", asks).await;
    b.wait("asking again", asks).await;
    let _a = founder.start().await;
    joined(&mut b).await;
}

#[tokio::test]
async fn the_holder_of_another_networks_invite_gets_nothing() {
    let founder = Founder::new(1, "foreign-a");
    let mut a = founder.start().await;
    let other = Founder::new(3, "foreign-o");
    let mut o = other.start().await;
    let mut forged = invite(&mut o, 1).await;
    o.stop().await;
    // Its contact's name is right, and at its address stands a node of the first network with that name.
    let contact = Contact {
        identity: dht::identity::PublicKey::from_peer_id(&a.peer).unwrap(),
        addresses: vec![ContactAddress::Socket(a.addr())],
    };
    forged.contacts = vec![contact];
    let (mut b, _) = join(2, forged, "foreign-b");
    let asks = |event| matches!(event, DriverEvent::Joining { .. }).then_some(());
    for _ in 0..3 {
        b.wait("asking in vain", asks).await;
    }
    let peer = b.peer;
    assert!(!a.told().contains(&DriverEvent::Connected { peer }));
}
