//! `Noise_IK_25519_ChaChaPoly_BLAKE2s` by snow, for the handshake only, and the data keys out of it.

use hkdf::Hkdf;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::Sha256;
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, Error, HandshakeState};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::config::Suite;
use crate::session::DataKeys;
use crate::wire::MAJOR;

const PATTERN: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";
/// Noise overhead of the first message: ephemeral, encrypted static with tag, tag of the payload.
pub(crate) const FIRST_OVERHEAD: usize = 32 + 48 + 16;
/// Noise overhead of the second message.
pub(crate) const SECOND_OVERHEAD: usize = 32 + 16;

/// Which end of a handshake this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Initiator,
    Responder,
}

/// What both sides must agree on before the first byte: without the responder's identity, a member who has
/// somebody else's data key certified as its own would receive handshakes meant for that other.
pub(crate) fn prologue(namespace: &[u8; 32], responder: &[u8; 32]) -> Vec<u8> {
    [b"overlay/v1/noise\0".as_slice(), &[MAJOR], namespace, responder].concat()
}

pub(crate) fn initiator(
    secret: &[u8; 32],
    responder_key: &[u8; 32],
    prologue: &[u8],
    seed: Zeroizing<[u8; 32]>,
) -> Result<HandshakeState, Error> {
    builder(seed)?.local_private_key(secret)?.remote_public_key(responder_key)?.prologue(prologue)?.build_initiator()
}

pub(crate) fn responder(
    secret: &[u8; 32],
    prologue: &[u8],
    seed: Zeroizing<[u8; 32]>,
) -> Result<HandshakeState, Error> {
    builder(seed)?.local_private_key(secret)?.prologue(prologue)?.build_responder()
}

/// The data keys of a finished handshake. The suite is in the label, so no key ever serves two.
pub(crate) fn data_keys(state: &mut HandshakeState, suite: Suite, role: Role) -> DataKeys {
    let (forth, back) = state.dangerously_get_raw_split();
    let (forth, back) = (derive(&Zeroizing::new(forth), suite, 0), derive(&Zeroizing::new(back), suite, 1));
    match role {
        Role::Initiator => DataKeys { suite, sealing: forth, opening: back },
        Role::Responder => DataKeys { suite, sealing: back, opening: forth },
    }
}

/// `HKDF-SHA256(half, "overlay/v1/data" suite direction)`; the suite in two bytes, direction 0 from the
/// initiator and 1 towards it.
fn derive(half: &[u8; 32], suite: Suite, direction: u8) -> Zeroizing<[u8; 32]> {
    let info = [b"overlay/v1/data".as_slice(), &(suite as u16).to_be_bytes(), &[direction]].concat();
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(None, half).expand(&info, key.as_mut_slice()).expect("32 bytes are one block of HKDF");
    key
}

/// The public key of a secret.
pub(crate) fn public_key(secret: &[u8; 32]) -> [u8; 32] {
    x25519_dalek::x25519(*secret, x25519_dalek::X25519_BASEPOINT_BYTES)
}

fn builder<'b>(seed: Zeroizing<[u8; 32]>) -> Result<Builder<'b>, Error> {
    let params: NoiseParams = PATTERN.parse()?;
    Ok(Builder::with_resolver(params, Box::new(Seeded { seed })))
}

/// snow's own primitives, with our randomness and with a check that snow leaves out.
struct Seeded {
    seed: Zeroizing<[u8; 32]>,
}

impl CryptoResolver for Seeded {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SeededRandom(ChaCha20Rng::from_seed(*self.seed))))
    }
    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        Some(Box::new(Contributory(DefaultResolver.resolve_dh(choice)?)))
    }
    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }
    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

struct SeededRandom(ChaCha20Rng);

impl Random for SeededRandom {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        self.0.fill_bytes(dest);
        Ok(())
    }
}

/// Refuses an all-zero shared secret, which only points of small order give (RFC 7748 section 6.1).
struct Contributory(Box<dyn Dh>);

impl Dh for Contributory {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn pub_len(&self) -> usize {
        self.0.pub_len()
    }
    fn priv_len(&self) -> usize {
        self.0.priv_len()
    }
    fn set(&mut self, privkey: &[u8]) {
        self.0.set(privkey);
    }
    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        self.0.generate(rng)
    }
    fn pubkey(&self) -> &[u8] {
        self.0.pubkey()
    }
    fn privkey(&self) -> &[u8] {
        self.0.privkey()
    }
    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), Error> {
        self.0.dh(pubkey, out)?;
        if out[..32].ct_eq(&[0; 32]).into() { Err(Error::Dh) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(prologues: [&[u8]; 2]) -> Option<(DataKeys, DataKeys)> {
        let (a, b) = ([1; 32], [2; 32]);
        let seed = |n| Zeroizing::new([n; 32]);
        let mut initiator = initiator(&a, &public_key(&b), prologues[0], seed(3)).unwrap();
        let mut responder = responder(&b, prologues[1], seed(4)).unwrap();
        let (mut wire, mut payload) = ([0; 256], [0; 256]);
        let n = initiator.write_message(b"one", &mut wire).unwrap();
        assert_eq!(n, FIRST_OVERHEAD + 3);
        responder.read_message(&wire[..n], &mut payload).ok()?;
        assert_eq!(responder.get_remote_static(), Some(public_key(&a).as_slice()));
        let n = responder.write_message(b"two", &mut wire).unwrap();
        assert_eq!(n, SECOND_OVERHEAD + 3);
        initiator.read_message(&wire[..n], &mut payload).ok()?;
        let suite = Suite::Aes256Gcm;
        Some((data_keys(&mut initiator, suite, Role::Initiator), data_keys(&mut responder, suite, Role::Responder)))
    }

    #[test]
    fn both_sides_get_the_same_two_keys() {
        let (a, b) = run([b"same", b"same"]).unwrap();
        assert_eq!(a.sealing, b.opening);
        assert_eq!(a.opening, b.sealing);
        assert_ne!(a.opening, a.sealing);
    }

    #[test]
    fn another_prologue_is_another_handshake() {
        assert!(run([b"this", b"that"]).is_none());
    }

    #[test]
    fn suites_never_share_a_key() {
        assert_ne!(derive(&[7; 32], Suite::Aes256Gcm, 0), derive(&[7; 32], Suite::ChaCha20Poly1305, 0));
    }

    #[test]
    fn a_point_of_small_order_is_refused() {
        let mut state = responder(&[2; 32], b"", Zeroizing::new([4; 32])).unwrap();
        let mut payload = [0; 256];
        assert!(matches!(state.read_message(&[0; 128], &mut payload), Err(Error::Dh)));
    }
}
