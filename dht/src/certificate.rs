//! Lease certificates: what proves to a stranger who was granted a key.

use thiserror::Error;

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
    /// It has been known for longer than it can last.
    #[error("lapsed")]
    Lapsed,
}
