//! Tests of the whole server, through its public interface.

mod bounds;
mod bytes;
mod corpus;
mod exchange;
mod faults;
mod lab;
mod options;
mod properties;
mod release;
mod request;
mod requirements;
