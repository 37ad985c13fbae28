//! The first bytes between two nodes: each shows that it knows the namespace, then that it is a member.
//!
//! The dialler speaks first, to somebody whose [`PeerId`] the channel proved; whoever only listens reveals nothing
//! until the other has proved itself. A joiner shows its invite instead of a credential and gets what it needs to check
//! the namespace for itself.

use hmac::{Hmac, KeyInit, Mac};
use libp2p_identity::PeerId;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::config::{SignedConfig, SignedGenesis};
use crate::credential::Credential;
use crate::record::Scope;
use crate::redeem::RedeemRequest;
use crate::sign::NamespaceId;
use crate::token::Contact;
use crate::view::page::MAX_VIEWS;
use crate::view::{MAX_SHARDS, Successor, ViewRef};

/// Most bytes of a request or an answer.
pub const MAX_HELLO: usize = 64 * 1024;

const VERSION: u8 = 1;

/// Version numbers of what the authority signs. A higher one makes a node ask for what is behind it, and nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Heads {
    /// Era of the configuration.
    pub era: u32,
    /// Version of the configuration.
    pub version: u64,
    /// Number of the revocation list.
    pub list: u32,
}

impl Heads {
    /// As the data handshake carries them: era 2, version 4, list 2, each cut off at its end.
    pub fn short(self) -> [u8; 8] {
        let mut out = Writer::default();
        out.u16(u16::try_from(self.era).unwrap_or(u16::MAX));
        out.u32(u32::try_from(self.version).unwrap_or(u32::MAX));
        out.u16(u16::try_from(self.list).unwrap_or(u16::MAX));
        out.into_bytes().try_into().expect("2 and 4 and 2 bytes are 8")
    }
}

impl Wire for Heads {
    fn encode(&self, out: &mut Writer) {
        out.u32(self.era);
        out.u64(self.version);
        out.u32(self.list);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { era: input.u32()?, version: input.u64()?, list: input.u32()? })
    }
}

/// As what the dialler comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A member, with its credential.
    Member(Box<Credential>),
    /// Somebody with an invite and the two signatures that ask for a slot of it, who knows views by this hash.
    Joiner(Box<RedeemRequest>, [u8; 32]),
}

/// What the dialler sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Proves knowledge of the namespace to this listener.
    pub tag: [u8; 16],
    /// Random.
    pub nonce: [u8; 16],
    /// Random per process, so that a second node with the same keys is noticed.
    pub instance: [u8; 8],
    /// What the dialler has.
    pub heads: Heads,
    /// As what it comes.
    pub claim: Claim,
    /// The newest views that the dialler knows, except those that were founded: the answer goes on from there.
    pub known: Vec<Scope>,
    /// Views that the other may lack to check the credential.
    pub views: Vec<Successor>,
}

/// What the listener answers, once it is satisfied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Proves knowledge of the namespace, and that this answers the request.
    pub tag: [u8; 16],
    /// As in the request.
    pub instance: [u8; 8],
    /// What the listener has.
    pub heads: Heads,
    /// The listener's credential.
    pub credential: Credential,
    /// Views after those that the dialler knows: all for a joiner, else those that the credential rests on, as many as fit.
    /// Whoever still lacks some comes again.
    pub views: Vec<Successor>,
    /// The newest configuration, where the dialler's is older.
    pub config: Option<SignedConfig>,
    /// For a joiner.
    pub start: Option<Start>,
}

/// What a joiner needs to check a namespace from its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The founding.
    pub genesis: SignedGenesis,
    /// The list of views that the joiner's token pins by its hash; empty if it was never the newest one here.
    pub pinned: Vec<ViewRef>,
    /// Where replicas are, as far as the listener knows.
    pub replicas: Vec<Contact>,
}

/// The tag of a request.
pub(crate) fn request_tag(ns: &NamespaceId, nonce: &[u8; 16], dialler: &PeerId, listener: &PeerId) -> [u8; 16] {
    tag(ns, b"hello", nonce, dialler, listener)
}

/// The tag of the answer to a request with this nonce.
pub(crate) fn response_tag(ns: &NamespaceId, nonce: &[u8; 16], dialler: &PeerId, listener: &PeerId) -> [u8; 16] {
    tag(ns, b"hello-answer", nonce, dialler, listener)
}

/// Compares tags without telling by time how far they agree.
pub(crate) fn same_tag(a: &[u8; 16], b: &[u8; 16]) -> bool {
    a.ct_eq(b).into()
}

fn tag(ns: &NamespaceId, purpose: &[u8], nonce: &[u8; 16], dialler: &PeerId, listener: &PeerId) -> [u8; 16] {
    let mut mac = Hmac::<Sha256>::new_from_slice(&ns.0).expect("HMAC takes keys of any length");
    mac.update(purpose);
    mac.update(nonce);
    mac.update(&dialler.to_bytes());
    mac.update(&listener.to_bytes());
    let mac: [u8; 32] = mac.finalize().into_bytes().into();
    mac[..16].try_into().expect("16 of 32 bytes")
}

impl Wire for Request {
    fn encode(&self, out: &mut Writer) {
        out.u8(VERSION);
        out.raw(&self.tag);
        out.raw(&self.nonce);
        out.raw(&self.instance);
        self.heads.encode(out);
        match &self.claim {
            Claim::Member(credential) => {
                out.u8(0);
                credential.encode(out);
            }
            Claim::Joiner(request, pin) => {
                out.u8(1);
                request.encode(out);
                out.raw(pin);
            }
        }
        out.list(&self.known);
        out.list(&self.views);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        version(input)?;
        Ok(Self {
            tag: input.array()?,
            nonce: input.array()?,
            instance: input.array()?,
            heads: Heads::decode(input)?,
            claim: match input.u8()? {
                0 => Claim::Member(Box::new(Credential::decode(input)?)),
                1 => Claim::Joiner(Box::new(RedeemRequest::decode(input)?), input.array()?),
                _ => return Err(DecodeError::Invalid("mode")),
            },
            known: input.list(usize::from(MAX_SHARDS), "list of known views")?,
            views: input.list(MAX_VIEWS, "list of views")?,
        })
    }
}

impl Wire for Response {
    fn encode(&self, out: &mut Writer) {
        out.u8(VERSION);
        out.raw(&self.tag);
        out.raw(&self.instance);
        self.heads.encode(out);
        self.credential.encode(out);
        out.list(&self.views);
        encode_option(self.config.as_ref(), out);
        encode_option(self.start.as_ref(), out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        version(input)?;
        Ok(Self {
            tag: input.array()?,
            instance: input.array()?,
            heads: Heads::decode(input)?,
            credential: Credential::decode(input)?,
            views: input.list(MAX_VIEWS, "list of views")?,
            config: decode_option(input)?,
            start: decode_option(input)?,
        })
    }
}

impl Wire for Start {
    fn encode(&self, out: &mut Writer) {
        self.genesis.encode(out);
        out.list(&self.pinned);
        out.list(&self.replicas);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            genesis: SignedGenesis::decode(input)?,
            pinned: input.list(usize::from(MAX_SHARDS), "list of pinned views")?,
            replicas: input.list(16, "list of replicas")?,
        })
    }
}

fn version(input: &mut Reader<'_>) -> Result<(), DecodeError> {
    if input.u8()? == VERSION { Ok(()) } else { Err(DecodeError::Invalid("hello version")) }
}

fn encode_option<T: Wire>(value: Option<&T>, out: &mut Writer) {
    out.u8(u8::from(value.is_some()));
    if let Some(value) = value {
        value.encode(out);
    }
}

fn decode_option<T: Wire>(input: &mut Reader<'_>) -> Result<Option<T>, DecodeError> {
    if input.flag("presence")? { Ok(Some(T::decode(input)?)) } else { Ok(None) }
}
