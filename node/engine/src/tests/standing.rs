//! What status says of the replicas and of what each lease rests on.

use std::collections::BTreeMap;

use dht::{LeaseFacts, ShardFacts, Summary};

use super::*;

fn replica(n: u8) -> PeerId {
    key(n).peer_id()
}

fn shard(shard: u16, members: &[u8], silent: &[(u8, u64)]) -> ShardFacts {
    ShardFacts {
        shard,
        view: 4,
        members: members.iter().map(|n| replica(*n)).collect(),
        silent: silent.iter().map(|(n, time)| (replica(*n), secs(*time))).collect(),
    }
}

/// A view of these members, of whom some are silent; this node votes in it if it is one of them.
pub(super) fn summary(members: &[u8], silent: &[(u8, u64)]) -> Summary {
    let home = shard(0, members, silent);
    let mine = usize::from(home.members.contains(&replica(1)));
    Summary {
        id: NamespaceId(NAMESPACE),
        name: "lab".into(),
        zone: "lab.internal".into(),
        range: "10.70.0.0/24".parse().unwrap(),
        service: [10, 70, 0, 1].into(),
        mtu: 1400,
        lease: LEASE,
        replicas: home.members.clone(),
        alone: home.members == [replica(1)],
        rests: vec![home.clone()],
        weakest: home.clone(),
        home,
        votes_in: (mine, 1),
        recovering: None,
        drops: BTreeMap::new(),
        hindrance: None,
        leases: Vec::new(),
        peers: Vec::new(),
        heads: [0; 8],
        credential_hash: [0; 32],
        relay: true,
        router: None,
        authority: false,
        reachable: Some(true),
        handshake_floor: 0,
    }
}

impl Lab {
    pub(super) fn told(&mut self, summary: Summary) -> crate::NamespaceStatus {
        self.overlay(dht::Event::Status { summary: Box::new(summary) });
        self.engine.status(self.now)
    }

    fn silence(&mut self, reachable: bool) {
        let why = Some("too few of the replicas answer".to_owned()).filter(|_| !reachable);
        self.overlay(dht::Event::Quorum { reachable, why, since: self.now.mono });
    }
}

#[test]
fn a_partition_has_its_cause_and_says_how_long_addresses_stay() {
    let mut lab = Lab::new(Addressing::Own, Hostname::Default("node".into()));
    lab.silence(false);
    lab.wait(secs(5));
    let status = lab.told(summary(&[1, 2, 3], &[(2, 200), (3, 160)]));
    assert_eq!(status.state, State::Partitioned);
    let (two, three) = (replica(2), replica(3));
    let who = |more: u64| {
        let (a, b) = (200 + more, 160 + more);
        format!("2 of 3 replicas of view 4 do not answer: {two} for {a} s, {three} for {b} s")
    };
    assert_eq!(status.cause.unwrap(), format!("{}; addresses that others use stay until their leases end", who(0)));
    // Durations go on while nothing is told anew.
    lab.wait(secs(60));
    assert!(lab.engine.status(lab.now).cause.unwrap().starts_with(&who(60)));
    lab.silence(true);
    let status = lab.told(summary(&[1, 2, 3], &[]));
    assert_ne!(status.state, State::Partitioned);
    // With an address of its own: until when it stays.
    lab.grant_address();
    lab.silence(false);
    lab.wait(secs(100));
    let status = lab.told(summary(&[4, 5, 6], &[]));
    assert_eq!(status.state, State::Renewing);
    assert_eq!(
        status.cause.unwrap(),
        "too few of the replicas answer, for 100 s; the address ends in 3500 s unless that changes"
    );
}

#[test]
fn what_was_recovered_says_how_long_it_waits() {
    let mut lab = Lab::new(Addressing::Own, Hostname::Default("node".into()));
    let waiting = |shards| Summary { recovering: Some((shards, secs(90))), votes_in: (16, 16), ..summary(&[1], &[]) };
    let status = lab.told(waiting(16));
    assert_eq!(status.state, State::Recovering);
    lab.wait(secs(30));
    let status = lab.engine.status(lab.now);
    assert_eq!(status.recovering, Some(crate::RecoveringStatus { shards: 16, of: 16, left_s: 60 }));
    let wait = "recovered, and nothing is granted there for another 60 s, until every old lease has run out";
    assert_eq!(status.cause.unwrap(), format!("the register was {wait}"));
    // With an address that goes on, that comes first.
    lab.grant_address();
    let status = lab.told(waiting(3));
    assert_eq!(status.state, State::Bound);
    assert!(status.cause.unwrap().starts_with("3 of 16 shards were recovered"));
    lab.silence(false);
    lab.wait(secs(5));
    assert_eq!(lab.engine.status(lab.now).state, State::Recovering);
    assert_ne!(lab.told(summary(&[1], &[])).state, State::Recovering);
}

#[test]
fn a_replica_in_a_minority_says_so_though_nobody_asks_it_for_anything() {
    let mut lab = Lab::connected();
    assert_eq!(lab.told(summary(&[1, 2, 3], &[(2, 200)])).state, State::Bound);
    let status = lab.told(summary(&[1, 2, 3], &[(2, 200), (3, 160)]));
    assert_eq!(status.state, State::Renewing);
    assert!(status.cause.unwrap().contains("2 of 3 replicas of view 4 do not answer"));
    // Who is none of these, though it may be one of other shards, does not watch them.
    let of_others = Summary { votes_in: (1, 16), ..summary(&[2, 3, 4], &[(2, 200), (3, 160)]) };
    assert_eq!(lab.told(of_others).state, State::Bound);
}

#[test]
fn only_shards_that_something_here_rests_on_make_a_minority() {
    let mut lab = Lab::connected();
    let lame = shard(7, &[1, 2, 3], &[(2, 200), (3, 160)]);
    let well = summary(&[1, 2, 3], &[]);
    // A shard of others is as it may: nothing of this node's rests on it.
    assert_eq!(lab.told(well.clone()).state, State::Bound);
    // The name rests on another shard than the address.
    let named = Summary { rests: vec![well.home.clone(), lame.clone()], ..well.clone() };
    let status = lab.told(named);
    assert_eq!(status.state, State::Renewing);
    assert!(status.cause.unwrap().contains("2 of 3 replicas of view 4 do not answer"));
    // And the address on this one.
    let status = lab.told(Summary { home: lame.clone(), rests: vec![lame], ..well });
    assert_eq!(status.state, State::Renewing);
}

#[test]
fn the_view_is_that_of_the_shard_which_the_fewest_losses_would_stop() {
    let mut lab = Lab::connected();
    let grown = summary(&[1, 2, 3], &[]);
    let small = Summary { weakest: shard(7, &[1], &[]), votes_in: (16, 16), ..grown.clone() };
    let status = lab.told(small);
    assert_eq!(status.view.map(|view| (view.shard, view.members.len())), Some((7, 1)));
    assert!(status.warning.unwrap().starts_with("shard 7 of 16: one machine's sleep would stop grants"));
    assert_eq!(lab.told(grown).view.map(|view| (view.shard, view.members.len())), Some((0, 3)));
}

#[test]
fn a_warning_comes_before_the_loss_that_stops_grants() {
    let mut lab = Lab::connected();
    let mut warning = |members: &[u8], silent: &[(u8, u64)]| lab.told(summary(members, silent)).warning;
    assert!(warning(&[2], &[]).unwrap().starts_with("one machine's sleep would stop grants: the only replica is "));
    assert!(warning(&[1, 2], &[]).unwrap().starts_with("one machine's sleep would stop grants: both of 2"));
    assert_eq!(warning(&[1, 2, 3], &[]), None);
    let one_away = warning(&[1, 2, 3], &[(3, 200)]).unwrap();
    assert!(one_away.starts_with("one more loss would stop grants: 2 of 3 replicas answer, and 2 are needed"));
    assert!(warning(&[1, 2, 3], &[(2, 200), (3, 200)]).unwrap().starts_with("nothing is granted or renewed"));
    assert_eq!(warning(&[1, 2, 3, 4, 5], &[(2, 200)]), None);
    assert!(warning(&[1, 2, 3, 4, 5], &[(2, 200), (4, 200)]).unwrap().starts_with("one more loss"));
}

#[test]
fn each_lease_says_what_it_rests_on() {
    let mut lab = Lab::connected();
    let facts = LeaseFacts {
        key: LeaseKey::Address(OURS),
        token: Token::default(),
        view: 3,
        members: vec![replica(1), replica(2), replica(3)],
        accepted: vec![replica(1), replica(3)],
        remaining: LEASE,
        renewal: Some(secs(900)),
    };
    lab.told(Summary { leases: vec![facts], ..summary(&[1, 2, 3], &[]) });
    lab.wait(secs(100));
    let status = lab.engine.status(lab.now);
    let basis = status.lease.unwrap().basis.unwrap();
    assert_eq!((basis.view, basis.members.len(), basis.renewal_s), (3, 3, Some(800)));
    assert_eq!(basis.answered, [replica(1).to_string(), replica(3).to_string()]);
    assert_eq!(status.hosts[0].basis.as_ref(), Some(&basis));
}

#[test]
fn a_node_says_whether_it_is_a_replica_and_if_not_why() {
    let mut lab = Lab::connected();
    let mut candidacy =
        |members: &[u8], hindrance| lab.told(Summary { hindrance, ..summary(members, &[]) }).candidacy.unwrap();
    assert_eq!(candidacy(&[1, 2, 3], None), "replica");
    assert_eq!(candidacy(&[2, 3], None), "no replica now, and a candidate for one");
    assert_eq!(candidacy(&[2], Some("it runs on battery")), "no replica, and no candidate for one: it runs on battery");
}
