//! The decoders of the register: messages, records, certificates, and what is on disk.

use std::sync::OnceLock;

use crate::certificate::LeaseCert;
use crate::codec::Wire;
use crate::config::Config;
use crate::identity::{PublicKey, SecretKey};
use crate::message::Message;
use crate::record::{Op, Record, RegisterKey, Value, normal_name};
use crate::sign::NamespaceId;
use crate::view::{Chain, Genesis, Member};

/// A message between nodes.
pub fn message(data: &[u8]) {
    one_spelling::<Message>(data);
}

/// The value of a register, its key, and the operation in it.
pub fn record(data: &[u8]) {
    one_spelling::<Value>(data);
    one_spelling::<Record>(data);
    one_spelling::<RegisterKey>(data);
    one_spelling::<Op>(data);
}

/// A lease certificate, checked as if a peer had handed it over: a stranger's never verifies.
pub fn certificate(data: &[u8]) {
    static WORLD: OnceLock<(NamespaceId, Config, Chain)> = OnceLock::new();
    one_spelling::<LeaseCert>(data);
    let (ns, config, chain) = WORLD.get_or_init(|| {
        let ns = NamespaceId([1; 32]);
        let range = "10.64.0.0/16".parse().expect("a range");
        let config = Config::first("lab", PublicKey([2; 32]), range, std::time::Duration::from_secs(86_400), 0);
        let identity = SecretKey::from_seed(&[9; 32]).public();
        let members = vec![Member { identity, store_id: [3; 16], serial: [4; 16] }];
        let chain = Chain::new(ns, &Genesis { config: [5; 32], shards: config.shards, members });
        (ns, config, chain)
    });
    if let Ok(cert) = LeaseCert::from_bytes(data) {
        assert!(cert.verify(ns, config, chain).is_err());
    }
}

/// A host name.
pub fn name(data: &[u8]) {
    if let Some(name) = normal_name(&String::from_utf8_lossy(data)) {
        assert_eq!(normal_name(&name), Some(name.clone()));
        assert_eq!(normal_name(&name.to_ascii_uppercase()), Some(name));
    }
}

/// Whatever is read is written as it was.
fn one_spelling<T: Wire>(data: &[u8]) {
    if let Ok(value) = T::from_bytes(data) {
        assert_eq!(value.to_bytes(), data);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use proptest::collection::vec;
    use proptest::prelude::{any, proptest};

    use super::*;
    use crate::ballot::Ballot;
    use crate::command::{ClientId, LeaseKey};
    use crate::membership::fixture::{World, key};
    use crate::message::ViewMessage;
    use crate::message::{
        AcceptItem, AcceptedItem, AcceptedVote, Held, OpResult, Outcome, PromiseItem, ReadHeld, RefusedOp,
    };
    use crate::record::{Hint, OpKind, Scope, SignedOp, Slots};
    use crate::redeem::{Entry, Redeemed};
    use crate::right::{Handover, Right};
    use crate::sign::Signature;
    use crate::slot::Standing;
    use crate::view::Vote;

    type Target = (&'static str, fn(&[u8]));

    const TARGETS: [Target; 4] =
        [("message", message), ("record", record), ("certificate", certificate), ("name", name)];

    fn corpus(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name)
    }

    #[test]
    fn the_corpus_its_cuts_and_its_flipped_bits() {
        for (name, target) in TARGETS {
            let files: Vec<_> = fs::read_dir(corpus(name)).unwrap().map(|file| file.unwrap().path()).collect();
            assert!(!files.is_empty(), "{name}");
            for file in files {
                let data = fs::read(&file).unwrap();
                target(&data);
                for place in 0..data.len() {
                    target(&data[..place]);
                    let mut changed = data.clone();
                    changed[place] ^= 1 << (place % 8);
                    target(&changed);
                }
            }
        }
    }

    #[test]
    fn the_corpus_is_what_the_decoders_take() {
        for (name, file, value) in samples() {
            assert!(!value.is_empty() && corpus(name).join(file).is_file(), "{name}/{file}");
        }
        for file in fs::read_dir(corpus("message")).unwrap() {
            let path = file.unwrap().path();
            assert!(Message::from_bytes(&fs::read(&path).unwrap()).is_ok(), "{path:?}");
        }
    }

    /// Writes the corpus anew: `cargo test -p dht -- --ignored write_the_register_corpus`, after a layout changed on purpose.
    #[test]
    #[ignore = "writes files"]
    fn write_the_register_corpus() {
        for (name, file, value) in samples() {
            fs::create_dir_all(corpus(name)).unwrap();
            fs::write(corpus(name).join(file), value).unwrap();
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(data in vec(any::<u8>(), 0..300), tag in 0u8..20) {
            for (_, target) in TARGETS {
                target(&data);
                target(&[&[tag], &data[..]].concat());
            }
        }
    }

    #[expect(clippy::too_many_lines, reason = "a list of one of each")]
    fn samples() -> Vec<(&'static str, &'static str, Vec<u8>)> {
        let world = World::new();
        let scope = Scope { incarnation: 0, shard: 3, view: 0 };
        let ballot = Ballot { view: 0, round: 7, replica: 0 };
        let signature = Signature([7; 64]);
        let op = |lease_key, hint, right| {
            let (kind, client, deputies) = (OpKind::Claim, ClientId([5; 32]), vec![key(3).public(), key(4).public()]);
            let (op_seq, nonce, dur_ms) = (9, 11, 60_000);
            let op = Op { scope, kind, key: lease_key, client, op_seq, nonce, dur_ms, hint, right, deputies };
            SignedOp::sign(&world.ns, &key(9), op)
        };
        let ip = "10.64.7.5".parse().unwrap();
        let handed = Right::Handed(Box::new(Handover { from: key(3).public(), op_seq: 8, signature }));
        let deputy = Right::Deputy { owner: key(3).public(), op_seq: 8 };
        let of_address = op(LeaseKey::Address(ip), Hint::Name("host".to_owned()), deputy);
        let of_name = op(LeaseKey::Name("host".to_owned()), Hint::Address(ip), handed);
        let record = Record { request: of_address.clone(), dur_ms: 60_000, shadow_ms: 30_000 };
        let value = Value::Lease(record.clone());
        let token = world.invite(2);
        let entry = Entry::new(&world.ns, &token.key(), &key(9));
        let slots = Value::Slots(Slots { invite: token.invite(), redeemed: Redeemed { entries: vec![entry] } });
        let (name_key, ip_key) = (RegisterKey::Lease(of_name.op.key.clone()), value.key());
        let votes = vec![Vote { index: 0, signature }];
        let cert = LeaseCert { record, incarnation: 0, ballot, view_hash: [8; 32], votes };
        let held = Held { ballot, value: Some(value.clone()), elapsed_ms: 1000 };
        let result = |outcome| OpResult { op_seq: 9, nonce: 11, key: ip_key.clone(), outcome };
        let owner = key(9).public();
        let results = vec![
            result(Outcome::Granted(cert.to_bytes())),
            result(Outcome::Released),
            result(Outcome::Taken { owner, remaining_ms: 5, used: vec![1; 32] }),
            result(Outcome::Lost),
            result(Outcome::Stale { last: 12 }),
            result(Outcome::Retry { silent: vec![1, 2] }),
            result(Outcome::Refused(RefusedOp::Quota)),
        ];
        let promises = vec![
            PromiseItem { key: ip_key.clone(), verdict: Ok(held.clone()) },
            PromiseItem { key: name_key.clone(), verdict: Ok(Held::default()) },
            PromiseItem { key: slots.key(), verdict: Err(ballot) },
        ];
        let accepts = vec![
            AcceptItem { value: value.clone(), elapsed_ms: 0 },
            AcceptItem { value: slots.clone(), elapsed_ms: 0 },
        ];
        let accepted = vec![
            AcceptedItem { key: ip_key.clone(), verdict: Ok(AcceptedVote { signature, promised_next: true }) },
            AcceptedItem { key: name_key.clone(), verdict: Err(ballot) },
        ];
        let store_id = [6; 16];
        let held = Some(ReadHeld { held, signature });
        let request = crate::redeem::RedeemRequest { invite: token.invite(), entry };
        let messages = [
            ("ops", Message::Ops { scope, ops: vec![of_address, of_name] }),
            ("results", Message::Results { scope, store_id, votes: 8, items: results }),
            (
                "prepare",
                Message::Prepare { scope, votes: 4, ballot, keys: vec![ip_key.clone(), name_key.clone(), slots.key()] },
            ),
            ("promise", Message::Promise { scope, store_id, votes: 8, ballot, items: promises }),
            ("accept", Message::Accept { scope, votes: 5, ballot, next_round: 8, items: accepts }),
            ("accepted", Message::Accepted { scope, store_id, votes: 8, ballot, items: accepted }),
            ("read", Message::Read { scope, id: 4, key: ip_key.clone() }),
            ("read-reply", Message::ReadReply { scope, store_id, id: 4, key: ip_key.clone(), held }),
            ("settle", Message::Settle { scope, key: name_key }),
            ("supersede", Message::Supersede { certificate: cert.to_bytes() }),
            ("redeem", Message::Redeem(request)),
            ("signal", Message::Signal { bytes: vec![1, 2, 3] }),
            ("pass", Message::Pass { to: key(3).public(), letter: vec![1, 2, 3] }),
            ("passed", Message::Passed { from: key(3).public(), letter: vec![1, 2, 3] }),
        ];
        let mut samples: Vec<_> =
            messages.iter().map(|(file, message)| ("message", *file, message.to_bytes())).collect();
        samples.extend(
            view_messages(&world, scope, ballot, &ip_key)
                .into_iter()
                .map(|(file, message)| ("message", file, Message::View(message).to_bytes())),
        );
        samples.push(("record", "lease", value.to_bytes()));
        samples.push(("record", "slots", slots.to_bytes()));
        samples.push(("certificate", "one-vote", cert.to_bytes()));
        samples.push(("name", "upper-case", b"Lab.".to_vec()));
        samples
    }

    /// One of each message about views.
    fn view_messages(
        world: &World,
        scope: Scope,
        ballot: Ballot,
        key: &RegisterKey,
    ) -> Vec<(&'static str, ViewMessage)> {
        let (store_id, votes, signature) = ([6; 16], 8, Signature([7; 64]));
        let view = world.founder().chain().newest(3).unwrap().clone();
        let held = Held { ballot, value: None, elapsed_ms: 1000 };
        let after = Some(key.clone());
        let into = Scope { view: 1, ..scope };
        vec![
            ("view-prepare", ViewMessage::Prepare { scope, votes: 6, ballot }),
            ("view-promise", ViewMessage::Promise { scope, store_id, votes, ballot, verdict: Ok(None) }),
            (
                "view-promise-accepted",
                ViewMessage::Promise { scope, store_id, votes, ballot, verdict: Ok(Some((ballot, view.clone()))) },
            ),
            ("view-promise-refused", ViewMessage::Promise { scope, store_id, votes, ballot, verdict: Err(ballot) }),
            ("view-accept", ViewMessage::Accept { scope, votes: 7, ballot, view }),
            ("view-accepted", ViewMessage::Accepted { scope, store_id, votes, ballot, verdict: Ok(signature) }),
            ("view-accept-refused", ViewMessage::Accepted { scope, store_id, votes, ballot, verdict: Err(ballot) }),
            ("ask-snapshot", ViewMessage::AskSnapshot { scope, into, after: after.clone() }),
            ("snapshot", ViewMessage::Snapshot { scope, into, store_id, after, last: true, items: vec![held] }),
            ("ask-station", ViewMessage::AskStation { scope }),
            ("station", ViewMessage::Station { scope, store_id, standing: Standing::Wedged }),
            (
                "presence",
                ViewMessage::Presence {
                    store_id,
                    uptime_s: 60,
                    reachable: true,
                    willing: true,
                    leaving: false,
                    answer: true,
                    views: 5,
                },
            ),
            ("dial-me", ViewMessage::DialMe),
            ("dialled-back", ViewMessage::DialledBack),
            ("digest", ViewMessage::Digest { scope, buckets: vec![1; 16] }),
            ("bucket", ViewMessage::Bucket { scope, bucket: 3, ballots: vec![(key.clone(), ballot)], whole: true }),
            ("ask-votes", ViewMessage::AskVotes { store_id }),
            ("heads", ViewMessage::Heads { heads: vec![scope, into] }),
            ("votes-seen", ViewMessage::VotesSeen { store_id, votes, round: 9 }),
        ]
    }
}
