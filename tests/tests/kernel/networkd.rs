//! systemd-networkd's client on a TAP whose address is left to it: get, renew, release, get again.
//!
//! It runs without D-Bus and udev, so nobody can tell it to renew: the namespace hands out the shortest leases.

use std::io::Write;
use std::path::Path;

use e2e::dhcp_client::{Client, life_on_a_tap};

#[test]
fn networkd_gets_renews_releases_and_gets_again() -> anyhow::Result<()> {
    if !Path::new("/lib/systemd/systemd-networkd").exists() {
        // Debian has no package of it without all of systemd as init, which a test must not install.
        writeln!(std::io::stderr(), "SKIPPED networkd: this machine does not run systemd")?;
        return Ok(());
    }
    life_on_a_tap(Client::Networkd, &["--lease", "40s"])
}
