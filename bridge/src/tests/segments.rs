use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::fuzz::MEMBER_IP;
use crate::offload::{GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_UDP_L4, NEEDS_CSUM};
use crate::{complete_checksum, segment};

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const CWR: u8 = 0x80;

#[test]
fn a_tcp_super_frame_is_cut_into_these_bytes() {
    let ethernet = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0];
    let super_frame = [
        &ethernet[..],
        &[0x45, 0, 0, 172, 0xff, 0xff, 0x40, 0, 64, 6, 0, 0, 10, 64, 0, 9, 10, 64, 0, 7],
        &[0x9c, 0x40, 0, 80, 0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 1, 0x80, CWR | ACK | PSH | FIN],
        &[1, 0, 0x14, 0xa9, 0, 0, 1, 1, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6],
        &[0xaa; 48],
        &[0xbb; 48],
        &[0xcc; 24],
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
    let mut frames = Vec::new();
    segment(&super_frame, offload, 100, &mut |head, rest, offload| frames.push(([head, rest].concat(), offload)))
        .unwrap();
    let options = [1, 1, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6];
    let first = [
        &ethernet[..],
        &[0x45, 0, 0, 100, 0xff, 0xff, 0x40, 0, 64, 6, 0x26, 0x05, 10, 64, 0, 9, 10, 64, 0, 7],
        &[0x9c, 0x40, 0, 80, 0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 1, 0x80, CWR | ACK],
        &[1, 0, 0x14, 0xe6, 0, 0],
        &options,
        &[0xaa; 48],
    ]
    .concat();
    let second = [
        &ethernet[..],
        &[0x45, 0, 0, 100, 0, 0, 0x40, 0, 64, 6, 0x26, 0x05, 10, 64, 0, 9, 10, 64, 0, 7],
        &[0x9c, 0x40, 0, 80, 0, 0, 0, 0x2e, 0, 0, 0, 1, 0x80, ACK],
        &[1, 0, 0x14, 0xe6, 0, 0],
        &options,
        &[0xbb; 48],
    ]
    .concat();
    let third = [
        &ethernet[..],
        &[0x45, 0, 0, 76, 0, 1, 0x40, 0, 64, 6, 0x26, 0x1c, 10, 64, 0, 9, 10, 64, 0, 7],
        &[0x9c, 0x40, 0, 80, 0, 0, 0, 0x5e, 0, 0, 0, 1, 0x80, ACK | PSH | FIN],
        &[1, 0, 0x14, 0xce, 0, 0],
        &options,
        &[0xcc; 24],
    ]
    .concat();
    let partial = Offload { flags: NEEDS_CSUM, csum_start: 34, csum_offset: 16, ..PLAIN };
    assert_eq!(frames, [(first, partial), (second, partial), (third, partial)]);
}

#[test]
fn what_is_no_super_frame_is_handed_over_as_it_is() {
    let offload = Offload { flags: NEEDS_CSUM, csum_start: 34, csum_offset: 6, ..PLAIN };
    for offload in [PLAIN, offload] {
        let mut frames = Vec::new();
        segment(b"whatever", offload, 5, &mut |head, rest, o| frames.push(([head, rest].concat(), o))).unwrap();
        assert_eq!(frames, [(b"whatever".to_vec(), offload)]);
    }
}

#[test]
fn a_stream_is_cut_to_fit_and_datagrams_are_refused() {
    let model =
        Model { tcp: true, id: 0, sequence: 0, flags: ACK, options: vec![], payload: vec![1; 3000], size: 1448 };
    let pieces = model.cut(1400).unwrap();
    let lens: Vec<usize> = pieces.iter().map(|piece| piece.len() - 14).collect();
    assert_eq!(lens, [1400, 1400, 320]);
    let model = Model { tcp: false, ..model };
    assert_eq!(model.cut(1400), Err(DropReason::Oversize));
    assert_eq!(model.cut(1476).map(|pieces| pieces.len()), Ok(3));
}

#[test]
fn a_super_frame_that_contradicts_itself_is_refused() {
    let model =
        Model { tcp: true, id: 0, sequence: 0, flags: ACK, options: vec![], payload: vec![1; 3000], size: 1448 };
    let (frame, offload) = model.super_frame();
    let mut none = |_: &[u8], _: &[u8], _: Offload| panic!("nothing may come out");
    for (frame, offload, max_packet) in [
        (&frame[..13], offload, 1400),
        (&frame[..60], offload, 1400),
        (&frame, Offload { flags: 0, ..offload }, 1400),
        (&frame, Offload { gso_size: 0, ..offload }, 1400),
        (&frame, Offload { gso_type: GSO_UDP_L4, ..offload }, 1400),
        (&frame, Offload { gso_type: 0x42, ..offload }, 1400),
        (&frame, Offload { csum_offset: 6, ..offload }, 1400),
        (&frame, offload, 40),
        (&frame, offload, 0),
    ] {
        assert!(segment(frame, offload, max_packet, &mut none).is_err());
    }
}

proptest! {
    // Shrinking is worth little here, and slow.
    #![proptest_config(ProptestConfig { max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn cutting_agrees_with_sending_one_by_one(model in models(), max_packet in 100usize..9000) {
        let fits = model.header_len() + model.size <= max_packet;
        // One segment only is no super-frame, but may still have to be cut.
        let size = model.size.min(model.payload.len()).min(max_packet - model.header_len());
        match model.cut(max_packet) {
            Ok(pieces) => prop_assert_eq!(pieces, model.one_by_one(size)),
            Err(reason) => {
                prop_assert!(!model.tcp && !fits);
                prop_assert_eq!(reason, DropReason::Oversize);
            }
        }
    }
}

/// What a sender has to say; cut by us or, slowly and obviously, by itself.
#[derive(Clone, Debug)]
struct Model {
    tcp: bool,
    id: u16,
    sequence: u32,
    flags: u8,
    options: Vec<u8>,
    payload: Vec<u8>,
    size: usize,
}

fn models() -> impl Strategy<Value = Model> {
    let options = (0usize..=10).prop_flat_map(|words| vec(any::<u8>(), words * 4));
    let payload = (any::<u8>(), 1usize..8_000)
        .prop_map(|(seed, len)| (0..len).map(|n| (n as u8).wrapping_mul(seed) ^ (n >> 8) as u8).collect());
    (any::<(bool, u16, u32, u8)>(), options, payload, 160usize..2000).prop_map(
        |((tcp, id, sequence, flags), options, payload, size)| Model {
            tcp,
            id,
            sequence,
            flags,
            options,
            payload,
            size,
        },
    )
}

impl Model {
    fn header_len(&self) -> usize {
        20 + if self.tcp { 20 + self.options.len() } else { 8 }
    }

    /// The frame that says it all at once, with a checksum that is only begun.
    fn super_frame(&self) -> (Vec<u8>, Offload) {
        let (mut frame, field) = self.frame(self.id, self.sequence, self.flags, &self.payload);
        let len = (frame.len() - 34) as u32;
        let protocol = if self.tcp { 6 } else { 17 };
        let begun = add(&frame[26..34], protocol + len) as u16;
        frame[field..field + 2].copy_from_slice(&begun.to_be_bytes());
        let offload = Offload {
            flags: NEEDS_CSUM,
            gso_type: if self.tcp { GSO_TCPV4 } else { GSO_UDP_L4 },
            hdr_len: 0,
            gso_size: self.size as u16,
            csum_start: 34,
            csum_offset: (field - 34) as u16,
        };
        (frame, offload)
    }

    /// Cuts by the code under test, and completes the checksums.
    fn cut(&self, max_packet: usize) -> Result<Vec<Vec<u8>>, DropReason> {
        let (frame, offload) = self.super_frame();
        let mut pieces = Vec::new();
        segment(&frame, offload, max_packet, &mut |head, rest, offload| {
            let mut piece = [head, rest].concat();
            assert!(piece.len() - 14 <= max_packet);
            assert_eq!(offload.check(&piece[14..]), Ok(offload));
            if offload.is_super_frame() {
                // Several fit into one: the kernel cuts it further.
                let one = usize::from(offload.hdr_len) - 14 + usize::from(offload.gso_size);
                segment(&piece, offload, one, &mut |head, rest, offload| pieces.push(finished(head, rest, offload)))
                    .unwrap();
            } else {
                complete_checksum(&mut piece, offload).unwrap();
                pieces.push(piece);
            }
        })?;
        Ok(pieces)
    }

    fn one_by_one(&self, size: usize) -> Vec<Vec<u8>> {
        let count = self.payload.chunks(size).count();
        self.payload
            .chunks(size)
            .enumerate()
            .map(|(index, piece)| {
                let mut flags = self.flags;
                if index != 0 {
                    flags &= !CWR;
                }
                if index != count - 1 {
                    flags &= !(FIN | PSH);
                }
                let sequence = self.sequence.wrapping_add((index * size) as u32);
                self.frame(self.id.wrapping_add(index as u16), sequence, flags, piece).0
            })
            .collect()
    }

    /// One frame with its checksums, and where that of the transport is.
    fn frame(&self, id: u16, sequence: u32, flags: u8, payload: &[u8]) -> (Vec<u8>, usize) {
        let (mut transport, field) = if self.tcp {
            let mut header = vec![0x9c, 0x40, 0, 80];
            header.extend(sequence.to_be_bytes());
            header.extend([0, 0, 0, 9, ((20 + self.options.len()) / 4 * 16) as u8, flags, 4, 0, 0, 0, 0, 0]);
            header.extend(&self.options);
            (header, 16)
        } else {
            let [l0, l1] = ((8 + payload.len()) as u16).to_be_bytes();
            (vec![0x9c, 0x40, 0, 80, l0, l1, 0, 0], 6)
        };
        transport.extend(payload);
        let (protocol, len) = (if self.tcp { 6 } else { 17 }, transport.len());
        let addresses = [HOST_IP.octets(), MEMBER_IP.octets()].concat();
        let whole = [&addresses[..], &transport].concat();
        let checksum = match !(add(&whole, protocol + len as u32) as u16) {
            0 => 0xffff,
            checksum => checksum,
        };
        transport[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        let mut header = vec![0x45, 0];
        header.extend(((20 + len) as u16).to_be_bytes());
        header.extend(id.to_be_bytes());
        header.extend([0x40, 0, 64, protocol as u8, 0, 0]);
        header.extend(addresses);
        let checksum = !(add(&header, 0) as u16);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        (outbound(&[header, transport].concat()), 34 + field)
    }
}

fn finished(head: &[u8], rest: &[u8], offload: Offload) -> Vec<u8> {
    assert_eq!(offload.gso_type, GSO_NONE);
    let mut piece = [head, rest].concat();
    complete_checksum(&mut piece, offload).unwrap();
    piece
}
