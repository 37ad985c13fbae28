//! Five newcomers at the same moment.

use std::collections::BTreeSet;
use std::time::Duration;

use sim::{Addressing, NodeId, Setup, World};

const SECOND: Duration = Duration::from_secs(1);
const CREATOR: NodeId = NodeId(0);

#[test]
fn five_at_once_get_five_addresses_and_every_pair_talks_by_address_and_by_name() {
    let mut world = World::new(Setup::new(5));
    let mut all = vec![CREATOR];
    all.extend((0..3).map(|_| world.add_named("debian", Addressing::Own)));
    all.extend((0..2).map(|_| world.add(Addressing::Clients)));
    world.wait_for_addresses(&all, 30 * SECOND).unwrap();
    let addresses: BTreeSet<_> = all.iter().map(|id| world.address(*id).unwrap()).collect();
    assert_eq!(addresses.len(), all.len());
    world.run_for(2 * SECOND).unwrap();
    let names: Vec<String> = all.iter().map(|id| world.node(*id).hostname(world.now()).unwrap()).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), all.len(), "{names:?}");
    for from in &all {
        for (to, name) in all.iter().zip(&names).filter(|(to, _)| *to != from) {
            world.ping_and_wait(*from, *to, 5 * SECOND).unwrap();
            let question = world.ping_name(*from, name);
            world.run_until("an answer by name", 5 * SECOND, |w| w.name_answered(*from, question)).unwrap();
            world.run_for(SECOND).unwrap();
        }
    }
}
