//! The state directory: identity, port, and one folder for each namespace.
//!
//! ```text
//! identity.key                 Ed25519 seed, the node's libp2p key
//! port                         chosen once and kept
//! lock                         held by the running daemon
//! control.sock                 where the daemon answers
//! ns/<id>/data.key             X25519 secret of this namespace
//! ns/<id>/authority.key        where the namespace was created
//! ns/<id>/store.redb           membership, register, leases
//! ns/<id>/settings.json        what was said on the command line
//! ```

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use dht::NamespaceId;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::cli::JoinOptions;

/// What is kept of the command line, for the next start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// The namespace's own name.
    pub(crate) name: String,
    /// What it is called here.
    pub(crate) alias: String,
    /// Whether the line to give to others was printed.
    pub(crate) introduced: bool,
    /// A join that is not finished: the name is what the user typed.
    pub(crate) joining: bool,
    /// It was left, and is not to be started until somebody asks for it by name.
    #[serde(default)]
    pub(crate) left: bool,
    /// libp2p's port, chosen once and kept.
    pub(crate) overlay_port: u16,
    /// The rest.
    pub(crate) options: JoinOptions,
}

impl Settings {
    /// The join has succeeded. Who joined by the identifier calls it by its own name, unless that one is `taken` here.
    pub(crate) fn became_member(&mut self, id: NamespaceId, name: &str, taken: bool) {
        self.joining = false;
        name.clone_into(&mut self.name);
        if self.alias == id.to_string() && !taken {
            name.clone_into(&mut self.alias);
        }
    }
}

/// A namespace's folder.
#[derive(Clone, Debug)]
pub(crate) struct NamespaceDir {
    pub(crate) id: NamespaceId,
    path: PathBuf,
}

/// The state directory.
#[derive(Clone, Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Opens the directory, making it if it is not there.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        make_dir(path)?;
        make_dir(&path.join("ns"))?;
        Ok(Self { path: path.to_owned() })
    }

    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the daemon answers.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// Held as long as the daemon runs: two on one identity would be two owners of one lease.
    pub(crate) fn lock(&self) -> anyhow::Result<File> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(self.path.join("lock"))
            .with_context(|| format!("cannot open {}", self.path.join("lock").display()))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                bail!("another overlay runs on {}; end it, or use another --state", self.path.display())
            }
            Err(error) => Err(error).context("cannot lock the state directory"),
        }
    }

    /// The node's identity, made on first use. A file that cannot be used is an error, never a new identity.
    pub(crate) fn identity(&self) -> anyhow::Result<Zeroizing<[u8; 32]>> {
        load_or_make_key(&self.path.join("identity.key"))
    }

    /// The data port: what was asked for, else what was used before, else a free one; kept.
    pub(crate) fn port(&self, asked: Option<u16>) -> anyhow::Result<u16> {
        let file = self.path.join("port");
        let before = match std::fs::read_to_string(&file) {
            Ok(text) => Some(text.trim().parse::<u16>().with_context(|| {
                format!("{} does not hold a port number; remove it to have another chosen", file.display())
            })?),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
        };
        let port = match asked.or(before) {
            Some(port) => port,
            None => free_port()?,
        };
        if before != Some(port) {
            replace(&file, port.to_string().as_bytes())?;
        }
        Ok(port)
    }

    /// The folder of one namespace; it need not be there.
    pub(crate) fn namespace(&self, id: NamespaceId) -> NamespaceDir {
        NamespaceDir { id, path: self.path.join("ns").join(id.to_string()) }
    }

    /// Every namespace that has settings, in order of their names here; those that cannot be read come last.
    pub(crate) fn entries(&self) -> anyhow::Result<Vec<(NamespaceDir, anyhow::Result<Settings>)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.path.join("ns"))? {
            let Some(id) = entry?.file_name().to_str().and_then(parse_id) else { continue };
            let dir = self.namespace(id);
            if let Some(settings) = dir.settings().transpose() {
                found.push((dir, settings));
            }
        }
        let place = |settings: &anyhow::Result<Settings>| {
            let alias = settings.as_ref().ok().map(|settings| settings.alias.clone());
            (alias.is_none(), alias)
        };
        found.sort_by_cached_key(|(dir, settings)| (place(settings), dir.id));
        Ok(found)
    }

    /// Every namespace whose settings can be read, in order of their names here.
    pub(crate) fn namespaces(&self) -> anyhow::Result<Vec<(NamespaceDir, Settings)>> {
        Ok(self.entries()?.into_iter().filter_map(|(dir, settings)| Some((dir, settings.ok()?))).collect())
    }

    /// The namespace called so here, by alias or identifier. Where settings are damaged, a name that is not found
    /// may be theirs, so that is an error and not an absence.
    pub(crate) fn find(&self, name: &str) -> anyhow::Result<Option<(NamespaceDir, Settings)>> {
        let mut damaged = None;
        for (dir, settings) in self.entries()? {
            let is_id = dir.id.to_string() == name;
            match settings {
                Ok(settings) if is_id || settings.alias == name => return Ok(Some((dir, settings))),
                Ok(_) => {}
                Err(error) => damaged = Some(error),
            }
        }
        damaged.map_or(Ok(None), Err)
    }
}

impl NamespaceDir {
    /// Makes the folder.
    pub(crate) fn make(&self) -> anyhow::Result<()> {
        make_dir(&self.path)
    }
    /// The store's file.
    pub(crate) fn store(&self) -> PathBuf {
        self.path.join("store.redb")
    }
    /// The X25519 secret, made on first use.
    pub(crate) fn data_key(&self) -> anyhow::Result<Zeroizing<[u8; 32]>> {
        load_or_make_key(&self.path.join("data.key"))
    }
    /// Keeps the secret that a namespace was founded with.
    pub(crate) fn write_data_key(&self, key: &[u8; 32]) -> anyhow::Result<()> {
        write_key(&self.path.join("data.key"), key)
    }
    /// The authority key, where the namespace was created.
    pub(crate) fn authority_key(&self) -> anyhow::Result<Option<Zeroizing<[u8; 32]>>> {
        read_key(&self.path.join("authority.key"))
    }
    /// Keeps the authority key.
    pub(crate) fn write_authority_key(&self, key: &[u8; 32]) -> anyhow::Result<()> {
        write_key(&self.path.join("authority.key"), key)
    }
    /// What was said on the command line; `None` where nothing was begun.
    pub(crate) fn settings(&self) -> anyhow::Result<Option<Settings>> {
        let file = self.path.join("settings.json");
        match std::fs::read(&file) {
            Ok(bytes) => {
                let settings = serde_json::from_slice(&bytes).with_context(|| {
                    format!(
                        "{} is damaged; restore it from a backup, or remove {}",
                        file.display(),
                        self.path.display()
                    )
                })?;
                Ok(Some(settings))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }
    /// Keeps what was said.
    pub(crate) fn write_settings(&self, settings: &Settings) -> anyhow::Result<()> {
        replace(&self.path.join("settings.json"), &serde_json::to_vec_pretty(settings)?)
    }
    /// Erases the folder with all keys in it.
    pub(crate) fn erase(&self) -> anyhow::Result<()> {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot erase {}", self.path.display()))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// Writes a key that exists nowhere else, refusing to overwrite a file.
pub(crate) fn write_key(file: &Path, key: &[u8; 32]) -> anyhow::Result<()> {
    let mut out = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(file)
        .with_context(|| format!("cannot make {}", file.display()))?;
    out.write_all(key)?;
    out.sync_all()?;
    sync_dir(file)
}

/// 32 bytes from the kernel.
pub(crate) fn random() -> anyhow::Result<Zeroizing<[u8; 32]>> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut_slice())
        .map_err(|error| anyhow::anyhow!("the kernel gives no randomness: {error}"))?;
    Ok(bytes)
}

fn load_or_make_key(file: &Path) -> anyhow::Result<Zeroizing<[u8; 32]>> {
    if let Some(key) = read_key(file)? {
        return Ok(key);
    }
    let key = random()?;
    write_key(file, &key)?;
    Ok(key)
}

fn read_key(file: &Path) -> anyhow::Result<Option<Zeroizing<[u8; 32]>>> {
    let input = match File::open(file) {
        Ok(input) => input,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    if input.metadata()?.mode() & 0o077 != 0 {
        bail!(
            "{} can be read by others, so it may be known to them; `chmod 600` it if you are sure it is not",
            file.display()
        );
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(33));
    input.take(33).read_to_end(&mut bytes)?;
    let key: [u8; 32] = bytes.as_slice().try_into().map_err(|_| {
        anyhow::anyhow!(
            "{} is not a key of 32 bytes; restore it from a backup, or remove it to begin anew",
            file.display()
        )
    })?;
    Ok(Some(Zeroizing::new(key)))
}

/// Replaces a file whole: after a crash it is the old one or the new one.
fn replace(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let partial = file.with_extension("new");
    let mut out = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&partial)
        .with_context(|| format!("cannot write {}", partial.display()))?;
    out.write_all(bytes)?;
    out.sync_all()?;
    std::fs::rename(&partial, file)?;
    sync_dir(file)
}

fn sync_dir(file: &Path) -> anyhow::Result<()> {
    if let Some(dir) = file.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

fn make_dir(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| {
        format!("cannot make the state directory {}; run as root or choose another with --state", path.display())
    })
}

fn parse_id(text: &str) -> Option<NamespaceId> {
    NamespaceId::parse(text)
}

/// A port whose next one is free too, so that packets and libp2p lie side by side.
fn free_port() -> anyhow::Result<u16> {
    const PREFERRED: u16 = 41_820;
    let free = |port: u16| {
        let data = std::net::UdpSocket::bind(("::", port)).or_else(|_| std::net::UdpSocket::bind(("0.0.0.0", port)));
        let overlay = std::net::TcpListener::bind(("0.0.0.0", port + 1));
        data.is_ok() && overlay.is_ok()
    };
    if free(PREFERRED) {
        return Ok(PREFERRED);
    }
    for _ in 0..64 {
        let seed = random()?;
        let port = 20_000 + u16::from_be_bytes([seed[0], seed[1]]) % 12_000;
        if free(port) {
            return Ok(port);
        }
    }
    bail!("no two free ports side by side were found; name one with --port")
}
