//! What membership keeps on disk, and reading it back: everything is verified again, as if it came from a stranger.

use std::collections::BTreeMap;

use crate::codec::Wire;
use crate::config::{SignedConfig, SignedGenesis, Verdict};
use crate::credential::Credential;
use crate::event::Write;
use crate::identity::PublicKey;
use crate::namespace::{Image, LoadError};
use crate::record::Scope;
use crate::sign::NamespaceId;
use crate::view::{Chain, Successor, View};

const GENESIS: &[u8] = b"m/genesis";
const CONFIG: &[u8] = b"m/config";
const CREDENTIAL: &[u8] = b"m/credential";
const STORE_ID: &[u8] = b"m/store-id";
const FLOOR: &[u8] = b"m/floor";
const TOKEN: &[u8] = b"m/token";
const VIEW: &[u8] = b"m/view/";
const DATA_SEQ: &[u8] = b"m/data-seq/";

/// Everything that a member keeps.
pub(crate) struct Stored {
    pub(crate) ns: NamespaceId,
    pub(crate) genesis: SignedGenesis,
    pub(crate) config: SignedConfig,
    pub(crate) chain: Chain,
    pub(crate) credential: Credential,
    pub(crate) store_id: [u8; 16],
    pub(crate) floor: u64,
    pub(crate) data_seqs: BTreeMap<PublicKey, u32>,
}

impl Stored {
    /// Reads and verifies it all.
    pub(crate) fn load(image: &Image) -> Result<Self, LoadError> {
        let (ns, genesis, config) = namespace(image)?.ok_or(LoadError::Missing("genesis"))?;
        let chain = chain(image, ns, &genesis, &config)?;
        let credential: Credential = read(image, CREDENTIAL, "credential")?.ok_or(LoadError::Missing("credential"))?;
        credential.verify(&ns, config.config(), &chain).map_err(|_| LoadError::Damaged("credential"))?;
        let store_id = read(image, STORE_ID, "store id")?.ok_or(LoadError::Missing("store id"))?;
        let floor = read::<[u8; 8]>(image, FLOOR, "date")?.map_or(0, u64::from_be_bytes);
        let data_seqs = under(image, DATA_SEQ)
            .map(|(key, value)| {
                let key = key.try_into().ok()?;
                Some((PublicKey(key), u32::from_be_bytes(value.try_into().ok()?)))
            })
            .collect::<Option<_>>()
            .ok_or(LoadError::Damaged("list of data keys"))?;
        Ok(Self { ns, genesis, config, chain, credential, store_id, floor, data_seqs })
    }
}

/// What a store says about this machine's place in a namespace.
#[derive(Debug)]
pub enum Stage {
    /// Nothing: create, or join with a token.
    Empty,
    /// A token was being redeemed; go on with it.
    Joining(zeroize::Zeroizing<String>),
    /// This machine is a member.
    Joined(NamespaceId),
}

/// Reads how far this machine has come.
pub fn stage(image: &Image) -> Result<Stage, LoadError> {
    if image.contains_key(CREDENTIAL) {
        let (ns, ..) = namespace(image)?.ok_or(LoadError::Missing("genesis"))?;
        return Ok(Stage::Joined(ns));
    }
    match image.get(TOKEN) {
        Some(token) => {
            let text = std::str::from_utf8(token).map_err(|_| LoadError::Damaged("token"))?;
            Ok(Stage::Joining(zeroize::Zeroizing::new(text.to_owned())))
        }
        None => Ok(Stage::Empty),
    }
}

pub(crate) fn write_namespace(genesis: &SignedGenesis, config: &SignedConfig, chain: &Chain) -> Vec<Write> {
    let mut writes = vec![put(GENESIS, genesis.to_bytes()), put(CONFIG, config.to_bytes())];
    writes.extend(chain.successors().iter().map(write_view));
    writes
}

pub(crate) fn write_view(successor: &Successor) -> Write {
    let View { shard, number, incarnation, .. } = successor.view;
    let mut key = VIEW.to_vec();
    key.extend_from_slice(&shard.to_be_bytes());
    key.extend_from_slice(&number.to_be_bytes());
    if incarnation > 0 {
        key.extend_from_slice(&incarnation.to_be_bytes());
    }
    put(&key, successor.to_bytes())
}

pub(crate) fn write_config(config: &SignedConfig) -> Write {
    put(CONFIG, config.to_bytes())
}

pub(crate) fn write_credential(credential: &Credential) -> Write {
    put(CREDENTIAL, credential.to_bytes())
}

pub(crate) fn write_store_id(store_id: [u8; 16]) -> Write {
    put(STORE_ID, store_id.to_vec())
}

pub(crate) fn write_floor(floor: u64) -> Write {
    put(FLOOR, floor.to_be_bytes().to_vec())
}

pub(crate) fn write_data_seq(identity: &PublicKey, seq: u32) -> Write {
    put(&[DATA_SEQ, &identity.0].concat(), seq.to_be_bytes().to_vec())
}

pub(crate) fn write_token(text: &str) -> Write {
    put(TOKEN, text.as_bytes().to_vec())
}

pub(crate) fn erase_token() -> Write {
    Write { key: TOKEN.to_vec(), value: None }
}

pub(crate) fn namespace(image: &Image) -> Result<Option<(NamespaceId, SignedGenesis, SignedConfig)>, LoadError> {
    let Some(genesis) = read::<SignedGenesis>(image, GENESIS, "genesis")? else { return Ok(None) };
    let first = genesis.first.config();
    // A decoded configuration has at least one authority key; the first founded the namespace.
    let ns = NamespaceId::new(&first.authority[0], &first.name);
    genesis.verify(&ns).map_err(|_| LoadError::Damaged("genesis"))?;
    let config: SignedConfig = read(image, CONFIG, "configuration")?.ok_or(LoadError::Missing("configuration"))?;
    config.verify(&ns).map_err(|_| LoadError::Damaged("configuration"))?;
    if config.config().rank() != first.rank() && genesis.first.judge(&config, &ns) == Ok(Verdict::Older) {
        return Err(LoadError::Damaged("configuration"));
    }
    Ok(Some((ns, genesis, config)))
}

fn chain(image: &Image, ns: NamespaceId, genesis: &SignedGenesis, config: &SignedConfig) -> Result<Chain, LoadError> {
    let read = |(_, value)| Successor::from_bytes(value).map_err(|_| LoadError::Damaged("chain of views"));
    let mut successors = under(image, VIEW).map(read).collect::<Result<Vec<_>, _>>()?;
    // Each view meets the one before it, which is of the same incarnation or an earlier one.
    successors.sort_by_key(|successor| Scope::of(&successor.view));
    let mut chain = Chain::new(ns, &genesis.genesis);
    chain.vouch(config.config());
    for successor in &successors {
        chain.extend(successor).map_err(|_| LoadError::Damaged("chain of views"))?;
    }
    Ok(chain)
}

fn read<T: Wire>(image: &Image, key: &[u8], what: &'static str) -> Result<Option<T>, LoadError> {
    image.get(key).map(|bytes| T::from_bytes(bytes).map_err(|_| LoadError::Damaged(what))).transpose()
}

fn under<'a>(image: &'a Image, prefix: &'a [u8]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
    image.range(prefix.to_vec()..).map_while(move |(key, value)| Some((key.strip_prefix(prefix)?, value.as_slice())))
}

fn put(key: &[u8], value: Vec<u8>) -> Write {
    Write { key: key.to_vec(), value: Some(value) }
}
