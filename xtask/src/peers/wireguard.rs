//! wireguard-go, Debian's.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use e2e::wait;

use super::link::Link;
use super::peer::{INSIDE, Peer, Running, address, here, version, write};
use crate::tools;

/// Of each machine. Its control socket lies outside of all namespaces, so the two must differ.
const DEVICES: [&str; 2] = ["ovbench-a", "ovbench-b"];

pub(crate) struct WireGuard;

impl Peer for WireGuard {
    fn name(&self) -> &'static str {
        "wireguard-go"
    }

    fn layer(&self) -> &'static str {
        "IP"
    }

    fn settings(&self) -> &'static str {
        "ChaCha20-Poly1305; MTU 1420, as `wg-quick` sets it"
    }

    fn obtain(&self) -> anyhow::Result<String> {
        tools::ensure_installed_only(&[("wireguard-go", "wireguard-go"), ("wg", "wireguard-tools")])?;
        version(&["wireguard-go", "--version"], 1)
    }

    fn start(&self, link: &Link) -> anyhow::Result<Running> {
        let mut daemons = Vec::new();
        for (node, device) in link.ends().into_iter().zip(DEVICES) {
            // A daemon that was killed leaves its own behind.
            let _ = fs::remove_file(socket(device));
            daemons.push(node.spawn(&["wireguard-go", "-f", device])?);
        }
        for device in DEVICES {
            wait::until("its control socket", Duration::from_secs(10), || socket(device).exists().then_some(()))?;
        }
        let secret = [here(&["wg", "genkey"])?, here(&["wg", "genkey"])?];
        let mut public = Vec::new();
        for (node, secret) in link.ends().into_iter().zip(&secret) {
            let key = write(node, "key", secret)?;
            public.push(node.run(&["sh", "-c", &format!("wg pubkey < {key}")])?.trim().to_owned());
        }
        for (at, node) in link.ends().into_iter().enumerate() {
            let (device, other) = (DEVICES[at], 1 - at);
            let key = write(node, "key", &secret[at])?;
            let endpoint = format!("{}:51820", link.ends()[other].underlay());
            let own = ["wg", "set", device, "private-key", &key, "listen-port", "51820"];
            let peer = ["peer", &public[other], "endpoint", &endpoint, "allowed-ips", "10.88.0.0/24"];
            node.run(&[&own[..], &peer].concat())?;
            node.run(&["ip", "link", "set", device, "mtu", "1420"])?;
            address(node, device, INSIDE[at])?;
        }
        let mut running = Running::new(DEVICES[0], INSIDE[1], daemons);
        running.left = DEVICES.into_iter().map(socket).collect();
        Ok(running)
    }
}

fn socket(device: &str) -> PathBuf {
    PathBuf::from(format!("/var/run/wireguard/{device}.sock"))
}
