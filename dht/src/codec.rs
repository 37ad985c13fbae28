//! Fixed layouts, big-endian, nothing optional: the bytes that are signed, hashed, stored and sent.
//!
//! A decoder consumes everything or fails, so that decoding and encoding again gives the same bytes
//! and a signature cannot be carried over to a second spelling of one value.

use thiserror::Error;

/// Why bytes from a peer, a token or the store were not what they claimed to be.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// The bytes ended before the value did.
    #[error("ends too early")]
    Short,
    /// Bytes were left over after the value.
    #[error("has trailing bytes")]
    Trailing,
    /// A field holds a value that its type excludes.
    #[error("has an invalid {0}")]
    Invalid(&'static str),
    /// A list or text is longer than its limit.
    #[error("has too long a {0}")]
    TooLong(&'static str),
}

/// A value with exactly one spelling in bytes.
pub trait Wire: Sized {
    /// Appends the value's bytes.
    fn encode(&self, out: &mut Writer);
    /// Reads one value, leaving the rest.
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError>;

    /// The value's bytes.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.encode(&mut out);
        out.into_bytes()
    }

    /// The value that these bytes, all of them, spell.
    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        let value = Self::decode(&mut input)?;
        input.finish()?;
        Ok(value)
    }
}

/// Collects the bytes of a value.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Appends one byte.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }
    /// Appends two bytes.
    pub fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }
    /// Appends four bytes.
    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }
    /// Appends eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }
    /// Appends bytes whose length the reader knows.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    /// Appends a two-byte length and the bytes. Callers keep within 65,535.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let length = u16::try_from(bytes.len()).expect("callers bound byte strings by 65,535");
        self.u16(length);
        self.raw(bytes);
    }
    /// Appends a two-byte count and the items. Callers keep within 65,535.
    pub fn list<T: Wire>(&mut self, items: &[T]) {
        let length = u16::try_from(items.len()).expect("callers bound lists by 65,535");
        self.u16(length);
        for item in items {
            item.encode(self);
        }
    }
    /// The bytes so far.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Reads values off bytes that nobody vouches for.
#[derive(Clone, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.0.len()
    }
    /// The next `length` bytes.
    pub fn raw(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(head)
    }
    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(*head)
    }
    /// One byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.array()?))
    }
    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }
    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }
    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array()?))
    }
    /// A one-byte truth value; anything but 0 and 1 is an error.
    pub fn flag(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid(what)),
        }
    }
    /// `length` bytes that must be zero, kept for later versions.
    pub fn zeros(&mut self, length: usize) -> Result<(), DecodeError> {
        if self.raw(length)?.iter().any(|byte| *byte != 0) {
            return Err(DecodeError::Invalid("reserved field"));
        }
        Ok(())
    }
    /// A length-prefixed byte string of at most `limit` bytes.
    pub fn bytes(&mut self, limit: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let length = usize::from(self.u16()?);
        if length > limit {
            return Err(DecodeError::TooLong(what));
        }
        self.raw(length)
    }
    /// A length-prefixed UTF-8 text of at most `limit` bytes.
    pub fn text(&mut self, limit: usize, what: &'static str) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes(limit, what)?).map_err(|_| DecodeError::Invalid(what))
    }
    /// A counted list of at most `limit` items.
    pub fn list<T: Wire>(&mut self, limit: usize, what: &'static str) -> Result<Vec<T>, DecodeError> {
        let count = usize::from(self.u16()?);
        if count > limit {
            return Err(DecodeError::TooLong(what));
        }
        (0..count).map(|_| T::decode(self)).collect()
    }
    /// Fails if bytes are left.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Trailing) }
    }
}

impl<const N: usize> Wire for [u8; N] {
    fn encode(&self, out: &mut Writer) {
        out.raw(self);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.array()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_of_a_value_is_short_and_every_extra_byte_is_trailing() {
        let mut out = Writer::default();
        out.u8(1);
        out.u64(2);
        out.bytes(b"name");
        let bytes = out.into_bytes();
        let read = |bytes: &[u8]| -> Result<(u8, u64, Vec<u8>), DecodeError> {
            let mut input = Reader::new(bytes);
            let value = (input.u8()?, input.u64()?, input.bytes(8, "name")?.to_vec());
            input.finish()?;
            Ok(value)
        };
        assert_eq!(read(&bytes), Ok((1, 2, b"name".to_vec())));
        for cut in 0..bytes.len() {
            assert_eq!(read(&bytes[..cut]), Err(DecodeError::Short));
        }
        assert_eq!(read(&[&bytes[..], &[0]].concat()), Err(DecodeError::Trailing));
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_allocated() {
        let bytes = [0xff, 0xff, 0, 0];
        assert_eq!(Reader::new(&bytes).bytes(16, "name"), Err(DecodeError::TooLong("name")));
        assert_eq!(Reader::new(&bytes).list::<[u8; 32]>(16, "list"), Err(DecodeError::TooLong("list")));
    }
}
