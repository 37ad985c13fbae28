//! udhcpc on a TAP whose address is left to it: get, renew, release, get again.

use e2e::dhcp_client::{Client, life_on_a_tap};

#[test]
fn udhcpc_gets_renews_releases_and_gets_again() -> anyhow::Result<()> {
    life_on_a_tap(Client::Udhcpc, &[])
}
