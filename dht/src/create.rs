//! Founding a namespace: its authority, first configuration, views 0, and the founder's own membership.

use std::fmt;
use std::time::Duration;

use ipnet::Ipv4Net;
use rand::{CryptoRng, SeedableRng};
use rand_chacha::ChaCha20Rng;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::codec::Wire;
use crate::config::{Config, SignedConfig, SignedGenesis, valid_name};
use crate::credential::{AdmissionProof, Credential, DataKey, data_public, serial};
use crate::event::Write;
use crate::identity::{PublicKey, SecretKey};
use crate::invite::{InviteBody, Role, SignedInvite};
use crate::membership::{DATA_KEY_LIFE_S, store};
use crate::redeem::Entry;
use crate::sign::{self, NamespaceId};
use crate::view::{Chain, Genesis, MAX_MEMBERS, Member};

/// What the founder decides.
#[derive(Clone, Debug)]
pub struct CreateRequest {
    /// 1 to 32 of `[a-z0-9-]`.
    pub name: String,
    /// The virtual addresses; `None` for the range that follows from the namespace's identifier.
    pub range: Option<Ipv4Net>,
    /// How long leases are given for: at least 30 s, and for life.
    pub lease: Duration,
    /// The hash of the recovery key, if there is one.
    pub recovery: Option<[u8; 32]>,
}

/// Why a namespace cannot be founded.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum CreateError {
    /// The name.
    #[error("a namespace name has 1 to 32 of a-z, 0-9 and '-', with no '-' at either end")]
    Name,
    /// The range.
    #[error("a range is /8 to /29 of ordinary IPv4 addresses: no loopback, link-local, multicast or reserved ones")]
    Range,
    /// The lease.
    #[error("a lease lasts 30 seconds to 10 years")]
    Lease,
    /// Not 1, 3 or 5 different founders.
    #[error("a namespace has 1 to 5 different founders")]
    Founders,
}

/// A namespace that only this machine knows yet.
pub struct Created {
    /// Its identifier.
    pub ns: NamespaceId,
    /// Signs invites; to be stored in a file of its own before `writes`.
    pub authority: SecretKey,
    /// The founder's key for the data plane; to be stored before `writes`.
    pub data: Zeroizing<[u8; 32]>,
    /// The store's first content, to be written in one transaction before any socket is opened.
    pub writes: Vec<Write>,
}

/// One of several founders.
pub struct Founder {
    /// Its key for the data plane.
    pub data: Zeroizing<[u8; 32]>,
    /// Its store's first content.
    pub writes: Vec<Write>,
}

/// What the configuration says about the recovery key, which itself is kept off every machine.
pub fn recovery_hash(key: &PublicKey) -> [u8; 32] {
    sign::hash("recovery", &[&key.0])
}

/// Founds a namespace with this machine as its only member. `seed` is 32 bytes of the system's randomness.
pub fn create(
    request: CreateRequest,
    identity: &SecretKey,
    seed: [u8; 32],
    unix_s: u64,
) -> Result<Created, CreateError> {
    let (ns, authority, mut founders) = found(request, &[identity], seed, unix_s)?;
    let Founder { data, writes } = founders.pop().ok_or(CreateError::Founders)?;
    Ok(Created { ns, authority, data, writes })
}

impl fmt::Debug for Created {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Created").field("ns", &self.ns).finish_non_exhaustive()
    }
}

impl fmt::Debug for Founder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Founder").finish_non_exhaustive()
    }
}

/// Founds a namespace whose views 0 have several members, in the order of `identities`.
pub fn found(
    request: CreateRequest,
    identities: &[&SecretKey],
    seed: [u8; 32],
    unix_s: u64,
) -> Result<(NamespaceId, SecretKey, Vec<Founder>), CreateError> {
    let rng = &mut ChaCha20Rng::from_seed(seed);
    if !valid_name(&request.name) {
        return Err(CreateError::Name);
    }
    let authority = SecretKey::from_seed(&random(rng));
    let ns = NamespaceId::new(&authority.public(), &request.name);
    let first = SignedConfig::sign(&ns, first_config(&ns, &authority, request, unix_s)?, 0, &authority);
    let drafts: Vec<Draft> =
        identities.iter().map(|identity| Draft::new(&ns, &authority, identity, rng, unix_s)).collect();
    let mut members: Vec<Member> = drafts.iter().map(|draft| draft.member).collect();
    members.sort_unstable();
    if !(1..=MAX_MEMBERS).contains(&members.len()) || !members.is_sorted_by(|a, b| a.identity < b.identity) {
        return Err(CreateError::Founders);
    }
    let genesis = Genesis { config: first.hash(), shards: first.config().shards, members };
    let chain = Chain::new(ns, &genesis);
    let signed = SignedGenesis::sign(&ns, first.clone(), genesis, &authority);
    let founders = drafts
        .into_iter()
        .zip(identities)
        .map(|(draft, identity)| draft.finish(&ns, identity, &signed, &chain, unix_s))
        .collect();
    Ok((ns, authority, founders))
}

fn first_config(
    ns: &NamespaceId,
    authority: &SecretKey,
    request: CreateRequest,
    unix_s: u64,
) -> Result<Config, CreateError> {
    let range = request.range.unwrap_or_else(|| Config::default_range(ns)).trunc();
    if !usable(range) {
        return Err(CreateError::Range);
    }
    if !(30..=10 * 365 * 86_400).contains(&request.lease.as_secs()) {
        return Err(CreateError::Lease);
    }
    let mut config = Config::first(&request.name, authority.public(), range, request.lease, unix_s);
    config.recovery = request.recovery.unwrap_or_default();
    Ok(config)
}

fn usable(range: Ipv4Net) -> bool {
    let excluded = [[0, 8], [127, 8], [224, 3]].map(|[first, length]| {
        Ipv4Net::new(std::net::Ipv4Addr::new(first, 0, 0, 0), length).expect("8 and 3 are prefix lengths")
    });
    let link_local = Ipv4Net::new(std::net::Ipv4Addr::new(169, 254, 0, 0), 16).expect("16 is a prefix length");
    (8..=29).contains(&range.prefix_len())
        && !excluded.iter().chain([&link_local]).any(|net| net.contains(&range) || range.contains(net))
}

/// A founder before the genesis names it.
struct Draft {
    invite: SignedInvite,
    entry: Entry,
    member: Member,
    data: Zeroizing<[u8; 32]>,
}

impl Draft {
    fn new(
        ns: &NamespaceId,
        authority: &SecretKey,
        identity: &SecretKey,
        rng: &mut impl CryptoRng,
        unix_s: u64,
    ) -> Self {
        let key = SecretKey::from_seed(&random(rng));
        let body = InviteBody {
            era: 0,
            invite_epoch: 0,
            uses: 1,
            roles: Role::Router.roles(),
            quota: FOUNDER_HOSTS,
            group: 0,
            not_after: unix_s,
            member_until: 0,
            nonce: random(rng),
            authority_index: 0,
        };
        let invite = SignedInvite::new(ns, authority, body, key.public());
        let member = Member {
            identity: identity.public(),
            store_id: random(rng),
            serial: serial(ns, &invite.invite, &body.nonce, 0),
        };
        Self { invite, entry: Entry::new(ns, &key, identity), member, data: Zeroizing::new(random(rng)) }
    }

    fn finish(
        self,
        ns: &NamespaceId,
        identity: &SecretKey,
        genesis: &SignedGenesis,
        chain: &Chain,
        unix_s: u64,
    ) -> Founder {
        let view = chain.newest(0).expect("a chain has a view of shard 0");
        let data_key =
            DataKey { seq: 1, x25519: data_public(&self.data), until: unix_s.saturating_add(DATA_KEY_LIFE_S) };
        let proof = AdmissionProof::genesis(&self.invite.invite, view);
        let credential = Credential::new(ns, identity, self.invite, self.entry, proof, data_key);
        let mut writes = store::write_namespace(genesis, &genesis.first, chain);
        writes.push(store::write_store_id(self.member.store_id));
        writes.push(store::write_credential(&credential));
        debug_assert!(credential.to_bytes().len() < 1024, "a credential with at most 5 votes is below 1 KiB");
        Founder { data: self.data, writes }
    }
}

/// A founder may head a LAN without inviting itself.
const FOUNDER_HOSTS: u16 = 4096;

fn random<const N: usize>(rng: &mut impl CryptoRng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::fixture::{TODAY, apply, key, now};
    use crate::membership::{Membership, Stage, stage};
    use crate::namespace::Image;

    fn request(name: &str) -> CreateRequest {
        CreateRequest { name: name.to_owned(), range: None, lease: Duration::from_secs(3600), recovery: None }
    }

    fn refused(request: CreateRequest) -> CreateError {
        create(request, &key(1), [1; 32], TODAY).unwrap_err()
    }

    #[test]
    fn the_founder_is_a_member_of_what_it_founded() {
        let created = create(request("lab"), &key(1), [1; 32], TODAY).unwrap();
        let mut image = Image::new();
        apply(&mut image, &created.writes);
        assert!(matches!(stage(&image), Ok(Stage::Joined(ns)) if ns == created.ns));
        let founder = Membership::load(key(1), &created.data, &image, [0; 32], now()).unwrap();
        assert_eq!(founder.ns(), created.ns);
        assert_eq!(founder.config().zone, "lab.internal");
        assert_eq!(founder.config().authority, [created.authority.public()]);
        assert_eq!(founder.config().range, Config::default_range(&created.ns));
        let view = founder.chain().newest(15).unwrap();
        assert_eq!((view.members.len(), view.members[0].store_id), (1, founder.store_id()));
        assert_eq!(view.members[0].serial, founder.credential().serial(&created.ns));
        assert_ne!(created.authority.public(), key(1).public());
    }

    #[test]
    fn two_namespaces_of_one_name_are_two() {
        let first = create(request("lab"), &key(1), [1; 32], TODAY).unwrap();
        let second = create(request("lab"), &key(1), [2; 32], TODAY).unwrap();
        assert_ne!(first.ns, second.ns);
        assert_ne!(*first.data, *second.data);
    }

    #[test]
    fn the_default_range_is_one_of_64() {
        for byte in 0..=255 {
            let range = Config::default_range(&NamespaceId([byte; 32]));
            assert_eq!(range.prefix_len(), 16);
            assert!((64..128).contains(&range.network().octets()[1]) && range.network().octets()[0] == 10);
        }
    }

    #[test]
    fn what_cannot_be_a_namespace_is_refused_by_name() {
        assert_eq!(refused(request("Lab")), CreateError::Name);
        assert_eq!(refused(request("")), CreateError::Name);
        let lease = |seconds| CreateRequest { lease: Duration::from_secs(seconds), ..request("lab") };
        assert_eq!(refused(lease(29)), CreateError::Lease);
        assert_eq!(refused(lease(u64::MAX)), CreateError::Lease);
        for bad in
            ["10.0.0.0/7", "10.0.0.0/30", "127.0.0.0/16", "224.0.0.0/8", "169.254.0.0/20", "240.0.0.0/8", "0.0.0.0/8"]
        {
            let request = CreateRequest { range: Some(bad.parse().unwrap()), ..request("lab") };
            assert_eq!(refused(request), CreateError::Range, "{bad}");
        }
        let twice = found(request("lab"), &[&key(1), &key(1)], [1; 32], TODAY);
        assert_eq!(twice.map(drop), Err(CreateError::Founders));
    }

    #[test]
    fn a_range_is_cut_to_its_network() {
        let request = CreateRequest { range: Some("10.9.8.7/24".parse().unwrap()), ..request("lab") };
        let created = create(request, &key(1), [1; 32], TODAY).unwrap();
        let mut image = Image::new();
        apply(&mut image, &created.writes);
        let founder = Membership::load(key(1), &created.data, &image, [0; 32], now()).unwrap();
        assert_eq!(founder.config().range.to_string(), "10.9.8.0/24");
        assert_eq!(founder.config().shards, 1);
    }
}
