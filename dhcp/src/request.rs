//! A client's message, read once into a form that cannot be wrong.

use std::net::Ipv4Addr;

use crate::{
    ClientKey, DropReason, hostname,
    option::{
        CLIENT_IDENTIFIER, LEASE_TIME, MAX_MESSAGE_SIZE, MESSAGE_TYPE, OPTIONS_AT, Options, PARAMETER_LIST,
        RAPID_COMMIT, RELAY_INFORMATION, REQUESTED_ADDRESS, SERVER_IDENTIFIER,
    },
};

/// RFC 2131 §3.
pub(crate) const MAGIC_COOKIE: [u8; 4] = [99, 130, 83, 99];
pub(crate) const BROADCAST_FLAG: u16 = 0x8000;
const BOOT_REQUEST: u8 = 1;
const ETHERNET: u8 = 1;

/// Longer than a message of any client in an Ethernet frame.
const MAX_LENGTH: usize = 2048;

/// The largest IP packet every client takes (RFC 2131 §2), and what of it is IP and UDP header.
const MIN_MAX_MESSAGE: u16 = 576;
const HEADERS: usize = 28;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any address, by preference this one.
    Discover { want: Option<Ipv4Addr>, commit: Commit },
    /// The address that this server, or another one, offered.
    Select { ip: Ipv4Addr },
    /// The address it had before it restarted.
    Reboot { ip: Ipv4Addr },
    /// More time for the address it uses. Renewing and rebinding differ only in where the message was sent to.
    Renew { ip: Ipv4Addr },
    /// The address is in use by somebody else.
    Decline { ip: Ipv4Addr },
    /// The address is given back.
    Release { ip: Ipv4Addr },
    /// Parameters for an address that the client has from elsewhere.
    Inform { ip: Ipv4Addr },
}

/// Whether a DISCOVER may be answered by an ACK (RFC 4039).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Commit {
    /// In two steps, as RFC 2131 has it.
    Offered,
    /// At once.
    Rapid,
}

/// A valid message of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) kind: Kind,
    pub(crate) client: ClientKey,
    pub(crate) mac: [u8; 6],
    pub(crate) xid: u32,
    /// The broadcast bit alone: the others must be zero (RFC 2131 §2).
    pub(crate) flags: u16,
    pub(crate) ciaddr: Ipv4Addr,
    pub(crate) server: Option<Ipv4Addr>,
    /// Option 61 as sent, to be echoed (RFC 6842).
    pub(crate) identifier: Option<Vec<u8>>,
    /// Option 55 as sent, in the client's order of preference.
    pub(crate) parameters: Option<Vec<u8>>,
    /// The longest DHCP message the client takes.
    pub(crate) room: usize,
    /// Option 51.
    pub(crate) lease: Option<u32>,
    pub(crate) hostname: Option<String>,
    /// Option 82 as sent, to be echoed (RFC 3046 §2.2): a switch may add it without being a relay.
    pub(crate) relay_information: Option<Vec<u8>>,
}

impl Request {
    /// Reads a message, or says why it is none for a server behind a TAP.
    pub(crate) fn parse(message: &[u8]) -> Result<Self, DropReason> {
        if message.len() > MAX_LENGTH {
            return Err(DropReason::BadLength);
        }
        let header: &[u8; OPTIONS_AT] = message.first_chunk().ok_or(DropReason::BadLength)?;
        if header[0] != BOOT_REQUEST || header[236..] != MAGIC_COOKIE {
            return Err(DropReason::NotDhcp);
        }
        if !address(header, 24).is_unspecified() {
            return Err(DropReason::Relayed);
        }
        let mac = hardware_address(header)?;
        let options = Options::parse(message)?;
        let identifier = match options.bytes(CLIENT_IDENTIFIER) {
            None | Some([]) => None,
            // One option's worth; a longer one could not be echoed within 576 bytes.
            Some(bytes) if bytes.len() > 255 => return Err(DropReason::BadOption),
            Some(bytes) => Some(bytes.to_vec()),
        };
        let ciaddr = address(header, 12);
        let server = options.address(SERVER_IDENTIFIER)?;
        Ok(Self {
            kind: kind(&options, ciaddr, server)?,
            client: identifier.as_deref().map_or_else(|| ClientKey::from_ethernet(mac), ClientKey::from_identifier),
            mac,
            xid: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            flags: u16::from_be_bytes([header[10], header[11]]) & BROADCAST_FLAG,
            ciaddr,
            server,
            identifier,
            parameters: options.bytes(PARAMETER_LIST).map(<[u8]>::to_vec),
            room: room(&options)?,
            lease: options.fixed(LEASE_TIME)?.map(u32::from_be_bytes),
            hostname: hostname::of_client(&options),
            relay_information: options.bytes(RELAY_INFORMATION).map(<[u8]>::to_vec),
        })
    }
}

fn address(header: &[u8; OPTIONS_AT], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3])
}

/// The bridge delivers frames to this address, so it must be one that a single machine can have.
fn hardware_address(header: &[u8; OPTIONS_AT]) -> Result<[u8; 6], DropReason> {
    let mac = [header[28], header[29], header[30], header[31], header[32], header[33]];
    let group = mac[0] & 1 != 0;
    if header[1] != ETHERNET || header[2] != 6 || group || mac == [0; 6] {
        return Err(DropReason::BadHardware);
    }
    Ok(mac)
}

fn room(options: &Options) -> Result<usize, DropReason> {
    let packet = options.fixed(MAX_MESSAGE_SIZE)?.map_or(MIN_MAX_MESSAGE, u16::from_be_bytes);
    Ok(usize::from(packet.max(MIN_MAX_MESSAGE)) - HEADERS)
}

/// What the message is, by its type and by which addresses it carries (RFC 2131 §4.3.2 and table 5).
fn kind(options: &Options, ciaddr: Ipv4Addr, server: Option<Ipv4Addr>) -> Result<Kind, DropReason> {
    let requested = options.address(REQUESTED_ADDRESS)?.filter(|ip| !ip.is_unspecified());
    let used = Some(ciaddr).filter(|ip| !ip.is_unspecified());
    let [code] = options.fixed(MESSAGE_TYPE)?.ok_or(DropReason::Bootp)?;
    let kind = match code {
        1 => {
            let commit = if options.fixed::<0>(RAPID_COMMIT)?.is_some() { Commit::Rapid } else { Commit::Offered };
            Kind::Discover { want: requested, commit }
        }
        3 => match (server, requested, used) {
            (Some(_), Some(ip), _) => Kind::Select { ip },
            (None, Some(ip), None) => Kind::Reboot { ip },
            // A renewal must not carry options 50 and 54; where it does, the address in use is what it is about.
            (_, _, Some(ip)) => Kind::Renew { ip },
            (_, None, None) => return Err(DropReason::NoAddress),
        },
        4 => Kind::Decline { ip: requested.ok_or(DropReason::NoAddress)? },
        7 => Kind::Release { ip: used.ok_or(DropReason::NoAddress)? },
        8 => Kind::Inform { ip: used.ok_or(DropReason::NoAddress)? },
        _ => return Err(DropReason::NotForServer),
    };
    Ok(kind)
}
