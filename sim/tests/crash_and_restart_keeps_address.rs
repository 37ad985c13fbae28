//! Processes that are killed and machines that lose power come back with the address they had.
#![expect(clippy::unwrap_used, reason = "the helpers are tests, too")]

use std::time::Duration;

use sim::{Addressing, Crash, NodeId, Setup, Unsynced, World};

const SECOND: Duration = Duration::from_secs(1);
const CREATOR: NodeId = NodeId(0);

fn crash_and_restart(seed: u64, addressing: Addressing, how: Crash, unsynced: Unsynced) {
    let mut world = World::new(Setup::new(seed));
    let id = world.add(addressing);
    world.wait_for_addresses(&[CREATOR, id], 30 * SECOND).unwrap();
    let before = world.address(id);
    world.ping_and_wait(CREATOR, id, 5 * SECOND).unwrap();
    world.crash(id, how, unsynced);
    assert_eq!(world.address(id), None);
    world.run_for(3 * SECOND).unwrap();
    world.start(id);
    world.wait_for_addresses(&[id], 30 * SECOND).unwrap();
    assert_eq!(world.address(id), before, "{addressing:?} {how:?} {unsynced:?}");
    world.ping_and_wait(id, CREATOR, 5 * SECOND).unwrap();
    // The creator's session is with a process that is gone; it notices within the tunnel's time.
    world.run_for(30 * SECOND).unwrap();
    world.ping_and_wait(CREATOR, id, 5 * SECOND).unwrap();
}

#[test]
fn a_machine_with_an_address_of_its_own() {
    crash_and_restart(11, Addressing::Own, Crash::Process, Unsynced::Lost);
    crash_and_restart(12, Addressing::Own, Crash::Machine, Unsynced::Kept);
}

#[test]
fn a_dhcp_client() {
    crash_and_restart(13, Addressing::Clients, Crash::Process, Unsynced::Kept);
    crash_and_restart(14, Addressing::Clients, Crash::Machine, Unsynced::Lost);
}

#[test]
fn the_creator_itself_at_any_moment_of_another_ones_join() {
    for millis in (0..400).step_by(20) {
        let mut world = World::new(Setup::new(1000 + millis));
        world.wait_for_addresses(&[CREATOR], SECOND).unwrap();
        let before = world.address(CREATOR);
        let id = world.add(Addressing::Own);
        world.run_for(Duration::from_millis(millis)).unwrap();
        let unsynced = if millis % 40 == 0 { Unsynced::Lost } else { Unsynced::Kept };
        world.crash(CREATOR, Crash::Process, unsynced);
        world.run_for(SECOND).unwrap();
        world.start(CREATOR);
        world.wait_for_addresses(&[CREATOR, id], 90 * SECOND).unwrap();
        assert_eq!(world.address(CREATOR), before, "after {millis} ms");
        world.ping_and_wait(id, CREATOR, 5 * SECOND).unwrap();
    }
}

#[test]
fn the_newcomer_at_any_moment_of_its_join() {
    for millis in (0..400).step_by(20) {
        let mut world = World::new(Setup::new(2000 + millis));
        world.wait_for_addresses(&[CREATOR], SECOND).unwrap();
        let id = world.add(Addressing::Own);
        world.run_for(Duration::from_millis(millis)).unwrap();
        let unsynced = if millis % 40 == 0 { Unsynced::Lost } else { Unsynced::Kept };
        world.crash(id, Crash::Machine, unsynced);
        world.run_for(SECOND).unwrap();
        world.start(id);
        world.wait_for_addresses(&[id], 60 * SECOND).unwrap();
        world.ping_and_wait(id, CREATOR, 5 * SECOND).unwrap();
    }
}
