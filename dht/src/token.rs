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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::invite::{InviteError, InviteRequest, Role, issue_invite};
    use crate::membership::fixture::{TODAY, World, key};

    fn socket(text: &str) -> ContactAddress {
        ContactAddress::Socket(text.parse().unwrap())
    }

    fn issue(contacts: Vec<Contact>, uses: u16, ttl_s: u64) -> Result<Token, InviteError> {
        use rand::SeedableRng;
        let world = World::new();
        let rng = &mut rand_chacha::ChaCha20Rng::from_seed([1; 32]);
        let request = InviteRequest {
            uses,
            ttl: std::time::Duration::from_secs(ttl_s),
            role: Role::Member,
            hosts: 256,
            contacts,
        };
        issue_invite(&world.authority, &world.ns, &world.config(), [4; 32], request, rng, TODAY)
    }

    fn contact(number: u8, addresses: &[&str]) -> Contact {
        Contact { identity: key(number).public(), addresses: addresses.iter().map(|text| socket(text)).collect() }
    }

    #[test]
    fn a_token_for_two_contacts_has_298_bytes_and_is_read_back() {
        let contacts = vec![contact(1, &["192.0.2.1:4001"]), contact(2, &["192.0.2.2:4001"])];
        let token = issue(contacts.clone(), 1, 60).unwrap();
        assert_eq!(token.to_bytes().len(), 1 + 32 + 16 + 56 + 64 + 4 + 12 + 32 + 1 + 2 * (32 + 1 + 7));
        let text = token.to_text();
        assert!(text.starts_with("ov1") && text.len() < 420, "{}", text.len());
        let read = Token::parse(&format!("  {}\n", *text)).unwrap();
        assert_eq!((&read.contacts, read.body, read.ns), (&contacts, token.body, token.ns));
        assert_eq!(read.key().public(), token.key().public());
    }

    #[test]
    fn what_does_not_fit_is_dropped_from_the_end() {
        let six = ["[2001:db8::1]:4001", "[2001:db8::2]:4001", "192.0.2.1:4001"];
        let contacts: Vec<Contact> = (1..=4).map(|number| contact(number, &six)).collect();
        let token = issue(contacts.clone(), 1, 60).unwrap();
        assert!(token.to_text().len() <= BUDGET);
        assert!(!token.contacts.is_empty());
        assert_eq!(token.contacts[..], contacts[..token.contacts.len()]);
    }

    #[test]
    fn an_invite_beyond_the_limits_is_not_made() {
        let one = || vec![contact(1, &["192.0.2.1:1"])];
        assert!(issue(one(), 64, 60).is_ok());
        for bad in [
            issue(one(), 0, 60),
            issue(one(), 65, 60),
            issue(one(), 1, u64::MAX),
            issue(Vec::new(), 1, 60),
            issue(vec![contact(1, &[])], 1, 60),
            issue(vec![contact(1, &["192.0.2.1:1"; 4])], 1, 60),
            issue((1..=5).map(|n| contact(n, &["192.0.2.1:1"])).collect(), 1, 60),
        ] {
            assert_eq!(bad.map(drop), Err(InviteError::Limits));
        }
    }

    #[test]
    fn who_is_not_the_authority_makes_no_invite() {
        let mut world = World::new();
        let (config, ns) = (world.config(), world.ns);
        world.authority = key(66);
        use rand::SeedableRng;
        let rng = &mut rand_chacha::ChaCha20Rng::from_seed([1; 32]);
        let request = InviteRequest {
            uses: 1,
            ttl: std::time::Duration::from_secs(60),
            role: Role::Member,
            hosts: 0,
            contacts: vec![contact(1, &["192.0.2.1:1"])],
        };
        let refused = issue_invite(&world.authority, &ns, &config, [0; 32], request, rng, TODAY);
        assert_eq!(refused.map(drop), Err(InviteError::NoAuthority));
    }

    #[test]
    fn a_changed_character_is_a_damaged_token() {
        let text = issue(vec![contact(1, &["192.0.2.1:4001"])], 1, 60).unwrap().to_text();
        for place in 3..text.len() {
            let mut changed: Vec<char> = text.chars().collect();
            changed[place] = if changed[place] == 'z' { 'y' } else { 'z' };
            let changed: String = changed.into_iter().collect();
            assert_eq!(Token::parse(&changed).map(drop), Err(TokenError::Damaged), "{place}");
        }
        for cut in 3..text.len() {
            assert!(Token::parse(&text[..cut]).is_err());
        }
    }

    #[test]
    fn a_flipped_byte_under_a_right_checksum_is_refused_by_layout_or_by_the_authoritys_signature() {
        let world = World::new();
        let token = issue(vec![contact(1, &["192.0.2.1:4001"])], 1, 60).unwrap();
        let bytes = token.to_bytes();
        // Behind the signature stand pins and contacts: a joiner who is misled by them finds nobody, or is refused.
        for place in 0..1 + 32 + 16 + 56 + 64 {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            let Ok(read) = Token::from_bytes(&changed) else { continue };
            let refused = read.ns != world.ns || read.invite().verify(&world.ns, &world.config()).is_err();
            assert!(refused, "byte {place} counts for nothing");
        }
        assert!(token.invite().verify(&world.ns, &world.config()).is_ok());
        let trailing_byte = [&bytes[..], &[0]].concat();
        assert_eq!(Token::from_bytes(&trailing_byte).map(drop), Err(DecodeError::Trailing));
    }

    #[test]
    fn what_is_no_token_is_named() {
        assert_eq!(Token::parse("").map(drop), Err(TokenError::Prefix));
        assert_eq!(Token::parse("hello").map(drop), Err(TokenError::Prefix));
        assert_eq!(Token::parse("ov1").map(drop), Err(TokenError::Damaged));
        assert_eq!(Token::parse("ov1\u{e9}0OIl").map(drop), Err(TokenError::Damaged));
        assert_eq!(Token::parse(&"o".repeat(1025)).map(drop), Err(TokenError::TooLong));
        let empty = bs58::encode([]).with_check().into_string();
        assert_eq!(Token::parse(&format!("ov1{empty}")).map(drop), Err(DecodeError::Short.into()));
    }

    #[test]
    fn a_dns_name_is_read_and_kept() {
        let mut token = issue(vec![contact(1, &["[2001:db8::1]:4001"])], 1, 60).unwrap();
        token.contacts[0].addresses.push(ContactAddress::Dns("head.example.org".to_owned(), 4001));
        let read = Token::parse(&token.to_text()).unwrap();
        assert_eq!(read.contacts, token.contacts);
        let at = token.to_bytes().len() - 3;
        let mut bytes = token.to_bytes();
        bytes[at] = b'_';
        assert_eq!(Token::from_bytes(&bytes).map(drop), Err(DecodeError::Invalid("DNS name")));
    }

    proptest! {
        #[test]
        fn a_token_that_is_read_has_one_spelling(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(token) = Token::from_bytes(&bytes) {
                prop_assert_eq!(token.to_bytes(), bytes);
            }
        }

        #[test]
        fn no_text_is_too_strange(text in "\\PC{0,80}") {
            let _ = Token::parse(&text);
            let _ = Token::parse(&format!("ov1{text}"));
        }
    }
}
