use proptest::collection::vec;
use proptest::prelude::*;

use std::path::Path;

use super::*;
use crate::fuzz::{COMPLETE, ELSEWHERE, PAUSE};
use crate::offload::{GSO_ECN, GSO_TCPV4, GSO_UDP_L4, NEEDS_CSUM};
use crate::{Coalescer, complete_checksum, segment};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;
const HEADER: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0];

/// How a packet says that its checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checksum {
    Partial,
    Complete,
    Wrong,
}

#[derive(Clone, Debug)]
struct Packet {
    tcp: bool,
    port: u8,
    id: u16,
    dont_fragment: bool,
    tos: u8,
    sequence: u32,
    window: u16,
    flags: u8,
    options: [u8; 12],
    payload: Vec<u8>,
    checksum: Checksum,
}

impl Packet {
    fn tcp(sequence: u32, payload: usize) -> Self {
        Self {
            tcp: true,
            port: 80,
            id: 0xffff,
            dont_fragment: true,
            tos: 0,
            sequence,
            window: 256,
            flags: ACK,
            options: [1, 1, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6],
            payload: (0..payload).map(|n| n as u8 ^ sequence as u8).collect(),
            checksum: Checksum::Partial,
        }
    }

    fn emit(&self) -> (Offload, Vec<u8>) {
        let mut transport = vec![0x9c, 0x40, 0, self.port];
        if self.tcp {
            transport.extend(self.sequence.to_be_bytes());
            transport.extend([0, 0, 0, 9, 0x80, self.flags]);
            transport.extend(self.window.to_be_bytes());
            transport.extend([0, 0, 0, 0]);
            transport.extend(self.options);
        } else {
            transport.extend((8 + self.payload.len() as u16).to_be_bytes());
            transport.extend([0, 0]);
        }
        transport.extend(&self.payload);
        let mut packet = ipv4(if self.tcp { IpProtocol::Tcp } else { IpProtocol::Udp }, MEMBER, HOST, &transport);
        packet[1] = self.tos;
        packet[4..6].copy_from_slice(&self.id.to_be_bytes());
        packet[6] = if self.dont_fragment { 0x40 } else { 0 };
        set_ip_checksum(&mut packet);
        let csum_offset = if self.tcp { 16 } else { 6 };
        let partial = Offload { flags: NEEDS_CSUM, csum_start: 34, csum_offset, ..PLAIN };
        let field = 20 + usize::from(csum_offset);
        let protocol = if self.tcp { 6 } else { 17 };
        let begun = add(&packet[12..20], protocol + transport.len() as u32) as u16;
        packet[field..field + 2].copy_from_slice(&begun.to_be_bytes());
        if self.checksum == Checksum::Partial {
            return (partial, packet);
        }
        let mut packet = completed(&packet, partial);
        if self.checksum == Checksum::Wrong {
            packet[field] ^= 1;
        }
        (PLAIN, packet)
    }
}

const MEMBER: Ipv4Addr = crate::fuzz::MEMBER_IP;
const HOST: Ipv4Addr = HOST_IP;

fn set_ip_checksum(packet: &mut [u8]) {
    packet[10..12].copy_from_slice(&[0, 0]);
    let checksum = !(add(&packet[..20], 0) as u16);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// The packet with nothing left to do.
fn completed(packet: &[u8], offload: Offload) -> Vec<u8> {
    let mut frame = [&HEADER[..], packet].concat();
    complete_checksum(&mut frame, offload).unwrap();
    frame.split_off(14)
}

/// What comes out, as frames in one piece.
fn coalesce(packets: &[(Offload, Vec<u8>)]) -> Vec<(Offload, Vec<u8>)> {
    let mut frames = Vec::new();
    let mut out =
        |frame: crate::Frame<'_, '_>| frames.push((frame.offload, [frame.head, &frame.parts.concat()].concat()));
    let mut coalescer = Coalescer::default();
    for (offload, packet) in packets {
        coalescer.push(HEADER, *offload, packet, &mut out);
    }
    coalescer.flush(&mut out);
    frames
}

/// The packets that the kernel makes of a frame, if it takes it.
fn cut(offload: Offload, frame: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut packets = Vec::new();
    let one = match offload.check(&frame[14..]).ok()? {
        checked if checked.is_super_frame() => usize::from(checked.hdr_len) - 14 + usize::from(checked.gso_size),
        _ => 65_535,
    };
    segment(frame, offload, one, &mut |head, rest, offload| {
        packets.push(completed(&[head, rest].concat()[14..], offload));
    })
    .ok()?;
    Some(packets)
}

#[test]
fn three_segments_become_this_super_frame() {
    let second = Packet { sequence: 48, id: 0, ..Packet::tcp(0, 48) };
    let third = Packet { sequence: 96, id: 1, flags: ACK | PSH | FIN, ..Packet::tcp(0, 24) };
    let first = Packet { flags: ACK | CWR, ..Packet::tcp(0, 48) };
    let frames = coalesce(&[first.emit(), second.emit(), third.emit()]);
    let numbers: Vec<u8> = (0..48).chain(0..48).chain(0..24).collect();
    let expected = [
        &HEADER[..],
        &[0x45, 0, 0, 172, 0xff, 0xff, 0x40, 0, 64, 6, 0x25, 0xbd, 10, 64, 0, 7, 10, 64, 0, 9],
        &[0x9c, 0x40, 0, 80, 0, 0, 0, 0, 0, 0, 0, 9, 0x80, CWR | ACK | PSH | FIN],
        &[1, 0, 0x15, 0x2e, 0, 0, 1, 1, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6],
        &numbers,
    ]
    .concat();
    let offload = Offload {
        flags: NEEDS_CSUM,
        gso_type: GSO_TCPV4 | GSO_ECN,
        hdr_len: 66,
        gso_size: 48,
        csum_start: 34,
        csum_offset: 16,
    };
    assert_eq!(frames.len(), 1, "{frames:?}");
    assert_eq!(frames[0].0, offload);
    assert_eq!(frames[0].1[..34], expected[..34]);
    assert_eq!(frames[0].1, expected);
}

#[test]
fn a_train_is_no_longer_than_the_kernel_takes() {
    let train = |count: u32, payload: usize| -> Vec<usize> {
        let packets: Vec<_> =
            (0..count).map(|n| Packet { id: n as u16, ..Packet::tcp(n * payload as u32, payload) }.emit()).collect();
        coalesce(&packets).iter().map(|(_, frame)| frame.len() - 66).collect()
    };
    assert_eq!(train(65, 100), [6400, 100]);
    assert_eq!(train(49, 1348), [48 * 1348, 1348]);
    assert_eq!(train(8, 8948), [7 * 8948, 8948]);
    assert_eq!(train(2, 40_000), [40_000, 40_000]);
}

#[test]
fn super_frames_of_one_size_go_on_where_the_last_one_ended() {
    // As a way of 9000 octets brings them: six segments in a datagram.
    let together = |first: u32, payloads: &[usize]| {
        let (mut id, mut sequence, mut packets) = (first as u16, first * 1348, Vec::new());
        for payload in payloads {
            packets.push(Packet { id, ..Packet::tcp(sequence, *payload) }.emit());
            (id, sequence) = (id + 1, sequence + *payload as u32);
        }
        let (offload, frame) = coalesce(&packets).remove(0);
        (offload, frame[14..].to_vec())
    };
    let six = |n: u32| together(6 * n, &[1348; 6]);
    let payloads = |packets: &[(Offload, Vec<u8>)]| -> Vec<usize> {
        coalesce(packets).iter().map(|(_, frame)| frame.len() - 66).collect()
    };
    let all: Vec<_> = (0..8).map(six).collect();
    assert_eq!(payloads(&all), [48 * 1348]);
    assert_eq!(payloads(&[six(0), six(2)]), [6 * 1348, 6 * 1348], "a gap");
    assert_eq!(payloads(&[six(0), together(6, &[1348, 100]), six(8)]), [7 * 1348 + 100, 6 * 1348]);
    assert_eq!(payloads(&[six(0), together(6, &[1300, 1300])]), [6 * 1348, 2600], "another size");
    assert_eq!(payloads(&[together(0, &[1348]), together(1, &[1348; 6])]), [7 * 1348]);
    let ten = |n: u32| {
        let packets: Vec<_> = (0..10)
            .map(|k| Packet { id: (10 * n + k) as u16, ..Packet::tcp((10 * n + k) * 100, 100) }.emit())
            .collect();
        let (offload, frame) = coalesce(&packets).remove(0);
        (offload, frame[14..].to_vec())
    };
    assert_eq!(payloads(&(0..7).map(ten).collect::<Vec<_>>()), [6000, 1000], "64 segments at most");
    let (offload, frame) = coalesce(&all).remove(0);
    let numbers: Vec<u16> = cut(offload, &frame).unwrap().iter().map(|p| u16::from_be_bytes([p[4], p[5]])).collect();
    assert_eq!(numbers, (0..48).collect::<Vec<_>>());
}

#[test]
fn what_is_not_put_together_does_not_overtake() {
    let data = Packet::tcp(0, 100);
    let pure_ack = Packet { id: 5, ..Packet::tcp(100, 0) };
    let syn = Packet { flags: ACK | SYN, ..data.clone() };
    for other in [pure_ack, syn] {
        let packets = [data.emit(), other.emit()];
        let frames: Vec<Vec<u8>> = coalesce(&packets).into_iter().map(|(_, frame)| frame[14..].to_vec()).collect();
        assert_eq!(frames, [packets[0].1.clone(), packets[1].1.clone()]);
    }
}

#[test]
fn one_more_flow_than_there_is_room_for_ends_the_oldest() {
    let flow = |port| Packet { port, ..Packet::tcp(0, 100) }.emit();
    let again = Packet { port: 1, id: 0, sequence: 100, ..Packet::tcp(0, 100) }.emit();
    let mut packets: Vec<_> = (1..=8).map(flow).collect();
    packets.push(again.clone());
    assert_eq!(coalesce(&packets).len(), 8);
    let mut packets: Vec<_> = (1..=9).map(flow).collect();
    packets.push(again);
    assert_eq!(coalesce(&packets).len(), 10);
}

#[test]
fn memory_is_used_again() {
    let packets: Vec<_> = (0..50).map(|n| Packet { id: n, ..Packet::tcp(u32::from(n) * 100, 100) }.emit()).collect();
    let mut first = Coalescer::default();
    packets.iter().for_each(|(offload, packet)| first.push(HEADER, *offload, packet, &mut |_| {}));
    first.flush(&mut |_| {});
    let mut again = first.recycle();
    let mut lengths = Vec::new();
    packets.iter().for_each(|(offload, packet)| again.push(HEADER, *offload, packet, &mut |_| {}));
    again.flush(&mut |frame| lengths.push(frame.parts.len()));
    assert_eq!(lengths, [50]);
}

/// What happens on a flow: how its next packet differs from a perfect successor.
#[derive(Clone, Debug)]
struct Step {
    flow: usize,
    payload: usize,
    skip: u32,
    id: Id,
    tos: u8,
    window: u16,
    flags: u8,
    option: u8,
    checksum: Checksum,
}

#[derive(Clone, Copy, Debug)]
enum Id {
    Next,
    Same,
    Other,
}

fn mostly<T: Clone + std::fmt::Debug + 'static>(usual: T, others: Vec<T>) -> impl Strategy<Value = T> {
    prop_oneof![12 => Just(usual), 1 => proptest::sample::select(others)]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let headers = (
        mostly(ACK, vec![ACK | PSH, ACK | FIN, ACK | CWR, ACK | ECE, ACK | ECE | CWR, ACK | SYN, 0]),
        mostly(0, vec![1]),
        mostly(Checksum::Partial, vec![Checksum::Complete, Checksum::Complete, Checksum::Wrong]),
    );
    let lengths = (0usize..4, mostly(100, vec![0, 1, 50, 99, 101, 200]), mostly(0, vec![1, 100, u32::MAX]));
    let ip = (mostly(Id::Next, vec![Id::Same, Id::Same, Id::Other]), mostly(0, vec![3]), mostly(256, vec![257]));
    let step =
        (lengths, ip, headers).prop_map(|((flow, payload, skip), (id, tos, window), (flags, option, checksum))| Step {
            flow,
            payload,
            skip,
            id,
            tos,
            window,
            flags,
            option,
            checksum,
        });
    vec(step, 1..120)
}

/// Flows 0 and 1 are TCP, 2 and 3 UDP; those of an even number may be fragmented.
fn play(steps: &[Step]) -> Vec<(usize, Packet)> {
    let mut ids = [0xfff0u16; 4];
    let mut sequences = [0xffff_ff00u32; 4];
    let mut packets = Vec::new();
    for step in steps {
        let (id, sequence) = (&mut ids[step.flow], &mut sequences[step.flow]);
        *id = match step.id {
            Id::Next => id.wrapping_add(1),
            Id::Same => *id,
            Id::Other => id.wrapping_add(7),
        };
        *sequence = sequence.wrapping_add(step.skip);
        let mut packet = Packet { id: *id, tos: step.tos, flags: step.flags, ..Packet::tcp(*sequence, step.payload) };
        packet.tcp = step.flow < 2;
        packet.port = step.flow as u8;
        packet.dont_fragment = step.flow % 2 == 1;
        packet.window = step.window;
        packet.options[0] = 1 + step.option;
        packet.checksum = step.checksum;
        *sequence = sequence.wrapping_add(step.payload as u32);
        packets.push((step.flow, packet));
    }
    packets
}

/// By definition: packets may be put together if cutting what comes of it gives those packets again.
fn may_be_put_together(packets: &[Packet]) -> bool {
    let flags_allow = |packet: &Packet| {
        !packet.tcp || (packet.flags & ACK != 0 && packet.flags & !(ACK | PSH | FIN | ECE | CWR) == 0)
    };
    let allowed =
        |packet: &Packet| flags_allow(packet) && !packet.payload.is_empty() && packet.checksum != Checksum::Wrong;
    let [first, .., last] = packets else { return true };
    if packets.len() > 64 || !packets.iter().all(allowed) {
        return false;
    }
    let whole = Packet {
        flags: first.flags | (last.flags & (PSH | FIN)),
        payload: packets.iter().flat_map(|packet| packet.payload.clone()).collect(),
        checksum: Checksum::Partial,
        ..first.clone()
    };
    let (offload, bytes) = whole.emit();
    let gso_type = if whole.tcp { GSO_TCPV4 } else { GSO_UDP_L4 };
    let offload = Offload { gso_type, gso_size: first.payload.len() as u16, ..offload };
    let packets = packets.iter().enumerate().map(|(n, packet)| {
        let id = if first.dont_fragment { first.id.wrapping_add(n as u16) } else { packet.id };
        let (offload, bytes) = Packet { id, ..packet.clone() }.emit();
        completed(&bytes, offload)
    });
    cut(offload, &[&HEADER[..], &bytes].concat()) == Some(packets.collect::<Vec<_>>())
}

/// The packets of one flow, put together as far as that goes.
fn slowly(packets: &[Packet]) -> Vec<Vec<Packet>> {
    let mut trains: Vec<Vec<Packet>> = Vec::new();
    for packet in packets {
        let longer = trains.last().map(|train| [&train[..], std::slice::from_ref(packet)].concat());
        match longer {
            Some(longer) if may_be_put_together(&longer) => *trains.last_mut().unwrap() = longer,
            _ => trains.push(vec![packet.clone()]),
        }
    }
    trains
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn it_agrees_with_trying_everything(steps in steps()) {
        let packets = play(&steps);
        let frames = coalesce(&packets.iter().map(|(_, packet)| packet.emit()).collect::<Vec<_>>());
        for flow in 0..4 {
            let of_flow: Vec<Packet> = packets.iter().filter(|(of, _)| *of == flow).map(|(_, p)| p.clone()).collect();
            let mut ours = Vec::new();
            for (offload, frame) in frames.iter().filter(|(_, frame)| frame[37] == flow as u8) {
                ours.push(frame.len());
                prop_assert_eq!(offload.check(&frame[14..]), Ok(*offload));
            }
            let expected: Vec<usize> = slowly(&of_flow)
                .iter()
                .map(|train| {
                    let payload: usize = train.iter().map(|packet| packet.payload.len()).sum();
                    14 + 20 + if flow < 2 { 32 } else { 8 } + payload
                })
                .collect();
            prop_assert_eq!(ours, expected, "flow {}", flow);
            let kernel: Vec<Vec<u8>> = frames
                .iter()
                .filter(|(_, frame)| frame[37] == flow as u8)
                .flat_map(uncoalesced)
                .collect();
            let sent: Vec<Vec<u8>> = of_flow
                .iter()
                .map(|packet| { let (offload, bytes) = packet.emit(); without_id(completed(&bytes, offload)) })
                .collect();
            prop_assert_eq!(kernel, sent);
        }
    }

    #[test]
    fn what_is_put_together_twice_is_still_what_was_sent(steps in steps(), chunk in 1usize..12) {
        let packets = play(&steps);
        let emitted: Vec<_> = packets.iter().map(|(_, packet)| packet.emit()).collect();
        let first: Vec<_> = emitted.chunks(chunk).flat_map(coalesce).map(|(offload, frame)| (offload, frame[14..].to_vec())).collect();
        let frames = coalesce(&first);
        prop_assert!(frames.len() <= first.len());
        for flow in 0..4u8 {
            let kernel: Vec<Vec<u8>> = frames.iter().filter(|(_, frame)| frame[37] == flow).flat_map(uncoalesced).collect();
            let sent: Vec<Vec<u8>> =
                emitted.iter().filter(|(_, packet)| packet[23] == flow).map(|(o, p)| without_id(completed(p, *o))).collect();
            prop_assert_eq!(kernel, sent);
        }
    }
}

fn uncoalesced((offload, frame): &(Offload, Vec<u8>)) -> Vec<Vec<u8>> {
    let packets =
        if offload.is_super_frame() { cut(*offload, frame).unwrap() } else { vec![completed(&frame[14..], *offload)] };
    packets.into_iter().map(without_id).collect()
}

/// Where the packet may not be fragmented, its identification means nothing.
fn without_id(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[6] & 0x40 != 0 {
        packet[4..6].copy_from_slice(&[0, 0]);
        set_ip_checksum(&mut packet);
    }
    packet
}

/// Writes the corpus anew: `cargo test -p bridge -- --ignored write_the_corpus`, after its layout changed on purpose.
#[test]
#[ignore = "writes files"]
fn write_the_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/coalesce");
    std::fs::create_dir_all(&folder).unwrap();
    for (name, packets) in samples() {
        std::fs::write(folder.join(name), recorded(&packets)).unwrap();
    }
}

#[test]
fn the_corpus_is_put_together() {
    for (name, packets) in samples() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/coalesce").join(name);
        assert_eq!(std::fs::read(file).unwrap(), recorded(&packets), "{name}");
        let honest: Vec<_> = packets.iter().map(|(_, offload, packet)| (*offload, packet.clone())).collect();
        assert!(coalesce(&honest).len() < packets.len(), "{name}");
    }
}

type Recorded = (u8, Offload, Vec<u8>);

fn recorded(packets: &[Recorded]) -> Vec<u8> {
    let one = |(what, offload, packet): &Recorded| {
        [&[*what][..], &(packet.len() as u16).to_be_bytes(), &offload.to_wire(), packet].concat()
    };
    packets.iter().flat_map(one).collect()
}

/// Files of the corpus: trains, and what ends them or comes in between.
fn samples() -> Vec<(&'static str, Vec<Recorded>)> {
    let tcp = |n: u32| Packet { id: n as u16, ..Packet::tcp(n * 48, 48) };
    let udp = |n: u32| Packet { tcp: false, dont_fragment: false, payload: vec![n as u8; 48], ..tcp(n) };
    let with = |what: u8, packets: &[Packet]| -> Vec<Recorded> {
        let emit = |packet: &Packet| (packet.emit(), what);
        packets.iter().map(emit).map(|((offload, packet), what)| (what, offload, packet)).collect()
    };
    let train = |packet: &dyn Fn(u32) -> Packet, count: u32| (0..count).map(packet).collect::<Vec<_>>();
    let between = |other: Recorded| {
        let mut packets = with(0, &train(&udp, 4));
        packets.insert(2, other);
        packets
    };
    let mut fragment = udp(9).emit().1;
    fragment[6] = 0x20;
    let mut options = [&udp(9).emit().1[..20], &[1; 4], &udp(9).emit().1[20..]].concat();
    (options[0], options[3]) = (0x46, options.len() as u8);
    let whole = Packet { id: 2, payload: vec![7; 480], ..udp(0) }.emit();
    let super_frame = Offload { gso_type: GSO_UDP_L4, gso_size: 48, ..whole.0 };
    let ends = Packet { flags: ACK | PSH | FIN, payload: vec![1; 20], ..tcp(3) };
    let pressed = Packet { flags: ACK | CWR | ECE, ..tcp(0) };
    let told = |n: u32| Packet { flags: ACK | ECE, ..tcp(n) };
    let ended = [&train(&tcp, 3)[..], &[ends, tcp(4)]].concat();
    let paused = [with(0, &train(&tcp, 2)), with(PAUSE, &[tcp(2)]), with(0, &[tcp(3)])].concat();
    let elsewhere = [with(0, &train(&tcp, 2)), with(ELSEWHERE, &[tcp(2), tcp(3)])].concat();
    let many = |n: u32| Packet { port: (n % 9) as u8, id: (n / 9) as u16, ..Packet::tcp(n / 9 * 48, 48) };
    let grouped = (0..27).map(|n| many(n % 3 * 9 + n / 3)).collect::<Vec<_>>();
    vec![
        ("tcp", with(0, &ended)),
        ("tcp-complete", with(COMPLETE, &train(&tcp, 4))),
        ("tcp-same-id", with(0, &train(&|n| Packet { id: 7, ..tcp(n) }, 3))),
        ("tcp-congestion", with(0, &[pressed, told(1), told(2)])),
        ("tcp-nine-flows", with(0, &grouped)),
        ("udp", with(0, &train(&udp, 5))),
        ("udp-complete", with(COMPLETE, &train(&udp, 5))),
        ("udp-long", with(0, &train(&|n| Packet { payload: vec![3], ..udp(n) }, 66))),
        ("fragment-between", between((0, PLAIN, fragment))),
        ("options-between", between((0, PLAIN, options))),
        ("super-frame-between", between((0, super_frame, whole.1))),
        ("pause-between", paused),
        ("station-between", elsewhere),
    ]
}
