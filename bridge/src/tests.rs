//! Frames and packets in, frames, packets and events out.

use std::time::Instant;

#[expect(clippy::disallowed_methods, reason = "a test needs one real instant as origin")]
pub(crate) fn origin() -> Instant {
    Instant::now()
}
