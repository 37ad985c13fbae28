//! How many threads carry packets each way.
//!
//! The kernel gives each its own flows: those of the TAP by what is inside, those of the data socket by the peer. So nothing
//! overtakes anything within a flow. On two processors one thread each way is best: the programs at both ends of the packets
//! want the others.

use std::env;
use std::num::NonZero;

/// The variable that overrules us.
const VARIABLE: &str = "OVERLAY_PACKET_THREADS";
/// More bring nothing: then the queue of the network card is what everybody waits for.
const MOST: usize = 4;

/// Threads each way.
pub(crate) fn packet_threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    choose(env::var(VARIABLE).ok().as_deref(), processors)
}

fn choose(told: Option<&str>, processors: usize) -> usize {
    let told = told.and_then(|told| told.parse().ok()).filter(|told| (1..=MOST).contains(told));
    told.unwrap_or((processors / 2).clamp(1, MOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_processors_are_left_to_others() {
        assert_eq!([1, 2, 3, 4, 6, 8, 64].map(|processors| choose(None, processors)), [1, 1, 1, 2, 3, 4, 4]);
        assert_eq!(["3", "0", "5", "many", ""].map(|told| choose(Some(told), 2)), [3, 1, 1, 1, 1]);
    }
}
