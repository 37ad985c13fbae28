//! The fields of a configuration.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;

use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::identity::PublicKey;
use crate::invite::Roles;
use crate::sign::NamespaceId;

/// What the authority decided for a namespace. Fields marked with a star are fixed for its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Rises only when the recovery key takes over.
    pub era: u32,
    /// Rises with every change, from 1.
    pub version: u64,
    /// The hash of the configuration before, zeros in the first.
    pub previous: [u8; 32],
    /// `*` What people call the namespace.
    pub name: String,
    /// Seconds since 1970 at which the authority signed.
    pub issued_at: u64,
    /// 1 to 5 keys; invites name them by place.
    pub authority: Vec<PublicKey>,
    /// How many of them must sign a configuration.
    pub threshold: u8,
    /// `*` The hash of the recovery key, zeros for none.
    pub recovery: [u8; 32],
    /// Who may prolong memberships, strictly sorted; none in this version.
    pub renewers: Vec<Renewer>,
    /// The virtual addresses, `/8` to `/29`.
    pub range: Ipv4Net,
    /// Parts of the range that nobody may claim, strictly sorted.
    pub reserved: Vec<Ipv4Net>,
    /// Addresses and names that only one member may claim, strictly sorted.
    pub pinned: Vec<Pin>,
    /// Names that nobody may claim, strictly sorted, besides those that no namespace gives away.
    pub reserved_names: Vec<String>,
    /// The DNS zone.
    pub zone: String,
    /// The MTU inside the overlay.
    pub mtu: u16,
    /// How long a lease is given for, in seconds.
    pub lease_s: u32,
    /// `*` The longest lease that any replica ever grants, in seconds.
    pub max_lease_s: u32,
    /// `*` The clock error that leases allow for, in parts per million.
    pub rho_ppm: u32,
    /// `*` The number of shards, a power of two.
    pub shards: u16,
    /// `*` Addresses per block.
    pub block: u16,
    /// The number of replicas that views grow to.
    pub replicas: u8,
    /// `*` With or without an authority.
    pub mode: Mode,
    /// How much one member may hold.
    pub quotas: Quotas,
    /// Days that a new membership lasts; 0 for no end.
    pub member_days: u16,
    /// Views that the authority vouches for, strictly sorted by shard and incarnation. They prove views that nobody else
    /// can, so none is ever taken away.
    pub checkpoints: Vec<Checkpoint>,
    /// Invites of an older epoch are void.
    pub invite_epoch: u32,
    /// Bits for optional features.
    pub features: u32,
}

/// A renewer: may prolong memberships, never admit or widen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Renewer {
    /// Its node key.
    pub identity: PublicKey,
    /// How far ahead it may sign.
    pub max_days: u16,
    /// The roles it may keep alive.
    pub roles: u16,
}

/// Strict mode has an authority and one genesis; the other kind begins without either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Founded and signed by an authority.
    Strict,
    /// Grown from a shared secret.
    ZeroConf,
}

/// What only the member with this serial may claim.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin {
    /// The address or name.
    pub key: PinKey,
    /// The member.
    pub serial: [u8; 16],
}

/// The key of a [`Pin`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PinKey {
    /// A virtual address.
    Address(Ipv4Addr),
    /// A host name.
    Name(String),
}

/// How much one member may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Addresses of a member that is no router.
    pub addresses: u16,
    /// Names of a member that is no router.
    pub names: u16,
}

/// A view that the authority put in the place of one whose members are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Checkpoint {
    /// The shard.
    pub shard: u16,
    /// The incarnation, from 1.
    pub incarnation: u32,
    /// The view's number.
    pub view: u64,
    /// The view's hash.
    pub hash: [u8; 32],
    /// Certificates of views below this number, of earlier incarnations, are void.
    pub floor: u64,
}

/// Names that mean something to the programs of whoever asks for them, so a stranger must not answer: proxy and
/// tunnel discovery, mail discovery, and the machine itself.
const RESERVED_NAMES: [&str; 8] =
    ["autoconfig", "autodiscover", "broadcasthost", "gateway", "isatap", "localdomain", "localhost", "wpad"];

const MAX_LIST: usize = 64;

/// Most views that the authority ever vouches for: every shard of the largest namespace once.
pub(crate) const MAX_CHECKPOINTS: usize = crate::view::MAX_SHARDS as usize;

impl Config {
    /// The first configuration of a namespace, with every default.
    pub fn first(name: &str, authority: PublicKey, range: Ipv4Net, lease: Duration, issued_at: u64) -> Self {
        let lease_s = u32::try_from(lease.as_secs()).unwrap_or(u32::MAX);
        Self {
            era: 0,
            version: 1,
            previous: [0; 32],
            name: name.to_owned(),
            issued_at,
            authority: vec![authority],
            threshold: 1,
            recovery: [0; 32],
            renewers: Vec::new(),
            range: range.trunc(),
            reserved: Vec::new(),
            pinned: Vec::new(),
            reserved_names: Vec::new(),
            zone: format!("{name}.internal"),
            mtu: 1400,
            lease_s,
            max_lease_s: lease_s,
            rho_ppm: 10_000,
            shards: shards_for(range),
            block: 256,
            replicas: 5,
            mode: Mode::Strict,
            quotas: Quotas { addresses: 4, names: 2 },
            member_days: 0,
            checkpoints: Vec::new(),
            invite_epoch: 0,
            features: 0,
        }
    }

    /// The range that a namespace gets unless its creator names one: `10.(64 + H(ns) mod 64).0.0/16`.
    pub fn default_range(ns: &NamespaceId) -> Ipv4Net {
        // The identifier is a hash already.
        Ipv4Net::new(Ipv4Addr::new(10, 64 + ns.0[31] % 64, 0, 0), 16).expect("16 is a prefix length")
    }

    /// What versions are compared by.
    pub fn rank(&self) -> (u32, u64) {
        (self.era, self.version)
    }

    /// How long a lease is given for.
    pub fn lease(&self) -> Duration {
        Duration::from_secs(u64::from(self.lease_s))
    }

    /// The longest lease that any replica grants.
    pub fn max_lease(&self) -> Duration {
        Duration::from_secs(u64::from(self.max_lease_s))
    }

    /// The lowest usable address: the virtual DHCP and DNS server of every member.
    pub fn service(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.range.network()) + 1)
    }

    /// Whether anybody may claim the address, apart from pins.
    pub fn is_claimable(&self, ip: Ipv4Addr) -> bool {
        self.range.contains(&ip)
            && ip != self.range.network()
            && ip != self.range.broadcast()
            && ip != self.service()
            && !self.reserved.iter().any(|range| range.contains(&ip))
    }

    /// Whether nobody may claim the (normalised) name.
    pub fn is_reserved_name(&self, name: &str) -> bool {
        RESERVED_NAMES.contains(&name) || self.reserved_names.binary_search_by(|n| n.as_str().cmp(name)).is_ok()
    }

    /// The member that alone may claim this key, if there is one.
    pub fn pinned_to(&self, key: &PinKey) -> Option<[u8; 16]> {
        self.pinned.iter().find(|pin| pin.key == *key).map(|pin| pin.serial)
    }

    /// The first field that is fixed for life and differs.
    pub(super) fn fixed_difference(&self, other: &Self) -> Option<&'static str> {
        [
            ("name", self.name == other.name),
            ("recovery key", self.recovery == other.recovery),
            ("longest lease", self.max_lease_s == other.max_lease_s),
            ("clock error", self.rho_ppm == other.rho_ppm),
            ("number of shards", self.shards == other.shards),
            ("block size", self.block == other.block),
            ("mode", self.mode == other.mode),
        ]
        .into_iter()
        .find_map(|(field, same)| (!same).then_some(field))
    }

    fn check(&self) -> Result<(), DecodeError> {
        let sound = [
            ("name", valid_name(&self.name)),
            ("authority", (1..=5).contains(&self.authority.len()) && distinct(&self.authority)),
            ("threshold", (1..=self.authority.len()).contains(&usize::from(self.threshold))),
            ("renewers", self.renewers.is_sorted_by(|a, b| a.identity < b.identity)),
            ("range", (8..=29).contains(&self.range.prefix_len())),
            ("reserved ranges", self.reserved.is_sorted_by(|a, b| a < b)),
            ("pins", self.pinned.is_sorted_by(|a, b| a.key < b.key)),
            ("reserved names", self.reserved_names.is_sorted_by(|a, b| a < b)),
            ("zone", valid_zone(&self.zone)),
            ("MTU", (576..=9000).contains(&self.mtu)),
            ("lease", self.lease_s >= 1 && self.lease_s <= self.max_lease_s && self.max_lease_s >= 30),
            ("clock error", self.rho_ppm < 500_000),
            ("shards", self.shards.is_power_of_two() && self.shards <= crate::view::MAX_SHARDS),
            ("block size", self.block.is_power_of_two()),
            ("replicas", matches!(self.replicas, 1 | 3 | 5)),
            ("checkpoints", self.checkpoints.is_sorted_by(|a, b| (a.shard, a.incarnation) < (b.shard, b.incarnation))),
            ("checkpoints", self.checkpoints.iter().all(|checkpoint| checkpoint.incarnation > 0)),
        ];
        match sound.iter().find(|(_, sound)| !sound) {
            Some((field, _)) => Err(DecodeError::Invalid(field)),
            None => Ok(()),
        }
    }
}

/// One shard for ranges of /20 and smaller, 16 up to /12, 256 above: some 2,000 leases a shard where it is full.
fn shards_for(range: Ipv4Net) -> u16 {
    match range.prefix_len() {
        20.. => 1,
        12..20 => 16,
        _ => 256,
    }
}

/// Whether a namespace may be called this: 1 to 32 of `[a-z0-9-]`, as a DNS label without a dash at either end.
pub fn valid_name(name: &str) -> bool {
    name.len() <= 32 && valid_label(name)
}

/// Whether this is a DNS label in normal form (RFC 1123 section 2.1, lower case).
pub fn valid_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn valid_zone(zone: &str) -> bool {
    zone.len() <= 128 && zone.split('.').all(valid_label)
}

fn distinct(keys: &[PublicKey]) -> bool {
    let mut sorted = keys.to_vec();
    sorted.sort_unstable();
    sorted.is_sorted_by(|a, b| a < b)
}

const VERSION: u8 = 1;

impl Wire for Config {
    fn encode(&self, out: &mut Writer) {
        out.u8(VERSION);
        out.u32(self.era);
        out.u64(self.version);
        out.raw(&self.previous);
        out.bytes(self.name.as_bytes());
        out.u64(self.issued_at);
        out.list(&self.authority);
        out.u8(self.threshold);
        out.raw(&self.recovery);
        out.list(&self.renewers);
        encode_net(self.range, out);
        out.list(&self.reserved.iter().copied().map(Net).collect::<Vec<_>>());
        out.list(&self.pinned);
        out.list(&self.reserved_names.iter().cloned().map(Label).collect::<Vec<_>>());
        out.bytes(self.zone.as_bytes());
        out.u16(self.mtu);
        out.u32(self.lease_s);
        out.u32(self.max_lease_s);
        out.u32(self.rho_ppm);
        out.u16(self.shards);
        out.u16(self.block);
        out.u8(self.replicas);
        out.u8(match self.mode {
            Mode::Strict => 0,
            Mode::ZeroConf => 1,
        });
        out.u16(self.quotas.addresses);
        out.u16(self.quotas.names);
        out.u16(self.member_days);
        out.list(&self.checkpoints);
        out.u32(self.invite_epoch);
        out.u32(self.features);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if input.u8()? != VERSION {
            return Err(DecodeError::Invalid("configuration version"));
        }
        let config = Self {
            era: input.u32()?,
            version: input.u64()?,
            previous: input.array()?,
            name: input.text(32, "name")?.to_owned(),
            issued_at: input.u64()?,
            authority: input.list(5, "authority")?,
            threshold: input.u8()?,
            recovery: input.array()?,
            renewers: input.list(16, "list of renewers")?,
            range: decode_net(input)?,
            reserved: input.list::<Net>(MAX_LIST, "list of reserved ranges")?.into_iter().map(|net| net.0).collect(),
            pinned: input.list(MAX_LIST, "list of pins")?,
            reserved_names: input
                .list::<Label>(MAX_LIST, "list of reserved names")?
                .into_iter()
                .map(|name| name.0)
                .collect(),
            zone: input.text(128, "zone")?.to_owned(),
            mtu: input.u16()?,
            lease_s: input.u32()?,
            max_lease_s: input.u32()?,
            rho_ppm: input.u32()?,
            shards: input.u16()?,
            block: input.u16()?,
            replicas: input.u8()?,
            mode: match input.u8()? {
                0 => Mode::Strict,
                1 => Mode::ZeroConf,
                _ => return Err(DecodeError::Invalid("mode")),
            },
            quotas: Quotas { addresses: input.u16()?, names: input.u16()? },
            member_days: input.u16()?,
            checkpoints: input.list(MAX_CHECKPOINTS, "list of checkpoints")?,
            invite_epoch: input.u32()?,
            features: input.u32()?,
        };
        config.check()?;
        Ok(config)
    }
}

struct Net(Ipv4Net);

impl Wire for Net {
    fn encode(&self, out: &mut Writer) {
        encode_net(self.0, out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(decode_net(input)?))
    }
}

fn encode_net(net: Ipv4Net, out: &mut Writer) {
    out.raw(&net.addr().octets());
    out.u8(net.prefix_len());
}

fn decode_net(input: &mut Reader<'_>) -> Result<Ipv4Net, DecodeError> {
    let addr = Ipv4Addr::from(input.array::<4>()?);
    let net = Ipv4Net::new(addr, input.u8()?).map_err(|_| DecodeError::Invalid("prefix length"))?;
    // One spelling per range: no bits set behind the prefix.
    if net.trunc() != net {
        return Err(DecodeError::Invalid("range"));
    }
    Ok(net)
}

struct Label(String);

impl Wire for Label {
    fn encode(&self, out: &mut Writer) {
        out.bytes(self.0.as_bytes());
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let label = input.text(63, "reserved name")?;
        if !valid_label(label) {
            return Err(DecodeError::Invalid("reserved name"));
        }
        Ok(Self(label.to_owned()))
    }
}

impl Wire for Renewer {
    fn encode(&self, out: &mut Writer) {
        self.identity.encode(out);
        out.u16(self.max_days);
        out.u16(self.roles);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { identity: PublicKey::decode(input)?, max_days: input.u16()?, roles: Roles::decode(input)?.0 })
    }
}

impl Wire for Pin {
    fn encode(&self, out: &mut Writer) {
        match &self.key {
            PinKey::Address(ip) => {
                out.u8(1);
                out.raw(&ip.octets());
            }
            PinKey::Name(name) => {
                out.u8(2);
                out.bytes(name.as_bytes());
            }
        }
        out.raw(&self.serial);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let key = match input.u8()? {
            1 => PinKey::Address(Ipv4Addr::from(input.array::<4>()?)),
            2 => PinKey::Name(Label::decode(input)?.0),
            _ => return Err(DecodeError::Invalid("pin")),
        };
        Ok(Self { key, serial: input.array()? })
    }
}

impl Wire for Checkpoint {
    fn encode(&self, out: &mut Writer) {
        out.u16(self.shard);
        out.u32(self.incarnation);
        out.u64(self.view);
        out.raw(&self.hash);
        out.u64(self.floor);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            shard: input.u16()?,
            incarnation: input.u32()?,
            view: input.u64()?,
            hash: input.array()?,
            floor: input.u64()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::membership::fixture::{TODAY, key};

    fn config() -> Config {
        let range = "10.64.0.0/16".parse().unwrap();
        Config::first("lab", key(1).public(), range, Duration::from_secs(86_400), TODAY)
    }

    /// Every list filled.
    fn full() -> Config {
        Config {
            authority: vec![key(2).public(), key(1).public()],
            threshold: 2,
            renewers: vec![Renewer { identity: key(3).public(), max_days: 90, roles: 13 }],
            reserved: vec!["10.64.1.0/24".parse().unwrap(), "10.64.4.0/22".parse().unwrap()],
            pinned: vec![
                Pin { key: PinKey::Address(Ipv4Addr::new(10, 64, 0, 9)), serial: [1; 16] },
                Pin { key: PinKey::Name("head".to_owned()), serial: [2; 16] },
            ],
            reserved_names: vec!["mail".to_owned(), "printer".to_owned()],
            checkpoints: vec![
                Checkpoint { shard: 1, incarnation: 1, view: 4, hash: [3; 32], floor: 0 },
                Checkpoint { shard: 1, incarnation: 2, view: 7, hash: [4; 32], floor: 4 },
            ],
            ..config()
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for config in [config(), full()] {
            assert_eq!(Config::from_bytes(&config.to_bytes()), Ok(config));
        }
    }

    #[test]
    fn every_cut_and_a_trailing_byte_are_refused() {
        let bytes = full().to_bytes();
        for cut in 0..bytes.len() {
            assert!(Config::from_bytes(&bytes[..cut]).is_err());
        }
        assert_eq!(Config::from_bytes(&[&bytes[..], &[0]].concat()), Err(DecodeError::Trailing));
    }

    #[test]
    fn a_changed_byte_is_refused_or_another_configuration() {
        let bytes = full().to_bytes();
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 0x40;
            if let Ok(config) = Config::from_bytes(&changed) {
                assert_eq!(config.to_bytes(), changed);
                assert_ne!(config, full());
            }
        }
    }

    #[test]
    fn a_field_outside_its_limits_is_named() {
        let refused = |change: fn(&mut Config)| {
            let mut config = full();
            change(&mut config);
            Config::from_bytes(&config.to_bytes()).unwrap_err()
        };
        assert_eq!(refused(|c| c.name = "Lab".to_owned()), DecodeError::Invalid("name"));
        assert_eq!(refused(|c| c.authority.clear()), DecodeError::Invalid("authority"));
        assert_eq!(refused(|c| c.authority[1] = c.authority[0]), DecodeError::Invalid("authority"));
        assert_eq!(refused(|c| c.threshold = 3), DecodeError::Invalid("threshold"));
        assert_eq!(refused(|c| c.threshold = 0), DecodeError::Invalid("threshold"));
        assert_eq!(refused(|c| c.range = "10.0.0.0/30".parse().unwrap()), DecodeError::Invalid("range"));
        assert_eq!(refused(|c| c.range = "10.0.0.1/24".parse().unwrap()), DecodeError::Invalid("range"));
        assert_eq!(refused(|c| c.reserved.reverse()), DecodeError::Invalid("reserved ranges"));
        assert_eq!(refused(|c| c.pinned.reverse()), DecodeError::Invalid("pins"));
        assert_eq!(refused(|c| c.reserved_names.reverse()), DecodeError::Invalid("reserved names"));
        assert_eq!(refused(|c| c.zone = "lab..internal".to_owned()), DecodeError::Invalid("zone"));
        assert_eq!(refused(|c| c.mtu = 100), DecodeError::Invalid("MTU"));
        assert_eq!(refused(|c| c.lease_s = c.max_lease_s + 1), DecodeError::Invalid("lease"));
        assert_eq!(refused(|c| (c.lease_s, c.max_lease_s) = (5, 29)), DecodeError::Invalid("lease"));
        assert_eq!(refused(|c| c.shards = 12), DecodeError::Invalid("shards"));
        assert_eq!(refused(|c| c.replicas = 2), DecodeError::Invalid("replicas"));
        assert_eq!(refused(|c| c.checkpoints.reverse()), DecodeError::Invalid("checkpoints"));
        assert_eq!(refused(|c| c.checkpoints[0].incarnation = 0), DecodeError::Invalid("checkpoints"));
    }

    #[test]
    fn names_that_mean_something_to_programs_are_nobodys() {
        for name in ["localhost", "wpad", "isatap", "mail", "printer"] {
            assert!(full().is_reserved_name(name), "{name}");
        }
        assert!(!full().is_reserved_name("debian"));
    }

    #[test]
    fn the_edges_of_the_range_the_service_and_reserved_parts_are_nobodys() {
        let config = full();
        assert_eq!(config.service(), Ipv4Addr::new(10, 64, 0, 1));
        let claimable = |text: &str| config.is_claimable(text.parse().unwrap());
        for free in ["10.64.0.2", "10.64.0.255", "10.64.255.254"] {
            assert!(claimable(free), "{free}");
        }
        for not in ["10.64.0.0", "10.64.0.1", "10.64.255.255", "10.64.1.7", "10.64.7.9", "10.65.0.1"] {
            assert!(!claimable(not), "{not}");
        }
    }

    #[test]
    fn the_number_of_shards_follows_from_the_range() {
        let shards = [
            ("10.0.0.0/29", 1),
            ("10.0.0.0/20", 1),
            ("10.0.0.0/19", 16),
            ("10.0.0.0/12", 16),
            ("10.0.0.0/11", 256),
            ("10.0.0.0/8", 256),
        ];
        for (range, count) in shards {
            assert_eq!(shards_for(range.parse().unwrap()), count, "{range}");
        }
    }

    #[test]
    fn names_are_labels_in_normal_form() {
        for good in ["lab", "a", "0", "my-lab-2", "12345678901234567890123456789012"] {
            assert!(valid_name(good), "{good}");
        }
        for bad in ["", "Lab", "-lab", "lab-", "l ab", "l.b", "läb", "l_b", "123456789012345678901234567890123"] {
            assert!(!valid_name(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(config) = Config::from_bytes(&bytes) {
                prop_assert_eq!(config.to_bytes(), bytes);
            }
        }
    }
}
