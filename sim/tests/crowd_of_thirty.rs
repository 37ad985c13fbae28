//! The world of the scale measurements, small: everybody gets an address, keeps it over renewals, and no address has two
//! owners while members go and come back.

use std::time::Duration;

use sim::scale::crowd::{Crowd, Plan};

fn plan(founders: u8) -> Plan {
    Plan {
        seed: 7,
        members: 30,
        founders,
        range: "10.64.0.0/24".parse().expect("a range"),
        lease: Duration::from_secs(120),
        joining: Duration::from_secs(60),
        steady: Duration::from_secs(300),
        churning: Duration::from_secs(900),
        churn: 6.0,
    }
}

#[test]
fn a_crowd_joins_renews_and_churns_and_no_address_has_two_owners() {
    for founders in [1, 3, 5] {
        let plan = plan(founders);
        let newcomers = (plan.members - u32::from(founders)) as usize;
        let mut crowd = Crowd::new(plan);
        crowd.run(plan.joining + Duration::from_secs(30));
        assert_eq!((crowd.running(), crowd.owners()), (30, (newcomers, 0)));
        assert_eq!((crowd.counts.joined.count(), crowd.counts.address.count()), (newcomers, newcomers));
        assert_eq!((crowd.counts.turned_away, crowd.counts.failed, crowd.counts.lost), (0, 0, 0));
        // Dialling and greeting takes four ways of 50 ms, the rounds six more at most: three round trips.
        let claim = crowd.counts.address.quantile(0.5);
        assert!((0.2..0.7).contains(&claim), "{claim}");

        let renewed = crowd.counts.renewed;
        crowd.run(plan.steady);
        assert_eq!((crowd.owners(), crowd.counts.lost), ((newcomers, 0), 0));
        assert!(crowd.counts.renewed >= renewed + 10 * newcomers as u64, "{renewed}, then {}", crowd.counts.renewed);

        crowd.begin_churning();
        crowd.run(plan.churning);
        assert!(crowd.counts.left > 15, "{}", crowd.counts.left);
        assert_eq!((crowd.owners().1, crowd.counts.failed), (0, 0));
    }
}

#[test]
fn a_seed_replays() {
    let run = || {
        let mut crowd = Crowd::new(plan(3));
        crowd.run(Duration::from_secs(120));
        crowd.begin_churning();
        crowd.run(Duration::from_secs(300));
        crowd.take("all", Duration::from_secs(420)).to_string()
    };
    assert_eq!(run(), run());
}
