//! From words on the command line to a namespace that can be run: keys, files, and where to begin.

use anyhow::{Context, anyhow, bail};
use dht::clock::Now;
use dht::identity::SecretKey;
use dht::join::Joiner;
use dht::membership::{Stage, stage};
use dht::token::Token;
use dht::{Image, Keys, Namespace, NamespaceId, Summary};
use dht_driver::{Start as DriverStart, Store};

use crate::cli::JoinOptions;
use crate::socket::Start;
use crate::state::{NamespaceDir, Settings, StateDir, random};

/// A namespace with all its files in place.
pub(crate) struct Prepared {
    pub(crate) dir: NamespaceDir,
    pub(crate) settings: Settings,
    pub(crate) store: Store,
    pub(crate) start: DriverStart,
    /// Known at once for a member; a joiner learns it.
    pub(crate) summary: Option<Summary>,
}

/// Prepares what the user asked for: founds, joins, or comes back to a namespace.
pub(crate) fn prepare(state: &StateDir, start: Start, port: u16, now: Now) -> anyhow::Result<Prepared> {
    match start {
        Start::Create { name, range, lease_s, recovery, options } => {
            if let Some((dir, settings)) = find_called(state, &name, &options)? {
                return resume(state, dir, with_options(settings, options), now);
            }
            found(state, name, range, lease_s, recovery, options, port, now)
        }
        Start::Join { name, token, options } => {
            let known = find_called(state, &name, &options)?;
            match (known, token) {
                (Some((dir, settings)), None) => resume(state, dir, with_options(settings, options), now),
                (known, Some(token)) => join(state, known, name, &token, options, port, now),
                (None, None) => bail!("this machine is no member of {name}; ask a member for: overlay invite {name}"),
            }
        }
    }
}

/// Prepares a namespace that this state directory knows.
pub(crate) fn resume(state: &StateDir, dir: NamespaceDir, settings: Settings, now: Now) -> anyhow::Result<Prepared> {
    dir.write_settings(&settings)?;
    let (store, image) = Store::open(&dir.store())?;
    // The store says how far the join came: a crash may have come between its last write and that of the settings.
    let stage = stage(&image).with_context(|| format!("cannot use {}", dir.store().display()))?;
    if let Stage::Joining(_) = stage {
        let joiner = Joiner::resume(identity(state)?, dir.data_key()?, &settings.name, &image, *random()?, now)?;
        return Ok(Prepared { dir, settings, store, start: DriverStart::Joiner(Box::new(joiner)), summary: None });
    }
    member(state, dir, settings, store, &image, now)
}

fn member(
    state: &StateDir,
    dir: NamespaceDir,
    settings: Settings,
    store: Store,
    image: &Image,
    now: Now,
) -> anyhow::Result<Prepared> {
    let authority = dir.authority_key()?.map(|seed| SecretKey::from_seed(&seed));
    let keys = Keys { identity: identity(state)?, data: dir.data_key()?, authority };
    let namespace = Namespace::load(keys, image, *random()?, now)
        .with_context(|| format!("cannot use {}", dir.store().display()))?;
    let summary = Some(namespace.summary());
    Ok(Prepared { dir, settings, store, start: DriverStart::Member(Box::new(namespace)), summary })
}

#[expect(clippy::too_many_arguments, reason = "each is a word of the command line")]
fn found(
    state: &StateDir,
    name: String,
    range: Option<ipnet::Ipv4Net>,
    lease_s: u64,
    recovery: Option<[u8; 32]>,
    options: JoinOptions,
    port: u16,
    now: Now,
) -> anyhow::Result<Prepared> {
    let me = identity(state)?;
    let request = dht::create::CreateRequest {
        name: name.clone(),
        range,
        lease: std::time::Duration::from_secs(lease_s),
        recovery: recovery.map(|key| dht::create::recovery_hash(&SecretKey::from_seed(&key).public())),
    };
    let created = dht::create::create(request, &me, *random()?, now.unix_s)?;
    let dir = state.namespace(created.ns);
    dir.make()?;
    dir.write_authority_key(&created.authority.seed())?;
    dir.write_data_key(&created.data)?;
    let (store, image) = Store::create(&dir.store(), &created.writes)?;
    // Settings come last: without them the folder does not count, so a crash before here leaves nothing behind.
    let settings = new_settings(state, name, options, port, false)?;
    dir.write_settings(&settings)?;
    member(state, dir, settings, store, &image, now)
}

fn join(
    state: &StateDir,
    known: Option<(NamespaceDir, Settings)>,
    name: String,
    token: &str,
    options: JoinOptions,
    port: u16,
    now: Now,
) -> anyhow::Result<Prepared> {
    let token = Token::parse(token.trim()).context("the invite cannot be used")?;
    if let Some((dir, settings)) = known {
        if dir.id != token.ns {
            bail!("the invite is for another namespace called {name}; give this one another name with --as");
        }
        if !settings.joining {
            return resume(state, dir, with_options(settings, options), now);
        }
    }
    let dir = state.namespace(token.ns);
    dir.make()?;
    let data = dir.data_key()?;
    let file = dir.store();
    let (store, image) = if file.exists() { Store::open(&file)? } else { Store::create(&file, &[])? };
    let joiner = Joiner::new(identity(state)?, data, &name, token, &image, *random()?, now);
    let settings = match dir.settings()? {
        Some(before) => with_options(before, options),
        None => new_settings(state, name, options, port, true)?,
    };
    dir.write_settings(&settings)?;
    Ok(Prepared { dir, settings, store, start: DriverStart::Joiner(Box::new(joiner)), summary: None })
}

fn new_settings(
    state: &StateDir,
    name: String,
    options: JoinOptions,
    port: u16,
    joining: bool,
) -> anyhow::Result<Settings> {
    let alias = options.alias.clone().unwrap_or_else(|| name.clone());
    let namespaces = state.namespaces()?;
    if namespaces.iter().any(|(_, settings)| settings.alias == alias) {
        bail!("a namespace called {alias} is here already; give this one another name with --as");
    }
    let used: Vec<u16> = namespaces.iter().map(|(_, settings)| settings.overlay_port).collect();
    let overlay_port = (port.saturating_add(1)..=u16::MAX)
        .find(|port| !used.contains(port))
        .ok_or_else(|| anyhow!("no port above {port} is left for libp2p; choose another with --port"))?;
    Ok(Settings { name, alias, introduced: false, joining, overlay_port, options })
}

fn find_called(
    state: &StateDir,
    name: &str,
    options: &JoinOptions,
) -> anyhow::Result<Option<(NamespaceDir, Settings)>> {
    state.find(options.alias.as_deref().unwrap_or(name))
}

fn with_options(mut settings: Settings, options: JoinOptions) -> Settings {
    settings.options = options.over(settings.options);
    settings
}

fn identity(state: &StateDir) -> anyhow::Result<SecretKey> {
    let seed = state.identity()?;
    Ok(SecretKey::from_seed(&seed))
}

/// Whether the text is the identifier of this namespace.
pub(crate) fn names(text: &str, id: NamespaceId, settings: &Settings) -> bool {
    settings.alias == text || id.to_string() == text
}
