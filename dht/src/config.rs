//! The signed configuration of a namespace, and when a node takes a newer one over.
//!
//! The bytes that were signed are kept and checked as they came; the decoded form is only for reading. A newer
//! configuration is stored before it is used, and one that changes what is fixed for life is invalid even if signed.

mod body;

use thiserror::Error;

use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::identity::{PublicKey, SecretKey};
use crate::sign::{self, BadSignature, Label, NamespaceId, Signature};
use crate::view::{Genesis, Vote, decode_votes, encode_votes};

pub(crate) use body::MAX_CHECKPOINTS;
pub use body::{Checkpoint, Config, Mode, Pin, PinKey, Quotas, Renewer, valid_label, valid_name};

/// Most bytes of a configuration.
pub const MAX_CONFIG: usize = 16 * 1024;

/// How far a version may run ahead of the stored one, so that nobody jumps to the end of numbers.
const MAX_SKIP: u64 = 1 << 20;

/// A configuration with the bytes that were signed and the authority's signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedConfig {
    config: Config,
    body: Vec<u8>,
    signatures: Vec<Vote>,
    previous_signatures: Vec<Vote>,
}

/// Why a configuration is not taken over.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Too few of the authority keys signed, or not rightly.
    #[error("configuration is not signed by the authority")]
    Signature,
    /// The name or the first authority key is not what the namespace was founded with.
    #[error("configuration is of another namespace")]
    Namespace,
    /// It changes what is fixed for life.
    #[error("configuration changes the {0}, which is fixed for life")]
    Fixed(&'static str),
    /// Its era is another one; eras begin with the recovery key, which this version does not use.
    #[error("configuration is of another era")]
    Era,
    /// Its version is too far ahead.
    #[error("configuration version is too far ahead")]
    TooFarAhead,
    /// The authority changed, and the configurations in between, or the old authority's signatures, are missing.
    #[error("configuration changes the authority without the old authority's signatures")]
    AuthorityChain,
    /// It lacks a checkpoint, and with it the proof of views that everybody goes by.
    #[error("configuration takes a checkpoint back")]
    Checkpoint,
    /// Another configuration of the same version is signed too.
    #[error("two signed configurations of one version: the authority contradicted itself")]
    Fork,
}

impl From<BadSignature> for ConfigError {
    fn from(_: BadSignature) -> Self {
        Self::Signature
    }
}

/// How an offered configuration stands to the stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Store it, then use it.
    Newer,
    /// It is the stored one.
    Same,
    /// Ignore it, and answer with ours.
    Older,
}

impl SignedConfig {
    /// Signs a configuration with one authority key at its place; enough where the threshold is 1.
    pub fn sign(ns: &NamespaceId, config: Config, index: u8, authority: &SecretKey) -> Self {
        let body = config.to_bytes();
        let signature = sign::sign(authority, Label::Config, ns, &body);
        Self { config, body, signatures: vec![Vote { index, signature }], previous_signatures: Vec::new() }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The hash of the signed bytes.
    pub fn hash(&self) -> [u8; 32] {
        sign::hash("config", &[&self.body])
    }

    /// Checks the signatures by the authority that the configuration itself names.
    pub fn verify(&self, ns: &NamespaceId) -> Result<(), ConfigError> {
        self.verify_by(ns, &self.config.authority, self.config.threshold, &self.signatures)
    }

    /// Checks that this is the first configuration of the namespace.
    pub fn verify_first(&self, ns: &NamespaceId) -> Result<(), ConfigError> {
        let founder = self.config.authority.first().ok_or(ConfigError::Namespace)?;
        if NamespaceId::new(founder, &self.config.name) != *ns || self.config.rank() != (0, 1) {
            return Err(ConfigError::Namespace);
        }
        self.verify(ns)
    }

    /// Judges what a peer offers against what is stored here.
    pub fn judge(&self, offered: &Self, ns: &NamespaceId) -> Result<Verdict, ConfigError> {
        offered.verify(ns)?;
        let (stored, new) = (&self.config, &offered.config);
        if let Some(field) = stored.fixed_difference(new) {
            return Err(ConfigError::Fixed(field));
        }
        if new.rank() == stored.rank() {
            return if offered.body == self.body { Ok(Verdict::Same) } else { Err(ConfigError::Fork) };
        }
        if new.rank() < stored.rank() {
            return Ok(Verdict::Older);
        }
        if new.era != stored.era {
            return Err(ConfigError::Era);
        }
        if new.version - stored.version > MAX_SKIP {
            return Err(ConfigError::TooFarAhead);
        }
        if !stored.checkpoints.iter().all(|checkpoint| new.checkpoints.contains(checkpoint)) {
            return Err(ConfigError::Checkpoint);
        }
        if (&new.authority, new.threshold) != (&stored.authority, stored.threshold) {
            if new.version != stored.version + 1 || new.previous != self.hash() {
                return Err(ConfigError::AuthorityChain);
            }
            offered
                .verify_by(ns, &stored.authority, stored.threshold, &offered.previous_signatures)
                .map_err(|_| ConfigError::AuthorityChain)?;
        }
        Ok(Verdict::Newer)
    }

    fn verify_by(
        &self,
        ns: &NamespaceId,
        authority: &[PublicKey],
        threshold: u8,
        signatures: &[Vote],
    ) -> Result<(), ConfigError> {
        if signatures.len() < usize::from(threshold) || !signatures.is_sorted_by(|a, b| a.index < b.index) {
            return Err(ConfigError::Signature);
        }
        for vote in signatures {
            let key = authority.get(usize::from(vote.index)).ok_or(ConfigError::Signature)?;
            sign::verify(key, Label::Config, ns, &self.body, &vote.signature)?;
        }
        Ok(())
    }
}

impl Wire for SignedConfig {
    fn encode(&self, out: &mut Writer) {
        out.bytes(&self.body);
        encode_votes(&self.signatures, out);
        encode_votes(&self.previous_signatures, out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let body = input.bytes(MAX_CONFIG, "configuration")?;
        Ok(Self {
            config: Config::from_bytes(body)?,
            body: body.to_vec(),
            signatures: decode_votes(input)?,
            previous_signatures: decode_votes(input)?,
        })
    }
}

/// The founding of a namespace: its first configuration and its views 0, both signed by the founder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedGenesis {
    /// The first configuration.
    pub first: SignedConfig,
    /// The views 0 of all shards.
    pub genesis: Genesis,
    /// The founder's signature over the views.
    pub signature: Signature,
}

impl SignedGenesis {
    /// Signs the views 0 that go with the first configuration.
    pub fn sign(ns: &NamespaceId, first: SignedConfig, genesis: Genesis, authority: &SecretKey) -> Self {
        let signature = sign::sign(authority, Label::Genesis, ns, &genesis.to_bytes());
        Self { first, genesis, signature }
    }

    /// Checks that this founded the namespace.
    pub fn verify(&self, ns: &NamespaceId) -> Result<(), ConfigError> {
        self.first.verify_first(ns)?;
        if self.genesis.config != self.first.hash() || self.genesis.shards != self.first.config.shards {
            return Err(ConfigError::Namespace);
        }
        let founder = self.first.config.authority.first().ok_or(ConfigError::Namespace)?;
        sign::verify(founder, Label::Genesis, ns, &self.genesis.to_bytes(), &self.signature)?;
        Ok(())
    }
}

impl Wire for SignedGenesis {
    fn encode(&self, out: &mut Writer) {
        self.first.encode(out);
        self.genesis.encode(out);
        self.signature.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            first: SignedConfig::decode(input)?,
            genesis: Genesis::decode(input)?,
            signature: Signature::decode(input)?,
        })
    }
}
