//! Words to a member with whom there is no connection: a third one, connected with both, passes them on.
//!
//! Two members behind translators cannot dial each other, but both dial voters, and stay connected with those that are nearest
//! to them by name. A letter goes by such voters. It brings its writer's credential, so that the reader can check it as if
//! it had been shown on a connection, and what one engine has to say to the other, which is signed for its reader. Who passes
//! it on is believed nothing.

use libp2p_identity::PeerId;
use sha2::{Digest, Sha256};

use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::credential::Credential;
use crate::message::MAX_SIGNAL;

/// Longest letter: a credential and a signal.
pub(crate) const MAX_LETTER: usize = MAX_SIGNAL + 2048;
/// By how many ways a letter goes at once: one of them may be cut off from the reader.
const WAYS: usize = 3;

/// What one member has to say to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Letter {
    /// The writer's.
    pub(crate) credential: Credential,
    /// For the reader's engine.
    pub(crate) signal: Vec<u8>,
}

impl Wire for Letter {
    fn encode(&self, out: &mut Writer) {
        self.credential.encode(out);
        out.bytes(&self.signal);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let credential = Credential::decode(input)?;
        Ok(Self { credential, signal: input.bytes(MAX_SIGNAL, "signal")?.to_vec() })
    }
}

/// Who is most likely to be connected with the reader: the voters that are nearest to it by name, as its driver chooses them.
pub(crate) fn ways(voters: impl IntoIterator<Item = PeerId>, me: PeerId, reader: PeerId) -> Vec<PeerId> {
    let name = |peer: &PeerId| -> [u8; 32] { Sha256::digest(peer.to_bytes()).into() };
    let place = name(&reader);
    let distance = |peer: &PeerId| {
        let mut distance = name(peer);
        distance.iter_mut().zip(place).for_each(|(byte, other)| *byte ^= other);
        distance
    };
    let mut voters: Vec<PeerId> = voters.into_iter().filter(|peer| *peer != me && *peer != reader).collect();
    voters.sort_by_cached_key(distance);
    voters.truncate(WAYS);
    voters
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::fixture::peer;

    #[test]
    fn a_letter_goes_by_three_that_all_writers_would_choose() {
        let voters: Vec<PeerId> = (1..20).map(peer).collect();
        let chosen = ways(voters.clone(), peer(30), peer(31));
        assert_eq!(chosen.len(), WAYS);
        assert_eq!(chosen, ways(voters.iter().rev().copied(), peer(40), peer(31)), "whoever asks, in whatever order");
        assert_ne!(chosen, ways(voters.clone(), peer(30), peer(32)));
        let without = ways(voters, chosen[0], peer(31));
        assert!(!without.contains(&chosen[0]) && without[0] == chosen[1], "not by the writer itself");
        assert!(ways([peer(1), peer(2)], peer(1), peer(2)).is_empty(), "nobody is between the two");
    }
}
