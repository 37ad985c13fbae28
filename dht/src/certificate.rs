//! Lease certificates: what proves to a stranger who was granted a key.

use std::net::Ipv4Addr;

use sha1::{Digest, Sha1};
use thiserror::Error;

use crate::ballot::{Ballot, Token};
use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::command::LeaseKey;
use crate::config::Config;
use crate::record::{Record, RegisterKey};
use crate::sign::NamespaceId;
use crate::view::{Accepted, Chain, Member, View, Vote, decode_votes, encode_votes, verify_votes};

/// Most bytes of a certificate: a record and five votes are less than half of it.
pub const MAX_CERTIFICATE: usize = 2048;

/// Why a certificate proves nothing.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, PartialOrd, Ord)]
pub enum CertError {
    /// The bytes do not spell a certificate.
    #[error("malformed")]
    Malformed,
    /// It is by a view that is not known here.
    #[error("unknown-view")]
    UnknownView,
    /// No quorum of its view signed it, or the owner did not ask for it.
    #[error("forged")]
    Forged,
    /// It is of a key that was given back.
    #[error("not-held")]
    NotHeld,
    /// It is not of an address in this namespace.
    #[error("wrong-key")]
    WrongKey,
    /// It is somebody else's.
    #[error("not-owner")]
    NotOwner,
    /// A newer lease of that address is known.
    #[error("superseded")]
    Superseded,
    /// It has been known for longer than it can last, or its view has been over for so long.
    #[error("lapsed")]
    Lapsed,
}

/// A record that a quorum of one view accepted under one ballot, or took over from a view before and serves. Has no date: it says who was granted a key, and by
/// its token in which order, never whether the lease still runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseCert {
    /// The record.
    pub record: Record,
    /// How often the shard was founded again.
    pub incarnation: u32,
    /// The ballot.
    pub ballot: Ballot,
    /// The hash of the view whose members vouch for it: the one that decided, or a later one that holds what was decided.
    pub view_hash: [u8; 32],
    /// Who accepted.
    pub votes: Vec<Vote>,
}

impl LeaseCert {
    /// The fencing token.
    pub fn token(&self) -> Token {
        Token { incarnation: self.incarnation, ballot: self.ballot }
    }

    /// The address it is of, if it is of one.
    pub fn address(&self) -> Option<Ipv4Addr> {
        match self.record.request.op.key {
            LeaseKey::Address(ip) => Some(ip),
            LeaseKey::Name(_) => None,
        }
    }

    /// Checks the votes against the view that it names, and that the owner asked for it.
    pub fn verify(&self, ns: &NamespaceId, config: &Config, chain: &Chain) -> Result<(), CertError> {
        let key = RegisterKey::Lease(self.record.request.op.key.clone());
        let shard = key.shard(ns, config);
        let view = chain.vouching(shard, self.incarnation, self.ballot.view, &self.view_hash);
        let view = view.ok_or(CertError::UnknownView)?;
        let value = self.record.hash();
        let body = |member: &Member| accepted_body(view, member, &key, self.ballot, value);
        verify_votes(*ns, view, body, &self.votes).map_err(|_| CertError::Forged)?;
        self.record.request.verify(ns).map_err(|_| CertError::Forged)?;
        if !self.record.held() {
            return Err(CertError::NotHeld);
        }
        Ok(())
    }
}

/// What a member of `view` signs when it accepts a value with this hash.
pub fn accepted_body(view: &View, member: &Member, key: &RegisterKey, ballot: Ballot, value: [u8; 32]) -> Vec<u8> {
    Accepted {
        incarnation: view.incarnation,
        shard: view.shard,
        view: view.number,
        store_id: member.store_id,
        kind: key.kind(),
        key: &key.bytes(),
        ballot,
        value,
    }
    .body()
}

impl Wire for LeaseCert {
    fn encode(&self, out: &mut Writer) {
        self.record.encode(out);
        out.u32(self.incarnation);
        self.ballot.encode(out);
        out.raw(&self.view_hash);
        encode_votes(&self.votes, out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            record: Record::decode(input)?,
            incarnation: input.u32()?,
            ballot: Ballot::decode(input)?,
            view_hash: input.array()?,
            votes: decode_votes(input)?,
        })
    }
}

/// The Kademlia key under which the certificate of an address is found: `SHA-1(namespace ':' address)`, as IPOP has it.
pub fn hint_key(ns: &NamespaceId, ip: Ipv4Addr) -> Vec<u8> {
    Sha1::new().chain_update(ns.0).chain_update(b":").chain_update(ip.to_string()).finalize().to_vec()
}

/// Whether a hint is worth keeping: a valid certificate of that key, newer than the one held.
pub fn verify_hint(
    key: &[u8],
    value: &[u8],
    held: Option<&[u8]>,
    ns: &NamespaceId,
    config: &Config,
    chain: &Chain,
) -> bool {
    let read = |bytes: &[u8]| LeaseCert::from_bytes(bytes).ok().filter(|_| bytes.len() <= MAX_CERTIFICATE);
    let Some(cert) = read(value) else { return false };
    if cert.address().is_none_or(|ip| hint_key(ns, ip) != key) || cert.verify(ns, config, chain).is_err() {
        return false;
    }
    held.and_then(read).is_none_or(|held| held.token() < cert.token())
}
