//! Hints that are looked up in Kademlia: bytes from strangers, which the state machine judges.

use std::collections::HashMap;

use libp2p::kad::{GetRecordOk, QueryId, QueryResult, RecordKey};

use crate::config::Clocks;
use crate::driver::Driver;

/// At once.
const MOST: usize = 16;
/// Different values of one key that are looked at.
const MOST_VALUES: usize = 4;

/// Lookups under way, and the values that each has brought.
#[derive(Debug, Default)]
pub(crate) struct Seeks {
    running: HashMap<QueryId, Vec<Vec<u8>>>,
}

impl Seeks {
    /// Whether a value is worth judging: it belongs to a lookup, and did not come before.
    fn is_new(&mut self, id: QueryId, value: &[u8]) -> bool {
        let Some(values) = self.running.get_mut(&id) else { return false };
        let new = values.len() < MOST_VALUES && values.iter().all(|known| known != value);
        if new {
            values.push(value.to_vec());
        }
        new
    }
}

impl<C: Clocks> Driver<C> {
    /// The state machine looks for a hint.
    pub(crate) fn seek(&mut self, key: &[u8]) {
        if self.seeks.running.len() < MOST {
            let query = self.swarm.behaviour_mut().kad.inner().get_record(RecordKey::new(&key));
            self.seeks.running.insert(query, Vec::new());
        }
    }

    /// A step of a lookup.
    pub(crate) fn handle_sought(&mut self, id: QueryId, result: &QueryResult, last: bool) {
        if let QueryResult::GetRecord(Ok(GetRecordOk::FoundRecord(found))) = result
            && self.seeks.is_new(id, &found.record.value)
        {
            let now = self.now();
            self.machine.handle_hint(&found.record.key.to_vec(), &found.record.value, now);
        }
        if last {
            self.seeks.running.remove(&id);
        }
    }
}
