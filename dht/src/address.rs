//! Which address a client tries: the same one after every restart and reinstallation, and another at once when it is taken.
//!
//! A router's clients share a block of 256 addresses, hence a shard, so that their claims are one batch. The answer to a
//! claim of a taken address carries a map of its block, with which the second try succeeds but for races.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use rand::Rng;

use crate::command::ClientId;
use crate::config::Config;
use crate::identity::PublicKey;
use crate::sign::{self, NamespaceId};

/// After so many addresses that belong to others a client gets none for now.
pub(crate) const MAX_TRIES: u32 = 8;

/// The addresses of a block that somebody may claim.
fn usable(config: &Config, block: u32) -> Vec<Ipv4Addr> {
    let size = u32::from(config.block);
    let first = u32::from(config.range.network()).saturating_add(block.saturating_mul(size));
    (first..=first.saturating_add(size - 1)).map(Ipv4Addr::from).filter(|ip| config.is_claimable(*ip)).collect()
}

fn blocks(config: &Config) -> u32 {
    let addresses = 1u64 << (32 - config.range.prefix_len());
    u32::try_from(addresses.div_ceil(u64::from(config.block))).unwrap_or(u32::MAX).max(1)
}

/// The `i`-th block of an owner: the one its clients fill first, then the second, and so on.
fn block(ns: &NamespaceId, config: &Config, owner: &PublicKey, i: u32) -> u32 {
    modulo(&sign::hash("b", &[&ns.0, &owner.0, &i.to_be_bytes()]), blocks(config))
}

fn modulo(hash: &[u8; 32], n: u32) -> u32 {
    let wide = u64::from_be_bytes(hash[..8].try_into().expect("8 of 32 bytes"));
    u32::try_from(wide % u64::from(n.max(1))).expect("a remainder is below its divisor")
}

/// The address that a client tries first when nothing else is known of it. A block that is reserved altogether is skipped.
pub(crate) fn first_choice(
    ns: &NamespaceId,
    config: &Config,
    owner: &PublicKey,
    client: &ClientId,
) -> Option<Ipv4Addr> {
    (0..MAX_TRIES).find_map(|i| stable(ns, config, owner, client, i))
}

fn stable(ns: &NamespaceId, config: &Config, owner: &PublicKey, client: &ClientId, i: u32) -> Option<Ipv4Addr> {
    let usable = usable(config, block(ns, config, owner, i));
    let count = u32::try_from(usable.len()).ok().filter(|count| *count > 0)?;
    usable.get(modulo(&sign::hash("ip", &[&ns.0, &owner.0, &client.0]), count) as usize).copied()
}

/// The next address after `taken` that was not `tried`, with the map of its block: a random free one, or one of the owner's next block
/// when this one is more than three quarters full.
pub(crate) fn next_choice(
    ns: &NamespaceId,
    config: &Config,
    (owner, client): (&PublicKey, &ClientId),
    (taken, used, tried): (Ipv4Addr, &[u8], &BTreeSet<Ipv4Addr>),
    tries: u32,
    rng: &mut impl Rng,
) -> Option<Ipv4Addr> {
    let in_use = |ip: &Ipv4Addr| {
        let last = ip.octets()[3];
        *ip == taken || used.get(usize::from(last / 8)).is_some_and(|byte| byte >> (last % 8) & 1 == 1)
    };
    let first = u32::from(taken) & !0xff;
    let all: Vec<Ipv4Addr> = (first..=first | 0xff).map(Ipv4Addr::from).filter(|ip| config.is_claimable(*ip)).collect();
    let free: Vec<Ipv4Addr> = all.iter().copied().filter(|ip| !in_use(ip) && !tried.contains(ip)).collect();
    let crowded = used.is_empty() || free.len() * 4 < all.len();
    if crowded && blocks(config) > 1 {
        return (tries..tries + MAX_TRIES)
            .filter_map(|i| stable(ns, config, owner, client, i))
            .find(|ip| u32::from(*ip) & !0xff != first && !tried.contains(ip))
            .or_else(|| pick(&free, rng));
    }
    pick(&free, rng)
}

fn pick(free: &[Ipv4Addr], rng: &mut impl Rng) -> Option<Ipv4Addr> {
    let count = u64::try_from(free.len()).ok().filter(|count| *count > 0)?;
    free.get(usize::try_from(rng.next_u64() % count).ok()?).copied()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    use super::*;

    const NS: NamespaceId = NamespaceId([3; 32]);

    fn config(range: &str) -> Config {
        Config::first("lab", PublicKey([1; 32]), range.parse().unwrap(), Duration::from_secs(86_400), 0)
    }

    #[test]
    fn first_choices_are_claimable_stable_and_spread_over_the_range() {
        for range in ["10.64.0.0/16", "10.0.0.0/8", "192.168.7.0/24", "192.168.7.8/29", "10.1.0.0/20"] {
            let config = config(range);
            let mut seen = BTreeSet::new();
            for n in 0..200u8 {
                let client = ClientId::of(&[n]);
                let ip = first_choice(&NS, &config, &PublicKey([n; 32]), &client).unwrap();
                assert!(config.is_claimable(ip), "{ip} in {range}");
                assert_eq!(first_choice(&NS, &config, &PublicKey([n; 32]), &client), Some(ip));
                seen.insert(ip);
            }
            assert!(seen.len() >= 5, "{range}: {seen:?}");
        }
    }

    #[test]
    fn clients_of_one_owner_share_a_block() {
        let config = config("10.64.0.0/16");
        let owner = PublicKey([9; 32]);
        let block = |n: u8| u32::from(first_choice(&NS, &config, &owner, &ClientId::of(&[n])).unwrap()) >> 8;
        assert!((0..50).all(|n| block(n) == block(0)));
    }

    #[test]
    fn the_next_choice_is_free_by_the_map_and_leaves_a_crowded_block() {
        let config = config("10.64.0.0/16");
        let (owner, client) = (PublicKey([9; 32]), ClientId::of(b"x"));
        let taken = first_choice(&NS, &config, &owner, &client).unwrap();
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let (mut used, none) = ([0u8; 32], BTreeSet::new());
        used[..16].fill(0xff);
        for tries in 1..20 {
            let next = next_choice(&NS, &config, (&owner, &client), (taken, &used, &none), tries, &mut rng).unwrap();
            assert!(next != taken && next.octets()[3] >= 128 && next.octets()[2] == taken.octets()[2], "{next}");
        }
        used.fill(0xff);
        let next = next_choice(&NS, &config, (&owner, &client), (taken, &used, &none), 1, &mut rng).unwrap();
        assert_ne!(next.octets()[2], taken.octets()[2]);
    }

    #[test]
    fn a_full_range_of_one_block_has_no_next_choice() {
        let config = config("192.168.7.8/29");
        let (owner, client) = (PublicKey([9; 32]), ClientId::of(b"x"));
        let taken = first_choice(&NS, &config, &owner, &client).unwrap();
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        assert_eq!(
            next_choice(&NS, &config, (&owner, &client), (taken, &[0xff; 32], &BTreeSet::new()), 1, &mut rng),
            None
        );
    }

    /// A map comes from a replica, and may name as free only what was tried: that is no reason to try for ever.
    #[test]
    fn what_was_tried_is_no_choice_whatever_the_map_says() {
        let config = config("192.168.7.8/29");
        let (owner, client) = (PublicKey([9; 32]), ClientId::of(b"x"));
        let all: Vec<Ipv4Addr> = config.range.hosts().filter(|ip| config.is_claimable(*ip)).collect();
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let mut next = |tried: &BTreeSet<Ipv4Addr>| {
            next_choice(&NS, &config, (&owner, &client), (all[0], &[0; 32], tried), 1, &mut rng)
        };
        let last = all[all.len() - 1];
        let but_last: BTreeSet<Ipv4Addr> = all.iter().copied().filter(|ip| *ip != last).collect();
        assert_eq!(next(&but_last), Some(last));
        assert_eq!(next(&all.iter().copied().collect()), None);
    }
}
