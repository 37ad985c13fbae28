//! Ballots order the values of one register; a token orders the leases of one key over everything that may happen to it.

use std::fmt;

use crate::codec::{DecodeError, Reader, Wire, Writer};

/// One attempt of one replica to set a register. The view is the most significant part, so every ballot of a later
/// view exceeds all of an earlier one. The neutral value, all zero, is the ballot of a register never written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    /// The number of the view whose members vote.
    pub view: u64,
    /// The coordinator's round, from a counter that never repeats. Rounds begin at 1.
    pub round: u64,
    /// The coordinator's place in the sorted member list of that view.
    pub replica: u8,
}

impl Wire for Ballot {
    fn encode(&self, out: &mut Writer) {
        out.u64(self.view);
        out.u64(self.round);
        out.u8(self.replica);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { view: input.u64()?, round: input.u64()?, replica: input.u8()? })
    }
}

/// The fencing token of a lease: of two certificates of one key, the one with the higher token is the newer.
/// A bare ballot would not do, because a shard that was recovered by the authority counts its views anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    /// How often the authority had to found the shard again.
    pub incarnation: u32,
    /// The ballot under which the lease was accepted.
    pub ballot: Ballot,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { incarnation, ballot } = self;
        write!(f, "{incarnation}.{}.{}.{}", ballot.view, ballot.round, ballot.replica)
    }
}

impl Wire for Token {
    fn encode(&self, out: &mut Writer) {
        out.u32(self.incarnation);
        self.ballot.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { incarnation: input.u32()?, ballot: Ballot::decode(input)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_view_outweighs_the_round_and_the_incarnation_outweighs_both() {
        let ballot = |view, round| Ballot { view, round, replica: 0 };
        assert!(ballot(1, 1) > ballot(0, 1000));
        let token = |incarnation, view| Token { incarnation, ballot: ballot(view, 1) };
        assert!(token(1, 0) > token(0, 7));
    }

    #[test]
    fn a_token_is_read_back_from_its_bytes() {
        let token = Token { incarnation: 1, ballot: Ballot { view: 2, round: 3, replica: 4 } };
        assert_eq!(Token::from_bytes(&token.to_bytes()), Ok(token));
        assert_eq!(token.to_string(), "1.2.3.4");
    }
}
