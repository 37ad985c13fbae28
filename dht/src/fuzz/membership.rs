//! The decoders of membership: tokens, configurations, credentials, hellos.

use crate::codec::Wire;
use crate::config::{Config, SignedConfig, SignedGenesis};
use crate::credential::Credential;
use crate::hello::{Request, Response};
use crate::redeem::{RedeemAnswer, Redeemed};
use crate::signal::Candidates;
use crate::token::Token;
use crate::view::{Successor, View};

/// The text of a token.
pub fn token_text(data: &[u8]) {
    if let Ok(token) = Token::parse(&String::from_utf8_lossy(data)) {
        let again = Token::parse(&token.to_text()).expect("what was written is read");
        assert_eq!(again.to_bytes(), token.to_bytes());
    }
}

/// The bytes of a token.
pub fn token(data: &[u8]) {
    one_spelling::<Token>(data);
}

/// A configuration.
pub fn config(data: &[u8]) {
    one_spelling::<Config>(data);
    one_spelling::<SignedConfig>(data);
}

/// A founding.
pub fn genesis(data: &[u8]) {
    one_spelling::<SignedGenesis>(data);
}

/// A credential.
pub fn credential(data: &[u8]) {
    one_spelling::<Credential>(data);
}

/// The first bytes of a dialler.
pub fn hello_request(data: &[u8]) {
    one_spelling::<Request>(data);
}

/// The answer to them.
pub fn hello_response(data: &[u8]) {
    one_spelling::<Response>(data);
}

/// The slots of an invite, and what a coordinator answers about them.
pub fn redeem(data: &[u8]) {
    one_spelling::<Redeemed>(data);
    one_spelling::<RedeemAnswer>(data);
}

/// A view and its successor.
pub fn view(data: &[u8]) {
    one_spelling::<View>(data);
    one_spelling::<Successor>(data);
}

/// Where a node may be reached.
pub fn candidates(data: &[u8]) {
    one_spelling::<Candidates>(data);
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

    use super::*;
    use crate::ballot::Ballot;
    use crate::membership::fixture::{Newcomer, World, key, now, peer};
    use crate::redeem::{Entry, RedeemOutcome};
    use crate::sign::Signature;
    use crate::signal::Candidate;
    use crate::view::{View, Vote};

    type Target = (&'static str, fn(&[u8]));

    const TARGETS: [Target; 10] = [
        ("token_text", token_text),
        ("token", token),
        ("config", config),
        ("genesis", genesis),
        ("credential", credential),
        ("hello_request", hello_request),
        ("hello_response", hello_response),
        ("redeem", redeem),
        ("view", view),
        ("candidates", candidates),
    ];

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
                for cut in 0..data.len() {
                    target(&data[..cut]);
                }
                for place in 0..data.len() {
                    let mut changed = data.clone();
                    changed[place] ^= 1 << (place % 8);
                    target(&changed);
                }
            }
        }
    }

    #[test]
    fn the_corpus_is_what_the_decoders_take() {
        for (name, value) in samples() {
            assert!(corpus(name).is_dir(), "{name}");
            assert!(!value.is_empty());
        }
        let read = |name: &str, file: &str| fs::read(corpus(name).join(file)).unwrap();
        assert!(Credential::from_bytes(&read("credential", "member")).is_ok());
        assert!(Request::from_bytes(&read("hello_request", "joiner")).is_ok());
        assert!(Response::from_bytes(&read("hello_response", "to-joiner")).is_ok());
        assert!(Token::parse(&String::from_utf8(read("token_text", "one-use")).unwrap()).is_ok());
    }

    /// Writes the corpus anew: `cargo test -p dht -- --ignored write_the_corpus`, after a layout changed on purpose.
    #[test]
    #[ignore = "writes files"]
    fn write_the_corpus() {
        let files = ["one-use", "one-use", "body", "signed", "genesis", "member", "member", "joiner", "to-joiner"]
            .into_iter()
            .chain(["two-slots", "admitted", "view", "successor", "two"]);
        for ((name, value), file) in samples().into_iter().zip(files) {
            fs::create_dir_all(corpus(name)).unwrap();
            fs::write(corpus(name).join(file), value).unwrap();
        }
    }

    fn samples() -> Vec<(&'static str, Vec<u8>)> {
        let mut world = World::new();
        let mut founder = world.founder();
        let token = world.invite(2);
        let mut member = world.member(world.invite(2), 9);
        let mut newcomer = Newcomer::new(world.invite(2), 10);
        let joiner_hello = newcomer.joiner.hello(peer(1), now());
        let response = founder.handle_hello(peer(10), &joiner_hello, now()).unwrap();
        let start = Response::from_bytes(&response).unwrap().start.unwrap();
        let entry = |number| Entry::new(&world.ns, &token.key(), &key(number));
        let redeemed = Redeemed { entries: vec![entry(9), entry(10)] };
        let admitted = RedeemOutcome::Admitted(member.credential().proof.clone());
        let answer = RedeemAnswer { invite: token.invite().invite, outcome: admitted };
        let view = founder.chain().newest(0).unwrap().clone();
        let next = View { number: 1, previous: view.hash(), ..view.clone() };
        let votes = vec![Vote { index: 0, signature: Signature([7; 64]) }];
        let successor = Successor { view: next, ballot: Ballot { view: 0, round: 1, replica: 0 }, votes };
        let addrs = ["192.0.2.1:5000", "[2001:db8::1]:5000"];
        let candidates = Candidates {
            to: key(2).public(),
            seq: 7,
            instance: [1; 8],
            want_reply: true,
            list: addrs.iter().map(|addr| Candidate { kind: 1, addr: addr.parse().unwrap() }).collect(),
            relays: vec![key(3).public(), key(4).public()],
        };
        vec![
            ("token_text", token.to_text().as_bytes().to_vec()),
            ("token", token.to_bytes()),
            ("config", founder.config().to_bytes()),
            ("config", start.genesis.first.to_bytes()),
            ("genesis", start.genesis.to_bytes()),
            ("credential", member.credential().to_bytes()),
            ("hello_request", member.hello(peer(1), now())),
            ("hello_request", joiner_hello),
            ("hello_response", response),
            ("redeem", redeemed.to_bytes()),
            ("redeem", answer.to_bytes()),
            ("view", view.to_bytes()),
            ("view", successor.to_bytes()),
            ("candidates", candidates.to_bytes()),
        ]
    }
}
