//! Every number of the tunnel, with its source.

use std::time::Duration;

// From the specification of the handshake and of WireGuard's timers.

/// The initiator begins a new handshake at this age of a session in use.
pub(crate) const REKEY_AFTER: Duration = Duration::from_secs(120);
/// The responder does at this age, should the initiator not have.
pub(crate) const REKEY_RESPONDER_AFTER: Duration = Duration::from_secs(165);
/// A session of this age is refused and erased.
pub(crate) const REFUSE_AFTER: Duration = Duration::from_secs(180);
/// An attempt ends after this long.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(90);
/// Pauses before the second, third and fourth Init.
pub(crate) const FIRST_RETRIES: [Duration; 3] =
    [Duration::from_millis(300), Duration::from_millis(600), Duration::from_millis(1200)];
/// Pause before every later Init, plus jitter.
pub(crate) const RETRY: Duration = Duration::from_secs(5);
/// Jitter on [`RETRY`].
pub(crate) const RETRY_JITTER_MS: u64 = 333;
/// A keepalive goes out this long after something arrived and nothing was sent.
pub(crate) const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
/// A handshake begins this long after something was sent and nothing arrived.
pub(crate) const UNANSWERED_AFTER: Duration = Duration::from_secs(15);
/// GCM: a new key is asked for after this many sealed blocks.
pub(crate) const REKEY_BLOCKS: u64 = 1 << 34;
/// GCM: sealing is refused from this many blocks on.
pub(crate) const REFUSE_BLOCKS: u64 = 1 << 36;
/// A new key is asked for after this many forgeries under one key.
pub(crate) const REKEY_FORGED: u64 = 1 << 36;
/// Counters this far behind the newest are refused.
pub(crate) const WINDOW: u64 = 8192;
/// Lifetime of a cookie and of the secret behind it.
pub(crate) const COOKIE_LIFE: Duration = Duration::from_secs(120);
/// Inits per second from which on a cookie is asked for.
pub(crate) const LOAD_INITS: u32 = 1000;
/// Inits per second and source while under load.
pub(crate) const SOURCE_INITS: u32 = 20;
/// From the beginning of an attempt of ours, the peer's Init is ignored for this long, if our key is the smaller.
pub(crate) const SIMULTANEOUS: Duration = Duration::from_millis(500);
/// A receiver index is not used again for this long.
pub(crate) const INDEX_QUARANTINE: Duration = Duration::from_secs(180);
/// Handshake numbers are remembered this long after the last contact, so that a restored backup heals.
pub(crate) const NUMBER_MEMORY: Duration = Duration::from_secs(3600);
/// Payloads that wait for a session: how many, how large together, how long.
pub(crate) const QUEUE_LEN: usize = 8;
/// See [`QUEUE_LEN`].
pub(crate) const QUEUE_BYTES: usize = 64 * 1024;
/// See [`QUEUE_LEN`].
pub(crate) const QUEUE_LIFE: Duration = Duration::from_secs(3);
/// Candidates of one peer.
pub(crate) const CANDIDATES: usize = 16;
/// Inits to an address that has not answered.
pub(crate) const SILENT_TRIES: u8 = 3;
/// Routers that a datagram passes which is to open our own edge: the one before us forwards it, the next one does not.
pub(crate) const OPENING_TTL: u8 = 2;
/// How long after its opening an address is tried: the peer has to hear of us by a letter and open its own edge.
pub(crate) const OPENING: Duration = Duration::from_millis(250);
/// Inits of one round to one peer, all addresses together.
pub(crate) const ROUND_TRIES: u8 = 64;
/// A new endpoint gets at most this many times the bytes that it sent.
pub(crate) const UNPROVEN_FACTOR: u64 = 3;
/// Payloads in reassembly per peer.
pub(crate) const REASSEMBLY_LEN: usize = 64;
/// How long a payload waits for its last fragment.
pub(crate) const REASSEMBLY_LIFE: Duration = Duration::from_secs(1);

// Ours.

/// Sealing ends this much before [`REFUSE_AFTER`], so that the last packet still finds its key at the other
/// side, whose session is older by half a round trip.
pub(crate) const SEAL_MARGIN: Duration = Duration::from_secs(5);
/// Session counters are looked at this often.
pub(crate) const SAMPLE: Duration = Duration::from_secs(1);
/// A look that comes so late means that the program was stopped.
pub(crate) const STOPPED: Duration = Duration::from_secs(3);
/// An unconfirmed session, and the handshake number it came with, are forgotten after this long.
pub(crate) const UNCONFIRMED: Duration = Duration::from_secs(5);
/// Two sessions of different initiators this close together are one simultaneous start.
pub(crate) const DOUBLE: Duration = Duration::from_secs(5);
/// An honest member sends Inits at least 300 ms apart; a copy over another path comes sooner and is a replay.
pub(crate) const INIT_INTERVAL: Duration = Duration::from_millis(20);
/// Ways by which one Init may come and is answered.
pub(crate) const WAYS: usize = 4;
/// Pause of our own attempt after the peer's was given way to, so that its session can come up.
pub(crate) const YIELD: Duration = Duration::from_secs(1);
/// Silent addresses get new tries when they are signalled again at least this long after the last try.
pub(crate) const REFILL: Duration = Duration::from_secs(5);
/// Between two requests for the same peer's keys or candidates.
pub(crate) const NEED_INTERVAL: Duration = Duration::from_secs(5);
/// An echo is repeated after this long, where the round trip is not known.
pub(crate) const ECHO_RETRY: Duration = Duration::from_secs(1);
/// Echo requests in a row.
pub(crate) const ECHO_TRIES: u8 = 4;
/// A way that was proven this lately needs no echo when the peer comes back to it.
pub(crate) const PROVEN_LIFE: Duration = Duration::from_secs(120);
/// A smaller outer MTU that the kernel reported is believed this long (RFC 1191 section 6.3).
pub(crate) const MTU_MEMORY: Duration = Duration::from_secs(600);
/// While large packets are in use, and answered, it is tried this often whether they pass.
pub(crate) const SIZE_EVERY: Duration = Duration::from_secs(30);
/// The same where they are not answered.
pub(crate) const SIZE_AGAIN: Duration = Duration::from_secs(1);
/// Padded echo requests until the size in use counts as too big; one less for a size that is searched.
pub(crate) const SIZE_TRIES: u8 = 3;
/// Packets are large if they have this many octets on average.
pub(crate) const LARGE: u64 = 400;
/// Smallest outer MTU that is believed (RFC 791; RFC 8200).
pub(crate) const MIN_MTU_V4: u16 = 576;
/// See [`MIN_MTU_V4`].
pub(crate) const MIN_MTU_V6: u16 = 1280;
/// Bytes of fragments in reassembly per peer.
pub(crate) const REASSEMBLY_BYTES: usize = 1 << 20;
/// Largest payload: an IPv4 packet and eight bytes of offload meaning.
pub(crate) const MAX_PAYLOAD: usize = 65_535 + 8;
/// Receiver indices in quarantine; beyond it the oldest may be drawn again, with chance 2^-28.
pub(crate) const QUARANTINE_LEN: usize = 16_384;
/// Sources in the rate table; beyond it a source is refused.
pub(crate) const SOURCES: usize = 4096;
/// Handshakes per second that are opened under load, all sources together: four scalar multiplications each.
pub(crate) const LOAD_BUDGET: u32 = 2000;
/// Peers of one tunnel.
pub(crate) const PEERS: usize = 16_384;
/// Handshake numbers that one write to disk reserves.
pub(crate) const NUMBER_BLOCK: u64 = 1 << 16;
/// The next block is asked for when this many are left.
pub(crate) const NUMBER_LOW: u64 = 1 << 14;

// Paths and relays.

/// Ways to one peer that are known at once.
pub(crate) const PATHS: usize = 8;
/// Circuits to one peer.
pub(crate) const RELAYS: usize = 4;
/// A handshake that nothing has answered for this long is tried over the overlay's connection as well: UDP may be blocked. With
/// it the third Init goes there.
pub(crate) const STREAM_AFTER: Duration = Duration::from_millis(800);
/// Echo requests of one peer that may still be answered.
pub(crate) const ASKED: usize = 64;
/// Echo requests to a way from which only something authentic came, or while another way answers.
pub(crate) const UNKNOWN_TRIES: u8 = 2;
/// The shortest pause between two echoes on a way whose round trip is known.
pub(crate) const ECHO_RETRY_MIN: Duration = Duration::from_millis(300);
/// A way has to be better by this, and by a fifth, to be changed to.
pub(crate) const BETTER_BY: Duration = Duration::from_millis(2);
/// Sent and heard nothing for this long: the ways are asked.
pub(crate) const SUSPECT_AFTER: Duration = Duration::from_secs(2);
/// A circuit to a peer in use, taken or not, gets an echo this often: NATs forget after 30 s, the relay after [`CIRCUIT_IDLE`].
pub(crate) const SPARE_EVERY: Duration = Duration::from_secs(20);
/// Pauses between two attempts to get away from a relay, while the peer is in use: the first, doubled up to the last.
pub(crate) const DIRECT_RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(80));
/// What has heard nothing for this long is not believed to be heard: translators forget after 30 s, some after 20 (RFC 4787 asks for
/// 120), and a keepalive comes after [`KEEPALIVE_AFTER`].
pub(crate) const REST: Duration = Duration::from_secs(15);
/// A peer with whom nothing was exchanged for this long does not miss a way that is lost.
pub(crate) const MISSED: Duration = Duration::from_secs(30);
/// A circuit on which nothing went is closed after this long.
pub(crate) const CIRCUIT_IDLE: Duration = Duration::from_secs(60);
/// A circuit is kept asked for by a relay this long while its other end is away.
pub(crate) const CIRCUIT_WAIT: Duration = Duration::from_secs(10);
/// Circuits of one member at one relay.
pub(crate) const CIRCUITS_PER_PEER: usize = 32;
/// Circuits of one relay.
pub(crate) const CIRCUITS: usize = 2048;
/// Circuits that wait for their other end.
pub(crate) const CIRCUITS_WAITING: usize = 1024;
/// What one member may send at once above its rate, as time at that rate.
pub(crate) const RELAY_BURST: Duration = Duration::from_millis(100);
/// Pauses between requests for a circuit; after the last, the request is given up.
pub(crate) const OPEN_RETRIES: [Duration; 6] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(8),
];
/// How long a request waits for a session to be made in.
pub(crate) const WISH_LIFE: Duration = Duration::from_secs(30);
/// A relay is told once in this long that a circuit is unknown here.
pub(crate) const CLOSED_EVERY: Duration = Duration::from_millis(200);

// Ports that a translator gives next.

/// Observers whose word is kept.
pub(crate) const OBSERVERS: usize = 8;
/// Ports ahead that a peer is told: with an address of either kind they fill a list of [`CANDIDATES`] on most machines.
pub(crate) const AHEAD: i32 = 12;
/// Ports before the last one that a peer is told.
pub(crate) const BEHIND: usize = 4;
/// How far apart two ports given at once may be to be taken for counted: other flows lie between.
pub(crate) const PORT_GAP: u16 = 16;
/// And so much more for each second between them.
pub(crate) const PORT_RATE: u16 = 2;
/// Of two ports that were seen at least this long one after the other, the first was given first.
pub(crate) const PORT_ORDER: Duration = Duration::from_millis(500);
/// But never more than this: a translator so busy cannot be foretold.
pub(crate) const PORT_GAP_MAX: u16 = 256;
