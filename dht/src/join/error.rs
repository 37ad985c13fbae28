//! Why a token does not become a membership.

use libp2p_identity::PeerId;
use thiserror::Error;

use crate::config::ConfigError;
use crate::namespace::LoadError;

/// Why joining failed, or why one contact was of no use.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum JoinError {
    /// All uses are taken, which is proven.
    #[error(
        "the invite is used up: it admitted {}. If that was not you: overlay revoke",
        winners.iter().map(PeerId::to_string).collect::<Vec<_>>().join(", ")
    )]
    Spent {
        /// Who has its slots.
        winners: Vec<PeerId>,
    },
    /// Its date is past.
    #[error("the invite has expired: ask a member for another, with overlay invite")]
    Expired,
    /// The authority made it void.
    #[error("the invite was made void: ask a member for another, with overlay invite")]
    Void,
    /// Not signed by the authority of the namespace.
    #[error("the invite is forged: it is not signed by the authority of its namespace")]
    Forged,
    /// The namespace has another name than the one typed.
    #[error("the invite is for the namespace {actual:?}, not {wanted:?}: overlay join {actual}, or --as {wanted}")]
    Name {
        /// What was typed.
        wanted: String,
        /// What the founder called it.
        actual: String,
    },
    /// Every contact took the hello and closed without a word.
    #[error("every contact in the invite closed the connection without an answer: the invite is void or damaged")]
    Refused,
    /// A contact's founding or configuration does not verify.
    #[error("the contact's {0}")]
    Config(ConfigError),
    /// A contact shows less than the token pins.
    #[error("the contact shows an older state of the namespace than the invite pins, or another one")]
    Stale,
    /// A contact left something out.
    #[error("the contact's answer is incomplete")]
    Incomplete,
    /// A contact is no member itself.
    #[error("the contact is no member of the namespace")]
    Contact,
    /// The store holds something else.
    #[error("{0}")]
    Store(LoadError),
}

impl JoinError {
    /// Whether no other contact can change it: it follows from the token and what the authority signed.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Spent { .. } | Self::Forged | Self::Name { .. } | Self::Store(_) => true,
            Self::Expired
            | Self::Void
            | Self::Refused
            | Self::Config(_)
            | Self::Stale
            | Self::Incomplete
            | Self::Contact => false,
        }
    }
}
