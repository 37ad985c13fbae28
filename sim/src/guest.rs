//! The machine behind a TAP: smoltcp's whole stack over a device in memory.
//!
//! It gets its address by DHCP or is given it, asks ARP, resolves names at the virtual server, answers and sends pings,
//! serves TCP on one port and sends to it. What it experiences is read from [`Guest::pings`], [`Guest::lookups`] and
//! [`Guest::received`].

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::{dhcpv4, dns, icmp, tcp};
use smoltcp::time::Instant;
use smoltcp::wire::{
    DhcpOption, DnsQueryType, EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, IpAddress, IpCidr, Ipv4Cidr,
};

use crate::probe::{IDENT, Probe};
use crate::tap::Tap;

/// Where every guest takes TCP connections.
pub const PORT: u16 = 7000;
const BUFFER: usize = 16 * 1024;
/// Pings that are remembered.
const MOST_PINGS: usize = 4096;

/// How long packets wait for an answer of ARP before the guest gives them up. smoltcp itself never does, and asks for
/// one address a second, so this is longer than on other systems.
const NO_NEIGHBOUR: Duration = Duration::from_secs(8);
/// Destinations that packets wait for.
const MOST_SENDERS: usize = 32;

/// Host names in the DHCP requests: option 12 wants to live as long as the socket.
static HOSTNAMES: [[DhcpOption<'static>; 1]; 8] = [
    [DhcpOption { kind: 12, data: b"guest-0" }],
    [DhcpOption { kind: 12, data: b"guest-1" }],
    [DhcpOption { kind: 12, data: b"guest-2" }],
    [DhcpOption { kind: 12, data: b"guest-3" }],
    [DhcpOption { kind: 12, data: b"guest-4" }],
    [DhcpOption { kind: 12, data: b"guest-5" }],
    [DhcpOption { kind: 12, data: b"guest-6" }],
    [DhcpOption { kind: 12, data: b"guest-7" }],
];

/// One ping.
#[derive(Clone, Debug)]
pub struct Ping {
    /// Whom.
    pub to: Ipv4Addr,
    /// When it was asked for.
    pub asked: Duration,
    /// When it was answered.
    pub answered: Option<Duration>,
}

/// One question for an address.
pub struct Lookup {
    handle: Option<dns::QueryHandle>,
    /// Whether to ping what it finds.
    ping: bool,
    /// The answer; empty if there was none.
    pub answer: Option<Vec<Ipv4Addr>>,
    /// The ping that followed.
    pub pinged: Option<u32>,
}

/// A simulated machine.
pub struct Guest {
    node: u32,
    mac: EthernetAddress,
    tap: Tap,
    interface: Interface,
    sockets: SocketSet<'static>,
    dhcp: Option<SocketHandle>,
    icmp: SocketHandle,
    dns: SocketHandle,
    server: SocketHandle,
    client: SocketHandle,
    /// Whether it is a machine with a DHCP client, running or not.
    has_client: bool,
    is_up: bool,
    address: Option<Ipv4Addr>,
    dns_server: Option<Ipv4Addr>,
    transfers: u16,
    to_send: usize,
    sent: u32,
    asked: u32,
    replies: VecDeque<(Ipv4Addr, Vec<u8>)>,
    /// One socket for each destination, so that none waits for another's ARP; and since when something waits there.
    senders: BTreeMap<Ipv4Addr, (SocketHandle, Option<Duration>)>,
    /// Packets given up because nobody answered ARP.
    pub unresolved: u64,
    /// Pings by number.
    pub pings: BTreeMap<u32, Ping>,
    /// Questions by number.
    pub lookups: BTreeMap<u32, Lookup>,
    /// Bytes that arrived over TCP, which were all as sent.
    pub received: usize,
    /// Bytes that were not as sent.
    pub garbled: usize,
}

impl Guest {
    /// A guest of this node, with a DHCP client or without.
    pub fn new(node: u32, mac: [u8; 6], dhcp: bool, seed: u64) -> Self {
        let mac = EthernetAddress(mac);
        let mut tap = Tap::default();
        let mut config = Config::new(HardwareAddress::Ethernet(mac));
        config.random_seed = seed;
        let interface = Interface::new(config, &mut tap, Instant::ZERO);
        let mut sockets = SocketSet::new(Vec::new());
        let has_client = dhcp;
        let dhcp = dhcp.then(|| sockets.add(dhcp_client(node)));
        let icmp = sockets.add(icmp_socket(IDENT));
        let dns = sockets.add(dns::Socket::new(&[], vec![]));
        let bytes = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        let server = sockets.add(tcp::Socket::new(bytes(), bytes()));
        let client = sockets.add(tcp::Socket::new(bytes(), bytes()));
        Self {
            node,
            mac,
            tap,
            interface,
            sockets,
            has_client,
            dhcp,
            icmp,
            dns,
            server,
            client,
            is_up: false,
            address: None,
            dns_server: None,
            transfers: 0,
            to_send: 0,
            sent: 0,
            asked: 0,
            replies: VecDeque::new(),
            senders: BTreeMap::new(),
            unresolved: 0,
            pings: BTreeMap::new(),
            lookups: BTreeMap::new(),
            received: 0,
            garbled: 0,
        }
    }

    /// Its hardware address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac.0
    }

    /// Its address, if it has one.
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.address
    }

    /// The TAP is there, or it is gone and with it every address.
    pub fn set_link(&mut self, is_up: bool) {
        self.is_up = is_up;
        self.tap.clear();
        if !is_up {
            self.clear_address();
            self.sockets.get_mut::<tcp::Socket<'_>>(self.server).abort();
            self.sockets.get_mut::<tcp::Socket<'_>>(self.client).abort();
            self.to_send = 0;
        }
        if let Some(dhcp) = self.dhcp {
            self.sockets.get_mut::<dhcpv4::Socket<'_>>(dhcp).reset();
        }
    }

    /// Gives it an address, as the shell does on an own TAP.
    pub fn set_address(&mut self, ip: Ipv4Addr, prefix_len: u8, dns_server: Ipv4Addr) {
        self.interface.update_ip_addrs(|addrs| {
            addrs.clear();
            let _ = addrs.push(IpCidr::Ipv4(Ipv4Cidr::new(ip, prefix_len)));
        });
        self.address = Some(ip);
        self.dns_server = Some(dns_server);
        self.sockets.get_mut::<dns::Socket<'_>>(self.dns).update_servers(&[IpAddress::Ipv4(dns_server)]);
    }

    /// Takes its address away.
    pub fn clear_address(&mut self) {
        self.interface.update_ip_addrs(|addrs| addrs.clear());
        self.address = None;
    }

    /// A frame from the TAP.
    pub fn receive(&mut self, frame: Vec<u8>) {
        if self.is_up {
            self.tap.receive(frame);
        }
    }

    /// A frame for the TAP.
    pub fn poll_frame(&mut self) -> Option<Vec<u8>> {
        self.tap.poll_frame()
    }

    /// Sends one ping; how it went is in [`Guest::pings`] under the number.
    pub fn ping(&mut self, to: Ipv4Addr, at: Duration) -> u32 {
        self.sent += 1;
        let number = self.sent;
        self.pings.insert(number, Ping { to, asked: at, answered: None });
        if self.pings.len() > MOST_PINGS {
            self.pings.pop_first();
        }
        let probe = Probe { node: self.node, number }.to_bytes();
        let request = Icmpv4Repr::EchoRequest { ident: IDENT, seq_no: number as u16, data: &probe };
        self.send_icmp(to, &request);
        number
    }

    /// Asks for the address of a name, and then maybe pings it.
    pub fn look_up(&mut self, name: &str, ping: bool) -> u32 {
        self.asked += 1;
        let socket = self.sockets.get_mut::<dns::Socket<'_>>(self.dns);
        let handle = socket.start_query(self.interface.context(), name, DnsQueryType::A).ok();
        let answer = handle.is_none().then(Vec::new);
        self.lookups.insert(self.asked, Lookup { handle, ping, answer, pinged: None });
        self.asked
    }

    /// Sends bytes over a new TCP connection.
    pub fn transfer(&mut self, to: Ipv4Addr, bytes: usize) {
        self.transfers = self.transfers.wrapping_add(1);
        let port = 40_000 + self.transfers % 20_000;
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.client);
        socket.abort();
        if socket.connect(self.interface.context(), (IpAddress::Ipv4(to), PORT), port).is_ok() {
            self.to_send = bytes;
        }
    }

    /// Forgets its TCP connections without a word. smoltcp asks ARP for one neighbour at a time: a segment that is sent again and
    /// again to a machine that is no more would keep it from asking for any other.
    pub fn forget_transfers(&mut self) {
        let bytes = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        for old in [self.client, self.server] {
            self.sockets.remove(old);
        }
        self.client = self.sockets.add(tcp::Socket::new(bytes(), bytes()));
        self.server = self.sockets.add(tcp::Socket::new(bytes(), bytes()));
        self.to_send = 0;
    }

    /// Stops or starts the DHCP client. Says which lease is to be released, and at which server.
    pub fn want_lease(&mut self, wanted: bool) -> Option<(Ipv4Addr, Ipv4Addr)> {
        if !self.has_client {
            return None;
        }
        if let Some(dhcp) = self.dhcp.take() {
            self.sockets.remove(dhcp);
        }
        self.dhcp = wanted.then(|| self.sockets.add(dhcp_client(self.node)));
        let released = self.address.zip(self.dns_server);
        self.clear_address();
        released
    }

    /// Lets the stack do what it can at this moment.
    pub fn poll(&mut self, at: Duration) {
        if !self.is_up {
            return;
        }
        self.listen();
        let now = instant(at);
        for _ in 0..64 {
            let before = self.tap.received();
            self.interface.poll(now, &mut self.tap, &mut self.sockets);
            self.hear_dhcp();
            self.hear_icmp(at);
            self.hear_dns(at);
            self.move_bytes();
            if before == 0 && self.tap.received() == 0 && self.replies.is_empty() {
                break;
            }
        }
        self.interface.poll(now, &mut self.tap, &mut self.sockets);
        self.give_up_unresolved(at);
    }

    /// When to call [`Guest::poll`] next.
    pub fn poll_timeout(&mut self, at: Duration) -> Option<Duration> {
        if !self.is_up {
            return None;
        }
        let next = self.interface.poll_at(instant(at), &self.sockets);
        let next = next.map(|next| Duration::from_micros(u64::try_from(next.total_micros()).unwrap_or(0)));
        let over = self.senders.values().filter_map(|(_, since)| *since).min().map(|since| since + NO_NEIGHBOUR);
        [next, over].into_iter().flatten().min()
    }

    fn listen(&mut self) {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.server);
        if !socket.is_open() {
            let _ = socket.listen(PORT);
        }
    }

    fn hear_dhcp(&mut self) {
        let Some(dhcp) = self.dhcp else { return };
        let socket = self.sockets.get_mut::<dhcpv4::Socket<'_>>(dhcp);
        match socket.poll() {
            None => {}
            Some(dhcpv4::Event::Configured(config)) => {
                let (cidr, dns_server) = (config.address, config.dns_servers.first().copied());
                let dns_server = dns_server.unwrap_or(config.server.identifier);
                assert_eq!(config.router, None, "the default route of a host is not ours to set");
                self.set_address(cidr.address(), cidr.prefix_len(), dns_server);
            }
            Some(dhcpv4::Event::Deconfigured) => self.clear_address(),
        }
    }

    fn hear_icmp(&mut self, at: Duration) {
        let checksums = ChecksumCapabilities::default();
        let socket = self.sockets.get_mut::<icmp::Socket<'_>>(self.icmp);
        while let Ok((packet, IpAddress::Ipv4(from))) = socket.recv() {
            let Ok(packet) = Icmpv4Packet::new_checked(packet) else { continue };
            match Icmpv4Repr::parse(&packet, &checksums) {
                Ok(Icmpv4Repr::EchoRequest { data, .. }) => self.replies.push_back((from, data.to_vec())),
                Ok(Icmpv4Repr::EchoReply { data, .. }) => {
                    let probe = Probe::parse(data).filter(|probe| probe.node == self.node);
                    let ping = probe.and_then(|probe| self.pings.get_mut(&probe.number));
                    if let Some(ping) = ping.filter(|ping| ping.to == from) {
                        ping.answered.get_or_insert(at);
                    }
                }
                Ok(_) | Err(_) => {}
            }
        }
        for (to, data) in std::mem::take(&mut self.replies) {
            let seq_no = Probe::parse(&data).map_or(0, |probe| probe.number as u16);
            self.send_icmp(to, &Icmpv4Repr::EchoReply { ident: IDENT, seq_no, data: &data });
        }
    }

    fn send_icmp(&mut self, to: Ipv4Addr, message: &Icmpv4Repr<'_>) {
        if self.senders.len() >= MOST_SENDERS && !self.senders.contains_key(&to) {
            self.unresolved += 1;
            return;
        }
        let sockets = &mut self.sockets;
        // What comes back is for the one socket that listens.
        let (handle, _) = *self.senders.entry(to).or_insert_with(|| (sockets.add(icmp_socket(IDENT + 1)), None));
        let socket = self.sockets.get_mut::<icmp::Socket<'_>>(handle);
        match socket.send(message.buffer_len(), IpAddress::Ipv4(to)) {
            Ok(buffer) => message.emit(&mut Icmpv4Packet::new_unchecked(buffer), &ChecksumCapabilities::default()),
            Err(_) => self.unresolved += 1,
        }
    }

    /// Packets whose destination nobody answered for are given up.
    fn give_up_unresolved(&mut self, at: Duration) {
        let mut over = Vec::new();
        for (to, (handle, since)) in &mut self.senders {
            if self.sockets.get::<icmp::Socket<'_>>(*handle).send_queue() == 0 {
                *since = None;
            } else if at >= *since.get_or_insert(at) + NO_NEIGHBOUR {
                over.push(*to);
            }
        }
        for to in over {
            if let Some((handle, _)) = self.senders.remove(&to) {
                self.sockets.remove(handle);
                self.unresolved += 1;
            }
        }
    }

    fn hear_dns(&mut self, at: Duration) {
        let mut found = Vec::new();
        let socket = self.sockets.get_mut::<dns::Socket<'_>>(self.dns);
        for (number, lookup) in &mut self.lookups {
            let Some(handle) = lookup.handle.filter(|_| lookup.answer.is_none()) else { continue };
            let answer = match socket.get_query_result(handle) {
                Err(dns::GetQueryResultError::Pending) => continue,
                Err(dns::GetQueryResultError::Failed) => Vec::new(),
                Ok(addresses) => addresses.iter().map(|IpAddress::Ipv4(ip)| *ip).collect(),
            };
            if let Some(ip) = answer.first().filter(|_| lookup.ping) {
                found.push((*number, *ip));
            }
            lookup.answer = Some(answer);
        }
        for (number, ip) in found {
            let pinged = self.ping(ip, at);
            if let Some(lookup) = self.lookups.get_mut(&number) {
                lookup.pinged = Some(pinged);
            }
        }
    }

    fn move_bytes(&mut self) {
        let client = self.sockets.get_mut::<tcp::Socket<'_>>(self.client);
        while self.to_send > 0 && client.can_send() {
            let chunk = vec![PATTERN; self.to_send.min(4096)];
            let Ok(taken) = client.send_slice(&chunk) else { break };
            self.to_send -= taken;
            if taken == 0 {
                break;
            }
        }
        if self.to_send == 0 && client.may_send() && client.send_queue() == 0 {
            client.close();
        }
        let server = self.sockets.get_mut::<tcp::Socket<'_>>(self.server);
        let mut buffer = [0; 4096];
        while server.can_recv() {
            let Ok(count) = server.recv_slice(&mut buffer) else { break };
            let right = buffer[..count].iter().filter(|byte| **byte == PATTERN).count();
            self.received += right;
            self.garbled += count - right;
        }
        if server.is_open() && !server.may_recv() && server.may_send() {
            server.close();
        }
    }
}

fn dhcp_client(node: u32) -> dhcpv4::Socket<'static> {
    let mut socket = dhcpv4::Socket::new();
    socket.set_outgoing_options(&HOSTNAMES[node as usize % HOSTNAMES.len()]);
    socket
}

fn icmp_socket(ident: u16) -> icmp::Socket<'static> {
    let packets = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 16], vec![0; 4096]);
    let mut socket = icmp::Socket::new(packets(), packets());
    socket.bind(icmp::Endpoint::Ident(ident)).expect("a new socket can be bound");
    socket
}

/// What a transfer consists of.
const PATTERN: u8 = 0xa5;

fn instant(at: Duration) -> Instant {
    Instant::from_micros(i64::try_from(at.as_micros()).unwrap_or(i64::MAX))
}
