//! The mapper in virtual time, against a gateway that answers as each test has it.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use crate::{Action, ActionId, Answer, Left, Mapper, Network, Owner, Port, Protocol, Reach, Refusal, Transport};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const OWNER: Owner = Owner([1, 2, 3]);
const DATA: Port = Port { transport: Transport::Udp, port: 41820 };

pub(crate) fn left() -> Left {
    Left {
        gateway: GATEWAY,
        local: Ipv4Addr::new(192, 168, 1, 7),
        protocol: Protocol::Upnp,
        port: DATA,
        external: 41820,
        owner: Owner([9, 9, 9]),
        permanent: true,
    }
}

#[expect(clippy::disallowed_methods, reason = "an origin for virtual time; what it is does not matter")]
fn origin() -> Instant {
    Instant::now()
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A mapper, its clock, and what it has on disk.
struct Home {
    mapper: Mapper,
    now: Instant,
    disk: Vec<Left>,
}

impl Home {
    fn new(left: Vec<Left>) -> Self {
        let now = origin();
        let mut home = Self { mapper: Mapper::new(OWNER, left.clone(), now), now, disk: left };
        home.mapper.handle_wanted(&BTreeSet::from([DATA]), now);
        home
    }

    fn network(&mut self, gateway: Ipv4Addr) {
        let local = "192.168.1.7/24".parse().unwrap();
        self.mapper.handle_network(Some(Network { gateway, local }), self.now);
    }

    /// All that is to be done; what is on disk is kept.
    fn actions(&mut self) -> Vec<Action> {
        let mut all = Vec::new();
        while let Some(action) = self.mapper.poll_action() {
            match action {
                Action::Save(left) => self.disk = left,
                Action::Map { left, .. } => {
                    assert!(self.disk.contains(&left), "asked for before it was on disk: {left:?}");
                    all.push(action);
                }
                Action::Probe { .. } | Action::Delete { .. } => all.push(action),
            }
        }
        all
    }

    fn answer(&mut self, id: ActionId, answer: Answer) {
        self.mapper.handle_answer(id, answer, self.now);
    }

    /// Answers as `gateway` has it until nothing is asked; what was asked, in words.
    fn settle(&mut self, gateway: impl Fn(&Action) -> Answer) -> Vec<String> {
        let mut asked = Vec::new();
        loop {
            let actions = self.actions();
            if actions.is_empty() {
                return asked;
            }
            for action in actions {
                let (id, text) = match &action {
                    Action::Save(_) => continue,
                    Action::Probe { id, protocol, .. } => (*id, format!("probe {protocol}")),
                    Action::Map { id, left, lease } => (
                        *id,
                        format!("map {} {} {:?}", left.protocol, left.external, lease.map(|lease| lease.as_secs())),
                    ),
                    Action::Delete { id, left, certain } => {
                        (*id, format!("delete {} {} {certain}", left.protocol, left.external))
                    }
                };
                asked.push(text);
                self.answer(id, gateway(&action));
            }
        }
    }

    /// The next moment at which something is to be done.
    fn step(&mut self) -> Duration {
        let next = self.mapper.poll_timeout().unwrap();
        assert!(next > self.now, "time has to pass between two steps");
        let passed = next - self.now;
        self.now = next;
        self.mapper.handle_timeout(next);
        passed
    }

    fn external(&self) -> Option<SocketAddrV4> {
        self.mapper.mappings().next().map(|mapping| mapping.external)
    }
}

fn silent() -> Answer {
    Answer::Silent("no answer".into())
}

fn at(ip: Ipv4Addr, port: u16, lease: Option<u64>) -> Answer {
    Answer::Mapped { external: SocketAddrV4::new(ip, port), lease: lease.map(secs) }
}

/// Speaks one protocol, and grants what it is asked for.
fn speaks(only: Protocol) -> impl Fn(&Action) -> Answer {
    move |action| match action {
        Action::Probe { protocol, .. } if *protocol == only => Answer::Speaks(None),
        Action::Probe { .. } | Action::Save(_) => silent(),
        Action::Map { left, lease, .. } => at(OUTSIDE, left.external, lease.map(|lease| lease.as_secs())),
        Action::Delete { .. } => Answer::Deleted,
    }
}

const PROBES: [&str; 3] = ["probe PCP", "probe NAT-PMP", "probe UPnP"];

fn after_probes(rest: &[&str]) -> Vec<String> {
    PROBES.iter().chain(rest).map(ToString::to_string).collect()
}

#[test]
fn a_mapping_is_renewed_at_half_and_deleted_at_the_end() {
    for protocol in Protocol::ALL {
        let mut home = Home::new(Vec::new());
        home.network(GATEWAY);
        let asked = home.settle(speaks(protocol));
        assert_eq!(asked, after_probes(&[&format!("map {protocol} 41820 Some(600)")]));
        assert_eq!(home.external(), Some(SocketAddrV4::new(OUTSIDE, 41820)));
        for _ in 0..3 {
            assert_eq!(home.step(), secs(300));
            assert_eq!(home.settle(speaks(protocol)), [format!("map {protocol} 41820 Some(600)")]);
        }
        home.mapper.stop(home.now);
        assert!(!home.mapper.is_clean());
        assert_eq!(home.settle(speaks(protocol)), [format!("delete {protocol} 41820 true")]);
        assert!(home.mapper.is_clean() && home.disk.is_empty() && home.external().is_none());
    }
}

#[test]
fn all_are_asked_at_once_and_the_best_of_those_that_answer_soon_is_taken() {
    let mut home = Home::new(Vec::new());
    home.network(GATEWAY);
    let ids: Vec<ActionId> = home
        .actions()
        .iter()
        .filter_map(|action| match action {
            Action::Probe { id, .. } => Some(*id),
            Action::Save(_) | Action::Map { .. } | Action::Delete { .. } => None,
        })
        .collect();
    home.answer(ids[2], Answer::Speaks(Some(OUTSIDE)));
    assert_eq!(home.actions(), []);
    home.answer(ids[1], Answer::Speaks(Some(OUTSIDE)));
    assert_eq!(home.actions(), [], "PCP may still answer");
    assert_eq!(home.step(), Duration::from_millis(250));
    assert_eq!(home.settle(speaks(Protocol::Pcp)), ["map NAT-PMP 41820 Some(600)"]);
    home.answer(ids[0], Answer::Speaks(None));
    assert_eq!(home.actions(), [], "what is mapped stays");
}

#[test]
fn where_nobody_answers_it_is_asked_once_in_a_quarter_of_an_hour() {
    let mut home = Home::new(Vec::new());
    home.network(GATEWAY);
    for _ in 0..4 {
        assert_eq!(home.settle(|_| silent()), PROBES);
        assert_eq!(home.step(), secs(900));
    }
    assert_eq!(home.disk, []);
}

#[test]
fn without_a_network_or_a_wish_nothing_is_asked() {
    let mut home = Home::new(Vec::new());
    assert_eq!((home.actions(), home.mapper.poll_timeout()), (vec![], None));
    home.mapper.handle_wanted(&BTreeSet::new(), home.now);
    home.network(GATEWAY);
    assert_eq!((home.actions(), home.mapper.poll_timeout()), (vec![], None));
}

#[test]
fn a_router_that_keeps_mappings_only_for_ever_is_asked_for_that_and_it_is_on_disk() {
    let mut home = Home::new(Vec::new());
    home.network(GATEWAY);
    let stubborn = |action: &Action| match action {
        Action::Map { lease: Some(_), .. } => Answer::Refused(Refusal::OnlyPermanent),
        Action::Save(_) | Action::Probe { .. } | Action::Map { .. } | Action::Delete { .. } => {
            speaks(Protocol::Upnp)(action)
        }
    };
    let asked = home.settle(stubborn);
    assert_eq!(asked, after_probes(&["map UPnP 41820 Some(600)", "map UPnP 41820 None"]));
    assert!(home.disk.len() == 1 && home.disk[0].permanent);
    assert_eq!(home.step(), secs(600));
    assert_eq!(home.settle(stubborn), ["map UPnP 41820 None"]);
}

#[test]
fn nonsense_is_not_believed_and_is_deleted() {
    let inside = Ipv4Addr::new(192, 168, 1, 20);
    for (ip, port, lease) in [
        (Ipv4Addr::UNSPECIFIED, 1, 600),
        (Ipv4Addr::LOCALHOST, 1, 600),
        (Ipv4Addr::BROADCAST, 1, 600),
        (inside, 1, 600),
        (GATEWAY, 1, 600),
        (OUTSIDE, 0, 600),
        (OUTSIDE, 1, 0),
        (OUTSIDE, 1, 5),
    ] {
        let mut home = Home::new(Vec::new());
        home.network(GATEWAY);
        let lies = |action: &Action| match action {
            Action::Map { .. } => at(ip, port, Some(lease)),
            Action::Save(_) | Action::Probe { .. } | Action::Delete { .. } => speaks(Protocol::Pcp)(action),
        };
        let asked = home.settle(lies);
        assert_eq!(asked, after_probes(&["map PCP 41820 Some(600)", "delete PCP 41820 false"]), "{ip}:{port}");
        assert_eq!((home.external(), home.disk.len()), (None, 0));
        for minutes in [1, 2, 4, 8, 15, 15] {
            assert_eq!(home.step(), secs(60 * minutes), "{ip}:{port}");
            home.settle(lies);
        }
    }
}

#[test]
fn answers_that_belong_to_other_questions_do_no_harm() {
    let odd = [Answer::Deleted, Answer::Speaks(None), at(OUTSIDE, 1, None), Answer::Refused(Refusal::PortTaken)];
    for first in odd.clone() {
        for second in odd.clone() {
            let mut home = Home::new(vec![left()]);
            home.network(GATEWAY);
            let gateway = |action: &Action| match action {
                Action::Probe { .. } | Action::Save(_) => first.clone(),
                Action::Map { .. } | Action::Delete { .. } => second.clone(),
            };
            for _ in 0..50 {
                assert!(home.settle(gateway).len() < 40);
                if home.mapper.poll_timeout().is_none() {
                    break;
                }
                home.step();
            }
            home.answer(ActionId(9999), second.clone());
        }
    }
}

#[test]
fn an_address_between_two_translators_is_said_to_be_one() {
    let mut home = Home::new(Vec::new());
    home.network(GATEWAY);
    home.settle(|action| match action {
        Action::Map { .. } => at(Ipv4Addr::new(100, 64, 3, 4), 41820, Some(600)),
        Action::Save(_) | Action::Probe { .. } | Action::Delete { .. } => speaks(Protocol::NatPmp)(action),
    });
    assert_eq!(home.mapper.mappings().map(|mapping| mapping.reach).collect::<Vec<_>>(), [Reach::BetweenTranslators]);
}

#[test]
fn a_port_that_another_one_has_is_left_alone() {
    let mut home = Home::new(Vec::new());
    home.network(GATEWAY);
    let taken = |action: &Action| match action {
        Action::Map { left, .. } if left.external == 41820 => Answer::Refused(Refusal::PortTaken),
        Action::Save(_) | Action::Probe { .. } | Action::Map { .. } | Action::Delete { .. } => {
            speaks(Protocol::Upnp)(action)
        }
    };
    let asked = home.settle(taken);
    assert_eq!(asked.len(), 5, "{asked:?}");
    assert!(asked.iter().all(|asked| !asked.starts_with("delete")), "{asked:?}");
    let other = home.external().unwrap().port();
    assert!(other != 41820 && home.disk[0].external == other);
    // Somebody takes that one, too.
    home.step();
    let asked = home.settle(|action| match action {
        Action::Map { left, .. } if left.external == other => Answer::Refused(Refusal::PortTaken),
        Action::Save(_) | Action::Probe { .. } | Action::Map { .. } | Action::Delete { .. } => {
            speaks(Protocol::Upnp)(action)
        }
    });
    assert!(asked.iter().all(|asked| !asked.starts_with("delete")), "{asked:?}");
    assert!(home.external().is_some_and(|addr| addr.port() != other));
}

#[test]
fn a_renewal_without_an_answer_is_tried_until_the_end_and_then_all_begins_anew() {
    let mut home = Home::new(Vec::new());
    home.network(GATEWAY);
    home.settle(speaks(Protocol::Pcp));
    let mut waits = Vec::new();
    while home.external().is_some() {
        waits.push(home.step().as_secs());
        home.settle(|_| silent());
        assert!(waits.len() < 20);
    }
    assert_eq!(waits.iter().take(3).collect::<Vec<_>>(), [&300, &150, &75]);
    assert_eq!((waits.iter().sum::<u64>() + 2) / 10, 60);
    assert_eq!(home.step(), secs(60));
    let asked = home.settle(speaks(Protocol::Pcp));
    assert_eq!(asked, after_probes(&["delete PCP 41820 false", "map PCP 41820 Some(600)"]));
    assert!(home.external().is_some());
}

#[test]
fn what_refuses_is_followed_by_the_next_that_answers() {
    let mut home = Home::new(Vec::new());
    home.network(GATEWAY);
    let asked = home.settle(|action| match action {
        Action::Probe { .. } => Answer::Speaks(None),
        Action::Map { left, .. } if left.protocol == Protocol::Pcp => Answer::Refused(Refusal::Other("no".into())),
        Action::Map { left, .. } if left.protocol == Protocol::NatPmp => silent(),
        Action::Save(_) | Action::Map { .. } | Action::Delete { .. } => speaks(Protocol::Upnp)(action),
    });
    let rest = ["map PCP 41820 Some(600)", "map NAT-PMP 41820 Some(600)", "delete NAT-PMP 41820 false"];
    assert_eq!(asked, after_probes(&[rest[0], rest[1], rest[2], "map UPnP 41820 Some(600)"]));
}

#[test]
fn what_a_killed_process_left_is_deleted_before_anything_is_asked_for() {
    let pcp = Left { protocol: Protocol::Pcp, permanent: false, ..left() };
    let elsewhere = Left { gateway: Ipv4Addr::new(10, 0, 0, 1), ..left() };
    let mut home = Home::new(vec![left(), pcp, elsewhere]);
    home.network(GATEWAY);
    let asked = home.settle(speaks(Protocol::Upnp));
    assert_eq!(asked, after_probes(&["delete UPnP 41820 false", "map UPnP 41820 Some(600)"]));
    assert!(home.disk.contains(&pcp) && home.disk.contains(&elsewhere));
    // The one that ends by itself is forgotten, the other one waits for its router.
    home.step();
    home.settle(speaks(Protocol::Upnp));
    for _ in 0..10 {
        home.step();
        home.settle(speaks(Protocol::Upnp));
    }
    assert!(!home.disk.contains(&pcp));
    assert!(home.disk.contains(&elsewhere));
    home.network(Ipv4Addr::new(10, 0, 0, 1));
    let asked = home.settle(speaks(Protocol::Upnp));
    assert_eq!(asked[3], "delete UPnP 41820 false");
}

#[test]
fn nothing_is_asked_for_while_something_is_being_deleted() {
    let mut home = Home::new(vec![left()]);
    home.network(GATEWAY);
    for action in home.actions() {
        if let Action::Probe { id, protocol, .. } = action {
            home.answer(id, if protocol == Protocol::Upnp { Answer::Speaks(None) } else { silent() });
        }
    }
    let asked = home.actions();
    let [Action::Delete { id, .. }] = &asked[..] else { panic!("{asked:?}") };
    home.now += secs(1);
    home.mapper.handle_timeout(home.now);
    assert_eq!(home.actions(), []);
    home.answer(*id, Answer::Deleted);
    assert_eq!(home.settle(speaks(Protocol::Upnp)), ["map UPnP 41820 Some(600)"]);
}

#[test]
fn what_was_left_is_deleted_where_nothing_is_wanted_too() {
    let mut home = Home::new(vec![left()]);
    home.mapper.handle_wanted(&BTreeSet::new(), home.now);
    home.network(GATEWAY);
    assert_eq!(home.settle(speaks(Protocol::Upnp)), after_probes(&["delete UPnP 41820 false"]));
    assert_eq!((home.disk.len(), home.mapper.poll_timeout()), (0, None));
}

#[test]
fn another_gateway_is_asked_and_the_old_one_is_left_to_itself() {
    let mut home = Home::new(Vec::new());
    home.network(GATEWAY);
    home.settle(speaks(Protocol::Pcp));
    home.network(Ipv4Addr::new(192, 168, 1, 254));
    assert_eq!(home.external(), None);
    let asked = home.settle(speaks(Protocol::Pcp));
    assert_eq!(asked, after_probes(&["map PCP 41820 Some(600)"]));
    assert_eq!(home.disk.len(), 2);
    home.mapper.handle_network(None, home.now);
    assert_eq!((home.settle(speaks(Protocol::Pcp)), home.external()), (vec![], None));
}

#[test]
fn an_answer_of_the_old_network_counts_no_more() {
    let mut home = Home::new(Vec::new());
    home.network(GATEWAY);
    let old = home.actions();
    home.network(Ipv4Addr::new(192, 168, 1, 254));
    home.settle(|_| silent());
    for action in old {
        if let Action::Probe { id, .. } = action {
            home.answer(id, Answer::Speaks(None));
        }
    }
    assert_eq!(home.actions(), []);
}

#[test]
fn a_port_that_is_wanted_no_more_while_it_is_asked_for_is_deleted_once_there_is_an_answer() {
    let mut home = Home::new(Vec::new());
    home.network(GATEWAY);
    for action in home.actions() {
        if let Action::Probe { id, protocol, .. } = action {
            home.answer(id, if protocol == Protocol::Pcp { Answer::Speaks(None) } else { silent() });
        }
    }
    let asked = home.actions();
    let [Action::Map { id, left, .. }] = &asked[..] else { panic!("{asked:?}") };
    home.mapper.stop(home.now);
    assert!(home.actions().is_empty() && !home.mapper.is_clean());
    home.answer(*id, at(OUTSIDE, left.external, Some(600)));
    assert_eq!(home.settle(speaks(Protocol::Pcp)), ["delete PCP 41820 false"]);
    assert!(home.mapper.is_clean() && home.disk.is_empty());
}

#[test]
fn what_cannot_be_deleted_at_the_end_stays_on_disk() {
    let mut home = Home::new(Vec::new());
    home.network(GATEWAY);
    home.settle(speaks(Protocol::Upnp));
    home.mapper.stop(home.now);
    assert_eq!(home.settle(|_| silent()), ["delete UPnP 41820 true"]);
    assert!(home.mapper.is_clean() && home.disk.len() == 1);
}

#[test]
fn after_a_suspension_all_is_renewed_at_once() {
    let mut home = Home::new(Vec::new());
    home.network(GATEWAY);
    home.settle(speaks(Protocol::Pcp));
    home.mapper.handle_doubt(home.now);
    assert_eq!(home.settle(speaks(Protocol::Pcp)), ["map PCP 41820 Some(600)"]);
}
