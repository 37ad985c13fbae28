//! OpenVPN, Debian's, in TAP mode between two certificates that trust each other's fingerprint.

use anyhow::Context;
use e2e::Node;

use super::link::Link;
use super::peer::{INSIDE, Peer, Running, file, here, version, wait_device};
use crate::tools;

const DEVICE: &str = "ovpn";

pub(crate) struct OpenVpn;

impl Peer for OpenVpn {
    fn name(&self) -> &'static str {
        "openvpn"
    }

    fn layer(&self) -> &'static str {
        "Ethernet"
    }

    fn settings(&self) -> &'static str {
        "TAP mode over UDP; AES-256-GCM; no kernel module (`--disable-dco`)"
    }

    fn obtain(&self) -> anyhow::Result<String> {
        tools::ensure_installed_only(&[("openvpn", "openvpn"), ("openssl", "openssl")])?;
        version(&["openvpn", "--version"], 1)
    }

    fn start(&self, link: &Link) -> anyhow::Result<Running> {
        let [a, b] = [certificate(&link.a, "a")?, certificate(&link.b, "b")?];
        let server = ["--tls-server", "--dh", "none", "--ifconfig", INSIDE[1], "255.255.255.0"];
        let remote = link.b.underlay();
        let client = ["--tls-client", "--remote", remote, "--ifconfig", INSIDE[0], "255.255.255.0"];
        let second = spawn(&link.b, &b, &a.fingerprint, &server)?;
        let first = spawn(&link.a, &a, &b.fingerprint, &client)?;
        wait_device(link, DEVICE)?;
        Ok(Running::new(DEVICE, INSIDE[1], vec![first, second]))
    }
}

struct Certificate {
    key: String,
    file: String,
    fingerprint: String,
}

fn certificate(node: &Node, name: &str) -> anyhow::Result<Certificate> {
    let (key, cert) = (file(node, "node.key")?, file(node, "node.crt")?);
    let subject = format!("/CN={name}");
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    let out = ["-subj", &subject, "-keyout", &key, "-out", &cert];
    here(&[&["openssl", "req", "-x509"], &curve[..], &out].concat())?;
    let said = here(&["openssl", "x509", "-in", &cert, "-noout", "-fingerprint", "-sha256"])?;
    let fingerprint = said.trim().split_once('=').context("openssl names no fingerprint")?.1.to_owned();
    Ok(Certificate { key, file: cert, fingerprint })
}

fn spawn(node: &Node, own: &Certificate, other: &str, words: &[&str]) -> anyhow::Result<e2e::Process> {
    let device = ["openvpn", "--dev", DEVICE, "--dev-type", "tap", "--proto", "udp", "--port", "1194"];
    let cipher = ["--data-ciphers", "AES-256-GCM", "--cipher", "AES-256-GCM", "--disable-dco", "--auth-nocache"];
    let keys = ["--cert", &own.file, "--key", &own.key, "--peer-fingerprint", other];
    node.spawn(&[&device[..], &cipher, &keys, words].concat())
}
