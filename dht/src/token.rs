//! The text that admits: an invite's secret with its limits, and whom to ask first.
//!
//! A token is a bearer secret until its slots are given: it is never logged, and prints as a few characters of a hash.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::config::valid_label;
use crate::identity::{PublicKey, SecretKey};
use crate::invite::{InviteBody, SignedInvite};
use crate::sign::{self, NamespaceId, Signature};

/// Longest text that is looked at; a token has at most [`BUDGET`] characters.
const MAX_TEXT: usize = 1024;

/// Characters that fit a terminal, a chat message and a QR code; contacts are dropped to fit.
pub const BUDGET: usize = 600;

/// Most contacts in a token.
pub const MAX_CONTACTS: usize = 4;

/// Most addresses of one contact.
pub const MAX_ADDRESSES: usize = 3;

const PREFIX: &str = "ov1";
const VERSION: u8 = 1;

/// Somebody who can be asked first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// Its identity: the channel must prove it.
    pub identity: PublicKey,
    /// 1 to 3 addresses of its libp2p port.
    pub addresses: Vec<ContactAddress>,
}

/// Where a contact may be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContactAddress {
    /// Address and port.
    Socket(SocketAddr),
    /// A DNS name, to be looked up by the joiner, and a port.
    Dns(String, u16),
}

const TAG_DNS: u8 = 2;
const TAG_V4: u8 = 4;
const TAG_V6: u8 = 6;

impl Wire for ContactAddress {
    fn encode(&self, out: &mut Writer) {
        match self {
            Self::Socket(addr) => {
                match addr.ip() {
                    IpAddr::V4(ip) => {
                        out.u8(TAG_V4);
                        out.raw(&ip.octets());
                    }
                    IpAddr::V6(ip) => {
                        out.u8(TAG_V6);
                        out.raw(&ip.octets());
                    }
                }
                out.u16(addr.port());
            }
            Self::Dns(name, port) => {
                out.u8(TAG_DNS);
                out.u8(u8::try_from(name.len()).expect("a DNS name has at most 253 characters"));
                out.raw(name.as_bytes());
                out.u16(*port);
            }
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match input.u8()? {
            TAG_V4 => Ok(Self::Socket(SocketAddr::new(input.array::<4>()?.into(), input.u16()?))),
            TAG_V6 => Ok(Self::Socket(SocketAddr::new(input.array::<16>()?.into(), input.u16()?))),
            TAG_DNS => {
                let length = usize::from(input.u8()?);
                let name = std::str::from_utf8(input.raw(length)?).map_err(|_| DecodeError::Invalid("DNS name"))?;
                if name.len() > 253 || !name.split('.').all(valid_label) {
                    return Err(DecodeError::Invalid("DNS name"));
                }
                Ok(Self::Dns(name.to_owned(), input.u16()?))
            }
            _ => Err(DecodeError::Invalid("kind of address")),
        }
    }
}

impl Wire for Contact {
    fn encode(&self, out: &mut Writer) {
        self.identity.encode(out);
        out.u8(u8::try_from(self.addresses.len()).expect("a contact has at most 3 addresses"));
        for address in &self.addresses {
            address.encode(out);
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let identity = PublicKey::decode(input)?;
        let count = usize::from(input.u8()?);
        if !(1..=MAX_ADDRESSES).contains(&count) {
            return Err(DecodeError::Invalid("number of addresses"));
        }
        let addresses = (0..count).map(|_| ContactAddress::decode(input)).collect::<Result<_, _>>()?;
        Ok(Self { identity, addresses })
    }
}

/// What `overlay invite` prints and `overlay join` takes.
pub struct Token {
    /// The namespace.
    pub ns: NamespaceId,
    /// From which the invite's key pair grows.
    secret: Zeroizing<[u8; 16]>,
    /// The limits.
    pub body: InviteBody,
    /// The authority's signature over limits and public key.
    pub signature: Signature,
    /// The number of the newest revocation list when the token was made.
    pub list_number: u32,
    /// Era and version of the newest configuration when the token was made.
    pub config: (u32, u64),
    /// The hash over the list of all shards' newest views when the token was made.
    pub views: [u8; 32],
    /// Whom to ask, 1 to 4.
    pub contacts: Vec<Contact>,
}

/// Why a text is no token.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum TokenError {
    /// Longer than any token.
    #[error("this is no invite: longer than any token")]
    TooLong,
    /// Does not begin as tokens do.
    #[error("this is no invite: a token begins with ov1")]
    Prefix,
    /// A character that is not base58, or a wrong checksum.
    #[error("the invite is damaged: copy it again, whole")]
    Damaged,
    /// Sound text that is no token of this version.
    #[error("the invite {0}: it may be of another version of overlay")]
    Layout(#[from] DecodeError),
}

impl Token {
    pub(crate) fn new(ns: NamespaceId, secret: Zeroizing<[u8; 16]>, invite: &SignedInvite, pins: Pins) -> Self {
        Self {
            ns,
            secret,
            body: invite.body,
            signature: invite.signature,
            list_number: pins.list_number,
            config: pins.config,
            views: pins.views,
            contacts: pins.contacts,
        }
    }

    /// Reads a token, and refuses what is too long before decoding it.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() > MAX_TEXT {
            return Err(TokenError::TooLong);
        }
        let text = text.strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        let bytes = Zeroizing::new(bs58::decode(text).with_check(None).into_vec().map_err(|_| TokenError::Damaged)?);
        Ok(Self::from_bytes(&bytes)?)
    }

    /// The text, which whoever holds it may join with.
    pub fn to_text(&self) -> Zeroizing<String> {
        let bytes = Zeroizing::new(self.to_bytes());
        let encoded = Zeroizing::new(bs58::encode(&*bytes).with_check().into_string());
        Zeroizing::new(format!("{PREFIX}{}", *encoded))
    }

    /// Drops contacts from the end, then addresses of the last one, until the text is within [`BUDGET`].
    pub(crate) fn fit(&mut self) {
        while self.to_text().len() > BUDGET {
            if self.contacts.len() > 1 {
                self.contacts.pop();
            } else if self.contacts[0].addresses.len() > 1 {
                self.contacts[0].addresses.pop();
            } else {
                return;
            }
        }
    }

    /// The key pair of the invite.
    pub fn key(&self) -> SecretKey {
        invite_key(&self.ns, &self.secret)
    }

    /// The part that others may see.
    pub fn invite(&self) -> SignedInvite {
        SignedInvite { body: self.body, invite: self.key().public(), signature: self.signature }
    }

    /// What may be shown of it.
    pub fn redacted(&self) -> String {
        let hash = Sha256::digest(self.to_text().as_bytes());
        format!("{PREFIX}…{}", bs58::encode(hash).into_string().chars().take(6).collect::<String>())
    }
}

/// What a token says about the namespace's state when it was made, and whom to ask.
pub(crate) struct Pins {
    pub(crate) list_number: u32,
    pub(crate) config: (u32, u64),
    pub(crate) views: [u8; 32],
    pub(crate) contacts: Vec<Contact>,
}

/// Grows an invite's key pair from its secret.
pub(crate) fn invite_key(ns: &NamespaceId, secret: &[u8; 16]) -> SecretKey {
    let seed = Zeroizing::new(sign::hash("invite-key", &[&ns.0, secret]));
    SecretKey::from_seed(&seed)
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl Wire for Token {
    fn encode(&self, out: &mut Writer) {
        out.u8(VERSION);
        self.ns.encode(out);
        out.raw(&*self.secret);
        self.body.encode(out);
        self.signature.encode(out);
        out.u32(self.list_number);
        out.u32(self.config.0);
        out.u64(self.config.1);
        out.raw(&self.views);
        out.u8(u8::try_from(self.contacts.len()).expect("a token has at most 4 contacts"));
        for contact in &self.contacts {
            contact.encode(out);
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if input.u8()? != VERSION {
            return Err(DecodeError::Invalid("token version"));
        }
        let mut token = Self {
            ns: NamespaceId::decode(input)?,
            secret: Zeroizing::new(input.array()?),
            body: InviteBody::decode(input)?,
            signature: Signature::decode(input)?,
            list_number: input.u32()?,
            config: (input.u32()?, input.u64()?),
            views: input.array()?,
            contacts: Vec::new(),
        };
        let count = usize::from(input.u8()?);
        if !(1..=MAX_CONTACTS).contains(&count) {
            return Err(DecodeError::Invalid("number of contacts"));
        }
        token.contacts = (0..count).map(|_| Contact::decode(input)).collect::<Result<_, _>>()?;
        Ok(token)
    }
}
