use super::*;
use crate::Resolution;
use crate::fuzz::peer;

fn address(number: u16) -> Ipv4Addr {
    let [high, low] = (number + 256).to_be_bytes();
    Ipv4Addr::new(10, 64, high, low)
}

fn scan(bench: &mut Bench, numbers: std::ops::Range<u16>) {
    for number in numbers {
        bench.hear(&outbound(&numbered(address(number), 0)));
    }
}

#[test]
fn a_scan_of_the_range_does_not_scan_the_overlay() {
    let mut bench = Bench::new();
    scan(&mut bench, 0..2000);
    assert_eq!(bench.events().len(), 64);
    assert_eq!(bench.dropped(DropReason::LookupsFull), 2000 - 1024);
    bench.pass(SECOND);
    assert_eq!(bench.events().len(), 32);
    bench.pass(60 * SECOND);
    // Whatever was not asked about within three seconds is not worth asking about.
    assert_eq!(bench.events().len(), 2 * 32 - 1);
    assert_eq!(bench.dropped(DropReason::LookupExpired), 1024);
    assert_eq!(bench.bridge.poll_timeout(), None);
}

#[test]
fn a_long_scan_stays_bounded_and_an_ordinary_lookup_comes_through() {
    let mut bench = Bench::new();
    for round in 0..50 {
        scan(&mut bench, round * 300..round * 300 + 300);
        bench.pass(SECOND / 4);
        for event in bench.events() {
            let Event::Resolve { ip } = event else { panic!("{event:?}") };
            bench.bridge.handle_resolved(ip, Resolution::Absent, bench.now);
        }
    }
    bench.pass(3 * SECOND);
    bench.events();
    bench.hear(&outbound(&numbered(member(9), 0)));
    bench.hear(&outbound(&numbered(member(8), 0)));
    bench.pass(3 * SECOND / 2);
    assert!(bench.events().contains(&Event::Resolve { ip: member(8) }));
}

#[test]
fn all_waiting_packets_together_are_bounded() {
    let mut bench = Bench::new();
    let offload = Offload { flags: 1, gso_type: 5, gso_size: 1300, csum_start: 34, csum_offset: 6, hdr_len: 42 };
    for number in 0..200 {
        let frame = outbound(&udp((HOST_IP, 1), (address(number), 2), &vec![0; 60_000]));
        bench.bridge.handle_frame(&frame, offload, bench.now);
    }
    let kept = 8 * 1024 * 1024 / 60_028;
    assert_eq!(bench.dropped(DropReason::WaitingFull), 200 - kept);
    // And there is room again once they are gone.
    bench.pass(4 * SECOND);
    scan(&mut bench, 300..301);
    bench.bridge.permit(peer(1), address(300));
    assert_eq!(bench.packets().len(), 1);
}

#[test]
fn what_was_sent_makes_room() {
    let mut bench = Bench::new();
    let offload = Offload { flags: 1, gso_type: 5, gso_size: 1300, csum_start: 34, csum_offset: 6, hdr_len: 42 };
    for number in 0..200 {
        let frame = outbound(&udp((HOST_IP, 1), (address(number), 2), &vec![0; 60_000]));
        bench.bridge.handle_frame(&frame, offload, bench.now);
        bench.bridge.permit(peer(1), address(number));
    }
    assert_eq!(bench.packets().len(), 200);
}

#[test]
fn answers_nobody_waits_for_are_harmless() {
    let mut bench = Bench::new();
    for answer in [Resolution::Absent, Resolution::Unknown] {
        bench.bridge.handle_resolved(address(1), answer, bench.now);
    }
    for ip in [SERVICE, HOST_IP, Ipv4Addr::new(1, 2, 3, 4), Ipv4Addr::new(10, 64, 255, 255)] {
        bench.bridge.handle_resolved(ip, Resolution::Peer(peer(1)), bench.now);
        assert_eq!(bench.bridge.local().route(ip), None);
    }
    assert_eq!(bench.bridge.poll_timeout(), None);
    assert!(bench.bridge.drops().is_empty());
}

#[test]
fn answers_are_bounded_too() {
    let mut bench = Bench::new();
    for number in 0..5000 {
        bench.bridge.handle_resolved(address(number), Resolution::Peer(peer(1)), bench.now);
        bench.now += Duration::from_micros(1);
    }
    let routed = (0..5000).filter(|number| bench.bridge.local().route(address(*number)).is_some());
    assert_eq!(routed.count(), 4096);
    assert_eq!(bench.bridge.local().route(address(4999)), Some(peer(1)));
}
