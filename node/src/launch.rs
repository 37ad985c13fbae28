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

/// Leases last this long unless the founder wants it otherwise.
const LEASE_S: u64 = 86_400;
/// Why no recovery key can be had.
pub(crate) const ONLY_WHEN_FOUNDED: &str =
    "the namespace is here already, and a recovery key is made only with it; leave out --recovery-file";

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
                if recovery.is_some() {
                    bail!(ONLY_WHEN_FOUNDED);
                }
                return resume(state, dir, with_options(settings, options), now);
            }
            found(state, name, range, lease_s, recovery, options, port, now)
        }
        Start::Join { name, token, options } => {
            let known = find_called(state, &name, &options)?;
            match (known, token) {
                (Some((dir, settings)), None) => resume(state, dir, with_options(settings, options), now),
                (known, Some(token)) => join(state, known, name, &token, options, port, now),
                (None, None) => {
                    let role = if options.router.is_some() { " --role router" } else { "" };
                    bail!("this machine is no member of {name}; ask a member for: overlay invite {name}{role}")
                }
            }
        }
    }
}

/// Prepares a namespace that this state directory knows.
pub(crate) fn resume(state: &StateDir, dir: NamespaceDir, settings: Settings, now: Now) -> anyhow::Result<Prepared> {
    let (store, image) = Store::open(&dir.store())?;
    // The store says how far the join came: a crash may have come between its last write and that of the settings.
    let stage = stage(&image).with_context(|| format!("cannot use {}", dir.store().display()))?;
    let alias = &settings.alias;
    if let Stage::Empty = stage {
        bail!("{alias} needs a token, as its join had not begun; ask a member for: overlay invite {alias}");
    }
    refuse_same_tls_port(state, &dir, &settings)?;
    refuse_same_bridge(state, &dir, &settings)?;
    dir.write_settings(&settings)?;
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
    lease_s: Option<u64>,
    recovery: Option<[u8; 32]>,
    options: JoinOptions,
    port: u16,
    now: Now,
) -> anyhow::Result<Prepared> {
    let me = identity(state)?;
    let request = dht::create::CreateRequest {
        name: name.clone(),
        range,
        lease: std::time::Duration::from_secs(lease_s.unwrap_or(LEASE_S)),
        recovery: recovery.map(|key| dht::create::recovery_hash(&SecretKey::from_seed(&key).public())),
    };
    let created = dht::create::create(request, &me, *random()?, now.unix_s)?;
    let dir = state.namespace(created.ns);
    dir.make()?;
    dir.write_authority_key(&created.authority.seed())?;
    dir.write_data_key(&created.data)?;
    let (store, image) = Store::create(&dir.store(), &created.writes)?;
    // Settings come last: without them the folder does not count, so a crash before here leaves nothing behind.
    let settings = new_settings(state, &dir, None, name, options, port)?;
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
    if let Some((dir, settings)) = known
        && dir.id != token.ns
    {
        if !is_unfinished(&dir, &settings)? {
            bail!("the invite is for another namespace called {name}; give this one another name with --as");
        }
        // Nothing has come of it, and it is not what is wanted now.
        dir.erase()?;
    }
    let dir = state.namespace(token.ns);
    let before = dir.settings()?;
    if let Some(settings) = &before
        && !is_unfinished(&dir, settings)?
    {
        let alias = &settings.alias;
        if !names(options.alias.as_ref().unwrap_or(&name), dir.id, settings) {
            bail!("this machine is in that namespace already, as {alias}; come back to it with: overlay join {alias}");
        }
        return resume(state, dir, with_options(settings.clone(), options), now);
    }
    let settings = Settings { joining: true, ..new_settings(state, &dir, before, name, options, port)? };
    dir.make()?;
    let data = dir.data_key()?;
    let file = dir.store();
    let (store, image) = if file.exists() { Store::open(&file)? } else { Store::create(&file, &[])? };
    let joiner = Joiner::new(identity(state)?, data, &settings.name, token, &image, *random()?, now);
    dir.write_settings(&settings)?;
    Ok(Prepared { dir, settings, store, start: DriverStart::Joiner(Box::new(joiner)), summary: None })
}

/// Whether the settings are of a join of which nothing has come.
fn is_unfinished(dir: &NamespaceDir, settings: &Settings) -> anyhow::Result<bool> {
    Ok(settings.joining && !was_redeemed(dir)?)
}

/// Whether the store holds a membership. It must not be open.
pub(crate) fn was_redeemed(dir: &NamespaceDir) -> anyhow::Result<bool> {
    if !dir.store().exists() {
        return Ok(false);
    }
    let (_store, image) = Store::open(&dir.store())?;
    let stage = stage(&image).with_context(|| format!("cannot use {}", dir.store().display()))?;
    Ok(matches!(stage, Stage::Joined(_)))
}

/// Settings for what is begun in `dir`. Those from `before` are of a join that did not succeed: they name nothing.
fn new_settings(
    state: &StateDir,
    dir: &NamespaceDir,
    before: Option<Settings>,
    name: String,
    options: JoinOptions,
    port: u16,
) -> anyhow::Result<Settings> {
    let settings = settings_beside(&others(state, dir)?, before, name, options, port)?;
    refuse_same_tls_port(state, dir, &settings)?;
    refuse_same_bridge(state, dir, &settings)?;
    Ok(settings)
}

/// The settings of all other namespaces here.
fn others(state: &StateDir, dir: &NamespaceDir) -> anyhow::Result<Vec<Settings>> {
    let mut others = state.namespaces()?;
    others.retain(|(other, _)| other.id != dir.id);
    Ok(others.into_iter().map(|(_, settings)| settings).collect())
}

/// The kernel would let both open it, and give each connection to one of them by chance.
fn refuse_same_tls_port(state: &StateDir, dir: &NamespaceDir, settings: &Settings) -> anyhow::Result<()> {
    let Some(port) = settings.options.tls_port() else { return Ok(()) };
    let others = others(state, dir)?;
    let has = |other: &&Settings| !other.left && (other.overlay_port == port || other.options.tls_port() == Some(port));
    if port == settings.overlay_port {
        bail!("TCP port {port} is open for TLS anyhow; leave out --tls-port");
    }
    if let Some(other) = others.iter().find(has) {
        bail!("TCP port {port} is that of {} already; choose another with --tls-port", other.alias);
    }
    Ok(())
}

/// Two DHCP servers would answer every machine of it.
fn refuse_same_bridge(state: &StateDir, dir: &NamespaceDir, settings: &Settings) -> anyhow::Result<()> {
    let Some(router) = &settings.options.router else { return Ok(()) };
    let serves = |other: &&Settings| {
        !other.left && other.options.router.as_ref().is_some_and(|other| other.bridge == router.bridge)
    };
    if let Some(other) = others(state, dir)?.iter().find(serves) {
        bail!(
            "{} serves the machines on {} already, and they cannot have two masters; leave it first with: overlay leave {}",
            other.alias,
            router.bridge,
            other.alias
        );
    }
    Ok(())
}

fn settings_beside(
    others: &[Settings],
    before: Option<Settings>,
    name: String,
    options: JoinOptions,
    port: u16,
) -> anyhow::Result<Settings> {
    let alias = options.alias.clone().unwrap_or_else(|| name.clone());
    if others.iter().any(|other| other.alias == alias) {
        bail!("a namespace called {alias} is here already; give this one another name with --as");
    }
    let (overlay_port, options) = match before {
        Some(before) => (before.overlay_port, options.over(before.options)),
        None => {
            let used = |port: &u16| others.iter().any(|other| other.overlay_port == *port);
            let free = (port.saturating_add(1)..=u16::MAX).find(|port| !used(port));
            let none = || anyhow!("no port above {port} is left for libp2p; choose another with --port");
            (free.ok_or_else(none)?, options)
        }
    };
    Ok(Settings { name, alias, introduced: false, joining: false, left: false, overlay_port, options })
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
    settings.left = false;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn options(alias: Option<&str>) -> JoinOptions {
        JoinOptions { alias: alias.map(str::to_owned), ..JoinOptions::default() }
    }

    fn settings(name: &str, others: &[Settings]) -> Settings {
        settings_beside(others, None, name.into(), options(None), 1000).unwrap()
    }

    #[test]
    fn each_namespace_has_a_name_and_a_port_of_its_own() {
        let home = settings("home", &[]);
        let lab = settings("lab", std::slice::from_ref(&home));
        assert_eq!((home.overlay_port, lab.overlay_port), (1001, 1002));
        let taken = settings_beside(&[home.clone(), lab], None, "home".into(), options(None), 1000).unwrap_err();
        assert!(taken.to_string().contains("--as"), "{taken}");
        let other = settings_beside(&[home], None, "home".into(), options(Some("work")), 1000).unwrap();
        assert_eq!((other.name.as_str(), other.alias.as_str()), ("home", "work"));
    }

    #[test]
    fn a_join_that_did_not_succeed_leaves_its_port_and_no_name() {
        let mut before = settings("hoem", &[]);
        before.options.hostname = Some("alpha".into());
        let port = before.overlay_port;
        let now = settings_beside(&[], Some(before), "home".into(), options(None), 2000).unwrap();
        assert_eq!((now.name.as_str(), now.alias.as_str(), now.overlay_port), ("home", "home", port));
        assert_eq!(now.options.hostname.as_deref(), Some("alpha"));
    }

    #[test]
    fn a_join_that_had_not_begun_needs_a_token_and_others_do_not_suffer() {
        let path = std::env::temp_dir().join(format!("overlay-launch-{}", std::process::id()));
        let state = StateDir::open(&path).unwrap();
        let [empty, damaged] = [1, 2].map(|id| state.namespace(NamespaceId([id; 32])));
        for dir in [&empty, &damaged] {
            dir.make().unwrap();
            drop(Store::create(&dir.store(), &[]).unwrap());
        }
        empty.write_settings(&Settings { joining: true, ..settings("home", &[]) }).unwrap();
        std::fs::write(damaged.store().with_file_name("settings.json"), "{").unwrap();

        let (dir, found) = state.find("home").unwrap().unwrap();
        assert!(is_unfinished(&dir, &found).unwrap());
        let now = crate::io::clock::SystemClock::start().now();
        let error = resume(&state, dir, found, now).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("home needs a token"), "{error}");
        // It may be the damaged one that is called so: that is not to be founded anew.
        assert!(state.find("lab").unwrap_err().to_string().contains("damaged"));
        assert_eq!((state.entries().unwrap().len(), state.namespaces().unwrap().len()), (2, 1));
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn who_joins_by_the_identifier_calls_it_by_its_name() {
        let id = NamespaceId([7; 32]);
        for (typed, taken, called) in [
            (id.to_string(), false, "home".to_owned()),
            (id.to_string(), true, id.to_string()),
            ("work".into(), false, "work".into()),
        ] {
            let mut joining = settings(&typed, &[]);
            joining.became_member(id, "home", taken);
            assert_eq!((joining.name.as_str(), joining.alias), ("home", called));
        }
    }
}
