//! Nebula, Debian's, without a lighthouse.

use super::link::Link;
use super::peer::{INSIDE, Peer, Running, file, here, version, wait_device, write};
use crate::tools;

const DEVICE: &str = "nebula";

pub(crate) struct Nebula;

impl Peer for Nebula {
    fn name(&self) -> &'static str {
        "nebula"
    }

    fn layer(&self) -> &'static str {
        "IP"
    }

    fn settings(&self) -> &'static str {
        "AES-256-GCM (`cipher: aes`); MTU 1300, its default; each knows the other's address; all traffic allowed"
    }

    fn obtain(&self) -> anyhow::Result<String> {
        tools::ensure_installed_only(&[("nebula", "nebula"), ("nebula-cert", "nebula")])?;
        version(&["nebula", "-version"], 1)
    }

    fn start(&self, link: &Link) -> anyhow::Result<Running> {
        let (ca, ca_key) = (file(&link.a, "ca.crt")?, file(&link.a, "ca.key")?);
        here(&["nebula-cert", "ca", "-name", "bench", "-out-crt", &ca, "-out-key", &ca_key])?;
        let mut daemons = Vec::new();
        for ((node, name), inside) in link.ends().into_iter().zip(["a", "b"]).zip(INSIDE) {
            let (cert, key) = (file(node, "node.crt")?, file(node, "node.key")?);
            let signed_by = ["nebula-cert", "sign", "-ca-crt", &ca, "-ca-key", &ca_key];
            let inside = format!("{inside}/24");
            let out = ["-name", name, "-ip", &inside, "-out-crt", &cert, "-out-key", &key];
            here(&[&signed_by[..], &out].concat())?;
            let config =
                write(node, "nebula.yml", &config([&ca, &cert, &key], link.ends().map(|node| node.underlay())))?;
            daemons.push(node.spawn(&["nebula", "-config", &config])?);
        }
        wait_device(link, DEVICE)?;
        Ok(Running::new(DEVICE, INSIDE[1], daemons))
    }
}

fn config([ca, cert, key]: [&str; 3], underlay: [&str; 2]) -> String {
    let [a, b] = INSIDE;
    let [at_a, at_b] = underlay;
    format!(
        "pki: {{ca: {ca}, cert: {cert}, key: {key}}}\n\
         static_host_map: {{\"{a}\": [\"{at_a}:4242\"], \"{b}\": [\"{at_b}:4242\"]}}\n\
         lighthouse: {{am_lighthouse: false}}\n\
         listen: {{host: 0.0.0.0, port: 4242}}\n\
         punchy: {{punch: false}}\n\
         cipher: aes\n\
         tun: {{dev: {DEVICE}, mtu: 1300, tx_queue: 500}}\n\
         logging: {{level: warning}}\n\
         firewall:\n  outbound: [{{port: any, proto: any, host: any}}]\n  inbound: [{{port: any, proto: any, host: any}}]\n"
    )
}
