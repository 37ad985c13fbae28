//! One entry per decoder, for fuzzers and for the corpus. None may panic on any bytes.

pub mod membership;
pub mod register;
