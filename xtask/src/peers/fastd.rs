//! fastd, Debian's, in TAP mode.

use super::link::Link;
use super::peer::{INSIDE, Peer, Running, address, here, version, wait_device, write};
use crate::tools;

const DEVICE: &str = "fastd";

pub(crate) struct Fastd;

impl Peer for Fastd {
    fn name(&self) -> &'static str {
        "fastd"
    }

    fn layer(&self) -> &'static str {
        "Ethernet"
    }

    fn settings(&self) -> &'static str {
        "TAP mode; `salsa2012+umac`; MTU 1406, as its handbook advises"
    }

    fn obtain(&self) -> anyhow::Result<String> {
        tools::ensure_installed_only(&[("fastd", "fastd")])?;
        version(&["fastd", "--version"], 1)
    }

    fn start(&self, link: &Link) -> anyhow::Result<Running> {
        let mut keys = Vec::new();
        for node in link.ends() {
            let secret = here(&["fastd", "--generate-key", "--machine-readable"])?;
            let file = write(node, "secret.conf", &format!("secret \"{}\";\n", secret.trim()))?;
            let public = here(&["fastd", "-c", &file, "--show-key", "--machine-readable"])?;
            keys.push((file, public.trim().to_owned()));
        }
        let mut daemons = Vec::new();
        for (at, node) in link.ends().into_iter().enumerate() {
            let other = 1 - at;
            let config = format!(
                "log to stderr level warn;\nmode tap; interface \"{DEVICE}\"; method \"salsa2012+umac\"; mtu 1406;\n\
                 bind 0.0.0.0:10000; include \"{}\";\npeer \"p\" {{ key \"{}\"; remote {}:10000; }}\n",
                keys[at].0,
                keys[other].1,
                link.ends()[other].underlay()
            );
            daemons.push(node.spawn(&["fastd", "-c", &write(node, "fastd.conf", &config)?])?);
        }
        wait_device(link, DEVICE)?;
        for (node, inside) in link.ends().into_iter().zip(INSIDE) {
            address(node, DEVICE, inside)?;
        }
        Ok(Running::new(DEVICE, INSIDE[1], daemons))
    }
}
