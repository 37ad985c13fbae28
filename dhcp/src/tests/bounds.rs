//! What a flood of made-up machines can make grow.

use super::lab::{Host, Lab, Register, ip, secs};
use crate::{DropReason, Event, Outcome, table::MAX_CLIENTS};

fn made_up(n: u32) -> Host {
    let [a, b, c, d] = n.to_be_bytes();
    Host { mac: [2, 1, a, b, c, d], identifier: None, xid: n }
}

#[test]
fn ten_thousand_machines_in_a_minute_cause_few_claims_and_an_old_one_still_gets_through() {
    let mut lab = Lab::new();
    let resident = Host::new(1);
    let address = lab.bind(&resident);
    lab.events();
    lab.register = Register::Waits;
    let mut claims = 0;
    for n in 0..10_000 {
        lab.send(&made_up(n), &made_up(n).discover());
        for (id, ..) in lab.claims() {
            claims += 1;
            let [high, low] = u16::try_from(claims + 300).unwrap().to_be_bytes();
            lab.answer(id, Outcome::Granted { ip: [10, 64, high, low].into(), remaining: secs(60) });
        }
    }
    assert_eq!(claims, 256);
    assert_eq!(lab.dropped(DropReason::OffersFull), 10_000 - 256);
    lab.send(&resident, &resident.renew(address));
    lab.pass(secs(11));
    lab.events();
    lab.send(&resident, &resident.renew(address));
    let claim = lab.only_claim();
    assert_eq!(lab.answer(claim, Outcome::Granted { ip: address, remaining: secs(600) }).len(), 1);
    lab.pass(secs(60));
    assert_eq!(lab.released().len(), 256);
}

#[test]
fn claims_under_way_are_bounded_and_given_up_in_time() {
    let mut lab = Lab::new();
    lab.register = Register::Waits;
    for n in 0..600 {
        lab.send(&made_up(n), &made_up(n).reboot(ip(9)));
    }
    let claims = lab.claims();
    assert_eq!(claims.len(), 256);
    assert_eq!(lab.dropped(DropReason::ClaimsFull), 600 - 256);
    lab.pass(secs(20));
    assert_eq!(lab.dropped(DropReason::ClaimTimedOut), 256);
    assert_eq!(lab.server.poll_timeout(), None);
}

#[test]
fn the_table_forgets_silent_machines_first_and_never_one_with_an_address() {
    let mut lab = Lab::new();
    let resident = Host::new(1);
    let address = lab.bind(&resident);
    lab.register = Register::NoQuorum;
    for n in 0..u32::try_from(MAX_CLIENTS).unwrap() + 10 {
        lab.send(&made_up(n), &made_up(n).discover());
    }
    assert_eq!(lab.dropped(DropReason::ClientsFull), 0);
    assert_eq!(lab.bound(), [address]);
}

#[test]
fn when_all_have_addresses_a_newcomer_is_not_served() {
    let mut lab = Lab::new();
    lab.register = Register::Waits;
    let mut bound = 0;
    for n in 0..u32::try_from(MAX_CLIENTS).unwrap() + 1 {
        let [_, _, high, low] = (n + 300).to_be_bytes();
        let ip = [10, 64, high, low].into();
        lab.send(&made_up(n), &made_up(n).reboot(ip));
        for event in lab.events() {
            if let Event::Claim { id, .. } = event {
                lab.answer(id, Outcome::Granted { ip, remaining: secs(600) });
                bound += 1;
            }
        }
    }
    assert_eq!(bound, MAX_CLIENTS);
    assert_eq!(lab.dropped(DropReason::ClientsFull), 1);
    lab.pass(secs(600));
    assert_eq!(lab.server.bindings().count(), 0);
}
