//! What was done to the kernel's bridges and addresses, on disk before it is done, so that the next start can undo what a
//! killed program left behind.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use netlink_packet_core::{Emitable, Parseable};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::route::RouteMessage;
use serde::{Deserialize, Serialize};

use crate::io::bridge::Port;

/// A NIC around which a bridge was made, with what it had before. Addresses and routes are as netlink tells them, in hex.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Nic {
    pub(super) name: String,
    /// Whether it was up.
    pub(super) up: bool,
    addresses: Vec<String>,
    routes: Vec<String>,
}

impl Nic {
    pub(super) fn new(nic: &Port, addresses: &[AddressMessage], routes: &[RouteMessage]) -> Self {
        Self {
            name: nic.name.clone(),
            up: nic.is_up,
            addresses: addresses.iter().map(hex).collect(),
            routes: routes.iter().map(hex).collect(),
        }
    }

    pub(super) fn addresses(&self) -> anyhow::Result<Vec<AddressMessage>> {
        self.addresses.iter().map(|text| unhex(text)).collect()
    }

    pub(super) fn routes(&self) -> anyhow::Result<Vec<RouteMessage>> {
        self.routes.iter().map(|text| unhex(text)).collect()
    }
}

/// What is to be undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) bridge: String,
    /// Where the bridge was made around it.
    pub(super) nic: Option<Nic>,
    /// What this machine got from the namespace.
    pub(super) own: Option<(Ipv4Addr, u8)>,
}

impl Record {
    pub(super) fn path(state_dir: &Path, bridge: &str) -> PathBuf {
        folder(state_dir).join(format!("{bridge}.json"))
    }

    pub(super) fn save(&self, path: &Path) -> anyhow::Result<()> {
        let write = || -> std::io::Result<()> {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            let new = path.with_extension("new");
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            fs::rename(&new, path)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The records that a program on this state directory did not live to undo, each with its file.
pub(super) fn left_behind(state_dir: &Path) -> Vec<(PathBuf, anyhow::Result<Record>)> {
    let Ok(entries) = fs::read_dir(folder(state_dir)) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    let load = |path: PathBuf| {
        let read = || -> anyhow::Result<Record> { Ok(serde_json::from_slice(&fs::read(&path)?)?) };
        let record = read().with_context(|| format!("cannot read {}", path.display()));
        (path, record)
    };
    paths.into_iter().map(load).collect()
}

fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("segment")
}

fn hex(message: &impl Emitable) -> String {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<T: Parseable<[u8]>>(text: &str) -> anyhow::Result<T> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        bail!("{text:?} is no message of netlink in hex");
    }
    let bytes = (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16));
    let bytes = bytes.collect::<Result<Vec<u8>, _>>().context("a message of netlink in hex")?;
    T::parse(&bytes[..]).map_err(|error| anyhow::anyhow!("a message of netlink: {error}"))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use netlink_packet_route::AddressFamily;
    use netlink_packet_route::address::AddressAttribute;
    use rtnetlink::RouteMessageBuilder;

    use super::*;

    fn address() -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = 24;
        message.header.index = 7;
        let ip = IpAddr::from([192, 0, 2, 9]);
        message.attributes = vec![AddressAttribute::Address(ip), AddressAttribute::Local(ip)];
        message
    }

    #[test]
    fn what_was_moved_comes_back_as_it_was() {
        let folder = std::env::temp_dir().join(format!("overlay-segment-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway([192, 0, 2, 1].into()).output_interface(7).build();
        let port = Port { name: "eth1".into(), is_up: true, ..Port::default() };
        let nic = Nic::new(&port, &[address()], std::slice::from_ref(&route));
        let record = Record { bridge: "br-eth1".into(), nic: Some(nic), own: Some(([10, 70, 0, 9].into(), 16)) };
        let path = Record::path(&folder, &record.bridge);
        record.save(&path).unwrap();
        let [(found, Ok(read))] = &left_behind(&folder)[..] else { panic!("one record") };
        assert_eq!((found, read), (&path, &record));
        let nic = read.nic.as_ref().unwrap();
        assert_eq!((nic.addresses().unwrap(), nic.routes().unwrap()), (vec![address()], vec![route]));
        // One that is damaged is kept, for a person to look at.
        fs::write(&path, "{").unwrap();
        assert!(left_behind(&folder)[0].1.is_err() && path.exists());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn hex_that_is_damaged_is_an_error() {
        for text in ["0", "zz", "ä0", "00"] {
            assert!(unhex::<AddressMessage>(text).is_err(), "{text}");
        }
    }
}
