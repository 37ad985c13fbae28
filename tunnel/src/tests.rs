//! Two and more parties in virtual time.

mod attacks;
mod corpus;
mod edges;
mod life;
mod net;
mod paths;
mod relays;
mod rest;
mod streams;
mod vectors;

use std::time::Instant;

/// One real instant that virtual time counts from.
#[expect(clippy::disallowed_methods, reason = "a test needs one real instant as origin")]
pub(crate) fn origin() -> Instant {
    use std::sync::OnceLock;
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}
