//! The encrypted datagram plane: handshakes, sessions, paths.
//!
//! A [`Tunnel`] is a state machine of one namespace on one node. It has no socket, clock or randomness of its own.
//!
//! In go datagrams ([`Tunnel::handle_datagram`]), payloads for peers ([`Tunnel::send`]), what is known about
//! peers ([`Tunnel::set_peer`], [`Tunnel::set_candidates`]) and time. Out come events ([`Tunnel::poll_event`]),
//! datagrams ([`Tunnel::poll_transmit`]) and the next deadline ([`Tunnel::poll_timeout`]). After each input the
//! caller drains all three, in that order: what it sends on [`Event::PeerUp`] leaves before the payloads that waited
//! for the session.
//!
//! # Two paths
//!
//! The fast path holds [`Session`]s from [`Tunnel::sessions`] and seals and opens kinds 0 and 1 by itself, on any
//! thread. Everything else is slow and goes through the [`Tunnel`]: Init, Resp and Cookie, datagrams of an index
//! that the fast path does not know (an unconfirmed session is confirmed by its first datagram, which must
//! therefore come here **unopened**), fragments and control messages ([`data_kind`] tells them apart before
//! opening), payloads larger than [`Session::max_payload`], and whatever [`Session::seal`] refuses.
//!
//! # Handshake
//!
//! `Noise_IK_25519_ChaChaPoly_BLAKE2s`, one round trip. The prologue names the namespace and the responder's
//! identity; the initiator is bound by its credential's hash inside the first message. Nothing follows from the
//! first message, which can be replayed: the responder keeps using the old session, sends nothing on the new
//! one and forgets its number, until the initiator's first transport packet arrives. The initiator sends its
//! queued payloads at once, or an echo request if there are none.
//!
//! # Relays
//!
//! Where no direct way is known, or not yet, datagrams go through a member with which both have a session: sealed for the
//! peer as always, and once more for the relay, as [`Kind::Forward`] to it and [`Kind::Carried`] from it. Both ends ask
//! the relay for a circuit ([`Tunnel::open_circuit`]). A handshake goes over every circuit and to every address at once;
//! what answers first carries the first packets, and a direct way is taken as soon as a round trip has proven it.
//!
//! # Streams
//!
//! Where UDP does not pass, datagrams go in a stream of the overlay's connection with the peer ([`Tunnel::set_stream`],
//! [`NextHop::Stream`]), or with the relay. It is tried only when nothing else has answered, and left for anything that does.
//!
//! # Failure
//!
//! A payload waits at most 3 s for a session and is then dropped under a name. Init is sent again after 0.3,
//! 0.6 and 1.2 s and then every 5 s for 90 s, at most three times to an address that never answered. Sent
//! and heard nothing for 2 s: every way is asked by echoes; if the one in use stays silent another one that answers is
//! taken, and if none does a new handshake begins. A peer that restarted is found that way.
#![forbid(unsafe_code)]

mod answer;
mod attempt;
mod candidates;
mod cipher;
mod circuits;
mod config;
mod control;
mod cookie;
mod core;
mod drops;
mod endpoint;
mod event;
mod fragment;
#[doc(hidden)]
pub mod fuzz;
mod inbound;
mod index;
mod limits;
mod load;
mod mac;
mod mapping;
mod noise;
mod number;
mod outbound;
mod path_mtu;
mod paths;
mod payload;
mod peer;
mod queue;
mod relay;
mod replay;
mod rest;
mod session;
#[cfg(test)]
mod tests;
mod timers;
mod tunnel;
mod wire;

pub use config::{Candidate, CandidateKind, Config, PeerKeys, Suite, Suites};
pub use drops::DropReason;
pub use endpoint::{Endpoint, NextHop};
pub use event::{Event, Kind, LegView, PathView, PeerView, SessionView, Transmit, Way};
pub use mapping::{Mapping, Observations};
pub use relay::Rate;
pub use session::{Opened, SealError, Session};
pub use tunnel::Tunnel;
pub use wire::{circuit, data_kind, is_init, receiver_index};
