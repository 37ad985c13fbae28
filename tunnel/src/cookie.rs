//! Cookies under load, as in the WireGuard paper, section 5.4.7: proof that an initiator receives what is sent to
//! its source address, without any memory of it.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng;
use zeroize::Zeroizing;

use crate::limits::COOKIE_LIFE;
use crate::mac::{check_mac2, is_mac2_empty, keyed, mac1_of};
use crate::wire::{COOKIE, MAJOR, bytes_at};

const NONCE: usize = 24;
const HEADER: usize = 8;

/// The responder's secret, drawn anew every two minutes.
#[derive(Default)]
pub(crate) struct CookieSecret {
    secret: Option<(Instant, Zeroizing<[u8; 32]>)>,
}

impl CookieSecret {
    /// Whether `init` carries the cookie that was given to `from`.
    pub(crate) fn check(&self, from: SocketAddr, init: &[u8], now: Instant) -> bool {
        match &self.secret {
            Some((since, secret)) if !is_mac2_empty(init) && now.saturating_duration_since(*since) < COOKIE_LIFE => {
                check_mac2(&cookie_of(secret, from), init)
            }
            Some(_) | None => false,
        }
    }

    /// The Cookie message in answer to `init`.
    pub(crate) fn answer(
        &mut self,
        key: &[u8; 32],
        from: SocketAddr,
        init: &[u8],
        rng: &mut ChaCha20Rng,
        now: Instant,
    ) -> Vec<u8> {
        let fresh = |since: &Instant| now.saturating_duration_since(*since) < COOKIE_LIFE;
        if !self.secret.as_ref().is_some_and(|(since, _)| fresh(since)) {
            let mut secret = Zeroizing::new([0; 32]);
            rng.fill_bytes(secret.as_mut_slice());
            self.secret = Some((now, secret));
        }
        let mut sealed = self.secret.as_ref().map_or([0; 16], |(_, secret)| cookie_of(secret, from));
        let mut nonce = [0; NONCE];
        rng.fill_bytes(&mut nonce);
        let tag = XChaCha20Poly1305::new(key.into())
            .encrypt_in_place_detached(&nonce.into(), mac1_of(init), &mut sealed)
            .expect("16 bytes are within the limits of ChaCha20");
        [&[3, MAJOR, 0, 0], &init[4..8], &nonce, &sealed, tag.as_slice()].concat()
    }
}

/// The cookie in a Cookie message that answers the Init with this mac1.
pub(crate) fn open(key: &[u8; 32], mac1: &[u8; 16], message: &[u8]) -> Option<[u8; 16]> {
    if message.len() != COOKIE {
        return None;
    }
    let nonce: [u8; NONCE] = bytes_at(message, HEADER);
    let mut cookie: [u8; 16] = bytes_at(message, HEADER + NONCE);
    let tag: [u8; 16] = bytes_at(message, HEADER + NONCE + 16);
    XChaCha20Poly1305::new(key.into()).decrypt_in_place_detached(&nonce.into(), mac1, &mut cookie, &tag.into()).ok()?;
    Some(cookie)
}

/// Bound to address and port, so that neither can be swapped for a victim's.
fn cookie_of(secret: &[u8; 32], from: SocketAddr) -> [u8; 16] {
    let port = from.port().to_be_bytes();
    match from.ip().to_canonical() {
        IpAddr::V4(ip) => keyed(secret, &[&ip.octets()[..], &port].concat()),
        IpAddr::V6(ip) => keyed(secret, &[&ip.octets()[..], &port].concat()),
    }
}
